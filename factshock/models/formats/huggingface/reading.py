"""Loads a HuggingFace model: from headers to checked leaves, each filled tensor by tensor.

A GGUF file is read as the folder that it stands for (formats/gguf).

Of what a folder may hold beside one another, that is read which transformers reads, and a line says
so: model.safetensors before its index, both before PyTorch's .bin (files.WEIGHTS); adapters
beside a whole model are applied to that model, whatever base they name. A model on the hub is
another matter: there adapters are applied to the base that they name.
"""

import concurrent.futures
import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from factshock.devices import host
from factshock.models.formats.gguf import files as gguf_files
from factshock.models.formats.gguf import models as gguf_models
from factshock.models.formats.huggingface import (
  adapter_settings,
  adapters,
  configs,
  files,
  names,
)
from factshock.models.formats.huggingface.adapters import Adapters
from factshock.models.formats.huggingface.files import StoredTensor
from factshock.models.formats.tensors import Tensor
from factshock.models.model_config import ModelConfig
from factshock.runtime import console, progress
from factshock.runtime.errors import UserError
from factshock.types import FilePath, Params

# What is fetched from the hub; weights as safetensors only, unless pickles are allowed.
_WANTED = [
  "config.json",
  "README.md",  # its licence goes into the cards of models that are made of it
  adapters.CONFIG,
  adapters.WEIGHTS,
  "generation_config.json",
  "model*.safetensors",
  "model.safetensors.index.json",
  "*token*.json",
  "special_tokens_map.json",
  "tokenizer.model",
  "spiece.model",
  "*.jinja",
]
_PICKLES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


@dataclasses.dataclass(frozen=True)
class Source:
  """Model that is open for reading: its checked tensors, none of them read yet.

  Attributes:
    folder: where its tokenizer is; of a GGUF file the file itself.
    json: its config.json.
    config: its sizes; param_dtype is that of most of the stored bytes.
    tensors: by name, without copies and leftovers.
    adapters: merged into each leaf as it is read; or None.
  """

  folder: str
  json: dict[str, Any]
  config: ModelConfig
  tensors: Mapping[str, StoredTensor]
  adapters: Adapters | None = None

  def read_leaf(self, leaf: str, dtype: Any = None) -> np.ndarray:
    """Returns one leaf of our parameters as an aligned array.

    Args:
      leaf: its key path, such as "encoder/layers/self_attention/query".
      dtype: of the array; None takes that of the config's parameters.
    """
    tensors = names.by_leaf(self.config)[leaf]
    out = host.aligned(names.leaf_shape(tensors), dtype or self.config.param_dtype)

    def read(tensor: Tensor) -> None:
      target = out if tensor.layer is None else out[tensor.layer]
      self.tensors[tensor.name].read_into(target, tensor.transposed)

    # numpy copies without Python's lock.
    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
      list(pool.map(read, tensors))
    if self.adapters:
      self.adapters.merge_into(leaf, out)
    return out


def load(
  path: FilePath,
  *,
  revision: str | None = None,
  param_dtype: Any = None,
  dtype: str | None = None,
  sharding: Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None] | None = None,
  allow_pickle: bool = False,
) -> tuple[Params, ModelConfig]:
  """Loads a model: (params, config). At its peak the host holds one copy and about one layer.

  Args:
    path: folder that transformers saved, the id of a model on the hub (fetched into its cache), or
      a GGUF file.
      A folder of PEFT's with adapters gives the model they stand on, with the adapters merged.
    revision: branch, tag or commit on the hub.
    param_dtype: of the parameters; None takes the stored one (float16 becomes float32, which holds
      its values).
    dtype: of the computation; None takes that of config.json.
    sharding: (leaf, shape) -> how the leaf is spread over devices; None puts all on the default
      device.
    allow_pickle: whether pytorch_model.bin may be read where there are no safetensors.

  Raises:
    UserError: nothing there, an unsupported architecture, damaged files, or tensors missing,
      unexpected or mis-shaped: all are named, before anything is read.
  """
  source = open_source(path, revision=revision, dtype=dtype, allow_pickle=allow_pickle)
  if param_dtype:
    config = dataclasses.replace(source.config, param_dtype=str(np.dtype(param_dtype)))
    source = dataclasses.replace(source, config=config)
  params: Params = {}
  leaves = names.by_leaf(source.config)
  for leaf in progress.over("reading weights", leaves, len(leaves)):
    array = source.read_leaf(leaf)
    target = sharding(leaf, array.shape) if sharding else None
    # On a CPU device the aligned array becomes the leaf itself; elsewhere it is freed once copied.
    _put(params, leaf, jax.block_until_ready(jax.device_put(array, target)))
  return params, source.config


def config_of(
  path: FilePath, *, revision: str | None = None, dtype: str | None = None
) -> ModelConfig:
  """Returns the config of a model, of which no weights are read; see `load`."""
  if gguf_files.is_file(path):
    return configs.from_json(configs.read_json(path), path, dtype)
  folder = _folder(path, revision, ["config.json", adapters.CONFIG])
  if not _is_whole(path, folder):
    return config_of(adapters.base_of(folder), dtype=dtype)
  return configs.from_json(configs.read_json(folder), os.path.join(folder, "config.json"), dtype)


def _is_whole(path: FilePath, folder: str) -> bool:
  """Returns whether a folder's own model is read, and not one that its adapters name.

  Args:
    path: as it was given.
    folder: where it is.
  """
  if not adapter_settings.has_settings(folder):
    return True
  return os.path.isdir(path) and os.path.isfile(os.path.join(folder, "config.json"))


def is_source(path: FilePath) -> bool:
  """Returns whether a path is a folder with a model or adapters, a GGUF file, or maybe a hub id."""
  path = str(path)
  if gguf_files.is_file(path):
    return True
  if os.path.exists(path):
    return os.path.isfile(os.path.join(path, "config.json")) or adapters.is_folder(path)
  looks_like_id = re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", path) is not None
  return looks_like_id and not os.path.isdir(path.split("/")[0])


def open_source(
  path: FilePath,
  *,
  revision: str | None = None,
  dtype: str | None = None,
  allow_pickle: bool = False,
) -> Source:
  """Opens a model for reading leaf by leaf; see `load`, whose checks this makes."""
  if gguf_files.is_file(path):
    return _open_gguf(str(path), dtype)
  folder = _folder(path, revision, _WANTED + _PICKLES * allow_pickle)
  if not adapter_settings.has_settings(folder):
    return _open_whole(folder, dtype, allow_pickle)
  is_whole = _is_whole(path, folder)
  if is_whole:
    console.say_once(
      f"{folder}: holds a whole model and adapters; the adapters are applied to that model, as by "
      "transformers"
    )
    base = _open_whole(folder, dtype, allow_pickle)
  else:
    base = _open_base(folder, dtype, allow_pickle)
  own_tokenizer = os.path.exists(os.path.join(folder, "tokenizer_config.json"))
  return dataclasses.replace(
    base,
    folder=folder if own_tokenizer else base.folder,
    adapters=adapters.read(folder, base.config, folder if is_whole else None),
  )


def _open_base(folder: str, dtype: str | None, allow_pickle: bool) -> Source:
  """Opens the model that a folder's adapters name; UserError where it holds adapters itself."""
  path = adapters.base_of(folder)
  base = open_source(path, dtype=dtype, allow_pickle=allow_pickle)
  if base.adapters:
    raise adapters.upon_adapters(folder, path)
  return base


def _open_whole(folder: str, dtype: str | None, allow_pickle: bool) -> Source:
  """Opens the whole model of a folder."""
  values = configs.read_json(folder)
  config = configs.from_json(values, os.path.join(folder, "config.json"), dtype)
  stored = _named_in_full(folder, config, _tensors(folder, values, allow_pickle))
  _fill_tied(folder, config, values, stored)
  _check(folder, config, stored)
  config = dataclasses.replace(config, param_dtype=_stored_dtype(stored))
  used = {tensor.name: stored[tensor.name] for tensor in names.tensors(config)}
  return Source(folder, values, config, used)


def _open_gguf(path: str, dtype: str | None) -> Source:
  """Opens the model of a GGUF file."""
  values, stored = gguf_models.open_model(path)
  config = configs.from_json(values, path, dtype)
  _check(path, config, stored, "its metadata")
  config = dataclasses.replace(config, param_dtype=_stored_dtype(stored))
  used = {tensor.name: stored[tensor.name] for tensor in names.tensors(config)}
  return Source(path, values, config, used)


def _folder(path: FilePath, revision: str | None, patterns: Sequence[str]) -> str:
  """Returns the local folder of a path or of a model on the hub, "org/name[@revision]"."""
  path = str(path)
  if os.path.isdir(path):
    return path
  if os.path.exists(path):
    raise UserError(
      f"{path}: expected the folder of a model, got a file; give the folder that holds it"
    )
  path, _, named_revision = path.partition("@")
  if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
    raise UserError(f"{path}: expected the folder of a model, got nothing there; check the path")
  import huggingface_hub  # noqa: PLC0415  # slow to import, and needed for the hub alone

  try:
    return huggingface_hub.snapshot_download(
      path, revision=revision or named_revision or None, allow_patterns=list(patterns)
    )
  except Exception as error:  # of many types: offline, missing, gated, misspelt
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise UserError(
      f"{path}: no such folder, and it cannot be had from the HuggingFace hub ({reason}); check "
      "the name, the network and your access"
    ) from error


def _tensors(folder: str, values: Mapping[str, Any], allow_pickle: bool) -> dict[str, StoredTensor]:
  """Returns all tensors of a folder by name.

  Args:
    folder: to read.
    values: its config.json.
    allow_pickle: whether PyTorch's .bin files are read where there are no safetensors.
  """
  _say_which(folder, values)
  safe = files.safetensors_in(folder)
  if safe is not None:
    return dict(safe)
  pickled = files.pickled_in(folder) if allow_pickle else None
  if pickled is not None:
    return dict(pickled)
  if any(name.startswith("pytorch_model") and ".bin" in name for name in os.listdir(folder)):
    raise UserError(
      f"{folder}: holds no safetensors, only a pickled pytorch_model.bin, which can run code when "
      "read; pass --allow_pickle if you trust it"
    )
  raise UserError(
    f"{folder}: expected {files.SINGLE} or {files.INDEX}, got neither; copy the weights too"
  )


def _named_in_full(
  folder: str, config: ModelConfig, stored: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
  """Returns the tensors by their own names; UserError where two of a file have the same."""
  named: dict[str, StoredTensor] = {}
  for short, name in names.full_names(config, stored).items():
    if name in named or (short != name and name in stored):
      raise UserError(
        f"{folder}: holds {name} and {short}, which are two names of one tensor; remove that which "
        "is not meant"
      )
    named[name] = stored[short]
  return named


def _fill_tied(
  folder: str,
  config: ModelConfig,
  values: Mapping[str, Any],
  stored: dict[str, StoredTensor],
) -> None:
  """Adds tensors that stand in a file under the name of another that they equal.

  Which one is stored is up to the program that saved them: safetensors' save_model keeps one name
  of each memory, whichever comes first.
  """
  for name, kept in sorted(names.copies(config).items()):
    if kept not in stored and name in stored:
      stored[kept] = stored[name]
  if "scale_decoder_outputs" not in values and values.get("model_type") != "mt5":
    return
  # transformers 5 ties a T5's head where it finds only one of the two, even where the outputs are
  # not scaled, as those of a model whose head is its own (family_t5.py).
  expected = {tensor.name for tensor in names.tensors(config)}
  pair = ("shared.weight", "lm_head.weight")
  for name, other in (pair, pair[::-1]):
    if name in expected and name not in stored and other in stored:
      console.say_once(f"{folder}: holds no {name}; {other} is read for it, as by transformers")
      stored[name] = stored[other]


def _say_which(folder: str, values: Mapping[str, Any]) -> None:
  """Says which of several files of weights is read.

  Raises:
    UserError: config.json names another one.
  """
  present = files.weights_in(folder)
  named = values.get("transformers_weights")
  if named is not None and present[:1] != [named]:
    raise UserError(
      f"{folder}: config.json names its weights {str(named)[:80]!r} (transformers_weights), which "
      f"is not supported; name the file {files.SINGLE} and take that line out"
    )
  if len(present) > 1:
    console.say_once(
      f"{folder}: holds {' and '.join(present)}; {present[0]} is read, as by transformers"
    )


def _check(
  folder: str,
  config: ModelConfig,
  stored: Mapping[str, StoredTensor],
  described_by: str = "config.json",
) -> None:
  """Raises a UserError that names every tensor that does not fit the config.

  That is one missing, unexpected, mis-shaped or unlike the one it repeats.

  Args:
    folder: the model, for errors.
    config: its sizes.
    stored: its tensors by name.
    described_by: what the config was read from, for errors.
  """
  expected = {tensor.name: tensor.shape for tensor in names.tensors(config)}
  repeated = {name: kept for name, kept in names.copies(config).items() if name in stored}
  lines = []
  for name, shape in expected.items():
    if name not in stored:
      lines.append(f"missing {name} {list(shape)}")
  for name in sorted(stored):
    known = name in expected or name in repeated or names.is_unused(config, name)
    if not known:
      lines.append(f"unexpected {name} {list(stored[name].shape)}")
  for name, shape in expected.items():
    if name in stored and stored[name].shape != shape:
      lines.append(f"mis-shaped {name} expected {list(shape)} got {list(stored[name].shape)}")
  if not lines:
    for name, kept in repeated.items():
      if not _equal(stored[name], stored[kept]):
        lines.append(f"{name} differs from {kept}, which the config says it equals")
  if lines:
    raise UserError(f"{folder}: the weights do not fit {described_by}: {'; '.join(lines)}")


def _equal(tensor: StoredTensor, other: StoredTensor) -> bool:
  return tensor.shape == other.shape and np.array_equal(tensor.read(), other.read())


def _stored_dtype(stored: Mapping[str, StoredTensor]) -> str:
  """Returns the dtype of most bytes as one of parameters, float32 or bfloat16."""
  sizes: dict[str, int] = {}
  for tensor in stored.values():
    size = math.prod(tensor.shape) * tensor.dtype.itemsize
    sizes[tensor.dtype.name] = sizes.get(tensor.dtype.name, 0) + size
  largest = max(sizes, key=lambda name: sizes[name])
  # bfloat16 would round most float16 values.
  return "bfloat16" if largest == "bfloat16" else "float32"


def _put(tree: Params, leaf: str, value: jax.Array) -> None:
  """Puts a leaf into a nested dict by its key path."""
  *parents, last = leaf.split("/")
  inner = functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)
  inner[last] = value

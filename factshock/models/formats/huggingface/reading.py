"""Loads a HuggingFace model: from headers to checked leaves, each filled tensor by tensor and put in its place."""

import concurrent.futures
import dataclasses
import functools
import math
import os
import re
from typing import NamedTuple

import jax
import numpy as np

from factshock.models.formats.huggingface import adapters, configs, files, names
from factshock.runtime.errors import UserError

# What is fetched from the hub; weights as safetensors only, unless pickles are allowed.
_WANTED = [
  "config.json",
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


class Source(NamedTuple):
  """A model that is open for reading: its checked tensors, none of them read yet."""

  folder: str  # where its tokenizer is
  json: dict  # its config.json
  config: object  # T5Config or LlamaConfig; param_dtype is that of most of the stored bytes
  tensors: dict  # name -> files.Stored or files.Held, without copies and leftovers
  adapters: object = None  # Adapters that are merged into each leaf as it is read

  def read_leaf(self, leaf, dtype=None):
    """One leaf of our parameters, such as "encoder/layers/self_attention/query", as an aligned numpy array."""
    parts = names.by_leaf(self.config)[leaf]
    out = _aligned(names.leaf_shape(parts), np.dtype(dtype or self.config.param_dtype))

    def read(part):
      self.tensors[part.name].read_into(
        out if part.layer is None else out[part.layer], part.transposed
      )

    with concurrent.futures.ThreadPoolExecutor(
      min(4, os.cpu_count() or 1)
    ) as pool:  # numpy copies unlocked
      list(pool.map(read, parts))
    if self.adapters:
      self.adapters.merge_into(leaf, out)
    return out


def load(path, *, revision=None, param_dtype=None, dtype=None, sharding=None, allow_pickle=False):
  """Loads a model: (params, config). At its peak the host holds one copy and about one layer.

  Args:
    path: folder that transformers saved, or the id of a model on the hub (fetched into its cache). A folder of
      PEFT's with adapters gives the model they stand on, with the adapters merged.
    revision: branch, tag or commit on the hub.
    param_dtype: of the parameters; None takes the stored one (float16 becomes bfloat16).
    dtype: of the computation; None takes that of config.json.
    sharding: function(leaf, shape) -> jax.sharding.Sharding or None; None puts all on the default device.
    allow_pickle: whether pytorch_model.bin may be read where there are no safetensors.

  Raises:
    UserError: nothing there, an unsupported architecture, damaged files, or tensors missing, unexpected or
      mis-shaped: all are named, before anything is read.
  """
  source = open_source(path, revision=revision, dtype=dtype, allow_pickle=allow_pickle)
  if param_dtype:
    source = source._replace(
      config=dataclasses.replace(source.config, param_dtype=str(np.dtype(param_dtype)))
    )
  params = {}
  for leaf in names.by_leaf(source.config):
    array = source.read_leaf(leaf)
    place = sharding(leaf, array.shape) if sharding else None
    # on a CPU device the aligned array becomes the leaf itself; elsewhere it is freed once copied
    _put(params, leaf, jax.block_until_ready(jax.device_put(array, place)))
  return params, source.config


def config_of(path, *, revision=None, dtype=None):
  """The T5Config or LlamaConfig of a model: a folder, or the id of a model on the hub. Reads no weights."""
  folder = _folder(path, revision, ["config.json", adapters.CONFIG])
  if adapters.is_folder(folder):
    return config_of(adapters.base_of(folder), dtype=dtype)
  return configs.from_json(configs.read_json(folder), os.path.join(folder, "config.json"), dtype)


def is_source(path):
  """Whether a path is a folder with a model or adapters, or may be the id of a model on the hub."""
  path = str(path)
  if os.path.exists(path):
    return os.path.isfile(os.path.join(path, "config.json")) or adapters.is_folder(path)
  return re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", path) is not None and not os.path.isdir(
    path.split("/")[0]
  )


def open_source(path, *, revision=None, dtype=None, allow_pickle=False):
  """Opens a model for reading leaf by leaf; see `load`, whose checks this makes."""
  folder = _folder(path, revision, _WANTED + _PICKLES * allow_pickle)
  if adapters.is_folder(folder):
    base = open_source(adapters.base_of(folder), dtype=dtype, allow_pickle=allow_pickle)
    own_tokenizer = os.path.exists(os.path.join(folder, "tokenizer_config.json"))
    return base._replace(
      folder=folder if own_tokenizer else base.folder, adapters=adapters.read(folder, base.config)
    )
  where = os.path.join(folder, "config.json")
  found = configs.read_json(folder)
  config = configs.from_json(found, where, dtype)
  tensors = _tensors(folder, allow_pickle)
  if "scale_decoder_outputs" in found and "shared.weight" in tensors:
    # transformers 5 ties a new T5's head even where the outputs are not scaled, and then stores one of the two
    tensors.setdefault("lm_head.weight", tensors["shared.weight"])
  _check(folder, config, tensors)
  config = dataclasses.replace(config, param_dtype=_stored_dtype(tensors))
  return Source(
    folder, found, config, {part.name: tensors[part.name] for part in names.tensors(config)}
  )


def _folder(path, revision, patterns):
  """The local folder of a path or of a model on the hub, "org/name" or "org/name@revision"."""
  path = str(path)
  if os.path.isdir(path):
    return path
  if os.path.exists(path):
    raise UserError(
      f"{path}: expected the folder of a model, got a file; give the folder that holds it"
    )
  path, _, named = path.partition("@")  # "org/name@revision"
  revision = revision or named or None
  if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
    raise UserError(f"{path}: expected the folder of a model, got nothing there; check the path")
  import huggingface_hub

  try:
    return huggingface_hub.snapshot_download(path, revision=revision, allow_patterns=patterns)
  except (
    Exception
  ) as error:  # the client raises errors of many types: offline, missing, gated, misspelt
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise UserError(
      f"{path}: no such folder, and it cannot be had from the HuggingFace hub ({reason}); check "
      "the name, the network and your access"
    ) from error


def _tensors(folder, allow_pickle):
  found = files.safetensors_in(folder)
  if found is None and allow_pickle:
    found = files.pickled_in(folder)
  if found is not None:
    return found
  if any(name.startswith("pytorch_model") and ".bin" in name for name in os.listdir(folder)):
    raise UserError(
      f"{folder}: holds no safetensors, only a pickled pytorch_model.bin, which can run code when "
      "read; pass --allow_pickle if you trust it"
    )
  raise UserError(
    f"{folder}: expected model.safetensors or {files.INDEX}, got neither; copy the weights too"
  )


def _check(folder, config, tensors):
  """Raises a UserError that names every tensor missing, unexpected, mis-shaped or unlike the one it repeats."""
  expected = {part.name: part.shape for part in names.tensors(config)}
  repeated = {name: kept for name, kept in names.copies(config).items() if name in tensors}
  lines = [
    f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in tensors
  ]
  lines += [
    f"unexpected {name} {list(tensors[name].shape)}"
    for name in sorted(tensors)
    if name not in expected and name not in repeated and not names.is_unused(config, name)
  ]
  lines += [
    f"mis-shaped {name} expected {list(shape)} got {list(tensors[name].shape)}"
    for name, shape in expected.items()
    if name in tensors and tensors[name].shape != shape
  ]
  if not lines:
    lines = [
      f"{name} differs from {kept}, which the config says it equals"
      for name, kept in repeated.items()
      if not _equal(tensors[name], tensors[kept])
    ]
  if lines:
    raise UserError(f"{folder}: the weights do not fit config.json: {'; '.join(lines)}")


def _equal(one, other):
  return one.shape == other.shape and np.array_equal(one.read(), other.read())


def _stored_dtype(tensors):
  """The dtype of most bytes; parameters are float32 or bfloat16."""
  sizes = {}
  for tensor in tensors.values():
    size = math.prod(tensor.shape) * tensor.dtype.itemsize
    sizes[tensor.dtype.name] = sizes.get(tensor.dtype.name, 0) + size
  return "bfloat16" if max(sizes, key=sizes.get) in ("bfloat16", "float16") else "float32"


def _aligned(shape, dtype):
  """An empty array that begins where XLA wants it, so that a CPU device takes it without a copy."""
  size = math.prod(shape) * dtype.itemsize
  room = np.empty(size + 64, np.uint8)
  start = -room.ctypes.data % 64
  return room[start : start + size].view(dtype).reshape(shape)


def _put(tree, leaf, value):
  *parents, last = leaf.split("/")
  functools.reduce(lambda inner, key: inner.setdefault(key, {}), parents, tree)[last] = value

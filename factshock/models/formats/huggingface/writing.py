"""Writes a model in the HuggingFace format, tensor by tensor, whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from factshock.models.formats import layout
from factshock.models.formats.gguf import files as gguf_files
from factshock.models.formats.gguf import tokenizers as gguf_tokenizers
from factshock.models.formats.huggingface import configs, files, names
from factshock.models.formats.tensors import Tensor
from factshock.models.model_config import ModelConfig
from factshock.runtime import json_files
from factshock.runtime.progress import Progress
from factshock.types import Array, FilePath, Params

# A tokenizer's files, and the settings of generation, which transformers keeps beside config.json.
GENERATION = "generation_config.json"
CARD = "README.md"
BESIDE = (
  "tokenizer.json",
  "tokenizer.model",
  "spiece.model",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  GENERATION,
  "vocab.json",
  "merges.txt",
)
_SHARD_BYTES = 5e9


def save(
  folder: FilePath,
  params: Params,
  model_config: ModelConfig,
  *,
  tokenizer_from: FilePath | None = None,
  shard_bytes: float = _SHARD_BYTES,
  base_config: Mapping[str, Any] | None = None,
) -> None:
  """Writes a folder that transformers loads; each leaf keeps its dtype.

  Args:
    folder: to write; must not exist. It appears when all is written.
    params: as from `load` or a family's `init`, numpy or JAX.
    model_config: of the params.
    tokenizer_from: a HuggingFace folder, or a GGUF file, whose tokenizer is copied along.
    shard_bytes: largest size of a file of weights (one tensor may exceed it).
    base_config: the config.json that the model came with; values unknown to us are kept.

  Raises:
    UserError: the folder exists, the disk fails, or base_config is of another model.
    ValueError: params that are not of this config; names every leaf.
  """
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
  }
  _check_leaves(leaves, model_config)
  tensors = [
    _writable(tensor, np.dtype(leaves[tensor.leaf].dtype), leaves.__getitem__)
    for tensor in names.tensors(model_config)
  ]
  write_folder(
    folder,
    tensors,
    configs.to_json(model_config, leaves["embedding"].dtype.name, base_config),
    tokenizer_from=tokenizer_from,
    shard_bytes=shard_bytes,
  )


def _check_leaves(leaves: Mapping[str, Array], model_config: ModelConfig) -> None:
  """Raises a ValueError where leaves are not those of a config; names every one."""
  shapes = {}
  for leaf, tensors in names.by_leaf(model_config).items():
    shapes[leaf] = names.leaf_shape(tensors)
  wrong = [
    name
    for name in sorted(shapes.keys() | leaves.keys())
    if name not in shapes or name not in leaves or tuple(leaves[name].shape) != shapes[name]
  ]
  if wrong:
    raise ValueError(f"params are not those of the config: {', '.join(wrong)}")


def writables(
  model_config: ModelConfig, dtypes: Mapping[str, Any], read_leaf: Callable[[str], Array]
) -> list[files.Writable]:
  """Returns the tensors of a model to write, from a function that reads a leaf.

  The leaf that was read last is kept.

  Args:
    model_config: of the model.
    dtypes: the dtype to write each leaf in.
    read_leaf: leaf -> its array.
  """
  last: dict[str, Array] = {}

  def keep_last(leaf: str) -> Array:
    if leaf not in last:
      last.clear()
      last[leaf] = read_leaf(leaf)
    return last[leaf]

  return [
    _writable(tensor, np.dtype(dtypes[tensor.leaf]), keep_last)
    for tensor in names.tensors(model_config)
  ]


def write_folder(
  folder: FilePath,
  tensors: Sequence[files.Writable],
  config_json: Mapping[str, Any],
  *,
  tokenizer_from: FilePath | None = None,
  shard_bytes: float = _SHARD_BYTES,
  extra_files: Mapping[str, Callable[[], Any]] | None = None,
  card: Callable[[], str] | None = None,
  progress: Progress | None = None,
) -> None:
  """Writes tensors, config.json and what stands beside it; see `save`.

  Args:
    folder: to write; must not exist.
    tensors: in the order of the files.
    config_json: the JSON object of config.json.
    tokenizer_from: as of `save`.
    shard_bytes: as of `save`.
    extra_files: file name -> function that gives the JSON object to write, with its own digest,
      once the tensors are.
    card: gives the text of README.md, once the tensors are written; None writes none.
    progress: over the tensors, or None.
  """
  with files.whole_folder(folder) as temporary:
    files.write_safetensors(temporary, tensors, shard_bytes, progress)
    copy_tokenizer(tokenizer_from, temporary)
    write_json(os.path.join(temporary, "config.json"), config_json)
    for name, value_of in (extra_files or {}).items():
      json_files.write_sealed(os.path.join(temporary, name), value_of())
    if card is not None:
      write_text(os.path.join(temporary, CARD), card())


def write_text(path: FilePath, text: str) -> None:
  """Writes a text as UTF-8."""
  with open(path, "w", encoding="utf-8") as file:
    file.write(text)


def copy_tokenizer(source: FilePath | None, target: FilePath) -> None:
  """Copies those of a tokenizer's files that are there from one folder to another.

  Args:
    source: the folder, a GGUF file whose tokenizer is written instead, or None: nothing is copied.
    target: the folder that they get into.
  """
  if not source:
    return
  if gguf_files.is_file(source):
    gguf_tokenizers.write(source, target)
    return
  for name in BESIDE:
    path = os.path.join(source, name)
    if os.path.isfile(path):
      shutil.copyfile(path, os.path.join(target, name))


def write_json(path: FilePath, value: Any) -> None:
  """Writes a value as JSON that people can read."""
  with open(path, "w", encoding="utf-8") as file:
    json.dump(value, file, indent=2, sort_keys=True)
    file.write("\n")


def _writable(tensor: Tensor, dtype: np.dtype, read_leaf: Callable[[str], Array]) -> files.Writable:
  """Returns a tensor to write, from a function that reads a leaf."""

  def read() -> np.ndarray:
    leaf = read_leaf(tensor.leaf)
    array = leaf if tensor.layer is None else leaf[tensor.layer]
    array = np.asarray(array).astype(dtype, copy=False)
    if not tensor.transposed:
      return array
    out = np.empty(tensor.shape, dtype)
    layout.transpose_into(out, array)
    return out

  return files.Writable(tensor.name, tensor.shape, dtype, read)

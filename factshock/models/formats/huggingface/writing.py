"""Writes a model in the HuggingFace format, tensor by tensor, whole or not at all."""

import json
import os
import shutil

import jax
import numpy as np

from factshock.models.formats.huggingface import configs, files, names

# A tokenizer's files, and the settings of generation, which transformers keeps beside config.json.
BESIDE = (
  "tokenizer.json",
  "tokenizer.model",
  "spiece.model",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "generation_config.json",
  "vocab.json",
  "merges.txt",
)


def save(folder, params, config, *, tokenizer_from=None, shard_bytes=5e9, base_config=None):
  """Writes a folder that transformers loads; each leaf keeps its dtype.

  Args:
    folder: to write; must not exist. It appears when all is written.
    params: as from `load` or a family's `init`, numpy or JAX.
    config: T5Config or LlamaConfig of the params.
    tokenizer_from: a HuggingFace folder whose tokenizer files are copied along.
    shard_bytes: largest size of a file of weights (one tensor may exceed it).
    base_config: the config.json (dict) that the model came with; values unknown to us are kept.

  Raises:
    UserError: the folder exists, the disk fails, or base_config is of another model.
    ValueError: params that are not of this config; names every leaf.
  """
  flat = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
  }
  shapes = {leaf: names.leaf_shape(parts) for leaf, parts in names.by_leaf(config).items()}
  wrong = [
    name
    for name in sorted(shapes.keys() | flat.keys())
    if name not in shapes or name not in flat or tuple(flat[name].shape) != shapes[name]
  ]
  if wrong:
    raise ValueError(f"params are not those of the config: {', '.join(wrong)}")
  tensors = [
    _writable(part, np.dtype(flat[part.leaf].dtype), flat.__getitem__)
    for part in names.tensors(config)
  ]
  write_folder(
    folder,
    tensors,
    configs.to_json(config, flat["embedding"].dtype.name, base_config),
    tokenizer_from=tokenizer_from,
    shard_bytes=shard_bytes,
  )


def writables(config, dtypes, read_leaf):
  """The tensors of a model as files.Writable, from a function that reads a leaf; the last leaf is kept.

  Args:
    config: T5Config or LlamaConfig.
    dtypes: dict leaf -> dtype to write.
    read_leaf: function(leaf) -> array.
  """
  last = {}

  def keep_last(leaf):
    if leaf not in last:
      last.clear()
      last[leaf] = read_leaf(leaf)
    return last[leaf]

  return [_writable(part, np.dtype(dtypes[part.leaf]), keep_last) for part in names.tensors(config)]


def write_folder(
  folder,
  tensors,
  config_json,
  *,
  tokenizer_from=None,
  shard_bytes=5e9,
  extra_files=None,
  progress=None,
):
  """Writes files.Writables, config.json and what stands beside it; see `save`.

  Args:
    extra_files: dict file name -> function() that gives the JSON value to write once the tensors are.
    progress: a console.Progress over the tensors, or None.
  """
  with files.whole_folder(folder) as temporary:
    files.write_safetensors(temporary, tensors, shard_bytes, progress)
    copy_tokenizer(tokenizer_from, temporary)
    values = {"config.json": config_json} | {
      name: value() for name, value in (extra_files or {}).items()
    }
    for name, value in values.items():
      write_json(os.path.join(temporary, name), value)


def copy_tokenizer(source, target):
  """Copies a tokenizer's files, those that are there, from one folder to another; None copies nothing."""
  for name in BESIDE if source else ():
    if os.path.isfile(os.path.join(source, name)):
      shutil.copyfile(os.path.join(source, name), os.path.join(target, name))


def write_json(path, value):
  """Writes a value as JSON that people can read."""
  with open(path, "w", encoding="utf-8") as file:
    json.dump(value, file, indent=2, sort_keys=True)
    file.write("\n")


def _writable(part, dtype, leaf_of):
  def read():
    array = leaf_of(part.leaf)
    array = np.asarray(array if part.layer is None else array[part.layer]).astype(dtype, copy=False)
    if not part.transposed:
      return array
    out = np.empty(part.shape, dtype)
    files.transpose_into(out, array)
    return out

  return files.Writable(part.name, part.shape, dtype, read)

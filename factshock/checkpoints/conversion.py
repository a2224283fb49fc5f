"""A model from one format to another, leaf by leaf: HuggingFace, T5X and our own checkpoints."""

import dataclasses
import os
import shutil
from typing import NamedTuple

import numpy as np

from factshock.checkpoints import loading, store, tree_files
from factshock.models import families
from factshock.models.formats import huggingface, t5x
from factshock.models.formats.huggingface import names, writing
from factshock.runtime import console
from factshock.runtime.errors import UserError

FORMATS = ("huggingface", "orbax", "peft")


class Opened(NamedTuple):
  """A model of any format, open for reading leaf by leaf."""

  config: object  # T5Config or LlamaConfig
  dtypes: dict  # leaf -> dtype stored
  read_leaf: object  # function(leaf, dtype) -> numpy array
  json: dict | None  # the config.json it came with
  tokenizer: str | None  # HuggingFace folder of its tokenizer
  adapters: object = None  # huggingface.Adapters, if it has some; read_leaf merges them


def convert(source, output, to, *, dtype=None, revision=None, allow_pickle=False, config_from=None):
  """Writes a model in another format, holding about one leaf of it in memory.

  Args:
    source: a HuggingFace folder or hub id, a T5X checkpoint, or one of ours (a step folder, or a folder of steps).
    output: folder to write; must not exist. For "orbax" it is a step folder.
    to: "huggingface" or "orbax", with adapters merged; or "peft", the adapters alone.
    dtype: "float32" or "bfloat16"; None keeps the stored one.
    config_from: HuggingFace folder whose config.json tells what the source does not, and whose tokenizer is taken.

  Returns:
    The Opened model that was written.

  Raises:
    UserError: a source that cannot be read, an output that exists, or a disk that fails.
  """
  if os.path.exists(output):
    raise UserError(f"{output}: already exists; remove it or choose another --output")
  opened = open_model(source, revision=revision, allow_pickle=allow_pickle, config_from=config_from)
  if dtype:
    opened = opened._replace(
      dtypes=dict.fromkeys(opened.dtypes, dtype),
      config=dataclasses.replace(opened.config, dtype=dtype, param_dtype=dtype),
    )
  write = {"huggingface": _write_huggingface, "orbax": _write_orbax, "peft": _write_peft}[to]
  write(opened, str(output), source)
  return opened


def open_model(source, *, revision=None, allow_pickle=False, config_from=None):
  """Opens a model of any format; see `convert`."""
  source = str(source)
  if t5x.is_checkpoint(source):
    return _open_t5x(source, config_from)
  if huggingface.is_source(source):
    found = huggingface.open_source(source, revision=revision, allow_pickle=allow_pickle)
    return Opened(
      found.config,
      _stored(found.config),
      found.read_leaf,
      found.json,
      _with_tokenizer(config_from or found.folder),
      found.adapters,
    )
  return _open_checkpoint(source, config_from)


def _stored(config):
  return dict.fromkeys(names.by_leaf(config), config.param_dtype)


def _open_t5x(source, config_from):
  base = huggingface.read_json(config_from) if config_from else None
  like = huggingface.from_json(base, config_from) if base else None
  found = t5x.open_source(source, like=like)
  return Opened(
    found.config, _stored(found.config), found.read_leaf, base, _with_tokenizer(config_from)
  )


def _open_checkpoint(source, config_from):
  folder = store.step_folder(source)
  manifest = store.read_manifest(folder)
  record = manifest["config"] or {}
  experiment = record.get("experiment") or {}
  if "lora" in record:
    return _open_adapters(folder, record, config_from)
  leaves = {
    name.removeprefix("params/"): leaf
    for name, leaf in manifest["leaves"].items()
    if name.startswith("params/")
  }
  if "model" not in experiment or "embedding" not in leaves:
    raise UserError(
      f"{folder}: its manifest does not say which model it is; expected a checkpoint of an "
      "experiment or of convert"
    )
  config = families.from_section(experiment["model"], leaves["embedding"]["shape"][0])
  config = dataclasses.replace(config, param_dtype=leaves["embedding"]["dtype"])
  _check_shapes(folder, config, leaves)
  base = _base_json(config, record, experiment, config_from)
  return Opened(
    config,
    {name: leaf["dtype"] for name, leaf in leaves.items()},
    lambda leaf, dtype: tree_files.read_leaf(folder, f"params/{leaf}", manifest["leaves"]).astype(
      np.dtype(dtype), copy=False
    ),
    base,
    _with_tokenizer(
      config_from or os.path.join(str(record.get("workdir")), "tokenizer", str(record.get("seed")))
    ),
  )


def _open_adapters(folder, record, config_from):
  """The model that a checkpoint's adapters stand on, with the adapters merged into each leaf."""
  made = record["lora"]
  base = open_model(made["base"], config_from=config_from)
  adapters = huggingface.Adapters(
    store.restore_params(folder), made["rank"], made["alpha"], made["base"]
  )

  def read_leaf(leaf, dtype):
    array = np.array(base.read_leaf(leaf, dtype))
    adapters.merge_into(leaf, array)
    return array

  return base._replace(read_leaf=read_leaf, adapters=adapters)


def _check_shapes(folder, config, leaves):
  expected = {
    leaf: (names.leaf_shape(parts), leaves.get(leaf, {}).get("dtype"))
    for leaf, parts in names.by_leaf(config).items()
  }
  lines = store.differences(expected, store.leaf_specs(leaves))
  if lines:
    raise UserError(
      f"{folder}: its parameters are not those of the model it names: {'; '.join(lines)}"
    )


def _base_json(config, record, experiment, config_from):
  """The config.json to carry along: the one named, the one recorded, or that of the model it started from."""
  if config_from:
    return huggingface.read_json(config_from)
  if record.get("huggingface"):
    return record["huggingface"]
  start = experiment.get("start_from")
  if not start or not os.path.isfile(os.path.join(start, "config.json")):
    return None
  base = huggingface.read_json(start)
  return None if families.differences(config, huggingface.from_json(base, start)) else base


def _with_tokenizer(folder):
  """The folder, or None where it has no tokenizer in HuggingFace's format."""
  return (
    folder if folder and os.path.isfile(os.path.join(folder, "tokenizer_config.json")) else None
  )


def _write_huggingface(opened, output, _):
  tensors = writing.writables(
    opened.config, opened.dtypes, lambda leaf: opened.read_leaf(leaf, opened.dtypes[leaf])
  )
  config_json = huggingface.to_json(
    opened.config, str(np.dtype(opened.dtypes["embedding"])), opened.json
  )
  huggingface.write_folder(
    output,
    tensors,
    config_json,
    tokenizer_from=opened.tokenizer,
    progress=console.Progress("tensors", len(tensors)),
  )


def _write_peft(opened, output, source):
  if not opened.adapters:
    raise UserError(
      f"{source}: holds whole weights, no low-rank adapters; --to=huggingface writes those"
    )
  huggingface.write_adapters(
    output, opened.adapters, opened.config, tokenizer_from=opened.tokenizer
  )


def _write_orbax(opened, output, _):
  shapes = {leaf: names.leaf_shape(parts) for leaf, parts in names.by_leaf(opened.config).items()}
  progress = console.Progress("leaves", len(shapes))
  done = []

  def lazy(leaf):
    def read():
      value = opened.read_leaf(leaf, opened.dtypes[leaf])
      done.append(leaf)
      progress.update(len(done))
      return value

    return tree_files.Lazy(shapes[leaf], np.dtype(opened.dtypes[leaf]), read)

  config = {
    "workdir": os.path.abspath(output),
    "seed": 0,
    "huggingface": opened.json,
    "experiment": {**loading.DEFAULTS, "model": families.to_section(opened.config)},
  }
  store.write(
    output,
    {"params": tree_files.nested({leaf: lazy(leaf) for leaf in shapes})},
    {"step": 0, "loader_state": None, "config": config},
  )
  if opened.tokenizer:
    _copy_tokenizer(opened.tokenizer, os.path.join(output, "tokenizer", "0"))


def _copy_tokenizer(source, target):
  os.makedirs(target)
  for name in (
    *writing.BESIDE,
    "config.json",
  ):  # transformers may ask config.json which tokenizer it is
    if os.path.isfile(os.path.join(source, name)):
      shutil.copyfile(os.path.join(source, name), os.path.join(target, name))

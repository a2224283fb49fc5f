"""Conversion of models between formats, leaf by leaf: HuggingFace, T5X, our own checkpoints."""

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from factshock.checkpoints import (
  belongings,
  loading,
  model_card,
  origins,
  recorded_models,
  store,
  tree_files,
)
from factshock.checkpoints.manifest import CheckpointRecord
from factshock.checkpoints.origins import Origin
from factshock.data import pretrained_tokenizers, tokenizer_files
from factshock.models import families
from factshock.models.formats import finite, huggingface, t5x
from factshock.models.formats.gguf import files as gguf_files
from factshock.models.formats.huggingface import files as weight_files
from factshock.models.formats.huggingface import names, writing
from factshock.models.formats.tensors import Tensor
from factshock.models.model_config import ModelConfig
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress
from factshock.runtime.workdir import Workdir
from factshock.types import FilePath

FORMATS = ("huggingface", "orbax", "peft")


@dataclasses.dataclass(frozen=True)
class SourceModel:
  """Holds a model of any format, open for reading leaf by leaf.

  Attributes:
    config: its sizes.
    dtypes: the dtype that each leaf is stored in.
    read_leaf: (leaf, dtype) -> the leaf's array; adapters are merged into it.
    json: the config.json it came with.
    tokenizer: HuggingFace folder, or GGUF file, of its tokenizer.
    adapters: its low-rank adapters, if it has some.
  """

  config: ModelConfig
  dtypes: dict[str, str]
  read_leaf: Callable[[str, str], np.ndarray]
  json: dict[str, Any] | None
  tokenizer: str | None
  adapters: huggingface.Adapters | None = None

  def read(self, leaf: str) -> np.ndarray:
    """Returns a leaf in the dtype it is stored in.

    Raises:
      UserError: it cannot be read, or holds NaN or infinite numbers; names the tensor.
    """
    array = self.read_leaf(leaf, self.dtypes[leaf])
    if not finite.is_finite(array):
      raise _not_finite(array, names.by_leaf(self.config)[leaf])
    return array

  def in_dtype(self, dtype: str) -> "SourceModel":
    """Returns the model with all its leaves in a dtype."""
    values: Any = self.config
    config = dataclasses.replace(values, dtype=dtype, param_dtype=dtype)
    return dataclasses.replace(self, config=config, dtypes=dict.fromkeys(self.dtypes, dtype))


def _not_finite(array: np.ndarray, tensors: Sequence[Tensor]) -> UserError:
  """Returns the error of a leaf, made up of these tensors, that holds NaN or infinite numbers."""
  broken = tensors[0]
  for tensor in tensors:
    if tensor.layer is not None and not finite.is_finite(array[tensor.layer]):
      broken = tensor
      break
  return UserError(
    f"{broken.name}: holds NaN or infinite numbers in {array.dtype}, so the model is broken; train "
    "it again, or convert it to a dtype that holds its numbers"
  )


def convert(
  source: FilePath,
  output: FilePath,
  to: str,
  *,
  dtype: str | None = None,
  revision: str | None = None,
  allow_pickle: bool = False,
  config_from: str | None = None,
) -> SourceModel:
  """Writes a model in another format, holding about one leaf of it in memory.

  Args:
    source: a HuggingFace folder or hub id, a GGUF file, a T5X checkpoint, or one of ours (a step
      folder, or a folder of steps).
    output: folder to write; must not exist. For "orbax" it is a step folder.
    to: "huggingface" or "orbax", with adapters merged; or "peft", the adapters alone.
    dtype: "float32" or "bfloat16"; None keeps the stored one.
    revision: of a hub id.
    allow_pickle: whether PyTorch's .bin files are read, which can run code.
    config_from: HuggingFace folder whose config.json gives what the source does not, and whose
      tokenizer is taken.

  Returns:
    The model that was written.

  Raises:
    UserError: a source that cannot be read, an output that exists, or a disk that fails.
  """
  if os.path.exists(output):
    raise UserError(f"{output}: already exists; remove it or choose another --output")
  model = open_source(
    str(source), revision=revision, allow_pickle=allow_pickle, config_from=config_from
  )
  if dtype:
    model = model.in_dtype(dtype)
  origin = origins.of(f"{source}@{revision}" if revision else str(source))
  _write(model, str(output), to, str(source), origin)
  return model


def _write(
  model: SourceModel,
  output: str,
  to: str,
  source: str,
  origin: Origin,
) -> None:
  if to == "huggingface":
    _write_huggingface(model, output, origin)
  elif to == "orbax":
    _write_orbax(model, output, origin)
  else:
    _write_peft(model, output, source, origin)


def _card(
  model: SourceModel,
  output: str,
  origin: Origin,
  library: str,
) -> str:
  title = os.path.basename(os.path.normpath(output))
  return model_card.text_of(title, origin, model.config, library=library)


def open_source(
  source: str,
  *,
  revision: str | None = None,
  allow_pickle: bool = False,
  config_from: str | None = None,
) -> SourceModel:
  """Opens a model of any format.

  Args:
    source: as for `convert`.
    revision: as for `convert`.
    allow_pickle: as for `convert`.
    config_from: as for `convert`.
  """
  belongings.check_one_format(source)
  if t5x.is_checkpoint(source):
    return _open_t5x(source, config_from)
  if not huggingface.is_source(source):
    return _open_checkpoint(source, config_from)
  opened = huggingface.open_source(source, revision=revision, allow_pickle=allow_pickle)
  return SourceModel(
    opened.config,
    _stored_dtypes(opened.config),
    opened.read_leaf,
    opened.json,
    _with_tokenizer(config_from or opened.folder),
    opened.adapters,
  )


def as_huggingface(path: str) -> huggingface.Source:
  """Opens a model of any format as the HuggingFace model that `convert` would write.

  Its tensors are made when they are read; read in the order of names.tensors, each leaf is read
  once. `folder` is the path.

  Args:
    path: of the model.

  Raises:
    UserError: as `open_source`.
  """
  model = open_source(path)
  tensors = {}
  for tensor in writing.writables(model.config, model.dtypes, model.read):
    tensors[tensor.name] = weight_files.Computed(tensor)
  json = huggingface.to_json(model.config, _main_dtype(model), model.json)
  config = huggingface.from_json(json, path)
  return huggingface.Source(path, json, config, tensors, model.adapters)


def _main_dtype(model: SourceModel) -> str:
  return str(np.dtype(model.dtypes["embedding"]))


def _stored_dtypes(config: ModelConfig) -> dict[str, str]:
  return dict.fromkeys(names.by_leaf(config), config.param_dtype)


def _open_t5x(source: str, config_from: str | None) -> SourceModel:
  base = None
  like = None
  if config_from:
    base = huggingface.read_json(config_from)
    like = huggingface.from_json(base, config_from)
  opened = t5x.open_source(source, like=like)
  dtypes = _stored_dtypes(opened.config)
  return SourceModel(opened.config, dtypes, opened.read_leaf, base, _with_tokenizer(config_from))


def _open_checkpoint(source: str, config_from: str | None) -> SourceModel:
  folder = store.step_folder(source)
  manifest = store.read_manifest(folder)
  record = manifest["config"] or {}
  experiment = record.get("experiment") or {}
  if "lora" in record:
    return _open_adapters(folder, record, config_from)
  config = recorded_models.config_of(folder, manifest)
  leaves = recorded_models.leaves(manifest)

  def read_leaf(leaf: str, dtype: str) -> np.ndarray:
    array = tree_files.read_leaf(folder, f"params/{leaf}", manifest["leaves"])
    return array.astype(np.dtype(dtype), copy=False)

  return SourceModel(
    config,
    {name: leaf["dtype"] for name, leaf in leaves.items()},
    read_leaf,
    _base_json(config, record, experiment, config_from),
    _with_tokenizer(config_from or _own_tokenizer(folder, record)),
  )


def _own_tokenizer(folder: str, record: Mapping[str, Any]) -> str | None:
  """Returns the folder of a checkpoint's tokenizer, None where there is none any more.

  Raises:
    UserError: another one stands in its place.
  """
  path = belongings.workdir_of(folder, record).tokenizer(str(record.get("seed")))
  return belongings.path_of(folder, record, "tokenizer") if os.path.exists(path) else None


def _open_adapters(
  folder: str,
  record: Mapping[str, Any],
  config_from: str | None,
) -> SourceModel:
  """Opens the model that a checkpoint's adapters stand on, with the adapters merged into it."""
  section = record["lora"]
  base_name = belongings.base_of(folder, record)
  base = open_source(base_name, config_from=config_from)
  adapters = huggingface.Adapters(
    store.restore_params(folder), section["rank"], section["alpha"], base_name
  )

  def read_leaf(leaf: str, dtype: str) -> np.ndarray:
    array = np.array(base.read_leaf(leaf, dtype))
    adapters.merge_into(leaf, array)
    return array

  return dataclasses.replace(base, read_leaf=read_leaf, adapters=adapters)


def _base_json(
  config: ModelConfig,
  record: Mapping[str, Any],
  experiment: Mapping[str, Any],
  config_from: str | None,
) -> dict[str, Any] | None:
  """Returns the config.json to carry along.

  It is the one named, the one recorded, or that of the model it started from.
  """
  if config_from:
    return huggingface.read_json(config_from)
  if record.get("huggingface"):
    return record["huggingface"]
  start = experiment.get("start_from")
  if not start or not any(map(os.path.isfile, (start, os.path.join(start, "config.json")))):
    return None
  base = huggingface.read_json(start)
  differing = families.differences(config, huggingface.from_json(base, start))
  return None if differing else base


def _with_tokenizer(folder: str | None) -> str | None:
  """Returns the folder, or None where it has no tokenizer in HuggingFace's format."""
  return folder if folder and pretrained_tokenizers.is_folder(folder) else None


def _write_huggingface(
  model: SourceModel,
  output: str,
  origin: Origin,
) -> None:
  tensors = writing.writables(model.config, model.dtypes, model.read)
  huggingface.write_folder(
    output,
    tensors,
    huggingface.to_json(model.config, _main_dtype(model), model.json),
    tokenizer_from=model.tokenizer,
    card=lambda: _card(model, output, origin, "transformers"),
    progress=Progress("tensors", len(tensors)),
  )


def _write_peft(
  model: SourceModel,
  output: str,
  source: str,
  origin: Origin,
) -> None:
  if not model.adapters:
    raise UserError(
      f"{source}: holds whole weights, no low-rank adapters; --to=huggingface writes those"
    )
  if model.json and huggingface.is_part(model.json, source):
    raise UserError(
      f"{source}: its base {model.adapters.base} reads images too, and PEFT names the weights of "
      "its text otherwise; write that text as a model (convert --to=huggingface) and train the "
      "adapters on it, or merge them (--to=huggingface)"
    )
  for leaf, array in tree_files.flat_leaves(model.adapters.tree).items():
    if not finite.is_finite(array):
      raise UserError(f"{source}: the adapter {leaf} holds NaN or infinite numbers; train it again")
  huggingface.write_adapters(
    output,
    model.adapters,
    model.config,
    tokenizer_from=model.tokenizer,
    card=_card(model, output, origin, "peft"),
  )


def _write_orbax(
  model: SourceModel,
  output: str,
  origin: Origin,
) -> None:
  by_leaf = names.by_leaf(model.config)
  progress = Progress("leaves", len(by_leaf))
  done = []

  def lazy(leaf: str) -> tree_files.Lazy:
    def read() -> np.ndarray:
      value = model.read(leaf)
      done.append(leaf)
      progress.update(len(done))
      return value

    return tree_files.Lazy(names.leaf_shape(by_leaf[leaf]), np.dtype(model.dtypes[leaf]), read)

  config = {
    "workdir": os.path.abspath(output),
    "seed": 0,
    "huggingface": model.json,
    "experiment": {**loading.DEFAULTS, "model": families.to_section(model.config)},
  }
  if origin.base:
    config[origins.CONVERTED] = {"name": origin.base, **origin.licence}
  params = tree_files.nested({leaf: lazy(leaf) for leaf in by_leaf})
  extra_folders = {}
  if model.tokenizer:
    # With the weights or not at all: a checkpoint without its tokenizer answers nobody.
    path = os.path.relpath(Workdir(output).tokenizer(0), output)
    extra_folders[path] = functools.partial(_copy_tokenizer, model.tokenizer)
  record: CheckpointRecord = {"step": 0, "loader_state": None, "config": config}
  store.write(output, {"params": params}, record, extra_folders=extra_folders)


def _copy_tokenizer(source: str, target: str) -> None:
  os.makedirs(target)
  if gguf_files.is_file(source):
    writing.copy_tokenizer(source, target)
  # Transformers may ask config.json which tokenizer it is.
  for name in (*writing.BESIDE, "config.json"):
    if os.path.isfile(os.path.join(source, name)):
      shutil.copyfile(os.path.join(source, name), os.path.join(target, name))
  tokenizer_files.write_digests(target)

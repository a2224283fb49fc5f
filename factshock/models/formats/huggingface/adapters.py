"""Low-rank adapters in PEFT's format: adapter_config.json and adapter_model.safetensors."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from factshock.models import families
from factshock.models.formats import finite
from factshock.models.formats.huggingface import adapter_settings, files, names, writing
from factshock.models.formats.huggingface.adapter_settings import CONFIG, AdapterSettings
from factshock.models.formats.huggingface.files import Stored
from factshock.models.formats.tensors import Tensor
from factshock.models.model_config import ModelConfig
from factshock.runtime import console
from factshock.runtime.errors import UserError
from factshock.types import Array, FilePath, Params

WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."
_MOST_LINES = 10

# The tensors "A" and "B" of each adapted module, by the module's name.
_Pairs: TypeAlias = dict[str, dict[str, Stored]]


@dataclasses.dataclass(frozen=True)
class Adapters:
  """Holds adapters as models/lora.py has them, and what they stand on.

  Attributes:
    tree: nested dict, `a` [N, inputs, rank] and `b` [N, rank, outputs] of each adapted weight,
      float32; zero in a layer without an adapter.
    rank: of every adapter.
    alpha: their strength, scale = alpha / rank.
    base: path or hub id of the model they stand on.
  """

  tree: Params
  rank: int
  alpha: float
  base: str

  @property
  def scale(self) -> float:
    """Returns alpha / rank."""
    return self.alpha / self.rank

  def merge_into(self, leaf: str, array_NxIxO: np.ndarray) -> None:
    """Adds what the adapter of a leaf does to its weights, in float32, layer by layer, in place.

    Raises:
      UserError: it adds NaN or infinite numbers.
    """
    pair = _find(self.tree, leaf)
    if not pair:
      return
    for layer, weight_IxO in enumerate(array_NxIxO):
      a = np.asarray(pair["a"][layer], np.float32)
      b = np.asarray(pair["b"][layer], np.float32)
      with np.errstate(over="ignore", invalid="ignore"):
        change_IxO = (self.scale * a) @ b
      if not finite.is_finite(change_IxO):
        raise UserError(
          f"the adapter of {leaf} (of {self.base}) makes NaN or infinite numbers in layer {layer}; "
          "train it again, or copy it again"
        )
      weight_IxO[...] = (weight_IxO.astype(np.float32) + change_IxO).astype(weight_IxO.dtype)


def is_folder(folder: FilePath) -> bool:
  """Returns whether a folder holds adapters and no model."""
  return adapter_settings.has_settings(folder) and not os.path.isfile(
    os.path.join(folder, "config.json")
  )


def base_of(folder: FilePath) -> str:
  """Returns the model that a folder's adapters stand on: a path, or a hub id and its revision.

  A relative path is one from the adapters' own folder; with nothing there, from the current one,
  as PEFT has it.

  Raises:
    UserError: broken settings, or a base that holds adapters itself.
  """
  settings = adapter_settings.read(folder)
  base = _beside(folder, settings.base) or settings.base
  if adapter_settings.has_settings(base):
    raise upon_adapters(folder, base)
  has_revision = settings.revision and not os.path.exists(base) and "@" not in base
  return f"{base}@{settings.revision}" if has_revision else base


def _beside(folder: FilePath, base: str) -> str | None:
  """Returns what a base's relative path leads to from the adapters, None where nothing is there."""
  path = os.path.join(folder, base)
  if not os.path.exists(path):
    return None
  if os.path.exists(base) and not os.path.samefile(path, base):
    console.say_once(
      f"{folder}: its base {base} is read from beside it, not from the current folder, where PEFT "
      "looks"
    )
  return path


def upon_adapters(folder: FilePath, base: str) -> UserError:
  """Returns the error of adapters that stand on adapters."""
  return UserError(
    f"{folder}: its adapters stand on {base}, which holds adapters itself; merge those with PEFT "
    "(merge_and_unload) and name the merged model as the base"
  )


def read(folder: FilePath, model_config: ModelConfig, base: str | None = None) -> Adapters:
  """Reads the adapters of a folder that PEFT or `write` made.

  A layer's own rank and alpha (rank_pattern, alpha_pattern, rslora) are folded into `b`.

  Args:
    folder: to read.
    model_config: of the model they stand on.
    base: that model; None is the one that they name.

  Raises:
    UserError: something other than LoRA, a damaged file, or tensors that do not fit the model or
      the settings; names each.
  """
  settings = adapter_settings.read(folder)
  path = _weights_path(folder)
  modules = {
    _PREFIX + _module(tensor): tensor for tensor in names.tensors(model_config) if tensor.transposed
  }
  pairs = _pairs(path, files.read_header(path), modules)
  _check_settings(path, pairs, settings)
  scales = {module: settings.scale_of(module.removeprefix(_PREFIX)) for module in pairs}
  rank = max(pair["A"].shape[0] for pair in pairs.values())
  # The first scale is that of all adapters, if it can be divided by.
  scale = next((value for value in scales.values() if value), 1.0)
  leaf_tensors = names.by_leaf(model_config)
  tree: Params = {}
  for module, pair in pairs.items():
    tensor = modules[module]
    leaf = _at(tree, tensor.leaf)
    if not leaf:
      leaf |= _zeros(tensor, len(leaf_tensors[tensor.leaf]), rank)
    own = pair["A"].shape[0]
    a = pair["A"].read().astype(np.float32).T
    b = pair["B"].read().astype(np.float32).T
    leaf["a"][tensor.layer, :, :own] = a
    leaf["b"][tensor.layer, :own] = b * (scales[module] / scale)
  return Adapters(tree, rank, rank * scale, base or base_of(folder))


def _check_settings(path: str, pairs: _Pairs, settings: AdapterSettings) -> None:
  """Raises a UserError where PEFT would leave out an adapter by the settings, or fail."""
  lines = []
  for module, pair in pairs.items():
    name = module.removeprefix(_PREFIX)
    rank = pair["A"].shape[0]
    if not settings.targets_module(name):
      lines.append(f"{name} is none of the modules that the settings name")
    elif settings.rank_of(name) != rank:
      lines.append(f"{name} expected rank {settings.rank_of(name)} got {rank}")
  if lines:
    more = f"; and {len(lines) - _MOST_LINES} more" if len(lines) > _MOST_LINES else ""
    raise UserError(
      f"{path}: the adapters are not those of {CONFIG}: {'; '.join(lines[:_MOST_LINES])}{more}; "
      "copy both files again"
    )


def _weights_path(folder: FilePath) -> str:
  """Returns the path of a folder's adapters; raises UserError where it has none."""
  path = os.path.join(folder, WEIGHTS)
  if not os.path.isfile(path):
    raise UserError(
      f"{folder}: expected {WEIGHTS}, got none; let PEFT save the adapters as safetensors"
    )
  if os.path.isfile(os.path.join(folder, _PICKLED)):
    console.say_once(f"{folder}: holds {WEIGHTS} and {_PICKLED}; {WEIGHTS} is read, as by PEFT")
  return path


def _zeros(weight: Tensor, depth: int, rank: int) -> Params:
  """Returns an adapter that changes nothing, for the layers of a weight."""
  outputs, inputs = weight.shape
  return {
    "a": np.zeros((depth, inputs, rank), np.float32),
    "b": np.zeros((depth, rank, outputs), np.float32),
  }


def write(
  folder: FilePath,
  adapters: Adapters,
  model_config: ModelConfig,
  tokenizer_from: FilePath | None = None,
  card: str | None = None,
) -> None:
  """Writes adapters as PEFT loads them, whole or not at all.

  Args:
    folder: to write; must not exist.
    adapters: PEFT looks for the model at their `base`.
    model_config: of the model they stand on.
    tokenizer_from: folder whose tokenizer files are copied along.
    card: the text of README.md; None writes none.

  Raises:
    UserError: the folder exists, the disk fails, or the base holds adapters itself.
  """
  _check_base(adapters.base)
  writables = []
  modules = []
  for leaf, tensors in names.by_leaf(model_config).items():
    pair = _find(adapters.tree, leaf)
    if not pair:
      continue
    for tensor in tensors:
      module = _module(tensor)
      modules.append(module)
      for letter, array_NxIxO in (("A", pair["a"]), ("B", pair["b"])):
        name = f"{_PREFIX}{module}.lora_{letter}.weight"
        writables.append(_writable(name, array_NxIxO, tensor.layer))
  with files.whole_folder(folder) as temporary:
    files.write_file(os.path.join(temporary, WEIGHTS), writables)
    writing.copy_tokenizer(tokenizer_from, temporary)
    settings = _peft_settings(adapters, modules, model_config)
    writing.write_json(os.path.join(temporary, CONFIG), settings)
    if card is not None:
      writing.write_text(os.path.join(temporary, writing.CARD), card)


def _check_base(base: str) -> None:
  """Raises a UserError where a model holds adapters itself."""
  if adapter_settings.has_settings(base):
    raise UserError(
      f"{base}: holds adapters beside its model, so that others cannot name it as their base; move "
      "its adapter files into a folder of their own and convert that"
    )


def _peft_settings(
  adapters: Adapters, modules: Sequence[str], model_config: ModelConfig
) -> dict[str, Any]:
  """Returns the adapter_config.json of adapters of these modules."""
  alpha = adapters.alpha
  base, _, revision = str(adapters.base).partition("@")
  if os.path.exists(adapters.base) or not revision:
    base, revision = str(adapters.base), None
  return {
    "peft_type": "LORA",
    "task_type": families.of(model_config).huggingface.task_type,
    "base_model_name_or_path": base,
    "r": adapters.rank,
    "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
    "lora_dropout": 0.0,
    "target_modules": _targets(modules, model_config),
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "use_rslora": False,
    "use_dora": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "revision": revision,
  }


def _pairs(path: str, stored: Mapping[str, Stored], modules: Mapping[str, Tensor]) -> _Pairs:
  """Returns the tensors of each adapted module.

  Args:
    path: name of the file in errors.
    stored: its tensors by name.
    modules: the weights that may be adapted, by the name of their module.

  Raises:
    UserError: tensors that do not fit the modules, or none at all; names each.
  """
  pairs: _Pairs = {}
  lines = []
  for name, tensor in stored.items():
    match = re.fullmatch(r"(.+)\.lora_([AB])(\.default)?\.weight", name)
    if match and match[1] in modules and match[2] in pairs.get(match[1], {}):
      lines.append(f"twice {match[1]}.lora_{match[2]}.weight")
    elif match and match[1] in modules:
      pairs.setdefault(match[1], {})[match[2]] = tensor
    else:
      lines.append(f"unexpected {name} {list(tensor.shape)}")
  for module, pair in pairs.items():
    lines += _pair_problems(module, pair, modules[module])
  if not pairs and not lines:
    lines = ["it holds no adapter"]
  if lines:
    raise UserError(f"{path}: the adapters do not fit the model: {'; '.join(lines)}")
  return pairs


def _pair_problems(module: str, pair: Mapping[str, Stored], weight: Tensor) -> list[str]:
  """Returns a line for each tensor of one module's adapter that is missing or mis-shaped."""
  if len(pair) < 2:
    return [f"missing {module}.lora_{'B' if 'A' in pair else 'A'}.weight"]
  outputs, inputs = weight.shape
  rank = pair["A"].shape[0] if pair["A"].shape else 0
  lines = []
  for letter, expected in (("A", (rank, inputs)), ("B", (outputs, rank))):
    shape = pair[letter].shape
    if shape != expected:
      lines.append(
        f"mis-shaped {module}.lora_{letter}.weight expected {list(expected)} got {list(shape)}"
      )
  return lines


def _module(tensor: Tensor) -> str:
  """Returns the name of the module whose weight a tensor is."""
  return tensor.name.removesuffix(".weight")


def _targets(modules: Sequence[str], model_config: ModelConfig) -> list[str]:
  """Returns the modules by their last names where these name no others, else in full."""
  short = {module.rsplit(".", 1)[1] for module in modules}
  known = [_module(tensor) for tensor in names.tensors(model_config)]
  named = [module for module in known if module.rsplit(".", 1)[-1] in short]
  return sorted(short) if sorted(named) == sorted(modules) else sorted(modules)


def _writable(name: str, array_NxIxO: Array, layer: int | None) -> files.Writable:
  """Returns one layer of an adapter to write, transposed as PEFT has it."""

  def read() -> np.ndarray:
    return np.ascontiguousarray(np.asarray(array_NxIxO[layer], np.float32).T)

  shape = array_NxIxO.shape[:0:-1]
  return files.Writable(name, shape, np.dtype(np.float32), read)


def _find(tree: Params, leaf: str) -> Params:
  """Returns the part of a nested dict at a key path, {} where there is none."""
  for name in leaf.split("/"):
    tree = tree.get(name, {})
  return tree


def _at(tree: Params, leaf: str) -> Params:
  """Returns the part of a nested dict at a key path, made where there is none."""
  for name in leaf.split("/"):
    tree = tree.setdefault(name, {})
  return tree

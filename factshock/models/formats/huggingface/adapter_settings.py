"""Settings of low-rank adapters in PEFT's format (adapter_config.json), read and checked.

What a setting means is PEFT's own; those that we cannot honour are refused by name.
"""

import dataclasses
import functools
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import regex

from factshock.runtime import json_files
from factshock.runtime.errors import UserError
from factshock.types import FilePath

CONFIG = "adapter_config.json"
BASE = "base_model_name_or_path"

# Ways to begin that leave the model's weights as they were. The others (PiSSA, OLoRA, CorDA, LoftQ,
# LoRA-GA) change them, so that the adapters are nothing without the changed weights.
_KEEPING_BASE = (True, False, "gaussian", "eva", "orthogonal")

# Settings of PEFT's that are read here.
_READ = frozenset(
  (
    BASE,
    "revision",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
  )
)
# Settings of PEFT's that say how adapters came to be or are trained, and not what they compute.
_OF_TRAINING = frozenset(
  (
    "task_type",
    "auto_mapping",
    "peft_version",
    "inference_mode",
    "lora_dropout",
    "eva_config",
    "runtime_config",
    "megatron_core",
    "qalora_group_size",
  )
)
# All others must have the value that changes nothing: this one, else none or an empty one.
_PLAIN = {"peft_type": ("LORA",), "init_lora_weights": _KEEPING_BASE, "bias": ("none",)}
# PEFT takes these for given even where they are empty.
_NEVER_GIVEN = ("alora_invocation_tokens",)

# Patterns are somebody else's regular expressions, which may take for ever.
_LONGEST_PATTERN = 10_000  # characters
_LARGEST_COUNT = 1000  # the product of all in one pattern
_SECONDS = 10.0  # for all patterns of one adapter
_COUNT = regex.compile(r"(?<=[{,])\d{1,9}(?=[,}])")


@dataclasses.dataclass(frozen=True)
class AdapterSettings:
  """Holds what an adapter_config.json says, as PEFT understands it.

  Attributes:
    path: the file, for errors.
    base: path or hub id of the model they stand on.
    revision: of the base on the hub, or None.
    rank: of modules without a rank of their own.
    alpha: of modules without an alpha of their own.
    rank_pattern: ranks by a pattern of the module's name.
    alpha_pattern: alphas likewise.
    rslora: whether a module's scale is alpha / sqrt(rank), not alpha / rank.
    targets: pattern or ends of the names of modules with adapters; None leaves it open.
    excluded: pattern or ends of the names of modules without.
    layers: the layers with adapters; None for all.
    layers_patterns: patterns of what stands before a layer's number.
  """

  path: str
  base: str
  revision: str | None
  rank: int
  alpha: float
  rank_pattern: Mapping[str, int]
  alpha_pattern: Mapping[str, float]
  rslora: bool
  targets: str | Sequence[str] | None
  excluded: str | Sequence[str] | None
  layers: Sequence[int] | None
  layers_patterns: Sequence[str]

  @functools.cached_property
  def _deadline(self) -> float:
    return time.monotonic() + _SECONDS

  def rank_of(self, module: str) -> int:
    """Returns the rank of a module's adapter."""
    return self._own(self.rank_pattern, module, self.rank)

  def scale_of(self, module: str) -> float:
    """Returns what the product of a module's adapter is multiplied by."""
    rank = self.rank_of(module)
    alpha = self._own(self.alpha_pattern, module, self.alpha)
    return alpha / (math.sqrt(rank) if self.rslora else rank)

  def targets_module(self, module: str) -> bool:
    """Returns whether PEFT would give a module an adapter (its check_target_module_exists)."""
    if self.excluded and self._is_named(self.excluded, module):
      return False
    if self.targets is None or isinstance(self.targets, str):
      return self.targets is None or self._is_named(self.targets, module)
    if module in self.targets or not self.layers:
      return self._is_named(self.targets, module)
    return self._is_named(self.targets, module) and self._layer(module) in self.layers

  def _own(self, values: Mapping[str, Any], module: str, default: Any) -> Any:
    """Returns the value of the first pattern that a module's name ends in."""
    for pattern, value in values.items():
      if self._match(rf"(.*\.)?({pattern})$", module):
        return value
    return default

  def _is_named(self, names: str | Sequence[str], module: str) -> bool:
    """Returns whether a module is among those of a pattern, or of ends of names."""
    if names == "all-linear":
      return True
    if isinstance(names, str):
      return self._match(rf"(?:{names})\Z", module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)

  def _layer(self, module: str) -> int | None:
    """Returns the layer of a module, by the first number in its name."""
    patterns = [rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\." for pattern in self.layers_patterns]
    for pattern in patterns or [r".*?\.[^.]*\.(?P<index>\d+)\."]:
      match = self._match(pattern, module)
      # A pattern may name a group so, too.
      if match and (match["index"] or "").isdecimal():
        return int(match["index"])
    return None

  def _match(self, pattern: str, text: str) -> Any:
    """Returns the match of a pattern at the beginning of a text, or None.

    Raises:
      UserError: it is no regular expression, or all patterns together take too long.
    """
    left = self._deadline - time.monotonic()
    try:
      if left <= 0:
        raise TimeoutError
      return _compiled(pattern).match(text, timeout=left)
    except TimeoutError as error:
      raise UserError(
        f"{self.path}: its patterns of modules take over {_SECONDS:.0f} s to match, such as "
        f"{pattern[:80]!r}; write them without nested repeats, or name the modules in full"
      ) from error
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
      raise UserError(
        f"{self.path}: expected regular expressions as patterns of modules, got {pattern[:80]!r} "
        f"({str(error)[:80]})"
      ) from error


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str) -> Any:
  """Returns a compiled pattern; regex.error where it is none, or counts too high."""
  # A part is compiled as many times as it is counted: three nested counts of 1,000 fill any memory.
  counts = [max(1, int(number)) for number in _COUNT.findall(pattern)]
  if math.prod(counts) > _LARGEST_COUNT:
    raise regex.error(f"counts over {_LARGEST_COUNT}")
  return regex.compile(pattern)


def has_settings(folder: FilePath) -> bool:
  """Returns whether a folder holds adapters."""
  return os.path.isfile(os.path.join(folder, CONFIG))


def read(folder: FilePath) -> AdapterSettings:
  """Reads the settings of a folder's adapters.

  Raises:
    UserError: a broken file, values of other types or out of range, or settings that are not
      honoured here; names each.
  """
  path = os.path.join(folder, CONFIG)
  values = _read_json(path)
  _check_plain(path, values)
  lines = _problems(values)
  if lines:
    raise UserError(f"{path}: {'; '.join(lines)}; copy it again, or merge them with PEFT")
  layers = values.get("layers_to_transform")
  patterns = values.get("layers_pattern") or []
  return AdapterSettings(
    path=path,
    base=values[BASE],
    revision=values.get("revision") or None,
    rank=values.get("r", 8),
    alpha=float(values.get("lora_alpha", 8)),
    rank_pattern=values.get("rank_pattern") or {},
    alpha_pattern=values.get("alpha_pattern") or {},
    rslora=bool(values.get("use_rslora")),
    targets=values.get("target_modules"),
    excluded=values.get("exclude_modules"),
    layers=[layers] if isinstance(layers, int) else layers,
    layers_patterns=[patterns] if isinstance(patterns, str) else patterns,
  )


def _read_json(path: str) -> dict[str, Any]:
  """Returns the JSON object of a file; raises UserError where it holds none with a base."""
  try:
    values = json_files.read(path)
  except json_files.Broken as error:
    raise UserError(f"{error}; copy it again") from error
  if not isinstance(values.get(BASE), str) or not values[BASE]:
    raise UserError(
      f"{path}: expected the path or hub id of a model as {BASE}, got {_short(values.get(BASE))}; "
      "write in it which model the adapters stand on"
    )
  return values


def _check_plain(path: str, values: Mapping[str, Any]) -> None:
  """Raises a UserError that names every setting of something other than plain LoRA."""
  wrong = [
    f"{key} {_short(value)}"
    for key, value in values.items()
    if key not in _READ and key not in _OF_TRAINING and not _is_plain(key, value)
  ]
  if wrong:
    raise UserError(
      f"{path}: only plain LoRA is supported, got {', '.join(wrong)}; merge such adapters with "
      "PEFT (merge_and_unload) and give the merged model"
    )


def _is_plain(key: str, value: Any) -> bool:
  """Returns whether a setting has a value that leaves the adapters plain."""
  if key in _PLAIN:
    return any(value is plain or value == plain for plain in _PLAIN[key])
  if key in _NEVER_GIVEN:
    return value is None
  return not value


def _problems(values: Mapping[str, Any]) -> list[str]:
  """Returns a line for each setting of another type or out of range."""
  checks = {
    "r": (_is_rank, "a whole number from 1", 8),
    "lora_alpha": (_is_finite, "a finite number", 8),
    "use_rslora": (lambda value: isinstance(value, bool | None), "true or false", None),
    "rank_pattern": (lambda value: _is_table(value, _is_rank), "a rank by pattern", None),
    "alpha_pattern": (lambda value: _is_table(value, _is_finite), "a number by pattern", None),
    "revision": (lambda value: isinstance(value, str | None), "text", None),
    "target_modules": (_are_names, "names of modules, or a pattern", None),
    "exclude_modules": (_are_names, "names of modules, or a pattern", None),
    "layers_pattern": (_are_names, "names or patterns", None),
    "layers_to_transform": (_are_layers, "numbers of layers", None),
  }
  lines = []
  for key, (check, expected, default) in checks.items():
    value = values.get(key, default)
    if not check(value):
      lines.append(f"expected {expected} as {key}, got {_short(value)}")
  return lines


def _is_rank(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000


def _is_finite(value: Any) -> bool:
  """Returns whether a value is a number that float32 can hold."""
  # Compared as it is: a whole number of JSON may be too long for a float.
  return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _is_table(value: Any, check: Any) -> bool:
  """Returns whether a value is a dict of checked values by pattern, or none."""
  if value is None:
    return True
  return isinstance(value, dict) and all(
    len(pattern) <= _LONGEST_PATTERN and check(inner) for pattern, inner in value.items()
  )


def _are_names(value: Any) -> bool:
  if isinstance(value, list):
    return all(isinstance(name, str) and len(name) <= _LONGEST_PATTERN for name in value)
  return value is None or (isinstance(value, str) and len(value) <= _LONGEST_PATTERN)


def _are_layers(value: Any) -> bool:
  layers = value if isinstance(value, list) else [value]
  return value is None or all(
    isinstance(layer, int) and not isinstance(layer, bool) for layer in layers
  )


def _short(value: Any) -> str:
  """Returns a value as a text of one short line."""
  text = repr(value)
  return text if len(text) <= 80 else f"{text[:77]}..."

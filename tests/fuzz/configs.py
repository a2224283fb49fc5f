"""Fuzzer of config files of experiments: programs that are loaded, checked, and kept as written."""

import math
import pathlib
import random
import runpy
from typing import Any

from absl import flags

from factshock.runtime import config_files, console
from factshock.study import checks
from fuzz import mutations
from fuzz.frame import Case, Fuzzer, Make

_CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
_TEXT = """\
import ml_collections

inf, nan = float("inf"), float("nan")


def get_config():
  return ml_collections.ConfigDict(
    {}
  )
"""


def _load(path: pathlib.Path) -> Any:
  values = flags.FlagValues()
  config_files.define_flag("", values)
  console.parse_flags(values, ["experiment", f"--config={path}"])
  checks.check(values.config)
  return values.config.to_dict()


def _same(one: Any, other: Any) -> bool:
  """Returns whether two values are equal, NaN and NaN too."""
  if isinstance(one, dict) and isinstance(other, dict):
    return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
  if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
    return len(one) == len(other) and all(map(_same, one, other))
  if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
    return math.isnan(other)
  return bool(one == other)


def configs(folder: pathlib.Path) -> Make:
  """Returns the maker of config files."""
  del folder
  valid = runpy.run_path(str(_CONFIGS / "demo.py"))["get_config"]().to_dict()

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    value = valid if rng.random() < 0.2 else mutations.changed_value(rng, valid, 3)
    data = _TEXT.replace("{}", repr(value)).encode("utf-8", "surrogatepass")
    has_value = rng.random() < 0.8
    if not has_value:
      data = mutations.changed_bytes(rng, data)
    path = own / "config.py"
    path.write_bytes(data)

    def wrong(read: Any) -> str | None:
      if has_value and not _same(read, value):
        return f"{read} of {value}"
      return None

    return Case(lambda: _load(path), wrong)

  return make


FUZZERS: dict[str, Fuzzer] = {"configs": configs}

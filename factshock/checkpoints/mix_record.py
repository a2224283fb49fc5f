"""What was mixed into a model: the file `mix.json` beside it."""

import os
from typing import Any, TypedDict, cast

from factshock.runtime import json_files
from factshock.runtime.settings import TEXT, Check, tuple_of
from factshock.types import FilePath

NAME = "mix.json"


class MixInput(TypedDict):
  """Describes a model that was mixed; a HuggingFace model has no step."""

  path: str
  step: int | None
  digest: str


class MixRecord(TypedDict):
  """Describes what was mixed, as `mix.json` beside the result does.

  One of weights and layerwise is None.
  """

  version: str
  weights: list[float] | None
  layerwise: list[float] | None
  inputs: list[MixInput]
  digest: str


_NUMBERS = tuple_of(Check((int, float), lambda v: abs(v) < float("inf"), "a finite number"))


def read(folder: FilePath) -> MixRecord:
  """Returns what stands beside the model of a folder.

  Raises:
    UserError: it cannot be read, or (json_files.Broken) is not what was written.
  """
  path = os.path.join(folder, NAME)
  record = json_files.read_sealed(path, MixRecord.__annotations__)
  checks = {"version": TEXT, "digest": TEXT, "weights": _NUMBERS, "layerwise": _NUMBERS}
  wrong = [key for key, check in checks.items() if not _fits(record.get(key), check, key)]
  if wrong:
    raise json_files.Broken(f"{path}: the file is damaged: no {', '.join(wrong)}")
  return cast(MixRecord, record)


def _fits(value: Any, check: Check, key: str) -> bool:
  return (value is None and key in ("weights", "layerwise")) or check.fits(value)

"""What the values of a checkpoint's manifest may be."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from factshock.runtime import settings
from factshock.runtime.settings import COUNT, FINITE, TEXT, WHOLE, Check, tuple_of

KEYS = ("format", "step", "loader_state", "config", "leaves")
_LEAF_KEYS = {"digest", "shape", "dtype", "parts"}

_MOST_AXES = 32  # of numpy's arrays
_MOST_NUMBERS = 1 << 62  # of an array, more than any disk holds

# Those keys of a checkpoint's record that are read; each may be missing.
_SECTION = Check((dict,), lambda v: True, "an object")
_RECORD = {
  "workdir": TEXT,
  "seed": WHOLE,
  "arm": TEXT,
  "experiment": _SECTION,
  "huggingface": _SECTION,
  "tokenizer_digest": TEXT,
  "opening": tuple_of(WHOLE),
}
_EXPERIMENT = {
  "model": _SECTION,
  "answering": _SECTION,
  "finetune": _SECTION,
  "arms": _SECTION,
  "cpu_devices": WHOLE,
  "start_from": TEXT,
}
_SECTIONS = {
  "model": {"family": TEXT},
  "answering": {"batch_size": COUNT, "top": WHOLE, "stop": tuple_of(TEXT)},
  "finetune": {"prompt": TEXT, "end": TEXT},
}
_ADAPTERS = {"base": TEXT, "rank": COUNT, "alpha": FINITE}


def problems(manifest: Mapping[str, Any]) -> Iterator[str]:
  """Yields what is wrong with the values of a manifest, a JSON object."""
  missing = sorted(set(KEYS) - manifest.keys())
  if missing:
    yield f"no {missing[0]}"
    return
  if not _is_whole(manifest["step"]):
    yield f"step {manifest['step']!r:.60}"
  yield from _record_problems(manifest["config"])
  leaves = manifest["leaves"]
  if not isinstance(leaves, dict) or not leaves:
    yield "no leaves"
    return
  parents: set[str] = set()
  for name, leaf in leaves.items():
    keys = name.split("/")
    if len(keys) < 2 or not all(keys) or ".." in keys or "\0" in name:
      yield f"a leaf named {name!r:.60}"
    parents.update("/".join(keys[:count]) for count in range(1, len(keys)))
    if not _is_leaf(leaf):
      yield f"no digest, shape and dtype of leaf {name!r:.60}"
  if parents & leaves.keys():
    yield f"leaf {min(parents & leaves.keys())!r:.60} holds other leaves"


def _record_problems(record: Any) -> Iterator[str]:
  """Yields what is wrong with a checkpoint's record of the run that it is of."""
  if record is None:
    return
  if not isinstance(record, dict):
    yield "its config is no object"
    return
  yield from settings.known_problems(record, _RECORD)
  experiment = record.get("experiment")
  if isinstance(experiment, dict):
    yield from settings.known_problems(experiment, _EXPERIMENT)
    for section, schema in _SECTIONS.items():
      values = experiment.get(section)
      if isinstance(values, dict):
        yield from settings.known_problems(values, schema)
  adapters = record.get("lora")
  if isinstance(adapters, dict):
    yield from settings.known_problems(adapters, _ADAPTERS)
    yield from (f"lora: no {key}" for key in _ADAPTERS if adapters.get(key) is None)
  elif "lora" in record:
    yield "lora is no object"


def _is_leaf(leaf: Any) -> bool:
  """Returns whether a value is a LeafRecord."""
  if not isinstance(leaf, dict) or not leaf.keys() <= _LEAF_KEYS:
    return False
  shape = leaf.get("shape")
  if not isinstance(leaf.get("digest"), str) or not isinstance(shape, list):
    return False
  if not all(map(_is_whole, shape)):
    return False
  if len(shape) > _MOST_AXES or math.prod(shape) >= _MOST_NUMBERS:
    return False
  parts = leaf.get("parts", [])
  return (
    _is_dtype(leaf.get("dtype"))
    and isinstance(parts, list)
    and all(_is_part(part, shape) for part in parts)
  )


def _is_part(part: Any, shape: list[int]) -> bool:
  """Returns whether a value is the bounds and the digest of a part of an array."""
  if not isinstance(part, list) or len(part) != 2 or not isinstance(part[1], str):
    return False
  bounds = part[0]
  if not isinstance(bounds, list) or len(bounds) != len(shape):
    return False
  for ends, size in zip(bounds, shape):
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(_is_whole, ends)):
      return False
    if not ends[0] <= ends[1] <= size:
      return False
  return True


def _is_dtype(name: Any) -> bool:
  """Returns whether a value names a dtype of numbers."""
  if not isinstance(name, str) or not name.isascii() or not name.isidentifier():
    return False
  try:
    kind = np.dtype(name).kind
  except (TypeError, ValueError, SyntaxError):
    return isinstance(getattr(ml_dtypes, name, None), type)
  return kind in "biufcV" and np.dtype(name).itemsize > 0 and np.dtype(name).names is None


def _is_whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62

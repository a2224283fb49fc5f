"""Manifests of checkpoints: what a step folder holds, a digest of every leaf, and comparisons."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, NotRequired, TypeAlias, TypedDict, cast

import ml_dtypes
import numpy as np

from factshock.runtime import json_files
from factshock.runtime.errors import UserError
from factshock.types import FilePath, Params

NAME = "manifest.json"
FORMAT = 1

_MOST_AXES = 32  # of numpy's arrays
_MOST_NUMBERS = 1 << 62  # of an array, more than any disk holds

# Start and end of each dimension, of a part of an array that one process writes.
Bounds: TypeAlias = list[list[int]]

# A leaf's shape and the name of its dtype.
Spec: TypeAlias = tuple[tuple[int, ...], str]


class LeafRecord(TypedDict):
  """Describes an array on disk; `parts` has bounds and digest of each part a process wrote."""

  digest: str
  shape: list[int]
  dtype: str
  parts: NotRequired[list[tuple[Bounds, str]]]


class CheckpointRecord(TypedDict):
  """Holds what a manifest has besides the leaves; `config` says which run it is of."""

  step: int
  loader_state: Any
  config: Mapping[str, Any] | None


class Manifest(CheckpointRecord):
  """Describes a step folder; its leaves are by names such as "params/encoder/norm"."""

  format: int
  leaves: dict[str, LeafRecord]


class Checkpoint(CheckpointRecord):
  """Holds a checkpoint in memory.

  `opt_state` is in the structure it was restored like, else its leaves by key path, or None.
  """

  params: Params
  opt_state: Any


def read(path: FilePath) -> Manifest:
  """Returns a manifest whose text is what was written and whose values are of their types.

  Raises:
    UserError: the file cannot be read, is broken (json_files.Broken), or is of another format.
  """
  manifest = json_files.read_sealed(path, Manifest.__annotations__)
  format_number = manifest.get("format")
  if manifest.get("leaves") and format_number != FORMAT:
    shown = repr(format_number)[:60]
    raise UserError(f"{path}: expected format {FORMAT}, got {shown}; it is from another version")
  problem = next(_problems(manifest), None)
  if problem:
    raise json_files.Broken(
      f"{path}: expected the manifest of a checkpoint, got a broken file ({problem})"
    )
  return cast(Manifest, manifest)


def write(path: FilePath, manifest: Manifest) -> None:
  """Writes a manifest with the digest of its own text."""
  json_files.write_sealed(path, manifest)


def _problems(manifest: Mapping[str, Any]) -> Iterator[str]:
  """Yields what is wrong with the values of a manifest."""
  missing = sorted(Manifest.__annotations__.keys() - manifest.keys())
  if missing:
    yield f"no {missing[0]}"
    return
  if not _is_whole(manifest["step"]):
    yield f"step {manifest['step']!r:.60}"
  if not isinstance(manifest["config"], dict | None):
    yield "its config is no object"
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


def _is_leaf(leaf: Any) -> bool:
  """Returns whether a value is a LeafRecord."""
  if not isinstance(leaf, dict) or not leaf.keys() <= LeafRecord.__annotations__.keys():
    return False
  shape = leaf.get("shape")
  if not isinstance(leaf.get("digest"), str) or not isinstance(shape, list):
    return False
  if len(shape) > _MOST_AXES or math.prod(shape) >= _MOST_NUMBERS:
    return False
  parts = leaf.get("parts", [])
  return (
    all(map(_is_whole, shape))
    and is_dtype(leaf.get("dtype"))
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


def is_dtype(name: Any) -> bool:
  """Returns whether a value names a dtype of numbers."""
  if not isinstance(name, str):
    return False
  try:
    kind = np.dtype(name).kind
  except TypeError:
    return isinstance(getattr(ml_dtypes, name, None), type)
  return kind in "biufcV" and np.dtype(name).itemsize > 0 and np.dtype(name).names is None


def _is_whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def params_only(leaves: Mapping[str, LeafRecord]) -> dict[str, LeafRecord]:
  """Returns the leaves that are parameters, by their full names."""
  return {name: leaf for name, leaf in leaves.items() if name.startswith("params/")}


def tree_digest(leaves: Mapping[str, LeafRecord]) -> str:
  """Returns one digest for all leaves of a manifest, whatever their order."""
  text = "".join(f"{name} {leaves[name]['digest']}\n" for name in sorted(leaves))
  return hashlib.sha256(text.encode()).hexdigest()


def leaf_specs(leaves: Mapping[str, LeafRecord]) -> dict[str, Spec]:
  """Returns shape and dtype name of each leaf of a manifest."""
  return {name: (tuple(leaf["shape"]), leaf["dtype"]) for name, leaf in leaves.items()}


def differences(expected: Mapping[str, Spec], got: Mapping[str, Spec]) -> list[str]:
  """Returns a line for every missing, extra and mis-shaped leaf of `got` against `expected`."""
  lines = []
  for name in sorted(expected.keys() - got.keys()):
    lines.append(f"missing {name} {_spell(expected[name])}")
  for name in sorted(got.keys() - expected.keys()):
    lines.append(f"extra {name} {_spell(got[name])}")
  for name in sorted(expected.keys() & got.keys()):
    if expected[name] != got[name]:
      lines.append(f"mis-shaped {name} expected {_spell(expected[name])} got {_spell(got[name])}")
  return lines


def _spell(spec: Spec) -> str:
  shape, dtype = spec
  return f"{dtype}[{','.join(map(str, shape))}]"

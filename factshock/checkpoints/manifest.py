"""Manifests of checkpoints: what a step folder holds, a digest of every leaf, and comparisons."""

import hashlib
from collections.abc import Mapping
from typing import Any, NotRequired, TypeAlias, TypedDict, cast

from factshock.checkpoints import manifest_schema
from factshock.runtime import json_files
from factshock.runtime.errors import UserError
from factshock.types import FilePath, Params

NAME = "manifest.json"
FORMAT = 1

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
  manifest = json_files.read_sealed(path, manifest_schema.KEYS)
  format_number = manifest.get("format")
  if manifest.get("leaves") and format_number != FORMAT:
    shown = repr(format_number)[:60]
    raise UserError(f"{path}: expected format {FORMAT}, got {shown}; it is from another version")
  problem = next(manifest_schema.problems(manifest), None)
  if problem:
    raise json_files.Broken(
      f"{path}: expected the manifest of a checkpoint, got a broken file ({problem})"
    )
  return cast(Manifest, manifest)


def write(path: FilePath, manifest: Manifest) -> None:
  """Writes a manifest with the digest of its own text."""
  json_files.write_sealed(path, manifest)


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

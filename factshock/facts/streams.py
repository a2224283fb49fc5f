"""Facts that are gone through as often as is wanted, without all of them in memory.

Those of a file are read anew each time. They are the facts that sources.read gives, in its order:
what a file says again is merged with the first, and such facts alone are held. Data sets are read
once and held.
"""

import array
import collections
import dataclasses
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, cast

import numpy as np
import xxhash

from factshock.facts import schema, sources
from factshock.runtime import messages
from factshock.runtime.errors import UserError
from factshock.types import Fact, FilePath, Relation

Merged: TypeAlias = dict[Any, schema.Row]  # rows by what those that say the same have in common


@dataclasses.dataclass(frozen=True)
class FactStream:
  """Holds where facts come from; each iteration goes through all of them.

  Attributes:
    spec: the path, or the data set.
    relations: their relations, by name.
    count: how many there are.
    again: begins anew with the first.
  """

  spec: str
  relations: Mapping[str, Relation]
  count: int
  again: Callable[[], Iterator[Fact]]

  def __iter__(self) -> Iterator[Fact]:
    """Returns all facts, in their order."""
    return self.again()

  def parts(self, size: int) -> Iterator[list[Fact]]:
    """Yields the facts in lists of `size`, the last of what is left.

    Raises:
      UserError: the file has changed since it was opened.
    """
    left = self.count
    facts = iter(self)
    while part := list(itertools.islice(facts, size)):
      left -= len(part)
      yield part
    if left:
      raise UserError(f"{self.spec}: has changed while it was read; start again")


def open_with_relations(
  spec: FilePath,
  path: FilePath | None = None,
  default_path: Callable[[], FilePath | None] | None = None,
  count_tokens: sources.CountTokens | None = None,
) -> FactStream:
  """Returns the facts of a source or a file with their relations, all of them checked.

  Arguments and errors are those of sources.read_with_relations, and so is what is printed.
  """
  if sources.is_source(spec) or not can_be_read_again(spec):
    facts, relations = sources.read_with_relations(spec, path, default_path, count_tokens)
    return FactStream(str(spec), relations, len(facts), lambda: iter(facts))
  count, names, again = _scan(spec)
  relations = sources.relations_of(spec, {}, path, default_path)
  stream = FactStream(str(spec), relations, count, again)
  if not names <= relations.keys():
    schema.check_facts(list(stream), relations, spec)
  return stream


def can_be_read_again(path: FilePath) -> bool:
  """Returns whether a path is that of a file, and of no pipe."""
  return os.path.exists(path) and stat.S_ISREG(os.stat(path).st_mode)


def _scan(path: FilePath) -> tuple[int, set[str], Callable[[], Iterator[Fact]]]:
  """Returns how many facts a file has, of which relations, and what goes through them.

  Raises:
    UserError: as sources.read.
  """
  names: set[str] = set()

  def rows() -> Iterator[schema.Row]:
    for _, fact in schema.located_facts(path):
      names.add(fact["relation"])
      yield cast(schema.Row, fact)

  add = cast(Callable[[Merged, schema.Row, collections.Counter[str]], None], sources.add)
  found = scan(rows, _key, add)
  if not found.rows:
    raise UserError(f"{path}: expected at least one fact, got an empty file")
  for note in sources.notes_of(path, found.rows, found.count, found.repeated):
    messages.say(f"  {note}")
  return found.count, names, cast(Callable[[], Iterator[Fact]], found.again)


def _key(fact: Mapping[str, Any]) -> str:
  return "\0".join((fact["subject"], fact["relation"], fact["object"]))


@dataclasses.dataclass(frozen=True)
class Scanned:
  """Rows of which those that say the same are merged, where each came first.

  Attributes:
    rows: how many there are.
    count: how many are left of them.
    repeated: what became of those that came again.
    again: goes through what is left.
  """

  rows: int
  count: int
  repeated: "collections.Counter[str]"
  again: Callable[[], Iterator[schema.Row]]


def scan(
  rows: Callable[[], Iterator[schema.Row]],
  key: Callable[[schema.Row], str],
  add: Callable[[Merged, schema.Row, "collections.Counter[str]"], None],
) -> Scanned:
  """Goes through rows, and finds those that say the same; such rows alone are held.

  Args:
    rows: begins anew with the first.
    key: what rows that say the same have in common.
    add: adds a row to those there are, or merges it with one; counts what became of it.
  """

  hashes = array.array("Q", (_hash(key(row)) for row in rows()))
  several = _several(hashes)
  merged: Merged = {}
  repeated: collections.Counter[str] = collections.Counter()
  rows_apart = 0
  for row in rows() if several else ():
    if _hash(key(row)) in several:
      rows_apart += 1
      add(merged, row, repeated)
  count = len(hashes) - rows_apart + len(merged)

  def again() -> Iterator[schema.Row]:
    known: Merged = {}
    counted: collections.Counter[str] = collections.Counter()
    left = iter(merged.values())
    for row in rows():
      before = len(known)
      if _hash(key(row)) not in several:
        yield row
        continue
      add(known, row, counted)
      if len(known) > before:
        yield dict(next(left))

  return Scanned(len(hashes), count, repeated, again)


def _hash(key: str) -> int:
  """Returns a number that a key hardly ever has in common with another."""
  return xxhash.xxh3_64_intdigest(key.encode())


def _several(hashes: "array.array[int]") -> frozenset[int]:
  """Returns those that there are several of."""
  values, counts = np.unique(np.frombuffer(hashes, np.uint64), return_counts=True)
  return frozenset(cast(list[int], values[counts > 1].tolist()))

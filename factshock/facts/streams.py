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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import cast

import numpy as np
import xxhash

from factshock.facts import schema, sources
from factshock.runtime import messages
from factshock.runtime.errors import UserError
from factshock.types import Fact, FilePath, Relation


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
  if sources.is_source(spec) or not _can_be_read_again(spec):
    facts, relations = sources.read_with_relations(spec, path, default_path, count_tokens)
    return FactStream(str(spec), relations, len(facts), lambda: iter(facts))
  count, names, again = _scan(spec)
  relations = sources.relations_of(spec, {}, path, default_path)
  stream = FactStream(str(spec), relations, count, again)
  if not names <= relations.keys():
    schema.check_facts(list(stream), relations, spec)
  return stream


def _can_be_read_again(path: FilePath) -> bool:
  return os.path.exists(path) and stat.S_ISREG(os.stat(path).st_mode)


def _scan(path: FilePath) -> tuple[int, set[str], Callable[[], Iterator[Fact]]]:
  """Returns how many facts a file has, of which relations, and what goes through them.

  Raises:
    UserError: as sources.read.
  """
  names: set[str] = set()
  hashes = array.array("Q")
  for _, fact in schema.located_facts(path):
    names.add(fact["relation"])
    hashes.append(_hash(fact))
  if not hashes:
    raise UserError(f"{path}: expected at least one fact, got an empty file")
  several = _several(hashes)
  merged, rows_apart, repeated = _merge(_of_hashes(path, several)) if several else ([], 0, None)
  count = len(hashes) - rows_apart + len(merged)
  for note in sources.notes_of(path, len(hashes), count, repeated or collections.Counter()):
    messages.say(f"  {note}")
  return count, names, lambda: _facts_of(path, several, merged)


def _hash(fact: Fact) -> int:
  """Returns a number that facts which say the same have in common, others hardly ever."""
  key = "\0".join((fact["subject"], fact["relation"], fact["object"]))
  return xxhash.xxh3_64_intdigest(key.encode())


def _several(hashes: "array.array[int]") -> frozenset[int]:
  """Returns those that there are several of."""
  values, counts = np.unique(np.frombuffer(hashes, np.uint64), return_counts=True)
  return frozenset(cast(list[int], values[counts > 1].tolist()))


def _of_hashes(path: FilePath, hashes: frozenset[int]) -> Iterator[Fact]:
  for _, fact in schema.located_facts(path):
    if _hash(fact) in hashes:
      yield fact


def _merge(facts: Iterable[Fact]) -> tuple[list[Fact], int, "collections.Counter[str]"]:
  """Returns facts without those that come again, how many there were, and what became of them."""
  merged: dict[sources.Key, Fact] = {}
  repeated: collections.Counter[str] = collections.Counter()
  rows = 0
  for fact in facts:
    rows += 1
    sources.add(merged, fact, repeated)
  return list(merged.values()), rows, repeated


def _facts_of(
  path: FilePath,
  several: frozenset[int],
  merged: Iterable[Fact],
) -> Iterator[Fact]:
  """Yields the facts of a file; those that it says several times merged, where each came first.

  Args:
    path: the file.
    several: hashes of facts that may come several times.
    merged: what becomes of these, in the order in which each comes first.
  """
  known: dict[sources.Key, Fact] = {}
  repeated: collections.Counter[str] = collections.Counter()
  left = iter(merged)
  for _, fact in schema.located_facts(path):
    if _hash(fact) not in several:
      yield fact
      continue
    before = len(known)
    sources.add(known, fact, repeated)
    if len(known) > before:
      yield cast(Fact, dict(next(left)))

"""Each (subject, relation) of queries once, as it is asked, and whose answer each row gets.

A (subject, relation) is held as a few numbers; as a row only where its rows differ by more than
their answers.
"""

import array
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import xxhash

from factshock.facts.schema import Row
from factshock.runtime.errors import UserError

_ANSWER = ("object", "aliases", "object_id")  # columns that say what is right
_BYTES = 16  # of a digest that no two (subject, relation) share

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class AskedQueries:
  """Queries, of which each (subject, relation) is asked once, in the order of their first rows.

  Attributes:
    rows: begins anew with the first row.
    places_R: of each row the place of its (subject, relation) among those that are asked.
    first_A: of each that is asked, its first row.
    last_A: and its last.
    held: by place, those whose last row says other things of the query than the first.
  """

  rows: Callable[[], Iterator[Row]]
  places_R: np.ndarray
  first_A: np.ndarray
  last_A: np.ndarray
  held: dict[int, Row]

  @classmethod
  def of(cls, rows: Callable[[], Iterator[Row]]) -> "AskedQueries":
    """Goes through rows, and finds which are asked."""
    digests = bytearray()
    contents = array.array("Q")
    for row in rows():
      digests += xxhash.xxh3_128_digest(f"{row['subject']}\0{row['relation']}".encode())
      contents.append(xxhash.xxh3_64_intdigest(json.dumps(_without_answer(row)).encode()))
    places_R, first_A, last_A = _places(np.frombuffer(digests, f"S{_BYTES}"))
    content_R = np.frombuffer(contents, np.uint64)
    changed_A = np.flatnonzero(content_R[first_A] != content_R[last_A])
    place_of = dict(zip(last_A[changed_A].tolist(), changed_A.tolist()))
    held: dict[int, Row] = {}
    for index, row in enumerate(rows() if place_of else ()):
      if index in place_of:
        held[place_of[index]] = _without_answer(row)
    return cls(rows, places_R, first_A, last_A, held)

  @property
  def count(self) -> int:
    """Returns how many are asked."""
    return len(self.first_A)

  def __iter__(self) -> Iterator[Row]:
    """Yields what is asked: the last row of each (subject, relation), without its answer."""
    for row, place, is_first in self._located():
      if is_first:
        yield self.held.get(place) or _without_answer(row)

  def _located(self) -> Iterator[tuple[Row, int, bool]]:
    """Yields each row, its place among those that are asked, and whether it is the first there.

    Raises:
      UserError: there are more rows than before, or fewer.
    """
    count = 0
    asked = 0
    for row in self.rows():
      if count == len(self.places_R):
        raise _changed()
      place = int(self.places_R[count])
      yield row, place, place == asked
      asked += place == asked
      count += 1
    if count < len(self.places_R):
      raise _changed()

  def with_answers(self, answers: Iterable[T]) -> Iterator[tuple[Row, T]]:
    """Yields each row with the answer to its (subject, relation).

    Args:
      answers: to what is asked, in its order. Of those whose rows do not end with the first,
        answers are held until the last.
    """
    kept: dict[int, T] = {}
    left = iter(answers)
    for index, (row, place, is_first) in enumerate(self._located()):
      answer = next(left) if is_first else kept[place]
      if index < self.last_A[place]:
        kept[place] = answer
      else:
        kept.pop(place, None)
      yield row, answer


def _changed() -> UserError:
  return UserError("the queries have changed while they were read; start again")


def _places(keys_R: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the place of each key among the distinct ones by their first rows, first and last."""
  _, first_K, key_R = np.unique(keys_R, return_index=True, return_inverse=True)
  order_A = np.argsort(first_K)
  place_K = np.empty(len(first_K), np.int64)
  place_K[order_A] = np.arange(len(first_K))
  places_R = place_K[key_R]
  last_A = np.zeros(len(first_K), np.int64)
  np.maximum.at(last_A, places_R, np.arange(len(places_R)))
  return places_R, first_K[order_A], last_A


def _without_answer(row: Row) -> dict[str, Any]:
  return {name: value for name, value in row.items() if name not in _ANSWER}

"""The prefixes of candidate answers as one tree in flat arrays, to be read best first."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from factshock.answering import tries


class PrefixTree(NamedTuple):
  """Holds every prefix of some candidates' tokens once; prefix 0 is empty.

  Attributes:
    parent_P: int64, the prefix that is one token shorter; 0 of prefix 0.
    token_P: int32, the last token of each prefix; 0 of prefix 0.
    depth_P: int64, the number of its tokens.
    first_kid_P: int64 [prefixes + 1], where the kids of each prefix begin among `kids`.
    kids: int64, prefixes that are one token longer, those of a prefix together.
    first_member_P: int64 [prefixes + 1], the same for `members`.
    members: int64, the candidates (places in the relation's list) that each prefix completes.
  """

  parent_P: np.ndarray
  token_P: np.ndarray
  depth_P: np.ndarray
  first_kid_P: np.ndarray
  kids: np.ndarray
  first_member_P: np.ndarray
  members: np.ndarray

  @property
  def contexts(self) -> int:
    """Returns the number of prefixes that go on."""
    return int((np.diff(self.first_kid_P) > 0).sum())


def build(sequences: Sequence[tuple[int, ...]], closing: int) -> PrefixTree:
  """Builds the tree of token sequences.

  As in `tries.build`, a sequence that another one continues gets the token `closing` at its end.

  Args:
    sequences: non-empty tuples of token ids.
    closing: token id that ends a text.
  """
  closed = tries.close(sequences, closing)
  parents = [0]
  tokens = [0]
  depths = [0]
  ends = np.zeros(len(closed), np.int64)
  path = [0]
  before: tuple[int, ...] = ()
  for index in sorted(range(len(closed)), key=closed.__getitem__):
    sequence = closed[index]
    shared = _shared(before, sequence)
    del path[shared + 1 :]
    for token in sequence[shared:]:
      parents.append(path[-1])
      tokens.append(token)
      depths.append(len(path))
      path.append(len(parents) - 1)
    ends[index] = path[-1]
    before = sequence
  parent_P = np.array(parents)
  first_kid_P, kids = _grouped(parent_P[1:], len(parents))
  first_member_P, members = _grouped(ends, len(parents))
  token_P = np.array(tokens, np.int32)
  return PrefixTree(
    parent_P, token_P, np.array(depths), first_kid_P, kids + 1, first_member_P, members
  )


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
  """Returns how many tokens two sequences begin with alike."""
  count = 0
  for one, other in zip(first, second):
    if one != other:
      break
    count += 1
  return count


def _grouped(of_N: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns where each group begins, [groups + 1], among the places of `of_N` by their group."""
  order_N = np.argsort(of_N, kind="stable")
  first = np.searchsorted(of_N[order_N], np.arange(groups + 1))
  return first, order_N


def spread_ranges(first_P: np.ndarray, at_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the places first_P[p]:first_P[p + 1] of each p in at_N, and which of at_N each is of.

  Args:
    first_P: where ranges begin, [ranges + 1].
    at_N: the ranges wanted.
  """
  sizes_N = first_P[at_N + 1] - first_P[at_N]
  of = np.repeat(np.arange(len(at_N)), sizes_N)
  return np.repeat(first_P[at_N], sizes_N) + place_in_group(of), of


def place_in_group(sorted_N: np.ndarray) -> np.ndarray:
  """Returns each element's place among its equals in a sorted array, from 0."""
  is_first_N = np.ones(len(sorted_N), bool)
  is_first_N[1:] = sorted_N[1:] != sorted_N[:-1]
  place_N = np.arange(len(sorted_N))
  begins_N = np.maximum.accumulate(np.where(is_first_N, place_N, 0))
  return place_N - begins_N


def paths(tree: PrefixTree, prefix_N: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields the prefixes themselves, their parents, and so on: (which of prefix_N, the prefix)."""
  at = np.arange(len(prefix_N))
  prefix = prefix_N
  while len(at):
    yield at, prefix
    goes_on = prefix != 0
    at = at[goes_on]
    prefix = tree.parent_P[prefix[goes_on]]

"""Groups of facts, seeded draws from them, and whole numbers in proportion, as splits need them."""

import collections
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from factshock.types import Answer, Fact


def round_to(targets: np.ndarray, total: int) -> np.ndarray:
  """Returns whole numbers from 0 on with a given sum, close to the targets (largest remainders)."""
  positive = np.maximum(targets, 0)
  sizes = np.floor(positive + 1e-9).astype(int)
  while sizes.sum() < total:
    remainders = targets - sizes
    sizes[np.argmax(remainders)] += 1
  while sizes.sum() > total:
    remainders = np.where(sizes > 0, targets - sizes, np.inf)
    sizes[np.argmin(remainders)] -= 1
  return sizes


def apportion(total: int, counts: Mapping[str, int]) -> dict[str, int]:
  """Returns numbers in proportion to the counts, with a given sum; none above its count."""
  count_R = np.array(list(counts.values()))
  sum_of_counts = sum(counts.values())
  share = total / max(1, sum_of_counts)
  sizes = round_to(count_R * share, total)
  return dict(zip(counts, sizes.tolist()))


def draw(
  facts: Sequence[Fact],
  rows: Sequence[int],
  count: int,
  seed: int,
  *stream: str,
) -> list[int]:
  """Returns `count` of the row indices, at random, whatever order they come in."""
  ordered = sorted(rows, key=lambda i: key_of(facts[i]))
  random = generator(seed, "draw", *stream)
  order = random.permutation(len(ordered))
  return [ordered[i] for i in order[:count]]


def by_relation(facts: Iterable[Fact]) -> dict[str, list[int]]:
  """Returns the indices of the facts of each relation."""
  rows: dict[str, list[int]] = collections.defaultdict(list)
  for index, fact in enumerate(facts):
    relation = fact["relation"]
    rows[relation].append(index)
  return rows


def by_answer(facts: Iterable[Fact]) -> dict[Answer, list[int]]:
  """Returns the indices of the facts of each answer."""
  rows: dict[Answer, list[int]] = collections.defaultdict(list)
  for index, fact in enumerate(facts):
    answer = answer_of(fact)
    rows[answer].append(index)
  return rows


def answer_of(fact: Fact) -> Answer:
  """Returns the relation and the object of a fact."""
  return fact["relation"], fact["object"]


def take(facts: Sequence[Fact], chosen: set[int]) -> list[Fact]:
  """Returns the facts at the chosen indices, in their own order."""
  return [fact for index, fact in enumerate(facts) if index in chosen]


def key_of(fact: Fact) -> tuple[str, str, str]:
  """Returns the subject, relation and object of a fact."""
  return fact["subject"], fact["relation"], fact["object"]


def checksum(*texts: str) -> int:
  """Returns the CRC-32 of texts, the same in every process."""
  joined = "\t".join(texts)
  return zlib.crc32(joined.encode())


def generator(seed: int, *stream: str) -> np.random.Generator:
  """Returns a generator of its own for each named group.

  So one group's size does not move another's draw.
  """
  seeds = [int(seed), checksum(*stream)]
  return np.random.default_rng(seeds)


def fill(
  weights: np.ndarray,
  capacity: np.ndarray,
  size: int,
) -> np.ndarray:
  """Returns whole numbers that sum to `size`, none above its capacity.

  They are in proportion to the weights, and where these are filled to the capacity.
  """
  quota = np.zeros(len(capacity), int)
  for shares in (weights, weights > 0, capacity > 0):
    while (left := size - quota.sum()) > 0:
      has_space = quota < capacity
      free = (shares * has_space).astype(float)
      total = free.sum()
      if not total > 0:
        break
      targets = free / total * left
      wanted = round_to(targets, int(left))
      more = np.minimum(wanted, capacity - quota)
      quota += more
      if not more.any():
        break
  return quota

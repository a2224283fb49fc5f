"""Worlds of the one-layer model: facts about Zipf-distributed subjects, and their counts.

Numpy alone.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from factshock.runtime.settings import COUNT, INSIDE, Check, setting

SETS = ("popular", "unpopular", "random", "whole")

EXPONENT = Check((int, float), lambda v: 0 <= v <= 5, "an exponent from 0 to 5")
_AT_LEAST_TWO = Check(
  (int,),
  lambda v: v >= 2,
  "a whole number of at least 2, as with one there is nothing to tell apart",
)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of a world.

  Attributes:
    subjects: how many subjects there are.
    relations: how many relations there are.
    answers: answers of each relation.
    zipf: exponent of the frequency of subjects by their rank.
    answer_zipf: exponent of the frequency of answers by their rank.
    sentences: sentences of the corpus.
    test: share of the subjects that are asked about.
  """

  subjects: int = setting(_AT_LEAST_TWO)
  relations: int = setting(_AT_LEAST_TWO)
  answers: int = setting(_AT_LEAST_TWO)
  zipf: float = setting(EXPONENT)
  answer_zipf: float = setting(EXPONENT)
  sentences: int = setting(COUNT)
  test: float = setting(INSIDE)

  @property
  def test_subjects(self) -> int:
    """Number of subjects that are asked about."""
    return round(self.subjects * self.test)

  @property
  def all_answers(self) -> int:
    """Number of answers of all relations."""
    return self.answers * self.relations


@dataclasses.dataclass(frozen=True, eq=False)
class World:
  """Facts of K seeds.

  Answers of all relations are numbered through, those of relation r from r * n.

  Attributes:
    answers_KxSxR: int32, the answer of each fact.
    counts_KxSxR: float32, how often the corpus states it, at least once.
    test_KxT: int32, the subjects asked about, most popular first.
    sets: name of SETS -> int32 [K, subjects], of the other subjects.
  """

  answers_KxSxR: np.ndarray
  counts_KxSxR: np.ndarray
  test_KxT: np.ndarray
  sets: dict[str, np.ndarray]


def make(
  sizes: Sizes,
  seeds: Sequence[int],
  size: int | None = None,
) -> World:
  """Returns the world of each seed.

  Args:
    sizes: of the world.
    seeds: K whole numbers; each draws answers, corpus and split anew.
    size: subjects of the sets `popular`, `unpopular` and `random`, drawn from the half they are
      named after; None takes it whole.
  """
  of_seeds = [_one_seed(sizes, seed, size) for seed in seeds]
  return World(
    answers_KxSxR=np.stack([world.answers_SxR for world in of_seeds]),
    counts_KxSxR=np.stack([world.counts_SxR for world in of_seeds]),
    test_KxT=np.stack([world.test_T for world in of_seeds]),
    sets={name: np.stack([world.sets[name] for world in of_seeds]) for name in SETS},
  )


@dataclasses.dataclass(frozen=True, eq=False)
class _SeedWorld:
  """World of one seed; see World."""

  answers_SxR: np.ndarray
  counts_SxR: np.ndarray
  test_T: np.ndarray
  sets: dict[str, np.ndarray]


def _one_seed(
  sizes: Sizes,
  seed: int,
  size: int | None,
) -> _SeedWorld:
  rng = np.random.default_rng([seed, 8])
  subjects = sizes.subjects
  relations = sizes.relations
  answers = sizes.answers
  drawn_SxR = rng.choice(answers, (subjects, relations), p=frequencies(answers, sizes.answer_zipf))
  fact_S = frequencies(subjects, sizes.zipf) / relations
  more_sentences = max(0, sizes.sentences - subjects * relations)
  more_N = rng.multinomial(more_sentences, np.repeat(fact_S, relations))
  counts_SxR = 1 + more_N.reshape(subjects, relations)
  shuffled_S = rng.permutation(subjects)
  test_T = _by_popularity(shuffled_S[: sizes.test_subjects], counts_SxR)
  pool_P = _by_popularity(shuffled_S[sizes.test_subjects :], counts_SxR)
  return _SeedWorld(
    answers_SxR=(drawn_SxR + answers * np.arange(relations)).astype(np.int32),
    counts_SxR=counts_SxR.astype(np.float32),
    test_T=test_T,
    sets=_finetuning_sets(pool_P, size, rng),
  )


def _by_popularity(subjects: np.ndarray, counts_SxR: np.ndarray) -> np.ndarray:
  """Returns the subjects, those that the corpus names most often first."""
  order = np.argsort(-counts_SxR.sum(axis=1)[subjects], kind="stable")
  return subjects[order].astype(np.int32)


def _finetuning_sets(
  pool_P: np.ndarray,
  size: int | None,
  rng: np.random.Generator,
) -> dict[str, np.ndarray]:
  half = len(pool_P) // 2
  sets = {
    "popular": pool_P[:half],
    "unpopular": pool_P[len(pool_P) - half :],
    "random": rng.permutation(pool_P)[:half],
  }
  if size is not None:
    sets = {name: rng.permutation(subjects)[:size] for name, subjects in sets.items()}
  return {**sets, "whole": pool_P}


def frequencies(count: int, exponent: float) -> np.ndarray:
  """Returns Zipf frequencies by rank, (1 + i) ** -exponent over their sum: float64 [count]."""
  weights = np.arange(1, count + 1, dtype=float) ** -exponent
  return weights / weights.sum()

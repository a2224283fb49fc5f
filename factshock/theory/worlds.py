"""The one-layer model's world: facts about Zipf-distributed subjects, how often a corpus states each, and who is asked. Numpy."""

from typing import NamedTuple

import numpy as np

SETS = ("popular", "unpopular", "random", "whole")


class World(NamedTuple):
  """Facts of K seeds; answers of all relations are numbered through, those of relation r from r * n.

  answers_KxSxR: int32, the answer of each fact. counts_KxSxR: float32, how often the corpus states it, at least once.
  test_KxT: int32, the subjects asked about, most popular first. sets: dict name of SETS -> int32 [K, subjects], of the others.
  """

  answers_KxSxR: np.ndarray
  counts_KxSxR: np.ndarray
  test_KxT: np.ndarray
  sets: dict


def make(sizes, seeds, size=None):
  """The World of each seed.

  Args:
    sizes: dict of subjects, relations, answers (of each relation), zipf and answer_zipf (exponents of the frequency of subjects and
      of answers by their rank), sentences (of the corpus), test (the share of subjects that are asked about).
    seeds: list of K whole numbers; each draws answers, corpus and split anew.
    size: subjects of the sets `popular`, `unpopular` and `random`, drawn from the half they are named after; None takes it whole.
  """
  return World(*_stacked([_one(sizes, seed, size) for seed in seeds]))


def _one(sizes, seed, size):
  rng = np.random.default_rng([seed, 8])
  subjects = sizes["subjects"]
  relations = sizes["relations"]
  answers = sizes["answers"]
  drawn_SxR = rng.choice(
    answers, (subjects, relations), p=frequencies(answers, sizes["answer_zipf"])
  )
  fact_S = frequencies(subjects, sizes["zipf"]) / relations
  counts_SxR = 1 + rng.multinomial(
    max(0, sizes["sentences"] - subjects * relations), np.repeat(fact_S, relations)
  ).reshape(subjects, relations)
  shuffled_S = rng.permutation(subjects)
  asked = round(subjects * sizes["test"])
  test_T, pool_P = (
    _by_popularity(part, counts_SxR) for part in (shuffled_S[:asked], shuffled_S[asked:])
  )
  return (
    (drawn_SxR + answers * np.arange(relations)).astype(np.int32),
    counts_SxR.astype(np.float32),
    test_T,
    _sets(pool_P, size, rng),
  )


def _by_popularity(subjects, counts_SxR):
  """Subjects, those that the corpus names most often first."""
  return subjects[np.argsort(-counts_SxR.sum(axis=1)[subjects], kind="stable")].astype(np.int32)


def _sets(pool_P, size, rng):
  half = len(pool_P) // 2
  found = {
    "popular": pool_P[:half],
    "unpopular": pool_P[len(pool_P) - half :],
    "random": rng.permutation(pool_P)[:half],
  }
  if size is not None:
    found = {name: rng.permutation(subjects)[:size] for name, subjects in found.items()}
  return {**found, "whole": pool_P}


def frequencies(number, exponent):
  """Zipf frequencies by rank, (1 + i) ** -exponent over their sum: float64 [number]."""
  found = np.arange(1, number + 1, dtype=float) ** -exponent
  return found / found.sum()


def _stacked(many):
  *arrays, sets = zip(*many)
  return [*map(np.stack, arrays), {name: np.stack([one[name] for one in sets]) for name in SETS}]

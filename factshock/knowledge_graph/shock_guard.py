"""The shock guard: answers that a model gives far more often than anything supports, and what they are worth.

Finetuning makes a model over-predict (Kazemi et al. 2023). An answer is flagged in a relation where it is the first answer to more
queries than both its share of the pretraining text's mentions and its share of the right answers of the calibration queries
explain. How often such answers were right in calibration says how far their confidence is lowered; it is never raised.
"""

import collections
from typing import NamedTuple

import numpy as np

from factshock.facts import counts as counts_room

FACTOR = 2.0  # times as often as supported,
CHANCE = 1e-2  # and by chance as often in at most so many cases
_LEAST = 1e-6  # a confidence is kept so far off 0 and 1 where its logit is taken


class Flagged(NamedTuple):
  """An over-predicted answer: first answer of `predicted` of `queries` queries, where `supported` of them are expected."""
  relation: str
  answer: str
  predicted: int
  queries: int
  supported: float


def over_predicted(first, gold, counts=None):
  """{(relation, answer): Flagged}.

  Args:
    first: pairs (relation, answer) a model gives first, one a query. gold: pairs (relation, right answer) of the calibration queries.
    counts: mentions in text, (relation or "", entity) -> number, or None: the right answers alone are the support.
  """
  from scipy import stats

  predicted, right = collections.Counter(first), collections.Counter(gold)
  queries, labelled = (collections.Counter(relation for relation, _ in pairs.elements()) for pairs in (predicted, right))
  answers = collections.defaultdict(list)
  for relation, answer in dict.fromkeys([*predicted, *right]):
    answers[relation].append(answer)
  found = {}
  for relation, names in answers.items():
    given = np.array([predicted[relation, name] for name in names], float)
    own = np.array([right[relation, name] for name in names], float)
    share = (own + 1) / (labelled[relation] + len(names))
    # as often as that by chance, the right answers being no more than a sample: both counts together, one share of queries
    chance = stats.binom.sf(given - 1, given + own, queries[relation] / (queries[relation] + labelled[relation]))
    if counts is not None:
      mentions = np.array([counts_room.count_of(counts, relation, name) for name in names], float) + 1
      share = np.maximum(share, mentions / mentions.sum())
      chance = np.maximum(chance, stats.poisson.sf(given - 1, queries[relation] * mentions / mentions.sum()))
    supported = share * queries[relation]
    flags = (given > FACTOR * supported) & (chance < CHANCE)
    for place in np.flatnonzero(flags).tolist():
      found[relation, names[place]] = Flagged(relation, names[place], int(given[place]), queries[relation], float(supported[place]))
  return found


def shift(confidence_N, right_N):
  """How far the logit of flagged answers' confidence moves so that it agrees with how many were right: at most 0.

  The shift of greatest likelihood under a normal prior around 0 with variance 1: a handful of flagged answers moves little.

  Args:
    confidence_N: of flagged calibration answers, by curves that have not seen them. right_N: whether each is right.
  """
  logit_N, right_N = _logit(confidence_N), np.asarray(right_N, np.float64)
  move = 0.0
  for _ in range(50):
    p_N = 1 / (1 + np.exp(-(logit_N + move)))
    step = ((right_N - p_N).sum() - move) / ((p_N * (1 - p_N)).sum() + 1)
    move += float(np.clip(step, -1, 1))
    if abs(step) < 1e-9:
      break
  return min(0.0, move)


def lowered(confidence_N, flagged_N, move):
  """Confidences [N] with the logits of flagged ones moved."""
  return np.where(flagged_N, 1 / (1 + np.exp(-(_logit(confidence_N) + move))), confidence_N)


def _logit(p_N):
  p_N = np.clip(p_N, _LEAST, 1 - _LEAST)
  return np.log(p_N) - np.log1p(-p_N)

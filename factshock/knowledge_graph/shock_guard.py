"""The shock guard: answers that a model gives far more often than anything supports, and what they are worth.

Finetuning makes a model over-predict (Kazemi et al. 2023). An answer is flagged in a relation where it is the first answer to more
queries than both its share of the pretraining text's mentions and its share of the right answers of the calibration queries
explain. How often such answers were right in calibration says how far their confidence is lowered; it is never raised.
"""

import collections
from typing import NamedTuple

import numpy as np
from scipy import special

from factshock.facts import counts as counts_room
from factshock.knowledge_graph import calibration

FACTOR = 2.0  # times as often as supported,
CHANCE = 1e-2  # and by chance as often in at most so many cases
_PRIOR = 4.0  # 1 / variance of the priors of `lowering`
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

  predicted = collections.Counter(first)
  right = collections.Counter(gold)
  queries, labelled = (
    collections.Counter(relation for relation, _ in pairs.elements())
    for pairs in (predicted, right)
  )
  answers = collections.defaultdict(list)
  for relation, answer in dict.fromkeys([*predicted, *right]):
    answers[relation].append(answer)
  found = {}
  for relation, names in answers.items():
    given = np.array([predicted[relation, name] for name in names], float)
    own = np.array([right[relation, name] for name in names], float)
    share = (own + 1) / (labelled[relation] + len(names))
    # as often as that by chance, the right answers being no more than a sample: the tail of a binomial, both counts with one share
    chance = special.betainc(
      np.maximum(given, 0.5), own + 1, queries[relation] / (queries[relation] + labelled[relation])
    )
    if counts is not None:
      mentions = (
        np.array([counts_room.count_of(counts, relation, name) for name in names], float) + 1
      )
      share = np.maximum(share, mentions / mentions.sum())
      chance = np.maximum(
        chance,
        special.gammainc(np.maximum(given, 0.5), queries[relation] * mentions / mentions.sum()),
      )
    supported = share * queries[relation]
    flags = (given > FACTOR * supported) & (chance < CHANCE)
    for place in np.flatnonzero(flags).tolist():
      found[relation, names[place]] = Flagged(
        relation, names[place], int(given[place]), queries[relation], float(supported[place])
      )
  return found


NOT_LOWERED = (1.0, 0.0)  # slope and shift that leave a confidence as it is


def lowering(confidence_N, right_N):
  """(slope, shift) of the logits of flagged answers' confidence that agree with which of them were right; the slope is not below 0.

  Those of greatest likelihood under normal priors around 1 and 0 of which each weighs as _PRIOR says: a few flagged answers change little.

  Args:
    confidence_N: of flagged calibration answers, by curves that have not seen them. right_N: whether each is right.
  """
  logit_N = _logit(np.asarray(confidence_N, np.float64))
  right_N = np.asarray(right_N, np.float64)
  slope, shift = _most_likely(
    np.stack([logit_N, np.ones(len(logit_N))], axis=1), right_N, np.array(NOT_LOWERED)
  )
  if slope < 0:
    slope = 0.0
    shift = _most_likely(np.ones((len(logit_N), 1)), right_N, np.zeros(1))[0]
  return float(slope), float(shift)


def _most_likely(x_NxP, right_N, prior_P):
  """The penalised logistic regression, by Newton's method: [P]."""
  found_P = prior_P.copy()
  for _ in range(100):
    p_N = calibration.sigmoid(x_NxP @ found_P)
    step_P = np.linalg.solve(
      (x_NxP.T * (p_N * (1 - p_N))) @ x_NxP + _PRIOR * np.eye(len(prior_P)),
      x_NxP.T @ (right_N - p_N) - _PRIOR * (found_P - prior_P),
    )
    found_P = found_P + step_P * min(1.0, 1.0 / max(np.abs(step_P).max(), 1e-12))
    if np.abs(step_P).max() < 1e-9:
      break
  return found_P


def lowered(confidence_N, flagged_N, how):
  """Confidences [N], those of flagged answers lowered by (slope, shift); none is raised."""
  changed_N = np.minimum(confidence_N, calibration.sigmoid(how[0] * _logit(confidence_N) + how[1]))
  return np.where(flagged_N, changed_N, confidence_N)


def _logit(p_N):
  p_N = np.clip(p_N, _LEAST, 1 - _LEAST)
  return np.log(p_N) - np.log1p(-p_N)

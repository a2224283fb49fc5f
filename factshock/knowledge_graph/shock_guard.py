"""Shock guard: answers that a model gives far more often than anything supports.

Finetuning makes a model over-predict (Kazemi et al. 2023). An answer is flagged in a relation
where it is the first answer to more queries than both its share of the pretraining text's mentions
and its share of the right answers of the calibration queries explain. How often such answers were
right in calibration says how far their confidence is lowered; it is never raised.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special  # pyright: ignore[reportMissingTypeStubs] - scipy has none

from factshock.facts.counts import count_of
from factshock.knowledge_graph.calibration import sigmoid
from factshock.types import Answer

FACTOR = 2.0  # times as often as supported,
CHANCE = 1e-2  # and by chance as often in at most so many cases
_PRIOR = 4.0  # 1 / variance of the priors of `fit_lowering`
_LEAST = 1e-6  # a confidence is kept so far off 0 and 1 where its logit is taken


class OverPrediction(NamedTuple):
  """Answer that is given first too often.

  Attributes:
    relation: its relation.
    answer: its normalised name.
    predicted: queries to which it is the first answer.
    queries: queries of the relation.
    supported: to how many of them it is expected to be.
  """

  relation: str
  answer: str
  predicted: int
  queries: int
  supported: float


class Lowering(NamedTuple):
  """Slope and shift of the logits of flagged answers' confidence."""

  slope: float
  shift: float


NOT_LOWERED = Lowering(1.0, 0.0)


class _RelationCounts(NamedTuple):
  """Counts of one relation: arrays [A] over its answers.

  Attributes:
    predicted: how often the model gives each answer first.
    right: how often each is right in calibration.
    queries: all first answers.
    labelled: all right answers of calibration.
    mentions: mentions in text, each plus 1; None where they are not known.
  """

  predicted: np.ndarray
  right: np.ndarray
  queries: int
  labelled: int
  mentions: np.ndarray | None


def find_over_predicted(
  first: Iterable[Answer] | collections.Counter[Answer],
  gold: Iterable[Answer],
  counts: Mapping[Answer, int] | None = None,
) -> dict[Answer, OverPrediction]:
  """Finds the answers that are given first far more often than supported.

  Args:
    first: (relation, answer) that a model gives first, one a query, or how often it gives each.
    gold: (relation, right answer) of the calibration queries.
    counts: mentions in text by (relation or "", entity); None: the right answers alone are the
      support.
  """
  predicted = collections.Counter(first)
  right = collections.Counter(gold)
  queries = _by_relation(predicted)
  labelled = _by_relation(right)
  answers: dict[str, list[str]] = collections.defaultdict(list)
  for relation, answer in dict.fromkeys([*predicted, *right]):
    answers[relation].append(answer)
  flagged: dict[Answer, OverPrediction] = {}
  for relation, names in answers.items():
    predicted_counts = [predicted[relation, name] for name in names]
    right_counts = [right[relation, name] for name in names]
    mentions = None
    if counts is not None:
      mentions = _mentions(counts, relation, names)
    relation_counts = _RelationCounts(
      np.array(predicted_counts, float),
      np.array(right_counts, float),
      queries[relation],
      labelled[relation],
      mentions,
    )
    for flag in _flagged_of_relation(relation, names, relation_counts):
      flagged[relation, flag.answer] = flag
  return flagged


def _by_relation(answers: collections.Counter[Answer]) -> collections.Counter[str]:
  """Returns how many answers there are of each relation."""
  totals: collections.Counter[str] = collections.Counter()
  for (relation, _), count in answers.items():
    totals[relation] += count
  return totals


def _mentions(
  counts: Mapping[Answer, int],
  relation: str,
  names: Sequence[str],
) -> np.ndarray:
  """Returns the mentions of answers, each plus 1."""
  mentions = [count_of(counts, relation, name) for name in names]
  return np.array(mentions, float) + 1


def _flagged_of_relation(
  relation: str,
  names: Sequence[str],
  counts: _RelationCounts,
) -> list[OverPrediction]:
  """Returns the over-predicted answers of one relation."""
  total = counts.labelled + len(names)
  supported = (counts.right + 1) * counts.queries / total
  chance = _chance_by_labels(counts)
  if counts.mentions is not None:
    # Whole numbers first and one division: what is equal is equal.
    by_mentions = counts.mentions * counts.queries / counts.mentions.sum()
    supported = np.maximum(supported, by_mentions)
    chance_by_mentions = _chance_by_mentions(counts, counts.mentions)
    chance = np.maximum(chance, chance_by_mentions)
  is_frequent = counts.predicted > FACTOR * supported
  is_flagged = is_frequent & (chance < CHANCE)
  return [
    OverPrediction(
      relation,
      names[index],
      int(counts.predicted[index]),
      counts.queries,
      float(supported[index]),
    )
    for index in np.flatnonzero(is_flagged).tolist()
  ]


def _chance_by_labels(counts: _RelationCounts) -> np.ndarray:
  """Returns how likely each answer is given so often by chance [A].

  The right answers are no more than a sample: the tail of a binomial, both counts with one share.
  """
  share = counts.queries / (counts.queries + counts.labelled)
  predicted = np.maximum(counts.predicted, 0.5)
  return np.asarray(special.betainc(predicted, counts.right + 1, share))


def _chance_by_mentions(counts: _RelationCounts, mentions: np.ndarray) -> np.ndarray:
  """Returns how likely each answer is given so often by chance, its share that of its mentions."""
  expected = counts.queries * mentions / mentions.sum()
  predicted = np.maximum(counts.predicted, 0.5)
  return np.asarray(special.gammainc(predicted, expected))


def fit_lowering(confidence_N: np.ndarray, right_N: np.ndarray) -> Lowering:
  """Fits slope and shift of the logits of flagged answers' confidence to which of them were right.

  Those of greatest likelihood under normal priors around 1 and 0 of which each weighs as _PRIOR
  says: a few flagged answers change little. The slope is not below 0.

  Args:
    confidence_N: of flagged calibration answers, by curves that have not seen them.
    right_N: whether each is right.
  """
  logit_N = _logit(np.asarray(confidence_N, np.float64))
  right_N = np.asarray(right_N, np.float64)
  ones_N = np.ones(len(logit_N))
  x_NxP = np.stack([logit_N, ones_N], axis=1)
  slope, shift = _most_likely(x_NxP, right_N, np.array(NOT_LOWERED))
  if slope < 0:
    slope = 0.0
    ones_Nx1 = np.ones((len(logit_N), 1))
    shift = _most_likely(ones_Nx1, right_N, np.zeros(1))[0]
  return Lowering(float(slope), float(shift))


def _most_likely(
  x_NxP: np.ndarray,
  right_N: np.ndarray,
  prior_P: np.ndarray,
) -> np.ndarray:
  """Returns the weights [P] of the penalised logistic regression, by Newton's method."""
  weights_P = prior_P.copy()
  for _ in range(100):
    p_N = sigmoid(x_NxP @ weights_P)
    variance_N = p_N * (1 - p_N)
    prior_curvature_PxP = _PRIOR * np.eye(len(prior_P))
    curvature_PxP = (x_NxP.T * variance_N) @ x_NxP + prior_curvature_PxP
    prior_gradient_P = _PRIOR * (weights_P - prior_P)
    gradient_P = x_NxP.T @ (right_N - p_N) - prior_gradient_P
    step_P = np.linalg.solve(curvature_PxP, gradient_P)
    largest = np.abs(step_P).max()
    shortening = min(1.0, 1.0 / max(largest, 1e-12))
    weights_P = weights_P + step_P * shortening
    if largest < 1e-9:
      break
  return weights_P


def lower(
  confidence_N: np.ndarray,
  flagged_N: np.ndarray,
  lowering: Lowering,
) -> np.ndarray:
  """Returns confidences, those of flagged answers lowered; none is raised [N]."""
  logit_N = _logit(confidence_N)
  logit_N = lowering.slope * logit_N + lowering.shift
  lowered_N = np.minimum(confidence_N, sigmoid(logit_N))
  return np.where(flagged_N, lowered_N, confidence_N)


def _logit(p_N: np.ndarray) -> np.ndarray:
  """Returns logits of probabilities, kept off 0 and 1."""
  p_N = np.clip(p_N, _LEAST, 1 - _LEAST)
  return np.log(p_N) - np.log1p(-p_N)

"""Five predictions of the theory as estimates over seeds: what each says, and if it holds."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from scipy import stats

from factshock.diagnosis import calibration
from factshock.theory.conditions import Condition
from factshock.theory.estimates import SeedValues, estimate

PARTS = 10  # tenths of subjects by popularity, of facts by salience


class ClaimEstimate(SeedValues):
  """Estimate that a prediction is about.

  `wanted` is "above" or "below" 0; `holds` is whether its interval lies there.
  """

  what: str
  wanted: str
  holds: bool


class Claim(TypedDict):
  """Prediction; its verdict is "holds", "holds in part" or "fails"."""

  statement: str
  estimates: list[ClaimEstimate]
  verdict: str


class Row(TypedDict):
  """Condition in short, estimates on test subjects.

  `before` is accuracy, `gap` as from the function `gap`, `attention` its change by each set.
  """

  before: SeedValues
  gap: SeedValues
  attention: dict[str, SeedValues]


def judge(condition: Condition, question: Condition) -> list[Claim]:
  """Returns the predictions with their estimates and verdicts, by how many of the estimates hold.

  Args:
    condition: the condition of the first four predictions.
    question: the same with a token of its own for the question, for the last.
  """
  return [
    _claim("Salience is monotone in frequency.", _monotone(condition)),
    _claim("The sign of the attention update follows salience.", _signs(condition)),
    _claim(
      "Finetuning on low-salience facts lowers attention to all subjects of the relation, on "
      "high-salience facts raises it.",
      _attention(condition),
    ),
    _claim(
      "The accuracy gap between finetuning on popular and on unpopular subjects is larger for less "
      "popular test subjects.",
      _gaps(condition),
    ),
    _claim(
      "With a relation token of its own for the question, the same holds.",
      _attention(question) + _gaps(question),
    ),
  ]


def _claim(statement: str, estimates: list[ClaimEstimate]) -> Claim:
  held = sum(row["holds"] for row in estimates)
  verdict = "fails"
  if held:
    verdict = "holds" if held == len(estimates) else "holds in part"
  return {"statement": statement, "estimates": estimates, "verdict": verdict}


def _above(what: str, values_K: np.ndarray | Sequence[float]) -> ClaimEstimate:
  """Returns an estimate that is to lie above 0."""
  values = estimate(values_K)
  low = values["low"]
  holds = low is not None and low > 0
  return {"what": what, "wanted": "above", **values, "holds": holds}


def _below(what: str, values_K: np.ndarray | Sequence[float]) -> ClaimEstimate:
  """Returns an estimate that is to lie below 0."""
  values = estimate(values_K)
  high = values["high"]
  holds = high is not None and high < 0
  return {"what": what, "wanted": "below", **values, "holds": holds}


def by_popularity(condition: Condition, array_KxSxR: np.ndarray) -> np.ndarray:
  """Returns means over the facts of each tenth of subjects, least popular first: [K, PARTS]."""
  order_KxS = condition.world.counts_KxSxR.sum(axis=2).argsort(axis=1, kind="stable")
  return _part_means(np.take_along_axis(array_KxSxR.mean(axis=2), order_KxS, axis=1))


def by_salience(condition: Condition, array_KxSxR: np.ndarray) -> np.ndarray:
  """Returns means over each tenth of facts by salience, least stored first: [K, PARTS]."""
  flat_KxF = _by_fact(array_KxSxR)
  order_KxF = _by_fact(condition.before["salience"]).argsort(axis=1, kind="stable")
  return _part_means(np.take_along_axis(flat_KxF, order_KxF, axis=1))


def _by_fact(array_KxSxR: np.ndarray) -> np.ndarray:
  return array_KxSxR.reshape(len(array_KxSxR), -1)


def _part_means(sorted_KxN: np.ndarray) -> np.ndarray:
  parts = np.array_split(sorted_KxN, PARTS, axis=1)
  return np.stack([part.mean(axis=1) for part in parts], axis=1)


def _monotone(condition: Condition) -> list[ClaimEstimate]:
  salience_KxSxR = condition.before["salience"]
  counts_KxF = _by_fact(condition.world.counts_KxSxR)
  correlation_K = [
    _spearman(counts_F, salience_F)
    for counts_F, salience_F in zip(counts_KxF, _by_fact(salience_KxSxR))
  ]
  rises_KxP = np.diff(by_popularity(condition, salience_KxSxR), axis=1)
  return [
    _above("Spearman correlation of a fact's count in the corpus and its salience", correlation_K),
    _above(
      "Least rise of mean salience from a tenth of subjects by popularity to the next",
      rises_KxP.min(axis=1),
    ),
  ]


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
  result: Any = stats.spearmanr(x, y)
  return float(result.statistic)


def _signs(condition: Condition) -> list[ClaimEstimate]:
  raised_KxSxR = condition.before["update"] > 0
  shares_KxP = by_salience(condition, raised_KxSxR.astype(float))
  salience_KxF = _by_fact(condition.before["salience"])
  auroc_K = [
    _auroc(salience_F, raised_F)
    for salience_F, raised_F in zip(salience_KxF, _by_fact(raised_KxSxR))
  ]
  return [
    _below(
      "Share of the least stored tenth of facts whose update raises attention to the subject, less "
      "1/2",
      shares_KxP[:, 0] - 0.5,
    ),
    _above("The same of the best stored tenth", shares_KxP[:, -1] - 0.5),
    _above(
      "Probability that a fact that raises it is stored better than one that lowers it (AUROC), "
      "less 1/2",
      [auroc - 0.5 for auroc in auroc_K],
    ),
  ]


def _auroc(score_N: np.ndarray, positive_N: np.ndarray) -> float:
  """Returns the share of (positive, negative) pairs that a score has in order, or NaN."""
  return calibration.auroc(np.zeros(len(score_N)), positive_N, score_N)


def change(condition: Condition, name: str) -> np.ndarray:
  """Returns the change of attention to test subjects by finetuning on a set: [K].

  It is the mean over relations.
  """
  after_KxR = condition.after[name]["attention"][:, -1]
  before_KxR = condition.untouched["attention"][:, 0]
  return after_KxR.mean(axis=1) - before_KxR.mean(axis=1)


def summarise(condition: Condition) -> Row:
  """Returns a condition in short."""
  return {
    "before": estimate(condition.untouched["accuracy"][:, 0]),
    "gap": estimate(gap(condition, "accuracy")),
    "attention": {name: estimate(change(condition, name)) for name in condition.after},
  }


def _attention(condition: Condition) -> list[ClaimEstimate]:
  after_KxR = condition.after["low_salience"]["attention"][:, -1]
  fell_KxR = after_KxR < condition.untouched["attention"][:, 0]
  popular_K = change(condition, "popular")
  unpopular_K = change(condition, "unpopular")
  return [
    _below(
      "Change of attention to test subjects by the least stored fifth of facts",
      change(condition, "low_salience"),
    ),
    _above(
      "Share of relations in which that falls, for all test subjects alike, less 1/2",
      fell_KxR.mean(axis=1) - 0.5,
    ),
    _above("Change by the best stored fifth", change(condition, "high_salience")),
    _below("Change by the unpopular half of subjects", unpopular_K),
    _above("Change by the popular half", popular_K),
    _above("Popular less unpopular half", popular_K - unpopular_K),
  ]


def gap(condition: Condition, name: str = "accuracy_by_bin") -> np.ndarray:
  """Returns a measure after the popular half less that after the unpopular half, at the last step.

  Args:
    condition: finetuned on both halves.
    name: of the measure.
  """
  return condition.after["popular"][name][:, -1] - condition.after["unpopular"][name][:, -1]


def _gaps(condition: Condition) -> list[ClaimEstimate]:
  gap_KxP = gap(condition)
  less_popular_K = gap_KxP[:, PARTS // 2 :].mean(axis=1)
  more_popular_K = gap_KxP[:, : PARTS // 2].mean(axis=1)
  return [
    _above(
      "Accuracy after the popular half less that after the unpopular half",
      gap(condition, "accuracy"),
    ),
    _above(
      "That gap for the less popular half of test subjects less that for the more popular half",
      less_popular_K - more_popular_K,
    ),
    _above(
      "Least rise of the gap from a tenth of test subjects to the next less popular one",
      np.diff(gap_KxP, axis=1).min(axis=1),
    ),
    _above(
      "Share of answers that are their relation's most common one, unpopular less popular half",
      -gap(condition, "common"),
    ),
  ]

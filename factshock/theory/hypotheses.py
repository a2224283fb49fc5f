"""The five predictions of the theory as estimates over seeds: what each says of the numbers, and whether it holds."""

import numpy as np
from scipy import stats

from factshock.diagnosis import calibration
from factshock.theory.estimates import estimate

PARTS = 10  # tenths of subjects by popularity, of facts by salience


def of(condition, question):
  """The predictions on a Condition and, for the last, on that with a token of its own for the question.

  Returns: list of dict `statement`, `estimates` (each an estimate with `what`, `wanted`, "above" or "below" 0, and `holds`: its interval
    lies there) and `verdict`: "holds", "holds in part" or "fails", by how many of its estimates hold.
  """
  return [
    _claim("Salience is monotone in frequency.", _monotone(condition)),
    _claim("The sign of the attention update follows salience.", _signs(condition)),
    _claim(
      "Finetuning on low-salience facts lowers attention to all subjects of the relation, on high-salience facts raises it.",
      _attention(condition),
    ),
    _claim(
      "The accuracy gap between finetuning on popular and on unpopular subjects is larger for less popular test subjects.",
      _gaps(condition),
    ),
    _claim(
      "With a relation token of its own for the question, the same holds.",
      _attention(question) + _gaps(question),
    ),
  ]


def _claim(statement, estimates):
  held = sum(found["holds"] for found in estimates)
  return {
    "statement": statement,
    "estimates": estimates,
    "verdict": "holds" if held == len(estimates) else "holds in part" if held else "fails",
  }


def _wanted(what, values_K, wanted="above"):
  found = estimate(values_K)
  end = found["low"] if wanted == "above" else found["high"]
  return {
    "what": what,
    "wanted": wanted,
    **found,
    "holds": end is not None and (end > 0 if wanted == "above" else end < 0),
  }


def by_popularity(condition, array_KxSxR):
  """Means over the facts of each tenth of subjects, least popular first: [K, PARTS]."""
  order_KxS = condition.world.counts_KxSxR.sum(axis=2).argsort(axis=1, kind="stable")
  return _parts(np.take_along_axis(array_KxSxR.mean(axis=2), order_KxS, axis=1))


def by_salience(condition, array_KxSxR):
  """Means over each tenth of facts by salience, least stored first: [K, PARTS]."""
  flat_KxF, salience_KxF = (
    array.reshape(len(array), -1) for array in (array_KxSxR, condition.before["salience"])
  )
  return _parts(np.take_along_axis(flat_KxF, salience_KxF.argsort(axis=1, kind="stable"), axis=1))


def _parts(sorted_KxN):
  return np.stack([part.mean(axis=1) for part in np.array_split(sorted_KxN, PARTS, axis=1)], axis=1)


def _monotone(condition):
  salience_KxSxR = condition.before["salience"]
  rank_K = [
    _spearman(*pair)
    for pair in zip(
      condition.world.counts_KxSxR.reshape(len(salience_KxSxR), -1),
      salience_KxSxR.reshape(len(salience_KxSxR), -1),
    )
  ]
  rises_KxP = np.diff(by_popularity(condition, salience_KxSxR), axis=1)
  return [
    _wanted("Spearman correlation of a fact's count in the corpus and its salience", rank_K),
    _wanted(
      "Least rise of mean salience from a tenth of subjects by popularity to the next",
      rises_KxP.min(axis=1),
    ),
  ]


def _spearman(x, y):

  return float(stats.spearmanr(x, y).statistic)


def _signs(condition):
  raised_KxSxR = condition.before["update"] > 0
  shares_KxP = by_salience(condition, raised_KxSxR.astype(float))
  pairs = zip(
    condition.before["salience"].reshape(len(raised_KxSxR), -1),
    raised_KxSxR.reshape(len(raised_KxSxR), -1),
  )
  return [
    _wanted(
      "Share of the least stored tenth of facts whose update raises attention to the subject, less 1/2",
      shares_KxP[:, 0] - 0.5,
      "below",
    ),
    _wanted("The same of the best stored tenth", shares_KxP[:, -1] - 0.5),
    _wanted(
      "Probability that a fact that raises it is stored better than one that lowers it (AUROC), less 1/2",
      [_auroc(*pair) - 0.5 for pair in pairs],
    ),
  ]


def _auroc(score_N, positive_N):
  """The share of (positive, negative) pairs that a score has in order; NaN without either."""
  return calibration.auroc(np.zeros(len(score_N)), positive_N, score_N)


def change(condition, name):
  """Change of attention to test subjects by finetuning on a set, mean over relations: [K]."""
  return condition.after[name]["attention"][:, -1].mean(axis=1) - condition.untouched["attention"][
    :, 0
  ].mean(axis=1)


def row(condition):
  """A condition in short, estimates on test subjects: accuracy `before`, `gap`, and `attention`, dict set -> its change."""
  return {
    "before": estimate(condition.untouched["accuracy"][:, 0]),
    "gap": estimate(gap(condition, "accuracy")),
    "attention": {name: estimate(change(condition, name)) for name in condition.after},
  }


def _attention(condition):
  fell_KxR = (
    condition.after["low_salience"]["attention"][:, -1] < condition.untouched["attention"][:, 0]
  )
  return [
    _wanted(
      "Change of attention to test subjects by the least stored fifth of facts",
      change(condition, "low_salience"),
      "below",
    ),
    _wanted(
      "Share of relations in which that falls, for all test subjects alike, less 1/2",
      fell_KxR.mean(axis=1) - 0.5,
    ),
    _wanted("Change by the best stored fifth", change(condition, "high_salience")),
    _wanted("Change by the unpopular half of subjects", change(condition, "unpopular"), "below"),
    _wanted("Change by the popular half", change(condition, "popular")),
    _wanted(
      "Popular less unpopular half", change(condition, "popular") - change(condition, "unpopular")
    ),
  ]


def gap(condition, name="accuracy_by_bin"):
  """A measure after finetuning on the popular half less that on the unpopular half, at the last step."""
  return condition.after["popular"][name][:, -1] - condition.after["unpopular"][name][:, -1]


def _gaps(condition):
  gap_KxP = gap(condition)
  less = gap_KxP[:, PARTS // 2 :].mean(axis=1)
  more = gap_KxP[:, : PARTS // 2].mean(axis=1)
  return [
    _wanted(
      "Accuracy after the popular half less that after the unpopular half",
      gap(condition, "accuracy"),
    ),
    _wanted(
      "That gap for the less popular half of test subjects less that for the more popular half",
      less - more,
    ),
    _wanted(
      "Least rise of the gap from a tenth of test subjects to the next less popular one",
      np.diff(gap_KxP, axis=1).min(axis=1),
    ),
    _wanted(
      "Share of answers that are their relation's most common one, unpopular less popular half",
      -gap(condition, "common"),
    ),
  ]

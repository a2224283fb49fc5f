"""Scores by the rules of an edition of the LM-KBC challenge, beside two answers without a model.

What the editions' rules are stands in lm_kbc_rules.py.
"""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from factshock.diagnosis import lm_kbc_files, statistics
from factshock.diagnosis import lm_kbc_rules as rules
from factshock.diagnosis.lm_kbc_files import RowKey, Rows
from factshock.diagnosis.lm_kbc_rules import Edition, Objects, Score
from factshock.diagnosis.statistics import DEFAULT_BOOTSTRAP, Bootstrap, none_if_nan
from factshock.types import Estimate

AVERAGES = ("rows", "relations", "micro")
RATIOS = ("precision", "recall", "f1")
ALL_EMPTY = "all_empty"
CONSTANT = "constant_set"
MOST = 5  # a constant set holds at most so many objects
# Counts of empty answers, and of objects by relation: key in the result -> field of Score.
EMPTY_COUNTS = {"gold": "is_empty", "predicted": "says_empty", "both": "both_empty"}
RELATION_COUNTS = {
  "objects": "predicted",
  "gold_objects": "gold",
  "empty": "says_empty",
  "gold_empty": "is_empty",
}

Json: TypeAlias = dict[str, Any]
_Aligned: TypeAlias = tuple[list[Objects], dict[str, int]]  # as from lm_kbc_files.align
Ratios: TypeAlias = dict[tuple[str, str], np.ndarray]  # (average, ratio) -> [R]

_NOTES = """
row: precision: share of the predicted objects that is right (1 where none is predicted); recall:
  share of the gold objects that is found (1 where there is none); f1: their harmonic mean; what
  counts as equal goes by the edition.
strict: a gold object counts as found once; without it recall, and f1, can exceed 1 in editions
  2023 and 2025.
rows: mean over all rows.
relations: mean over relations of the mean over their rows.
headline: the average whose f1 ranked the systems of the edition.
micro: objects of all rows added up: right / predicted and found / gold; 1 where nothing is
  predicted or gold.
empty: rows without an object: how many are so in gold, in the answer and in both, and precision,
  recall and f1 of answering "none"; null is undefined.
by_relation: means over the rows of a relation; objects and empty: of the answer.
all_empty: the answer "none" to every row.
constant_set: one set for each relation, fitted on train: of the 5 objects that most rows of the
  relation have (the first alias; ties by name) the first 0 to 5, whichever has the best mean f1
  on train (the fewer of equals).
intervals: low and high are percentiles of a bootstrap over rows, drawn within each relation; all
  answers share the draws; the constant set is not fitted anew.
differences: system - baseline, paired by row, of the f1 of each average.
missing: gold rows without a row of predictions, scored as empty answers.
unknown: rows of predictions that gold does not have, left out.
repeated: rows given again, of which the last counts.
dropped: objects that are no text, left out (edition 2026).
train_overlap: gold rows that stand in train too.
unfitted: relations that train does not have; their constant set is empty.
"""


def _by_name(text: str) -> dict[str, str]:
  pairs = (line.split(": ", 1) for line in text.strip().replace("\n  ", " ").splitlines())
  return {name.strip(): definition for name, definition in pairs}


NOTES = _by_name(_NOTES)


@dataclasses.dataclass(frozen=True, eq=False)
class _Sums:
  """Sums of the fields of Score over the rows of each relation, and over resamples of these rows.

  Attributes:
    relations: names [L].
    rows: rows of each relation [L].
    answers: of each answer, sums [L, 1 + R, M]; the first of 1 + R is of the rows themselves.
  """

  relations: list[str]
  rows: np.ndarray
  answers: list[np.ndarray]


def constant_sets(
  train: Rows,
  year: str,
  strict: bool = False,
) -> dict[str, list[str]]:
  """Returns the constant answer of each relation that has the best mean F1 on train: see `notes`.

  Args:
    train: rows read with `gold=True`.
    year: a key of EDITIONS.
    strict: whether a gold counts as found once.
  """
  golds: dict[str, list[Objects]] = collections.defaultdict(list)
  for (_, relation), objects in train.objects.items():
    golds[relation].append(objects)
  edition = rules.EDITIONS[year]
  return {
    relation: _best_prefix(rows, relation, edition, strict) for relation, rows in golds.items()
  }


def diagnose(
  year: str,
  predictions: Mapping[str, Rows],
  gold: Rows,
  train: Rows | None = None,
  *,
  no_train: str | None = "no train given",
  strict: bool = False,
  bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Json:
  """Returns scores of several files and of the baselines on one gold file, as plain values.

  The result's `notes` define them.

  Args:
    year: a key of EDITIONS.
    predictions: rows of each system by label.
    gold: rows read with `gold=True`.
    train: the same; without it there is no constant set.
    no_train: why there is no train, in words.
    strict: a gold counts as found once, and whatever does not fit is an error.
    bootstrap: over rows.

  Raises:
    UserError: as `lm_kbc_files.align`.
  """
  aligned = _aligned(predictions, gold, year, strict)
  sets = None if train is None else constant_sets(train, year, strict)
  baselines = _baselines(gold, sets)
  answers = [*(objects for objects, _ in aligned.values()), *baselines.values()]
  sums = _sums(gold.objects, answers, year, strict, bootstrap)
  counts = {label: counts for label, (_, counts) in aligned.items()}
  return {
    **_about_gold(gold, year, strict),
    "relations": sums.relations,
    **_about_train(train, gold, sums.relations, sets or {}, no_train),
    **_about_bootstrap(bootstrap),
    "notes": NOTES,
    **_results(counts, list(baselines), sums, bootstrap.confidence),
  }


def _about_gold(
  gold: Rows,
  year: str,
  strict: bool,
) -> Json:
  """Returns what the result says of the rules and the gold file."""
  return {
    "format": 1,
    "edition": year,
    "strict": strict,
    "headline": rules.EDITIONS[year].headline,
    "gold": gold.path,
    "rows": len(gold.objects),
    "gold_repeated": gold.repeated,
  }


def _about_bootstrap(bootstrap: Bootstrap) -> Json:
  return {
    "confidence": bootstrap.confidence,
    "resamples": bootstrap.resamples,
    "seed": bootstrap.seed,
  }


def _aligned(
  predictions: Mapping[str, Rows],
  gold: Rows,
  year: str,
  strict: bool,
) -> dict[str, _Aligned]:
  """Returns each system's objects in the order of the gold rows, and counts of what did not fit."""
  aligned: dict[str, _Aligned] = {}
  for label, rows in predictions.items():
    aligned[label] = lm_kbc_files.align(rows, gold, year, strict)
  return aligned


def _baselines(gold: Rows, sets: Mapping[str, list[str]] | None) -> dict[str, list[Objects]]:
  """Returns the answers that need no model, in the order of the gold rows."""
  baselines: dict[str, list[Objects]] = {ALL_EMPTY: [[] for _ in gold.objects]}
  if sets is not None:
    baselines[CONSTANT] = [sets.get(relation, []) for _, relation in gold.objects]
  return baselines


def _results(
  counts: Mapping[str, dict[str, int]],
  baselines: Sequence[str],
  sums: "_Sums",
  confidence: float,
) -> Json:
  """Returns the scores of systems and baselines, and their differences.

  Args:
    counts: of what did not fit, by label of each system.
    baselines: their names.
    sums: of all answers, the systems' first.
    confidence: of the intervals.
  """
  ratios = [measures(sums_LxRxM, sums.rows) for sums_LxRxM in sums.answers]
  scores = [
    _scores(by_name, sums_LxRxM[:, 0], sums, confidence)
    for by_name, sums_LxRxM in zip(ratios, sums.answers)
  ]
  systems = len(counts)
  differences = [
    _difference(label, baseline, own, other, confidence)
    for label, own in zip(counts, ratios)
    for baseline, other in zip(baselines, ratios[systems:])
  ]
  return {
    "systems": {label: {"counts": counts[label], **own} for label, own in zip(counts, scores)},
    "baselines": dict(zip(baselines, scores[systems:])),
    "differences": differences,
  }


def measures(sums_LxRxM: np.ndarray, rows_L: np.ndarray) -> Ratios:
  """Returns all averages of sums over the rows of each relation, a resample a column.

  Args:
    sums_LxRxM: sums of the fields of Score over the rows of each of L relations, in R resamples.
    rows_L: rows of each relation.

  Returns:
    (average, ratio) -> [R]; averages: "rows", "relations", "micro" and "empty".
  """
  column = {name: sums_LxRxM[:, :, i] for i, name in enumerate(Score._fields)}
  total = {name: values_LxR.sum(axis=0) for name, values_LxR in column.items()}
  averages: Ratios = {}
  for name in RATIOS:
    averages["rows", name] = total[name] / rows_L.sum()
    averages["relations", name] = (column[name] / rows_L[:, None]).mean(axis=0)
  micro_precision_R = _divided(total["right"], total["predicted"], 1.0)
  micro_recall_R = _divided(total["found"], total["gold"], 1.0)
  empty_precision_R = _divided(total["both_empty"], total["says_empty"], np.nan)
  empty_recall_R = _divided(total["both_empty"], total["is_empty"], np.nan)
  averages |= _with_f1("micro", micro_precision_R, micro_recall_R)
  averages |= _with_f1("empty", empty_precision_R, empty_recall_R)
  return averages


def _about_train(
  train: Rows | None,
  gold: Rows,
  relations: Sequence[str],
  sets: Mapping[str, list[str]],
  no_train: str | None,
) -> Json:
  """Returns what the result says of the constant set."""
  if train is None:
    return {"train": None, "no_train": no_train}
  return {
    "train": train.path,
    "train_overlap": len(train.objects.keys() & gold.objects.keys()),
    "unfitted": [name for name in relations if name not in sets],
    "constant_sets": {name: sets.get(name, []) for name in relations},
  }


def _best_prefix(
  golds: Sequence[Objects],
  relation: str,
  edition: Edition,
  strict: bool,
) -> list[str]:
  """Returns the first 0 to 5 of a relation's most frequent objects with the best mean F1."""
  counts = collections.Counter(
    name for objects in golds for name in dict.fromkeys(_object_names(objects, edition))
  )
  ranked = sorted(counts, key=lambda name: (-counts[name], name))[:MOST]

  def total_f1(size: int) -> float:
    scores = (rules.score(edition, ranked[:size], objects, relation, strict) for objects in golds)
    # Sums that differ by rounding alone are equal.
    return round(math.fsum(score.f1 for score in scores), 9)

  best_size = max(range(len(ranked) + 1), key=lambda size: (total_f1(size), -size))
  return ranked[:best_size]


def _object_names(objects: Objects, edition: Edition) -> list[str]:
  """Returns the name of each gold object, its first alias.

  There is no name for "no object" and for an object without aliases.
  """
  if not edition.aliases:
    return [name for name in objects if isinstance(name, str) and name]
  return [aliases[0] for aliases in objects if aliases and aliases[0]]


def _sums(
  golds: Mapping[RowKey, Objects],
  answers: Sequence[Sequence[Objects]],
  year: str,
  strict: bool,
  bootstrap: Bootstrap,
) -> _Sums:
  """Scores all answers to all rows, and adds them up.

  All answers share the draws; the order of the rows in the files changes nothing.
  """
  rng = np.random.default_rng(bootstrap.seed)
  score = functools.partial(rules.score, rules.EDITIONS[year], strict=strict)
  scored: list[tuple[str, str, list[float]]] = []
  for ((subject, relation), gold), *predicted in zip(golds.items(), *answers):
    values: list[float] = [
      value for objects in predicted for value in score(objects, gold, relation)
    ]
    scored.append((relation, subject, values))
  scored.sort()
  relations: list[str] = []
  rows: list[int] = []
  sums: list[np.ndarray] = []
  for relation, group in itertools.groupby(scored, key=lambda row: row[0]):
    values_NxK = np.array([values for _, _, values in group], np.float64)
    relations.append(relation)
    rows.append(len(values_NxK))
    sums.append(_resampled_sums(values_NxK, bootstrap.resamples, rng))
  sums_LxRxSxM = np.stack(sums).reshape(len(rows), 1 + bootstrap.resamples, len(answers), -1)
  return _Sums(relations, np.array(rows), list(np.moveaxis(sums_LxRxSxM, 2, 0)))


def _resampled_sums(
  values_NxK: np.ndarray,
  resamples: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """Returns sums of the columns over the rows and, below, over each resample: [1 + R, K]."""
  cells_CxK, code_N = np.unique(values_NxK, axis=0, return_inverse=True)
  draw = statistics.make_draw(len(values_NxK), resamples, rng)
  (counts_RxC,) = statistics.cell_counts(draw, [code_N.reshape(-1)], [len(cells_CxK)])
  return np.vstack([values_NxK.sum(axis=0), counts_RxC @ cells_CxK])


def _with_f1(
  average: str,
  precision_R: np.ndarray,
  recall_R: np.ndarray,
) -> Ratios:
  """Returns precision and recall with their harmonic mean, 0 where both are 0, NaN where one is."""
  both_R = precision_R + recall_R
  mean_R = 2 * precision_R * recall_R / np.where(both_R == 0, 1.0, both_R)
  f1_R = np.where(both_R == 0, 0.0, mean_R)
  return {
    (average, "precision"): precision_R,
    (average, "recall"): recall_R,
    (average, "f1"): f1_R,
  }


def _divided(
  above_R: np.ndarray,
  below_R: np.ndarray,
  otherwise: float,
) -> np.ndarray:
  return np.where(below_R > 0, above_R / np.where(below_R > 0, below_R, 1.0), otherwise)


def _estimate(values_R: np.ndarray, confidence: float) -> Estimate:
  """Returns the value itself, which comes first, with the interval of the resamples after it."""
  value = float(values_R[0])
  if math.isnan(value):
    return {"mean": None, "low": None, "high": None}
  low, high = statistics.interval(values_R[1:], confidence)
  return {"mean": value, "low": none_if_nan(low), "high": none_if_nan(high)}


def _scores(
  by_name: Ratios,
  sums_LxM: np.ndarray,
  sums: _Sums,
  confidence: float,
) -> Json:
  """Returns the scores of one answer in the form of lm_kbc.json."""
  column = dict(zip(Score._fields, sums_LxM.T))
  scores: Json = {}
  for average in (*AVERAGES, "empty"):
    scores[average] = {name: _estimate(by_name[average, name], confidence) for name in RATIOS}
  counts = {name: int(column[field].sum()) for name, field in EMPTY_COUNTS.items()}
  scores["empty"] = {**counts, **scores["empty"]}
  scores["by_relation"] = dict(_relation_rows(column, sums))
  return scores


def _relation_rows(column: Mapping[str, np.ndarray], sums: _Sums) -> Iterator[tuple[str, Json]]:
  for i, relation in enumerate(sums.relations):
    row: Json = {"rows": int(sums.rows[i])}
    for name in RATIOS:
      row[name] = float(column[name][i] / sums.rows[i])
    for name, field in RELATION_COUNTS.items():
      row[name] = int(column[field][i])
    yield relation, row


def _difference(
  label: str,
  baseline: str,
  own: Ratios,
  other: Ratios,
  confidence: float,
) -> Json:
  estimates = {
    average: _estimate(own[average, "f1"] - other[average, "f1"], confidence)
    for average in AVERAGES
  }
  return {"system": label, "baseline": baseline, **estimates}

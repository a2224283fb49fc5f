"""Scores files of rows by the rules of an edition of the LM-KBC challenge, beside two answers that need no model.

A file holds a JSON object a line: SubjectEntity, Relation and a list of objects, ObjectEntities (texts; in the gold of
2022 and 2026 lists of aliases) or ObjectEntitiesID. What the editions' rules are stands in lm_kbc_rules.py.
"""

import collections
import functools
import itertools
import math
import os
import re
import typing

import numpy as np

from factshock.diagnosis import lm_kbc_rules as rules
from factshock.diagnosis import statistics
from factshock.facts import schema
from factshock.runtime.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
AVERAGES = ("rows", "relations", "micro")
RATIOS = ("precision", "recall", "f1")
ALL_EMPTY = "all_empty"
CONSTANT = "constant_set"
MOST = 5  # a constant set holds at most so many objects

_NOTES = """
row: precision: share of the predicted objects that is right (1 where none is predicted); recall: share of the gold
  objects that is found (1 where there is none); f1: their harmonic mean; what counts as equal goes by the edition.
strict: a gold object counts as found once; without it recall, and f1, can exceed 1 in editions 2023 and 2025.
rows: mean over all rows.
relations: mean over relations of the mean over their rows.
headline: the average whose f1 ranked the systems of the edition.
micro: objects of all rows added up: right / predicted and found / gold; 1 where nothing is predicted or gold.
empty: rows without an object: how many are so in gold, in the answer and in both, and precision, recall and f1 of
  answering "none"; null is undefined.
by_relation: means over the rows of a relation; objects and empty: of the answer.
all_empty: the answer "none" to every row.
constant_set: one set for each relation, fitted on train: of the 5 objects that most rows of the relation have (the
  first alias; ties by name) the first 0 to 5, whichever has the best mean f1 on train (the fewer of equals).
intervals: low and high are percentiles of a bootstrap over rows, drawn within each relation; all answers share the
  draws; the constant set is not fitted anew.
differences: system - baseline, paired by row, of the f1 of each average.
missing: gold rows without a row of predictions, scored as empty answers.
unknown: rows of predictions that gold does not have, left out.
repeated: rows given again, of which the last counts.
dropped: objects that are no text, left out (edition 2026).
train_overlap: gold rows that stand in train too.
unfitted: relations that train does not have; their constant set is empty.
"""
NOTES = dict(line.split(": ", 1) for line in _NOTES.strip().replace("\n  ", " ").splitlines())


class Rows(typing.NamedTuple):
  """What a file holds: dict (subject, relation) -> objects; how many rows came again, how many objects were dropped."""

  path: str
  objects: dict
  repeated: int
  dropped: int


def read(path, year, gold=False):
  """Reads a file of gold or of predictions; of rows with one subject and relation the last counts, as in the challenge.

  Raises:
    UserError: another suffix, no rows, a line that is no JSON object, or a row without a subject, a relation or a list
      of objects as the edition wants it; names file and line.
  """
  path = str(path)
  if not path.endswith(SUFFIXES):
    raise UserError(
      f"{path}: expected LM-KBC rows in a file that ends in {', '.join(SUFFIXES)}; convert it"
    )
  objects = {}
  number = 0
  dropped = 0
  for number, (place, row) in enumerate(schema.read_rows(path, ()), 1):
    key, listed = _checked(row, rules.EDITIONS[year].column, place, year)
    if gold and rules.EDITIONS[year].aliases:
      objects[key] = [_aliases(item, place, year) for item in listed]
    else:
      objects[key] = _flat(listed) if year == "2026" else _texts(listed, place, year)
      dropped += len(listed) - len(objects[key])
  if not objects:
    raise UserError(f"{path}: expected LM-KBC rows, a JSON object a line, got none")
  return Rows(path, objects, number - len(objects), dropped)


def read_all(paths, year):
  """Reads several files of predictions: dict label -> Rows, the label being the file's name without its suffix.

  Raises:
    UserError: no files, two of one name, or as `read`.
  """
  found = {}
  for path in paths:
    label = re.sub(r"\.jsonl?(\.gz)?$", "", os.path.basename(path))
    if label in found:
      raise UserError(
        f"{path}: expected files of different names, got {label!r} as in {found[label].path}; rename one"
      )
    found[label] = read(path, year)
  if not found:
    raise UserError("--predictions: expected at least one file of LM-KBC rows, got none")
  return found


def align(predictions, gold, year, strict=False):
  """Predicted objects in the order of the gold rows, and counts of what did not fit (`notes` define them).

  Raises:
    UserError: no row of predictions is in gold; a gold row is missing where the edition or `strict` refuses that; with
      `strict` also rows that gold does not have, repeated rows and dropped objects.
  """
  missing = [key for key in gold.objects if key not in predictions.objects]
  unknown = [key for key in predictions.objects if key not in gold.objects]
  counts = {
    "rows": len(predictions.objects),
    "missing": len(missing),
    "unknown": len(unknown),
    "repeated": predictions.repeated,
    "dropped": predictions.dropped,
  }
  if len(missing) == len(gold.objects):
    raise UserError(
      f"{predictions.path}: expected rows of {gold.path}, as {missing[0]}, got none of its "
      f"{len(missing)} rows and {len(unknown)} others, as {unknown[0]}"
    )
  if missing and (strict or rules.EDITIONS[year].complete):
    raise UserError(
      f"{predictions.path}: expected each of the {len(gold.objects)} rows of {gold.path}, got "
      f"{len(missing)} missing, the first {missing[0]}; {'--strict' if strict else f'edition {year}'} "
      "takes no missing row: give an empty list where there is no answer"
    )
  bad = (
    [f"{counts[name]} {name}" for name in ("unknown", "repeated", "dropped") if counts[name]]
    if strict
    else []
  )
  if bad:
    first = f" (the first unknown row: {unknown[0]})" if unknown else ""
    raise UserError(
      f"{predictions.path}: expected with --strict the rows of {gold.path}, each once, and objects that "
      f"are texts; got {', '.join(bad)}{first}"
    )
  return [predictions.objects.get(key, []) for key in gold.objects], counts


def constant_sets(train, year, strict=False):
  """Dict relation -> the constant answer that has the best mean F1 on the rows of train: see `notes`."""
  golds = collections.defaultdict(list)
  for (_, relation), objects in train.objects.items():
    golds[relation].append(objects)
  return {
    relation: _best_prefix(many, relation, rules.EDITIONS[year], strict)
    for relation, many in golds.items()
  }


def diagnose(
  year,
  predictions,
  gold,
  train=None,
  *,
  no_train="no train given",
  strict=False,
  resamples=1000,
  confidence=0.95,
  seed=0,
):
  """Scores of several files and of the baselines on one gold file, as plain values (its `notes` define them).

  Args:
    year: a key of EDITIONS.
    predictions: dict label -> Rows.
    gold, train: Rows read with `gold=True`; without train there is no constant set.
    no_train: why there is no train, in words.
    strict: a gold counts as found once, and whatever does not fit is an error.
    resamples, confidence, seed: of the bootstrap.

  Raises:
    UserError: as `align`.
  """
  aligned = {label: align(rows, gold, year, strict) for label, rows in predictions.items()}
  sets = None if train is None else constant_sets(train, year, strict)
  baselines = {ALL_EMPTY: [[] for _ in gold.objects]}
  if sets is not None:
    baselines[CONSTANT] = [sets.get(relation, []) for _, relation in gold.objects]
  answers = [*(answer for answer, _ in aligned.values()), *baselines.values()]
  relations, rows_L, sums_SxLxRxM = _sums(
    gold.objects, answers, year, strict, resamples, np.random.default_rng(seed)
  )
  found = [measures(sums_LxRxM, rows_L) for sums_LxRxM in sums_SxLxRxM]
  scores = [
    _system(by_name, sums_LxRxM[:, 0], relations, rows_L, confidence)
    for by_name, sums_LxRxM in zip(found, sums_SxLxRxM)
  ]
  first = len(aligned)
  return {
    "format": 1,
    "edition": year,
    "strict": strict,
    "headline": rules.EDITIONS[year].headline,
    "gold": gold.path,
    "rows": len(gold.objects),
    "gold_repeated": gold.repeated,
    "relations": relations,
    **_of_train(train, gold, relations, sets, no_train),
    "confidence": confidence,
    "resamples": resamples,
    "seed": seed,
    "notes": NOTES,
    "systems": {
      label: {"counts": counts, **mine}
      for (label, (_, counts)), mine in zip(aligned.items(), scores)
    },
    "baselines": dict(zip(baselines, scores[first:])),
    "differences": [
      _difference(label, baseline, mine, other, confidence)
      for label, mine in zip(aligned, found)
      for baseline, other in zip(baselines, found[first:])
    ],
  }


def measures(sums_LxRxM, rows_L):
  """All averages of sums over the rows of each relation, a resample a column.

  Args:
    sums_LxRxM: sums of the fields of Score over the rows of each of L relations, in R resamples.
    rows_L: rows of each relation.

  Returns:
    Dict (average, ratio) -> [R]; averages: "rows", "relations", "micro" and "empty".
  """
  column = {name: sums_LxRxM[:, :, place] for place, name in enumerate(rules.Score._fields)}
  total = {name: values_LxR.sum(axis=0) for name, values_LxR in column.items()}
  found = {}
  for name in RATIOS:
    found["rows", name] = total[name] / rows_L.sum()
    found["relations", name] = (column[name] / rows_L[:, None]).mean(axis=0)
  return {
    **found,
    **_ratios(
      "micro",
      _divided(total["right"], total["predicted"], 1.0),
      _divided(total["found"], total["gold"], 1.0),
    ),
    **_ratios(
      "empty",
      _divided(total["both_empty"], total["says_empty"], np.nan),
      _divided(total["both_empty"], total["is_empty"], np.nan),
    ),
  }


def beside(gold):
  """The train.jsonl beside a gold file, and why there is none: (path, None) or (None, reason)."""
  path = os.path.join(os.path.dirname(str(gold)), "train.jsonl")
  if not os.path.exists(path):
    return None, f"there is no {path}"
  if os.path.realpath(path) == os.path.realpath(gold):
    return None, f"{path} is the gold file itself"
  return path, None


def _checked(row, column, place, year):
  """((subject, relation), list of objects) of a row."""
  for name in ("SubjectEntity", "Relation"):
    if not isinstance(row.get(name), str) or not row[name].strip():
      raise UserError(f"{place}: expected a text in {name}, got {_shown(row, name)}")
  if not isinstance(row.get(column), list):
    raise UserError(
      f"{place}: expected a list in {column}, which edition {year} compares, got "
      f"{_shown(row, column)}"
    )
  return (row["SubjectEntity"], row["Relation"]), row[column]


def _shown(row, name):
  return f"{str(row[name])[:60]!r}" if name in row else f"none (columns: {', '.join(row)})"


def _aliases(item, place, year):
  """A gold object as a list of aliases; a single text is taken as one where the edition does so."""
  if isinstance(item, str) and year == "2026":
    return [item]
  if isinstance(item, list) and all(isinstance(text, str) for text in item):
    return item
  raise UserError(
    f"{place}: expected gold objects of edition {year} as lists of aliases (texts), got "
    f"{str(item)[:60]!r}"
  )


def _texts(listed, place, year):
  for item in listed:
    if not isinstance(item, str):
      raise UserError(
        f"{place}: expected objects that are texts, numbers too (edition {year}), got "
        f"{str(item)[:60]}"
      )
  return listed


def _flat(listed):
  """Predictions as 2026 takes them: of a list its first item; what is no text then is dropped."""
  firsts = (item[0] if isinstance(item, list) and item else item for item in listed)
  return [item for item in firsts if isinstance(item, str)]


def _of_train(train, gold, relations, sets, no_train):
  """What the result says of the constant set."""
  if train is None:
    return {"train": None, "no_train": no_train}
  return {
    "train": train.path,
    "train_overlap": len(train.objects.keys() & gold.objects.keys()),
    "unfitted": [name for name in relations if name not in sets],
    "constant_sets": {name: sets.get(name, []) for name in relations},
  }


def _best_prefix(golds, relation, edition, strict):
  """The first 0 to 5 of a relation's most frequent objects, whichever has the best mean F1."""
  names = collections.Counter(
    name for objects in golds for name in dict.fromkeys(_names(objects, edition))
  )
  ranked = sorted(names, key=lambda name: (-names[name], name))[:MOST]

  def total(size):
    return math.fsum(
      rules.score(edition, ranked[:size], objects, relation, strict).f1 for objects in golds
    )

  # Sums that differ by rounding alone are equal, and the smaller set is taken.
  return ranked[: max(range(len(ranked) + 1), key=lambda size: (round(total(size), 9), -size))]


def _names(objects, edition):
  """The name of each gold object, its first alias; no name for "no object" and for an object without aliases."""
  return [
    name
    for name in ((item[0] if item else "") if edition.aliases else item for item in objects)
    if name
  ]


def _sums(golds, answers, year, strict, resamples, rng):
  """Sums of the fields of Score over the rows of each relation, and over resamples of these rows.

  All answers share the draws; the order of the rows in the files changes nothing.

  Returns:
    (relations, rows of each [L], sums [S, L, 1 + R, M] of S answers); the first of 1 + R is of the rows themselves.
  """
  score = functools.partial(rules.score, rules.EDITIONS[year], strict=strict)
  scored = sorted(
    (relation, subject, [value for answer in answers for value in score(answer, gold, relation)])
    for ((subject, relation), gold), *answers in zip(golds.items(), *answers)
  )
  relations = []
  rows = []
  sums = []
  for relation, group in itertools.groupby(scored, key=lambda row: row[0]):
    values_NxK = np.array([values for _, _, values in group], np.float64)
    relations.append(relation)
    rows.append(len(values_NxK))
    sums.append(_resampled(values_NxK, resamples, rng))
  sums_LxRxSxM = np.stack(sums).reshape(len(rows), 1 + resamples, len(answers), -1)
  return relations, np.array(rows), np.moveaxis(sums_LxRxSxM, 2, 0)


def _resampled(values_NxK, resamples, rng):
  """Sums of the columns over the rows and, below, over each resample of them: [1 + R, K]."""
  cells_CxK, code_N = np.unique(values_NxK, axis=0, return_inverse=True)
  draw = statistics.make_draw(len(values_NxK), resamples, rng)
  (counts_RxC,) = statistics.cell_counts(draw, [code_N.reshape(-1)], [len(cells_CxK)])
  return np.vstack([values_NxK.sum(axis=0), counts_RxC @ cells_CxK])


def _ratios(average, precision_R, recall_R):
  """Precision and recall with their harmonic mean, which is 0 where both are 0 and NaN where one is."""
  both_R = precision_R + recall_R
  f1_R = np.where(both_R == 0, 0.0, 2 * precision_R * recall_R / np.where(both_R == 0, 1.0, both_R))
  return {(average, name): values for name, values in zip(RATIOS, (precision_R, recall_R, f1_R))}


def _divided(above_R, below_R, otherwise):
  return np.where(below_R > 0, above_R / np.where(below_R > 0, below_R, 1.0), otherwise)


def _estimate(values_R, confidence):
  """The value itself, which comes first, with the interval of the resamples after it."""
  low, high = statistics.interval(values_R[1:], confidence)
  plain = [None if math.isnan(value) else float(value) for value in (values_R[0], low, high)]
  return dict(zip(("mean", "low", "high"), plain if plain[0] is not None else [None] * 3))


def _system(by_name, sums_LxM, relations, rows_L, confidence):
  """The scores of one answer in the form of lm_kbc.json."""
  found = {
    average: {name: _estimate(by_name[average, name], confidence) for name in RATIOS}
    for average in (*AVERAGES, "empty")
  }
  column = dict(zip(rules.Score._fields, sums_LxM.T))
  numbers = {"gold": "is_empty", "predicted": "says_empty", "both": "both_empty"}
  counts = {
    "objects": "predicted",
    "gold_objects": "gold",
    "empty": "says_empty",
    "gold_empty": "is_empty",
  }
  by_relation = {
    relation: {
      "rows": int(rows_L[i]),
      **{name: float(column[name][i] / rows_L[i]) for name in RATIOS},
      **{name: int(column[field][i]) for name, field in counts.items()},
    }
    for i, relation in enumerate(relations)
  }
  numbers = {name: int(column[field].sum()) for name, field in numbers.items()}
  return {**found, "empty": {**numbers, **found["empty"]}, "by_relation": by_relation}


def _difference(label, baseline, mine, other, confidence):
  return {
    "system": label,
    "baseline": baseline,
    **{
      average: _estimate(mine[average, "f1"] - other[average, "f1"], confidence)
      for average in AVERAGES
    },
  }

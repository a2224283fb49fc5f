"""Tables of a diagnosis as pandas DataFrames, and as csv files of the same contents.

An estimate takes three columns: its name, and the name with _low and _high for its interval.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from factshock.runtime import tables
from factshock.runtime.tables import Frame

Json: TypeAlias = Mapping[str, Any]
_Row: TypeAlias = dict[str, Any]

# Sections of an arm that hold estimates; errors and flips are named after them.
_SECTIONS = {"shock": "", "errors": "error_", "flips": ""}
_NUMBERS_OF_A_RATIO = ("predicted", "gold")
_COMPARED = ("wins", "losses", "mcnemar_p", "mcnemar_mid_p", "seeds_same_sign")


def arms(diagnosis: Json) -> Frame:
  """Returns a row for each arm, by its label: queries, and every measure with its interval.

  Args:
    diagnosis: as diagnosis.json holds it.

  Returns:
    Columns such as right, right_low, right_high, f1, shock, rare_seen (predicted / gold),
    rare_seen_predicted, known_kept; NaN where an arm lacks a measure.
  """
  titles: Mapping[str, str] = diagnosis.get("titles") or {}
  rows: list[_Row] = []
  for label, arm in cast(Mapping[str, Json], diagnosis["arms"]).items():
    row: _Row = {"arm": label}
    if titles:
      row["title"] = titles.get(label)
    rows.append(row | _arm(arm))
  return tables.frame(rows, ("arm",), index="arm")


def comparisons(diagnosis: Json) -> Frame:
  """Returns a row for each paired comparison: the difference of right answers, and its tests.

  Args:
    diagnosis: as diagnosis.json holds it.
  """
  rows: list[_Row] = []
  for comparison in cast(Sequence[Json], diagnosis["comparisons"]):
    row: _Row = {"arm": comparison["arm"], "against": comparison["against"]}
    for name in ("difference", "difference_known", "difference_unknown"):
      row |= _estimate(name, comparison.get(name))
    row |= {name: comparison[name] for name in _COMPARED}
    differences: Mapping[str, Json] = comparison.get("ratio_difference") or {}
    for group, value in differences.items():
      row |= _estimate(f"{group}_difference", value)
    rows.append(row)
  return tables.frame(rows, ("arm", "against", "difference", "difference_low", "difference_high"))


def entities(diagnosis: Json) -> Frame:
  """Returns a row for each answer and seed: how often it is gold, finetuned on and predicted.

  Args:
    diagnosis: as diagnosis.json holds it.

  Returns:
    Columns seed, relation, entity, pretraining (mentions in the text), finetuning, gold, pressure,
    group, and predicted_LABEL for each arm.
  """
  rows: list[_Row] = []
  for entity in cast(Sequence[Json], diagnosis["entities"]):
    row = {name: value for name, value in entity.items() if name != "predicted"}
    for label, count in cast(Json, entity["predicted"]).items():
      row[f"predicted_{label}"] = count
    rows.append(row)
  return tables.frame(rows, ("seed", "relation", "entity", "gold"))


def relations(diagnosis: Json) -> Frame:
  """Returns a row for each arm and relation: the share of right answers.

  Args:
    diagnosis: as diagnosis.json holds it.
  """
  rows: list[_Row] = []
  for label, arm in cast(Mapping[str, Json], diagnosis["arms"]).items():
    by_relation: Mapping[str, Json] = arm.get("by_relation") or {}
    for relation, value in by_relation.items():
      rows.append({"arm": label, "relation": relation, **_estimate("right", value)})
  return tables.frame(rows, ("arm", "relation", "right", "right_low", "right_high"))


TABLES = {"arms": arms, "comparisons": comparisons, "entities": entities}


def write(diagnosis: Json, folder: str | os.PathLike[str]) -> list[str]:
  """Writes arms.csv, comparisons.csv and entities.csv; each file is whole or absent.

  Args:
    diagnosis: as diagnosis.json holds it.
    folder: where to write; made where it is missing.

  Returns:
    The paths of the files.
  """
  paths: list[str] = []
  for name, make in TABLES.items():
    path = os.path.join(folder, f"{name}.csv")
    tables.write_csv(path, make(diagnosis))
    paths.append(path)
  return paths


def _arm(arm: Json) -> _Row:
  """Returns the columns of an arm."""
  row: _Row = {"queries": arm["queries"]}
  for name, value in arm.items():
    if _is_estimate(value):
      row |= _estimate(name, value)
  for section, prefix in _SECTIONS.items():
    estimates: Json = arm.get(section) or {}
    for name, value in estimates.items():
      if _is_estimate(value):
        row |= _estimate(prefix + name, value)
  shock: Json = arm.get("shock") or {}
  ratios: Mapping[str, Json] = shock.get("ratio") or {}
  for group, ratio in ratios.items():
    row |= _estimate(group, ratio)
    row |= {f"{group}_{name}": ratio[name] for name in _NUMBERS_OF_A_RATIO}
  return row


def _is_estimate(value: Any) -> bool:
  return isinstance(value, Mapping) and "mean" in value


def _estimate(name: str, value: Json | None) -> _Row:
  """Returns the three columns of an estimate; none where there is none."""
  if not value:
    return {}
  interval = {f"{name}_{end}": value[end] for end in ("low", "high")}
  return {name: value["mean"], **interval}

"""Tables of a diagnosis as HTML: arms, relations, comparisons, entities and the verdict."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from factshock.report import numbers, plots, reading, shock_plots
from factshock.report.markup import DASH, Row, bar, cell, count_cell, difference, table, text
from factshock.report.numbers import (
  ZERO,
  KnownEstimate,
  finite,
  known_estimate,
  ratio,
  share,
  span_of,
)
from factshock.report.reading import estimate
from factshock.report.schema import Comparison, Diagnosis, EntityRow

GROUP_TITLES = {
  "baseline": "Baselines",
  "remedy": "Remedies",
  "control": "Controls",
  "which facts": "Which facts to finetune on",
  "": "Arms",
}


class _Column(NamedTuple):
  """Column of the table of arms: its head, and the cell of a label, or None."""

  head: str
  cell_of: Callable[[str], str | None]


def arms(diagnosis: Diagnosis) -> str:
  """Returns the table of arms: share right in numbers and drawn, and measures of shock.

  Columns without any number are left out.
  """
  labels = reading.table_labels(diagnosis)
  columns = [
    column
    for column in _arm_columns(diagnosis)
    if any(column.cell_of(label) is not None for label in labels)
  ]
  bars = span_of([estimate(diagnosis, label, "right") for label in labels])
  zero_shot = reading.mean(diagnosis, reading.roles(diagnosis)["zero_shot"], "right")
  has_groups = any(reading.group(diagnosis, label) for label in labels)

  rows: list[Row] = []
  last_group = None
  for label in _by_group(diagnosis, labels):
    group = reading.group(diagnosis, label)
    if has_groups and group != last_group:
      rows.append(text(GROUP_TITLES.get(group, group)))
    last_group = group
    right = estimate(diagnosis, label, "right")
    title = text(reading.title(diagnosis, label))
    measures = [column.cell_of(label) or DASH for column in columns]
    rows.append([title, cell(right), bar(right, bars, zero_shot), *measures])
  head = ["Arm", reading.criterion(diagnosis).capitalize(), ""]
  return table([*head, *(column.head for column in columns)], rows, "arms")


def _by_group(
  diagnosis: Diagnosis,
  labels: Sequence[str],
) -> list[str]:
  groups: list[str] = []
  for label in labels:
    group = reading.group(diagnosis, label)
    if group not in groups:
      groups.append(group)
  return sorted(labels, key=lambda label: groups.index(reading.group(diagnosis, label)))


def _arm_columns(diagnosis: Diagnosis) -> list[_Column]:
  """Returns the columns after the share right."""

  def measure(head: str, *path: str) -> _Column:
    def cell_of(label: str) -> str | None:
      known = estimate(diagnosis, label, *path)
      if known is None:
        return None
      return cell(known, ratio)

    return _Column(head, cell_of)

  ratios = []
  for name, title in reading.GROUPS.items():
    lines = text(title.lower()).replace(" ", "<br>")
    ratios.append(measure(f"Ratio<br>{lines}", "shock", "ratio", name))
  return [
    *ratios,
    measure("Shock", "shock", "shock"),
    measure("Shock<br>slope", "shock", "slope"),
    measure("Total<br>variation", "shock", "total_variation"),
    measure("Known<br>kept", "known_kept"),
    _Column("Gained<br>/ lost", lambda label: _flips(diagnosis, label)),
    _Column("Chosen on<br>dev facts", lambda label: _selected(diagnosis, label)),
  ]


def _flips(diagnosis: Diagnosis, label: str) -> str | None:
  gained = reading.mean(diagnosis, label, "flips", "gained")
  lost = reading.mean(diagnosis, label, "flips", "lost")
  return None if gained is None or lost is None else f"{ratio(gained)} / {ratio(lost)}"


def _selected(diagnosis: Diagnosis, label: str) -> str | None:
  """Returns what was chosen on development facts, "alpha .4, .5", or None."""
  by_seed = (diagnosis.get("selected") or {}).get(label) or {}
  keys: dict[str, None] = {}
  for row in by_seed.values():
    keys |= {key: None for key in row if key != "development"}
  lines = []
  for key in keys:
    values = [row[key] for row in by_seed.values() if key in row]
    lines.append(f"{text(key)}<br>{text(_listed(values))}")
  return "<br>".join(lines) or None


def _listed(values: Sequence[Any]) -> str:
  """Returns the values of all seeds, or the one value where all are the same."""
  if len({json.dumps(value) for value in values}) == 1:
    values = values[:1]
  return ", ".join(f"{value:g}" if finite(value) is not None else str(value) for value in values)


def evidence(diagnosis: Diagnosis) -> str:
  """Returns the table of differences that a verdict rests on."""
  verdict = diagnosis.get("verdict") or {}
  finetuned = _titled(diagnosis, verdict.get("finetuned"))
  corrected = _titled(diagnosis, verdict.get("corrected"))
  reference = _titled(diagnosis, verdict.get("reference"))
  known = ""
  if verdict.get("known"):
    known = f" on facts that {_titled(diagnosis, verdict.get('known'))} has right"
  compared = {
    "loss": ("Loss or gain", f"{finetuned} minus {reference}"),
    "prior": ("The prior", f"{corrected} minus {finetuned}"),
    "access": ("Access", f"{corrected} minus {reference}{known}"),
    "knowledge": ("New knowledge", f"{finetuned} minus {reference} on the other facts"),
  }
  rows = []
  differences = verdict.get("evidence") or {}
  for key, (head, pair) in compared.items():
    size = known_estimate(differences.get(key))
    if size:
      rows.append([head, pair, difference(size)])
  return table(["", "Compared", "Difference"], rows, "pairs")


def _titled(diagnosis: Diagnosis, label: str | None) -> str:
  """Returns the title of an arm as HTML, "?" where it is not given."""
  return text(reading.title(diagnosis, label)) if label else "?"


def relations(diagnosis: Diagnosis) -> str | None:
  """Returns the share right in each relation and type of relation; None where there is one.

  Its columns are the arms that are drawn by popularity.
  """
  labels = [
    label
    for label in plots.main_arms(diagnosis)
    if diagnosis["arms"].get(label, {}).get("by_relation")
  ]
  if not labels:
    return None
  means = [cell(estimate(diagnosis, label, "macro_right")) for label in labels]
  rows: list[Row] = [["Mean of relations", *means]]
  rows += _relation_rows(diagnosis, labels, "by_type", "Mean of the relations of a type")
  rows += _relation_rows(diagnosis, labels, "by_relation", "Relations")
  titles = [text(reading.title(diagnosis, label)) for label in labels]
  return table(["Relation", *titles], rows, "relations")


def _relation_rows(
  diagnosis: Diagnosis,
  labels: Sequence[str],
  key: str,
  heading: str,
) -> list[Row]:
  """Returns a row for each relation or type under `key`, below a heading; none without any."""
  names: dict[str, None] = {}
  for label in labels:
    by_name = diagnosis["arms"][label].get(key) or {}
    names |= dict.fromkeys(by_name)
  if not names:
    return []
  rows: list[Row] = [heading]
  for name in names:
    cells = [cell(estimate(diagnosis, label, key, name)) for label in labels]
    title = text(reading.relation(diagnosis, name))
    rows.append([title, *cells])
  return rows


def comparisons(diagnosis: Diagnosis) -> str:
  """Returns the paired comparisons; differences whose interval excludes 0 are bold."""
  points = reading.curve_labels(diagnosis)
  rows = [
    (row, known_estimate(row.get("difference")))
    for row in diagnosis.get("comparisons") or []
    if row.get("arm") not in points and row.get("against") not in points
  ]
  bars = span_of([size for _, size in rows] + [ZERO])
  head = [
    "Arm",
    "against",
    "Difference",
    "",
    "McNemar p",
    "Only arm<br>right",
    "Only other<br>right",
    "Seeds of<br>same sign",
  ]
  return table(head, [_comparison(diagnosis, row, size, bars) for row, size in rows], "pairs")


def _comparison(
  diagnosis: Diagnosis,
  row: Comparison,
  size: KnownEstimate | None,
  bars: tuple[float, float],
) -> list[str]:
  return [
    text(reading.title(diagnosis, row.get("arm"))),
    text(reading.title(diagnosis, row.get("against"))),
    difference(size),
    bar(size, bars, 0.0),
    _p_value(row.get("mcnemar_p")),
    count_cell(row.get("wins")),
    count_cell(row.get("losses")),
    text(row.get("seeds_same_sign") or numbers.DASH),
  ]


def _p_value(value: float | None) -> str:
  value = finite(value)
  if value is None:
    return DASH
  return "&lt; .001" if value < 0.001 else share(value)


def extreme_entities(
  diagnosis: Diagnosis,
  label: str,
  most: int = 8,
) -> tuple[list[EntityRow], list[EntityRow]]:
  """Returns the entities that an arm predicts furthest too often, and furthest too rarely.

  The furthest come first; entities predicted as often as they are right are in neither list.
  """
  ranked = []
  for row in diagnosis.get("entities") or []:
    predicted = (row.get("predicted") or {}).get(label)
    gold = row.get("gold")
    if predicted is not None and gold is not None:
      ranked.append((predicted - gold, row))
  ranked.sort(key=lambda pair: -pair[0])
  over = [row for surplus, row in ranked[:most] if surplus > 0]
  under = [row for surplus, row in reversed(ranked[-most:]) if surplus < 0]
  return over, under


def entities(diagnosis: Diagnosis, label: str) -> str:
  """Returns an arm's most over- and under-predicted entities, beside the arms drawn with it."""
  over, under = extreme_entities(diagnosis, label)
  others = [other for other in shock_plots.pressure_arms(diagnosis) if other != label]
  labels = [label, *others]
  show_seed = len({row.get("seed") for row in diagnosis.get("entities") or []}) > 1
  head = ["Answer", "Gold"]
  head += [f"Predicted<br>{text(reading.title(diagnosis, arm))}" for arm in labels]
  head += ["In pre-<br>training", "In fine-<br>tuning", "Group", "Relation"]
  if show_seed:
    head.append("Seed")

  rows: list[Row] = []
  for heading, listed in (("Most over-predicted", over), ("Most under-predicted", under)):
    if listed:
      rows.append(heading)
    for row in listed:
      seed = [text(row.get("seed"))] if show_seed else []
      rows.append([*_entity(diagnosis, row, labels), *seed])
  return table(head, rows, "entities")


def _entity(
  diagnosis: Diagnosis,
  row: EntityRow,
  labels: Sequence[str],
) -> list[str]:
  by_arm = row.get("predicted") or {}
  first, *others = [count_cell(by_arm.get(label)) for label in labels]
  group = row.get("group") or numbers.DASH
  return [
    text(row.get("entity")),
    count_cell(row.get("gold")),
    f"<b>{first}</b>",
    *others,
    count_cell(row.get("pretraining")),
    count_cell(row.get("finetuning")),
    text(reading.GROUPS.get(group, group)),
    text(reading.relation(diagnosis, row.get("relation", ""))),
  ]

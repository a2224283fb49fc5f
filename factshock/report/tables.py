"""Tables of a diagnosis as HTML: arms, relations, comparisons, entities and the verdict."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from factshock.report import numbers, plots, reading, shock_plots
from factshock.report.document import folded
from factshock.report.markup import (
  DASH,
  Row,
  bar,
  cell,
  count_cell,
  difference,
  long_table,
  table,
  text,
)
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
from factshock.report.schema import Comparison, Diagnosis, EntityRow, PaperClaim

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

  The arms that play a part come first, the others below are folded. Columns without any number are
  left out.
  """
  labels = reading.table_labels(diagnosis)
  main = reading.main_labels(diagnosis)
  columns = []
  for column in _arm_columns(diagnosis):
    cells = [column.cell_of(label) for label in labels]
    if any(shown is not None for shown in cells):
      columns.append(column)
  rest = [label for label in labels if label not in main]
  source = _arms_table(diagnosis, main, columns)
  if rest:
    source += folded(f"The other {len(rest)} arms", _arms_table(diagnosis, rest, columns))
  return source


def _arms_table(
  diagnosis: Diagnosis,
  labels: Sequence[str],
  columns: Sequence[_Column],
) -> str:
  """Returns a table of some of the arms; all such tables have the same columns and scale."""
  every_label = reading.table_labels(diagnosis)
  bars = span_of([estimate(diagnosis, label, "right") for label in every_label])
  roles = reading.roles(diagnosis)
  zero_shot = reading.mean(diagnosis, roles["zero_shot"], "right")
  has_groups = any(reading.group(diagnosis, label) for label in every_label)

  rows: list[Row] = []
  last_group = None
  for label in _by_group(diagnosis, labels):
    group = reading.group(diagnosis, label)
    if has_groups and group != last_group:
      rows.append(text(GROUP_TITLES.get(group, group)))
    last_group = group
    right = estimate(diagnosis, label, "right")
    title = text(reading.title(diagnosis, label)) + _selected(diagnosis, label)
    measures = [column.cell_of(label) or DASH for column in columns]
    drawn = bar(right, bars, zero_shot)
    rows.append([title, cell(right), drawn, *measures])
  criterion = reading.criterion(diagnosis)
  head = ["Arm", criterion.capitalize(), ""]
  head += [column.head for column in columns]
  return table(head, rows, "arms")


def _by_group(
  diagnosis: Diagnosis,
  labels: Sequence[str],
) -> list[str]:
  groups: list[str] = []
  for label in labels:
    group = reading.group(diagnosis, label)
    if group not in groups:
      groups.append(group)

  def rank(label: str) -> int:
    return groups.index(reading.group(diagnosis, label))

  return sorted(labels, key=rank)


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
    _Column("Gained<br>/ lost", functools.partial(_flips, diagnosis)),
  ]


def _flips(diagnosis: Diagnosis, label: str) -> str | None:
  gained = reading.mean(diagnosis, label, "flips", "gained")
  lost = reading.mean(diagnosis, label, "flips", "lost")
  if gained is None or lost is None:
    return None
  return f"{ratio(gained)} / {ratio(lost)}"


def _selected(diagnosis: Diagnosis, label: str) -> str:
  """Returns what was chosen on development facts, "alpha .4, .5", in small type; "" for nothing."""
  selected = diagnosis.get("selected") or {}
  by_seed = selected.get(label) or {}
  keys: dict[str, None] = {}
  for row in by_seed.values():
    for key in row:
      if key != "development":
        keys[key] = None
  lines = []
  for key in keys:
    values = [row[key] for row in by_seed.values() if key in row]
    listed = text(_listed(values))
    lines.append(f"{text(key)} {listed}")
  if reading.nothing_chosen(diagnosis, label):
    lines.append(text(f"({reading.nothing_chosen(diagnosis, label)})"))
  return f"<small>{'<br>'.join(lines)}</small>" if lines else ""


def _listed(values: Sequence[Any]) -> str:
  """Returns the values of all seeds, or the one value where all are the same."""
  different = {json.dumps(value) for value in values}
  if len(different) == 1:
    values = values[:1]
  texts = []
  for value in values:
    is_number = finite(value) is not None
    texts.append(f"{value:g}" if is_number else str(value))
  return ", ".join(texts)


def evidence(diagnosis: Diagnosis) -> str:
  """Returns the table of differences that a verdict rests on."""
  verdict = diagnosis.get("verdict") or {}
  finetuned = _titled(diagnosis, verdict.get("finetuned"))
  corrected = _titled(diagnosis, verdict.get("corrected"))
  reference = _titled(diagnosis, verdict.get("reference"))
  known = ""
  if verdict.get("known"):
    known_arm = _titled(diagnosis, verdict.get("known"))
    known = f" on facts that {known_arm} has right"
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
  if not label:
    return "?"
  return text(reading.title(diagnosis, label))


def relations(diagnosis: Diagnosis) -> str | None:
  """Returns the share right in each relation and type of relation; None where there is one.

  Its columns are the arms that are drawn by popularity.
  """
  labels = []
  for label in plots.main_arms(diagnosis):
    arm = diagnosis["arms"].get(label, {})
    if arm.get("by_relation"):
      labels.append(label)
  if not labels:
    return None
  means = [estimate(diagnosis, label, "macro_right") for label in labels]
  rows: list[Row] = [["Mean of relations", *map(cell, means)]]
  rows += _relation_rows(diagnosis, labels, "by_type", "Mean of the relations of a type")
  rows += _relation_rows(diagnosis, labels, "by_relation", "Relations")
  titles = [text(reading.title(diagnosis, label)) for label in labels]
  return long_table(["Relation", *titles], rows, "relations")


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
    estimates = [estimate(diagnosis, label, key, name) for label in labels]
    title = text(reading.relation(diagnosis, name))
    rows.append([title, *map(cell, estimates)])
  return rows


def comparisons(diagnosis: Diagnosis, few: int = 12) -> str:
  """Returns the paired comparisons; differences whose interval excludes 0 are bold.

  Those of arms that play a part with finetuning and zero-shot come first, the others below are
  folded; none is where there are few.
  """
  points = reading.curve_labels(diagnosis)
  rows = []
  for row in diagnosis.get("comparisons") or []:
    compared = {row.get("arm"), row.get("against")}
    if not compared & points:
      size = known_estimate(row.get("difference"))
      rows.append((row, size))
  sizes = [size for _, size in rows]
  bars = span_of([*sizes, ZERO])
  main = {row for row, _ in enumerate(rows) if _is_main(diagnosis, rows[row][0])}
  if len(rows) <= few or not main:
    main = set(range(len(rows)))
  cells = [_comparison(diagnosis, row, size, bars) for row, size in rows]
  source = _pairs([row for index, row in enumerate(cells) if index in main])
  rest = [row for index, row in enumerate(cells) if index not in main]
  if rest:
    source += folded(f"The other {len(rest)} comparisons", _pairs(rest))
  return source


def _is_main(diagnosis: Diagnosis, row: Comparison) -> bool:
  """Returns whether an arm that plays a part is compared with finetuning or zero-shot."""
  roles = reading.roles(diagnosis)
  against = (roles["finetuned"], roles["zero_shot"])
  return row.get("against") in against and row.get("arm") in reading.main_labels(diagnosis)


def _pairs(rows: Sequence[Row]) -> str:
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
  return table(head, rows, "pairs")


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
  if value < 0.001:
    return "&lt; .001"
  return share(value)


def claims(diagnosis: Diagnosis) -> str | None:
  """Returns the papers' claims with what was found of each, a part a paper; None without any."""
  rows = diagnosis.get("claims") or []
  if not rows:
    return None
  body: list[Row] = []
  for paper in dict.fromkeys(row.get("paper") or "" for row in rows):
    body.append(text(paper))
    body += [_claim(diagnosis, row) for row in rows if row.get("paper") == paper]
  head = ["Claim", "Here", "Compared", "Difference", "Visible"]
  return table(head, body, "claims")


_CLAIMED = {
  "right": "share right",
  "rare_seen": "rare answers seen, predicted / right",
  "common_unseen": "common answers not seen, predicted / right",
  "attention": "attention to the subject",
}


def _claim(diagnosis: Diagnosis, row: PaperClaim) -> list[str]:
  measure = row.get("measure") or ""
  visible = finite(row.get("visible"))
  arm = text(reading.title(diagnosis, row.get("arm")))
  against = text(reading.title(diagnosis, row.get("against")))
  return [
    text(row.get("claim") or ""),
    f"<b>{text(row.get('finding') or numbers.DASH)}</b>",
    f"{arm} &minus; {against}<br><small>{text(_CLAIMED.get(measure, measure))}</small>",
    difference(known_estimate(row.get("difference"))),
    DASH if visible is None else share(visible),
  ]


def extreme_entities(
  diagnosis: Diagnosis,
  label: str,
  most: int = 8,
) -> tuple[list[EntityRow], list[EntityRow]]:
  """Returns the entities that an arm predicts furthest too often, and furthest too rarely.

  The furthest come first; entities predicted as often as they are right are in neither list.
  """
  ranked = []
  rows = diagnosis.get("entities") or []
  for row in rows:
    by_arm = row.get("predicted") or {}
    predicted = by_arm.get(label)
    gold = row.get("gold")
    if predicted is not None and gold is not None:
      ranked.append((predicted - gold, row))
  ranked.sort(key=lambda pair: -pair[0])
  highest = ranked[:most]
  lowest = ranked[-most:]
  over = [row for surplus, row in highest if surplus > 0]
  under = [row for surplus, row in reversed(lowest) if surplus < 0]
  return over, under


def entities(diagnosis: Diagnosis, label: str) -> str:
  """Returns an arm's most over- and under-predicted entities, beside the arms drawn with it."""
  over, under = extreme_entities(diagnosis, label)
  others = [other for other in shock_plots.pressure_arms(diagnosis) if other != label]
  labels = [label, *others]
  seeds = {row.get("seed") for row in diagnosis.get("entities") or []}
  show_seed = len(seeds) > 1
  head = ["Answer", "Gold"]
  for arm in labels:
    title = text(reading.title(diagnosis, arm))
    head.append(f"Predicted<br>{title}")
  head += ["In pre-<br>training", "In fine-<br>tuning", "Group", "Relation"]
  if show_seed:
    head.append("Seed")

  blocks = {"Most over-predicted": over, "Most under-predicted": under}
  rows: list[Row] = []
  for heading, listed in blocks.items():
    if listed:
      rows.append(heading)
    for row in listed:
      cells = _entity(diagnosis, row, labels)
      if show_seed:
        cells.append(text(row.get("seed")))
      rows.append(cells)
  return table(head, rows, "entities")


def _entity(
  diagnosis: Diagnosis,
  row: EntityRow,
  labels: Sequence[str],
) -> list[str]:
  by_arm = row.get("predicted") or {}
  counts = [by_arm.get(label) for label in labels]
  first, *others = map(count_cell, counts)
  group = row.get("group") or numbers.DASH
  relation = reading.relation(diagnosis, row.get("relation", ""))
  return [
    text(row.get("entity")),
    count_cell(row.get("gold")),
    f"<b>{first}</b>",
    *others,
    count_cell(row.get("pretraining")),
    count_cell(row.get("finetuning")),
    text(reading.GROUPS.get(group, group)),
    f'<span class="wrap">{text(relation)}</span>',
  ]

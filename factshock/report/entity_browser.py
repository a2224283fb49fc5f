"""All entities by name: a table to sort and search, and a scatter whose points name themselves.

The data stand in the page as JSON; the script is ours alone, and the page's policy allows just it,
by its digest.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from factshock.report import reading
from factshock.report.entity_script import SCRIPT
from factshock.report.numbers import DASH, finite
from factshock.report.schema import Diagnosis, EntityRow

POINTS = 3000  # the most that a scatter draws, those with the most answers first

_SHA256 = hashlib.sha256(SCRIPT.encode()).digest()
DIGEST = "sha256-" + base64.b64encode(_SHA256).decode()

_HEADS = ("Answer", "Relation", "Gold", "In pretraining", "In finetuning", "Group")


class Table(NamedTuple):
  """All answers with their counts.

  A row: answer, relation, gold, pretraining, finetuning, group, then a count for each of `labels`
  (None where an arm has no predictions of it).
  """

  heads: list[str]
  rows: list[list[Any]]
  labels: list[str]


@dataclass
class _Counts:
  """Counts of one answer of a relation, added up over seeds."""

  group: str | None
  predicted: dict[str, float | None]
  gold: float = 0
  finetuning: float = 0
  pretraining: list[float] = field(default_factory=list)

  def add(self, row: EntityRow) -> None:
    pretraining = finite(row.get("pretraining")) or 0
    self.gold += finite(row.get("gold")) or 0
    self.finetuning += finite(row.get("finetuning")) or 0
    self.pretraining.append(pretraining)
    predicted = row.get("predicted") or {}
    for label, count in predicted.items():
      if finite(count) is not None:
        self.predicted[label] = (self.predicted[label] or 0) + count


def make_table(diagnosis: Diagnosis) -> Table:
  """Returns each answer of a relation with its counts, and how often each arm predicted it.

  Counts are added up over seeds, but for the pretraining count, which is their mean.
  """
  entities = diagnosis.get("entities") or []
  labels = _predicting_labels(entities)
  by_answer: dict[tuple[str, str], _Counts] = {}
  for row in entities:
    answer = str(row.get("entity"))
    relation = reading.relation(diagnosis, row.get("relation", ""))
    key = (answer, relation)
    if key not in by_answer:
      by_answer[key] = _Counts(row.get("group"), dict.fromkeys(labels))
    by_answer[key].add(row)
  titles = [reading.title(diagnosis, label) for label in labels]
  rows = [[*key, *_cells(counts)] for key, counts in by_answer.items()]
  return Table([*_HEADS, *titles], rows, labels)


def _predicting_labels(entities: Sequence[EntityRow]) -> list[str]:
  labels: dict[str, None] = {}
  for row in entities:
    predicted = row.get("predicted") or {}
    for label in predicted:
      labels[label] = None
  return list(labels)


def _cells(counts: _Counts) -> list[Any]:
  """Returns the row of an answer after its name and relation."""
  pretraining = sum(counts.pretraining) / len(counts.pretraining)
  group = counts.group or DASH
  return [
    _whole(counts.gold),
    _whole(round(pretraining, 1)),
    _whole(counts.finetuning),
    reading.GROUPS.get(group, group),
    *map(_whole, counts.predicted.values()),
  ]


def _whole(value: float | None) -> float | None:
  """Returns a whole number as an int, so that JSON and page write no ".0"."""
  known = finite(value)
  if known is None:
    return value
  if known.is_integer():
    return int(known)
  return value


def _drawn(rows: Sequence[Sequence[Any]]) -> list[int]:
  """Returns which rows are drawn: gold or finetuning answers, the most frequent ones first."""

  def frequency(index: int) -> float:
    row = rows[index]
    predicted = row[len(_HEADS) :]
    return row[2] + max(value or 0 for value in predicted)

  drawn = []
  for index, row in enumerate(rows):
    if row[2] > 0 or row[4] > 0:
      drawn.append(index)
  drawn.sort(key=lambda index: -frequency(index))
  return drawn[:POINTS]


def render(diagnosis: Diagnosis) -> str:
  """Returns the table and the scatter as HTML; "" where the diagnosis names no entities."""
  table = make_table(diagnosis)
  if not table.rows:
    return ""
  finetuned = reading.roles(diagnosis)["finetuned"]
  arm = table.labels.index(finetuned) if finetuned in table.labels else 0
  data = {
    "heads": table.heads,
    "rows": table.rows,
    "points": _drawn(table.rows),
    "arm": arm,
  }
  # No name in the data may end the script element that holds it.
  source = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
  return (
    '<p><label>Predicted by <select id="entity-arm"></select></label></p>\n'
    '<svg id="entity-plot" viewBox="0 0 760 420" role="img" '
    'aria-label="Over-prediction of each answer against its counts"></svg>\n'
    '<p><label>Search <input id="entity-search" type="search" '
    'placeholder="an answer or a relation"></label> <span id="entity-said"></span></p>\n'
    '<div class="scroll"><table class="browser"><thead><tr id="entity-heads"></tr></thead>'
    '<tbody id="entity-body"></tbody></table></div>\n'
    '<p><button id="entity-more">Show more</button></p>\n'
    f'<script type="application/json" id="entity-data">{source}</script>\n'
    f"<script>{SCRIPT}</script>"
  )

"""Page on an extraction: what was accepted, whether its confidences hold, what was dropped.

One self-contained page that loads nothing and runs nothing; every text that comes from data is
escaped.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from factshock.report import document, extraction_plots, extraction_text, markup, numbers
from factshock.report.canvas import Panel
from factshock.report.document import caption
from factshock.report.extraction_captions import READING, TITLES, WHY_NOT
from factshock.report.extraction_text import pooled, shown_precision, title
from factshock.report.markup import DASH, bar, cell, count_cell, difference, share_cell, text
from factshock.report.numbers import (
  KnownEstimate,
  count,
  finite,
  known_estimate,
  percent,
  share,
  span_of,
)
from factshock.report.schema import Extraction, QualityGroup
from factshock.runtime.errors import UserError


def write_report(
  extraction: Mapping[str, Any],
  folder: str | os.PathLike[str],
) -> str:
  """Writes folder/report.html and folder/figures/*.svg; returns the path of the page.

  Parts that are missing are left out of the page, with a sentence that says why.

  Args:
    extraction: any of run, counts, promise, quality (calibration.quality, on held-out answers),
      relations, over_predicted, conflicts, outputs and notes.
    folder: where to write; made where it is missing.

  Raises:
    UserError: the extraction is no dict or empty, or the folder cannot be written.
  """
  if not isinstance(extraction, dict) or not extraction:
    raise UserError(
      'extraction: expected a dict with parts such as "counts" and "quality", got '
      f"{type(extraction).__name__} without any"
    )
  tidied = cast(Extraction, numbers.without_none(extraction))
  pictures = extraction_plots.draw(tidied.get("quality") or {})
  return document.write_files(render(tidied, pictures), pictures, folder)


def render(
  extraction: Extraction,
  pictures: Mapping[str, Sequence[Panel]],
) -> str:
  """Returns the page, of an extraction without None and its pictures."""
  heading = text(_name(extraction))
  parts = {
    "quality": _quality(extraction),
    "reliability": _picture(extraction, pictures, "reliability"),
    "risk": _picture(extraction, pictures, "risk"),
    "yields": _yields(extraction),
    "relations": _relations(extraction),
    "over_predicted": _over_predicted(extraction),
    "conflicts": _conflicts(extraction),
    "outputs": _outputs(extraction),
    "run": _run(extraction),
    "notes": _notes(extraction),
  }
  sections = [document.section(TITLES[key], part) for key, part in parts.items() if part]
  missing = [(TITLES[key], _why_not(extraction, key)) for key, part in parts.items() if not part]
  body = "\n".join([_top(extraction, heading), *sections, document.left_out(missing)])
  return document.document(heading, body, document.STATIC_POLICY)


def _name(extraction: Extraction) -> str:
  """Returns what the page is of: the graph of a model, where the model is known."""
  run = extraction.get("run") or {}
  model = str(run.get("model") or run.get("checkpoint") or "").rstrip("/")
  *folders, name = model.split("/")
  if len(folders) < 2:
    name = model  # a name, as that on the hub
  elif name.isdigit():
    name = f"{folders[-1]}/{name}"  # the step of a checkpoint
  return f"Knowledge graph of {name}" if name else "Knowledge graph"


def _why_not(extraction: Extraction, key: str) -> str:
  """Returns why a part is not shown: nothing was found, or it was not looked for."""
  was_looked_for = {
    "over_predicted": extraction.get("over_predicted") is not None,
    "conflicts": extraction.get("conflicts") is not None,
  }
  return WHY_NOT[f"no_{key}" if was_looked_for.get(key) else key]


def _caption(extraction: Extraction, key: str) -> str:
  """Returns how to read a part, as HTML."""
  level = extraction_text.confidence(extraction)
  precision = shown_precision(extraction)
  bins = pooled(extraction).get("bins", "?")
  return READING[key].format(
    level=percent(level),
    bins=text(bins),
    precision=percent(precision),
  )


def _captioned(
  extraction: Extraction,
  key: str,
  body: str,
) -> str:
  return body + caption(_caption(extraction, key))


def _top(extraction: Extraction, heading: str) -> str:
  run = extraction.get("run") or {}
  under = ", ".join(str(run[key]) for key in ("model", "checkpoint", "id") if run.get(key))
  tiles = document.tiles(_tiles(extraction))
  sentences = extraction_text.sentences(extraction)
  listed = document.bullets([f"<b>{about}.</b> {text(what)}" for about, what in sentences])
  lines = [
    f"<h1>{heading}</h1>",
    f'<p class="under">Knowledge graph extraction: {text(under)}</p>' if under else "",
    tiles,
    listed or document.absent(WHY_NOT["summary"]),
  ]
  return "\n".join(line for line in lines if line)


def _tiles(extraction: Extraction) -> list[tuple[str, str]]:
  """Returns a few numbers at a glance; those that are missing are left out."""
  counts = extraction.get("counts") or {}
  promise = extraction.get("promise") or {}
  group = pooled(extraction)
  precision = shown_precision(extraction)
  answered = _yield(group, precision)
  ece = known_estimate(group.get("ece"))
  rows: list[tuple[Any, Callable[[float | None], str], str]] = [
    (counts.get("triples"), count, "triples written"),
    (counts.get("queries"), count, "queries"),
    (promise.get("target"), percent, "precision promised"),
    (promise.get("expected_precision"), share, "precision expected of the accepted answers"),
    (ece and ece["mean"], share, "ECE, held out"),
    (
      answered and answered["mean"],
      share,
      f"held-out queries answered at {percent(precision)} precision",
    ),
  ]
  return [(write(value), what) for value, write, what in rows if finite(value) is not None]


def _quality(extraction: Extraction) -> str | None:
  group = pooled(extraction)
  units = finite(group.get("units"))
  if not units:
    return None
  columns = {
    "share_right": "Share<br>right",
    "mean_confidence": "Mean<br>confidence",
    "ece": "ECE",
    "ece_debiased": "ECE less<br>its bias",
    "brier": "Brier",
    "auroc": "AUROC",
    "aurc": "AURC",
  }
  measures = [cell(known_estimate(group.get(key))) for key in columns]
  row = ["All relations", count_cell(units), count_cell(group.get("queries")), *measures]
  head = ["", "Answers<br>held out", "Queries", *columns.values()]
  return _captioned(extraction, "quality", markup.table(head, [row]))


def _picture(
  extraction: Extraction,
  pictures: Mapping[str, Sequence[Panel]],
  key: str,
) -> str | None:
  panels = pictures.get(key)
  return document.figure(panels, caption(_caption(extraction, key))) if panels else None


def _yields(extraction: Extraction) -> str | None:
  rows = []
  for row in pooled(extraction).get("yields") or []:
    answered = known_estimate(row.get("share"))
    if answered:
      rows.append((row, answered))
  if not rows:
    return None
  bars = span_of([answered for _, answered in rows])
  body = [
    [
      percent(row.get("precision")),
      cell(answered),
      bar(answered, bars),
      cell(known_estimate(row.get("right")), count),
      count_cell(row.get("answers")),
      share_cell(row.get("threshold")),
    ]
    for row, answered in rows
  ]
  head = [
    "Precision",
    "Share of queries<br>answered",
    "",
    "Right<br>answers",
    "Answers",
    "Lowest<br>confidence",
  ]
  return _captioned(extraction, "yields", markup.table(head, body))


def _rows_by_relation(extraction: Extraction) -> dict[str, dict[str, Any]]:
  rows = {}
  for row in extraction.get("relations") or []:
    if row.get("relation") is not None:
      rows[row["relation"]] = row
  return rows


def _relations(extraction: Extraction) -> str | None:
  """Returns a row a relation, most accepted first: what was accepted, and how it does held out."""
  quality = extraction.get("quality") or {}
  groups = quality.get("relations") or {}
  rows = _rows_by_relation(extraction)

  def accepted(name: str) -> float:
    return finite(rows.get(name, {}).get("accepted")) or 0

  names = sorted({**rows, **groups}, key=lambda name: -accepted(name))
  if not names:
    return None
  precision = shown_precision(extraction)
  bars = span_of([_yield(groups.get(name), precision) for name in names])
  body = []
  for name in names:
    group = groups.get(name) or {}
    answered = _yield(group, precision)
    cells = [
      text(title(extraction, name)),
      *_accepted(rows.get(name) or {}),
      *_held_out(group),
      cell(answered),
      bar(answered, bars),
    ]
    body.append(cells)
  table = markup.long_table(_relation_heads(precision), body, "many-columns")
  return _captioned(extraction, "relations", table)


def _relation_heads(precision: float | None) -> list[str]:
  return [
    "Relation",
    "Queries",
    "Accepted",
    "Answers<br>a query",
    "Calibrated<br>on",
    "Expected<br>precision",
    "Held out",
    "Share<br>right",
    "Over-<br>confidence",
    "ECE",
    "AUROC",
    f"Yield at {percent(precision)}" if precision is not None else "Yield",
    "",
  ]


def _accepted(row: Mapping[str, Any]) -> list[str]:
  """Returns the cells of a relation on what was accepted of it."""
  fit = "pooled" if row.get("pooled") else row.get("method")
  small = f"<small>{text(fit)}</small>" if fit else ""
  return [
    count_cell(row.get("queries")),
    count_cell(row.get("accepted")),
    text(row["answers"]) if row.get("answers") else DASH,
    count_cell(row.get("calibration_units")) + small,
    share_cell(row.get("expected_precision")),
  ]


def _held_out(group: QualityGroup) -> list[str]:
  """Returns the cells of a relation on its held-out answers."""
  share_right = known_estimate(group.get("share_right"))
  overconfidence = known_estimate(group.get("overconfidence"))
  ece = known_estimate(group.get("ece"))
  auroc = known_estimate(group.get("auroc"))
  return [
    count_cell(group.get("units")),
    cell(share_right),
    difference(overconfidence),
    cell(ece),
    cell(auroc),
  ]


def _yield(
  group: QualityGroup | None,
  precision: float | None,
) -> KnownEstimate | None:
  return known_estimate(extraction_text.yield_row(group or {}, precision).get("share"))


def _over_predicted(extraction: Extraction) -> str | None:
  rows = extraction.get("over_predicted")
  if not rows:
    return None
  ordered = sorted(rows, key=lambda row: -(finite(row.get("predicted")) or 0))
  head = [
    "Answer",
    "Relation",
    "Given",
    "Share of<br>queries",
    "Share<br>supported",
    "Right in<br>calibration",
    "Confidence",
    "Displaced",
  ]
  body = [_over_predicted_row(extraction, row) for row in ordered]
  return _captioned(extraction, "over_predicted", markup.long_table(head, body, "words"))


def _over_predicted_row(
  extraction: Extraction,
  row: Mapping[str, Any],
) -> list[str]:
  right = count_cell(row.get("calibration_right"))
  predicted = count_cell(row.get("calibration_predicted"))
  before = share_cell(row.get("confidence_before"))
  after = share_cell(row.get("confidence_after"))
  return [
    text(row.get("entity", "?")),
    text(title(extraction, row.get("relation", "?"))),
    count_cell(row.get("predicted")),
    share_cell(row.get("share")),
    share_cell(row.get("supported_share")),
    f"{right} of {predicted}",
    f"{before} → {after}",
    _displaced(row.get("displaced") or []),
  ]


def _displaced(answers: Sequence[Any]) -> str:
  """Returns the displaced answers with how often each was; a dash where there are none."""
  listed = []
  for answer in answers:
    if isinstance(answer, list | tuple) and len(answer) > 0:
      times = answer[1] if len(answer) > 1 else None
      listed.append(f"{text(answer[0])} ({count_cell(times)})")
  return ", ".join(listed) or DASH


def _conflicts(extraction: Extraction) -> str | None:
  conflicts = extraction.get("conflicts")
  if conflicts is None:
    return None
  given = conflicts.get("counts") or {}
  counts = {kind: value for kind, value in given.items() if finite(value)}
  examples = conflicts.get("examples") or []
  if not counts and not examples:
    return None
  source = ""
  if counts:
    rows = [[text(kind), count_cell(value)] for kind, value in counts.items()]
    source += markup.table(["Kind", "Contradictions"], rows)
  if examples:
    rows = [
      [text(row.get("kind", "?")), _triple(row.get("kept")), _triple(row.get("dropped"))]
      for row in examples
    ]
    source += markup.long_table(["Kind", "Kept", "Dropped"], rows, "words")
  return _captioned(extraction, "conflicts", source)


def _triple(triple: Sequence[Any] | None) -> str:
  """Returns subject, relation and object, and the confidence in small type."""
  names = list(triple or [])
  confidence = None
  if names and finite(names[-1]) is not None:
    confidence = names.pop()
  joined = " · ".join(text(name) for name in names if name is not None) or DASH
  if confidence is None:
    return joined
  return f"{joined}<small>confidence {share(confidence)}</small>"


def _outputs(extraction: Extraction) -> str | None:
  rows = [
    [text(row.get("format", "?")), text(row.get("path", "")), count_cell(row.get("rows"))]
    for row in extraction.get("outputs") or []
  ]
  return markup.table(["Format", "File", "Rows"], rows, "pairs") if rows else None


def _run(extraction: Extraction) -> str | None:
  rows = [
    (text(str(key).replace("_", " ").capitalize()), text(markup.plain_text(value)))
    for key, value in (extraction.get("run") or {}).items()
  ]
  asked = [
    f"{key.replace('_', ' ')} {markup.plain_text(value)}"
    for key, value in (extraction.get("asked") or {}).items()
    if value is not None
  ]
  if asked:
    rows.append((text("Asked"), text("; ".join(asked))))
  return document.pairs(rows) if rows else None


def _notes(extraction: Extraction) -> str | None:
  of_quality = (extraction.get("quality") or {}).get("notes") or {}
  notes = {**of_quality, **(extraction.get("notes") or {})}
  return document.folded("What each number is", document.definitions(notes)) if notes else None

"""The page on an extraction: what was accepted, whether its confidences hold, and what was flagged or dropped.

One self-contained page that loads nothing and runs nothing; every text that comes from data is escaped.
"""

import json

from factshock.report import document, extraction_plots, extraction_text, markup, numbers
from factshock.report.extraction_text import (
  READING,
  TITLES,
  WHY_NOT,
  count,
  level,
  percent,
  pooled,
  title,
)
from factshock.report.markup import bar, cell, text
from factshock.report.numbers import finite as number
from factshock.report.numbers import known_estimate as clean
from factshock.report.numbers import share
from factshock.report.numbers import span_of as spread
from factshock.runtime.errors import UserError

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MANY = 25  # rows beyond which a table scrolls in a box of its own
NONE = cell(None)


def write_report(extraction, folder):
  """Writes folder/report.html and folder/figures/*.png; returns the path of the page.

  Parts that are missing are left out of the page, with a sentence that says why.

  Args:
    extraction: dict with any of run, counts, promise, quality (calibration.quality, on held-out answers), relations,
      over_predicted, conflicts, outputs and notes.
    folder: where to write; made where it is missing.

  Raises:
    UserError: the extraction is no dict or empty, or the folder cannot be written.
  """
  if not isinstance(extraction, dict) or not extraction:
    raise UserError(
      'extraction: expected a dict with parts such as "counts" and "quality", got '
      f"{type(extraction).__name__} without any"
    )
  found = numbers.without_none(extraction)
  pictures = extraction_plots.draw(found.get("quality") or {})
  return document.write_files(render(found, pictures), pictures, folder)


def render(found, pictures):
  """The page as a string, of an extraction without None and its pictures (extraction_plots.draw)."""
  name = (found.get("run") or {}).get("id")
  heading = "Knowledge graph extraction" + (f": {text(name)}" if name else "")
  parts = {
    "quality": _quality(found),
    "reliability": _picture(found, pictures, "reliability"),
    "risk": _picture(found, pictures, "risk"),
    "yields": _yields(found),
    "relations": _relations(found),
    "over_predicted": _over_predicted(found),
    "conflicts": _conflicts(found),
    "outputs": _outputs(found),
    "run": _run(found),
    "notes": _notes(found),
  }
  body = "\n".join(
    [
      _top(found, heading),
      *(
        f"<section>\n<h2>{TITLES[key]}</h2>\n{part or _absent(key)}\n</section>"
        for key, part in parts.items()
      ),
    ]
  )
  return document.document(heading, body, POLICY)


def _absent(key):
  return f'<p class="absent">{WHY_NOT[key]}</p>'


def _caption(found, key):
  bins = text(pooled(found).get("bins", "?"))
  words = READING[key].format(
    level=level(found), bins=bins, precision=percent(extraction_text.precision(found))
  )
  return f'<p class="caption">{words}</p>'


def _top(found, heading):
  run = found.get("run") or {}
  under = ", ".join(str(run[key]) for key in ("model", "checkpoint") if run.get(key))
  said = "".join(
    f"<li><b>{about}.</b> {text(words)}</li>" for about, words in extraction_text.sentences(found)
  )
  return (
    f"<h1>{heading}</h1>\n"
    + (f'<p class="under">{text(under)}</p>\n' if under else "")
    + _tiles(found)
    + (f'<ul class="summary">{said}</ul>' if said else _absent("summary"))
  )


def _tiles(found):
  """A few numbers at a glance; those that are missing are left out."""
  counts = found.get("counts") or {}
  promise = found.get("promise") or {}
  group = pooled(found)
  wanted = extraction_text.precision(found)
  got = extraction_text.yield_row(group, wanted).get("share")
  tiles = [
    (number(counts.get("triples")), count, "triples written"),
    (number(counts.get("queries")), count, "queries"),
    (number(promise.get("target")), percent, "precision promised"),
    (
      number(promise.get("expected_precision")),
      share,
      "precision expected of the accepted answers",
    ),
    (_mean(group.get("ece")), share, "ECE, held out"),
    (_mean(got), share, f"held-out queries answered at {percent(wanted)} precision"),
  ]
  shown = "".join(
    f'<div class="tile"><b>{write(value)}</b><span>{words}</span></div>'
    for value, write, words in tiles
    if value is not None
  )
  return f'<div class="tiles">{shown}</div>\n' if shown else ""


def _mean(estimate):
  estimate = clean(estimate)
  return estimate and estimate["mean"]


def _table(head, rows, kind=""):
  """A table, in a box that scrolls where it has many rows."""
  found = markup.table(head, rows, kind)
  return f'<div class="tall">{found}</div>' if len(rows) > MANY else found


def _quality(found):
  group = pooled(found)
  if not number(group.get("units")):
    return None
  columns = [
    ("Share<br>right", "share_right"),
    ("Mean<br>confidence", "mean_confidence"),
    ("ECE", "ece"),
    ("ECE less<br>its bias", "ece_debiased"),
    ("Brier", "brier"),
    ("AUROC", "auroc"),
    ("AURC", "aurc"),
  ]
  row = [
    "All relations",
    _count(group["units"]),
    _count(group.get("queries")),
    *(cell(clean(group.get(key))) for _, key in columns),
  ]
  head = ["", "Answers<br>held out", "Queries", *(name for name, _ in columns)]
  return markup.table(head, [row]) + _caption(found, "quality")


def _count(value):
  return NONE if number(value) is None else count(value)


def _picture(found, pictures, key):
  panels = pictures.get(key)
  return document.figure(panels, _caption(found, key)) if panels else None


def _yields(found):
  rows = [(row, clean(row.get("share"))) for row in pooled(found).get("yields") or []]
  rows = [(row, got) for row, got in rows if got]
  if not rows:
    return None
  span = spread([got for _, got in rows])
  body = [
    [
      percent(row.get("precision")),
      cell(got),
      bar(got, span),
      cell(clean(row.get("right")), count),
      _count(row.get("answers")),
      _share(row.get("threshold")),
    ]
    for row, got in rows
  ]
  head = [
    "Precision",
    "Share of queries<br>answered",
    "",
    "Right<br>answers",
    "Answers",
    "Lowest<br>confidence",
  ]
  return markup.table(head, body) + _caption(found, "yields")


def _share(value):
  return NONE if number(value) is None else share(value)


def _relations(found):
  """A row a relation: what was accepted of it, and how its confidences do on held-out answers; most accepted first."""
  groups = (found.get("quality") or {}).get("relations") or {}
  rows = {
    row.get("relation"): row
    for row in found.get("relations") or []
    if row.get("relation") is not None
  }
  names = sorted(
    {**rows, **groups}, key=lambda name: -(number(rows.get(name, {}).get("accepted")) or 0)
  )
  if not names:
    return None
  wanted = extraction_text.precision(found)
  span = spread([_yield(groups.get(name), wanted) for name in names])
  head = [
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
    f"Yield at {percent(wanted)}" if wanted is not None else "Yield",
    "",
  ]
  body = [
    [
      text(title(found, name)),
      *_accepted(rows.get(name) or {}),
      *_held_out(groups.get(name) or {}, wanted, span),
    ]
    for name in names
  ]
  return _table(head, body) + _caption(found, "relations")


def _accepted(row):
  fit = "pooled" if row.get("pooled") else row.get("method")
  fit = f"<small>{text(fit)}</small>" if fit else ""
  answers = text(row["answers"]) if row.get("answers") else NONE
  return [
    _count(row.get("queries")),
    _count(row.get("accepted")),
    answers,
    _count(row.get("calibration_units")) + fit,
    _share(row.get("expected_precision")),
  ]


def _held_out(group, wanted, span):
  got = _yield(group, wanted)
  return [
    _count(group.get("units")),
    cell(clean(group.get("share_right"))),
    markup.difference(clean(group.get("overconfidence"))),
    cell(clean(group.get("ece"))),
    cell(clean(group.get("auroc"))),
    cell(got),
    bar(got, span),
  ]


def _yield(group, wanted):
  return clean(extraction_text.yield_row(group or {}, wanted).get("share"))


def _over_predicted(found):
  rows = found.get("over_predicted")
  if not rows:
    return None if rows is None else _absent("no_over_predicted")
  rows = sorted(rows, key=lambda row: -(number(row.get("predicted")) or 0))
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
  return _table(head, [_over_row(found, row) for row in rows], "words") + _caption(
    found, "over_predicted"
  )


def _over_row(found, row):
  right = f"{_count(row.get('calibration_right'))} of {_count(row.get('calibration_predicted'))}"
  moved = f"{_share(row.get('confidence_before'))} → {_share(row.get('confidence_after'))}"
  pairs = [pair for pair in row.get("displaced") or [] if isinstance(pair, (list, tuple)) and pair]
  displaced = (
    ", ".join(f"{text(pair[0])} ({_count(pair[1] if len(pair) > 1 else None)})" for pair in pairs)
    or NONE
  )
  return [
    text(row.get("entity", "?")),
    text(title(found, row.get("relation", "?"))),
    _count(row.get("predicted")),
    _share(row.get("share")),
    _share(row.get("supported_share")),
    right,
    moved,
    displaced,
  ]


def _conflicts(found):
  conflicts = found.get("conflicts")
  if conflicts is None:
    return None
  counts = {kind: value for kind, value in (conflicts.get("counts") or {}).items() if number(value)}
  examples = conflicts.get("examples") or []
  if not counts and not examples:
    return _absent("no_conflicts")
  counted = markup.table(
    ["Kind", "Contradictions"], [[text(kind), _count(value)] for kind, value in counts.items()]
  )
  rows = [
    [text(row.get("kind", "?")), _triple(row.get("kept")), _triple(row.get("dropped"))]
    for row in examples
  ]
  listed = _table(["Kind", "Kept", "Dropped"], rows, "words") if rows else ""
  return (counted if counts else "") + listed + _caption(found, "conflicts")


def _triple(parts):
  """Subject, relation, object, and the confidence in small type."""
  *names, last = list(parts or []) or [None]
  if number(last) is None:
    names = [*names, last]
    last = None
  words = " · ".join(text(name) for name in names if name is not None) or NONE
  return words + (f"<small>confidence {share(last)}</small>" if last is not None else "")


def _outputs(found):
  rows = [
    [text(row.get("format", "?")), text(row.get("path", "")), _count(row.get("rows"))]
    for row in found.get("outputs") or []
  ]
  return markup.table(["Format", "File", "Rows"], rows, "pairs") if rows else None


def _run(found):
  run = found.get("run") or {}
  listed = "".join(
    f"<dt>{text(str(key).replace('_', ' ').capitalize())}</dt><dd>{text(_plain(value))}</dd>"
    for key, value in run.items()
  )
  return f'<dl class="run">{listed}</dl>' if listed else None


def _plain(value):
  return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _notes(found):
  notes = {**((found.get("quality") or {}).get("notes") or {}), **(found.get("notes") or {})}
  return document.definitions(notes) if notes else None

"""Page of the one-layer theory: its predictions, their verdicts, pictures and tables."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

from factshock.report import document, markup, theory_plots
from factshock.report.canvas import Panel
from factshock.report.document import caption
from factshock.report.markup import cell, difference, text
from factshock.report.numbers import KnownEstimate, known_estimate, signed_share
from factshock.report.schema import Claim, ConditionRow, Theory
from factshock.report.theory_captions import READING, TITLES
from factshock.report.theory_plots import SETS
from factshock.runtime.errors import UserError

VERDICTS = {
  "holds": "Holds.",
  "holds in part": "Holds in part.",
  "fails": "Fails.",
}
# What harm begins against, by the name of its measure.
_HARMS = {
  "gap": "worse than the<br>popular half",
  "harm": "worse than<br>no finetuning",
}


def write_report(
  theory: Mapping[str, Any],
  folder: str | os.PathLike[str],
) -> str:
  """Writes folder/report.html and folder/figures/*.svg; returns the path of the page.

  Args:
    theory: what theory.json holds.
    folder: where to write; made where it is missing.

  Raises:
    UserError: no predictions in it, or the folder cannot be written.
  """
  if not isinstance(theory, dict) or not theory.get("claims"):
    raise UserError(
      'theory: expected a dict with "claims", as theory.json holds, got none; '
      "run the experiment first"
    )
  whole = cast(Theory, theory)
  pictures = theory_plots.draw(whole)
  page = render(whole, pictures)
  return document.write_files(page, pictures, folder)


def render(
  theory: Theory,
  pictures: Mapping[str, Sequence[Panel]],
) -> str:
  """Returns the page with its pictures; what was not run is left out."""
  parts = {"claims": _claims(theory)}
  for key, panels in pictures.items():
    if panels:
      parts[key] = document.figure(panels, _caption(theory, key))
  parts["steps"] = _sets(theory["sets"]) + parts["steps"]
  parts["question"] = _sets(theory["question_sets"]) + parts["question"]
  if "phases" in parts:
    parts["phases"] = _begins(theory) + parts["phases"]
  tables = {
    "conditions": theory.get("conditions"),
    "variants": theory.get("variants"),
  }
  for key, rows in tables.items():
    if rows:
      how_to_read = _caption(theory, key)
      parts[key] = _conditions(rows) + caption(how_to_read)
  parts["run"] = _run(theory)

  heading = text(theory.get("name") or "The one-layer theory")
  sections = [document.section(TITLES[key], part) for key, part in parts.items()]
  body = "\n".join([_top(theory, heading), *sections])
  return document.document(heading, body, document.STATIC_POLICY)


def _top(theory: Theory, heading: str) -> str:
  count = len(theory["seeds"])
  seeds = "1 seed" if count == 1 else f"{count} seeds"
  return (
    f'<h1>{heading}</h1>\n<p class="under">arXiv 2406.14785, one layer and one head, {seeds}</p>'
  )


def _caption(theory: Theory, key: str) -> str:
  """Returns how to read a part, as HTML."""
  run = theory.get("run") or {}
  config = run.get("config") or {}
  variants = config.get("variants") or {}
  world = variants.get("world") or {}
  pretrain = variants.get("pretrain") or {}
  level = theory["confidence"]
  question = config.get("question", 1)
  return READING[key].format(
    level=f"{level:.0%}",
    question=f"{question:g}",
    subjects=world.get("subjects", "fewer"),
    known=pretrain.get("known", ""),
  )


def _claims(theory: Theory) -> str:
  """Returns the predictions with their verdicts, and the estimates that each is about."""
  rows: list[markup.Row] = []
  for position, claim in enumerate(theory["claims"], 1):
    verdict = VERDICTS[claim["verdict"]]
    statement = text(claim["statement"])
    rows.append(f"{position}. {statement} {verdict}")
    rows += _estimates(claim)
  head = ["Prediction and estimates", "Estimate", "Wanted", "Holds"]
  how_to_read = _caption(theory, "claims")
  return markup.table(head, rows) + caption(how_to_read)


def _estimates(claim: Claim) -> list[list[str]]:
  rows = []
  for row in claim["estimates"]:
    cells = [
      text(row["what"]),
      cell(known_estimate(row), signed_share),
      f"{row['wanted']} 0",
      "yes" if row["holds"] else "<b>no</b>",
    ]
    rows.append(cells)
  return rows


def _conditions(rows: Sequence[ConditionRow]) -> str:
  """Returns a row a condition: what it knows, the gap of the halves, where attention moves."""
  measured = set().union(*(row["attention"] for row in rows))
  sets = [name for name in SETS if name in measured]
  heads = []
  for name in sets:
    title, _ = SETS[name]
    heads.append(f"Attention,<br>{title.lower()}")
  body = []
  for row in rows:
    moves = [known_estimate(row["attention"].get(name)) for name in sets]
    before = cell(known_estimate(row["before"]))
    gap = difference(known_estimate(row["gap"]))
    body.append([text(row["title"]), before, gap, *map(difference, moves)])
  return markup.table(["", "Right<br>before", "Gap", *heads], body)


def _sets(sets: Mapping[str, Any]) -> str:
  """Returns what each set of facts gives at the last step, and where the model then looks."""
  head = [
    "Finetuned on",
    "Right",
    "Most common<br>answer",
    "Attention to<br>test subjects",
    "to those<br>finetuned on",
  ]
  rows = [["Nothing", *_measures(sets["whole"], 0), cell(None)]]
  for name, (title, _) in SETS.items():
    if name in sets:
      curves = sets[name]
      own = cell(known_estimate(curves["attention_of_own"]))
      rows.append([title, *_measures(curves, -1), own])
  return markup.table(head, rows)


def _measures(
  curves: Mapping[str, Sequence[KnownEstimate]],
  index: int,
) -> list[str]:
  """Returns the cells of a set of facts at one of its steps."""
  cells = []
  for name in ("accuracy", "common", "attention"):
    estimate = known_estimate(curves[name][index])
    cells.append(cell(estimate))
  return cells


def _begins(theory: Theory) -> str:
  """Returns from which finetuning step on each harm is there, a row for each Zipf exponent."""
  phases = theory.get("phases") or []
  cells = {(row["zipf"], row["size"]): row for row in phases}
  exponents = sorted({zipf for zipf, _ in cells})
  sizes = sorted({size for _, size in cells})
  head = ["Zipf exponent", "Right<br>before"]
  for size in sizes:
    head += [f"{size} subjects:<br>{harm}" for harm in _HARMS.values()]
  rows = []
  for exponent in exponents:
    before = known_estimate(cells[exponent, sizes[0]]["before"])
    row = [f"{exponent:g}", cell(before)]
    for size in sizes:
      phase = cells[exponent, size]
      row.append(_from_step(phase["gap_begins"]))
      row.append(_from_step(phase["harm_begins"]))
    rows.append(row)
  how_to_read = _caption(theory, "begins")
  return markup.table(head, rows) + caption(how_to_read)


def _from_step(step: int | None) -> str:
  if step is None:
    return cell(None)
  return f"from step {step}"


def _run(theory: Theory) -> str:
  run = theory.get("run") or {}
  names = {
    "command": "Command",
    "device": "Device",
    "started": "Started",
    "seconds": "Took, seconds",
  }
  rows = []
  for key, name in names.items():
    value = run.get(key)
    if value is not None:
      rows.append((name, text(value)))
  config = json.dumps(run.get("config"), indent=2, ensure_ascii=False)
  details = f"<details><summary>Whole config</summary><pre>{text(config)}</pre></details>"
  return document.pairs(rows) + details

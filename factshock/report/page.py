"""Report of a diagnosis: one self-contained HTML page and its pictures."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from factshock.facts import credits
from factshock.report import (
  attention,
  attention_plots,
  attention_tables,
  attention_text,
  document,
  entity_browser,
  plots,
  reading,
  remedies,
  shock_plots,
  summary,
  tables,
)
from factshock.report.canvas import Panel
from factshock.report.captions import COLUMNS, READING, TITLES, WHY_NOT
from factshock.report.document import caption
from factshock.report.markup import text
from factshock.report.numbers import finite, ratio, share
from factshock.report.schema import Diagnosis
from factshock.runtime import progress
from factshock.runtime.errors import UserError

# The page may load nothing and run nothing but our own script, whatever a name in the data says.
POLICY = f"{document.STATIC_POLICY}; script-src '{entity_browser.DIGEST}'"


def write_report(
  diagnosis: Mapping[str, Any],
  folder: str | os.PathLike[str],
) -> str:
  """Writes folder/report.html and folder/figures/*.svg; returns the path of the page.

  Parts of the diagnosis that are missing are left out of the page, with a sentence that says why.

  Args:
    diagnosis: what diagnosis.json holds, with or without what the experiment adds to it.
    folder: where to write; made where it is missing.

  Raises:
    UserError: the diagnosis holds no arms, or the folder cannot be written.
  """
  tidied = _tidied(diagnosis)
  pictures = draw(tidied)
  return document.write_files(render(tidied, pictures), pictures, folder)


def html(diagnosis: Mapping[str, Any]) -> str:
  """Returns the page that `write_report` writes."""
  tidied = _tidied(diagnosis)
  return render(tidied, draw(tidied))


def _tidied(diagnosis: Mapping[str, Any]) -> Diagnosis:
  if not isinstance(diagnosis, dict) or not diagnosis.get("arms"):
    raise UserError(
      'diagnosis: expected a dict with at least one arm under "arms", got none; '
      "run diagnose on a predictions file first"
    )
  return reading.tidy(diagnosis)


def draw(diagnosis: Diagnosis) -> dict[str, list[Panel]]:
  """Draws all pictures; one whose data the diagnosis lacks has no panels."""
  drawers: dict[str, Callable[[Diagnosis], list[Panel]]] = {
    "steps": plots.accuracy_by_steps,
    "alpha": plots.by_alpha,
    "ratios": shock_plots.ratios,
    "pressure": shock_plots.by_pressure,
    "popularity": plots.by_popularity,
  }
  pictures: dict[str, list[Panel]] = {}
  for key, draw_panels in progress.over("drawing", drawers.items(), len(drawers)):
    pictures[key] = draw_panels(diagnosis)
  return pictures | attention_plots.draw(diagnosis)


def render(
  diagnosis: Diagnosis,
  pictures: Mapping[str, Sequence[Panel]],
) -> str:
  """Returns the page, of a tidy diagnosis and its pictures."""
  heading = text(reading.name(diagnosis))
  parts: dict[str, str | None] = {
    "arms": _arms(diagnosis),
    "verdict": _verdict(diagnosis),
    "remedies": _captioned("remedies", diagnosis, remedies.table(diagnosis)),
    "claims": _captioned("claims", diagnosis, tables.claims(diagnosis)),
    "comparisons": _comparisons(diagnosis),
  }
  for key, panels in pictures.items():
    if key not in attention.PICTURES:
      parts[key] = _picture(diagnosis, key, panels)
  if attention.labels(diagnosis):
    parts["attention"] = _attention(diagnosis, pictures)
  parts |= {
    "relations": _captioned("relations", diagnosis, tables.relations(diagnosis)),
    "entities": _entities(diagnosis),
    "browser": _captioned("browser", diagnosis, entity_browser.render(diagnosis)),
    "run": _run(diagnosis),
    "notes": _notes(diagnosis),
  }
  sections = [section for section in parts.values() if section]
  missing = [(TITLES[key], WHY_NOT[key]) for key, section in parts.items() if not section]
  body = "\n".join([_top(diagnosis, heading), *sections, document.left_out(missing)])
  return document.document(f"{heading}: frequency shock report", body, POLICY)


def _section(key: str, body: str) -> str:
  return document.section(TITLES[key], body)


def _absent(key: str) -> str:
  return document.absent(WHY_NOT[key])


def _caption(key: str, diagnosis: Diagnosis, **labels: str) -> str:
  """Returns how to read a part, with the titles of the named arms in it."""
  return _filled(READING[key], diagnosis, **labels)


def _filled(source: str, diagnosis: Diagnosis, **labels: str) -> str:
  """Returns a text with level, criterion and the titles of the named arms in it."""
  titles = {}
  for name, label in labels.items():
    title = text(reading.title(diagnosis, label))
    titles[name] = f"“{title}”"
  return source.format(
    level=summary.confidence(diagnosis),
    criterion=reading.criterion(diagnosis),
    **titles,
  )


def _captioned(
  key: str,
  diagnosis: Diagnosis,
  body: str | None,
) -> str | None:
  """Returns a section with its caption below; None where it has no data."""
  if not body:
    return None
  return _section(key, body + caption(_caption(key, diagnosis)))


def _top(diagnosis: Diagnosis, heading: str) -> str:
  items = []
  for about, what in summary.sentences(diagnosis):
    items.append(f"<b>{about}.</b> {text(what)}")
  listed = document.bullets(items)
  return "\n".join(
    [
      f"<h1>{heading}</h1>",
      f'<p class="under">Frequency shock report{_date(diagnosis)}: {_size(diagnosis)}</p>',
      document.tiles(_tiles(diagnosis)),
      listed or _absent("summary"),
      caption(text(summary.opening(diagnosis))),
    ]
  )


def _date(diagnosis: Diagnosis) -> str:
  """Returns " of 2026-11-27", the day on which the run was started; "" where that is not known."""
  started = (diagnosis.get("run") or {}).get("started")
  return f" of {text(started[:10])}" if isinstance(started, str) else ""


def _size(diagnosis: Diagnosis) -> str:
  """Returns how many queries and seeds the diagnosis is of, as a text."""
  of_arms = [arm.get("queries") or 0 for arm in diagnosis["arms"].values()]
  queries = finite(max(of_arms, default=0))
  seeds = diagnosis.get("seeds") or []
  size = f"{queries:,.0f} test queries an arm" if queries else "number of queries not given"
  if len(seeds) > 1:
    return f"{size} over {len(seeds)} seeds"
  return f"{size}, one seed" if seeds else size


def _tiles(diagnosis: Diagnosis) -> list[tuple[str, str]]:
  """Returns a few numbers at a glance; those that are missing are left out."""
  roles = reading.roles(diagnosis)
  finetuned = roles["finetuned"]
  best = reading.best_remedy(diagnosis)
  rank = "highest" if reading.rivals(diagnosis, best) else "best"
  criterion = reading.criterion(diagnosis)
  accuracy = [
    (roles["zero_shot"], criterion),
    (finetuned, criterion),
    (best, f"{criterion} of the {rank} remedy"),
  ]
  ratios = [
    (finetuned, "rare seen answers, predicted / gold"),
    (best, "the same ratio"),
  ]
  tiles = []
  for label, what in accuracy:
    right = reading.mean(diagnosis, label, "right")
    if right is not None:
      title = reading.title(diagnosis, label)
      tiles.append((share(right), text(f"{what}, {title}")))
  for label, what in ratios:
    rare_seen = reading.prediction_ratio(diagnosis, label, "rare_seen")
    if rare_seen:
      title = reading.title(diagnosis, label)
      tiles.append((ratio(rare_seen["mean"]), text(f"{what}, {title}")))
  return tiles


def _arms(diagnosis: Diagnosis) -> str:
  columns = _columns(diagnosis)
  reference = diagnosis.get("reference") or "the reference arm"
  sentences = [READING["arms"], *(COLUMNS[name] for name in columns)]
  how_to_read = _filled(" ".join(sentences), diagnosis, reference=reference)
  body = tables.arms(diagnosis) + caption(how_to_read)
  body += _what_arms_are(diagnosis)
  if "ratio" not in columns:
    body += _absent("shock")
  return _section("arms", body)


def _columns(diagnosis: Diagnosis) -> list[str]:
  """Returns which of COLUMNS the table of arms has."""
  labels = reading.table_labels(diagnosis)
  has = {
    "ratio": any(reading.estimate(diagnosis, label, "shock", "shock") for label in labels),
    "known": any(reading.estimate(diagnosis, label, "known_kept") for label in labels),
    "flips": any(reading.estimate(diagnosis, label, "flips", "gained") for label in labels),
    "selected": bool(diagnosis.get("selected")),
  }
  return [name for name in COLUMNS if has[name]]


def _what_arms_are(diagnosis: Diagnosis) -> str:
  """Returns the captions of the arms, folded away; "" where the diagnosis describes none."""
  captions = []
  for label in reading.table_labels(diagnosis):
    what = reading.description(diagnosis, label).get("caption")
    if what:
      title = text(reading.title(diagnosis, label))
      captions.append((title, text(what)))
  if not captions:
    return ""
  return document.folded("What each arm is", document.pairs(captions))


def _comparisons(diagnosis: Diagnosis) -> str | None:
  rows = diagnosis.get("comparisons")
  body = tables.comparisons(diagnosis) if rows else None
  return _captioned("comparisons", diagnosis, body)


def _verdict(diagnosis: Diagnosis) -> str | None:
  verdict = diagnosis.get("verdict")
  if not verdict:
    return None
  finding = text(verdict.get("text") or "?")
  advice = text(verdict.get("try_first") or "?")
  what = f"<p><b>{finding}</b> Try first: {advice}</p>"
  return _captioned("verdict", diagnosis, what + tables.evidence(diagnosis))


def _attention(
  diagnosis: Diagnosis,
  pictures: Mapping[str, Sequence[Panel]],
) -> str:
  reference = attention.reference(diagnosis) or "the reference arm"
  sentences = [text(sentence) for sentence in attention_text.sentences(diagnosis)]
  parts = [document.bullets(sentences)]
  for key, table in attention_tables.tables(diagnosis).items():
    how_to_read = _caption(key, diagnosis, reference=reference)
    parts.append(table + caption(how_to_read))
  for key in attention.PICTURES:
    if pictures.get(key):
      how_to_read = _caption(key, diagnosis, reference=reference)
      parts.append(document.figure(pictures[key], how_to_read))
  notes = (diagnosis.get("attention") or {}).get("notes")
  if notes:
    listed = document.definitions(notes)
    parts.append(document.folded("Definitions", listed))
  return _section("attention", "\n".join(part for part in parts if part))


def _picture(
  diagnosis: Diagnosis,
  key: str,
  panels: Sequence[Panel],
) -> str | None:
  if not panels:
    return None
  return _section(key, document.figure(panels, _caption(key, diagnosis)))


def _entities(diagnosis: Diagnosis) -> str | None:
  label = reading.roles(diagnosis)["finetuned"]
  if label is None or not any(tables.extreme_entities(diagnosis, label)):
    return None
  how_to_read = caption(_caption("entities", diagnosis, arm=label))
  return _section("entities", tables.entities(diagnosis, label) + how_to_read)


def _run(diagnosis: Diagnosis) -> str | None:
  run = diagnosis.get("run")
  if not run:
    return None
  command = text(run.get("command") or "")
  seeds = diagnosis.get("seeds") or []
  rows = {
    "Command": f"<code>{command}</code>" if command else "",
    "Facts": _listed(run.get("facts")),
    "Data": text("; ".join(credits.credits_of(_named_sources(run.get("config"))))),
    "Seeds": text(", ".join(map(str, seeds))),
    "Device": text(run.get("device") or ""),
    "Versions": _listed(run.get("versions")),
    "Started": text(run.get("started") or ""),
  }
  seconds = finite(run.get("seconds"))
  if seconds is not None:
    rows["Took"] = f"{seconds / 60:.1f} minutes"
  listed = document.pairs([(name, value) for name, value in rows.items() if value])
  return _section("run", listed + _whole_config(run.get("config")))


def _named_sources(config: Any) -> list[str]:
  """Returns what a config names its facts and counts by."""
  if not isinstance(config, dict):
    return []
  return [str(config.get(name, "")) for name in ("facts", "entity_counts")]


def _whole_config(config: Any) -> str:
  if not config:
    return ""
  source = text(json.dumps(config, indent=2, ensure_ascii=False, default=str))
  return document.folded("Whole config", f"<pre>{source}</pre>")


def _listed(values: Any) -> str:
  """Returns names and values, "train 1280, test 960"; "" for what is no dict."""
  if not isinstance(values, dict):
    return ""
  listed = [f"{key} {value}" for key, value in values.items()]
  return text(", ".join(listed))


def _notes(diagnosis: Diagnosis) -> str | None:
  notes = diagnosis.get("notes")
  if not notes:
    return None
  return _section("notes", document.folded("What each number is", document.definitions(notes)))

"""The report: one self-contained HTML page and its pictures, drawn from a diagnosis."""

import base64
import json
import os

from factshock.report import attention, entity_browser, plots, reading, remedies, summary, tables
from factshock.report.captions import READING, TITLES, WHY_NOT
from factshock.report.style import CSS
from factshock.report.tables import text
from factshock.runtime import files
from factshock.runtime.errors import UserError

# The page may load nothing and run nothing but our own script, whatever a name in the data says.
POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{entity_browser.DIGEST}'"


def write_report(diagnosis, folder):
  """Writes folder/report.html and folder/figures/*.png; returns the path of the page.

  Parts of the diagnosis that are missing are left out of the page, with a sentence that says why.

  Args:
    diagnosis: dict as in diagnosis.json, with or without what the experiment adds to it.
    folder: where to write; made where it is missing.

  Raises:
    UserError: the diagnosis holds no arms, or the folder cannot be written.
  """
  if not isinstance(diagnosis, dict) or not diagnosis.get("arms"):
    raise UserError(
      'diagnosis: expected a dict with at least one arm under "arms", got none; '
      "run diagnose on a predictions file first"
    )
  diagnosis = reading.tidy(diagnosis)
  pictures = draw(diagnosis)
  return write_files(render(diagnosis, pictures), pictures, folder)


def write_files(source, pictures, folder):
  """Writes folder/report.html and the panels of `pictures` under folder/figures; returns the path of the page."""
  for panel in (panel for panels in pictures.values() for panel in panels):
    with files.atomic_write(os.path.join(folder, "figures", panel.name + ".png"), binary=True) as file:
      file.write(panel.png)
  path = os.path.join(folder, "report.html")
  with files.atomic_write(path) as file:
    file.write(source)
  return path


def draw(diagnosis):
  """dict picture -> list of panels, empty where the diagnosis lacks what it shows."""
  return {
    "steps": plots.accuracy_by_steps(diagnosis),
    "alpha": plots.by_alpha(diagnosis),
    "ratios": plots.ratios(diagnosis),
    "pressure": plots.by_pressure(diagnosis),
    "popularity": plots.by_popularity(diagnosis),
    **attention.draw(diagnosis),
  }


def render(diagnosis, pictures):
  """The page as a string."""
  name = text((diagnosis.get("run") or {}).get("name") or "")
  heading = "Frequency shock report" + (f": {name}" if name else "")
  body = "\n".join(
    [
      _top(diagnosis, heading),
      _arms(diagnosis),
      _verdict(diagnosis),
      _remedies(diagnosis),
      _comparisons(diagnosis),
      *(
        _picture(diagnosis, key, panels)
        for key, panels in pictures.items()
        if key not in attention.PICTURES
      ),
      *([_attention(diagnosis, pictures)] if attention.labels(diagnosis) else []),
      _relations(diagnosis),
      _entities(diagnosis),
      _browser(diagnosis),
      _run(diagnosis),
      _notes(diagnosis),
    ]
  )
  return document(heading, body, POLICY)


def document(heading, body, policy):
  """A whole page of HTML: a heading that is escaped already, its body, and what the page may load and run."""
  return (
    f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{heading}</title>\n'
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
  )


def _section(key, body):
  return f"<section>\n<h2>{TITLES[key]}</h2>\n{body}\n</section>"


def _absent(key):
  return f'<p class="absent">{WHY_NOT[key]}</p>'


def _caption(key, diagnosis, **words):
  words = {name: f"“{text(reading.title(diagnosis, label))}”" for name, label in words.items()}
  return READING[key].format(
    level=summary.confidence(diagnosis), criterion=reading.criterion(diagnosis), **words
  )


def _top(diagnosis, heading):
  queries = reading.number(
    max((arm.get("queries") or 0 for arm in diagnosis["arms"].values()), default=0)
  )
  seeds = diagnosis.get("seeds") or []
  under = f"{queries:,.0f} test queries an arm" if queries else "Number of queries not given"
  under += f" over {len(seeds)} seeds" if len(seeds) > 1 else ", one seed" if seeds else ""
  found = summary.sentences(diagnosis)
  listed = "".join(f"<li><b>{about}.</b> {text(words)}</li>" for about, words in found)
  said = f'<ul class="summary">{listed}</ul>' if found else _absent("summary")
  return (
    f'<h1>{heading}</h1>\n<p class="under">{under}</p>\n{_tiles(diagnosis)}\n{said}\n'
    f'<p class="caption">{text(summary.opening(diagnosis))}</p>'
  )


def _tiles(diagnosis):
  """Four numbers at a glance; those that are missing are left out."""
  role = reading.roles(diagnosis)
  best = reading.best_remedy(diagnosis)
  criterion = reading.criterion(diagnosis)
  wanted = [
    (role["zero_shot"], ("right",), reading.share, f"{criterion}, "),
    (role["finetuned"], ("right",), reading.share, f"{criterion}, "),
    (best, ("right",), reading.share, f"{criterion} of the best remedy, "),
    (
      role["finetuned"],
      ("shock", "ratio", "rare_seen"),
      reading.ratio,
      "rare seen answers, predicted / gold, ",
    ),
    (best, ("shock", "ratio", "rare_seen"), reading.ratio, "the same ratio, "),
  ]
  tiles = [
    (reading.mean(diagnosis, label, *path), write, words + reading.title(diagnosis, label))
    for label, path, write, words in wanted
    if label is not None
  ]
  shown = "".join(
    f'<div class="tile"><b>{write(value)}</b><span>{text(words)}</span></div>'
    for value, write, words in tiles
    if value is not None
  )
  return f'<div class="tiles">{shown}</div>' if shown else ""


def _arms(diagnosis):
  shocked = any(reading.estimate(diagnosis, label, "shock", "shock") for label in diagnosis["arms"])
  caption = _caption("arms", diagnosis, reference=diagnosis.get("reference") or "the reference arm")
  return _section(
    "arms",
    f'{tables.arms(diagnosis)}<p class="caption">{caption}</p>'
    + ("" if shocked else _absent("shock")),
  )


def _comparisons(diagnosis):
  if not diagnosis.get("comparisons"):
    return _section("comparisons", _absent("comparisons"))
  caption = _caption("comparisons", diagnosis)
  return _section("comparisons", f'{tables.comparisons(diagnosis)}<p class="caption">{caption}</p>')


def _verdict(diagnosis):
  found = diagnosis.get("verdict")
  if not found:
    return _section("verdict", _absent("verdict"))
  return _section(
    "verdict",
    f"<p><b>{text(found['text'])}</b> Try first: {text(found['try_first'])}</p>{tables.evidence(diagnosis)}"
    f'<p class="caption">{_caption("verdict", diagnosis)}</p>',
  )


def _remedies(diagnosis):
  found = remedies.table(diagnosis)
  return _section(
    "remedies",
    f'{found}<p class="caption">{_caption("remedies", diagnosis)}</p>'
    if found
    else _absent("remedies"),
  )


def _attention(diagnosis, pictures):
  words = {"reference": attention.reference(diagnosis) or "the reference arm"}
  said = "".join(f"<li>{text(sentence)}</li>" for sentence in attention.sentences(diagnosis))
  parts = [f'<ul class="summary">{said}</ul>' if said else ""]
  parts += [
    f'{table}<p class="caption">{_caption(key, diagnosis, **words)}</p>'
    for key, table in attention.tables_of(diagnosis).items()
  ]
  parts += [
    figure(pictures[key], _caption(key, diagnosis, **words))
    for key in attention.PICTURES
    if pictures.get(key)
  ]
  notes = diagnosis["attention"].get("notes")
  parts += (
    [f"<details><summary>Definitions</summary>{definitions(notes)}</details>"] if notes else []
  )
  return _section("attention", "\n".join(part for part in parts if part))


def _picture(diagnosis, key, panels):
  if not panels:
    return _section(key, _absent(key))
  return _section(key, figure(panels, _caption(key, diagnosis)))


def figure(panels, caption):
  """Panels side by side, as images within the page, above a caption of HTML."""
  images = "".join(
    f'<img alt="{text(panel.alt)}" src="data:image/png;base64,'
    f'{base64.b64encode(panel.png).decode("ascii")}">'
    for panel in panels
  )
  kind = {1: "one", 2: "two"}.get(len(panels), "three")
  return (
    f'<figure class="{kind}"><div class="panels {kind}">{images}</div>'
    f"<figcaption>{caption}</figcaption></figure>"
  )


def _relations(diagnosis):
  found = tables.relations(diagnosis)
  return _section(
    "relations",
    f'{found}<p class="caption">{_caption("relations", diagnosis)}</p>'
    if found
    else _absent("relations"),
  )


def _entities(diagnosis):
  label = reading.roles(diagnosis)["finetuned"]
  if label is None or not any(tables.extreme_entities(diagnosis, label)):
    return _section("entities", _absent("entities"))
  caption = _caption("entities", diagnosis, arm=label)
  return _section(
    "entities", f'{tables.entities(diagnosis, label)}<p class="caption">{caption}</p>'
  )


def _browser(diagnosis):
  found = entity_browser.render(diagnosis)
  caption = f'<p class="caption">{_caption("browser", diagnosis)}</p>'
  return _section("browser", found + caption if found else _absent("browser"))


def _run(diagnosis):
  run = diagnosis.get("run")
  if not run:
    return _section("run", _absent("run"))
  seconds = reading.number(run.get("seconds"))
  rows = [
    ("Command", f"<code>{text(run['command'])}</code>" if run.get("command") else None),
    ("Facts", _pairs(run.get("facts"))),
    ("Seeds", text(", ".join(map(str, diagnosis.get("seeds") or [])))),
    ("Device", text(run["device"]) if run.get("device") else None),
    ("Versions", _pairs(run.get("versions"))),
    ("Started", text(run["started"]) if run.get("started") else None),
    ("Took", f"{seconds / 60:.1f} minutes" if seconds is not None else None),
  ]
  listed = "".join(f"<dt>{name}</dt><dd>{words}</dd>" for name, words in rows if words)
  config = text(json.dumps(run.get("config"), indent=2, ensure_ascii=False, default=str))
  details = f"<details><summary>Whole config</summary><pre>{config}</pre></details>"
  details = details if run.get("config") else ""
  return _section("run", f'<dl class="run">{listed}</dl>{details}')


def _pairs(found):
  if not isinstance(found, dict):
    return None
  return text(", ".join(f"{key} {value}" for key, value in found.items()))


def _notes(diagnosis):
  notes = diagnosis.get("notes") or {}
  return _section("notes", definitions(notes) if notes else _absent("notes"))


def definitions(notes):
  """What each number means, dict name -> text, as a list."""
  listed = "".join(
    f"<dt>{text(str(key).replace('_', ' '))}</dt><dd>"
    f"{text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))}</dd>"
    for key, value in notes.items()
  )
  return f'<dl class="run">{listed}</dl>'

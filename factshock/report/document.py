"""Frame, sections and figures that all report pages share, and the files written."""

import base64
import os
from collections.abc import Mapping, Sequence
from typing import Any

from factshock.report.canvas import Panel
from factshock.report.markup import plain_text, text
from factshock.report.style import CSS
from factshock.runtime import files

# What a page may load and run that has no script: images within the page, and its own style.
STATIC_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_FOOT = (
  '<p class="foot">This page is one file that loads nothing: send it or publish it as it is. '
  "Save a figure as SVG by a right click, or take it from the folder figures beside this page.</p>"
)


def write_files(
  source: str,
  pictures: Mapping[str, Sequence[Panel]],
  folder: str | os.PathLike[str],
) -> str:
  """Writes folder/report.html and the panels under folder/figures; returns the page's path."""
  for panels in pictures.values():
    for panel in panels:
      path = os.path.join(folder, "figures", panel.name + ".svg")
      with files.atomic_write(path, binary=True) as file:
        file.write(panel.svg)
  path = os.path.join(folder, "report.html")
  with files.atomic_write(path) as file:
    file.write(source)
  return path


def document(
  title: str,
  body: str,
  policy: str,
) -> str:
  """Returns a whole page of HTML, with a line at its end that says how to share it.

  Args:
    title: what the browser's tab says, escaped already.
    body: the HTML of the page.
    policy: what the page may load and run, a Content-Security-Policy.
  """
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f"<title>{title}</title>\n"
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n{_FOOT}\n</main>\n</body>\n</html>\n"
  )


def section(title: str, body: str) -> str:
  """Returns a section of a page under its title."""
  return f"<section>\n<h2>{title}</h2>\n{body}\n</section>"


def caption(source: str) -> str:
  """Returns a caption of HTML below a table."""
  return f'<p class="caption">{source}</p>'


def folded(title: str, body: str) -> str:
  """Returns HTML that is folded away under a title."""
  return f"<details><summary>{title}</summary>\n{body}\n</details>"


def left_out(rows: Sequence[tuple[str, str]]) -> str:
  """Returns which parts a page has no data for and why, folded away; "" for no part."""
  if not rows:
    return ""
  return folded("What is not shown, and why", pairs(rows))


def absent(reason: str) -> str:
  """Returns the reason why a part of the page is missing, as HTML."""
  return f'<p class="absent">{reason}</p>'


def bullets(items: Sequence[str]) -> str:
  """Returns the list of sentences on top of a page; items are HTML, "" where there are none."""
  if not items:
    return ""
  listed = "".join(f"<li>{item}</li>" for item in items)
  return f'<ul class="summary">{listed}</ul>'


def tiles(rows: Sequence[tuple[str, str]]) -> str:
  """Returns numbers at a glance: (number, what it is) as HTML; "" where there are none."""
  if not rows:
    return ""
  shown = ""
  for number, label in rows:
    shown += f'<div class="tile"><b>{number}</b><span>{label}</span></div>'
  return f'<div class="tiles">{shown}</div>'


def figure(panels: Sequence[Panel], caption: str) -> str:
  """Returns panels side by side, as images within the page, above a caption of HTML."""
  images = "".join(_image(panel) for panel in panels)
  kind = {1: "one", 2: "two"}.get(len(panels), "three")
  return (
    f'<figure class="{kind}"><div class="panels {kind}">{images}</div>'
    f"<figcaption>{caption}</figcaption></figure>"
  )


def _image(panel: Panel) -> str:
  encoded = base64.b64encode(panel.svg).decode("ascii")
  return f'<img alt="{text(panel.alt)}" src="data:image/svg+xml;base64,{encoded}">'


def pairs(rows: Sequence[tuple[str, str]]) -> str:
  """Returns names and what they are, as a list of HTML."""
  listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
  return f'<dl class="run">{listed}</dl>'


def definitions(notes: Mapping[str, Any]) -> str:
  """Returns what each number means, as a list of HTML."""
  rows = []
  for name, note in notes.items():
    spaced = str(name).replace("_", " ")
    rows.append((text(spaced), text(plain_text(note))))
  return pairs(rows)

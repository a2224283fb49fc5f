"""Pictures of the one-layer theory's page: storage, updates, finetuning, where the harm begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from factshock.report import canvas
from factshock.report.canvas import (
  BLACK,
  BLUE,
  GREEN,
  GREY,
  ORANGE,
  PURPLE,
  SKY,
  VERMILION,
  Panel,
  Style,
)
from factshock.report.numbers import KnownEstimate, clear_sign
from factshock.report.schema import PhaseCell, Theory

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

# Title and style of each set of facts that is finetuned on.
SETS: dict[str, tuple[str, Style]] = {
  "popular": ("Popular half", (BLUE, "s", "-")),
  "unpopular": ("Unpopular half", (VERMILION, "o", "-")),
  "random": ("Random half", (ORANGE, "v", "--")),
  "whole": ("Whole pool", (BLACK, "X", "-")),
  "high_salience": ("Best stored fifth", (SKY, "D", "-.")),
  "low_salience": ("Least stored fifth", (PURPLE, "P", ":")),
}
_TRAINED: Style = (BLUE, "s", "-")
_CLOSED_FORM: Style = (GREY, "", "--")
_MEASURES = {
  "accuracy": "Share right",
  "attention": "Attention to the subject",
  "common": "Share of answers that are\nthe most common one",
}
# Whether questions name the relation by the token that pretraining knew, or by one of their own.
_TOKENS = {"sets": "Relation's own token", "question_sets": "Question's own token"}


def draw(theory: Theory) -> dict[str, list[Panel]]:
  """Draws all pictures; one whose part was left out has no panels."""
  with canvas.settings():
    return {
      "storage": [_storage(theory), _updates(theory)],
      "steps": _curves(theory["sets"], "sets"),
      "question": _curves(theory["question_sets"], "question_sets"),
      "popularity": [
        _by_popularity(theory["sets"], "sets"),
        _by_popularity(theory["question_sets"], "question_sets"),
      ],
      "phases": _phases(theory),
      "stored": _stored(theory),
    }


def _storage(theory: Theory) -> Panel:
  """Draws salience against how often the corpus states a fact, by tenths of subjects."""
  figure, axes = canvas.new_figure(4.4, 3.7)
  tenths = theory["stored_by_popularity"]
  counts = [estimate["mean"] for estimate in tenths["count"]]
  trained = list(zip(counts, tenths["salience"]))
  closed_form = list(zip(counts, tenths["closed_form"]))
  canvas.line(axes, trained, _TRAINED, "Trained W_V")
  canvas.line(axes, closed_form, _CLOSED_FORM, "Closed form of a subject alone")
  axes.set_xscale("log")
  axes.xaxis.set_major_formatter(_log_tick)
  axes.xaxis.set_minor_formatter(_log_tick)
  axes.tick_params(axis="x", which="minor", labelsize=9)
  axes.set(
    title="Salience grows with frequency",
    xlabel="Times the corpus states a fact (log)",
    ylabel="Salience S(s, r, a), in logits",
  )
  canvas.legend(figure, axes)
  alt = "Salience against the frequency of facts: trained, and by the closed form"
  return canvas.panel(figure, "storage", alt)


def _log_tick(value: float, _: float) -> str:
  """Returns the text of a tick of a logarithmic axis: 1, 2, 5 and their tenfolds alone."""
  written = f"{value:g}"
  return written if written[0] in "125" else ""


def _updates(theory: Theory) -> Panel:
  """Draws the share of facts whose update raises attention to the subject, by salience."""
  figure, axes = canvas.new_figure(4.4, 3.7)
  tenths = theory["updates"]
  salience = [estimate["mean"] for estimate in tenths["salience"]]
  points = list(zip(salience, tenths["positive"]))
  canvas.line(axes, points, (VERMILION, "o", "-"), "Facts, by tenth of salience")
  axes.axhline(0.5, color=BLACK, linewidth=0.9)
  axes.set(
    title="The update's sign follows salience",
    xlabel="Salience (mean of the tenth)",
    ylim=(-0.02, 1.02),
    ylabel="Share of facts that turn\nattention to the subject",
  )
  canvas.legend(figure, axes)
  alt = "Share of facts whose gradient raises attention to the subject, against their salience"
  return canvas.panel(figure, "updates", alt)


def _curves(sets: Mapping[str, Any], key: str) -> list[Panel]:
  """Draws each measure on test subjects against finetuning steps, a line for each set of facts."""
  panels = []
  for measure, axis in _MEASURES.items():
    figure, axes = canvas.new_figure(4.2, 3.9)
    for name, (label, style) in SETS.items():
      if name in sets:
        canvas.line(axes, list(zip(sets["steps"], sets[name][measure])), style, label)
    canvas.step_axis(axes, sets["steps"])
    title = _TOKENS[key]
    axes.set(title=title, ylabel=axis)
    canvas.legend(figure, axes)
    alt = f"{axis} on subjects that were not finetuned on, against finetuning steps. {title}"
    panels.append(canvas.panel(figure, f"{key}_{measure}", alt))
  return panels


def _by_popularity(sets: Mapping[str, Any], key: str) -> Panel:
  """Draws share right by tenth of test subjects, before finetuning and after each half."""
  figure, axes = canvas.new_figure(4.4, 3.8)
  lines = {
    "before": ("Before finetuning", (GREY, "", "--")),
    "popular": SETS["popular"],
    "unpopular": SETS["unpopular"],
  }
  for name, (label, style) in lines.items():
    estimates = sets[name]["by_popularity"]
    points = list(enumerate(estimates, 1))
    canvas.line(axes, points, style, label)
  tenths = len(sets["before"]["by_popularity"])
  title = _TOKENS[key]
  axes.set(
    title=title,
    xlabel="Tenth of test subjects, most popular first",
    ylabel=_MEASURES["accuracy"],
    xticks=range(1, tenths + 1),
  )
  canvas.legend(figure, axes)
  alt = f"Share right by popularity of the subject. {title}"
  return canvas.panel(figure, f"{key}_popularity", alt)


@dataclass(frozen=True)
class _HeatMap:
  """Heat map: a row of estimates for each exponent, by step; `limit` is the darkest value."""

  rows: Sequence[Sequence[KnownEstimate]]
  exponents: Sequence[float]
  steps: Sequence[int]
  limit: float
  title: str
  name: str


def _phases(theory: Theory) -> list[Panel]:
  """Draws gap and harm by Zipf exponent and steps, a panel for each size of finetuning set."""
  cells = theory.get("phases") or []
  gaps = [cell["gap"] for cell in cells]
  harms = [cell["harm"] for cell in cells]
  panels = _heat_panels(theory, gaps, "gap", "Popular less unpopular half")
  panels += _heat_panels(theory, harms, "harm", "Before less after unpopular half")
  return panels


def _heat_panels(
  theory: Theory,
  estimates: Sequence[Sequence[KnownEstimate]],
  measure: str,
  title: str,
) -> list[Panel]:
  """Draws one measure, a panel for each size; `estimates` are those of each cell, by step."""
  cells: Sequence[PhaseCell] = theory.get("phases") or []
  by_cell = {(cell["size"], cell["zipf"]): row for cell, row in zip(cells, estimates)}
  exponents = sorted({cell["zipf"] for cell in cells})
  sizes = sorted({cell["size"] for cell in cells})
  largest = 0
  for row in estimates:
    for estimate in row:
      largest = max(largest, abs(estimate["mean"]))
  panels = []
  for size in sizes:
    heat_map = _HeatMap(
      rows=[by_cell[size, exponent] for exponent in exponents],
      exponents=exponents,
      steps=theory.get("phase_steps") or [],
      limit=largest or 1,
      title=f"{title}, {size} subjects",
      name=f"phases_{measure}_{size}",
    )
    panels.append(_heat_panel(heat_map))
  return panels


def _heat_panel(heat_map: _HeatMap) -> Panel:
  figure, axes = canvas.new_figure(4.2, 3.4)
  image = axes.imshow(
    [[estimate["mean"] for estimate in row] for row in heat_map.rows],
    cmap="RdBu_r",
    vmin=-heat_map.limit,
    vmax=heat_map.limit,
    aspect="auto",
  )
  for y, row in enumerate(heat_map.rows):
    for x, estimate in enumerate(row):
      _write_points(axes, x, y, estimate, heat_map.limit)
  axes.set_xticks(range(len(heat_map.steps)), list(map(str, heat_map.steps)))
  axes.set_yticks(range(len(heat_map.exponents)), [f"{x:g}" for x in heat_map.exponents])
  axes.grid(False)
  axes.set(title=heat_map.title, xlabel="Finetuning steps", ylabel="Zipf exponent of subjects")
  colour_bar = figure.colorbar(image, ax=axes, shrink=0.9, format=_points_tick)
  colour_bar.outline.set_visible(False)
  alt = (
    f"{heat_map.title}: difference in share right, in points, by Zipf exponent and finetuning steps"
  )
  return canvas.panel(figure, heat_map.name, alt)


def _points_tick(value: float, _: int | None) -> str:
  return f"{100 * value:+.0f}"


def _write_points(
  axes: "Axes",
  x: int,
  y: int,
  estimate: KnownEstimate,
  limit: float,
) -> None:
  """Writes a difference in points into a heat map, bold where its interval excludes 0."""
  is_clear = clear_sign(estimate) != 0
  axes.text(
    x,
    y,
    f"{100 * estimate['mean']:+.1f}",
    ha="center",
    va="center",
    fontsize=9,
    fontweight="bold" if is_clear else "normal",
    color="white" if abs(estimate["mean"]) > 0.65 * limit else BLACK,
    alpha=1 if is_clear else 0.55,
  )


def _stored(theory: Theory) -> list[Panel]:
  """Draws the gap in accuracy, and the change of attention, against what was known before."""
  rows = theory.get("stored")
  if not rows:
    return []
  known = [row["before"]["mean"] for row in rows]
  figure, axes = canvas.new_figure(4.4, 3.7)
  gaps = [(x, row["gap"]) for x, row in zip(known, rows)]
  canvas.line(axes, gaps, (GREEN, "^", "-"), "Popular less unpopular half")
  _finish(figure, axes, "The gap in accuracy", "Difference in share right")
  alt = "Gap in accuracy of the two halves against the share of facts known before finetuning"
  gap_panel = canvas.panel(figure, "stored_gap", alt)

  figure, axes = canvas.new_figure(4.4, 3.7)
  for name in rows[0]["attention"]:
    label, style = SETS[name]
    changes = [(x, row["attention"][name]) for x, row in zip(known, rows)]
    canvas.line(axes, changes, style, label)
  _finish(figure, axes, "Attention to subjects not finetuned on", "Change by finetuning")
  alt = "Change of attention by finetuning set against the share of facts known before"
  return [gap_panel, canvas.panel(figure, "stored_attention", alt)]


def _finish(
  figure: "Figure",
  axes: "Axes",
  title: str,
  axis: str,
) -> None:
  """Draws a line at 0, and names a picture whose x is what was known before finetuning."""
  axes.axhline(0, color=BLACK, linewidth=0.9)
  axes.set(title=title, xlabel="Share right before finetuning", ylabel=axis)
  canvas.legend(figure, axes)

"""Pictures of the frequency shock: prediction ratios, and over-prediction by shock pressure."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from factshock.report import canvas, plots, reading
from factshock.report.canvas import BLACK, BLUE, GRID, ORANGE, SKY, VERMILION, Panel
from factshock.report.numbers import KnownEstimate, finite, interval, ratio
from factshock.report.schema import Diagnosis

if TYPE_CHECKING:
  from matplotlib.axes import Axes

# Colour and marker of each group of answers.
GROUP_STYLES = {
  "rare_seen": (VERMILION, "o"),
  "rare_unseen": (ORANGE, "^"),
  "common_seen": (SKY, "D"),
  "common_unseen": (BLUE, "s"),
}
# The four groups of an arm are drawn a little above and below its row.
_SHIFTS = (-0.24, -0.08, 0.08, 0.24)


def ratio_arms(diagnosis: Diagnosis, most: int = 12) -> list[str]:
  """Returns the labels with prediction ratios; those that play a part where all are too many."""
  labels = []
  for label in reading.table_labels(diagnosis):
    ratios_of_arm = [reading.prediction_ratio(diagnosis, label, name) for name in reading.GROUPS]
    if any(ratios_of_arm):
      labels.append(label)
  if len(labels) > most:
    main = reading.main_labels(diagnosis)
    labels = [label for label in labels if label in main]
  return labels[:most]


def ratios(diagnosis: Diagnosis) -> list[Panel]:
  """Draws the prediction ratio of the four groups of answers, a row an arm, logarithmic."""
  labels = ratio_arms(diagnosis)
  if not labels:
    return []
  with canvas.settings():
    height = 1.4 + 0.37 * len(labels)
    figure, axes = canvas.new_figure(4.6, height)
    ends = [1.0]
    for shift, name in zip(_SHIFTS, GROUP_STYLES):
      ends += _draw_ratios(diagnosis, axes, labels, name, shift)
    names = [plots.short_title(diagnosis, label, 18) for label in labels]
    _set_ratio_axes(axes, ends, names)
    canvas.legend(figure, axes)
    alt = "Prediction ratio of four groups of answers for each arm; 1 is right"
    return [canvas.panel(figure, "ratios", alt)]


def _draw_ratios(
  diagnosis: Diagnosis,
  axes: "Axes",
  labels: Sequence[str],
  name: str,
  shift: float,
) -> list[float]:
  """Draws the ratios of one group of answers; returns the ends of what was drawn."""
  rows = []
  for row, label in enumerate(labels):
    estimate = reading.prediction_ratio(diagnosis, label, name)
    # A ratio of 0 has no place on a logarithmic axis; the table still says it.
    if estimate and estimate["mean"] > 0:
      rows.append((row + shift, estimate))
  means = [estimate["mean"] for _, estimate in rows]
  lows = [_drawn_low(estimate) for _, estimate in rows]
  highs = [_drawn_high(estimate) for _, estimate in rows]
  below = [mean - low for mean, low in zip(means, lows)]
  above = [high - mean for mean, high in zip(means, highs)]
  colour, marker = GROUP_STYLES[name]
  axes.errorbar(
    means,
    [y for y, _ in rows],
    xerr=[below, above],
    color=colour,
    marker=marker,
    linestyle="",
    elinewidth=1.3,
    label=reading.GROUPS[name],
    markeredgecolor="white",
    markeredgewidth=0.5,
    zorder=3,
  )
  return [end for end in lows + highs if end > 0]


def _drawn_low(estimate: KnownEstimate) -> float:
  """Returns where the bar begins: an interval that reaches 0 is cut on the logarithmic axis."""
  low = estimate["low"]
  if low is None:
    return estimate["mean"]
  return max(low, estimate["mean"] / 8)


def _drawn_high(estimate: KnownEstimate) -> float:
  high = estimate["high"]
  if high is None:
    return estimate["mean"]
  return high


def _set_ratio_axes(
  axes: "Axes",
  ends: Sequence[float],
  names: Sequence[str],
) -> None:
  axes.set_xscale("log", base=2)
  lowest = math.log2(min(ends))
  highest = math.log2(max(ends))
  low = math.floor(lowest - 0.1)
  high = math.ceil(highest + 0.1)
  axes.set_xlim(2.0**low, 2.0**high)
  canvas.factor_ticks(axes.set_xticks, low, high, lambda x: 2.0**x)
  axes.minorticks_off()
  axes.axvline(1, color=BLACK, linewidth=1.1, zorder=2)
  for edge in range(1, len(names)):
    axes.axhline(edge - 0.5, color=GRID, linewidth=0.7)
  axes.grid(False, axis="y")
  axes.tick_params(axis="y", length=0)
  axes.set_yticks(range(len(names)), names)
  axes.set_ylim(len(names) - 0.5, -0.5)
  axes.set_xlabel("Predicted / gold (1 = as often as right)")


class PressurePoint(NamedTuple):
  """Entity as one arm predicts it; pressure and over-prediction in doublings (log2)."""

  pressure: float
  over_prediction: float
  gold: float
  group: str | None


def pressure_arms(diagnosis: Diagnosis) -> list[str]:
  """Returns the labels drawn against shock pressure: zero-shot, finetuned and the best remedy.

  Only arms with predictions by entity are drawn; where none of the three has them, the first three.
  """
  predicted = set()
  for row in diagnosis.get("entities") or []:
    predicted |= set(row.get("predicted") or {})
  roles = reading.roles(diagnosis)
  best = reading.best_remedy(diagnosis, predicted)
  wanted = [roles["zero_shot"], roles["finetuned"], best]
  drawn = [label for label in wanted if label is not None and label in predicted]
  return drawn or sorted(predicted)[:3]


def pressure_points(
  diagnosis: Diagnosis,
  label: str,
) -> list[PressurePoint]:
  """Returns an arm's entities with their shock pressure and over-prediction.

  Over-prediction is log2((predicted + 1) / (gold + 1)); as for the slope in the diagnosis, only
  entities that are gold answers of the test or answers of finetuning.
  """
  points = []
  for row in diagnosis.get("entities") or []:
    by_arm = row.get("predicted") or {}
    predicted = finite(by_arm.get(label))
    gold = finite(row.get("gold"))
    pressure = finite(row.get("pressure"))
    if predicted is None or gold is None or pressure is None:
      continue
    finetuning = row.get("finetuning") or 0
    if gold > 0 or finetuning > 0:
      point = PressurePoint(
        pressure=pressure / math.log(2),
        over_prediction=math.log2((predicted + 1) / (gold + 1)),
        gold=gold,
        group=row.get("group"),
      )
      points.append(point)
  return points


def by_pressure(diagnosis: Diagnosis) -> list[Panel]:
  """Draws over-prediction of each entity against its shock pressure, a panel an arm."""
  by_arm = {}
  drawn = []
  for label in pressure_arms(diagnosis):
    points = pressure_points(diagnosis, label)
    if points:
      by_arm[label] = points
      drawn += points
  if len({point.pressure for point in drawn}) < 2:
    return []  # none, or nothing is known of finetuning
  # All panels have the same axes.
  x_range = _whole_range([point.pressure for point in drawn])
  y_range = _whole_range([point.over_prediction for point in drawn])
  panels = []
  with canvas.settings():
    for label, points in by_arm.items():
      panels.append(_pressure_panel(diagnosis, label, points, x_range, y_range))
  return panels


def _whole_range(values: Sequence[float]) -> tuple[int, int]:
  """Returns the whole numbers around all values, not too close to any."""
  low = math.floor(min(values) - 0.2)
  high = math.ceil(max(values) + 0.2)
  return low, high


def _pressure_panel(
  diagnosis: Diagnosis,
  label: str,
  points: Sequence[PressurePoint],
  x_range: tuple[int, int],
  y_range: tuple[int, int],
) -> Panel:
  figure, axes = canvas.new_figure(3.9, 4.1)
  axes.axhline(0, color=BLACK, linewidth=0.9, zorder=2)
  for group in GROUP_STYLES:
    of_group = [point for point in points if point.group == group]
    _draw_group(axes, of_group, group)
  estimate = reading.estimate(diagnosis, label, "shock", "slope")
  slope = _draw_slope(axes, points, estimate, x_range)
  canvas.factor_ticks(axes.set_xticks, *x_range, float)
  canvas.factor_ticks(axes.set_yticks, *y_range, float)
  axes.set(
    xlim=x_range,
    ylim=y_range,
    xlabel="Shock pressure: share in finetuning /\nshare in pretraining",
    ylabel="Predicted / gold",
  )
  short_title = plots.short_title(diagnosis, label, 40)
  axes.set_title(f"{short_title}\n{slope}")
  canvas.legend(figure, axes)
  title = reading.title(diagnosis, label)
  alt = f"{title}: over-prediction of each answer against its shock pressure; {slope}"
  name = canvas.file_name(label)
  return canvas.panel(figure, f"pressure_{name}", alt)


def _draw_group(
  axes: "Axes",
  points: Sequence[PressurePoint],
  name: str,
) -> None:
  """Draws the answers of one group, larger the more often they are gold."""
  colour, marker = GROUP_STYLES[name]
  sizes = [9 + 5 * math.sqrt(point.gold) for point in points]
  axes.scatter(
    [point.pressure for point in points],
    [point.over_prediction for point in points],
    s=sizes,
    color=colour,
    marker=marker,
    alpha=0.55,
    linewidths=0,
    rasterized=len(points) > canvas.MANY_MARKS,
    label=reading.GROUPS[name],
    zorder=3,
  )


def _draw_slope(
  axes: "Axes",
  points: Sequence[PressurePoint],
  estimate: KnownEstimate | None,
  x_range: tuple[int, int],
) -> str:
  """Draws the fitted line through the mean of the points; returns its slope as a text.

  The slope is the diagnosis's own where it has one, else that of least squares.
  """
  count = len(points)
  x_mean = sum(point.pressure for point in points) / count
  y_mean = sum(point.over_prediction for point in points) / count
  spread = sum((point.pressure - x_mean) ** 2 for point in points)
  if estimate:
    slope = estimate["mean"]
  elif spread == 0:
    return "no slope"
  else:
    products = []
    for point in points:
      products.append((point.pressure - x_mean) * (point.over_prediction - y_mean))
    slope = sum(products) / spread
  heights = [y_mean + slope * (x - x_mean) for x in x_range]
  axes.plot(
    x_range,
    heights,
    color=BLACK,
    linewidth=1.8,
    zorder=4,
  )
  return f"slope {ratio(slope)} {interval(estimate, ratio)}".strip()

"""Pictures of accuracy: against finetuning steps, mixing weight and popularity.

Each function gives the panels that a diagnosis has data for, or none. Panels are small (about 4 to
5 inches wide) so that their text stays readable on a phone; the page sets them side by side where
there is room.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factshock.predictions.points import Point
from factshock.report import canvas, numbers, reading
from factshock.report.canvas import DASHED, GREY, Panel, Style
from factshock.report.numbers import KnownEstimate, known_estimate
from factshock.report.schema import Diagnosis, PopularityBin

if TYPE_CHECKING:
  from matplotlib.axes import Axes

# An arm of the same role looks the same in every picture; the others take the styles left over.
PREFERRED = {
  "finetuned": 0,
  "weight_mixing": 1,
  "mixture": 2,
  "combined": 3,
  "natural": 4,
  "low_mismatch": 4,
  "output_mixing": 5,
  "from_random": 7,
  "popular_half": 1,
  "unpopular_half": 0,
  "whole": 6,
  "random_half": 4,
}
# Roles of the arms that are compared by popularity of the subject.
_FACTS_COMPARED = ("popular_half", "unpopular_half", "random_half", "whole")
# Groups whose curves are drawn first where there are too many.
_PLAIN_GROUPS = ("baseline", "remedy", "control", "which facts", "")
ALPHA_AXIS = "alpha (0: before finetuning, 1: finetuned)"

# Bins of popularity with the estimate in each.
BinEstimates = Sequence[tuple[PopularityBin, KnownEstimate]]


def styles(diagnosis: Diagnosis, labels: Sequence[str]) -> dict[str, Style]:
  """Returns each label's colour, marker and line: all different for at most eight labels."""
  used: dict[str, int] = {}
  for label in labels:
    wanted = _preferred(diagnosis, label)
    if wanted is not None and wanted not in used.values():
      used[label] = wanted
  free = [i for i in range(len(canvas.STYLES)) if i not in used.values()]
  rest = [label for label in labels if label not in used]
  for count, label in enumerate(rest):
    used[label] = free[count] if count < len(free) else count % len(canvas.STYLES)
  return {label: canvas.STYLES[used[label]] for label in labels}


def _preferred(diagnosis: Diagnosis, label: str) -> int | None:
  """Returns the index of the style of the first of an arm's roles that has one."""
  indices = [PREFERRED[role] for role in reading.roles_of(diagnosis, label) if role in PREFERRED]
  return indices[0] if indices else None


def short_title(
  diagnosis: Diagnosis,
  label: str | None,
  width: int = 28,
) -> str:
  """Returns the title of an arm in lines short enough for a legend."""
  return canvas.wrap(reading.title(diagnosis, label), width)


def accuracy_by_steps(diagnosis: Diagnosis) -> list[Panel]:
  """Draws accuracy against finetuning steps: kinds of finetuning, which facts, controls."""
  facts = []
  controls = []
  rest = []
  for label in reading.curves(diagnosis, "steps"):
    group = reading.group(diagnosis, label)
    if group == "which facts":
      facts.append(label)
    elif group == "control":
      controls.append(label)
    else:
      rest.append(label)

  facts = most_telling(diagnosis, facts)
  controls = most_telling(diagnosis, controls)
  rest = most_telling(diagnosis, rest)

  # Panels that are compared with each other have one scale; controls would squeeze it.
  limits = _limits(diagnosis, facts + rest)
  pictures = [
    ("steps", rest, "Kinds of finetuning", limits),
    ("steps_facts", facts, "Which facts to finetune on", limits),
    ("steps_controls", controls, "Controls", None),
  ]
  panels = []
  with canvas.settings():
    for name, drawn, title, shared_limits in pictures:
      if drawn:
        panels.append(_steps_panel(diagnosis, name, drawn, title, shared_limits))
  return panels


def most_telling(
  diagnosis: Diagnosis,
  labels: Sequence[str],
  most: int = 8,
) -> list[str]:
  """Returns as many labels as curves can be told apart, in the given order.

  Those that play a part in the report go before others, then those of the plain groups.
  """
  roles = reading.roles(diagnosis)
  parts = (roles["finetuned"], *roles["remedies"])

  def importance(label: str) -> tuple[bool, bool]:
    group = reading.group(diagnosis, label)
    return label not in parts, group not in _PLAIN_GROUPS

  order = list(labels)
  first = sorted(labels, key=importance)[:most]
  return sorted(first, key=order.index)


def _share_right(diagnosis: Diagnosis) -> str:
  return f"{reading.criterion(diagnosis).capitalize()} (share of queries)"


def _limits(
  diagnosis: Diagnosis,
  labels: Sequence[str],
) -> tuple[float, float] | None:
  """Returns one range of accuracy for panels that are compared with each other."""
  zero_shot = reading.roles(diagnosis)["zero_shot"]
  estimates = [reading.estimate(diagnosis, zero_shot, "right")]
  for label in labels:
    curve = reading.curve(diagnosis, "steps", label)
    estimates += [row.right for row in curve]
  if not any(estimates):
    return None
  low, high = numbers.span_of(estimates)
  return max(-0.01, low), high


def _steps_panel(
  diagnosis: Diagnosis,
  name: str,
  labels: Sequence[str],
  title: str,
  limits: tuple[float, float] | None,
) -> Panel:
  figure, axes = canvas.new_figure(4.2, 3.8)
  steps: set[float] = set()
  for label, style in styles(diagnosis, labels).items():
    curve = reading.curve(diagnosis, "steps", label)
    points = [(row.x, row.right) for row in curve if row.right]
    steps |= {x for x, _ in points}
    canvas.line(axes, points, style, short_title(diagnosis, label))
  zero_shot = reading.estimate(diagnosis, reading.roles(diagnosis)["zero_shot"], "right")
  canvas.level(axes, zero_shot, "Zero-shot (no finetuning)")
  canvas.step_axis(axes, sorted(steps))
  axes.set(title=title, ylabel=_share_right(diagnosis), ylim=limits)
  canvas.legend(figure, axes)
  criterion = reading.criterion(diagnosis)
  alt = f"{title}: {criterion} against finetuning steps, a line for each arm"
  return canvas.panel(figure, name, alt)


def by_alpha(diagnosis: Diagnosis) -> list[Panel]:
  """Draws accuracy, and the distance of predicted from gold answer frequencies, against alpha."""
  labels = most_telling(diagnosis, reading.curves(diagnosis, "alpha"))
  if not labels:
    return []
  accuracy = _AlphaPicture(
    name="alpha_accuracy",
    path=("right",),
    title=reading.criterion(diagnosis).capitalize(),
    axis=_share_right(diagnosis),
  )
  variation = _AlphaPicture(
    name="alpha_variation",
    path=("shock", "total_variation"),
    title="Distance of answer frequencies",
    axis="Total variation, predicted to gold",
  )
  with canvas.settings():
    panels = [_alpha_panel(diagnosis, labels, picture) for picture in (accuracy, variation)]
  return [panel for panel in panels if panel]


@dataclass(frozen=True)
class _AlphaPicture:
  """Picture against alpha: its file, the keys of its measure, its title and its axis."""

  name: str
  path: tuple[str, ...]
  title: str
  axis: str


def _alpha_panel(
  diagnosis: Diagnosis,
  labels: Sequence[str],
  picture: _AlphaPicture,
) -> Panel | None:
  figure, axes = canvas.new_figure(4.5, 3.6)
  for label, style in styles(diagnosis, labels).items():
    points = curve_estimates(diagnosis, "alpha", label, picture.path)
    if points:
      selected = chosen(diagnosis, label, "alpha")
      title = short_title(diagnosis, label, 26)
      canvas.line(axes, points, style, title)
      _draw_rings(axes, points, selected, style[0])
  if not axes.lines:
    return None
  axes.set(title=picture.title, ylabel=picture.axis, xlabel=ALPHA_AXIS)
  canvas.legend(figure, axes)
  alt = f"{picture.title} against the mixing weight alpha, a line for each way of mixing"
  return canvas.panel(figure, picture.name, alt)


def curve_estimates(
  diagnosis: Diagnosis,
  kind: str,
  label: str,
  path: Sequence[str],
) -> list[tuple[float, KnownEstimate]]:
  """Returns the known estimates of a measure along an arm's curve, with their steps or alphas."""
  points = []
  for row in reading.curve(diagnosis, kind, label):
    estimate = reading.estimate(diagnosis, row.label, *path)
    if estimate:
      points.append((row.x, estimate))
  return points


def chosen(
  diagnosis: Diagnosis,
  label: str,
  key: str,
) -> list[float]:
  """Returns the "alpha" or "step" selected on development facts for an arm, one a seed."""
  selected = diagnosis.get("selected") or {}
  by_seed = selected.get(label) or {}
  values = []
  for row in by_seed.values():
    value = row.get(key)
    if numbers.finite(value) is not None:
      values.append(value)
  return values


def _draw_rings(
  axes: "Axes",
  points: canvas.Points,
  selected: Sequence[float],
  colour: str,
) -> None:
  """Draws a ring around the points that were selected."""
  ringed = [
    (x, estimate["mean"])
    for x, estimate in points
    if any(abs(x - other) < 1e-6 for other in selected)
  ]
  if not ringed:
    return
  xs, means = zip(*ringed)
  axes.plot(
    xs,
    means,
    linestyle="",
    marker="o",
    markersize=11,
    markerfacecolor="none",
    markeredgecolor=colour,
    markeredgewidth=1.1,
    zorder=4,
  )


def popularity_arms(diagnosis: Diagnosis) -> list[str]:
  """Returns the labels drawn by popularity."""
  return [label for label in main_arms(diagnosis) if _bins(diagnosis, label)]


def main_arms(diagnosis: Diagnosis, most: int = 7) -> list[str]:
  """Returns the labels that are compared bin by bin.

  These are the arms of the second paper with zero-shot, else the arms that play a part.
  """
  roles = reading.roles(diagnosis)
  facts = [label for label in reading.table_labels(diagnosis) if _compares_facts(diagnosis, label)]
  if facts:
    wanted = [*facts[: most - 1], roles["zero_shot"]]
  else:
    wanted = [roles["finetuned"], roles["zero_shot"], *roles["remedies"]]
  if not any(wanted):
    wanted = reading.table_labels(diagnosis)
  return [label for label in dict.fromkeys(wanted) if label][:most]


def _compares_facts(diagnosis: Diagnosis, label: str) -> bool:
  """Returns whether an arm is one of the second paper's, at the end of its training."""
  if Point.parse(label).is_early:
    return False
  in_group = reading.group(diagnosis, label) == "which facts"
  return in_group or any(role in _FACTS_COMPARED for role in reading.roles_of(diagnosis, label))


def _bins(
  diagnosis: Diagnosis,
  label: str,
) -> list[tuple[PopularityBin, KnownEstimate]]:
  arm = (diagnosis.get("arms") or {}).get(label) or {}
  bins = []
  for row in arm.get("by_popularity") or []:
    right = known_estimate(row.get("right"))
    if right:
      bins.append((row, right))
  return bins


def by_popularity(diagnosis: Diagnosis) -> list[Panel]:
  """Draws accuracy by popularity of the question's subject, in quarters of the test set."""
  bins = {label: _bins(diagnosis, label) for label in popularity_arms(diagnosis)}
  if not bins:
    return []
  zero_shot = reading.roles(diagnosis)["zero_shot"]
  looks = styles(diagnosis, [label for label in bins if label != zero_shot])
  picture = PopularityPicture(
    name="popularity",
    axis=_share_right(diagnosis),
    title=None,
    alt="Accuracy by popularity of the subject, a line for each arm",
  )
  with canvas.settings():
    return [popularity_panel(diagnosis, bins, looks, picture)]


@dataclass(frozen=True)
class PopularityPicture:
  """Picture by popularity: its file, its axis, its title and the text for who cannot see it."""

  name: str
  axis: str
  title: str | None
  alt: str


def popularity_panel(
  diagnosis: Diagnosis,
  bins: Mapping[str, BinEstimates],
  looks: Mapping[str, Style],
  picture: PopularityPicture,
) -> Panel:
  """Draws one line an arm; arms without a look are grey.

  Args:
    diagnosis: knows the arms' titles.
    bins: each arm's bins of popularity and their estimates, least popular first.
    looks: colour, marker and line of each arm.
    picture: what the panel is called.
  """
  figure, axes = canvas.new_figure(4.4, 3.7)
  for position, (label, rows) in enumerate(bins.items()):
    # Neighbours are set a little apart so that their intervals can be told apart.
    shift = 0.07 * (position - (len(bins) - 1) / 2)
    style = looks.get(label, (GREY, "P", DASHED))
    estimates = [estimate for _, estimate in rows]
    _draw_bars(axes, estimates, style, shift, short_title(diagnosis, label))
  first = next(iter(bins.values()))
  axes.set_xticks(range(len(first)), [_range(row) for row, _ in first])
  axes.set(xlabel="Popularity of the subject asked about", ylabel=picture.axis, title=picture.title)
  axes.grid(False, axis="x")
  canvas.legend(figure, axes)
  return canvas.panel(figure, picture.name, picture.alt)


def _draw_bars(
  axes: "Axes",
  estimates: Sequence[KnownEstimate],
  style: Style,
  shift: float,
  name: str,
) -> None:
  colour, marker, line_style = style
  axes.errorbar(
    [i + shift for i in range(len(estimates))],
    [estimate["mean"] for estimate in estimates],
    yerr=canvas.half_widths(estimates),
    color=colour,
    marker=marker,
    linestyle=line_style,
    elinewidth=1.2,
    label=name,
    markeredgecolor="white",
    markeredgewidth=0.6,
    zorder=3,
  )


def _range(row: PopularityBin) -> str:
  low = numbers.finite(row.get("low"))
  high = numbers.finite(row.get("high"))
  if low is None or high is None:
    return "?"
  return f"{canvas.brief(low)}\N{EN DASH}{canvas.brief(high)}"

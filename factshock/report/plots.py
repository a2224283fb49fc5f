"""The pictures of the report: each function gives panels of a diagnosis, or none where its data are missing.

Panels are small (about 4 to 5 inches wide) so that their text stays readable on a phone; the page sets
them side by side where there is room. Colours are those of Okabe and Ito (2008), which colour-blind readers
can tell apart, and every arm also has its own marker and line.
"""

import contextlib
import io
import math
import textwrap
from typing import NamedTuple

from factshock.report import reading

BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#7A7A7A"
STYLES = [
  (VERMILION, "o", "-"),
  (BLUE, "s", "-"),
  (GREEN, "^", "--"),
  (PURPLE, "D", "-."),
  (ORANGE, "v", "--"),
  (SKY, "P", ":"),
  (BLACK, "X", "-"),
  (GREY, "<", ":"),
]
# The same arm looks the same in every picture; labels not named here take the styles left over.
PREFERRED = {
  "finetune": 0,
  "weight_mixing": 1,
  "mixture": 2,
  "combined": 3,
  "natural": 4,
  "output_mixing": 5,
  "random_init": 7,
  "popular_half": 1,
  "unpopular_half": 0,
  "whole": 6,
  "random_half": 4,
}
GROUP_STYLES = {
  "rare_seen": (VERMILION, "o"),
  "rare_unseen": (ORANGE, "^"),
  "common_seen": (SKY, "D"),
  "common_unseen": (BLUE, "s"),
}
SETTINGS = {
  "font.size": 10,
  "axes.titlesize": 10.5,
  "axes.labelsize": 10,
  "legend.fontsize": 9,
  "xtick.labelsize": 9,
  "ytick.labelsize": 9,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.color": "#e4e4e4",
  "grid.linewidth": 0.7,
  "axes.axisbelow": True,
  "axes.edgecolor": "#555555",
  "xtick.color": "#333333",
  "ytick.color": "#333333",
  "legend.frameon": False,
  "legend.handlelength": 2.6,
  "axes.titlelocation": "left",
  "text.parse_math": False,
  "lines.linewidth": 1.7,
  "lines.markersize": 5.5,
  "figure.facecolor": "white",
  "savefig.dpi": 200,
}


class Panel(NamedTuple):
  """One image: file name without suffix, PNG bytes, and a text for who cannot see it."""

  name: str
  png: bytes
  alt: str


@contextlib.contextmanager
def _settings():
  import matplotlib

  with matplotlib.rc_context(SETTINGS):
    yield


def _figure(width, height):
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout="constrained")
  return figure, figure.add_subplot()


def _panel(figure, name, alt):
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png")
  return Panel(name, buffer.getvalue(), alt)


def styles(labels):
  """dict label -> (colour, marker, line), all different while there are at most eight labels."""
  labels = list(labels)
  used = {}
  for label in labels:
    wanted = PREFERRED.get(label)
    if wanted is not None and wanted not in used.values():
      used[label] = wanted
  free = [i for i in range(len(STYLES)) if i not in used.values()]
  rest = [label for label in labels if label not in used]
  for count, label in enumerate(rest):
    used[label] = free[count] if count < len(free) else count % len(STYLES)
  return {label: STYLES[used[label]] for label in labels}


def _wrap(text, width):
  return "\n".join(textwrap.wrap(text, width, break_long_words=True)) or text


def _legend(figure, axes, columns=2):
  figure.legend(
    *axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, columnspacing=1.2
  )


def _line(axes, rows, style, name):
  """Draws [(x, estimate)] as a line with markers and its interval as a band."""
  colour, marker, line = style
  axes.plot(
    [x for x, _ in rows],
    [found["mean"] for _, found in rows],
    color=colour,
    marker=marker,
    linestyle=line,
    label=name,
    markeredgecolor="white",
    markeredgewidth=0.6,
    zorder=3,
  )
  band = [
    (x, found["low"], found["high"])
    for x, found in rows
    if None not in (found["low"], found["high"])
  ]
  if len(band) > 1:
    axes.fill_between(*zip(*band), color=colour, alpha=0.13, linewidth=0, zorder=1)


def _level(axes, found, name):
  if found:
    axes.axhline(
      found["mean"], color=GREY, linestyle=(0, (5, 3)), linewidth=1.2, label=name, zorder=2
    )


def accuracy_by_steps(diagnosis):
  """Accuracy against finetuning steps: a panel for the kinds of finetuning, which facts, and controls."""
  labels = reading.curves(diagnosis, "steps")
  kinds = {label: reading.group(diagnosis, label) for label in labels}
  facts = [label for label in labels if kinds[label] == "which facts"]
  controls = [label for label in labels if kinds[label] == "control"]
  rest = [label for label in labels if label not in facts + controls]
  facts, controls, rest = (_drawn(diagnosis, part) for part in (facts, controls, rest))
  parts = [
    ("steps", rest, "Kinds of finetuning"),
    ("steps_facts", facts, "Which facts to finetune on"),
    ("steps_controls", controls, "Controls"),
  ]
  limits = _limits(diagnosis, facts + rest)
  with _settings():
    return [
      _steps_panel(diagnosis, *part, None if part[1] is controls else limits)
      for part in parts
      if part[1]
    ]


def _drawn(diagnosis, labels, most=8):
  """As many curves as can be told apart: those that play a part first, then those of the plain groups, in the table's order."""
  role = reading.roles(diagnosis)
  plain = ("baseline", "remedy", "control", "which facts", "")
  first = sorted(
    labels,
    key=lambda label: (
      label not in (role["finetuned"], *role["remedies"]),
      reading.group(diagnosis, label) not in plain,
    ),
  )
  return sorted(first[:most], key=labels.index)


def _share_right(diagnosis):
  return f"{reading.criterion(diagnosis).capitalize()} (share of queries)"


def _limits(diagnosis, labels):
  """One range of accuracy for panels that are compared with each other."""
  found = [row[2] for label in labels for row in reading.curve(diagnosis, "steps", label) if row[2]]
  found.append(reading.estimate(diagnosis, reading.roles(diagnosis)["zero_shot"], "right"))
  ends = [
    row[key] for row in found if row for key in ("low", "mean", "high") if row[key] is not None
  ]
  if not ends:
    return None
  room = 0.04 * (max(ends) - min(ends)) or 0.01
  return max(-0.01, min(ends) - room), max(ends) + room


def _steps_panel(diagnosis, name, labels, title, limits):
  figure, axes = _figure(4.2, 3.8)
  steps = set()
  for label, style in styles(labels).items():
    rows = [(x, found) for x, _, found in reading.curve(diagnosis, "steps", label) if found]
    steps |= {x for x, _ in rows}
    _line(axes, rows, style, _wrap(reading.title(diagnosis, label), 28))
  zero_shot = reading.roles(diagnosis)["zero_shot"]
  _level(axes, reading.estimate(diagnosis, zero_shot, "right"), "Zero-shot (no finetuning)")
  _step_axis(axes, sorted(steps))
  axes.set(title=title, ylabel=_share_right(diagnosis), ylim=limits)
  _legend(figure, axes)
  return _panel(
    figure,
    name,
    f"{title}: {reading.criterion(diagnosis)} against finetuning steps, a line for each arm",
  )


def _step_axis(axes, steps):
  """Early steps, where most happens, get as much room as late ones: logarithmic beyond the first step."""
  first = min((x for x in steps if x > 0), default=1)
  axes.set_xscale("symlog", linthresh=first, linscale=0.6)
  shown = [x for i, x in enumerate(steps) if i % math.ceil(len(steps) / 8) == 0 or x == steps[-1]]
  axes.set_xticks(shown, [f"{x:g}" for x in shown])
  axes.minorticks_off()
  axes.set_xlim(left=-0.25 * first if steps and steps[0] <= 0 else None)
  axes.set_xlabel("Finetuning steps (logarithmic)")


def by_alpha(diagnosis):
  """Two panels against alpha: accuracy, and total variation between predicted and gold answers."""
  labels = _drawn(diagnosis, reading.curves(diagnosis, "alpha"))
  if not labels:
    return []
  with _settings():
    panels = [
      _alpha_panel(
        diagnosis,
        labels,
        "alpha_accuracy",
        ("right",),
        reading.criterion(diagnosis).capitalize(),
        _share_right(diagnosis),
      ),
      _alpha_panel(
        diagnosis,
        labels,
        "alpha_variation",
        ("shock", "total_variation"),
        "Distance of answer frequencies",
        "Total variation, predicted to gold",
      ),
    ]
  return [panel for panel in panels if panel]


def _alpha_panel(diagnosis, labels, name, path, title, axis):
  figure, axes = _figure(4.5, 3.6)
  for label, style in styles(labels).items():
    rows = [
      (x, reading.estimate(diagnosis, point, *path))
      for x, point, _ in reading.curve(diagnosis, "alpha", label)
    ]
    rows = [row for row in rows if row[1]]
    if not rows:
      continue
    _line(axes, rows, style, _wrap(reading.title(diagnosis, label), 26))
    _rings(axes, rows, chosen(diagnosis, label, "alpha"), style[0])
  if not axes.lines:
    return None
  axes.set(title=title, ylabel=axis, xlabel="alpha (0: before finetuning, 1: finetuned)")
  _legend(figure, axes)
  return _panel(
    figure, name, f"{title} against the mixing weight alpha, a line for each way of mixing"
  )


def chosen(diagnosis, label, key):
  """What was selected on development facts for an arm (its "alpha" or "step"), in the order of the seeds."""
  found = (diagnosis.get("selected") or {}).get(label) or {}
  return [row[key] for row in found.values() if reading.number(row.get(key)) is not None]


def _rings(axes, rows, picked, colour):
  ringed = [
    (x, found["mean"]) for x, found in rows if any(abs(x - other) < 1e-6 for other in picked)
  ]
  if ringed:
    axes.plot(
      *zip(*ringed),
      linestyle="",
      marker="o",
      markersize=11,
      markerfacecolor="none",
      markeredgecolor=colour,
      markeredgewidth=1.1,
      zorder=4,
    )


def ratio_arms(diagnosis, most=12):
  """Labels of the table with prediction ratios; the first paper's arms alone where all would be too many."""
  labels = [
    label
    for label in reading.table_labels(diagnosis)
    if any(reading.estimate(diagnosis, label, "shock", "ratio", name) for name in reading.GROUPS)
  ]
  if len(labels) > most:
    labels = [
      label for label in labels if reading.group(diagnosis, label) not in ("which facts", "control")
    ]
  return labels[:most]


def ratios(diagnosis):
  """Prediction ratio of the four groups of answers, a row an arm, logarithmic, with a line at 1."""
  labels = ratio_arms(diagnosis)
  if not labels:
    return []
  with _settings():
    figure, axes = _figure(4.6, 1.4 + 0.37 * len(labels))
    bounds = [1.0]
    for shift, (name, style) in zip((-0.24, -0.08, 0.08, 0.24), GROUP_STYLES.items()):
      bounds += _ratio_group(diagnosis, axes, labels, name, style, shift)
    _ratio_axes(axes, bounds, [_wrap(reading.title(diagnosis, label), 18) for label in labels])
    _legend(figure, axes)
    return [
      _panel(
        figure, "ratios", "Prediction ratio of four groups of answers for each arm; 1 is right"
      )
    ]


def _ratio_group(diagnosis, axes, labels, name, style, shift):
  rows = [
    (row + shift, reading.estimate(diagnosis, label, "shock", "ratio", name))
    for row, label in enumerate(labels)
  ]
  # A ratio of 0 has no place on a logarithmic axis; the table still says it.
  rows = [(y, found) for y, found in rows if found and found["mean"] > 0]
  ends = [
    (
      found["mean"] if found["low"] is None else max(found["low"], found["mean"] / 8),
      found["mean"] if found["high"] is None else found["high"],
    )
    for _, found in rows
  ]
  colour, marker = style
  axes.errorbar(
    [found["mean"] for _, found in rows],
    [y for y, _ in rows],
    xerr=[
      [found["mean"] - low for (_, found), (low, _) in zip(rows, ends)],
      [high - found["mean"] for (_, found), (_, high) in zip(rows, ends)],
    ],
    color=colour,
    marker=marker,
    linestyle="",
    elinewidth=1.3,
    label=reading.GROUPS[name],
    markeredgecolor="white",
    markeredgewidth=0.5,
    zorder=3,
  )
  return [end for pair in ends for end in pair if end > 0]


def _ratio_axes(axes, bounds, names):
  axes.set_xscale("log", base=2)
  low = math.floor(math.log2(min(bounds)) - 0.1)
  high = math.ceil(math.log2(max(bounds)) + 0.1)
  axes.set_xlim(2.0**low, 2.0**high)
  _factors(axes.set_xticks, low, high, lambda x: 2.0**x)
  axes.minorticks_off()
  axes.axvline(1, color=BLACK, linewidth=1.1, zorder=2)
  for edge in range(1, len(names)):
    axes.axhline(edge - 0.5, color="#e4e4e4", linewidth=0.7)
  axes.grid(False, axis="y")
  axes.tick_params(axis="y", length=0)
  axes.set_yticks(range(len(names)), names)
  axes.set_ylim(len(names) - 0.5, -0.5)
  axes.set_xlabel("Predicted / gold (1 = as often as right)")


def _factors(set_ticks, low, high, place):
  """Ticks at powers of two between the two exponents, written as factors: 1/4, 1, 4."""
  every = max(1, math.ceil((high - low) / 7))
  exponents = [x for x in range(math.ceil(low), math.floor(high) + 1) if x % every == 0]
  set_ticks(
    [place(x) for x in exponents], [f"1/{2**-x}" if x < 0 else f"{2**x}" for x in exponents]
  )


def pressure_arms(diagnosis):
  """Labels drawn against shock pressure: zero-shot, finetuned and best remedy, where entities have them."""
  there = {label for row in diagnosis.get("entities") or [] for label in row.get("predicted") or {}}
  role = reading.roles(diagnosis)
  wanted = [role["zero_shot"], role["finetuned"], reading.best_remedy(diagnosis, there)]
  return [label for label in wanted if label in there] or sorted(there)[:3]


def pressure_points(diagnosis, label):
  """[(pressure, over-prediction, gold, group)] of an arm, a row an entity, both in doublings (log2).

  Over-prediction is log2((predicted + 1) / (gold + 1)); as for the slope in the diagnosis, only entities that
  are gold answers of the test or answers of finetuning.
  """
  rows = []
  for row in diagnosis.get("entities") or []:
    predicted = reading.number((row.get("predicted") or {}).get(label))
    gold = reading.number(row.get("gold"))
    pressure = reading.number(row.get("pressure"))
    if None not in (predicted, gold, pressure) and (gold > 0 or (row.get("finetuning") or 0) > 0):
      rows.append(
        (pressure / math.log(2), math.log2((predicted + 1) / (gold + 1)), gold, row.get("group"))
      )
  return rows


def by_pressure(diagnosis):
  """Over-prediction of each entity against its shock pressure, a panel an arm, on the same axes."""
  drawn = {label: pressure_points(diagnosis, label) for label in pressure_arms(diagnosis)}
  drawn = {label: rows for label, rows in drawn.items() if rows}
  if not drawn:
    return []
  columns = list(zip(*(row for rows in drawn.values() for row in rows)))[:2]
  box = [(math.floor(min(column) - 0.2), math.ceil(max(column) + 0.2)) for column in columns]
  with _settings():
    return [_pressure_panel(diagnosis, label, rows, box) for label, rows in drawn.items()]


def _pressure_panel(diagnosis, label, rows, box):
  figure, axes = _figure(3.9, 4.1)
  axes.axhline(0, color=BLACK, linewidth=0.9, zorder=2)
  for name, (colour, marker) in GROUP_STYLES.items():
    some = [row for row in rows if row[3] == name]
    sizes = [9 + 5 * math.sqrt(row[2]) for row in some]
    axes.scatter(
      [row[0] for row in some],
      [row[1] for row in some],
      s=sizes,
      color=colour,
      marker=marker,
      alpha=0.55,
      linewidths=0,
      label=reading.GROUPS[name],
      zorder=3,
    )
  slope = _slope_line(axes, rows, reading.estimate(diagnosis, label, "shock", "slope"), box[0])
  _factors(axes.set_xticks, *box[0], lambda x: x)
  _factors(axes.set_yticks, *box[1], lambda x: x)
  axes.set(
    xlim=box[0],
    ylim=box[1],
    xlabel="Shock pressure: share in finetuning /\nshare in pretraining",
    ylabel="Predicted / gold",
  )
  title = reading.title(diagnosis, label)
  axes.set_title(_wrap(title, 34) + f"\n{slope}")
  _legend(figure, axes)
  return _panel(
    figure,
    f"pressure_{_file_name(label)}",
    f"{title}: over-prediction of each answer against its shock pressure; {slope}",
  )


def _slope_line(axes, rows, found, span):
  """Draws the fitted line; the diagnosis' own slope where it has one, else least squares of the points."""
  x_mean, y_mean = (sum(row[i] for row in rows) / len(rows) for i in (0, 1))
  spread = sum((row[0] - x_mean) ** 2 for row in rows)
  if found is None and spread == 0:
    return "no slope"
  slope = (
    found["mean"] if found else sum((row[0] - x_mean) * (row[1] - y_mean) for row in rows) / spread
  )
  axes.plot(
    span, [y_mean + slope * (x - x_mean) for x in span], color=BLACK, linewidth=1.8, zorder=4
  )
  return f"slope {reading.ratio(slope)} {reading.interval(found, reading.ratio)}".strip()


def _file_name(label):
  return "".join(c if c.isalnum() or c in "-_" else "_" for c in str(label))[:60]


def popularity_arms(diagnosis):
  """Labels drawn by popularity."""
  return [label for label in main_arms(diagnosis) if _bins(diagnosis, label)]


def main_arms(diagnosis, most=7):
  """Labels that are compared bin by bin: the arms of the second paper with zero-shot, else the main arms."""
  role = reading.roles(diagnosis)
  facts = [
    label
    for label in reading.table_labels(diagnosis)
    if (reading.group(diagnosis, label) == "which facts" and not label.endswith("_early"))
    or label in ("popular_half", "unpopular_half", "random_half", "whole")
  ]
  wanted = (
    [*facts[: most - 1], role["zero_shot"]]
    if facts
    else [role["finetuned"], role["zero_shot"], *role["remedies"]]
  )
  if not any(wanted):
    wanted = reading.table_labels(diagnosis)
  return [label for label in dict.fromkeys(wanted) if label][:most]


def _bins(diagnosis, label):
  rows = ((diagnosis.get("arms") or {}).get(label) or {}).get("by_popularity") or []
  rows = [(row, reading.clean(row.get("right"))) for row in rows]
  return [(row, found) for row, found in rows if found]


def by_popularity(diagnosis):
  """Accuracy by popularity of the question's subject, in quarters of the test set."""
  rows = {label: _bins(diagnosis, label) for label in popularity_arms(diagnosis)}
  if not rows:
    return []
  looks = styles([label for label in rows if label != reading.roles(diagnosis)["zero_shot"]])
  with _settings():
    return [
      _popularity_panel(
        diagnosis,
        rows,
        looks,
        "popularity",
        _share_right(diagnosis),
        None,
        "Accuracy by popularity of the subject, a line for each arm",
      )
    ]


def _popularity_panel(diagnosis, rows, looks, name, axis, title, alt):
  """One line an arm, of dict label -> [(row with low and high popularity, estimate)]; arms without a look are grey."""
  figure, axes = _figure(4.4, 3.7)
  for place, (label, mine) in enumerate(rows.items()):
    # Neighbours are set a little apart so that their intervals can be told apart.
    shift = 0.07 * (place - (len(rows) - 1) / 2)
    _bars(
      axes,
      mine,
      looks.get(label, (GREY, "P", (0, (5, 3)))),
      shift,
      _wrap(reading.title(diagnosis, label), 28),
    )
  first = next(iter(rows.values()))
  axes.set_xticks(range(len(first)), [_range(row) for row, _ in first])
  axes.set(xlabel="Popularity of the subject asked about", ylabel=axis, title=title)
  axes.grid(False, axis="x")
  _legend(figure, axes)
  return _panel(figure, name, alt)


def _bars(axes, rows, style, shift, name):
  colour, marker, line = style
  means = [found["mean"] for _, found in rows]
  ends = [
    [max(0, found["mean"] - found["low"]) if found["low"] is not None else 0 for _, found in rows],
    [
      max(0, found["high"] - found["mean"]) if found["high"] is not None else 0 for _, found in rows
    ],
  ]
  axes.errorbar(
    [i + shift for i in range(len(rows))],
    means,
    yerr=ends,
    color=colour,
    marker=marker,
    linestyle=line,
    elinewidth=1.2,
    label=name,
    markeredgecolor="white",
    markeredgewidth=0.6,
    zorder=3,
  )


def _range(row):
  low, high = (reading.number(row.get(key)) for key in ("low", "high"))
  return "?" if low is None or high is None else f"{_brief(low)}–{_brief(high)}"


def _brief(value):
  for size, unit in ((1e6, "M"), (1e3, "k")):
    if abs(value) >= size:
      return f"{value / size:.3g}{unit}"
  return f"{value:.3g}"

"""The pictures of an extraction's page: reliability, each relation's confidence, and risk against coverage."""

from factshock.report import canvas, numbers
from factshock.report.canvas import BLACK, BLUE, GREY, VERMILION

FEWEST = 30  # held-out answers of a relation below which its curve says nothing
RISKS = (0.05, 0.1, 0.2)  # levels drawn as lines: 95%, 90% and 80% precision


def draw(quality):
  """dict picture -> list of panels, empty where the quality lacks what it shows.

  Args:
    quality: dict of calibration.quality, without None.
  """
  with canvas.settings():
    return {
      "reliability": _reliability(quality.get("pooled") or {}) + _relations(quality),
      "risk": _risk(quality),
    }


def bins(group):
  """[(row, estimate of the share right)] of the reliability bins that can be drawn."""
  rows = [(row, numbers.known_estimate(row.get("right"))) for row in group.get("reliability") or []]
  return [
    (row, right)
    for row, right in rows
    if right
    and None not in (numbers.finite(row.get(key)) for key in ("confidence", "units", "low", "high"))
  ]


def curve(group):
  """[(coverage, estimate of the risk)] of a group."""
  rows = [
    (numbers.finite(row.get("coverage")), numbers.known_estimate(row.get("risk")))
    for row in group.get("risk_coverage") or []
  ]
  return [(coverage, risk) for coverage, risk in rows if coverage is not None and risk]


def relation_points(quality):
  """[(mean confidence, estimate of the share right, answers)] of the relations that have held-out answers."""
  rows = [
    (
      numbers.known_estimate(group.get("mean_confidence")),
      numbers.known_estimate(group.get("share_right")),
      numbers.finite(group.get("units")),
    )
    for group in (quality.get("relations") or {}).values()
  ]
  return [
    (confidence["mean"], right, units)
    for confidence, right, units in rows
    if confidence and right and units
  ]


def _reliability(group):
  """Share right against confidence in bins, and below it how many answers each bin has."""
  rows = bins(group)
  if not rows:
    return []
  from matplotlib.figure import Figure

  figure = Figure(figsize=(4.5, 4.7), layout="constrained")
  axes, counts = figure.subplots(2, sharex=True, height_ratios=[4, 1])
  _diagonal(axes)
  x = [row["confidence"] for row, _ in rows]
  axes.plot(x, [right["mean"] for _, right in rows], color=BLUE, linewidth=1, alpha=0.6, zorder=3)
  _points(axes, x, [right for _, right in rows], BLUE, label="Bins of equal mass")
  axes.set(title="All relations together", ylabel="Share right")
  units = [row["units"] for row, _ in rows]
  # A bin may be narrower than a line is wide: lines at the mean confidence show every bin.
  counts.vlines(x, 0, units, color=BLUE, linewidth=4)
  counts.set(xlabel="Confidence", ylabel="Answers", ylim=(0, 1.15 * max(units)))
  counts.yaxis.get_major_locator().set_params(nbins=2, integer=True)
  counts.yaxis.set_major_formatter(lambda value, _: canvas.brief(value))
  canvas.legend(figure, axes)
  return [
    canvas.panel(
      figure, "reliability", "Share right against mean confidence in bins, with their answers"
    )
  ]


def _relations(quality):
  """Share right against mean confidence, a mark for each relation, larger with more answers."""
  rows = relation_points(quality)
  if len(rows) < 2:
    return []
  figure, axes = canvas.new_figure(4.5, 4.7)
  _diagonal(axes)
  most = max(units for _, _, units in rows)
  kinds = (
    (False, GREY, "o", "Within the interval"),
    (True, VERMILION, "D", "Outside the interval"),
  )
  for apart, colour, marker, name in kinds:
    some = [row for row in rows if _apart(*row[:2]) == apart]
    if some:
      x, right, units = zip(*some)
      _points(axes, x, right, colour, size=0, alpha=0.45)
      axes.scatter(
        x,
        [found["mean"] for found in right],
        s=[12 + 70 * size / most for size in units],
        color=colour,
        marker=marker,
        alpha=0.75,
        linewidths=0,
        label=name,
        zorder=4,
      )
  axes.set(title="Each relation", xlabel="Mean confidence", ylabel="Share right")
  canvas.legend(figure, axes)
  return [
    canvas.panel(
      figure, "relations", "Share right against mean confidence, a mark for each relation"
    )
  ]


def _apart(confidence, right):
  return (
    None not in (right["low"], right["high"]) and not right["low"] <= confidence <= right["high"]
  )


def _diagonal(axes):
  axes.plot(
    [0, 1],
    [0, 1],
    color=BLACK,
    linestyle=(0, (5, 3)),
    linewidth=1,
    label="Confidence as promised",
    zorder=2,
  )
  axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def _points(axes, x, found, colour, size=5, alpha=1.0, label=None):
  """Estimates at x with their intervals."""
  ends = [
    [0 if row[key] is None else max(0, sign * (row[key] - row["mean"])) for row in found]
    for key, sign in (("low", -1), ("high", 1))
  ]
  axes.errorbar(
    x,
    [row["mean"] for row in found],
    yerr=ends,
    color=colour,
    marker="o" if size else "",
    markersize=size,
    linestyle="",
    elinewidth=1.1,
    alpha=alpha,
    label=label,
    markeredgecolor="white",
    markeredgewidth=0.5,
    zorder=3,
  )


def _risk(quality):
  """Share wrong against the share of answers given, all relations together with their interval, each one thin."""
  rows = curve(quality.get("pooled") or {})
  if len(rows) < 2:
    return []
  figure, axes = canvas.new_figure(5.4, 4.1)
  drawn = [
    curve(group)
    for group in (quality.get("relations") or {}).values()
    if (numbers.finite(group.get("units")) or 0) >= FEWEST
  ]
  alpha = min(
    0.5, max(0.22, 6 / max(1, len(drawn)))
  )  # of a hundred lines the spread is to be seen, not each
  for place, line in enumerate(drawn if len(drawn) > 1 else []):
    axes.plot(
      [x for x, _ in line],
      [risk["mean"] for _, risk in line],
      color=GREY,
      linewidth=0.7,
      alpha=alpha,
      label=None if place else f"A relation (of at least {FEWEST} answers)",
      zorder=1,
    )
  canvas.line(axes, rows, (BLUE, "", "-"), "All relations together")
  _risk_axes(axes, max(risk["high"] or risk["mean"] for _, risk in rows))
  canvas.legend(figure, axes)
  return [
    canvas.panel(
      figure, "risk_coverage", "Share wrong among the answers given, against their share"
    )
  ]


def _risk_axes(axes, highest):
  """A right-hand scale of precision at the usual targets; room for the pooled curve with its interval."""
  top = min(1, 1.25 * max(highest, RISKS[0]))
  axes.set(
    xlim=(0, 1),
    ylim=(0, top),
    xlabel="Coverage: share of answers given, most confident first",
    ylabel="Risk: share of them wrong",
  )
  shown = [risk for risk in RISKS if risk < top]
  for risk in shown:
    axes.axhline(risk, color=BLACK, linestyle=":", linewidth=0.9, zorder=2)
  scale = axes.secondary_yaxis("right")
  # Lines of 5% and 10% would print their words over each other on a scale that reaches 100%.
  words = [
    risk for i, risk in enumerate(shown) if i == len(shown) - 1 or shown[i + 1] - risk > 0.06 * top
  ]
  scale.set_yticks(words, [f"{100 - 100 * risk:g}% right" for risk in words])
  scale.tick_params(length=0)
  scale.spines["right"].set_visible(False)

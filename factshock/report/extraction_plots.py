"""Pictures of an extraction's page: reliability, relations, and risk against coverage."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from factshock.report import canvas
from factshock.report.canvas import BLACK, BLUE, DASHED, GREY, VERMILION, Panel
from factshock.report.numbers import KnownEstimate, finite, known_estimate
from factshock.report.schema import Quality, QualityGroup

if TYPE_CHECKING:
  from matplotlib.axes import Axes

FEWEST = 30  # held-out answers of a relation below which its curve says nothing
RISKS = (0.05, 0.1, 0.2)  # levels drawn as lines: 95%, 90% and 80% precision
_BIN_KEYS = ("confidence", "units", "low", "high")

# A bin of answers, and the share of them that is right.
Bin = tuple[dict[str, Any], KnownEstimate]
# A relation's mean confidence, its share right, and its number of answers.
RelationPoint = tuple[float, KnownEstimate, float]


def draw(quality: Quality) -> dict[str, list[Panel]]:
  """Draws the pictures of a quality without None; one that lacks its data has no panels."""
  with canvas.settings():
    return {
      "reliability": _reliability(quality.get("pooled") or {}) + _relations(quality),
      "risk": _risk(quality),
    }


def bins(group: QualityGroup) -> list[Bin]:
  """Returns the reliability bins that can be drawn, with the share right in each."""
  drawn = []
  rows = group.get("reliability") or []
  for row in rows:
    right = known_estimate(row.get("right"))
    position = [finite(row.get(key)) for key in _BIN_KEYS]
    if right is None or None in position:
      continue
    drawn.append((row, right))
  return drawn


def curve(group: QualityGroup) -> list[tuple[float, KnownEstimate]]:
  """Returns the risk of a group by coverage."""
  points = []
  rows = group.get("risk_coverage") or []
  for row in rows:
    coverage = finite(row.get("coverage"))
    risk = known_estimate(row.get("risk"))
    if coverage is None or risk is None:
      continue
    points.append((coverage, risk))
  return points


def relation_points(quality: Quality) -> list[RelationPoint]:
  """Returns the relations that have held-out answers."""
  points = []
  for group in (quality.get("relations") or {}).values():
    confidence = known_estimate(group.get("mean_confidence"))
    right = known_estimate(group.get("share_right"))
    units = finite(group.get("units"))
    if confidence and right and units:
      points.append((confidence["mean"], right, units))
  return points


def _reliability(group: QualityGroup) -> list[Panel]:
  """Draws share right against confidence in bins, and below it how many answers each bin has."""
  rows = bins(group)
  if not rows:
    return []
  figure = canvas.empty_figure(4.5, 4.7)
  axes, counts = figure.subplots(2, sharex=True, height_ratios=[4, 1])
  _draw_diagonal(axes)
  x = [row["confidence"] for row, _ in rows]
  right = [estimate for _, estimate in rows]
  means = [estimate["mean"] for estimate in right]
  axes.plot(
    x,
    means,
    color=BLUE,
    linewidth=1,
    alpha=0.6,
    zorder=3,
  )
  _draw_estimates(
    axes,
    x,
    right,
    BLUE,
    label="Bins of equal mass",
  )
  axes.set(title="All relations together", ylabel="Share right")
  _draw_counts(counts, x, [row["units"] for row, _ in rows])
  canvas.legend(figure, axes)
  alt = "Share right against mean confidence in bins, with their answers"
  return [canvas.panel(figure, "reliability", alt)]


def _draw_counts(
  axes: "Axes",
  x: Sequence[float],
  units: Sequence[float],
) -> None:
  # A bin may be narrower than a line is wide: lines at the mean confidence show every bin.
  axes.vlines(
    x,
    0,
    units,
    color=BLUE,
    linewidth=4,
  )
  axes.set(xlabel="Confidence", ylabel="Answers", ylim=(0, 1.15 * max(units)))
  axes.locator_params(axis="y", nbins=2, integer=True)
  axes.yaxis.set_major_formatter(lambda value, _: canvas.brief(value))


def _relations(quality: Quality) -> list[Panel]:
  """Draws share right against mean confidence, a mark for each relation."""
  points = relation_points(quality)
  if len(points) < 2:
    return []
  figure, axes = canvas.new_figure(4.5, 4.7)
  _draw_diagonal(axes)
  most = max(units for _, _, units in points)
  within = [point for point in points if not _is_outside(point)]
  outside = [point for point in points if _is_outside(point)]
  _draw_relations(axes, within, most, GREY, "o", "Within the interval")
  _draw_relations(axes, outside, most, VERMILION, "D", "Outside the interval")
  axes.set(title="Each relation", xlabel="Mean confidence", ylabel="Share right")
  canvas.legend(figure, axes)
  alt = "Share right against mean confidence, a mark for each relation"
  return [canvas.panel(figure, "relations", alt)]


def _is_outside(point: RelationPoint) -> bool:
  """Returns whether the mean confidence lies outside the interval of the share right."""
  confidence, right, _ = point
  low = right["low"]
  high = right["high"]
  return low is not None and high is not None and not low <= confidence <= high


def _draw_relations(
  axes: "Axes",
  points: Sequence[RelationPoint],
  most: float,
  colour: str,
  marker: str,
  name: str,
) -> None:
  """Draws a mark for each relation, larger with more answers; `most` is the largest number."""
  if not points:
    return
  x = [confidence for confidence, _, _ in points]
  right = [estimate for _, estimate, _ in points]
  _draw_estimates(
    axes,
    x,
    right,
    colour,
    size=0,
    alpha=0.45,
  )
  axes.scatter(
    x,
    [estimate["mean"] for estimate in right],
    s=[12 + 70 * units / most for _, _, units in points],
    color=colour,
    marker=marker,
    alpha=0.75,
    linewidths=0,
    label=name,
    zorder=4,
  )


def _draw_diagonal(axes: "Axes") -> None:
  axes.plot(
    [0, 1],
    [0, 1],
    color=BLACK,
    linestyle=DASHED,
    linewidth=1,
    label="Confidence as promised",
    zorder=2,
  )
  axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def _draw_estimates(
  axes: "Axes",
  x: Sequence[float],
  estimates: Sequence[KnownEstimate],
  colour: str,
  *,
  size: float = 5,
  alpha: float = 1.0,
  label: str | None = None,
) -> None:
  """Draws estimates at x with their intervals; of size 0, the intervals alone."""
  axes.errorbar(
    x,
    [estimate["mean"] for estimate in estimates],
    yerr=canvas.half_widths(estimates),
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


def _risk(quality: Quality) -> list[Panel]:
  """Draws the share wrong against the share of answers given.

  All relations together are drawn with their interval, each relation as a thin line.
  """
  points = curve(quality.get("pooled") or {})
  if len(points) < 2:
    return []
  figure, axes = canvas.new_figure(5.4, 4.1)
  groups = (quality.get("relations") or {}).values()
  curves = [curve(group) for group in groups if (finite(group.get("units")) or 0) >= FEWEST]
  if len(curves) > 1:
    _draw_relation_curves(axes, curves)
  canvas.line(axes, points, (BLUE, "", "-"), "All relations together")
  _set_risk_axes(axes, max(risk["high"] or risk["mean"] for _, risk in points))
  canvas.legend(figure, axes)
  alt = "Share wrong among the answers given, against their share"
  return [canvas.panel(figure, "risk_coverage", alt)]


def _draw_relation_curves(
  axes: "Axes",
  curves: Sequence[canvas.Points],
) -> None:
  # Of a hundred lines the spread is to be seen, not each.
  alpha = min(0.5, max(0.22, 6 / len(curves)))
  name = f"A relation (of at least {FEWEST} answers)"
  for index, points in enumerate(curves):
    axes.plot(
      [x for x, _ in points],
      [risk["mean"] for _, risk in points],
      color=GREY,
      linewidth=0.7,
      alpha=alpha,
      label=None if index else name,
      zorder=1,
    )


def _set_risk_axes(axes: "Axes", highest: float) -> None:
  """Sets the range of risk, and a right-hand scale of precision at the usual targets."""
  top = min(1, 1.25 * max(highest, RISKS[0]))
  axes.set(
    xlim=(0, 1),
    ylim=(0, top),
    xlabel="Coverage: share of answers given, most confident first",
    ylabel="Risk: share of them wrong",
  )
  drawn = [risk for risk in RISKS if risk < top]
  for risk in drawn:
    axes.axhline(
      risk,
      color=BLACK,
      linestyle=":",
      linewidth=0.9,
      zorder=2,
    )
  # On a scale that reaches 100% the texts of 5% and 10% would be printed over each other.
  following = [*drawn[1:], top + 1]
  named = [risk for risk, after in zip(drawn, following) if after - risk > 0.06 * top]
  scale = axes.secondary_yaxis("right")
  scale.set_yticks(named, [f"{100 - 100 * risk:g}% right" for risk in named])
  scale.tick_params(length=0)
  scale.spines["right"].set_visible(False)

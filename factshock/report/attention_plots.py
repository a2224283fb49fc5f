"""Pictures of attention to the subject: by layer and head, by popularity, and along curves."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from factshock.report import attention, canvas, numbers, plots, reading
from factshock.report.attention import SITES
from factshock.report.canvas import Panel, Style
from factshock.report.numbers import KnownEstimate, known_estimate, signed_share
from factshock.report.plots import BinEstimates, PopularityPicture
from factshock.report.schema import Diagnosis

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

MOST_NUMBERS = 64  # cells of a panel up to which each has its number
_LEVEL = "Attention to the subject"
_CHANGE = "Change of attention to the subject"
_NO_CHANGE: KnownEstimate = {"mean": 0.0, "low": None, "high": None, "by_seed": {}}
_AXES = {"steps": "finetuning steps", "alpha": "the mixing weight alpha"}

# A number for each layer and head.
HeadTable = list[list[float]]


def draw(diagnosis: Diagnosis) -> dict[str, list[Panel]]:
  """Draws changes by layer and head, and attention by popularity and along curves."""
  if not attention.labels(diagnosis):
    return {}
  pictures: dict[str, list[Panel]] = {key: [] for key in attention.PICTURES}
  with canvas.settings():
    for site in attention.sites(diagnosis):
      pictures["attention_heads"] += head_panels(diagnosis, site)
      pictures["attention_popularity"] += _popularity_panels(diagnosis, site)
      for kind in _AXES:
        pictures["attention_curves"] += _curve_panels(diagnosis, site, kind)
  return {key: panels for key, panels in pictures.items() if panels}


def drawn_labels(diagnosis: Diagnosis, most: int = 9) -> list[str]:
  """Returns the labels that are drawn, in the table's order.

  Those that play a part in the report go before those that are compared bin by bin.
  """
  roles = reading.roles(diagnosis)
  measured = attention.labels(diagnosis)
  wanted = dict.fromkeys(
    [roles["zero_shot"], roles["finetuned"], *roles["remedies"], *plots.main_arms(diagnosis)]
  )
  drawn = [label for label in wanted if label in measured][:most] or measured[:most]
  return sorted(drawn, key=measured.index)


def looks(diagnosis: Diagnosis) -> dict[str, Style]:
  """Returns the style of each drawn label, the same in all pictures; zero-shot has none."""
  zero_shot = reading.roles(diagnosis)["zero_shot"]
  return plots.styles(diagnosis, [label for label in drawn_labels(diagnosis) if label != zero_shot])


def head_panels(diagnosis: Diagnosis, site: str) -> list[Panel]:
  """Draws the change of attention by layer and head, a panel an arm, all of one scale."""
  tables = {}
  for label in drawn_labels(diagnosis):
    table = _head_table(diagnosis, label, site)
    if table:
      tables[label] = table
  sizes = sorted(abs(value) for table in tables.values() for row in table for value in row)
  if not sizes:
    return []
  # A few heads may change far more than all others, which would then look alike.
  is_cut = len(sizes) > MOST_NUMBERS * len(tables)
  limit = sizes[int(0.99 * (len(sizes) - 1))] if is_cut else sizes[-1]
  return [
    _head_panel(diagnosis, label, site, table, limit or 1e-3, is_cut)
    for label, table in tables.items()
  ]


def _head_table(
  diagnosis: Diagnosis,
  label: str,
  site: str,
) -> HeadTable | None:
  """Returns the change of attention by layer and head; None where it is missing or has gaps."""
  rows = attention.value_at(diagnosis, label, site, "change", "by_head", "mean")
  if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
    return None
  lengths = {len(row) for row in rows}
  if len(lengths) != 1 or 0 in lengths:
    return None
  for row in rows:
    for value in row:
      if numbers.finite(value) is None:
        return None
  return rows


def _head_panel(
  diagnosis: Diagnosis,
  label: str,
  site: str,
  table: HeadTable,
  limit: float,
  is_cut: bool,
) -> Panel:
  layers = len(table)
  heads = len(table[0])
  height = min(4.2, 1.5 + max(0.3 * layers, 0.09 * layers + 0.8))
  figure, axes = canvas.new_figure(4.0, height)
  _draw_heads(figure, axes, table, limit, is_cut)
  axes.grid(False)
  _set_counted_ticks(axes.set_xticks, heads)
  _set_counted_ticks(axes.set_yticks, layers)
  if layers * heads <= MOST_NUMBERS:
    _write_numbers(axes, table, limit)
  title = reading.title(diagnosis, label)
  short_title = canvas.wrap(title, 36)
  axes.set(xlabel="Head", ylabel="Layer", title=f"{short_title}\n{attention.heading(site).lower()}")
  alt = f"{title}: change of attention to the subject in {SITES[site]} by layer and head"
  return canvas.panel(figure, f"attention_{site}_{canvas.file_name(label)}", alt)


def _draw_heads(
  figure: "Figure",
  axes: "Axes",
  table: HeadTable,
  limit: float,
  is_cut: bool,
) -> None:
  colours = canvas.colour_map([canvas.VERMILION, canvas.WHITE, canvas.BLUE])
  image = axes.imshow(
    table,
    cmap=colours,
    vmin=-limit,
    vmax=limit,
    aspect="auto",
    interpolation="nearest",
  )
  colour_bar = figure.colorbar(image, ax=axes, extend="both" if is_cut else "neither")
  colour_bar.ax.tick_params(labelsize=8)
  colour_bar.outline.set_visible(False)


def _set_counted_ticks(
  set_ticks: Callable[..., Any],
  count: int,
) -> None:
  """Sets about eight ticks of `count` things that are counted from 1."""
  positions = range(0, count, max(1, -(-count // 8)))
  set_ticks(positions, [str(position + 1) for position in positions])


def _write_numbers(
  axes: "Axes",
  table: HeadTable,
  limit: float,
) -> None:
  font_size = 9 if len(table[0]) <= 6 else 7.5
  for y, row in enumerate(table):
    for x, value in enumerate(row):
      axes.text(
        x,
        y,
        signed_share(value),
        ha="center",
        va="center",
        fontsize=font_size,
        color="white" if value > 0.6 * limit else canvas.BLACK,
      )


def _popularity_panels(
  diagnosis: Diagnosis,
  site: str,
) -> list[Panel]:
  """Draws attention by quarters of popularity, and its change where there is a reference.

  The line of the reference itself is then at 0.
  """
  levels = {}
  changes = {}
  for label in drawn_labels(diagnosis):
    levels[label] = _quarters(diagnosis, label, site)
    changes[label] = _quarters(diagnosis, label, site, "change")
  reference = attention.reference(diagnosis)
  has_changes = any(changes.values())
  if has_changes and reference in levels:
    bins = levels[reference]
    changes[reference] = [(row, _NO_CHANGE) for row, _ in bins]
  panels = _popularity_panel(diagnosis, levels, site, "popularity", _LEVEL)
  panels += _popularity_panel(diagnosis, changes, site, "popularity_change", _CHANGE)
  return panels


def _popularity_panel(
  diagnosis: Diagnosis,
  bins: Mapping[str, BinEstimates],
  site: str,
  key: str,
  axis: str,
) -> list[Panel]:
  """Draws one panel of the arms that have bins; none where no arm has."""
  drawn = {label: rows for label, rows in bins.items() if rows}
  if not drawn:
    return []
  styles = looks(diagnosis)
  picture = PopularityPicture(
    name=f"attention_{key}_{site}",
    axis=axis,
    title=attention.heading(site),
    alt=f"{axis} in {SITES[site]} by the subject's popularity, a line for each arm",
  )
  return [plots.popularity_panel(diagnosis, drawn, styles, picture)]


def _quarters(
  diagnosis: Diagnosis,
  label: str,
  site: str,
  *path: str,
) -> BinEstimates:
  """Returns the bins of popularity with an arm's attention in each, or with its change."""
  bins = []
  for row in attention.value_at(diagnosis, label, site, *path, "by_popularity") or []:
    mass = known_estimate(row.get("mass"))
    if mass:
      bins.append((row, mass))
  return bins


def _curve_panels(
  diagnosis: Diagnosis,
  site: str,
  kind: str,
) -> list[Panel]:
  """Draws one panel against steps or alpha, of the arms with several points.

  It shows the change of attention, or attention itself where there is no reference.
  """
  reference = attention.reference(diagnosis)
  styles = looks(diagnosis)
  curves = {label: _curve(diagnosis, label, site, kind) for label in styles}
  curves = {label: points for label, points in curves.items() if len(points) > 1}
  if not curves:
    return []
  axis = _LEVEL if reference is None else _CHANGE
  figure, axes = canvas.new_figure(4.2, 3.8)
  for label, points in curves.items():
    canvas.line(axes, points, styles[label], plots.short_title(diagnosis, label))
  if reference:
    canvas.level(axes, _NO_CHANGE, plots.short_title(diagnosis, reference))
  if kind == "steps":
    canvas.step_axis(axes, sorted({x for points in curves.values() for x, _ in points}))
  else:
    axes.set_xlabel(plots.ALPHA_AXIS)
  axes.set(title=attention.heading(site), ylabel=axis)
  canvas.legend(figure, axes)
  alt = f"{axis} in {SITES[site]} against {_AXES[kind]}, a line for each arm"
  return [canvas.panel(figure, f"attention_{kind}_{site}", alt)]


def _curve(
  diagnosis: Diagnosis,
  label: str,
  site: str,
  kind: str,
) -> Sequence[tuple[float, KnownEstimate]]:
  has_reference = attention.reference(diagnosis) is not None
  path = ("change", "mass") if has_reference else ("mass",)
  points = []
  for row in reading.curve(diagnosis, kind, label):
    estimate = attention.estimate(diagnosis, row.label, site, *path)
    if estimate:
      points.append((row.x, estimate))
  return points

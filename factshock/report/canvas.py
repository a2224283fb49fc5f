"""Colours, styles of arms, figures, lines and legends that all pictures share.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart, and every arm
also has its own marker and line. matplotlib is loaded when the first picture is drawn: it takes
half a second, which a page without pictures and the verbs' --help do without.
"""

import contextlib
import io
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from factshock.report.numbers import KnownEstimate

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.backend_bases import RendererBase
  from matplotlib.colors import Colormap
  from matplotlib.figure import Figure
  from matplotlib.typing import RcKeyType

# A line of matplotlib: a name such as "--", or an offset and the lengths of dashes and gaps.
LineStyle: TypeAlias = str | tuple[int, tuple[int, int]]

# Colour, marker and line of an arm.
Style: TypeAlias = tuple[str, str, LineStyle]

# Points of a line: x and the estimate there.
Points: TypeAlias = Sequence[tuple[float, KnownEstimate]]

BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#7A7A7A"
WHITE = "#FFFFFF"
GRID = "#e4e4e4"
DASHED: LineStyle = (0, (5, 3))
STYLES: list[Style] = [
  (VERMILION, "o", "-"),
  (BLUE, "s", "-"),
  (GREEN, "^", "--"),
  (PURPLE, "D", "-."),
  (ORANGE, "v", "--"),
  (SKY, "P", ":"),
  (BLACK, "X", "-"),
  (GREY, "<", ":"),
]
SETTINGS: "dict[RcKeyType, Any]" = {
  "font.size": 10,
  "axes.titlesize": 10.5,
  "axes.labelsize": 10,
  "legend.fontsize": 9,
  "xtick.labelsize": 9,
  "ytick.labelsize": 9,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.color": GRID,
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
  "savefig.dpi": 200,  # of what is drawn as pixels within an image
  "svg.fonttype": "path",  # letters as drawn: another machine's fonts would have other widths
  "svg.hashsalt": "factshock",  # the same picture is the same bytes
}
_LEGEND = 0.45  # inches of a legend of two lines
# Marks beyond which they are drawn as pixels: each would be an element of the image.
MANY_MARKS = 200


class Panel(NamedTuple):
  """One image: file name without suffix, SVG bytes, and a text for who cannot see it."""

  name: str
  svg: bytes
  alt: str


@contextlib.contextmanager
def settings() -> Iterator[None]:
  """Applies the reports' matplotlib settings inside."""
  with _matplotlib().rc_context(SETTINGS):
    yield


def _matplotlib() -> ModuleType:
  """Returns matplotlib, loaded with its figures and colours when first called."""
  import matplotlib.figure  # noqa: PLC0415  loaded when drawn, see above

  return matplotlib


def new_figure(
  width: float,
  height: float,
) -> "tuple[Figure, Axes]":
  """Returns a figure of so many inches and its only axes."""
  figure = empty_figure(width, height)
  return figure, figure.add_subplot()


def empty_figure(width: float, height: float) -> "Figure":
  """Returns a figure of so many inches without axes."""
  return _matplotlib().figure.Figure(figsize=(width, height), layout="constrained")


def colour_map(colours: Sequence[str]) -> "Colormap":
  """Returns a scale of colours from the first, at the lowest value, to the last."""
  scales = _matplotlib().colors.LinearSegmentedColormap
  return scales.from_list("change", colours)


def panel(
  figure: "Figure",
  name: str,
  alt: str,
) -> Panel:
  """Returns a figure as an SVG image with its name and its text."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
  return Panel(name, buffer.getvalue(), alt)


def wrap(text: str, width: int) -> str:
  """Returns a text in lines of at most so many characters."""
  return "\n".join(textwrap.wrap(text, width, break_long_words=True)) or text


def file_name(label: str) -> str:
  """Returns a label as a part of a file name, without characters that a file system may refuse."""
  return "".join(c if c.isalnum() or c in "-_" else "_" for c in str(label))[:60]


def brief(value: float) -> str:
  """Returns a number in three figures: "12.5", "3.4k", "1.2M"."""
  for size, unit in ((1e6, "M"), (1e3, "k")):
    if abs(value) >= size:
      return f"{value / size:.3g}{unit}"
  return f"{value:.3g}"


def legend(
  figure: "Figure",
  axes: "Axes",
  columns: int = 2,
) -> None:
  """Draws the legend of the axes below them, in fewer columns where these are wider than it.

  The figure's height is that with a legend of two lines: more make it taller, not the axes smaller.
  """
  handles, labels = axes.get_legend_handles_labels()
  if not handles:
    return
  renderer = _renderer(figure)
  for count in range(columns, 0, -1):
    drawn = figure.legend(
      handles, labels, loc="outside lower center", ncols=count, columnspacing=1.2
    )
    size = drawn.get_window_extent(renderer)
    if size.width <= figure.bbox.width or count == 1:
      break
    drawn.remove()
  width, height = figure.get_size_inches()
  figure.set_size_inches(width, height + size.height / figure.dpi - _LEGEND)


def _renderer(figure: "Figure") -> "RendererBase":
  """Returns what measures texts of a figure."""
  from matplotlib.backends import backend_agg  # noqa: PLC0415  loaded when drawn, see above

  return backend_agg.FigureCanvasAgg(figure).get_renderer()


def line(
  axes: "Axes",
  points: Points,
  style: Style,
  name: str,
) -> None:
  """Draws estimates as a line with markers, and their intervals as a band."""
  colour, marker, line_style = style
  axes.plot(
    [x for x, _ in points],
    [estimate["mean"] for _, estimate in points],
    color=colour,
    marker=marker,
    linestyle=line_style,
    label=name,
    markeredgecolor="white",
    markeredgewidth=0.6,
    zorder=3,
  )
  band = [
    (x, estimate["low"], estimate["high"])
    for x, estimate in points
    if estimate["low"] is not None and estimate["high"] is not None
  ]
  if len(band) > 1:
    xs, lows, highs = zip(*band)
    axes.fill_between(
      xs,
      lows,
      highs,
      color=colour,
      alpha=0.13,
      linewidth=0,
      zorder=1,
    )


def level(
  axes: "Axes",
  estimate: KnownEstimate | None,
  name: str,
) -> None:
  """Draws the mean of an estimate as a dashed line across the axes, where there is one."""
  if estimate:
    axes.axhline(
      estimate["mean"],
      color=GREY,
      linestyle=DASHED,
      linewidth=1.2,
      label=name,
      zorder=2,
    )


def half_widths(estimates: Sequence[KnownEstimate]) -> tuple[list[float], list[float]]:
  """Returns how far each interval reaches below and above its mean: 0 where it has no end."""
  below = []
  above = []
  for estimate in estimates:
    mean = estimate["mean"]
    low = estimate["low"]
    high = estimate["high"]
    below.append(0 if low is None else max(0, mean - low))
    above.append(0 if high is None else max(0, high - mean))
  return below, above


def step_axis(axes: "Axes", steps: Sequence[float]) -> None:
  """Makes x the finetuning steps, logarithmic beyond the first: most happens early."""
  first = min((x for x in steps if x > 0), default=1)
  axes.set_xscale("symlog", linthresh=first, linscale=0.6)
  every = math.ceil(len(steps) / 8)
  ticks = [x for i, x in enumerate(steps) if i % every == 0 or x == steps[-1]]
  axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
  axes.minorticks_off()
  axes.set_xlim(left=-0.25 * first if steps and steps[0] <= 0 else None)
  axes.set_xlabel("Finetuning steps (logarithmic)")


def factor_ticks(
  set_ticks: Callable[[list[float], list[str]], object],
  low: float,
  high: float,
  position: Callable[[int], float],
) -> None:
  """Sets ticks at powers of two between two exponents, written as factors: 1/4, 1, 4.

  Args:
    set_ticks: sets positions and texts of an axis.
    low: the lowest exponent.
    high: the highest exponent.
    position: where on the axis an exponent stands.
  """
  every = max(1, math.ceil((high - low) / 7))
  exponents = [x for x in range(math.ceil(low), math.floor(high) + 1) if x % every == 0]
  names = [f"1/{2**-x}" if x < 0 else f"{2**x}" for x in exponents]
  set_ticks([position(x) for x in exponents], names)

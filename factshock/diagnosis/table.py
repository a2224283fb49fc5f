"""Lines for the terminal of a diagnosis, and of the quality of a calibration."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from factshock.diagnosis import verdict
from factshock.types import Estimate

Json: TypeAlias = Mapping[str, Any]


class Column(NamedTuple):
  """Column of the table of arms.

  Attributes:
    title: its head; None: the criterion.
    keys: path of its estimate in an arm of the diagnosis.
    with_interval: whether the interval is shown too.
  """

  title: str | None
  keys: tuple[str, ...]
  with_interval: bool = False


WIDTH = 100  # columns of a terminal that the tables fit into
_LABEL = 40  # characters of a label there
# Titles of columns in the order in which they are kept where there is no room for all.
_IMPORTANT = (
  "exact match",
  "contains match",
  "rare seen",
  "common unseen",
  "shock",
  "known kept",
  "McNemar p",
  "same sign",
  "queries",
  "wins",
  "losses",
  "hits@5",
  "F1",
  "macro",
  "slope",
  "range shift",
)

COLUMNS = (
  Column(None, ("right",), with_interval=True),
  Column("macro", ("macro_right",)),
  Column("F1", ("f1",)),
  Column("hits@5", ("hits@5",)),
  Column("known kept", ("known_kept",)),
  Column("shock", ("shock", "shock"), with_interval=True),
  Column("slope", ("shock", "slope")),
  Column("rare seen", ("shock", "ratio", "rare_seen")),
  Column("common unseen", ("shock", "ratio", "common_unseen")),
  Column("range shift", ("shock", "range_shift")),
)
_VERBOSE = 0.1  # between exact match and contains, from which on a line says which fits
CRITERIA = {"exact_match": "exact match", "contains": "contains match"}
CALIBRATION_MEASURES = {
  "share right": "share_right",
  "mean confidence": "mean_confidence",
  "ECE": "ece",
  "ECE less its bias": "ece_debiased",
  "Brier": "brier",
  "AUROC": "auroc",
}


def lines(diagnosis: Json, width: int | None = WIDTH) -> list[str]:
  """Returns lines of two tables, the arms and the paired comparisons, and of the verdict.

  Args:
    diagnosis: as from `summary.diagnose`.
    width: columns of the terminal, into which the most important columns of the tables go; None for
      all of them.
  """
  seeds = len(diagnosis["seeds"])
  criterion = CRITERIA[diagnosis["criterion"]]
  plural = "" if seeds == 1 else "s"
  percent = 100 * diagnosis["confidence"]
  text = [
    f"Arms ({seeds} seed{plural}, {percent:g}% bootstrap "
    "intervals; rare seen, common unseen: predicted / gold)",
    *fitted(_arm_rows(diagnosis["arms"], criterion, width is not None), width),
  ]
  text += wrapped(link_lines(diagnosis["arms"]))
  if diagnosis["criterion"] == "exact_match":
    text += wrapped(verbose_lines(diagnosis["arms"]))
  if diagnosis["comparisons"]:
    rows = _comparison_rows(diagnosis["comparisons"], criterion)
    text += ["", "Paired comparisons", *fitted(rows, width)]
  if diagnosis.get("verdict"):
    text += ["", *wrapped(verdict.lines(diagnosis["verdict"]))]
  return text


def wrapped(text: Iterable[str], width: int = WIDTH) -> list[str]:
  """Returns lines of at most so many characters, those that go on indented by two more."""
  short: list[str] = []
  for line in text:
    indent = " " * (len(line) - len(line.lstrip()))
    short += textwrap.wrap(
      line,
      width,
      subsequent_indent=indent + "  ",
      break_long_words=False,
      break_on_hyphens=False,
    ) or [""]
  return short


def fitted(rows: Iterable[Sequence[str]], width: int | None) -> list[str]:
  """Returns lines of a table of at most so many characters, and which columns that leaves out."""
  rows = [list(row) for row in rows]
  if width is None:
    return aligned(rows)
  rows = [[_shortened(row[0]), *row[1:]] for row in rows]
  head = rows[0]
  ranks = {title: rank for rank, title in enumerate(_IMPORTANT)}
  order = sorted(range(1, len(head)), key=lambda column: ranks.get(head[column], len(ranks)))
  room = width - 2 - max(len(row[0]) for row in rows)
  kept: list[int] = []
  for column in order:
    room -= 2 + max(len(row[column]) for row in rows)
    if room < 0:
      break
    kept.append(column)
  text = aligned([row[0], *(row[column] for column in sorted(kept))] for row in rows)
  if len(kept) < len(order):
    left_out = ", ".join(head[column] for column in sorted(set(order) - set(kept)))
    text += wrapped([f"  (no room for: {left_out})"], width)
  return text


def _shortened(label: str) -> str:
  """Returns a label with dots for its middle where it is long."""
  if len(label) <= _LABEL:
    return label
  half = (_LABEL - 1) // 2
  return f"{label[: _LABEL - 1 - half]}…{label[-half:]}"


def link_lines(arms: Mapping[str, Json]) -> list[str]:
  """Returns a line for each arm with shock measures some of whose answers are no known ones."""
  text: list[str] = []
  for label, arm in arms.items():
    counts = arm.get("answers")
    if not counts or not arm.get("shock"):
      continue
    total = sum(counts.values())
    line = (
      f"{label}: of {total:,} answers {counts['exact']:,} are an answer of their relation, "
      f"{counts['linked']:,} were linked to the first that they name, {counts['none']:,} name none"
    )
    if 2 * counts["none"] > total:
      line += (
        ": the shock measures are of the fewer; give more answers or aliases (--entity_counts of "
        "all answers of a relation), or rank them (answer --method=rank)"
      )
    text.append(line)
  return text


def verbose_lines(arms: Mapping[str, Json]) -> list[str]:
  """Returns a line for each arm many of whose answers hold an accepted one but equal none.

  It says both accuracies, and which of them fits.
  """
  text: list[str] = []
  for label, arm in arms.items():
    exact = _mean(arm, "exact_match")
    contains = _mean(arm, "contains")
    if contains - exact >= _VERBOSE:
      text.append(
        f"{label}: exact match {exact:.3f}, contains {contains:.3f}: many answers hold an accepted "
        "one and more; --criterion=contains fits them (config.diagnosis.criterion), or stop "
        "strings that end an answer (answer --stop)"
      )
  return text


def _mean(arm: Json, name: str) -> float:
  mean = _at(arm, (name, "mean"))
  return 0.0 if mean is None else mean


def _arm_rows(
  arms: Mapping[str, Json],
  criterion: str,
  is_narrow: bool,
) -> Iterator[list[str]]:
  """Yields the rows of the table of arms, whose only interval is the criterion's where narrow."""
  columns = [column for column in COLUMNS if _is_known(column, arms)]
  titles = [column.title or criterion for column in columns]
  yield ["arm", "queries", *titles]
  for label, arm in arms.items():
    cells: list[str] = []
    for column in columns:
      value = _at(arm, column.keys)
      has_interval = column.with_interval and not (is_narrow and column.title)
      cells.append(estimate(value, has_interval))
    yield [label, str(arm["queries"]), *cells]


def _is_known(column: Column, arms: Mapping[str, Json]) -> bool:
  """Returns whether some arm has the column's estimate."""
  return any(_at(arm, column.keys) for arm in arms.values())


def _comparison_rows(comparisons: Iterable[Json], criterion: str) -> Iterator[list[str]]:
  yield ["comparison", criterion, "wins", "losses", "McNemar p", "same sign"]
  for row in comparisons:
    yield [
      f"{row['arm']} - {row['against']}",
      estimate(row["difference"]),
      str(row["wins"]),
      str(row["losses"]),
      f"{row['mcnemar_p']:.2g}",
      row["seeds_same_sign"],
    ]


def calibration_lines(quality: Json) -> list[str]:
  """Returns lines on the confidences of all relations together: measures and yields.

  Args:
    quality: as from calibration.quality.
  """
  pooled = quality["pooled"]
  head = (
    f"Confidences of {pooled['units']} held-out answers to {pooled['queries']} queries "
    f"({100 * quality['confidence']:g}% bootstrap intervals; ECE over {pooled['bins']} bins of "
    "equal mass)"
  )
  rows = [["measure", "value", ""]]
  for title, name in CALIBRATION_MEASURES.items():
    value = estimate(pooled[name])
    rows.append([title, value, ""])
  rows += [_yield_row(row) for row in pooled["yields"]]
  return [head, *aligned(rows)]


def _yield_row(row: Json) -> list[str]:
  answers = ""
  if row["answers"] is not None:
    right = row["right"]["mean"]
    answers = f"{right:.0f} right of {row['answers']} answers"
  percent = 100 * row["precision"]
  return [
    f"yield at {percent:g}% precision",
    estimate(row["share"]),
    answers,
  ]


def _at(arm: Json | None, keys: Iterable[str]) -> Any:
  value: Any = arm
  for key in keys:
    value = value.get(key) if value else None
  return value


def estimate(value: Estimate | None, with_interval: bool = True) -> str:
  """Returns a mean, with its interval where it has one; "-" where it is undefined.

  Args:
    value: the estimate.
    with_interval: False leaves the interval out.
  """
  if not value or value["mean"] is None:
    return "-"
  mean = f"{value['mean']:.3f}"
  if not with_interval or value["low"] is None:
    return mean
  return f"{mean} [{value['low']:.3f}, {value['high']:.3f}]"


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
  """Returns lines of a table of texts: the first column to the left, the others to the right."""
  rows = list(rows)
  columns = zip(*rows)
  first_width, *widths = (max(map(len, column)) for column in columns)
  text: list[str] = []
  for first, *others in rows:
    cells = [cell.rjust(width) for cell, width in zip(others, widths)]
    line = "  ".join([first.ljust(first_width), *cells])
    text.append("  " + line.rstrip())
  return text

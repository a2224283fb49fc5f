"""Tables and their cells as HTML, for all reports; every text that comes from data is escaped."""

import html
import json
from collections.abc import Sequence
from typing import Any, TypeAlias

from factshock.report import numbers
from factshock.report.numbers import KnownEstimate, Writer, finite, interval, share

# A row of a table: its cells as HTML, or the heading of the rows below it.
Row: TypeAlias = Sequence[str] | str

MANY = 25  # rows beyond which a table scrolls in a box of its own

DASH = f'<span class="none">{numbers.DASH}</span>'


def text(value: Any) -> str:
  """Returns any value as HTML text."""
  return html.escape(str(value), quote=True)


def plain_text(value: Any) -> str:
  """Returns a text as it is, and anything else as JSON."""
  if isinstance(value, str):
    return value
  return json.dumps(value, ensure_ascii=False, default=str)


def table(
  head: Sequence[str],
  rows: Sequence[Row],
  kind: str = "",
) -> str:
  """Returns a table that scrolls sideways inside its own box.

  Args:
    head: the heads of the columns, as HTML.
    rows: cells as HTML; a row of one string is a heading.
    kind: the table's class in the style sheet.
  """
  heads = "".join(f"<th scope=col>{cell}</th>" for cell in head)
  body = "".join(_table_row(row, len(head)) for row in rows)
  return (
    f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{heads}</tr></thead>'
    f"<tbody>{body}</tbody></table></div>"
  )


def long_table(
  head: Sequence[str],
  rows: Sequence[Row],
  kind: str = "",
) -> str:
  """Returns a table, in a box that scrolls down too where it has many rows."""
  source = table(head, rows, kind)
  return f'<div class="tall">{source}</div>' if len(rows) > MANY else source


def _table_row(row: Row, width: int) -> str:
  if isinstance(row, str):
    return f'<tr class="part"><th scope=rowgroup colspan={width}><span>{row}</span></th></tr>'
  cells = "".join(f"<td>{cell}</td>" for cell in row[1:])
  return f"<tr><th scope=row>{row[0]}</th>{cells}</tr>"


def cell(
  estimate: KnownEstimate | None,
  write: Writer = share,
) -> str:
  """Returns an estimate with its interval in small type below; a dash where there is none."""
  if estimate is None:
    return DASH
  mean = write(estimate["mean"])
  ends = interval(estimate, write)
  if not ends:
    return mean
  return f"{mean}<small>{ends}</small>"


def difference(estimate: KnownEstimate | None) -> str:
  """Returns a difference, bold where its interval excludes 0; a dash where there is none."""
  if estimate is None:
    return DASH
  size = numbers.signed_share(estimate["mean"])
  ends = interval(estimate)
  if numbers.clear_sign(estimate):
    size = f"<b>{size}</b>"
  return f"{size}<small>{ends}</small>"


def count_cell(value: Any) -> str:
  """Returns a number of things with commas; a dash where there is none."""
  if finite(value) is None:
    return DASH
  return numbers.count(value)


def share_cell(value: Any) -> str:
  """Returns a share in three digits; a dash where there is none."""
  if finite(value) is None:
    return DASH
  return share(value)


def bar(
  estimate: KnownEstimate | None,
  span: tuple[float, float],
  reference: float | None = None,
) -> str:
  """Returns a small drawing of an estimate and its interval; "" where there is none.

  Args:
    estimate: what is drawn.
    span: the values at its left and right edge.
    reference: a value at which a dashed line is drawn, if it is within the span.
  """
  if estimate is None:
    return ""
  low = estimate["low"]
  high = estimate["high"]
  left, right = span
  shapes = ""
  if reference is not None and left <= reference <= right:
    x = _x_of(reference, span)
    shapes += f'<line class="at" x1="{x}" x2="{x}" y1="0" y2="24"/>'
  if low is not None and high is not None:
    x1 = _x_of(low, span)
    x2 = _x_of(high, span)
    shapes += f'<line class="ci" x1="{x1}" x2="{x2}" y1="12" y2="12"/>'
  x = _x_of(estimate["mean"], span)
  shapes += f'<circle class="dot" cx="{x}" cy="12" r="2.8"/>'
  return (
    f'<svg class="bar" width="90" height="24" viewBox="0 0 90 24" aria-hidden="true">{shapes}</svg>'
  )


def _x_of(value: float, span: tuple[float, float]) -> str:
  left, right = span
  x = 3 + 84 * (value - left) / (right - left)
  return f"{x:.1f}"

"""Errors that every module may raise."""

import itertools
from collections.abc import Iterable

_LINE = 600  # characters of a line that are shown,
_HEAD = 380  # and of a longer one these at its beginning
_TAIL = 180  # and these at its end
_LINES = 40  # lines that are shown
_PROBLEMS = 10  # problems of one file that are shown


class UserError(ValueError):
  """Something the user can put right: printed as one line, without a traceback; exit code 2.

  What an error quotes of a file may be of any size: of a long line its beginning and end are kept,
  of many lines the first.
  """

  def __init__(self, message: object = "") -> None:
    """Keeps the message, shortened."""
    super().__init__(_shortened(str(message)))


def joined(problems: Iterable[str]) -> str:
  """Returns problems of one file, a line each: the first few, and how many more there are."""
  rest = iter(problems)
  shown = list(itertools.islice(rest, _PROBLEMS))
  more = sum(1 for _ in rest)
  if more:
    shown.append(f"and {more:,} more")
  return "\n  ".join(shown)


def _shortened(message: str) -> str:
  """Returns a message of no more than a screen."""
  lines = message.split("\n", _LINES)
  if len(lines) > _LINES:
    more = message.count("\n") + 2 - _LINES
    lines = [*lines[: _LINES - 1], f"... ({more:,} more lines)"]
  return "\n".join(map(_shortened_line, lines))


def _shortened_line(line: str) -> str:
  if len(line) <= _LINE:
    return line
  left_out = len(line) - _HEAD - _TAIL
  return f"{line[:_HEAD]} ... ({left_out:,} characters) ... {line[-_TAIL:]}"

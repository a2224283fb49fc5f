"""One way out for what a long step has to say: on stdout for a verb, elsewhere for the Python API.

A verb prints messages on stdout, beside its result. Who calls from Python has them on stderr, or
gives a function that takes them.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TextIO, TypeAlias

Listener: TypeAlias = Callable[[str], None]

# Process-wide, not context variables: what a thread of a step says goes the same way.
_listeners: list[Listener] = []
_rewordings: list[Callable[[str], str]] = []


class Drawing(Protocol):
  """What is drawn on the terminal, where lines are printed too."""

  def hidden(self) -> AbstractContextManager[None]:
    """Takes it off the terminal while the context lasts."""
    ...

  def end(self) -> None:
    """Takes it off for good."""
    ...


_drawings: list[Drawing] = []


def say(text: str) -> None:
  """Prints a line on stdout, or hands it to whoever listens."""
  if _listeners:
    _listeners[-1](_reworded(text))
  else:
    _print(_reworded(text), sys.stdout)


def say_aside(text: str) -> None:
  """Prints a line on stderr, where it is beside the result, or hands it to whoever listens."""
  (listener() or _print_on_stderr)(_reworded(text))


def listener() -> Listener | None:
  """Returns who listens, who gets the lines of progress too; None where these go to stderr."""
  current = _listeners[-1] if _listeners else None
  return None if current is _print_on_stderr else current


@contextlib.contextmanager
def sent_to(listener: Listener) -> Iterator[None]:
  """Hands messages and lines of progress to a function while the context lasts."""
  _listeners.append(listener)
  try:
    yield
  finally:
    _listeners.remove(listener)


@contextlib.contextmanager
def kept_off_stdout() -> Iterator[None]:
  """Prints messages on stderr while the context lasts, unless somebody listens already."""
  with contextlib.nullcontext() if _listeners else sent_to(_print_on_stderr):
    yield


@contextlib.contextmanager
def reworded(reword: Callable[[str], str]) -> Iterator[None]:
  """Changes the words of messages while the context lasts."""
  _rewordings.append(reword)
  try:
    yield
  finally:
    _rewordings.remove(reword)


def _reworded(text: str) -> str:
  for reword in reversed(_rewordings):
    text = reword(text)
  return text


def make_way_for_lines(drawing: Drawing) -> None:
  """Has something that is drawn on the terminal taken off it while a line is printed."""
  _drawings.append(drawing)


def end_drawings() -> None:
  """Takes off the terminal what is drawn there; a program calls it before its last words."""
  for drawing in _drawings:
    drawing.end()


def _print_on_stderr(text: str) -> None:
  _print(text, sys.stderr)


def _print(text: str, file: TextIO) -> None:
  with contextlib.ExitStack() as stack:
    for drawing in _drawings:
      stack.enter_context(drawing.hidden())
    print(text, file=file, flush=True)

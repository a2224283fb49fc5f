"""Stopping on request: SIGTERM, as of a preempted machine, and Ctrl-C let a run save itself."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from factshock.runtime import processes

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: not done, run the same command again
SIGNALS = (signal.SIGTERM, signal.SIGINT)
_requested: list[str] = []  # names of the signals that came, in their order
_raised: list[str] = []  # names of the signals that ended a run


class Interrupted(KeyboardInterrupt):
  """Ends a run that was asked to stop and has saved its state; the exit code is EXIT_CODE."""


@contextlib.contextmanager
def signals_caught() -> Iterator[None]:
  """Takes note of SIGTERM and Ctrl-C inside, for `raise_if_requested`.

  The second signal of a kind acts as ever, at once. Outside of the main thread, the only one that
  signals reach, it does nothing.
  """
  try:
    with _handled_by(_note):
      yield
  finally:
    if threading.current_thread() is threading.main_thread():
      _requested.clear()


@contextlib.contextmanager
def signals_end_run() -> Iterator[None]:
  """Raises Interrupted inside when SIGTERM or Ctrl-C comes, but for where `signals_caught` does.

  That is before and after the work: there is nothing to save, and files are written whole or not
  at all. One of several processes that work as one ends as ever, as the others wait for it.
  """
  try:
    with _handled_by(_raise):
      yield
  finally:
    _raised.clear()


def raise_again() -> None:
  """Raises Interrupted where a signal that ends the run has not ended it.

  Python drops what is raised in a callback, such as JAX's while garbage is collected.
  """
  if _raised:
    raise Interrupted(_raised.pop())


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {caught: signal.signal(caught, handler) for caught in SIGNALS}
  try:
    yield
  finally:
    for caught, old in before.items():
      signal.signal(caught, old)


def requested_signal() -> str | None:
  """Returns the name of the signal that asked the run to stop, or None."""
  return _requested[0] if _requested else None


def raise_if_requested() -> None:
  """Raises Interrupted where the run was asked to stop; called where little is lost by it.

  Of several processes that work as one a signal to any stops all: all must call this at the same
  point.
  """
  signals = [name for name in processes.gather(requested_signal(), "interruption") if name]
  if signals:
    raise Interrupted(requested_signal() or f"{signals[0]} in another process")


def _note(signal_number: int, frame: FrameType | None) -> None:
  """Takes note of a signal, and lets the next one of its kind act at once."""
  name = signal.Signals(signal_number).name
  _requested.append(name)
  if signal_number == signal.SIGINT:
    signal.signal(signal_number, signal.default_int_handler)
  else:
    signal.signal(signal_number, signal.SIG_DFL)
  print(f"{name}: saving and stopping; once more to stop at once", file=sys.stderr, flush=True)


def _raise(signal_number: int, frame: FrameType | None) -> None:
  """Ends the run: by an exception where this process works alone."""
  del frame
  name = signal.Signals(signal_number).name
  if processes.process_count() == 1:
    _raised.append(name)
    raise Interrupted(name)
  signal.signal(signal_number, signal.SIG_DFL)
  signal.raise_signal(signal_number)

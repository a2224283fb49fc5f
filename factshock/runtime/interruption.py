"""Stopping when asked to: SIGTERM (as a preempted machine gets it) and Ctrl-C let a run save itself first."""

import contextlib
import signal
import sys
import threading

from factshock.runtime import processes

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: not done, run the same command again
SIGNALS = (signal.SIGTERM, signal.SIGINT)
_asked = []


class Interrupted(KeyboardInterrupt):
  """A run was asked to stop and has saved what it had; the exit code is EXIT_CODE."""


@contextlib.contextmanager
def signals_caught():
  """Context manager: SIGTERM and Ctrl-C are noted for `check`; the second one of a kind acts as ever, at once."""
  if (
    threading.current_thread() is not threading.main_thread()
  ):  # signals reach the main thread alone
    yield
    return
  before = {number: signal.signal(number, _note) for number in SIGNALS}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    _asked.clear()


def requested_signal():
  """The name of the signal that asked the run to stop, or None."""
  return _asked[0] if _asked else None


def raise_if_requested():
  """Raises Interrupted where the run, or any of the processes that work as one, was asked to stop; called where little is lost by it.

  Of several processes all must call it, at the same point.
  """
  signals = [name for name in processes.gather(requested_signal(), "interruption") if name]
  if signals:
    raise Interrupted(requested_signal() or f"{signals[0]} in another process")


def _note(number, frame):
  name = signal.Signals(number).name
  _asked.append(name)
  signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
  print(f"{name}: saving and stopping; once more to stop at once", file=sys.stderr, flush=True)

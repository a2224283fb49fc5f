"""Running a verb: user errors as one line, exit codes, and progress lines with an ETA."""

import errno
import functools
import io
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from factshock.runtime import interruption, processes
from factshock.runtime.errors import UserError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_HELP_FLAGS = {"--help", "-help", "--helpshort", "--helpfull", "-h"}


def run(main: Callable[[Sequence[str]], int | None]) -> None:
  """Runs a verb's `main(argv)` with its flags parsed, and ends the program.

  A UserError becomes one line on stderr and exit code 2. The exit code is 75 where SIGTERM or
  Ctrl-C made a run save itself and stop, 130 where Ctrl-C stopped a verb that has nothing to save.

  Args:
    main: takes the command line, the program's name first, and returns the exit code, None for 0.
  """
  _print_everything()
  try:
    app.run(lambda argv: _guarded(main, argv), flags_parser=_parse_flags)
  except SystemExit as end:
    # absl ends with 1 after --help, which to a shell script means that something went wrong.
    is_help = bool(_HELP_FLAGS & set(sys.argv[1:]))
    sys.exit(0 if is_help and end.code == 1 else end.code)


def _print_everything() -> None:
  """Makes what the terminal's encoding lacks be printed as escapes, and not end the verb."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")


def _guarded(main: Callable[[Sequence[str]], int | None], argv: list[str]) -> int | None:
  """Calls `main` and turns what it raises into a message and an exit code."""
  logging.set_verbosity(logging.WARNING)  # absl's own INFO: which backends JAX did not find
  try:
    if len(argv) > 1:
      raise UserError(f"unexpected argument {argv[1]!r}: every option is a --flag (see --help)")
    code = main(argv)
    processes.barrier("end")  # before JAX ends, which waits for others only so long
    return code
  except UserError as error:
    return _end(f"error: {error}", 2)
  except interruption.Interrupted as error:  # all of several processes, at the same point
    print(f"stopped by {error}: run the same command again to go on", file=sys.stderr)
    return interruption.EXIT_CODE
  except KeyboardInterrupt:
    return _end("interrupted: run the same command again to go on", 130)
  except Exception as error:
    # ml_collections finds only on first use that a config file is missing.
    if isinstance(error, OSError) and str(error).startswith("Configuration is not available"):
      reason = " ".join(str(error).split("config_config")[-1].split())
      return _end(f"error: --config cannot be read: {reason}", 2)
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
      return _end(f"error: {error.filename or 'a file'}: {error.strerror}", 2)
    if processes.process_count() > 1:
      _end(traceback.format_exc(), 1)
    raise


def _end(message: str, code: int) -> int:
  """Prints why a verb ends, and ends the processes that work with this one.

  Returns:
    The exit code.
  """
  print(message, file=sys.stderr, flush=True)
  processes.end_all(message.strip().splitlines()[-1], code)
  return code


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses the flags by absl, with the errors of a config file or a config flag as one line."""
  try:
    return app.parse_flags_with_usage(argv)
  except (
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    OSError,
    ImportError,
    SyntaxError,
    flags.Error,
  ) as error:
    text = " ".join(str(error).split())
    print(f"error: the flags or the config cannot be read: {text}", file=sys.stderr)
    sys.exit(2)


@functools.cache
def say_once(line: str) -> None:
  """Prints a line on stderr that says what was decided, once however often it is decided."""
  if processes.is_first():
    print(line, file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
  """Returns seconds as "m:ss" or "h:mm:ss"."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
  """Prints "label 1200/3000 40% (note), 0:51 elapsed, ETA 1:17", at most a line every few seconds.

  The ETA counts from the first update on: what comes before it (compilation, say) is not repeated.
  """

  def __init__(
    self,
    label: str,
    total: int,
    *,
    every: float = 5.0,
  ) -> None:
    """Starts the clock.

    Args:
      label: what is being done.
      total: how many units there are to do.
      every: seconds between two lines, at least.
    """
    self.label = label
    self.total = total
    self.every = every
    self.began = time.monotonic()
    self.printed = self.began  # when the last line was printed
    self.first: tuple[float, int] | None = None  # time and units done of the first update

  def update(self, done: int, note: str = "") -> None:
    """Takes note of the units done; prints if it is time to, or if all are done."""
    now = time.monotonic()
    if self.first is None:
      self.first = now, done
    finished = done >= self.total
    since = now - (self.began if finished else self.printed)
    is_first = done == self.first[1] < self.total
    if since < self.every or is_first:
      return
    self.printed = now
    print(self._line(now, done, note), flush=True)

  def _line(
    self,
    now: float,
    done: int,
    note: str,
  ) -> str:
    """Returns the line that says how far things are."""
    percent = 100 * done // max(1, self.total)
    remark = f" ({note})" if note else ""
    elapsed = format_duration(now - self.began)
    line = f"  {self.label} {done}/{self.total} {percent}%{remark}, {elapsed} elapsed"
    if done >= self.total or self.first is None:
      return line
    began, done_before = self.first
    eta = (now - began) * (self.total - done) / max(1, done - done_before)
    return f"{line}, ETA {format_duration(eta)}"

"""What every verb shares at the door: user errors, exit codes, and progress lines with an ETA."""

import sys
import time
import traceback

from absl import app, flags, logging

from factshock.runtime import interruption, processes
from factshock.runtime.errors import UserError


def run(main):
  """Runs an absl `main(argv)`; a UserError becomes one line on stderr and exit code 2.

  The exit code is 75 where SIGTERM or Ctrl-C made a run save itself and stop, 130 where Ctrl-C stopped a verb that has nothing to save.
  """

  def guarded(argv):
    logging.set_verbosity(logging.WARNING)  # absl's own INFO: which backends JAX did not find
    try:
      if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: every option is a --flag (see --help)")
      code = main(argv)
      processes.barrier("end")  # before JAX ends, which waits for others only so long
      return code
    except UserError as error:
      return _ended(f"error: {error}", 2)
    except interruption.Interrupted as signal:  # all of several processes, at the same point
      print(f"stopped by {signal}: run the same command again to go on", file=sys.stderr)
      return interruption.EXIT_CODE
    except KeyboardInterrupt:
      return _ended("interrupted: run the same command again to go on", 130)
    except Exception as error:
      # ml_collections tells of a config file that is not there when it is first looked at
      if isinstance(error, OSError) and str(error).startswith("Configuration is not available"):
        return _ended(
          f"error: --config cannot be read: {' '.join(str(error).split('config_config')[-1].split())}",
          2,
        )
      if processes.process_count() > 1:
        _ended(traceback.format_exc(), 1)
      raise

  try:
    app.run(guarded, flags_parser=_parse_flags)
  except SystemExit as end:
    # absl ends with 1 after --help, which to a shell script means that something went wrong.
    asked = {"--help", "-help", "--helpshort", "--helpfull", "-h"} & set(sys.argv[1:])
    sys.exit(0 if asked and end.code == 1 else end.code)


def _ended(message, code):
  """Prints why a verb ended, ends the processes that work with this one, and gives the exit code."""
  print(message, file=sys.stderr, flush=True)
  processes.fail(message.strip().splitlines()[-1], code)
  return code


def _parse_flags(argv):
  """absl's flag parsing, with the errors of a config file or a config flag as one line."""

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


def format_duration(seconds):
  """Seconds as "m:ss" or "h:mm:ss"."""
  seconds = int(round(seconds))
  hours, rest = divmod(seconds, 3600)
  minutes, seconds = divmod(rest, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
  """Prints "label 1200/3000 40% (note), 0:51 elapsed, ETA 1:17", at most one line every few seconds.

  The ETA counts from the first update on: what comes before it (compilation, say) is not repeated.
  """

  def __init__(self, label, total, *, every=5.0):
    self.label = label
    self.total = total
    self.every = every
    self.began = self.last = time.monotonic()
    self.first = None

  def update(self, done, note=""):
    """Says that `done` of `total` units are done; prints if it is time to, or if all are done."""
    now = time.monotonic()
    if self.first is None:
      self.first = now, done
    finished = done >= self.total
    if (
      now - (self.began if finished else self.last) < self.every
      or done == self.first[1] < self.total
    ):
      return
    self.last = now
    eta = (now - self.first[0]) * (self.total - done) / max(1, done - self.first[1])
    note = f" ({note})" if note else ""
    print(
      f"  {self.label} {done}/{self.total} {100 * done // max(1, self.total)}%{note}, "
      f"{format_duration(now - self.began)} elapsed" + ("" if finished else f", ETA {format_duration(eta)}"),
      flush=True,
    )

"""A command in a process of its own: how long it takes, and how much memory."""

import os
import subprocess
import sys
import time
from typing import NamedTuple

from factshock.runtime.errors import UserError

# A child starts with the peak of the process that made it: a small one stands in between.
_BETWEEN = """import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
sys.exit(code)"""


class Used(NamedTuple):
  """Seconds by the clock, until what was written is on the disk where that is waited for; seconds
  of CPU; peak resident bytes.
  """

  seconds: float
  cpu: float
  peak: int


def run(command, until_written=False):
  """What a command used; a UserError with the end of what it said where it failed."""
  began = time.perf_counter()
  done = subprocess.run([sys.executable, "-c", _BETWEEN, *command], capture_output=True, text=True)
  if until_written:
    os.sync()
  seconds = time.perf_counter() - began
  if done.returncode:
    raise UserError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
  cpu, peak = done.stdout.split()
  return Used(seconds, float(cpu), int(peak))

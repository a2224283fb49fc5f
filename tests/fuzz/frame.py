"""What a fuzzer is, and how one is run: time and memory are bounded, every outcome is counted.

A fuzzer is a function: (folder) -> make, called once, which may write valid files into the folder;
and make: (random, folder) -> Case, called for each input with an empty folder. A case reads its
input. Good outcomes are two: it was read and `wrong` finds nothing wrong with what was read, or it
was refused by a UserError of a few lines. All else fails: a traceback, a hang, memory without
bounds, another value than the right one.
"""

import collections
import dataclasses
import faulthandler
import pathlib
import random
import resource
import shutil
import signal
import traceback
import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from factshock.runtime.errors import UserError

SECONDS = 20  # that one input may take
MEMORY = 2 << 30  # bytes that one input may add
MESSAGE = 5000  # characters that an error may have,
LINES = 42  # and lines
GOOD = ("read", "refused")
BAD = ("traceback", "hang", "memory", "wrong", "flood")
HEADER = f"{'kind':<14}{'inputs':>8}" + "".join(f"{name:>11}" for name in GOOD + BAD)


class Case(NamedTuple):
  """An input: how it is read, and what is wrong with what was read (None or "" for nothing)."""

  read: Callable[[], Any]
  wrong: Callable[[Any], str | None] = lambda value: None


Make: TypeAlias = Callable[[random.Random, pathlib.Path], Case]
Fuzzer: TypeAlias = Callable[[pathlib.Path], Make]


class Failure(NamedTuple):
  """An input that failed: its number, its outcome, what was seen, and its files."""

  case: int
  outcome: str
  detail: str
  folder: pathlib.Path


@dataclasses.dataclass
class Tally:
  """What became of the inputs of one kind."""

  name: str
  outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  failures: list[Failure] = dataclasses.field(default_factory=list)

  def line(self) -> str:
    """Returns the row of the table, and a line for each failure."""
    total = sum(self.outcomes.values())
    cells = [f"{self.outcomes[name]:>11}" for name in GOOD + BAD]
    lines = [f"{self.name:<14}{total:>8}{''.join(cells)}"]
    for failure in self.failures:
      lines.append(f"  {self.name} --case={failure.case}: {failure.outcome}: {failure.detail}")
    return "\n".join(lines)


class _Hang(BaseException):
  """An input that took too long; no Exception, so that nobody catches it on the way."""


def run(
  name: str,
  fuzzer: Fuzzer,
  cases: Iterable[int],
  seed: int,
  folder: pathlib.Path,
) -> Tally:
  """Runs inputs of a kind; each depends on seed, kind and its number alone."""
  valid = folder / "valid"
  valid.mkdir()
  make = fuzzer(valid)
  tally = Tally(name)
  for number in cases:
    own = folder / f"{number}"
    own.mkdir()
    case = make(random.Random(f"{seed}/{name}/{number}"), own)
    outcome, detail = outcome_of(case)
    tally.outcomes[outcome] += 1
    if outcome in GOOD:
      shutil.rmtree(own)
    else:
      tally.failures.append(Failure(number, outcome, detail, own))
  return tally


def keep(tally: Tally, folder: pathlib.Path | None) -> None:
  """Copies the inputs that failed into a folder, where one is given."""
  for failure in tally.failures if folder else []:
    assert folder
    shutil.copytree(
      failure.folder,
      folder / f"{tally.name}-{failure.case}",
      dirs_exist_ok=True,
      symlinks=True,
      ignore=_pipes,
    )


def _pipes(folder: str, names: list[str]) -> list[str]:
  """Returns the names of those that cannot be copied."""
  return [name for name in names if (pathlib.Path(folder) / name).is_fifo()]


def outcome_of(case: Case) -> tuple[str, str]:
  """Returns what became of an input, and what was seen where that is bad."""
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  limits = resource.getrlimit(resource.RLIMIT_AS)
  resource.setrlimit(resource.RLIMIT_AS, (_address_space() + 2 * MEMORY, limits[1]))
  handler = signal.signal(signal.SIGALRM, _on_alarm)
  signal.alarm(SECONDS)
  faulthandler.dump_traceback_later(4 * SECONDS, exit=True)  # C code that no signal ends
  try:
    outcome, detail = _judged(case)
  except _Hang:
    outcome, detail = "hang", f"over {SECONDS} s"
  finally:
    signal.alarm(0)
    faulthandler.cancel_dump_traceback_later()
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, limits)
  added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
  if added > MEMORY and outcome in GOOD:
    return "memory", f"{added >> 20} MB"
  return outcome, detail


def _judged(case: Case) -> tuple[str, str]:
  try:
    value = case.read()
  except UserError as error:
    text = str(error)
    if len(text) > MESSAGE or text.count("\n") >= LINES:
      return "flood", f"an error of {len(text):,} characters: {text[:120]!r}"
    return "refused", ""
  except MemoryError:
    return "memory", _last(traceback.format_exc())
  except Exception:  # noqa: BLE001 - any is an outcome
    return "traceback", _last(traceback.format_exc())
  wrong = case.wrong(value)
  return ("wrong", wrong[:400]) if wrong else ("read", "")


def _last(trace: str) -> str:
  """Returns the place that raised and what was raised, in one line."""
  lines = trace.strip().splitlines()
  places = [line.strip() for line in lines if line.lstrip().startswith("File ")]
  own = [place for place in places if "/factshock/" in place]
  place = (own or places or [""])[-1].rpartition("/factshock/")[2]
  return f"{lines[-1][:200]} at {place}"


def _on_alarm(number: int, frame: types.FrameType | None) -> None:
  raise _Hang


def _address_space() -> int:
  """Returns the bytes of address space this process has."""
  fields = pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()
  return int(fields[0]) * resource.getpagesize()

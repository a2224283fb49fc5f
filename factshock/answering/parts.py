"""Answers in parts: kept as they come, shared by processes, joined into one file at the end.

Part I of OUTPUT is OUTPUT.parts/0000I.jsonl.gz, which appears whole. A part is asked under a lock,
by any of the processes that were started alike, on machines that share the folder; that of a killed
one is asked by another. Whoever finds all parts done joins them, and the folder goes. What it
holds answers to is said by asked.json there, what a server was asked for them by spent.*.json.
"""

import collections
import contextlib
import dataclasses
import glob
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from factshock.facts.streams import FactStream
from factshock.runtime import files, json_files, locks, messages, outputs
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress, format_duration
from factshock.types import Fact

SIZE = 2048  # facts of a part

_ASKED = "asked.json"
_PRESENT = "present."  # before the names of the locks that say who is at work
_SPENT = "spent."  # before the names of the files that say what a server was asked
_WAIT_SECONDS = 0.5  # between two looks at what other processes do
_ENDING = ".jsonl.gz"

Row = Mapping[str, Any]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Spending:
  """Says what this process has spent so far on answers.

  Attributes:
    numbers: for `parts.spent`, which adds up those of all processes, and the seconds they took.
    describe: takes the seconds that it took; a line.
  """

  numbers: Callable[[], Mapping[str, int]]
  describe: Callable[[float], str]


@dataclasses.dataclass(frozen=True)
class Asking(Generic[T]):
  """Says what is asked and what becomes of the answers.

  Attributes:
    facts: what is asked.
    answer: takes the facts of a part and the place of the first in the whole, and returns their
      rows: as many, of what JSON can hold.
    asked: whatever else the rows depend on, by the names that an error gives; what JSON can hold.
    write: takes the rows of all parts in order, and writes OUTPUT.
    spending: of this process; None: it spends nothing.
  """

  facts: FactStream
  answer: Callable[[Sequence[Fact], int], Sequence[Row]]
  asked: Mapping[str, Any]
  write: Callable[[Iterator[dict[str, Any]]], T]
  spending: Spending | None = None


class _DamagedError(Exception):
  """A part is not what was written; its argument is the path."""


class _GoneError(Exception):
  """The folder of parts is gone: another process has joined them."""


def folder_of(output: str) -> str:
  """Returns the folder of the parts of a file, which is there while it is not finished."""
  return f"{output}.parts"


def _removed(output: str) -> str:
  """Returns what the folder of parts is called while it is removed."""
  return f"{folder_of(output)}.joined"


def check_new(output: str) -> None:
  """Checks that a file is not there, unless its parts are: the run that was stopped goes on.

  With --overwrite nothing is checked, and parts that nobody is at are removed.

  Raises:
    UserError: it is there.
  """
  if not goes_on(output, outputs.overwrites()):
    outputs.check_new(output)


def goes_on(output: str, overwrite: bool) -> bool:
  """Returns whether the parts of a file are there, with which a run goes on.

  Args:
    output: the file.
    overwrite: whether it begins anew: parts that nobody is at are removed.
  """
  folder = folder_of(output)
  shutil.rmtree(_removed(output), ignore_errors=True)
  if not os.path.exists(os.path.join(folder, _ASKED)):
    return False
  if not overwrite:
    return True
  if present := _who_is_present(folder):
    messages.say(f"  {folder}: {present} is at work there; what it has answered is kept")
    return True
  shutil.rmtree(folder)
  return False


def spent(output: str) -> dict[str, float]:
  """Returns what all processes have spent on the parts that are there; called by `write`.

  `seconds` among it are those that each of them worked, added up.
  """
  total: collections.Counter[str] = collections.Counter()
  for path in glob.glob(os.path.join(glob.escape(folder_of(output)), f"{_SPENT}*.json")):
    with contextlib.suppress(FileNotFoundError, json_files.Broken):
      total.update(json_files.read(path))
  return dict(total)


@contextlib.contextmanager
def at_work(output: str) -> Iterator[None]:
  """Lets other processes see that this one is at work on a file; leaves no folder without parts.

  Entered before a model is opened, so that those which were started together find one another.
  """
  folder = folder_of(output)
  try:
    with locks.try_lock(os.path.join(folder, f"{_PRESENT}{uuid.uuid4().hex}")):
      yield
  finally:
    with contextlib.suppress(FileNotFoundError):  # it may go meanwhile
      if os.path.isdir(folder) and not _done(folder) and not _who_is_present(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _who_is_present(folder: str) -> str | None:
  """Returns in words a process that is at work in a folder; clears what dead ones have left."""
  for path in sorted(glob.glob(os.path.join(glob.escape(folder), f"{_PRESENT}*"))):
    if locks.is_locked(path):
      return locks.holder_of(path)
    with contextlib.suppress(FileNotFoundError):
      os.unlink(path)
  return None


def _done(folder: str) -> set[int]:
  """Returns the indices of the parts that are there; none where the folder is gone."""
  names: list[str] = []
  with contextlib.suppress(FileNotFoundError):
    names = os.listdir(folder)
  stems = [name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING)]
  return {int(stem) for stem in stems if stem.isdecimal()}


def run(
  output: str,
  asking: Asking[T],
  size: int,
  elsewhere: Callable[[Sequence[int]], None] | None = None,
) -> T | None:
  """Answers what is not answered yet, and joins all answers once; shares this with others.

  Called inside of `at_work`.

  Args:
    output: the file.
    asking: what is asked.
    size: facts of a part.
    elsewhere: has the parts of these indices answered, each by a `Worker`, in place of this
      process.

  Returns:
    What `write` returned; None where another process has written the file.

  Raises:
    UserError: parts there are answers to other questions; names what differs.
  """
  return _Parts(output, asking, size, elsewhere).run()


class Worker:
  """Answers parts of a file for a run that has them answered elsewhere."""

  def __init__(
    self,
    output: str,
    size: int,
    answer: Callable[[Sequence[Fact], int], Sequence[Row]],
    spending: Spending | None,
  ) -> None:
    """Takes what `Asking` and `run` take."""
    self._output = output
    self._size = size
    self._answer = answer
    self._spent = _Spent(folder_of(output), spending)

  def answer(self, index: int) -> None:
    """Answers a part, unless that is done; whoever is at it is waited for.

    Raises:
      UserError: the facts of the part are not what was written.
    """
    folder = folder_of(self._output)
    path = _part_path(folder, index)
    with at_work(self._output), locks.wait_for_lock(_lock_path(folder, index)):
      # Where the folder is gone others have joined the parts.
      if os.path.exists(path) or not os.path.exists(os.path.join(folder, _ASKED)):
        return
      facts = _read_part(_facts_path(folder, index))
      if facts is None:
        raise UserError(f"{_facts_path(folder, index)}: damaged; give the same command again")
      with self._spent.timed():
        _write_part(path, self._answer(cast(list[Fact], facts), index * self._size))


class _Spent:
  """Writes what one process has spent; each has a file of its own, which `spent` adds up.

  What a part took that was interrupted counts, too, but for a process that is killed at once.

  Attributes:
    seconds: that it took so far.
  """

  def __init__(self, folder: str, spending: Spending | None) -> None:
    self._path = os.path.join(folder, f"{_SPENT}{uuid.uuid4().hex}.json")
    self._spending = spending
    self.seconds = 0.0

  @contextlib.contextmanager
  def timed(self) -> Iterator[None]:
    """Adds what is done inside to the seconds, and writes all once it is done, or failed."""
    began = time.monotonic()
    try:
      yield
    finally:
      self.seconds += time.monotonic() - began
      if self._spending and os.path.isdir(os.path.dirname(self._path)):
        numbers = {**self._spending.numbers(), "seconds": round(self.seconds, 1)}
        with files.atomic_write(self._path, by_all=True) as file:
          json.dump(numbers, file)


def _part_path(folder: str, index: int) -> str:
  return os.path.join(folder, f"{index:05d}{_ENDING}")


def _facts_path(folder: str, index: int) -> str:
  """Returns where the facts of a part stand that is answered elsewhere."""
  return os.path.join(folder, f"{index:05d}.facts{_ENDING}")


def _lock_path(folder: str, index: int) -> str:
  return os.path.join(folder, f"{index:05d}.lock")


class _Parts(Generic[T]):
  """The parts of a file and what this process does about them."""

  def __init__(
    self,
    output: str,
    asking: Asking[T],
    size: int,
    elsewhere: Callable[[Sequence[int]], None] | None,
  ) -> None:
    self._output = output
    self._folder = folder_of(output)
    # Beside the folder: who waits for it must not make a folder anew that was just removed.
    self._lock = f"{self._folder}.lock"
    self._asking = asking
    self._size = size
    self._count = -(-asking.facts.count // size)
    self._answered = 0  # facts, by this process
    self._elsewhere = elsewhere
    self._spent = _Spent(self._folder, asking.spending)

  def run(self) -> T | None:
    """Does what `parts.run` says."""
    try:
      with locks.wait_for_lock(self._lock):
        self._take_folder()
      return self._answer_and_join()
    except _GoneError:
      return None
    finally:
      seconds = self._spent.seconds
      if seconds:
        rate = self._answered / seconds
        duration = format_duration(seconds)
        messages.say_aside(f"  {self._answered:,} answers in {duration}, {rate:,.1f} a second")
        if self._asking.spending:
          messages.say_aside(f"  {self._asking.spending.describe(seconds)}")

  def _answer_and_join(self) -> T | None:
    progress = self._new_progress()
    while True:
      if self._elsewhere:
        self._have_answered(self._elsewhere)
      else:
        self._answer(progress)
      if len(_done(self._folder)) == self._count:
        joined = self._join()
        if joined:
          return joined[0]
      self._check_there()
      time.sleep(_WAIT_SECONDS)

  def _take_folder(self) -> None:
    """Says in the folder what is asked, or checks that this is what it holds answers to.

    Raises:
      _GoneError: others that were started alike have written the file meanwhile.
      UserError: it holds answers to other questions.
    """
    path = os.path.join(self._folder, _ASKED)
    asked = {"facts a part": self._size, **self._asking.asked}
    if os.path.exists(path):
      self._check_same(path, asked)
      return
    if not os.path.isdir(self._folder) and os.path.exists(self._output):
      raise _GoneError
    with files.atomic_write(path, by_all=True) as file:
      json.dump(asked, file, indent=1, ensure_ascii=False)

  def _check_same(self, path: str, asked: Mapping[str, Any]) -> None:
    advice = "give the command that it was begun with, or --overwrite to begin anew"
    try:
      there = json_files.read(path)
    except json_files.Broken as error:
      raise UserError(f"{error}; give --overwrite to begin anew") from error
    here = json.loads(json.dumps(asked))
    differing = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if differing:
      shown = "; ".join(f"{key} ({there.get(key)}, {here.get(key)})" for key in differing)
      raise UserError(
        f"{self._folder}: holds answers to other questions than these; {advice}. What differs "
        f"(there, here): {shown}"
      )

  def _new_progress(self) -> Progress | None:
    """Says what is done already; returns what shows the rest, where there are several parts."""
    done = len(_done(self._folder))
    if self._count == 1:
      return None
    total = self._asking.facts.count
    before = f", {done:,} of them answered before" if done else ""
    messages.say(f"  {total:,} questions in {self._count:,} parts{before}")
    if self._elsewhere:
      return None
    progress = Progress("answering", total)
    progress.update(min(done * self._size, total), f"part {done}/{self._count}")
    return progress

  def _have_answered(self, elsewhere: Callable[[Sequence[int]], None]) -> None:
    """Has the parts answered elsewhere that nobody has answered, each with its facts beside it."""
    left: list[int] = []
    done = _done(self._folder)
    for index, facts in enumerate(self._asking.facts.parts(self._size)):
      if index not in done:
        _write_part(_facts_path(self._folder, index), cast(list[Row], facts))
        left.append(index)
    if left:
      elsewhere(left)

  def _answer(self, progress: Progress | None) -> None:
    """Answers the parts that nobody has answered or is at."""
    if len(_done(self._folder)) == self._count:
      return
    for index, facts in enumerate(self._asking.facts.parts(self._size)):
      if os.path.exists(self._path(index)):
        continue
      if self._answer_part(index, facts) and progress:
        done = len(_done(self._folder))
        answered = min(done * self._size, self._asking.facts.count)
        progress.update(answered, f"part {done}/{self._count}")

  def _answer_part(self, index: int, facts: Sequence[Fact]) -> bool:
    """Answers a part unless another process is at it; returns whether it did."""
    with self._claim(index) as is_ours:
      if not is_ours or os.path.exists(self._path(index)):
        return False
      with self._spent.timed():
        rows = self._asking.answer(facts, index * self._size)
        self._check_there()
        _write_part(self._path(index), rows)
    self._answered += len(facts)
    return True

  @contextlib.contextmanager
  def _claim(self, index: int) -> Iterator[bool]:
    """Tries to take a part's lock; raises _GoneError where the folder goes at that moment."""
    lock = locks.try_lock(_lock_path(self._folder, index))
    with contextlib.ExitStack() as held:
      try:
        is_ours = held.enter_context(lock)
      except (UserError, FileNotFoundError):
        self._check_there()
        raise
      self._check_there()
      yield is_ours

  def _check_there(self) -> None:
    """Raises _GoneError where the folder is gone."""
    if not os.path.exists(os.path.join(self._folder, _ASKED)):
      raise _GoneError

  def _path(self, index: int) -> str:
    return _part_path(self._folder, index)

  def _join(self) -> tuple[T] | None:
    """Writes the file from the parts and removes these; None where another is at it, or damage."""
    with locks.try_lock(self._lock) as is_ours:
      if not is_ours:
        return None
      self._check_there()
      try:
        result = self._asking.write(self._rows())
      except _DamagedError as damaged:
        messages.say(f"  {damaged}: damaged, asked again")
        os.unlink(str(damaged))
        return None
      # All at once, so that no other process takes what is left for an unfinished run.
      removed = _removed(self._output)
      shutil.rmtree(removed, ignore_errors=True)
      os.rename(self._folder, removed)
      shutil.rmtree(removed, ignore_errors=True)
      return (result,)

  def _rows(self) -> Iterator[dict[str, Any]]:
    """Yields the rows of all parts; raises _DamagedError where one is not what was written."""
    left = self._asking.facts.count
    for index in range(self._count):
      rows = _read_part(self._path(index))
      expected = min(self._size, left)
      if rows is None or len(rows) != expected:
        raise _DamagedError(self._path(index))
      left -= expected
      yield from rows


def _write_part(path: str, rows: Sequence[Row]) -> None:
  with files.atomic_write(path, by_all=True) as file:
    for row in rows:
      file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _read_part(path: str) -> list[dict[str, Any]] | None:
  """Returns the rows of a part; None where it is no whole file of rows."""
  try:
    return [json.loads(line) for _, line in files.lines(path, files.LONGEST_DOCUMENT)]
  except (UserError, ValueError):
    return None

"""Progress of long steps on stderr: a bar on a terminal, a line now and then in pipes and logs."""

import contextlib
import functools
import os
import shutil
import sys
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import tqdm

from factshock.runtime import files, interruption, messages, processes

T = TypeVar("T")

EVERY = 30.0  # seconds between two lines of a log
_SHORT = 1.0  # seconds before which a step shows no bar
_WORTH_KEEPING = 3.0  # seconds that a step takes whose full bar stays on the terminal
_FORMAT = "  {desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}, {elapsed}{postfix}"
_WIDTH = 120  # what stands behind is cut off
_SHOWN = 1000  # of many items how often it is shown how many are done
_COMPILING = "compiling"

tqdm.tqdm.monitor_interval = 0  # no thread that watches the bars: steps may fork processes


def format_duration(seconds: float) -> str:
  """Returns seconds as "m:ss" or "h:mm:ss"."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class _Bars:
  """Keeps the bars that are on the terminal, so that lines can be printed above them."""

  def __init__(self) -> None:
    self.shown: weakref.WeakSet[tqdm.tqdm[Any]] = weakref.WeakSet()

  @contextlib.contextmanager
  def hidden(self) -> Iterator[None]:
    """Takes the bars off the terminal while the context lasts."""
    shown = list(self.shown)
    for bar in shown:
      bar.clear()
    try:
      yield
    finally:
      for bar in shown:
        bar.refresh()

  def end(self) -> None:
    """Takes the bars off the terminal for good."""
    for bar in list(self.shown):
      bar.leave = False
      self.close(bar)

  def close(self, bar: "tqdm.tqdm[Any]") -> None:
    """Ends a bar."""
    self.shown.discard(bar)
    bar.close()


_bars = _Bars()
messages.make_way_for_lines(_bars)


class Progress:
  """Shows how far a long step is, with an ETA.

  On a terminal that is a bar; elsewhere "label 1200/3000 40% (note), 0:51 elapsed, ETA 1:17", at
  most a line every half minute, and one at the end of a step that took as long. The ETA counts from
  the first update on: what comes before it (compilation, say) is not repeated. It comes once a
  hundredth has been done since. Of several processes the first one shows it.
  """

  def __init__(
    self,
    label: str,
    total: int,
    *,
    every: float = EVERY,
    compiles: bool = False,
  ) -> None:
    """Starts the clock.

    Args:
      label: what is being done.
      total: how many units there are to do.
      every: seconds between two lines, at least.
      compiles: whether a program is compiled before the first update, which the bar then says.
    """
    self.label = label
    self.total = total
    self.every = every
    self.began = time.monotonic()
    self.printed = self.began  # when the last line was printed
    self.first: tuple[float, int] | None = None  # time and units done of the first update
    self.done = 0
    self._compiles = compiles
    self._bar = _new_bar(label, total, compiles) if _has_terminal() else None

  def update(self, done: int, note: str = "") -> None:
    """Takes note of the units done; shows them if it is time to, or if all are done."""
    interruption.raise_again()
    now = time.monotonic()
    self.done = done
    if self.first is None:
      self.first = now, done
    if self._bar is not None:
      self._draw(self._bar, now, done, note)
    elif processes.is_first():
      self._log(now, done, note)

  def advance(self, note: str = "") -> None:
    """Takes note of one unit more."""
    self.update(min(self.done + 1, self.total), note)

  def close(self) -> None:
    """Ends the bar of a step that ends before all is done."""
    if self._bar is not None:
      _bars.close(self._bar)

  def _draw(
    self,
    bar: "tqdm.tqdm[Any]",
    now: float,
    done: int,
    note: str,
  ) -> None:
    eta = self._eta(now, done)
    bar.set_postfix_str(", ".join(text for text in (eta, note) if text), refresh=False)
    if bar.update(done - bar.n):  # it was drawn
      _bars.shown.add(bar)
    if done >= self.total:
      bar.leave = bar.leave if now - self.began > _WORTH_KEEPING else False
      _bars.close(bar)

  def _log(
    self,
    now: float,
    done: int,
    note: str,
  ) -> None:
    assert self.first is not None
    is_finished = done >= self.total
    is_first = done == self.first[1] < self.total
    since = now - (self.began if is_finished else self.printed)
    if since < self.every or (is_first and not self._compiles):
      return
    self.printed = now
    if is_first:
      note = f"compiled; {note}" if note else "compiled"
    messages.say_aside(self._line(now, done, note))

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
    eta = self._eta(now, done)
    line = f"  {self.label} {done}/{self.total} {percent}%{remark}, {elapsed} elapsed"
    return f"{line}, {eta}" if eta else line

  def _eta(self, now: float, done: int) -> str:
    """Returns "ETA 1:17", or "" where nothing is left or too little was done to go by."""
    if done >= self.total or self.first is None:
      return ""
    began, done_before = self.first
    if done - done_before < max(1, self.total / 100):
      return ""
    seconds = (now - began) * (self.total - done) / max(1, done - done_before)
    return f"ETA {format_duration(seconds)}"


def over(
  label: str,
  items: Iterable[T],
  total: int,
) -> Iterator[T]:
  """Yields items and shows how many of `total`, about, are done."""
  progress = Progress(label, total)
  every = max(1, total // _SHOWN)
  with contextlib.closing(progress):
    for done, item in enumerate(items, 1):
      yield item
      if done % every == 0:
        progress.update(min(done, total))


def over_files(label: str, paths: Sequence[str]) -> Iterator[str]:
  """Yields paths, each to be read before the next, and shows how many of all bytes are read.

  What `files.lines` reads is shown while it does, other files when they are done.
  """
  sizes = [os.path.getsize(path) if os.path.isfile(path) else 0 for path in paths]
  total = int(sum(sizes) / 1e6) + 1  # more than there is: a file that is read is not yet parsed
  progress = Progress(f"{label}, MB", total)

  def tell(before: int, done: int) -> None:
    progress.update(int((before + done) / 1e6))

  with contextlib.closing(progress):
    for index, path in enumerate(paths):
      before = sum(sizes[:index])
      with files.followed(path, functools.partial(tell, before)):
        yield path
      tell(before, sizes[index])
    progress.update(total)


def _has_terminal() -> bool:
  """Returns whether this process shows bars: it is the first, and stderr is a terminal.

  Whoever listens to messages gets lines in their place.
  """
  return sys.stderr.isatty() and processes.is_first() and messages.listener() is None


def _new_bar(
  label: str,
  total: int,
  compiles: bool,
) -> "tqdm.tqdm[Any]":
  """Returns a bar that shows itself once a step is not short, or at once while it compiles."""
  columns, lines = shutil.get_terminal_size()
  bar: tqdm.tqdm[Any] = tqdm.tqdm(
    desc=label,
    total=total,
    bar_format=_FORMAT,
    ncols=min(_WIDTH, columns),
    nrows=lines,
    miniters=1,
    delay=0 if compiles else _SHORT,
    leave=None,  # a bar within another's step goes away when it is full
    file=sys.stderr,
  )
  if compiles:
    bar.set_postfix_str(_COMPILING)  # at once: the first update may be minutes away
    _bars.shown.add(bar)
  return bar

"""Lock files in a shared folder, by which processes or machines share work: none is done twice.

Whoever holds a lock touches its file while it lives, and ends at once where another process has
taken the lock over: it was thought dead (stopped, say, or its machine asleep).
"""

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import NoReturn, TypedDict, cast

from factshock.runtime import messages
from factshock.runtime.errors import UserError

BEAT_SECONDS = 15.0  # a holder touches its lock file this often
STALE_SECONDS = 180.0  # a lock file that was not touched for so long is taken over
EMPTY_SECONDS = 10.0  # and one that names nobody: its disk was full, or its process died just then
LOST_CODE = 1  # exit code of a process whose lock another one has taken over


class _Holder(TypedDict):
  """Holds who holds a lock, as its file says.

  `place` says where the process id means something; files of older versions lack it.
  """

  host: str
  pid: int
  token: str
  place: str


@dataclasses.dataclass(frozen=True)
class _Sight:
  """Holds how a lock file looked, and when it was first seen so by this process's own clock."""

  looks: tuple[int, int]
  since: float


# Clocks of machines differ, and by a day where one is set wrongly: a file that has not changed for
# long while this process looked on is stale whatever its date.
_seen: dict[str, _Sight] = {}


@contextlib.contextmanager
def try_lock(path: str) -> Iterator[bool]:
  """Tries to take a lock file and yields whether it was taken; releases it at the end.

  The file names host and process, and is kept alive inside. It is taken over where its holder is
  a dead process of this machine and PID namespace, or has not touched it for STALE_SECONDS, by the
  clock of the file system or while this process looked on. A holder whose lock was taken over ends
  its process.

  Args:
    path: the lock file; its folder is made where it is missing.

  Raises:
    UserError: the lock cannot be written, or there is a folder in its place.
  """
  mine = _Holder(host=socket.gethostname(), pid=os.getpid(), token=uuid.uuid4().hex, place=_place())
  if not _take(path, mine):
    yield False
    return
  stopped = threading.Event()
  beat = threading.Thread(target=_keep_alive, args=(path, mine, stopped), daemon=True)
  beat.start()
  try:
    yield True
  finally:
    stopped.set()
    beat.join()
    _release(path, mine)


@contextlib.contextmanager
def wait_for_lock(
  path: str,
  every: float = 0.5,
  message: str | None = None,
) -> Iterator[None]:
  """Waits for a lock file and holds it inside.

  Args:
    path: the lock file.
    every: seconds between two tries.
    message: printed where the lock is not free at once.
  """
  while True:
    with try_lock(path) as is_ours:
      if is_ours:
        yield
        return
    if message:
      messages.say(message)
      message = None
    time.sleep(every)


def is_locked(path: str) -> bool:
  """Returns whether somebody holds a lock file that is not stale."""
  return not _is_stale(path) and os.path.exists(path)


def holder_of(path: str) -> str:
  """Returns in words which process holds a lock."""
  holder = _holder(path)
  return f"process {holder['pid']} of {holder['host']}" if holder else "another process"


def _take(path: str, mine: _Holder) -> bool:
  """Takes a lock that is free or stale; returns whether it is ours now."""
  try:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  except OSError as error:
    raise UserError(f"{path}: the lock cannot be written: {error.strerror}") from error
  try:
    _create(path, mine)
  except FileExistsError:
    return _is_stale(path) and _take_over(path, mine)
  return True


def _take_over(path: str, mine: _Holder) -> bool:
  """Replaces a stale lock by ours; returns whether it is ours now.

  Of several processes that try, one does it, by a second lock that is held for a moment.
  """
  guard = f"{path}.takeover"
  fresh = f"{path}.{mine['token']}"
  try:
    _create(guard, mine)
  except FileExistsError:
    if _is_stale(guard):
      with contextlib.suppress(FileNotFoundError):
        os.unlink(guard)  # its process died in that moment; the next try finds it gone
    return False
  try:
    if not _is_stale(path):
      return False
    _create(fresh, mine)
    os.replace(fresh, path)
    return True
  finally:
    _release(guard, mine)


def _release(path: str, mine: _Holder) -> None:
  """Removes a lock file that is still ours."""
  if _holder(path) == mine:
    with contextlib.suppress(FileNotFoundError):  # it, or its folder, may go at that moment
      os.unlink(path)


def _create(path: str, mine: _Holder) -> None:
  """Writes a lock file; raises FileExistsError where there is one.

  Raises:
    UserError: it cannot be written, as on a full disk; nothing is left of it.
  """
  try:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
  except FileExistsError:
    raise
  except OSError as error:
    raise UserError(f"{path}: the lock cannot be written: {error.strerror}") from error
  try:
    with os.fdopen(descriptor, "w") as file:
      json.dump(mine, file)
  except OSError as error:
    os.unlink(path)
    raise UserError(f"{path}: the lock cannot be written: {error.strerror}") from error


def _is_stale(path: str) -> bool:
  """Returns whether the holder of a lock is dead, or was not heard of for long.

  A lock that is gone is not stale: another process may make it anew at this moment.

  Raises:
    UserError: there is a folder in its place.
  """
  holder = _holder(path)
  if holder and holder.get("place") == _place() and not _is_alive(holder["pid"]):
    return True
  try:
    status = os.stat(path)
  except FileNotFoundError:
    return False
  longest = STALE_SECONDS if holder else EMPTY_SECONDS
  if _now(os.path.dirname(path)) - status.st_mtime > longest:
    return True
  return _unchanged_for(path, (status.st_mtime_ns, status.st_ino)) > longest


def _unchanged_for(path: str, looks: tuple[int, int]) -> float:
  """Returns for how many seconds a file has looked as it does whenever this process looked."""
  now = time.monotonic()
  sight = _seen.get(path)
  if sight is None or sight.looks != looks:
    sight = _Sight(looks, now)
    _seen[path] = sight
  return now - sight.since


def _place() -> str:
  """Returns what tells apart machines, their starts, and PID namespaces, such as containers'.

  Containers may bear one host's name and number their processes alike.
  """
  try:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
      boot = file.read().strip()
    return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
  except OSError:  # not Linux: no containers that share a kernel
    return socket.gethostname()


def _now(folder: str) -> float:
  """Returns the time by the clock that stamps files in a folder, which may not be ours."""
  path = os.path.join(folder, f".clock-{uuid.uuid4().hex}")
  with open(path, "w"):
    now = os.stat(path).st_mtime
  os.unlink(path)
  return now


def _holder(path: str) -> _Holder | None:
  """Returns who holds a lock, or None where it is gone, being written, or names nobody.

  Raises:
    UserError: there is a folder in its place.
  """
  try:
    with open(path, encoding="utf-8") as file:
      holder = json.load(file)
  except IsADirectoryError as error:
    raise UserError(f"{path}: expected a lock file, got a folder; remove it") from error
  except (FileNotFoundError, ValueError):
    return None
  is_whole = isinstance(holder, dict) and isinstance(holder.get("pid"), int)
  if is_whole and "host" in holder and "token" in holder:
    return cast(_Holder, holder)
  return None


def _is_alive(pid: int) -> bool:
  """Returns whether there is a process of this id on this host."""
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return True


def _keep_alive(
  path: str,
  mine: _Holder,
  stopped: threading.Event,
) -> None:
  """Touches a lock file until stopped; ends the process where another has taken it over."""
  while not stopped.wait(BEAT_SECONDS):
    holder = _holder(path)
    if holder is not None and holder != mine:
      _end_as_lost(path)
    with contextlib.suppress(FileNotFoundError):
      os.utime(path)


def _end_as_lost(path: str) -> NoReturn:
  """Ends this process at once: what it went on to write, another one writes too."""
  print(
    f"error: {path}: {holder_of(path)} has taken over this lock, as nothing was heard of this "
    "process for long; it ends here and leaves the work to the other",
    file=sys.stderr,
    flush=True,
  )
  os._exit(LOST_CODE)

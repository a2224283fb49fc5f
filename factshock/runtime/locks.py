"""Lock files in a shared folder, by which processes or machines share work: none is done twice."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import TypedDict

BEAT_SECONDS = 15.0  # a holder touches its lock file this often
STALE_SECONDS = 180.0  # a lock file that was not touched for so long is taken over


class _Holder(TypedDict):
  """Holds who holds a lock, as its file says."""

  host: str
  pid: int
  token: str


@contextlib.contextmanager
def try_lock(path: str) -> Iterator[bool]:
  """Tries to take a lock file and yields whether it was taken; releases it at the end.

  The file names host and process, and is kept alive inside. It is taken over where its holder is
  a dead process of this host, or has not touched it for STALE_SECONDS by the clock of the file
  system.

  Args:
    path: the lock file; its folder is made where it is missing.
  """
  mine = _Holder(host=socket.gethostname(), pid=os.getpid(), token=uuid.uuid4().hex)
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
    if _holder(path) == mine:
      os.unlink(path)


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
      print(message, flush=True)
      message = None
    time.sleep(every)


def is_locked(path: str) -> bool:
  """Returns whether somebody holds a lock file that is not stale."""
  return os.path.exists(path) and not _is_stale(path, socket.gethostname())


def _take(path: str, mine: _Holder) -> bool:
  """Takes a lock that is free or stale; returns whether it is ours now."""
  os.makedirs(os.path.dirname(path), exist_ok=True)
  try:
    _create(path, mine)
  except FileExistsError:
    return _is_stale(path, mine["host"]) and _take_over(path, mine)
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
    if _is_stale(guard, mine["host"]):
      with contextlib.suppress(FileNotFoundError):
        os.unlink(guard)  # its process died in that moment; the next try finds it gone
    return False
  try:
    if not (os.path.exists(path) and _is_stale(path, mine["host"])):
      return False
    _create(fresh, mine)
    os.replace(fresh, path)
    return True
  finally:
    os.unlink(guard)


def _create(path: str, mine: _Holder) -> None:
  """Writes a lock file; raises FileExistsError where there is one."""
  descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
  with os.fdopen(descriptor, "w") as file:
    json.dump(mine, file)


def _is_stale(path: str, host: str) -> bool:
  """Returns whether the holder of a lock is dead, or was not heard of for long."""
  holder = _holder(path)
  if holder and holder["host"] == host and not _is_alive(holder["pid"]):
    return True
  try:
    return _now(os.path.dirname(path)) - os.stat(path).st_mtime > STALE_SECONDS
  except FileNotFoundError:
    return True


def _now(folder: str) -> float:
  """Returns the time by the clock that stamps files in a folder, which may not be ours."""
  path = os.path.join(folder, f".clock-{uuid.uuid4().hex}")
  with open(path, "w"):
    now = os.stat(path).st_mtime
  os.unlink(path)
  return now


def _holder(path: str) -> _Holder | None:
  """Returns who holds a lock, or None where it is gone or being written."""
  try:
    with open(path, encoding="utf-8") as file:
      return json.load(file)
  except (FileNotFoundError, ValueError):
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
  """Touches a lock file until stopped, or until another process has taken it over."""
  while not stopped.wait(BEAT_SECONDS):
    if _holder(path) != mine:
      return
    with contextlib.suppress(FileNotFoundError):
      os.utime(path)

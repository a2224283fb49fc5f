"""Claims on work in a shared folder, so that several processes or machines share it and none does it twice."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid

BEAT = (
  15.0  # seconds: a holder touches its claim every BEAT; one not touched for STALE is taken over
)
STALE = 180.0


@contextlib.contextmanager
def try_lock(path):
  """Context manager: whether the claim is ours; if so it is kept alive inside, and removed at the end.

  A claim is a file that names host and process. It is taken over where its holder is a dead process of this host, or has not
  touched it for STALE seconds by the clock of the file system.
  """
  mine = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
  if not _taken(path, mine):
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


def is_locked(path):
  """Whether somebody holds a claim that is not stale."""
  return os.path.exists(path) and not _stale(path, socket.gethostname())


def _taken(path, mine):
  """Whether the claim was free, or stale, and is ours now."""
  os.makedirs(os.path.dirname(path), exist_ok=True)
  try:
    _create(path, mine)
    return True
  except FileExistsError:
    return _stale(path, mine["host"]) and _taken_over(path, mine)


def _taken_over(path, mine):
  """Replaces a stale claim by ours; of several that try, one does, by a second claim that is held for a moment."""
  guard = f"{path}.takeover"
  fresh = f"{path}.{mine['token']}"
  try:
    _create(guard, mine)
  except FileExistsError:
    if _stale(guard, mine["host"]):
      with contextlib.suppress(FileNotFoundError):
        os.unlink(guard)  # its process died in that moment; the next try finds it gone
    return False
  try:
    if not (os.path.exists(path) and _stale(path, mine["host"])):
      return False
    _create(fresh, mine)
    os.replace(fresh, path)
    return True
  finally:
    os.unlink(guard)


def _create(path, mine):
  """Writes a claim; FileExistsError where there is one."""
  with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY), "w") as file:
    json.dump(mine, file)


def _stale(path, host):
  holder = _holder(path)
  if holder and holder["host"] == host and not _alive(holder["pid"]):
    return True
  try:
    return _now(os.path.dirname(path)) - os.stat(path).st_mtime > STALE
  except FileNotFoundError:
    return True


def _now(folder):
  """The time by the clock that stamps files there, which may not be ours."""
  path = os.path.join(folder, f".clock-{uuid.uuid4().hex}")
  with open(path, "w"):
    found = os.stat(path).st_mtime
  os.unlink(path)
  return found


def _holder(path):
  """Who holds a claim, or None where it is gone, or being written."""
  try:
    with open(path, encoding="utf-8") as file:
      return json.load(file)
  except (FileNotFoundError, ValueError):
    return None


def _alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return True


def _keep_alive(path, mine, stopped):
  while not stopped.wait(BEAT):
    if _holder(path) != mine:
      return  # taken over: this process was not heard of for long
    with contextlib.suppress(FileNotFoundError):
      os.utime(path)


@contextlib.contextmanager
def wait_for_lock(path, every=0.5, say=None):
  """Context manager: holds a claim, once it is free; `say` is printed where that is not at once."""
  while True:
    with try_lock(path) as ours:
      if ours:
        yield
        return
    if say:
      print(say, flush=True)
      say = None
    time.sleep(every)

"""Folders that appear whole or not at all, and the clearing of what killed processes left of them.

A folder is filled under a temporary name beside the one it gets. Its writer holds a lock as long,
by which others tell a writer at work from one that was killed.
"""

import contextlib
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator

from factshock.runtime import files, locks
from factshock.runtime.errors import UserError

_PREFIX = ".saving-"
_LOCK = ".lock"
# Of temporary folders, or their locks; those of older versions end in a process id.
_NAME = re.compile(r"\.saving-.+-([0-9a-f]{16}|\d+)")
_OLD_SECONDS = 86400.0  # without a change; a folder that has no lock is then nobody's


def temporary_path(target: files.Path) -> str:
  """Returns a new path beside a folder, under which the folder is to be filled."""
  parent, name = os.path.split(os.path.abspath(target))
  return os.path.join(parent, f"{_PREFIX}{name}-{uuid.uuid4().hex[:16]}")


@contextlib.contextmanager
def filling(temporary: str) -> Iterator[None]:
  """Makes a folder of `temporary_path` and holds its lock; what is left of it is removed at exit.

  Clears the folder around it first. Inside, it is to be filled and renamed.

  Raises:
    OSError: the folder cannot be made, or its lock cannot be written.
  """
  remove_abandoned(os.path.dirname(temporary))
  with contextlib.ExitStack() as held:
    try:
      held.enter_context(locks.try_lock(temporary + _LOCK))
    except UserError as error:
      # What the disk said is for the caller to say of the folder, not of its lock.
      raise error.__cause__ or error from None
    try:
      os.makedirs(temporary)
      yield
    finally:
      shutil.rmtree(temporary, ignore_errors=True)


def remove_abandoned(folder: files.Path) -> None:
  """Removes the temporary folders in a folder whose writers are dead; others are left alone.

  A writer is dead as a lock's holder is (locks.py).
  """
  try:
    names = os.listdir(folder)
  except (FileNotFoundError, NotADirectoryError, PermissionError):
    return
  for name in sorted({name.removesuffix(_LOCK) for name in names if name.startswith(_PREFIX)}):
    temporary = os.path.join(folder, name)
    if _NAME.fullmatch(name) and _is_abandoned(temporary):
      shutil.rmtree(temporary, ignore_errors=True)
      # The lock goes last: without it nobody would know whose the folder was.
      with contextlib.suppress(OSError):
        os.unlink(temporary + _LOCK)


def _is_abandoned(temporary: str) -> bool:
  """Returns whether nobody fills a temporary folder any more."""
  lock = temporary + _LOCK
  if os.path.exists(lock):
    try:
      return not locks.is_locked(lock)
    except (OSError, UserError):  # a folder that is read only, or something else in its place
      return False
  return time.time() - _last_change(temporary) > _OLD_SECONDS


def _last_change(folder: str) -> float:
  """Returns when something in a folder, or it itself, was last changed; now if it is gone."""
  latest = 0.0
  for path, _, names in os.walk(folder):
    for inside in (path, *(os.path.join(path, name) for name in names)):
      with contextlib.suppress(FileNotFoundError):
        latest = max(latest, os.stat(inside).st_mtime)
  return latest or time.time()


def remove_all_abandoned(folder: files.Path) -> None:
  """Removes what killed processes left anywhere below a folder: temporary folders and files.

  A file that is being written is locked by its writer (files.atomic_write).
  """
  for path, _, names in os.walk(folder):
    remove_abandoned(path)
    for name in names:
      if name.startswith(files.TEMPORARY):
        _remove_unlocked(os.path.join(path, name))


def _remove_unlocked(path: str) -> None:
  """Removes a file that nobody writes: no process has it locked, and it has not changed lately."""
  # What is gone, or may not be opened, or is on a disk without locks, is left as it is.
  with contextlib.suppress(OSError):
    if time.time() - os.stat(path).st_mtime < locks.STALE_SECONDS:
      return
    with open(path, "rb+") as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      os.unlink(path)

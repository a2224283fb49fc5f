"""Work on a corpus part by part, by several processes.

Each part's result is kept, so that an interrupted run goes on.
"""

import hashlib
import io
import json
import multiprocessing
import os
import shutil
import struct
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import xxhash

from factshock.facts import documents
from factshock.facts.documents import Part
from factshock.runtime import files, messages
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress

# What numpy raises for arrays in files that are not what was written: its own errors, those of zip
# files, and those of the Python literal in a header.
DAMAGE = (
  OSError,
  EOFError,
  ValueError,
  TypeError,
  KeyError,
  AttributeError,
  SyntaxError,
  NotImplementedError,
  RuntimeError,
  MemoryError,
  OverflowError,
  struct.error,
  tokenize.TokenError,
  zipfile.BadZipFile,
  zlib.error,
)

_DIGEST_BYTES = 16

T = TypeVar("T")
Work: TypeAlias = Callable[[Iterable[str], T], Mapping[str, np.ndarray]]
_Task: TypeAlias = tuple[Part, str, Work[Any]]  # a part, the path of its result, and what to do

# Made by `prepare`, in this process; a fork has its parent's, and only reads it.
_prepared: Any = None


def results(
  plan: Sequence[Part],
  folder: str,
  key: str,
  work: Work[T],
  prepare: Callable[[], T],
  label: str,
  processes: int | None = None,
) -> Iterator[Mapping[str, np.ndarray]]:
  """Runs `work` on every part that is not done yet, then yields each part's result in order.

  A result that is damaged is made again.

  Args:
    plan: the parts.
    folder: where results are kept; the caller removes it once it has used them.
    key: text that says whatever else the results depend on; a folder of another key is emptied.
    work: (documents, prepared) -> arrays by name; a function of a module, for other processes to
      find.
    prepare: () -> prepared, once in each process; picklable.
    label: what is done ("counting"), for progress.
    processes: at a time; one a core by default.

  Raises:
    UserError: a part that cannot be read; what is done is kept.
  """
  _take_folder(folder, plan, key)
  names = [f"{index:05d}.npz" for index in range(len(plan))]
  paths = [os.path.join(folder, name) for name in names]
  tasks: list[_Task] = []
  for part, path in zip(plan, paths):
    if not os.path.exists(path):
      tasks.append((part, path, work))
  at_a_time = processes or os.cpu_count() or 1
  sizes = _run(tasks, prepare, at_a_time)
  _show_progress(label, plan, tasks, sizes)
  for part, path in zip(plan, paths):
    arrays = _read(path)
    if arrays is None:
      messages.say(f"  {path}: damaged, done again")
      for _ in _run([(part, path, work)], prepare, 1):
        pass
      arrays = _read(path)
    if arrays is None:
      raise UserError(f"{path}: cannot be read after it was written; choose another folder")
    yield arrays


def _read(path: str) -> Mapping[str, np.ndarray] | None:
  """Returns the arrays of a part's result; None where it is not what `_write` wrote."""
  if not os.path.isfile(path):  # a pipe would be waited for
    return None
  try:
    with open(path, "rb") as file:
      content = file.read()
    stored, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if xxhash.xxh3_128_digest(stored) != digest:
      return None
    with np.load(io.BytesIO(stored)) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except DAMAGE:
    return None


def _write(path: str, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a part's result, followed by the digest of its bytes."""
  buffer = io.BytesIO()
  np.savez(buffer, **cast(dict[str, Any], arrays))
  stored = buffer.getbuffer()
  with files.atomic_write(path, binary=True) as file:
    file.write(stored)
    file.write(xxhash.xxh3_128_digest(stored))


def _show_progress(
  label: str,
  plan: Sequence[Part],
  tasks: Sequence[_Task],
  sizes: Iterable[int],
) -> None:
  """Shows the progress of all parts while the sizes of those come that are done."""
  total = sum(part.size for part in plan)
  if tasks:
    done_before = len(plan) - len(tasks)
    messages.say(
      f"  {label}: {total / 1e6:,.1f} MB in {len(plan)} parts, {done_before} of them done before"
    )
  left = sum(part.size for part, _, _ in tasks)
  done = total - left
  megabytes = max(1, round(total / 1e6))
  progress = Progress(f"{label}, MB", megabytes)
  for size in sizes:
    done += size
    progress.update(round(done / 1e6))


def identity(plan: Sequence[Part], key: str | Sequence[str]) -> str:
  """Returns a digest of parts and of what else a result depends on."""
  source = json.dumps([*plan, key])
  return hashlib.sha256(source.encode()).hexdigest()


def _take_folder(
  folder: str,
  plan: Sequence[Part],
  key: str,
) -> None:
  """Makes the folder of results, or empties one that was of something else."""
  digest = identity(plan, key)
  path = os.path.join(folder, "digest.txt")
  if os.path.isdir(folder) and not _holds(path, digest):
    messages.say(f"  {folder}: parts of other files or settings, done anew")
    shutil.rmtree(folder)
  with files.atomic_write(path) as file:
    file.write(digest)


def _holds(path: str, digest: str) -> bool:
  """Returns whether a file holds a digest and nothing else."""
  if not os.path.isfile(path):
    return False
  with open(path, "rb") as file:
    return file.read() == digest.encode()


def _run(
  tasks: Sequence[_Task],
  prepare: Callable[[], Any],
  processes: int,
) -> Iterator[int]:
  """Does the tasks and yields the size of each part that is done."""
  global _prepared

  if not tasks:
    return
  # A fork shares what was prepared, but must not be made beside JAX's threads.
  methods = multiprocessing.get_all_start_methods()
  can_fork = "fork" in methods and "jax" not in sys.modules
  in_this_process = len(tasks) < 2 or processes < 2
  if can_fork or in_this_process:
    _prepared = prepare()
  if in_this_process:
    yield from map(_do, tasks)
  else:
    context = multiprocessing.get_context("fork" if can_fork else "spawn")
    initializer = None if can_fork else _prepare
    arguments = () if can_fork else (prepare,)
    size = min(processes, len(tasks))
    with context.Pool(size, initializer, arguments) as pool:
      yield from pool.imap_unordered(_do, tasks)
  _prepared = None


def _prepare(prepare: Callable[[], Any]) -> None:
  global _prepared
  _prepared = prepare()


def _do(task: _Task) -> int:
  """Does one part, keeps the result, and returns the part's size."""
  part, path, work = task
  arrays = work(documents.read_part(part), _prepared)
  _write(path, arrays)
  return part.size

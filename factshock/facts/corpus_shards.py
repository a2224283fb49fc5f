"""Work on a corpus part by part: by several processes, each part's result kept, so that an interrupted run goes on."""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys

import numpy as np

from factshock.facts import documents
from factshock.runtime import files
from factshock.runtime.console import Progress

_prepared = None  # what `prepare` made, in this process; a fork has its parent's, and only reads it


def results(plan, folder, key, work, prepare, label, processes=None):
  """Runs `work` on every part that is not done yet, then yields the result of each (a mapping, open until the next), in order.

  Args:
    plan: list of documents.Part. folder: where results are kept; the caller removes it once it has
      used them.
    key: text that says whatever else the results depend on; a folder of another key is emptied.
    work: (documents, prepared) -> dict of arrays; a function of a module, for other processes to
      find.
    prepare: () -> prepared, once in each process; picklable.
    label: what is done ("counting"), for progress. processes: at a time; one a core by default.
  Raises:
    UserError: a part that cannot be read; what is done is kept.
  """
  _claim(folder, plan, key)
  paths = [os.path.join(folder, f"{number:05d}.npz") for number in range(len(plan))]
  waiting = [(part, path, work) for part, path in zip(plan, paths) if not os.path.exists(path)]
  total = sum(part.size for part in plan)
  done = total - sum(part.size for part, _, _ in waiting)
  if waiting:
    print(
      f"  {label}: {total / 1e6:,.1f} MB in {len(plan)} parts, {len(plan) - len(waiting)} of them done before",
      flush=True,
    )
  progress = Progress(f"{label}, MB", max(1, round(total / 1e6)))
  for size in _run(waiting, prepare, processes or os.cpu_count()):
    done += size
    progress.update(round(done / 1e6))
  for path in paths:
    with np.load(path) as arrays:  # each is read when it is asked for
      yield arrays


def identity(plan, key):
  """A digest of parts and of what else a result depends on."""
  return hashlib.sha256(json.dumps([*plan, key]).encode()).hexdigest()


def _claim(folder, plan, key):
  """Makes the folder of results, or empties one that was of something else."""
  digest = identity(plan, key)
  path = os.path.join(folder, "digest.txt")
  if os.path.isdir(folder) and not (
    os.path.exists(path) and [line for _, line in files.lines(path)] == [digest]
  ):
    print(f"  {folder}: parts of other files or settings, done anew", flush=True)
    shutil.rmtree(folder)
  with files.atomic_write(path) as file:
    file.write(digest)


def _run(tasks, prepare, processes):
  """Does the tasks and yields the size of each part that is done."""
  global _prepared

  if not tasks:
    return
  # A fork shares what was prepared, but must not be made beside JAX's threads.
  fork = "fork" in multiprocessing.get_all_start_methods() and "jax" not in sys.modules
  if fork or len(tasks) < 2 or processes < 2:
    _prepared = prepare()
  if len(tasks) < 2 or processes < 2:
    yield from map(_do, tasks)
  else:
    context = multiprocessing.get_context("fork" if fork else "spawn")
    with context.Pool(
      min(processes, len(tasks)), None if fork else _prepare, () if fork else (prepare,)
    ) as pool:
      yield from pool.imap_unordered(_do, tasks)
  _prepared = None


def _prepare(prepare):
  global _prepared
  _prepared = prepare()


def _do(task):
  """Does one part, keeps the result, and returns the part's size."""
  part, path, work = task
  found = work(documents.read_part(part), _prepared)
  with files.atomic_write(path, binary=True) as file:
    np.savez(file, **found)
  return part.size

"""Counting entities over a corpus of files: in parts, by all cores, resumable; and the files of counts."""

import collections
import hashlib
import json
import os
import re
import shutil

import numpy as np

from factshock import files
from factshock.console import Progress, UserError
from factshock.facts import documents, entities

PART_BYTES = 64 << 20  # of a text file that is not compressed; other files are one part each
_SAMPLE = 2 << 20  # characters of a part in which single words are compared with their lower case

_search = None  # of this process; a fork has its parent's, and only reads it


def count(pattern, found, output, processes=None):
  """Counts the Entities `found` in the files that a glob pattern names and writes the counts.

  Parts that are done stand in OUTPUT.parts; after an interruption they are not counted again.

  Args:
    output: .tsv[.gz] of entities: entity, count (mentions), longest, documents, ambiguous. Beside it, as `facts_path` says, facts:
      subject, object and the documents that name both, and each.
    processes: how many count at a time; all cores by default.
  Returns: the totals, a dict of int64 arrays (entities.count_documents).
  Raises:
    UserError: no such files, or a broken one (nothing counted is lost).
  """
  global _search
  parts = plan(pattern)
  folder = f"{output}.parts"
  _claim(folder, parts, found)
  waiting = [number for number in range(len(parts)) if not os.path.exists(_part_path(folder, number))]
  total = sum(_size(part) for part in parts)
  done = total - sum(_size(parts[number]) for number in waiting)
  print(f"{len(found.labels):,} entities by {len(found.names):,} names in {total / 1e6:,.1f} MB of files: {len(parts)} parts, "
        f"{len(parts) - len(waiting)} of them counted before", flush=True)
  progress = Progress("counted MB", max(1, round(total / 1e6)))
  _search = entities.search_of(found) if waiting else None
  for number in _run([(number, *parts[number], _part_path(folder, number)) for number in waiting], found, processes or os.cpu_count()):
    done += _size(parts[number])
    progress.update(round(done / 1e6))
  _search = None
  counts = add_up(np.load(_part_path(folder, number)) for number in range(len(parts)))
  write(output, found, counts)
  shutil.rmtree(folder)
  return counts


def plan(pattern):
  """The parts of a corpus: list of (path, first byte, byte to stop before or None for the whole file)."""
  parts = []
  for path in documents.paths(pattern):
    size = os.path.getsize(path)
    if documents.is_table(path) or path.endswith(".gz"):
      parts.append((path, 0, None))
    else:
      parts += [(path, begin, min(begin + PART_BYTES, size)) for begin in range(0, max(1, size), PART_BYTES)]
  return parts


def count_part(documents_of_part, search):
  """Counts of a part: those of entities.count_documents, and `as_is` and `lowered` [entities].

  These say how often a label of one capitalised word stands in the part's first text, and how often in lower case.
  """
  words, room = collections.Counter(), [_SAMPLE]

  def sampled():
    for text in documents_of_part:
      if room[0] > 0:
        words.update(re.findall(r"\w+", text[:room[0]]))
        room[0] -= len(text)
      yield text

  counts = entities.count_documents(sampled(), search)
  as_is, lowered = np.zeros((2, len(search.entities.labels)), np.int64)
  for number, label in search.capitalised:
    as_is[number], lowered[number] = words[label], words[label.lower()]
  return {**counts, "as_is": as_is, "lowered": lowered}


def add_up(parts):
  """The sums of the counts of parts."""
  total = {}
  for part in parts:
    for name in part:
      total[name] = total[name] + part[name] if name in total else part[name].copy()
  return total


def facts_path(output):
  """Where the counts of facts stand: counts.tsv -> counts.facts.tsv."""
  return re.sub(r"(\.tsv)?(\.gz)?$", r".facts.tsv\2", output, count=1)


def write(output, found, counts):
  """Writes the counts of entities and, beside them, of facts."""
  for path, lines in ((output, entity_lines(found, counts)), (facts_path(output), fact_lines(found, counts))):
    with files.writing(path) as file:
      file.writelines(lines)


def entity_lines(found, counts):
  """The lines of the file of entities, those with the most mentions first."""
  common = counts["lowered"] > counts["as_is"]
  yield "entity\tcount\tlongest\tdocuments\tambiguous\n"
  for i in np.argsort(-counts["mentions"], kind="stable").tolist():
    flags = " ".join(filter(None, (found.ambiguous[i], "word" if common[i] else "")))
    yield f"{_cell(found.labels[i])}\t{counts['mentions'][i]}\t{counts['longest'][i]}\t{counts['documents'][i]}\t{flags}\n"


def fact_lines(found, counts):
  """The lines of the file of facts, in their order."""
  yield "subject\tobject\tdocuments\tsubject_documents\tobject_documents\n"
  for (subject, answer), together in zip(found.facts.tolist(), counts["together"].tolist()):
    yield (f"{_cell(found.labels[subject])}\t{_cell(found.labels[answer])}\t{together}\t{counts['documents'][subject]}\t"
           f"{counts['documents'][answer]}\n")


def _cell(text):
  return re.sub(r"[\t\n\r]", " ", text)


def _size(part):
  path, begin, end = part
  return (os.path.getsize(path) if end is None else end) - begin


def _part_path(folder, number):
  return os.path.join(folder, f"{number:05d}.npz")


def _claim(folder, parts, found):
  """Makes the folder of parts, or empties one that was of other entities or files."""
  digest = hashlib.sha256()
  for part in parts:
    digest.update(json.dumps([*part, os.path.getmtime(part[0]), os.path.getsize(part[0])]).encode())
  digest.update(json.dumps([found.labels, found.names, found.folded]).encode())
  for array in (found.name_of_pair, found.entity_of_pair, found.facts):
    digest.update(array.tobytes())
  path = os.path.join(folder, "digest.txt")
  if os.path.isdir(folder) and not (os.path.exists(path) and open(path, encoding="utf-8").read() == digest.hexdigest()):
    print(f"{folder}: parts of other entities or files, counted anew", flush=True)
    shutil.rmtree(folder)
  with files.writing(path) as file:
    file.write(digest.hexdigest())


def _run(tasks, found, processes):
  """Counts the parts and yields the number of each that is done."""
  import multiprocessing

  if len(tasks) < 2 or processes < 2:
    yield from map(_count_file, tasks)
    return
  fork = "fork" in multiprocessing.get_all_start_methods()  # the names are then held once
  context = multiprocessing.get_context("fork" if fork else "spawn")
  with context.Pool(min(processes, len(tasks)), None if fork else _prepare, () if fork else (found,)) as pool:
    yield from pool.imap_unordered(_count_file, tasks)


def _prepare(found):
  global _search
  _search = entities.search_of(found)


def _count_file(task):
  """Counts one part, stores the counts, and returns the part's number."""
  number, path, begin, end, output = task
  counts = count_part(documents.read(path) if end is None else _lines(path, begin, end), _search)
  with files.writing(output, binary=True) as file:
    np.savez_compressed(file, **counts)
  return number


def _lines(path, begin, end):
  """The lines of a text file that begin at the bytes from `begin` up to before `end`."""
  with open(path, "rb") as file:
    file.seek(max(0, begin - 1))
    if begin:
      file.readline()  # the rest of a line of the part before, or its line break
    while (place := file.tell()) < end and (line := file.readline()):
      try:
        text = line.decode("utf-8").rstrip("\r\n")
      except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, got the byte {line[error.start]:#04x} at byte {place + error.start}; convert "
                        "the file to UTF-8") from error
      if text and not text.isspace():
        yield text

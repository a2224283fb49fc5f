"""Counting entities over a corpus of files: in parts, by all cores, resumable; and the files of counts."""

import collections
import functools
import hashlib
import json
import re
import shutil

import numpy as np

from factshock.facts import corpus_shards, documents, entities
from factshock.runtime import files

_SAMPLE = 1 << 20  # characters of a part in which single words are compared with their lower case


def count(pattern, found, output, processes=None):
  """Counts the Entities `found` in a corpus (facts/documents.py) and writes the counts.

  Parts that are done stand in OUTPUT.parts; after an interruption they are not counted again.

  Args:
    output: .tsv[.gz] of entities: entity, count (mentions), longest, documents, ambiguous. Beside
      it, as `facts_path` says, facts: subject, object and the documents that name both, and each.
    processes: how many count at a time; all cores by default.
  Returns: the totals, a dict of int64 arrays (entities.count_documents).
  Raises:
    UserError: no such files, or a broken one (nothing counted is lost).
  """
  folder = f"{output}.parts"
  print(f"  {len(found.labels):,} entities by {len(found.names):,} names", flush=True)
  counts = add_up(
    corpus_shards.results(
      documents.parts(pattern),
      folder,
      _digest(found),
      count_part,
      functools.partial(entities.search_of, found),
      "counting",
      processes,
    )
  )
  write(output, found, counts)
  shutil.rmtree(folder)
  return counts


def _digest(found):
  digest = hashlib.sha256(json.dumps([found.labels, found.names, found.folded]).encode())
  for array in (found.name_of_pair, found.entity_of_pair, found.facts):
    digest.update(array.tobytes())
  return digest.hexdigest()


def count_part(documents_of_part, search):
  """Counts of a part: those of entities.count_documents, and `as_is` and `lowered` [entities].

  These say how often a label of one capitalised word stands in the part's first text, and how often
  in lower case.
  """
  words = collections.Counter()
  room = [_SAMPLE]

  def sampled():
    for text in documents_of_part:
      if room[0] > 0:
        words.update(re.findall(r"\w+", text[: room[0]]))
        room[0] -= len(text)
      yield text

  counts = entities.count_documents(sampled(), search)
  as_is, lowered = np.zeros((2, len(search.entities.labels)), np.int64)
  for number, label in search.capitalised:
    as_is[number], lowered[number] = words[label], words[label.lower()]
  return {**counts, "as_is": as_is, "lowered": lowered}


def add_up(several):
  """The sums of counts."""
  total = {}
  for counts in several:
    for name, array in counts.items():
      total[name] = total[name] + array if name in total else array.copy()
  return total


def facts_path(output):
  """Where the counts of facts stand: counts.tsv -> counts.facts.tsv."""
  return re.sub(r"(\.tsv)?(\.gz)?$", r".facts.tsv\2", output, count=1)


def write(output, found, counts):
  """Writes the counts of entities and, beside them, of facts."""
  for path, lines in (
    (output, entity_lines(found, counts)),
    (facts_path(output), fact_lines(found, counts)),
  ):
    with files.atomic_write(path) as file:
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
    yield (
      f"{_cell(found.labels[subject])}\t{_cell(found.labels[answer])}\t{together}\t{counts['documents'][subject]}\t"
      f"{counts['documents'][answer]}\n"
    )


def _cell(text):
  return re.sub(r"[\t\n\r]", " ", text)

"""Counting of entities over a corpus of files, and the files of counts.

It goes in parts, by all cores, and can be resumed.
"""

import collections
import functools
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from factshock.facts import corpus_shards, documents, entities, schema
from factshock.facts.entities import Entities, Search
from factshock.runtime import files, messages

_VERSION = 2  # of what a mention is: parts counted by another are not taken
_SAMPLE = 1 << 20  # characters of a part in which single words are compared with their lower case


def count(
  pattern: str,
  counted: Entities,
  output: str,
  processes: int | None = None,
) -> dict[str, np.ndarray]:
  """Counts entities in a corpus (facts/documents.py) and writes the counts.

  Parts that are done stand in OUTPUT.parts; after an interruption they are not counted again.

  Args:
    pattern: the corpus.
    counted: the entities.
    output: .tsv[.gz] of entities: entity, count (mentions), longest, documents, ambiguous. Beside
      it, as `facts_path` says, facts: subject, object and the documents that name both, and each.
    processes: how many count at a time; all cores by default.

  Returns:
    The totals, int64 arrays as of entities.count_documents.

  Raises:
    UserError: no such files, or a broken one (nothing counted is lost).
  """
  folder = parts_folder(output)
  messages.say(f"  {len(counted.labels):,} entities by {len(counted.names):,} names")
  part_counts = corpus_shards.results(
    documents.parts(pattern),
    folder,
    _digest(counted),
    count_part,
    functools.partial(entities.search_of, counted),
    "counting",
    processes,
  )
  counts = add_up(part_counts)
  write(output, counted, counts)
  shutil.rmtree(folder)
  return counts


def _digest(counted: Entities) -> str:
  digest = hashlib.sha256(
    json.dumps([_VERSION, counted.labels, counted.names, counted.folded]).encode()
  )
  for array in (counted.name_of_pair, counted.entity_of_pair, counted.facts):
    digest.update(array.tobytes())
  return digest.hexdigest()


def count_part(
  part_documents: Iterable[str],
  search: Search,
) -> dict[str, np.ndarray]:
  """Counts entities in a part.

  Args:
    part_documents: the texts.
    search: for the entities.

  Returns:
    The counts of entities.count_documents, and `as_is` and `lowered` [entities]: how often a label
    of one capitalised word stands in the part's first text, and how often in lower case.
  """
  words: collections.Counter[str] = collections.Counter()

  def sampled() -> Iterator[str]:
    left = _SAMPLE
    for text in part_documents:
      if left > 0:
        words.update(re.findall(r"\w+", text[:left]))
        left -= len(text)
      yield text

  counts = entities.count_documents(sampled(), search)
  as_is, lowered = np.zeros((2, len(search.entities.labels)), np.int64)
  found = dict(words)  # a Counter is slow to say 0
  capitalised = search.capitalised
  as_is[capitalised.entity] = [found.get(label, 0) for label in capitalised.labels]
  lowered[capitalised.entity] = [found.get(label, 0) for label in capitalised.lowered]
  return {**counts, "as_is": as_is, "lowered": lowered}


def add_up(part_counts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Returns the sums of counts by name."""
  total: dict[str, np.ndarray] = {}
  for counts in part_counts:
    for name, array in counts.items():
      total[name] = total[name] + array if name in total else array.copy()
  return total


def parts_folder(output: str) -> str:
  """Returns the folder of what is counted so far, which is removed once all is."""
  return f"{output}.parts"


def facts_path(output: str) -> str:
  """Returns where the counts of facts stand: counts.tsv -> counts.facts.tsv."""
  ending = files.compression(output)
  return output.removesuffix(ending).removesuffix(".tsv") + ".facts.tsv" + ending


def write(
  output: str,
  counted: Entities,
  counts: Mapping[str, np.ndarray],
) -> None:
  """Writes the counts of entities and, beside them, of facts.

  Args:
    output: path of the counts of entities.
    counted: the entities.
    counts: as of `count_part`.
  """
  with files.atomic_write(output) as file:
    file.writelines(entity_lines(counted, counts))
  with files.atomic_write(facts_path(output)) as file:
    file.writelines(fact_lines(counted, counts))


def entity_lines(
  counted: Entities,
  counts: Mapping[str, np.ndarray],
) -> Iterator[str]:
  """Yields the lines of the file of entities, those with the most mentions first."""
  is_common_word = counts["lowered"] > counts["as_is"]
  mentions = counts["mentions"]
  order: list[int] = np.argsort(-mentions, kind="stable").tolist()
  yield "entity\tcount\tlongest\tdocuments\tambiguous\n"
  for i in order:
    flags = [counted.ambiguous[i], "word" if is_common_word[i] else ""]
    cells = (
      _cell(counted.labels[i]),
      f"{mentions[i]}",
      f"{counts['longest'][i]}",
      f"{counts['documents'][i]}",
      " ".join(filter(None, flags)),
    )
    yield schema.tsv_line(cells)


def fact_lines(
  counted: Entities,
  counts: Mapping[str, np.ndarray],
) -> Iterator[str]:
  """Yields the lines of the file of facts, in their order."""
  in_documents = counts["documents"]
  ends: list[tuple[int, int]] = counted.facts.tolist()
  yield "subject\tobject\tdocuments\tsubject_documents\tobject_documents\n"
  for (subject, answer), together in zip(ends, counts["together"].tolist()):
    cells = (
      _cell(counted.labels[subject]),
      _cell(counted.labels[answer]),
      f"{together}",
      f"{in_documents[subject]}",
      f"{in_documents[answer]}",
    )
    yield schema.tsv_line(cells)


def _cell(text: str) -> str:
  return re.sub(r"[\t\n\r]", " ", text)

"""Counting of entities as an Apache Beam pipeline: beyond one machine.

The results are those of corpus_counts.
"""

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from factshock.facts import corpus_counts, documents, entities, schema
from factshock.runtime import files
from factshock.runtime.errors import UserError
from factshock.types import Fact

# apache-beam is an extra, and untyped.
beam: Any = importlib.import_module("apache_beam")
FileSystems: Any = importlib.import_module("apache_beam.io.filesystems").FileSystems
PipelineOptions: Any = importlib.import_module(
  "apache_beam.options.pipeline_options"
).PipelineOptions

_OF_ENTITY = ("mentions", "longest", "documents", "as_is", "lowered")
_CARRIED = ("subject", "relation", "object", "aliases", "subject_id", "object_id")

# ("entity" or "fact", index) or ("size", 0), and the counts of it.
_Key: TypeAlias = tuple[str, int]
_Counts: TypeAlias = tuple[int, ...]


def count(
  pattern: str,
  facts: Iterable[Mapping[str, Any]],
  folded: bool,
  output: str,
  runner: str,
  options: Sequence[str],
) -> None:
  """Counts the entities of facts in text or .jsonl files that Beam opens and writes the counts.

  The facts travel by a file beside the output: too many for a pipeline's own description.

  Args:
    pattern: as in corpus_counts.count, of text and .jsonl files.
    facts: whose entities are counted.
    folded: whether names count without regard to case.
    output: as in corpus_counts.count; both on file systems of Beam's.
    runner: a Beam runner's name.
    options: "--name=value" for it.

  Raises:
    UserError: no such files, or files of another kind.

  Whatever the runner raises is passed on.
  """
  paths = _paths(pattern)
  facts_path = f"{output}.entities.jsonl"
  _write_facts(facts_path, facts)
  all_options = PipelineOptions([f"--runner={runner}", *options])
  with beam.Pipeline(options=all_options) as pipeline:
    _ = (
      pipeline
      | "files" >> beam.Create(paths)
      | "read" >> beam.io.ReadAllFromText(coder=beam.coders.BytesCoder(), with_filename=True)
      | "text" >> beam.FlatMap(_documents)
      | "count" >> beam.ParDo(_Count(facts_path, folded))
      | "add up" >> beam.CombinePerKey(_add)
      | "gather" >> beam.combiners.ToList()
      | "write" >> beam.Map(_write_counts, facts_path, folded, output)
    )


def _paths(pattern: str) -> list[str]:
  """Returns the files of a corpus on any file system of Beam's.

  Raises:
    UserError: there is none, or one that a pipeline doesn't read as corpus_counts does.
  """
  paths: list[str] = []
  for corpus in documents.corpora(pattern):
    if documents.is_data_set(corpus):
      raise UserError(f"{corpus}: --runner counts in files alone; leave it out to count here")
    matches: list[Any] = FileSystems.match([corpus])[0].metadata_list
    if not matches:
      raise UserError(f"{corpus}: no such file; --runner counts in text and .jsonl files")
    paths += [match.path for match in matches]
  for path in paths:
    is_table = path.endswith(schema.SUFFIXES) and not path.endswith(schema.JSON_SUFFIXES)
    if is_table or set(path) & set("[*?"):
      raise UserError(
        f"{path}: with --runner expected text or .jsonl files without [, * or ? in their names; "
        "convert or rename it, or leave --runner out"
      )
  return paths


def _documents(named_line: tuple[str, bytes]) -> Iterator[str]:
  """Yields the documents of a line of a file, read as runtime/files.py reads them.

  A byte order mark is no part of a line, and a return alone ends one too.
  """
  path, line = named_line
  try:
    text = line.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise files.not_utf8(path, error) from error
  for piece in text.split("\r"):
    if not path.endswith(schema.JSON_SUFFIXES):
      yield piece
    elif piece and not piece.isspace():
      yield documents.text_of(schema.json_object(piece, path), path)


class _Count(beam.DoFn):
  """Counts the documents of a bundle: ((kind, index), counts) where they are not 0."""

  def __init__(self, facts_path: str, folded: bool) -> None:
    self.facts_path = facts_path
    self.folded = folded

  def setup(self) -> None:
    counted = entities.entities_of(_read_facts(self.facts_path), self.folded)
    self.search = entities.search_of(counted)

  def start_bundle(self) -> None:
    self.texts: list[str] = []
    self.size = 0
    self.total: dict[str, np.ndarray] | None = None

  def process(self, text: str) -> None:
    if text and not text.isspace():
      self.texts.append(text)
      self.size += len(text)
    if self.size > documents.PART_BYTES // 4:
      self._count()

  def finish_bundle(self) -> Iterator[Any]:
    total = self._count()
    everywhere = beam.transforms.window.GlobalWindow()
    end = everywhere.max_timestamp()
    for pair in _sparse(total):
      yield beam.utils.windowed_value.WindowedValue(pair, end, [everywhere])

  def _count(self) -> dict[str, np.ndarray]:
    total = corpus_counts.count_part(self.texts, self.search)
    if self.total is not None:
      total = corpus_counts.add_up([self.total, total])
    self.total = total
    self.texts = []
    self.size = 0
    return total


def _sparse(counts: Mapping[str, np.ndarray]) -> Iterator[tuple[_Key, _Counts]]:
  """Yields the counts that are not 0, and the size."""
  of_entity = np.stack([counts[name] for name in _OF_ENTITY], axis=1)
  counted = np.flatnonzero(of_entity.any(axis=1))
  for index in counted.tolist():
    entity_counts = of_entity[index]
    yield ("entity", index), tuple(entity_counts.tolist())
  together = counts["together"]
  named = np.flatnonzero(together)
  for index in named.tolist():
    fact_count = int(together[index])
    yield ("fact", index), (fact_count,)
  size = counts["size"]
  yield ("size", 0), tuple(size.tolist())


def _add(tuples: Iterable[_Counts]) -> _Counts:
  return tuple(map(sum, zip(*tuples)))


def _write_facts(path: str, facts: Iterable[Mapping[str, Any]]) -> None:
  _write(path, map(_fact_line, facts))


def _fact_line(fact: Mapping[str, Any]) -> str:
  row = {name: fact[name] for name in _CARRIED if name in fact}
  return json.dumps(row, ensure_ascii=False) + "\n"


def _read_facts(path: str) -> list[Fact]:
  with FileSystems.open(path) as file:
    text: str = file.read().decode("utf-8")
  return [json.loads(line) for line in text.splitlines()]


def _write_counts(
  pairs: Iterable[tuple[_Key, _Counts]],
  facts_path: str,
  folded: bool,
  output: str,
) -> None:
  """Writes the two files of counts of all pairs."""
  counted = entities.entities_of(_read_facts(facts_path), folded)
  entity_count = len(counted.labels)
  fact_count = len(counted.facts)
  counts = {name: np.zeros(entity_count, np.int64) for name in _OF_ENTITY}
  counts["together"] = np.zeros(fact_count, np.int64)
  names_of_kind = {
    "entity": _OF_ENTITY,
    "fact": ("together",),
    "size": (),
  }
  for (kind, index), values in pairs:
    for name, value in zip(names_of_kind[kind], values):
      counts[name][index] = value
  facts_output = corpus_counts.facts_path(output)
  _write(output, corpus_counts.entity_lines(counted, counts))
  _write(facts_output, corpus_counts.fact_lines(counted, counts))


def _write(path: str, lines: Iterable[str]) -> None:
  with FileSystems.create(path) as file:  # gzipped where the name ends so
    for line in lines:
      file.write(line.encode("utf-8"))

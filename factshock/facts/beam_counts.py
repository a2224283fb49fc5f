"""The counting of entities as an Apache Beam pipeline: beyond one machine, with the same results as corpus_counts."""

import json

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from factshock.facts import corpus_counts, documents, entities, schema

_OF_ENTITY = ("mentions", "longest", "documents", "as_is", "lowered")


def count(pattern, facts, folded, output, runner, options):
  """Counts the entities of facts in text or .jsonl files (any that Beam opens) and writes the counts where Beam can.

  The facts travel by a file beside the output, as they are too many for a pipeline's own
  description.

  Args:
    pattern, output: as in corpus_counts.count, on a file system of Beam's. runner: a Beam runner's
    name.
    options: list of "--name=value" for it.
  Raises: whatever the runner raises for what is not there.
  """
  place = f"{output}.entities.jsonl"
  _write(
    place,
    (
      json.dumps(
        {
          name: fact[name]
          for name in ("subject", "relation", "object", "aliases", "subject_id", "object_id")
          if name in fact
        },
        ensure_ascii=False,
      )
      + "\n"
      for fact in facts
    ),
  )
  with beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *options])) as pipeline:
    lines = pipeline | "read" >> beam.io.ReadFromText(pattern)
    if pattern.endswith((".jsonl", ".jsonl.gz", ".json", ".json.gz")):
      lines = lines | "text" >> beam.Map(
        lambda line: documents.text_of(schema.json_object(line, pattern), pattern)
      )
    (
      lines
      | "count" >> beam.ParDo(_Count(place, folded))
      | "add up" >> beam.CombinePerKey(_add)
      | "gather" >> beam.combiners.ToList()
      | "write" >> beam.Map(_write_counts, place, folded, output)
    )


class _Count(beam.DoFn):
  """Counts the documents of a bundle: ((kind, number), counts) where they are not 0."""

  def __init__(self, place, folded):
    self.place = place
    self.folded = folded

  def setup(self):
    self.search = entities.search_of(entities.entities_of(_facts(self.place), self.folded))

  def start_bundle(self):
    self.texts = []
    self.size = 0
    self.total = None

  def process(self, text):
    if text and not text.isspace():
      self.texts.append(text)
      self.size += len(text)
    if self.size > documents.PART_BYTES // 4:
      self._count()

  def finish_bundle(self):
    self._count()
    everywhere = beam.transforms.window.GlobalWindow()
    for pair in _sparse(self.total):
      yield beam.utils.windowed_value.WindowedValue(pair, everywhere.max_timestamp(), [everywhere])

  def _count(self):
    counts = corpus_counts.count_part(self.texts, self.search)
    self.total = counts if self.total is None else corpus_counts.add_up([self.total, counts])
    self.texts = []
    self.size = 0


def _sparse(counts):
  of_entity = np.stack([counts[name] for name in _OF_ENTITY], axis=1)
  for number in np.flatnonzero(of_entity.any(axis=1)).tolist():
    yield ("entity", number), tuple(of_entity[number].tolist())
  for number in np.flatnonzero(counts["together"]).tolist():
    yield ("fact", number), (int(counts["together"][number]),)
  yield ("size", 0), tuple(counts["size"].tolist())


def _add(tuples):
  return tuple(map(sum, zip(*tuples)))


def _facts(place):
  with FileSystems.open(place) as file:
    return [json.loads(line) for line in file.read().decode("utf-8").splitlines()]


def _write_counts(pairs, place, folded, output):
  found = entities.entities_of(_facts(place), folded)
  counts = {name: np.zeros(len(found.labels), np.int64) for name in _OF_ENTITY}
  counts["together"] = np.zeros(len(found.facts), np.int64)
  for (kind, number), values in pairs:
    for name, value in zip({"entity": _OF_ENTITY, "fact": ("together",), "size": ()}[kind], values):
      counts[name][number] = value
  _write(output, corpus_counts.entity_lines(found, counts))
  _write(corpus_counts.facts_path(output), corpus_counts.fact_lines(found, counts))


def _write(path, lines):
  with FileSystems.create(path) as file:  # gzipped where the name ends so
    for line in lines:
      file.write(line.encode("utf-8"))

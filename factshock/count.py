r"""Counts how often text names each entity of some facts: subjects, objects and their aliases.

  factshock count --corpus='c4/*.json.gz' --facts=facts.jsonl --output=counts.tsv
  factshock count --corpus=wiki.txt --facts=popqa:popqa.csv --output=counts.tsv --folded

--corpus is a file or a pattern in quotes: text with a document a line, or .jsonl, .csv, .tsv (.gz
too) or .parquet with a column `text` or `sentence`, or a data set (hub:NAME?split=...,
tfds:NAME?split=..., see factshock/facts/documents.py); several are separated by commas. --facts
is a facts file or a data set (popqa:PATH and the like, see factshock/facts/sources.py).

counts.tsv has one row an entity, the most mentioned first, and these columns:
  entity     its name
  count      how many times one of its names occurs as whole words; all spaces are one, typographic
             apostrophes and hyphens are plain ones, and vowel signs are part of their word
  longest    how many of these are not within a longer name
  documents  how many documents name it
  ambiguous  why the count may be of something else: "several" entities have the name, it is a
             "word" seen more often in lower case, one "letter", or in a "script" without spaces
             between words (Han, Kana, Thai, Lao, Khmer, Burmese), found within longer words too
counts.facts.tsv holds, for each fact in its order, how many documents name subject and object
together, and each of them. `diagnose --entity_counts` and `experiment --entity_counts` read
counts.tsv.

All cores count, a part of the files each; after an interruption the same command goes on. With
--runner the counting is an Apache Beam pipeline instead (pip install 'factshock[beam]'):
--runner=DirectRunner here, or DataflowRunner, FlinkRunner or SparkRunner with their options in
--beam_options='--project=... --temp_location=...'; --corpus is then a pattern of text or .jsonl
files that Beam can open.
"""

import gc
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from factshock.runtime import console, files, flag_names, outputs
from factshock.runtime.errors import UserError
from factshock.runtime.progress import format_duration

if TYPE_CHECKING:
  import numpy as np

  from factshock.facts.entities import Entities
  from factshock.types import Fact


def define_flags() -> None:
  """Defines the flags; called only where the verb runs as a program."""
  flags.DEFINE_string(
    "corpus",
    None,
    "Text: a path, a pattern in quotes, or a data set; several are separated by commas.",
  )
  flags.DEFINE_string(
    "facts", None, "Facts whose subjects and objects are counted: a file or a data set."
  )
  flags.DEFINE_string("output", None, "File to write: .tsv or .tsv.gz.")
  outputs.define_flag()
  flags.DEFINE_bool("folded", False, "Count names without regard to upper and lower case.")
  flags.DEFINE_integer(
    "processes", 0, "Processes at a time; 0: as many as the machine has cores.", lower_bound=0
  )
  flags.DEFINE_string(
    "runner", None, "Apache Beam's runner; without it this machine counts by itself."
  )
  flags.DEFINE_string("beam_options", "", "Options for the Beam runner, as on its command line.")
  flags.mark_flags_as_required(["corpus", "facts", "output"])
  flag_names.rename("entities", "facts")


def main(argv: Sequence[str]) -> None:
  """Counts, by this machine or by Beam, and prints where the files are."""
  del argv
  from factshock.devices import host
  from factshock.facts import corpus_counts, entities, sources

  values = flags.FLAGS
  if not values.output.endswith(files.with_compressions(".tsv")):
    raise UserError(
      f"--output={values.output}: expected a name that ends in .tsv, compressed or not"
    )
  if not os.path.isdir(corpus_counts.parts_folder(values.output)):  # else it was interrupted
    outputs.check_new(values.output)
    outputs.check_new(corpus_counts.facts_path(values.output))
  # A third of the time is the kernel's zeroing of memory just handed back.
  host.keep_freed_memory()
  gc.disable()  # millions of hits are made, and none in a circle
  began = time.monotonic()
  facts = sources.read_facts(values.facts)
  counted = entities.entities_of(facts, values.folded)
  _print_ambiguous(counted)
  if values.runner:
    _count_by_beam(facts)
  else:
    processes = values.processes or os.cpu_count()
    counts = corpus_counts.count(values.corpus, counted, values.output, processes)
    _print_summary(counted, counts, time.monotonic() - began)
  print(f"counts: {values.output}\nfacts: {corpus_counts.facts_path(values.output)}")


def _count_by_beam(facts: "Sequence[Fact]") -> None:
  """Counts by an Apache Beam pipeline.

  Raises:
    UserError: Apache Beam is not installed.
  """
  try:
    from factshock.facts import beam_counts
  except ImportError as error:
    raise UserError(
      f"--runner needs Apache Beam ({error}): pip install 'factshock[beam]'"
    ) from error
  values = flags.FLAGS
  options = values.beam_options.split()
  beam_counts.count(values.corpus, facts, values.folded, values.output, values.runner, options)


def _print_ambiguous(counted: "Entities") -> None:
  """Prints which entities have a name of one letter, or one that is found within words too."""
  reasons = {
    "letter": "a name of one letter",
    "script": "a name in a script without spaces, found within longer words too",
  }
  for reason, words in reasons.items():
    pairs = zip(counted.labels, counted.ambiguous)
    labels = [label for label, why in pairs if reason in why.split()]
    if labels:
      more = ", ..." if len(labels) > 5 else ""
      print(
        f"  {len(labels):,} entities have {words} ({', '.join(labels[:5])}{more}): counted, and "
        "flagged as ambiguous"
      )


def _print_summary(counted: "Entities", counts: "Mapping[str, np.ndarray]", seconds: float) -> None:
  """Prints how much text was read and how much of the entities and facts it names."""
  documents, size = counts["size"].tolist()
  mentions = counts["mentions"]
  mentioned = (mentions > 0).sum()
  together = (counts["together"] > 0).sum()
  print(
    f"{documents:,} documents, {size / 1e6:,.1f} MB of text in "
    f"{format_duration(seconds)}: {mentions.sum():,} mentions of {mentioned:,} of "
    f"{len(counted.labels):,} entities, {together:,} of {len(counted.facts):,} facts in some "
    "document"
  )


if __name__ == "__main__":
  define_flags()
  console.run(main)

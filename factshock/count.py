r"""Counts how often text names each entity of some facts: subjects, objects and their aliases.

  python -m factshock.count --corpus='c4/*.json.gz' --entities=facts.jsonl --output=counts.tsv
  python -m factshock.count --corpus=wiki.txt --entities=popqa:popqa.csv --output=counts.tsv --folded

--corpus is a file or a pattern in quotes: text, a document a line, or .jsonl, .csv, .tsv (.gz too) or .parquet with a column
`text` or `sentence`, or a data set (hub:NAME?split=..., tfds:NAME?split=..., see factshock/facts/documents.py); several have commas
between. --entities is a facts file or a data set (popqa:PATH and the like, see factshock/facts/sources.py).

counts.tsv holds, by the number of mentions: entity; count, the places where one of its names stands as whole words; longest, those of
them that are not within a longer name; documents; and ambiguous, why a count may be of something else: "several" entities have
the name, it is a "word" seen more often in lower case, or one "letter". counts.facts.tsv holds, for each fact in its order, how
many documents name subject and object together, and each of them. `diagnose
--entity_counts` and `experiment --config.entity_counts` read counts.tsv.

All cores count, a part of the files each; interrupted, the same command goes on. With --runner the counting is an Apache Beam pipeline
instead (pip install 'factshock[beam]'): --runner=DirectRunner here, DataflowRunner, FlinkRunner or SparkRunner with their options
in --beam_options='--project=... --temp_location=...'; then --corpus is a pattern of text or .jsonl files that Beam can open.
"""

import os

from absl import flags

from factshock.runtime import console

_CORPUS = flags.DEFINE_string(
  "corpus", None, "Text: a path, a pattern in quotes, or a data set; several with commas between."
)
_ENTITIES = flags.DEFINE_string(
  "entities", None, "Facts whose subjects and objects are counted: a file or a data set."
)
_OUTPUT = flags.DEFINE_string("output", None, "File to write: .tsv or .tsv.gz.")
_FOLDED = flags.DEFINE_bool("folded", False, "Count names without regard to upper and lower case.")
_PROCESSES = flags.DEFINE_integer(
  "processes", 0, "Processes at a time; 0: one a core.", lower_bound=0
)
_RUNNER = flags.DEFINE_string(
  "runner", None, "Beam runner; without it this machine counts by itself."
)
_BEAM_OPTIONS = flags.DEFINE_string(
  "beam_options", "", "Options for the Beam runner, as on its command line."
)
flags.mark_flags_as_required(["corpus", "entities", "output"])


def main(_):
  """Counts, by this machine or by Beam, and says where the files are."""
  import gc
  import time

  from factshock.facts import corpus_counts, entities, sources
  from factshock.runtime.errors import UserError

  if not _OUTPUT.value.endswith((".tsv", ".tsv.gz")):
    raise UserError(f"--output={_OUTPUT.value}: expected a name that ends in .tsv or .tsv.gz")
  from factshock.devices import host

  host.keep_freed_memory()  # a third of the time is the kernel's zeroing of memory just handed back
  gc.disable()  # millions of hits are made, and none in a circle
  began = time.monotonic()
  facts = sources.read_facts(_ENTITIES.value)
  found = entities.entities_of(facts, _FOLDED.value)
  letters = [label for label, why in zip(found.labels, found.ambiguous) if "letter" in why]
  if letters:
    print(
      f"  {len(letters)} entities have a name of one letter ({', '.join(letters[:5])}{', ...' if len(letters) > 5 else ''}): "
      "counted, and flagged as ambiguous"
    )
  if _RUNNER.value:
    try:
      from factshock.facts import beam_counts
    except ImportError as error:
      raise UserError(
        f"--runner needs Apache Beam ({error}): pip install 'factshock[beam]'"
      ) from error
    beam_counts.count(
      _CORPUS.value, facts, _FOLDED.value, _OUTPUT.value, _RUNNER.value, _BEAM_OPTIONS.value.split()
    )
  else:
    counts = corpus_counts.count(
      _CORPUS.value, found, _OUTPUT.value, _PROCESSES.value or os.cpu_count()
    )
    _summary(found, counts, time.monotonic() - began)
  print(f"counts: {_OUTPUT.value}\nfacts: {corpus_counts.facts_path(_OUTPUT.value)}")


def _summary(found, counts, seconds):
  documents, size = counts["size"].tolist()
  print(
    f"{documents:,} documents, {size / 1e6:,.1f} MB of text in {console.format_duration(seconds)}: "
    f"{counts['mentions'].sum():,} mentions of {(counts['mentions'] > 0).sum():,} of {len(found.labels):,} entities, "
    f"{(counts['together'] > 0).sum():,} of {len(found.facts):,} facts in some document"
  )


if __name__ == "__main__":
  console.run(main)

"""Diagnoses predictions files: accuracy, frequency shock, and paired comparisons of arms.

  python -m factshock.diagnose --predictions=a.jsonl[,b.jsonl] [--finetuning_facts=train.jsonl]
      [--entity_counts=counts.tsv] [--reference=LABEL] --output=DIR

A predictions file (.jsonl or .jsonl.gz) holds a JSON object a line: subject, relation, object and prediction
(texts); optional aliases (list of accepted answers), score (log-probability), candidates (list of
[text, log-probability], best first), popularity (of the subject), arm, seed, split. Any program may write it. The
lm-evaluation-harness's samples_*.jsonl (--log_samples) are read too: factshock/diagnosis/samples.py.
Rows are grouped by arm (default: the file's name) and seed; a step or alpha column makes the label
"arm@value". All arms must answer the same queries. The shock measures need the finetuning facts and how often
the pretraining text names each entity. Prints a table and writes DIR/diagnosis.json, whose `notes` define
each number.
"""

import json
import os

from absl import flags

from factshock import console, files

FLAGS = flags.FLAGS
flags.DEFINE_list("predictions", None, "Predictions files, with commas between.")
flags.DEFINE_string("output", None, "Folder for diagnosis.json.")
flags.DEFINE_string("finetuning_facts", None, "Facts that the models were finetuned on (.jsonl, .csv, .tsv, "
                    ".parquet).")
flags.DEFINE_string("entity_counts", None, "How often pretraining names each entity: .tsv with entity, count "
                    "and, where known, relation.")
flags.DEFINE_string("reference", None, "Label of the arm that others are compared with (default: the first).")
flags.DEFINE_string("known", None, "Label of the arm whose right answers count as known facts.")
flags.DEFINE_string("finetuned", None, "Label of the finetuned arm that the verdict is about; with --corrected.")
flags.DEFINE_string("corrected", None, "Label of that arm with its answer prior restored (python -m factshock.correct): says whether "
                    "the prior shifted or access was lost, and what to try first. Give --known too: an arm that is none of these, such as "
                    "the model's answers to its best cloze.")
flags.DEFINE_enum("criterion", "exact_match", ["exact_match", "contains"], "What makes an answer right: it equals an accepted "
                  "answer, or it contains one.")
flags.DEFINE_string("relations", None, "Relations file, or a data set as mmlu:PATH: averages over its types of relations too.")
flags.DEFINE_string("split", None, "Only rows of this split.")
flags.DEFINE_integer("resamples", 1000, "Bootstrap resamples.", lower_bound=100)
flags.DEFINE_float("confidence", 0.95, "Of the intervals.", lower_bound=0.5, upper_bound=0.999)
flags.DEFINE_integer("seed", 0, "Of the bootstrap.", lower_bound=0)
flags.mark_flags_as_required(["predictions", "output"])


def main(argv):
  """Reads, diagnoses, prints, writes."""
  del argv
  from factshock.diagnosis import predictions, summary, table
  arms = predictions.arms(predictions.of_split(predictions.read(path), FLAGS.split)
                          for path in FLAGS.predictions)
  seeds = {seed for by_seed in arms.values() for seed in by_seed}
  diagnosis = summary.diagnose(
      arms, finetuning=_of_all(seeds, _finetuning(FLAGS.finetuning_facts)),
      counts=_of_all(seeds, _counts(FLAGS.entity_counts)), reference=FLAGS.reference, known=FLAGS.known,
      entity_arms=list(arms), criterion=FLAGS.criterion, types=_types(FLAGS.relations), finetuned=FLAGS.finetuned,
      corrected=FLAGS.corrected, resamples=FLAGS.resamples, confidence=FLAGS.confidence, seed=FLAGS.seed)
  path = os.path.join(FLAGS.output, "diagnosis.json")
  with files.writing(path) as file:
    file.write(_text(diagnosis))
  print("\n".join(table.lines(diagnosis)))
  print(f"wrote {path}")


def _text(diagnosis):
  """JSON with a line for each part (indenting all of it takes seconds where entities are many)."""
  parts = (f"{json.dumps(name)}: {json.dumps(part, ensure_ascii=False, allow_nan=False)}"
           for name, part in diagnosis.items())
  return "{" + ",\n".join(parts) + "}\n"


def _finetuning(path):
  if path is None:
    return None
  from factshock.facts import sources
  return [(fact["relation"], fact["object"]) for fact in sources.read_facts(path)]


def _counts(path):
  if path is None:
    return None
  from factshock.facts import counts
  return counts.read_counts(path)


def _types(path):
  if path is None:
    return None
  from factshock.facts import sources
  return {name: row["type"] for name, row in sources.read_relations(path).items()}


def _of_all(seeds, value):
  return None if value is None else {seed: value for seed in seeds}


if __name__ == "__main__":
  console.run(main)

"""Diagnoses predictions files: accuracy, frequency shock, and paired comparisons of arms.

  python -m factshock.diagnose --predictions=a.jsonl[,b.jsonl] [--finetuning_facts=train.jsonl]
      [--entity_counts=counts.tsv] [--reference=LABEL] --output=DIR
  python -m factshock.diagnose --lm_kbc=2022|2023|2024|2025|2026 --predictions=a.jsonl[,b.jsonl] --gold=val.jsonl
      [--train=train.jsonl] [--strict] [--output=DIR]

A predictions file (.jsonl or .jsonl.gz) holds a JSON object a line: subject, relation, object and prediction
(texts); optional aliases (list of accepted answers), score (log-probability), candidates (list of
[text, log-probability], best first), popularity (of the subject), arm, seed, split. Any program may write it. The
lm-evaluation-harness's samples_*.jsonl (--log_samples) are read too: factshock/diagnosis/samples.py.
Rows are grouped by arm (default: the file's name) and seed; a step or alpha column makes the label
"arm@value". All arms must answer the same queries. The shock measures need the finetuning facts and how often
the pretraining text names each entity. Prints a table and writes DIR/diagnosis.json, whose `notes` define
each number.

With --lm_kbc the files hold rows of that challenge instead (SubjectEntity, Relation, and a list ObjectEntities or
ObjectEntitiesID) and are scored by the rules of that edition, beside the all-empty answer and the constant set of
each relation fitted on train; --output, where given, gets lm_kbc.json.

With --promise=0.9 (each file one arm and seed, with scores) it says what the answers are worth as a knowledge graph: in --splits random
halvings of the subjects one half calibrates, as factshock.extract does, and of the other half answers are accepted whose precision is
promised: how often the promise held, what it yielded, and what the best threshold would have. --output, where given, gets promise.json.
"""

import json
import os

from absl import flags

from factshock.runtime import console, files
from factshock.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_list("predictions", None, "Predictions files, with commas between.")
flags.DEFINE_string(
  "output", None, "Folder for diagnosis.json (lm_kbc.json, which need not be written)."
)
flags.DEFINE_enum(
  "lm_kbc",
  None,
  ["2022", "2023", "2024", "2025", "2026"],
  "Edition of the LM-KBC challenge by whose rules rows are scored.",
)
flags.DEFINE_string("gold", None, "LM-KBC: the gold rows (.jsonl).")
flags.DEFINE_string(
  "train",
  None,
  "LM-KBC: rows that the constant set is fitted on (default: the train.jsonl beside "
  "the gold file).",
)
flags.DEFINE_bool(
  "strict", False, "LM-KBC: recall never above 1; rows missing, unknown or repeated are errors."
)
flags.DEFINE_float(
  "promise",
  None,
  "Precision to promise in trials of what the answers are worth as a knowledge graph.",
  lower_bound=0.01,
  upper_bound=0.999,
)
flags.DEFINE_integer("splits", 10, "Trials of --promise for each file.", lower_bound=1)
flags.DEFINE_string(
  "finetuning_facts",
  None,
  "Facts that the models were finetuned on (.jsonl, .csv, .tsv, .parquet).",
)
flags.DEFINE_string(
  "entity_counts",
  None,
  "How often pretraining names each entity: .tsv with entity, count and, where known, relation.",
)
flags.DEFINE_string(
  "reference", None, "Label of the arm that others are compared with (default: the first)."
)
flags.DEFINE_string("known", None, "Label of the arm whose right answers count as known facts.")
flags.DEFINE_string(
  "finetuned", None, "Label of the finetuned arm that the verdict is about; with --corrected."
)
flags.DEFINE_string(
  "corrected",
  None,
  "Label of that arm with its answer prior restored (python -m factshock.correct): says whether "
  "the prior shifted or access was lost, and what to try first. Give --known too: an arm that is none of these, such as "
  "the model's answers to its best cloze.",
)
flags.DEFINE_enum(
  "criterion",
  "exact_match",
  ["exact_match", "contains"],
  "What makes an answer right: it equals an accepted answer, or it contains one.",
)
flags.DEFINE_string(
  "relations",
  None,
  "Relations file, or a data set as mmlu:PATH: averages over its types of relations too.",
)
flags.DEFINE_string("split", None, "Only rows of this split.")
flags.DEFINE_integer("resamples", 1000, "Bootstrap resamples.", lower_bound=100)
flags.DEFINE_float("confidence", 0.95, "Of the intervals.", lower_bound=0.5, upper_bound=0.999)
flags.DEFINE_integer("seed", 0, "Of the bootstrap.", lower_bound=0)
flags.mark_flag_as_required("predictions")
flags.register_multi_flags_validator(
  ["output", "lm_kbc", "promise"],
  lambda values: any(values.values()),
  "Flag --output must have a value other than None.",
)
MODES = {
  "lm_kbc": (
    "gold",
    "train",
    "strict",
    "resamples",
    "confidence",
    "seed",
  ),  # the flags that each other mode has of its own or shares
  "promise": ("splits", "entity_counts", "resamples", "confidence", "seed"),
}
OWN = ("gold", "train", "strict", "splits")
SHARED = (
  "finetuning_facts",
  "entity_counts",
  "reference",
  "known",
  "finetuned",
  "corrected",
  "criterion",
  "relations",
  "split",
)


def main(argv):
  """Reads, diagnoses, prints, writes."""
  del argv
  modes = [name for name in MODES if FLAGS[name].present]
  if len(modes) > 1:
    raise UserError("expected --lm_kbc or --promise, got both")
  mode = modes[0] if modes else None
  wrong = [
    name
    for name in (*OWN, *SHARED)
    if FLAGS[name].present and (name not in MODES[mode] if mode else name in OWN)
  ]
  if wrong:
    owner = [other for other in MODES if wrong[0] in OWN and wrong[0] in MODES[other]]
    raise UserError(
      f"{', '.join(f'--{name}' for name in wrong)}: "
      + (f"only with --{owner[0]}" if owner else f"not with --{mode}")
    )
  {None: _diagnose, "lm_kbc": _lm_kbc, "promise": _promise}[mode]()


def _diagnose():
  from factshock.diagnosis import summary, table
  from factshock.predictions import reading

  arms = reading.group_by_arm(
    reading.select_split(reading.read(path), FLAGS.split) for path in FLAGS.predictions
  )
  seeds = {seed for by_seed in arms.values() for seed in by_seed}
  diagnosis = summary.diagnose(
    arms,
    finetuning=_of_all(seeds, _finetuning(FLAGS.finetuning_facts)),
    counts=_of_all(seeds, _counts(FLAGS.entity_counts)),
    reference=FLAGS.reference,
    known=FLAGS.known,
    entity_arms=list(arms),
    criterion=FLAGS.criterion,
    types=_types(FLAGS.relations),
    finetuned=FLAGS.finetuned,
    corrected=FLAGS.corrected,
    resamples=FLAGS.resamples,
    confidence=FLAGS.confidence,
    seed=FLAGS.seed,
  )
  _write("diagnosis.json", diagnosis, table.lines(diagnosis))


def _lm_kbc():
  from factshock.diagnosis import lm_kbc, lm_kbc_table

  if FLAGS.gold is None:
    raise UserError("--lm_kbc: expected the gold rows too; name them with --gold")
  train, no_train = (FLAGS.train, None) if FLAGS.train else lm_kbc.beside(FLAGS.gold)
  year = FLAGS.lm_kbc
  found = lm_kbc.diagnose(
    year,
    lm_kbc.read_all(FLAGS.predictions, year),
    lm_kbc.read(FLAGS.gold, year, gold=True),
    train and lm_kbc.read(train, year, gold=True),
    no_train=no_train,
    strict=FLAGS.strict,
    resamples=FLAGS.resamples,
    confidence=FLAGS.confidence,
    seed=FLAGS.seed,
  )
  _write("lm_kbc.json", found, lm_kbc_table.lines(found))


def _promise():
  from factshock.knowledge_graph import answers, trials
  from factshock.predictions import reading, rows

  counts = _counts(FLAGS.entity_counts)
  arms = {}
  progress = console.Progress("trials", len(FLAGS.predictions))
  for number, path in enumerate(FLAGS.predictions, 1):
    row = next((row for _, row in rows.read_rows(path)), {})
    label = reading.label_of(row, os.path.basename(path).split(".")[0], path, 1)
    seed = reading.seed_of(row.get("seed"), path, 1)
    if seed in arms.setdefault(label, {}):
      raise UserError(
        f"{path}: expected an arm and seed that no other file has, got arm {label!r} seed {seed} again"
      )
    arms[label][seed] = trials.run(
      answers.read(path, labelled=True),
      FLAGS.promise,
      splits=FLAGS.splits,
      seed=FLAGS.seed + seed,
      counts=counts,
    )
    progress.update(number)
  found = trials.compare(
    arms, FLAGS.promise, resamples=FLAGS.resamples, confidence=FLAGS.confidence, seed=FLAGS.seed
  )
  _write(
    "promise.json", {"target": FLAGS.promise, "arms": found}, trials.lines(found, FLAGS.promise)
  )


def _write(name, found, lines):
  """Writes what was found to the output folder, if there is one, and prints it."""
  path = FLAGS.output and os.path.join(FLAGS.output, name)
  if path:
    with files.atomic_write(path) as file:
      file.write(_text(found))
  print("\n".join(lines))
  if path:
    print(f"wrote {path}")


def _text(diagnosis):
  """JSON with a line for each part (indenting all of it takes seconds where entities are many)."""
  parts = (
    f"{json.dumps(name)}: {json.dumps(part, ensure_ascii=False, allow_nan=False)}"
    for name, part in diagnosis.items()
  )
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

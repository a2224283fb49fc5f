r"""Diagnoses predictions files: accuracy, frequency shock, and paired comparisons of arms.

  factshock diagnose --predictions=before.jsonl,after.jsonl --finetuning_facts=train.jsonl \
      --entity_counts=counts.tsv --output=diagnosis
  factshock diagnose --predictions=before=a.csv,after=b.csv --reference=before --output=diagnosis
  factshock diagnose --lm_kbc=2024 --predictions=mine.jsonl --gold=val.jsonl
  factshock diagnose --promise=0.9 --predictions=known.jsonl

A predictions file (.jsonl, .json, .csv, .tsv, each also compressed, or .parquet) has a row a query:
subject, object and prediction (texts); optional relation, aliases (list of accepted answers; in
tables JSON, a Python list or a|b), score (log-probability), candidates (list of [text,
log-probability], best first), popularity (of the subject), arm, seed, split. Any program may write
it; --columns=subject=question,object=answer,prediction=text names columns called otherwise. The
lm-evaluation-harness's samples_*.jsonl (--log_samples) are read too:
factshock/predictions/harness_samples.py. Rows are grouped by arm (default: the file's name) and
seed; a step or alpha column makes the label "arm@value". All arms must answer the same queries. The
shock measures need the finetuning facts and how often the pretraining text names each entity.
Prints what the numbers say in sentences, then a table of 100 columns (--wide: all of it), and
writes DIR/report.html, the page to look at and send on; arms.csv, comparisons.csv and entities.csv,
the tables; and diagnosis.json, whose `notes` define each number.

With --lm_kbc the files hold rows of that challenge instead (SubjectEntity, Relation, and a list
ObjectEntities or ObjectEntitiesID) and are scored by the rules of that edition, beside the
all-empty answer and the constant set of each relation fitted on train; --output, where given, gets
lm_kbc.json.

With --promise=0.9 (each file one arm and seed, with scores) it measures what the answers are worth
as a knowledge graph: in --splits random halvings of the subjects one half calibrates, as
factshock.extract does, and of the other half answers are accepted whose precision is promised.
Prints how often the promise held, what it yielded, and what the best threshold would have yielded;
--output, where given, gets promise.json.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from factshock.predictions import columns
from factshock.runtime import console, files, outputs, provenance
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress

if TYPE_CHECKING:
  from factshock.knowledge_graph.trials import Trial

# The files in --output by mode, None the usual one, that an older diagnosis or study may have left.
_OUTPUTS = {
  None: ("diagnosis.json", "report.html", "arms.csv", "comparisons.csv", "entities.csv"),
  "lm_kbc": ("lm_kbc.json",),
  "promise": ("promise.json",),
}
# The flags of each mode but the usual one: its own, and those that it shares with the usual one.
_MODE_FLAGS = {
  "lm_kbc": ("gold", "train", "strict", "resamples", "confidence", "seed"),
  "promise": ("splits", "columns", "entity_counts", "resamples", "confidence", "seed"),
}
# The flags that only one of these modes has.
_FLAGS_OF_ONE_MODE = ("gold", "train", "strict", "splits")
# The flags of the usual mode that not every other mode has.
_USUAL_FLAGS = (
  "columns",
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


def define_flags() -> None:
  """Defines the flags; called only where the verb runs as a program."""
  flags.DEFINE_list(
    "predictions", None, "Predictions files or patterns, commas between; NAME=FILE names the arm."
  )
  columns.define_flag()
  flags.DEFINE_string(
    "output",
    None,
    "Folder for report.html, arms.csv, comparisons.csv, entities.csv and diagnosis.json; for "
    "lm_kbc.json and promise.json, where it may be left out.",
  )
  outputs.define_flag()
  _define_mode_flags()
  _define_shock_flags()
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
  flags.DEFINE_bool("wide", False, "Print all columns of the tables, however wide they are.")
  flags.DEFINE_integer("resamples", 1000, "Bootstrap resamples.", lower_bound=100)
  flags.DEFINE_float(
    "confidence", 0.95, "Confidence level of the intervals.", lower_bound=0.5, upper_bound=0.999
  )
  flags.DEFINE_integer("seed", 0, "Random seed of the bootstrap.", lower_bound=0)
  flags.mark_flag_as_required("predictions")
  flags.register_multi_flags_validator(
    ["output", "lm_kbc", "promise"],
    lambda values: any(values.values()),
    "Flag --output must have a value other than None.",
  )


def _define_mode_flags() -> None:
  """Defines the flags of --lm_kbc and of --promise."""
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
    "LM-KBC: rows that the constant set is fitted on (default: the train.jsonl beside the gold "
    "file).",
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


def _define_shock_flags() -> None:
  """Defines the flags of the shock measures and of the comparisons of arms."""
  flags.DEFINE_string(
    "finetuning_facts",
    None,
    "Facts that the models were finetuned on (.jsonl, .csv, .tsv, .parquet).",
  )
  flags.DEFINE_string(
    "entity_counts",
    None,
    "How often pretraining names each entity: .tsv with entity, count and, where known, relation; "
    "or wordfreq:en, word frequencies of a language.",
  )
  flags.DEFINE_string(
    "reference", None, "Label of the arm that others are compared with (default: the first)."
  )
  flags.DEFINE_string("known", None, "Label of the arm whose right answers count as known facts.")
  flags.DEFINE_string(
    "finetuned",
    None,
    "Label of the finetuned arm, which the sentences are about; with --corrected the verdict, too.",
  )
  flags.DEFINE_string(
    "corrected",
    None,
    "Label of that arm with its answer prior restored (factshock correct). The verdict "
    "then tells whether the prior shifted or access was lost, and what to try first. Give --known "
    "too: an arm that is none of these, such as the model's answers to its best cloze.",
  )


def main(argv: Sequence[str]) -> None:
  """Diagnoses the predictions in the mode of the flags, prints a table and writes a file."""
  del argv
  mode = _mode()
  if flags.FLAGS.output:
    for name in _OUTPUTS[mode]:
      outputs.check_new(os.path.join(flags.FLAGS.output, name))
  if mode == "lm_kbc":
    _diagnose_lm_kbc()
  elif mode == "promise":
    _try_promise()
  else:
    _diagnose()


def _mode() -> str | None:
  """Returns "lm_kbc", "promise" or None, the usual mode.

  Raises:
    UserError: flags that don't go together.
  """
  values = flags.FLAGS
  modes = [name for name in _MODE_FLAGS if values[name].present]
  if len(modes) > 1:
    raise UserError("expected --lm_kbc or --promise, got both")
  mode = modes[0] if modes else None
  given = [name for name in (*_FLAGS_OF_ONE_MODE, *_USUAL_FLAGS) if values[name].present]
  if mode is None:
    unfit = [name for name in given if name in _FLAGS_OF_ONE_MODE]
  else:
    unfit = [name for name in given if name not in _MODE_FLAGS[mode]]
  if unfit:
    flag_names = ", ".join(f"--{name}" for name in unfit)
    raise UserError(f"{flag_names}: {_why_unfit(unfit[0], mode)}")
  return mode


def _why_unfit(name: str, mode: str | None) -> str:
  """Returns with which mode a flag goes, or with which it doesn't."""
  if name in _FLAGS_OF_ONE_MODE:
    for other, names in _MODE_FLAGS.items():
      if name in names:
        return f"only with --{other}"
  return f"not with --{mode}"


def _diagnose() -> None:
  """Diagnoses accuracy and frequency shock, and writes page, tables and diagnosis.json."""
  from factshock.diagnosis import of_files
  from factshock.diagnosis.statistics import Bootstrap
  from factshock.report import folder

  values = flags.FLAGS
  diagnosis = of_files.diagnose(
    _arms_and_paths(values.predictions),
    of_files.FileOptions(
      finetuning=values.finetuning_facts,
      counts=values.entity_counts,
      relations=values.relations,
      reference=values.reference,
      known=values.known,
      finetuned=values.finetuned,
      corrected=values.corrected,
      criterion=values.criterion,
      split=values.split,
      columns=columns.given(),
    ),
    Bootstrap(values.resamples, values.confidence, values.seed),
  )
  diagnosis["run"] = provenance.describe_start()
  paths = folder.write(diagnosis, values.output)
  print("\n".join(folder.lines(diagnosis, _width())))
  names = ", ".join(os.path.basename(path) for path in paths)
  print(f"wrote to {values.output}: {names}")


def _width() -> int | None:
  """Returns how wide the tables may be; None for as wide as they are."""
  from factshock.diagnosis import table

  return None if flags.FLAGS.wide else table.WIDTH


def _arms_and_paths(values: Iterable[str]) -> list[tuple[str | None, str]]:
  """Returns the name, or None, and the path of each file that paths and patterns name."""
  named = []
  for value in values:
    name, pattern = _arm_and_path(value)
    named += [(name, path) for path in _matching(pattern)]
  return named


def _matching(pattern: str) -> list[str]:
  """Returns the files that a pattern names; itself, for an error that names it, where none is."""
  return files.matching(pattern) or [pattern]


def _arm_and_path(value: str) -> tuple[str | None, str]:
  """Returns name and path of NAME=PATH; no name of a path alone."""
  name, equals, path = value.partition("=")
  if not equals or os.path.exists(value) or os.sep in name:
    return None, value
  if not name or not path:
    raise UserError(f"--predictions={value}: expected a path or NAME=PATH")
  return name, path


def _diagnose_lm_kbc() -> None:
  """Scores rows of the LM-KBC challenge, and writes lm_kbc.json."""
  from factshock.diagnosis import lm_kbc, lm_kbc_files, lm_kbc_table
  from factshock.diagnosis.statistics import Bootstrap

  values = flags.FLAGS
  if values.gold is None:
    raise UserError("--lm_kbc: expected the gold rows too; name them with --gold")
  train, no_train = (values.train, None) if values.train else lm_kbc_files.train_beside(values.gold)
  year = values.lm_kbc
  diagnosis = lm_kbc.diagnose(
    year,
    lm_kbc_files.read_all(
      [path for value in values.predictions for path in _matching(value)], year
    ),
    lm_kbc_files.read(values.gold, year, gold=True),
    lm_kbc_files.read(train, year, gold=True) if train else None,
    no_train=no_train,
    strict=values.strict,
    bootstrap=Bootstrap(values.resamples, values.confidence, values.seed),
  )
  _write("lm_kbc.json", diagnosis, lm_kbc_table.lines(diagnosis, _width()))


def _try_promise() -> None:
  """Tries a promised precision on halves of the subjects, and writes promise.json."""
  from factshock.knowledge_graph import trials

  values = flags.FLAGS
  comparison = trials.compare(
    _trials_by_arm(),
    values.promise,
    resamples=values.resamples,
    confidence=values.confidence,
    seed=values.seed,
  )
  result = {"target": values.promise, "arms": comparison}
  _write("promise.json", result, trials.summary_lines(comparison, values.promise, _width()))


def _trials_by_arm() -> "dict[str, dict[int, list[Trial]]]":
  """Returns the trials of every predictions file, by arm and seed.

  Raises:
    UserError: two files of one arm and seed.
  """
  from factshock.knowledge_graph import answers, trials
  from factshock.predictions import reading, rows

  values = flags.FLAGS
  counts = _entity_counts(values.entity_counts)
  arms: dict[str, dict[int, list[Trial]]] = {}
  named = _arms_and_paths(values.predictions)
  progress = Progress("trials", len(named))
  names = columns.given()
  for done, (arm, path) in enumerate(named, 1):
    first_row = next((row for _, row in rows.read_rows(path, columns=names)), {})
    label = arm or reading.label_of(first_row, os.path.basename(path).split(".")[0], path, 1)
    seed = reading.seed_of(first_row.get("seed"), path, 1)
    by_seed = arms.setdefault(label, {})
    if seed in by_seed:
      raise UserError(
        f"{path}: expected an arm and seed that no other file has, got arm {label!r} seed {seed} "
        "again"
      )
    by_seed[seed] = trials.run(
      answers.read(path, labelled=True, columns=names),
      values.promise,
      splits=values.splits,
      seed=values.seed + seed,
      counts=counts,
    )
    progress.update(done)
  return arms


def _write(
  name: str,
  result: Mapping[str, Any],
  lines: Iterable[str],
) -> None:
  """Writes a result as JSON to the output folder, if any, and prints the lines about it."""
  from factshock.report import folder

  path = flags.FLAGS.output and os.path.join(flags.FLAGS.output, name)
  if path:
    with files.atomic_write(path) as file:
      file.write(folder.to_json(result))
  print("\n".join(lines))
  if path:
    print(f"wrote {path}")


def _entity_counts(path: str | None) -> Mapping[tuple[str, str], int] | None:
  """Returns how often text names each (relation or "", entity)."""
  if path is None:
    return None
  from factshock.facts import counts

  return counts.read_counts(path)


if __name__ == "__main__":
  define_flags()
  console.run(main)

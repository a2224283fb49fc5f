r"""Moves the answers of a finetuned model back to the answer frequencies of a reference.

  python -m factshock.correct --predictions=finetuned.jsonl --reference=pretrained.jsonl \
      --output=corrected.jsonl
  python -m factshock.correct --predictions=finetuned.jsonl --entity_counts=counts.tsv \
      --development=dev.jsonl --output=corrected.jsonl

Reads predictions and writes predictions. Finetuning shifts which answers a model prefers, whatever
the question. Within the candidates of a relation, p(answer | question) is multiplied by (prior of
the reference / prior of the finetuned model) ^ tau; a model's prior is the mean of its answers'
probabilities over the queries, so no labels are needed. The reference is what the pretrained model
answered to the same queries (asked by its best prompt), or how often a text names each answer
(python -m factshock.count), each count plus 1.

Predictions need the `candidates` of each row, all of the relation's (config.answering.top=0); any
program may write them. tau is 1, or --tau, or is chosen on --development: the same model's
predictions on labelled facts about other subjects. Prints how far the prior moved and which
answers gained and lost.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from factshock.predictions import columns
from factshock.runtime import console
from factshock.runtime.errors import UserError

if TYPE_CHECKING:
  import numpy as np

  from factshock.predictions.prior_correction import Table
  from factshock.predictions.rows import Row


def define_flags() -> None:
  """Defines the flags; called only where the verb runs as a program."""
  flags.DEFINE_string(
    "predictions", None, "Predictions to correct, in any format of diagnose, with candidates."
  )
  flags.DEFINE_string(
    "reference", None, "Predictions of the model before finetuning on the same queries."
  )
  flags.DEFINE_string(
    "entity_counts",
    None,
    "How often a text names each answer: .tsv of entity and count, or wordfreq:en.",
  )
  flags.DEFINE_string(
    "development", None, "The finetuned model's predictions on development facts, to choose tau."
  )
  flags.DEFINE_string(
    "finetuning_facts", None, "Facts finetuned on: development facts must not be about them."
  )
  flags.DEFINE_float(
    "tau", 1.0, "How much of the correction is applied; 0: nothing.", lower_bound=0.0
  )
  columns.define_flag()
  flags.DEFINE_string("output", None, "Predictions file to write: .jsonl or .jsonl.gz.")
  flags.mark_flags_as_required(["predictions", "output"])


def main(argv: Sequence[str]) -> None:
  """Corrects the predictions, and prints what moved."""
  del argv
  from factshock.predictions import prior_correction, writing
  from factshock.predictions.rows import read_all_rows

  values = flags.FLAGS
  if bool(values.reference) == bool(values.entity_counts):
    given = "both" if values.reference else "neither"
    raise UserError(f"expected one of --reference and --entity_counts, got {given}; see --help")
  rows = read_all_rows(values.predictions, columns.given())
  tables = prior_correction.tables_of(rows, values.predictions)
  reference = _reference_priors(rows, tables)
  ratios, raised = prior_correction.log_ratios(tables, reference)
  if raised:
    print(f"{raised:,} priors below {prior_correction.FLOOR:g} taken as that")
  tau = _choose_tau(rows, tables, ratios) if values.development else values.tau
  corrected = prior_correction.correct(tables, ratios, tau)
  corrected_rows = prior_correction.corrected_rows(corrected, rows)
  for row in corrected_rows:
    row |= {"arm": f"{row.get('arm') or 'answers'}_corrected", "tau": tau}
  writing.write_predictions(values.output, corrected_rows)
  before = prior_correction.prior_distance(tables, reference)
  after = prior_correction.prior_distance(corrected, reference)
  print(
    f"the answer prior was {before:.3f} from the reference's (total variation, mean of "
    f"{len(tables)} relations), {after:.3f} after the correction with tau {tau:g}"
  )
  _print_changes(rows, corrected_rows)
  right_before = prior_correction.share_right(tables, rows)
  right_after = prior_correction.share_right(corrected, rows)
  print(
    f"{len(rows):,} queries, right {right_before:.3f} before and {right_after:.3f} after: "
    f"{os.path.abspath(values.output)}"
  )


def _print_changes(rows: "Sequence[Row]", corrected_rows: "Sequence[Row]") -> None:
  """Prints which answers gained and which lost most."""
  from factshock.predictions import prior_correction

  gained, lost = prior_correction.most_changed_answers(rows, corrected_rows)
  for name, changes in (("gained", gained), ("lost", lost)):
    texts = [
      f"{answer} ({relation}) {before:,} -> {after:,}"
      for answer, relation, before, after in changes
    ]
    print(f"  {name}: {'; '.join(texts) or 'none'}")


def _reference_priors(
  rows: "Sequence[Row]", tables: "Mapping[str, Table]"
) -> "dict[str, np.ndarray]":
  """Returns the reference's prior of each relation's candidates."""
  from factshock.facts import counts
  from factshock.predictions import prior_correction
  from factshock.predictions.rows import read_all_rows

  values = flags.FLAGS
  if values.entity_counts:
    return prior_correction.counted_priors(tables, counts.read_counts(values.entity_counts))
  reference_rows = read_all_rows(values.reference, columns.given())
  prior_correction.check_same_queries(rows, values.predictions, reference_rows, values.reference)
  reference_tables = prior_correction.tables_of(reference_rows, values.reference)
  prior_correction.check_same_candidates(
    tables, values.predictions, reference_tables, values.reference
  )
  return prior_correction.priors_of(reference_tables)


def _choose_tau(
  rows: "Sequence[Row]",
  tables: "Mapping[str, Table]",
  ratios: "Mapping[str, np.ndarray]",
) -> float:
  """Returns the tau that is best on the development predictions, and prints the curve."""
  from factshock.facts import sources
  from factshock.predictions import prior_correction
  from factshock.predictions.rows import read_all_rows

  values = flags.FLAGS
  path = values.development
  development_rows = read_all_rows(path, columns.given())
  prior_correction.check_separate_subjects(rows, values.predictions, development_rows, path)
  if values.finetuning_facts:
    facts = sources.read_facts(values.finetuning_facts)
    prior_correction.check_separate_subjects(facts, values.finetuning_facts, development_rows, path)
  development_tables = prior_correction.tables_of(development_rows, path)
  unknown = [relation for relation in development_tables if relation not in tables]
  if unknown:
    raise UserError(f"{path}: expected relations of {values.predictions}, got {', '.join(unknown)}")
  shared_tables = {relation: tables[relation] for relation in development_tables}
  prior_correction.check_same_candidates(
    shared_tables, values.predictions, development_tables, path
  )
  tau, curve = prior_correction.choose_tau(development_tables, development_rows, ratios)
  points = ", ".join(f"{value:g} {share:.3f}" for value, share in curve)
  print(f"development, right by tau: {points}; tau {tau:g} is taken")
  return tau


if __name__ == "__main__":
  define_flags()
  console.run(main)

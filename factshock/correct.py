r"""Moves the answers of a finetuned model back to the answer frequencies of a reference: predictions in, predictions out.

  python -m factshock.correct --predictions=finetuned.jsonl --reference=pretrained.jsonl --output=corrected.jsonl
  python -m factshock.correct --predictions=finetuned.jsonl --entity_counts=counts.tsv --development=dev.jsonl --output=corrected.jsonl

Finetuning shifts which answers a model prefers, whatever the question. p(answer | question) is multiplied by (prior of the
reference / prior of the finetuned model) ^ tau within the relation's candidates; a model's prior is the mean of its answers'
probabilities over the queries, so no labels are needed. The reference is what the pretrained model answered to the same queries
(asked by its best prompt), or how often a text names each answer (python -m factshock.count), each count plus 1.

Predictions need the `candidates` of each row, all of the relation's (config.answering.top=0); any program may write them. tau is 1, or
--tau, or is chosen on --development: the same model's predictions on labelled facts about other subjects. Says how far
the prior moved and which answers gained and lost.
"""

import os

from absl import flags

from factshock.runtime import console
from factshock.runtime.errors import UserError

_PREDICTIONS = flags.DEFINE_string(
  "predictions", None, "Predictions to correct: .jsonl or .jsonl.gz, with candidates."
)
_REFERENCE = flags.DEFINE_string(
  "reference", None, "Predictions of the model before finetuning on the same queries."
)
_ENTITY_COUNTS = flags.DEFINE_string(
  "entity_counts", None, "How often a text names each answer: .tsv of entity and count."
)
_DEVELOPMENT = flags.DEFINE_string(
  "development", None, "The finetuned model's predictions on development facts, to choose tau."
)
_FINETUNING = flags.DEFINE_string(
  "finetuning_facts", None, "Facts finetuned on: development facts must not be about them."
)
_TAU = flags.DEFINE_float(
  "tau", 1.0, "How much of the correction is applied; 0: nothing.", lower_bound=0.0
)
_OUTPUT = flags.DEFINE_string("output", None, "Predictions file to write: .jsonl or .jsonl.gz.")
flags.mark_flags_as_required(["predictions", "output"])


def main(_):
  """Corrects, and says what moved."""
  from factshock.predictions import prior_correction, writing
  from factshock.predictions import rows as prediction_rows

  if bool(_REFERENCE.value) == bool(_ENTITY_COUNTS.value):
    raise UserError(
      "expected one of --reference and --entity_counts, got "
      + ("both" if _REFERENCE.value else "neither")
      + "; see --help"
    )
  rows = prediction_rows.read_all_rows(_PREDICTIONS.value)
  tables = prior_correction.tables_of(rows, _PREDICTIONS.value)
  reference = _reference(prior_correction, prediction_rows, rows, tables)
  ratios, raised = prior_correction.log_ratios(tables, reference)
  if raised:
    print(f"{raised:,} priors below {prior_correction.FLOOR:g} taken as that")
  tau = (
    _chosen(prior_correction, prediction_rows, rows, tables, ratios)
    if _DEVELOPMENT.value
    else _TAU.value
  )
  corrected = prior_correction.correct(tables, ratios, tau)
  found = prior_correction.corrected_rows(corrected, rows)
  for row in found:
    row |= {"arm": f"{row.get('arm') or 'answers'}_corrected", "tau": tau}
  writing.write_predictions(_OUTPUT.value, found)
  print(
    f"the answer prior was {prior_correction.prior_distance(tables, reference):.3f} from the reference's (total variation, mean of "
    f"{len(tables)} relations), {prior_correction.prior_distance(corrected, reference):.3f} after the correction with tau {tau:g}"
  )
  for name, changes in zip(("gained", "lost"), prior_correction.most_changed_answers(rows, found)):
    print(
      f"  {name}: "
      + (
        "; ".join(f"{answer} ({relation}) {a:,} -> {b:,}" for answer, relation, a, b in changes)
        or "none"
      )
    )
  shares = [prior_correction.share_right(of, rows) for of in (tables, corrected)]
  print(
    f"{len(rows):,} queries, right {shares[0]:.3f} before and {shares[1]:.3f} after: {os.path.abspath(_OUTPUT.value)}"
  )


def _reference(prior_correction, prediction_rows, rows, tables):
  if _ENTITY_COUNTS.value:
    from factshock.facts import counts

    return prior_correction.counted_priors(tables, counts.read_counts(_ENTITY_COUNTS.value))
  others = prediction_rows.read_all_rows(_REFERENCE.value)
  prior_correction.check_same_queries(rows, _PREDICTIONS.value, others, _REFERENCE.value)
  found = prior_correction.tables_of(others, _REFERENCE.value)
  prior_correction.check_same_candidates(tables, _PREDICTIONS.value, found, _REFERENCE.value)
  return prior_correction.priors_of(found)


def _chosen(prior_correction, prediction_rows, rows, tables, ratios):
  """tau by the development predictions; prints the curve."""
  known = prediction_rows.read_all_rows(_DEVELOPMENT.value)
  prior_correction.check_separate_subjects(rows, _PREDICTIONS.value, known, _DEVELOPMENT.value)
  if _FINETUNING.value:
    from factshock.facts import sources

    prior_correction.check_separate_subjects(
      sources.read_facts(_FINETUNING.value), _FINETUNING.value, known, _DEVELOPMENT.value
    )
  found = prior_correction.tables_of(known, _DEVELOPMENT.value)
  other = [relation for relation in found if relation not in tables]
  if other:
    raise UserError(
      f"{_DEVELOPMENT.value}: expected relations of {_PREDICTIONS.value}, got {', '.join(other)}"
    )
  prior_correction.check_same_candidates(
    {relation: tables[relation] for relation in found},
    _PREDICTIONS.value,
    found,
    _DEVELOPMENT.value,
  )
  tau, curve = prior_correction.choose_tau(found, known, ratios)
  print(
    "development, right by tau: "
    + ", ".join(f"{tau:g} {share:.3f}" for tau, share in curve)
    + f"; tau {tau:g} is taken"
  )
  return tau


if __name__ == "__main__":
  console.run(main)

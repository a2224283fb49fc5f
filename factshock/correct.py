r"""Moves the answers of a finetuned model back to the answer frequencies of a reference.

  factshock correct --predictions=finetuned.jsonl --reference=pretrained.jsonl \
      --output=corrected.jsonl
  factshock correct --predictions=finetuned.jsonl --entity_counts=counts.tsv \
      --development=dev.jsonl --output=corrected.jsonl

Reads predictions and writes predictions. Finetuning shifts which answers a model prefers, whatever
the question. Within the candidates of a relation, p(answer | question) is multiplied by (prior of
the reference / prior of the finetuned model) ^ tau; a model's prior is the mean of its answers'
probabilities over the queries, so no labels are needed. The reference is what the pretrained model
answered to the same queries (asked by its best prompt), or how often a text names each answer
(factshock count), each count plus 1.

Predictions need the `candidates` of each row, all of the relation's (factshock answer --top=0); any
program may write them. tau is 1, or --tau, or is chosen on --development: the same model's
predictions on labelled facts about other subjects. Prints how far the prior moved and which
answers gained and lost.
"""

from collections.abc import Sequence

from absl import flags

from factshock.predictions import columns
from factshock.runtime import console, outputs


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
  outputs.define_flag()
  flags.mark_flags_as_required(["predictions", "output"])


def main(argv: Sequence[str]) -> None:
  """Corrects the predictions, and prints what moved."""
  del argv
  from factshock.predictions import correcting, writing

  values = flags.FLAGS
  outputs.check_new(values.output)
  correction = correcting.correct(
    values.predictions,
    correcting.CorrectionOptions(
      reference=values.reference,
      counts=values.entity_counts,
      development=values.development,
      finetuning=values.finetuning_facts,
      tau=values.tau,
      columns=columns.given(),
    ),
  )
  writing.write_predictions(values.output, correction.rows)
  *changes, summary = correcting.lines(correction)
  print("\n".join([*changes, f"{summary}: {values.output}"]))


if __name__ == "__main__":
  define_flags()
  console.run(main)

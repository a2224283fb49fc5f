"""Share of padding in the batches of QA finetuning, packed (config.finetune.pack) against padded.

  PYTHONPATH=. python tests/benchmarks/padding.py [--data=../shared/data] [--batches=50]

The batches are those that `train` and a study would read: questions of facts (one a row, of the
  lengths that
the longest needs, or packed), alone and mixed 4:1 with span corruption of text. Facts: the demo's,
as words; and, where --data holds them, 2,000 each of T-REx, PopQA and EntityQuestions in T5's own
pieces, with T-REx sentences as the text, in the shapes of configs/pretrained.py. Padded: to the
batch's lengths, and to the longest example of each batch, as a collator does it. Counted over
--batches batches, input and target positions together in the last columns; the goal is under 10%
for packed questions. A position costs the same products whether it is padding or not: positions an
example, packed over padded, is what is left of
  the step's
work.
Time: about 2 minutes.
"""

import contextlib
import itertools
import os
import sys
import tempfile

import numpy as np
import tables
from absl import flags

from factshock.configs import demo, pretrained
from factshock.data import mixture
from factshock.devices import partitioning
from factshock.facts import documents, sources
from factshock.runtime import console
from factshock.runtime.workdir import Workdir
from factshock.study import finetuning_examples, seed_run, study_data, training
from factshock.study.finetuning_examples import FinetuningData
from factshock.training.settings import FinetuningConfig, PretrainingConfig

DATA = flags.DEFINE_string(
  "data", os.environ.get("FACTSHOCK_DATA", "../shared/data"), "folder of the real data"
)
BATCHES = flags.DEFINE_integer("batches", 50, "batches counted")
FACTS, SENTENCES, RATIO = 2000, 20000, 4
SETS = {
  "T-REx": "trex:{}/trex",
  "PopQA": "popqa:{}/popqa/popqa_full_no_popularity.csv.gz",
  "EntityQuestions": "entityquestions:{}/entityquestions/test.jsonl.gz",
}


def study_of(config, folder, data):
  return seed_run.assemble(
    config, Workdir(str(folder)), 0, partitioning.make_mesh(), data, {"pool": data.facts}
  )


def demo_study(folder):
  config = demo.get_config()
  return study_of(config, folder, study_data.make_world(config, 0))


def real_study(folder, spec):
  """2,000 facts of a data set with its own templates, and sentences of Wikipedia as text."""
  config = pretrained.t5_v1_1("google/t5-v1_1-small", d_model=512, d_ff=1024, num_heads=6, layers=8)
  config.tokenizer.update(
    dict(kind="sentencepiece", path=f"{DATA.value}/tokenizers/t5.spiece.model")
  )
  facts, relations = sources.read_with_relations(spec.format(DATA.value), "")
  config.finetune.prompt = (
    "cloze" if spec.startswith("trex") else "question"
  )  # LAMA has statements alone
  text = documents.read(f"{DATA.value}/trex_wikipedia/trex_evidence_sentences.tsv.gz")
  chosen = [facts[row] for row in np.random.default_rng(0).permutation(len(facts))[:FACTS]]
  data = study_data.StudyData(chosen, [], relations, [list(itertools.islice(text, SENTENCES))], {})
  return study_of(config, folder, data)


def batches_of(study, ratio, pack):
  """The batches of finetuning (study/training.py), and the batch size."""
  config, section = study.config, FinetuningConfig.of(study.config.finetune)
  questions, needs = finetuning_examples.question_source(
    study, FinetuningData(study.sets["pool"]), section.prompt
  )
  section = finetuning_examples.fit_lengths(
    section, needs, PretrainingConfig.of(config.pretrain) if ratio else None
  )
  chosen = study.texts("whole") if ratio else []
  size = round(section.batch_size * (1 + ratio))
  pack_to = training.row_multiple(study, section) if pack else 0
  batches = mixture.batches(
    [questions, *(source for source, _ in chosen)],
    [1.0, *(ratio * share for _, share in chosen)],
    batch_size=size,
    input_length=section.input_length,
    target_length=section.target_length,
    seed=0,
    pack_to=pack_to,
  )
  return batches, size


def count(batches):
  """Tokens, positions, and positions where a collator pads to the longest of a batch; each (inputs,
  targets).
  """
  total, sides = np.zeros((3, 2)), ("inputs", "targets")
  for batch in itertools.islice(batches, BATCHES.value):
    used = [np.count_nonzero(batch[side], axis=1) for side in sides]
    total += [
      [rows.sum() for rows in used],
      [batch[side].size for side in sides],
      [rows.max() * len(rows) for rows in used],
    ]
  return total


def row(label, study, ratio):
  """A row of the table, and the share of padding in packed batches."""
  (padded, size), (packed, _) = batches_of(study, ratio, False), batches_of(study, ratio, True)
  (tokens, whole, longest), (packed_tokens, rows, _) = count(padded), count(packed)
  if not np.array_equal(tokens, packed_tokens):
    raise RuntimeError(
      f"{label}: expected the same tokens packed as padded, got {packed_tokens} and {tokens}"
    )
  share = lambda used, of: f"{1 - used / of:.1%}"
  examples = BATCHES.value * size
  cells = [
    label,
    "4:1 with text" if ratio else "questions",
    size,
    f"{tokens[0] / examples:.1f} + {tokens[1] / examples:.1f}",
    share(tokens.sum(), whole.sum()),
    share(tokens.sum(), longest.sum()),
    share(tokens[0], rows[0]),
    share(tokens[1], rows[1]),
    f"**{share(tokens.sum(), rows.sum())}**",
    f"{rows.sum() / whole.sum():.2f}",
  ]
  return cells, 1 - tokens.sum() / rows.sum()


def main(_):
  partitioning.use_cpu_devices(1)
  rows, worst, mixed = [], 0.0, 0.0
  kinds = {"demo": demo_study}
  if os.path.isdir(DATA.value):
    kinds |= {
      name: lambda folder, spec=spec: real_study(folder, spec) for name, spec in SETS.items()
    }
  else:
    print(
      f"no real data at {DATA.value} (--data, FACTSHOCK_DATA): the demo's facts alone",
      file=sys.stderr,
    )
  for name, make in kinds.items():
    print(name, file=sys.stderr, flush=True)
    with (
      tempfile.TemporaryDirectory() as folder,
      contextlib.redirect_stdout(sys.stderr),
    ):  # what reading says is no result
      study = make(folder)
      for ratio in (0, RATIO):
        found, share = row(name, study, ratio)
        rows.append(found)
        worst, mixed = (worst, max(mixed, share)) if ratio else (max(worst, share), mixed)
  tables.table(
    [
      "facts",
      "batch",
      "examples",
      "tokens an example",
      "padded: padding",
      "padded to the longest of a batch",
      "packed: inputs",
      "targets",
      "packed: padding",
      "positions, packed over padded",
    ],
    rows,
  )
  words = f"at most {worst:.1%} here, mixed with text {mixed:.1%}"
  print(
    tables.goal(f"under 10% of the positions of packed questions are padding; {words}", worst < 0.1)
  )


if __name__ == "__main__":
  console.run(main)

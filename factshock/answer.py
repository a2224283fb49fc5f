r"""Asks a model for facts and writes a predictions file.

  python -m factshock.answer --checkpoint=runs/demo/checkpoints/finetune/0 \
      --facts=runs/demo/facts/0/test.jsonl --output=predictions.jsonl --mode=rank
  python -m factshock.answer --checkpoint=google/flan-t5-large --facts=test.jsonl --relations=relations.jsonl \
      --output=predictions.jsonl --mode=generate --shots=4 --shot_facts=train.jsonl

--checkpoint is a checkpoint of ours, or a HuggingFace model: a folder with its files or a hub id. --config may
name the config of a checkpoint; without it that of the checkpoint's own record counts. With it --config.mesh.fsdp=4 cuts the weights
over four devices (configs/pretrained.py:MODEL for a HuggingFace model); else each device holds all of them.

--mode=rank scores every candidate answer of the fact's relation (the answers in --candidates, which is a facts
file, by default --facts itself); --mode=generate decodes greedily, with --method=beam by beams (--beams), with
--method=sample by sampling (--temperature, --sampling_seed). --mode=letters and --mode=choices are for questions with choices
(mmlu:PATH): by the likelihood of A to D after the lettered choices, or of each choice's whole text, per byte.
--mode=known asks what the model knows before finetuning: each fact with --sets sets of --shots shots (4), greedily and by --samples samples, and writes the facts
with columns `known` (HighlyKnown, MaybeKnown, WeaklyKnown, Unknown), `greedy_right` and `confidence`; for questions with choices say
--prompt=letters (or choices), and `confidence` is the probability of the right one. --shots=K puts
K answered questions of --shot_facts before each. The tokenizer and the relations are those of the checkpoint's workdir, unless
--tokenizer and --relations name others.

Facts are files or data sets: popqa:PATH, entityquestions:PATH, trex:PATH, mmlu:PATH, pararel:PATH, lm_kbc:PATH, hub:NAME?... or
tfds:NAME?... (factshock/facts/sources.py says how each is written); their relations come with them.
"""

import os

from absl import flags
from ml_collections import config_flags

from factshock.runtime import console
from factshock.runtime.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file the checkpoint was trained with; may be left out."
)
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint",
  None,
  "A checkpoint's folder (its newest step, or one step), or a HuggingFace model.",
)
_FACTS = flags.DEFINE_string(
  "facts",
  None,
  "Facts to ask for: .jsonl, .csv, .tsv (.gz too), .parquet, or a data set as popqa:PATH.",
)
_OUTPUT = flags.DEFINE_string("output", None, "Predictions file to write: .jsonl or .jsonl.gz.")
_MODE = flags.DEFINE_enum(
  "mode",
  "rank",
  ["rank", "generate", "letters", "choices", "known"],
  "Rank the candidates, generate an answer, score a fact's own choices, or say what the model knows.",
)
_SHOTS = flags.DEFINE_integer(
  "shots", None, "Answered questions put before each one; 0, for --mode=known 4.", lower_bound=0
)
_SHOT_FACTS = flags.DEFINE_string(
  "shot_facts", None, "Facts to draw the shots from, such as the finetuning facts."
)
_CANDIDATES = flags.DEFINE_string(
  "candidates", None, "Facts whose objects are the candidates; default: --facts."
)
_PROMPT = flags.DEFINE_enum(
  "prompt",
  None,
  ["cloze", "question", "letters", "choices"],
  "Default: config.finetune.prompt; letters and choices are for --mode=known.",
)
_METHOD = flags.DEFINE_enum(
  "method", "greedy", ["greedy", "beam", "sample"], "How --mode=generate decodes."
)
_BEAMS = flags.DEFINE_integer("beams", 4, "Hypotheses of --method=beam.", lower_bound=1)
_TEMPERATURE = flags.DEFINE_float(
  "temperature", 1.0, "Of --method=sample; below 1 the likely gets likelier.", lower_bound=1e-3
)
_SAMPLING_SEED = flags.DEFINE_integer("sampling_seed", 0, "Of --method=sample.", lower_bound=0)
_MAX_TOKENS = flags.DEFINE_integer(
  "max_tokens", 16, "Longest generated answer, in tokens.", lower_bound=1
)
_SETS = flags.DEFINE_integer("sets", 10, "Sets of shots of --mode=known.", lower_bound=1)
_SAMPLES = flags.DEFINE_integer(
  "samples", 16, "Samples a set of --mode=known, at temperature 0.5.", lower_bound=1
)
_TOKENIZER = flags.DEFINE_string(
  "tokenizer", None, "Folder of the tokenizer; default: the checkpoint's workdir's."
)
_RELATIONS = flags.DEFINE_string(
  "relations", None, "Relations file; default: the checkpoint's workdir's."
)
_PUB_QUIZ = flags.DEFINE_string(
  "pub_quiz", None, "Folder for the whole ranking, as results of lm-pub-quiz (BEAR)."
)
_ARM = flags.DEFINE_string(
  "arm", None, "Name of the arm in the predictions file; default: the checkpoint's folder."
)


def main(_):
  """Checks the flags, asks the checkpoint, says how much was right and where the file is."""
  from factshock.answering import asking, knowledge

  for flag in (_CHECKPOINT, _FACTS, _OUTPUT):
    if flag.value is None:
      raise UserError(f"needs --{flag.name}; --help explains")
  if _PROMPT.value in ("letters", "choices") and _MODE.value != "known":
    raise UserError(
      f"--prompt={_PROMPT.value} goes with --mode=known; say --mode={_PROMPT.value} to answer so"
    )
  if _PUB_QUIZ.value and _MODE.value != "rank":
    raise UserError(
      f"--pub_quiz holds rankings and goes with --mode=rank, got --mode={_MODE.value}"
    )
  if _MODE.value == "known":
    rows = asking.assess(
      _CONFIG.value,
      _CHECKPOINT.value,
      _FACTS.value,
      _OUTPUT.value,
      shots=4 if _SHOTS.value is None else _SHOTS.value,
      shot_facts=_SHOT_FACTS.value,
      prompt=_PROMPT.value,
      max_tokens=_MAX_TOKENS.value,
      sets=_SETS.value,
      samples=_SAMPLES.value,
      tokenizer=_TOKENIZER.value,
      relations=_RELATIONS.value,
    )
    counts = {name: sum(row["known"] == name for row in rows) for name in knowledge.CATEGORIES}
    print(
      ", ".join(f"{name} {count:,} ({count / len(rows):.1%})" for name, count in counts.items())
      + f": {os.path.abspath(_OUTPUT.value)}"
    )
    return
  rows = asking.ask(
    _CONFIG.value,
    _CHECKPOINT.value,
    _FACTS.value,
    _OUTPUT.value,
    mode=_MODE.value,
    shots=_SHOTS.value or 0,
    shot_facts=_SHOT_FACTS.value,
    candidates=_CANDIDATES.value,
    prompt=_PROMPT.value,
    max_tokens=_MAX_TOKENS.value,
    tokenizer=_TOKENIZER.value,
    relations=_RELATIONS.value,
    arm=_ARM.value,
    decoding_options={
      "method": _METHOD.value,
      "beams": _BEAMS.value,
      "temperature": _TEMPERATURE.value,
      "seed": _SAMPLING_SEED.value,
    },
    pub_quiz=_PUB_QUIZ.value,
  )
  right = sum(row["prediction"] in [row["object"], *row.get("aliases", [])] for row in rows)
  print(
    f"{len(rows):,} answers, {right:,} of them word for word right ({right / len(rows):.1%}): "
    f"{os.path.abspath(_OUTPUT.value)}"
  )


if __name__ == "__main__":
  console.run(main)

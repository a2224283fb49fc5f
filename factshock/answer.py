r"""Asks a model for facts and writes a predictions file.

  factshock answer --model=runs/demo/checkpoints/finetune/0 \
      --facts=runs/demo/facts/0/test.jsonl --output=predictions.jsonl
  factshock answer --model=google/flan-t5-large --facts=test.jsonl --relations=relations.jsonl \
      --output=predictions.jsonl --method=greedy --shots=4 --shot_facts=train.jsonl

--model is a checkpoint of factshock, a HuggingFace model (a folder with its files, a hub id, or a
.gguf file in its place), or a model that is served, as endpoint:URL?model=NAME (docs/served.md).
--config may name the config of a checkpoint; without it that of the checkpoint's own record counts.
With it --config.mesh.fsdp=4 cuts the weights over four devices
(--config=pretrained:MODEL for a HuggingFace model); without it each device holds all of them.

What --method does:
  rank      compares every answer known of the fact's relation: the objects in --facts, in
            --shot_facts, in the facts of the checkpoint's workdir (finetuning facts and all
            others) and in --candidates, a facts file. With --candidates_only those of --candidates
            alone. How many there are is printed, and stands in the predictions file as `among`.
            The file keeps the best (--top, 10; --top=0 all). From 128 beginnings of answers on
            these are searched, exactly, and what lies below them is not read; with --pub_quiz or
            --top=0 all are scored.
  greedy    generates an answer, always by its likeliest token.
  beam      generates an answer by beams (--beams).
  sample    generates an answer by sampling (--temperature, --sampling_seed).
  votes     samples --samples answers; their shares are the probabilities.
  letters   for questions with choices (mmlu:PATH): by the likelihood of A to D after the lettered
            choices.
  choices   for questions with choices: by the likelihood of each choice's whole text, per byte.
  known     asks what the model knows before finetuning: each fact with --sets sets of --shots shots
            (4, of --shot_facts), greedily and by --samples samples. Writes the facts with columns
            `known` (HighlyKnown, MaybeKnown, WeaklyKnown, Unknown), `greedy_right` and
            `confidence`. For questions with choices give --prompt=letters (or choices);
            `confidence` is then the probability of the right choice.

An answer ends with a token that the model's files name as an end (the tokenizer's EOS, those of
config.json and generation_config.json), or before the first --stop string. --prompt=chat asks a
chat model in its own template; it answers in sentences, for which --max_tokens=64 leaves room, and
`diagnose --criterion=contains` judges them.

--shots=K puts K answered questions of --shot_facts before each question. The tokenizer and the
relations are those of the checkpoint's workdir, unless --tokenizer and --relations name others.

Facts are asked in parts of 2,048 (a served model: 256), which stand in OUTPUT.parts until all are
answered: after an interruption the same command goes on (--overwrite begins anew), of a million
facts too, of which no more than a part is in memory. The same command started several times, on
machines that see one folder, shares the parts: each process takes those that no other is at, of a
killed one too, and one writes the file, whose bytes do not depend on how many there were.
launch/local_processes.sh and launch/slurm.sbatch start it so.

Facts are files or data sets: popqa:PATH, entityquestions:PATH, trex:PATH, mmlu:PATH, pararel:PATH,
lm_kbc:PATH, geonames:, hub:NAME?... or tfds:NAME?... (factshock/facts/sources.py explains how each
is written); their relations come with them. After ? stand keys that choose: relations=a,b,
max_answer_tokens=N, sample=N&seed=S, limit=N.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from factshock.runtime import answer_dtypes, console, flag_names, outputs
from factshock.runtime.errors import UserError

if TYPE_CHECKING:
  from factshock.answering import preparing

_CHOICE_PROMPTS = ("letters", "choices")
_GENERATING = ("greedy", "beam", "sample")
_BY_ANOTHER = "written by another process"


def define_flags() -> None:
  """Defines the flags; called only where the verb runs as a program."""
  from factshock.runtime import config_files

  config_files.define_flag("Config the checkpoint was trained with; may be left out.")
  flags.DEFINE_string(
    "model",
    None,
    "Model to ask: a checkpoint's folder (its newest step, or one step), a HuggingFace model, a "
    ".gguf file, or endpoint:URL?model=NAME for one that is served.",
  )
  flags.DEFINE_string(
    "facts",
    None,
    "Facts to ask for: .jsonl, .csv, .tsv (.gz too), .parquet, or a data set as popqa:PATH.",
  )
  flags.DEFINE_string("output", None, "Predictions file to write: .jsonl or .jsonl.gz.")
  outputs.define_flag()
  flags.DEFINE_enum(
    "method",
    "rank",
    ["rank", *_GENERATING, "votes", "letters", "choices", "known"],
    "How: rank the candidates, generate an answer, score a fact's own choices, or assess what the "
    "model knows.",
  )
  flags.DEFINE_string(
    "arm", None, "Name of the arm in the predictions file; default: the checkpoint's folder."
  )
  answer_dtypes.define_flag()
  flags.DEFINE_string("runner", None, "Apache Beam's runner; without it this process answers.")
  flags.DEFINE_string("beam_options", "", "Options for the Beam runner, as on its command line.")
  _define_question_flags()
  _define_generation_flags()
  flag_names.rename("checkpoint", "model")
  flag_names.rename("mode", "method", {"generate": _GENERATING})


def _define_question_flags() -> None:
  """Defines the flags of how a question is put."""
  flags.DEFINE_integer(
    "shots",
    None,
    "Answered questions put before each one; default 0, for --method=known 4.",
    lower_bound=0,
  )
  flags.DEFINE_string(
    "shot_facts", None, "Facts to draw the shots from, such as the finetuning facts."
  )
  flags.DEFINE_string(
    "candidates", None, "Facts whose objects are candidates too; see --method=rank."
  )
  flags.DEFINE_bool(
    "candidates_only", False, "The candidates of --method=rank are those of --candidates alone."
  )
  flags.DEFINE_enum(
    "prompt",
    None,
    ["cloze", "question", "chat", "letters", "choices"],
    "Default: config.finetune.prompt; chat is a question in a chat model's own template; letters "
    "and choices are for --method=known.",
  )
  flags.DEFINE_string(
    "tokenizer", None, "Folder of the tokenizer; default: the checkpoint's workdir's."
  )
  flags.DEFINE_string("relations", None, "Relations file; default: the checkpoint's workdir's.")
  flags.DEFINE_integer(
    "top",
    None,
    "How many candidates --method=rank keeps of each fact, the best; 0: all. Default: 10, or "
    "config.answering.top.",
    lower_bound=0,
  )
  flags.DEFINE_string(
    "pub_quiz", None, "Folder for the whole ranking, as results of lm-pub-quiz (BEAR)."
  )


def _define_generation_flags() -> None:
  """Defines the flags of the methods that generate, and of --method=known."""
  flags.DEFINE_integer("beams", 4, "Hypotheses of --method=beam.", lower_bound=1)
  flags.DEFINE_float(
    "temperature",
    1.0,
    "Temperature of --method=sample and votes; below 1 makes likely answers likelier.",
    lower_bound=1e-3,
  )
  flags.DEFINE_integer(
    "sampling_seed", 0, "Random seed of --method=sample and votes.", lower_bound=0
  )
  flags.DEFINE_integer("max_tokens", 16, "Longest generated answer, in tokens.", lower_bound=1)
  flags.DEFINE_multi_string(
    "stop",
    None,
    "Text that ends an answer, such as . or \\n; may be given several times, in place of the "
    "default; --stop= for none. Default for a decoder-only model: the end of the line; for a "
    "pretrained one asked by clozes a full stop and a comma, too; in a chat none",
  )
  flags.DEFINE_integer("sets", 10, "Sets of shots of --method=known.", lower_bound=1)
  flags.DEFINE_integer(
    "samples",
    16,
    "Samples of --method=votes; of --method=known a set, at temperature 0.5.",
    lower_bound=1,
  )


def main(argv: Sequence[str]) -> None:
  """Asks the model, and prints how many answers are right and where the file is."""
  del argv
  _check_flags()
  if flags.FLAGS.method == "known":
    _assess()
  else:
    _answer()


def _check_flags() -> None:
  """Raises a UserError for flags that are missing or do not go together."""
  from factshock.answering import parts

  values = flags.FLAGS
  for name in ("model", "facts", "output"):
    if values[name].value is None:
      raise UserError(f"needs --{name}; --help explains")
  if values.prompt in _CHOICE_PROMPTS and values.method != "known":
    raise UserError(
      f"--prompt={values.prompt} goes with --method=known; give --method={values.prompt} to answer "
      "so"
    )
  for name in ("candidates", "pub_quiz", "top"):
    if values[name].value is not None and values.method != "rank":
      raise UserError(
        f"--{name}: only with --method=rank, which ranks, got --method={values.method}"
      )
  if values.candidates_only and not values.candidates:
    raise UserError("--candidates_only: expected the candidates too; name them with --candidates")
  if (values.runner or values.beam_options) and "://" in values.output:
    raise UserError(
      f"--output={values.output}: with --runner expected a path on a file system that the workers "
      "and this process share, such as NFS; answer there, and copy the file"
    )
  if values.beam_options and not values.runner:
    raise UserError("--beam_options: expected --runner too, whose options they are")
  parts.check_new(values.output)
  if values.pub_quiz:
    outputs.check_new(values.pub_quiz)


def _assess() -> None:
  """Assesses what the model knows of each fact, and prints how many facts are of each category."""
  from factshock.answering import asking, knowledge
  from factshock.answering.prompting import Prompting

  values = flags.FLAGS
  shots = 4 if values.shots is None else values.shots
  options = asking.KnowledgeOptions(
    prompting=Prompting(values.prompt, shots, values.shot_facts, _stops()),
    max_tokens=values.max_tokens,
    sets=values.sets,
    samples=values.samples,
    tokenizer=values.tokenizer,
    relations=values.relations,
    dtype=values.answer_dtype,
  )
  counts = asking.assess_knowledge(**_asked(), options=options)
  if counts is None:
    print(f"{_BY_ANOTHER}: {values.output}")
    return
  total = sum(counts.values())
  numbers = {name: counts.get(name, 0) for name in knowledge.CATEGORIES}
  shares = [f"{name} {count:,} ({count / total:.1%})" for name, count in numbers.items()]
  print(f"{', '.join(shares)}: {values.output}")


def _answer() -> None:
  """Writes the predictions, and prints how many are right."""
  from factshock.answering import asking
  from factshock.answering.decoding import DecodingOptions
  from factshock.answering.prompting import Prompting

  values = flags.FLAGS
  generates = values.method in _GENERATING
  options = asking.AnswerOptions(
    mode="generate" if generates else values.method,
    prompting=Prompting(values.prompt, values.shots or 0, values.shot_facts, _stops()),
    decoding=DecodingOptions(
      values.max_tokens,
      method=values.method if generates else "greedy",
      temperature=values.temperature,
      seed=values.sampling_seed,
      beams=values.beams,
    ),
    candidates=values.candidates,
    candidates_only=values.candidates_only,
    tokenizer=values.tokenizer,
    relations=values.relations,
    arm=values.arm,
    top=values.top,
    pub_quiz=values.pub_quiz,
    samples=values.samples,
    dtype=values.answer_dtype,
  )
  tally = asking.answer_facts(**_asked(), options=options)
  told = tally.describe() if tally else _BY_ANOTHER
  print(f"{told}: {values.output}")


def _asked() -> dict[str, Any]:
  """Returns what is asked, of what, where to and by whom, as the functions of `asking` take it."""
  values = flags.FLAGS
  return {
    "checkpoint": values.model,
    "facts": values.facts,
    "output": values.output,
    "config": values.config,
    "elsewhere": _elsewhere(),
  }


def _elsewhere() -> "preparing.Elsewhere | None":
  """Returns what has the parts answered by Apache Beam; None where this process answers.

  Raises:
    UserError: Apache Beam is not installed.
  """
  values = flags.FLAGS
  if not values.runner:
    return None
  try:
    from factshock.answering import beam_parts
  except ImportError as error:
    raise UserError(
      f"--runner needs Apache Beam ({error}): pip install 'factshock[beam]'"
    ) from error
  return beam_parts.elsewhere(values.runner, values.beam_options.split())


def _stops() -> tuple[str, ...] | None:
  """Returns the strings of --stop, with \\n and \\t read as signs; None where it is not given."""
  given = flags.FLAGS.stop
  if given is None:
    return None
  written = (text.replace("\\n", "\n").replace("\\t", "\t") for text in given)
  return tuple(text for text in written if text)


if __name__ == "__main__":
  define_flags()
  console.run(main)

r"""Averages checkpoints into a new one.

    python -m factshock.mix --checkpoints=runs/demo/pretrained,runs/demo/finetuned --weights=0.6,0.4 \
        --output=runs/demo/mixed
    python -m factshock.mix --checkpoints=google/t5-v1_1-large,runs/mine/hf --select=dev.jsonl --relations=relations.jsonl \
        --output=mixed

Each checkpoint is a step folder, or a folder of steps (its newest is taken); or all are HuggingFace models
(folders or hub ids), and so is the result then, with the first one's tokenizer. The weights sum to 1, or
are `uniform`. `--layerwise=0.9,0.1` (for two checkpoints, in the place of --weights) takes a share of
the second that grows or falls linearly in depth: the first number at the embedding, the second at the
head. With --select the share of the second of two models (before and after finetuning) is chosen by how many development facts
the mix answers right, by ranking the answers of each relation: the curve over --alphas is printed, and no point but the chosen one is
written. --profile says whether the share is the same everywhere (uniform), falls in depth to 0 at the head (decreasing) or rises
from 0 (increasing). The facts must be about others than those one tests on or finetuned on. Beside the result, `mix.json` says
what was mixed. Memory stays near one leaf of each checkpoint; --select holds both models and their mix.
"""

import os

from absl import flags

from factshock.runtime import console
from factshock.runtime.errors import UserError


def define_flags():
  """Defines the flags; called when run as a program, so that two verbs can be imported together."""
  flags.DEFINE_list("checkpoints", [], "Folders of the checkpoints to mix: A,B[,C...].")
  flags.DEFINE_list("weights", [], "A weight for each checkpoint (sum 1), or `uniform`.")
  flags.DEFINE_list("layerwise", [], "bottom,top: shares of the second of two checkpoints.")
  flags.DEFINE_string("output", "", "Folder to write; must not exist.")
  flags.DEFINE_string(
    "select",
    "",
    "Development facts to choose the share of the second model on: a file or a data set.",
  )
  flags.DEFINE_enum(
    "profile",
    "uniform",
    ["uniform", "decreasing", "increasing"],
    "Of the share chosen by --select, in depth.",
  )
  flags.DEFINE_list(
    "alphas", [f"{step / 10:g}" for step in range(11)], "Shares that --select tries."
  )
  flags.DEFINE_enum(
    "prompt", None, ["cloze", "question"], "How --select asks; default: config.finetune.prompt."
  )
  flags.DEFINE_string(
    "relations", None, "Relations file for --select; default: the checkpoint's workdir's."
  )
  flags.DEFINE_string(
    "candidates",
    None,
    "Facts whose objects are the candidates of --select; default: --select itself.",
  )
  flags.DEFINE_string(
    "tokenizer", None, "Folder of the tokenizer for --select; default: the checkpoint's workdir's."
  )


def main(argv):
  """Mixes what the flags name; prints where the result is and its digest."""
  del argv
  values = flags.FLAGS
  if len(values.checkpoints) < 2:
    raise UserError(
      f"--checkpoints: expected two or more folders, got {len(values.checkpoints)}; see --help"
    )
  if not values.output:
    raise UserError("--output: expected a folder to write, got none; see --help")
  given = [name for name in ("weights", "layerwise", "select") if values[name].value]
  if len(given) != 1:
    raise UserError(
      f"expected one of --weights, --layerwise and --select, got {' and '.join(given) or 'none'}; see --help"
    )
  if given[0] != "weights" and len(values.checkpoints) != 2:
    raise UserError(f"--{given[0]}: expected two checkpoints, got {len(values.checkpoints)}")
  if os.path.exists(values.output):  # before hours of choosing
    raise UserError(f"{values.output}: already exists; remove it or choose another --output")
  weights = _weights(values.weights, len(values.checkpoints)) if values.weights else None
  layerwise = _numbers("--layerwise", values.layerwise, 2) if values.layerwise else None
  from factshock.checkpoints import interpolation
  from factshock.devices import host

  if values.select:
    weights, layerwise = _selected(values)
  host.keep_freed_memory()  # two thirds of the time was the kernel's, mostly for memory that had just been handed back
  result = interpolation.mix_checkpoints(values.checkpoints, weights, values.output, layerwise)
  print(
    f"mixed {len(values.checkpoints)} checkpoints into {values.output} (digest {result['digest'][:16]}); "
    f"what was mixed: {values.output}/mix.json"
  )


def _selected(values):
  """(weights, layerwise) of the share chosen on development facts; prints the curve."""
  from factshock.answering import selection
  from factshock.checkpoints import interpolation

  alpha, curve = selection.choose(
    values.checkpoints,
    values.select,
    profile=values.profile,
    alphas=_numbers("--alphas", values.alphas, len(values.alphas)),
    prompt=values.prompt,
    relations=values.relations,
    candidates=values.candidates,
    tokenizer=values.tokenizer,
  )
  print(
    "right on development by alpha: "
    + ", ".join(f"{x:g} {share:.3f}" for x, share in curve)
    + f"; alpha {alpha:g} is taken"
    + ("" if values.profile == "uniform" else f", {values.profile} in depth")
  )
  if values.profile == "uniform":
    return [1 - alpha, alpha], None
  return None, list(interpolation.layer_alphas(alpha, values.profile))


def _weights(texts, count):
  return "uniform" if texts == ["uniform"] else _numbers("--weights", texts, count)


def _numbers(flag, texts, count):
  if len(texts) != count:
    raise UserError(f"{flag}: expected {count} numbers, got {len(texts)} ({','.join(texts)})")
  try:
    return [float(text) for text in texts]
  except ValueError:
    raise UserError(f"{flag}: expected numbers, got {','.join(texts)}") from None


if __name__ == "__main__":
  define_flags()
  console.run(main)

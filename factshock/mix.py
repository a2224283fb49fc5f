r"""Averages checkpoints into a new one.

    python -m factshock.mix --checkpoints=runs/demo/pretrained,runs/demo/finetuned --weights=0.6,0.4 \
        --output=runs/demo/mixed

Each checkpoint is a step folder, or a folder of steps (its newest is taken); or all are HuggingFace models
(folders or hub ids), and so is the result then, with the first one's tokenizer. The weights sum to 1, or
are `uniform`. `--layerwise=0.9,0.1` (for two checkpoints, in the place of --weights) takes a share of
the second that grows or falls linearly in depth: the first number at the embedding, the second at the
head. Beside the result, `mix.json` says what was mixed. Memory stays near one leaf of each checkpoint.
"""

from absl import flags

from factshock import console
from factshock.console import UserError


def define_flags():
  """Defines the flags; called when run as a program, so that two verbs can be imported together."""
  flags.DEFINE_list("checkpoints", [], "Folders of the checkpoints to mix: A,B[,C...].")
  flags.DEFINE_list("weights", [], "A weight for each checkpoint (sum 1), or `uniform`.")
  flags.DEFINE_list("layerwise", [], "bottom,top: shares of the second of two checkpoints.")
  flags.DEFINE_string("output", "", "Folder to write; must not exist.")


def main(argv):
  """Mixes what the flags name; prints where the result is and its digest."""
  del argv
  values = flags.FLAGS
  if len(values.checkpoints) < 2:
    raise UserError(f"--checkpoints: expected two or more folders, got {len(values.checkpoints)}; see --help")
  if not values.output:
    raise UserError("--output: expected a folder to write, got none; see --help")
  if bool(values.weights) == bool(values.layerwise):
    raise UserError("expected one of --weights and --layerwise, got "
                    + ("both" if values.weights else "neither") + "; see --help")
  if values.layerwise and len(values.checkpoints) != 2:
    raise UserError(f"--layerwise: expected two checkpoints, got {len(values.checkpoints)}")
  weights = _weights(values.weights, len(values.checkpoints)) if values.weights else None
  layerwise = _numbers("--layerwise", values.layerwise, 2) if values.layerwise else None
  from factshock.training import interpolation  # imports JAX, which --help does not need
  result = interpolation.mix_checkpoints(values.checkpoints, weights, values.output, layerwise)
  print(f"mixed {len(values.checkpoints)} checkpoints into {values.output} (digest {result['digest'][:16]}); "
        f"what was mixed: {values.output}/mix.json")


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

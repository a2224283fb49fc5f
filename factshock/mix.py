r"""Averages the weights of models into a new one, or the answers of several models.

    factshock mix --weights=0.6,0.4 --output=mixed \
        --models=runs/demo/checkpoints/pretrained/0,runs/demo/checkpoints/finetune/0
    factshock mix --models=google/flan-t5-base,mine-hf --select=dev.jsonl \
        --relations=relations.jsonl --output=mixed-hf
    factshock mix --predictions=before.jsonl,after.jsonl --weights=0.5,0.5 --output=mixed.jsonl

Each model is a step folder, or a folder of steps (its newest is taken), or a HuggingFace model
(folder, hub id, .gguf file). Where one is a HuggingFace model, so is the result, with the tokenizer
of the first of these; checkpoints are then mixed as `convert --to=huggingface` would write them.
The weights sum to 1, or are `uniform`. `--layerwise=0.9,0.1` (for two checkpoints, in the place of
--weights) takes a share of the second that grows or falls linearly in depth: the first value at the
embedding, the second at the head.

With --select the share of the second of two models (before and after finetuning) is chosen by how
many development facts the mix answers right, by ranking the answers of each relation: the curve
over --alphas is printed, and no mix but the chosen one is written. --profile sets whether the
share is the same everywhere (uniform), falls in depth to 0 at the head (decreasing) or rises from
0 (increasing). The facts must be about other subjects than those one tests on or finetuned on.
Beside the result, `mix.json` records what was mixed, and README.md is its model card: base and
licence, shares, data, scores. --push_to_hub=org/name uploads a mix that is a HuggingFace model.
Memory stays near one leaf (one parameter array) of each model; --select holds both models and their
mix.

With --predictions what models answered is averaged, in their place: the probabilities that each
gives the candidates of a query. That needs no weights (models that are served, or of other sizes)
and all candidates of each row (`answer --top=0`).
"""

import os
from collections.abc import Sequence

from absl import flags

from factshock.runtime import console, flag_names
from factshock.runtime.errors import UserError

# Flags of mixing weights, which --predictions knows nothing of.
_FLAGS_OF_MODELS = (
  "models",
  "layerwise",
  "select",
  "profile",
  "alphas",
  "prompt",
  "relations",
  "candidates",
  "candidates_only",
  "tokenizer",
  "push_to_hub",
  "allow_other_tokenizer",
)


def define_flags() -> None:
  """Defines the flags; called only where the verb runs as a program."""
  flags.DEFINE_list("models", [], "Models to mix: A,B[,C...], checkpoints or HuggingFace models.")
  flags.DEFINE_list(
    "predictions", [], "Predictions files whose answers are mixed, in the place of --models."
  )
  flags.DEFINE_list("weights", [], "A weight for each model (sum 1), or `uniform`.")
  flags.DEFINE_list("layerwise", [], "bottom,top: shares of the second of two models.")
  flags.DEFINE_string("output", "", "Folder (of --predictions: file) to write; must not exist.")
  flags.DEFINE_bool(
    "allow_other_tokenizer", False, "Mix models even if their tokens have other ids."
  )
  flags.DEFINE_string(
    "push_to_hub",
    None,
    "org/name on the HuggingFace hub to upload a mix with HuggingFace models to; a new one is "
    "private. Log in by `hf auth login`, or set HF_TOKEN.",
  )
  _define_selection_flags()
  flag_names.rename("checkpoints", "models")
  flag_names.rename("model", "models")


def _define_selection_flags() -> None:
  """Defines --select and the flags that go with it."""
  flags.DEFINE_string(
    "select",
    "",
    "Development facts to choose the share of the second model on: a file or a data set.",
  )
  flags.DEFINE_enum(
    "profile",
    "uniform",
    ["uniform", "decreasing", "increasing"],
    "How the share chosen by --select changes with depth.",
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
    "Facts whose objects are candidates of --select too, beside its own and those of the finetuned "
    "model's workdir.",
  )
  flags.DEFINE_bool(
    "candidates_only", False, "The candidates of --select are those of --candidates alone."
  )
  flags.DEFINE_string(
    "tokenizer", None, "Folder of the tokenizer for --select; default: the checkpoint's workdir's."
  )


def main(argv: Sequence[str]) -> None:
  """Mixes what the flags name, and prints where the result is and its digest."""
  del argv
  values = flags.FLAGS
  if values.predictions:
    _mix_predictions()
    return
  _check_flags()
  weights = layerwise = None
  if values.weights:
    weights = _weights(values.weights, len(values.models))
  if values.layerwise:
    layerwise = _parse_floats("--layerwise", values.layerwise, 2)
  from factshock.checkpoints import hub_upload, mixing
  from factshock.devices import host

  upload = None
  if values.push_to_hub:
    mixing.check_for_hub(values.models)
    upload = hub_upload.Upload(values.push_to_hub)
  if values.select:
    mixing.check_inputs(values.models, values.allow_other_tokenizer)
    weights, layerwise = _select()
  # Two thirds of the time was the kernel's, mostly for memory that had just been handed back.
  host.keep_freed_memory()
  record = mixing.mix_checkpoints(
    values.models, weights, values.output, layerwise, values.allow_other_tokenizer
  )
  print(
    f"mixed {len(values.models)} models into {values.output} "
    f"(digest {record['digest'][:16]}); what was mixed: {values.output}/mix.json"
  )
  if upload:
    print(upload.push(values.output))


def _mix_predictions() -> None:
  """Mixes the answers of predictions files, and prints how many there are and where."""
  from factshock.predictions import mixing, writing

  values = flags.FLAGS
  paths = values.predictions
  others = [name for name in _FLAGS_OF_MODELS if values[name].present]
  if others:
    raise UserError(f"--{', --'.join(others)}: not with --predictions, whose answers are mixed")
  if len(paths) < 2 or not values.weights or not values.output:
    raise UserError(
      "--predictions: expected two files or more, with --weights and --output; see --help"
    )
  if os.path.exists(values.output):
    raise UserError(f"{values.output}: already exists; remove it or choose another --output")
  weights = mixing.check_weights(_weights(values.weights, len(paths)), len(paths))
  rows = mixing.mix_files(paths, weights)
  writing.write_predictions(values.output, rows)
  print(f"mixed {len(rows):,} answers of {len(paths)} files: {values.output}")


def _check_flags() -> None:
  """Raises a UserError for flags that are missing or don't fit, or an output that exists."""
  values = flags.FLAGS
  count = len(values.models)
  if count < 2:
    raise UserError(f"--models: expected two or more, got {count}; see --help")
  if not values.output:
    raise UserError("--output: expected a folder to write, got none; see --help")
  given = [name for name in ("weights", "layerwise", "select") if values[name].value]
  if len(given) != 1:
    raise UserError(
      "expected one of --weights, --layerwise and --select, "
      f"got {' and '.join(given) or 'none'}; see --help"
    )
  if given[0] != "weights" and count != 2:
    raise UserError(f"--{given[0]}: expected two models, got {count}")
  if values.candidates and not values.select:
    raise UserError("--candidates: only with --select, which compares them")
  if values.candidates_only and not values.candidates:
    raise UserError("--candidates_only: expected the candidates too; name them with --candidates")
  if os.path.exists(values.output):  # before hours of choosing
    raise UserError(f"{values.output}: already exists; remove it or choose another --output")


def _select() -> tuple[list[float] | None, list[float] | None]:
  """Returns (weights, layerwise), one of them None, with the share chosen on development facts."""
  from factshock.answering import selection

  values = flags.FLAGS
  return selection.choose_mix(
    values.models,
    values.select,
    selection.SelectionOptions(
      profile=values.profile,
      alphas=_parse_floats("--alphas", values.alphas, len(values.alphas)),
      prompt=values.prompt,
      relations=values.relations,
      candidates=values.candidates,
      candidates_only=values.candidates_only,
      tokenizer=values.tokenizer,
    ),
  )


def _weights(texts: Sequence[str], count: int) -> str | list[float]:
  """Returns "uniform" or a weight for each checkpoint."""
  return "uniform" if texts == ["uniform"] else _parse_floats("--weights", texts, count)


def _parse_floats(
  flag: str,
  texts: Sequence[str],
  count: int,
) -> list[float]:
  """Returns a flag's list of `count` numbers.

  Raises:
    UserError: other values, or another count.
  """
  given = ",".join(texts)
  if len(texts) != count:
    raise UserError(f"{flag}: expected {count} numbers, got {len(texts)} ({given})")
  try:
    return [float(text) for text in texts]
  except ValueError:
    raise UserError(f"{flag}: expected numbers, got {given}") from None


if __name__ == "__main__":
  define_flags()
  console.run(main)

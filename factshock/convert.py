r"""Turns a model into another format: HuggingFace, PEFT or factshock's own, from GGUF and T5X too.

    factshock convert --model=runs/mine/checkpoints/finetuned/0 --output=mine-hf --to=huggingface
    factshock convert --model=google/t5-v1_1-small --output=checkpoints/small --to=orbax \
        --dtype=bfloat16

The model is a HuggingFace folder or hub id, a .gguf file (package gguf: pip install
'factshock[gguf]'), a T5X checkpoint (msgpack or zarr), or a checkpoint of factshock (a step folder,
or a folder of steps: its newest). Low-rank adapters, PEFT's or those of a checkpoint trained with
config.finetune.lora_rank, are merged into the model they belong to; --to=peft writes the adapters
alone, for PEFT. What is written as `huggingface` loads in transformers, vLLM and mergekit, with the
tokenizer where it has one in their format, and with a model card (README.md: base and licence,
data, arm, scores, mixing weights). --push_to_hub=org/name uploads it after that. Memory stays near
one leaf (one parameter array).
"""

from collections.abc import Sequence

from absl import flags

from factshock.runtime import console, flag_names
from factshock.runtime.errors import UserError


def define_flags() -> None:
  """Defines the flags; called only where the verb runs as a program."""
  flags.DEFINE_string(
    "model",
    "",
    "Model to read: a folder, a .gguf file, or the id of a model on the HuggingFace hub.",
  )
  flags.DEFINE_string("output", "", "Folder to write; must not exist.")
  flags.DEFINE_enum(
    "to",
    None,
    ["huggingface", "orbax", "peft"],
    "Format to write; orbax is that of factshock's checkpoints.",
  )
  flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Number format of the parameters; default: the stored one.",
  )
  flags.DEFINE_string("revision", None, "Branch, tag or commit on the hub.")
  flags.DEFINE_bool("allow_pickle", False, "Read pytorch_model.bin where there are no safetensors.")
  flags.DEFINE_string(
    "config_from", None, "HuggingFace folder whose config.json and tokenizer the result takes."
  )
  flags.DEFINE_string(
    "push_to_hub",
    None,
    "org/name on the HuggingFace hub to upload the written model to; a new one is private. Log in "
    "by `hf auth login`, or set HF_TOKEN.",
  )
  flag_names.rename("input", "model")


def main(argv: Sequence[str]) -> None:
  """Converts what the flags name, and prints where the result is."""
  del argv
  values = flags.FLAGS
  for name in ("model", "output", "to"):
    if not values[name].value:
      raise UserError(f"--{name}: expected a value, got none; see --help")
  if values.push_to_hub and values.to != "huggingface":
    raise UserError(f"--push_to_hub: expected --to=huggingface, got --to={values.to}")
  from factshock.checkpoints import conversion, hub_upload

  upload = hub_upload.Upload(values.push_to_hub) if values.push_to_hub else None
  opened = conversion.convert(
    values.model,
    values.output,
    values.to,
    dtype=values.dtype,
    revision=values.revision,
    allow_pickle=values.allow_pickle,
    config_from=values.config_from,
  )
  remark = ""
  if not opened.tokenizer:
    remark = (
      " (without a tokenizer: the model has none in HuggingFace's format; "
      "--config_from=FOLDER takes that of another model)"
    )
  print(f"wrote {values.model} as {values.to} to {values.output}{remark}")
  if upload:
    print(upload.push(values.output))


if __name__ == "__main__":
  define_flags()
  console.run(main)

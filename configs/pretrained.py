r"""Study of, or training on, any HuggingFace model: a folder or a hub id, T5, Llama, Mistral.

  factshock train --config=pretrained:google/flan-t5-base --workdir=runs/flan \
      --facts=facts.jsonl --relations=relations.jsonl
  factshock experiment --config=pretrained:/models/my-llama \
      --workdir=runs/llama \
      --facts=facts.jsonl --relations=relations.jsonl --corpus=text.txt

Sizes and tokenizer come from the model; computing is in float32 on a CPU and in bfloat16 elsewhere
(--config.model.dtype=bfloat16 names one), parameters and optimizer are float32. The text says how
common each answer is, and is what mixture finetuning mixes in (span corruption, or the next token).
The t5_v1_1_*, t5_lm_adapt_xl, llama2_7b and mistral_7b configs name their sizes and memory. Expect:
what the model makes of it. Time: `factshock train --config=... --dry_run` counts FLOPs
and memory.
"""

from typing import Any

import ml_collections

from factshock.configs import own_facts
from factshock.models import families
from factshock.models.formats import huggingface
from factshock.runtime.errors import UserError
from factshock.types import Config


def get_config(model: str = "") -> Config:
  """Returns the config of the study."""
  if not model:
    raise UserError(
      "--config=pretrained: needs a model, as --config=pretrained:google/flan-t5-base"
    )
  return of(
    model,
    {
      **families.to_section(huggingface.config_of(model)),
      "dtype": "auto",
      "param_dtype": "float32",
    },
  )


def of(model: str, sizes: dict[str, Any]) -> Config:
  """Returns the config of a HuggingFace model whose `model` section is `sizes`."""
  config = own_facts.get_config("question")
  config.name = f"Frequency shock of {model}"
  config.start_from = model
  config.corpus = ""  # a study needs it; training alone does not
  config.tokenizer.update(dict(kind="huggingface"))
  config.model = ml_collections.ConfigDict(
    {"remat": "none", "attention": "xla", **sizes, "unroll": False}
  )
  decoder_only = families.named(sizes["family"]).decoder_only
  if decoder_only:  # which reads no statement that goes on after the answer
    del config.arms["best_cloze"]
    config.roles.ceiling = ""
    # () and "auto" go by the prompts: factshock/data/decoder_text.py (`stops_of`, `end_of`).
    config.answering.stop = ()
    config.finetune.end = "auto"
  target_length = 0 if decoder_only else 40
  masking = "next_token" if decoder_only else "spans"
  rows = dict(batch_size=32, input_length=128, target_length=target_length)
  config.pretrain.update(dict(rows, steps=0, masking=masking, roll=False))
  optimizer = dict(optimizer="adafactor", learning_rate=1e-3, warmup=0)
  if decoder_only:
    optimizer = dict(optimizer="adamw", learning_rate=1e-5, warmup=50)
  config.finetune.update(
    dict(
      rows,
      steps=1000,
      pack=True,
      eval_steps=(0, 25, 50, 100, 200, 500, 1000),
      checkpoint_every=500,
      **optimizer,
    )
  )
  config.answering.batch_size = 64
  config.cpu_devices = 1  # each holds a copy of the weights
  return config


def t5_v1_1(
  model: str,
  *,
  d_model: int,
  d_ff: int,
  num_heads: int,
  layers: int,
  remat: str = "none",
) -> Config:
  """Returns the config of a T5 v1.1 of these sizes: gated-gelu, untied head, 32,128 tokens."""
  return of(
    model,
    dict(
      family="t5",
      vocab_size=32128,
      d_model=d_model,
      d_ff=d_ff,
      num_heads=num_heads,
      d_kv=64,
      tie_head=False,
      epsilon=1e-6,
      dtype="bfloat16",
      param_dtype="float32",
      encoder_layers=layers,
      decoder_layers=layers,
      relative_buckets=32,
      relative_max_distance=128,
      feed_forward="gated-gelu",
      dropout=0.1,
      remat=remat,
    ),
  )

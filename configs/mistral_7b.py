r"""Mistral 7B v0.1, 7.2 B parameters: adapters over mistralai/Mistral-7B-v0.1, trained on facts.

  factshock train --config=mistral_7b --workdir=runs/mistral_7b \
      --facts=facts.jsonl --relations=relations.jsonl
  factshock train --config=mistral_7b --dry_run

The weights stay as they are, in bfloat16; adapters of rank 16 on the attention's four products are
trained in float32. Needs at most 47 GB a device for a batch of 32 rows of 128 tokens (a GPU of 64
GB or more), by a dry run on a CPU, whose compiler holds wide copies of bfloat16 weights. Expect:
not measured yet. Time: 118 TFLOP of matrix products a step, and 42 more as each layer is computed
again (--config.model.remat=none: 82 GB, a GPU of 96 GB), 1,000 steps.
"""

from factshock.configs import pretrained
from factshock.types import Config


def get_config() -> Config:
  """Returns the config of the study."""
  config = pretrained.of(
    "mistralai/Mistral-7B-v0.1",
    dict(
      family="llama",
      vocab_size=32000,
      d_model=4096,
      d_ff=14336,
      num_heads=32,
      num_kv_heads=8,
      d_kv=128,
      layers=32,
      rope_theta=10000.0,
      rope_scaling=None,
      sliding_window=4096,
      max_length=32768,
      tie_head=False,
      epsilon=1e-5,
      dtype="bfloat16",
      param_dtype="bfloat16",
      remat="full",
    ),
  )
  config.finetune.update(
    dict(
      lora_rank=16,
      lora_alpha=32.0,
      learning_rate=1e-4,
      lora_targets=("query", "key", "value", "out"),
    )
  )
  return config

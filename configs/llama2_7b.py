r"""Llama 2, 7 B parameters: low-rank adapters over meta-llama/Llama-2-7b-hf, trained on facts.

  factshock train --config=llama2_7b --workdir=runs/llama2_7b \
      --facts=facts.jsonl --relations=relations.jsonl
  factshock train --config=llama2_7b --dry_run

The weights stay as they are, in bfloat16; adapters of rank 16 on the attention's four products are
trained in float32. Needs at most 44 GB a device for a batch of 32 rows of 128 tokens (a GPU of 48
GB or more), by a dry run on a CPU, whose compiler holds wide copies of bfloat16 weights. Expect:
not measured yet. Time: 109 TFLOP of matrix products a step, and 42 more as each layer is computed
again (--config.model.remat=none: 78 GB, a GPU of 96 GB), 1,000 steps.
"""

from factshock.configs import pretrained
from factshock.types import Config


def get_config() -> Config:
  """Returns the config of the study."""
  config = pretrained.of(
    "meta-llama/Llama-2-7b-hf",
    dict(
      family="llama",
      vocab_size=32000,
      d_model=4096,
      d_ff=11008,
      num_heads=32,
      num_kv_heads=32,
      d_kv=128,
      layers=32,
      rope_theta=10000.0,
      rope_scaling=None,
      sliding_window=None,
      max_length=4096,
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

r"""T5 v1.1 XXL, 11.1 B parameters: adapters over google/t5-v1_1-xxl, trained on facts.

  factshock train --config=t5_v1_1_xxl --workdir=runs/t5_v1_1_xxl \
      --facts=facts.jsonl --relations=relations.jsonl
  factshock train --config=t5_v1_1_xxl --dry_run

Low-rank adapters over bfloat16 weights, as training all weights takes 167 to 194 GB, more than one
device has. Needs 72 GB a device for a batch of 32 rows of 128 + 40 tokens (dry run; a GPU of 80
GB); --config.finetune.accumulate=4 cuts the batch where memory is short. Expect: not measured yet.
Time: 119 TFLOP of matrix products a step, and 48 more as each layer is computed again
(--config.model.remat=none: 120 GB, a GPU of 141 GB), 1,000 steps.
"""

from factshock.configs import pretrained
from factshock.types import Config


def get_config() -> Config:
  """Returns the config of the study."""
  config = pretrained.t5_v1_1(
    "google/t5-v1_1-xxl", d_model=4096, d_ff=10240, num_heads=64, layers=24, remat="full"
  )
  config.model.param_dtype = "bfloat16"
  config.finetune.update(dict(lora_rank=16, lora_alpha=32.0, optimizer="adamw", learning_rate=1e-3))
  return config

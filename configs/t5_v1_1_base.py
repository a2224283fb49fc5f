r"""T5 v1.1 base, 248 M parameters, finetuned on facts: from google/t5-v1_1-base.

  factshock train --config=t5_v1_1_base --workdir=runs/t5_v1_1_base \
      --facts=facts.jsonl --relations=relations.jsonl
  factshock train --config=t5_v1_1_base --dry_run

Needs: at most 9.0 GB a device for a batch of 32 rows of 128 + 40 tokens (a GPU of 16 GB, or a TPU
v2-8), by a dry run on a CPU, whose compiler holds wide copies of bfloat16 weights. Expect: not
measured yet. Time: 3.5 TFLOP of matrix products a step, 1,000 steps.
"""

from factshock.configs import pretrained
from factshock.types import Config


def get_config() -> Config:
  """Returns the config of the study."""
  return pretrained.t5_v1_1("google/t5-v1_1-base", d_model=768, d_ff=2048, num_heads=12, layers=12)

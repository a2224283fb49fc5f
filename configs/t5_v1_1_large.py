r"""T5 v1.1 large, 783 M parameters, finetuned on facts: from google/t5-v1_1-large.

  factshock train --config=t5_v1_1_large --workdir=runs/t5_v1_1_large \
      --facts=facts.jsonl --relations=relations.jsonl
  factshock train --config=t5_v1_1_large --dry_run

Needs: at most 24.6 GB a device for a batch of 32 rows of 128 + 40 tokens (a GPU of 40 GB, or a TPU
v4-8), by a dry run on a CPU, whose compiler holds wide copies of bfloat16 weights. Expect: not
measured yet. Time: 12 TFLOP of matrix products a step, 1,000 steps.
"""

from factshock.configs import pretrained
from factshock.types import Config


def get_config() -> Config:
  """Returns the config of the study."""
  return pretrained.t5_v1_1(
    "google/t5-v1_1-large", d_model=1024, d_ff=2816, num_heads=16, layers=24
  )

r"""T5 v1.1 XL adapted to language modelling, 2.85 B parameters, finetuned on facts.

  factshock train --config=t5_lm_adapt_xl --workdir=runs/t5_lm_adapt_xl \
      --facts=facts.jsonl --relations=relations.jsonl
  factshock train --config=t5_lm_adapt_xl --dry_run

Needs: at most 42 GB a device for a batch of 32 rows of 128 + 40 tokens (a GPU of 48 GB, or a TPU
v5p-8), by a dry run on a CPU, whose compiler holds wide copies of bfloat16 weights; the reverse
pass makes again what is not a product of weights (--config.model.remat=none: 63 GB; full: 36 GB and
12 TFLOP more). Expect: not measured yet. Time: 45 TFLOP of matrix products a step, 1,000 steps. The
weights are those of google/t5-xl-lm-adapt. Finetuning is alone (train) or in a study (experiment).
"""

from factshock.configs import pretrained
from factshock.types import Config


def get_config() -> Config:
  """Returns the config of the study."""
  return pretrained.t5_v1_1(
    "google/t5-xl-lm-adapt", d_model=2048, d_ff=5120, num_heads=32, layers=24, remat="dots_no_batch"
  )

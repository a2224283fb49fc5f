r"""T5 v1.1 XL adapted to language modelling, 2.85 B parameters: finetuning on facts, alone or in a study, from the weights of google/t5-xl-lm-adapt.

  python -m factshock.train --config=configs/t5_lm_adapt_xl.py --workdir=runs/t5_lm_adapt_xl \
      --config.facts=facts.jsonl --config.relations=relations.jsonl
  python -m factshock.train --config=configs/t5_lm_adapt_xl.py --dry_run

Needs: at most 42 GB a device for a batch of 32 rows of 128 + 40 tokens (a GPU of 48 GB, or a TPU v5p-8), by a dry run on a
CPU, whose compiler holds wide copies of bfloat16 weights; the reverse pass makes again what is not a product of weights
(--config.model.remat=none: 63 GB; full: 36 GB and 12 TFLOP more). Expect: not measured yet. Time: 45 TFLOP of matrix products
a step, 1,000 steps.
"""

from configs import pretrained


def get_config():
  return pretrained.t5_v1_1(
    "google/t5-xl-lm-adapt", d_model=2048, d_ff=5120, num_heads=32, layers=24, remat="dots_no_batch"
  )

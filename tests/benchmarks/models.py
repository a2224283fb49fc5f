"""Models of 60 to 100 million random parameters, and the same in PyTorch transformers."""

import dataclasses
import os
import tempfile

import jax

from factshock.models import decoder, families, t5
from factshock.models.formats import huggingface

CONFIGS = {
  "t5": t5.T5Config(
    vocab_size=32128,
    d_model=512,
    d_ff=1024,
    num_heads=6,
    d_kv=64,
    encoder_layers=8,
    decoder_layers=8,
  ),
  "llama": decoder.LlamaConfig(
    vocab_size=32000, d_model=512, d_ff=1376, num_heads=8, num_kv_heads=8, d_kv=64, layers=10
  ),
  "t5_large": t5.T5Config(
    vocab_size=32128,
    d_model=1024,
    d_ff=2816,
    num_heads=16,
    d_kv=64,
    encoder_layers=24,
    decoder_layers=24,
  ),
}


def make(name, dtype="float32"):
  """(config, params, transformers' model of the same weights in evaluation mode)."""
  config = dataclasses.replace(CONFIGS[name], dtype=dtype, param_dtype=dtype)
  with tempfile.TemporaryDirectory() as folder:
    place = os.path.join(folder, "model")
    huggingface.save(place, families.of(config).init(config, jax.random.key(0)), config)
    return read(place, dtype)


def read(folder, dtype="float32"):
  """The same of a HuggingFace folder."""
  import torch
  import transformers

  params, config = huggingface.load(folder, param_dtype=dtype)
  config = dataclasses.replace(config, dtype=dtype)
  kind = (
    transformers.AutoModelForCausalLM
    if families.of(config).decoder_only
    else transformers.T5ForConditionalGeneration
  )
  return config, params, kind.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def count(params):
  """Millions of parameters."""
  return sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6

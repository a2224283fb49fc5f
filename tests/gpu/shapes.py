"""Sizes of the models that are measured, real and tiny, all in bfloat16."""

import functools

from factshock.models.decoder import LlamaConfig
from factshock.models.t5 import T5Config

T5_LARGE = "T5 large"
T5_XL = "T5 xl"
LLAMA_7B = "Llama 7B"
LLAMA_1B = "Llama 1B"

_T5_SIZES = {
  T5_LARGE: dict(d_model=1024, d_ff=2816, num_heads=16, encoder_layers=24, decoder_layers=24),
  T5_XL: dict(d_model=2048, d_ff=5120, num_heads=32, encoder_layers=24, decoder_layers=24),
}
# Llama 2 7B, and Llama 3.2 1B (with its tied head and vocabulary).
_DECODER_SIZES = {
  LLAMA_7B: dict(
    vocab_size=32000,
    d_model=4096,
    d_ff=11008,
    num_heads=32,
    num_kv_heads=32,
    d_kv=128,
    layers=32,
  ),
  LLAMA_1B: dict(
    vocab_size=128256,
    d_model=2048,
    d_ff=8192,
    num_heads=32,
    num_kv_heads=8,
    d_kv=64,
    layers=16,
    rope_theta=5e5,
    tie_head=True,
  ),
}
_TINY_T5 = T5Config(
  vocab_size=256,
  d_model=32,
  d_ff=64,
  num_heads=2,
  d_kv=16,
  encoder_layers=2,
  decoder_layers=2,
  dtype="bfloat16",
)
_TINY_DECODER = LlamaConfig(
  vocab_size=256,
  d_model=32,
  d_ff=64,
  num_heads=2,
  num_kv_heads=2,
  d_kv=16,
  layers=2,
  dtype="bfloat16",
  param_dtype="bfloat16",
)


@functools.cache
def config_of(name: str, tiny: bool) -> T5Config | LlamaConfig:
  """Returns a model's config.

  T5's weights are float32, as configs/t5_v1_1_*.py train them; those of decoders bfloat16.
  """
  if name in _T5_SIZES:
    if tiny:
      return _TINY_T5
    return T5Config(vocab_size=32128, d_kv=64, dtype="bfloat16", **_T5_SIZES[name])
  if tiny:
    return _TINY_DECODER
  return LlamaConfig(dtype="bfloat16", param_dtype="bfloat16", **_DECODER_SIZES[name])

"""FLOPs and bytes that answers need at least, from sizes alone: for parts.generation and ranking.

In bfloat16. Padding counts nothing, nor do embeddings, norms and what is computed twice. Weights
are read once a batch and pass: by what reads the prompts, and by every step of the decoding.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from factshock.models.decoder import LlamaConfig
from factshock.models.t5 import T5Config

_BYTES = 2  # of a bfloat16 number


class Work(NamedTuple):
  """Holds FLOPs of matrix products, and bytes read and written in the device's memory."""

  flops: int
  bytes: int


class _Sizes(NamedTuple):
  """Holds what a model multiplies by, as numbers of weights or of a token's values.

  Attributes:
    reading: weights that a prompt's tokens are multiplied by.
    step: weights that a further token is multiplied by, the head's included.
    reading_width: of a token's queries in all layers that read prompts.
    step_width: of a token's queries in all layers of a step.
    cached: of a token's keys and values in all layers of a step.
  """

  reading: int
  step: int
  reading_width: int
  step_width: int
  cached: int


def generation(
  config: T5Config | LlamaConfig, batches: Sequence[Sequence[int]], tokens: int
) -> Work:
  """Returns what greedy answers need.

  Args:
    config: the model's.
    batches: tokens of each prompt of each batch.
    tokens: new tokens of every answer.
  """
  seen = range(1, tokens + 1)
  made = [_batch(config, prompts, seen, passes=tokens) for prompts in batches]
  # A new token's keys and values are written, and read by those that follow.
  own = sum(map(len, batches)) * sum(seen)
  stored = _BYTES * _sizes_of(config).cached * own
  return Work(sum(work.flops for work in made), sum(work.bytes for work in made) + stored)


def ranking(
  config: T5Config | LlamaConfig, batches: Sequence[Sequence[int]], contexts: Sequence[int]
) -> Work:
  """Returns what the scores of candidates need.

  Args:
    config: the model's.
    batches: tokens of each query of each batch.
    contexts: of each distinct context of the candidates' tokens, how many tokens it sees of itself;
      from `contexts_of`.
  """
  made = [_batch(config, prompts, contexts, passes=1) for prompts in batches]
  return Work(sum(work.flops for work in made), sum(work.bytes for work in made))


def contexts_of(sequences: Collection[Sequence[int]]) -> list[int]:
  """Returns the `contexts` of candidates' token sequences: each beginning once, with the start."""
  beginnings = {tuple(sequence[:end]) for sequence in sequences for end in range(len(sequence))}
  return sorted(len(beginning) + 1 for beginning in beginnings)


def _batch(
  config: T5Config | LlamaConfig, prompts: Sequence[int], seen: Sequence[int], passes: int
) -> Work:
  """Returns what a batch needs, its further tokens' keys and values apart.

  Args:
    config: the model's.
    prompts: tokens of each.
    seen: of each token that follows a prompt, how many of these it sees.
    passes: how often these tokens' weights, and the prompts' keys and values, are read.
  """
  sizes = _sizes_of(config)
  read = _cached_tokens(config, prompts)
  rows = len(prompts)
  reading = _reading(config, prompts)
  products = 2 * rows * len(seen) * sizes.step
  pairs = read * len(seen) + rows * sum(seen)
  return Work(
    reading.flops + products + 4 * sizes.step_width * pairs,
    reading.bytes + _BYTES * passes * (sizes.step + sizes.cached * read),
  )


def _reading(config: T5Config | LlamaConfig, prompts: Sequence[int]) -> Work:
  """Returns what a batch's prompts need until their keys and values are written."""
  sizes = _sizes_of(config)
  read = _cached_tokens(config, prompts)
  if isinstance(config, T5Config):
    pairs = sum(length**2 for length in prompts)
  else:
    pairs = sum((length - 1) * length // 2 for length in prompts)
  flops = 2 * read * sizes.reading + 4 * sizes.reading_width * pairs
  return Work(flops, _BYTES * (sizes.reading + sizes.cached * read))


def _cached_tokens(config: T5Config | LlamaConfig, prompts: Sequence[int]) -> int:
  """Returns how many tokens are read before the first step: a decoder's prompts but their last."""
  return sum(prompts) - (0 if isinstance(config, T5Config) else len(prompts))


def _sizes_of(config: T5Config | LlamaConfig) -> _Sizes:
  """Returns the sizes of a model."""
  width = config.num_heads * config.d_kv
  factors = 2 if config.feed_forward == "relu" else 3
  feed_forward = factors * config.d_model * config.d_ff
  head = config.vocab_size * config.d_model
  if isinstance(config, LlamaConfig):
    narrow = config.num_kv_heads * config.d_kv
    layers = config.layers * (2 * config.d_model * (width + narrow) + feed_forward)
    wide = config.layers * width
    return _Sizes(layers, layers + head, wide, wide, 2 * config.layers * narrow)
  projection = config.d_model * width
  encoder = config.encoder_layers * (4 * projection + feed_forward)
  cross_keys_values = config.decoder_layers * 2 * projection
  decoder = config.decoder_layers * (6 * projection + feed_forward)
  # Of either attention of a decoder's layer: to the inputs, and to the tokens so far.
  decoder_width = config.decoder_layers * width
  return _Sizes(
    reading=encoder + cross_keys_values,
    step=decoder + head,
    reading_width=config.encoder_layers * width,
    step_width=decoder_width,
    cached=2 * decoder_width,
  )

"""Greedy generation of answers with a key-value cache, under jit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches
from factshock.models import t5


def generate(params, model_config, tokenizer, prompts, *, max_length, batch_size=256, mesh=None):
  """Answers that the model gives when it always takes the likeliest next token.

  The answer stands between <extra_id_0> (or the start, where the model leaves it out) and the next
  sentinel or EOS.

  Args:
    params, model_config: weights and config of models/t5.
    tokenizer: as from data/tokenizers.
    prompts: list of texts holding "<extra_id_0>" where the answer goes.
    max_length: tokens at most, <extra_id_0> and the closing token included.
    batch_size: prompts at a time.
    mesh: devices to share each batch over (axis "data").
  Returns: (texts, scores): list of str, and float32 array of the natural log-probabilities of all
    tokens generated, <extra_id_0> and the closing token included.
  Raises:
    ValueError: max_length or batch_size below 1.
    UserError: a prompt without a place for the answer or too long; a model with too few tokens.
  """
  if max_length < 1 or batch_size < 1:
    raise ValueError(f"expected max_length and batch_size of at least 1, got {max_length} and {batch_size}")
  batches.check_vocabulary(tokenizer.size, model_config)
  encoded = [batches.encode_prompt(tokenizer, prompt) for prompt in prompts]
  places = sorted(range(len(prompts)), key=lambda place: len(encoded[place]))
  params, spread = batches.placed(params, mesh)
  lowest = tokenizer.sentinel(tokenizer.sentinels - 1)
  stops = np.array([tokenizer.eos, lowest, tokenizer.sentinel(0)], np.int32)
  pending = []
  for part, rows in batches.split(places, batch_size):
    inputs_BxS = spread(batches.pad(encoded, part, rows))
    pending.append((part, *_greedy(params, model_config, max_length, inputs_BxS, stops, np.int32(len(part)))))
  texts, scores = [None] * len(prompts), np.zeros(len(prompts), np.float32)
  for part, tokens_BxT, scores_B in pending:
    scores[list(part)] = np.asarray(scores_B)[:len(part)]
    for place, tokens in zip(part, np.asarray(tokens_BxT).tolist()):
      texts[place] = answer_text(tokenizer, tokens)
  return texts, scores


def answer_text(tokenizer, tokens):
  """The answer in the generated token ids: after a leading <extra_id_0>, up to a sentinel, EOS or padding."""
  tokens = tokens[1:] if tokens[:1] == [tokenizer.sentinel(0)] else tokens
  lowest = tokenizer.sentinel(tokenizer.sentinels - 1)
  ends = [place for place, token in enumerate(tokens)
          if token >= lowest or token in (tokenizer.eos, tokenizer.pad)]
  return tokenizer.decode(tokens[:ends[0]] if ends else tokens).strip()


@functools.partial(jax.jit, static_argnums=(1, 2))
def _greedy(params, config, max_length, inputs_BxS, stops, used):
  """Tokens int32 [B, max_length], 0 after a row's end, and their summed log-probabilities [B].

  `stops` are EOS, the lowest sentinel and <extra_id_0>; the first `used` rows count, the rest is padding.
  """
  eos, lowest, first = stops
  rows = inputs_BxS.shape[0]
  cache = t5.init_cache(params, config, t5.encode(params, config, inputs_BxS), max_length)

  def going(carry):
    step, ended_B = carry[0], carry[3]
    return (step < max_length) & ~ended_B.all()

  def advance(carry):
    step, cache, token_B, ended_B, tokens_BxT, scores_B = carry
    logits_BxV, cache = t5.decode_step(params, config, cache, inputs_BxS, token_B)
    token_B = jnp.where(ended_B, 0, logits_BxV.argmax(axis=-1).astype(jnp.int32))
    best_B = logits_BxV.max(axis=-1) - jax.nn.logsumexp(logits_BxV, axis=-1)
    scores_B = scores_B + jnp.where(ended_B, 0.0, best_B)
    opening = (step == 0) & (token_B == first)
    ended_B = ended_B | (token_B == eos) | (token_B == 0) | ((token_B >= lowest) & ~opening)
    return step + 1, cache, token_B, ended_B, tokens_BxT.at[:, step].set(token_B), scores_B

  start = (jnp.int32(0), cache, jnp.zeros(rows, jnp.int32), jnp.arange(rows) >= used,
           jnp.zeros((rows, max_length), jnp.int32), jnp.zeros(rows, jnp.float32))
  _, _, _, _, tokens_BxT, scores_B = jax.lax.while_loop(going, advance, start)
  return tokens_BxT, scores_B

"""What answers need at least, against counts by hand and of the programs; batches compile once.

That the parts generation and ranking run in their tiny form is .ci/run's part.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from factshock.answering import sampling
from factshock.checkpoints.loading import LoadedModel
from factshock.models import families, layers
from factshock.training import flops
from gpu import answering_work, machine, shapes

T5 = dataclasses.replace(shapes.config_of(shapes.T5_LARGE, True), encoder_layers=3)
LLAMA = dataclasses.replace(shapes.config_of(shapes.LLAMA_1B, True), num_heads=4)

# Weights of the tiny models: a projection, a feed-forward layer, and the head.
PROJECTION = 32 * 32
FEED_FORWARD = 3 * 32 * 64
HEAD = 256 * 32


def test_answers_of_a_t5_counted_by_hand():
  """Prompts of 5 and 3 tokens in one batch, 2 new tokens each, which see 1 and 2 of their own."""
  reading = 3 * (4 * PROJECTION + FEED_FORWARD) + 2 * 2 * PROJECTION
  step = 2 * (6 * PROJECTION + FEED_FORWARD) + HEAD
  pairs = 3 * (5 * 5 + 3 * 3) + 2 * (2 * (5 + 3) + 2 * (1 + 2))
  work = answering_work.generation(T5, [[5, 3]], 2)
  assert work.flops == 2 * (8 * reading + 4 * step) + 4 * 32 * pairs
  keys_values = 2 * 2 * 32 * (8 + 2 * 8 + 2 * (1 + 2))
  assert work.bytes == 2 * (reading + 2 * step + keys_values)


def test_answers_of_a_llama_counted_by_hand():
  """The same prompts; 64 wide queries share 32 wide keys, and prompts' last tokens are steps'."""
  layers = 2 * (2 * 32 * (64 + 32) + FEED_FORWARD)
  pairs = 2 * ((1 + 2 + 3 + 4) + (1 + 2) + 2 * (4 + 2) + 2 * (1 + 2))
  work = answering_work.generation(LLAMA, [[5, 3]], 2)
  assert work.flops == 2 * (6 * layers + 4 * (layers + HEAD)) + 4 * 64 * pairs
  keys_values = 2 * 2 * 32 * (6 + 2 * 6 + 2 * (1 + 2))
  assert work.bytes == 2 * (layers + 2 * (layers + HEAD) + keys_values)


def test_batches_read_the_weights_anew():
  together = answering_work.generation(LLAMA, [[5, 3]], 2)
  apart = answering_work.generation(LLAMA, [[5], [3]], 2)
  weights = 3 * 2 * (2 * 32 * (64 + 32) + FEED_FORWARD) + 2 * HEAD
  assert apart == (together.flops, together.bytes + 2 * weights)


def test_candidates_share_their_beginnings():
  """Four contexts, () and (1,) (1, 2) (5,), of 5 tokens."""
  contexts = answering_work.contexts_of([(1, 2, 3), (1, 2, 4), (5, 3), (1,)])
  assert contexts == [1, 2, 2, 3]
  work = answering_work.ranking(LLAMA, [[5, 3]], contexts)
  layers = 2 * (2 * 32 * (64 + 32) + FEED_FORWARD)
  pairs = 2 * ((1 + 2 + 3 + 4) + (1 + 2) + 4 * (4 + 2) + 2 * (1 + 2 + 2 + 3))
  assert work.flops == 2 * (6 * layers + 8 * (layers + HEAD)) + 4 * 64 * pairs
  assert work.bytes == 2 * (layers + layers + HEAD + 2 * 2 * 32 * (6 + 6))


@pytest.mark.parametrize("config", [T5, LLAMA], ids=["t5", "llama"])
def test_a_token_equals_what_the_programs_multiply(config):
  """Where they mask nothing: one new token after prompts of equal length.

  A decoder's cache is filled up to 8 tokens, and its prompts' products know no causality.
  """
  family = families.of(config)
  length = 8

  def program(params, inputs_BxS):
    cache, first_B = family.start(params, config, inputs_BxS, 1)
    cache = dict(family.unstack(cache), weights=family.layer_weights(params))
    logits_BxV, after = family.step(params, config, cache, first_B)
    return logits_BxV, after["key"], after["value"]

  params = jax.eval_shape(lambda: family.init(config, jax.random.key(0)))
  inputs_BxS = jax.ShapeDtypeStruct((3, length), jnp.int32)
  masked = 0
  if config is LLAMA:
    masked = 4 * 64 * 2 * 3 * sum(range(length - 1))
  work = answering_work.generation(config, [[length] * 3], 1)
  assert flops.step_flops(program, params, inputs_BxS) == work.flops + masked


@pytest.mark.parametrize("config", [T5, LLAMA], ids=["t5", "llama"])
def test_other_prompts_of_like_lengths_compile_nothing_on_accelerators(config, monkeypatch):
  """Padded to 8 and 12 tokens both times."""
  monkeypatch.setattr(layers, "on_cpu", lambda: False)
  params = families.of(config).init(config, jax.random.key(0))
  model = LoadedModel(params, config, None)
  random = np.random.default_rng(0)

  def answer(*lengths):
    prompts = [random.integers(5, 256, length).tolist() for length in lengths]
    return sampling.sample(model, prompts, (np.zeros(0, np.int32), -1), max_length=3, batch_size=4)

  answer(3, 9, 5, 11, 10, 4, 12, 2)
  with machine.compilations() as compiled:
    tokens, _ = answer(4, 9, 6, 12, 9, 3, 10, 7)
  assert not compiled and tokens.shape == (8, 3)

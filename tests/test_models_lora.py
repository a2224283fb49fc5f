"""LoRA: adapted models equal merged ones, gradients and their cost, targets, training."""

import dataclasses
import functools

import hf_llama
import hf_t5
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from factshock.answering import sampling
from factshock.checkpoints.loading import LoadedModel
from factshock.models import decoder, layers, lora, t5
from factshock.runtime.errors import UserError
from factshock.training import optimizers, train_step

LLAMA = decoder.LlamaConfig(
  vocab_size=50, d_model=32, d_ff=40, num_heads=4, num_kv_heads=2, d_kv=8, layers=2
)
T5 = t5.T5Config(
  vocab_size=50, d_model=32, d_ff=40, num_heads=2, d_kv=8, encoder_layers=2, decoder_layers=1
)
RELU = t5.T5Config(
  vocab_size=50,
  d_model=32,
  d_ff=40,
  num_heads=2,
  d_kv=8,
  encoder_layers=1,
  decoder_layers=2,
  feed_forward="relu",
  tie_head=True,
)
MODELS = {
  "llama": (decoder, LLAMA, lora.WEIGHTS),
  "t5": (t5, T5, lora.WEIGHTS),
  "relu": (t5, RELU, [name for name in lora.WEIGHTS if name != "gate"]),
}


def batch_of(config):
  if config is LLAMA:
    tokens = hf_llama.tokens(config)
    return {"tokens": tokens, "weights": (tokens != decoder.PAD).astype(np.float32)}
  return hf_t5.random_batch(config)


@functools.cache
def model(name):
  """(config, params, adapters with random values, batch)."""
  module, config, targets = MODELS[name]
  params = module.init(config, jax.random.key(0))
  adapters = lora.init(params, jax.random.key(1), 3, targets)
  leaves, structure = jax.tree.flatten(adapters)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  return (
    config,
    params,
    structure.unflatten(
      [jax.random.normal(key, leaf.shape) * 0.2 for key, leaf in zip(keys, leaves)]
    ),
    (batch_of(config)),
  )


def bare_loss(params, config, batch):
  return train_step.loss_fn(params, config, batch)[0]


loss = hf_t5.quick_jit(bare_loss, static_argnums=1)


@pytest.mark.parametrize(
  "name", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("t5", "relu"))]
)
def test_adapted_equals_merged_in_loss_and_gradients(name):
  config, params, adapters, batch = model(name)

  def attached(adapters):
    return bare_loss(lora.attach(params, adapters, 2.0), config, batch)

  def merged(adapters):
    return bare_loss(lora.merge(params, adapters, 2.0), config, batch)

  got, expected = (
    hf_t5.quick_jit(jax.value_and_grad(function))(adapters) for function in (attached, merged)
  )
  assert abs(expected[0] - loss(params, config, batch)) > 0.1  # the adapters do something
  np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max()),
    got[1],
    expected[1],
  )


def test_fresh_adapters_change_nothing_and_every_layer_has_its_own():
  config, params, _, batch = model("llama")
  fresh = lora.init(params, jax.random.key(3), 4, ["query", "down"])
  assert loss(lora.attach(params, fresh, 8.0), config, batch) == loss(params, config, batch)
  a = fresh["layers"]["self_attention"]["query"]["a"]
  assert a.shape == (2, 32, 4) and fresh["layers"]["feed_forward"]["down"]["b"].shape == (2, 4, 32)
  assert np.abs(a).max() <= 32**-0.5 and np.abs(a[0] - a[1]).max() > 0.01


def test_targets_by_path_and_targets_that_match_nothing():
  _, params, _, _ = model("t5")
  chosen = lora.init(
    params, jax.random.key(0), 2, ["cross_attention/query", "encoder/feed_forward/up"]
  )
  assert list(chosen) == ["decoder", "encoder"]
  assert list(chosen["decoder"]["layers"]) == ["cross_attention"] and list(
    chosen["encoder"]["layers"]["feed_forward"]
  ) == ["up"]
  with pytest.raises(
    UserError, match="'q_proj': matches no weight; there are decoder/layers/cross_attention/key"
  ):
    lora.init(params, jax.random.key(0), 2, ["query", "q_proj"])


def test_caches_and_trees_read_adapters_too():
  config, params, adapters, _ = model("llama")
  prompt = hf_llama.tokens(config, length=6, left=True)
  found = []
  for tree in (lora.attach(params, adapters, 2.0), lora.merge(params, adapters, 2.0)):
    cache, first = decoder.start(tree, config, prompt, 1)
    found.append(
      decoder.step(
        tree, config, dict(decoder.unstack(cache), weights=decoder.layer_weights(tree)), first
      )[0]
    )
  np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_frozen_weights_is_not_computed():
  wide = decoder.LlamaConfig(
    vocab_size=50, d_model=128, d_ff=256, num_heads=4, num_kv_heads=4, d_kv=32, layers=2
  )
  params = jax.eval_shape(lambda: decoder.init(wide, jax.random.key(0)))
  adapters = jax.eval_shape(lambda: lora.init(params, jax.random.key(0), 2, lora.WEIGHTS))
  batch = {
    "tokens": jax.ShapeDtypeStruct((4, 32), jnp.int32),
    "weights": jax.ShapeDtypeStruct((4, 32), jnp.float32),
  }

  def cost(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

  whole = cost(jax.grad(lambda params, batch: bare_loss(params, wide, batch)), params, batch)
  low_rank = cost(
    jax.grad(
      lambda adapters, params, batch: bare_loss(lora.attach(params, adapters, 1.0), wide, batch)
    ),
    adapters,
    params,
    batch,
  )
  assert low_rank < 0.8 * whole


def test_training_moves_adapters_only_and_learns():
  config, params, _, batch = model("llama")
  adapters = lora.init(params, jax.random.key(1), 4, lora.WEIGHTS)
  optimizer = optimizers.make_optimizer(optimizers.OptimizerConfig("adamw", 1e-2))

  def of(adapters, batch, key, frozen):
    return train_step.loss_fn(lora.attach(frozen, adapters, 2.0), config, batch, key)

  step = jax.jit(train_step.make_train_step(of, optimizer))
  state = train_step.init_state(adapters, optimizer)
  losses = []
  for _ in range(30):
    state, metrics = step(state, batch, jax.random.key(0), params)
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.5 * losses[0] and set(state["params"]) == {"layers"}


@pytest.mark.parametrize("name", ["llama", pytest.param("t5", marks=pytest.mark.slow)])
def test_large_frozen_weights_as_bits_give_the_same_loss_and_gradients(name, monkeypatch):
  config, params, adapters, batch = model(name)
  config = dataclasses.replace(config, dtype="bfloat16", param_dtype="bfloat16")
  params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  assert layers.bits_on_cpu(params) is params  # small ones stay as they are
  monkeypatch.setattr(layers, "UNSTACKED_BYTES", 0)
  bits = layers.bits_on_cpu(params)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(bits)} == {"bfloat16", "uint16"}
  found = [
    hf_t5.quick_jit(
      jax.value_and_grad(
        lambda adapters, frozen: bare_loss(lora.attach(frozen, adapters, 2.0), config, batch)
      )
    )(adapters, frozen)
    for frozen in (params, bits)
  ]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02 * np.abs(b).max()), *found
  )


@pytest.mark.slow
def test_large_weights_as_bits_generate_the_same_tokens(monkeypatch):
  config, params, _, _ = model("llama")
  config = dataclasses.replace(config, dtype="bfloat16", param_dtype="bfloat16")
  params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  prompts, ends = [[3, 4, 5], [6, 7], [8, 9, 10, 11]], (np.array([1], np.int32), -1)
  plain = sampling.sample(LoadedModel(params, config, None), prompts, ends, max_length=4)
  monkeypatch.setattr(layers, "UNSTACKED_BYTES", 0)
  jax.clear_caches()
  bits = sampling.sample(LoadedModel(params, config, None), prompts, ends, max_length=4)
  np.testing.assert_array_equal(bits[0], plain[0])
  np.testing.assert_allclose(bits[1], plain[1], rtol=0.02)

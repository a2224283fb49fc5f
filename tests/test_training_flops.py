"""Counted FLOPs against closed forms: whatever is computed again, however the batch is cut, only
what is trained.
"""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import optax
import pytest

from factshock.models import decoder, families, lora, products, t5
from factshock.training import flops, train_step
from gpu import cases

LLAMA = decoder.LlamaConfig(
  vocab_size=50, d_model=32, d_ff=40, num_heads=4, num_kv_heads=2, d_kv=8, layers=3
)
T5 = t5.T5Config(
  vocab_size=50,
  d_model=32,
  d_ff=40,
  num_heads=4,
  d_kv=8,
  encoder_layers=3,
  decoder_layers=2,
  dropout=0.1,
)
ROWS, LENGTH = 4, 16
OPTIMIZER = optax.sgd(0.1)


def forward_flops(config):
  """Of one pass forward: two a weight and token, and the products of scores and values."""
  tokens, wide, head = (
    ROWS * LENGTH,
    config.num_heads * config.d_kv,
    config.vocab_size * config.d_model,
  )
  feed_forward = 3 * config.d_model * config.d_ff
  if config is LLAMA:
    narrow = config.num_kv_heads * config.d_kv
    layer = config.d_model * (2 * wide + 2 * narrow) + feed_forward
    return tokens * (2 * (config.layers * layer + head) + config.layers * 4 * LENGTH * wide)
  attention = 4 * config.d_model * wide
  weights = (
    config.encoder_layers * (attention + feed_forward)
    + config.decoder_layers * (2 * attention + feed_forward)
    + head
  )
  return tokens * (
    2 * weights + (config.encoder_layers + 2 * config.decoder_layers) * 4 * LENGTH * wide
  )


def arguments_of(config):
  params = jax.eval_shape(lambda: families.of(config).init(config, jax.random.key(0)))
  state = jax.eval_shape(functools.partial(train_step.init_state, optimizer=OPTIMIZER), params)
  return state, cases.batch_of(config, LENGTH, ROWS), jax.random.key(0)


def step_of(config, **options):
  return train_step.make_train_step(
    functools.partial(train_step.loss_fn, model_config=config), OPTIMIZER, **options
  )


UMT5 = dataclasses.replace(T5, bias_in_every_layer=True)


@pytest.mark.parametrize("config", [LLAMA, T5, UMT5], ids=["llama", "t5", "umt5"])
def test_a_step_takes_three_passes_whatever_is_computed_again(config, monkeypatch):
  expected, arguments = 3 * forward_flops(config), arguments_of(config)
  assert flops.model_flops(step_of(config), *arguments) == expected
  for change in (
    dict(remat="full"),
    dict(remat="dots_no_batch"),
    dict(unroll=True),
    dict(attention="auto", dtype="bfloat16"),
  ):
    assert (
      flops.model_flops(step_of(dataclasses.replace(config, **change)), *arguments) == expected
    ), change
  assert flops.model_flops(step_of(config, accumulate=2), *arguments) == expected
  assert flops.model_flops(step_of(config, axis="devices"), *arguments, axis="devices") == expected
  monkeypatch.setattr(train_step, "LOGIT_BYTES", 1 << 11)  # logits in parts, computed again
  assert (
    flops.model_flops(step_of(dataclasses.replace(config, remat="full")), *arguments) == expected
  )
  assert (
    flops.step_flops(step_of(config), *arguments)
    == expected + 2 * ROWS * LENGTH * config.vocab_size * config.d_model
  )


def test_counting_leaves_no_trace_in_what_is_compiled():
  """JAX keeps traces by function: a step counted first must compute again all the same, one run
  first count once.
  """
  config, expected = dataclasses.replace(LLAMA, remat="full"), 3 * forward_flops(LLAMA)
  step, arguments = step_of(config), arguments_of(config)
  assert flops.model_flops(step, *arguments) == expected < flops.step_flops(step, *arguments)
  traced = jax.jit(step).trace(*arguments).jaxpr.jaxpr
  assert flops.count_flops(flops.without_dead_code(traced)) > expected
  assert flops.model_flops(step, *arguments) == expected and not products.each_counts_once()


@pytest.mark.parametrize("remat", ["none", "full"])
def test_gradients_of_frozen_weights_do_not_count(remat):
  config = dataclasses.replace(LLAMA, remat=remat)
  state, batch, key = arguments_of(config)
  adapters = jax.eval_shape(lambda: lora.init(state["params"], jax.random.key(0), 1, ["query"]))
  loss = lambda adapters, frozen, **rest: train_step.loss_fn(
    lora.attach(frozen, adapters, 1.0), config, **rest
  )
  step = train_step.make_train_step(loss, OPTIMIZER)
  trained = jax.eval_shape(functools.partial(train_step.init_state, optimizer=OPTIMIZER), adapters)
  found = flops.model_flops(step, trained, batch, key, state["params"])
  tokens, wide = ROWS * LENGTH, LLAMA.num_heads * LLAMA.d_kv
  scores = LLAMA.layers * tokens * 4 * LENGTH * wide  # both of whose factors have gradients
  adapter = LLAMA.layers * tokens * 2 * (LLAMA.d_model + wide)
  assert found == 2 * forward_flops(LLAMA) + scores + 3 * adapter


def test_a_pass_forward():
  params, tokens = arguments_of(LLAMA)[0]["params"], jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)
  assert flops.step_flops(
    lambda params, tokens: decoder.forward(params, LLAMA, tokens), params, tokens
  ) == forward_flops(LLAMA)


@pytest.mark.parametrize(
  "kind, expected",
  [
    ("TPU v2", 23e12),
    ("TPU v3", 61.5e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5p", 459e12),
    ("TPU v5", 459e12),
    ("TPU v6 lite", 918e12),
    ("NVIDIA A100-SXM4-80GB", 312e12),
    ("NVIDIA H100 80GB HBM3", 989.5e12),
    ("NVIDIA H100 PCIe", 756.5e12),
    ("NVIDIA H200", 989.5e12),
    ("NVIDIA L4", 121e12),
    ("NVIDIA L40S", 362e12),
    ("Tesla V100-SXM2-16GB", 125e12),
    ("Tesla V100-PCIE-16GB", 112e12),
    ("Tesla T4", 65e12),
    ("cpu", None),
    ("NVIDIA A10G", None),
    ("NVIDIA GeForce RTX 4090", None),
    ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
  ],
)
def test_published_peaks(kind, expected):
  assert flops.peak_flops(types.SimpleNamespace(device_kind=kind)) == expected

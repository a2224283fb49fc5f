"""Rematerialisation by name: the same numbers with and without, less memory, and products that are
computed again.
"""

import dataclasses
import functools

import hf_llama
import hf_t5
import jax
import numpy as np
import pytest

from factshock.models import decoder, families, layers, lora, remat, t5
from factshock.runtime.errors import UserError
from factshock.study import config as configs
from factshock.training import train_step

T5 = t5.T5Config(
  vocab_size=61,
  d_model=24,
  d_ff=40,
  num_heads=3,
  d_kv=8,
  encoder_layers=2,
  decoder_layers=2,
  dropout=0.2,
)
LLAMA = decoder.LlamaConfig(
  vocab_size=60,
  d_model=32,
  d_ff=40,
  num_heads=4,
  num_kv_heads=2,
  d_kv=8,
  layers=2,
  sliding_window=5,
)
BOTH = {"t5": T5, "llama": LLAMA}
KEY = jax.random.key(5)  # of T5's dropout
AGAIN = [name for name in remat.POLICIES if name != "none"]


def batch_of(config):
  if isinstance(config, t5.T5Config):
    return hf_t5.random_batch(config)
  tokens = hf_llama.tokens(config)
  return {"tokens": tokens, "weights": (tokens != decoder.PAD).astype(np.float32)}


def gradient_of(config, key=None):
  return jax.value_and_grad(lambda params, batch: train_step.loss_fn(params, config, batch, key)[0])


def products(jaxpr, times=1):
  """Matrix products that a jaxpr makes, by their number, loops included."""
  total = 0
  for equation in jaxpr.eqns:
    total += times * (equation.primitive.name == "dot_general")
    inner = times * (equation.params["length"] if equation.primitive.name == "scan" else 1)
    for value in equation.params.values():
      for item in value if isinstance(value, (tuple, list)) else (value,):
        item = getattr(item, "jaxpr", item)
        total += products(item, inner) if hasattr(item, "eqns") else 0
  return total


def products_of(config, params):
  return products(jax.make_jaxpr(gradient_of(config))(params, batch_of(config)).jaxpr)


@functools.cache
def whole(family_):
  """(params, loss and gradients without rematerialisation)."""
  config = BOTH[family_]
  params = families.of(config).init(config, jax.random.key(0))
  return params, hf_t5.quick_jit(gradient_of(config, KEY))(params, batch_of(config))


@pytest.mark.parametrize(
  "family_, name, unroll",
  [
    case if case[0] == "llama" and not case[2] else pytest.param(*case, marks=pytest.mark.slow)
    for case in [
      (family_, *of)
      for family_ in BOTH
      for of in (*((name, False) for name in AGAIN), ("full", True))
    ]
  ],
)
def test_loss_and_gradients_are_those_without(family_, name, unroll):
  params, expected = whole(family_)
  config = dataclasses.replace(BOTH[family_], remat=name, unroll=unroll)
  got = hf_t5.quick_jit(gradient_of(config, KEY))(params, batch_of(config))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), got, expected)


@pytest.mark.slow
def test_dropout_is_on_in_the_test_above():
  params, (with_dropout, _) = whole("t5")
  assert abs(with_dropout - train_step.loss_fn(params, T5, batch_of(T5))[0]) > 1e-2


@pytest.mark.parametrize("family_", BOTH)
def test_each_name_computes_its_products_again(family_):
  config = BOTH[family_]
  params = families.of(config).init(config, jax.random.key(0))
  counts = {
    name: products_of(dataclasses.replace(config, remat=name), params) for name in remat.POLICIES
  }
  # products of a layer, and those of them with batch dimensions: scores, weighted values
  depths = (
    [(6, 2)] * config.encoder_layers + [(11, 4)] * config.decoder_layers
    if family_ == "t5"
    else [(6, 2)] * config.layers
  )
  # of the last product's result, `down`, no gradient reads anything: even "full" need not make it
  everything = sum(all_ - 1 for all_, _ in depths)
  assert counts["full"] - counts["none"] == everything
  assert counts["dots"] == counts["none"]
  assert counts["dots_no_batch"] - counts["none"] == sum(batched for _, batched in depths)


@pytest.mark.parametrize(
  "family_, names",
  [
    pytest.param("t5", ("full", "none"), marks=pytest.mark.slow),
    ("llama", ("full", "dots_no_batch", "dots", "none")),
  ],
)
def test_memory_shrinks(family_, names):
  depth = dict(encoder_layers=8, decoder_layers=8) if family_ == "t5" else dict(layers=12)
  config = dataclasses.replace(BOTH[family_], **depth)
  params = jax.eval_shape(lambda: families.of(config).init(config, jax.random.key(0)))
  batch = {
    name: jax.ShapeDtypeStruct((16, 48), array.dtype) for name, array in batch_of(config).items()
  }
  taken = [
    jax.jit(gradient_of(dataclasses.replace(config, remat=name)))
    .lower(params, batch)
    .compile()
    .memory_analysis()
    .temp_size_in_bytes
    for name in names
  ]
  assert taken == sorted(taken) and len(set(taken)) == len(taken) and taken[0] < 0.4 * taken[-1], (
    dict(zip(names, taken))
  )


@pytest.mark.parametrize("family_", [pytest.param("t5", marks=pytest.mark.slow), "llama"])
def test_weights_held_as_bits_are_never_kept_widened(family_, monkeypatch):
  config = dataclasses.replace(BOTH[family_], param_dtype="bfloat16")
  params = families.of(config).init(config, jax.random.key(0))
  monkeypatch.setattr(layers, "UNSTACKED_BYTES", 0)
  bits = layers.bits_on_cpu(params)
  assert np.uint16 in {leaf.dtype.type for leaf in jax.tree.leaves(bits)}
  adapters = lora.init(params, jax.random.key(1), 2, ["query", "down"])

  def gradients(one, weights):
    return jax.grad(
      lambda adapters, weights: train_step.loss_fn(
        lora.attach(weights, adapters, 0.5), one, batch_of(config), KEY
      )[0]
    )

  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
    *(hf_t5.quick_jit(gradients(config, weights))(adapters, weights) for weights in (bits, params)),
  )
  counts = {
    name: products(
      jax.make_jaxpr(gradients(dataclasses.replace(config, remat=name), weights))(
        adapters, weights
      ).jaxpr
    )
    for name, weights in (("none", bits), ("full", params))
  }
  assert (
    counts["none"]
    == counts["full"]
    > products(jax.make_jaxpr(gradients(config, params))(adapters, params).jaxpr)
  )


def test_a_config_takes_every_name_that_a_model_takes():
  section = {**families.to_section(T5), "remat": "everything"}
  assert [
    name for name in remat.POLICIES if f"'{name}'" not in configs.model_problems(section)[0]
  ] == []
  assert all(configs.model_problems({**section, "remat": name}) == [] for name in remat.POLICIES)
  with pytest.raises(
    UserError,
    match="remat: expected one of 'none', 'full', 'dots', 'dots_no_batch', got 'everything'",
  ):
    families.from_section(section, 61)


def test_a_record_from_before_these_keys_opens():
  for config in BOTH.values():
    section = {
      key: value
      for key, value in families.to_section(config).items()
      if key not in ("remat", "attention")
    }
    assert families.from_section(section, 50) == config
  assert families.differences(T5, dataclasses.replace(T5, remat="full", attention="auto")) == []

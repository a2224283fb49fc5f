"""The lowered programs of tiny bfloat16 models hold nothing that would choke a GPU."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from factshock.models import layers, products
from factshock.training import drivers
from gpu import faults, programs, shapes
from gpu.parts import train_step as train_steps

LARGE = 1024  # elements: the tiny models' least weight, scores and stream
LARGE_RANKING = 8192  # beyond the tokens of candidates: 4 queries' 128 of 8 tokens
PROGRAMS = {program.name: program for program in programs.all_programs(tiny=True)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_faults(name):
  with programs.as_on_gpu():
    traced = PROGRAMS[name].trace()
  large = LARGE_RANKING if "ranking" in name else LARGE
  found = faults.read(traced.jaxpr.jaxpr, PROGRAMS[name].vocab_size, large)
  assert found == []


@pytest.mark.parametrize("name", [name for name in PROGRAMS if "7B" in name or "decoding" in name])
def test_lowered_for_cuda_without_calls_of_the_host(name):
  assert programs.report_of(PROGRAMS[name], "none").host == []


def _faulty(x_BxD, weight_DxD, logits_BxTxV, tokens_BxTx1):
  """Commits the faults of a training, in a loss and its gradient."""

  def layer(x, _):
    return jnp.exp(x.astype(jnp.float32)).astype(x.dtype), None

  def loss(x, logits):
    y, _ = jax.lax.scan(layer, x, None, length=3)
    wide = y.astype(jnp.float32) @ weight_DxD.T.astype(jnp.float32)
    joined = y @ jnp.concatenate([weight_DxD, weight_DxD], axis=1)
    picked = jnp.take_along_axis(logits, tokens_BxTx1, axis=-1)
    best = jnp.sort(logits, axis=-1)[..., -1]
    return wide.sum() + picked.sum() + best.sum() + joined.astype(jnp.float32).sum()

  return jax.grad(loss, argnums=(0, 1))(x_BxD, logits_BxTxV)


def test_reads_faults_of_a_training():
  vocabulary = 96
  jaxpr = jax.make_jaxpr(_faulty)(
    jnp.ones((32, 32), jnp.bfloat16),
    jnp.ones((32, 32), jnp.bfloat16),
    jnp.ones((4, 8, vocabulary), jnp.float32),
    jnp.ones((4, 8, 1), jnp.int32),
  )
  kinds = {fault.kind for fault in faults.read(jaxpr.jaxpr, vocabulary, LARGE)}
  assert kinds == {
    faults.FLOAT32_PRODUCT,
    faults.JOINED,
    faults.LOGITS_GATHER,
    faults.LOGITS_SORT,
    faults.WEIGHT_TRANSPOSE,
    faults.WIDE_KEPT,
  }


def test_reads_faults_of_a_loop():
  """A cast of a weight at each token, a table made anew in each layer, and a call of the host."""

  def decode(weight_DxD, x_BxD):
    def step(_, x_BxD):
      return x_BxD @ weight_DxD.astype(x_BxD.dtype)

    return jax.lax.fori_loop(0, jnp.int32(x_BxD.shape[0]), step, x_BxD)

  def layers_of(weight_DxD, x_BxD):
    def layer(x_BxD, _):
      jax.debug.print("{}", x_BxD[0, 0])
      return x_BxD @ jnp.sin(weight_DxD), None

    return jax.lax.scan(layer, x_BxD, None, length=3)[0]

  weight_DxD = jnp.ones((32, 32), jnp.float32)
  decoding = jax.make_jaxpr(decode)(weight_DxD, jnp.ones((4, 32), jnp.bfloat16))
  (cast,) = faults.read(decoding.jaxpr, 96, LARGE)
  assert (cast.kind, cast.array) == (faults.INVARIANT, "convert_element_type bfloat16[32, 32]")
  narrow_DxD = weight_DxD.astype(jnp.bfloat16)
  reading = jax.make_jaxpr(layers_of)(narrow_DxD, jnp.ones((4, 32), jnp.bfloat16))
  found = {(fault.kind, fault.times) for fault in faults.read(reading.jaxpr, 96, LARGE)}
  assert found == {(faults.HOST, 3), (faults.INVARIANT, 3)}


def test_products_read_apart_are_those_read_in_one():
  """The heads and gates of an accelerator, run on a CPU: same numbers and gradients."""
  for name in (shapes.T5_LARGE, shapes.LLAMA_7B):
    config = dataclasses.replace(
      shapes.config_of(name, True), dtype="float32", param_dtype="float32"
    )
    loss, _, init = train_steps.our_parts(config, "all")
    params, _ = init(jax.random.key(0))
    batch = train_steps.random_batch(config, 2, True)
    value_and_grad = jax.value_and_grad(lambda params: loss(params, batch=batch)[0])
    joined = jax.jit(value_and_grad)(params)
    with programs.as_on_gpu():
      traced = jax.jit(lambda params: value_and_grad(params)).trace(params)
    apart = traced.lower().compile()(params)
    for one, other in zip(jax.tree.leaves(joined), jax.tree.leaves(apart), strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_narrowed():
  params = {
    "wide": jnp.ones((2, 2), jnp.float32) / 3,
    "narrow": jnp.ones((2, 2), jnp.bfloat16),
    "bits": jnp.ones((2, 2), jnp.uint16),
  }
  narrow = layers.narrowed(params, "bfloat16")
  assert {name: str(leaf.dtype) for name, leaf in narrow.items()} == {
    "wide": "bfloat16",
    "narrow": "bfloat16",
    "bits": "uint16",
  }
  assert layers.narrowed(params, "float32")["narrow"] is params["narrow"]


def test_softmax_gradient_is_that_of_jax():
  scores = jax.random.normal(jax.random.key(0), (2, 3, 5, 7))
  weights = jax.random.normal(jax.random.key(1), scores.shape)
  ours = jax.grad(lambda x: (products.softmax(x, jnp.dtype("float32")) * weights).sum())(scores)
  theirs = jax.grad(lambda x: (jax.nn.softmax(x) * weights).sum())(scores)
  np.testing.assert_allclose(ours, theirs, atol=1e-7)


def test_compiler_knows_the_options_of_a_step():
  step = jax.jit(lambda x: x + 1, compiler_options=drivers.GPU_OPTIONS)
  assert step(jnp.float32(1)) == 2

"""The train step: loss and metrics, accumulation, devices, dropout keys, and learning."""

import dataclasses
import functools

import hf_t5
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from factshock.models import decoder, families, t5
from factshock.runtime.errors import UserError
from factshock.training import optimizers, train_step

CONFIG = t5.T5Config(
  vocab_size=41,
  d_model=16,
  d_ff=24,
  num_heads=2,
  d_kv=8,
  encoder_layers=2,
  decoder_layers=1,
  relative_buckets=8,
  relative_max_distance=20,
)
KEY = jax.random.key(7)
PARAMS = t5.init(CONFIG, jax.random.key(0))


SGD = optax.sgd(0.1)


@functools.cache
def _step(config=CONFIG, optimizer=SGD, accumulate=1):
  loss = functools.partial(train_step.loss_fn, model_config=config)
  return hf_t5.quick_jit(train_step.make_train_step(loss, optimizer, accumulate))


def _state(optimizer=SGD):
  return train_step.init_state(PARAMS, optimizer)


def _batch(seed=0, rows=8):
  batch = hf_t5.random_batch(CONFIG, seed, batch=rows)
  # weights that differ, so that a mean of means shows
  weights = np.random.default_rng(seed).uniform(0.2, 2, batch["weights"].shape) * batch["weights"]
  return dict(batch, weights=weights.astype(np.float32))


def _assert_near(a, b, tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def test_token_losses_equal_log_softmax_and_argmax():
  logits = jax.random.normal(KEY, (3, 4, 7)) * 30
  targets = np.random.default_rng(0).integers(0, 7, (3, 4)).astype(np.int32)
  nll, correct = train_step.token_losses(logits, targets)
  expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), targets[..., None], -1)[
    ..., 0
  ]
  np.testing.assert_allclose(nll, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(correct, np.argmax(logits, -1) == targets)


def test_loss_is_the_weighted_mean_over_tokens_and_metrics_say_so():
  batch = _batch()
  _, metrics = _step()(_state(), batch, KEY)
  logits = np.asarray(t5.forward(PARAMS, CONFIG, batch["inputs"], batch["targets"]), np.float64)
  logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  nll = -np.take_along_axis(logs, batch["targets"][..., None], -1)[..., 0]
  weights = batch["weights"]
  assert metrics["loss"] == pytest.approx((weights * nll).sum() / weights.sum(), rel=1e-5)
  assert metrics["accuracy"] == pytest.approx(
    (weights * (logits.argmax(-1) == batch["targets"])).sum() / weights.sum(), abs=1e-6
  )
  assert metrics["tokens"] == pytest.approx(weights.sum())
  assert metrics["read_tokens"] == (batch["inputs"] != 0).sum() + (batch["targets"] != 0).sum()
  assert metrics["places"] == batch["inputs"].size + batch["targets"].size
  assert set(metrics) == {"loss", "accuracy", "gradient_norm", "tokens", "read_tokens", "places"}


def test_gradient_norm_is_that_of_the_step_taken():
  state, metrics = _step()(_state(), _batch(), KEY)
  moved = jax.tree.map(lambda new, old: (new - old) / 0.1, state["params"], PARAMS)
  assert metrics["gradient_norm"] == pytest.approx(
    float(optax.tree_utils.tree_norm(moved)), rel=1e-3
  )
  assert int(state["step"]) == 1


def test_accumulation_equals_one_batch():
  batch = _batch()
  whole, whole_metrics = _step()(_state(), batch, KEY)
  split, split_metrics = _step(accumulate=4)(_state(), batch, KEY)
  _assert_near(whole["params"], split["params"], 1e-5)
  _assert_near(whole_metrics, split_metrics, 1e-5)


def test_accumulation_that_does_not_divide_the_batch_is_refused():
  with pytest.raises(UserError, match="divisor of the batch size 8.*got 3"):
    _step(accumulate=3)(_state(), _batch(), KEY)


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_eight_devices_equal_one(accumulate):
  if jax.device_count() < 8:
    pytest.skip("needs 8 devices")
  batch, step = _batch(rows=32), _step(accumulate=accumulate)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  everywhere, rows = (
    NamedSharding(mesh, PartitionSpec()),
    NamedSharding(mesh, PartitionSpec("data")),
  )
  one, many = _state(), jax.device_put(_state(), everywhere)
  for _ in range(3):
    one, one_metrics = step(one, batch, KEY)
    many, many_metrics = step(many, jax.device_put(batch, rows), jax.device_put(KEY, everywhere))
  assert many["params"]["embedding"].sharding.is_equivalent_to(everywhere, 2)
  _assert_near(one_metrics, many_metrics, 1e-4)
  _assert_near(one["params"], many["params"], 1e-3)


def test_dropout_follows_the_key_and_the_step():
  step = _step(dataclasses.replace(CONFIG, dropout=0.3))
  state, batch = _state(), _batch()
  later = dict(state, step=jnp.ones((), jnp.int32))
  losses = [
    float(step(s, batch, key)[1]["loss"])
    for s, key in ((state, KEY), (state, KEY), (state, jax.random.key(8)), (later, KEY))
  ]
  assert losses[0] == losses[1] and len(set(losses)) == 3


def test_a_batch_of_padding_changes_nothing():
  batch = _batch()
  batch = dict(batch, weights=np.zeros_like(batch["weights"]))
  state, metrics = _step()(_state(), batch, KEY)
  jax.tree.map(np.testing.assert_array_equal, state["params"], PARAMS)
  assert float(metrics["loss"]) == 0 and float(metrics["tokens"]) == 0


@pytest.mark.parametrize(
  "section",
  [
    {"optimizer": "adamw", "learning_rate": 1e-2, "clip": 1.0},
    {"optimizer": "adafactor", "learning_rate": 3e-2},
  ],
)
def test_both_optimizers_learn_a_batch_by_heart(section):
  optimizer = optimizers.make_optimizer(optimizers.OptimizerConfig.of(section))
  state, step, batch = _state(optimizer), _step(optimizer=optimizer), _batch()
  losses = []
  for _ in range(60):
    state, metrics = step(state, batch, KEY)
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.3 * losses[0], losses[::10]


def test_bfloat16_params_keep_their_dtype():
  config = dataclasses.replace(CONFIG, dtype="bfloat16", param_dtype="bfloat16")
  params = t5.init(config, jax.random.key(0))
  state, metrics = _step(config, accumulate=2)(train_step.init_state(params, SGD), _batch(), KEY)
  assert {leaf.dtype for leaf in jax.tree.leaves(state["params"])} == {jnp.dtype("bfloat16")}
  assert metrics["loss"].dtype == jnp.float32


@pytest.mark.parametrize(
  "family_name, soft",
  [
    ("t5", False),
    ("llama", True),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (("t5", True), ("llama", False))),
  ],
)
def test_logits_in_parts_give_the_same_loss_and_gradient_in_less_memory(
  monkeypatch, family_name, soft
):
  rng, vocabulary, rows, places = np.random.default_rng(0), 3000, 8, 12
  if family_name == "t5":
    config = t5.T5Config(
      vocab_size=vocabulary,
      d_model=16,
      d_ff=16,
      num_heads=2,
      d_kv=8,
      encoder_layers=1,
      decoder_layers=1,
    )
    batch = {
      "inputs": rng.integers(3, vocabulary, (rows, 6)),
      "targets": rng.integers(3, vocabulary, (rows, places)),
    }
  else:
    config = decoder.LlamaConfig(
      vocab_size=vocabulary,
      d_model=16,
      d_ff=16,
      num_heads=2,
      num_kv_heads=2,
      d_kv=8,
      layers=1,
      max_length=64,
    )
    batch = {"tokens": rng.integers(3, vocabulary, (rows, places))}
  batch = {name: array.astype(np.int32) for name, array in batch.items()} | {
    "weights": rng.random((rows, places)).astype(np.float32)
  }
  if soft:
    batch |= {
      "answer_tokens": rng.integers(-1, vocabulary, (rows, places, 3)).astype(np.int32),
      "answer_shares": rng.dirichlet(np.ones(3), (rows, places)).astype(np.float32),
    }
  params = families.of(config).init(config, jax.random.key(0))

  def compiled(limit):
    monkeypatch.setattr(train_step, "LOGIT_BYTES", limit)
    # A function of its own each time: jit keeps what it traced before.
    return (
      jax.jit(
        jax.value_and_grad(lambda params: train_step.loss_fn(params, config, batch), has_aux=True)
      )
      .lower(params)
      .compile()
    )

  whole, parts = compiled(1 << 40), compiled(4 * rows * vocabulary * places // 4)
  assert (
    parts.memory_analysis().temp_size_in_bytes < 0.6 * whole.memory_analysis().temp_size_in_bytes
  )
  for a, b in zip(jax.tree.leaves(whole(params)), jax.tree.leaves(parts(params)), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_logits_of_the_predicted_tokens_alone_give_the_same_loss_and_gradient():
  config = decoder.LlamaConfig(
    vocab_size=97, d_model=16, d_ff=24, num_heads=2, num_kv_heads=1, d_kv=8, layers=2
  )
  params = families.of(config).init(config, jax.random.key(0))
  random = np.random.default_rng(0)
  tokens = random.integers(0, 97, (8, 16)).astype(np.int32)
  weights = np.zeros((8, 16), np.float32)
  predicted = np.zeros((8, 4), np.int32)  # row 0 has none
  for row in range(1, 8):
    first = random.integers(1, 13)
    count = random.integers(1, 5)
    weights[row, first : first + count] = random.random(count) + 0.1
    predicted[row, :count] = np.arange(first, first + count)
  weights[1, 0] = 1.0  # nothing predicts the first token
  whole = {"tokens": tokens, "weights": weights}

  @jax.jit
  def run(batch):
    loss = jax.value_and_grad(train_step.loss_fn, has_aux=True)
    return loss(params, config, batch)

  (loss, sums), gradients = run(whole)
  (few_loss, few_sums), few_gradients = run({**whole, "predicted": predicted})
  np.testing.assert_allclose(few_loss, loss, rtol=1e-6)
  assert few_sums == sums
  for few, all_of_them in zip(jax.tree.leaves(few_gradients), jax.tree.leaves(gradients)):
    np.testing.assert_allclose(few, all_of_them, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_a_tied_embedding_stands_in_memory_once():
  sizes = dict(d_model=32, d_ff=48, num_heads=2, num_kv_heads=1, d_kv=16, layers=1)
  config = decoder.LlamaConfig(vocab_size=50_000, tie_head=True, **sizes)
  shapes = jax.eval_shape(lambda: families.of(config).init(config, jax.random.key(0)))
  section = {"optimizer": "adamw", "learning_rate": 1e-2, "clip": 1.0}
  optimizer = optimizers.make_optimizer(optimizers.OptimizerConfig.of(section))
  state = jax.eval_shape(lambda params: train_step.init_state(params, optimizer), shapes)
  batch = {
    "tokens": np.ones((2, 8), np.int32),
    "weights": np.ones((2, 8), np.float32),
    "predicted": np.full((2, 1), 7, np.int32),
  }
  step = train_step.make_train_step(
    functools.partial(train_step.loss_fn, model_config=config), optimizer
  )
  compiled = jax.jit(step, donate_argnums=0).lower(state, batch, jax.random.key(0)).compile()
  scratch = compiled.memory_analysis().temp_size_in_bytes
  assert scratch < 1.5 * 4 * 50_000 * 32

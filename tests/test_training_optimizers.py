"""Optimizers and schedules by name, against PyTorch, transformers and hand-worked values; bad
sections.
"""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from factshock.devices import host
from factshock.runtime.errors import UserError
from factshock.training import optimizers

ADAMW = {"optimizer": "adamw", "learning_rate": 0.01}


def _make(section):
  return optimizers.make_optimizer(optimizers.OptimizerConfig.of(section))


def _run(section, params, gradients):
  optimizer = _make(section)
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for gradient in gradients:
    updates, state = update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  return params


def _arrays(seed, shape, count):
  random = np.random.default_rng(seed)
  return [random.normal(size=shape).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("b2,decay", [(0.999, 0.0), (0.95, 0.1)])
def test_adamw_equals_that_of_pytorch(b2, decay):
  import torch

  start, *gradients = _arrays(0, (5, 3), 4)
  weight = torch.nn.Parameter(torch.tensor(start))
  theirs = torch.optim.AdamW([weight], lr=0.01, betas=(0.9, b2), weight_decay=decay)
  for gradient in gradients:
    weight.grad = torch.tensor(gradient)
    theirs.step()
  ours = _run(
    {**ADAMW, "b2": b2, "weight_decay": decay}, {"w": start}, [{"w": g} for g in gradients]
  )
  np.testing.assert_allclose(ours["w"], weight.detach().numpy(), atol=1e-6)


def test_adafactor_equals_that_of_transformers():
  import torch
  from transformers.optimization import Adafactor

  start, *gradients = _arrays(1, (160, 130), 3)
  weight = torch.nn.Parameter(torch.tensor(start))
  theirs = Adafactor([weight], lr=0.01, scale_parameter=True, relative_step=False)
  for gradient in gradients:
    weight.grad = torch.tensor(gradient)
    theirs.step()
  ours = _run(
    {"optimizer": "adafactor", "learning_rate": 0.01}, {"w": start}, [{"w": g} for g in gradients]
  )
  np.testing.assert_allclose(ours["w"], weight.detach().numpy(), atol=2e-5)


@pytest.mark.parametrize("shape", [(130, 150), (150, 130), (128, 128), (2, 140, 130), (3, 5), (7,)])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_adafactor_scales_as_optax_does(shape, backend, monkeypatch):
  random = np.random.default_rng(0)
  param, gradient = jnp.asarray(random.normal(size=(2, *shape)), jnp.float32)
  theirs = optax.scale_by_factored_rms()
  ours = optimizers._factored_rms()
  state = theirs.init(param)
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  for _ in range(2):
    expected, _ = theirs.update(gradient, state, param)
    found, state = ours.update(gradient, state, param)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_adafactor_treats_stacked_layers_one_by_one():
  stack, *gradients = _arrays(2, (3, 140, 130), 3)
  stack *= np.asarray([0.1, 1, 10], np.float32)[:, None, None]
  section = {"optimizer": "adafactor", "learning_rate": 0.01, "weight_decay": 0.1}
  stacked = _run(
    section,
    {"encoder": {"layers": {"up": stack}}},
    [{"encoder": {"layers": {"up": g}}} for g in gradients],
  )["encoder"]["layers"]["up"]
  for layer in range(3):
    alone = _run(section, {"up": stack[layer]}, [{"up": g[layer]} for g in gradients])["up"]
    np.testing.assert_allclose(stacked[layer], alone, rtol=1e-5, atol=1e-6)


def test_adafactor_keeps_rows_and_columns_only():
  params = {"layers": {"up": jnp.ones((4, 256, 512))}}
  state = _make({"optimizer": "adafactor", "learning_rate": 1.0}).init(params)
  assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 4 * (256 + 512) + 50


def test_decay_spares_norm_scales():
  params = {"norm": {"scale": jnp.ones(3)}, "w": jnp.ones(3)}
  zeros = jax.tree.map(jnp.zeros_like, params)
  after = _run({**ADAMW, "weight_decay": 0.5}, params, [zeros])
  np.testing.assert_array_equal(after["norm"]["scale"], 1)
  np.testing.assert_allclose(after["w"], 1 - 0.01 * 0.5)


def test_clip_is_by_the_norm_of_all_gradients():
  gradients = {"a": jnp.full(4, 30.0), "b": jnp.full(4, 40.0)}
  clip = {**ADAMW, "clip": 1.0}
  params = jax.tree.map(jnp.zeros_like, gradients)
  # Adam forgets the scale of a single gradient, so look at its first moment
  optimizer = _make(clip)
  _, state = optimizer.update(gradients, optimizer.init(params), params)
  moment = optax.tree_utils.tree_get(state, "mu")
  assert float(optax.tree_utils.tree_norm(moment)) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize(
  "section,expected",
  [
    ({"schedule": "constant"}, {0: 1, 5: 1, 1000: 1}),
    ({"schedule": "constant", "warmup": 4}, {0: 0.25, 1: 0.5, 3: 1, 4: 1, 99: 1}),
    (
      {"schedule": "linear", "warmup": 2, "steps": 12, "final": 0.2},
      {0: 0.5, 2: 1, 7: 0.6, 12: 0.2, 50: 0.2},
    ),
    ({"schedule": "cosine", "warmup": 0, "steps": 10, "final": 0}, {0: 1, 5: 0.5, 10: 0, 20: 0}),
    ({"schedule": "cosine", "steps": 10, "final": 0.1}, {5: 0.55, 10: 0.1}),
    ({"schedule": "rsqrt", "warmup": 100}, {0: 0.01, 99: 1, 399: 0.5, 9999: 0.1}),
    ({"schedule": "rsqrt"}, {0: 1, 3: 0.5}),
  ],
)
def test_schedules_at_hand_worked_steps(section, expected):
  schedule = optimizers.make_schedule(
    optimizers.OptimizerConfig.of({**ADAMW, "learning_rate": 0.3, **section})
  )
  for step, value in expected.items():
    assert float(schedule(jnp.asarray(step))) == pytest.approx(0.3 * value, abs=1e-7), step


def test_a_config_dict_with_other_keys_is_a_section():
  section = ml_collections.ConfigDict(
    {**ADAMW, "schedule": "cosine", "steps": 100, "batch_size": 3}
  )
  assert _run(section, {"w": jnp.ones(2)}, [{"w": jnp.ones(2)}])["w"].shape == (2,)


@pytest.mark.parametrize(
  "change,words",
  [
    ({"optimizer": "sgd"}, "optimizer.optimizer: expected one of 'adamw', 'adafactor', got 'sgd'"),
    (
      {"schedule": "step"},
      "optimizer.schedule: expected one of 'constant', 'cosine', 'linear', 'rsqrt', got 'step'",
    ),
    ({"learning_rate": 0}, "learning_rate"),
    ({"learning_rate": "fast"}, "learning_rate"),
    ({"warmup": -1}, "warmup"),
    ({"clip": -1.0}, "clip"),
    ({"b2": 1.0}, "b2"),
    ({"final": 2}, "final"),
    ({"schedule": "linear", "warmup": 10, "steps": 10}, "more steps than the warmup's 10"),
    ({"weight_decay": float("nan")}, "weight_decay"),
    ({"ema": 1.0}, "ema"),
    ({"trained": ("ears",)}, "trained"),
  ],
)
def test_bad_sections_are_refused(change, words):
  with pytest.raises(UserError, match=words):
    _make({**ADAMW, **change})


def test_a_missing_key_is_named():
  with pytest.raises(UserError, match="learning_rate"):
    _make({"optimizer": "adamw"})


def test_settings_of_one_optimizer_are_one_key_of_compiled_steps():
  section = ml_collections.ConfigDict({**ADAMW, "trained": ["decoder"], "batch_size": 3})
  config = optimizers.OptimizerConfig.of(section)
  same = optimizers.OptimizerConfig("adamw", 0.01, trained=("decoder",))
  assert config == same and hash(config) == hash(same)
  assert hash(config) != hash(optimizers.OptimizerConfig("adamw", 0.01))


def test_keeping_freed_memory_says_whether_it_took():
  import sys

  assert host.keep_freed_memory() in ((True, False) if sys.platform == "linux" else (False,))


def _model():
  from factshock.models import t5

  return t5.init(
    t5.T5Config(
      vocab_size=12, d_model=8, d_ff=12, num_heads=2, d_kv=4, encoder_layers=2, decoder_layers=2
    ),
    jax.random.key(0),
  )


@pytest.mark.parametrize("optimizer", optimizers.OPTIMIZERS)
@pytest.mark.parametrize(
  "choice, moves",
  [
    ({"trained": ("encoder",)}, lambda name, layer: name.startswith("encoder/")),
    (
      {"frozen": ("last_layer", "head")},
      lambda name, layer: name != "head" and not (name.startswith("decoder/layers") and layer == 1),
    ),
    ({"trained": ("query_key",)}, lambda name, layer: name.split("/")[-1] in ("query", "key")),
    (
      {"trained": ("decoder",), "frozen": ("attention",)},
      lambda name, layer: name.startswith("decoder/") and "attention/" not in name,
    ),
  ],
)
def test_only_the_parts_asked_for_move(optimizer, choice, moves):
  from factshock.checkpoints import tree_files

  start = _model()
  after = _run(
    {"optimizer": optimizer, "learning_rate": 0.01, "weight_decay": 0.1, **choice},
    start,
    [jax.tree.map(jnp.ones_like, start)] * 2,
  )
  for (name, before), now in zip(tree_files.flat_leaves(start).items(), jax.tree.leaves(after)):
    for layer in range(2):
      pair = (before[layer], now[layer]) if "layers/" in name else (before, now)
      assert np.array_equal(*pair) != moves(name, layer), name


def test_l2_sp_is_the_gradient_of_the_penalty():
  """Against AdamW fed gradient + strength (w - start) by hand; and alone, it pulls back to the
  start.
  """
  start, *gradients = _arrays(3, (4, 2), 3)
  weight, by_hand, state = start, optax.scale_by_adam(b2=0.999), None
  for gradient in gradients:
    state = by_hand.init(start) if state is None else state
    update, state = by_hand.update(gradient + 0.3 * (weight - start), state, weight)
    weight = weight - 0.01 * update
  ours = _run({**ADAMW, "l2_sp": 0.3}, {"w": start}, [{"w": g} for g in gradients])
  np.testing.assert_allclose(ours["w"], weight, atol=1e-6)


def test_a_moving_average_of_parameters_is_kept_beside_them():
  start, *gradients = _arrays(4, (4, 2), 5)
  optimizer = _make({**ADAMW, "ema": 0.7})
  params, state = {"w": jnp.asarray(start)}, optimizer.init({"w": jnp.asarray(start)})
  expected = start
  for gradient in gradients:
    updates, state = optimizer.update({"w": gradient}, state, params)
    params = optax.apply_updates(params, updates)
    expected = 0.7 * expected + 0.3 * np.asarray(params["w"])
  np.testing.assert_allclose(
    optimizers.averaged({"params": params, "opt_state": state})["w"], expected, atol=1e-6
  )
  np.testing.assert_allclose(
    params["w"], _run(ADAMW, {"w": start}, [{"w": g} for g in gradients])["w"], atol=1e-6
  )

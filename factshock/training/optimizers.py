"""Optimizers and learning rate schedules by name, from one section of the config."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from factshock.models import weight_groups
from factshock.runtime.errors import UserError

OPTIMIZERS = ("adamw", "adafactor")
SCHEDULES = ("constant", "cosine", "linear", "rsqrt")
_DEFAULTS = {
  "schedule": "constant",
  "warmup": 0,
  "steps": 0,
  "final": 0.0,
  "b2": 0.999,
  "weight_decay": 0.0,
  "clip": 0.0,
  "l2_sp": 0.0,
  "trained": (),
  "frozen": (),
  "ema": 0.0,
}


def make_optimizer(section):
  """The optax transformation that a config section names.

  Args:
    section: mapping with `optimizer` ("adamw" or "adafactor"), `learning_rate` (peak), and optionally
      `schedule`, `warmup` and `steps` (in steps), `final` (share of the peak at the end), `b2` (AdamW),
      `weight_decay` (times the learning rate; not on norm scales) and `clip` (global norm; 0 = none).
      Other keys are not read. `l2_sp` times half the squared distance from the first parameters is added to the loss.
      Of the model's parts (models/weight_groups.py) only those `trained` move, all where there are none, and those `frozen` do not.
  With `ema` a moving average of the parameters is kept, `averaged`.
  State and updates are float32 whatever the dtype of the parameters. (An update below 1/256 of a bfloat16
  parameter is rounded away; float32 parameters with computation in bfloat16 keep it.)
  Raises: UserError where a name is unknown, a key is missing or a value is out of range.
  """
  section = _checked(section)
  decay = optax.add_decayed_weights(section["weight_decay"], mask=_decayed)
  parts = [_toward_start(section["l2_sp"])] if section["l2_sp"] else []
  parts += [optax.clip_by_global_norm(section["clip"])] if section["clip"] else []
  parts.append(
    _adafactor() if section["optimizer"] == "adafactor" else optax.scale_by_adam(b2=section["b2"])
  )
  parts += [decay] if section["weight_decay"] else []
  parts += (
    [_only(section["trained"], section["frozen"])]
    if section["trained"] or section["frozen"]
    else []
  )
  parts.append(optax.scale_by_learning_rate(make_schedule(section)))
  return _in_float32(
    optax.chain(*parts, *([_moving_average(section["ema"])] if section["ema"] else []))
  )


def _toward_start(strength):
  """Adds the gradient of strength / 2 |parameters - first parameters|^2, which are kept (L2-SP: Li et al. 2018, equation 2)."""

  def update(updates, start, params):
    return jax.tree.map(lambda u, p, s: u + strength * (p - s), updates, params, start), start

  # A copy: the first parameters' own buffers are given up by the first step.
  return optax.GradientTransformation(lambda params: jax.tree.map(jnp.copy, params), update)


class _Average(NamedTuple):
  """State of `_moving_average`."""

  average: optax.Params


def _moving_average(decay):
  """Changes no update and keeps decay * average + (1 - decay) * parameters after it, from the first parameters on."""

  def update(updates, state, params):
    return updates, _Average(
      jax.tree.map(
        lambda a, p, u: decay * a + (1 - decay) * (p + u), state.average, params, updates
      )
    )

  return optax.GradientTransformation(
    lambda params: _Average(jax.tree.map(jnp.copy, params)), update
  )


def averaged(state):
  """The moving average of the parameters in a train state whose optimizer keeps one (`ema`), in the parameters' dtypes; else these."""
  is_average = lambda node: isinstance(node, _Average)
  found = [
    node for node in jax.tree.leaves(state["opt_state"], is_leaf=is_average) if is_average(node)
  ]
  return (
    jax.tree.map(lambda p, a: a.astype(p.dtype), state["params"], found[0].average)
    if found
    else state["params"]
  )


def _only(trained, frozen):
  """Updates of 0 for the parts that are not trained."""

  def update(updates, params):
    moving = weight_groups.mask(params, trained)
    still = weight_groups.mask(params, frozen)
    return jax.tree.map(
      lambda u, m, s: u * ((m if trained else 1) * (1 - s)), updates, moving, still
    )

  return optax.stateless(update)


def make_schedule(section):
  """Learning rate as a function of the step (from 0): linear warmup to the peak, then the named shape.

  "cosine" and "linear" fall to `final` times the peak at `steps` and stay there; "rsqrt" is
  peak * sqrt(warmup / step), T5's for peak = 0.01 and warmup = 10,000 (with a linear warmup).
  Raises: UserError as `make_optimizer`.
  """
  section = _checked(section)
  shape = _shape(section["schedule"], section["warmup"], section["steps"], section["final"])
  peak = section["learning_rate"]
  warmup = max(section["warmup"], 1)

  def schedule(step):
    # the first step of the warmup is 1/warmup and not 0, which would be a step for nothing
    return peak * jnp.minimum(1.0, (step + 1) / warmup) * shape(step)

  return schedule


def _shape(name, warmup, steps, final):
  if name == "constant":
    return lambda step: 1.0
  if name == "rsqrt":
    return lambda step: jnp.sqrt(max(warmup, 1) / jnp.maximum(step + 1, max(warmup, 1)))
  span = max(steps - warmup, 1)
  curve = (lambda x: 0.5 + 0.5 * jnp.cos(math.pi * x)) if name == "cosine" else (lambda x: 1 - x)
  return lambda step: final + (1 - final) * curve(jnp.clip((step - warmup) / span, 0, 1))


def _adafactor():
  """T5's Adafactor (Shazeer and Stern 2018): factored, no momentum, updates relative to each parameter's RMS.

  Stacked layers are taken one by one, so that a stack trains as its layers would apart.
  """
  each = optax.chain(
    optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()
  )
  alone = optax.GradientTransformation(jax.vmap(each.init), jax.vmap(each.update))
  return _leaf_by_leaf(lambda names: alone if "layers" in names else each)


def _in_float32(inner):
  """The transformation with parameters and gradients cast, so that its state and updates are float32."""

  def wide(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)

  return optax.GradientTransformation(
    lambda params: inner.init(wide(params)),
    lambda updates, state, params: inner.update(wide(updates), state, wide(params)),
  )


def _leaf_by_leaf(choose):
  """Applies to each leaf, alone, the transformation that `choose` gives for the names on its path."""

  def init(params):
    return jax.tree_util.tree_map_with_path(
      lambda path, leaf: choose(_names(path)).init(leaf), params
    )

  def update(updates, state, params):
    leaves, structure = jax.tree_util.tree_flatten_with_path(updates)
    pairs = [
      choose(_names(path)).update(update, leaf_state, leaf)
      for (path, update), leaf_state, leaf in zip(
        leaves, structure.flatten_up_to(state), jax.tree.leaves(params), strict=True
      )
    ]
    return structure.unflatten([pair[0] for pair in pairs]), structure.unflatten(
      [pair[1] for pair in pairs]
    )

  return optax.GradientTransformation(init, update)


def _decayed(params):
  return jax.tree_util.tree_map_with_path(lambda path, _: _names(path)[-1] != "scale", params)


def _names(path):
  return [getattr(part, "key", None) for part in path]


def _checked(section):
  section = {**_DEFAULTS, **dict(section)}
  for name in ("optimizer", "learning_rate"):
    if name not in section:
      raise UserError(f"optimizer section: expected a value for {name!r}, got none")
  _expect_choice(section, "optimizer", OPTIMIZERS)
  _expect_choice(section, "schedule", SCHEDULES)
  expect = functools.partial(_expect, section)
  expect("learning_rate", "a number above 0", lambda x: x > 0)
  expect("b2", "a number from 0 to below 1", lambda x: 0 <= x < 1)
  expect("final", "a share from 0 to 1", lambda x: 0 <= x <= 1)
  expect("ema", "a number from 0 to below 1", lambda x: 0 <= x < 1)
  for name in ("warmup", "weight_decay", "clip", "l2_sp"):
    expect(name, "a number from 0", lambda x: x >= 0)
  if section["schedule"] in ("cosine", "linear"):
    expect(
      "steps", f"more steps than the warmup's {section['warmup']}", lambda x: x > section["warmup"]
    )
  return section


def _expect_choice(section, name, choices):
  if section[name] not in choices:
    raise UserError(f"{name}: expected one of {', '.join(choices)}, got {section[name]!r}")


def _expect(section, name, expected, holds):
  value = section[name]
  if isinstance(value, bool) or not isinstance(value, (int, float)) or not holds(value):
    raise UserError(f"{name}: expected {expected}, got {value!r}")

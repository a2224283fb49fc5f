"""Optimizers and learning rate schedules, each made from the settings of one frozen dataclass."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import KeyPath
from jax.typing import ArrayLike

from factshock.models import weight_groups
from factshock.runtime import settings
from factshock.runtime.errors import UserError
from factshock.runtime.settings import setting
from factshock.types import Params

# A pytree of arrays, or an optimizer's state.
Tree: TypeAlias = Any

OPTIMIZERS = ("adamw", "adafactor")
SCHEDULES = ("constant", "cosine", "linear", "rsqrt")
_BELOW_ONE = settings.Check(
  (int, float),
  lambda v: 0 <= v < 1,
  "a number from 0 to below 1",
)
# Last names of leaves that weight decay spares.
_NOT_DECAYED = ("scale", "query_bias", "key_bias", "value_bias")
_WEIGHT_GROUPS = settings.tuple_of(settings.choice(*weight_groups.GROUPS))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Settings of an optimizer and its schedule; hashable, so that it is a key of compiled steps.

  Attributes:
    optimizer: "adamw" or "adafactor".
    learning_rate: the peak of the schedule.
    schedule: how the learning rate goes on after the warmup.
    final: share of the peak at the end of a "cosine" or "linear" schedule.
    warmup: steps over which the learning rate rises to its peak.
    steps: length of the training in steps, at which the schedule ends.
    b2: decay of AdamW's second moment.
    weight_decay: times the learning rate; norm scales and biases are spared.
    clip: the largest global norm of a gradient; 0 clips nothing.
    l2_sp: times half the squared distance from the first parameters is added to the loss.
    ema: decay of a moving average of the parameters (`averaged`); 0 keeps none.
    trained: the weight groups (models/weight_groups.py) that alone are trained; all if empty.
    frozen: the weight groups that are not trained.
  """

  optimizer: str = setting(settings.choice(*OPTIMIZERS))
  learning_rate: float = setting(settings.POSITIVE)
  schedule: str = setting(settings.choice(*SCHEDULES), default="constant")
  final: float = setting(settings.SHARE, default=0.0)
  warmup: int = setting(settings.WHOLE, default=0)
  steps: int = setting(settings.WHOLE, default=0)
  b2: float = setting(settings.INSIDE, default=0.999)
  weight_decay: float = setting(settings.NOT_NEGATIVE, default=0.0)
  clip: float = setting(settings.NOT_NEGATIVE, default=0.0)
  l2_sp: float = setting(settings.NOT_NEGATIVE, default=0.0)
  ema: float = setting(_BELOW_ONE, default=0.0)
  trained: tuple[str, ...] = setting(_WEIGHT_GROUPS, default=())
  frozen: tuple[str, ...] = setting(_WEIGHT_GROUPS, default=())

  def __post_init__(self) -> None:
    settings.check_fields(self, "optimizer")

  @classmethod
  def of(cls, section: Mapping[str, Any]) -> Self:
    """Returns the settings that a section of a config names; its other keys are not read.

    Args:
      section: values by name, such as config.finetune; what it lacks takes its default.

    Raises:
      UserError: a value is missing or out of range.
    """
    return cls(**settings.values_of(cls, section, "optimizer"))


class _Average(NamedTuple):
  """State of `_moving_average`."""

  average: Params


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
  """Returns the optax transformation of an optimizer's settings.

  State and updates are float32 whatever the dtype of the parameters. (An update below 1/256 of a
  bfloat16 parameter is rounded away; float32 parameters with computation in bfloat16 keep it.)

  Raises:
    UserError: as `make_schedule`.
  """
  steps: list[optax.GradientTransformation] = []
  if config.l2_sp:
    steps.append(_pull_to_start(config.l2_sp))
  if config.clip:
    steps.append(_clip(config.clip))
  if config.optimizer == "adafactor":
    steps.append(_adafactor())
  else:
    steps.append(optax.scale_by_adam(b2=config.b2))
  if config.weight_decay:
    steps.append(optax.add_decayed_weights(config.weight_decay, mask=_is_decayed))
  if config.trained or config.frozen:
    steps.append(_train_only(config.trained, config.frozen))
  steps.append(optax.scale_by_learning_rate(make_schedule(config)))
  if config.ema:
    steps.append(_moving_average(config.ema))
  return _in_float32(optax.chain(*steps))


def make_schedule(config: OptimizerConfig) -> Callable[[ArrayLike], jax.Array]:
  """Returns the learning rate as a function of the step, which counts from 0.

  A linear warmup to the peak, then the named shape: "cosine" and "linear" fall to `final` times the
  peak at `steps` and stay there; "rsqrt" is peak * sqrt(warmup / step), T5's for a peak of 0.01 and
  a warmup of 10,000 (here with a linear warmup).

  Raises:
    UserError: a "cosine" or "linear" schedule that ends within its warmup.
  """
  problem = schedule_problem(config)
  if problem:
    raise UserError(f"optimizer.{problem}")
  shape = _shape(config)
  peak = config.learning_rate
  warmup = max(config.warmup, 1)

  def schedule(step: ArrayLike) -> jax.Array:
    # The first step of the warmup is 1/warmup and not 0, which would be a step for nothing.
    warmed = jnp.minimum(1.0, (step + 1) / warmup)
    return peak * warmed * shape(step)

  return schedule


def schedule_problem(config: OptimizerConfig) -> str | None:
  """Returns why there is no such schedule, beginning with the setting's name; None if there is."""
  if config.schedule in ("cosine", "linear") and config.steps <= config.warmup:
    return f"steps: expected more steps than the warmup's {config.warmup}, got {config.steps}"
  return None


def averaged(state: Mapping[str, Any]) -> Params:
  """Returns the moving average of the parameters in a train state, in the parameters' dtypes.

  Without one (OptimizerConfig.ema = 0) these are the parameters themselves.
  """

  def is_average(node: Any) -> bool:
    return isinstance(node, _Average)

  nodes = jax.tree.leaves(state["opt_state"], is_leaf=is_average)
  averages = [node.average for node in nodes if is_average(node)]
  params = state["params"]
  if not averages:
    return params

  def cast(param: jax.Array, average: jax.Array) -> jax.Array:
    return average.astype(param.dtype)

  return jax.tree.map(cast, params, averages[0])


def _clip(limit: float) -> optax.GradientTransformation:
  """Scales gradients down to a global norm of `limit` where theirs is larger.

  optax.clip_by_global_norm divides each gradient by the norm, which XLA for CPUs does into a copy
  of all of them; it fuses a product.
  """

  def update(updates: Tree, params: Tree) -> Tree:
    del params
    norm = optax.tree_utils.tree_norm(updates)
    factor = jnp.where(norm < limit, 1.0, limit / norm)
    return jax.tree.map(lambda leaf: leaf * factor, updates)

  return optax.stateless(update)


def _pull_to_start(strength: float) -> optax.GradientTransformation:
  """Adds the gradient of strength / 2 |parameters - first parameters|^2, which are kept.

  Source: L2-SP, Li et al. 2018, equation 2.
  """

  def init(params: Tree) -> Tree:
    # A copy: the first parameters' own buffers are given up by the first step.
    return jax.tree.map(jnp.copy, params)

  def pull(
    leaf_update: jax.Array,
    param: jax.Array,
    start: jax.Array,
  ) -> jax.Array:
    return leaf_update + strength * (param - start)

  def update(
    updates: Tree,
    state: Tree,
    params: Tree = None,
  ) -> tuple[Tree, Tree]:
    pulled = jax.tree.map(pull, updates, params, state)
    return pulled, state

  return optax.GradientTransformation(init, update)


def _moving_average(decay: float) -> optax.GradientTransformation:
  """Keeps decay * average + (1 - decay) * parameters after each step, from the first ones on.

  It changes no update.
  """

  def init(params: Tree) -> _Average:
    return _Average(jax.tree.map(jnp.copy, params))

  def move(
    average: jax.Array,
    param: jax.Array,
    leaf_update: jax.Array,
  ) -> jax.Array:
    new_param = param + leaf_update
    return decay * average + (1 - decay) * new_param

  def update(
    updates: Tree,
    state: Tree,
    params: Tree = None,
  ) -> tuple[Tree, Tree]:
    average = jax.tree.map(move, state.average, params, updates)
    return updates, _Average(average)

  return optax.GradientTransformation(init, update)


def _train_only(
  trained: tuple[str, ...],
  frozen: tuple[str, ...],
) -> optax.GradientTransformation:
  """Sets the updates of the weight groups that are not trained to 0."""

  def keep(
    leaf_update: jax.Array,
    is_trained: jax.Array,
    is_frozen: jax.Array,
  ) -> jax.Array:
    named = is_trained if trained else 1
    return leaf_update * (named * (1 - is_frozen))

  def update(updates: Tree, params: Tree) -> Tree:
    trained_mask = weight_groups.mask(params, trained)
    frozen_mask = weight_groups.mask(params, frozen)
    return jax.tree.map(keep, updates, trained_mask, frozen_mask)

  return optax.stateless(update)


def _shape(config: OptimizerConfig) -> Callable[[ArrayLike], Any]:
  """Returns the share of the peak by step, from the end of the warmup on."""
  warmup = config.warmup
  final = config.final

  def rsqrt(step: ArrayLike) -> jax.Array:
    least = max(warmup, 1)
    count = jnp.maximum(step + 1, least)
    return jnp.sqrt(least / count)

  def falling(step: ArrayLike) -> jax.Array:
    progress = (step - warmup) / span
    share = curve(jnp.clip(progress, 0, 1))
    return final + (1 - final) * share

  if config.schedule == "constant":
    return lambda step: 1.0
  if config.schedule == "rsqrt":
    return rsqrt
  span = max(config.steps - warmup, 1)
  curve = _cosine if config.schedule == "cosine" else _line
  return falling


def _cosine(share: jax.Array) -> jax.Array:
  return 0.5 + 0.5 * jnp.cos(math.pi * share)


def _line(share: jax.Array) -> jax.Array:
  return 1 - share


def _adafactor() -> optax.GradientTransformation:
  """Returns T5's Adafactor: factored, no momentum, updates relative to each parameter's RMS.

  Stacked layers are taken one by one, so that a stack trains as its layers would apart.
  Source: Shazeer and Stern 2018.
  """
  of_layer = optax.chain(
    _factored_rms(),
    optax.clip_by_block_rms(1.0),
    optax.scale_by_param_block_rms(),
  )
  of_stack = optax.GradientTransformation(
    jax.vmap(of_layer.init),
    jax.vmap(of_layer.update),
  )
  return _leaf_by_leaf(lambda names: of_stack if "layers" in names else of_layer)


def _factored_rms() -> optax.GradientTransformation:
  """Returns optax.scale_by_factored_rms for one array, whose factors are there before they scale.

  XLA for GPUs put the mean over rows into the kernel that scales them: on an H100 that took 25
  times as long, 88 of the 381 ms of a step of T5 large.
  """
  inner = optax.scale_by_factored_rms()

  def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
    new_state: Tree = inner.update(updates, state, params)[1]
    if new_state.v.shape == updates.shape:  # too small to be factored
      return updates * new_state.v**-0.5, new_state
    second, largest = (int(axis) for axis in np.argsort(updates.shape)[-2:])
    mean_axis = second - (second > largest)
    row_mean = jnp.mean(new_state.v_row, axis=mean_axis, keepdims=True)
    factors = (new_state.v_row / row_mean) ** -0.5, new_state.v_col**-0.5
    if jax.default_backend() != "cpu":
      factors = jax.lax.optimization_barrier(factors)
    of_rows, of_columns = factors
    scaled = updates * jnp.expand_dims(of_rows, largest)
    return scaled * jnp.expand_dims(of_columns, second), new_state

  return optax.GradientTransformation(inner.init, update)


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
  """Casts parameters and gradients for a transformation, so that its state is float32."""

  def widen(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)

  def init(params: Tree) -> Tree:
    return inner.init(widen(params))

  def update(
    updates: Tree,
    state: Tree,
    params: Tree = None,
  ) -> tuple[Tree, Tree]:
    return inner.update(widen(updates), state, widen(params))

  return optax.GradientTransformation(init, update)


def _leaf_by_leaf(
  choose: Callable[[list[str]], optax.GradientTransformation],
) -> optax.GradientTransformation:
  """Applies to each leaf, alone, the transformation that `choose` gives for its path's names."""

  def init_leaf(path: KeyPath, leaf: jax.Array) -> Tree:
    transformation = choose(_names(path))
    return transformation.init(leaf)

  def init(params: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(init_leaf, params)

  def update(
    updates: Tree,
    state: Tree,
    params: Tree = None,
  ) -> tuple[Tree, Tree]:
    leaves, structure = jax.tree_util.tree_flatten_with_path(updates)
    states = structure.flatten_up_to(state)
    params_of = jax.tree.leaves(params)
    new_updates = []
    new_states = []
    for (path, leaf_update), leaf_state, leaf in zip(leaves, states, params_of, strict=True):
      transformation = choose(_names(path))
      new_update, new_state = transformation.update(leaf_update, leaf_state, leaf)
      new_updates.append(new_update)
      new_states.append(new_state)
    return structure.unflatten(new_updates), structure.unflatten(new_states)

  return optax.GradientTransformation(init, update)


def _is_decayed(params: Tree) -> Tree:
  """Returns True for every leaf but the scales of norms and biases of attention."""

  def is_decayed(path: KeyPath, _leaf: jax.Array) -> bool:
    return _names(path)[-1] not in _NOT_DECAYED

  return jax.tree_util.tree_map_with_path(is_decayed, params)


def _names(path: KeyPath) -> list[str]:
  return [getattr(key, "key", "") for key in path]

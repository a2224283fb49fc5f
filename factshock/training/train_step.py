"""One training step as a pure function of (state, batch, key)."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias, TypedDict

import jax
import jax.numpy as jnp
import optax

from factshock.data import batching
from factshock.models import families, layers, remat
from factshock.models.model_config import ModelConfig
from factshock.runtime.errors import UserError
from factshock.types import Batch, Params

LOGIT_BYTES = 1 << 29  # of the whole batch, over all devices

# Sums over a batch by name, or a step's metrics: float32 scalars.
Scalars: TypeAlias = dict[str, jax.Array]

# Function of (params, batch=, key=, and frozen= of adapters): the loss's sum, and sums for metrics.
LossFn: TypeAlias = Callable[..., tuple[jax.Array, Scalars]]

# A batch's loss sum, its other sums, and the gradient of the loss's mean over the step's tokens.
_Total: TypeAlias = tuple[jax.Array, Scalars, Params]


class TrainState(TypedDict):
  """State between two steps; `step` is an int32 scalar, the number of steps done."""

  params: Params
  opt_state: Any
  step: jax.Array


# Function of (state, batch, key, frozen=None): the state after the step, and its metrics.
StepFn: TypeAlias = Callable[..., tuple[TrainState, Scalars]]


def loss_fn(
  params: Params,
  model_config: ModelConfig,
  batch: Batch,
  key: jax.Array | None = None,
) -> tuple[jax.Array, Scalars]:
  """Returns the weighted sum of the negative log-likelihood of a batch's targets.

  Args:
    params: of a family of models.families.
    model_config: the model's.
    batch: of an encoder-decoder `inputs` [B, S], `targets` [B, T], `weights` [B, T], and of packed
      rows `input_segments`, `target_segments`; of a decoder-only model `tokens`, `weights` [B, S],
      each weight that of its token as the one predicted, and of packed rows `segments`; where all
      others have weight 0 also `predicted` [B, K], the positions of those that count, then zeros.
      With soft labels also what `soft_losses` takes.
    key: random key of dropout, or None for no dropout.

  Returns:
    (The loss's sum, natural log; sums `correct` and `tokens`, each weighted by `weights`), float32.
  """
  family = families.of(model_config)
  places: Params = {
    "hidden": family.hidden(params, model_config, batch, key),
    **_labels(batch, family.decoder_only),
  }
  if "predicted" in batch:
    # The others' logits count in no loss. What predicts a token stands before it.
    at = functools.partial(_at_positions, (batch["predicted"] - 1) % batch["tokens"].shape[1])
    places = jax.tree.map(at, places)

  def sums(places: Params) -> tuple[jax.Array, Scalars]:
    logits = family.head(params, model_config, places["hidden"])
    return _weighted_sums(logits, places)

  pieces = _piece_count(places["targets"].shape, model_config.vocab_size)
  if pieces == 1:
    return sums(places)
  # Logits are computed again in the backward pass, a piece of the positions at a time: they are
  # never there as a whole.
  cut_positions = functools.partial(_cut_positions, pieces)
  cut = jax.tree.map(cut_positions, places)
  sums_by_piece = jax.lax.map(remat.checkpoint(sums), cut)
  return jax.tree.map(jnp.sum, sums_by_piece)


def _weighted_sums(
  logits: jax.Array,
  places: Params,
) -> tuple[jax.Array, Scalars]:
  """Returns the loss's sum, and the sums `correct` and `tokens`, over positions with logits."""
  targets = places["targets"]
  weights = places["weights"]
  soft = places["soft"]
  if soft:
    nll_BxT, correct_BxT = soft_losses(logits, targets, **soft)
  else:
    nll_BxT, correct_BxT = token_losses(logits, targets)
  loss = jnp.sum(weights * nll_BxT)
  correct = jnp.sum(weights * correct_BxT)
  tokens = jnp.sum(weights)
  return loss, {"correct": correct, "tokens": tokens}


def _labels(batch: Batch, decoder_only: bool) -> dict[str, Any]:
  """Returns the `targets`, `weights` and `soft` labels of each position of a batch."""
  soft = {name: array for name, array in batch.items() if name.startswith("answer_")}
  if decoder_only:
    # Each position predicts the token after it; the last one none.
    own = (batch["tokens"], batch["weights"], soft)
    targets, weights, soft = jax.tree.map(_next_position, own)
    weights = weights.at[:, -1].set(0)
  else:
    targets = batch["targets"]
    weights = batch["weights"]
  return {
    "targets": targets,
    "weights": weights.astype(jnp.float32),
    "soft": soft,
  }


def _next_position(array_BxS: jax.Array) -> jax.Array:
  return jnp.roll(array_BxS, -1, axis=1)


def _at_positions(
  positions_BxK: jax.Array,
  array: jax.Array,
) -> jax.Array:
  """Returns what an array [B, S, ...] holds at some positions of each row, [B, K, ...]."""
  rows_Bx1 = jnp.arange(array.shape[0])[:, None]
  return array[rows_Bx1, positions_BxK]


def _cut_positions(pieces: int, array: jax.Array) -> jax.Array:
  """Turns [B, T, ...] into [pieces, B, T / pieces, ...]."""
  rows, positions, *others = array.shape
  length = positions // pieces
  cut = array.reshape(rows, pieces, length, *others)
  return jnp.moveaxis(cut, 1, 0)


def _piece_count(shape: tuple[int, ...], vocab_size: int) -> int:
  """Returns into how many pieces positions are cut so that a piece's logits fit LOGIT_BYTES."""
  rows, positions = shape
  for pieces in range(1, positions + 1):
    is_even = positions % pieces == 0
    logit_bytes = 4 * rows * positions // pieces * vocab_size
    if is_even and logit_bytes <= LOGIT_BYTES:
      return pieces
  return positions


def token_losses(
  logits_BxTxV: jax.Array,
  targets_BxT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns each target's negative log-likelihood, and 1.0 where no token is likelier.

  Both are float32 [B, T], natural log. The target's logit is picked by comparing indices, which XLA
  fuses: no one-hot array, no scatter.
  """
  logits = logits_BxTxV.astype(jnp.float32)
  token_ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
  is_target = token_ids == targets_BxT[:, :, None]
  target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
  largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
  relative = logits - largest[:, :, None]
  relative_sum = jnp.sum(jnp.exp(relative), axis=-1)
  log_sum = largest + jnp.log(relative_sum)
  nll_BxT = log_sum - target_logit
  is_best = target_logit >= largest
  return nll_BxT, is_best.astype(jnp.float32)


def soft_losses(
  logits_BxTxV: jax.Array,
  targets_BxT: jax.Array,
  answer_tokens: jax.Array,
  answer_shares: jax.Array,
  answer_shifts: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns as `token_losses` where a position's label may be a distribution: its cross-entropy.

  Args:
    logits_BxTxV: of each position.
    targets_BxT: the label of a position without a distribution.
    answer_tokens: [B, T, K] the tokens that may stand there; below 0, none.
    answer_shares: [B, T, K] their probabilities; all 0 for a position that has its target as the
      label.
    answer_shifts: [B, T, K] what is added to their logits, or None.
  """
  logits = jnp.asarray(logits_BxTxV, jnp.float32)
  is_answer = answer_tokens >= 0
  rows, positions, _ = jnp.indices(answer_tokens.shape, sparse=True)
  token_ids = jnp.maximum(answer_tokens, 0)
  indices = (rows, positions, token_ids)
  if answer_shifts is not None:
    shifts = jnp.where(is_answer, answer_shifts, 0.0)
    logits = logits.at[indices].add(shifts)
  hard_BxT, correct_BxT = token_losses(logits, targets_BxT)
  shares = jnp.where(is_answer, answer_shares, 0.0)
  target_ids = targets_BxT[:, :, None].clip(0)
  target_logit = jnp.take_along_axis(logits, target_ids, axis=2)
  # The target's own loss, and by how much a mixture of labels has another logit than the target.
  gaps = target_logit - logits[indices]
  soft_BxT = hard_BxT + jnp.sum(shares * gaps, axis=2)
  return soft_BxT, correct_BxT


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
  """Returns the state before the first step."""
  return {
    "params": params,
    "opt_state": optimizer.init(params),
    "step": jnp.zeros((), jnp.int32),
  }


def make_train_step(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  accumulate: int = 1,
  axis: str | None = None,
) -> StepFn:
  """Returns `step(state, batch, key, frozen=None) -> (state, metrics)`, pure: jit it.

  Its randomness is fold_in(key, state["step"]); the state may be donated. `frozen`, where given,
  goes to loss_fn as `frozen=`: parameters that are not trained, as under LoRA. The metrics are
  `loss` and `accuracy` (means over the weights of the whole batch), `gradient_norm` (before
  clipping), `tokens` (sum of the weights), `read_tokens` and `places` (tokens that are no padding,
  and all). When traced it raises UserError where the batch is no multiple of `accumulate`.

  Args:
    loss_fn: function of (params, batch=, key=) that returns (loss sum, dict of sums with `tokens`
      and `correct`), such as `functools.partial(train_step.loss_fn, model_config=model_config)`.
    optimizer: optax transformation.
    accumulate: number of microbatches the batch is cut into; the gradient is the whole batch's.
    axis: None, or the name of a mapped axis (pmap) whose members each have a share of the batch.
  """

  def step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    frozen: Params | None = None,
  ) -> tuple[TrainState, Scalars]:
    step_key = _step_key(key, state["step"], axis)
    loss_of = loss_fn if frozen is None else functools.partial(loss_fn, frozen=frozen)
    total = _gradients(loss_of, state["params"], batch, step_key, accumulate, axis)
    loss, sums, gradients = _with_token_counts(total, batch, axis)
    return _updated(state, optimizer, loss, sums, gradients)

  return step


def _step_key(
  key: jax.Array,
  step: jax.Array,
  axis: str | None,
) -> jax.Array:
  """Returns the random key of a step, of each member of a mapped axis another."""
  step_key = jax.random.fold_in(key, step)
  if axis:
    return jax.random.fold_in(step_key, jax.lax.axis_index(axis))
  return step_key


def _with_token_counts(
  total: _Total,
  batch: Batch,
  axis: str | None,
) -> _Total:
  """Returns a batch's sums with its token counts, summed over the mapped axis if there is one."""
  loss, sums, gradients = total
  total = (loss, {**sums, **_token_counts(batch)}, gradients)
  if axis:
    # Sums, not means: the shares of a batch may hold different numbers of tokens.
    return jax.lax.psum(total, axis)
  return total


def _updated(
  state: TrainState,
  optimizer: optax.GradientTransformation,
  loss: jax.Array,
  sums: Scalars,
  gradients: Params,
) -> tuple[TrainState, Scalars]:
  """Returns the state after a step with the sums of its batch, and the step's metrics."""
  params = state["params"]
  tokens = _divisor(sums)
  opt_state = state["opt_state"]
  updates, opt_state = optimizer.update(gradients, opt_state, params)
  metrics = {
    "loss": loss / tokens,
    "accuracy": sums["correct"] / tokens,
    "gradient_norm": _norm(gradients),
    "tokens": sums["tokens"],
    "read_tokens": sums["read_tokens"],
    "places": sums["places"],
  }
  new_params: Any = optax.apply_updates(params, updates)
  new_state: TrainState = {
    "params": new_params,
    "opt_state": opt_state,
    "step": state["step"] + 1,
  }
  return new_state, metrics


def _divisor(sums: Scalars, axis: str | None = None) -> jax.Array:
  """Returns the tokens that means are over, of all members of the mapped axis if there is one.

  A batch of padding alone has a loss of 0, not of 0/0.
  """
  tokens = jax.lax.psum(sums["tokens"], axis) if axis else sums["tokens"]
  return jnp.maximum(tokens, 1e-9)


def _token_counts(batch: Batch) -> Scalars:
  """Returns how many of a batch's tokens are no padding, and how many positions there are."""
  read: Any = 0
  positions = 0
  for name, pad in batching.token_fields(batch).items():
    tokens = batch[name]
    read += jnp.sum(tokens != pad)
    positions += tokens.size
  return {
    "read_tokens": read.astype(jnp.float32),
    "places": jnp.float32(positions),
  }


def _norm(tree: Params) -> jax.Array:
  """Returns the Euclidean norm of all numbers of a tree, in float32."""
  squares = []
  for leaf in jax.tree.leaves(tree):
    wide = leaf.astype(jnp.float32)
    squares.append(jnp.sum(jnp.square(wide)))
  return jnp.sqrt(sum(squares))


def _gradients(
  loss_fn: LossFn,
  params: Params,
  batch: Batch,
  key: jax.Array,
  accumulate: int,
  axis: str | None,
) -> _Total:
  """Returns (loss sum, other sums, gradient of the mean loss), summed over the microbatches.

  The mean is over the tokens of all members of the mapped axis.
  """
  if accumulate == 1:
    loss_of = functools.partial(loss_fn, batch=batch, key=key)
    loss, pull_back, sums = jax.vjp(loss_of, params, has_aux=True)
    # Divided where the reverse pass begins: later each gradient would be read and written once
    # more, and XLA would hold a second copy of the embedding's.
    (gradients,) = pull_back(1 / _divisor(sums, axis))
    return loss, sums, gradients

  value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

  def gradient(batch: Batch, key: jax.Array) -> _Total:
    (loss, sums), gradients = value_and_grad(params, batch=batch, key=key)
    return loss, sums, gradients

  loss, sums, gradients = _summed(gradient, batch, key, accumulate)
  tokens = _divisor(sums, axis)
  means = jax.tree.map(lambda gradient: gradient / tokens, gradients)
  if layers.on_cpu():
    # Else XLA divides into a second copy of them, as the norm reads them too.
    means = jax.lax.optimization_barrier(means)
  return loss, sums, means


def _summed(
  function: Callable[[Batch, jax.Array], _Total],
  batch: Batch,
  key: jax.Array,
  count: int,
) -> _Total:
  """Returns the float32 sum of what a function gives for each of `count` microbatches."""
  microbatches = {name: _split(name, array, count) for name, array in batch.items()}
  keys = jax.random.split(key, count)
  first = {name: array[0] for name, array in microbatches.items()}
  shapes = jax.eval_shape(function, first, keys[0])
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes)

  def add(total: Any, batch_and_key: tuple[Batch, jax.Array]) -> tuple[Any, None]:
    added = function(*batch_and_key)
    return jax.tree.map(jnp.add, total, added), None

  batches_and_keys = (microbatches, keys)
  total, _ = jax.lax.scan(add, zeros, batches_and_keys)
  return total


def _split(
  name: str,
  array: jax.Array,
  count: int,
) -> jax.Array:
  """Turns [B, ...] into [count, B / count, ...].

  Microbatch i has the rows i, i + count, ..., so that a batch sharded in runs of rows over devices
  stays where it is.
  """
  rows, *others = array.shape
  if rows % count:
    raise UserError(
      f"accumulate: expected a divisor of the batch size {rows} ({name}), got {count}"
    )
  cut = array.reshape(rows // count, count, *others)
  return jnp.moveaxis(cut, 1, 0)

"""One training step as a pure function of (state, batch, key)."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias, TypedDict

import jax
import jax.numpy as jnp
import optax

from factshock.data import batching
from factshock.models import families, remat
from factshock.models.model_config import ModelConfig
from factshock.runtime.errors import UserError
from factshock.types import Batch, Params

LOGIT_BYTES = 1 << 29  # of the whole batch, over all devices

# Sums over a batch by name, or a step's metrics: float32 scalars.
Scalars: TypeAlias = dict[str, jax.Array]

# Function of (params, batch=, key=, and frozen= of adapters): the loss's sum, and sums for metrics.
LossFn: TypeAlias = Callable[..., tuple[jax.Array, Scalars]]


class TrainState(TypedDict):
  """State between two steps; `step` is an int32 scalar, the number of steps done."""

  params: Params
  opt_state: Any
  step: jax.Array


# Function of (state, batch, key, frozen=None): the state after the step, and its metrics.
StepFn: TypeAlias = Callable[..., tuple[TrainState, Scalars]]


def loss_fn(
  params: Params, model_config: ModelConfig, batch: Batch, key: jax.Array | None = None
) -> tuple[jax.Array, Scalars]:
  """Returns the weighted sum of the negative log-likelihood of a batch's targets.

  Args:
    params: of a family of models.families.
    model_config: the model's.
    batch: of an encoder-decoder `inputs` [B, S], `targets` [B, T], `weights` [B, T], and of packed
      rows `input_segments`, `target_segments`; of a decoder-only model `tokens`, `weights` [B, S],
      each weight that of its token as the one predicted, and of packed rows `segments`. With soft
      labels also what `soft_losses` takes.
    key: random key of dropout, or None for no dropout.

  Returns:
    (The loss's sum, natural log; sums `correct` and `tokens`, each weighted by `weights`), float32.
  """
  family = families.of(model_config)
  places: Params = {
    "hidden": family.hidden(params, model_config, batch, key),
    **_labels(batch, family.decoder_only),
  }

  def sums(places: Params) -> tuple[jax.Array, Scalars]:
    logits = family.head(params, model_config, places["hidden"])
    if places["soft"]:
      nll_BxT, correct_BxT = soft_losses(logits, places["targets"], **places["soft"])
    else:
      nll_BxT, correct_BxT = token_losses(logits, places["targets"])
    loss = jnp.sum(places["weights"] * nll_BxT)
    correct = jnp.sum(places["weights"] * correct_BxT)
    return loss, {"correct": correct, "tokens": jnp.sum(places["weights"])}

  pieces = _piece_count(places["targets"].shape, model_config.vocab_size)
  if pieces == 1:
    return sums(places)
  # Logits are computed again in the backward pass, a piece of the positions at a time: they are
  # never there as a whole.
  cut = jax.tree.map(functools.partial(_cut_positions, pieces), places)
  return jax.tree.map(jnp.sum, jax.lax.map(remat.checkpoint(sums), cut))


def _labels(batch: Batch, decoder_only: bool) -> dict[str, Any]:
  """Returns the `targets`, `weights` and `soft` labels of each position of a batch."""
  soft = {name: array for name, array in batch.items() if name.startswith("answer_")}
  if decoder_only:
    # Each position predicts the token after it; the last one none.
    targets, weights, soft = jax.tree.map(_next_position, (batch["tokens"], batch["weights"], soft))
    weights = weights.at[:, -1].set(0)
  else:
    targets = batch["targets"]
    weights = batch["weights"]
  return {"targets": targets, "weights": weights.astype(jnp.float32), "soft": soft}


def _next_position(array_BxS: jax.Array) -> jax.Array:
  return jnp.roll(array_BxS, -1, axis=1)


def _cut_positions(pieces: int, array: jax.Array) -> jax.Array:
  """Turns [B, T, ...] into [pieces, B, T / pieces, ...]."""
  rows, positions, *others = array.shape
  return jnp.moveaxis(array.reshape(rows, pieces, positions // pieces, *others), 1, 0)


def _piece_count(shape: tuple[int, ...], vocab_size: int) -> int:
  """Returns into how many pieces positions are cut so that a piece's logits fit LOGIT_BYTES."""
  rows, positions = shape
  for pieces in range(1, positions + 1):
    logit_bytes = 4 * rows * positions // pieces * vocab_size
    if positions % pieces == 0 and logit_bytes <= LOGIT_BYTES:
      return pieces
  return positions


def token_losses(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns each target's negative log-likelihood, and 1.0 where no token is likelier.

  Both are float32 [B, T], natural log. The target's logit is picked by comparing indices, which XLA
  fuses: no one-hot array, no scatter.
  """
  logits = logits_BxTxV.astype(jnp.float32)
  is_target = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets_BxT[:, :, None]
  target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
  largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
  log_sum = largest + jnp.log(jnp.sum(jnp.exp(logits - largest[:, :, None]), axis=-1))
  return log_sum - target_logit, (target_logit >= largest).astype(jnp.float32)


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
  rows, positions = jnp.indices(answer_tokens.shape, sparse=True)[:2]
  indices = (rows, positions, jnp.maximum(answer_tokens, 0))
  if answer_shifts is not None:
    logits = logits.at[indices].add(jnp.where(is_answer, answer_shifts, 0.0))
  hard_BxT, correct_BxT = token_losses(logits, targets_BxT)
  shares = jnp.where(is_answer, answer_shares, 0.0)
  target_logit = jnp.take_along_axis(logits, targets_BxT[:, :, None].clip(0), axis=2)
  # The target's own loss, and by how much a mixture of labels has another logit than the target.
  soft_BxT = hard_BxT + jnp.sum(shares * (target_logit - logits[indices]), axis=2)
  return soft_BxT, correct_BxT


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
  """Returns the state before the first step."""
  return {"params": params, "opt_state": optimizer.init(params), "step": jnp.zeros((), jnp.int32)}


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
    state: TrainState, batch: Batch, key: jax.Array, frozen: Params | None = None
  ) -> tuple[TrainState, Scalars]:
    key = jax.random.fold_in(key, state["step"])
    if axis:
      key = jax.random.fold_in(key, jax.lax.axis_index(axis))
    loss_of = loss_fn if frozen is None else functools.partial(loss_fn, frozen=frozen)
    loss, sums, gradients = _gradients(loss_of, state["params"], batch, key, accumulate)
    sums = {**sums, **_token_counts(batch)}
    if axis:
      # Sums, not means: the shares of a batch may hold different numbers of tokens.
      loss, sums, gradients = jax.lax.psum((loss, sums, gradients), axis)
    # A batch of padding alone has a loss of 0, not of 0/0.
    tokens = jnp.maximum(sums["tokens"], 1e-9)
    gradients = jax.tree.map(lambda x: (x / tokens).astype(x.dtype), gradients)
    updates, opt_state = optimizer.update(gradients, state["opt_state"], state["params"])
    metrics = {
      "loss": loss / tokens,
      "accuracy": sums["correct"] / tokens,
      "gradient_norm": _norm(gradients),
      **{name: sums[name] for name in ("tokens", "read_tokens", "places")},
    }
    params: Any = optax.apply_updates(state["params"], updates)
    return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, metrics

  return step


def _token_counts(batch: Batch) -> Scalars:
  """Returns how many of a batch's tokens are no padding, and how many positions there are."""
  padded = [(batch[name], pad) for name, pad in batching.token_fields(batch).items()]
  read: Any = sum(jnp.sum(tokens != pad) for tokens, pad in padded)
  positions = sum(tokens.size for tokens, _ in padded)
  return {"read_tokens": read.astype(jnp.float32), "places": jnp.float32(positions)}


def _norm(tree: Params) -> jax.Array:
  """Returns the Euclidean norm of all numbers of a tree, in float32."""
  squares = (jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree))
  return jnp.sqrt(sum(squares))


def _gradients(
  loss_fn: LossFn, params: Params, batch: Batch, key: jax.Array, accumulate: int
) -> tuple[jax.Array, Scalars, Params]:
  """Returns (loss sum, other sums, gradient of the loss sum), summed over the microbatches."""

  def gradient(batch: Batch, key: jax.Array) -> tuple[jax.Array, Scalars, Params]:
    (loss, sums), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
      params, batch=batch, key=key
    )
    return loss, sums, gradients

  if accumulate == 1:
    return gradient(batch, key)
  microbatches = {name: _split(name, array, accumulate) for name, array in batch.items()}
  keys = jax.random.split(key, accumulate)
  first = jax.tree.map(lambda x: x[0], microbatches)
  shapes = jax.eval_shape(gradient, first, keys[0])
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes)

  def add(total: Any, batch_and_key: tuple[Batch, jax.Array]) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, gradient(*batch_and_key)), None

  total: Any = jax.lax.scan(add, zeros, (microbatches, keys))[0]
  return total


def _split(name: str, array: jax.Array, count: int) -> jax.Array:
  """Turns [B, ...] into [count, B / count, ...].

  Microbatch i has the rows i, i + count, ..., so that a batch sharded in runs of rows over devices
  stays where it is.
  """
  if array.shape[0] % count:
    raise UserError(
      f"accumulate: expected a divisor of the batch size {array.shape[0]} ({name}), got {count}"
    )
  return jnp.moveaxis(array.reshape(array.shape[0] // count, count, *array.shape[1:]), 1, 0)

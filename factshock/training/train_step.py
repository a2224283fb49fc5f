"""One training step as a pure function of (state, batch, key)."""

import functools

import jax
import jax.numpy as jnp
import optax

from factshock.models import families, remat
from factshock.runtime.errors import UserError

LOGIT_BYTES = 1 << 29  # of the whole batch, over all devices


def loss_fn(params, config, batch, key=None):
  """Weighted sum of the negative log-likelihood of the tokens to be predicted, and sums for metrics.

  Args:
    params, config: of a family of models.families.
    batch: for a T5 dict of `inputs` [B, S], `targets` [B, T], `weights` [B, T], and for packed rows
      `input_segments`, `target_segments`; for a decoder-only model `tokens`, `weights` [B, S], each weight
      that of its token as the one predicted, and for packed rows `segments`. For soft labels also what `soft_losses` takes.
    key: random key of dropout, or None for none.
  Returns: (loss sum, dict of `correct` and `tokens`, each weighted by `weights`), float32 scalars.
  """
  soft = {name: array for name, array in batch.items() if name.startswith("answer_")}
  family = families.of(config)
  hidden = family.hidden(params, config, batch, key)
  if family.decoder_only:
    # Each place predicts the token after it; the last one none.
    targets, weights, soft = jax.tree.map(_after, (batch["tokens"], batch["weights"], soft))
    weights = weights.at[:, -1].set(0)
  else:
    targets = batch["targets"]
    weights = batch["weights"]

  def sums(part):
    logits = family.head(params, config, part["hidden"])
    nll_BxT, correct_BxT = (
      soft_losses(logits, part["targets"], **part["soft"])
      if soft
      else token_losses(logits, part["targets"])
    )
    return jnp.sum(part["weights"] * nll_BxT), {
      "correct": jnp.sum(part["weights"] * correct_BxT),
      "tokens": jnp.sum(part["weights"]),
    }

  whole = {
    "hidden": hidden,
    "targets": targets,
    "weights": weights.astype(jnp.float32),
    "soft": soft,
  }
  parts = _parts(targets.shape, config.vocab_size)
  if parts == 1:
    return sums(whole)
  # Logits are computed again in the backward pass, a part of the places at a time: they are never there as a whole.
  cut = jax.tree.map(
    lambda x: jnp.moveaxis(x.reshape(x.shape[0], parts, x.shape[1] // parts, *x.shape[2:]), 1, 0),
    whole,
  )
  return jax.tree.map(jnp.sum, jax.lax.map(remat.checkpoint(sums), cut))


def _after(array_BxS):
  return jnp.roll(array_BxS, -1, axis=1)


def _parts(shape, vocabulary):
  """Into how many parts of the places a batch's logits are cut, so that those of one part are at most LOGIT_BYTES."""
  rows, places = shape
  return next(
    (
      parts
      for parts in range(1, places + 1)
      if places % parts == 0 and 4 * rows * places // parts * vocabulary <= LOGIT_BYTES
    ),
    places,
  )


def token_losses(logits_BxTxV, targets_BxT):
  """(Negative log-likelihood, 1.0 where no token is likelier) of each target: float32 [B, T] both.

  The target's logit is picked by comparing indices, which XLA fuses: no one-hot array, no scatter.
  """
  logits = logits_BxTxV.astype(jnp.float32)
  is_target = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets_BxT[:, :, None]
  target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
  largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
  log_sum = largest + jnp.log(jnp.sum(jnp.exp(logits - largest[:, :, None]), axis=-1))
  return log_sum - target_logit, (target_logit >= largest).astype(jnp.float32)


def soft_losses(logits_BxTxV, targets_BxT, answer_tokens, answer_shares, answer_shifts=None):
  """As `token_losses`, where a position's label may be a distribution: the cross-entropy to it.

  Args:
    answer_tokens: [B, T, K] the tokens that may stand there; below 0, none. answer_shares: [B, T, K] their probabilities; all 0 for a
      position that has its target as the label. answer_shifts: [B, T, K] what is added to their logits, or None.
  """
  logits = jnp.asarray(logits_BxTxV, jnp.float32)
  there = answer_tokens >= 0
  places = tuple(jnp.indices(answer_tokens.shape, sparse=True)[:2]) + (
    jnp.maximum(answer_tokens, 0),
  )
  if answer_shifts is not None:
    logits = logits.at[places].add(jnp.where(there, answer_shifts, 0.0))
  hard_BxT, correct_BxT = token_losses(logits, targets_BxT)
  shares = jnp.where(there, answer_shares, 0.0)
  target_logit = jnp.take_along_axis(logits, targets_BxT[:, :, None].clip(0), axis=2)
  # The target's own loss, and by how much a mixture of labels has another logit than the target.
  soft_BxT = hard_BxT + jnp.sum(shares * (target_logit - logits[places]), axis=2)
  return soft_BxT, correct_BxT


def init_state(params, optimizer):
  """The state before the first step: dict of `params`, `opt_state` and `step` (int32 scalar)."""
  return {"params": params, "opt_state": optimizer.init(params), "step": jnp.zeros((), jnp.int32)}


def make_train_step(loss_fn, optimizer, accumulate=1, axis=None):
  """Builds `step(state, batch, key, frozen=None) -> (state, metrics)`, pure: jit it, with the state donated.

  Args:
    loss_fn: function of (params, batch=, key=) that returns (loss sum, dict of sums with `tokens` and
      `correct`); for T5 `functools.partial(train_step.loss_fn, config=config)`.
    optimizer: optax transformation.
    accumulate: number of microbatches the batch is cut into; the gradient is that of the whole batch.
    axis: None, or the name of a mapped axis (pmap) whose members each have a part of the batch.
  `frozen`, where given, goes to loss_fn as `frozen=`: parameters that are not trained, as under LoRA.
  Metrics: `loss` and `accuracy` (means over the weights of the whole batch), `gradient_norm` (before
  clipping), `tokens` (sum of the weights), `read_tokens` and `places` (tokens that are no padding, and all). The step's randomness is fold_in(key, state["step"]).
  Raises (when traced): UserError where the batch is no multiple of `accumulate`.
  """

  def step(state, batch, key, frozen=None):
    key = jax.random.fold_in(key, state["step"])
    if axis:
      key = jax.random.fold_in(key, jax.lax.axis_index(axis))
    of = loss_fn if frozen is None else functools.partial(loss_fn, frozen=frozen)
    loss, sums, gradients = _gradients(of, state["params"], batch, key, accumulate)
    sums = {**sums, **_filled(batch)}
    if axis:  # sums, not means: the parts of a batch may hold different numbers of tokens
      loss, sums, gradients = jax.lax.psum((loss, sums, gradients), axis)
    tokens = jnp.maximum(sums["tokens"], 1e-9)  # a batch of padding alone: a loss of 0, not of 0/0
    gradients = jax.tree.map(lambda x: (x / tokens).astype(x.dtype), gradients)
    updates, opt_state = optimizer.update(gradients, state["opt_state"], state["params"])
    metrics = {
      "loss": loss / tokens,
      "accuracy": sums["correct"] / tokens,
      "gradient_norm": _norm(gradients),
      **{name: sums[name] for name in ("tokens", "read_tokens", "places")},
    }
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, metrics

  return step


def _filled(batch):
  """How many of a batch's tokens are no padding, and how many places there are."""
  kinds = (
    [(batch["tokens"], -1)]
    if "tokens" in batch
    else [(batch[name], 0) for name in ("inputs", "targets")]
  )
  return {
    "read_tokens": sum(jnp.sum(tokens != pad) for tokens, pad in kinds).astype(jnp.float32),
    "places": jnp.float32(sum(tokens.size for tokens, _ in kinds)),
  }


def _norm(tree):
  return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)))


def _gradients(loss_fn, params, batch, key, accumulate):
  """(loss sum, other sums, gradient of the loss sum), summed over the microbatches."""

  def of(batch, key):
    (loss, sums), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
      params, batch=batch, key=key
    )
    return loss, sums, gradients

  if accumulate == 1:
    return of(batch, key)
  parts = {name: _split(name, array, accumulate) for name, array in batch.items()}
  keys = jax.random.split(key, accumulate)
  first = jax.tree.map(lambda x: x[0], parts)
  wide = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), jax.eval_shape(of, first, keys[0]))
  total, _ = jax.lax.scan(
    lambda total, part: (jax.tree.map(jnp.add, total, of(*part)), None), wide, (parts, keys)
  )
  return total


def _split(name, array, count):
  """[B, ...] to [count, B / count, ...]; part i has the rows i, i + count, ..., so that a batch sharded in
  runs of rows over devices stays where it is."""
  if array.shape[0] % count:
    raise UserError(
      f"accumulate: expected a divisor of the batch size {array.shape[0]} ({name}), got {count}"
    )
  return jnp.moveaxis(array.reshape(array.shape[0] // count, count, *array.shape[1:]), 1, 0)

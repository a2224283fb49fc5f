"""Training of the one-layer model: W_V on the corpus, then W_KQ on facts, by gradient descent.

Steps are of the full batch. W_V learns with equal attention; W_KQ learns with W_V frozen. All
functions take arrays of K seeds and run them side by side: as many as the caches hold on a CPU,
else all.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from factshock.runtime.errors import UserError
from factshock.theory import one_layer
from factshock.types import Array

# Seeds on a CPU: with 8 a step of a world of 5,000 facts and 100 answers takes twice as long for
# each.
_AT_A_TIME = 2

Weights = TypeVar("Weights", bound=dict[str, jax.Array])


@functools.partial(jax.jit, static_argnames=("answers", "ends"))
def pretrain(
  answers_KxSxR: Array,
  counts_KxSxR: Array,
  *,
  answers: int,
  ends: tuple[int, ...],
  learning_rate: float,
  cosine: float = 0.0,
) -> tuple[one_layer.Values, jax.Array]:
  """Returns W_V after each number of steps of gradient descent from zero, W_KQ held at zero.

  The loss is the corpus's mean over its sentences, so a fact's gradient is in proportion to how
  often it is stated.

  Args:
    answers_KxSxR: the answer of each fact.
    counts_KxSxR: how often the corpus states it.
    answers: A, of all relations.
    ends: E rising numbers of steps.
    learning_rate: of gradient descent.
    cosine: between the embeddings of two subjects.

  Returns:
    (W_V with arrays [K, E, ...], losses [K, steps]).
  """

  def one_seed(answers_SxR: jax.Array, counts_SxR: jax.Array) -> tuple[one_layer.Values, jax.Array]:
    weights_SxR = counts_SxR / counts_SxR.sum()
    a_SxR = jnp.full(answers_SxR.shape, 0.5)

    def corpus_loss(w_v: one_layer.Values) -> jax.Array:
      f_SxRxA = one_layer.logits(one_layer.subject_values(w_v, cosine), w_v["relation"], a_SxR)
      return one_layer.loss(f_SxRxA, answers_SxR, weights_SxR)

    subjects, relations = answers_SxR.shape
    zero = one_layer.zero_values(subjects, relations, answers)
    return descend(corpus_loss, zero, ends, learning_rate)

  return over_seeds(one_seed, answers_KxSxR, counts_KxSxR)


@functools.partial(jax.jit, static_argnames="ends")
def finetune(
  v_KxFxA: Array,
  v_KxRxA: Array,
  answers_KxFxR: Array,
  weights_KxFxR: Array,
  *,
  ends: tuple[int, ...],
  learning_rate: float,
  cosine: float = 0.0,
) -> tuple[one_layer.KeyQuery, jax.Array]:
  """Returns W_KQ after each number of steps from zero on the facts of F subjects.

  Its `subject` entries are those of the F subjects; of all others they stay zero.

  Args:
    v_KxFxA: values of the subjects, frozen.
    v_KxRxA: values of the relations' tokens, frozen.
    answers_KxFxR: the answer of each fact.
    weights_KxFxR: of each fact in the loss; they add up to 1.
    ends: E rising numbers of steps.
    learning_rate: of gradient descent.
    cosine: between the embeddings of two subjects.

  Returns:
    (W_KQ with arrays [K, E, ...], losses [K, steps]).
  """

  def one_seed(
    v_FxA: jax.Array,
    v_RxA: jax.Array,
    answers_FxR: jax.Array,
    weights_FxR: jax.Array,
  ) -> tuple[one_layer.KeyQuery, jax.Array]:
    def facts_loss(w_kq: one_layer.KeyQuery) -> jax.Array:
      f_FxRxA = one_layer.logits(v_FxA, v_RxA, one_layer.attention(w_kq, cosine))
      return one_layer.loss(f_FxRxA, answers_FxR, weights_FxR)

    return descend(facts_loss, one_layer.zero_attention(*answers_FxR.shape), ends, learning_rate)

  return over_seeds(one_seed, v_KxFxA, v_KxRxA, answers_KxFxR, weights_KxFxR)


def over_seeds(function: Callable[..., Any], *arrays_K: Any) -> Any:
  """Returns `function` of each seed's arrays, vmapped.

  Args:
    function: of the arrays of one seed; returns a pytree of arrays.
    *arrays_K: arrays, or pytrees of them, with the seeds on the first axis.
  """
  seeds = len(jax.tree.leaves(arrays_K)[0])
  at_a_time = _AT_A_TIME if jax.default_backend() == "cpu" else seeds
  return jax.lax.map(lambda of_seed: function(*of_seed), arrays_K, batch_size=min(at_a_time, seeds))


def descend(
  loss: Callable[[Weights], jax.Array],
  weights: Weights,
  ends: Sequence[int],
  learning_rate: float,
) -> tuple[Weights, jax.Array]:
  """Returns the weights after each of some numbers of steps of gradient descent, and the losses.

  Args:
    loss: function of the weights.
    weights: where it begins.
    ends: E rising numbers of steps.
    learning_rate: of gradient descent.

  Returns:
    (weights, stacked on a new first axis [E, ...]; the loss before each step [steps]).
  """

  def step(weights: Weights, _: None) -> tuple[Weights, jax.Array]:
    value, gradient = jax.value_and_grad(loss)(weights)
    return jax.tree.map(lambda w, g: w - learning_rate * g, weights, gradient), value

  kept: list[Weights] = []
  losses: list[jax.Array] = []
  for start, end in zip((0, *ends), ends):
    weights, losses_of_part = jax.lax.scan(step, weights, length=end - start)
    kept.append(weights)
    losses.append(losses_of_part)
  return jax.tree.map(lambda *arrays: jnp.stack(arrays), *kept), jnp.concatenate(losses)


def check_finite(
  losses_KxE: Array,
  stage: str,
  learning_rate: float,
) -> None:
  """Checks that every loss is finite.

  Args:
    losses_KxE: losses of each seed and step.
    stage: its name, for the message.
    learning_rate: of the stage, for the message.

  Raises:
    UserError: names the first step whose loss is not finite.
  """
  bad_E = ~np.isfinite(np.asarray(losses_KxE)).all(axis=0)
  if bad_E.any():
    raise UserError(
      f"{stage}: the loss of step {int(bad_E.argmax())} is not finite; choose a learning_rate "
      f"below {learning_rate:g}"
    )

"""How the one-layer model learns: W_V on the corpus with equal attention, then W_KQ on facts with W_V frozen. Full-batch gradient descent.

All functions take arrays of K seeds and run them side by side: as many as the caches hold on a CPU, else all.
"""

import functools

import jax
import jax.numpy as jnp

from factshock.runtime.errors import UserError
from factshock.theory import one_layer

_AT_A_TIME = 2  # seeds on a CPU: with 8 a step of a world of 5,000 facts and 100 answers takes twice as long for each


@functools.partial(jax.jit, static_argnames=("answers", "ends"))
def pretrain(answers_KxSxR, counts_KxSxR, *, answers, ends, learning_rate, cosine=0.0):
  """W_V after each number of steps of gradient descent from zero, W_KQ held at zero: (W_V with arrays [K, E, ...], losses [K, steps]).

  The loss is the corpus's mean over its sentences, so a fact's gradient is in proportion to how often it is stated.

  Args:
    answers: A, of all relations. ends: tuple of E rising numbers of steps.
  """

  def one(answers_SxR, counts_SxR):
    weights_SxR = counts_SxR / counts_SxR.sum()
    a_SxR = jnp.full(answers_SxR.shape, 0.5)

    def corpus_loss(w_v):
      f_SxRxA = one_layer.logits(one_layer.subject_values(w_v, cosine), w_v["relation"], a_SxR)
      return one_layer.loss(f_SxRxA, answers_SxR, weights_SxR)

    return descend(
      corpus_loss, one_layer.zero_values(*answers_SxR.shape, answers), ends, learning_rate
    )

  return over_seeds(one, answers_KxSxR, counts_KxSxR)


@functools.partial(jax.jit, static_argnames="ends")
def finetune(v_KxFxA, v_KxRxA, answers_KxFxR, weights_KxFxR, *, ends, learning_rate, cosine=0.0):
  """W_KQ after each number of steps from zero on the facts of F subjects: (W_KQ with arrays [K, E, ...], losses [K, steps]).

  Its `subject` entries are those of the F subjects; of all others they stay zero.

  Args:
    v_KxFxA, v_KxRxA: values of the subjects and of the relations' tokens, frozen.
    weights_KxFxR: of each fact in the loss; they add up to 1.
  """

  def one(v_FxA, v_RxA, answers_FxR, weights_FxR):
    def facts_loss(w_kq):
      return one_layer.loss(
        one_layer.logits(v_FxA, v_RxA, one_layer.attention(w_kq, cosine)), answers_FxR, weights_FxR
      )

    return descend(facts_loss, one_layer.zero_attention(*answers_FxR.shape), ends, learning_rate)

  return over_seeds(one, v_KxFxA, v_KxRxA, answers_KxFxR, weights_KxFxR)


def over_seeds(function, *arrays_K):
  """`function` of each seed's arrays, vmapped."""
  seeds = len(jax.tree.leaves(arrays_K)[0])
  at_a_time = _AT_A_TIME if jax.default_backend() == "cpu" else seeds
  return jax.lax.map(lambda of_seed: function(*of_seed), arrays_K, batch_size=min(at_a_time, seeds))


def descend(loss, weights, ends, learning_rate):
  """Gradient descent: (the weights after each of `ends` steps, stacked on a new first axis; the loss before each step)."""

  def step(weights, _):
    value, gradient = jax.value_and_grad(loss)(weights)
    return jax.tree.map(lambda w, g: w - learning_rate * g, weights, gradient), value

  kept = []
  losses = []
  for start, end in zip((0, *ends), ends):
    weights, some = jax.lax.scan(step, weights, length=end - start)
    kept.append(weights)
    losses.append(some)
  return jax.tree.map(lambda *several: jnp.stack(several), *kept), jnp.concatenate(losses)


def check_finite(losses_KxE, what, learning_rate):
  """Raises a UserError that names the first step whose loss is not finite."""
  bad_E = ~jnp.isfinite(losses_KxE).all(axis=0)
  if bad_E.any():
    raise UserError(
      f"{what}: the loss of step {int(bad_E.argmax())} is not finite; choose a learning_rate below {learning_rate:g}"
    )

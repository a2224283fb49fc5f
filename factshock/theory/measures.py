"""Measures of the one-layer model: before finetuning, and on subjects that it left out."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from factshock.theory import one_layer, training
from factshock.types import Array


@functools.partial(jax.jit, static_argnames="bins")
def on_test(
  v_KxTxA: Array,
  v_KxRxA: Array,
  answers_KxTxR: Array,
  common_KxR: Array,
  w_kq: Mapping[str, Array],
  *,
  bins: int,
  cosine: float = 0.0,
) -> dict[str, jax.Array]:
  """Returns measures of test subjects at each of E steps of a finetuning that they took no part in.

  Such subjects share one attention logit in a relation: their own entries of W_KQ stay zero.

  Args:
    v_KxTxA: values of the test subjects, most popular first.
    v_KxRxA: values of the relations' tokens.
    answers_KxTxR: the answer of each fact.
    common_KxR: each relation's most common answer.
    w_kq: `shared` and `relation`, [K, E, R].
    bins: parts of equal size that the subjects are cut into by popularity.
    cosine: between the embeddings of two subjects.

  Returns:
    `accuracy` [K, E], `accuracy_by_bin` [K, E, bins], `common` [K, E], the share of answers that
    are their relation's most common one, and `attention` [K, E, R], on the subject.
  """

  of_seed = functools.partial(_on_test_of_seed, bins=bins, cosine=cosine)
  return training.over_seeds(
    of_seed, v_KxTxA, v_KxRxA, answers_KxTxR, common_KxR, w_kq["shared"], w_kq["relation"]
  )


def _on_test_of_seed(
  v_TxA: jax.Array,
  v_RxA: jax.Array,
  answers_TxR: jax.Array,
  common_R: jax.Array,
  shared_ExR: jax.Array,
  relation_ExR: jax.Array,
  *,
  bins: int,
  cosine: float,
) -> dict[str, jax.Array]:
  """Returns the measures of one seed; see `on_test`."""

  def at_step(
    _: None,
    entries: tuple[jax.Array, jax.Array],
  ) -> tuple[None, dict[str, jax.Array]]:
    shared_R, relation_R = entries
    w_kq = {
      **one_layer.zero_attention(*answers_TxR.shape),
      "shared": shared_R,
      "relation": relation_R,
    }
    a_TxR = one_layer.attention(w_kq, cosine)
    predicted_TxR = one_layer.logits(v_TxA, v_RxA, a_TxR).argmax(axis=-1)
    right_T = (predicted_TxR == answers_TxR).mean(axis=1)
    by_bin = jnp.stack([part.mean() for part in jnp.array_split(right_T, bins)])
    return None, {
      "accuracy": right_T.mean(),
      "accuracy_by_bin": by_bin,
      "common": (predicted_TxR == common_R[None]).mean(),
      "attention": a_TxR[0],
    }

  return jax.lax.scan(at_step, None, (shared_ExR, relation_ExR))[1]


@jax.jit
def before(
  v_KxSxA: Array,
  v_KxRxA: Array,
  answers_KxSxR: Array,
) -> dict[str, jax.Array]:
  """Returns measures of each fact before finetuning, at equal attention: arrays [K, S, R].

  `right`, `salience`, and `update`, minus the closed-form gradient of its own loss by the attention
  logit of its subject: where positive, finetuning on the fact raises attention to its subject and
  lowers it on the relation.
  """

  def one_seed(
    v_SxA: jax.Array,
    v_RxA: jax.Array,
    answers_SxR: jax.Array,
  ) -> dict[str, jax.Array]:
    a_SxR = jnp.full(answers_SxR.shape, 0.5)
    return {
      "right": one_layer.logits(v_SxA, v_RxA, a_SxR).argmax(axis=-1) == answers_SxR,
      "salience": one_layer.salience(v_SxA, answers_SxR),
      "update": -one_layer.attention_gradient(v_SxA, v_RxA, a_SxR, answers_SxR),
    }

  return training.over_seeds(one_seed, v_KxSxA, v_KxRxA, answers_KxSxR)


def common_answers(
  answers_KxSxR: Array,
  counts_KxSxR: Array,
  answers: int,
) -> jax.Array:
  """Returns the answer that the corpus gives most often in each relation: int [K, R].

  It is numbered as the answers are.

  Args:
    answers_KxSxR: the answer of each fact.
    counts_KxSxR: how often the corpus states it.
    answers: A, of all relations.
  """
  hot_KxSxRxA = jax.nn.one_hot(answers_KxSxR, answers)
  return jnp.einsum("ksr,ksra->kra", counts_KxSxR, hot_KxSxRxA).argmax(axis=-1)

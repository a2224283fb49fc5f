"""What the one-layer model answers and where it looks: before finetuning, and on subjects it was not finetuned on."""

import functools

import jax
import jax.numpy as jnp

from factshock.theory import one_layer, training


@functools.partial(jax.jit, static_argnames="bins")
def on_test(v_KxTxA, v_KxRxA, answers_KxTxR, common_KxR, w_kq, *, bins, cosine=0.0):
  """Measures of test subjects, most popular first, at each of E steps of a finetuning that they took no part in.

  Such subjects share one attention logit in a relation: their own entries of W_KQ stay zero.

  Args:
    common_KxR: each relation's most common answer. w_kq: dict of `shared` and `relation`, [K, E, R]. bins: parts of equal size
      that the subjects are cut into by popularity.
  Returns: dict of `accuracy` [K, E], `accuracy_by_bin` [K, E, bins], `common` [K, E], the share of answers that are their relation's most
    common one, and `attention` [K, E, R], on the subject.
  """

  def one(v_TxA, v_RxA, answers_TxR, common_R, shared_ExR, relation_ExR):
    def at(_, entries):
      w_kq = {
        **one_layer.zero_attention(*answers_TxR.shape),
        "shared": entries[0],
        "relation": entries[1],
      }
      a_TxR = one_layer.attention(w_kq, cosine)
      said_TxR = one_layer.logits(v_TxA, v_RxA, a_TxR).argmax(axis=-1)
      right_T = (said_TxR == answers_TxR).mean(axis=1)
      by_bin = jnp.stack([part.mean() for part in jnp.array_split(right_T, bins)])
      return None, {
        "accuracy": right_T.mean(),
        "accuracy_by_bin": by_bin,
        "common": (said_TxR == common_R[None]).mean(),
        "attention": a_TxR[0],
      }

    return jax.lax.scan(at, None, (shared_ExR, relation_ExR))[1]

  return training.over_seeds(
    one, v_KxTxA, v_KxRxA, answers_KxTxR, common_KxR, w_kq["shared"], w_kq["relation"]
  )


@jax.jit
def before(v_KxSxA, v_KxRxA, answers_KxSxR):
  """Of each fact before finetuning, at equal attention: dict of [K, S, R].

  `right`, `salience`, and `update`, minus the closed-form gradient of its own loss by the attention logit of its subject: where
  positive, finetuning on the fact raises attention to its subject and lowers it on the relation.
  """

  def one(v_SxA, v_RxA, answers_SxR):
    a_SxR = jnp.full(answers_SxR.shape, 0.5)
    return {
      "right": one_layer.logits(v_SxA, v_RxA, a_SxR).argmax(axis=-1) == answers_SxR,
      "salience": one_layer.salience(v_SxA, answers_SxR),
      "update": -one_layer.attention_gradient(v_SxA, v_RxA, a_SxR, answers_SxR),
    }

  return training.over_seeds(one, v_KxSxA, v_KxRxA, answers_KxSxR)


def common_answers(answers_KxSxR, counts_KxSxR, answers):
  """The answer that the corpus gives most often in each relation: int [K, R]; numbered as the answers are."""
  hot = jax.nn.one_hot(answers_KxSxR, answers)
  return jnp.einsum("ksr,ksra->kra", counts_KxSxR, hot).argmax(axis=-1)

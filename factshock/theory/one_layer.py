"""One-layer, one-head transformer of arXiv 2406.14785 on [subject, relation], computed exactly.

  f = W_H^T (a_s W_V phi(s) + a_r W_V phi(r)),  a = softmax over {s, r} of phi(.)^T W_KQ phi(r),
  cross-entropy loss.

Token embeddings phi are fixed and orthogonal, or those of subjects share a direction u:
phi(s) = sqrt(1 - c) e_s + sqrt(c) u, c the cosine between two subjects. Gradient descent commutes
with rotations, so any orthonormal embeddings give the course that unit vectors give; W_V and W_KQ
are therefore held in the basis of the tokens: a column of W_H^T W_V for each token, and of W_KQ the
entries of each key with each relation as query. Nothing is lost by that, and a step costs no
product of D x D matrices. Pure JAX.

Sizes: S subjects, R relations, A answers of all relations. `cosine` is c.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

# W_V by `subject` [S, A], `shared` [A] (of the direction u) and `relation` [R, A].
Values: TypeAlias = dict[str, jax.Array]
# W_KQ by `subject` [S, R], `shared` [R] and `relation` [R].
KeyQuery: TypeAlias = dict[str, jax.Array]


def zero_values(
  subjects: int,
  relations: int,
  answers: int,
) -> Values:
  """Returns W_V of zeros; v_j = W_H^T W_V phi(j).

  `subject` is [S, A], `shared` [A] (of the direction u) and `relation` [R, A].
  """
  return {
    "subject": jnp.zeros((subjects, answers)),
    "shared": jnp.zeros(answers),
    "relation": jnp.zeros((relations, answers)),
  }


def zero_attention(subjects: int, relations: int) -> KeyQuery:
  """Returns W_KQ of zeros, equal attention: logits of keys with a relation as query.

  `subject` is [S, R], `shared` [R] and `relation` [R].
  """
  return {
    "subject": jnp.zeros((subjects, relations)),
    "shared": jnp.zeros(relations),
    "relation": jnp.zeros(relations),
  }


def subject_values(w_v: Values, cosine: float = 0.0) -> jax.Array:
  """Returns v_s = W_H^T W_V phi(s) of each subject: [S, A]."""
  return jnp.sqrt(1 - cosine) * w_v["subject"] + jnp.sqrt(cosine) * w_v["shared"][None]


def attention(w_kq: KeyQuery, cosine: float = 0.0) -> jax.Array:
  """Returns a_s, the attention to the subject in each fact's query: [S, R].

  The rest, a_r = 1 - a_s, is on the relation.
  """
  of_subject_SxR = jnp.sqrt(1 - cosine) * w_kq["subject"] + jnp.sqrt(cosine) * w_kq["shared"][None]
  return jax.nn.sigmoid(of_subject_SxR - w_kq["relation"][None])


def logits(
  v_SxA: jax.Array,
  v_RxA: jax.Array,
  a_SxR: jax.Array,
) -> jax.Array:
  """Returns f = a_s v_s + a_r v_r of each fact's query: [S, R, A]."""
  return a_SxR[..., None] * v_SxA[:, None] + (1 - a_SxR[..., None]) * v_RxA[None]


def loss(
  f_SxRxA: jax.Array,
  answers_SxR: jax.Array,
  weights_SxR: jax.Array,
) -> jax.Array:
  """Returns the cross-entropy in nats, averaged with weights that sum to 1."""
  of_answer = jnp.take_along_axis(f_SxRxA, answers_SxR[..., None], axis=-1)[..., 0]
  return jnp.sum(weights_SxR * (jax.nn.logsumexp(f_SxRxA, axis=-1) - of_answer))


def salience(v_SxA: jax.Array, answers_SxR: jax.Array) -> jax.Array:
  """Returns the factual salience S(s, r, a) = phi(a)^T W_V phi(s): [S, R].

  It is how strongly each fact is stored.
  """
  return jnp.take_along_axis(v_SxA, answers_SxR, axis=1)


def attention_gradient(
  v_SxA: jax.Array,
  v_RxA: jax.Array,
  a_SxR: jax.Array,
  answers_SxR: jax.Array,
) -> jax.Array:
  """Returns dL / d(attention logit of s) of each fact alone, in closed form: [S, R].

  It is -a_s (e_a - p)^T (v_s - sum_j a_j v_j). The sum is over {s, r}, so it is
  -a_s a_r (e_a - p)^T (v_s - v_r); that of the relation's logit is its negative. Negative:
  finetuning on the fact raises attention to the subject. Own derivation from the model above.

  Args:
    v_SxA: values of the subjects.
    v_RxA: values of the relations' tokens.
    a_SxR: attention to the subject.
    answers_SxR: the answer of each fact.
  """
  f_SxRxA = logits(v_SxA, v_RxA, a_SxR)
  error_SxRxA = jax.nn.one_hot(answers_SxR, v_SxA.shape[1], dtype=v_SxA.dtype) - jax.nn.softmax(
    f_SxRxA
  )
  mean_SxRxA = f_SxRxA  # sum_j a_j v_j is what the logits are
  return -a_SxR * jnp.sum(error_SxRxA * (v_SxA[:, None] - mean_SxRxA), axis=-1)


def closed_form_values(
  answers_SxR: jax.Array,
  counts_SxR: jax.Array,
  answers: int,
  exposure: float,
  cosine: float = 0.0,
) -> Values:
  """Returns W_V after one step of gradient descent from zero, with equal attention.

  It is linear in frequency: salience is then exposure / 2 * (1 - c) * (count of the fact - count of
  the subject / A) / all counts, and more where u is shared.

  Args:
    answers_SxR: as in worlds.World, of one seed.
    counts_SxR: as in worlds.World, of one seed.
    answers: A.
    exposure: size of the step, learning rate times steps.
    cosine: c.
  """
  weights_SxR = counts_SxR / counts_SxR.sum()
  error_SxRxA = weights_SxR[..., None] * (jax.nn.one_hot(answers_SxR, answers) - 1 / answers)
  by_subject_SxA = exposure / 2 * error_SxRxA.sum(axis=1)
  by_relation_RxA = exposure / 2 * error_SxRxA.sum(axis=0)
  return {
    "subject": jnp.sqrt(1 - cosine) * by_subject_SxA,
    "shared": jnp.sqrt(cosine) * by_subject_SxA.sum(axis=0),
    "relation": by_relation_RxA,
  }


def salience_of_exposure(exposure: np.ndarray, answers: int) -> np.ndarray:
  """Returns the salience of a fact after gradient flow from zero.

  It holds where the relation's token says which `answers` the fact's is among, and no more. With u
  the logit of the fact's answer over the others' and w t = exposure (learning rate x steps x the
  fact's share of the corpus), equal attention gives du / dt = w n / (2 (e^(u/2) + n - 1)), so
  2 (e^(u/2) - 1) + (n - 1) u = n w t / 2, which Lambert's W solves; values add up to 0, so
  S = u (n - 1) / n. Linear in frequency at first, then logarithmic. Own derivation.

  Args:
    exposure: of each fact.
    answers: n, at least 2.
  """
  k = (1 + answers * np.asarray(exposure, float) / 4) / (answers - 1)
  # W(e^k / (n - 1)) by its logarithm: e^k overflows.
  half_u = k - special.wrightomega(k - np.log(answers - 1.0))
  return 2 * half_u * (answers - 1) / answers

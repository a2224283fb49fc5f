"""The one-layer, one-head transformer of arXiv 2406.14785 on [subject, relation], computed exactly. Pure JAX.

  f = W_H^T (a_s W_V phi(s) + a_r W_V phi(r)),  a = softmax over {s, r} of phi(.)^T W_KQ phi(r),  cross-entropy loss.

Token embeddings phi are fixed and orthogonal, or those of subjects share a direction u: phi(s) = sqrt(1 - c) e_s + sqrt(c) u, c the
cosine between two subjects. Gradient descent commutes with rotations, so any orthonormal embeddings give the course that
unit vectors give; W_V and W_KQ are therefore held in the basis of the tokens: a column of W_H^T W_V for each token, and of W_KQ the
entries of each key with each relation as query. Nothing is lost by that, and a step costs no product of D x D matrices.

Sizes: S subjects, R relations, A answers of all relations. `cosine` is c.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special


def zero_values(subjects, relations, answers):
  """W_V of zeros: dict of `subject` [S, A], `shared` [A] (of the direction u) and `relation` [R, A]; v_j = W_H^T W_V phi(j)."""
  return {
    "subject": jnp.zeros((subjects, answers)),
    "shared": jnp.zeros(answers),
    "relation": jnp.zeros((relations, answers)),
  }


def zero_attention(subjects, relations):
  """W_KQ of zeros, equal attention: dict of `subject` [S, R], `shared` [R] and `relation` [R], logits of keys with a relation as query."""
  return {
    "subject": jnp.zeros((subjects, relations)),
    "shared": jnp.zeros(relations),
    "relation": jnp.zeros(relations),
  }


def subject_values(w_v, cosine=0.0):
  """v_s = W_H^T W_V phi(s) of each subject: [S, A]."""
  return jnp.sqrt(1 - cosine) * w_v["subject"] + jnp.sqrt(cosine) * w_v["shared"][None]


def attention(w_kq, cosine=0.0):
  """a_s, the attention to the subject in each fact's query: [S, R]. The rest, a_r = 1 - a_s, is on the relation."""
  of_subject_SxR = jnp.sqrt(1 - cosine) * w_kq["subject"] + jnp.sqrt(cosine) * w_kq["shared"][None]
  return jax.nn.sigmoid(of_subject_SxR - w_kq["relation"][None])


def logits(v_SxA, v_RxA, a_SxR):
  """f = a_s v_s + a_r v_r of each fact's query: [S, R, A]."""
  return a_SxR[..., None] * v_SxA[:, None] + (1 - a_SxR[..., None]) * v_RxA[None]


def loss(f_SxRxA, answers_SxR, weights_SxR):
  """Cross-entropy in nats, averaged with weights that sum to 1."""
  of_answer = jnp.take_along_axis(f_SxRxA, answers_SxR[..., None], axis=-1)[..., 0]
  return jnp.sum(weights_SxR * (jax.nn.logsumexp(f_SxRxA, axis=-1) - of_answer))


def salience(v_SxA, answers_SxR):
  """Factual salience S(s, r, a) = phi(a)^T W_V phi(s), how strongly each fact is stored: [S, R]."""
  return jnp.take_along_axis(v_SxA, answers_SxR, axis=1)


def attention_gradient(v_SxA, v_RxA, a_SxR, answers_SxR):
  """dL / d(attention logit of s) of each fact alone, in closed form: -a_s (e_a - p)^T (v_s - sum_j a_j v_j) [S, R].

  The sum is over {s, r}, so it is -a_s a_r (e_a - p)^T (v_s - v_r); that of the relation's logit is its negative.
  Negative: finetuning on the fact raises attention to the subject. Own derivation from the model above.
  """
  f_SxRxA = logits(v_SxA, v_RxA, a_SxR)
  error_SxRxA = jax.nn.one_hot(answers_SxR, v_SxA.shape[1], dtype=v_SxA.dtype) - jax.nn.softmax(
    f_SxRxA
  )
  mean_SxRxA = f_SxRxA  # sum_j a_j v_j is what the logits are
  return -a_SxR * jnp.sum(error_SxRxA * (v_SxA[:, None] - mean_SxRxA), axis=-1)


def closed_form_values(answers_SxR, counts_SxR, answers, exposure, cosine=0.0):
  """W_V after one step of gradient descent from zero, of size `exposure`, with equal attention: linear in frequency.

  Salience is then exposure / 2 * (1 - c) * (count of the fact - count of the subject / A) / all counts, and more where u is shared.

  Args:
    answers_SxR, counts_SxR: as in worlds.World, of one seed. answers: A. exposure: learning rate times steps.
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


def salience_of_exposure(exposure, answers):
  """Salience of a fact after gradient flow from zero, where its relation's token says which `answers` it is among, and no more.

  With u the logit of the fact's answer over the others' and w t = exposure (learning rate x steps x the fact's share of the corpus),
  equal attention gives du / dt = w n / (2 (e^(u/2) + n - 1)), so 2 (e^(u/2) - 1) + (n - 1) u = n w t / 2, which Lambert's W solves;
  values add up to 0, so S = u (n - 1) / n. Linear in frequency at first, then logarithmic. Own derivation.

  Args:
    exposure: numpy array. answers: n, at least 2.
  """

  k = (1 + answers * np.asarray(exposure, float) / 4) / (answers - 1)
  # W(e^k / (n - 1)) by its logarithm: e^k overflows.
  half_u = k - special.wrightomega(k - np.log(answers - 1.0))
  return 2 * half_u * (answers - 1) / answers

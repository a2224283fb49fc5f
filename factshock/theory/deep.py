"""Models with explicit embeddings and matrices: the one-layer model, and what it leaves out.

That is several heads, more layers, all weights trained. Tokens are subjects, then relations. At
layer l each position j adds sum_h sum_(k <= j) a_hjk W_V_h x_k to its vector x_j, x = phi(token) at
first; the logits are W_H^T of what the layers added at the relation's position. With one layer and
head, orthonormal embeddings and W_H, that is one_layer. Pure JAX.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

# `embedding` [tokens, D], `head` [D, A], `value` and `key_query` [L, H, D, D].
Weights: TypeAlias = dict[str, jax.Array]
# Weights, steps done, the last loss and share right.
_State: TypeAlias = tuple[Weights, int, jax.Array, jax.Array]


def init(
  key: jax.Array,
  *,
  subjects: int,
  relations: int,
  answers: int,
  dim: int,
  layers: int = 1,
  heads: int = 1,
  attention_scale: float = 0.0,
) -> Weights:
  """Returns random orthonormal embeddings and W_H, W_V of zeros, W_KQ normal.

  Args:
    key: of the random generator.
    subjects: how many there are.
    relations: how many there are.
    answers: A, of all relations.
    dim: D, at least tokens + A.
    layers: L.
    heads: H.
    attention_scale: standard deviation of phi^T W_KQ phi; heads that start alike stay alike, so
      several need one above 0.

  Raises:
    ValueError: so many vectors cannot be orthonormal.
  """
  tokens = subjects + relations
  _check_dim(tokens, answers, dim)
  rotation_key, attention_key = jax.random.split(key)
  rotation_DxD = jnp.linalg.qr(jax.random.normal(rotation_key, (dim, dim)))[0]
  matrices = (layers, heads, dim, dim)
  return {
    "embedding": rotation_DxD[:tokens],
    "head": rotation_DxD[tokens : tokens + answers].T,
    "value": jnp.zeros(matrices),
    "key_query": attention_scale * jax.random.normal(attention_key, matrices),
  }


def _check_dim(tokens: int, answers: int, dim: int) -> None:
  if dim < tokens + answers:
    raise ValueError(
      f"expected a dim of at least {tokens + answers} for {tokens} tokens and {answers} answers, "
      f"got {dim}"
    )


def forward(params: Weights, tokens_Nx2: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the logits of [subject, relation] queries, and the attention to the subject.

  Args:
    params: of the model.
    tokens_Nx2: subject and relation of each query.

  Returns:
    (logits [N, A], attention of the last position to the subject [N, L, H]).
  """
  x_Nx2xD = start_Nx2xD = params["embedding"][tokens_Nx2]
  attention = []
  for w_v_HxDxD, w_kq_HxDxD in zip(params["value"], params["key_query"]):
    logits_HxNx2 = jnp.einsum("nkd,hde,ne->hnk", x_Nx2xD, w_kq_HxDxD, x_Nx2xD[:, 1])
    a_HxNx2 = jax.nn.softmax(logits_HxNx2)
    read_HxNx2xD = jnp.einsum("hed,nkd->hnke", w_v_HxDxD, x_Nx2xD)
    of_relation_NxD = jnp.einsum("hnk,hnke->ne", a_HxNx2, read_HxNx2xD)
    of_subject_NxD = read_HxNx2xD[:, :, 0].sum(axis=0)  # it sees itself alone
    x_Nx2xD = x_Nx2xD + jnp.stack([of_subject_NxD, of_relation_NxD], axis=1)
    attention.append(a_HxNx2[..., 0].T)
  return (x_Nx2xD - start_Nx2xD)[:, 1] @ params["head"], jnp.stack(attention, axis=1)


def loss(
  params: Weights,
  tokens_Nx2: jax.Array,
  answers_N: jax.Array,
  weights_N: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns the cross-entropy in nats, and the share of queries answered right.

  Args:
    params: of the model.
    tokens_Nx2: subject and relation of each query.
    answers_N: right answers.
    weights_N: of each query in the mean; they sum to 1.
  """
  f_NxA, _ = forward(params, tokens_Nx2)
  of_answer_N = jnp.take_along_axis(jax.nn.log_softmax(f_NxA), answers_N[:, None], axis=1)[:, 0]
  return -jnp.sum(weights_N * of_answer_N), (f_NxA.argmax(axis=-1) == answers_N).mean()


def train(
  params: Weights,
  trained: Sequence[str],
  tokens_Nx2: jax.Array,
  answers_N: jax.Array,
  weights_N: jax.Array,
  *,
  steps: int,
  learning_rate: float,
  known: float = float("inf"),
) -> tuple[Weights, jax.Array]:
  """Returns the weights after full-batch gradient descent, and the last loss.

  Args:
    params: where it begins.
    trained: names of the arrays that are trained, the others are frozen.
    tokens_Nx2: subject and relation of each query.
    answers_N: right answers.
    weights_N: of each query in the loss; they sum to 1.
    steps: how many at most.
    learning_rate: of gradient descent.
    known: share of the queries answered right with which it ends before.
  """
  frozen = {name: array for name, array in params.items() if name not in trained}
  descent = jax.value_and_grad(
    lambda weights: loss({**frozen, **weights}, tokens_Nx2, answers_N, weights_N), has_aux=True
  )

  def step(state: _State) -> _State:
    weights, done, *_ = state
    (value, right), gradient = descent(weights)
    rate = jnp.where(right < known, learning_rate, 0.0)  # the weights that know enough are the last
    return jax.tree.map(lambda w, g: w - rate * g, weights, gradient), done + 1, value, right

  begin = {name: params[name] for name in trained}, 0, jnp.float32(0), jnp.float32(-1)
  weights, _, value, _ = jax.lax.while_loop(
    lambda state: (state[1] < steps) & (state[3] < known), step, begin
  )
  return {**frozen, **weights}, value

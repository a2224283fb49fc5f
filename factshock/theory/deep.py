"""The one-layer model with explicit embeddings and matrices, and what it leaves out: several heads, more layers, all weights trained. Pure JAX.

Tokens are subjects, then relations. At layer l each position j adds sum_h sum_(k <= j) a_hjk W_V_h x_k to its vector x_j, x = phi(token)
at first; the logits are W_H^T of what the layers added at the relation's position. With one layer and head, orthonormal embeddings and
W_H, that is one_layer.
"""

import jax
import jax.numpy as jnp


def init(key, *, subjects, relations, answers, dim, layers=1, heads=1, attention_scale=0.0):
  """Random orthonormal embeddings [tokens, D] and W_H [D, A], W_V of zeros [L, H, D, D], W_KQ normal [L, H, D, D]: a dict of arrays.

  Args:
    answers: A, of all relations. dim: D, at least tokens + A. attention_scale: standard deviation of phi^T W_KQ phi; heads that
      start alike stay alike, so several need one above 0.
  Raises: ValueError where so many vectors cannot be orthonormal.
  """
  tokens = subjects + relations
  if dim < tokens + answers:
    raise ValueError(
      f"expected a dim of at least {tokens + answers} for {tokens} tokens and {answers} answers, got {dim}"
    )
  of_rotation, of_attention = jax.random.split(key)
  rotation_DxD = jnp.linalg.qr(jax.random.normal(of_rotation, (dim, dim)))[0]
  return {
    "embedding": rotation_DxD[:tokens],
    "head": rotation_DxD[tokens : tokens + answers].T,
    "value": jnp.zeros((layers, heads, dim, dim)),
    "key_query": attention_scale * jax.random.normal(of_attention, (layers, heads, dim, dim)),
  }


def forward(params, tokens_Nx2):
  """Logits of [subject, relation] queries, [N, A], and the attention of the last position to the subject, [N, L, H]."""
  x_Nx2xD = start_Nx2xD = params["embedding"][tokens_Nx2]
  looked = []
  for w_v_HxDxD, w_kq_HxDxD in zip(params["value"], params["key_query"]):
    logits_HxNx2 = jnp.einsum("nkd,hde,ne->hnk", x_Nx2xD, w_kq_HxDxD, x_Nx2xD[:, 1])
    a_HxNx2 = jax.nn.softmax(logits_HxNx2)
    read_HxNx2xD = jnp.einsum("hed,nkd->hnke", w_v_HxDxD, x_Nx2xD)
    of_relation_NxD = jnp.einsum("hnk,hnke->ne", a_HxNx2, read_HxNx2xD)
    of_subject_NxD = read_HxNx2xD[:, :, 0].sum(axis=0)  # it sees itself alone
    x_Nx2xD = x_Nx2xD + jnp.stack([of_subject_NxD, of_relation_NxD], axis=1)
    looked.append(a_HxNx2[..., 0].T)
  return (x_Nx2xD - start_Nx2xD)[:, 1] @ params["head"], jnp.stack(looked, axis=1)


def loss(params, tokens_Nx2, answers_N, weights_N):
  """(Cross-entropy in nats, averaged with weights that sum to 1; the share of queries answered right)."""
  f_NxA, _ = forward(params, tokens_Nx2)
  of_answer_N = jnp.take_along_axis(jax.nn.log_softmax(f_NxA), answers_N[:, None], axis=1)[:, 0]
  return -jnp.sum(weights_N * of_answer_N), (f_NxA.argmax(axis=-1) == answers_N).mean()


def train(
  params, trained, tokens_Nx2, answers_N, weights_N, *, steps, learning_rate, known=jnp.inf
):
  """(Params after full-batch gradient descent on the arrays named in `trained`, the others frozen; the last loss).

  It ends after `steps`, or before, when the share `known` of the queries is answered right.
  """
  frozen = {name: array for name, array in params.items() if name not in trained}
  descent = jax.value_and_grad(
    lambda w: loss({**frozen, **w}, tokens_Nx2, answers_N, weights_N), has_aux=True
  )

  def step(state):
    weights, done, *_ = state
    (value, right), gradient = descent(weights)
    rate = jnp.where(right < known, learning_rate, 0.0)  # the weights that know enough are the last
    return jax.tree.map(lambda w, g: w - rate * g, weights, gradient), done + 1, value, right

  begin = {name: params[name] for name in trained}, 0, jnp.float32(0), jnp.float32(-1)
  weights, _, value, _ = jax.lax.while_loop(
    lambda state: (state[1] < steps) & (state[3] < known), step, begin
  )
  return {**frozen, **weights}, value

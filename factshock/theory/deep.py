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
    raise ValueError(f"expected a dim of at least {tokens + answers} for {tokens} tokens and {answers} answers, got {dim}")
  of_rotation, of_attention = jax.random.split(key)
  rotation_DxD = jnp.linalg.qr(jax.random.normal(of_rotation, (dim, dim)))[0]
  return {"embedding": rotation_DxD[:tokens], "head": rotation_DxD[tokens:tokens + answers].T,
          "value": jnp.zeros((layers, heads, dim, dim)),
          "key_query": attention_scale * jax.random.normal(of_attention, (layers, heads, dim, dim))}


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
  """Cross-entropy in nats, averaged with weights that sum to 1."""
  log_p_NxA = jax.nn.log_softmax(forward(params, tokens_Nx2)[0])
  return -jnp.sum(weights_N * jnp.take_along_axis(log_p_NxA, answers_N[:, None], axis=1)[:, 0])


def train(params, trained, tokens_Nx2, answers_N, weights_N, *, steps, learning_rate):
  """(Params after full-batch gradient descent on the arrays named in `trained`, the others frozen; losses [steps])."""
  frozen = {name: array for name, array in params.items() if name not in trained}

  def step(weights, _):
    value, gradient = jax.value_and_grad(lambda w: loss({**frozen, **w}, tokens_Nx2, answers_N, weights_N))(weights)
    return jax.tree.map(lambda w, g: w - learning_rate * g, weights, gradient), value

  weights, losses = jax.lax.scan(step, {name: params[name] for name in trained}, length=steps)
  return {**frozen, **weights}, losses

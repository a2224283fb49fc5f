"""Matrix products and gates whose reverse passes are written by hand, to move less memory.

Their forward rules are plain products, no calls of themselves: what jax.checkpoint keeps goes by primitives (models/remat.py).
"""

import contextlib
import contextvars
import functools

import jax
import jax.numpy as jnp

_COUNTING = contextvars.ContextVar("counting", default=False)


@contextlib.contextmanager
def counted():
  """Context manager for counting: models traced inside it make each matrix product once, as one that a jaxpr shows.

  Nothing is computed again in the reverse pass and no kernel hides products. JAX keeps what it traced by the function
  that it traced: give it one of its own (a new lambda), that nothing else runs.
  """
  token = _COUNTING.set(True)
  try:
    yield
  finally:
    _COUNTING.reset(token)


def each_counts_once():
  """Whether `counted` is in force."""
  return _COUNTING.get()


@jax.custom_vjp
def dense(x, weight_DxF):
  """x [..., D] times a weight [D, ...]: [..., ...], with a reverse pass that transposes the smaller factor.

  JAX's own weight gradient transposes the output's gradient; on CPU that copy is fused into whatever
  made the gradient and takes longer than the product.
  """
  return _dense(x, weight_DxF)


def _dense(x, weight):
  return jax.lax.dot_general(x, weight, (((x.ndim - 1,), (0,)), ((), ())))


def _dense_forward(x, weight):
  return _dense(x, weight), (x, weight)


def _dense_backward(saved, gradient):
  x, weight = saved
  rows = tuple(range(x.ndim - 1))
  free = tuple(range(x.ndim - 1, gradient.ndim))
  to_x = jax.lax.dot_general(gradient, weight, ((free, tuple(range(1, weight.ndim))), ((), ())))
  if gradient.ndim == x.ndim and gradient.shape[-1] < x.shape[-1]:
    return to_x, jax.lax.dot_general(gradient, x, ((rows, rows), ((), ()))).T
  return to_x, jax.lax.dot_general(x, gradient, ((rows, rows), ((), ())))


dense.defvjp(_dense_forward, _dense_backward)


@jax.custom_vjp
def scores(query_BxSxHxK, key_BxTxHxK):
  """Dot product of each query with each key, by head: [B, H, S, T].

  JAX's own key gradient contracts the rows of the scores' gradient; XLA's fast CPU product takes columns.
  """
  return _scores(query_BxSxHxK, key_BxTxHxK)


def _scores(query, key):
  return jnp.einsum("bshk,bthk->bhst", query, key)


def _scores_forward(query, key):
  return _scores(query, key), (query, key)


def _scores_backward(saved, gradient):
  query, key = saved
  to_key_BxHxKxT = jax.lax.dot_general(query, gradient, (((1,), (2,)), ((0, 2), (0, 1))))
  return jnp.einsum("bhst,bthk->bshk", gradient, key), to_key_BxHxKxT.transpose(0, 3, 1, 2)


scores.defvjp(_scores_forward, _scores_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gated(both, activation):
  """curve(gate) * up of an array [..., 2, F] that holds gate and up: [..., F]; the reverse pass recomputes.

  activation: "gated-gelu" (tanh form) or "gated-silu" (Shazeer 2020).
  """
  return _gated(both, activation)


def _gated(both, activation):
  return _curve(activation)(both[..., 0, :]) * both[..., 1, :]


def _gated_forward(both, activation):
  return _gated(both, activation), both


def _gated_backward(activation, both, gradient):
  value, to_gate = jax.jvp(_curve(activation), (both[..., 0, :],), (gradient * both[..., 1, :],))
  return (jnp.stack([to_gate, gradient * value], axis=-2),)


gated.defvjp(_gated_forward, _gated_backward)


def _curve(activation):
  return (
    functools.partial(jax.nn.gelu, approximate=True) if activation == "gated-gelu" else jax.nn.silu
  )


@jax.custom_vjp
def logits(x_BxTxD, weight_VxD):
  """Logits in float32 whatever the dtype of the factors; the products of the gradient stay in theirs."""
  return _logits(x_BxTxD, weight_VxD)


def _logits(x, weight):
  return jnp.einsum("btd,vd->btv", x, weight, preferred_element_type=jnp.float32)


def _logits_forward(x, weight):
  return _logits(x, weight), (x, weight)


def _logits_backward(saved, gradient):
  x, weight = saved
  gradient = gradient.astype(x.dtype)
  return jnp.einsum("btv,vd->btd", gradient, weight), jnp.einsum("btv,btd->vd", gradient, x)


logits.defvjp(_logits_forward, _logits_backward)

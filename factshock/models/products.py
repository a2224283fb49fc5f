"""Matrix products and gates whose reverse passes are written by hand, to move less memory.

Their forward rules are plain products, no calls of themselves: what jax.checkpoint keeps goes by
primitives (models/remat.py).
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from factshock.models import int8
from factshock.models.int8 import Int8Weight, Weight

# What a forward rule saves for the reverse pass.
_Pair: TypeAlias = tuple[jax.Array, jax.Array]

_COUNTING = contextvars.ContextVar("counting", default=False)


@contextlib.contextmanager
def counted() -> Iterator[None]:
  """Makes models that are traced inside it show each matrix product once, for counting in a jaxpr.

  Nothing is computed again in the reverse pass and no kernel hides products. JAX keeps what it
  traced by the function that it traced: give it one of its own (a new lambda), that nothing else
  runs.
  """
  token = _COUNTING.set(True)
  try:
    yield
  finally:
    _COUNTING.reset(token)


def each_counts_once() -> bool:
  """Returns whether `counted` is in force."""
  return _COUNTING.get()


def dense(x: jax.Array, weight_DxF: Weight) -> jax.Array:
  """Returns x [..., D] times a weight [D, ...]."""
  if isinstance(weight_DxF, Int8Weight):
    return int8.dense(x, weight_DxF)
  return _dense_by_hand(x, weight_DxF)


@jax.custom_vjp
def _dense_by_hand(x: jax.Array, weight_DxF: jax.Array) -> jax.Array:
  """Returns x [..., D] times a weight [D, ...]; its reverse pass transposes the smaller factor.

  JAX's own weight gradient transposes the output's gradient; on CPU that copy is fused into
  whatever made the gradient and takes longer than the product.
  """
  return _dense(x, weight_DxF)


def _dense(x: jax.Array, weight: jax.Array) -> jax.Array:
  return jax.lax.dot_general(x, weight, (((x.ndim - 1,), (0,)), ((), ())))


def _dense_forward(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, _Pair]:
  return _dense(x, weight), (x, weight)


def _dense_backward(saved: _Pair, gradient: jax.Array) -> _Pair:
  x, weight = saved
  rows = tuple(range(x.ndim - 1))
  free = tuple(range(x.ndim - 1, gradient.ndim))
  outputs = tuple(range(1, weight.ndim))
  to_x = jax.lax.dot_general(gradient, weight, ((free, outputs), ((), ())))
  if gradient.ndim == x.ndim and gradient.shape[-1] < x.shape[-1]:
    transposed = jax.lax.dot_general(gradient, x, ((rows, rows), ((), ())))
    return to_x, transposed.T
  to_weight = jax.lax.dot_general(x, gradient, ((rows, rows), ((), ())))
  return to_x, to_weight


_dense_by_hand.defvjp(_dense_forward, _dense_backward)


@jax.custom_vjp
def scores(query_BxSxHxK: jax.Array, key_BxTxHxK: jax.Array) -> jax.Array:
  """Returns the dot product of each query with each key, by head: [B, H, S, T].

  JAX's own key gradient contracts the rows of the scores' gradient; XLA's fast CPU product takes
  columns.
  """
  return _scores(query_BxSxHxK, key_BxTxHxK)


def _scores(query: jax.Array, key: jax.Array) -> jax.Array:
  return jnp.einsum("bshk,bthk->bhst", query, key)


def _scores_forward(query: jax.Array, key: jax.Array) -> tuple[jax.Array, _Pair]:
  return _scores(query, key), (query, key)


def _scores_backward(saved: _Pair, gradient: jax.Array) -> _Pair:
  query, key = saved
  to_key_BxHxKxT = jax.lax.dot_general(query, gradient, (((1,), (2,)), ((0, 2), (0, 1))))
  to_query = jnp.einsum("bhst,bthk->bshk", gradient, key)
  return to_query, to_key_BxHxKxT.transpose(0, 3, 1, 2)


scores.defvjp(_scores_forward, _scores_backward)


def _custom_vjp_of_first(function: Callable[..., jax.Array]) -> Any:
  """Returns a function of two arguments, of which the second is not differentiated."""
  return jax.custom_vjp(function, nondiff_argnums=(1,))


def _custom_vjp_of_first_two(function: Callable[..., jax.Array]) -> Any:
  """Returns a function of three arguments, of which the third is not differentiated."""
  return jax.custom_vjp(function, nondiff_argnums=(2,))


@_custom_vjp_of_first
def gated(both: jax.Array, activation: str) -> jax.Array:
  """Returns curve(gate) * up, [..., F]; the reverse pass computes the curve again.

  Args:
    both: [..., 2, F], gate and up.
    activation: "gated-gelu" (tanh form) or "gated-silu" (Shazeer 2020).
  """
  return _gated(both, activation)


def _gated(both: jax.Array, activation: str) -> jax.Array:
  return _curve(activation)(both[..., 0, :]) * both[..., 1, :]


def _gated_forward(both: jax.Array, activation: str) -> _Pair:
  return _gated(both, activation), both


def _gated_backward(activation: str, both: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
  saved = (both[..., 0, :], both[..., 1, :])
  return (jnp.stack(_gated_apart_backward(activation, saved, gradient), axis=-2),)


gated.defvjp(_gated_forward, _gated_backward)


@_custom_vjp_of_first_two
def gated_apart(gate: jax.Array, up: jax.Array, activation: str) -> jax.Array:
  """Returns what `gated` does of a gate and up that are two arrays, each [..., F]."""
  return _gated_apart(gate, up, activation)


def _gated_apart(gate: jax.Array, up: jax.Array, activation: str) -> jax.Array:
  return _curve(activation)(gate) * up


def _gated_apart_forward(
  gate: jax.Array, up: jax.Array, activation: str
) -> tuple[jax.Array, _Pair]:
  return _gated_apart(gate, up, activation), (gate, up)


def _gated_apart_backward(activation: str, saved: _Pair, gradient: jax.Array) -> _Pair:
  gate, up = saved
  value, to_gate = jax.jvp(_curve(activation), (gate,), (gradient * up,))
  return to_gate, gradient * value


gated_apart.defvjp(_gated_apart_forward, _gated_apart_backward)


def _curve(activation: str) -> Callable[[jax.Array], jax.Array]:
  if activation == "gated-gelu":
    return functools.partial(jax.nn.gelu, approximate=True)
  return jax.nn.silu


def softmax(scores_BxHxSxT: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Returns the softmax over the last axis of float32 scores, in a dtype.

  Where that is narrower the reverse pass reads the weights as they were rounded, which the product
  with the values keeps anyway: in a bfloat16 model no float32 array [B, H, S, T] is kept.
  """
  if dtype == jnp.float32:
    return jax.nn.softmax(scores_BxHxSxT, axis=-1)
  return _rounded_softmax(scores_BxHxSxT, dtype)


@_custom_vjp_of_first
def _rounded_softmax(scores: jax.Array, dtype: jnp.dtype) -> jax.Array:
  return _softmax(scores, dtype)


def _softmax(scores: jax.Array, dtype: jnp.dtype) -> jax.Array:
  return jax.nn.softmax(scores, axis=-1).astype(dtype)


def _softmax_forward(scores: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
  weights = _softmax(scores, dtype)
  return weights, weights


def _softmax_backward(
  dtype: jnp.dtype, weights: jax.Array, gradient: jax.Array
) -> tuple[jax.Array]:
  del dtype
  wide = weights.astype(jnp.float32)
  weighted = wide * gradient.astype(jnp.float32)
  return (weighted - wide * jnp.sum(weighted, axis=-1, keepdims=True),)


_rounded_softmax.defvjp(_softmax_forward, _softmax_backward)


def logits(x_BxTxD: jax.Array, weight_VxD: Weight) -> jax.Array:
  """Returns logits [B, T, V] in float32 whatever the dtype of the factors."""
  if isinstance(weight_VxD, Int8Weight):
    return int8.logits(x_BxTxD, weight_VxD)
  return _logits_by_hand(x_BxTxD, weight_VxD)


@jax.custom_vjp
def _logits_by_hand(x: jax.Array, weight: jax.Array) -> jax.Array:
  """Returns logits in float32; the products of the gradient stay in the dtype of the factors."""
  return _logits(x, weight)


def _logits(x: jax.Array, weight: jax.Array) -> jax.Array:
  return jnp.einsum("btd,vd->btv", x, weight, preferred_element_type=jnp.float32)


def _logits_forward(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, _Pair]:
  return _logits(x, weight), (x, weight)


def _logits_backward(saved: _Pair, gradient: jax.Array) -> _Pair:
  x, weight = saved
  gradient = gradient.astype(x.dtype)
  to_x = jnp.einsum("btv,vd->btd", gradient, weight)
  to_weight = jnp.einsum("btv,btd->vd", gradient, x)
  return to_x, to_weight


_logits_by_hand.defvjp(_logits_forward, _logits_backward)

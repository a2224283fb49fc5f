"""Observes what a query attends to, and how what it reads there moves the logits directly.

A head's output is a sum over keys of attention weight times value vector. Through the output
projection each term is added to the residual stream, and where the statistic of the last norm is
held at its value of the forward pass the logits are linear in the stream: each key, head and layer
then has its share of a logit, and the shares add up (Elhage et al. 2021, "direct logit
attribution").
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from factshock.models import attention

_EXACT = jax.lax.Precision.HIGHEST  # these products are few


class Read(NamedTuple):
  """Holds what a query of each row reads, float32; of a stack of layers all have N in front.

  Attributes:
    weights: its attention to each key by H heads, [B, H, T].
    marked: values of the marked keys, each times its weight, summed: [B, H, K]; or as shares of a
      logit, [B, H].
    rest: values of the other keys, likewise.
    mean: values of the marked keys, averaged without weights, likewise.
  """

  weights: jax.Array
  marked: jax.Array
  rest: jax.Array
  mean: jax.Array


def read(
  query_BxSxGxRxK: jax.Array,
  key_BxTxGxK: jax.Array,
  value_BxTxGxK: jax.Array,
  bias: jax.Array,
  position_B: jax.Array,
  marked_BxT: jax.Array,
  softcap: float | None = None,
) -> Read:
  """Returns what the query at a position of each row reads, computed again for that query alone.

  Args:
    query_BxSxGxRxK: R query heads share each of G key heads, H = G * R; already scaled.
    key_BxTxGxK: keys.
    value_BxTxGxK: values.
    bias: float32, broadcasts to [B, H or 1, S, T]; position bias and masks added up.
    position_B: int32, the query's.
    marked_BxT: bool; keys that the bias masks are not to be marked.
    softcap: of scores, as in attention.softcapped.
  """
  batch, queries, groups, shared, _ = query_BxSxGxRxK.shape
  rows_B = jnp.arange(batch)
  shape = (batch, bias.shape[1], queries, key_BxTxGxK.shape[1])
  own_bias = jnp.broadcast_to(bias, shape)[rows_B, :, position_B]
  heads = (1, 1) if bias.shape[1] == 1 else (groups, shared)
  own_bias = own_bias.reshape(batch, *heads, -1)
  query_BxGxRxK = query_BxSxGxRxK[rows_B, position_B]
  scores = jnp.einsum("bgrk,btgk->bgrt", query_BxGxRxK, key_BxTxGxK).astype(jnp.float32)
  scores = attention.softcapped(scores, softcap)
  weights = jax.nn.softmax(scores + own_bias, axis=-1)
  value = value_BxTxGxK.astype(jnp.float32)
  arrays = [weights]
  for weighting in _weightings(weights, marked_BxT):
    arrays.append(jnp.einsum("bgrt,btgk->bgrk", weighting, value, precision=_EXACT))
  return Read(*(array.reshape(batch, groups * shared, -1) for array in arrays))


def _weightings(weights: jax.Array, marked_BxT: jax.Array) -> list[jax.Array]:
  """Returns what values are multiplied by for `marked`, `rest` and `mean` of a Read."""
  share_BxT = marked_BxT / jnp.maximum(1, marked_BxT.sum(axis=1, keepdims=True)).astype(jnp.float32)
  marked = marked_BxT[:, None, None]
  return [
    jnp.where(marked, weights, 0),
    jnp.where(marked, 0, weights),
    jnp.broadcast_to(share_BxT[:, None, None], weights.shape),
  ]


def direction(
  stream_BxD: jax.Array,
  scale_D: jax.Array,
  epsilon: float,
  head_VxD: jax.Array,
  gold_B: jax.Array,
  among_BxV: jax.Array,
) -> jax.Array:
  """Returns what a difference of logits multiplies the stream before the last norm by.

  The difference is that of a token and the mean of others. The norm's statistic is held.

  Args:
    stream_BxD: the stream before the last norm.
    scale_D: the norm's scale.
    epsilon: the norm's.
    head_VxD: in the dtype of the computation.
    gold_B: int32, the token.
    among_BxV: bool, the others.

  Returns:
    A float32 array [B, D].
  """
  wide = stream_BxD.astype(jnp.float32)
  statistic_Bx1 = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + epsilon)
  total_BxD = jnp.einsum(
    "bv,vd->bd",
    among_BxV.astype(head_VxD.dtype),
    head_VxD,
    precision=_EXACT,
    preferred_element_type=jnp.float32,
  )
  mean_BxD = total_BxD / jnp.maximum(1, among_BxV.sum(axis=1, keepdims=True))
  scale_1xD = scale_D.astype(head_VxD.dtype).astype(jnp.float32)[None]
  return (head_VxD[gold_B].astype(jnp.float32) - mean_BxD) * scale_1xD * statistic_Bx1


def shares(stack_read: Read, backed_NxBxW: jax.Array) -> Read:
  """Returns the Read of a stack with its values as shares of a logit.

  They are multiplied by each layer's output projection times the direction.
  """
  backed_NxBxHxK = backed_NxBxW.reshape(stack_read.marked.shape)
  return stack_read._replace(
    marked=(stack_read.marked * backed_NxBxHxK).sum(axis=-1),
    rest=(stack_read.rest * backed_NxBxHxK).sum(axis=-1),
    mean=(stack_read.mean * backed_NxBxHxK).sum(axis=-1),
  )

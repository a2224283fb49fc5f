"""What one query of each row attends to, and how what it reads there moves the logits directly.

A head's output is a sum over keys of attention weight times value vector. Through the output projection each term is
added to the residual stream, and where the statistic of the last norm is held at its value of the forward pass the
logits are linear in the stream: each key, head and layer then has its share of a logit, and the shares add up (Elhage et
al. 2021, "direct logit attribution").
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_EXACT = jax.lax.Precision.HIGHEST  # these products are few


class Read(NamedTuple):
  """What a query of each row reads, float32; H heads, [N, B, H, ...] of a stack of layers.

  weights: its attention to each key, [B, H, T].
  marked, rest: values of the marked keys, and of the others, each times its weight, summed: [B, H, K], or as shares of
  a logit [B, H]. mean: values of the marked keys, averaged without weights, likewise.
  """

  weights: jax.Array
  marked: jax.Array
  rest: jax.Array
  mean: jax.Array


def read(query_BxSxGxRxK, key_BxTxGxK, value_BxTxGxK, bias, place_B, marked_BxT):
  """The Read of the query at a place of each row; computed again for that query alone.

  Args:
    query_BxSxGxRxK: R query heads share each of G key heads, H = G * R; already scaled.
    bias: float32, broadcasts to [B, H or 1, S, T]; position bias and masks added up.
    place_B: int32. marked_BxT: bool; keys that the bias masks are not to be marked.
  """
  batch, queries, groups, shared, _ = query_BxSxGxRxK.shape
  rows_B = jnp.arange(batch)
  bias = jnp.broadcast_to(bias, (batch, bias.shape[1], queries, key_BxTxGxK.shape[1]))[
    rows_B, :, place_B
  ]
  bias = (
    bias.reshape(batch, 1, 1, -1) if bias.shape[1] == 1 else bias.reshape(batch, groups, shared, -1)
  )
  scores = (
    jnp.einsum("bgrk,btgk->bgrt", query_BxSxGxRxK[rows_B, place_B], key_BxTxGxK).astype(jnp.float32)
    + bias
  )
  weights = jax.nn.softmax(scores, axis=-1)
  value = value_BxTxGxK.astype(jnp.float32)
  share_BxT = marked_BxT / jnp.maximum(1, marked_BxT.sum(axis=1, keepdims=True)).astype(jnp.float32)
  marked = marked_BxT[:, None, None]
  each = [
    jnp.where(marked, weights, 0),
    jnp.where(marked, 0, weights),
    jnp.broadcast_to(share_BxT[:, None, None], weights.shape),
  ]
  return Read(
    *(
      array.reshape(batch, groups * shared, -1)
      for array in (
        weights,
        *(jnp.einsum("bgrt,btgk->bgrk", one, value, precision=_EXACT) for one in each),
      )
    )
  )


def direction(stream_BxD, scale_D, epsilon, head_VxD, gold_B, among_BxV):
  """What a difference of logits multiplies the stream before the last norm by, its statistic held: float32 [B, D].

  The difference is that of the token gold_B and the mean of the tokens among_BxV (bool). `head_VxD` has the dtype of the
  computation.
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


def shares(found, backed_NxBxW):
  """A Read of a stack with its reads as shares of a logit: times each layer's output projection times the direction."""
  backed_NxBxHxK = backed_NxBxW.reshape(found.marked.shape)
  names = ("marked", "rest", "mean")
  return found._replace(
    **{name: (getattr(found, name) * backed_NxBxHxK).sum(axis=-1) for name in names}
  )

"""Attention of the T5 kind: relative position bias, segment masks, and the product itself."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from factshock.models import fused, products

MASKED = (
  -1e9
)  # added to a score in float32: no underflow to -inf, so a fully masked row stays finite


Cached: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]


def relative_buckets(offsets, *, bidirectional, buckets, max_distance):
  """Bucket of each offset (key position - query position): exact when near, logarithmic when far.

  Args:
    offsets: numpy int array of any shape.
    bidirectional: half of the buckets for keys after the query; else those all share bucket 0.
    buckets: number of buckets.
    max_distance: distance from which all share the last bucket.
  Returns: int32 array of the shape of `offsets`.
  Source: Raffel et al. 2020, section 2.1, and the Mesh-TensorFlow code it was trained with.
  """
  offsets = np.asarray(offsets)
  first = np.zeros_like(offsets)
  distance = np.maximum(-offsets, 0)
  if bidirectional:
    buckets //= 2
    first = (offsets > 0) * buckets
    distance = np.abs(offsets)
  exact = buckets // 2
  # float32 as in the original: the truncation below decides the bucket of distances on an edge
  ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(
    np.log(max_distance / exact)
  )
  far = exact + np.maximum(ratio * np.float32(buckets - exact), 0).astype(np.int32)
  return (first + np.where(distance < exact, distance, np.minimum(far, buckets - 1))).astype(
    np.int32
  )


def bias_matrix(by_offset_LxH, queries, keys):
  """Lays the bias of each offset out as a matrix: [1, H, queries, keys], without a scatter in reverse.

  `by_offset_LxH` holds the offsets of `matrix_offsets(queries, keys)`. Repeating its L values and
  reading rows of L - 1 shifts each row by one place, so the transpose is a slice and a sum.
  """
  length, heads = by_offset_LxH.shape
  flat_HxL = by_offset_LxH.T
  tiled = jnp.broadcast_to(flat_HxL[:, None, :], (heads, queries, length)).reshape(
    heads, queries * length
  )
  rows = tiled[:, : queries * (length - 1)].reshape(heads, queries, length - 1)
  return rows[None, :, :, :keys]


def matrix_offsets(queries, keys):
  """The offsets that `bias_matrix` expects: 0 .. keys - 1, then -queries .. -1."""
  return np.concatenate([np.arange(keys), np.arange(-queries, 0)])


def segment_mask(query_segments_BxS, key_segments_BxT):
  """Mask [B, 1, S, T] to add to scores: 0 within equal segments, else MASKED; segment 0 is padding."""
  same = query_segments_BxS[:, :, None] == key_segments_BxT[:, None, :]
  return _to_add(same & (key_segments_BxT != 0)[:, None, :])[:, None]


def padding_mask(tokens_BxS):
  """Mask [B, 1, 1, S] to add to scores: MASKED where the key is token 0."""
  return _to_add(tokens_BxS != 0)[:, None, None]


def causal_mask(length):
  """Mask [1, 1, length, length] to add to scores: MASKED where the key comes after the query."""
  return _to_add(np.tril(np.ones((length, length), bool)))[None, None]


def attend(query_BxSxHxK, key_BxTxHxK, value_BxTxHxK, bias, drop=None):
  """Softmax attention without a scale, softmax in float32: [B, S, H, K] in the dtype of the value.

  Args:
    bias: float32, broadcasts to [B, H, S, T]; position bias and masks added up. Or a fused.Seen, for a kernel.
    drop: function applied to the attention weights (dropout), or None; not by a kernel.
  """
  if isinstance(bias, fused.Seen):
    return fused.attend(query_BxSxHxK, key_BxTxHxK, value_BxTxHxK, bias)
  scores = products.scores(query_BxSxHxK, key_BxTxHxK).astype(jnp.float32)
  weights = jax.nn.softmax(scores + bias, axis=-1).astype(value_BxTxHxK.dtype)
  if drop is not None:
    weights = drop(weights)
  return jnp.einsum("bhst,bthk->bshk", weights, value_BxTxHxK)


def attend_cached(query_BxQxGxRxK, cached, new=None):
  """Softmax attention to keys and values of a cache, and to those of the queries' own tokens: [B, Q, G, R, K].

  Caches have their tokens last, as the products of one query with many keys want them: no copy is made of them.

  Args:
    query_BxQxGxRxK: R query heads share each of G key heads; already scaled.
    cached: (key [B, G, K, T], value [B, G, K, T], float32 bias that broadcasts to [B, G, R, Q, T]).
    new: (key [B, Q, G, K], value [B, Q, G, K], float32 bias that broadcasts to [B, G, R, Q, Q]), or None.
  """
  key, value, bias = cached
  scores = jnp.einsum("bqgrk,bgkt->bgrqt", query_BxQxGxRxK, key).astype(jnp.float32) + bias
  if new is not None:
    among = jnp.einsum("bqgrk,bsgk->bgrqs", query_BxQxGxRxK, new[0]).astype(jnp.float32) + new[2]
    scores = jnp.concatenate([scores, among], axis=-1)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  past = value.shape[-1]
  y = jnp.einsum("bgrqt,bgkt->bqgrk", weights[..., :past], value)
  return y if new is None else y + jnp.einsum("bgrqs,bsgk->bqgrk", weights[..., past:], new[1])


def tokens_last(array_BxTxGxK):
  """Keys or values as `attend_cached` wants them: [B, G, K, T]."""
  return array_BxTxGxK.transpose(0, 2, 3, 1)


def _to_add(allowed):
  return jnp.where(allowed, 0.0, MASKED).astype(jnp.float32)

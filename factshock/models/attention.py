"""Attention of the T5 kind: relative position bias, segment masks, and the product itself."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from factshock.models import fused, products

# Added to a score in float32: no underflow to -inf, so that a fully masked row stays finite.
MASKED = -1e9

# What is added to float32 scores: arrays that each broadcast to [B, H, S, T].
Biases: TypeAlias = tuple[jax.Array, ...]

# Keys, values and the float32 bias that their queries see them by.
Cached: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]


def relative_buckets(
  offsets: np.ndarray, *, bidirectional: bool, buckets: int, max_distance: int
) -> np.ndarray:
  """Returns the bucket of each offset: exact when near, logarithmic when far.

  Args:
    offsets: key position - query position, ints of any shape.
    bidirectional: half of the buckets are for keys after the query; else those all share bucket 0.
    buckets: number of buckets.
    max_distance: distance from which all share the last bucket.

  Returns:
    An int32 array of the shape of `offsets`.

  Source: Raffel et al. 2020, section 2.1, and the Mesh-TensorFlow code it was trained with.
  """
  offsets = np.asarray(offsets)
  if bidirectional:
    buckets //= 2
    first = (offsets > 0) * buckets
    distance = np.abs(offsets)
  else:
    first = np.zeros_like(offsets)
    distance = np.maximum(-offsets, 0)
  exact = buckets // 2
  # float32 as in the original: the truncation below decides the bucket of distances on an edge.
  positive = np.maximum(distance, 1).astype(np.float32)
  logarithm = np.log(positive / np.float32(exact))
  ratio = logarithm / np.float32(np.log(max_distance / exact))
  beyond = np.maximum(ratio * np.float32(buckets - exact), 0)
  far = exact + beyond.astype(np.int32)
  bucket = np.where(distance < exact, distance, np.minimum(far, buckets - 1))
  return (first + bucket).astype(np.int32)


def bias_matrix(by_offset_LxH: jax.Array, queries: int, keys: int) -> jax.Array:
  """Returns the bias of each offset laid out as a matrix, [1, H, queries, keys].

  There is no scatter in reverse: repeating the L values and reading rows of L - 1 shifts each row
  by one position, so that the transpose is a slice and a sum.

  Args:
    by_offset_LxH: of the offsets of `matrix_offsets(queries, keys)`.
    queries: how many there are.
    keys: how many there are.
  """
  length, heads = by_offset_LxH.shape
  repeated = jnp.broadcast_to(by_offset_LxH.T[:, None, :], (heads, queries, length))
  flat = repeated.reshape(heads, queries * length)
  rows = flat[:, : queries * (length - 1)].reshape(heads, queries, length - 1)
  return rows[None, :, :, :keys]


def matrix_offsets(queries: int, keys: int) -> np.ndarray:
  """Returns the offsets that `bias_matrix` expects: 0 .. keys - 1, then -queries .. -1."""
  return np.concatenate([np.arange(keys), np.arange(-queries, 0)])


def segment_mask(query_segments_BxS: jax.Array, key_segments_BxT: jax.Array) -> jax.Array:
  """Returns a mask [B, 1, S, T] to add to scores: 0 within equal segments, else MASKED.

  Segment 0 is padding.
  """
  same = query_segments_BxS[:, :, None] == key_segments_BxT[:, None, :]
  used = (key_segments_BxT != 0)[:, None, :]
  return _to_add(same & used)[:, None]


def padding_mask(tokens_BxS: jax.Array) -> jax.Array:
  """Returns a mask [B, 1, 1, S] to add to scores: MASKED where the key is padding behind a row."""
  position_S = np.arange(tokens_BxS.shape[1])
  used_BxS = position_S[None] < fused.row_lengths(tokens_BxS)[:, None]
  return _to_add(used_BxS)[:, None, None]


def causal_mask(length: int) -> jax.Array:
  """Returns a mask [1, 1, length, length] to add to scores: MASKED where the key comes later."""
  allowed = np.tril(np.ones((length, length), bool))
  return _to_add(allowed)[None, None]


def attend(
  query_BxSxHxK: jax.Array,
  key_BxTxHxK: jax.Array,
  value_BxTxHxK: jax.Array,
  biases: Biases | fused.Seen,
  drop: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
  """Returns softmax attention without a scale: [B, S, H, K] in the dtype of the value.

  The softmax is computed in float32.

  Args:
    query_BxSxHxK: queries.
    key_BxTxHxK: keys.
    value_BxTxHxK: values.
    biases: float32, each broadcasts to [B, H, S, T]: position bias and masks. Where they are apart,
      no array of all rows and heads holds their sum, nor its gradient. Or a fused.Seen, for a
      kernel.
    drop: applied to the attention weights (dropout), or None; not by a kernel.
  """
  if isinstance(biases, fused.Seen):
    return fused.attend(query_BxSxHxK, key_BxTxHxK, value_BxTxHxK, biases)
  scores = products.scores(query_BxSxHxK, key_BxTxHxK).astype(jnp.float32)
  for bias in biases:
    scores = scores + bias
  weights = products.softmax(scores, value_BxTxHxK.dtype)
  if drop is not None:
    weights = drop(weights)
  return jnp.einsum("bhst,bthk->bshk", weights, value_BxTxHxK)


def softcapped(scores: jax.Array, cap: float | None) -> jax.Array:
  """Returns float32 scores s as cap * tanh(s / cap); as they are where the cap is None."""
  return scores if cap is None else cap * jnp.tanh(scores / cap)


def attend_cached(
  query_BxQxGxRxK: jax.Array,
  cached: Cached,
  new: Cached | None = None,
  softcap: float | None = None,
) -> jax.Array:
  """Returns softmax attention to a cache, and to the queries' own tokens: [B, Q, G, R, K].

  Caches have their tokens last, as the products of one query with many keys want them: no copy is
  made of them.

  Args:
    query_BxQxGxRxK: R query heads share each of G key heads; already scaled.
    cached: key [B, G, K, T], value [B, G, K, T], and a bias that broadcasts to [B, G, R, Q, T].
    new: key [B, Q, G, K], value [B, Q, G, K], and a bias that broadcasts to [B, G, R, Q, Q]; or
      None.
    softcap: of scores, as in `softcapped`.
  """
  key, value, bias = cached
  scores = jnp.einsum("bqgrk,bgkt->bgrqt", query_BxQxGxRxK, key)
  scores = softcapped(scores.astype(jnp.float32), softcap) + bias
  if new is not None:
    new_key, _, new_bias = new
    new_scores = jnp.einsum("bqgrk,bsgk->bgrqs", query_BxQxGxRxK, new_key)
    new_scores = softcapped(new_scores.astype(jnp.float32), softcap) + new_bias
    scores = jnp.concatenate([scores, new_scores], axis=-1)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  past = value.shape[-1]
  y = jnp.einsum("bgrqt,bgkt->bqgrk", weights[..., :past], value)
  if new is None:
    return y
  _, new_value, _ = new
  return y + jnp.einsum("bgrqs,bsgk->bqgrk", weights[..., past:], new_value)


def tokens_last(array_BxTxGxK: jax.Array) -> jax.Array:
  """Returns keys or values as `attend_cached` wants them: [B, G, K, T]."""
  return array_BxTxGxK.transpose(0, 2, 3, 1)


def _to_add(allowed: jax.Array | np.ndarray) -> jax.Array:
  """Returns what to add to scores so that only the allowed keys are seen."""
  return jnp.where(allowed, 0.0, MASKED).astype(jnp.float32)

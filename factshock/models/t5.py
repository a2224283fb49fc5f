"""T5 v1.0 and v1.1 (Raffel et al. 2020; Shazeer 2020), as pure functions over a nested dict.

Layers are stacked: every array under `layers` has a leading axis N, the depth of its stack.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from factshock.models import fused, layers, observing
from factshock.models.t5_config import FEED_FORWARDS, T5Config
from factshock.models.t5_modules import CACHED, T5
from factshock.types import Batch, Params

__all__ = ["FEED_FORWARDS", "T5Config"]


def init(model_config: T5Config, key: jax.Array) -> Params:
  """Returns random parameters with the scales of the original T5.

  Source: Mesh-TensorFlow's initialisers; the missing 1/sqrt(d_kv) of attention is in the scale of
  `query`.
  """
  return _init(model_config, key)


def forward(
  params: Params,
  model_config: T5Config,
  inputs_BxS: jax.Array,
  targets_BxT: jax.Array,
  *,
  input_segments: jax.Array | None = None,
  target_segments: jax.Array | None = None,
  key: jax.Array | None = None,
) -> jax.Array:
  """Returns logits of each target given the inputs and the targets before it: float32 [B, T, V].

  Args:
    params: as from `init`.
    model_config: the model's sizes.
    inputs_BxS: int32; padding is token 0, at the end of a row.
    targets_BxT: likewise.
    input_segments: int32 [B, S] of packed rows (0 = padding); None where there are none.
    target_segments: int32 [B, T], given where input_segments are.
    key: a random key turns dropout on.

  Raises:
    ValueError: only one of the segments is given.
  """
  decoded = hidden(
    params,
    model_config,
    inputs_BxS,
    targets_BxT,
    input_segments=input_segments,
    target_segments=target_segments,
    key=key,
  )
  return head(params, model_config, decoded)


def hidden(
  params: Params,
  model_config: T5Config,
  inputs_BxS: jax.Array,
  targets_BxT: jax.Array,
  *,
  input_segments: jax.Array | None = None,
  target_segments: jax.Array | None = None,
  key: jax.Array | None = None,
) -> jax.Array:
  """Returns what `forward` multiplies by the head: [B, T, D]; its arguments are those of `forward`.

  For losses that need no logits as a whole. Attention is as model_config.attention says; packed
  rows, and dropout, are for "xla" (fused.choose).
  """
  if (input_segments is None) != (target_segments is None):
    raise ValueError("expected input_segments and target_segments together, got only one of them")
  kernel = fused.kernel(
    model_config,
    (inputs_BxS.shape[1], targets_BxT.shape[1]),
    packed=input_segments is not None,
    dropout=0.0 if key is None else model_config.dropout,
  )
  return _apply(
    params,
    model_config,
    T5.hidden,
    inputs_BxS,
    shift_right(targets_BxT, target_segments),
    input_segments,
    target_segments,
    kernel,
    key=key,
  )


def head(params: Params, model_config: T5Config, hidden_BxTxD: jax.Array) -> jax.Array:
  """Returns logits from `hidden`: float32 [B, T, V]."""
  return _apply(params, model_config, T5.head_of, hidden_BxTxD)


def encode(
  params: Params,
  model_config: T5Config,
  inputs_BxS: jax.Array,
  *,
  input_segments: jax.Array | None = None,
  key: jax.Array | None = None,
) -> jax.Array:
  """Returns the output of the encoder, in the dtype of the computation: [B, S, D]."""
  return _apply(params, model_config, T5.encode, inputs_BxS, input_segments, key=key)


def decode(
  params: Params,
  model_config: T5Config,
  encoded_BxSxD: jax.Array,
  inputs_BxS: jax.Array,
  decoder_inputs_BxT: jax.Array,
) -> jax.Array:
  """Returns logits of the tokens that follow each decoder input: float32 [B, T, V].

  Args:
    params: as from `init`.
    model_config: the model's sizes.
    encoded_BxSxD: as from `encode`.
    inputs_BxS: the encoder's, for their padding.
    decoder_inputs_BxT: int32, already shifted right.
  """
  return _apply(params, model_config, T5.decode, encoded_BxSxD, inputs_BxS, decoder_inputs_BxT)


def observe(
  params: Params,
  model_config: T5Config,
  inputs_BxS: jax.Array,
  position_B: jax.Array,
  marked_BxS: jax.Array,
  gold_B: jax.Array,
  among_BxV: jax.Array,
) -> dict[str, observing.Read]:
  """Returns what two queries of each row attend to among the inputs, in each layer.

  Args:
    params: as from `init`.
    model_config: the model's sizes.
    inputs_BxS: int32, padding 0 at the end of a row.
    position_B: int32, where the blank <extra_id_0> stands.
    marked_BxS: bool, the inputs whose share is told apart from the rest.
    gold_B: int32, the first token of the right answer.
    among_BxV: bool, the tokens that it is compared with.

  Returns:
    Two observing.Reads. "encoder": of the input at position_B; [N, B, H, S] or [N, B, H, K].
    "cross": of the decoder's second input, which is that blank's token again and predicts the
    answer's first; `marked`, `rest` and `mean` are [N, B, H], shares of the logit of gold_B less
    the mean of those of among_BxV (observing.direction).
  """
  return _apply(
    params, model_config, T5.observe, inputs_BxS, position_B, marked_BxS, gold_B, among_BxV
  )


def start(
  params: Params,
  model_config: T5Config,
  inputs_BxS: jax.Array,
  length: int,
  packed: layers.Packed | None = None,
) -> tuple[Batch, jax.Array]:
  """Reads the inputs and returns (cache, first_B, the decoder's first token, 0).

  Args:
    params: as from `init`.
    model_config: the model's sizes.
    inputs_BxS: int32, padding 0 at the end of a row.
    length: tokens that the cache has room for.
    packed: the same inputs, several to a row, so that the padding is not read.

  Returns:
    The cache, a dict of `inputs`, `step` (int32 scalar: tokens read so far), `key` and `value`
    [N, B, H, K, length], `cross_key` and `cross_value` [N, B, H, K, S], computed here once; and
    first_B.
  """
  if packed is None:
    tokens, segments, index_BxS = inputs_BxS, None, None
  else:
    tokens, segments, index_BxS = packed
  encoded = encode(params, model_config, tokens, input_segments=segments)
  cross_key, cross_value = _apply(params, model_config, T5.cross_keys_values, encoded, index_BxS)
  empty = jnp.zeros((*cross_key.shape[:-1], length), cross_key.dtype)
  cache = {
    "inputs": inputs_BxS,
    "step": jnp.zeros((), jnp.int32),
    "key": empty,
    "value": empty,
    "cross_key": cross_key,
    "cross_value": cross_value,
  }
  return cache, jnp.zeros(inputs_BxS.shape[0], jnp.int32)


def layer_weights(params: Params) -> list[Params] | None:
  """Returns the weights of each layer that `step` runs, or None (layers.layer_weights)."""
  return layers.layer_weights(params["decoder"]["layers"])


def unstack(cache: Batch) -> Batch:
  """Returns the cache from `start` with each layer's arrays apart.

  `step` wants `weights` from `layer_weights` in it too.
  """
  return layers.unstack(cache, CACHED)


def step(
  params: Params, model_config: T5Config, cache: Batch, tokens_B: jax.Array
) -> tuple[jax.Array, Batch]:
  """Reads one decoder token a row and returns the next token's logits [B, V] and the cache.

  The cache is from `unstack`, the first token 0. Steps beyond the cache's length give wrong logits:
  under jit nothing can be raised.
  """
  logits_BxV, keys, values = _apply(params, model_config, T5.step, cache, tokens_B)
  return logits_BxV, dict(cache, step=cache["step"] + 1, key=keys, value=values)


def hidden_of_tree(
  params: Params,
  model_config: T5Config,
  cache: Batch,
  first_B: jax.Array,
  tokens: jax.Array,
  distance: jax.Array,
) -> jax.Array:
  """Returns what `logits_of_tree` makes logits of, for each context of a tree of decoder inputs.

  Args:
    params: as from `init`.
    model_config: the model's sizes.
    cache: as from `start`.
    first_B: as from `start`, the token of the root, node 0.
    tokens: int32 [M], the last token of each context; [B, M] where each row has its own tree.
    distance: int32 [M, M] or [B, M, M], by how many tokens context j is shorter than context i
      where i begins with j; else -1.

  Returns:
    An array [B, M, D].
  """
  tokens_BxM, distance_BxMxM = layers.tree_of_rows(first_B, tokens, distance)
  return _apply(params, model_config, T5.tree, cache, tokens_BxM, distance_BxMxM)


def logits_of_tree(params: Params, model_config: T5Config, hidden_BxMxD: jax.Array) -> jax.Array:
  """Returns logits of the tokens that follow contexts, from `hidden_of_tree`: float32 [B, M, V]."""
  return _apply(params, model_config, T5.logits, hidden_BxMxD)


def take_rows(cache: Batch, rows_R: jax.Array) -> Batch:
  """Returns the cache (from `start` or `unstack`) of these rows, in this order.

  A row may come several times, as for beams.
  """
  taken = layers.take_cached(cache, CACHED, rows_R)
  return dict(taken, inputs=cache["inputs"][rows_R])


def reorder(cache: Batch, rows_R: jax.Array) -> Batch:
  """Returns what `take_rows` does where each row is replaced by one of the same inputs.

  Only what was read since is moved.
  """
  return layers.take_cached(cache, ("key", "value"), rows_R)


def shift_right(targets_BxT: jax.Array, target_segments: jax.Array | None = None) -> jax.Array:
  """Returns the decoder inputs: targets one position later, 0 at the start of row and segment."""
  shifted = jnp.pad(targets_BxT[:, :-1], ((0, 0), (1, 0)))
  if target_segments is None:
    return shifted
  before = jnp.pad(target_segments[:, :-1], ((0, 0), (1, 0)))
  return jnp.where(before == target_segments, shifted, 0)


@functools.partial(jax.jit, static_argnums=0)
def _init(model_config: T5Config, key: jax.Array) -> Params:
  tokens = jnp.ones((1, 1), jnp.int32)
  variables: Any = T5(model_config).init(key, tokens, method=T5.everything)
  return variables["params"]


def _apply(
  params: Params,
  model_config: T5Config,
  method: Callable[..., Any],
  *arguments: Any,
  key: jax.Array | None = None,
) -> Any:
  """Returns what a method of the module T5 does with these params; a key turns dropout on."""
  rngs = None if key is None else {"dropout": key}
  module = T5(model_config, train=key is not None)
  return module.apply({"params": params}, *arguments, method=method, rngs=rngs)

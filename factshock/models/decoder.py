"""Llama (Touvron et al. 2023) and its relatives, as functions over a nested dict.

Layers are stacked: every array under `layers` has a leading axis N. H query heads share G key and
value heads. Padding is token PAD, on either side of a row; rows may hold several segments.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from factshock.models import fused, layers, observing
from factshock.models.decoder_config import PAD, LlamaConfig, kernel_problems
from factshock.models.decoder_modules import Llama, positions, segments_of
from factshock.types import Batch, Params

__all__ = ["PAD", "LlamaConfig", "positions"]

_CACHED = ("key", "value")

# Caches are of a multiple of so many tokens: a GPU's products would copy others to fill them up.
_MULTIPLE = 8


def init(model_config: LlamaConfig, key: jax.Array) -> Params:
  """Returns random parameters, normal with variance 1 / inputs."""
  return _init(model_config, key)


def forward(
  params: Params,
  model_config: LlamaConfig,
  tokens_BxS: jax.Array,
  *,
  segments_BxS: jax.Array | None = None,
) -> jax.Array:
  """Returns logits of the token after each token given those up to it: float32 [B, S, V].

  Args:
    params: as from `init`.
    model_config: the model's sizes.
    tokens_BxS: int32, PAD on either side of a row.
    segments_BxS: int32, of packed rows (0 = padding): tokens see their own segment, positions count
      in it.
  """
  segments = segments_of(tokens_BxS, segments_BxS)
  return _apply(params, model_config, Llama.forward, tokens_BxS, segments)


def hidden(
  params: Params,
  model_config: LlamaConfig,
  tokens_BxS: jax.Array,
  *,
  segments_BxS: jax.Array | None = None,
) -> jax.Array:
  """Returns what `head` makes logits of: [B, S, D], for losses that need no logits as a whole.

  Attention is as model_config.attention says; packed rows are for "xla" (fused.choose).

  Args:
    params: as from `init`.
    model_config: the model's sizes.
    tokens_BxS: int32, PAD at the end of a row.
    segments_BxS: as of `forward`.
  """
  length = tokens_BxS.shape[1]
  kernel = fused.kernel(
    model_config,
    (length,),
    packed=segments_BxS is not None,
    others=kernel_problems(model_config, length),
  )
  segments = segments_of(tokens_BxS, segments_BxS)
  return _apply(params, model_config, Llama.hidden, tokens_BxS, segments, kernel)


def head(params: Params, model_config: LlamaConfig, hidden_BxSxD: jax.Array) -> jax.Array:
  """Returns logits from `hidden`: float32 [B, S, V]."""
  return _apply(params, model_config, Llama.head_of, hidden_BxSxD)


def observe(
  params: Params,
  model_config: LlamaConfig,
  tokens_BxS: jax.Array,
  position_B: jax.Array,
  marked_BxS: jax.Array,
  gold_B: jax.Array,
  among_BxV: jax.Array,
) -> dict[str, observing.Read]:
  """Returns what the query at a position of each row attends to in each layer.

  Args:
    params: as from `init`.
    model_config: the model's sizes.
    tokens_BxS: int32, PAD on either side of a row.
    position_B: int32, the query's.
    marked_BxS: bool, tokens that the query sees in some layer, whose share is told apart from the
      rest; a layer whose window ends before one leaves it out.
    gold_B: int32, the first token of the right answer.
    among_BxV: bool, the tokens that it is compared with.

  Returns:
    One observing.Read, "self", whose `marked`, `rest` and `mean` are [N, B, H]: shares of the
    logit, after that position, of gold_B less the mean of those of among_BxV (observing.direction).
    The statistics of norms after attention are held, too, and a soft cap of logits is left out.
  """
  return _apply(
    params, model_config, Llama.observe, tokens_BxS, position_B, marked_BxS, gold_B, among_BxV
  )


def start(
  params: Params,
  model_config: LlamaConfig,
  inputs_BxS: jax.Array,
  length: int,
  packed: layers.Packed | None = None,
) -> tuple[Batch, jax.Array]:
  """Reads prompts and returns (cache, first_B, the last token of each prompt).

  Args:
    params: as from `init`.
    model_config: the model's sizes.
    inputs_BxS: int32, PAD on the left.
    length: further tokens that the cache has room for.
    packed: all but the last token of the prompts, several to a row, so that the padding is not
      read.

  Returns:
    The cache, which holds all but the last token: a dict of `key` and `value` [N, B, G, K, L], L
    at least S - 1 + length, `step` (int32 scalar: tokens read since), `used` [B, S - 1] (bool: no
    padding) and `offset` [B] (tokens in the prompt but the last); and first_B.
  """
  before_BxP = inputs_BxS[:, :-1]
  first_B = inputs_BxS[:, -1]
  used_BxP = before_BxP != PAD
  prompts = packed or (before_BxP, used_BxP.astype(jnp.int32), None)
  key, value = _apply(params, model_config, Llama.prefill, *prompts)
  filler = -(key.shape[-1] + length) % _MULTIPLE
  more = ((0, 0), (0, 0), (0, 0), (0, 0), (0, length + filler))
  cache = {
    "key": jnp.pad(key, more),
    "value": jnp.pad(value, more),
    "step": jnp.zeros((), jnp.int32),
    "used": used_BxP,
    "offset": used_BxP.sum(axis=1, dtype=jnp.int32),
  }
  return cache, first_B


def layer_weights(params: Params) -> list[Params] | None:
  """Returns the weights of each layer that `step` runs, or None (layers.layer_weights)."""
  return layers.layer_weights(params["layers"])


def unstack(cache: Batch) -> Batch:
  """Returns the cache from `start` with each layer's arrays apart.

  `step` wants `weights` from `layer_weights` in it too.
  """
  return layers.unstack(cache, _CACHED)


def step(
  params: Params, model_config: LlamaConfig, cache: Batch, tokens_B: jax.Array
) -> tuple[jax.Array, Batch]:
  """Reads one token a row and returns the next token's logits, float32 [B, V], and the cache.

  The cache is from `unstack`. Steps beyond its length give wrong logits: under jit nothing can be
  raised.
  """
  logits_BxV, keys, values = _apply(params, model_config, Llama.step, cache, tokens_B)
  return logits_BxV, dict(cache, step=cache["step"] + 1, key=keys, value=values)


def hidden_of_tree(
  params: Params,
  model_config: LlamaConfig,
  cache: Batch,
  first_B: jax.Array,
  tokens: jax.Array,
  distance: jax.Array,
) -> jax.Array:
  """Returns what `logits_of_tree` makes logits of, for each context of a tree of continuations.

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
  depth_BxM = (distance_BxMxM >= 0).sum(axis=2) - 1
  positions_BxM = cache["offset"][:, None] + depth_BxM
  return _apply(params, model_config, Llama.tree, cache, tokens_BxM, positions_BxM, distance_BxMxM)


def logits_of_tree(params: Params, model_config: LlamaConfig, hidden_BxMxD: jax.Array) -> jax.Array:
  """Returns logits of the tokens that follow contexts, from `hidden_of_tree`: float32 [B, M, V]."""
  return _apply(params, model_config, Llama.logits, hidden_BxMxD)


def take_rows(cache: Batch, rows_R: jax.Array) -> Batch:
  """Returns the cache (from `start` or `unstack`) of these rows, in this order.

  A row may come several times, as for beams.
  """
  taken = layers.take_cached(cache, _CACHED, rows_R)
  return dict(taken, used=cache["used"][rows_R], offset=cache["offset"][rows_R])


def reorder(cache: Batch, rows_R: jax.Array) -> Batch:
  """Returns what `take_rows` does where each row is replaced by one of the same prompt.

  Only what was read since is moved.
  """
  prompt = cache["used"].shape[1]
  moved = {}
  for name in _CACHED:
    moved[name] = [layer.at[..., prompt:].set(layer[..., prompt:][rows_R]) for layer in cache[name]]
  return dict(cache, **moved)


@functools.partial(jax.jit, static_argnums=0)
def _init(model_config: LlamaConfig, key: jax.Array) -> Params:
  tokens = jnp.ones((1, 1), jnp.int32)
  variables: Any = Llama(model_config).init(key, tokens, tokens, method=Llama.forward)
  return variables["params"]


def _apply(
  params: Params, model_config: LlamaConfig, method: Callable[..., Any], *arguments: Any
) -> Any:
  """Returns what a method of the module Llama does with these params."""
  return Llama(model_config).apply({"params": params}, *arguments, method=method)

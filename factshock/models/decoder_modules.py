"""Flax modules of Llama and Mistral: attention, layers, and the whole model."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from factshock.models import attention, fused, layers, observing, products, remat, rotary
from factshock.models.decoder_config import PAD, LlamaConfig
from factshock.types import Batch

# Cosines and sines of the tokens' positions, each [B, S, 1, K / 2].
Turn: TypeAlias = tuple[jax.Array, jax.Array]

# What queries see: a bias [B, 1, S, S] to add to scores, or its description for a kernel.
Bias: TypeAlias = jax.Array | fused.Seen


class Attention(layers.Part):
  """Attention whose query heads share key and value heads in groups (Ainslie et al. 2023)."""

  config: LlamaConfig

  def setup(self) -> None:
    config = self.config
    wide = config.num_heads * config.d_kv
    narrow = config.num_kv_heads * config.d_kv
    self.query = self.weight("query", config.d_model**-0.5, config.d_model, wide)
    self.key = self.weight("key", config.d_model**-0.5, config.d_model, narrow)
    self.value = self.weight("value", config.d_model**-0.5, config.d_model, narrow)
    self.out = self.weight("out", wide**-0.5, wide, config.d_model)

  def queries_keys_values(self, x: jax.Array, turn: Turn) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns query [B, S, G, H / G, K], key and value [B, S, G, K].

    The first two are turned by their positions, and the query is scaled.
    """
    config = self.config
    weights = {"query": self.query, "key": self.key, "value": self.value}
    if self.joins(*weights):
      y = products.dense(x, self.joined(**weights))
      wide = config.num_heads * config.d_kv
      parts = jnp.split(y, (wide, wide + config.num_kv_heads * config.d_kv), axis=-1)
    else:
      parts = [products.dense(x, weight) for weight in weights.values()]
    heads = [
      self.adapted(name, x, part).reshape(*x.shape[:-1], -1, config.d_kv)
      for name, part in zip(weights, parts)
    ]
    query, key = (rotary.rotate(part, *turn) for part in heads[:2])
    query = query * jnp.asarray(config.d_kv**-0.5, self.dtype)
    query = query.reshape(*x.shape[:-1], config.num_kv_heads, -1, config.d_kv)
    return query, key, heads[2]

  def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array, bias: Bias) -> jax.Array:
    """Returns the output [B, S, D] of tokens that see one another by a bias."""
    if isinstance(bias, fused.Seen):
      query = query.reshape(*query.shape[:2], -1, query.shape[-1])
      return self._project(fused.attend(query, key, value, bias))
    scores = jnp.einsum("bsgrk,btgk->bgrst", query, key).astype(jnp.float32)
    scores = scores + bias[:, :, None]
    weights = products.softmax(scores, value.dtype)
    return self._project(jnp.einsum("bgrst,btgk->bsgrk", weights, value))

  def cached(
    self, query: jax.Array, cached: attention.Cached, new: attention.Cached | None = None
  ) -> jax.Array:
    """Returns what __call__ does for tokens that follow those of a cache."""
    return self._project(attention.attend_cached(query, cached, new))

  def backed_out(self, direction: jax.Array) -> jax.Array:
    """Returns what the output projection multiplies heads by in y . direction: [B, H * K]."""
    return self.backed("out", self.out, direction)

  def _project(self, y: jax.Array) -> jax.Array:
    y = y.reshape(*y.shape[:2], -1)
    return self.adapted("out", y, products.dense(y, self.out))


class Layer(layers.Part):
  """Self-attention and feed-forward, each after a norm and added to the stream."""

  config: LlamaConfig

  def setup(self) -> None:
    self.self_attention_norm = layers.Norm(self.config)
    self.self_attention = Attention(self.config)
    self.feed_forward_norm = layers.Norm(self.config)
    self.feed_forward = layers.FeedForward(self.config)

  def __call__(self, x: jax.Array, turn: Turn, bias: Bias) -> tuple[jax.Array, None]:
    """Returns the stream after the layer; None, as nn.scan collects nothing."""
    return self.prefill(x, turn, bias, None)[0], None

  def prefill(
    self, x: jax.Array, turn: Turn, bias: Bias, index: jax.Array | None
  ) -> tuple[jax.Array, list[jax.Array]]:
    """Returns the stream after the layer, and the keys and values of a cache, tokens last."""
    query, key, value = self._queries_keys_values(x, turn)
    x = x + self.self_attention(query, key, value, bias)
    x = self._feed_forward(x)
    return x, [attention.tokens_last(layers.unpacked(array, index)) for array in (key, value)]

  def observe(
    self, x: jax.Array, turn: Turn, bias: jax.Array, position: jax.Array, marked: jax.Array
  ) -> tuple[jax.Array, observing.Read]:
    """Returns the stream after the layer, and what the query at a position of each row reads."""
    heads = self._queries_keys_values(x, turn)
    x = self._feed_forward(x + self.self_attention(*heads, bias))
    return x, observing.read(*heads, bias, position, marked)

  def backed(self, carry: None, direction: jax.Array) -> tuple[None, jax.Array]:
    """Returns what the attention's heads are multiplied by in y . direction."""
    return carry, self.self_attention.backed_out(direction)

  def extend(
    self,
    x: jax.Array,
    cache: tuple[jax.Array, jax.Array],
    turn: Turn,
    bias: jax.Array,
    cached_bias: jax.Array,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the stream of tokens that follow a cache, and their own keys and values."""
    query, key, value = self._queries_keys_values(x, turn)
    x = x + self.self_attention.cached(query, (*cache, cached_bias), (key, value, bias))
    x = self._feed_forward(x)
    return x, (attention.tokens_last(key), attention.tokens_last(value))

  def step(
    self,
    x: jax.Array,
    cached: tuple[jax.Array, jax.Array],
    position: jax.Array,
    turn: Turn,
    bias: jax.Array,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the stream of one more token, and the cache's key and value with the token in it."""
    query, *new = self._queries_keys_values(x, turn)
    key, value = (layers.write_token(array, token, position) for array, token in zip(cached, new))
    x = x + self.self_attention.cached(query, (key, value, bias))
    return self._feed_forward(x), key, value

  def _queries_keys_values(
    self, x: jax.Array, turn: Turn
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    return self.self_attention.queries_keys_values(self.self_attention_norm(x), turn)

  def _feed_forward(self, x: jax.Array) -> jax.Array:
    return x + self.feed_forward(self.feed_forward_norm(x))


class Llama(layers.Part):
  """Whole model, whose methods the functions of models/decoder.py run."""

  config: LlamaConfig

  def setup(self) -> None:
    config = self.config
    shape = (config.vocab_size, config.d_model)
    dtype = jnp.dtype(config.param_dtype)
    self.embedding = self.param("embedding", layers.normal(1.0), shape, dtype)
    if not config.tie_head:
      self.head = self.param("head", layers.normal(config.d_model**-0.5), shape, dtype)
    same = nn.broadcast  # every layer gets the argument as it is
    inputs: dict[str, tuple[Any, ...]] = {
      "__call__": (same,) * 2,
      "prefill": (same,) * 3,
      "extend": (0,) + (same,) * 3,
      "observe": (same,) * 4,
      "backed": (same,),
    }
    scanned = {
      name: dict(
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=axes,
        length=config.layers,
        unroll=config.layers if config.unroll else 1,
      )
      for name, axes in inputs.items()
    }
    # nn.scan gives every argument and result of a layer's methods an axis more.
    self.layers: Any = nn.scan(remat.layer(Layer, self), methods=scanned)(config)
    self.final_norm = layers.Norm(config)

  def forward(self, tokens: jax.Array, segments: jax.Array) -> jax.Array:
    """Returns the logits after each token: float32 [B, S, V]."""
    return self.head_of(self.hidden(tokens, segments))

  def hidden(
    self, tokens: jax.Array, segments: jax.Array, kernel: fused.Kernel | None = None
  ) -> jax.Array:
    """Returns the stream of whole rows after the last norm: [B, S, D]."""
    if kernel is None:
      seen = self._bias(segments)
    else:
      # Padding comes last: no token sees it where none sees what comes after it.
      seen = fused.Seen(None, None, kernel, causal=True, window=self.config.sliding_window)
    x, _ = self.layers(self._embed(tokens), self._turn(positions(segments)), seen)
    return self.final_norm(x)

  def observe(
    self,
    tokens: jax.Array,
    position: jax.Array,
    marked: jax.Array,
    gold: jax.Array,
    among: jax.Array,
  ) -> dict[str, observing.Read]:
    """Returns what the query at a position of each row reads; see decoder.observe."""
    segments = segments_of(tokens, None)
    turn = self._turn(positions(segments))
    bias = self._bias(segments)
    x, read = self.layers.observe(self._embed(tokens), turn, bias, position, marked)
    direction = observing.direction(
      x[jnp.arange(len(position)), position],
      self.final_norm.variables["params"]["scale"],
      self.config.epsilon,
      self._head(),
      gold,
      among,
    )
    return {"self": observing.shares(read, self.layers.backed(None, direction)[1])}

  def prefill(
    self, tokens: jax.Array, segments: jax.Array, index: jax.Array | None
  ) -> Sequence[jax.Array]:
    """Returns the keys and values of prompts, each [N, B, G, K, S]."""
    x = self._embed(tokens)
    turn = self._turn(positions(segments))
    return self.layers.prefill(x, turn, self._bias(segments), index)[1]

  def step(
    self, cache: Batch, tokens: jax.Array
  ) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
    """Returns the logits after one more token, and each layer's keys and values with it."""
    positions_Bx1 = (cache["offset"] + cache["step"])[:, None]
    position = cache["used"].shape[1] + cache["step"]
    turn = self._turn(positions_Bx1)
    bias = self._cached_bias(cache, positions_Bx1, cache["step"] + 1)
    x = self._embed(tokens[:, None])
    layer = Layer(self.config, parent=None)
    keys = []
    values = []
    for index in range(self.config.layers):
      weights = layers.weights_of(cache, self.layers.variables["params"], index, x)
      stepped: Any = layer.apply(
        {"params": weights},
        x,
        (cache["key"][index], cache["value"][index]),
        position,
        turn,
        bias,
        method=Layer.step,
      )
      x, key, value = stepped
      keys.append(key)
      values.append(value)
    return self.logits(x)[:, 0], keys, values

  def tree(
    self, cache: Batch, tokens: jax.Array, positions_BxM: jax.Array, bias: jax.Array
  ) -> jax.Array:
    """Returns the stream of every context of a tree: [B, M, D]; see decoder.hidden_of_tree."""
    x, _ = self.layers.extend(
      self._embed(tokens),
      (cache["key"], cache["value"]),
      self._turn(positions_BxM),
      bias,
      self._cached_bias(cache, positions_BxM, cache["step"]),
    )
    return x

  def logits(self, x: jax.Array) -> jax.Array:
    """Returns the logits of a stream before the last norm: float32 [B, S, V]."""
    return self.head_of(self.final_norm(x))

  def head_of(self, x: jax.Array) -> jax.Array:
    """Returns the logits of a stream after the last norm: float32 [B, S, V]."""
    return products.logits(x, self._head())

  def _cached_bias(self, cache: Batch, positions_BxQ: jax.Array, read: jax.Array) -> jax.Array:
    """Returns the bias [B, 1, 1, Q, L] of a cache's tokens.

    Args:
      cache: of L tokens, those of the prompt first.
      positions_BxQ: of the tokens that see it.
      read: tokens of it that follow the prompt.
    """
    prompt = cache["used"].shape[1]
    rows = cache["used"].shape[0]
    later_L = jnp.arange(cache["key"][0].shape[-1] - prompt)
    later_valid = jnp.broadcast_to(later_L < read, (rows, later_L.size))
    allowed = jnp.concatenate([cache["used"], later_valid], axis=1)[:, None]
    if self.config.sliding_window is not None:
      prompt_positions = jnp.cumsum(cache["used"], axis=1) - 1
      later_positions = cache["offset"][:, None] + later_L[None]
      cached_positions = jnp.concatenate([prompt_positions, later_positions], axis=1)
      back_BxQxL = positions_BxQ[:, :, None] - cached_positions[:, None]
      allowed = allowed & (back_BxQxL < self.config.sliding_window)
    return jnp.where(allowed, 0.0, attention.MASKED)[:, None, None]

  def _turn(self, positions_BxS: jax.Array) -> Turn:
    config = self.config
    frequencies = rotary.frequencies(config.d_kv, config.rope_theta, config.rope_scaling)
    return rotary.angles(positions_BxS, frequencies)

  def _bias(self, segments: jax.Array) -> jax.Array:
    """Returns a bias [B, 1, S, S]: tokens see those before in their segment, within the window."""
    length = segments.shape[1]
    back = np.arange(length)[:, None] - np.arange(length)[None]
    window = length if self.config.sliding_window is None else self.config.sliding_window
    mask = attention.segment_mask(segments, segments)
    within = (back >= 0) & (back < window)
    return mask + jnp.where(within, 0.0, attention.MASKED)[None, None]

  def _embed(self, tokens: jax.Array) -> jax.Array:
    return layers.embed(self.embedding, jnp.maximum(tokens, 0), self.dtype)

  def _head(self) -> jax.Array:
    weight = self.embedding if self.config.tie_head else self.head
    return weight.astype(self.dtype)


def positions(segments_BxS: jax.Array) -> jax.Array:
  """Returns the position of each token in its segment, from 0: int32 [B, S]."""
  column_S = jnp.arange(segments_BxS.shape[1])
  shift = ((0, 0), (1, 0))
  before = jnp.pad(segments_BxS[:, :-1], shift, constant_values=-1)
  begin_BxS = jnp.where(segments_BxS != before, column_S[None], 0)
  return column_S[None] - jax.lax.cummax(begin_BxS, axis=1)


def segments_of(tokens_BxS: jax.Array, segments_BxS: jax.Array | None) -> jax.Array:
  """Returns the segments given, or 1 for each token and 0 for padding."""
  if segments_BxS is not None:
    return segments_BxS
  return (tokens_BxS != PAD).astype(jnp.int32)

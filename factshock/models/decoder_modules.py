"""Flax modules of Llama and its relatives: attention, layers, and the whole model."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from factshock.models import attention, fused, int8, layers, observing, products, remat, rotary
from factshock.models.decoder_config import PAD, Kind, LlamaConfig, kinds
from factshock.models.int8 import Weight
from factshock.types import Batch

# Cosines and sines of the tokens' positions, each [B, S, 1, K / 2].
Turn: TypeAlias = tuple[jax.Array, jax.Array]

# What queries see: a bias [B, 1, S, S] to add to scores, or its description for a kernel.
Bias: TypeAlias = jax.Array | fused.Seen

_Arrays = TypeVar("_Arrays")


class Attention(layers.Part):
  """Attention whose query heads share key and value heads in groups (Ainslie et al. 2023)."""

  config: LlamaConfig

  def setup(self) -> None:
    config = self.config
    wide = config.num_heads * config.d_kv
    narrow = config.num_kv_heads * config.d_kv
    self.query = self.matrix("query", config.d_model**-0.5, config.d_model, wide)
    self.key = self.matrix("key", config.d_model**-0.5, config.d_model, narrow)
    self.value = self.matrix("value", config.d_model**-0.5, config.d_model, narrow)
    self.out = self.matrix("out", wide**-0.5, wide, config.d_model)
    variant = config.variant
    if variant.qkv_bias:
      self.query_bias = self.weight("query_bias", 0.0, wide)
      self.key_bias = self.weight("key_bias", 0.0, narrow)
      self.value_bias = self.weight("value_bias", 0.0, narrow)
    if variant.qk_norm != "none":
      self.query_norm = layers.Norm(config, offset=variant.norm_offset)
      self.key_norm = layers.Norm(config, offset=variant.norm_offset)

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
    adapted = [self.adapted(name, x, part) for name, part in zip(weights, parts)]
    heads = self._heads(*adapted)
    query, key = (rotary.rotate(part, *turn) for part in heads[:2])
    scale = config.variant.query_scale or config.d_kv**-0.5
    query = query * jnp.asarray(scale, self.dtype)
    query = query.reshape(*x.shape[:-1], config.num_kv_heads, -1, config.d_kv)
    return query, key, heads[2]

  def _heads(self, query: jax.Array, key: jax.Array, value: jax.Array) -> list[jax.Array]:
    """Returns heads [B, S, heads, K] of queries, keys and values [B, S, heads * K].

    Biases are added and queries and keys normed, where the family does so.
    """
    variant = self.config.variant
    parts = [query, key, value]
    if variant.qkv_bias:
      biases = (self.query_bias, self.key_bias, self.value_bias)
      parts = [part + bias[None, None] for part, bias in zip(parts, biases)]
    if variant.qk_norm == "whole":
      parts[:2] = [self.query_norm(parts[0]), self.key_norm(parts[1])]
    parts = [part.reshape(*part.shape[:-1], -1, self.config.d_kv) for part in parts]
    if variant.qk_norm == "head":
      parts[:2] = [self.query_norm(parts[0]), self.key_norm(parts[1])]
    return parts

  def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array, bias: Bias) -> jax.Array:
    """Returns the output [B, S, D] of tokens that see one another by a bias."""
    if isinstance(bias, fused.Seen):
      query = query.reshape(*query.shape[:2], -1, query.shape[-1])
      return self._project(fused.attend(query, key, value, bias))
    scores = jnp.einsum("bsgrk,btgk->bgrst", query, key).astype(jnp.float32)
    scores = attention.softcapped(scores, self.config.variant.attention_softcap)
    scores = scores + bias[:, :, None]
    weights = products.softmax(scores, value.dtype)
    return self._project(jnp.einsum("bgrst,btgk->bsgrk", weights, value))

  def cached(
    self, query: jax.Array, cached: attention.Cached, new: attention.Cached | None = None
  ) -> jax.Array:
    """Returns what __call__ does for tokens that follow those of a cache."""
    softcap = self.config.variant.attention_softcap
    return self._project(attention.attend_cached(query, cached, new, softcap))

  def backed_out(self, direction: jax.Array) -> jax.Array:
    """Returns what the output projection multiplies heads by in y . direction: [B, H * K]."""
    return self.backed("out", self.out, direction)

  def _project(self, y: jax.Array) -> jax.Array:
    y = y.reshape(*y.shape[:2], -1)
    return self.adapted("out", y, products.dense(y, self.out))


class Layer(layers.Part):
  """Self-attention and feed-forward, each normed before or after and added to the stream.

  Of a model with several kinds of layers `turn` and the biases hold those of each kind, stacked,
  and `kind` says which are this layer's; else it is None.
  """

  config: LlamaConfig

  def setup(self) -> None:
    variant = self.config.variant
    self.self_attention = Attention(self.config)
    self.feed_forward = layers.FeedForward(self.config)
    if variant.norm_before:
      self.self_attention_norm = layers.Norm(self.config, offset=variant.norm_offset)
      self.feed_forward_norm = layers.Norm(self.config, offset=variant.norm_offset)
    if variant.norm_after:
      self.self_attention_post_norm = layers.Norm(self.config, offset=variant.norm_offset)
      self.feed_forward_post_norm = layers.Norm(self.config, offset=variant.norm_offset)

  def __call__(
    self, x: jax.Array, turn: Turn, bias: Bias, kind: jax.Array | None
  ) -> tuple[jax.Array, None]:
    """Returns the stream after the layer; None, as nn.scan collects nothing."""
    return self.prefill(x, turn, bias, None, kind)[0], None

  def prefill(
    self,
    x: jax.Array,
    turn: Turn,
    bias: Bias,
    index: jax.Array | None,
    kind: jax.Array | None,
  ) -> tuple[jax.Array, list[jax.Array]]:
    """Returns the stream after the layer, and the keys and values of a cache, tokens last."""
    turn, bias = _of_kind((turn, bias), kind)
    query, key, value = self._queries_keys_values(x, turn)
    x = x + self._after_attention(self.self_attention(query, key, value, bias))
    x = self._feed_forward(x)
    return x, [attention.tokens_last(layers.unpacked(array, index)) for array in (key, value)]

  def observe(
    self,
    x: jax.Array,
    turn: Turn,
    bias: jax.Array,
    position: jax.Array,
    marked: jax.Array,
    kind: jax.Array | None,
  ) -> tuple[jax.Array, tuple[observing.Read, jax.Array | None]]:
    """Returns the stream after the layer, and what the query at a position of each row reads.

    Beside it stands what the norm after attention multiplies the output there by, [B, D]; None
    where there is no such norm.
    """
    turn, bias = _of_kind((turn, bias), kind)
    rows = jnp.arange(len(position))
    if kind is not None:  # a window may hide what is marked from this layer
      marked = marked & (bias[:, 0][rows, position] > attention.MASKED / 2)
    heads = self._queries_keys_values(x, turn)
    added = self.self_attention(*heads, bias)
    softcap = self.config.variant.attention_softcap
    read = observing.read(*heads, bias, position, marked, softcap)
    x = self._feed_forward(x + self._after_attention(added))
    if not self.config.variant.norm_after:
      return x, (read, None)
    return x, (read, self.self_attention_post_norm.factor(added[rows, position]))

  def backed(
    self, carry: None, direction: jax.Array, factor: jax.Array | None
  ) -> tuple[None, jax.Array]:
    """Returns what the attention's heads are multiplied by in y . direction.

    Args:
      carry: nothing, as nn.scan wants it.
      direction: [B, D].
      factor: what y is multiplied by before, from `observe`.
    """
    if factor is not None:
      direction = direction * factor
    return carry, self.self_attention.backed_out(direction)

  def extend(
    self,
    x: jax.Array,
    cache: tuple[jax.Array, jax.Array],
    turn: Turn,
    bias: jax.Array,
    cached_bias: jax.Array,
    kind: jax.Array | None,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the stream of tokens that follow a cache, and their own keys and values."""
    turn, bias, cached_bias = _of_kind((turn, bias, cached_bias), kind)
    query, key, value = self._queries_keys_values(x, turn)
    added = self.self_attention.cached(query, (*cache, cached_bias), (key, value, bias))
    x = self._feed_forward(x + self._after_attention(added))
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
    x = x + self._after_attention(self.self_attention.cached(query, (key, value, bias)))
    return self._feed_forward(x), key, value

  def _queries_keys_values(
    self, x: jax.Array, turn: Turn
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    if self.config.variant.norm_before:
      x = self.self_attention_norm(x)
    return self.self_attention.queries_keys_values(x, turn)

  def _after_attention(self, y: jax.Array) -> jax.Array:
    return self.self_attention_post_norm(y) if self.config.variant.norm_after else y

  def _feed_forward(self, x: jax.Array) -> jax.Array:
    variant = self.config.variant
    y = self.feed_forward(self.feed_forward_norm(x) if variant.norm_before else x)
    return x + (self.feed_forward_post_norm(y) if variant.norm_after else y)


def _of_kind(arrays: _Arrays, kind: jax.Array | None) -> _Arrays:
  """Returns the arrays of one kind of layers from those of all, or as they are for None."""
  return arrays if kind is None else jax.tree.map(lambda array: array[kind], arrays)


class Llama(layers.Part):
  """Whole model, whose methods the functions of models/decoder.py run."""

  config: LlamaConfig

  def setup(self) -> None:
    config = self.config
    shape = (config.vocab_size, config.d_model)
    dtype = jnp.dtype(config.param_dtype)
    first = layers.normal(1 / (config.variant.embedding_scale or 1.0))
    self.embedding = self.param("embedding", first, shape, dtype)
    if not config.tie_head:
      self.head = self.param("head", layers.normal(config.d_model**-0.5), shape, dtype)
    same = nn.broadcast  # every layer gets the argument as it is
    inputs: dict[str, tuple[Any, ...]] = {
      "__call__": (same, same, 0),
      "prefill": (same, same, same, 0),
      "extend": (0, same, same, same, 0),
      "observe": (same, same, same, same, 0),
      "backed": (same, 0),
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
    self.final_norm = layers.Norm(config, offset=config.variant.norm_offset)

  def forward(self, tokens: jax.Array, segments: jax.Array) -> jax.Array:
    """Returns the logits after each token: float32 [B, S, V]."""
    return self.head_of(self.hidden(tokens, segments))

  def hidden(
    self, tokens: jax.Array, segments: jax.Array, kernel: fused.Kernel | None = None
  ) -> jax.Array:
    """Returns the stream of whole rows after the last norm: [B, S, D]."""
    seen = self._bias(segments) if kernel is None else self._seen(kernel)
    embedded = self._embed(tokens)
    x, _ = self.layers(embedded, self._turn(positions(segments)), seen, self._kinds())
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
    embedded = self._embed(tokens)
    observed = self.layers.observe(embedded, turn, bias, position, marked, self._kinds())
    x, (read, factor) = observed
    direction = observing.direction(
      x[jnp.arange(len(position)), position],
      self.final_norm.whole_scale(),
      self.config.epsilon,
      int8.widened(self._head()),
      gold,
      among,
    )
    return {"self": observing.shares(read, self.layers.backed(None, direction, factor)[1])}

  def prefill(
    self, tokens: jax.Array, segments: jax.Array, index: jax.Array | None
  ) -> Sequence[jax.Array]:
    """Returns the keys and values of prompts, each [N, B, G, K, S]."""
    x = self._embed(tokens)
    turn = self._turn(positions(segments))
    return self.layers.prefill(x, turn, self._bias(segments), index, self._kinds())[1]

  def step(
    self, cache: Batch, tokens: jax.Array
  ) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
    """Returns the logits after one more token, and each layer's keys and values with it."""
    positions_Bx1 = (cache["offset"] + cache["step"])[:, None]
    position = cache["used"].shape[1] + cache["step"]
    turns = self._turns(positions_Bx1)
    biases = self._cached_biases(cache, positions_Bx1, cache["step"] + 1)
    x = self._embed(tokens[:, None])
    layer = Layer(self.config, parent=None)
    keys = []
    values = []
    for index, kind in enumerate(kinds(self.config)[1]):
      weights = layers.weights_of(cache, self.layers.variables["params"], index, x)
      stepped: Any = layer.apply(
        {"params": weights},
        x,
        (cache["key"][index], cache["value"][index]),
        position,
        turns[kind],
        biases[kind],
        method=Layer.step,
      )
      x, key, value = stepped
      keys.append(key)
      values.append(value)
    return self.logits(x)[:, 0], keys, values

  def tree(
    self, cache: Batch, tokens: jax.Array, positions_BxM: jax.Array, distance_BxMxM: jax.Array
  ) -> jax.Array:
    """Returns the stream of every context of a tree: [B, M, D]; see decoder.hidden_of_tree."""

    def bias(kind: Kind) -> jax.Array:
      allowed_BxMxM = distance_BxMxM >= 0
      if kind.window is not None:
        allowed_BxMxM = allowed_BxMxM & (distance_BxMxM < kind.window)
      return jnp.where(allowed_BxMxM, 0.0, attention.MASKED)[:, None, None]

    x, _ = self.layers.extend(
      self._embed(tokens),
      (cache["key"], cache["value"]),
      _joined(self._turns(positions_BxM)),
      _joined(self._each(bias)),
      _joined(self._cached_biases(cache, positions_BxM, cache["step"])),
      self._kinds(),
    )
    return x

  def logits(self, x: jax.Array) -> jax.Array:
    """Returns the logits of a stream before the last norm: float32 [B, S, V]."""
    return self.head_of(self.final_norm(x))

  def head_of(self, x: jax.Array) -> jax.Array:
    """Returns the logits of a stream after the last norm: float32 [B, S, V]."""
    logits = products.logits(x, self._head())
    return attention.softcapped(logits, self.config.variant.logits_softcap)

  def _cached_biases(
    self, cache: Batch, positions_BxQ: jax.Array, read: jax.Array
  ) -> list[jax.Array]:
    """Returns the bias [B, 1, 1, Q, L] of a cache's tokens, of each kind of layers.

    Args:
      cache: of L tokens, those of the prompt first.
      positions_BxQ: of the tokens that see it.
      read: tokens of it that follow the prompt.
    """
    prompt = cache["used"].shape[1]
    rows = cache["used"].shape[0]
    later_L = jnp.arange(cache["key"][0].shape[-1] - prompt)
    later_valid = jnp.broadcast_to(later_L < read, (rows, later_L.size))
    valid = jnp.concatenate([cache["used"], later_valid], axis=1)[:, None]

    def bias(kind: Kind) -> jax.Array:
      allowed = valid
      if kind.window is not None:
        prompt_positions = jnp.cumsum(cache["used"], axis=1) - 1
        later_positions = cache["offset"][:, None] + later_L[None]
        cached_positions = jnp.concatenate([prompt_positions, later_positions], axis=1)
        back_BxQxL = positions_BxQ[:, :, None] - cached_positions[:, None]
        allowed = allowed & (back_BxQxL < kind.window)
      return jnp.where(allowed, 0.0, attention.MASKED)[:, None, None]

    return self._each(bias)

  def _turns(self, positions_BxS: jax.Array) -> list[Turn]:
    """Returns the cosines and sines of tokens' positions, of each kind of layers."""

    def turn(kind: Kind) -> Turn:
      frequencies = rotary.frequencies(self.config.d_kv, kind.theta, kind.scaling)
      return rotary.angles(positions_BxS, frequencies)

    return self._each(turn)

  def _turn(self, positions_BxS: jax.Array) -> Turn:
    return _joined(self._turns(positions_BxS))

  def _bias(self, segments: jax.Array) -> jax.Array:
    """Returns a bias [B, 1, S, S]: tokens see those before in their segment, within the window."""
    length = segments.shape[1]
    back = np.arange(length)[:, None] - np.arange(length)[None]
    mask = attention.segment_mask(segments, segments)

    def bias(kind: Kind) -> jax.Array:
      window = length if kind.window is None else kind.window
      within = (back >= 0) & (back < window)
      return mask + jnp.where(within, 0.0, attention.MASKED)[None, None]

    return _joined(self._each(bias))

  def _seen(self, kernel: fused.Kernel) -> fused.Seen:
    """Returns what a kernel is told that queries see; padding comes last.

    No token sees padding where none sees what comes after it.
    """
    windows = {kind.window for kind in kinds(self.config)[0]}
    # decoder_config.kernel_problems refuses several windows, but for those longer than the rows.
    window = windows.pop() if len(windows) == 1 else None
    return fused.Seen(None, None, kernel, causal=True, window=window)

  def _each(self, make: Callable[[Kind], _Arrays]) -> list[_Arrays]:
    """Returns what a function makes of each kind of layers."""
    return [make(kind) for kind in kinds(self.config)[0]]

  def _kinds(self) -> jax.Array | None:
    """Returns the index of each layer's kind, int32 [N]; None where all are of one."""
    different, of_layers = kinds(self.config)
    return None if len(different) == 1 else jnp.asarray(of_layers, jnp.int32)

  def _embed(self, tokens: jax.Array) -> jax.Array:
    x = layers.embed(self.embedding, jnp.maximum(tokens, 0), self.dtype)
    scale = self.config.variant.embedding_scale
    return x if scale is None else x * jnp.asarray(scale, self.dtype)

  def _head(self) -> Weight:
    return self.read(self.embedding if self.config.tie_head else self.head)


def _joined(of_kinds: Sequence[_Arrays]) -> _Arrays:
  """Returns the arrays of the only kind of layers, or those of all kinds stacked."""
  if len(of_kinds) == 1:
    return of_kinds[0]
  return jax.tree.map(lambda *arrays: jnp.stack(jnp.broadcast_arrays(*arrays)), *of_kinds)


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

"""Flax modules of T5: attention, layers, their stacks, and the whole model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from factshock.models import attention, fused, int8, layers, observing, products, remat
from factshock.models.int8 import Weight
from factshock.models.t5_config import T5Config
from factshock.types import Batch

# Arrays of a cache that hold a layer's keys and values on their first axis.
CACHED = ("key", "value", "cross_key", "cross_value")

# What queries see: biases to add to scores, or their description for a kernel.
Seen: TypeAlias = attention.Biases | fused.Seen


class Attention(layers.Part):
  """Multi-head attention; `query` carries the missing 1/sqrt(d_kv) in its initial scale."""

  config: T5Config

  def setup(self) -> None:
    config = self.config
    width = config.num_heads * config.d_kv
    self.query = self.matrix("query", (config.d_model * config.d_kv) ** -0.5, config.d_model, width)
    self.key = self.matrix("key", config.d_model**-0.5, config.d_model, width)
    self.value = self.matrix("value", config.d_model**-0.5, config.d_model, width)
    self.out = self.matrix("out", width**-0.5, width, config.d_model)

  def queries(self, x: jax.Array) -> jax.Array:
    """Returns the queries of a stream [B, S, D]: [B, S, H, K]."""
    return self._heads(x, "query")[0]

  def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the keys and the values of a stream, each [B, S, H, K]."""
    key, value = self._heads(x, "key", "value")
    return key, value

  def queries_keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the queries, keys and values of a stream, each [B, S, H, K]."""
    query, key, value = self._heads(x, "query", "key", "value")
    return query, key, value

  def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array, seen: Seen) -> jax.Array:
    """Returns the output [B, S, D] of queries that see keys by their biases."""
    y = attention.attend(query, key, value, seen, self.drop)
    y = y.reshape(*y.shape[:-2], -1)
    return self.adapted("out", y, products.dense(y, self.out))

  def cached(self, query: jax.Array, cached: attention.Cached) -> jax.Array:
    """Returns what __call__ does, without dropout, for keys and values of a cache."""
    y = attention.attend_cached(query[:, :, :, None], cached)
    y = y.reshape(*y.shape[:2], -1)
    return self.adapted("out", y, products.dense(y, self.out))

  def backed_out(self, direction: jax.Array) -> jax.Array:
    """Returns what the output projection multiplies heads by in y . direction: [B, H * K]."""
    return self.backed("out", self.out, direction)

  def _heads(self, x: jax.Array, *names: str) -> list[jax.Array]:
    """Returns the heads that the weights of these names make of a stream."""
    weights = {name: getattr(self, name) for name in names}
    if self.joins(*names):
      weight = self.joined(**weights)
      y = products.dense(x, weight.reshape(weight.shape[0], len(names), -1))
      parts = [y[..., i, :] for i in range(len(names))]
    else:
      parts = [products.dense(x, weight) for weight in weights.values()]
    heads = (self.config.num_heads, self.config.d_kv)
    return [
      self.adapted(name, x, part).reshape(*x.shape[:-1], *heads) for name, part in zip(names, parts)
    ]


class Biased(layers.Part):
  """Part of a stack that may hold a relative position bias: the stack, or each of its layers."""

  config: T5Config

  def bias_weight(self) -> jax.Array:
    """Returns the parameter, [buckets, H]."""
    config = self.config
    return self.weight(
      "relative_bias", config.d_model**-0.5, config.relative_buckets, config.num_heads
    )


class EncoderLayer(Biased):
  """Self-attention and feed-forward, each after a norm and added to the stream."""

  decodes: ClassVar[bool] = False

  def setup(self) -> None:
    if self.config.bias_in_every_layer:
      self.relative_bias = self.bias_weight()
    self.self_attention_norm = layers.Norm(self.config)
    self.self_attention = Attention(self.config, self.train)
    self.feed_forward_norm = layers.Norm(self.config)
    self.feed_forward = layers.FeedForward(self.config, self.train)

  def __call__(self, x: jax.Array, seen: Seen) -> tuple[jax.Array, None]:
    """Returns the stream after the layer; None, as nn.scan collects nothing."""
    seen = self.with_own_bias(seen, x.shape[1])
    y = self.self_attention_norm(x)
    x = x + self.drop(self.self_attention(*self.self_attention.queries_keys_values(y), seen))
    return x + self.drop(self.feed_forward(self.feed_forward_norm(x))), None

  def with_own_bias(self, seen: Seen, length: int) -> Seen:
    """Returns what queries of a row see, the layer's own position bias in it if it has one."""
    if not self.config.bias_in_every_layer:
      return seen
    bias = _bias(self.config, self.relative_bias, length, decodes=self.decodes)
    if isinstance(seen, fused.Seen):
      return dataclasses.replace(seen, bias=bias)
    return _biases(bias, *seen)

  def observe(
    self, x: jax.Array, bias: jax.Array, position: jax.Array, marked: jax.Array
  ) -> tuple[jax.Array, observing.Read]:
    """Returns the stream after the layer, and what the query at a position of each row reads."""
    bias = self._with_own_matrix(bias, x.shape[1])
    query, key, value = self.self_attention.queries_keys_values(self.self_attention_norm(x))
    x = x + self.self_attention(query, key, value, (bias,))
    read = observing.read(query[:, :, :, None], key, value, bias, position, marked)
    return x + self.feed_forward(self.feed_forward_norm(x)), read

  def _with_own_matrix(self, bias: jax.Array, length: int) -> jax.Array:
    if not self.config.bias_in_every_layer:
      return bias
    return bias + _bias(self.config, self.relative_bias, length, decodes=self.decodes)


class DecoderLayer(EncoderLayer):
  """Layer of an encoder with attention to the encoder's output in between."""

  decodes: ClassVar[bool] = True

  def setup(self) -> None:
    super().setup()
    self.cross_attention_norm = layers.Norm(self.config)
    self.cross_attention = Attention(self.config, self.train)

  def __call__(
    self, x: jax.Array, encoded: jax.Array, seen: Seen, cross_seen: Seen
  ) -> tuple[jax.Array, None]:
    """Returns the stream after the layer; None, as nn.scan collects nothing."""
    seen = self.with_own_bias(seen, x.shape[1])
    y = self.self_attention_norm(x)
    x = x + self.drop(self.self_attention(*self.self_attention.queries_keys_values(y), seen))
    query = self._cross_query(x)
    keys_values = self.cross_attention.keys_values(encoded)
    x = x + self.drop(self.cross_attention(query, *keys_values, cross_seen))
    return x + self.drop(self.feed_forward(self.feed_forward_norm(x))), None

  def observe(
    self,
    x: jax.Array,
    encoded: jax.Array,
    bias: jax.Array,
    cross_bias: jax.Array,
    position: jax.Array,
    marked: jax.Array,
  ) -> tuple[jax.Array, observing.Read]:
    """Returns the stream after the layer, and what a query reads of the encoder's output."""
    bias = self._with_own_matrix(bias, x.shape[1])
    y = self.self_attention_norm(x)
    x = x + self.self_attention(*self.self_attention.queries_keys_values(y), (bias,))
    query = self._cross_query(x)
    key, value = self.cross_attention.keys_values(encoded)
    x = x + self.cross_attention(query, key, value, (cross_bias,))
    read = observing.read(query[:, :, :, None], key, value, cross_bias, position, marked)
    return x + self.feed_forward(self.feed_forward_norm(x)), read

  def backed(self, carry: None, direction: jax.Array) -> tuple[None, jax.Array]:
    """Returns what the cross-attention's heads are multiplied by in y . direction."""
    return carry, self.cross_attention.backed_out(direction)

  def cross_keys_values(
    self, carry: None, encoded: jax.Array, index: jax.Array | None
  ) -> tuple[None, list[jax.Array]]:
    """Returns the keys and values of the encoder's output, tokens last, of each row of inputs."""
    keys_values = self.cross_attention.keys_values(encoded)
    return carry, [attention.tokens_last(layers.unpacked(array, index)) for array in keys_values]

  def step(
    self,
    x: jax.Array,
    cached: Mapping[str, jax.Array],
    position: jax.Array,
    bias: jax.Array | None,
    cross_bias: jax.Array,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the stream of one more token, and the cache's key and value with the token in it.

    `bias` is None where the layer has its own.
    """
    if bias is None:
      length = cached["key"].shape[-1]
      bias = _step_bias(self.config, self.relative_bias, length, position)
    query, key, value = self.self_attention.queries_keys_values(self.self_attention_norm(x))
    key = layers.write_token(cached["key"], key, position)
    value = layers.write_token(cached["value"], value, position)
    x = x + self.self_attention.cached(query, (key, value, bias))
    x = self._after_self_attention(x, (cached["cross_key"], cached["cross_value"], cross_bias))
    return x, key, value

  def branch(
    self,
    x: jax.Array,
    cross: tuple[jax.Array, jax.Array],
    distance: jax.Array,
    bias: jax.Array | None,
    cross_bias: jax.Array,
  ) -> tuple[jax.Array, None]:
    """Returns the stream of the tokens of a tree, with the cross-attention's cached keys.

    `bias` is None where the layer has its own, which goes by `distance`.
    """
    if bias is None:
      bias = _tree_bias(self.config, self.relative_bias, distance)
    y = self.self_attention_norm(x)
    x = x + self.self_attention(*self.self_attention.queries_keys_values(y), (bias,))
    return self._after_self_attention(x, (*cross, cross_bias)), None

  def _after_self_attention(self, x: jax.Array, cross: attention.Cached) -> jax.Array:
    x = x + self.cross_attention.cached(self._cross_query(x), cross)
    return x + self.feed_forward(self.feed_forward_norm(x))

  def _cross_query(self, x: jax.Array) -> jax.Array:
    return self.cross_attention.queries(self.cross_attention_norm(x))


class Stack(Biased):
  """Layers under `nn.scan`, the last norm, and the position bias if all of them share one."""

  decoder: bool = False

  def setup(self) -> None:
    config = self.config
    if not config.bias_in_every_layer:
      self.relative_bias = self.bias_weight()
    depth = config.decoder_layers if self.decoder else config.encoder_layers
    scanned = {
      name: dict(
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=axes,
        length=depth,
        unroll=depth if config.unroll else 1,
      )
      for name, axes in self._scanned_axes().items()
    }
    layer = DecoderLayer if self.decoder else EncoderLayer
    # nn.scan gives every argument and result of a layer's methods an axis more.
    self.layers: Any = nn.scan(remat.layer(layer, self), methods=scanned)(config, self.train)
    self.final_norm = layers.Norm(config)

  def bias(self, length: int) -> jax.Array | None:
    """Returns the position bias of a row, [1, H, length, length]; None where layers have theirs."""
    if self.config.bias_in_every_layer:
      return None
    return _bias(self.config, self.relative_bias, length, decodes=self.decoder)

  def step_bias(self, length: int, position: jax.Array) -> jax.Array | None:
    """Returns the bias of a new token for a cache (_step_bias); None where layers have theirs."""
    if self.config.bias_in_every_layer:
      return None
    return _step_bias(self.config, self.relative_bias, length, position)

  def tree_bias(self, distance_BxMxM: jax.Array) -> jax.Array | None:
    """Returns the bias of a tree's contexts (_tree_bias); None where layers have theirs."""
    if self.config.bias_in_every_layer:
      return None
    return _tree_bias(self.config, self.relative_bias, distance_BxMxM)

  def __call__(self, x: jax.Array, *arguments: Any) -> jax.Array:
    """Returns the stream after all layers and the last norm."""
    x, _ = self.layers(self.drop(x), *arguments)
    return self.drop(self.final_norm(x))

  def _scanned_axes(self) -> dict[str, tuple[Any, ...]]:
    """Returns for each method of a layer which of its arguments have an axis of layers."""
    same = nn.broadcast  # every layer gets the argument as it is
    if not self.decoder:
      return {"__call__": (same,), "observe": (same,) * 3}
    return {
      "__call__": (same,) * 3,
      "observe": (same,) * 5,
      "backed": (same,),
      "branch": (0, same, same, same),
      "cross_keys_values": (same, same),
    }


class T5(layers.Part):
  """Whole model, whose methods the functions of models/t5.py run."""

  config: T5Config

  def setup(self) -> None:
    config = self.config
    shape = (config.vocab_size, config.d_model)
    dtype = jnp.dtype(config.param_dtype)
    self.embedding = self.param("embedding", layers.normal(1.0), shape, dtype)
    if not config.tie_head:
      self.head = self.param("head", layers.normal(config.d_model**-0.5), shape, dtype)
    self.encoder = Stack(config, self.train)
    self.decoder = Stack(config, self.train, decoder=True)

  def everything(self, tokens: jax.Array) -> jax.Array:
    """Returns logits in a pass that touches every parameter, to make them."""
    return self.head_of(self.hidden(tokens, tokens))

  def hidden(
    self,
    inputs: jax.Array,
    decoder_inputs: jax.Array,
    input_segments: jax.Array | None = None,
    target_segments: jax.Array | None = None,
    kernel: fused.Kernel | None = None,
  ) -> jax.Array:
    """Returns the decoder's output of whole rows: [B, T, D]."""
    encoded = self.encode(inputs, input_segments, kernel)
    segments = None
    if input_segments is not None and target_segments is not None:
      segments = (input_segments, target_segments)
    return self.decoded(encoded, inputs, decoder_inputs, segments, kernel)

  def encode(
    self, inputs: jax.Array, segments: jax.Array | None = None, kernel: fused.Kernel | None = None
  ) -> jax.Array:
    """Returns the encoder's output: [B, S, D]."""
    bias = self.encoder.bias(inputs.shape[1])
    if kernel is not None:
      return self.encoder(self._embed(inputs), fused.Seen(bias, fused.lengths(inputs), kernel))
    if segments is None:
      mask = attention.padding_mask(inputs)
    else:
      mask = attention.segment_mask(segments, segments)
    return self.encoder(self._embed(inputs), _biases(bias, mask))

  def decode(self, encoded: jax.Array, inputs: jax.Array, decoder_inputs: jax.Array) -> jax.Array:
    """Returns the logits after each decoder input: float32 [B, T, V]."""
    return self.head_of(self.decoded(encoded, inputs, decoder_inputs))

  def decoded(
    self,
    encoded: jax.Array,
    inputs: jax.Array,
    decoder_inputs: jax.Array,
    segments: tuple[jax.Array, jax.Array] | None = None,
    kernel: fused.Kernel | None = None,
  ) -> jax.Array:
    """Returns the decoder's output: [B, T, D]; `segments` are the inputs' and the targets'."""
    length = decoder_inputs.shape[1]
    bias = self.decoder.bias(length)
    if kernel is not None:
      seen = fused.Seen(bias, fused.full(decoder_inputs), kernel, causal=True)
      x = self._embed(decoder_inputs)
      return self.decoder(x, encoded, seen, fused.Seen(None, fused.lengths(inputs), kernel))
    bias = _summed(bias, attention.causal_mask(length))
    biases = _biases(bias)
    if segments is None:
      cross_mask = attention.padding_mask(inputs)
    else:
      input_segments, target_segments = segments
      biases = _biases(bias, attention.segment_mask(target_segments, target_segments))
      cross_mask = attention.segment_mask(target_segments, input_segments)
    return self.decoder(self._embed(decoder_inputs), encoded, biases, (cross_mask,))

  def observe(
    self,
    inputs: jax.Array,
    position: jax.Array,
    marked: jax.Array,
    gold: jax.Array,
    among: jax.Array,
  ) -> dict[str, observing.Read]:
    """Returns what two queries of each row read; see t5.observe."""
    length = inputs.shape[1]
    padding = attention.padding_mask(inputs)
    bias = _summed(self.encoder.bias(length), padding)
    x, own = self.encoder.layers.observe(self._embed(inputs), bias, position, marked)
    opening = inputs[jnp.arange(len(position)), position]
    bias = _summed(self.decoder.bias(2), attention.causal_mask(2))
    x, cross = self.decoder.layers.observe(
      self._embed(jnp.stack([jnp.zeros_like(opening), opening], axis=1)),
      self.encoder.final_norm(x),
      bias,
      padding,
      jnp.ones_like(position),
      marked,
    )
    head = int8.widened(self._head())
    norm = self.decoder.final_norm.variables["params"]["scale"]
    direction = (
      observing.direction(x[:, 1], norm, self.config.epsilon, head, gold, among)
      * self._head_scale()
    )
    backed = self.decoder.layers.backed(None, direction)[1]
    return {"encoder": own, "cross": observing.shares(cross, backed)}

  def tree(self, cache: Batch, tokens_BxM: jax.Array, distance_BxMxM: jax.Array) -> jax.Array:
    """Returns the stream of every context of a tree: [B, M, D]; see t5.hidden_of_tree."""
    x, _ = self.decoder.layers.branch(
      self._embed(tokens_BxM),
      (cache["cross_key"], cache["cross_value"]),
      distance_BxMxM,
      self.decoder.tree_bias(distance_BxMxM),
      attention.padding_mask(cache["inputs"])[:, None],
    )
    return x

  def logits(self, x: jax.Array) -> jax.Array:
    """Returns the logits of a stream before the last norm: float32 [B, T, V]."""
    return self.head_of(self.decoder.final_norm(x))

  def cross_keys_values(self, encoded: jax.Array, index: jax.Array | None) -> Sequence[jax.Array]:
    """Returns the keys and values of the encoder's output, each [N, B, H, K, S]."""
    return self.decoder.layers.cross_keys_values(None, encoded, index)[1]

  def step(
    self, cache: Batch, tokens: jax.Array
  ) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
    """Returns the logits after one more token, and each layer's keys and values with it."""
    length = cache["key"][0].shape[-1]
    bias = self.decoder.step_bias(length, cache["step"])
    cross_bias = attention.padding_mask(cache["inputs"])[:, None]
    x = self._embed(tokens[:, None])
    layer = DecoderLayer(self.config, parent=None)
    keys = []
    values = []
    for index in range(self.config.decoder_layers):
      weights = layers.weights_of(cache, self.decoder.layers.variables["params"], index, x)
      stepped: Any = layer.apply(
        {"params": weights},
        x,
        {name: cache[name][index] for name in CACHED},
        cache["step"],
        bias,
        cross_bias,
        method=DecoderLayer.step,
      )
      x, key, value = stepped
      keys.append(key)
      values.append(value)
    return self.logits(x)[:, 0], keys, values

  def head_of(self, x: jax.Array) -> jax.Array:
    """Returns the logits of the decoder's output: float32 [B, T, V]."""
    scaled = x * self._head_scale() if self.config.tie_head else x
    return products.logits(scaled, self._head())

  def _embed(self, tokens: jax.Array) -> jax.Array:
    return layers.embed(self.embedding, tokens, self.dtype)

  def _head(self) -> Weight:
    return self.read(self.embedding if self.config.tie_head else self.head)

  def _head_scale(self) -> float:
    """Returns what a tied head's inputs are multiplied by, as in T5 v1.0."""
    return self.config.d_model**-0.5 if self.config.tie_head else 1.0


def _by_offset(
  config: T5Config, weight_NxH: jax.Array, offsets: np.ndarray, *, decodes: bool
) -> jax.Array:
  """Returns the bias of each offset (key position - query position), float32 [offsets, H]."""
  buckets = attention.relative_buckets(
    offsets,
    bidirectional=not decodes,
    buckets=config.relative_buckets,
    max_distance=config.relative_max_distance,
  )
  return weight_NxH.astype(jnp.float32)[buckets]


def _bias(config: T5Config, weight_NxH: jax.Array, length: int, *, decodes: bool) -> jax.Array:
  """Returns the position bias of a row's queries and keys: [1, H, length, length]."""
  offsets = attention.matrix_offsets(length, length)
  by_offset = _by_offset(config, weight_NxH, offsets, decodes=decodes)
  return attention.bias_matrix(by_offset, length, length)


def _step_bias(
  config: T5Config, weight_NxH: jax.Array, length: int, position: jax.Array
) -> jax.Array:
  """Returns the decoder's bias of a new token for the keys of a cache: [1, H, 1, 1, length]."""
  back = position - jnp.arange(length)  # how far each cached key lies behind the new token
  by_distance = _by_offset(config, weight_NxH, -np.arange(length), decodes=True)
  bias_LxH = jnp.where((back >= 0)[:, None], by_distance[jnp.maximum(back, 0)], attention.MASKED)
  return bias_LxH.T[None, :, None, None]


def _tree_bias(config: T5Config, weight_NxH: jax.Array, distance_BxMxM: jax.Array) -> jax.Array:
  """Returns the decoder's bias of the contexts of a tree: [B, H, M, M], B 1 for one tree."""
  offsets = -np.arange(distance_BxMxM.shape[-1])
  by_offset = _by_offset(config, weight_NxH, offsets, decodes=True)
  by_distance_BxHxMxM = jnp.moveaxis(by_offset[jnp.maximum(distance_BxMxM, 0)], -1, 1)
  return jnp.where((distance_BxMxM < 0)[:, None], attention.MASKED, by_distance_BxHxMxM)


def _summed(bias: jax.Array | None, mask: jax.Array) -> jax.Array:
  """Returns a position bias and a mask as one; the mask where layers have their own biases."""
  return mask if bias is None else bias + mask


def _biases(bias: jax.Array | None, *masks: jax.Array) -> attention.Biases:
  """Returns a position bias [1, H, S, T] and masks [B, 1, S, T], as layers are to add them.

  The bias is None where every layer adds its own.

  Where they stay apart, the gradient of the bias is summed over the rows in each layer. A CPU takes
  longer for that than to sum the gradient of all rows and heads over the layers, and gets one sum.
  """
  if bias is None:
    return masks
  if not layers.on_cpu():
    return bias, *masks
  return (sum(masks, start=bias),)

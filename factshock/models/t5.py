"""T5 v1.0 and v1.1 (Raffel et al. 2020; Shazeer 2020) in Flax Linen, as pure functions over a nested dict.

Layers are stacked: every array under `layers` has a leading axis N, the depth of its stack.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from factshock.models import attention, fused, layers, model_config, observing, products, remat
from factshock.runtime.errors import UserError
from factshock.runtime.settings import COUNT, FLAG, POSITIVE, Check, check_fields, choice, setting

FEED_FORWARDS = ("gated-gelu", "gated-silu", "relu")
_BUCKETS = Check((int,), lambda v: v >= 4 and v % 2 == 0, "an even number from 4")
_CACHED = ("key", "value", "cross_key", "cross_value")


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Sizes and variants of a T5 model; `dtype` is that of the computation, `param_dtype` of the arrays.

  v1.1 is feed_forward="gated-gelu", tie_head=False; v1.0 is feed_forward="relu", tie_head=True.
  `unroll` lays the layers out one after another: faster steps for shallow models, longer compilation.
  remat: one of remat.POLICIES. attention: one of fused.ATTENTIONS, how whole rows are read where they train (`hidden`).
  Raises: UserError where a value is out of range.
  """

  vocab_size: int = setting(COUNT)
  d_model: int = setting(COUNT)
  d_ff: int = setting(COUNT)
  num_heads: int = setting(COUNT)
  d_kv: int = setting(COUNT)
  encoder_layers: int = setting(COUNT)
  decoder_layers: int = setting(COUNT)
  relative_buckets: int = setting(_BUCKETS, default=32)
  relative_max_distance: int = setting(COUNT, default=128)
  feed_forward: str = setting(choice(*FEED_FORWARDS), default="gated-gelu")
  tie_head: bool = setting(FLAG, default=False)
  dropout: float = setting(model_config.DROPOUT, default=0.0)
  dtype: str = setting(model_config.DTYPE, default="float32")
  param_dtype: str = setting(model_config.DTYPE, default="float32")
  unroll: bool = setting(FLAG, default=False)
  remat: str = setting(model_config.REMAT, default="none")
  attention: str = setting(model_config.ATTENTION, default="xla")
  epsilon: float = setting(POSITIVE, default=1e-6)

  def __post_init__(self) -> None:
    check_fields(self, "model")
    if self.relative_max_distance <= self.relative_buckets // 2:
      raise UserError(
        f"model.relative_max_distance: expected more than half of relative_buckets "
        f"({self.relative_buckets // 2}), got {self.relative_max_distance!r}"
      )


def init(config, key):
  """Random parameters with the scales of the original T5: a plain nested dict of arrays.

  Source: Mesh-TensorFlow's initialisers; the missing 1/sqrt(d_kv) of attention is in the scale of `query`.
  """
  return _init(config, key)


def forward(
  params, config, inputs_BxS, targets_BxT, *, input_segments=None, target_segments=None, key=None
):
  """Logits of each target token given the inputs and the target tokens before it: float32 [B, T, V].

  Args:
    params: as from `init`.
    inputs_BxS, targets_BxT: int32; padding is token 0, at the end of a row.
    input_segments, target_segments: int32 [B, S] and [B, T] of packed rows (0 = padding), both or none.
    key: a random key turns dropout on.
  Raises: ValueError where only one of the segments is given.
  """
  return head(
    params,
    config,
    hidden(
      params,
      config,
      inputs_BxS,
      targets_BxT,
      input_segments=input_segments,
      target_segments=target_segments,
      key=key,
    ),
  )


def hidden(
  params, config, inputs_BxS, targets_BxT, *, input_segments=None, target_segments=None, key=None
):
  """What `forward` multiplies by the head: [B, T, D], for losses that need no logits as a whole.

  Attention is as config.attention says; packed rows, and dropout, are for "xla" (fused.choose).
  """
  if (input_segments is None) != (target_segments is None):
    raise ValueError("expected input_segments and target_segments together, got only one of them")
  kernel = fused.kernel(
    config,
    (inputs_BxS.shape[1], targets_BxT.shape[1]),
    biased=True,
    packed=input_segments is not None,
    dropout=0.0 if key is None else config.dropout,
  )
  return _apply(
    params,
    config,
    _T5.hidden,
    inputs_BxS,
    shift_right(targets_BxT, target_segments),
    input_segments,
    target_segments,
    kernel,
    key=key,
  )


def head(params, config, hidden_BxTxD):
  """Logits float32 [B, T, V] from `hidden`."""
  return _apply(params, config, _T5.head_of, hidden_BxTxD)


def encode(params, config, inputs_BxS, *, input_segments=None, key=None):
  """Output of the encoder, in the dtype of the computation: [B, S, D]."""
  return _apply(params, config, _T5.encode, inputs_BxS, input_segments, key=key)


def decode(params, config, encoded_BxSxD, inputs_BxS, decoder_inputs_BxT):
  """Logits float32 [B, T, V] of the tokens that follow each decoder input (already shifted right).

  `inputs_BxS` are the encoder's, for their padding.
  """
  return _apply(params, config, _T5.decode, encoded_BxSxD, inputs_BxS, decoder_inputs_BxT)


def observe(params, config, inputs_BxS, place_B, marked_BxS, gold_B, among_BxV):
  """What two queries of each row attend to among the inputs, in each layer: {"encoder", "cross": observing.Read}.

  "encoder": the query of the input at a place, that of the blank <extra_id_0>; [N, B, H, S] or [N, B, H, K].
  "cross": the query of the decoder's second input, which is that blank's token again and predicts the answer's first;
  `marked`, `rest`, `mean` [N, B, H]: shares of the logit of gold_B less the mean of those of among_BxV (observing.direction).

  Args: inputs_BxS: int32, padding 0 at the end of a row. place_B, gold_B: int32. marked_BxS, among_BxV: bool.
  """
  return _apply(params, config, _T5.observe, inputs_BxS, place_B, marked_BxS, gold_B, among_BxV)


def start(params, config, inputs_BxS, length, packed=None):
  """Reads the inputs, padding 0 at their ends: (cache for `length` tokens, first_B, the decoder's first token, 0).

  `packed` is (tokens_RxL, segments_RxL, place_BxS): the same inputs, several to a row, and where in the R * L tokens each
  token is; the padding is then not read. The cache is a dict of `inputs`, `step` (int32 scalar: tokens read so far), `key`, `value` [N, B, H, K, length] and
  `cross_key`, `cross_value` [N, B, H, K, S], computed here once.
  """
  tokens, segments, place_BxS = (inputs_BxS, None, None) if packed is None else packed
  encoded = encode(params, config, tokens, input_segments=segments)
  cross_key, cross_value = _apply(params, config, _T5.cross_keys_values, encoded, place_BxS)
  empty = jnp.zeros((*cross_key.shape[:-1], length), cross_key.dtype)
  return {
    "inputs": inputs_BxS,
    "step": jnp.zeros((), jnp.int32),
    "key": empty,
    "value": empty,
    "cross_key": cross_key,
    "cross_value": cross_value,
  }, jnp.zeros(inputs_BxS.shape[0], jnp.int32)


def layer_weights(params):
  """The weights of the layers that `step` runs, each on its own, or None (layers.layer_weights)."""
  return layers.layer_weights(params["decoder"]["layers"])


def unstack(cache):
  """The cache from `start` with each layer on its own; `step` wants `weights` from `layer_weights` in it too."""
  return layers.unstack(cache, _CACHED)


def step(params, config, cache, tokens_B):
  """Reads one decoder token a row: (logits float32 [B, V] of the next token, the cache after it).

  The cache is from `unstack`, the first token 0. Steps beyond the cache's length give wrong logits: under jit nothing
  can be raised.
  """
  logits_BxV, keys, values = _apply(params, config, _T5.step, cache, tokens_B)
  return logits_BxV, dict(cache, step=cache["step"] + 1, key=keys, value=values)


def hidden_of_tree(params, config, cache, first_B, tokens_M, distance_MxM):
  """What `logits_of_tree` makes logits of, [B, M, D], for each context of a tree of decoder inputs.

  Args:
    cache, first_B: as from `start`; first_B is the token of the root, node 0.
    tokens_M: int32, the last token of each context.
    distance_MxM: int32, by how many tokens context j is shorter than context i where i begins with j; else -1.
  """
  return _apply(params, config, _T5.tree, cache, first_B, tokens_M, distance_MxM)


def logits_of_tree(params, config, hidden_BxMxD):
  """Logits float32 [B, M, V] of the tokens that follow contexts, from `hidden_of_tree`."""
  return _apply(params, config, _T5.logits, hidden_BxMxD)


def take_rows(cache, rows_R):
  """The cache (from `unstack`) of these rows, in this order; a row may come several times, as for beams."""
  taken = {name: [layer[rows_R] for layer in cache[name]] for name in _CACHED}
  return dict(cache, **taken, inputs=cache["inputs"][rows_R])


def reorder(cache, rows_R):
  """`take_rows` where each row is replaced by one of the same inputs: only what was read since is moved."""
  return dict(
    cache, **{name: [layer[rows_R] for layer in cache[name]] for name in ("key", "value")}
  )


def shift_right(targets_BxT, target_segments=None):
  """Decoder inputs: each row's targets one place later, 0 at the start of the row and of each segment."""
  shifted = jnp.pad(targets_BxT[:, :-1], ((0, 0), (1, 0)))
  if target_segments is None:
    return shifted
  before = jnp.pad(target_segments[:, :-1], ((0, 0), (1, 0)))
  return jnp.where(before == target_segments, shifted, 0)


@functools.partial(jax.jit, static_argnums=0)
def _init(config, key):
  return _T5(config).init(key, jnp.ones((1, 1), jnp.int32), method=_T5.everything)["params"]


def _apply(params, config, method, *arguments, key=None):
  rngs = None if key is None else {"dropout": key}
  return _T5(config, train=key is not None).apply(
    {"params": params}, *arguments, method=method, rngs=rngs
  )


class _Attention(layers.Part):
  """Multi-head attention; `query` carries the missing 1/sqrt(d_kv) in its initial scale."""

  def setup(self):
    config = self.config
    width = config.num_heads * config.d_kv
    self.query = self.weight("query", (config.d_model * config.d_kv) ** -0.5, config.d_model, width)
    self.key = self.weight("key", config.d_model**-0.5, config.d_model, width)
    self.value = self.weight("value", config.d_model**-0.5, config.d_model, width)
    self.out = self.weight("out", width**-0.5, width, config.d_model)

  def queries(self, x):
    return self._heads(x, "query")[0]

  def keys_values(self, x):
    return self._heads(x, "key", "value")

  def queries_keys_values(self, x):
    return self._heads(x, "query", "key", "value")

  def __call__(self, query, key, value, bias):
    y = attention.attend(query, key, value, bias, self.drop)
    y = y.reshape(*y.shape[:-2], -1)
    return self.adapted("out", y, products.dense(y, self.out))

  def cached(self, query, cached):
    """As __call__, without dropout, for keys and values of a cache (attention.attend_cached)."""
    y = attention.attend_cached(query[:, :, :, None], cached)
    y = y.reshape(*y.shape[:2], -1)
    return self.adapted("out", y, products.dense(y, self.out))

  def backed_out(self, direction):
    return self.backed("out", self.out, direction)

  def _heads(self, x, *names):
    weight = self.joined(**{name: getattr(self, name) for name in names})
    y = products.dense(x, weight.reshape(len(weight), len(names), -1))
    heads = (self.config.num_heads, self.config.d_kv)
    return [
      self.adapted(name, x, y[..., i, :]).reshape(*x.shape[:-1], *heads)
      for i, name in enumerate(names)
    ]


class _EncoderLayer(layers.Part):
  def setup(self):
    self.self_attention_norm = layers.Norm(self.config)
    self.self_attention = _Attention(self.config, self.train)
    self.feed_forward_norm = layers.Norm(self.config)
    self.feed_forward = layers.FeedForward(self.config, self.train)

  def __call__(self, x, bias):
    y = self.self_attention_norm(x)
    x = x + self.drop(self.self_attention(*self.self_attention.queries_keys_values(y), bias))
    return x + self.drop(self.feed_forward(self.feed_forward_norm(x))), None

  def observe(self, x, bias, place, marked):
    query, key, value = self.self_attention.queries_keys_values(self.self_attention_norm(x))
    x = x + self.self_attention(query, key, value, bias)
    found = observing.read(query[:, :, :, None], key, value, bias, place, marked)
    return x + self.feed_forward(self.feed_forward_norm(x)), found


class _DecoderLayer(_EncoderLayer):
  def setup(self):
    super().setup()
    self.cross_attention_norm = layers.Norm(self.config)
    self.cross_attention = _Attention(self.config, self.train)

  def __call__(self, x, encoded, bias, cross_bias):
    y = self.self_attention_norm(x)
    x = x + self.drop(self.self_attention(*self.self_attention.queries_keys_values(y), bias))
    query = self._cross_query(x)
    x = x + self.drop(
      self.cross_attention(query, *self.cross_attention.keys_values(encoded), cross_bias)
    )
    return x + self.drop(self.feed_forward(self.feed_forward_norm(x))), None

  def observe(self, x, encoded, bias, cross_bias, place, marked):
    x = x + self.self_attention(
      *self.self_attention.queries_keys_values(self.self_attention_norm(x)), bias
    )
    query, (key, value) = self._cross_query(x), self.cross_attention.keys_values(encoded)
    x = x + self.cross_attention(query, key, value, cross_bias)
    found = observing.read(query[:, :, :, None], key, value, cross_bias, place, marked)
    return x + self.feed_forward(self.feed_forward_norm(x)), found

  def backed(self, carry, direction):
    return carry, self.cross_attention.backed_out(direction)

  def cross_keys_values(self, carry, encoded, place):
    found = self.cross_attention.keys_values(encoded)
    return carry, [attention.tokens_last(layers.unpacked(array, place)) for array in found]

  def step(self, x, cached, place, bias, cross_bias):
    """One more token: (x, key, value of the cache with the token in it)."""
    query, key, value = self.self_attention.queries_keys_values(self.self_attention_norm(x))
    key, value = (
      layers.write_token(cached[name], token, place)
      for name, token in (("key", key), ("value", value))
    )
    x = x + self.self_attention.cached(query, (key, value, bias))
    x = self._after_self_attention(x, (cached["cross_key"], cached["cross_value"], cross_bias))
    return x, key, value

  def branch(self, x, cross, bias, cross_bias):
    y = self.self_attention_norm(x)
    x = x + self.self_attention(*self.self_attention.queries_keys_values(y), bias)
    return self._after_self_attention(x, (*cross, cross_bias)), None

  def _after_self_attention(self, x, cross):
    x = x + self.cross_attention.cached(self._cross_query(x), cross)
    return x + self.feed_forward(self.feed_forward_norm(x))

  def _cross_query(self, x):
    return self.cross_attention.queries(self.cross_attention_norm(x))


class _Stack(layers.Part):
  """Layers under `nn.scan`, the relative position bias all of them share, and the last norm."""

  decoder: bool = False

  def setup(self):
    config = self.config
    self.relative_bias = self.weight(
      "relative_bias", config.d_model**-0.5, config.relative_buckets, config.num_heads
    )
    depth = config.decoder_layers if self.decoder else config.encoder_layers
    everyone = nn.broadcast
    inputs = {
      "__call__": (everyone,) * (3 if self.decoder else 1),
      "observe": (everyone,) * (5 if self.decoder else 3),
    }
    if self.decoder:
      inputs |= {
        "backed": (everyone,),
        "branch": (0, everyone, everyone),
        "cross_keys_values": (everyone, everyone),
      }
    scanned = {
      name: dict(
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=axes,
        length=depth,
        unroll=depth if config.unroll else 1,
      )
      for name, axes in inputs.items()
    }
    layer = _DecoderLayer if self.decoder else _EncoderLayer
    self.layers = nn.scan(remat.layer(layer, self), methods=scanned)(config, self.train)
    self.final_norm = layers.Norm(config)

  def by_offset(self, offsets):
    """Bias of each offset, float32 [offsets, H]."""
    config = self.config
    buckets = attention.relative_buckets(
      offsets,
      bidirectional=not self.decoder,
      buckets=config.relative_buckets,
      max_distance=config.relative_max_distance,
    )
    return self.relative_bias.astype(jnp.float32)[buckets]

  def bias(self, queries, keys):
    return attention.bias_matrix(
      self.by_offset(attention.matrix_offsets(queries, keys)), queries, keys
    )

  def __call__(self, x, *arguments):
    x, _ = self.layers(self.drop(x), *arguments)
    return self.drop(self.final_norm(x))


class _T5(layers.Part):
  def setup(self):
    config = self.config
    self.embedding = self.param(
      "embedding",
      layers.normal(1.0),
      (config.vocab_size, config.d_model),
      jnp.dtype(config.param_dtype),
    )
    if not config.tie_head:
      self.head = self.param(
        "head",
        layers.normal(config.d_model**-0.5),
        (config.vocab_size, config.d_model),
        jnp.dtype(config.param_dtype),
      )
    self.encoder = _Stack(config, self.train)
    self.decoder = _Stack(config, self.train, decoder=True)

  def everything(self, tokens):
    return self.head_of(self.hidden(tokens, tokens))

  def hidden(self, inputs, decoder_inputs, input_segments=None, target_segments=None, kernel=None):
    encoded = self.encode(inputs, input_segments, kernel)
    return self.decoded(encoded, inputs, decoder_inputs, input_segments, target_segments, kernel)

  def encode(self, inputs, segments=None, kernel=None):
    bias = self.encoder.bias(inputs.shape[1], inputs.shape[1])
    if kernel is not None:
      return self.encoder(self._embed(inputs), fused.Seen(bias, fused.lengths(inputs), kernel))
    mask = (
      attention.padding_mask(inputs)
      if segments is None
      else attention.segment_mask(segments, segments)
    )
    return self.encoder(self._embed(inputs), bias + mask)

  def decode(self, encoded, inputs, decoder_inputs):
    return self.head_of(self.decoded(encoded, inputs, decoder_inputs))

  def decoded(
    self, encoded, inputs, decoder_inputs, input_segments=None, target_segments=None, kernel=None
  ):
    length = decoder_inputs.shape[1]
    bias = self.decoder.bias(length, length)
    if kernel is not None:
      seen = fused.Seen(bias, fused.full(decoder_inputs), kernel, causal=True)
      return self.decoder(
        self._embed(decoder_inputs), encoded, seen, fused.Seen(None, fused.lengths(inputs), kernel)
      )
    bias = bias + attention.causal_mask(length)
    if target_segments is None:
      cross_mask = attention.padding_mask(inputs)
    else:
      bias = bias + attention.segment_mask(target_segments, target_segments)
      cross_mask = attention.segment_mask(target_segments, input_segments)
    return self.decoder(self._embed(decoder_inputs), encoded, bias, cross_mask)

  def observe(self, inputs, place, marked, gold, among):
    length = inputs.shape[1]
    padding = attention.padding_mask(inputs)
    bias = self.encoder.bias(length, length) + padding
    x, own = self.encoder.layers.observe(self._embed(inputs), bias, place, marked)
    opening = inputs[jnp.arange(len(place)), place]
    bias = self.decoder.bias(2, 2) + attention.causal_mask(2)
    x, cross = self.decoder.layers.observe(
      self._embed(jnp.stack([jnp.zeros_like(opening), opening], axis=1)),
      self.encoder.final_norm(x),
      bias,
      padding,
      jnp.ones_like(place),
      marked,
    )
    head = self._head()
    norm = self.decoder.final_norm.variables["params"]["scale"]
    direction = (
      observing.direction(x[:, 1], norm, self.config.epsilon, head, gold, among)
      * self._head_scale()
    )
    return {
      "encoder": own,
      "cross": observing.shares(cross, self.decoder.layers.backed(None, direction)[1]),
    }

  def tree(self, cache, first_B, tokens_M, distance_MxM):
    size = tokens_M.shape[0]
    by_distance = self.decoder.by_offset(-np.arange(size))[jnp.maximum(distance_MxM, 0)]
    bias_HxMxM = jnp.where(
      (distance_MxM < 0)[None], attention.MASKED, jnp.moveaxis(by_distance, -1, 0)
    )
    tokens_BxM = jnp.broadcast_to(tokens_M[None], (first_B.shape[0], size)).at[:, 0].set(first_B)
    x, _ = self.decoder.layers.branch(
      self._embed(tokens_BxM),
      (cache["cross_key"], cache["cross_value"]),
      bias_HxMxM[None],
      attention.padding_mask(cache["inputs"])[:, None],
    )
    return x

  def logits(self, x):
    return self.head_of(self.decoder.final_norm(x))

  def cross_keys_values(self, encoded, place):
    return self.decoder.layers.cross_keys_values(None, encoded, place)[1]

  def step(self, cache, tokens):
    length = cache["key"][0].shape[-1]
    back = cache["step"] - jnp.arange(length)  # how far each cached key lies behind the new token
    by_distance = self.decoder.by_offset(-np.arange(length))
    bias_LxH = jnp.where((back >= 0)[:, None], by_distance[jnp.maximum(back, 0)], attention.MASKED)
    cross_bias = attention.padding_mask(cache["inputs"])[:, None]
    x = self._embed(tokens[:, None])
    layer = _DecoderLayer(self.config, parent=None)
    keys = []
    values = []
    for number in range(self.config.decoder_layers):
      weights = layers.weights_of(cache, self.decoder.layers.variables["params"], number, x)
      x, key, value = layer.apply(
        {"params": weights},
        x,
        {name: cache[name][number] for name in _CACHED},
        cache["step"],
        bias_LxH.T[None, :, None, None],
        cross_bias,
        method=_DecoderLayer.step,
      )
      keys.append(key)
      values.append(value)
    return self.logits(x)[:, 0], keys, values

  def _embed(self, tokens):
    return self.embedding.astype(self.dtype)[tokens]

  def head_of(self, x):
    return products.logits(x * self._head_scale() if self.config.tie_head else x, self._head())

  def _head(self):
    return (self.embedding if self.config.tie_head else self.head).astype(self.dtype)

  def _head_scale(self):
    return self.config.d_model**-0.5 if self.config.tie_head else 1.0

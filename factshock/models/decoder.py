"""Llama (Touvron et al. 2023) and Mistral (Jiang et al. 2023) in Flax Linen, as pure functions over a nested dict.

Layers are stacked: every array under `layers` has a leading axis N. H query heads share G key and value heads.
Padding is token PAD, on either side of a row; rows may hold several segments.
"""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from factshock.models import (
  attention,
  fused,
  layers,
  model_config,
  observing,
  products,
  remat,
  rotary,
)
from factshock.runtime.errors import UserError
from factshock.runtime.settings import COUNT, FLAG, POSITIVE, Check, check_fields, setting

PAD = -1
_ROPE_SCALING = Check(
  (type(None), tuple, list), lambda v: v is None or len(v) == 4, "None or four numbers"
)
_WINDOW = Check(
  (type(None), int), lambda v: v is None or v >= 1, "None or a whole number of at least 1"
)


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
  """Sizes and variants of a Llama or Mistral; `dtype` is that of the computation, `param_dtype` of the arrays.

  rope_scaling: None, or Llama 3's four numbers (rotary.frequencies). sliding_window: None, or how many tokens
  back a query sees, itself included. `unroll` lays the layers out one after another. remat: one of
  remat.POLICIES, what the reverse pass keeps of each layer. attention: one of fused.ATTENTIONS, how whole rows are
  read where they train (`hidden`).
  Raises: UserError where a value is out of range.
  """

  vocab_size: int = setting(COUNT)
  d_model: int = setting(COUNT)
  d_ff: int = setting(COUNT)
  num_heads: int = setting(COUNT)
  num_kv_heads: int = setting(COUNT)
  d_kv: int = setting(model_config.EVEN)  # positions turn pairs of it
  layers: int = setting(COUNT)
  rope_theta: float = setting(POSITIVE, default=10000.0)
  rope_scaling: tuple[float, ...] | None = setting(_ROPE_SCALING, default=None)
  sliding_window: int | None = setting(_WINDOW, default=None)
  max_length: int = setting(COUNT, default=4096)
  tie_head: bool = setting(FLAG, default=False)
  dtype: str = setting(model_config.DTYPE, default="float32")
  param_dtype: str = setting(model_config.DTYPE, default="float32")
  unroll: bool = setting(FLAG, default=False)
  remat: str = setting(model_config.REMAT, default="none")
  attention: str = setting(model_config.ATTENTION, default="xla")
  epsilon: float = setting(POSITIVE, default=1e-5)
  feed_forward: ClassVar[str] = "gated-silu"
  dropout: ClassVar[float] = 0.0

  def __post_init__(self) -> None:
    check_fields(self, "model")
    if self.num_heads % self.num_kv_heads:
      raise UserError(
        f"model.num_kv_heads: expected a divisor of num_heads ({self.num_heads}), "
        f"got {self.num_kv_heads}"
      )


def init(config, key):
  """Random parameters, normal with variance 1 / inputs: a plain nested dict of arrays."""
  return _init(config, key)


def forward(params, config, tokens_BxS, *, segments_BxS=None):
  """Logits of the token after each token given those up to it: float32 [B, S, V].

  Args:
    params: as from `init`.
    tokens_BxS: int32, PAD on either side of a row.
    segments_BxS: int32, of packed rows (0 = padding): tokens see their own segment, positions count in it.
  """
  return _apply(params, config, _Llama.forward, tokens_BxS, _segments(tokens_BxS, segments_BxS))


def hidden(params, config, tokens_BxS, *, segments_BxS=None):
  """What `head` makes logits of, [B, S, D], for losses that need them not as a whole; PAD stands at the end of a row.

  Attention is as config.attention says; packed rows are for "xla" (fused.choose).
  """
  kernel = fused.kernel(
    config, (tokens_BxS.shape[1],), biased=False, packed=segments_BxS is not None
  )
  return _apply(
    params, config, _Llama.hidden, tokens_BxS, _segments(tokens_BxS, segments_BxS), kernel
  )


def head(params, config, hidden_BxSxD):
  """Logits float32 [B, S, V] from `hidden`."""
  return _apply(params, config, _Llama.head_of, hidden_BxSxD)


def observe(params, config, tokens_BxS, place_B, marked_BxS, gold_B, among_BxV):
  """What the query at a place of each row attends to in each layer: {"self": observing.Read}.

  `marked`, `rest` and `mean` are [N, B, H]: shares of the logit, after that place, of gold_B less the mean of those of
  among_BxV (observing.direction).

  Args:
    tokens_BxS: int32, PAD on either side of a row.
    place_B: int32. marked_BxS: bool, tokens that the query sees. gold_B: int32. among_BxV: bool.
  """
  return _apply(params, config, _Llama.observe, tokens_BxS, place_B, marked_BxS, gold_B, among_BxV)


def start(params, config, inputs_BxS, length, packed=None):
  """Reads prompts, PAD on the left: (cache for `length` more tokens, first_B, the last token of each prompt).

  `packed` is (tokens_RxL, segments_RxL, place_BxP): all but the last token of the prompts, several to a row, and where in
  the R * L tokens each is; the padding is then not read. The cache holds all but that last token. It is a dict of `key`, `value` [N, B, G, K, S - 1 + length], `step`
  (int32 scalar: tokens read since), `used` [B, S - 1] (bool: no padding) and `offset` [B] (tokens in the prompt
  but the last).
  """
  before_BxP = inputs_BxS[:, :-1]
  first_B = inputs_BxS[:, -1]
  used_BxP = before_BxP != PAD
  key, value = _apply(
    params, config, _Llama.prefill, *(packed or (before_BxP, used_BxP.astype(jnp.int32), None))
  )
  room = ((0, 0), (0, 0), (0, 0), (0, 0), (0, length))
  return {
    "key": jnp.pad(key, room),
    "value": jnp.pad(value, room),
    "step": jnp.zeros((), jnp.int32),
    "used": used_BxP,
    "offset": used_BxP.sum(axis=1, dtype=jnp.int32),
  }, first_B


def layer_weights(params):
  """The weights of the layers that `step` runs, each on its own, or None (layers.layer_weights)."""
  return layers.layer_weights(params["layers"])


def unstack(cache):
  """The cache from `start` with each layer on its own; `step` wants `weights` from `layer_weights` in it too."""
  return layers.unstack(cache, ("key", "value"))


def step(params, config, cache, tokens_B):
  """Reads one token a row: (logits float32 [B, V] of the next token, the cache after it).

  The cache is from `unstack`. Steps beyond the cache's length give wrong logits: under jit nothing can be raised.
  """
  logits_BxV, keys, values = _apply(params, config, _Llama.step, cache, tokens_B)
  return logits_BxV, dict(cache, step=cache["step"] + 1, key=keys, value=values)


def hidden_of_tree(params, config, cache, first_B, tokens_M, distance_MxM):
  """What `logits_of_tree` makes logits of, [B, M, D], for each context of a tree of continuations of the prompts.

  Args:
    cache, first_B: as from `start`; first_B is the token of the root, node 0.
    tokens_M: int32, the last token of each context.
    distance_MxM: int32, by how many tokens context j is shorter than context i where i begins with j; else -1.
  """
  batch = first_B.shape[0]
  size = tokens_M.shape[0]
  tokens_BxM = jnp.broadcast_to(tokens_M[None], (batch, size)).at[:, 0].set(first_B)
  depth_M = (distance_MxM >= 0).sum(axis=1) - 1
  allowed_MxM = distance_MxM >= 0
  if config.sliding_window is not None:
    allowed_MxM = allowed_MxM & (distance_MxM < config.sliding_window)
  bias_MxM = jnp.where(allowed_MxM, 0.0, attention.MASKED)
  return _apply(
    params,
    config,
    _Llama.tree,
    cache,
    tokens_BxM,
    cache["offset"][:, None] + depth_M[None],
    bias_MxM[None, None, None],
  )


def logits_of_tree(params, config, hidden_BxMxD):
  """Logits float32 [B, M, V] of the tokens that follow contexts, from `hidden_of_tree`."""
  return _apply(params, config, _Llama.logits, hidden_BxMxD)


def take_rows(cache, rows_R):
  """The cache (from `unstack`) of these rows, in this order; a row may come several times, as for beams."""
  taken = {name: [layer[rows_R] for layer in cache[name]] for name in ("key", "value")}
  return dict(cache, **taken, used=cache["used"][rows_R], offset=cache["offset"][rows_R])


def reorder(cache, rows_R):
  """`take_rows` where each row is replaced by one of the same prompt: only what was read since is moved."""
  prompt = cache["used"].shape[1]
  return dict(
    cache,
    **{
      name: [layer.at[..., prompt:].set(layer[..., prompt:][rows_R]) for layer in cache[name]]
      for name in ("key", "value")
    },
  )


def positions(segments_BxS):
  """Place of each token in its segment, from 0: int32 [B, S]."""
  column_S = jnp.arange(segments_BxS.shape[1])
  before = jnp.pad(segments_BxS[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  begin_BxS = jnp.where(segments_BxS != before, column_S[None], 0)
  return column_S[None] - jax.lax.cummax(begin_BxS, axis=1)


def _segments(tokens_BxS, segments_BxS):
  return (tokens_BxS != PAD).astype(jnp.int32) if segments_BxS is None else segments_BxS


@functools.partial(jax.jit, static_argnums=0)
def _init(config, key):
  tokens = jnp.ones((1, 1), jnp.int32)
  return _Llama(config).init(key, tokens, tokens, method=_Llama.forward)["params"]


def _apply(params, config, method, *arguments):
  return _Llama(config).apply({"params": params}, *arguments, method=method)


class _Attention(layers.Part):
  """Attention whose query heads share key and value heads in groups (Ainslie et al. 2023)."""

  def setup(self):
    config = self.config
    wide = config.num_heads * config.d_kv
    narrow = config.num_kv_heads * config.d_kv
    for name, width in (("query", wide), ("key", narrow), ("value", narrow)):
      setattr(self, name, self.weight(name, config.d_model**-0.5, config.d_model, width))
    self.out = self.weight("out", wide**-0.5, wide, config.d_model)

  def queries_keys_values(self, x, turn):
    """Query [B, S, G, H / G, K], key and value [B, S, G, K], the first two turned by their positions."""
    config = self.config
    names = ("query", "key", "value")
    y = products.dense(x, self.joined(**{name: getattr(self, name) for name in names}))
    ends = (config.num_heads * config.d_kv, (config.num_heads + config.num_kv_heads) * config.d_kv)
    heads = [
      self.adapted(name, x, part).reshape(*x.shape[:-1], -1, config.d_kv)
      for name, part in zip(names, jnp.split(y, ends, axis=-1))
    ]
    query, key = (rotary.rotate(part, *turn) for part in heads[:2])
    query = query * jnp.asarray(config.d_kv**-0.5, self.dtype)
    return query.reshape(*x.shape[:-1], config.num_kv_heads, -1, config.d_kv), key, heads[2]

  def __call__(self, query, key, value, bias):
    """Output [B, S, D] of tokens that see one another by a bias [B, 1, S, S], or as a fused.Seen says."""
    if isinstance(bias, fused.Seen):
      return self._project(
        fused.attend(query.reshape(*query.shape[:2], -1, query.shape[-1]), key, value, bias)
      )
    scores = jnp.einsum("bsgrk,btgk->bgrst", query, key).astype(jnp.float32) + bias[:, :, None]
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return self._project(jnp.einsum("bgrst,btgk->bsgrk", weights, value))

  def cached(self, query, cached, new=None):
    """As __call__ for tokens that follow those of a cache (attention.attend_cached)."""
    return self._project(attention.attend_cached(query, cached, new))

  def backed_out(self, direction):
    return self.backed("out", self.out, direction)

  def _project(self, y):
    y = y.reshape(*y.shape[:2], -1)
    return self.adapted("out", y, products.dense(y, self.out))


class _Layer(layers.Part):
  def setup(self):
    self.self_attention_norm = layers.Norm(self.config)
    self.self_attention = _Attention(self.config)
    self.feed_forward_norm = layers.Norm(self.config)
    self.feed_forward = layers.FeedForward(self.config)

  def __call__(self, x, turn, bias):
    return self.prefill(x, turn, bias, None)[0], None

  def prefill(self, x, turn, bias, place):
    query, key, value = self._queries_keys_values(x, turn)
    x = x + self.self_attention(query, key, value, bias)
    return self._feed_forward(x), [
      attention.tokens_last(layers.unpacked(array, place)) for array in (key, value)
    ]

  def observe(self, x, turn, bias, place, marked):
    heads = self._queries_keys_values(x, turn)
    return self._feed_forward(x + self.self_attention(*heads, bias)), observing.read(
      *heads, bias, place, marked
    )

  def backed(self, carry, direction):
    return carry, self.self_attention.backed_out(direction)

  def extend(self, x, cache, turn, bias, cached_bias):
    query, key, value = self._queries_keys_values(x, turn)
    x = x + self.self_attention.cached(query, (*cache, cached_bias), (key, value, bias))
    return self._feed_forward(x), (attention.tokens_last(key), attention.tokens_last(value))

  def step(self, x, cached, place, turn, bias):
    """One more token: (x, key, value of the cache with the token in it)."""
    query, *new = self._queries_keys_values(x, turn)
    key, value = (layers.write_token(array, token, place) for array, token in zip(cached, new))
    x = x + self.self_attention.cached(query, (key, value, bias))
    return self._feed_forward(x), key, value

  def _queries_keys_values(self, x, turn):
    return self.self_attention.queries_keys_values(self.self_attention_norm(x), turn)

  def _feed_forward(self, x):
    return x + self.feed_forward(self.feed_forward_norm(x))


class _Llama(layers.Part):
  def setup(self):
    config = self.config
    dtype = jnp.dtype(config.param_dtype)
    self.embedding = self.param(
      "embedding", layers.normal(1.0), (config.vocab_size, config.d_model), dtype
    )
    if not config.tie_head:
      self.head = self.param(
        "head", layers.normal(config.d_model**-0.5), (config.vocab_size, config.d_model), dtype
      )
    everyone = nn.broadcast
    inputs = {
      "__call__": (everyone,) * 2,
      "prefill": (everyone,) * 3,
      "extend": (0,) + (everyone,) * 3,
      "observe": (everyone,) * 4,
      "backed": (everyone,),
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
    self.layers = nn.scan(remat.layer(_Layer, self), methods=scanned)(config)
    self.final_norm = layers.Norm(config)

  def forward(self, tokens, segments):
    return self.head_of(self.hidden(tokens, segments))

  def hidden(self, tokens, segments, kernel=None):
    # Padding comes last: no token sees it where none sees what comes after it.
    seen = (
      self._bias(segments)
      if kernel is None
      else fused.Seen(None, None, kernel, causal=True, window=self.config.sliding_window)
    )
    x, _ = self.layers(self._embed(tokens), self._turn(positions(segments)), seen)
    return self.final_norm(x)

  def observe(self, tokens, place, marked, gold, among):
    segments = _segments(tokens, None)
    turn = self._turn(positions(segments))
    bias = self._bias(segments)
    x, found = self.layers.observe(self._embed(tokens), turn, bias, place, marked)
    direction = observing.direction(
      x[jnp.arange(len(place)), place],
      self.final_norm.variables["params"]["scale"],
      self.config.epsilon,
      self._head(),
      gold,
      among,
    )
    return {"self": observing.shares(found, self.layers.backed(None, direction)[1])}

  def prefill(self, tokens, segments, place):
    return self.layers.prefill(
      self._embed(tokens), self._turn(positions(segments)), self._bias(segments), place
    )[1]

  def step(self, cache, tokens):
    positions_Bx1 = (cache["offset"] + cache["step"])[:, None]
    place = cache["used"].shape[1] + cache["step"]
    turn = self._turn(positions_Bx1)
    bias = self._cached_bias(cache, positions_Bx1, cache["step"] + 1)
    x = self._embed(tokens[:, None])
    layer = _Layer(self.config, parent=None)
    keys = []
    values = []
    for number in range(self.config.layers):
      weights = layers.weights_of(cache, self.layers.variables["params"], number, x)
      x, key, value = layer.apply(
        {"params": weights},
        x,
        (cache["key"][number], cache["value"][number]),
        place,
        turn,
        bias,
        method=_Layer.step,
      )
      keys.append(key)
      values.append(value)
    return self.logits(x)[:, 0], keys, values

  def tree(self, cache, tokens, positions_BxM, bias):
    x, _ = self.layers.extend(
      self._embed(tokens),
      (cache["key"], cache["value"]),
      self._turn(positions_BxM),
      bias,
      self._cached_bias(cache, positions_BxM, cache["step"]),
    )
    return x

  def _cached_bias(self, cache, positions_BxQ, read):
    """Bias [B, 1, 1, Q, L] of a cache's tokens, `read` of them after the prompt, for tokens at these positions."""
    prompt = cache["used"].shape[1]
    rows = cache["used"].shape[0]
    later_L = jnp.arange(cache["key"][0].shape[-1] - prompt)
    valid_BxL = jnp.concatenate(
      [cache["used"], jnp.broadcast_to(later_L < read, (rows, later_L.size))], axis=1
    )
    allowed = valid_BxL[:, None]
    if self.config.sliding_window is not None:
      place_BxP = jnp.cumsum(cache["used"], axis=1) - 1
      place_BxL = jnp.concatenate([place_BxP, cache["offset"][:, None] + later_L[None]], axis=1)
      allowed = allowed & (
        positions_BxQ[:, :, None] - place_BxL[:, None] < self.config.sliding_window
      )
    return jnp.where(allowed, 0.0, attention.MASKED)[:, None, None]

  def _turn(self, positions_BxS):
    config = self.config
    return rotary.angles(
      positions_BxS, rotary.frequencies(config.d_kv, config.rope_theta, config.rope_scaling)
    )

  def _bias(self, segments):
    """Bias [B, 1, S, S]: each token sees those before it in its segment, as far as the window goes."""
    length = segments.shape[1]
    back = np.arange(length)[:, None] - np.arange(length)[None]
    window = length if self.config.sliding_window is None else self.config.sliding_window
    return (
      attention.segment_mask(segments, segments)
      + jnp.where((back >= 0) & (back < window), 0.0, attention.MASKED)[None, None]
    )

  def _embed(self, tokens):
    return self.embedding.astype(self.dtype)[jnp.maximum(tokens, 0)]

  def logits(self, x):
    return self.head_of(self.final_norm(x))

  def head_of(self, x):
    return products.logits(x, self._head())

  def _head(self):
    return (self.embedding if self.config.tie_head else self.head).astype(self.dtype)

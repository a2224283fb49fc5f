"""Parts that T5 and Llama share: cast parameters with adapters beside them, norm, caches."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from factshock.models import int8, products
from factshock.models.int8 import Int8Weight, Weight
from factshock.models.model_config import ModelConfig
from factshock.types import Batch, Params

# Layers' weights are taken out of their stack once, before a loop over tokens, where the stack is
# no larger than this; else a layer's are copied at every token.
UNSTACKED_BYTES = 1 << 30
# Times as large on an accelerator, whose loops wait for every copy.
_ON_ACCELERATORS = 4

# Weights of the same inputs, read in one product.
_JOINED = (("query", "key", "value"), ("gate", "up"))

# Several inputs in one row: tokens and segments, each [R, L], and the index among the R * L tokens
# of each token of the inputs, [B, S].
Packed: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]


def layer_weights(stacked: Params) -> list[Params] | None:
  """Returns the weights of each layer of a stack, those that are read together joined as well.

  For loops over tokens: one copy, where a slice of a stack and the joining would be made again and
  again. None where the copy would be too large.
  """
  leaves = jax.tree.leaves(stacked)
  limit = UNSTACKED_BYTES if on_cpu() else UNSTACKED_BYTES * _ON_ACCELERATORS
  if sum(leaf.nbytes for leaf in leaves) > limit:
    return None
  return [_one_layer(stacked, np.int32(layer)) for layer in range(len(leaves[0]))]


@jax.jit
def _one_layer(stacked: Params, layer: jax.Array) -> Params:
  """Returns the weights of one layer, compiled once for all layers of a stack."""
  return _with_joined(_take(stacked, layer))


def _with_joined(tree: Params) -> Params:
  """Returns weights with each group of _JOINED as one more weight, "query_key_value" say."""
  weights = {}
  for name, value in tree.items():
    weights[name] = _with_joined(value) if isinstance(value, dict) else value
  for names in _JOINED:
    if set(names) <= weights.keys():
      weights["_".join(names)] = _beside([weights[name] for name in names])
  return weights


def _beside(weights: Sequence[Weight]) -> Weight:
  """Returns weights [D, F] of the same inputs as one."""
  return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis=1), *weights)


def unstack(cache: Batch, names: Sequence[str]) -> Batch:
  """Returns a cache for a loop over tokens, to be written in place.

  Args:
    cache: arrays with layers on the first axis.
    names: those that become lists of one array a layer.
  """
  return dict(cache, **{name: list(cache[name]) for name in names})


def take_cached(cache: Batch, names: Sequence[str], rows_R: jax.Array) -> Batch:
  """Returns a cache with the given rows of each layer's arrays of these names.

  The arrays are lists, or stand with layers on the first axis.
  """
  taken = {}
  for name in names:
    cached = cache[name]
    is_list = isinstance(cached, list)
    taken[name] = [layer[rows_R] for layer in cached] if is_list else cached[:, rows_R]
  return dict(cache, **taken)


def tree_of_rows(
  first_B: jax.Array,
  tokens: jax.Array,
  distance: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns a family's tree with its batch, the first tokens at the root.

  Args:
    first_B: int32, the token of each row's root, node 0.
    tokens: int32 [M] or [B, M], the last token of each context.
    distance: int32 [M, M] or [B, M, M].

  Returns:
    Tokens [B, M] and distances [B, M, M], or [1, M, M] where all rows have one tree.
  """
  shape = (first_B.shape[0], tokens.shape[-1])
  one_a_row = tokens if tokens.ndim == 2 else tokens[None]
  tokens_BxM = jnp.broadcast_to(one_a_row, shape).at[:, 0].set(first_B)
  return tokens_BxM, distance if distance.ndim == 3 else distance[None]


def weights_of(cache: Batch, stacked: Params, layer: int, x: jax.Array) -> Params:
  """Returns the weights of one layer that will read x.

  They are those of `layer_weights`, or cut from the stack when x is there.
  """
  if cache["weights"] is not None:
    return cache["weights"][layer]
  # XLA cannot know that this is 0, and so cannot cut all layers at once.
  zero = jnp.minimum(jnp.abs(x.ravel()[0]), 0).astype(jnp.int32)
  return _take(stacked, layer + zero)


def _take(stacked: Params, layer: int | jax.Array) -> Params:
  return jax.tree.map(lambda leaf: leaf[layer], stacked)


def unpacked(array_RxLxGxK: jax.Array, index_BxS: jax.Array | None) -> jax.Array:
  """Returns keys or values of packed rows as those of each prompt, [B, S, G, K].

  They come as they are where `index_BxS` is None.
  """
  if index_BxS is None:
    return array_RxLxGxK
  return array_RxLxGxK.reshape(-1, *array_RxLxGxK.shape[2:])[index_BxS]


def write_token(
  array_BxGxKxT: jax.Array, token_Bx1xGxK: jax.Array, position: int | jax.Array
) -> jax.Array:
  """Returns a cache's keys or values with one token's written at a position."""
  return jax.lax.dynamic_update_slice(
    array_BxGxKxT, token_Bx1xGxK.transpose(0, 2, 3, 1), (0, 0, 0, position)
  )


def on_cpu() -> bool:
  """Returns whether JAX computes on a CPU."""
  return jax.default_backend() == "cpu"


def narrowed(params: Params, dtype: str) -> Params:
  """Returns params that are not trained in the dtype of the computation, where that is narrower.

  The models cast every parameter when they read it; a loop over tokens would cast it at each.
  """
  narrow = jnp.dtype(dtype)

  def cast(leaf: Weight) -> Weight:
    if isinstance(leaf, Int8Weight):
      return leaf
    wider = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize > narrow.itemsize
    return leaf.astype(narrow) if wider else leaf

  return jax.tree.map(cast, params, is_leaf=lambda leaf: isinstance(leaf, Int8Weight))


def bits_on_cpu(params: Params) -> Params:
  """Returns params that are not trained; large bfloat16 layers as uint16 of the same bits on a CPU.

  A CPU multiplies in float32, and XLA would widen the weights of all layers before a scan over
  them, which takes twice the model's memory more; bits are widened layer by layer. No copy is made.
  """
  large = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) > UNSTACKED_BYTES
  if not large or not on_cpu():
    return params

  def bits(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
    in_layers = any(getattr(key, "key", None) == "layers" for key in path)
    if not in_layers or leaf.ndim != 3 or leaf.dtype != jnp.bfloat16:
      return leaf
    return jax.device_put(np.asarray(leaf).view(np.uint16))

  return jax.tree_util.tree_map_with_path(bits, params)


def normal(scale: float) -> nn.initializers.Initializer:
  """Returns an initialiser: normal with this standard deviation."""
  return nn.initializers.normal(scale)


def embed(embedding_VxD: Weight, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Returns the rows of tokens in a dtype: [..., D].

  They are narrowed when they have been read, so that the gradients of a token that stands in many
  places are added up in the dtype of the parameter: in bfloat16 a thousand ones make 256.
  """
  rows = jax.tree.map(lambda array: array[tokens], embedding_VxD)
  return int8.widened(rows).astype(dtype)


class Part(nn.Module):
  """Part of a model: its config, dropout switched on by `train`, parameters cast for computing."""

  config: ModelConfig
  train: bool = False

  @property
  def dtype(self) -> jnp.dtype:
    """Returns the dtype of the computation."""
    return jnp.dtype(self.config.dtype)

  def weight(self, name: str, scale: float, *shape: int) -> jax.Array:
    """Returns a parameter in the dtype of the computation; `scale` is that of its first values."""
    dtype = jnp.dtype(self.config.param_dtype)
    return self._cast(self.param(name, normal(scale), shape, dtype))

  def matrix(self, name: str, scale: float, *shape: int) -> Weight:
    """Returns a parameter of matrix products, which may be an Int8Weight, as `weight` does."""
    dtype = jnp.dtype(self.config.param_dtype)
    return self.read(self.param(name, normal(scale), shape, dtype))

  def read(self, value: Weight) -> Weight:
    """Returns a parameter in the dtype of the computation; an Int8Weight as it is."""
    return value if isinstance(value, Int8Weight) else self._cast(value)

  def _cast(self, value: jax.Array) -> jax.Array:
    if value.dtype == jnp.uint16:  # from `bits_on_cpu`
      value = jax.lax.bitcast_convert_type(value, jnp.bfloat16)
    return value.astype(self.dtype)

  def joins(self, *names: str) -> bool:
    """Returns whether weights of the same inputs are read in one product.

    Joining them is a copy, and one more to keep for the reverse pass; taking the results apart is
    another. A CPU's product gains more than that, an accelerator's does not, unless `layer_weights`
    has joined them for good.
    """
    return on_cpu() or self.has_variable("params", "_".join(names))

  def joined(self, **weights: Weight) -> Weight:
    """Returns weights [D, F] of the same inputs as one, [D, sum of F], in this order.

    One that `layer_weights` made is taken.
    """
    name = "_".join(weights)
    if self.has_variable("params", name):
      return self.read(self.get_variable("params", name))
    return _beside(list(weights.values()))

  def is_adapted(self, name: str) -> bool:
    """Returns whether the weight of this name has an adapter (models/lora.py)."""
    return self.has_variable("params", f"{name}_lora_a")

  def adapted(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns y = x W with what the adapter of the weight W adds, (x A) B, where there is one."""
    if not self.is_adapted(name):
      return y
    a = self.get_variable("params", f"{name}_lora_a").astype(self.dtype)
    b = self.get_variable("params", f"{name}_lora_b").astype(self.dtype)
    return y + products.dense(products.dense(x, a), b)

  def backed(self, name: str, weight_WxD: Weight, direction_BxD: jax.Array) -> jax.Array:
    """Returns what y = x W with its adapter multiplies x by in y . direction: float32 [B, W]."""
    through_weight = self._back(direction_BxD, int8.widened(weight_WxD))
    if not self.is_adapted(name):
      return through_weight
    a = self.get_variable("params", f"{name}_lora_a")
    b = self.get_variable("params", f"{name}_lora_b")
    return through_weight + self._back(direction_BxD, b, a)

  def _back(self, x: jax.Array, *factors: jax.Array) -> jax.Array:
    """Returns x times the transpose of each factor in turn, in float32."""
    for factor in factors:
      wide = factor.astype(self.dtype).astype(jnp.float32)
      x = jnp.einsum("bd,wd->bw", x, wide, precision=jax.lax.Precision.HIGHEST)
    return x

  def drop(self, x: jax.Array) -> jax.Array:
    """Returns x with dropout, where it is on."""
    rate = self.config.dropout if self.train else 0.0
    if not rate:
      return x
    key = self.make_rng("dropout")
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


class Norm(Part):
  """RMSNorm: statistics in float32, no mean, no bias (Zhang and Sennrich 2019).

  An `offset` is added to the scale, by which is then multiplied in float32 too; without one x is
  scaled in the dtype of the computation.
  """

  offset: float | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns x divided by its root mean square and scaled."""
    dtype = jnp.dtype(self.config.param_dtype)
    first = nn.initializers.constant(1 - (self.offset or 0.0))
    scale = self.param("scale", first, x.shape[-1:], dtype)

    def normed(x: jax.Array, scale: jax.Array) -> jax.Array:
      wide = x.astype(jnp.float32)
      mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
      divided = wide * jax.lax.rsqrt(mean_square + self.config.epsilon)
      leading = tuple(range(x.ndim - 1))
      if self.offset is not None:
        whole = scale.astype(jnp.float32) + self.offset
        return (divided * jnp.expand_dims(whole, leading)).astype(self.dtype)
      return divided.astype(self.dtype) * jnp.expand_dims(scale.astype(self.dtype), leading)

    if self.dtype == jnp.float32:
      return normed(x, scale)
    # The reverse pass reads x again, so that no wider copy of it is kept.
    return jax.checkpoint(normed, prevent_cse=False)(x, scale)

  def whole_scale(self) -> jax.Array:
    """Returns what a normed vector is multiplied by, the offset included: [D]."""
    scale = self.get_variable("params", "scale")
    return scale if self.offset is None else scale.astype(jnp.float32) + self.offset

  def factor(self, x: jax.Array) -> jax.Array:
    """Returns what the norm multiplies x by, its statistic and scale: float32 [..., D]."""
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    scale = self.whole_scale().astype(jnp.float32)
    leading = tuple(range(x.ndim - 1))
    return jax.lax.rsqrt(mean_square + self.config.epsilon) * jnp.expand_dims(scale, leading)


class FeedForward(Part):
  """Gated (Shazeer 2020) or plain feed-forward layer without biases."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns the layer's output, [..., D]."""
    config = self.config
    if config.feed_forward == "relu":
      up = self._input_weight("up")
      hidden = jax.nn.relu(self.adapted("up", x, products.dense(x, up)))
    elif self.joins("gate", "up"):
      hidden = products.gated(self._gate_and_up(x), config.feed_forward)
    else:
      gate, up = (
        self.adapted(name, x, products.dense(x, self._input_weight(name)))
        for name in ("gate", "up")
      )
      hidden = products.gated_apart(gate, up, config.feed_forward)
    down = self.matrix("down", config.d_ff**-0.5, config.d_ff, config.d_model)
    hidden = self.drop(hidden)
    return self.adapted("down", hidden, products.dense(hidden, down))

  def _input_weight(self, name: str) -> Weight:
    config = self.config
    return self.matrix(name, config.d_model**-0.5, config.d_model, config.d_ff)

  def _gate_and_up(self, x: jax.Array) -> jax.Array:
    """Returns what the gate and the other weight make of x, side by side: [..., 2, F]."""
    config = self.config
    weight_Dx2F = self.joined(gate=self._input_weight("gate"), up=self._input_weight("up"))
    both = products.dense(x, weight_Dx2F.reshape(config.d_model, 2, config.d_ff))
    if not self.is_adapted("gate") and not self.is_adapted("up"):
      return both
    gate = self.adapted("gate", x, both[..., 0, :])
    up = self.adapted("up", x, both[..., 1, :])
    return jnp.stack([gate, up], axis=-2)

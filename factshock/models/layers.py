"""The parts that T5 and Llama share: parameters cast for computing, adapters beside them, norm, feed-forward."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from factshock.models import products

# Layers' weights are taken out of their stack once, before a loop over tokens, where the stack is no larger than this;
# else a layer's are copied at every token.
UNSTACKED_BYTES = 1 << 30
_JOINED = (
  ("query", "key", "value"),
  ("gate", "up"),
)  # weights of the same inputs, read in one product


def layer_weights(stacked):
  """The weights of a stack of layers as a list of a layer's each, with those that are read together joined as well.

  None where the copy would be too large. For loops over tokens: one copy, where a slice of a stack and the joining
  would be made again and again.
  """
  if sum(leaf.nbytes for leaf in jax.tree.leaves(stacked)) > UNSTACKED_BYTES:
    return None
  return [_with_joined(_take(stacked, layer)) for layer in range(len(jax.tree.leaves(stacked)[0]))]


def _with_joined(tree):
  found = {
    name: _with_joined(value) if isinstance(value, dict) else value for name, value in tree.items()
  }
  for names in _JOINED:
    if set(names) <= found.keys():
      found["_".join(names)] = jnp.concatenate([found[name] for name in names], axis=1)
  return found


def unstack(cache, names):
  """A cache for a loop over tokens, its arrays of these names as lists of a layer's each, to be written in place."""
  return dict(cache, **{name: list(cache[name]) for name in names})


def weights_of(cache, stacked, layer, x):
  """The weights of one layer that will read x: those of `layer_weights`, or cut from the stack when x is there."""
  if cache["weights"] is not None:
    return cache["weights"][layer]
  zero = jnp.minimum(jnp.abs(x.ravel()[0]), 0).astype(
    jnp.int32
  )  # XLA cannot know it, nor cut all layers at once
  return _take(stacked, layer + zero)


def _take(stacked, layer):
  return jax.tree.map(lambda leaf: leaf[layer], stacked)


def unpacked(array_RxLxGxK, place_BxS):
  """Keys or values of packed rows as those of each prompt, [B, S, G, K]; as they are where `place_BxS` is None."""
  if place_BxS is None:
    return array_RxLxGxK
  return array_RxLxGxK.reshape(-1, *array_RxLxGxK.shape[2:])[place_BxS]


def write_token(array_BxGxKxT, token_Bx1xGxK, place):
  """A cache's keys or values with one token's written at a place."""
  return jax.lax.dynamic_update_slice(
    array_BxGxKxT, token_Bx1xGxK.transpose(0, 2, 3, 1), (0, 0, 0, place)
  )


def bits_on_cpu(params):
  """Large params that are not trained, the layers' bfloat16 weights as uint16 of the same bits where a CPU computes.

  A CPU multiplies in float32, and XLA would widen the weights of all layers before a scan over them, which takes
  twice the model's memory more; bits are widened layer by layer. No copy is made.
  """
  large = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) > UNSTACKED_BYTES
  if not large or jax.default_backend() != "cpu":
    return params

  def bits(path, leaf):
    stacked = any(getattr(part, "key", None) == "layers" for part in path) and leaf.ndim == 3
    if not stacked or leaf.dtype != jnp.bfloat16:
      return leaf
    return jax.device_put(np.asarray(leaf).view(np.uint16))

  return jax.tree_util.tree_map_with_path(bits, params)


def normal(scale):
  """Initialiser: normal with this standard deviation."""
  return nn.initializers.normal(scale)


class Part(nn.Module):
  """What all parts share: the config, dropout switched on by `train`, and parameters cast for computing."""

  config: object
  train: bool = False

  @property
  def dtype(self):
    return jnp.dtype(self.config.dtype)

  def weight(self, name, scale, *shape):
    return self._cast(self.param(name, normal(scale), shape, jnp.dtype(self.config.param_dtype)))

  def _cast(self, value):
    if value.dtype == jnp.uint16:  # from `bits_on_cpu`
      value = jax.lax.bitcast_convert_type(value, jnp.bfloat16)
    return value.astype(self.dtype)

  def joined(self, **weights):
    """Weights [D, F] of the same inputs as one, [D, sum of F], in this order; one that `layer_weights` made is taken."""
    name = "_".join(weights)
    if self.has_variable("params", name):
      return self._cast(self.get_variable("params", name))
    return jnp.concatenate(list(weights.values()), axis=1)

  def adapted(self, name, x, y):
    """y = x W with what the adapter of the weight `name` adds, (x A) B, where there is one (models/lora.py)."""
    if not self.has_variable("params", f"{name}_lora_a"):
      return y
    a, b = (self.get_variable("params", f"{name}_lora_{part}").astype(self.dtype) for part in "ab")
    return y + products.dense(products.dense(x, a), b)

  def backed(self, name, weight_WxD, direction_BxD):
    """What y = x W with its adapter (`adapted`) multiplies x by in y . direction: float32 [B, W]."""

    def back(x, *factors):
      for factor in factors:
        factor = factor.astype(self.dtype).astype(jnp.float32)
        x = jnp.einsum("bd,wd->bw", x, factor, precision=jax.lax.Precision.HIGHEST)
      return x

    found = back(direction_BxD, weight_WxD)
    if not self.has_variable("params", f"{name}_lora_a"):
      return found
    return found + back(
      direction_BxD, *(self.get_variable("params", f"{name}_lora_{part}") for part in "ba")
    )

  def drop(self, x, broadcast=()):
    rate = self.config.dropout if self.train else 0.0
    if not rate:
      return x
    shape = tuple(1 if axis in broadcast else size for axis, size in enumerate(x.shape))
    keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


class Norm(Part):
  """RMSNorm: statistics in float32, no mean, no bias (Zhang and Sennrich 2019)."""

  @nn.compact
  def __call__(self, x):
    scale = self.param(
      "scale", nn.initializers.ones, x.shape[-1:], jnp.dtype(self.config.param_dtype)
    )
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    normed = (wide * jax.lax.rsqrt(mean_square + self.config.epsilon)).astype(self.dtype)
    return normed * jnp.expand_dims(scale.astype(self.dtype), tuple(range(x.ndim - 1)))


class FeedForward(Part):
  """Gated (Shazeer 2020) or plain feed-forward layer without biases."""

  @nn.compact
  def __call__(self, x):
    config, activation = self.config, self.config.feed_forward
    into = config.d_model**-0.5, config.d_model, config.d_ff
    if activation == "relu":
      hidden = jax.nn.relu(self.adapted("up", x, products.dense(x, self.weight("up", *into))))
    else:
      weight_Dx2F = self.joined(gate=self.weight("gate", *into), up=self.weight("up", *into))
      both = products.dense(x, weight_Dx2F.reshape(config.d_model, 2, config.d_ff))
      if self.has_variable("params", "gate_lora_a") or self.has_variable("params", "up_lora_a"):
        both = jnp.stack(
          [self.adapted(name, x, both[..., i, :]) for i, name in enumerate(("gate", "up"))], axis=-2
        )
      hidden = products.gated(both, activation)
    down = self.weight("down", config.d_ff**-0.5, config.d_ff, config.d_model)
    hidden = self.drop(hidden)
    return self.adapted("down", hidden, products.dense(hidden, down))

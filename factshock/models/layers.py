"""The parts that T5 and Llama share: parameters cast for computing, adapters beside them, norm, feed-forward."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from factshock.models import products


# A loop over tokens around a scan over layers copies each layer's weights and caches at every token. Where the layers
# take no more than this, their weights are copied once, before the loop, and each layer has its own caches.
UNSTACKED_BYTES = 1 << 30


def unstack(cache, names, layer_bytes):
  """A cache whose arrays of these names are a list of layers instead of stacked, where the layers are small enough."""
  depth = len(cache[names[0]])
  if depth * layer_bytes > UNSTACKED_BYTES:
    return cache
  return dict(cache, **{name: [cache[name][layer] for layer in range(depth)] for name in names})


def walk(scanned, layer, x, caches, *rest):
  """`layer.step(x, cache, *rest)` for each layer of a scan, caches stacked or in lists: (x, caches' new tokens)."""
  if not isinstance(jax.tree.leaves(caches, is_leaf=lambda part: isinstance(part, list))[0], list):
    return scanned.step(x, caches, *rest)
  weights, new = scanned.variables["params"], []
  for number, cache in enumerate(_each(caches)):
    own = jax.tree.map(lambda leaf: leaf[number], weights)  # XLA takes it out of the loop over tokens
    x, tokens = layer.apply({"params": own}, x, cache, *rest, method="step")
    new.append(tokens)
  return x, [list(parts) for parts in zip(*new)]


def _each(caches):
  if isinstance(caches, dict):
    return [dict(zip(caches, parts)) for parts in zip(*caches.values())]
  return list(zip(*caches))


def write_tokens(array, tokens, place):
  """A cache's array, or list of a layer's each, with tokens written at a place of its last axis."""
  return jax.tree.map(lambda whole, part: jax.lax.dynamic_update_slice(
      whole, part, (*(0,) * (whole.ndim - 1), place)), array, tokens)


def take_rows(array, rows_R):
  """Rows of a cache's array [N, B, ...], or of a list of a layer's each [B, ...]."""
  if isinstance(array, list):
    return [layer[rows_R] for layer in array]
  return array[:, rows_R]


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
    value = self.param(name, normal(scale), shape, jnp.dtype(self.config.param_dtype))
    return value.astype(self.dtype)

  def adapted(self, name, x, y):
    """y = x W with what the adapter of the weight `name` adds, (x A) B, where there is one (models/lora.py)."""
    if not self.has_variable("params", f"{name}_lora_a"):
      return y
    a, b = (self.get_variable("params", f"{name}_lora_{part}").astype(self.dtype) for part in "ab")
    return y + products.dense(products.dense(x, a), b)

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
    scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.dtype(self.config.param_dtype))
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    normed = (wide * jax.lax.rsqrt(mean_square + self.config.epsilon)).astype(self.dtype)
    return normed * jnp.expand_dims(scale.astype(self.dtype), tuple(range(x.ndim - 1)))


class FeedForward(Part):
  """Gated (Shazeer 2020) or plain feed-forward layer without biases."""

  @nn.compact
  def __call__(self, x):
    config, activation = self.config, self.config.feed_forward
    into = config.d_model ** -0.5, config.d_model, config.d_ff
    if activation == "relu":
      hidden = jax.nn.relu(self.adapted("up", x, products.dense(x, self.weight("up", *into))))
    else:
      both = products.dense(x, jnp.stack([self.weight("gate", *into), self.weight("up", *into)], axis=1))
      if self.has_variable("params", "gate_lora_a") or self.has_variable("params", "up_lora_a"):
        both = jnp.stack([self.adapted(name, x, both[..., i, :]) for i, name in enumerate(("gate", "up"))], axis=-2)
      hidden = products.gated(both, activation)
    down = self.weight("down", config.d_ff ** -0.5, config.d_ff, config.d_model)
    hidden = self.drop(hidden)
    return self.adapted("down", hidden, products.dense(hidden, down))

"""Weighted averages of models in memory, also layer by layer.

Weight mixing follows Wortsman et al. 2022 (WiSE-FT) and the weighted averages of "model soups". Of
models on disk it is in mixing.py.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from factshock.checkpoints import manifest as manifests
from factshock.checkpoints import tree_files
from factshock.models import weight_groups
from factshock.predictions.mixing import check_weights
from factshock.runtime.errors import UserError
from factshock.types import Params


def interpolate(
  trees: Sequence[Params],
  weights: Sequence[float] | str,
  into: Params | None = None,
) -> Params:
  """Returns the weighted average of trees of the same structure.

  It is accumulated in float32, and in the stored dtypes.

  Args:
    trees: pytrees of floating arrays.
    weights: numbers that sum to 1 (one may be negative or above 1), or "uniform".
    into: a tree of before, whose memory is used again: its arrays are given up.

  Returns:
    A tree of JAX arrays like trees[0].
  """
  numbers = check_weights(weights, len(trees))
  _check_same(trees)
  shares = jnp.asarray(numbers, jnp.float32)

  def average(buffer: jax.Array | None, *values: jax.Array) -> jax.Array:
    return _average(buffer, values, shares)

  return _leaf_by_leaf(average, trees, into)


def mix_by_profile(
  a: Params,
  b: Params,
  alpha: float,
  profile: str = "uniform",
  into: Params | None = None,
) -> Params:
  """Returns (1 - alpha) a + alpha b, where alpha is the same everywhere or linear in depth.

  Args:
    a: the model that has the share 1 - alpha.
    b: the model that has the share alpha.
    alpha: the share.
    profile: "uniform"; "decreasing": alpha at the embedding, 0 at the head; "increasing": 0 at the
      embedding, alpha at the head (as LiNeS scales updates, Wang et al. 2024).
    into: as in `interpolate`.
  """
  if profile == "uniform":
    return interpolate([a, b], [1.0 - alpha, alpha], into)
  return interpolate_layerwise(a, b, *layer_alphas(alpha, profile), into)


def layer_alphas(alpha: float, profile: str) -> tuple[float, float]:
  """Returns the alphas at the embedding and at the head of a profile in depth."""
  ends = {
    "decreasing": (alpha, 0.0),
    "increasing": (0.0, alpha),
  }
  return ends[profile]


def interpolate_layerwise(
  a: Params,
  b: Params,
  alpha_bottom: float,
  alpha_top: float,
  into: Params | None = None,
) -> Params:
  """Returns (1 - alpha) a + alpha b with an alpha linear in depth; see `layerwise_weights`.

  `into` is as in `interpolate`.
  """
  _check_same([a, b])
  alphas = layerwise_weights(a, alpha_bottom, alpha_top)
  return _leaf_by_leaf(_average_layerwise, [a, b, alphas], into)


def exchange(
  a: Params,
  b: Params,
  groups: Sequence[str],
) -> Params:
  """Returns the tree `b` with the weights of some groups (models/weight_groups.py) from `a`."""
  _check_same([a, b])
  taken = weight_groups.mask(a, groups)
  return _leaf_by_leaf(_average_layerwise, [b, a, taken])


def layerwise_weights(
  params: Params,
  bottom: float,
  top: float,
) -> Params:
  """Returns a tree of float32 alphas, linear in depth, each broadcastable to its parameter.

  The embedding gets `bottom`; layer i of the N encoder and decoder layers counted through gets
  bottom + (top - bottom) i / (N + 1); the decoder's final norm and the head get `top`. A stack's
  relative bias goes with its first layer (where it is added first), the encoder's final norm with
  the encoder's last layer. A decoder-only model's layers are counted as a decoder's.

  Args:
    params: T5 or Llama parameters, layers of a stack on the leading axis.
    bottom: alpha of the embedding.
    top: alpha of the decoder's final norm and the head.
  """
  flat = tree_files.flat_leaves(params)
  encoder, decoder = _depths(flat)

  def alpha_at(position: np.ndarray | np.float64) -> np.ndarray:
    share = bottom + (top - bottom) * position / (encoder + decoder + 1)
    return np.asarray(share, np.float32)

  alphas = []
  for name, leaf in flat.items():
    position = _position(name, encoder, decoder)
    alpha = alpha_at(position)
    if alpha.ndim:
      others = [1] * (leaf.ndim - 1)
      alpha = alpha.reshape(-1, *others)
    alphas.append(alpha)
  return jax.tree.unflatten(jax.tree.structure(params), alphas)


def _position(
  name: str,
  encoder: int,
  decoder: int,
) -> np.ndarray | np.float64:
  """Returns where one leaf stands among the layers: a scalar, or [layers] for a stacked leaf.

  Args:
    name: the leaf's.
    encoder: layers of the encoder.
    decoder: layers of the decoder.
  """
  after_all = encoder + decoder + 1
  if not name.startswith(("encoder/", "decoder/", "layers/")):
    return np.float64(0 if "embedding" in name else after_all)
  if name.startswith("encoder/"):
    first = 1
    layers = encoder
    norm = encoder
  else:
    first = 1 + encoder
    layers = decoder
    norm = after_all
  if "/layers/" in f"/{name}":
    return first + np.arange(layers)
  if "relative" in name:
    return np.float64(first)
  return np.float64(norm)


def _depths(flat: Mapping[str, Any]) -> tuple[int, int]:
  """Returns the numbers of layers of encoder and decoder; of a decoder-only model 0 and its own."""
  if any(name.startswith("layers/") for name in flat):
    return 0, _depth(flat, "layers/")
  return _depth(flat, "encoder/layers/"), _depth(flat, "decoder/layers/")


def _depth(flat: Mapping[str, Any], stack: str) -> int:
  """Returns the number of layers of a stack: the leading axis of its stacked leaves."""
  counts = {leaf.shape[0] for name, leaf in flat.items() if name.startswith(stack)}
  if len(counts) != 1:
    raise UserError(
      f"expected parameters of a T5 or Llama with stacked layers under {stack[:-1]}, got "
      f"{len(counts)} depths; layer-wise mixing needs one of these"
    )
  return counts.pop()


def _leaf_by_leaf(
  average: Callable[..., jax.Array],
  trees: Sequence[Params],
  into: Params | None = None,
) -> Params:
  """Returns the tree of average(buffer, *leaves), a leaf at a time; buffers are those of `into`."""
  structure = jax.tree.structure(trees[0])
  leaves = [jax.tree.leaves(tree) for tree in trees]
  buffers = [None] * structure.num_leaves if into is None else jax.tree.leaves(into)
  return structure.unflatten(map(average, buffers, *leaves))


# A buffer that is given up has the result, though nothing of it is read.
@functools.partial(jax.jit, donate_argnums=0, keep_unused=True)
def _average(
  buffer: jax.Array | None,
  values: tuple[jax.Array, ...],
  weights: jax.Array,
) -> jax.Array:
  total: Any = 0
  for weight, value in zip(weights, values):
    total += weight * value.astype(jnp.float32)
  return total.astype(values[0].dtype)


@functools.partial(jax.jit, donate_argnums=0, keep_unused=True)
def _average_layerwise(
  buffer: jax.Array | None,
  a: jax.Array,
  b: jax.Array,
  alpha: jax.Array,
) -> jax.Array:
  share_a = (1 - alpha) * a.astype(jnp.float32)
  share_b = alpha * b.astype(jnp.float32)
  mixed = share_a + share_b
  return mixed.astype(a.dtype)


def _check_same(trees: Sequence[Params]) -> None:
  """Checks that trees have the same leaves.

  Raises:
    UserError: names every leaf in which a model differs from the first.
  """
  first, *others = [_specs(tree) for tree in trees]
  for count, specs in enumerate(others, 2):
    lines = manifests.differences(first, specs)
    if lines:
      raise UserError(f"model {count} differs from model 1: {'; '.join(lines)}")


def _specs(tree: Params) -> dict[str, manifests.Spec]:
  leaves = tree_files.flat_leaves(tree)
  return {name: (tuple(leaf.shape), leaf.dtype.name) for name, leaf in leaves.items()}

"""Weights in 8 bits for answering, by channel, and their products with rows quantised as they come.

Absolute maximum, without an offset, as in LLM.int8() (Dettmers et al. 2022) without its outliers.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from factshock.types import Params

_LARGEST = 127
# The axis of the inputs, over which a channel's largest is taken, of the weights that are
# quantised; norms, biases, position biases and adapters are not.
_INPUT_AXES = {
  "embedding": -1,
  "head": -1,
  **dict.fromkeys(("query", "key", "value", "out", "gate", "up", "down"), -2),
}


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=("values", "scale"), meta_fields=()
)
@dataclasses.dataclass(frozen=True)
class Int8Weight:
  """Holds a weight as integers and what each channel of them is multiplied by.

  Attributes:
    values: int8, of the weight's shape.
    scale: float32, of that shape with 1 in place of the inputs' axis.
  """

  values: jax.Array
  scale: jax.Array

  @property
  def shape(self) -> tuple[int, ...]:
    """Returns the weight's shape."""
    return self.values.shape

  def reshape(self, inputs: int, *outputs: int) -> "Int8Weight":
    """Returns a weight [D, F] with other axes of outputs."""
    return Int8Weight(self.values.reshape(inputs, *outputs), self.scale.reshape(1, *outputs))


# As a model reads it.
Weight: TypeAlias = jax.Array | Int8Weight


def widened(weight: Weight) -> jax.Array:
  """Returns a weight as one array: an Int8Weight in float32."""
  if isinstance(weight, Int8Weight):
    return weight.values.astype(jnp.float32) * weight.scale
  return weight


def quantised(params: Params) -> Params:
  """Returns a model's params with each weight of a matrix product as an Int8Weight."""
  return jax.tree_util.tree_map_with_path(_quantised_where_known, params)


def _quantised_where_known(path: Sequence[Any], leaf: jax.Array) -> jax.Array | Int8Weight:
  axis = _INPUT_AXES.get(getattr(path[-1], "key", ""))
  return leaf if axis is None else _weight(leaf, axis)


@functools.partial(jax.jit, static_argnames="axis")
def _weight(weight: jax.Array, axis: int) -> Int8Weight:
  return Int8Weight(*_rounded(weight, axis))


def _rounded(array: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
  """Returns integers and, with 1 in place of an axis, what to multiply them by."""
  wide = array.astype(jnp.float32)
  largest = jnp.max(jnp.abs(wide), axis=axis, keepdims=True)
  scale = jnp.where(largest > 0, largest, 1.0) / _LARGEST
  return jnp.round(wide / scale).astype(jnp.int8), scale


def dense(x: jax.Array, weight: Int8Weight) -> jax.Array:
  """Returns x [..., D] times a weight [D, ...], in the dtype of x."""
  inputs, *outputs = weight.shape
  columns_DxF = weight.values.reshape(inputs, -1)
  y_NxF = _product(x.reshape(-1, inputs), columns_DxF, 0) * weight.scale.reshape(1, -1)
  return y_NxF.astype(x.dtype).reshape(*x.shape[:-1], *outputs)


def logits(x_BxTxD: jax.Array, weight_VxD: Int8Weight) -> jax.Array:
  """Returns logits [B, T, V] in float32."""
  return _product(x_BxTxD, weight_VxD.values, 1) * weight_VxD.scale.reshape(1, 1, -1)


def _product(x: jax.Array, values: jax.Array, axis: int) -> jax.Array:
  """Returns rows x [..., D] as they are rounded times integers with D on an axis, in float32."""
  rows, scale = _rounded(x, axis=-1)
  over_inputs = (((x.ndim - 1,), (axis,)), ((), ()))
  sums = jax.lax.dot_general(rows, values, over_inputs, preferred_element_type=jnp.int32)
  return sums.astype(jnp.float32) * scale

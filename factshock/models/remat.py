"""Policies of what the reverse pass keeps of a layer; the rest it computes again."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from factshock.models import products

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Layer = TypeVar("_Layer", bound=type[nn.Module])

# Name -> policy of jax.checkpoint. Kept beside a layer's input: all; nothing; the results of matrix
# products; those of them without batch dimensions, which leaves out the attention's scores
# [B, H, S, T].
POLICIES = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_saveable,
  "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def layer(layer_type: _Layer, stack: Any) -> _Layer:
  """Returns the class of the layers of a stack, whose `__call__` keeps what its config.remat names.

  Where the stack's weights are bits (layers.bits_on_cpu) "none" is "full": else every layer's
  widened weights would be kept.

  Args:
    layer_type: a layer's class as it is.
    stack: the module that scans over them, a layers.Part.
  """
  name = stack.config.remat
  if name == "none" and _holds_bits(stack):
    name = "full"
  if name == "none" or products.each_counts_once():
    return layer_type
  # A scan keeps XLA from finding the forward pass's own results and using those; unrolled layers
  # are one computation.
  return nn.remat(
    layer_type, policy=POLICIES[name], prevent_cse=stack.config.unroll, methods=["__call__"]
  )


def checkpoint(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
  """Returns the function, of whose results the reverse pass keeps none: it computes them again."""
  return function if products.each_counts_once() else jax.checkpoint(function)


def _holds_bits(stack: nn.Module) -> bool:
  """Returns whether some weights of a stack's layers are the bits of bfloat16 numbers."""
  if not stack.has_variable("params", "layers"):
    return False
  weights = stack.get_variable("params", "layers")
  return any(leaf.dtype == jnp.uint16 for leaf in jax.tree.leaves(weights))

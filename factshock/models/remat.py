"""What the reverse pass keeps of a layer's forward pass, by name; the rest it computes again."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from factshock.models import products

# Name -> policy of jax.checkpoint. Kept beside a layer's input: all; nothing; the results of matrix products; those of them
# without batch dimensions, which leaves out the attention's scores [B, H, S, T].
POLICIES = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_saveable,
  "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def layer(kind, stack):
  """The class of the layers that `stack` scans over, whose `__call__` keeps what its config.remat names.

  Where the stack's weights are bits (layers.bits_on_cpu) "none" is "full": else every layer's widened weights would be kept.
  """
  name = "full" if stack.config.remat == "none" and _holds_bits(stack) else stack.config.remat
  if name == "none" or products.each_counts_once():
    return kind
  # A scan keeps XLA from finding the forward pass's own results and using those; unrolled layers are one computation.
  return nn.remat(
    kind, policy=POLICIES[name], prevent_cse=stack.config.unroll, methods=["__call__"]
  )


def checkpoint(function):
  """The function, of whose results the reverse pass keeps none: it computes them again."""
  return function if products.each_counts_once() else jax.checkpoint(function)


def _holds_bits(stack):
  weights = stack.get_variable("params", "layers") if stack.has_variable("params", "layers") else {}
  return any(leaf.dtype == jnp.uint16 for leaf in jax.tree.leaves(weights))

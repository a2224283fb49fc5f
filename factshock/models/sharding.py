"""Which axis of the mesh each dimension of a weight is cut over: one table for all families."""

import re
from collections.abc import Mapping, Sequence

# Part of a weight's path -> mesh axes of its last dimensions; what stands before them (stacked
# layers) is not cut. "model" cuts what tensor parallelism cuts (Shoeybi et al. 2019): columns of
# what goes in, rows of what comes out, so that one sum over devices follows each block; "fsdp" cuts
# the other dimension.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r"(^|/)(embedding|head)$", ("model", "fsdp")),  # vocabulary x model
  (r"attention/(query|key|value)$", ("fsdp", "model")),  # model x heads
  (r"attention/(query|key|value)_bias$", ("model",)),
  (r"attention/out$", ("model", "fsdp")),
  (r"feed_forward/(gate|up)$", ("fsdp", "model")),  # model x inner
  (r"feed_forward/down$", ("model", "fsdp")),
  (r"relative_bias$", (None, "model")),  # buckets x heads
  (r"scale$", ()),
  (r"/[ab]$", ()),  # adapters
)


def spec(name: str, shape: Sequence[int], sizes: Mapping[str, int]) -> tuple[str | None, ...]:
  """Returns the mesh axis (or None) of each dimension of a weight.

  Args:
    name: path of the weight, as "decoder/layers/self_attention/query".
    shape: the weight's.
    sizes: devices along each axis; a dimension that its axis does not divide is not cut, and no
      dimension of a name that no rule knows.

  Returns:
    A tuple as long as `shape`.
  """
  last_axes = _axes_of(name)
  axes = (None,) * (len(shape) - len(last_axes)) + last_axes
  cut = []
  for axis, size in zip(axes, shape):
    divides = axis is not None and sizes[axis] > 1 and size % sizes[axis] == 0
    cut.append(axis if divides else None)
  return tuple(cut)


def _axes_of(name: str) -> tuple[str | None, ...]:
  """Returns the axes that the first rule for a weight's path names."""
  for pattern, axes in RULES:
    if re.search(pattern, name):
      return axes
  return ()

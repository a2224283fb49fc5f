"""Which axis of the mesh each dimension of a weight is cut over, by the weight's name: one table for both families."""

import re

# Part of a weight's path -> mesh axes of its last dimensions; what stands before them (stacked layers) is not cut.
# "model" cuts what tensor parallelism cuts (Shoeybi et al. 2019): columns of what goes in, rows of what comes out, so that
# one sum over devices follows each block; "fsdp" cuts the other dimension.
RULES = (
  (r"(^|/)(embedding|head)$", ("model", "fsdp")),  # vocabulary x model
  (r"attention/(query|key|value)$", ("fsdp", "model")),  # model x heads
  (r"attention/out$", ("model", "fsdp")),
  (r"feed_forward/(gate|up)$", ("fsdp", "model")),  # model x inner
  (r"feed_forward/down$", ("model", "fsdp")),
  (r"relative_bias$", (None, "model")),  # buckets x heads
  (r"scale$", ()),
  (r"/[ab]$", ()),  # adapters
)


def spec(name, shape, sizes):
  """The mesh axis (or None) of each dimension of a weight, a tuple as long as `shape`.

  Args:
    name: path of the weight, as "decoder/layers/self_attention/query". sizes: {axis: devices along it}; a dimension that its axis
      does not divide is not cut, and no dimension of a name that no rule knows.
  """
  found = next((axes for pattern, axes in RULES if re.search(pattern, name)), ())
  axes = (None,) * (len(shape) - len(found)) + found
  return tuple(
    axis if axis and sizes[axis] > 1 and size % sizes[axis] == 0 else None
    for axis, size in zip(axes, shape)
  )

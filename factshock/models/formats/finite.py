"""Whether arrays hold numbers alone: no NaN and nothing infinite."""

import numpy as np

# Of each floating dtype with its bits as an integer: all but the sign, and infinity.
_BITS = {
  "bfloat16": ("uint16", 0x7FFF, 0x7F80),
  "float16": ("uint16", 0x7FFF, 0x7C00),
  "float32": ("uint32", 0x7FFFFFFF, 0x7F800000),
}
_BLOCK = 1 << 18  # numbers: what is compared stays in caches


def is_finite(array: np.ndarray) -> bool:
  """Returns whether an array of floating point holds no NaN and nothing infinite."""
  if array.dtype.name not in _BITS:
    return bool(np.isfinite(array).all())
  integer, mask, infinity = _BITS[array.dtype.name]
  # Infinity and NaN have the largest bits; numpy compares integers faster than bfloat16.
  flat = np.ascontiguousarray(array).reshape(-1).view(integer)
  for first in range(0, flat.size, _BLOCK):
    block = flat[first : first + _BLOCK] & flat.dtype.type(mask)
    if block.max() >= infinity:
      return False
  return True

"""Settings of the host that a training process wants before its first step."""

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # <malloc.h> of glibc


def keep_freed_memory():
  """Tells glibc to keep freed memory for the next allocation, and not to hand it back to the kernel.

  On CPU, XLA allocates a step's scratch memory anew each step. Glibc maps blocks of that size one by one,
  and the kernel then zeroes them page by page as they are touched: a third of the time of a small T5's step.
  The price is that the process stays as large as its largest step. Call it before JAX starts its threads:
  a thread that has its own arena keeps it, and arenas other than the first hold no block above 64 MB.

  Returns: whether the setting took (False without glibc, where nothing is changed).
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return False
  settings = {_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 1 << 26}
  return all(mallopt(name, value) == 1 for name, value in settings.items())

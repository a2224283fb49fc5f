"""Settings of the host that a training process makes before its first step."""

import contextlib
import ctypes
import hashlib
import math
import os
from collections.abc import Sequence

import jax
import numpy as np
import numpy.typing as npt

_M_TRIM_THRESHOLD = -1  # <malloc.h> of glibc
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_COMPILED_BYTES = 4 << 30
_ALIGNMENT = 64  # bytes


def keep_freed_memory() -> bool:
  """Tells glibc to keep freed memory for the next allocation, not to hand it back to the kernel.

  On CPU, XLA allocates a step's scratch memory anew each step. Glibc maps blocks of that size one
  by one, and the kernel then zeroes them page by page as they are touched: a third of the time of a
  small T5's step. The price is that the process stays as large as its largest step. Call it before
  JAX starts its threads: a thread that has its own arena keeps it, and arenas other than the first
  hold no block above 64 MB.

  Returns:
    True where glibc took the setting; False without glibc, where nothing is changed.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return False
  settings = {
    _M_ARENA_MAX: 1,
    _M_MMAP_MAX: 0,
    _M_TRIM_THRESHOLD: -1,
    _M_TOP_PAD: 1 << 26,
  }
  return all(mallopt(name, value) == 1 for name, value in settings.items())


def release_freed_memory() -> None:
  """Hands back to the kernel what `keep_freed_memory` keeps; does nothing without glibc.

  Between two parts of a run that need memory in blocks of other sizes: what one has freed is in
  pieces by then that the other cannot use, and would stay beside its own.
  """
  with contextlib.suppress(AttributeError, OSError, TypeError):
    ctypes.CDLL(None).malloc_trim(0)


def run_programs_in_turn() -> None:
  """Has JAX end a program on the CPU before it goes on; call it before devices are first used.

  A program that is only asked for has its scratch memory beside that of the one at work, and one
  that is waited for (`block_until_ready`) still has its own for a moment: two or three times a
  step's scratch were held. Other devices are not concerned.
  """
  jax.config.update("jax_cpu_enable_async_dispatch", False)


def aligned(shape: Sequence[int], dtype: npt.DTypeLike) -> np.ndarray:
  """Returns an empty array aligned as XLA wants it, so that a CPU device takes it uncopied."""
  dtype = np.dtype(dtype)
  size = math.prod(shape) * dtype.itemsize
  longer = np.empty(size + _ALIGNMENT, np.uint8)
  start = -longer.ctypes.data % _ALIGNMENT
  return longer[start : start + size].view(dtype).reshape(shape)


def use_compilation_cache() -> None:
  """Keeps what takes more than a second to compile for later processes.

  So a run that goes on starts at once. (With a limit of .1 s one process in a long run of tests was
  ended by a segmentation fault while JAX wrote a program.) The folder is that of
  JAX_COMPILATION_CACHE_DIR, or factshock below $XDG_CACHE_HOME (~/.cache), one for each kind of
  CPU, as code compiled for one may not run on another; it holds at most _COMPILED_BYTES, of which
  the oldest go first. JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing.
  """
  # JAX adds its settings to its config when it is imported, which no stub shows.
  folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
  if folder is not None:
    return
  home_cache = os.path.join(os.path.expanduser("~"), ".cache")
  cache_home = os.environ.get("XDG_CACHE_HOME") or home_cache
  folder = os.path.join(cache_home, "factshock", f"compiled-{_cpu_digest()}")
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update("jax_compilation_cache_max_size", _COMPILED_BYTES)


def _cpu_digest() -> str:
  """Returns a digest of the CPU's model and features; of nothing where they are not known."""
  openings = ("flags", "Features", "model name")
  described = [line for line in _lines("/proc/cpuinfo") if line.startswith(openings)]
  text = "".join(described[:2])
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def held_memory_bytes() -> int:
  """Returns how many bytes of memory this process holds; 0 where that is not known."""
  for line in _lines("/proc/self/status"):
    if line.startswith("VmRSS:"):
      return int(line.split()[1]) * 1024
  return 0


def free_memory_bytes() -> int:
  """Returns how many bytes this process may still take without others giving any back.

  It is the smaller of what the machine and what its control group leave; 0 where neither is known.
  """
  limits = []
  for line in _lines("/proc/meminfo"):
    if line.startswith("MemAvailable:"):
      kibibytes = int(line.split()[1])
      limits.append(kibibytes * 1024)
  group_limit = _lines("/sys/fs/cgroup/memory.max")
  group_used = _lines("/sys/fs/cgroup/memory.current")
  if group_limit and group_used and group_limit[0].isdecimal():
    limit = int(group_limit[0])
    limits.append(limit - int(group_used[0]))
  return min(limits, default=0)


def _lines(path: str) -> list[str]:
  """Returns the lines of a file; none where there is no such file (as on macOS)."""
  try:
    with open(path, encoding="utf-8") as file:
      return file.read().splitlines()
  except OSError:
    return []

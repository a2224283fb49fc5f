"""Settings of the host that a training process wants before its first step."""

import ctypes
import hashlib
import os

import jax

_M_TRIM_THRESHOLD = -1  # <malloc.h> of glibc
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_COMPILED_BYTES = 4 << 30


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


def use_compilation_cache():
  """Keeps what takes more than a second to compile for later processes: a run that goes on starts at once.

  The folder is that of JAX_COMPILATION_CACHE_DIR, or factshock below $XDG_CACHE_HOME (~/.cache), one for each kind of CPU, as code
  compiled for one may not run on another; at most _COMPILED_BYTES, of which the oldest go first. JAX_ENABLE_COMPILATION_CACHE=0: none.
  """

  if jax.config.jax_compilation_cache_dir is None:
    cpu = [
      line
      for line in _lines("/proc/cpuinfo")
      if line.startswith(("flags", "Features", "model name"))
    ][:2]
    kind = hashlib.sha256("".join(cpu).encode()).hexdigest()[:12]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    jax.config.update(
      "jax_compilation_cache_dir", os.path.join(home, "factshock", f"compiled-{kind}")
    )
    jax.config.update("jax_compilation_cache_max_size", _COMPILED_BYTES)


def free_memory_bytes():
  """Bytes that this process may still take without others giving any back: of the machine, and of its control group."""
  found = [
    int(line.split()[1]) * 1024
    for line in _lines("/proc/meminfo")
    if line.startswith("MemAvailable:")
  ]
  limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
  found += [int(limit[0]) - int(used[0])] if limit and used and limit[0].isdecimal() else []
  return min(found, default=0)


def _lines(path):
  """The lines of a file, none where there is none (as on macOS)."""
  try:
    with open(path, encoding="utf-8") as file:
      return file.read().splitlines()
  except OSError:
    return []

"""How tests compile and start programs: XLA without its costly passes, compiled code shared by all.

Most of a test's time is the compilation of small programs. XLA's flags of a user come last and win:
`XLA_FLAGS=--xla_cpu_use_fusion_emitters=true bash launch/test.sh` tests what XLA makes by default.
"""

import importlib.metadata
import os
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
COMPILED = ROOT / ".pytest_cache" / "jax"


def xla_flags() -> str:
  """Returns the flags by which XLA compiles quickly for tests, and those of the environment."""
  # One piece of code a program: in 32, as is usual, each takes LLVM's time anew.
  flags = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
  jaxlib = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
  if jaxlib < (0, 11):  # a choice that later versions do not know: it halves the compilation
    flags.append("--xla_cpu_use_fusion_emitters=false")
  return " ".join([*flags, _USERS_FLAGS])


def share_compiled() -> None:
  """Keeps what is compiled in .pytest_cache, for all processes and for the next run."""
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def environment(**variables: str) -> dict[str, str]:
  """Returns the environment of a verb started by a test: its devices are those of its config."""
  path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
  return {**os.environ, "XLA_FLAGS": xla_flags(), "PYTHONPATH": path, **variables}


# Those from before tests/conftest.py adds its own; workers of pytest-xdist inherit both.
_USERS_FLAGS = os.environ.setdefault("XLA_FLAGS_OF_USER", os.environ.get("XLA_FLAGS", ""))

"""Says which of the modules that factshock needs cannot be imported here, and why.

  python tests/gpu/needs.py

Exit codes: 0; 1 where there are some, with one line on stdout. It needs Python alone: that of a
machine on which nothing can be installed.
"""

import importlib
import sys
from collections.abc import Sequence

# What setup.py's install_requires are imported as.
MODULES = (
  "absl",
  "ahocorasick_rs",
  "datasets",
  "flax",
  "grain",
  "huggingface_hub",
  "jax",
  "matplotlib",
  "ml_collections",
  "ml_dtypes",
  "numpy",
  "optax",
  "orbax.checkpoint",
  "orjson",
  "pandas",
  "pyarrow",
  "regex",
  "scipy",
  "sentencepiece",
  "tensorboardX",
  "tensorstore",
  "tqdm",
  "transformers",
  "xxhash",
)


def missing(modules: Sequence[str]) -> list[str]:
  """Returns the modules that cannot be imported, each with the reason where that is another one."""
  found = []
  for module in modules:
    try:
      importlib.import_module(module)
    except ModuleNotFoundError as error:
      is_itself = error.name == module.split(".")[0]
      found.append(module if is_itself else f"{module} ({error})")
    # A package that is there, but not for this machine, raises whatever it likes.
    except Exception as error:  # noqa: BLE001
      reason = " ".join(str(error).split())
      found.append(f"{module} ({reason[:200]})")
  return found


def main() -> int:
  """Prints what is missing; returns the exit code."""
  found = missing(MODULES)
  if found:
    print(", ".join(found))
  return int(bool(found))


if __name__ == "__main__":
  sys.exit(main())

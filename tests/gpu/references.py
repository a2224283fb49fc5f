r"""Makes what the part `parity` is compared with: logits, losses, gradients, tokens in float64.

  PYTHONPATH=$PWD:$PWD/tests python -m gpu.references --output=FILE.npz [--tiny]

By PyTorch transformers on the CPU (gpu/float64.py), in one file that holds all models and can be
carried to where the GPU is. A file that is there already and whole is kept.
"""

import dataclasses
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags

from factshock.runtime import console, files
from factshock.runtime.errors import UserError
from factshock.types import Params
from gpu import cases
from gpu.cases import Case, Shape

VARIABLE = "FACTSHOCK_GPU_REFERENCES"
_LIMIT = 80.0  # seconds; it takes less than half

References = dict[str, np.ndarray]


def define_flags() -> None:
  """Defines the flags; called only where this runs as a program."""
  flags.DEFINE_string("output", None, "The file to make, .npz.", required=True)
  flags.DEFINE_bool("tiny", False, "Those of the small shapes.")


def main(argv: Sequence[str]) -> int:
  """Makes the file, unless it is there and whole.

  Raises:
    UserError: there is no PyTorch or transformers.
  """
  del argv
  jax.config.update("jax_platforms", "cpu")  # leaves the GPU alone
  path, tiny = flags.FLAGS.output, flags.FLAGS.tiny
  if is_whole(path, tiny):
    print(f"{path}: there already")
    return 0
  arrays = _made(tiny)
  os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  with files.atomic_write(path, binary=True) as file:
    np.savez_compressed(file, stamp=np.array(stamp(tiny)), **arrays)
  print(f"{path}: {len(arrays)} arrays, {os.path.getsize(path) / 1e6:.1f} MB")
  return 0


def load(tiny: bool) -> References:
  """Returns the references: of the file that FACTSHOCK_GPU_REFERENCES names, or made here.

  They are made under that name where no file is there.

  Raises:
    UserError: no file is there, and none can be made.
  """
  named = os.environ.get(VARIABLE, "")
  path = named
  if not named or (os.path.exists(named) and not is_whole(named, tiny)):
    # A file of other settings, of the shapes that are not tiny say, is left as it is.
    folder = os.path.dirname(named) if named else _cache_folder()
    path = os.path.join(folder, f"gpu_references_{stamp(tiny)[:12]}.npz")
  if not is_whole(path, tiny):
    _make_apart(path, tiny)
  with np.load(path) as arrays:
    return {name: arrays[name] for name in arrays.files}


def is_whole(path: str, tiny: bool) -> bool:
  """Returns whether a file is there and holds the references of today's settings."""
  if not os.path.exists(path):
    return False
  with np.load(path) as arrays:
    return "stamp" in arrays.files and str(arrays["stamp"]) == stamp(tiny)


@functools.cache
def stamp(tiny: bool) -> str:
  """Returns a digest of all that the references depend on: settings, weights, batches, prompts."""
  digest = hashlib.sha256()
  for case in cases.all_cases(tiny):
    settings = [dataclasses.asdict(case), cases.PICKED, cases.GENERATED]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    digest.update(json.dumps(cases.prompts_of(case)).encode())
    for leaf in jax.tree.leaves(cases.params_of(case.config)):
      digest.update(leaf.tobytes())
    for shape in case.shapes:
      for array in cases.batch_of_case(case, shape).values():
        digest.update(array.tobytes())
  return digest.hexdigest()


def gradients_of(references: References, case: Case, shape: Shape, like: Params) -> Params:
  """Returns the gradients of a batch as a tree like the params."""
  prefix = f"{cases.key_of(case, shape)}/gradients/"
  return jax.tree_util.tree_map_with_path(
    lambda path, _: references[prefix + cases.name_of(path)], like
  )


def _made(tiny: bool) -> References:
  """Returns all references.

  Raises:
    UserError: there is no PyTorch or transformers.
  """
  try:
    from gpu import float64  # imports the peers, which may be missing
  except ImportError as error:
    raise UserError(
      f"references: {error}; make the file where PyTorch and transformers are, with "
      f"`python -m gpu.references --output=FILE.npz`, and name it by {VARIABLE}"
    ) from error
  arrays: References = {}
  for case in cases.all_cases(tiny):
    arrays |= dict(float64.references_of(case))
  return arrays


def _make_apart(path: str, tiny: bool) -> None:
  """Makes the file in a process of its own, as PyTorch need not be in this one.

  Raises:
    UserError: it fails; says why.
  """
  command = [sys.executable, "-m", "gpu.references", f"--output={path}", f"--tiny={tiny}"]
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
  done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, env=environment)
  if done.returncode:
    raise UserError(f"references cannot be made: {done.stderr.strip() or done.stdout.strip()}")


def _cache_folder() -> str:
  home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
  return os.path.join(home, "factshock")


if __name__ == "__main__":
  define_flags()
  console.run(main)

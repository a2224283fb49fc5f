"""Where results come from: code, versions, devices and command of every start of a run."""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, TypedDict

from factshock.runtime import processes
from factshock.runtime.errors import UserError

PACKAGES = ("factshock", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

_PACKAGES_WITHOUT_JAX = ("factshock", "numpy")


class RunDescription(TypedDict):
  """Holds when, by which command and code, and on what a run was started; `started` is in UTC."""

  started: str
  command: str
  revision: str
  versions: dict[str, str]
  device: str
  processes: int
  host: str


def describe_start() -> dict[str, Any]:
  """Returns when and by which command and code this program was started, for one without JAX."""
  return {
    "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": _command(),
    "revision": revision(),
    "versions": {
      "python": platform.python_version(),
      **{name: _version(name) for name in _PACKAGES_WITHOUT_JAX},
    },
  }


def describe_run() -> RunDescription:
  """Returns the description of this start of a run."""
  import jax  # noqa: PLC0415 - runtime is free of JAX; whoever trains has loaded it already

  devices = jax.devices()
  versions = {"python": platform.python_version()}
  for name in PACKAGES:
    versions[name] = _version(name)
  return {
    "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": _command(),
    "revision": revision(),
    "versions": versions,
    "device": f"{jax.device_count()} x {devices[0].device_kind} ({devices[0].platform})",
    "processes": processes.process_count(),
    "host": socket.gethostname(),
  }


def append_run(path: str | os.PathLike[str], description: Mapping[str, Any]) -> None:
  """Appends a run's description to a file (`Workdir.runs`), a line for every start.

  Of several processes that work as one the first alone writes.

  Raises:
    UserError: the file cannot be written.
  """
  if not processes.is_first():
    return
  try:
    with open(path, "a", encoding="utf-8") as file:
      file.write(json.dumps(description) + "\n")
  except OSError as error:
    raise UserError(f"{path}: the run cannot be noted there: {error.strerror}") from error


def revision() -> str:
  """Returns the git revision of the code, with "+" where it has changes.

  It is "unknown" without git, and where the code is installed, even inside another project's clone.
  """
  try:
    _git("ls-files", "--error-unmatch", "--", os.path.basename(__file__))
    head = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".")
  except (OSError, subprocess.SubprocessError):
    return "unknown"
  return head.strip() + ("+" if changes.strip() else "")


def _git(*arguments: str) -> str:
  """Returns what git prints in the folder of this module."""
  folder = os.path.dirname(os.path.abspath(__file__))
  command = ["git", "-C", folder, *arguments]
  done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
  return done.stdout


def _command() -> str:
  """Returns the command line that started this program, as a shell takes it."""
  spec = getattr(sys.modules.get("__main__"), "__spec__", None)
  module = spec.name if spec else ""
  package, _, verb = module.partition(".")
  if package == "factshock" and verb not in ("", "__main__"):
    return shlex.join(["factshock", verb, *sys.argv[1:]])
  program = ["python", "-m", module] if module else sys.argv[:1]
  return shlex.join([*program, *sys.argv[1:]])


def _version(name: str) -> str:
  """Returns the version of an installed package."""
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return "not installed"

"""Where results come from: code, versions, devices and command of every start of a run."""

import datetime
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys

from factshock.runtime import processes

PACKAGES = ("factshock", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def record():
  """dict of `started` (UTC), `command`, `revision`, `versions`, `device`, `processes`, `host`."""
  import jax

  return {
    "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    "command": " ".join([f"python -m {_module()}", *sys.argv[1:]]),
    "revision": revision(),
    "versions": {
      "python": platform.python_version(),
      **{name: _version(name) for name in PACKAGES},
    },
    "device": f"{jax.device_count()} x {jax.devices()[0].device_kind} ({jax.devices()[0].platform})",
    "processes": processes.process_count(),
    "host": socket.gethostname(),
  }


def append(workdir, found):
  """Adds a record as a line of WORKDIR/runs.jsonl: one for every start, by the first of several processes."""
  if not processes.is_first():
    return
  with open(os.path.join(workdir, "runs.jsonl"), "a", encoding="utf-8") as file:
    file.write(json.dumps(found) + "\n")


def revision():
  """The git revision of the code, with "+" where it has changes; "unknown" outside of a clone."""
  folder = os.path.dirname(os.path.abspath(__file__))
  try:
    head, changes = (
      subprocess.run(
        ["git", "-C", folder, *command], capture_output=True, text=True, check=True, timeout=10
      ).stdout
      for command in (
        ["rev-parse", "HEAD"],
        ["status", "--porcelain", "--untracked-files=no", "--", "."],
      )
    )
  except (OSError, subprocess.SubprocessError):
    return "unknown"
  return head.strip() + ("+" if changes.strip() else "")


def _module():
  found = getattr(sys.modules.get("__main__"), "__spec__", None)
  return found.name if found else "factshock"


def _version(name):

  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return "not installed"

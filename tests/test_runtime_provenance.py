"""Where results come from: the command as a shell takes it, and the revision of the code alone."""

import os
import shutil
import subprocess
import sys

import pytest

import factshock
from factshock.runtime import provenance


class _Module:
  def __init__(self, name):
    self.__spec__ = type("Spec", (), {"name": name}) if name else None


@pytest.mark.parametrize(
  "module, argv, command",
  [
    (
      "factshock.experiment",
      ["/x/experiment.py", "--config=demo", "--config.name=A b"],
      "factshock experiment --config=demo '--config.name=A b'",
    ),
    ("pytest.__main__", ["/x/pytest/__main__.py", "-q"], "python -m pytest.__main__ -q"),
    (None, ["mine.py", "1"], "mine.py 1"),
  ],
)
def test_the_command_of_a_run(module, argv, command, monkeypatch):
  monkeypatch.setitem(sys.modules, "__main__", _Module(module))
  monkeypatch.setattr(sys, "argv", argv)
  assert provenance._command() == command


def test_code_installed_inside_another_clone_has_no_revision(tmp_path):
  subprocess.run(["git", "init", "-q", tmp_path], check=True)
  (tmp_path / "theirs.txt").touch()
  git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c"]
  subprocess.run([*git, "add", "."], check=True)
  subprocess.run([*git, "commit", "-qm", "theirs"], check=True)
  site = tmp_path / "venv" / "site-packages"
  package = os.path.dirname(factshock.__file__)
  for name in ("__init__.py", "types.py", "runtime"):
    copy = shutil.copytree if name == "runtime" else shutil.copy
    (site / "factshock").mkdir(parents=True, exist_ok=True)
    copy(os.path.join(package, name), site / "factshock" / name)
  code = "from factshock.runtime import provenance; print(provenance.revision())"
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=site,
    env={**os.environ, "PYTHONPATH": str(site)},
    capture_output=True,
    text=True,
  )
  assert done.stdout == "unknown\n", done.stderr

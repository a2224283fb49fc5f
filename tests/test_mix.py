"""The verb `python -m factshock.mix`: what it writes and prints, its help, and its errors."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from factshock.training import checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("mix")
  for name, value in (("a", 1.0), ("b", 2.0)):
    checkpoints.save(path / name, 5, params={"w": np.full((3,), value, np.float32)})
  return path


def mix(*arguments):
  return subprocess.run([sys.executable, "-m", "factshock.mix", *arguments], capture_output=True, text=True)


def test_it_mixes_and_says_where(folder):
  done = mix(f"--checkpoints={folder}/a,{folder}/b/5", "--weights=0.3,0.7", f"--output={folder}/out")
  assert done.returncode == 0, done.stderr
  digest = json.loads((folder / "out" / "mix.json").read_text())["digest"]
  assert f"{folder}/out" in done.stdout and digest[:16] in done.stdout
  np.testing.assert_allclose(checkpoints.restore_params(folder / "out")["w"], np.full(3, 1.7), rtol=1e-6)


def test_uniform(folder):
  done = mix(f"--checkpoints={folder}/a,{folder}/b,{folder}/b", "--weights=uniform",
             f"--output={folder}/uniform")
  assert done.returncode == 0, done.stderr
  mixed = checkpoints.restore_params(folder / "uniform")["w"]
  np.testing.assert_allclose(mixed, np.full(3, 5 / 3), rtol=1e-6)


def test_help_has_an_example_and_is_quick():
  mix("--help")
  began = time.monotonic()
  done = mix("--help")
  assert time.monotonic() - began < 2
  assert "python -m factshock.mix --checkpoints=" in done.stdout and "--layerwise" in done.stdout


@pytest.mark.parametrize("arguments, message", [
    (["--checkpoints={}/a,{}/b", "--weights=0.3,0.6"], "sum to 1, got 0.3 + 0.6 = 0.9"),
    (["--checkpoints={}/a,{}/b", "--weights=0.3,0.3,0.4"], "expected 2 numbers, got 3"),
    (["--checkpoints={}/a,{}/b", "--weights=0.3,much"], "expected numbers, got 0.3,much"),
    (["--checkpoints={}/a,{}/b"], "expected one of --weights and --layerwise, got neither"),
    (["--checkpoints={}/a,{}/b", "--weights=uniform", "--layerwise=0,1"], "got both"),
    (["--checkpoints={}/a,{}/b,{}/b", "--layerwise=0,1"], "expected two checkpoints, got 3"),
    (["--checkpoints={}/a", "--weights=1"], "expected two or more folders, got 1"),
    (["--checkpoints={}/a,{}/none", "--weights=uniform"], "none: expected a checkpoint folder, got nothing"),
    (["--checkpoints={}/a,{}/b", "--weights=uniform", "--output={}/a"], "a: already exists"),
    (["--checkpoints={}/a,{}/b", "--weights=uniform", "--output="], "--output: expected a folder"),
])
def test_bad_input_is_one_line_and_writes_nothing(folder, arguments, message):
  before = sorted(path.name for path in folder.iterdir())
  output = [] if any(argument.startswith("--output") for argument in arguments) else ["--output={}/bad"]
  done = mix(*(argument.replace("{}", str(folder)) for argument in arguments + output))
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1 and message in done.stderr
  assert sorted(path.name for path in folder.iterdir()) == before

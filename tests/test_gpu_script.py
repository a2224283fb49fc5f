"""The scripts of the check on a GPU, with stand-ins for Python and pip: help, errors, wheels and
parts, what is handed on; and those of its parts that write files.
"""

import ast
import hashlib
import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from gpu import needs, plan, wheels
from gpu.parts import resuming, saving, studies

ROOT = pathlib.Path(__file__).parents[1]

# Takes the place of the Python that has JAX: notes how it is called. Its pip downloads a file of
# 49 MiB, more than one part, and installs by listing what it was given.
STAND_IN = """\
#!/bin/bash
echo "$*|$JAX_PLATFORMS|$PYTHONPATH|$FACTSHOCK_GPU_REFERENCES" >>"$RECORD"
case "$*" in
  --version) echo "Python 3.12.0" ;;
  *"pip download"*)
    for argument in "$@"; do case "$argument" in --dest=*) to="${argument#*=}" ;; esac; done
    mkdir -p "$to"
    { echo whole; head -c 51380224 /dev/zero; } >"$to/big-1.0-py3-none-any.whl" ;;
  *"pip install"*)
    while [ "$1" != --target ]; do shift; done
    mkdir -p "$2"
    sha256sum "${@:3}" >"$2/given" ;;
  *gpu.references*)
    for argument in "$@"; do case "$argument" in --output=*) touch "${argument#*=}" ;; esac; done ;;
esac
"""


def environment(**changes):
  kept = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("JAX_", "FACTSHOCK_", "PYTHONPATH"))
  }
  return kept | {name: str(value) for name, value in changes.items()}


def run(tree, script, *arguments, env=None, code=0):
  """stdout and stderr of a script that must end with `code`."""
  done = subprocess.run(
    ["bash", str(tree / "launch" / script), *arguments],
    env=env or environment(),
    cwd=tree.parent,
    capture_output=True,
    text=True,
    timeout=60,
    stdin=subprocess.DEVNULL,
  )
  assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
  return done.stdout, done.stderr


def one_error(tree, script, *arguments, env=None):
  out, errors = run(tree, script, *arguments, env=env, code=2)
  assert not out and errors.startswith("error: ") and errors.count("\n") == 1
  return errors


def program(path, text):
  path.write_text(text)
  path.chmod(0o755)
  return path


@pytest.fixture
def tree(tmp_path):
  """A plain copy of what the scripts touch, without git."""
  copy = tmp_path / "tree"
  shutil.copytree(ROOT / "launch", copy / "launch")
  shutil.copytree(ROOT / "tests" / "gpu", copy / "tests" / "gpu")
  return copy


@pytest.fixture
def stand_in(tmp_path):
  """The environment of a script whose Python is the stand-in."""
  python = program(tmp_path / "python", STAND_IN)
  return environment(FACTSHOCK_PYTHON=python, RECORD=tmp_path / "record")


def calls(tmp_path, words):
  """The calls of the stand-in that hold some words: arguments, platform, path, references."""
  lines = (tmp_path / "record").read_text().splitlines()
  return [line.split("|") for line in lines if words in line]


@pytest.mark.parametrize("script", ["gpu_check.sh", "wheels.sh"])
def test_help_says_how_to_call_it(script):
  text, errors = run(ROOT, script, "--help")
  assert f"launch/{script} " in text and not errors
  assert "source" not in text and not any(line.startswith("#") for line in text.splitlines())


@pytest.mark.parametrize(
  "script, argument, says",
  [
    ("gpu_check.sh", "--fast", "unknown option --fast"),
    ("gpu_check.sh", "train", "unknown option train"),
    ("gpu_check.sh", "--minutes=nine", "--minutes=nine: expected a number"),
    ("gpu_check.sh", "--wheels=none/there", "--wheels=none/there: expected a folder"),
    ("wheels.sh", "--fast", "unknown option --fast"),
    ("wheels.sh", "--model=big", "--model=big: expected PACKAGE==VERSION"),
    ("wheels.sh", "--have=none/there", "none/there: expected a list"),
  ],
)
def test_bad_input_is_one_error_on_stderr(script, argument, says):
  assert says in one_error(ROOT, script, argument)


def test_an_interpreter_that_is_not_there_is_named(tree):
  errors = one_error(tree, "gpu_check.sh", env=environment(FACTSHOCK_PYTHON="/none/there"))
  assert "FACTSHOCK_PYTHON=/none/there" in errors


def test_missing_modules_are_named_before_anything_is_measured(tree, tmp_path):
  # Without its site-packages.
  bare = program(tmp_path / "bare", f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
  errors = one_error(tree, "gpu_check.sh", "--tiny", env=environment(FACTSHOCK_PYTHON=bare))
  assert "lacks modules: absl, ahocorasick_rs, " in errors and "launch/wheels.sh" in errors
  assert not (tree / "runs").exists()


def test_what_is_missing_is_told_with_its_reason(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "needs_another.py").write_text("import none_there")
  (tmp_path / "for_another_machine.py").write_text("raise OSError('wrong ELF\\nclass')")
  names = ["json", "none_there", "needs_another", "for_another_machine"]
  assert needs.missing(names) == [
    "none_there",
    "needs_another (No module named 'none_there')",
    "for_another_machine (wrong ELF class)",
  ]


def test_the_modules_that_are_looked_for_are_those_of_setup():
  setup = ast.parse((ROOT / "setup.py").read_text())
  [required] = [
    ast.literal_eval(keyword.value)
    for keyword in ast.walk(setup)
    if isinstance(keyword, ast.keyword) and keyword.arg == "install_requires"
  ]
  names = [re.match(r"[\w.-]+", requirement)[0] for requirement in required]
  modules = {"absl-py": "absl", "orbax-checkpoint": "orbax.checkpoint"}
  assert [modules.get(name, name.replace("-", "_")) for name in names] == list(needs.MODULES)


def test_the_check_gets_its_options_and_the_minutes_that_are_left(tree, stand_in, tmp_path):
  run(tree, "gpu_check.sh", "--tiny", "--only=a,b", "--output=c d", env=stand_in)
  [(arguments, _, path, references)] = calls(tmp_path, "-m gpu.check")
  found = re.fullmatch(r"-m gpu.check --minutes=([\d.]+) --tiny --only=a,b --output=c d", arguments)
  assert 8.5 < float(found[1]) <= 9
  assert path == f"{tree}:{tree}/tests"
  assert references == f"{tree}/.gpu_check/references_tiny.npz"
  assert not calls(tmp_path, "gpu.references"), "no part needs them"


def test_time_that_is_over_leaves_none(tree, stand_in, tmp_path):
  run(tree, "gpu_check.sh", "--minutes=0", env=stand_in)
  assert calls(tmp_path, "-m gpu.check --minutes=0.00")


def test_references_are_made_once_on_the_cpu(tree, stand_in, tmp_path):
  for arguments in [[], ["--only=ceilings,parity"]]:
    run(tree, "gpu_check.sh", *arguments, env=stand_in)
  run(tree, "gpu_check.sh", "--tiny", env=stand_in)
  made = calls(tmp_path, "-m gpu.references")
  assert [(arguments.split()[2:], platform) for arguments, platform, *_ in made] == [
    ([f"--output={tree}/.gpu_check/references.npz"], "cpu"),
    ([f"--output={tree}/.gpu_check/references_tiny.npz", "--tiny"], "cpu"),
  ]


def test_without_references_the_rest_is_measured(tree, stand_in, tmp_path):
  program(tmp_path / "python", STAND_IN.replace("*gpu.references*)", "*gpu.references*) exit 2;"))
  _, errors = run(tree, "gpu_check.sh", env=stand_in)
  assert errors.startswith("note: without references") and calls(tmp_path, "-m gpu.check")


def test_a_file_in_parts_is_joined_and_installed_once(tree, stand_in, tmp_path):
  run(tree, "wheels.sh", "--model=big==1.0", "--output=wheels", env=stand_in)
  carried = tree / "wheels"
  name = "big-1.0-py3-none-any.whl"
  assert {path.name for path in carried.iterdir()} == {
    f"{name}.part-000",
    f"{name}.part-001",
    f"{name}.sha256",
  }
  (carried / "small-1.0-py3-none-any.whl").write_text("small")
  for _ in range(2):
    run(tree, "gpu_check.sh", env=stand_in)
  [(arguments, _, _, _)] = calls(tmp_path, "pip install")
  assert "--no-index --no-deps" in arguments
  given = (tree / ".gpu_check" / "site" / "given").read_text()
  whole = b"whole\n" + bytes(51380224)
  assert hashlib.sha256(b"small").hexdigest() in given
  assert hashlib.sha256(whole).hexdigest() in given
  [_, (_, _, path, _)] = calls(tmp_path, "-m gpu.check")
  assert path.endswith(f":{tree}/.gpu_check/site")

  (carried / "small-1.0-py3-none-any.whl").write_text("other")
  run(tree, "gpu_check.sh", env=stand_in)
  assert len(calls(tmp_path, "pip install")) == 2

  shutil.rmtree(tree / ".gpu_check")
  (carried / f"{name}.part-001").unlink()
  assert "parts are missing or damaged" in one_error(tree, "gpu_check.sh", env=stand_in)


def test_wheels_are_what_is_needed_and_not_there(tmp_path):
  have = tmp_path / "have"
  have.write_text("# there\nNumpy==2.5.2, jax\nruamel_yaml.clib\n")
  needed = tmp_path / "needed"
  needed.write_text("numpy==2.5.2\ngrain==0.2\nruamel-yaml-clib==1\nDill==0.4\n")
  assert wheels.pins(str(have)) == ["Numpy==2.5.2"]
  assert wheels.missing(str(have), str(needed)) == ["Dill==0.4", "grain==0.2"]


def test_too_much_to_carry_is_an_error_that_names_the_biggest(tmp_path):
  (tmp_path / "small.whl").write_bytes(bytes(10))
  (tmp_path / "not_counted.part-000").write_bytes(bytes(10))
  assert wheels.sizes(str(tmp_path)) == (["    0.00 MB  small.whl", "    0.00 MB  in all"], None)
  with open(tmp_path / "big.whl", "wb") as file:
    file.truncate(wheels.MOST)
  lines, error = wheels.sizes(str(tmp_path))
  assert [line.split()[-1] for line in lines] == ["big.whl", "small.whl", "all"]
  assert "expected at most 60 MB" in error and "big.whl (60.0 MB)" in error


def test_the_list_of_the_image_is_read_as_packages():
  path = ROOT / "tests" / "gpu" / "image_packages.txt"
  assert {"jax==0.11.2", "transformers==5.17.0"} <= set(wheels.pins(str(path)))


def test_what_is_saved_is_what_comes_back(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  speed = saving.measure("Llama 7B", "factshock", True)
  assert speed.amount == speed.bytes / 1e9 > 0 and "all bits the same" in speed.note
  assert speed.shape.endswith("GB, 2 layers") and not list((tmp_path / ".gpu_check").iterdir())


def test_a_slow_disk_gets_fewer_layers(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(saving, "_write_rate", lambda path, size: 1.0)
  assert saving.measure("Llama 7B", "factshock", True).shape.endswith("GB, 1 of 2 layers")


def test_weights_are_equal_by_their_bits_alone():
  import numpy as np

  one = {"a": np.float32([0.0, 3.0]), "b": np.float32([4.0])}
  assert resuming._distance(one, {name: leaf.copy() for name, leaf in one.items()}) == 0.0
  minus_zero = {**one, "a": np.float32([-0.0, 3.0])}
  assert 0 < resuming._distance(one, minus_zero) < 1e-300
  assert resuming._distance(one, {**one, "b": np.float32([4.5])}) == pytest.approx(0.1)
  assert not resuming._distance(one, {**one, "b": np.float32([np.nan])}) <= 1


def test_a_study_without_its_config_or_data_says_so(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(studies.UserError, match="expected configs/smollm2_135m.py, got no file"):
    studies.measure("smollm2_135m", "factshock", False)
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "trex_t5.py").touch()
  monkeypatch.setenv("FACTSHOCK_DATA", "none")
  with pytest.raises(studies.UserError, match="expected none/trex/test.jsonl.gz"):
    studies.measure("trex_t5", "factshock", False)


@pytest.mark.parametrize("name", [m.name for m in plan.ORDER if m.part == "studies"])
def test_the_config_of_a_study_takes_its_variant(name):
  path, _, variant = studies._study(name).config.partition(":")
  module = importlib.import_module(f"factshock.{path.removesuffix('.py').replace('/', '.')}")
  assert module.get_config(*([variant] if variant else [])).name


@pytest.mark.parametrize("name", ["smollm2_135m", "gemma3_270m"])
def test_a_real_model_is_studied_as_its_docstring_says_for_a_gpu(name):
  for setting, value in studies._study(name).settings.items():
    text = importlib.import_module(f"factshock.configs.{name}").__doc__
    assert setting == "start_from" or f"--config.{setting}={value}" in text


def test_a_study_that_was_stopped_goes_on_with_its_time(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  kept = tmp_path / ".gpu_check" / "studies"
  (kept / "demo_tiny").mkdir(parents=True)
  (kept / "demo_tiny" / "done_before").touch()
  config = tmp_path / "tests" / "gpu" / "tiny_study.py"
  config.parent.mkdir(parents=True)
  config.touch()

  def finish(study, workdir, earlier):
    found.append((earlier, os.path.exists(f"{workdir}/done_before")))
    os.makedirs(workdir, exist_ok=True)
    arms = {"finetune": {"exact_match": {"mean": 0.25}}}
    with open(f"{workdir}/diagnosis.json", "w") as file:
      json.dump({"table": ["finetune"], "arms": arms}, file)
    return earlier + 1

  found = []
  monkeypatch.setattr(studies, "_run", finish)
  studies._write_seconds(str(kept / "demo_tiny"), 40.0)
  speed = studies.measure("demo", "factshock", True)
  assert (speed.seconds, speed.note) == (
    41.0,
    "40 s of it in earlier calls; exact match: finetune 0.250",
  )
  studies._write_seconds(str(kept / "demo_tiny"), 0.0)
  assert studies.measure("demo", "factshock", True).seconds == 1.0
  assert found == [(40.0, True), (0.0, False)]

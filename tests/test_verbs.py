"""The verbs side by side: imported and reloaded together, listed and started by `python -m
factshock`.
"""

import importlib
import os
import signal
import subprocess
import sys

import pytest

import factshock
from factshock.__main__ import VERBS, module_of


def run(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "factshock", *arguments], capture_output=True, text=True
  )


def test_all_verbs_are_imported_and_reloaded_beside_one_another():
  for _ in range(2):
    for verb in VERBS:
      module = importlib.reload(importlib.import_module(module_of(verb)))
      assert callable(module.main) and callable(module.define_flags)


def test_a_verb_loads_nothing_heavy_before_it_runs():
  code = "import sys\n" + "\n".join(f"import {module_of(verb)}" for verb in VERBS)
  heavy = "{'jax', 'flax', 'numpy', 'scipy', 'ml_collections', 'transformers', 'matplotlib'}"
  code += f"\nsys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


def test_the_program_lists_every_verb_with_a_line():
  done = run()
  assert done.returncode == 0 and done.stdout == run("--help").stdout
  lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  ")]
  assert [verb for verb, _ in lines] == list(VERBS)
  assert all(summary.endswith(".") for _, summary in lines)
  assert "exit code: 0 all is done; 2 a mistake" in done.stdout


def test_the_program_starts_a_verb():
  done = run("mix", "--help")
  direct = subprocess.run(
    [sys.executable, "-m", "factshock.mix", "--help"], capture_output=True, text=True
  )
  assert done.returncode == 0 and done.stdout == direct.stdout
  assert "--layerwise" in done.stdout
  done = run("mix", "--models=a")
  assert done.returncode == 2 and done.stdout == ""
  assert done.stderr == "error: --models: expected two or more, got 1; see --help\n"


@pytest.mark.parametrize("verb, hint", [("trian", "; did you mean 'train'?"), ("xyz", "")])
def test_an_unknown_verb_is_one_error(verb, hint):
  done = run(verb)
  assert done.returncode == 2 and done.stdout == ""
  assert done.stderr == f"error: expected one of the verbs {', '.join(VERBS)}, got {verb!r}{hint}\n"


@pytest.mark.parametrize(
  "verb, flag", [("diagnose", "--columns"), ("extract", "--columns"), ("train", "--coordinator")]
)
def test_help_shows_the_flags_that_verbs_share(verb, flag):
  assert f"  {flag}:" in run(verb, "--help").stdout


def test_a_second_file_after_a_space_is_one_error_that_says_how():
  done = run("diagnose", "--output=o", "--predictions", "before.jsonl", "after.jsonl")
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
  assert "unexpected argument 'after.jsonl'" in done.stderr and "--flag=a,b" in done.stderr


def test_the_version_and_the_configs_are_printed():
  assert run("--version").stdout == f"factshock {factshock.__version__}\n"
  done = run("configs")
  assert done.returncode == 0 and "  demo " in done.stdout
  done = run("configs", "dmeo")
  assert done.returncode == 2 and done.stdout == ""
  assert len(done.stderr.splitlines()) == 1 and "did you mean --config=demo?" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["diagnose", "--help"], ["configs"]])
def test_a_reader_that_has_read_enough_is_no_error(arguments):
  read, write = os.pipe()
  os.close(read)
  done = subprocess.run(
    [sys.executable, "-m", "factshock", *arguments], stdout=write, stderr=subprocess.PIPE
  )
  os.close(write)
  assert done.returncode in (128 + signal.SIGPIPE, -signal.SIGPIPE) and not done.stderr

"""The dry run: sizes of trees, and what the verb prints."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import programs

from factshock.training import dry_run

ROOT = pathlib.Path(__file__).parents[1]


def test_tree_sizes():
  tree = {"a": np.zeros((3, 4), np.float32), "b": {"c": jax.ShapeDtypeStruct((5,), jnp.bfloat16)}}
  assert (
    dry_run.tree_size(tree) == 17
    and dry_run.tree_bytes(tree) == 58
    and dry_run.tree_bytes(None) == 0
  )


def run(*flags):
  return subprocess.run(
    [sys.executable, "-m", "factshock.train", *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=programs.environment(),
  )


def test_the_verb_says_what_training_takes_and_leaves_nothing(tmp_path):
  done = run(
    "--config=configs/t5_v1_1_small.py",
    "--dry_run",
    f"--workdir={tmp_path}/w",
    "--config.facts=none.jsonl",
    "--config.model.remat=full",
  )
  assert done.returncode == 0, done.stderr
  assert "parameters: 76,961,152, of them trained 76,961,152" in done.stdout  # as published: 77 M
  assert (
    "memory a device:" in done.stdout
    and "TFLOP" in done.stdout
    and "are computed again" in done.stdout
    and not (tmp_path / "w").exists()
  )


def test_a_vocabulary_left_to_the_tokenizer_is_an_error():
  done = run("--config=configs/demo.py", "--dry_run")
  assert done.returncode == 2 and "config.model.vocab_size: a dry run needs" in done.stderr

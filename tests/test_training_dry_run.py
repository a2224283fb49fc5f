"""The dry run: sizes of trees, and what the verb prints."""

import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest

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
    and "memory of the process:" in done.stdout
    and "TFLOP" in done.stdout
    and "are computed again" in done.stdout
    and not (tmp_path / "w").exists()
  )


def test_a_vocabulary_left_to_the_tokenizer_is_an_error():
  done = run("--config=configs/demo.py", "--dry_run")
  assert done.returncode == 2 and "config.model.vocab_size: a dry run needs" in done.stderr


def numbers(line):
  return [float(number) * (1 if unit == "GB" else 1e-3) for number, unit in NUMBER.findall(line)]


NUMBER = re.compile(r"([\d.]+) (GB|MB)")


def process_line(lines):
  (line,) = [line for line in lines if line.startswith("memory of the process")]
  return numbers(line)


@pytest.mark.slow
def test_a_study_holds_what_the_dry_run_says_within_a_fifth(tmp_path):
  """A decoder of 72 million, its weights read from a folder and all trained."""
  done = subprocess.run(
    [
      sys.executable,
      "tests/benchmarks/memory.py",
      "--sizes=middle",
      "--arms=1",
      f"--folder={tmp_path}",
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=programs.environment(),
  )
  assert done.returncode == 0, done.stderr
  assert re.search(r"the dry run within 20%; .* here: \*\*met", done.stdout), done.stdout


@pytest.mark.parametrize("saves", [False, True])
def test_the_memory_of_the_process_is_that_of_all_devices_and_its_own(saves):
  import optax

  from factshock.devices import partitioning
  from factshock.training import train_step

  def loss(params, batch, key=None):
    total = jnp.sum(batch["tokens"].astype(jnp.float32) @ params["w"])
    return total, {"tokens": jnp.float32(1), "correct": jnp.float32(0)}

  optimizer = optax.adam(1.0)
  params = {"w": jax.ShapeDtypeStruct((8000, 1000), jnp.float32)}
  state = jax.eval_shape(lambda params: train_step.init_state(params, optimizer), params)
  batch = {"tokens": np.zeros((8, 8000), np.int32)}
  step = train_step.make_train_step(loss, optimizer)
  mesh = partitioning.make_mesh()
  lines = dry_run.describe(step, state, batch, mesh, saves=saves)
  (device,) = [numbers(line) for line in lines if line.startswith("memory a device")]
  total, devices, own, *copy = process_line(lines)
  np.testing.assert_allclose(devices, device[0] * mesh.size, rtol=0.1)
  np.testing.assert_allclose(total, devices + own + sum(copy), atol=0.02)
  assert own > 0.1 and len(copy) == saves
  np.testing.assert_allclose(sum(copy), saves * 0.096, atol=1e-3)  # the weights, and twice as much

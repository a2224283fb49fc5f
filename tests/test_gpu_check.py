"""The check on a GPU: its tables and goals, its restart, its errors, and the FLOPs that it counts.

That all of it runs in its tiny form is .ci/run's part; nothing is timed here.
"""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from gpu import check, machine, plan, results, shapes
from gpu.parts import train_step
from gpu.results import OURS, Check, Description, Goal, Measurement, Peaks, Speed

ROOT = pathlib.Path(__file__).parents[1]
PEAKS = Peaks(flops=1000e12, bytes=4e12)
SPEED = Speed(
  seconds=0.2,
  least=0.19,
  first=30.0,
  shape="64 x 512",
  amount=1000,
  unit="tokens",
  flops=100e12,
  bytes=40e9,
  compiled=0,
)
FAST = Measurement("speeds", "large")
SLOW = Measurement("speeds", "large", "peer")
NEAR = Measurement("distances", "small")
DESCRIPTIONS = {
  "speeds": Description("Of speeds.", {"FLOPs": "larger products", "neither": "a trace"}),
  "distances": Description("Of distances.", {}),
}
GOALS = (Goal("speeds", "large", 0.45), Goal("speeds", "large", 5, "peer"))


def outcome(speed):
  return {"speed": dataclasses.asdict(speed)}


def page(outcomes, peaks=PEAKS):
  document = {"about": {"device": "card", "tiny": False}, "outcomes": outcomes}
  return results.markdown(document, [FAST, SLOW, NEAR], DESCRIPTIONS, GOALS, peaks)


def test_goals_are_open_without_numbers():
  text = page({})
  assert "speeds, large: at least 45% MFU: open" in text
  assert "speeds, large: at least 5 times as fast as peer: open" in text
  assert text.count("no time was left") == 3 and "recompilation" not in text


def test_goals_and_roofline_come_from_flops_bytes_and_seconds():
  # 100 TFLOP at 1000 TFLOP/s are 100 ms, 40 GB at 4 TB/s are 10 ms, of 200 ms.
  slower = dataclasses.replace(SPEED, seconds=0.4, amount=500, compiled=None)
  text = page({FAST.key: outcome(SPEED), SLOW.key: outcome(slower)})
  assert "at least 45% MFU: 50.0%, **met**" in text
  assert "at least 5 times as fast as peer: 4.00, **missed**" in text
  assert "no recompilation while timed: 0 programs: **met**" in text
  line = next(line for line in text.splitlines() if line.startswith("| large | factshock |"))
  assert "| 100.00; 10.00 | FLOPs | 50.0%; 5.0% | 1.00 |" in line and "| 5,000 tokens |" in line
  assert "- large (limited by FLOPs): larger products" in text
  assert "- distances: small: factshock: no time was left" in text


@pytest.mark.parametrize(
  ("change", "limit"),
  [
    ({}, "FLOPs"),
    ({"bytes": 600e9}, "bytes"),
    ({"seconds": 0.31}, "neither"),
    ({"flops": 0, "bytes": 0}, "neither"),
  ],
)
def test_what_limits(change, limit):
  assert results.limited_by(dataclasses.replace(SPEED, **change), PEAKS) == limit


def test_a_program_compiled_while_timed_misses_the_goal():
  text = page({FAST.key: outcome(dataclasses.replace(SPEED, compiled=2))})
  assert "no recompilation while timed: 2 programs: **missed**" in text


def test_a_device_of_unknown_peak_leaves_mfu_open():
  text = page({FAST.key: outcome(SPEED)}, peaks=None)
  assert "at least 45% MFU: open" in text and "peak not known" in text


@pytest.mark.parametrize("distance", [0.2, math.nan, math.inf])
def test_what_is_too_far_fails_and_is_marked(distance):
  checks = [dataclasses.asdict(Check("logits", far, 0.1)) for far in (0.1, distance)]
  outcomes = {NEAR.key: {"checks": checks}}
  assert results.failures([NEAR], outcomes) == ["distances: small: factshock: logits"]
  assert page(outcomes).count("**NO**") == 1


def test_no_time_is_no_failure_and_an_error_is():
  outcomes = {SLOW.key: {"error": "exit code 1: broken"}}
  assert results.failures([FAST, SLOW], outcomes) == ["speeds: large: peer: exit code 1: broken"]
  assert "- speeds: large: peer: exit code 1: broken" in page(outcomes)
  missing = {SLOW.key: {"error": "cannot run here: no data"}}
  assert not results.failures([FAST, SLOW], missing)
  assert len(results.failures([FAST, SLOW], missing, tiny=True)) == 1
  assert "- speeds: large: peer: cannot run here: no data" in page(missing)


def test_every_goal_names_measurements_of_the_plan():
  keys = [measurement.key for measurement in plan.ORDER]
  assert len(set(keys)) == len(keys)
  for goal in plan.GOALS:
    assert Measurement(goal.part, goal.name).key in keys
    assert goal.than is None or Measurement(goal.part, goal.name, goal.than).key in keys
  for measurement in plan.ORDER:
    assert measurement.side == OURS or dataclasses.replace(measurement, side=OURS).key in keys
  assert set(train_step.ROWS) == {one.name for one in plan.ORDER if one.part == "train_step"}


def test_published_peaks_of_the_cards():
  assert machine.peaks_of("NVIDIA H100 80GB HBM3") == Peaks(989.5e12, 3.35e12)
  assert machine.peaks_of("NVIDIA H200") == Peaks(989.5e12, 4.8e12)
  assert machine.peaks_of("cpu") is None


def test_compilations_are_counted():
  function = jax.jit(lambda x: x * 3 + 1)
  with machine.compilations() as first:
    function(jnp.ones(7))
  with machine.compilations() as again:
    function(jnp.ones(7))
  with machine.compilations() as other:
    function(jnp.ones(9))
  assert first and other and not again


def test_flops_of_a_decoder_are_those_counted_by_hand():
  """Full finetuning: forward once, backward twice; adapters leave out the weights' gradients."""
  config = shapes.config_of(shapes.LLAMA_7B, tiny=False)
  batch = train_step.random_batch(config, 2, tiny=False)
  width = 32 * 128
  layer_weights = 4 * 4096 * width + 3 * 4096 * 11008
  tokens = 2 * 512
  weights = 2 * tokens * (32 * layer_weights + 4096 * 32000)
  scores = 32 * 2 * (2 * tokens * 512 * width)
  flops, moved = train_step.needed(config, "all", batch)
  assert flops == 3 * (weights + scores)
  count = 32 * layer_weights + 2 * 4096 * 32000 + (2 * 32 + 1) * 4096
  assert 2 * 2 * count < moved < 2 * 2 * count * 1.01  # bfloat16, and factored second moments
  with_adapters, read = train_step.needed(config, "lora", batch)
  low_rank = 4 * 32 * 16 * (4096 + 4096)
  # In the first layer nothing before the adapters has a gradient; hence a little less.
  most = 2 * weights + 3 * scores + 3 * 2 * tokens * low_rank
  assert 0.97 * most < with_adapters <= most
  scalars = read - 2 * count - 2 * (3 * 4 * low_rank)
  assert 0 < scalars < 100


def run(*arguments):
  path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
  environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "gpu.check", *arguments]
  return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_second_call_measures_what_is_missing_alone(tmp_path):
  folder = tmp_path / "check"
  arguments = ["--tiny", "--only=ceilings", f"--output={folder}"]
  done = run(*arguments, "--minutes=0.2")
  assert done.returncode == 0, done.stderr
  assert "no time was left for 1 of 1: ceilings: product and copy" in done.stdout
  done = run(*arguments)
  assert done.returncode == 0, done.stderr
  assert "1/1 ceilings: product and copy: factshock: " in done.stdout
  assert str(folder / "gpu_check.md") in done.stdout
  first = json.loads((folder / "gpu_check.json").read_text())
  assert "measures nothing" in (folder / "gpu_check.md").read_text()
  done = run(*arguments)
  assert done.returncode == 0 and "1/1" not in done.stdout
  assert json.loads((folder / "gpu_check.json").read_text()) == first
  first["about"]["device"] = "another card"
  (folder / "gpu_check.json").write_text(json.dumps(first))
  done = run(*arguments)
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert "another card" in done.stderr and "another --output" in done.stderr


def test_without_a_gpu_one_error_and_no_results(tmp_path):
  done = run(f"--output={tmp_path / 'check'}")
  assert done.returncode == 2 and "expected a GPU that JAX sees, got cpu" in done.stderr
  assert not (tmp_path / "check" / "gpu_check.json").exists()


def test_unknown_parts_are_named_before_anything_runs(tmp_path):
  done = run("--only=rankin", f"--output={tmp_path / 'check'}")
  assert done.returncode == 2 and "--only=rankin: expected parts of" in done.stderr
  assert not (tmp_path / "check").exists()


def test_a_worker_that_fails_or_hangs_is_an_error(tmp_path):
  controller = check._Run(str(tmp_path), True, deadline=0.0)
  for code, limit, expected in (
    ("import sys; sys.stdin.readline(); sys.exit('broken here')", 60, "exit code 1: broken here"),
    ("import sys; sys.exit(2)", 60, "cannot run here: broken here"),
    ("import time; time.sleep(600)", 1, "stopped after 1 s"),
  ):
    with open(controller.path("log"), "a") as log:
      process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
      )
    assert controller._finish(process, limit) == {"error": expected}

"""Several processes that work as one, for real: on this machine, joined over loopback, with
collectives between their CPU devices.
"""

import json
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import programs
import pytest

from factshock.checkpoints import leaf_files, store, tree_files
from factshock.devices import partitioning
from factshock.runtime import files
from factshock.runtime.errors import UserError
from factshock.training import metrics

ROOT = pathlib.Path(__file__).parents[1]
TRAIN = [
  "factshock.train",
  "--config=tests/helpers/tiny.py",
  "--ratio=2",
  "--config.finetune.pack=True",
  "--config.finetune.steps=30",
  "--config.finetune.checkpoint_every=10",
  "--config.finetune.log_every=5",
]


def start(count, arguments, extra=lambda process: [], cores=1):
  """`count` processes `python -m arguments`, joined; `extra` are a process's own arguments."""
  return launch(count, ["-m", *arguments, f"--config.cpu_devices={cores}"], extra)


def launch(count, arguments, extra=lambda process: []):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  environment = programs.environment(PYTHONUNBUFFERED="1")
  joined = [
    [f"--coordinator=127.0.0.1:{port}", f"--processes={count}", f"--process={process}"]
    if count > 1
    else []
    for process in range(count)
  ]
  return [
    subprocess.Popen(
      [sys.executable, *arguments, *flags, *extra(process)],
      cwd=ROOT,
      text=True,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    for process, flags in enumerate(joined)
  ]


def finish(running, seconds=300):
  """(exit code, stdout, stderr) of each; those still there after so many seconds are killed."""
  end = time.monotonic() + seconds
  try:
    found = [process.communicate(timeout=max(1, end - time.monotonic())) for process in running]
  finally:
    for process in running:
      process.kill()
  return [(process.returncode, *text) for process, text in zip(running, found)]


def run(count, arguments, **options):
  """Their stdouts, all of them having ended well."""
  found = finish(start(count, arguments, **options))
  for code, out, err in found:
    assert code == 0, (out, err)
  return [out for _, out, _ in found]


def trained(workdir, step=None):
  """(all leaves of a checkpoint, losses by step) of a workdir."""
  found = store.restore(workdir / "checkpoints" / "finetuned" / "0", step)
  numbers = metrics.read_metrics(workdir / "metrics" / "finetuned" / "0" / "metrics.jsonl")
  leaves = {**tree_files.flat_leaves(found["params"]), **found["opt_state"]}
  return leaves, {entry["step"]: entry["loss"] for entry in numbers}


def assert_trained_alike(one, other):
  (leaves, losses), (other_leaves, other_losses) = trained(one), trained(other)
  assert leaves.keys() == other_leaves.keys() and losses.keys() == other_losses.keys() == set(
    range(5, 31, 5)
  )
  for name, leaf in leaves.items():
    np.testing.assert_allclose(other_leaves[name], leaf, rtol=2e-5, atol=2e-5, err_msg=name)
  np.testing.assert_allclose(
    [other_losses[step] for step in losses], list(losses.values()), rtol=1e-5
  )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """The workdir of one process with four devices."""
  workdir = tmp_path_factory.mktemp("alone") / "run"
  run(1, [*TRAIN, f"--workdir={workdir}"], cores=4)
  return workdir


@pytest.mark.slow
def test_two_processes_train_as_one_does(alone, tmp_path):
  """Same losses, weights and optimizer state; the first speaks and writes; both write the parts of
  weights that they have.
  """
  said = run(2, [*TRAIN, f"--workdir={tmp_path / 'run'}", "--config.mesh.fsdp=4"], cores=2)
  assert_trained_alike(alone, tmp_path / "run")
  assert "finetuned 30/30" in said[0] and "finetuned" not in said[1] and "process 1 of 2" in said[1]
  leaves = store.read_manifest(tmp_path / "run" / "checkpoints" / "finetuned" / "0")["leaves"]
  assert len(leaves["params/embedding"]["parts"]) == 4
  runs = [json.loads(line) for line in open(tmp_path / "run" / "runs.jsonl")]
  assert [(record["processes"], record["device"][:1]) for record in runs] == [(2, "4")]


@pytest.mark.slow
@pytest.mark.parametrize(
  "count, cores, flags",
  [
    (2, 2, ["--config.parallel=pmap"]),
    (4, 1, ["--config.mesh.fsdp=2", "--config.mesh.model=2"]),
    (4, 1, ["--config.mesh.data=1", "--config.mesh.model=4"]),
  ],
)
def test_any_split_trains_as_one_process_does(alone, tmp_path, count, cores, flags):
  run(count, [*TRAIN, f"--workdir={tmp_path / 'run'}", *flags], cores=cores)
  assert_trained_alike(alone, tmp_path / "run")


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_other_numbers_of_processes_go_on(alone, tmp_path):
  """Two processes, one of them stopped by SIGTERM; four go on, the first stopped by Ctrl-C; one
  ends it: as if never stopped.
  """
  arguments = [*TRAIN, f"--workdir={tmp_path / 'run'}", "--config.finetune.log_every=1"]
  steps = []
  for count, struck, number in ((2, 1, signal.SIGTERM), (4, 0, signal.SIGINT)):
    running = start(
      count, [*arguments, "--config.mesh.fsdp=-1", "--config.mesh.data=1"], cores=4 // count
    )
    _wait_for_step(tmp_path / "run", (steps or [0])[-1] + 4)
    running[struck].send_signal(number)
    found = finish(running)
    assert [code for code, _, _ in found] == [75] * count, found
    assert (
      f"stopped by {number.name}:" in found[struck][2]
      and f"stopped by {number.name} in another process" in found[1 - struck][2]
    )
    steps.append(store.latest_step(tmp_path / "run" / "checkpoints" / "finetuned" / "0"))
  assert 0 < steps[0] < steps[1] < 30
  run(1, arguments, cores=4)
  leaves, _ = trained(alone)
  for name, leaf in trained(tmp_path / "run")[0].items():
    np.testing.assert_allclose(leaf, leaves[name], rtol=2e-5, atol=2e-5, err_msg=name)


def _wait_for_step(workdir, step, seconds=200):
  end, path = time.monotonic() + seconds, workdir / "metrics" / "finetuned" / "0" / "metrics.jsonl"
  while time.monotonic() < end:
    if path.exists() and any(entry["step"] >= step for entry in metrics.read_metrics(path)):
      return
    time.sleep(0.05)
  raise AssertionError(f"step {step} was not reached")


def test_an_error_of_one_process_ends_the_others_who_say_what_it_was(tmp_path):
  began = time.monotonic()
  found = finish(
    start(
      2,
      [*TRAIN, f"--workdir={tmp_path / 'run'}"],
      extra=lambda process: [f"--workdir={tmp_path / 'elsewhere'}"] if process else [],
    ),
    120,
  )
  assert [code for code, _, _ in found] == [2, 2]
  assert "error:" in found[1][2] and "process 1 does not see what process 0 wrote" in found[1][2]
  assert "ended, as process 1 was: error:" in found[0][2] and "does not see" in found[0][2]
  assert time.monotonic() - began < 100


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others_within_a_minute(tmp_path):
  running = start(
    2,
    [
      *TRAIN,
      f"--workdir={tmp_path / 'run'}",
      "--config.finetune.log_every=1",
      "--config.finetune.steps=100000",
      "--config.finetune.checkpoint_every=10",
    ],
  )
  _wait_for_step(tmp_path / "run", 12)
  running[1].kill()
  began = time.monotonic()
  code, _, err = finish(running, 100)[0]
  assert code not in (0, 75) and time.monotonic() - began < 60
  assert "stopped sending heartbeats" in err or "Gloo" in err, err
  assert store.restore(tmp_path / "run" / "checkpoints" / "finetuned" / "0")["step"] >= 10


@pytest.mark.slow
def test_an_experiment_of_two_processes_answers_as_one_process_does(tmp_path):
  """All arms, stopped once while it answers; the report is written by the first."""
  arguments = ["factshock.experiment", "--config=tests/helpers/tiny.py"]
  run(1, [*arguments, f"--workdir={tmp_path / 'one'}"], cores=2)
  running = start(2, [*arguments, f"--workdir={tmp_path / 'two'}"])
  while not list(tmp_path.glob("two/predictions/*")) and all(
    process.poll() is None for process in running
  ):
    time.sleep(0.02)
  running[1].send_signal(signal.SIGTERM)
  assert [code for code, _, _ in finish(running)] == [75, 75]
  said = run(2, [*arguments, f"--workdir={tmp_path / 'two'}"])
  assert "report: " in said[0] and (tmp_path / "two" / "report.html").exists()
  paths = sorted((tmp_path / "one" / "predictions").iterdir())
  assert [path.name for path in paths] == sorted(
    path.name for path in (tmp_path / "two" / "predictions").iterdir()
  )
  for path in paths:
    one, two = (
      [json.loads(line) for _, line in files.lines(tmp_path / folder / "predictions" / path.name)]
      for folder in ("one", "two")
    )
    assert [row["subject"] for row in one] == [row["subject"] for row in two]
    np.testing.assert_allclose(
      [row["score"] for row in one], [row["score"] for row in two], atol=1e-3
    )


@pytest.mark.slow
def test_attention_that_two_processes_read_off_is_that_of_one(tmp_path):
  """Also of weights that are cut over both."""
  for count, flags in ((1, []), (2, ["--config.mesh.data=1", "--config.mesh.fsdp=2"])):
    run(
      count,
      [
        "factshock.experiment",
        "--config=tests/helpers/tiny_attention.py",
        f"--workdir={tmp_path / str(count)}",
        *flags,
      ],
      cores=2 // count,
    )
  paths = sorted((tmp_path / "1" / "attention").iterdir())
  assert len(paths) == 8 and [path.name for path in paths] == sorted(
    path.name for path in (tmp_path / "2" / "attention").iterdir()
  )
  for path in paths:
    with np.load(path) as one, np.load(tmp_path / "2" / "attention" / path.name) as two:
      assert one.files == two.files
      for name in one.files:
        compare = (
          np.testing.assert_array_equal
          if one[name].dtype.kind == "U"
          else np.testing.assert_allclose
        )
        compare(
          two[name],
          one[name],
          **({} if one[name].dtype.kind == "U" else {"atol": 1e-3}),
          err_msg=f"{path.name} {name}",
        )


_BETWEEN = """
import sys
import numpy as np
import jax
from absl import flags
from factshock.runtime import processes
from factshock.devices import partitioning

processes.define_flags()
flags.FLAGS(sys.argv)
processes.join()
partitioning.use_cpu_devices(2)
me = processes.process_index()
assert processes.process_count() == 2 and processes.is_first() == (me == 0)
assert processes.gather({"number": me}, "a") == [{"number": 0}, {"number": 1}]
assert processes.broadcast(lambda: ["asked", me], "b") == ["asked", 0]
devices = jax.devices()
for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
  mesh = partitioning.make_mesh({"fsdp": 2}, [devices[place] for place in order])
  batch = {"x": np.arange(24).reshape(8, 3)}
  rows = partitioning.local_rows(mesh, 8)
  joined = partitioning.join_rows({"x": batch["x"][rows]}, mesh)
  np.testing.assert_array_equal(partitioning.fetch(joined)["x"], batch["x"])
  sharded = partitioning.shard_batch(batch, mesh)
  np.testing.assert_array_equal(partitioning.fetch(sharded)["x"], batch["x"])
  weights = {"layers": {"feed_forward": {"up": np.arange(32.).reshape(2, 4, 4)}}}
  placed = partitioning.place_params(weights, mesh)
  assert not placed["layers"]["feed_forward"]["up"].is_fully_replicated
  fetched = partitioning.fetch(placed)
  up = [tree["layers"]["feed_forward"]["up"] for tree in (fetched, weights)]
  np.testing.assert_array_equal(*up)
stopping = partitioning.make_agreement(mesh)
assert [stopping(flag) for flag in (False, me == 1, False, False)] == [False, False, True, False]
try:
  processes.gather(None, f"at {me}")
except RuntimeError as error:
  assert "expected all processes at the same point, got ['at 0', 'at 1']" in str(error)
else:
  raise AssertionError("not refused")
processes.barrier("end")
"""


def test_words_and_arrays_go_between_processes(tmp_path):
  (tmp_path / "between.py").write_text(_BETWEEN)
  for code, _, err in finish(launch(2, [str(tmp_path / "between.py")]), 120):
    assert code == 0, err


def test_one_process_is_told_what_it_asks():
  from factshock.runtime import processes

  assert (processes.process_count(), processes.process_index(), processes.is_first()) == (
    1,
    0,
    True,
  )
  assert processes.gather(3, "x") == [3] and processes.broadcast(lambda: {"a": 1}, "x") == {"a": 1}
  with processes.first_process_first("x"):
    pass
  np.testing.assert_array_equal(partitioning.local_rows(partitioning.make_mesh(), 8), np.arange(8))


@pytest.mark.parametrize(
  "flags, expected",
  [
    (
      ["--processes=2", "--process=0"],
      "expected --coordinator, --processes and --process together, got no --coordinator",
    ),
    (
      ["--coordinator=127.0.0.1:1", "--processes=2", "--process=2"],
      "--process: expected a number below 2, got 2",
    ),
  ],
)
def test_flags_that_do_not_fit_are_refused(flags, expected):
  done = subprocess.run(
    [sys.executable, "-m", *TRAIN, "--workdir=/nonexistent", *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2 and expected in done.stderr


def test_a_part_that_is_damaged_is_found(tmp_path):
  """A manifest by parts, as several processes write it, is verified part by part."""
  whole = np.arange(12, dtype=np.float32).reshape(4, 3)
  parts = [
    [[[0, 2], [0, 3]], leaf_files.digest(whole[:2])],
    [[[2, 4], [0, 3]], leaf_files.digest(whole[2:])],
  ]
  leaf = {
    "digest": tree_files._joint_digest(parts),
    "parts": parts,
    "shape": list(whole.shape),
    "dtype": whole.dtype.name,
  }
  tree_files._verify("folder", "leaf", whole, leaf)
  whole[3, 2] = 0
  with pytest.raises(UserError, match="leaf leaf are damaged"):
    tree_files._verify("folder", "leaf", whole, leaf)

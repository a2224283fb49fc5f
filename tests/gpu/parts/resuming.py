"""`python -m factshock.train` run whole, and killed (SIGKILL) after a checkpoint and started again.

A small T5 in a synthetic world: pretrained, then finetuned, in bfloat16 with AdamW; killed while it
is finetuned. With --xla_gpu_deterministic_ops=true both must end with the same bits; without it the
distance is that of all weights, relative. The pair with the flag and the one without run beside
each other, each process with the device's memory that it needs.
"""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from factshock.checkpoints import store, tree_files
from factshock.runtime.errors import UserError
from gpu.results import Check, Speed

_Process: TypeAlias = subprocess.Popen[bytes]

_FOLDER = os.path.join(".gpu_check", "resuming")
_WHOLE = "whole"
_KILLED = "killed"
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
_FAR = 1e-3  # relative: what AdamW may make of sums in another order
_CONFIG = "configs/demo.py"
_SIZES = {
  "model.d_model": "512",
  "model.d_ff": "1024",
  "model.num_heads": "8",
  "model.d_kv": "64",
  "model.encoder_layers": "4",
  "model.decoder_layers": "4",
  "model.dtype": "bfloat16",
  "pretrain.steps": "100",
  "finetune.steps": "300",
  "finetune.checkpoint_every": "50",
}
_TINY_SIZES = {
  "model.d_model": "16",
  "model.d_ff": "16",
  "model.num_heads": "2",
  "model.d_kv": "8",
  "model.encoder_layers": "1",
  "model.decoder_layers": "1",
  "world.subjects": "40",
  "pretrain.steps": "0",
  "pretrain.schedule": "constant",
  "finetune.steps": "200",
  "finetune.batch_size": "8",
  "finetune.checkpoint_every": "20",
}
_SHARED = {
  "pretrain.warmup": "5",
  "finetune.eval_steps": "(0,)",
  "model.dropout": "0.1",
  "model.unroll": "False",
  "cpu_devices": "1",
}


@dataclasses.dataclass(frozen=True)
class _Pair:
  """Holds a run that is whole and one that is killed, of the same command.

  Attributes:
    name: of the pair's folder.
    xla_flags: beside those of the environment.
    limit: how far apart the final weights may be.
  """

  name: str
  xla_flags: str
  limit: float


_PAIRS = (_Pair("deterministic", _DETERMINISTIC, 0.0), _Pair("as it is", "", _FAR))
# On a CPU the flag changes nothing: one pair, compiled without XLA's costly passes.
_TINY_PAIRS = (_Pair("deterministic", f"{_DETERMINISTIC} --xla_backend_optimization_level=0", 0.0),)


def measure(name: str, side: str, tiny: bool) -> Speed | list[Check]:
  """Returns how far apart the final weights are, of each pair."""
  del name, side
  shutil.rmtree(_FOLDER, ignore_errors=True)
  os.makedirs(_FOLDER)
  trainings = _Trainings({**(_TINY_SIZES if tiny else _SIZES), **_SHARED})
  try:
    return _compare(trainings, _TINY_PAIRS if tiny else _PAIRS)
  finally:
    trainings.end()
    shutil.rmtree(_FOLDER, ignore_errors=True)


def _compare(trainings: "_Trainings", pairs: Sequence[_Pair]) -> list[Check]:
  """Trains all, and compares each pair."""
  whole = {pair: trainings.begin(pair, _WHOLE) for pair in pairs}
  first = {pair: trainings.begin(pair, _KILLED) for pair in pairs}
  saved = trainings.kill_after_saving(first)
  for pair, process in whole.items():
    _end_well(process, pair, _WHOLE)
  resumed = {pair: trainings.begin(pair, _KILLED) for pair in pairs}
  for pair, process in resumed.items():
    _end_well(process, pair, _KILLED)
  checks = []
  for pair in pairs:
    far = _distance(_weights(pair, _WHOLE), _weights(pair, _KILLED))
    flags = pair.xla_flags or "no flag"
    what = f"weights of the run killed after step {saved[pair]}, to those of the whole one; {flags}"
    checks.append(Check(what, far, pair.limit))
  return checks


class _Trainings:
  """Training processes of one config."""

  def __init__(self, settings: Mapping[str, str]) -> None:
    """Takes the settings by which the config differs from _CONFIG."""
    self._settings = settings
    self._started: list[_Process] = []

  def begin(self, pair: _Pair, run: str) -> _Process:
    """Starts a training as a user does, or goes on with it; its output goes to a file."""
    command = [sys.executable, "-m", "factshock.train", f"--config={_CONFIG}"]
    command += [f"--config.{name}={value}" for name, value in self._settings.items()]
    command.append(f"--workdir={_workdir(pair, run)}")
    xla_flags = f"{os.environ.get('XLA_FLAGS', '')} {pair.xla_flags}".strip()
    # Several share the device.
    changed = {"XLA_FLAGS": xla_flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    with open(_log(pair, run), "ab") as log:
      process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **changed})
    self._started.append(process)
    return process

  def kill_after_saving(self, running: Mapping[_Pair, _Process]) -> dict[_Pair, int]:
    """Kills each training as soon as its finetuning has a checkpoint.

    Returns:
      The step that each had saved.

    Raises:
      UserError: one ended before, or had done all its steps.
    """
    saved: dict[_Pair, int] = {}
    while len(saved) < len(running):
      for pair in running.keys() - saved.keys():
        has_ended = running[pair].poll() is not None
        if store.latest_step(_checkpoints(pair, _KILLED)) is not None:
          running[pair].send_signal(signal.SIGKILL)
          running[pair].wait()
          saved[pair] = store.latest_step(_checkpoints(pair, _KILLED)) or 0
          has_ended = saved[pair] >= int(self._settings["finetune.steps"])
        if has_ended:
          said = _last_line(_log(pair, _KILLED))
          raise UserError(f"train, {pair.name}: ended before it was killed: {said}")
      time.sleep(0.005)
    return saved

  def end(self) -> None:
    """Ends what still runs."""
    for process in self._started:
      process.kill()
      process.wait()


def _end_well(process: _Process, pair: _Pair, run: str) -> None:
  """Waits for a training.

  Raises:
    UserError: it failed.
  """
  if process.wait():
    said = _last_line(_log(pair, run))
    raise UserError(f"train, {pair.name}: exit code {process.returncode}: {said}")


def _weights(pair: _Pair, run: str) -> dict[str, np.ndarray]:
  """Returns the final weights by name."""
  return tree_files.flat_leaves(store.restore_params(_checkpoints(pair, run)))


def _distance(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
  """Returns how far one set of weights is from another, over its norm; 0 for the same bits alone.

  Other bits of equal numbers, such as 0 and -0, are infinitely near.
  """
  if all(leaf.tobytes() == other[name].tobytes() for name, leaf in one.items()):
    return 0.0
  norm, apart = 0.0, 0.0
  for name, leaf in one.items():
    exact = leaf.astype(np.float64)
    norm += float(np.sum(exact**2))
    apart += float(np.sum((exact - other[name].astype(np.float64)) ** 2))
  return float(np.sqrt(apart / norm)) or float(np.finfo(np.float64).tiny)


def _workdir(pair: _Pair, run: str) -> str:
  return os.path.join(_FOLDER, f"{pair.name}, {run}")


def _checkpoints(pair: _Pair, run: str) -> str:
  return os.path.join(_workdir(pair, run), "checkpoints", "finetuned", "0")


def _log(pair: _Pair, run: str) -> str:
  return f"{_workdir(pair, run)}.log"


def _last_line(path: str) -> str:
  """Returns the last line of a log that says something."""
  with open(path, encoding="utf-8", errors="replace") as file:
    lines = [line.strip() for line in file if line.strip()]
  return lines[-1] if lines else "it said nothing"

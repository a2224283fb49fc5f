"""Progress of a training run: its metrics, read one step late, on the terminal and in files."""

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from factshock.devices import partitioning
from factshock.runtime import files, processes
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress
from factshock.training import drivers, flops
from factshock.training.metrics import Metrics
from factshock.training.train_step import Scalars, StepFn
from factshock.types import Batch, FilePath

# A step function, and name and shape of each array of a batch.
_Counted: TypeAlias = tuple[StepFn, tuple[tuple[str, tuple[int, ...]], ...]]

# FLOPs by step function and the shapes of a batch, kept for later calls.
_counted: dict[_Counted, float] = {}


class Work:
  """Counts the FLOPs that a step on a batch cannot do without.

  Attributes:
    peak: FLOP/s that the devices have at most, or None where it is not known.
    is_counted: whether they are: not on a CPU, where tracing the step once more would take
      time and no peak is known to compare with.
  """

  def __init__(
    self,
    step_fn: StepFn,
    arguments: Sequence[Any],
    mesh: jax.sharding.Mesh | None,
    parallel: str,
  ) -> None:
    """Takes the step and its arguments but for the batch: state, key, and frozen weights if any."""
    self._step_fn = step_fn
    self._shapes = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments
    )
    self._axis = drivers.AXIS if parallel == "pmap" else None
    if mesh is None:
      devices = [jax.local_devices()[0]]
      shards = 1
    else:
      devices = list(mesh.devices.flatten())
      shards = partitioning.batch_shard_count(mesh)
    own_shards = len(partitioning.local_rows(mesh, shards))
    # Of the whole batch this process has one part of so many.
    self._parts = shards // own_shards
    peak = flops.peak_flops(devices[0])
    self.peak = peak and peak * len(devices)
    self.is_counted = self.peak is not None or devices[0].platform != "cpu"

  def flops(self, batch: Batch) -> float:
    """Returns the FLOPs of a step on the whole batch of which this process has some rows.

    It is traced once for each step and shape.
    """
    structs = {}
    for name, array in batch.items():
      own_rows, *others = array.shape
      shape = (self._parts * own_rows, *others)
      structs[name] = jax.ShapeDtypeStruct(shape, array.dtype)
    shapes = tuple((name, struct.shape) for name, struct in structs.items())
    key = (self._step_fn, shapes)
    if key not in _counted:
      state, *constants = self._shapes
      arguments = (state, structs, *constants)
      _counted[key] = flops.model_flops(self._step_fn, *arguments, axis=self._axis)
    return _counted[key]


class Reporter:
  """Reads each step's metrics while the next step runs, checks the loss, and reports them."""

  def __init__(
    self,
    label: str,
    steps: int,
    work: Work,
    metrics: Metrics | None = None,
    log_every: int = 100,
    folder: FilePath | None = None,
  ) -> None:
    """Takes what is reported on.

    Args:
      label: name of the run.
      steps: number of steps the finished run has done.
      work: counts the FLOPs of a step.
      metrics: where entries go, or None.
      log_every: steps between two entries.
      folder: where the batch of a loss that is not finite is kept, or None.
    """
    self._label = label
    self._steps = steps
    self._work = work
    self._metrics = metrics
    self._log_every = log_every
    self._folder = folder
    self._progress = Progress(label, steps, compiles=True)
    self._pending: tuple[int, Scalars, Batch] | None = None
    self._restart()

  def add(
    self,
    step: int,
    scalars: Scalars,
    batch: Batch,
  ) -> None:
    """Takes the (unfinished) metrics of a step and its batch; reads those of the step before."""
    previous = self._pending
    self._pending = (step, scalars, batch)
    self._read(previous)

  def catch_up(self) -> None:
    """Reads the metrics of the last step too, which waits for it.

    Raises:
      UserError: the loss is not finite.
    """
    previous = self._pending
    self._pending = None
    self._read(previous)

  def close(self) -> None:
    """Reads the metrics of the last step, and ends what is shown of the run."""
    self.catch_up()
    self._progress.close()

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Leaves the time inside the context out of the rates."""
    began = time.perf_counter()
    yield
    self._began += time.perf_counter() - began

  def _restart(self) -> None:
    self._began = time.perf_counter()
    self._read_tokens = 0.0
    self._flops = 0.0

  def _read(self, pending: tuple[int, Scalars, Batch] | None) -> None:
    if pending is None:
      return
    step, scalars, batch = pending
    values = {name: float(value) for name, value in jax.device_get(scalars).items()}
    if not math.isfinite(values["loss"]):
      raise UserError(
        f"{self._label}: the loss of step {step} is {values['loss']}; lower the learning rate, "
        f"clip the gradient or look at the data of that step{self._keep_batch(step, batch)}"
      )
    self._read_tokens += values.get("read_tokens", values["tokens"])
    if self._work.is_counted:
      self._flops += self._work.flops(batch)
    rates = self._rates()
    self._progress.update(step, _describe(values, rates))
    is_logged = step % self._log_every == 0 or step == self._steps
    if self._metrics and is_logged:
      self._metrics.write(self._label, step, values | rates)
      self._restart()

  def _rates(self) -> dict[str, float]:
    """Returns what was done a second since the last entry.

    Tokens that are no padding, and model FLOPs where they are counted; of the latter also the share
    of the devices' peak (model FLOP utilisation, MFU) where that is known.
    """
    seconds = max(time.perf_counter() - self._began, 1e-9)
    rates = {"tokens_per_second": self._read_tokens / seconds}
    if self._work.is_counted:
      rates["model_flops_per_second"] = self._flops / seconds
    if self._work.peak:
      rates["mfu"] = self._flops / seconds / self._work.peak
    return rates

  def _keep_batch(self, step: int, batch: Batch) -> str:
    """Writes the batch of a step beside the checkpoints; returns its path for the message."""
    if self._folder is None:
      return ""
    # Each process has rows of its own.
    several = processes.process_count() > 1
    process = f".process_{processes.process_index()}" if several else ""
    file_name = f"batch_of_step_{step}{process}.npz"
    path = os.path.join(self._folder, file_name)
    with files.atomic_write(path, binary=True, by_all=True) as file:
      np.savez(file, **batch)
    return f", {path}"


def _describe(values: Mapping[str, float], rates: Mapping[str, float]) -> str:
  """Returns a step's metrics and rates in words, for the terminal."""
  described = [
    f"loss {values['loss']:.3f}",
    f"accuracy {values['accuracy']:.3f}",
    f"gradient {values['gradient_norm']:.2f}",
    f"{rates['tokens_per_second']:,.0f} tokens/s in and out",
  ]
  if "mfu" in rates:
    described.append(f"MFU {rates['mfu']:.1%}")
  return ", ".join(described)

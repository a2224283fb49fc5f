"""The training loop: holds the state and the jitted step, and does nothing else to the numbers."""

import concurrent.futures
import contextlib
import functools
import math
import operator
import os
import sys
import threading
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from factshock.checkpoints import store
from factshock.devices import host, partitioning
from factshock.runtime import console, files, interruption, processes
from factshock.runtime.errors import UserError
from factshock.training import drivers, flops

_LATE = 30.0  # seconds after which a loader that gives nothing is spoken of


class Checkpointing(NamedTuple):
  """Where a run saves itself: every `every` steps (0: only at its end), the newest `keep` kept; one more than is needed, for the
  case that the newest is found damaged."""

  folder: str
  every: int = 0
  config: dict | None = None
  keep: int | None = 2


class Profile(NamedTuple):
  """A trace of `steps` steps after the first `skip` of a run, written to `folder` (jax.profiler; opened by TensorBoard or Perfetto)."""

  folder: str
  steps: int
  skip: int = 10


def train(
  state,
  step_fn,
  batches,
  *,
  steps,
  key,
  mesh=None,
  label="train",
  metrics=None,
  log_every=100,
  checkpoint=None,
  evaluate=None,
  eval_steps=(),
  weights=operator.itemgetter("params"),
  frozen=None,
  parallel="mesh",
  profile=None,
):
  """Trains until `steps` steps are done, going on from the newest checkpoint where there is one.

  A run that was interrupted and resumed gives the same bits as one that was not, data order included,
  as `step_fn` is a pure function and the checkpoint holds the loader's state.

  Args:
    state: dict of params, opt_state and step; copied, so the caller's arrays stay valid.
    step_fn: pure `(state, batch, key) -> (state, metrics)` with scalar metrics `loss`, `accuracy`,
      `gradient_norm`, `tokens`; compiled once for the same function, mesh and shapes, across calls.
    batches: iterator of dicts of numpy arrays [B, ...] (of several processes each has its partitioning.local_rows); with
      `get_state` and `set_state` (JSON) if there is a checkpoint.
    steps: number of steps the finished run has done.
    key: PRNG key; the step folds its number in.
    mesh: a mesh of `partitioning.make_mesh`; None runs on one device.
    label: name of the run in progress lines and metrics.
    metrics: a `metrics.Metrics`, or None.
    log_every: steps between two entries of the metrics.
    checkpoint: a `Checkpointing` (or its first fields as a tuple), or None.
    evaluate: function of (step, params), called after each step of `eval_steps` (0: before the first)
      and before the checkpoint of that step; it must not keep `params`, which the next step overwrites.
      A run that goes on calls again those from its last checkpoint's step on.
    eval_steps: collection of step numbers. weights: what of the state `evaluate` gets.
    frozen: parameters that are not trained (`step_fn`'s fourth argument); neither copied nor saved.
    parallel: one of drivers.PARALLEL: "mesh", or "pmap" with a step that sums over drivers.AXIS.
    profile: a `Profile`, or None.

  Returns:
    The final state, on the mesh.

  Raises:
    UserError: the loss is not finite (naming the step), the data end early, the checkpoint is of
      another model or beyond `steps`, or saving fails.
    interruption.Interrupted: SIGTERM or Ctrl-C came; the last step done is saved.
  """
  checkpoint = Checkpointing(*checkpoint) if checkpoint else None
  state, start = _resume(state, batches, checkpoint, steps)
  driver = drivers.driver(mesh, parallel)
  frozen = () if frozen is None else (frozen,)
  work = _work(step_fn, (state, key, *frozen), mesh, parallel)
  state = _own(driver.place, state)
  key = driver.place(key)
  if metrics:
    metrics.rewind(label, start)
  frozen = tuple(map(driver.place, frozen))
  compiled = driver.compile(step_fn, state, bool(frozen))
  report = _Report(
    label, start, steps, metrics, log_every, checkpoint.folder if checkpoint else None, work
  )
  stopping = partitioning.make_agreement(mesh)
  with _saving(checkpoint, batches) as save:
    if evaluate and start in eval_steps:
      _interruptible(evaluate, start, weights, save, driver.one(state))
    for step in range(start + 1, steps + 1):
      batch = _next(batches, label, step)
      with _traced(profile, step - start):
        state, numbers = compiled(state, driver.shard(batch), key, *frozen)
      report.add(step, numbers, batch)
      evaluates = evaluate and step in eval_steps
      saves = checkpoint and (step == steps or (checkpoint.every and step % checkpoint.every == 0))
      if evaluates or saves:
        report.catch_up()  # a loss that is not finite stops the run before anything is kept of it
        with report.pause():
          if evaluates:
            _interruptible(evaluate, step, weights, save, driver.one(state))
          if saves:
            save(step, driver.one(state))
      if stopping(interruption.requested_signal()):
        report.catch_up()
        save(step, driver.one(state), wait=True)
        interruption.raise_if_requested()
    report.catch_up()
  return driver.one(state)


def _own(place, tree):
  """What `place(tree)` gives, every leaf copied, one at a time: the first step donates its input, which must not be the caller's.

  `device_put(..., may_alias=False)` is not enough: replicating still hands over the buffer of the
  device on which the array lies already.
  """
  leaves, structure = jax.tree.flatten(place(tree))
  for number in range(len(leaves)):
    leaves[number] = jnp.array(leaves[number], copy=True)
  return structure.unflatten(leaves)


def _resume(state, batches, checkpoint, steps):
  """(state, steps done) of the newest checkpoint, or as given; sets the loader's state."""
  if checkpoint is None:
    return state, int(state["step"])
  if not (hasattr(batches, "get_state") and hasattr(batches, "set_state")):
    raise ValueError(
      "expected batches with get_state and set_state, as the checkpoint holds their state"
    )
  saved = store.restore_newest(
    checkpoint.folder, {name: state[name] for name in ("params", "opt_state")}
  )
  if saved is None:
    return state, int(state["step"])
  step = saved["step"]
  if step > steps:
    raise UserError(
      f"{checkpoint.folder}: expected a checkpoint of at most {steps} steps, got one of "
      f"{step}; ask for as many steps or choose another folder"
    )
  batches.set_state(saved["loader_state"])
  restored = {"params": saved["params"], "opt_state": saved["opt_state"]}
  return {**state, **restored, "step": jnp.asarray(step, jnp.int32)}, step


def _interruptible(evaluate, step, weights, save, state):
  """Evaluates; where that is asked to stop the step is saved, so that only the evaluation is to be done again."""
  try:
    evaluate(step, weights(state))
  except interruption.Interrupted:
    if step:
      save(step, state, wait=True)
    raise


@contextlib.contextmanager
def _saving(checkpoint, batches):
  """Context manager: `save(step, state, wait=False)`, which lets training go on while it writes a copy; at the end all is written.

  With `wait`, without the memory for a copy, and among several processes, it writes at once. What went wrong is raised by the next
  save, or at the end.
  """
  with (
    concurrent.futures.ThreadPoolExecutor(1) as pool,
    concurrent.futures.ThreadPoolExecutor() as copying,
  ):
    pending = []

    def save(step, state, wait=False):
      if pending:
        pending.pop().result()
      if checkpoint is None or store.agreed_latest_step(checkpoint.folder) == step:
        return
      trees = {name: state[name] for name in ("params", "opt_state")}
      write = functools.partial(
        store.save,
        checkpoint.folder,
        step,
        loader_state=batches.get_state(),
        config=checkpoint.config,
        keep=checkpoint.keep,
      )
      if (
        wait
        or processes.process_count() > 1
        or 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(trees)) > host.free_memory_bytes()
      ):
        write(**trees)
      else:  # the next step overwrites the arrays
        leaves, structure = jax.tree.flatten(trees)
        copies = list(copying.map(lambda leaf: np.array(leaf, copy=True), leaves))
        pending.append(pool.submit(write, **structure.unflatten(copies)))

    yield save
    if pending:
      pending.pop().result()


@contextlib.contextmanager
def _traced(profile, step):
  """Context manager: starts and ends the trace of a Profile where it is the step, of this run, to do so."""
  if profile and step == profile.skip + 1:
    jax.profiler.start_trace(profile.folder)
  yield
  if profile and step == profile.skip + profile.steps:
    jax.effects_barrier()
    jax.profiler.stop_trace()
    print(f"  trace of {profile.steps} steps: {profile.folder}", flush=True)


def _next(batches, label, step):
  """The next batch; says so where it takes long to come."""
  late = threading.Timer(
    _LATE,
    print,
    [
      f"  {label}: waiting for the data of step {step} for {_LATE:g} s now; is their disk slow or gone?"
    ],
    {"flush": True, "file": sys.stdout if processes.is_first() else sys.stderr},
  )
  late.daemon = True
  late.start()
  try:
    return next(batches)
  except StopIteration:
    raise UserError(
      f"{label}: the data end before step {step}; give more data or fewer steps"
    ) from None
  finally:
    late.cancel()


def _work(step_fn, arguments, mesh, parallel):
  """(function of a batch: FLOPs that a step on it cannot do without, FLOP/s of the devices at most or None).

  Traced once for each step and shape, and kept for later calls.
  """
  state, key, *frozen = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments
  )
  devices = [jax.local_devices()[0]] if mesh is None else mesh.devices.flatten()
  ways = 1 if mesh is None else partitioning.batch_shard_count(mesh)
  parts = ways // len(
    partitioning.local_rows(mesh, ways)
  )  # of the whole batch this process has one
  peak = flops.peak_flops(devices[0])

  def of(batch):
    shapes = {
      name: jax.ShapeDtypeStruct((parts * array.shape[0], *array.shape[1:]), array.dtype)
      for name, array in batch.items()
    }
    known = step_fn, tuple((name, shape.shape) for name, shape in shapes.items())
    if known not in _counted:
      _counted[known] = flops.model_flops(
        step_fn, state, shapes, key, *frozen, axis=drivers.AXIS if parallel == "pmap" else None
      )
    return _counted[known]

  return of, peak and peak * len(devices)


_counted = {}  # (step function, shapes of a batch) -> FLOPs


class _Report:
  """Reads each step's metrics while the next step runs, checks the loss, and tells terminal and files.

  `work` is of `_work`.
  """

  def __init__(self, label, start, steps, metrics, log_every, folder, work):
    self.label = label
    self.steps = steps
    self.metrics = metrics
    self.log_every = log_every
    self.folder = folder
    self.work_of, self.peak = work
    self.progress = console.Progress(label, steps)
    self.pending = None
    self._restart()

  def add(self, step, numbers, batch):
    """Takes the (unfinished) metrics of a step and its batch, and reads those of the step before."""
    before = self.pending
    self.pending = (step, numbers, batch)
    self._read(before)

  def catch_up(self):
    """Reads the metrics of the last step too, which waits for it."""
    before = self.pending
    self.pending = None
    self._read(before)

  @contextlib.contextmanager
  def pause(self):
    """Context manager: time inside does not count in tokens/s."""
    stopped = time.perf_counter()
    yield
    self.began += time.perf_counter() - stopped

  def _kept(self, step, batch):
    """Writes the batch of a step beside the checkpoints and says where."""
    if self.folder is None:
      return ""
    part = (
      f".process_{processes.process_index()}" if processes.process_count() > 1 else ""
    )  # each has rows of its own
    path = os.path.join(self.folder, f"batch_of_step_{step}{part}.npz")
    with files.atomic_write(path, binary=True, by_all=True) as file:
      np.savez(file, **batch)
    return f", {path}"

  def _restart(self):
    self.began = time.perf_counter()
    self.tokens = 0.0
    self.flops = 0.0

  def _rates(self):
    """Since the last entry: tokens that are no padding, and model FLOPs, a second; of the latter also the share of the devices' peak (MFU)."""
    seconds = max(time.perf_counter() - self.began, 1e-9)
    rates = {
      "tokens_per_second": self.tokens / seconds,
      "model_flops_per_second": self.flops / seconds,
    }
    return rates | ({"mfu": self.flops / seconds / self.peak} if self.peak else {})

  def _read(self, pending):
    if pending is None:
      return
    step, numbers, batch = pending
    numbers = {name: float(value) for name, value in jax.device_get(numbers).items()}
    if not math.isfinite(numbers["loss"]):
      raise UserError(
        f"{self.label}: the loss of step {step} is {numbers['loss']}; "
        f"lower the learning rate, clip the gradient or look at the data of that step{self._kept(step, batch)}"
      )
    self.tokens += numbers.get("read_tokens", numbers["tokens"])
    self.flops += self.work_of(batch)
    rates = self._rates()
    utilised = f", MFU {rates['mfu']:.1%}" if "mfu" in rates else ""
    self.progress.update(
      step,
      f"loss {numbers['loss']:.3f}, accuracy {numbers['accuracy']:.3f}, gradient "
      f"{numbers['gradient_norm']:.2f}, {rates['tokens_per_second']:,.0f} tokens/s{utilised}",
    )
    if self.metrics and (step % self.log_every == 0 or step == self.steps):
      self.metrics.write(self.label, step, numbers | rates)
      self._restart()

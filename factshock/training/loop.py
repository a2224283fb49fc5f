"""The training loop: holds the state and the jitted step, and does nothing else to the numbers."""

import contextlib
import dataclasses
import functools
import operator
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from factshock.checkpoints import store
from factshock.devices import host, partitioning
from factshock.runtime import interruption, messages, processes
from factshock.runtime.errors import UserError
from factshock.training import drivers
from factshock.training.metrics import Metrics
from factshock.training.progress import Reporter, Work
from factshock.training.saving import Checkpointing, ResumableBatches, Saver
from factshock.training.train_step import StepFn, TrainState
from factshock.types import Batch, FilePath, Params

_LATE = 30.0  # seconds after which the loop says that it waits for data


@dataclasses.dataclass(frozen=True)
class Profile:
  """Trace of some steps of a run (jax.profiler; opened by TensorBoard or Perfetto).

  Attributes:
    folder: where it is written.
    steps: how many steps it has.
    skip: how many steps of the run come before it.
  """

  folder: FilePath
  steps: int
  skip: int = 10


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Evaluations during a run.

  Attributes:
    evaluate: function of (step, params), called before the checkpoint of a step; it must not keep
      `params`, which the next step overwrites. A run that goes on calls again those from its last
      checkpoint's step on.
    steps: numbers of the steps after which it is called; 0 is before the first.
    weights: what of the state `evaluate` gets.
  """

  evaluate: Callable[[int, Params], None]
  steps: Collection[int]
  weights: Callable[[TrainState], Params] = operator.itemgetter("params")


@dataclasses.dataclass(frozen=True)
class Options:
  """Choices of how a run is spread, reported, saved and evaluated.

  Attributes:
    mesh: of `partitioning.make_mesh`; None runs on one device.
    parallel: one of drivers.PARALLEL: "mesh", or "pmap" with a step that sums over drivers.AXIS.
    label: name of the run in progress lines and metrics.
    metrics: where entries go, or None.
    log_every: steps between two entries of the metrics.
    checkpoint: where and how often the run saves itself, or None.
    evaluation: what is evaluated and when, or None.
    profile: what is traced, or None.
  """

  mesh: jax.sharding.Mesh | None = None
  parallel: str = "mesh"
  label: str = "train"
  metrics: Metrics | None = None
  log_every: int = 100
  checkpoint: Checkpointing | None = None
  evaluation: Evaluation | None = None
  profile: Profile | None = None


_DEFAULTS = Options()


def train(
  state: TrainState | Callable[[], TrainState],
  step_fn: StepFn,
  batches: Iterator[Batch],
  *,
  steps: int,
  key: jax.Array,
  frozen: Params | None = None,
  options: Options = _DEFAULTS,
) -> TrainState:
  """Trains until `steps` steps are done, going on from the newest checkpoint where there is one.

  A run that was interrupted and resumed gives the same bits as one that was not, data order
  included, as `step_fn` is a pure function and the checkpoint holds the loader's state.

  Args:
    state: that before the first step, copied, so that the caller's arrays stay valid; or a function
      that gives it, so that it is in memory once.
    step_fn: pure `(state, batch, key) -> (state, metrics)` with scalar metrics `loss`, `accuracy`,
      `gradient_norm`, `tokens`; compiled once for the same function, mesh and shapes, across calls.
    batches: arrays [B, ...] by name (of several processes each has its partitioning.local_rows);
      ResumableBatches if there is a checkpoint.
    steps: number of steps the finished run has done.
    key: PRNG key; the step folds its number in.
    frozen: parameters that are not trained (`step_fn`'s fourth argument); not copied, not saved.
    options: how the run is spread, reported, saved and evaluated.

  Returns:
    The final state, on the mesh.

  Raises:
    UserError: the loss is not finite (naming the step), the data end early, the checkpoint is of
      another model or beyond `steps`, or saving fails.
    interruption.Interrupted: SIGTERM or Ctrl-C came; the last step done is saved.
  """
  first = state if callable(state) else functools.partial(_itself, state)
  del state
  driver = drivers.driver(options.mesh, options.parallel)
  constants: list[Any] = [key] if frozen is None else [key, frozen]
  begun = [_resume(first, batches, options.checkpoint, steps)]
  shapes = _shapes(begun[0])
  start = int(begun[0]["step"])
  work = Work(step_fn, (shapes, *constants), options.mesh, options.parallel)
  reporter = _reporter(options, steps, work)
  state = _own(driver.place, begun.pop())
  host.release_freed_memory()
  constants = [driver.place(tree) for tree in constants]
  if options.metrics:
    options.metrics.rewind(options.label, start)
  compiled = driver.compile(step_fn, state, frozen is not None)
  agree_to_stop = partitioning.make_agreement(options.mesh)
  with Saver(options.checkpoint, batches) as saver:
    pauses = _Pauses(options, steps, driver, reporter, saver)
    pauses.before_first(start, state)
    for step in range(start + 1, steps + 1):
      batch = _next_batch(batches, options.label, step)
      with _traced(options.profile, step - start):
        state, scalars = compiled(state, driver.shard(batch), *constants)
      if jax.default_backend() == "cpu":
        # For a process that used its devices before host.run_programs_in_turn was called.
        jax.block_until_ready(scalars)
      reporter.add(step, scalars, batch)
      pauses.after(step, state)
      if agree_to_stop(interruption.requested_signal()):
        reporter.catch_up()
        saver.save(step, driver.unplace(state), wait=True)
        interruption.raise_if_requested()
    reporter.close()
  return driver.unplace(state)


class _Pauses:
  """Evaluations and checkpoints between the steps of a run."""

  def __init__(
    self,
    options: Options,
    steps: int,
    driver: drivers.Driver,
    reporter: Reporter,
    saver: Saver,
  ) -> None:
    self._evaluation = options.evaluation
    self._checkpoint = options.checkpoint
    self._steps = steps
    self._driver = driver
    self._reporter = reporter
    self._saver = saver

  def before_first(self, start: int, state: TrainState) -> None:
    """Evaluates the state that a run starts from, where that is asked for."""
    if self._evaluation and start in self._evaluation.steps:
      self._evaluate(self._evaluation, start, self._driver.unplace(state))

  def after(self, step: int, state: TrainState) -> None:
    """Evaluates and saves the state after a step, where that is due."""
    evaluation = self._evaluation
    is_evaluated = evaluation is not None and step in evaluation.steps
    is_saved = self._is_saved_after(step)
    if not (is_evaluated or is_saved):
      return
    # A loss that is not finite stops the run before anything is kept of it.
    self._reporter.catch_up()
    with self._reporter.pause():
      if evaluation is not None and is_evaluated:
        self._evaluate(evaluation, step, self._driver.unplace(state))
      if is_saved and step == self._steps:
        self._saver.finish(step, self._driver.unplace(state))
      elif is_saved:
        self._saver.save(step, self._driver.unplace(state))

  def _is_saved_after(self, step: int) -> bool:
    checkpoint = self._checkpoint
    if checkpoint is None:
      return False
    return step == self._steps or (checkpoint.every > 0 and step % checkpoint.every == 0)

  def _evaluate(
    self,
    evaluation: Evaluation,
    step: int,
    state: TrainState,
  ) -> None:
    """Evaluates; an interrupted evaluation saves its step, and alone is to be done again."""
    host.release_freed_memory()  # the step's scratch: an evaluation's memory is of other sizes
    try:
      evaluation.evaluate(step, evaluation.weights(state))
      host.release_freed_memory()
    except interruption.Interrupted:
      if step:
        self._saver.save(step, state, wait=True)
      raise


def _reporter(
  options: Options,
  steps: int,
  work: Work,
) -> Reporter:
  folder = options.checkpoint.folder if options.checkpoint else None
  return Reporter(options.label, steps, work, options.metrics, options.log_every, folder)


def _itself(state: TrainState) -> TrainState:
  return state


def _shapes(tree: Any) -> Any:
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), tree)


def _own(place: Callable[[TrainState], TrainState], state: TrainState) -> TrainState:
  """Returns a placed state, every leaf copied, one at a time.

  A leaf that nobody else holds is freed when it is copied.

  The first step donates its input, which must not be the caller's. `device_put(...,
  may_alias=False)` is not enough: replicating still hands over the buffer of the device on which
  the array lies already.
  """
  leaves, structure = jax.tree.flatten(place(state))
  del state
  for index in range(len(leaves)):
    # Waited for: copies that are only asked for would all have their memory at once.
    leaves[index] = jax.block_until_ready(jnp.array(leaves[index], copy=True))
  return structure.unflatten(leaves)


def _resume(
  first: Callable[[], TrainState],
  batches: Iterator[Batch],
  checkpoint: Checkpointing | None,
  steps: int,
) -> TrainState:
  """Returns the state of the newest checkpoint, or the first; sets the loader's state."""
  if checkpoint is None:
    return first()
  if not isinstance(batches, ResumableBatches):
    raise ValueError(
      "expected batches with get_state and set_state, as the checkpoint holds their state"
    )
  begun = [first()]
  shapes = _shapes(begun[0])
  if store.agreed_latest_step(checkpoint.folder) is not None:
    begun.clear()  # not both in memory
  like = {"params": shapes["params"], "opt_state": shapes["opt_state"]}
  saved = store.restore_newest(checkpoint.folder, like, finished=steps)
  if saved is None:
    return begun.pop() if begun else first()
  step = saved["step"]
  if step > steps:
    raise UserError(
      f"{checkpoint.folder}: expected a checkpoint of at most {steps} steps, got one of "
      f"{step}; ask for as many steps or choose another folder"
    )
  batches.set_state(saved["loader_state"])
  has_all = saved["opt_state"] is not None
  return {
    "params": saved["params"],
    # A finished training's is not read any more.
    "opt_state": saved["opt_state"] if has_all else first()["opt_state"],
    "step": jnp.asarray(step, jnp.int32),
  }


@contextlib.contextmanager
def _traced(profile: Profile | None, step: int) -> Iterator[None]:
  """Starts and ends the trace of a Profile around the steps, counted from 1 in this run, it has."""
  if profile and step == profile.skip + 1:
    jax.profiler.start_trace(profile.folder)
  yield
  if profile and step == profile.skip + profile.steps:
    jax.effects_barrier()
    jax.profiler.stop_trace()
    messages.say(f"  trace of {profile.steps} steps: {profile.folder}")


def _next_batch(
  batches: Iterator[Batch],
  label: str,
  step: int,
) -> Batch:
  """Returns the next batch; says so where it takes long to come."""
  late = threading.Timer(_LATE, _print_late, [label, step])
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


def _print_late(label: str, step: int) -> None:
  say = messages.say if processes.is_first() else messages.say_aside
  say(
    f"  {label}: waiting for the data of step {step} for {_LATE:g} s now; is their disk slow or "
    "gone?"
  )

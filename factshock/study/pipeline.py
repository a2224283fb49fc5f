"""An experiment from config to report, in stages that processes share and a rerun goes on with."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax

from factshock.checkpoints import store
from factshock.devices import host, partitioning
from factshock.facts import splits
from factshock.report import page
from factshock.runtime import interruption, locks, messages, processes, provenance
from factshock.runtime.errors import UserError
from factshock.runtime.progress import format_duration
from factshock.runtime.workdir import Workdir
from factshock.study import answers, checks, diagnosis, ownership, seed_run, training, weights
from factshock.study import config as configs
from factshock.study.arms import finetune, registry
from factshock.study.config import Config
from factshock.study.seed_run import SeedRun

# The stage that trains the pretrained model, and the lock of preparing facts and text; no arm may
# have these names (predictions/points.py).
PRETRAINED = "pretrained"
PREPARING = "preparing"

_WAIT_SECONDS = 2.0  # between two looks at what other processes do
_SEEN = 0.05  # share of the work that must be done before the time left is estimated
EXAMPLES_ASKED = 3000  # by a point, roughly; they count in estimates of the time left

# A seed and an arm, or PRETRAINED in its place.
Stage: TypeAlias = tuple[int, str]


def run(config: Config, workdir: str | os.PathLike[str]) -> dict[str, Any] | None:
  """Runs every arm of every seed that is not done yet, then writes diagnosis.json and report.html.

  Several processes that work as one (processes.join) run each stage together; the first writes.

  Returns:
    The diagnosis; None in a process that is not the first.

  Raises:
    UserError: a config that cannot be used, or a workdir of another experiment.
    interruption.Interrupted: SIGTERM or Ctrl-C came; what was done is kept.
  """
  checks.check(config)
  checks.check_inputs(config)
  for note in checks.notes(config):
    messages.say(f"  {note}")
  workdir = Workdir.of(workdir)
  with interruption.signals_end_run(), ownership.at_work(config, workdir):
    return _run_at_work(config, workdir)


def _run_at_work(config: Config, workdir: Workdir) -> dict[str, Any] | None:
  host.keep_freed_memory()
  host.run_programs_in_turn()
  host.use_compilation_cache()
  partitioning.use_cpu_devices(config.cpu_devices)
  mesh = partitioning.make_mesh(config.mesh.to_dict())
  checks.check_devices(config, mesh)
  began = time.monotonic()
  description = provenance.describe_run()
  provenance.append_run(workdir.runs, description)
  if not processes.is_first():
    with interruption.signals_caught():
      run_stages(config, workdir, mesh)
    return None
  stages_run = _run_as_first(config, workdir, mesh)
  messages.say("diagnosis and report")
  seconds = round(time.monotonic() - began, 1)
  run_facts = {**description, "seconds": seconds, "stages_run": stages_run}
  diagnosed = diagnosis.diagnose(config, workdir, run_facts)
  page.write_report(diagnosed, workdir.path)
  return diagnosed


def _run_as_first(
  config: Config,
  workdir: Workdir,
  mesh: jax.sharding.Mesh,
) -> int:
  """Runs the stages in the process that chooses them; returns how many of all are done."""
  stages = _stages(config)
  clock = Clock(config, [stage for stage in stages if not is_done(config, workdir, *stage)])
  done_before = len(stages) - len(clock.left)
  devices = mesh.devices.flat
  messages.say(
    f"{len(stages)} stages, {done_before} of them done before; "
    f"{len(devices)} {devices[0].platform} device(s)"
  )
  with interruption.signals_caught():
    run_stages(config, workdir, mesh, clock)
  return len(stages) - len(clock.left)


def _stages(config: Config) -> list[Stage]:
  names = stage_names(config)
  return [(seed, name) for seed in configs.seeds(config) for name in names]


def stage_names(config: Config) -> list[str]:
  """Returns the stages of a seed: PRETRAINED, unless there is nothing to pretrain, and the arms."""
  names = order(config)
  return names if training.starts_ready(config) else [PRETRAINED, *names]


def order(config: Config) -> list[str]:
  """Returns the arms in an order in which those that an arm needs come before it.

  Raises:
    UserError: arms need one another in a circle.
  """
  waiting = list(config.arms)
  ordered: list[str] = []
  while waiting:
    ready = [name for name in waiting if set(registry.needs(config, name)) <= set(ordered)]
    if not ready:
      raise UserError(f"config.arms: {', '.join(waiting)} need one another in a circle")
    ordered.append(ready[0])
    waiting.remove(ready[0])
  return ordered


def run_stages(
  config: Config,
  workdir: Workdir,
  mesh: jax.sharding.Mesh,
  clock: "Clock | None" = None,
) -> None:
  """Runs the stages that are not done yet, each under a lock.

  Several processes, or machines with one folder, share them.

  Args:
    config: of the experiment.
    workdir: where it stands.
    mesh: devices that compute.
    clock: of the stages; None in a process that learns from the first which stage is next.
  """
  prepared = functools.lru_cache(maxsize=1)(functools.partial(_prepared, config, workdir, mesh))
  while True:
    interruption.raise_if_requested()
    with contextlib.ExitStack() as held:
      stage = processes.broadcast(lambda: _next_stage(config, workdir, clock, held), "stage")
      if not stage:
        interruption.raise_if_requested()
        return
      _run_stage(*stage, prepared, clock)
      processes.barrier("stage done")


def _next_stage(
  config: Config,
  workdir: Workdir,
  clock: "Clock | None",
  held: contextlib.ExitStack,
) -> Stage | None:
  """Returns a stage that is to be run, having taken its lock.

  It is None where all are done, or where this process is asked to stop while it waits for others.

  Args:
    config: of the experiment.
    workdir: where it stands.
    clock: of the stages; the first process has one.
    held: gets the lock, and releases it at its end.
  """
  if clock is None:
    raise ValueError("the process that chooses stages needs a clock")
  waited = False
  while clock.left and not interruption.requested_signal():
    for seed, name in list(clock.left):
      lock_path = workdir.lock(seed, name)
      if is_done(config, workdir, seed, name) and not locks.is_locked(lock_path):
        clock.forget(seed, name)  # another process ran it
      elif is_ready(config, workdir, seed, name):
        lock = contextlib.ExitStack()
        is_taken = lock.enter_context(locks.try_lock(lock_path))
        if is_taken and not is_done(config, workdir, seed, name):
          held.push(lock)
          return seed, name
        lock.close()
    if clock.left:
      if not waited:
        messages.say(
          f"waiting for {len(clock.left)} stages that other processes are at, or that need these"
        )
      waited = True
      time.sleep(_WAIT_SECONDS)
  return None


def _run_stage(
  seed: int,
  name: str,
  prepared: Callable[[int], SeedRun],
  clock: "Clock | None",
) -> None:
  run_of_seed = prepared(seed)
  messages.say(f"seed {seed}: {name} ({clock.describe() if clock else ''})")
  if name == PRETRAINED:
    weights.pretrained(run_of_seed)
  else:
    registry.run(run_of_seed, name)
  host.release_freed_memory()
  if clock:
    clock.finish(seed, name)


def _prepared(
  config: Config,
  workdir: Workdir,
  mesh: jax.sharding.Mesh,
  seed: int,
) -> SeedRun:
  """Returns a seed, and prints its sets; one process at a time, as all write the same files."""
  lock = locks.wait_for_lock(
    workdir.lock(seed, PREPARING),
    message=f"seed {seed}: another process prepares facts and text",
  )
  with (
    processes.first_process_first("facts and text"),
    lock if processes.is_first() else contextlib.nullcontext(),
  ):
    messages.say(f"seed {seed}: preparing facts and text")
    prepared = seed_run.prepare(config, workdir, seed, mesh)
    checks.check_shots(prepared)
  for name, facts in prepared.sets.items():
    messages.say("  " + splits.describe(name, facts))
    if name not in ("pool", *answers.SPLITS):
      messages.say("  " + splits.describe_against(facts, prepared.sets["test"]))
  return prepared


def is_ready(
  config: Config,
  workdir: Workdir,
  seed: int,
  name: str,
) -> bool:
  """Returns whether all that a stage needs is there, and nobody is at it any more."""
  if name == PRETRAINED:
    return True
  return all(
    is_done(config, workdir, seed, need) and not locks.is_locked(workdir.lock(seed, need))
    for need in (PRETRAINED, *registry.needs(config, name))
  )


def is_done(
  config: Config,
  workdir: Workdir,
  seed: int,
  name: str,
) -> bool:
  """Returns whether a stage's results are all there.

  They are its answers, and its weights where arms that are not done need them.
  """
  if name == PRETRAINED:
    is_given = training.starts_ready(config)
    return is_given or _is_trained(config.pretrain.steps, workdir, seed, name)
  points = registry.points(config, name)
  if not all(answers.answered(config, workdir, point, seed) for point in points):
    return False
  if not registry.kind_of(config, name).trains:
    return True
  # Answers are written before the last checkpoint is.
  if _is_trained(finetune.settings(config, name).steps, workdir, seed, name):
    return True
  needing = [other for other in config.arms if name in registry.needs(config, other)]
  return all(is_done(config, workdir, seed, other) for other in needing)


def _is_trained(
  steps: int,
  workdir: Workdir,
  seed: int,
  name: str,
) -> bool:
  return store.latest_step(workdir.checkpoints(name, seed)) == steps


class Clock:
  """Time left of the whole experiment, from the work each stage has and the time it took so far.

  Attributes:
    left: stages that are not done.
  """

  def __init__(
    self,
    config: Config,
    stages: Iterable[Stage],
    asked: int = EXAMPLES_ASKED,
  ) -> None:
    """Starts the clock.

    Args:
      config: the experiment's.
      stages: those that are not done.
      asked: how many facts a point of an arm asks.
    """
    self.left = list(stages)
    self._config = config
    self._asked = asked
    self._finished_work = 0.0
    self._finished_stages = 0
    self._began = time.monotonic()

  def work(self, name: str) -> float:
    """Returns the examples a stage reads; trained ones count three times those only asked."""
    config = self._config
    if name == PRETRAINED:
      return 3.0 * config.pretrain.steps * config.pretrain.batch_size
    asked = float(self._asked * len(registry.points(config, name)))
    if not registry.kind_of(config, name).trains:
      return asked
    section = finetune.settings(config, name)
    rows = section.batch_size * (1 + config.arms[name].get("ratio", 0))
    return asked + 3.0 * section.steps * rows

  def finish(self, seed: int, name: str) -> None:
    """Takes out a stage that this process has run, and counts its work."""
    self.forget(seed, name)
    self._finished_work += self.work(name)
    self._finished_stages += 1

  def forget(self, seed: int, name: str) -> None:
    """Takes out a stage that this process need not run."""
    self.left.remove((seed, name))

  def describe(self) -> str:
    """Returns how many stages are left and the time they may take, in words."""
    elapsed = time.monotonic() - self._began
    described = f"{len(self.left)} stages to go, {format_duration(elapsed)} elapsed"
    work_left = sum(self.work(name) for _, name in self.left)
    seen = self._finished_work / max(self._finished_work + work_left, 1e-9)
    if self._finished_stages < 2 or seen < _SEEN:
      return described
    return described + f", about {format_duration(elapsed * work_left / self._finished_work)} left"

"""An experiment from config to report: its stages, shared with other processes, and going on where it was interrupted."""

import contextlib
import functools
import time

from factshock.checkpoints import store
from factshock.devices import host, partitioning
from factshock.facts import splits
from factshock.report import page
from factshock.runtime import interruption, locks, processes, provenance
from factshock.runtime.console import format_duration
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir
from factshock.study import answers, checks, diagnosis, ownership, seed_run, training, weights
from factshock.study import arms as arm_room
from factshock.study import config as configs

_WAIT = 2.0  # seconds between two looks at what other processes do


def run(config, workdir):
  """Runs every arm of every seed that is not done yet, then writes diagnosis.json and report.html.

  Several processes that work as one (processes.join) run each stage together; the first writes.

  Returns:
    The diagnosis; None in a process that is not the first.

  Raises:
    UserError: a config that cannot be used, or a workdir of another experiment.
    interruption.Interrupted: SIGTERM or Ctrl-C came; what was done is kept.
  """

  checks.check(config)
  workdir = Workdir.of(workdir)
  ownership.claim(config, workdir)
  host.keep_freed_memory()
  host.use_compilation_cache()
  partitioning.use_cpu_devices(config.cpu_devices)
  mesh = partitioning.make_mesh(config.mesh.to_dict())
  began = time.monotonic()
  start = provenance.describe_run()
  provenance.append_run(workdir.runs, start)
  if not processes.is_first():
    with interruption.signals_caught():
      run_stages(config, workdir, mesh)
    return None
  stages = [
    (seed, name) for seed in configs.seeds(config) for name in [arm_room.PRETRAINED, *order(config)]
  ]
  clock = Clock(config, [stage for stage in stages if not done(config, workdir, *stage)])
  print(
    f"{len(stages)} stages, {len(stages) - len(clock.left)} of them done before; "
    f"{len(mesh.devices.flat)} {mesh.devices.flat[0].platform} device(s)",
    flush=True,
  )
  with interruption.signals_caught():
    run_stages(config, workdir, mesh, clock)
  print("diagnosis and report", flush=True)
  found = diagnosis.diagnose(
    config,
    workdir,
    {
      **start,
      "seconds": round(time.monotonic() - began, 1),
      "stages_run": len(stages) - len(clock.left),
    },
  )
  page.write_report(found, workdir.path)
  return found


def order(config):
  """The arms in an order in which those that an arm needs come before it."""
  waiting = list(config.arms)
  ordered = []
  while waiting:
    ready = [
      name for name in waiting if all(need in ordered for need in arm_room.needs(config, name))
    ]
    if not ready:
      raise UserError(f"config.arms: {', '.join(waiting)} need one another in a circle")
    ordered.append(ready[0])
    waiting.remove(ready[0])
  return ordered


def run_stages(config, workdir, mesh, clock=None):
  """Runs the stages that are not done yet, each under a claim; several processes, or machines with one folder, share them.

  Args:
    clock: the Clock of the stages; None in a process that is told by the first which stage is next.
  """
  study_of = functools.lru_cache(maxsize=1)(functools.partial(_prepared, config, workdir, mesh))
  while True:
    interruption.raise_if_requested()
    with contextlib.ExitStack() as held:
      stage = processes.broadcast(lambda: _next_stage(config, workdir, clock, held), "stage")
      if not stage:
        interruption.raise_if_requested()
        return
      _run_stage(*stage, study_of, clock)
      processes.barrier("stage done")


def _next_stage(config, workdir, clock, held):
  """[seed, name] of a stage that is to be run, its claim in the ExitStack `held`; None where all are done, or where this process is
  asked to stop while it waits for what others are at."""
  waited = False
  while clock.left and not interruption.requested_signal():
    for seed, name in list(clock.left):
      path = _claim_path(workdir, seed, name)
      if done(config, workdir, seed, name) and not locks.is_locked(path):
        clock.forget(seed, name)  # by another process
      elif ready(config, workdir, seed, name):
        claim = contextlib.ExitStack()
        if claim.enter_context(locks.try_lock(path)) and not done(config, workdir, seed, name):
          held.push(claim)
          return [seed, name]
        claim.close()
    if clock.left:
      if not waited:
        print(
          f"waiting for {len(clock.left)} stages that other processes are at, or that need these",
          flush=True,
        )
      waited = True
      time.sleep(_WAIT)
  return None


def _run_stage(seed, name, study_of, clock):
  study = study_of(seed)
  print(f"seed {seed}: {name} ({clock.say() if clock else ''})", flush=True)
  if name == arm_room.PRETRAINED:
    weights.pretrained(study)
  else:
    arm_room.run(study, name)
  if clock:
    clock.finish(seed, name)


def _claim_path(workdir, seed, name):
  return workdir.lock(seed, name)


def _prepared(config, workdir, mesh, seed):
  """The Study of a seed, said; one process at a time, as all write the same files."""
  claim = locks.wait_for_lock(
    _claim_path(workdir, seed, "preparing"),
    message=f"seed {seed}: another process prepares facts and text",
  )
  with (
    processes.first_process_first("facts and text"),
    claim if processes.is_first() else contextlib.nullcontext(),
  ):
    print(f"seed {seed}: preparing facts and text", flush=True)
    study = seed_run.prepare(config, workdir, seed, mesh)
  for name, facts in study.sets.items():
    print("  " + splits.describe(name, facts), flush=True)
    if name not in ("pool", *answers.SPLITS):
      print("  " + splits.describe_against(facts, study.sets["test"]), flush=True)
  return study


def ready(config, workdir, seed, name):
  """Whether all that a stage needs is there, and nobody is at it any more."""
  needed = (
    [] if name == arm_room.PRETRAINED else [arm_room.PRETRAINED, *arm_room.needs(config, name)]
  )
  return all(
    done(config, workdir, seed, need) and not locks.is_locked(_claim_path(workdir, seed, need))
    for need in needed
  )


def done(config, workdir, seed, name):
  """Whether a stage's results are all there: its answers, and its weights where arms that are not done need them."""
  if name == arm_room.PRETRAINED:
    return training.starts_ready(config) or _trained(config.pretrain.steps, workdir, seed, name)
  if not all(
    answers.answered(config, workdir, label, seed) for label in arm_room.points(config, name)
  ):
    return False
  # Answers are written before the last checkpoint is.
  return (
    config.arms[name].kind != "finetune"
    or _trained(arm_room.settings(config, name).steps, workdir, seed, name)
    or all(
      done(config, workdir, seed, other)
      for other in config.arms
      if name in arm_room.needs(config, other)
    )
  )


def _trained(steps, workdir, seed, name):

  return store.latest_step(workdir.checkpoints(name, seed)) == steps


class Clock:
  """Time left of the whole experiment, from the work each stage has and the time it took so far."""

  def __init__(self, config, stages):
    self.config = config
    self.left = list(stages)
    self.finished = 0.0
    self.began = time.monotonic()

  def work(self, name):
    """Examples a stage reads: trained ones count three times those that are only asked."""
    if name == arm_room.PRETRAINED:
      return 3.0 * self.config.pretrain.steps * self.config.pretrain.batch_size
    arm = self.config.arms[name]
    asked = 3000.0 * len(arm_room.points(self.config, name))
    if arm.kind != "finetune":
      return asked
    section = arm_room.settings(self.config, name)
    return asked + 3.0 * section.steps * section.batch_size * (1 + arm.get("ratio", 0))

  def finish(self, seed, name):
    self.forget(seed, name)
    self.finished += self.work(name)

  def forget(self, seed, name):
    """Takes out a stage that this process need not run."""
    self.left.remove((seed, name))

  def say(self):
    elapsed = time.monotonic() - self.began
    left = sum(self.work(name) for _, name in self.left)
    eta = f", about {format_duration(elapsed * left / self.finished)} left" if self.finished else ""
    return f"{len(self.left)} stages to go, {format_duration(elapsed)} elapsed{eta}"

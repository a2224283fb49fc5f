"""Finetuning of one model on all facts of a file, outside of a study: the train verb."""

import contextlib
import functools
import tempfile
from collections.abc import Iterator

import jax
import numpy as np

from factshock.checkpoints import store, tree_files
from factshock.devices import host, partitioning
from factshock.facts import splits
from factshock.models import families
from factshock.runtime import interruption, locks, messages, processes, provenance
from factshock.runtime.errors import UserError
from factshock.runtime.settings import raise_if_any
from factshock.runtime.workdir import Workdir
from factshock.study import (
  checks,
  input_checks,
  ownership,
  seed_run,
  step_shapes,
  study_data,
  training,
  weights,
)
from factshock.study import config as configs
from factshock.study.arms import registry
from factshock.study.config import Config
from factshock.study.finetuning_examples import FinetuningData
from factshock.study.seed_run import SeedRun
from factshock.training import dry_run as planning
from factshock.training.settings import FinetuningConfig
from factshock.types import FilePath

NAME = "finetuned"


def run(
  config: Config,
  folder: FilePath,
  *,
  seed: int = 0,
  ratio: float = 0.0,
  profile_steps: int = 0,
) -> str:
  """Finetunes the model of a config on all of config.facts; goes on where it was interrupted.

  Args:
    config: of the experiment.
    folder: the workdir, where facts, checkpoints and metrics are written.
    seed: of everything random.
    ratio: examples of the pretraining task on config.corpus mixed in with each question.
    profile_steps: of how many steps a trace is written to WORKDIR/profile.

  Returns:
    The folder of the checkpoint.

  Raises:
    UserError: a config that cannot be used, or a workdir of something else.
    interruption.Interrupted: SIGTERM or Ctrl-C came; what was done is kept.
  """
  check(config, ratio)
  check_inputs(config)
  workdir = Workdir.of(folder)
  told = {"train": {"ratio": ratio}}
  with (
    interruption.signals_end_run(),
    ownership.at_work(config, workdir, told),
    _training_alone(workdir, seed),
  ):
    return _run_at_work(config, workdir, seed, ratio, profile_steps)


@contextlib.contextmanager
def _training_alone(workdir: Workdir, seed: int) -> Iterator[None]:
  """Keeps other processes from training the same seed in a workdir.

  Raises:
    UserError: one is at it.
  """
  if not processes.is_first():
    yield
    return
  path = workdir.lock(seed, NAME)
  with locks.try_lock(path) as is_ours:
    if not is_ours:
      raise UserError(
        f"{workdir}: {locks.holder_of(path)} is training seed {seed} there; wait for it, or "
        "choose another --workdir or --seed"
      )
    yield


def _run_at_work(
  config: Config,
  workdir: Workdir,
  seed: int,
  ratio: float,
  profile_steps: int,
) -> str:
  host.keep_freed_memory()
  host.run_programs_in_turn()
  host.use_compilation_cache()
  mesh = _make_mesh(config)
  trainings = checks.trainings_of_one(config, ratio)
  raise_if_any(checks.device_problems(trainings, mesh, config.parallel))
  provenance.append_run(workdir.runs, {**provenance.describe_run(), "seed": seed, "ratio": ratio})
  checkpoints = workdir.checkpoints(NAME, seed)
  if store.agreed_latest_step(checkpoints) == config.finetune.steps:
    messages.say(
      f"{checkpoints}: finished before, nothing to do; choose another --workdir to train anew"
    )
    return checkpoints
  with processes.first_process_first("facts and text"):
    study_run = _assemble(config, workdir, seed, mesh)
  _finetune_on_pool(study_run, ratio, profile_steps)
  return checkpoints


def _finetune_on_pool(
  study_run: SeedRun,
  ratio: float,
  profile_steps: int,
) -> None:
  facts = study_run.sets["pool"]
  messages.say("  " + splits.describe("facts", facts))
  with interruption.signals_caught():
    training.finetune(
      study_run,
      NAME,
      FinetuningData(facts, ratio=ratio),
      FinetuningConfig.of(study_run.config.finetune),
      functools.partial(weights.pretrained, study_run),
      profile_steps=profile_steps,
    )


def reproducible(
  config: Config,
  *,
  seed: int = 0,
  ratio: float = 0.0,
  steps: int = 20,
) -> list[str]:
  """Trains the first steps twice from the start weights and compares all bits.

  Nothing is written.

  Args:
    config: of the experiment.
    seed: of everything random.
    ratio: as in `run`.
    steps: how many are trained.

  Returns:
    Names of the weights in which the two differ: none where training is reproducible.
  """
  check(config, ratio)
  mesh = _make_mesh(config)
  section = FinetuningConfig.of(config.finetune).with_steps(steps)
  first, second = (_train_once(config, seed, ratio, section, mesh) for _ in range(2))
  return [name for name, leaf in first.items() if leaf.tobytes() != second[name].tobytes()]


def _train_once(
  config: Config,
  seed: int,
  ratio: float,
  section: FinetuningConfig,
  mesh: jax.sharding.Mesh,
) -> dict[str, np.ndarray]:
  """Returns the weights by name after a training in a folder that is removed."""
  with tempfile.TemporaryDirectory() as folder:
    run = _assemble(config, Workdir(folder), seed, mesh)
    read = weights.start_weights if config.start_from else weights.random_params
    start = functools.partial(read, run)
    data = FinetuningData(run.sets["pool"], ratio=ratio)
    trained = training.finetune(run, NAME, data, section, start)
    return {name: np.asarray(leaf) for name, leaf in tree_files.flat_leaves(trained).items()}


def _assemble(
  config: Config,
  workdir: Workdir,
  seed: int,
  mesh: jax.sharding.Mesh,
) -> SeedRun:
  """Returns a run that has all facts of a config in its pool."""
  data = study_data.load(config, workdir, seed)
  return seed_run.assemble(config, workdir, seed, mesh, data, {"pool": data.facts})


def _make_mesh(config: Config) -> jax.sharding.Mesh:
  partitioning.use_cpu_devices(config.cpu_devices)
  return partitioning.make_mesh(config.mesh.to_dict())


def check(config: Config, ratio: float) -> None:
  """Checks a config for training alone: its arms do not count.

  Raises:
    UserError: names every problem.
  """
  configs.check(config, registry.schemas())
  problems = checks.training_problems(checks.trainings_of_one(config, ratio))
  if ratio and config.facts != "world" and not config.corpus:
    problems.append(f"--ratio={ratio:g} needs config.corpus=PATH, the text of the pretraining task")
  raise_if_any(problems)


def check_inputs(config: Config) -> None:
  """Checks the files that a checked config names, and that all facts can be asked.

  Raises:
    UserError: names every problem.
  """
  raise_if_any(input_checks.problems(config, {config.finetune.prompt: ["train"]}))


def dry_run(config: Config, ratio: float = 0.0) -> list[str]:
  """Returns lines that say what the training of a config will take.

  Reads no facts and allocates no model.

  Raises:
    UserError: a config that cannot be used, or one that leaves the vocabulary to a tokenizer.
  """
  check(config, ratio)
  if not config.model.vocab_size:
    raise UserError(
      "config.model.vocab_size: a dry run needs the number of tokens, got 0 (the tokenizer's); "
      "give it"
    )
  step_shapes.import_libraries(config)
  mesh = _make_mesh(config)
  section = FinetuningConfig.of(config.finetune)
  platform = mesh.devices.flat[0].platform
  model_config = families.from_section(config.model.to_dict(), 0, platform)
  rows = round(section.batch_size * (1 + ratio))
  shapes = step_shapes.of(model_config, section, rows)
  return [
    f"{config.model.family}: {rows:,} rows of {section.input_length} + {section.target_length} "
    f"tokens a step, {section.steps:,} steps",
    *planning.describe(
      shapes.step_fn,
      shapes.state,
      shapes.batch,
      mesh,
      shapes.frozen,
      saves=section.checkpoint_every < section.steps,
    ),
  ]

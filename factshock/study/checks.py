"""Checks that a config can be run, before any work: all problems of a kind are named at once.

Those of the config alone come first, then those of the files it names, then those of the devices.
"""

import functools
import math
from collections.abc import Iterable
from typing import TypeAlias

import jax

from factshock.devices import partitioning
from factshock.predictions import points
from factshock.runtime.settings import attempt, raise_if_any
from factshock.study import answers, input_checks, pretraining_text
from factshock.study import config as configs
from factshock.study.arms import finetune, registry
from factshock.study.config import Config
from factshock.study.seed_run import Question, SeedRun
from factshock.training import drivers, optimizers
from factshock.training.settings import FinetuningConfig, PretrainingConfig, TrainingConfig

# A training by its name in errors, and how many rows its batches have.
Trainings: TypeAlias = Iterable[tuple[str, TrainingConfig, int]]


def check(config: Config) -> None:
  """Checks a config, its arms included.

  Raises:
    UserError: names every problem.
  """
  raise_if_any(configs.key_problems(config))
  arms_problems = configs.arms_problems(config, registry.schemas())
  problems = [
    *arms_problems,
    *configs.joint_problems(config),
    *_name_problems(config),
  ]
  if not arms_problems:
    problems += _text_problems(config)
    for name in config.arms:
      problems += registry.kind_of(config, name).problems(config, name)
    problems += training_problems(_trainings(config))
  raise_if_any(problems)


def check_inputs(config: Config) -> None:
  """Checks the files that a checked config names, and that all facts can be asked as arms ask.

  Raises:
    UserError: names every problem.
  """
  raise_if_any(input_checks.problems(config, asked_by(config), _cloze_askers(config)))


def check_devices(config: Config, mesh: jax.sharding.Mesh) -> None:
  """Checks that devices can share the batches of all trainings.

  Raises:
    UserError: names every problem.
  """
  raise_if_any(device_problems(_trainings(config), mesh, config.parallel))


def check_shots(run: SeedRun) -> None:
  """Checks that there are enough facts to be answered before each question of an arm with shots.

  Raises:
    UserError: names every arm for which there are not.
  """
  problems: list[str] = []
  for name, arm in run.config.arms.items():
    if arm.get("shots"):
      question = Question(arm.prompt, arm.shots, arm.get("facts", "pool"))
      for split in answers.SPLITS:
        ask = functools.partial(run.prompt_texts, run.sets[split], question)
        attempt(ask, problems, f"config.arms.{name}: ")
  raise_if_any(problems)


def notes(config: Config) -> list[str]:
  """Returns what of a checked config has no effect, a line each."""
  lines = []
  sections = {"config.finetune": config.finetune}
  for name, arm in config.arms.items():
    if registry.kind_of(config, name).trains and {"eval_steps", "steps"} & set(arm):
      sections[f"config.arms.{name}"] = {**config.finetune.to_dict(), **arm}
  for path, section in sections.items():
    beyond = [step for step in section["eval_steps"] if step > section["steps"]]
    if beyond:
      listed = ", ".join(map(str, beyond))
      lines.append(
        f"{path}.eval_steps: {listed} lie beyond the {section['steps']} steps and are left out"
      )
  return lines


def asked_by(config: Config) -> dict[str, list[str]]:
  """Returns the arms by the prompt that they ask facts by."""
  arms: dict[str, list[str]] = {}
  for name, arm in config.arms.items():
    if registry.kind_of(config, name).trains:
      arms.setdefault(finetune.settings(config, name).prompt, []).append(name)
    elif "prompt" in arm:
      arms.setdefault(arm.prompt, []).append(name)
  return arms


def _cloze_askers(config: Config) -> list[str]:
  """Returns the arms that choose among the statements of a relation."""
  return [name for name, arm in config.arms.items() if arm.kind == "best_cloze"]


def _trainings(config: Config) -> list[tuple[str, TrainingConfig, int]]:
  """Returns every training of an experiment."""
  trainings = pretraining_of(config)
  for name, arm in config.arms.items():
    if registry.kind_of(config, name).trains:
      section = finetune.settings(config, name)
      rows = round(section.batch_size * (1 + arm.get("ratio", 0)))
      trainings.append((f"config.arms.{name}", section, rows))
  return trainings


def trainings_of_one(config: Config, ratio: float) -> list[tuple[str, TrainingConfig, int]]:
  """Returns the trainings of a finetuning without arms, as `_trainings` does."""
  section = FinetuningConfig.of(config.finetune)
  rows = round(section.batch_size * (1 + ratio))
  return [*pretraining_of(config), ("config.finetune", section, rows)]


def pretraining_of(config: Config) -> list[tuple[str, TrainingConfig, int]]:
  """Returns the pretraining of a config, if there is one."""
  section = PretrainingConfig.of(config.pretrain)
  return [("config.pretrain", section, section.batch_size)] if section.steps else []


def training_problems(trainings: Trainings) -> list[str]:
  """Returns what keeps trainings from their first step, whatever the devices, a line each."""
  problems: list[str] = []
  for path, section, rows in trainings:
    problem = optimizers.schedule_problem(section.optimizer)
    if problem:
      problems.append(f"{path}.{problem}")
    if not section.pack and rows % section.accumulate:
      problems.append(
        f"{path}.accumulate: expected a divisor of the {rows} rows of a batch, got "
        f"{section.accumulate}"
      )
  return list(dict.fromkeys(problems))


def device_problems(
  trainings: Trainings,
  mesh: jax.sharding.Mesh,
  parallel: str,
) -> list[str]:
  """Returns the trainings whose batches the devices of a mesh cannot share evenly, a line each."""
  problems: list[str] = []
  attempt(functools.partial(drivers.driver, mesh, parallel), problems)
  devices = partitioning.batch_shard_count(mesh)
  for path, section, rows in trainings:
    multiple = math.lcm(devices, section.accumulate)
    if not section.pack and rows % multiple:
      problems.append(
        f"{path}.batch_size: expected a number of rows (with those of its ratio) that {devices} "
        f"devices and {section.accumulate} microbatches share evenly, got {rows}; choose a "
        f"multiple of {multiple}"
      )
  return problems


def _text_problems(config: Config) -> list[str]:
  """Returns what real facts need of a text that is not there, a line each."""
  if config.facts == "world" or config.corpus:
    return []
  problems = []
  if not config.entity_counts:
    problems.append(
      f"config.facts={config.facts!r} needs config.corpus=PATH too: a text, pretrained on or like "
      "that, that says which answers are common (or config.entity_counts=PATH, from "
      "`factshock count`)"
    )
  readers = [
    name
    for name, arm in config.arms.items()
    if arm.get("ratio", 0) > 0 and arm.get("text") != pretraining_text.REPLAY
  ]
  if readers or config.pretrain.steps > 0:
    needed_by = ", ".join(readers) or "pretraining"
    problems.append(f"config.corpus=PATH: a text, is needed by {needed_by}")
  return problems


def _name_problems(config: Config) -> list[str]:
  """Returns the arms whose names could be taken for something else, a line each."""
  return [
    f"config.arms.{name}: {problem}; choose another name"
    for name, problem in points.name_problems(config.arms).items()
  ]

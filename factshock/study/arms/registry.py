"""All kinds of arms, found in this folder, and what is asked of an arm by its kind."""

import functools
import importlib
import pkgutil

from factshock.predictions.points import Point
from factshock.study import arms
from factshock.study.arms.kind import Advice, Kind
from factshock.study.config import ArmSchema, Config
from factshock.study.seed_run import SeedRun


@functools.cache
def kinds() -> dict[str, Kind]:
  """Returns every kind by its name: those in the list KINDS of each module of this folder.

  Raises:
    ValueError: two kinds have one name.
  """
  by_name: dict[str, Kind] = {}
  for module_info in pkgutil.iter_modules(arms.__path__):
    module = importlib.import_module(f"{arms.__name__}.{module_info.name}")
    for kind in getattr(module, "KINDS", ()):
      if kind.name in by_name:
        raise ValueError(f"{module.__name__}: there is another kind {kind.name!r}")
      by_name[kind.name] = kind
  return by_name


def schemas() -> dict[str, ArmSchema]:
  """Returns the keys that arms may have, by kind."""
  return {name: kind.keys for name, kind in kinds().items()}


def trained_kinds() -> tuple[str, ...]:
  """Returns the names of the kinds that train."""
  return tuple(name for name, kind in kinds().items() if kind.trains)


def asking_kinds() -> tuple[str, ...]:
  """Returns the names of the kinds that ask the pretrained model."""
  return tuple(name for name, kind in kinds().items() if kind.question)


def kind_of(config: Config, name: str) -> Kind:
  """Returns the kind of an arm."""
  return kinds()[config.arms[name].kind]


def points(config: Config, name: str) -> list[Point]:
  """Returns the points of an arm's predictions: one, or one for each step, alpha or tau."""
  return kind_of(config, name).points(config, name)


def needs(config: Config, name: str) -> list[str]:
  """Returns the arms that must have run before an arm."""
  return kind_of(config, name).needs(config, name)


def advice(config: Config, name: str) -> Advice:
  """Returns what an arm needs and costs and when to use it."""
  return kind_of(config, name).advice(config, name)


def group(config: Config, name: str) -> str:
  """Returns the part of an arm in the report: its own, or that of its kind."""
  return config.arms[name].get("group", kind_of(config, name).group)


def run(seed_run: SeedRun, name: str) -> None:
  """Runs one arm of one seed; what is already there is kept."""
  kind_of(seed_run.config, name).run(seed_run, name)

"""Checks that a config can be run: what its arms need of one another, and of the rest."""

from factshock.predictions import points
from factshock.runtime.errors import UserError
from factshock.study import config as configs
from factshock.study.arms import registry
from factshock.study.config import Config


def check(config: Config) -> None:
  """Checks a config, its arms included.

  Raises:
    UserError: names every problem.
  """
  configs.check(config, registry.schemas())
  problems = [*_text_problems(config), *_name_problems(config)]
  for name in config.arms:
    problems += registry.kind_of(config, name).problems(config, name)
  if problems:
    raise UserError("the config cannot be used:\n  " + "\n  ".join(problems))


def _text_problems(config: Config) -> list[str]:
  """Returns what real facts need of a text that is not there, a line each."""
  if config.facts == "world" or config.corpus:
    return []
  problems = []
  if not config.entity_counts:
    problems.append(
      f"config.facts={config.facts!r} needs config.corpus=PATH too: a text, pretrained on or like "
      "that, that says which answers are common (or config.entity_counts=PATH, from "
      "`python -m factshock.count`)"
    )
  readers = [name for name, arm in config.arms.items() if arm.get("ratio", 0) > 0]
  if readers or config.pretrain.steps > 0:
    needed_by = ", ".join(readers) or "pretraining"
    problems.append(f"config.corpus=PATH: is needed by {needed_by}, which read text")
  return problems


def _name_problems(config: Config) -> list[str]:
  """Returns the arms whose names could be taken for something else, a line each."""
  return [
    f"config.arms.{name}: {problem}; choose another name"
    for name, problem in points.name_problems(config.arms).items()
  ]

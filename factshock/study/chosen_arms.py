"""Some arms of a config, with those that they need: experiment --arms=A,B."""

from collections.abc import Sequence

from factshock.runtime.errors import UserError
from factshock.runtime.settings import raise_if_any, unknown_key
from factshock.study import config as configs
from factshock.study.arms import registry
from factshock.study.config import Config


def keep(config: Config, names: Sequence[str]) -> list[str]:
  """Takes all arms out of a config but some and those that they need, directly or not.

  Roles of arms that are taken out are empty then.

  Args:
    config: of an experiment.
    names: the arms that are wanted.

  Returns:
    The arms that are kept because others need them.

  Raises:
    UserError: there is no arm of a name, or an arm of the config cannot be used.
  """
  raise_if_any(configs.arms_problems(config, registry.schemas()))
  for name in names:
    if name not in config.arms:
      raise UserError(unknown_key(f"--arms={name}", name, config.arms))
  kept: set[str] = set()
  waiting = list(names)
  while waiting:
    name = waiting.pop()
    if name not in kept:
      kept.add(name)
      waiting += registry.needs(config, name)
  with config.unlocked():
    for name in list(config.arms):
      if name not in kept:
        del config.arms[name]
    _keep_roles(config)
  return [name for name in config.arms if name not in names]


def _keep_roles(config: Config) -> None:
  """Empties the roles of arms that are not there."""
  for role, value in config.roles.items():
    if isinstance(value, str):
      config.roles[role] = value if value in config.arms else ""
    else:
      config.roles[role] = tuple(name for name in value if name in config.arms)

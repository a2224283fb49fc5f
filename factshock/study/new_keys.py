"""Keys that a config may have and lacks, for flags that set them: --config.arms.ARM.KEY=1."""

from collections.abc import Mapping, Sequence
from typing import Any

from factshock.runtime.errors import UserError
from factshock.runtime.settings import Check, unknown_key
from factshock.study import config as configs
from factshock.study.arms import registry
from factshock.types import Config


def add(config: Config, path: Sequence[str]) -> None:
  """Adds a key that a config lacks, with some value of the type it must have.

  Nothing is added where the config has the key, or has no such section.

  Args:
    config: of an experiment.
    path: names of the sections from the outermost in, then of the key.

  Raises:
    UserError: no such key is known; names the nearest.
  """
  section: Any = config
  for name in path[:-1]:
    if not hasattr(section, "keys") or name not in section:
      return
    section = section[name]
  key = path[-1]
  schema = _schema(config, path[:-1])
  if not hasattr(section, "keys") or key in section or schema is None:
    return
  check = schema.get(key)
  if check is None:
    raise UserError(unknown_key(f"--config.{'.'.join(path)}", key, schema))
  if isinstance(check, Check):
    with section.unlocked():
      section[key] = _value(check.types)


def _schema(config: Config, path: Sequence[str]) -> Mapping[str, Any] | None:
  """Returns the keys that a section may have, each with its check; None: unknown."""
  if len(path) == 2 and path[0] == "arms":
    kind = registry.schemas().get(config.arms[path[1]].get("kind"))
    return None if kind is None else {key: arm_key.check for key, arm_key in kind.items()}
  schema: Any = configs.SCHEMA
  for name in path:
    schema = schema.get(name) if isinstance(schema, Mapping) else None
  return schema if path and isinstance(schema, Mapping) else None


def _value(types: Sequence[type]) -> Any:
  """Returns a value of one of some types: of the one that flags are read as."""
  for type_ in (tuple, float, int, str, bool):
    if type_ in types:
      return type_()
  raise ValueError(f"expected types of a config's values, got {types}")

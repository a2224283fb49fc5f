"""Configs by name, path or as they are, for the Python API; no flag of the process is touched."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from factshock.runtime import config_files
from factshock.runtime.errors import UserError
from factshock.types import Config


def load(config: str | Config, settings: Mapping[str, Any] | None = None) -> Config:
  """Returns the config of a name, such as "demo", or of a path, with some of its keys set anew.

  Args:
    config: a name or path as of --config, or a ConfigDict, which is left as it is.
    settings: values by key, such as {"finetune.steps": 100}.

  Raises:
    UserError: there is no such config or key, or a value of another type.
  """
  own = config_files.load(config) if isinstance(config, str) else ml_collections.ConfigDict(config)
  try:
    own.update_from_flattened_dict(dict(settings or {}))
  except (KeyError, TypeError, ValueError) as error:
    reason = " ".join(str(error.args[0] if error.args else error).split())
    raise UserError(f"settings: expected keys and values of the config: {reason}") from error
  return own


def is_of_theory(config: Config) -> bool:
  """Returns whether a config is one of the one-layer theory, and not of arms."""
  return config.get("study") == "one_layer"

"""Roles of arms: what each is in a study, told by its keys and config.roles, never by its name.

Comparisons, pictures and sentences of the report go by roles. Those of config.roles are FINETUNED,
ZERO_SHOT, CEILING and CORRECTED. An arm finetuned on a set without further options has the set's
name as its role ("popular_half"). Other roles are given by the kinds (arms/kind.py).
"""

from typing import Any

from factshock.study.arms import registry
from factshock.study.config import Config

FINETUNED = "finetuned"
ZERO_SHOT = "zero_shot"
CEILING = "ceiling"
CORRECTED = "corrected"
# Finetuning mixed with the pretraining task, and the same without the loss of its questions.
MIXTURE = "mixture"
TEXT_ALONE = "text_alone"
# Mixings of the finetuned arm with the model before, and of a mixture with it.
WEIGHT_MIXING = "weight_mixing"
OUTPUT_MIXING = "output_mixing"
COMBINED = "combined"
# Finetuning of random weights.
FROM_RANDOM = "from_random"
# The model before finetuning, asked with answered questions in the prompt.
K_SHOT = "k_shot"

_OF_CONFIG = (FINETUNED, ZERO_SHOT, CEILING, CORRECTED)

# The keys of an arm that say nothing of what it does.
_PRESENTATION = ("kind", "title", "group", "attention")


def options(config: Config, name: str) -> dict[str, Any]:
  """Returns what an arm does: its keys but the kind and those of its presentation."""
  return {key: value for key, value in config.arms[name].items() if key not in _PRESENTATION}


def is_plain(config: Config, name: str) -> bool:
  """Returns whether an arm is finetuned on a set of facts without further options."""
  return registry.kind_of(config, name).trains and set(options(config, name)) == {"facts"}


def finetuning_set(config: Config, name: str) -> str | None:
  """Returns the set whose answers an arm learned: its own, that of the arm it is of, or None."""
  arm = config.arms[name]
  if registry.kind_of(config, name).trains:
    return arm.facts
  of = arm.get("of") or next(iter(arm.get("of_arms", ())), None)
  return finetuning_set(config, of) if of else None


def has_main_facts(config: Config, name: str) -> bool:
  """Returns whether an arm learned the facts of the finetuned arm of config.roles, if any."""
  finetuned = config.roles.finetuned
  return not finetuned or finetuning_set(config, name) == finetuning_set(config, finetuned)


def all_but_facts(config: Config, name: str) -> tuple[Any, ...]:
  """Returns what an arm does but for the facts that it, or the arm it is of, learned.

  Two arms that are alike in it differ by their finetuning set alone, if at all.
  """
  kind = registry.kind_of(config, name)
  described = dict(options(config, name))
  if kind.trains:
    del described["facts"]
  if "of" in described:
    described["of"] = all_but_facts(config, described["of"])
  if "of_arms" in described:
    described["of_arms"] = tuple(all_but_facts(config, arm) for arm in described["of_arms"])
  return kind.name, *sorted((key, repr(value)) for key, value in described.items())


def of_arm(config: Config, name: str) -> list[str]:
  """Returns the roles of an arm: its set where it is plain, its kind's, and those of config."""
  roles = [config.arms[name].facts] if is_plain(config, name) else []
  roles += registry.kind_of(config, name).roles(config, name)
  return roles + [role for role in _OF_CONFIG if config.roles[role] == name]


def with_role(config: Config, role: str) -> list[str]:
  """Returns the arms that have a role, in their order in the config."""
  return [name for name in config.arms if role in of_arm(config, name)]

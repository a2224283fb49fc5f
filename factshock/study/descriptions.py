"""Descriptions of a study's arms for its report, which knows neither kinds nor names of arms."""

from typing import TypedDict

from factshock.predictions.points import Point
from factshock.study import roles
from factshock.study.arms import registry
from factshock.study.arms.kind import Advice
from factshock.study.config import Config


class Description(TypedDict):
  """What a report says of an arm, and goes by.

  `roles` say what the arm is in the study (study/roles.py): sets of facts, and "finetuned",
  "mixture" and the like. `needs`, `cost` and `use_when` are of the arm as a remedy, beside plain
  finetuning. `caption` is a sentence on what such an arm is.
  """

  kind: str
  roles: list[str]
  needs: str
  cost: str
  use_when: str
  caption: str


def title(config: Config, label: str) -> str:
  """Returns the title of an arm, or of the arm stopped early."""
  point = Point.parse(label)
  arm_title = config.arms[point.arm].get("title", point.arm)
  return f"{arm_title}, stopped early" if point.is_early else arm_title


def group(config: Config, label: str) -> str:
  """Returns the part in the report of the arm behind a label."""
  return registry.group(config, Point.parse(label).arm)


def describe(config: Config, label: str) -> Description:
  """Returns the description of an arm, or of the arm stopped early, which has no roles."""
  point = Point.parse(label)
  kind = registry.kind_of(config, point.arm)
  advice = (
    _early_advice(config, point.arm) if point.is_early else registry.advice(config, point.arm)
  )
  caption = kind.caption
  if point.is_early:
    caption += " Stopped at the step with most development facts right."
  return {
    "kind": kind.name,
    "roles": [] if point.is_early else roles.of_arm(config, point.arm),
    "needs": advice.needs,
    "cost": advice.cost,
    "use_when": advice.use_when,
    "caption": caption,
  }


def _early_advice(config: Config, name: str) -> Advice:
  if roles.is_plain(config, name):
    return Advice("development facts", "nothing", "always")
  advice = registry.advice(config, name)
  return Advice(f"{advice.needs}; development facts", advice.cost, advice.use_when)

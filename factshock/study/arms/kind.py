"""The parts of a kind of arm: config keys, points, needs, work, comparisons and texts."""

import dataclasses
from collections.abc import Callable
from typing import Literal, TypeAlias

from factshock.predictions.points import Point
from factshock.study.config import ArmSchema, Config
from factshock.study.seed_run import Question, SeedRun

# Labels of two points of which the first is compared with the second.
Pair: TypeAlias = tuple[str, str]

# Keys of an arm that name other arms, whose results or settings it takes.
_NAMES_ONE = ("of", "with_arm")
_NAMES_SEVERAL = ("of_arms",)


@dataclasses.dataclass(frozen=True)
class Advice:
  """What a report says of an arm as a remedy, beside plain finetuning.

  Attributes:
    needs: what must be there for it.
    cost: what it takes.
    use_when: when to use it, as the end of "Use it when ...".
  """

  needs: str
  cost: str
  use_when: str


def whole_arm(config: Config, name: str) -> list[Point]:
  """Returns the one point of an arm that has no curve."""
  return [Point(name)]


def named_arms(config: Config, name: str) -> list[str]:
  """Returns the arms that an arm names, which must have run before it.

  Of a teacher the prompt is needed, not the answers; of a best cloze the statements it chose are
  stored when first asked for.
  """
  arm = config.arms[name]
  names = [arm[key] for key in _NAMES_ONE if key in arm]
  for key in _NAMES_SEVERAL:
    names += arm.get(key, ())
  return names


def no_problems(config: Config, name: str) -> list[str]:
  """Returns no problems."""
  return []


def no_roles(config: Config, name: str) -> list[str]:
  """Returns no roles."""
  return []


def no_pairs(config: Config, name: str) -> list[Pair]:
  """Returns no pairs."""
  return []


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of arm. Functions of (config, name) get the experiment's config and the arm's name.

  Attributes:
    name: as `kind` in a config.
    keys: the keys that its arms may have (config.arm_schema).
    run: trains and answers what is not there yet, of one seed and arm.
    group: the arm's part in the report, where its section names none. Groups that begin with
      "remedy" are remedies: compared with the finetuning they mend, and listed with their advice.
    caption: one sentence on what such an arm is, for the report.
    advice: what it needs and costs and when to use it.
    varies: what its points differ by, None for an arm with one point. Of several points one is
      chosen on development facts.
    points: those of its predictions, in order.
    needs: the arms that must have run before it.
    problems: what is wrong with the arm beyond its keys and values, a line each.
    roles: what the arm is in the study (study/roles.py), by its keys; the report goes by them.
    comparisons: pairs of labels that its claims need, beyond those that all remedies have.
    question: the run and the question by which the pretrained model is asked as the arm asks it;
      None for kinds that do not ask it alone.
    trains: True where the arm has a checkpoint of its own, `facts` that it learns, and settings of
      config.finetune.
    reads_candidates: True where it reads every candidate of the arms that it names.
  """

  name: str
  keys: ArmSchema
  run: Callable[[SeedRun, str], None]
  group: str
  caption: str
  advice: Callable[[Config, str], Advice]
  varies: Literal["step", "alpha", "tau"] | None = None
  points: Callable[[Config, str], list[Point]] = whole_arm
  needs: Callable[[Config, str], list[str]] = named_arms
  problems: Callable[[Config, str], list[str]] = no_problems
  roles: Callable[[Config, str], list[str]] = no_roles
  comparisons: Callable[[Config, str], list[Pair]] = no_pairs
  question: Callable[[SeedRun, str], tuple[SeedRun, Question]] | None = None
  trains: bool = False
  reads_candidates: bool = False

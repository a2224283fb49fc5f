"""Checks that several kinds of arms share: of the arms they name, the model's parts, prompts."""

from collections.abc import Sequence

from factshock.data import prompts
from factshock.models import families
from factshock.study.config import Config


def ranks(config: Config) -> bool:
  """Returns whether answers are ranked among a relation's candidates."""
  return config.answering.mode == "rank" and not _asks_choices(config)


def _asks_choices(config: Config) -> bool:
  return config.finetune.prompt in prompts.CHOICE_PROMPTS


def candidate_problems(config: Config, name: str, needs_ranking: bool) -> list[str]:
  """Returns why an arm that ranks a relation's answers itself cannot be.

  Args:
    config: of the experiment.
    name: of the arm.
    needs_ranking: True where the model must rank too.
  """
  kind = config.arms[name].kind
  if _asks_choices(config):
    return [
      f"config.arms.{name}: {kind} ranks the answers of a relation, and choices are a question's "
      "own; take it out"
    ]
  if needs_ranking and not ranks(config):
    return [f"config.arms.{name}: {kind} needs config.answering.mode='rank'; take it out or rank"]
  return []


def kind_problems(config: Config, name: str, key: str, kinds: Sequence[str]) -> list[str]:
  """Returns why the arm that `key` names is none of some kinds; none where the key is not given."""
  other = config.arms[name].get(key)
  if not other or config.arms[other].kind in kinds:
    return []
  expected = " or ".join(map(repr, kinds))
  return [f"config.arms.{name}.{key}: expected an arm of kind {expected}, got {other!r}"]


def averaged_problems(config: Config, name: str) -> list[str]:
  """Returns which of the arms whose weights an arm takes have none that can be taken."""
  arm = config.arms[name]
  named = {"of": [arm.of] if arm.get("of") else [], "of_arms": arm.get("of_arms", ())}
  return [
    f"config.arms.{name}.{key}: {other!r} keeps a moving average for its own answers alone (ema); "
    "name another arm"
    for key, others in named.items()
    for other in others
    if other in config.arms and config.arms[other].get("ema")
  ]


def part_problems(config: Config, name: str, keys: Sequence[str]) -> list[str]:
  """Returns which parts of the model that an arm names under some keys the model does not have."""
  missing = {}
  if families.named(config.model.family).decoder_only:
    missing["encoder"] = ""
  if config.model.tie_head:
    missing["head"] = "; its embedding serves: say 'embedding'"
  return [
    f"config.arms.{name}.{key}: the model has no {part!r} of its own{missing[part]}"
    for key in keys
    for part in config.arms[name].get(key, ())
    if part in missing
  ]


def attention_problems(config: Config, name: str, askers: Sequence[str]) -> list[str]:
  """Returns why an arm cannot have attention=True: prompts must name a subject and ask for words.

  Args:
    config: of the experiment.
    name: of the arm.
    askers: the arms that say how it is asked.
  """
  if not config.arms[name].get("attention"):
    return []
  there = [asker for asker in askers if asker in config.arms]
  asked_by = {config.arms[asker].get("prompt", config.finetune.prompt) for asker in there}
  return [
    f"config.arms.{name}.attention: prompts 'cloze' and 'question' name a subject, {prompt!r} does "
    "not; leave it out"
    for prompt in sorted(asked_by)
    if prompt in prompts.CHOICE_PROMPTS
  ]

"""Keys of an experiment's config, each with its type and range, checked before anything runs."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import ml_collections

from factshock.facts import documents, sources
from factshock.models import families, weight_groups
from factshock.runtime.settings import (
  COUNT,
  FLAG,
  INSIDE,
  NOT_NEGATIVE,
  POSITIVE,
  SEEDS,
  SHARE,
  TEXT,
  WHOLE,
  Check,
  Schema,
  choice,
  raise_if_any,
  section_problems,
  seed_list,
  tuple_of,
  unknown_key,
  value_problems,
  with_defaults,
)
from factshock.runtime.settings import optional as optional_setting
from factshock.training import drivers, loggers
from factshock.training import settings as training_settings
from factshock.types import Config


@dataclasses.dataclass(frozen=True)
class ArmKey:
  """Key of an arm: the check of its value, and whether it must be given."""

  check: Check
  is_required: bool


# The keys that arms of one kind may have, beside `kind` itself.
ArmSchema: TypeAlias = Mapping[str, ArmKey]


TEXTS = tuple_of(TEXT, 1)
STEPS = tuple_of(WHOLE, 1)
TAUS = tuple_of(NOT_NEGATIVE, 1)
PARTS = tuple_of(choice(*weight_groups.GROUPS), 1)
_AXIS = Check(
  (int,), lambda v: v >= 1 or v == -1, "a whole number of at least 1, or -1 for what is left"
)

SCHEMA: Schema = dict(
  name=TEXT,
  seeds=SEEDS,
  facts=TEXT,
  relations=TEXT,
  corpus=TEXT,
  corpus_weights=tuple_of(POSITIVE),
  corpus_cache=TEXT,
  entity_counts=TEXT,
  drop_named_answers=FLAG,
  popularity=TEXT,
  start_from=TEXT,
  cpu_devices=WHOLE,
  parallel=choice(*drivers.PARALLEL),
  mesh=dict(data=_AXIS, fsdp=_AXIS, model=_AXIS),
  world=dict(
    relations=COUNT,
    subjects=COUNT,
    answers=COUNT,
    zipf=NOT_NEGATIVE,
    mean_mentions=POSITIVE,
    popularity_sigma=NOT_NEGATIVE,
    templates=COUNT,
    background=SHARE,
    name_pieces=COUNT,
  ),
  split=dict(pool=INSIDE, development=INSIDE, test=INSIDE),
  balanced=dict(per_answer=COUNT),
  mismatch=dict(low=SHARE, high=SHARE, size=COUNT),
  tokenizer=dict(
    kind=choice("words", "sentencepiece", "huggingface"), path=TEXT, size=COUNT, sentinels=COUNT
  ),
  pretrain=training_settings.section_schema(training_settings.PretrainingConfig),
  finetune=training_settings.section_schema(training_settings.FinetuningConfig),
  mixing=dict(alphas=tuple_of(SHARE, 1), taus=TAUS),
  answering=dict(
    batch_size=COUNT,
    top=WHOLE,
    mode=choice("rank", "generate"),
    max_tokens=COUNT,
    stop=optional_setting(tuple_of(TEXT)),
  ),
  diagnosis=dict(criterion=choice("exact_match", "contains"), resamples=COUNT, confidence=INSIDE),
  loggers=loggers.CHECK,
  roles=dict(zero_shot=TEXT, finetuned=TEXT, ceiling=TEXT, corrected=TEXT, remedies=tuple_of(TEXT)),
)

_SPECIAL = ("arms", "model")  # the keys of an arm go by its kind, those of a model by its family


def to_dict(config: Config) -> dict[str, Any]:
  """Returns the config as plain nested dicts, tuples as lists, as it is stored in config.json."""
  plain = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
  return json.loads(json.dumps(plain))


def seeds(config: Config) -> list[int]:
  """Returns the seeds a config asks for."""
  return seed_list(config.seeds)


def check(config: Config, kinds: Mapping[str, ArmSchema]) -> None:
  """Checks every key and value of a config.

  Args:
    config: of an experiment.
    kinds: the keys of an arm, by its kind.

  Raises:
    UserError: names every unknown or missing key and every value out of its range.
  """
  raise_if_any(key_problems(config))
  raise_if_any(arms_problems(config, kinds) + joint_problems(config))


def key_problems(config: Config) -> list[str]:
  """Returns what is wrong with the keys and values of the sections, but for arms, a line each."""
  problems = section_problems(config, SCHEMA, "config", extra=_SPECIAL)
  if "model" in config:
    problems += model_problems(config.model)
  if not hasattr(config.get("arms", {}), "keys"):
    problems.append(f"config.arms: expected a section with arms by name, got {config.arms!r}")
  return problems


def model_problems(section: Any) -> list[str]:
  """Returns what is wrong with a config's model section, a line each."""
  family = section.get("family") if hasattr(section, "keys") else section
  if family not in families.names():
    known = ", ".join(families.names())
    return [f"config.model.family: expected one of {known}, got {family!r}"]
  return section_problems(
    section,
    families.section_schema(family),
    "config.model",
    optional=with_defaults(families.named(family).config_type),
  )


def arms_problems(config: Config, kinds: Mapping[str, ArmSchema]) -> list[str]:
  """Returns what is wrong with the keys and values of the arms, a line each."""
  problems: list[str] = []
  for name, arm in config.arms.items():
    path = f"config.arms.{name}"
    is_section = hasattr(arm, "keys")
    kind = arm.get("kind") if is_section else arm
    if is_section and isinstance(kind, str) and kind in kinds:
      problems += _arm_problems(arm, kinds[kind], path)
      problems += _reference_problems(arm, config.arms, path)
    else:
      problems.append(f"{path}.kind: expected one of {', '.join(kinds)}, got {kind!r}")
  return problems


def _arm_problems(
  arm: Config,
  schema: ArmSchema,
  path: str,
) -> list[str]:
  """Returns what is wrong with the keys and values of an arm."""
  required_keys = [key for key, arm_key in schema.items() if arm_key.is_required]
  problems = [f"{path}.{key} is missing" for key in required_keys if key not in arm]
  for key, value in arm.items():
    if key == "kind":
      continue
    if key in schema:
      problems += value_problems(value, schema[key].check, f"{path}.{key}")
    else:
      problems.append(unknown_key(f"{path}.{key}", key, schema))
  return problems


def _reference_problems(
  arm: Config,
  arms: Config,
  path: str,
) -> list[str]:
  """Returns a line for each other arm that an arm names and that is not there."""
  return [
    f"{path}.{key}: there is no arm {arm[key]!r}; the arms are {', '.join(arms)}"
    for key in ("of", "with_arm")
    if isinstance(arm.get(key), str) and arm[key] not in arms
  ]


def joint_problems(config: Config) -> list[str]:
  """Returns the problems that need two values to be seen, but for those of arms, a line each."""
  return [
    *_facts_problems(config),
    *_tokenizer_problems(config),
    *_family_problems(config),
    *_role_problems(config),
    *_logger_problems(config),
  ]


def _facts_problems(config: Config) -> list[str]:
  problems = []
  total = sum(config.split.values())
  if abs(total - 1) > 1e-6:
    problems.append(f"config.split: expected shares that sum to 1, got {total:g}")
  if config.facts == "world" and (config.relations or config.corpus or config.entity_counts):
    problems.append(
      "config.relations, config.corpus and config.entity_counts go with config.facts=PATH; with "
      "config.facts='world' leave them empty"
    )
  corpora = len(documents.corpora(config.corpus))
  weights = len(config.corpus_weights)
  if weights != corpora and (weights or corpora > 1):
    problems.append(
      f"config.corpus_weights: expected a weight for each of {corpora} corpora of config.corpus, "
      f"got {weights}"
    )
  if config.facts != "world" and not config.relations and not sources.is_source(config.facts):
    problems.append(f"config.facts={config.facts!r} needs config.relations=PATH too")
  return problems


def _tokenizer_problems(config: Config) -> list[str]:
  problems = []
  if config.facts != "world" and config.tokenizer.kind == "words":
    problems.append("config.tokenizer.kind: real text needs 'sentencepiece' or 'huggingface'")
  if config.tokenizer.kind == "huggingface" and not (config.tokenizer.path or config.start_from):
    problems.append(
      "config.tokenizer.kind='huggingface' needs config.tokenizer.path, or config.start_from of a "
      "model with a tokenizer"
    )
  return problems


def _family_problems(config: Config) -> list[str]:
  """Returns the problems of what a model's family needs of other sections."""
  family = families.named(config.model.family)
  needed = f"config.model.family={family.name!r} needs"
  masking = config.pretrain.masking
  problems = []
  if family.decoder_only and config.tokenizer.kind != "huggingface":
    problems.append(f"{needed} config.tokenizer.kind='huggingface'")
  if family.decoder_only and masking != "next_token":
    problems.append(f"{needed} config.pretrain.masking='next_token'")
  if not family.decoder_only:
    problems += [
      f"config.{section}.target_length: a {family.name} needs a whole number of at least 1, got 0"
      for section in ("pretrain", "finetune")
      if not config[section].target_length
    ]
  if not family.decoder_only and masking == "next_token":
    decoders = " or ".join(repr(other.name) for other in families.known() if other.decoder_only)
    problems.append(f"config.pretrain.masking='next_token' needs config.model.family={decoders}")
  return problems


def _logger_problems(config: Config) -> list[str]:
  problem = loggers.missing_package(config.get("loggers", loggers.DEFAULT))
  return [f"config.loggers: {problem}"] if problem else []


def _role_problems(config: Config) -> list[str]:
  problems = [
    f"config.roles.{key}: there is no arm {config.roles[key]!r}"
    for key in ("zero_shot", "finetuned", "ceiling", "corrected")
    if config.roles[key] and config.roles[key] not in config.arms
  ]
  problems += [
    f"config.roles.remedies: there is no arm {arm!r}"
    for arm in config.roles.remedies
    if arm not in config.arms
  ]
  return problems


def arm_schema(**keys: ArmKey) -> ArmSchema:
  """Returns the schema of an arm's kind: its own keys, and the title and group any arm may have."""
  return dict(title=optional(TEXT), group=optional(TEXT)) | keys


def finetune_overrides() -> ArmSchema:
  """Returns what an arm may say in place of config.finetune, as optional keys."""
  checks = training_settings.arm_schema(training_settings.FinetuningConfig)
  # An arm that names groups of weights names at least one.
  checks |= dict(trained=PARTS, frozen=PARTS)
  return {key: optional(check_) for key, check_ in checks.items()}


def required(check_: Check) -> ArmKey:
  """Returns a key of an arm that must be given."""
  return ArmKey(check_, is_required=True)


def optional(check_: Check) -> ArmKey:
  """Returns a key of an arm that may be left out."""
  return ArmKey(check_, is_required=False)

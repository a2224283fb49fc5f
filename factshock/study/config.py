"""Keys of an experiment's config, each with its type and range, checked before anything runs."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import ml_collections

from factshock.facts import documents, sources, world
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
  schema_of,
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


ATTENTION = FLAG.means("writes how much attention goes to the subject, too (WORKDIR/attention).")
OF = TEXT.means("the arm that it makes something of.")
TEXTS = tuple_of(TEXT, 1)
STEPS = tuple_of(WHOLE, 1)
TAUS = tuple_of(NOT_NEGATIVE, 1)
PARTS = tuple_of(choice(*weight_groups.GROUPS), 1)
_AXIS = Check(
  (int,), lambda v: v >= 1 or v == -1, "a whole number of at least 1, or -1 for what is left"
)

_WORLD = schema_of(world.WorldSettings)

SCHEMA: Schema = dict(
  name=TEXT.means("title of the study, as the report has it."),
  seeds=SEEDS.means(
    "how many seeds run, from 0 on, or which: 3, or 0,4,7. A seed changes all that is random."
  ),
  facts=TEXT.means(
    "where facts come from: 'world' makes them; else a facts file (.jsonl, .csv, .tsv, .parquet) "
    "or a data set, such as popqa:PATH."
  ),
  relations=TEXT.means(
    "relations file of a facts file: how each relation is stated and asked; empty for a world, and "
    "for data sets, which bring theirs."
  ),
  corpus=TEXT.means(
    "text to pretrain on, which also says how common answers are: a file, a pattern or a data set, "
    "or several by commas; empty for a world, which makes it."
  ),
  corpus_weights=tuple_of(POSITIVE).means(
    "of several corpora: the share of each in the pretraining task."
  ),
  corpus_cache=TEXT.means("folder where a corpus is kept tokenised; if empty, WORKDIR/corpus."),
  entity_counts=TEXT.means(
    "file that `factshock count` has written, in the place of counting in the corpus; empty counts."
  ),
  drop_named_answers=FLAG.means("leave out facts whose subject's name holds the answer."),
  popularity=TEXT.means(
    "column of the facts by which halves are made: popularity, one of your own, or `confidence` or "
    "`known`, as `factshock answer --method=known` writes them."
  ),
  start_from=TEXT.means(
    "checkpoint or HuggingFace model to start from; empty for random weights, which are pretrained."
  ),
  cpu_devices=WHOLE.means("devices that a CPU is made to be; 0 is one a core, at most 8."),
  parallel=choice(*drivers.PARALLEL).means(
    "how several devices work together: over a mesh, or by pmap, with all weights on each."
  ),
  mesh=dict(
    data=_AXIS.means("devices that batches are cut over."),
    fsdp=_AXIS.means("devices that batches and weights are cut over."),
    model=_AXIS.means("devices that weights alone are cut over."),
  ),
  world={key: check_ for key, check_ in _WORLD.items() if key != "seed"},
  split=dict(
    pool=INSIDE.means("share of the subjects whose facts may be finetuned on."),
    development=INSIDE.means("share of the subjects on whose facts steps and alphas are chosen."),
    test=INSIDE.means("share of the subjects on whose facts arms are judged."),
  ),
  balanced=dict(
    per_answer=COUNT.means(
      "facts of an answer, at most, in the set `balanced`: it has every other answer by rank."
    )
  ),
  mismatch=dict(
    low=SHARE.means("total variation of the answers of `low_mismatch` from the test facts."),
    high=SHARE.means("the same of `high_mismatch`."),
    size=COUNT.means("facts of each of these two finetuning sets."),
  ),
  tokenizer=dict(
    kind=choice("words", "sentencepiece", "huggingface").means(
      "a word of the made world a token, SentencePiece trained on the text, or a pretrained one."
    ),
    path=TEXT.means("a SentencePiece model or HuggingFace tokenizer that is there already."),
    size=COUNT.means("pieces of a SentencePiece model that is trained."),
    sentinels=COUNT.means("tokens that stand for masked spans."),
  ),
  pretrain=training_settings.section_schema(training_settings.PretrainingConfig),
  finetune=training_settings.section_schema(training_settings.FinetuningConfig),
  mixing=dict(
    alphas=tuple_of(SHARE, 1).means("shares of the finetuned model at which mixings are judged."),
    taus=TAUS.means("strengths at which prior corrections are judged."),
  ),
  answering=dict(
    batch_size=COUNT.means("questions answered at once."),
    top=WHOLE.means("candidates of each question that predictions files keep; 0 keeps all."),
    mode=choice("rank", "generate").means(
      "'rank' scores every answer that the relation has; 'generate' lets the model write one."
    ),
    max_tokens=COUNT.means("tokens of a generated answer, at most."),
    stop=optional_setting(tuple_of(TEXT)).means("texts before which a generated answer ends."),
  ),
  diagnosis=dict(
    criterion=choice("exact_match", "contains").means(
      "when an answer is right: if it is an accepted one, or if it contains one."
    ),
    resamples=COUNT.means("resamples of the bootstrap that intervals come from."),
    confidence=INSIDE.means("share of the intervals that are to hold the true value."),
  ),
  loggers=loggers.CHECK.means(
    "where metrics are written, by commas: jsonl, tensorboard, wandb (its extra is needed)."
  ),
  roles=dict(
    zero_shot=TEXT.means("arm asked as the finetuned one is, before finetuning."),
    finetuned=TEXT.means("arm that is plainly finetuned, with which remedies are compared."),
    ceiling=TEXT.means("arm that shows what the model knows."),
    corrected=TEXT.means("the finetuned arm with its answer prior put back, for the verdict."),
    remedies=tuple_of(TEXT).means("arms that mend the finetuned one."),
  ),
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
  title = TEXT.means("its name in the report; else that of its section.")
  group = TEXT.means("its part of the report; else that of its kind.")
  return dict(title=optional(title), group=optional(group)) | keys


def finetune_overrides() -> ArmSchema:
  """Returns what an arm may say in place of config.finetune, as optional keys."""
  checks = training_settings.arm_schema(training_settings.FinetuningConfig)
  # An arm that names groups of weights names at least one.
  for name in ("trained", "frozen"):
    checks[name] = PARTS.means(checks[name].meaning)
  return {key: optional(check_) for key, check_ in checks.items()}


def required(check_: Check) -> ArmKey:
  """Returns a key of an arm that must be given."""
  return ArmKey(check_, is_required=True)


def optional(check_: Check) -> ArmKey:
  """Returns a key of an arm that may be left out."""
  return ArmKey(check_, is_required=False)

"""What a config may hold: every key with its type and range, checked before anything runs."""

import difflib
import json

import ml_collections

from factshock.facts import documents, sources
from factshock.models import weight_groups
from factshock.runtime.errors import UserError

# Tests of one value: (types, predicate, what was expected in words).
_COUNT = (int, lambda v: v >= 1, "a whole number of at least 1")
_WHOLE = (int, lambda v: v >= 0, "a whole number of at least 0")
_POSITIVE = ((int, float), lambda v: v > 0, "a number above 0")
_NOT_NEGATIVE = ((int, float), lambda v: v >= 0, "a number of at least 0")
_SHARE = ((int, float), lambda v: 0 <= v <= 1, "a number from 0 to 1")
_INSIDE = ((int, float), lambda v: 0 < v < 1, "a number between 0 and 1")
_AXIS = (int, lambda v: v >= 1 or v == -1, "a whole number of at least 1, or -1 for what is left")
_TEXT = (str, lambda v: True, "a text")
_FLAG = (bool, lambda v: True, "True or False")


CHOICE_PROMPTS = (
  "letters",
  "choices",
)  # a fact's own choices are scored: their letters, or their whole texts
PROMPTS = ("cloze", "question", *CHOICE_PROMPTS)


def _choice(*values):
  return (str, lambda v: v in values, "one of " + ", ".join(repr(v) for v in values))


def _tuple_of(check, least=0):
  types, predicate, words = check
  return (
    (tuple, list),
    lambda v: len(v) >= least and all(_fits(x, types) and predicate(x) for x in v),
    f"a list of at least {least}, each {words}",
  )


def _is_seeds(value):
  if isinstance(value, int):
    return value >= 1
  return (
    len(value) >= 1
    and len(set(value)) == len(value)
    and all(_fits(v, int) and v >= 0 for v in value)
  )


_OPTIMIZATION = dict(
  steps=_WHOLE,
  batch_size=_COUNT,
  input_length=_COUNT,
  target_length=_WHOLE,
  pack=_FLAG,
  accumulate=_COUNT,
  optimizer=_choice("adamw", "adafactor"),
  learning_rate=_POSITIVE,
  schedule=_choice("constant", "cosine", "linear", "rsqrt"),
  final=_SHARE,
  warmup=_WHOLE,
  b2=_INSIDE,
  weight_decay=_NOT_NEGATIVE,
  clip=_NOT_NEGATIVE,
  checkpoint_every=_COUNT,
  log_every=_COUNT,
)

SCHEMA = dict(
  name=_TEXT,
  seeds=(
    (int, tuple, list),
    _is_seeds,
    "a number of seeds (3 for 0, 1, 2) or a list of different seeds",
  ),
  facts=_TEXT,
  relations=_TEXT,
  corpus=_TEXT,
  corpus_weights=_tuple_of(_POSITIVE),
  corpus_cache=_TEXT,
  entity_counts=_TEXT,
  drop_named_answers=_FLAG,
  popularity=_TEXT,
  start_from=_TEXT,
  cpu_devices=_WHOLE,
  parallel=_choice("mesh", "pmap"),
  mesh=dict(data=_AXIS, fsdp=_AXIS, model=_AXIS),
  world=dict(
    relations=_COUNT,
    subjects=_COUNT,
    answers=_COUNT,
    zipf=_NOT_NEGATIVE,
    mean_mentions=_POSITIVE,
    popularity_sigma=_NOT_NEGATIVE,
    templates=_COUNT,
    background=_SHARE,
    name_pieces=_COUNT,
  ),
  split=dict(pool=_INSIDE, development=_INSIDE, test=_INSIDE),
  balanced=dict(per_answer=_COUNT),
  mismatch=dict(low=_SHARE, high=_SHARE, size=_COUNT),
  tokenizer=dict(
    kind=_choice("words", "sentencepiece", "huggingface"), path=_TEXT, size=_COUNT, sentinels=_COUNT
  ),
  pretrain=dict(
    _OPTIMIZATION,
    masking=_choice("spans", "salient", "next_token"),
    noise_density=_INSIDE,
    mean_span_length=_POSITIVE,
    roll=_FLAG,
    object_share=_SHARE,
    subject_share=_SHARE,
    window_words=_COUNT,
    windows_per_fact=_COUNT,
  ),
  finetune=dict(
    _OPTIMIZATION,
    eval_steps=_tuple_of(_WHOLE, 1),
    prompt=_choice(*PROMPTS),
    lora_rank=_WHOLE,
    lora_alpha=_POSITIVE,
    lora_targets=_tuple_of(_TEXT),
  ),
  mixing=dict(alphas=_tuple_of(_SHARE, 1), taus=_tuple_of(_NOT_NEGATIVE, 1)),
  answering=dict(
    batch_size=_COUNT, top=_WHOLE, mode=_choice("rank", "generate"), max_tokens=_COUNT
  ),
  diagnosis=dict(
    criterion=_choice("exact_match", "contains"), resamples=_COUNT, confidence=_INSIDE
  ),
  roles=dict(
    zero_shot=_TEXT, finetuned=_TEXT, ceiling=_TEXT, corrected=_TEXT, remedies=_tuple_of(_TEXT)
  ),
)

_SIZES = dict(
  family=_choice("t5", "llama"),
  vocab_size=_WHOLE,
  d_model=_COUNT,
  d_ff=_COUNT,
  num_heads=_COUNT,
  d_kv=_COUNT,
  tie_head=_FLAG,
  epsilon=_POSITIVE,
  dtype=_choice("float32", "bfloat16"),
  param_dtype=_choice("float32", "bfloat16"),
  unroll=_FLAG,
  remat=_choice("none", "full", "dots", "dots_no_batch"),
  attention=_choice("xla", "cudnn", "auto"),
)

# The keys of config.model, by its family; a vocab_size of 0 is the tokenizer's.
MODELS = dict(
  t5=dict(
    _SIZES,
    encoder_layers=_COUNT,
    decoder_layers=_COUNT,
    relative_buckets=_COUNT,
    relative_max_distance=_COUNT,
    feed_forward=_choice("gated-gelu", "gated-silu", "relu"),
    dropout=_SHARE,
  ),
  llama=dict(
    _SIZES,
    layers=_COUNT,
    num_kv_heads=_COUNT,
    rope_theta=_POSITIVE,
    rope_scaling=(
      (type(None), tuple, list),
      lambda v: v is None or len(v) == 4,
      "None or four numbers",
    ),
    sliding_window=(
      (type(None), int),
      lambda v: v is None or v >= 1,
      "None or a whole number of at least 1",
    ),
    max_length=_COUNT,
  ),
)
_SPECIAL = ("arms", "model")  # the keys of an arm go by its kind, those of a model by its family


def to_dict(config):
  """The config as plain nested dicts, tuples as lists, as it is stored in config.json."""
  return json.loads(
    json.dumps(config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config)
  )


def seeds(config):
  """The list of seeds a config asks for."""
  return list(range(config.seeds)) if isinstance(config.seeds, int) else list(config.seeds)


def check(config, kinds):
  """Checks every key and value of a config; `kinds` maps an arm's kind to the keys it needs and may have.

  Raises:
    UserError: names every unknown or missing key and every value out of its range.
  """
  problems = _section_problems(config, SCHEMA, "config", extra=_SPECIAL)
  if "model" in config:
    problems += model_problems(config.model)
  if not problems:
    problems = _arm_problems(config, kinds) + _joint_problems(config)
  if problems:
    raise UserError("the config cannot be used:\n  " + "\n  ".join(problems))


def check_sections(config, schema):
  """Checks a config that is all of one schema, {key: test, or a dict of tests}. Raises: UserError naming every problem."""
  problems = _section_problems(config, schema, "config")
  if problems:
    raise UserError("the config cannot be used:\n  " + "\n  ".join(problems))


def model_problems(section):
  """What is wrong with a config's model section, a line each."""
  family = section.get("family") if hasattr(section, "keys") else section
  if family not in MODELS:
    return [f"config.model.family: expected one of {', '.join(MODELS)}, got {family!r}"]
  return _section_problems(section, MODELS[family], "config.model")


def _fits(value, types):
  # bool is an int in Python, but True is no count.
  types = types if isinstance(types, tuple) else (types,)
  return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _section_problems(section, schema, where, extra=()):
  problems = [
    _unknown(f"{where}.{key}", key, list(schema) + list(extra))
    for key in section
    if key not in schema and key not in extra
  ]
  problems += [f"{where}.{key} is missing" for key in (*schema, *extra) if key not in section]
  for key, check_ in schema.items():
    if key not in section:
      continue
    value = section[key]
    if isinstance(check_, dict):
      if hasattr(value, "keys"):
        problems += _section_problems(value, check_, f"{where}.{key}")
      else:
        problems.append(
          f"{where}.{key}: expected a section with {', '.join(check_)}, got {value!r}"
        )
    else:
      problems += _value_problems(value, check_, f"{where}.{key}")
  return problems


def _value_problems(value, check_, where):
  types, predicate, words = check_
  if _fits(value, types) and predicate(value):
    return []
  return [f"{where}: expected {words}, got {value!r}"]


def _unknown(where, key, known):
  near = difflib.get_close_matches(key, known, 1)
  hint = f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(sorted(known))}"
  return f"{where} is unknown{hint}"


def _arm_problems(config, kinds):
  problems = []
  for name, arm in config.arms.items():
    where = f"config.arms.{name}"
    if not hasattr(arm, "keys") or arm.get("kind") not in kinds:
      problems.append(
        f"{where}.kind: expected one of {', '.join(kinds)}, got {arm.get('kind') if hasattr(arm, 'get') else arm!r}"
      )
      continue
    schema = kinds[arm.kind]
    required = [key for key, (_, needed) in schema.items() if needed]
    problems += [f"{where}.{key} is missing" for key in required if key not in arm]
    for key, value in arm.items():
      if key == "kind":
        continue
      problems += (
        _value_problems(value, schema[key][0], f"{where}.{key}")
        if key in schema
        else [_unknown(f"{where}.{key}", key, list(schema))]
      )
    problems += [
      f"{where}.{key}: there is no arm {arm[key]!r}; the arms are {', '.join(config.arms)}"
      for key in ("of", "with_arm")
      if key in arm and arm[key] not in config.arms
    ]
  return problems


def _joint_problems(config):
  """Problems that need two values to be seen."""
  problems = []
  total = sum(config.split.values())
  if abs(total - 1) > 1e-6:
    problems.append(f"config.split: expected shares that sum to 1, got {total:g}")
  if config.facts == "world" and (config.relations or config.corpus):
    problems.append(
      "config.relations and config.corpus go with config.facts=PATH; with config.facts='world' leave them empty"
    )
  texts = documents.corpora(config.corpus)
  if len(config.corpus_weights) != (len(texts) if config.corpus_weights or len(texts) > 1 else 0):
    problems.append(
      f"config.corpus_weights: expected a weight for each of {len(texts)} corpora of config.corpus, got "
      f"{len(config.corpus_weights)}"
    )
  if config.facts != "world" and not config.relations and not sources.is_source(config.facts):
    problems.append(f"config.facts={config.facts!r} needs config.relations=PATH too")
  if config.facts != "world" and config.tokenizer.kind == "words":
    problems.append("config.tokenizer.kind: real text needs 'sentencepiece' or 'huggingface'")
  if config.tokenizer.kind == "huggingface" and not (config.tokenizer.path or config.start_from):
    problems.append(
      "config.tokenizer.kind='huggingface' needs config.tokenizer.path, or config.start_from of a "
      "model with a tokenizer"
    )
  if config.model.family == "llama" and config.tokenizer.kind != "huggingface":
    problems.append("config.model.family='llama' needs config.tokenizer.kind='huggingface'")
  if config.model.family == "llama" and config.pretrain.masking != "next_token":
    problems.append("config.model.family='llama' needs config.pretrain.masking='next_token'")
  problems += [
    f"config.{section}.target_length: a t5 needs a whole number of at least 1, got 0"
    for section in ("pretrain", "finetune")
    if config.model.family == "t5" and not config[section].target_length
  ]
  if config.model.family == "t5" and config.pretrain.masking == "next_token":
    problems.append("config.pretrain.masking='next_token' needs config.model.family='llama'")
  for key in ("zero_shot", "finetuned", "ceiling", "corrected"):
    if config.roles[key] and config.roles[key] not in config.arms:
      problems.append(f"config.roles.{key}: there is no arm {config.roles[key]!r}")
  problems += [
    f"config.roles.remedies: there is no arm {arm!r}"
    for arm in config.roles.remedies
    if arm not in config.arms
  ]
  return problems


def arm_schema(**keys):
  """The schema of an arm's kind: {key: (check, required)}; a title and a group are always allowed."""
  common = dict(title=(_TEXT, False), group=(_TEXT, False))
  return {**common, **keys}


def finetune_overrides():
  """The keys of config.finetune as optional keys of an arm."""
  return {
    key: (check_, False)
    for key, check_ in SCHEMA["finetune"].items()
    if not isinstance(check_, dict)
  }


def required(check_):
  """A key of an arm's schema that must be given."""
  return (check_, True)


def optional(check_):
  """A key of an arm's schema that may be left out."""
  return (check_, False)


TEXTS = _tuple_of(_TEXT, 1)
STEPS = _tuple_of(_WHOLE, 1)
WHOLE = _WHOLE
PARTS = _tuple_of(_choice(*weight_groups.PARTS), 1)
TAUS = _tuple_of(_NOT_NEGATIVE, 1)
TEXT = _TEXT
COUNT = _COUNT
FLAG = _FLAG
SHARE = _SHARE
NOT_NEGATIVE = _NOT_NEGATIVE
choice = _choice
INSIDE = _INSIDE
POSITIVE = _POSITIVE
SEEDS = SCHEMA["seeds"]
tuple_of = _tuple_of

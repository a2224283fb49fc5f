"""Families of models: one record each, found in the files `family_*.py` of this folder."""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import jax

from factshock import models
from factshock.models.formats.tensors import HuggingFaceFormat
from factshock.models.model_config import AUTO, DTYPES, ModelConfig
from factshock.runtime import settings
from factshock.runtime.errors import UserError
from factshock.types import Batch, Params

# Settings of how a model computes, which leave open what it computes.
_COMPUTING = (
  "dtype",
  "param_dtype",
  "dropout",
  "unroll",
  "remat",
  "attention",
  "max_length",
)


@dataclasses.dataclass(frozen=True)
class Family:
  """Holds all that other code asks about a family of models.

  Every function but `init`, `layer_weights`, `unstack`, `take_rows` and `reorder` has the params
  and the model's config as its first two arguments.

  Attributes:
    name: the family's name in configs, such as "t5".
    config_type: the frozen dataclass of a model's sizes; every field is a settings.setting.
    decoder_only: whether one stack reads a prompt and goes on with its answer. Its prompts are
      plain text and its batches have `tokens`, padded with -1, and `weights`. Else the family is an
      encoder-decoder: <extra_id_0> stands where the answer goes, and batches have `inputs`,
      `targets` and `weights`, padded with 0.
    init: (model_config, key) -> random parameters, a nested dict of arrays.
    hidden: (params, model_config, batch, key=None) -> what `head` makes logits of, [B, T, D], for
      each of the batch's targets or tokens; a key turns dropout on.
    head: (params, model_config, hidden_BxTxD) -> logits, float32 [B, T, V].
    observe: (params, model_config, inputs_BxS, position_B, marked_BxS, gold_B, among_BxV) -> the
      observing.Read of each kind of attention.
    start: (params, model_config, inputs_BxS, length, packed=None) -> (cache of the inputs and of
      `length` tokens to come, first_B).
    layer_weights: params -> the weights of each layer of the stack that `step` runs, or None.
    unstack: cache of `start` -> the cache that `step` takes; it also wants `weights`, those of
      `layer_weights`.
    step: (params, model_config, cache, tokens_B) -> (logits of the next token, float32 [B, V],
      cache).
    hidden_of_tree: (params, model_config, cache, first_B, tokens, distance) -> what
      `logits_of_tree` makes logits of, for every context of a tree of continuations, [B, M, D];
      tokens are [M] and distances [M, M], or [B, M] and [B, M, M], a tree for each row.
    logits_of_tree: (params, model_config, hidden_BxMxD) -> logits, float32 [B, M, V].
    take_rows: (cache, rows_R) -> the cache of these rows.
    reorder: (cache, rows_R) -> the same where each row is replaced by one of the same inputs.
    huggingface: how HuggingFace folders store its models.
  """

  name: str
  config_type: type
  decoder_only: bool
  init: Callable[[Any, jax.Array], Params]
  hidden: Callable[..., jax.Array]
  head: Callable[[Params, Any, jax.Array], jax.Array]
  observe: Callable[..., Mapping[str, Any]]
  start: Callable[..., tuple[Batch, jax.Array]]
  layer_weights: Callable[[Params], list[Params] | None]
  unstack: Callable[[Batch], Batch]
  step: Callable[[Params, Any, Batch, jax.Array], tuple[jax.Array, Batch]]
  hidden_of_tree: Callable[..., jax.Array]
  logits_of_tree: Callable[[Params, Any, jax.Array], jax.Array]
  take_rows: Callable[[Batch, jax.Array], Batch]
  reorder: Callable[[Batch, jax.Array], Batch]
  huggingface: HuggingFaceFormat


def known() -> tuple[Family, ...]:
  """Returns all families, in the order of their names."""
  families = _registry()
  return tuple(families[name] for name in sorted(families))


def names() -> tuple[str, ...]:
  """Returns the names of all families, sorted."""
  return tuple(family.name for family in known())


def named(name: str | None) -> Family:
  """Returns the family of a name.

  Raises:
    UserError: no family has this name; lists those there are.
  """
  if name not in _registry():
    raise UserError(f"config.model.family: expected one of {', '.join(names())}, got {name!r}")
  return _registry()[name]


def of(model_config: ModelConfig) -> Family:
  """Returns the family of a model's config.

  Raises:
    ValueError: the config is of no family.
  """
  for family in known():
    if type(model_config) is family.config_type:
      return family
  expected = " or ".join(family.config_type.__name__ for family in known())
  raise ValueError(f"expected a {expected}, got {type(model_config).__name__}")


def section_schema(name: str) -> dict[str, settings.Check]:
  """Returns the checks of a config's `model` section of one family, by key.

  A `vocab_size` of 0 stands for the tokenizer's, a `dtype` of "auto" for that of the device.
  """
  checks = settings.schema_of(named(name).config_type)
  shared = settings.meanings_of(ModelConfig)
  for key, check in checks.items():
    if not check.meaning:
      checks[key] = check.means(shared.get(key, ""))
  family = settings.choice(*names()).means("family of the model.")
  vocabulary = settings.WHOLE.means("tokens that it knows; 0 is the tokenizer's number.")
  dtype = dataclasses.replace(
    settings.choice(AUTO, *DTYPES), meaning=shared["dtype"], default=checks["dtype"].default
  )
  return {"family": family, **checks, "vocab_size": vocabulary, "dtype": dtype}


def dtype_on(platform: str) -> str:
  """Returns the dtype that computing is fastest in: a CPU has no products of bfloat16 numbers."""
  return "float32" if platform == "cpu" else "bfloat16"


def from_section(
  section: Mapping[str, Any],
  vocab_size: int,
  platform: str = "cpu",
) -> ModelConfig:
  """Returns the model config of a config's `model` section.

  Args:
    section: the keys of `section_schema`.
    vocab_size: the tokenizer's, which a `vocab_size` that is 0 or left out takes.
    platform: of the devices that will compute, which a `dtype` of "auto" goes by.

  Raises:
    UserError: a value out of range, or a vocabulary smaller than the tokenizer's.
  """
  values = dict(section)
  for key, value in values.items():
    if isinstance(value, list):
      values[key] = tuple(value)
  if values.get("dtype") == AUTO:
    values["dtype"] = dtype_on(platform)
  family = named(values.pop("family", None))
  known = [field.name for field in dataclasses.fields(family.config_type)]
  unknown = [key for key in values if key not in known]
  if unknown:
    raise UserError(settings.unknown_key(f"config.model.{unknown[0]}", unknown[0], known))
  settings.values_of(family.config_type, {"vocab_size": vocab_size, **values}, "config.model")
  if not values.get("vocab_size"):
    values["vocab_size"] = vocab_size
  if not settings.COUNT.fits(values["vocab_size"]) or values["vocab_size"] < vocab_size:
    raise UserError(
      f"config.model.vocab_size: expected at least the tokenizer's {vocab_size}, got "
      f"{values['vocab_size']}"
    )
  return family.config_type(**values)


def to_section(model_config: ModelConfig) -> dict[str, Any]:
  """Returns the `model` section that `from_section` turns into this config."""
  return {"family": of(model_config).name, **dataclasses.asdict(model_config)}


def differences(model_config: ModelConfig, other: ModelConfig) -> list[str]:
  """Returns a line for each size in which two configs differ.

  How models of the configs are computed (dtypes, dropout, kernels) is left out.
  """
  if type(model_config) is not type(other):
    return [f"family: {of(model_config).name} and {of(other).name}"]
  lines = []
  for name in settings.schema_of(type(model_config)):
    value = getattr(model_config, name)
    other_value = getattr(other, name)
    if name not in _COMPUTING and value != other_value:
      lines.append(f"{name}: {value!r} and {other_value!r}")
  return lines


@functools.cache
def _registry() -> dict[str, Family]:
  """Returns the families by name, read from the modules of this folder on the first call."""
  families = {}
  for module in pkgutil.iter_modules(models.__path__):
    if module.name.startswith("family_"):
      family = importlib.import_module(f"{models.__name__}.{module.name}").FAMILY
      families[family.name] = family
  return families

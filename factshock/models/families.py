"""The families of models: which module runs a config, and configs from a section of an experiment's config."""

import dataclasses
import importlib

from factshock.runtime.errors import UserError

_CONFIGS = {"t5": "T5Config", "llama": "LlamaConfig"}  # family -> its config
_MODULES = {"t5": "t5", "llama": "decoder"}  # family -> module of this folder


def of(config):
  """The module that runs models of this config: models.t5 or models.decoder. ValueError for anything else."""
  for name, kind in _CONFIGS.items():
    if type(config).__name__ == kind:
      return _module(name)
  raise ValueError(f"expected a T5Config or LlamaConfig, got {type(config).__name__}")


def from_section(section, vocab_size):
  """The model config of a config's `model` section; its `vocab_size` 0 or left out takes the one given.

  Raises:
    UserError: a value out of range, or a vocabulary smaller than the tokenizer's.
  """
  values = {
    key: tuple(value) if isinstance(value, list) else value for key, value in dict(section).items()
  }
  name = values.pop("family")
  kind = getattr(_module(name), _CONFIGS[name])
  if not values.get("vocab_size"):
    values["vocab_size"] = vocab_size
  if values["vocab_size"] < vocab_size:
    raise UserError(
      f"config.model.vocab_size: expected at least the tokenizer's {vocab_size}, got "
      f"{values['vocab_size']}"
    )
  return kind(**values)


def to_section(config):
  """The `model` section that `from_section` turns into this config."""
  family = next(name for name, kind in _CONFIGS.items() if type(config).__name__ == kind)
  return {"family": family, **dataclasses.asdict(config)}


def differences(config, other):
  """Lines naming each size in which two configs differ; how they are computed (dtypes, dropout, kernels) is left out."""
  if type(config) is not type(other):
    return [f"family: {to_section(config)['family']} and {to_section(other)['family']}"]
  how = ("dtype", "param_dtype", "dropout", "unroll", "remat", "attention", "max_length")
  return [
    f"{field.name}: {getattr(config, field.name)!r} and {getattr(other, field.name)!r}"
    for field in dataclasses.fields(config)
    if field.name not in how and getattr(config, field.name) != getattr(other, field.name)
  ]


def _module(name):
  return importlib.import_module(f"factshock.models.{_MODULES[name]}")

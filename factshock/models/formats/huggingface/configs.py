"""config.json of HuggingFace models as our configs and back, as transformers 4 and 5 write it."""

import os
from collections.abc import Mapping
from typing import Any

from factshock.models import families
from factshock.models.families import Family
from factshock.models.formats.gguf import files as gguf_files
from factshock.models.formats.gguf import models as gguf_models
from factshock.models.model_config import ModelConfig
from factshock.runtime import json_files, settings
from factshock.runtime.errors import UserError
from factshock.types import FilePath


def read_json(folder: FilePath) -> dict[str, Any]:
  """Returns the config.json of a folder, or what a GGUF file says in its place.

  Raises:
    UserError: no such file, or no JSON object in it.
  """
  if gguf_files.is_file(folder):
    return gguf_models.read_json(folder)
  path = os.path.join(str(folder), "config.json")
  if not os.path.exists(path):
    raise UserError(
      f"{folder}: expected a model with a config.json, got none there; give the folder that "
      "transformers saved"
    )
  try:
    return json_files.read(path)
  except json_files.Broken as error:
    raise UserError(f"{error}; copy it again") from error


def from_json(values: Mapping[str, Any], path: FilePath, dtype: str | None = None) -> ModelConfig:
  """Returns the model config of a config.json.

  Args:
    values: its JSON object.
    path: name of it in errors.
    dtype: of the computation; None takes the file's own (float16 becomes bfloat16), float32 where
      it has none.

  Raises:
    UserError: another architecture, or a variant that is not supported; says what is.
  """
  path = str(path)
  family = _family_of(values, path)
  if values.get("quantization_config"):
    raise UserError(
      f"{path}: quantized weights are not supported; use the model in float32 or bfloat16"
    )
  problems = settings.known_problems(values, family.huggingface.schema)
  if problems:
    raise UserError(f"{path}: {'; '.join(problems)}")
  try:
    return family.huggingface.read_config(
      values, path, dtype or _dtype(family.huggingface.own_json(values))
    )
  except KeyError as error:
    raise UserError(f"{path}: expected a value for {error.args[0]!r}, got none") from error
  except UserError as error:
    if str(error).startswith(path):
      raise
    raise UserError(f"{path}: {error}") from error
  except (TypeError, AttributeError, ArithmeticError) as error:
    raise UserError(
      f"{path}: expected the config of a model, got {error!r}; copy it again"
    ) from error


def to_json(
  model_config: ModelConfig, dtype: str, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """Returns the config.json of a model, as transformers 4 and 5 and vLLM read it.

  Args:
    model_config: the model's sizes.
    dtype: name of the stored dtype.
    base: the config.json that the model came with; its values that we do not know of (token ids,
      say) are kept.

  Raises:
    UserError: `base` is of a model of other sizes; names each.
  """
  huggingface = families.of(model_config).huggingface
  values = huggingface.write_config(model_config)
  values |= {"dtype": dtype, "torch_dtype": dtype}
  if base is None:
    return values
  base = huggingface.own_json(base)
  base_config = from_json(base, "the config.json carried along")
  lines = families.differences(model_config, base_config)
  if lines:
    raise UserError(f"the config.json carried along is of another model: {'; '.join(lines)}")
  merged = dict(base)
  for key, value in values.items():
    kept = key in ("model_type", "architectures", *huggingface.kept_keys)
    if not kept or key not in base:
      merged[key] = value
  return merged


def is_part(values: Mapping[str, Any], path: FilePath) -> bool:
  """Returns whether what is read of a config.json is part of a larger model, its text say."""
  own = _family_of(values, str(path)).huggingface.own_json(values)
  return own.get("model_type") != values.get("model_type")


def _family_of(values: Mapping[str, Any], path: str) -> Family:
  """Returns the family of a config.json's model_type."""
  model_type = values.get("model_type")
  for family in families.known():
    if model_type in family.huggingface.model_types:
      return family
  supported = ", ".join(family.huggingface.supported for family in families.known())
  raise UserError(
    f"{path}: model_type {model_type!r:.60} is not supported; supported are {supported}"
  )


def _dtype(values: Mapping[str, Any]) -> str:
  """Returns the dtype that a config.json names, as one that we compute in."""
  name = str(values.get("dtype") or values.get("torch_dtype") or "float32")
  return "bfloat16" if name.removeprefix("torch.") in ("bfloat16", "float16") else "float32"

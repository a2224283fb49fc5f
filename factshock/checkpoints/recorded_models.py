"""What a checkpoint's manifest says of its model: family and sizes, before any weights are read."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from factshock.checkpoints import manifest as manifests
from factshock.checkpoints.manifest import LeafRecord, Manifest
from factshock.models import families
from factshock.models.formats.huggingface import names
from factshock.models.model_config import ModelConfig
from factshock.runtime.errors import UserError

FLOATS = ("float32", "bfloat16", "float16", "float64")  # what leaves may be stored in


def leaves(manifest: Manifest) -> dict[str, LeafRecord]:
  """Returns what a manifest says of each parameter, by key path."""
  params = manifests.params_only(manifest["leaves"])
  return {name.removeprefix("params/"): leaf for name, leaf in params.items()}


def config_of(folder: str, manifest: Manifest) -> ModelConfig:
  """Returns the config of a checkpoint's model; its param_dtype is that of the stored embedding.

  Args:
    folder: of the step, for errors.
    manifest: the folder's.

  Raises:
    UserError: the manifest names no model, or one that its parameters are not of.
  """
  record = manifest["config"] or {}
  experiment: Mapping[str, Any] = record.get("experiment") or {}
  stored = leaves(manifest)
  if "model" not in experiment or "embedding" not in stored:
    raise UserError(
      f"{folder}: its manifest does not say which model it is; expected a checkpoint of an "
      "experiment or of convert"
    )
  embedding = stored["embedding"]
  values: Any = families.from_section(experiment["model"], embedding["shape"][0])
  config: ModelConfig = dataclasses.replace(values, param_dtype=embedding["dtype"])
  _check_shapes(folder, config, stored)
  return config


def _check_shapes(
  folder: str,
  config: ModelConfig,
  stored: Mapping[str, LeafRecord],
) -> None:
  """Checks that a checkpoint's parameters are those of its model.

  Raises:
    UserError: names every leaf that differs.
  """
  got = manifests.leaf_specs(stored)
  expected = {}
  for leaf, tensors in names.by_leaf(config).items():
    dtype = stored[leaf]["dtype"] if leaf in stored else "None"
    if leaf in stored and dtype not in FLOATS:
      dtype = "float32"
    expected[leaf] = (names.leaf_shape(tensors), dtype)
  lines = manifests.differences(expected, got)
  if lines:
    raise UserError(
      f"{folder}: its parameters are not those of the model it names: {'; '.join(lines)}"
    )

"""Which tensor of a HuggingFace model is which part of which leaf of our parameters."""

from collections.abc import Sequence

from factshock.models import families
from factshock.models.formats.tensors import Tensor
from factshock.models.model_config import ModelConfig


def tensors(model_config: ModelConfig) -> list[Tensor]:
  """Returns every tensor of a model, ordered by leaf, then layer; a tied head has none."""
  return families.of(model_config).huggingface.tensors(model_config)


def by_leaf(model_config: ModelConfig) -> dict[str, list[Tensor]]:
  """Returns the tensors of each leaf, by the leaf's key path."""
  leaves: dict[str, list[Tensor]] = {}
  for tensor in tensors(model_config):
    leaves.setdefault(tensor.leaf, []).append(tensor)
  return leaves


def leaf_shape(leaf_tensors: Sequence[Tensor]) -> tuple[int, ...]:
  """Returns the shape of the leaf that these tensors make up."""
  first = leaf_tensors[0]
  shape = first.shape[::-1] if first.transposed else first.shape
  return shape if first.layer is None else (len(leaf_tensors), *shape)


def copies(model_config: ModelConfig) -> dict[str, str]:
  """Returns the tensors that may stand in a file beside the one they equal: name to its name."""
  return families.of(model_config).huggingface.copies(model_config)


def is_unused(model_config: ModelConfig, name: str) -> bool:
  """Returns whether a tensor that published files hold has no use in the model."""
  return families.of(model_config).huggingface.is_unused(name)

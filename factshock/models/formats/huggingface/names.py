"""Which tensor of a HuggingFace model is which part of which leaf of our parameters."""

from collections.abc import Iterable, Sequence

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


def full_names(model_config: ModelConfig, stored: Iterable[str]) -> dict[str, str]:
  """Returns the tensors' own names by those they are stored under.

  AutoModel leaves out "model." before a Llama's; transformers adds it where the name is then known.
  A model that is part of a larger one has that one's prefix.
  """
  prefixes = families.of(model_config).huggingface.prefixes
  prefix = families.of(model_config).huggingface.base_prefix
  known = {tensor.name for tensor in tensors(model_config)} | copies(model_config).keys()

  def full(name: str) -> str:
    for other, own in prefixes:
      if name.startswith(other):
        name = own + name.removeprefix(other)
    longer = f"{prefix}{name}"
    is_short = name not in known and (longer in known or is_unused(model_config, longer))
    return longer if is_short else name

  return {name: full(name) for name in stored}


def copies(model_config: ModelConfig) -> dict[str, str]:
  """Returns the tensors that may stand in a file beside the one they equal: name to its name."""
  return families.of(model_config).huggingface.copies(model_config)


def is_unused(model_config: ModelConfig, name: str) -> bool:
  """Returns whether a tensor that published files hold has no use in the model."""
  return families.of(model_config).huggingface.is_unused(name)

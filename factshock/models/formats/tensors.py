"""Records of how a family's models are stored as HuggingFace folders: config.json and tensors."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from factshock.runtime.settings import Check


class Tensor(NamedTuple):
  """Tensor of a HuggingFace file, and the part of our parameters that it is.

  Attributes:
    name: its name in the file.
    leaf: key path in our tree, such as "encoder/layers/self_attention/query".
    layer: its index on the leaf's first axis; None where the leaf has no layers.
    transposed: whether ours is the transpose; linear weights are [out, in] there, [in, out] here.
    shape: its shape in the file.
  """

  name: str
  leaf: str
  layer: int | None
  transposed: bool
  shape: tuple[int, ...]


class LayerTensor(NamedTuple):
  """Tensor that every layer of a stack has: our leaf and its name, both within the layer.

  A name without ".bias" at its end goes on with ".weight".
  """

  leaf: str
  name: str
  shape: tuple[int, ...]


def _as_it_is(values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a config.json that is of one model."""
  return dict(values)


def _nothing_unused(name: str) -> bool:
  """Returns that a tensor of this name has a use."""
  return False


@dataclasses.dataclass(frozen=True)
class HuggingFaceFormat:
  """Says how HuggingFace folders store the models of a family.

  Attributes:
    supported: what is read, in words, such as "llama, mistral".
    model_types: the values of `model_type` in config.json that are of this family.
    task_type: PEFT's name of what its models do.
    read_config: (config.json, its path for errors, dtype of the computation) -> model config.
    write_config: model config -> config.json, without its dtype.
    tensors: model config -> every tensor, ordered by leaf, then layer; a tied head has none.
    copies: model config -> tensors that may stand in a file beside the one they equal, by name.
    base_prefix: what AutoModel, which saves a model without its head, leaves out before its names.
    prefixes: other beginnings of names in files, and what they stand for.
    own_json: config.json -> that of the model that is read of it.
    is_unused: whether a tensor of this name, which published files hold, has no use.
    kept_keys: keys of config.json that keep the value of the model that a model was made from.
    schema: checks of the keys of config.json that are read, which null passes too.
  """

  supported: str
  model_types: tuple[str, ...]
  task_type: str
  read_config: Callable[[Mapping[str, Any], str, str], Any]
  write_config: Callable[[Any], dict[str, Any]]
  tensors: Callable[[Any], list[Tensor]]
  copies: Callable[[Any], dict[str, str]] = lambda model_config: {}
  base_prefix: str = ""
  prefixes: tuple[tuple[str, str], ...] = ()
  own_json: Callable[[Mapping[str, Any]], dict[str, Any]] = _as_it_is
  is_unused: Callable[[str], bool] = _nothing_unused
  kept_keys: tuple[str, ...] = ()
  schema: Mapping[str, Check] = dataclasses.field(default_factory=dict[str, Check])


def stacked(
  layer_tensors: Sequence[LayerTensor], depth: int, leaf_prefix: str, name_prefix: str
) -> list[Tensor]:
  """Returns the tensors of a stack of layers, ordered by leaf, then layer.

  Args:
    layer_tensors: those of one layer; one of two dimensions is stored transposed.
    depth: number of layers.
    leaf_prefix: key path of the stack in our tree.
    name_prefix: what stands before a layer's number in the names of the file.
  """
  tensors = []
  for leaf, name, shape in layer_tensors:
    whole_name = name if name.endswith(".bias") else f"{name}.weight"
    for layer in range(depth):
      tensors.append(
        Tensor(
          name=f"{name_prefix}.{layer}.{whole_name}",
          leaf=f"{leaf_prefix}/{leaf}",
          layer=layer,
          transposed=len(shape) == 2,
          shape=shape,
        )
      )
  return tensors

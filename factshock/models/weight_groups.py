"""Groups of a model's weights by name: its head, its last layer, its encoder and the like."""

import re
from collections.abc import Callable, Sequence

import jax
import numpy as np

from factshock.runtime.errors import UserError
from factshock.types import Params


def _is_query_or_key(name: str) -> bool:
  """Returns whether a weight says where attention looks, not what is read there."""
  return re.search(r"attention/(query|key)(_bias|_norm/scale)?$", name) is not None


# Group -> whether a weight of this name belongs to it. The names are a T5's own, or those of a
# decoder-only model, which is a decoder.
GROUPS: dict[str, Callable[[str], bool]] = {
  "embedding": lambda name: name == "embedding",
  "head": lambda name: name == "head",
  "encoder": lambda name: name.startswith("encoder/"),
  "decoder": lambda name: name.startswith(("decoder/", "layers/", "final_norm/")),
  "attention": lambda name: "attention/" in name,
  "query_key": _is_query_or_key,
  "feed_forward": lambda name: "feed_forward/" in name,
  # Of its stack the last.
  "last_layer": lambda name: name.startswith(("decoder/layers/", "layers/")),
}


def mask(params: Params, groups: Sequence[str]) -> Params:
  """Returns a tree like `params`: float32, 1 where a weight belongs to one of the groups, else 0.

  Each leaf broadcasts to its weight.

  Args:
    params: parameters (or their shapes), layers of a stack on the leading axis.
    groups: names of GROUPS.

  Raises:
    UserError: an unknown group, or one that the model does not have (a tied head is the embedding).
  """
  leaves, structure = jax.tree_util.tree_flatten_with_path(params)
  names = ["/".join(str(key.key) for key in path) for path, _ in leaves]
  for group in groups:
    _check_group(group, names)
  masks = []
  for name, (_, leaf) in zip(names, leaves):
    each = [_mask_of(group, name, leaf) for group in groups]
    masks.append(np.max(each, axis=0) if each else np.float32(0))
  return structure.unflatten(masks)


def _check_group(group: str, names: Sequence[str]) -> None:
  """Raises a UserError where a group is unknown or has none of a model's weights."""
  if group not in GROUPS:
    raise UserError(f"part {group!r}: expected one of {', '.join(GROUPS)}")
  if any(map(GROUPS[group], names)):
    return
  hint = " of its own, the embedding serves; say 'embedding'" if group == "head" else ""
  raise UserError(f"part {group!r}: the model has none{hint}")


def _mask_of(group: str, name: str, leaf: jax.Array) -> np.ndarray:
  """Returns 1 where a weight belongs to a group, else 0: a number, or one for each layer."""
  belongs = GROUPS[group](name)
  if "layers/" not in name:
    return np.array(belongs, np.float32)
  layers = np.zeros((leaf.shape[0],) + (1,) * (len(leaf.shape) - 1), np.float32)
  if belongs and group == "last_layer":
    layers[-1] = 1
  elif belongs:
    layers[:] = 1
  return layers

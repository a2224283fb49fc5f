"""Parts of a model by name: which of its weights belong to the head, the last layer, the encoder and the like."""

import jax
import numpy as np

from factshock.runtime.errors import UserError

# Name of a weight -> does it belong; a T5's own names, or those of a decoder-only model, which is a decoder.
PARTS = {
  "embedding": lambda name: name == "embedding",
  "head": lambda name: name == "head",
  "encoder": lambda name: name.startswith("encoder/"),
  "decoder": lambda name: name.startswith(("decoder/", "layers/", "final_norm/")),
  "attention": lambda name: "attention/" in name,
  "query_key": lambda name: (
    "attention/" in name and name.endswith(("/query", "/key"))
  ),  # where to look, not what is read there
  "feed_forward": lambda name: "feed_forward/" in name,
  "last_layer": lambda name: name.startswith(
    ("decoder/layers/", "layers/")
  ),  # of its stack the last
}


def mask(params, parts):
  """A tree of float32 like `params`: 1 where a weight belongs to one of the parts, else 0; each broadcasts to its weight.

  Args:
    params: parameters (or shapes) of a T5 or Llama, layers of a stack on the leading axis. parts: names of PARTS.
  Raises:
    UserError: an unknown part, or one that the model does not have (a tied head is the embedding).
  """

  leaves, structure = jax.tree_util.tree_flatten_with_path(params)
  names = ["/".join(str(key.key) for key in path) for path, _ in leaves]
  for part in parts:
    if part not in PARTS:
      raise UserError(f"part {part!r}: expected one of {', '.join(PARTS)}")
    if not any(map(PARTS[part], names)):
      raise UserError(
        f"part {part!r}: the model has none"
        + (" of its own, the embedding serves; say 'embedding'" if part == "head" else "")
      )
  return structure.unflatten(
    [
      np.max([_of(part, name, leaf) for part in parts], axis=0) if len(parts) else np.float32(0)
      for name, (_, leaf) in zip(names, leaves)
    ]
  )


def _of(part, name, leaf):
  layered = "layers/" in name
  found = np.zeros((leaf.shape[0],) + (1,) * (len(leaf.shape) - 1) if layered else (), np.float32)
  if PARTS[part](name):
    found[(-1 if part == "last_layer" else slice(None)) if layered else ()] = 1
  return found

"""Low-rank adapters (LoRA, Hu et al. 2021): y = x W + (alpha / rank) (x A) B, with W as it was.

Adapters are a tree like the params, of the adapted weights only, each a dict of `a`
[N, inputs, rank] and `b` [N, rank, outputs]. `attach` puts them beside their weights, where the
models' own functions find them; `merge` adds them to the weights.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from factshock.runtime.errors import UserError
from factshock.types import Params

WEIGHTS = ("query", "key", "value", "out", "gate", "up", "down")

# Keys from the root of a tree to a leaf.
Path: TypeAlias = tuple[str, ...]


def init(params: Params, key: jax.Array, rank: int, targets: Sequence[str]) -> Params:
  """Returns adapters that change nothing yet, float32.

  `a` is uniform in +-sqrt(1 / inputs) as in PEFT, `b` is zero.

  Args:
    params: a model's params, or their shapes.
    key: a random key.
    rank: of each adapter.
    targets: names of weights (WEIGHTS), or ends of paths as "decoder/cross_attention/query".

  Raises:
    UserError: a target that matches no weight (naming what there is).
  """
  weights = {path: leaf for path, leaf in _flat(params).items() if path[-1] in WEIGHTS}
  chosen = set()
  for target in targets:
    matching = [path for path in weights if _matches(path, target)]
    if not matching:
      raise _no_weight(target, weights)
    chosen.update(matching)
  keys = jax.random.split(key, max(1, len(chosen)))
  adapters = {}
  for path, path_key in zip(sorted(chosen), keys):
    adapters[path] = _fresh(weights[path].shape, rank, path_key)
  return _nested(adapters)


def attach(params: Params, adapters: Params, scale: float | jax.Array) -> Params:
  """Returns the params with adapters beside the weights they change; `scale` is alpha / rank."""
  joined = _flat(params)
  for path, pair in _pairs(adapters).items():
    *parents, name = path
    joined[(*parents, f"{name}_lora_a")] = pair["a"]
    joined[(*parents, f"{name}_lora_b")] = pair["b"] * scale
  return _nested(joined)


def merge(params: Params, adapters: Params, scale: float) -> Params:
  """Returns the params with the adapters added to their weights, leaf by leaf.

  The sum is made in float32; each weight keeps its dtype. `scale` is alpha / rank.
  """
  merged = _flat(params)
  for path, pair in _pairs(adapters).items():
    merged[path] = _merged(merged[path], pair["a"], pair["b"], scale)
  return _nested(merged)


@jax.jit
def _merged(weight: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
  wide_a = a.astype(jnp.float32)
  wide_b = b.astype(jnp.float32)
  change = jnp.einsum("nir,nro->nio", wide_a, wide_b, precision="highest")
  merged = weight.astype(jnp.float32) + scale * change
  return merged.astype(weight.dtype)


def _fresh(shape: tuple[int, ...], rank: int, key: jax.Array) -> Params:
  """Returns the adapter of a weight of this shape, which changes nothing yet."""
  layers, inputs, outputs = shape
  bound = math.sqrt(1 / inputs)
  return {
    "a": jax.random.uniform(key, (layers, inputs, rank), jnp.float32, -bound, bound),
    "b": jnp.zeros((layers, rank, outputs), jnp.float32),
  }


def _no_weight(target: str, paths: Iterable[Path]) -> UserError:
  """Returns the error of a target that matches no weight."""
  known = ", ".join(sorted({"/".join(path) for path in paths}))
  return UserError(
    f"LoRA target {target!r}: matches no weight; there are {known}, or just their last names"
  )


def _matches(path: Path, target: str) -> bool:
  """Returns whether a path ends in a target; the target may leave out "layers"."""
  end = tuple(target.split("/"))
  inner = tuple(name for name in path if name != "layers")
  return path[-len(end) :] == end or inner[-len(end) :] == end


def _pairs(adapters: Params) -> dict[Path, dict[str, jax.Array]]:
  """Returns `a` and `b` of each adapter, by the path of its weight."""
  pairs: dict[Path, dict[str, jax.Array]] = {}
  for path, leaf in _flat(adapters).items():
    pairs.setdefault(path[:-1], {})[path[-1]] = leaf
  return pairs


def _flat(tree: Mapping[str, Any], path: Path = ()) -> dict[Path, Any]:
  """Returns the leaves of a nested dict by path."""
  flat: dict[Path, Any] = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat |= _flat(value, (*path, name))
    else:
      flat[(*path, name)] = value
  return flat


def _nested(flat: Mapping[Path, Any]) -> Params:
  """Returns the nested dict of leaves by path."""
  tree: Params = {}
  for path, leaf in flat.items():
    inner = tree
    for name in path[:-1]:
      inner = inner.setdefault(name, {})
    inner[path[-1]] = leaf
  return tree

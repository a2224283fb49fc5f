"""Low-rank adapters (LoRA, Hu et al. 2021): y = x W + (alpha / rank) (x A) B, with W as it was.

Adapters are a tree like the params, of the adapted weights only, each a dict of `a` [N, inputs, rank] and `b`
[N, rank, outputs]. `attach` puts them beside their weights, where the models' own functions find them; `merge` adds
them to the weights.
"""

import math

import jax
import jax.numpy as jnp

from factshock.runtime.errors import UserError

WEIGHTS = ("query", "key", "value", "out", "gate", "up", "down")


def init(params, key, rank, targets):
  """Adapters that change nothing yet: `a` uniform in +-sqrt(1 / inputs) as in PEFT, `b` zero; float32.

  Args:
    params: a model's params, or their shapes.
    targets: names of weights (WEIGHTS), or ends of paths as "decoder/cross_attention/query" names them.
  Raises:
    UserError: a target that matches no weight (naming what there is).
  """
  weights = {path: leaf for path, leaf in _flat(params).items() if path[-1] in WEIGHTS}
  for target in targets:
    if not any(_matches(path, target) for path in weights):
      raise UserError(
        f"LoRA target {target!r}: matches no weight; there are "
        f"{', '.join(sorted({'/'.join(path) for path in weights}))}, or just their last names"
      )
  chosen = sorted(path for path in weights if any(_matches(path, target) for target in targets))
  keys = jax.random.split(key, max(1, len(chosen)))
  return _nested({path: _fresh(weights[path].shape, rank, key) for path, key in zip(chosen, keys)})


def attach(params, adapters, scale):
  """The params with adapters beside the weights they change; `scale` is alpha / rank."""
  joined = _flat(params)
  for path, parts in _pairs(adapters).items():
    joined[(*path[:-1], f"{path[-1]}_lora_a")] = parts["a"]
    joined[(*path[:-1], f"{path[-1]}_lora_b")] = parts["b"] * scale
  return _nested(joined)


def merge(params, adapters, scale):
  """The params with the adapters added to their weights, in float32, each in its own dtype; leaf by leaf."""
  merged = _flat(params)
  for path, parts in _pairs(adapters).items():
    merged[path] = _merged(merged[path], parts["a"], parts["b"], scale)
  return _nested(merged)


@jax.jit
def _merged(weight, a, b, scale):
  change = jnp.einsum("nir,nro->nio", a.astype(jnp.float32), b.astype(jnp.float32))
  return (weight.astype(jnp.float32) + scale * change).astype(weight.dtype)


def _fresh(shape, rank, key):
  layers, inputs, outputs = shape
  bound = math.sqrt(1 / inputs)
  return {
    "a": jax.random.uniform(key, (layers, inputs, rank), jnp.float32, -bound, bound),
    "b": jnp.zeros((layers, rank, outputs), jnp.float32),
  }


def _matches(path, target):
  parts = tuple(target.split("/"))
  inner = tuple(part for part in path if part != "layers")
  return path[-len(parts) :] == parts or inner[-len(parts) :] == parts


def _pairs(adapters):
  """{path of a weight: {"a", "b"}}."""
  found = {}
  for path, leaf in _flat(adapters).items():
    found.setdefault(path[:-1], {})[path[-1]] = leaf
  return found


def _flat(tree, path=()):
  """{path: leaf} of a nested dict."""
  flat = {}
  for name, value in tree.items():
    flat |= _flat(value, (*path, name)) if isinstance(value, dict) else {(*path, name): value}
  return flat


def _nested(flat):
  tree = {}
  for path, leaf in flat.items():
    inner = tree
    for name in path[:-1]:
      inner = inner.setdefault(name, {})
    inner[path[-1]] = leaf
  return tree

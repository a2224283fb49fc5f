"""Weighted averages of models: in memory, layer by layer, on disk leaf by leaf; and of probabilities.

Weight mixing follows Wortsman et al. 2022 (WiSE-FT) and the weighted averages of "model soups".
"""

import os

import jax
import jax.numpy as jnp
import numpy as np

import factshock
from factshock.console import UserError
from factshock.training import checkpoints


def check_weights(weights, count):
  """Returns `count` weights as floats; "uniform" gives equal ones.

  Raises:
    UserError: their number is not `count`, one is not finite, or they do not sum to 1.
  """
  if isinstance(weights, str) and weights == "uniform":
    return [1.0 / count] * count
  weights = [float(weight) for weight in weights]
  if len(weights) != count:
    raise UserError(f"expected {count} weights, one a checkpoint, got {len(weights)}; give as many of both")
  if not abs(sum(weights) - 1.0) <= 1e-6:  # also false where a weight is not a number
    raise UserError(f"expected weights that sum to 1, got {' + '.join(map(str, weights))} = "
                    f"{sum(weights):.6g}; scale them so that the sum is 1")
  return weights


def interpolate(trees, weights):
  """The weighted average of trees of the same structure, accumulated in float32, in the stored dtypes.

  Args:
    trees: list of pytrees of floating arrays.
    weights: numbers that sum to 1 (one may be negative or above 1), or "uniform".

  Returns:
    A tree of JAX arrays like trees[0].
  """
  weights = check_weights(weights, len(trees))
  _check_same(trees)
  return _average(tuple(trees), jnp.asarray(weights, jnp.float32))


def sweep(a, b, alphas):
  """Yields (alpha, (1 - alpha) a + alpha b) for each alpha, one tree at a time."""
  for alpha in alphas:
    yield alpha, interpolate([a, b], [1.0 - alpha, alpha])


def interpolate_layerwise(a, b, alpha_bottom, alpha_top):
  """(1 - alpha) a + alpha b with an alpha that grows linearly in depth; see `layerwise_weights`."""
  _check_same([a, b])
  return _average_layerwise(a, b, layerwise_weights(a, alpha_bottom, alpha_top))


def layerwise_weights(params, bottom, top):
  """A tree of float32 alphas, linear in depth, each broadcastable to its parameter.

  The embedding gets `bottom`; layer i of the N encoder and decoder layers counted through gets
  bottom + (top - bottom) i / (N + 1); the decoder's final norm and the head get `top`. A stack's
  relative bias goes with its first layer (where it is added first), the encoder's final norm with
  the encoder's last layer.

  Args:
    params: T5 parameters, layers of a stack on the leading axis.
    bottom: alpha of the embedding.
    top: alpha of the decoder's final norm and the head.
  """
  flat = checkpoints.flat_leaves(params)
  encoder, decoder = _depth(flat, "encoder"), _depth(flat, "decoder")
  alphas = [alpha.reshape((-1,) + (1,) * (leaf.ndim - 1)) if alpha.ndim else alpha
            for name, leaf in flat.items()
            for alpha in [_alpha(name, encoder, decoder, bottom, top)]]
  return jax.tree.unflatten(jax.tree.structure(params), alphas)


def mix_checkpoints(paths, weights, output, layerwise=None):
  """Writes the weighted average of checkpoints' parameters, holding about one leaf of each in memory.

  Beside the result, which is a step folder, stands `mix.json`: inputs, weights, digests, version.

  Args:
    paths: folders of checkpoints (a step folder, or a folder of steps: its newest).
    weights: as for `interpolate`; None with `layerwise`.
    output: the folder to write; must not exist.
    layerwise: (bottom, top) alphas of the second of two checkpoints instead of weights.

  Returns:
    The provenance that was written.

  Raises:
    UserError: counts, weights or folders that do not fit, or trees that differ; names every leaf.
  """
  if os.path.exists(output):
    raise UserError(f"{output}: already exists; remove it or choose another --output")
  if layerwise is None:
    weights = check_weights(weights, len(paths))
  elif len(paths) != 2:
    raise UserError(f"expected two checkpoints for layer-wise mixing, got {len(paths)}")
  folders = [checkpoints.step_folder(path) for path in paths]
  manifests = [checkpoints.read_manifest(folder) for folder in folders]
  leaves = [_params_only(manifest["leaves"]) for manifest in manifests]
  _check_leaves(folders, leaves)
  tree = _lazy_mix(folders, leaves, weights, layerwise)
  record = {"step": manifests[0]["step"], "loader_state": None, "config": manifests[0]["config"]}
  provenance = {"version": factshock.__version__, "weights": weights,
                "layerwise": list(layerwise) if layerwise else None,
                "inputs": [{"path": os.path.abspath(folder), "step": manifest["step"],
                            "digest": checkpoints.tree_digest(inputs)}
                           for folder, manifest, inputs in zip(folders, manifests, leaves)]}
  finish = lambda manifest: provenance | {"digest": checkpoints.tree_digest(manifest["leaves"])}
  manifest = checkpoints.write(output, {"params": tree}, record, {"mix.json": finish})
  return finish(manifest)


def mix_probabilities(scores_a, scores_b, alpha):
  """Output mixing: log((1 - alpha) softmax(a) + alpha softmax(b)) over a query's candidates.

  Args:
    scores_a: log-probabilities [..., candidates], not necessarily normalised.
    scores_b: the same candidates' scores by another model or prompt.
    alpha: share of `b`, 0 to 1.
  """
  if not 0 <= alpha <= 1:
    raise ValueError(f"expected alpha between 0 and 1, got {alpha}")
  scores_a, scores_b = _normalise(scores_a), _normalise(scores_b)
  with np.errstate(divide="ignore"):  # log 0 = -inf is the right limit at alpha 0 and 1
    return np.logaddexp(np.log(1 - np.float64(alpha)) + scores_a, np.log(np.float64(alpha)) + scores_b)


def _normalise(scores):
  scores = np.asarray(scores, np.float64)
  return scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)


@jax.jit
def _average(trees, weights):
  def leaf(*values):
    return sum(weight * value.astype(jnp.float32) for weight, value in zip(weights, values)
               ).astype(values[0].dtype)
  return jax.tree.map(leaf, *trees)


@jax.jit
def _average_layerwise(a, b, alphas):
  def leaf(a, b, alpha):
    return ((1 - alpha) * a.astype(jnp.float32) + alpha * b.astype(jnp.float32)).astype(a.dtype)
  return jax.tree.map(leaf, a, b, alphas)


def _check_same(trees):
  specs = [{name: (tuple(leaf.shape), leaf.dtype.name)
            for name, leaf in checkpoints.flat_leaves(tree).items()} for tree in trees]
  for number, spec in enumerate(specs[1:], 2):
    lines = checkpoints.differences(specs[0], spec)
    if lines:
      raise UserError(f"model {number} differs from model 1: {'; '.join(lines)}")


def _check_leaves(folders, leaves):
  first = checkpoints.leaf_specs(leaves[0])
  lines = [f"{folder}: {line}" for folder, other in zip(folders[1:], leaves[1:])
           for line in checkpoints.differences(first, checkpoints.leaf_specs(other))]
  lines += [f"{folders[0]}: {name} is not floating point" for name, (_, dtype) in first.items()
            if not jnp.issubdtype(jnp.dtype(dtype), jnp.floating)]
  if lines:
    raise UserError(f"models that differ from {folders[0]} cannot be mixed: {'; '.join(lines)}")


def _params_only(leaves):
  return {name: leaf for name, leaf in leaves.items() if name.startswith("params/")}


def _lazy_mix(folders, leaves, weights, layerwise):
  """The mixed parameters as a nested dict of leaves that are computed when they are written."""
  shapes = {name.removeprefix("params/"): jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
            for name, (shape, dtype) in checkpoints.leaf_specs(leaves[0]).items()}
  tree = checkpoints.nested(shapes)
  if layerwise is None:
    shares = {name: weights for name in shapes}
  else:
    alphas = checkpoints.flat_leaves(layerwise_weights(tree, *layerwise))
    shares = {name: [1 - alpha, alpha] for name, alpha in alphas.items()}
  return checkpoints.nested({
      name: checkpoints.Lazy(shape.shape, shape.dtype, lambda name=name: _mix_leaf(
          folders, leaves, f"params/{name}", shares[name])) for name, shape in shapes.items()})


def _mix_leaf(folders, leaves, name, shares):
  total = 0
  for folder, manifest, share in zip(folders, leaves, shares):
    value = checkpoints.read_leaf(folder, name, manifest)
    dtype, scaled = value.dtype, value.astype(np.float32)
    del value
    scaled *= np.asarray(share, np.float32)
    total = np.add(total, scaled, out=total if isinstance(total, np.ndarray) else None)
  return total.astype(dtype, copy=False)


def _depth(flat, stack):
  """Number of layers of a stack: the leading axis of its stacked leaves."""
  counts = {leaf.shape[0] for name, leaf in flat.items() if name.startswith(f"{stack}/layers/")}
  if len(counts) != 1:
    raise UserError(f"expected T5 parameters with stacked layers under {stack}/layers, got "
                    f"{len(counts)} depths; layer-wise mixing needs a T5")
  return counts.pop()


def _alpha(name, encoder, decoder, bottom, top):
  """The alpha of one leaf: a float32 scalar, or [layers] for a stacked leaf."""
  at = lambda position: np.asarray(bottom + (top - bottom) * position / (encoder + decoder + 1), np.float32)
  first = 1 if name.startswith("encoder/") else 1 + encoder
  count = encoder if name.startswith("encoder/") else decoder
  if not name.startswith(("encoder/", "decoder/")):
    return at(np.float64(0 if "embedding" in name else encoder + decoder + 1))
  if "/layers/" in name:
    return at(first + np.arange(count))
  if "relative" in name:
    return at(np.float64(first))
  return at(np.float64(encoder if name.startswith("encoder/") else encoder + decoder + 1))

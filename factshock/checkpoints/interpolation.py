"""Weighted averages of models: in memory, layer by layer, on disk leaf by leaf; and of probabilities.

Weight mixing follows Wortsman et al. 2022 (WiSE-FT) and the weighted averages of "model soups".
"""

import functools
import math
import os

import jax
import jax.numpy as jnp
import numpy as np

import factshock
from factshock.checkpoints import leaf_files, store, tree_files
from factshock.models import families, weight_groups
from factshock.models.formats import huggingface
from factshock.models.formats.huggingface import files as weight_files
from factshock.models.formats.huggingface import names as tensor_names
from factshock.runtime.errors import UserError


def check_weights(weights, count):
  """Returns `count` weights as floats; "uniform" gives equal ones.

  Raises:
    UserError: their number is not `count`, one is not finite, or they do not sum to 1.
  """
  if isinstance(weights, str) and weights == "uniform":
    return [1.0 / count] * count
  weights = [float(weight) for weight in weights]
  if len(weights) != count:
    raise UserError(
      f"expected {count} weights, one a checkpoint, got {len(weights)}; give as many of both"
    )
  if not abs(sum(weights) - 1.0) <= 1e-6:  # also false where a weight is not a number
    raise UserError(
      f"expected weights that sum to 1, got {' + '.join(map(str, weights))} = "
      f"{sum(weights):.6g}; scale them so that the sum is 1"
    )
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


def mix_by_profile(a, b, alpha, profile="uniform"):
  """(1 - alpha) a + alpha b, where alpha is the same everywhere, or linear in depth to or from 0.

  Args:
    profile: "uniform"; "decreasing": alpha at the embedding, 0 at the head; "increasing": 0 at the embedding, alpha at the
      head (as LiNeS scales updates, Wang et al. 2024).
  """
  if profile == "uniform":
    return interpolate([a, b], [1.0 - alpha, alpha])
  return interpolate_layerwise(a, b, *layer_alphas(alpha, profile))


def layer_alphas(alpha, profile):
  """(alpha at the embedding, alpha at the head) of a profile in depth."""
  return {"decreasing": (alpha, 0.0), "increasing": (0.0, alpha)}[profile]


def interpolate_layerwise(a, b, alpha_bottom, alpha_top):
  """(1 - alpha) a + alpha b with an alpha that grows linearly in depth; see `layerwise_weights`."""
  _check_same([a, b])
  return _average_layerwise(a, b, layerwise_weights(a, alpha_bottom, alpha_top))


def exchange(a, b, parts):
  """The tree `b` with the weights of some parts (models/weight_groups.py) taken from `a`."""
  _check_same([a, b])
  return _average_layerwise(b, a, weight_groups.mask(a, parts))


def layerwise_weights(params, bottom, top):
  """A tree of float32 alphas, linear in depth, each broadcastable to its parameter.

  The embedding gets `bottom`; layer i of the N encoder and decoder layers counted through gets
  bottom + (top - bottom) i / (N + 1); the decoder's final norm and the head get `top`. A stack's
  relative bias goes with its first layer (where it is added first), the encoder's final norm with
  the encoder's last layer. A decoder-only model's layers are counted as a decoder's.

  Args:
    params: T5 or Llama parameters, layers of a stack on the leading axis.
    bottom: alpha of the embedding.
    top: alpha of the decoder's final norm and the head.
  """
  flat = tree_files.flat_leaves(params)
  encoder, decoder = _depths(flat)
  alphas = [
    alpha.reshape((-1,) + (1,) * (leaf.ndim - 1)) if alpha.ndim else alpha
    for name, leaf in flat.items()
    for alpha in [_alpha(name, encoder, decoder, bottom, top)]
  ]
  return jax.tree.unflatten(jax.tree.structure(params), alphas)


def mix_checkpoints(paths, weights, output, layerwise=None):
  """Writes the weighted average of checkpoints' parameters, holding about one leaf of each in memory.

  Beside the result, which is a step folder or, for HuggingFace models, a folder in their format with the
  first one's tokenizer, stands `mix.json`: inputs, weights, digests, version.

  Args:
    paths: folders of checkpoints (a step folder, or a folder of steps: its newest), or HuggingFace models
      (folders or hub ids).
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
  if any(map(huggingface.is_source, paths)):
    return _mix_huggingface(paths, weights, output, layerwise)
  folders = [store.step_folder(path) for path in paths]
  manifests = [store.read_manifest(folder) for folder in folders]
  _refuse_adapters(
    [folder for folder, manifest in zip(folders, manifests) if "lora" in (manifest["config"] or {})]
  )
  leaves = [_params_only(manifest["leaves"]) for manifest in manifests]
  _check_leaves(folders, leaves)
  tree = _lazy_mix(folders, leaves, weights, layerwise)
  record = {"step": manifests[0]["step"], "loader_state": None, "config": manifests[0]["config"]}
  provenance = _provenance(
    weights,
    layerwise,
    [
      {
        "path": os.path.abspath(folder),
        "step": manifest["step"],
        "digest": store.tree_digest(inputs),
      }
      for folder, manifest, inputs in zip(folders, manifests, leaves)
    ],
  )
  finish = lambda manifest: provenance | {"digest": store.tree_digest(manifest["leaves"])}
  manifest = store.write(output, {"params": tree}, record, {"mix.json": finish})
  return finish(manifest)


def _refuse_adapters(paths):
  if paths:  # the average of two products is not the product of two averages
    raise UserError(
      f"{', '.join(map(str, paths))}: low-rank adapters cannot be averaged as models; merge them into their model "
      "first: python -m factshock.convert --input=ADAPTERS --output=MERGED --to=huggingface (or orbax)"
    )


def _provenance(weights, layerwise, inputs):
  return {
    "version": factshock.__version__,
    "weights": weights,
    "layerwise": list(layerwise) if layerwise else None,
    "inputs": inputs,
  }


def _mix_huggingface(paths, weights, output, layerwise):
  """`mix_checkpoints` of HuggingFace models: tensor by tensor, as they are stored."""
  other = [path for path in paths if not huggingface.is_source(path)]
  if other:
    raise UserError(
      f"{other[0]}: is no HuggingFace model, but {next(filter(huggingface.is_source, paths))} is; "
      "bring all into one format with factshock.convert"
    )
  sources = [huggingface.open_source(path) for path in paths]
  _refuse_adapters([path for path, source in zip(paths, sources) if source.adapters])
  _check_tensors(paths, sources)
  parts = tensor_names.tensors(sources[0].config)
  shares = (
    {part.name: weights for part in parts}
    if layerwise is None
    else _layer_shares(sources[0].config, parts, layerwise)
  )
  digests = [{} for _ in range(len(sources) + 1)]  # of each input, and of the result

  def writable(part):
    tensor = sources[0].tensors[part.name]
    return weight_files.Writable(
      part.name,
      part.shape,
      tensor.dtype,
      lambda: _mix_tensor(sources, part.name, shares[part.name], digests),
    )

  def provenance():
    return _provenance(
      weights,
      layerwise,
      [
        {"path": os.path.abspath(source.folder), "step": None, "digest": store.tree_digest(digest)}
        for source, digest in zip(sources, digests)
      ],
    ) | {"digest": store.tree_digest(digests[-1])}

  written = {}
  config_json = huggingface.to_json(
    sources[0].config, sources[0].config.param_dtype, sources[0].json
  )
  huggingface.write_folder(
    output,
    list(map(writable, parts)),
    config_json,
    tokenizer_from=sources[0].folder,
    extra_files={"mix.json": lambda: written.setdefault("mix", provenance())},
  )
  return written["mix"]


def _check_tensors(paths, sources):
  specs = [
    {name: (tensor.shape, tensor.dtype.name) for name, tensor in source.tensors.items()}
    for source in sources
  ]
  lines = [
    f"{path}: {line}"
    for path, spec in zip(paths[1:], specs[1:])
    for line in store.differences(specs[0], spec)
  ]
  lines += [
    f"{path}: {line}"
    for path, source in zip(paths[1:], sources[1:])
    for line in families.differences(sources[0].config, source.config)
  ]
  if lines:
    raise UserError(f"models that differ from {paths[0]} cannot be mixed: {'; '.join(lines)}")


def _layer_shares(config, parts, layerwise):
  """Dict tensor -> [share of the first, share of the second]."""
  shapes = {
    leaf: jax.ShapeDtypeStruct(tensor_names.leaf_shape(own), jnp.float32)
    for leaf, own in tensor_names.by_leaf(config).items()
  }
  alphas = tree_files.flat_leaves(layerwise_weights(tree_files.nested(shapes), *layerwise))
  shares = {}
  for part in parts:
    alpha = np.ravel(alphas[part.leaf])[part.layer or 0]
    shares[part.name] = [1 - alpha, alpha]
  return shares


def _mix_tensor(sources, name, shares, digests):
  """The weighted sum of a tensor of each source, which are read block by block; adds the digests of all."""
  tensors = [source.tensors[name] for source in sources]
  mixed = np.empty(tensors[0].shape, tensors[0].dtype)
  flat = mixed.reshape(-1)
  start = 0
  hashers = [leaf_files.hasher(tensor.dtype, tensor.shape) for tensor in (*tensors, mixed)]
  for blocks in zip(*(tensor.blocks(leaf_files.BLOCK) for tensor in tensors), strict=True):
    cut = slice(start, start + len(blocks[0]))
    flat[cut] = _weighted(blocks, shares)
    for found, block in zip(hashers, (*blocks, flat[cut])):
      found.update(block.view(np.uint8))
    start = cut.stop
  for found, hasher in zip(digests, hashers):
    found[name] = {"digest": leaf_files.spelled(hasher)}
  return mixed


def mix_probabilities(scores_a, scores_b, alpha):
  """Output mixing: log((1 - alpha) softmax(a) + alpha softmax(b)) over a query's candidates.

  Args:
    scores_a: log-probabilities [..., candidates], not necessarily normalised.
    scores_b: the same candidates' scores by another model or prompt.
    alpha: share of `b`, 0 to 1.
  """
  if not 0 <= alpha <= 1:
    raise ValueError(f"expected alpha between 0 and 1, got {alpha}")
  scores_a = _normalise(scores_a)
  scores_b = _normalise(scores_b)
  with np.errstate(divide="ignore"):  # log 0 = -inf is the right limit at alpha 0 and 1
    return np.logaddexp(
      np.log(1 - np.float64(alpha)) + scores_a, np.log(np.float64(alpha)) + scores_b
    )


def _normalise(scores):
  scores = np.asarray(scores, np.float64)
  return scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)


@jax.jit
def _average(trees, weights):
  def leaf(*values):
    return sum(weight * value.astype(jnp.float32) for weight, value in zip(weights, values)).astype(
      values[0].dtype
    )

  return jax.tree.map(leaf, *trees)


@jax.jit
def _average_layerwise(a, b, alphas):
  def leaf(a, b, alpha):
    return ((1 - alpha) * a.astype(jnp.float32) + alpha * b.astype(jnp.float32)).astype(a.dtype)

  return jax.tree.map(leaf, a, b, alphas)


def _check_same(trees):
  specs = [
    {
      name: (tuple(leaf.shape), leaf.dtype.name)
      for name, leaf in tree_files.flat_leaves(tree).items()
    }
    for tree in trees
  ]
  for number, spec in enumerate(specs[1:], 2):
    lines = store.differences(specs[0], spec)
    if lines:
      raise UserError(f"model {number} differs from model 1: {'; '.join(lines)}")


def _check_leaves(folders, leaves):
  first = store.leaf_specs(leaves[0])
  lines = [
    f"{folder}: {line}"
    for folder, other in zip(folders[1:], leaves[1:])
    for line in store.differences(first, store.leaf_specs(other))
  ]
  lines += [
    f"{folders[0]}: {name} is not floating point"
    for name, (_, dtype) in first.items()
    if not jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
  ]
  if lines:
    raise UserError(f"models that differ from {folders[0]} cannot be mixed: {'; '.join(lines)}")


def _params_only(leaves):
  return {name: leaf for name, leaf in leaves.items() if name.startswith("params/")}


def _lazy_mix(folders, leaves, weights, layerwise):
  """The mixed parameters as a nested dict of leaves that are computed, block by block, when they are written."""
  shapes = {
    name.removeprefix("params/"): jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    for name, (shape, dtype) in store.leaf_specs(leaves[0]).items()
  }
  tree = tree_files.nested(shapes)
  if layerwise is None:
    shares = {name: weights for name in shapes}
  else:
    alphas = tree_files.flat_leaves(layerwise_weights(tree, *layerwise))
    shares = {name: [1 - alpha, alpha] for name, alpha in alphas.items()}
  return tree_files.nested(
    {
      name: tree_files.Lazy(
        shape.shape,
        shape.dtype,
        None,
        functools.partial(
          _mixed_blocks,
          folders,
          [manifest[f"params/{name}"] for manifest in leaves],
          f"params/{name}",
          shares[name],
        ),
      )
      for name, shape in shapes.items()
    }
  )


def _mixed_blocks(folders, leaves, name, shares):
  """Yields the weighted sum of one leaf of each folder, in blocks; a share is a number, or one for each layer [N, 1, ...]."""
  per_layer = [np.ravel(share) for share in shares]
  cuts = leaf_files.counts(max(map(len, per_layer)), math.prod(leaves[0]["shape"]))
  blocks = [
    tree_files.leaf_blocks(folder, name, leaf, [count for _, count in cuts])
    for folder, leaf in zip(folders, leaves)
  ]
  for (layer, _), *values in zip(cuts, *blocks, strict=True):
    yield _weighted(values, [share[layer if len(share) > 1 else 0] for share in per_layer])


def _weighted(values, shares):
  """The weighted sum of arrays, in float32 and then in their dtype."""
  total = 0
  for value, share in zip(values, shares):
    dtype = value.dtype
    scaled = value.astype(np.float32)
    scaled *= np.asarray(share, np.float32)
    total = np.add(total, scaled, out=total if isinstance(total, np.ndarray) else None)
  return total.astype(dtype, copy=False)


def _depths(flat):
  """Numbers of layers of the encoder and the decoder; of a decoder-only model (0, its layers)."""
  if any(name.startswith("layers/") for name in flat):
    return 0, _depth(flat, "layers/")
  return _depth(flat, "encoder/layers/"), _depth(flat, "decoder/layers/")


def _depth(flat, stack):
  """Number of layers of a stack: the leading axis of its stacked leaves."""
  counts = {leaf.shape[0] for name, leaf in flat.items() if name.startswith(stack)}
  if len(counts) != 1:
    raise UserError(
      f"expected parameters of a T5 or Llama with stacked layers under {stack[:-1]}, got "
      f"{len(counts)} depths; layer-wise mixing needs one of these"
    )
  return counts.pop()


def _alpha(name, encoder, decoder, bottom, top):
  """The alpha of one leaf: a float32 scalar, or [layers] for a stacked leaf."""
  at = lambda position: np.asarray(
    bottom + (top - bottom) * position / (encoder + decoder + 1), np.float32
  )
  first = 1 if name.startswith("encoder/") else 1 + encoder
  count = encoder if name.startswith("encoder/") else decoder
  if not name.startswith(("encoder/", "decoder/", "layers/")):
    return at(np.float64(0 if "embedding" in name else encoder + decoder + 1))
  if "/layers/" in f"/{name}":
    return at(first + np.arange(count))
  if "relative" in name:
    return at(np.float64(first))
  return at(np.float64(encoder if name.startswith("encoder/") else encoder + decoder + 1))

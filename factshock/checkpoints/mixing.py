"""Weighted averages of models on disk, leaf by leaf and block by block.

They are checkpoints of ours, or HuggingFace models; where both are mixed, each checkpoint is read
as the HuggingFace model that it would be converted to. Averages in memory are in interpolation.py.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

import factshock
from factshock.checkpoints import (
  belongings,
  conversion,
  interpolation,
  leaf_files,
  mix_card,
  mix_record,
  origins,
  store,
  token_maps,
  tree_files,
)
from factshock.checkpoints import manifest as manifests
from factshock.checkpoints.manifest import CheckpointRecord, LeafRecord, Manifest
from factshock.checkpoints.mix_record import MixInput, MixRecord
from factshock.models import families
from factshock.models.formats import finite, huggingface
from factshock.models.formats.huggingface import files as weight_files
from factshock.models.formats.huggingface import names as tensor_names
from factshock.models.formats.tensors import Tensor
from factshock.models.model_config import ModelConfig
from factshock.predictions.mixing import check_weights
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress
from factshock.types import FilePath, TokenIds

# What share of a leaf each model has: a number, or one for each layer [N, 1, ...].
Shares: TypeAlias = Sequence[Any]

_LARGEST = float(np.finfo(np.float32).max)

# The digest of each tensor by name, {"digest": ...}.
Digests: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Mix:
  """Says how models are mixed.

  Attributes:
    weights: the share of each model; None with `layerwise`.
    layerwise: alphas of the second of two models, at the embedding and at the head.
  """

  weights: list[float] | None
  layerwise: tuple[float, float] | None

  @classmethod
  def of(
    cls,
    weights: Sequence[float] | str | None,
    layerwise: Sequence[float] | None,
    count: int,
  ) -> "Mix":
    """Checks weights, or layer-wise alphas, of `count` models.

    Raises:
      UserError: they do not fit the number of models.
    """
    if layerwise is None:
      return cls(check_weights(weights or (), count), None)
    if count != 2:
      raise UserError(f"expected two checkpoints for layer-wise mixing, got {count}")
    bottom, top = layerwise
    if not all(abs(alpha) <= _LARGEST for alpha in (bottom, top)):  # false for NaN too
      raise UserError(f"expected two finite alphas for layer-wise mixing, got {bottom}, {top}")
    return cls(None, (bottom, top))

  def shares(self, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Shares]:
    """Returns the shares of each leaf of models with leaves of these shapes."""
    if self.layerwise is None:
      return {name: self.weights or [] for name in shapes}
    tree = tree_files.nested(shapes)
    weights = interpolation.layerwise_weights(tree, *self.layerwise)
    alphas = tree_files.flat_leaves(weights)
    return {name: [1 - alpha, alpha] for name, alpha in alphas.items()}

  def record(self, inputs: list[MixInput], digest: str) -> MixRecord:
    """Returns what `mix.json` says of inputs and the result's digest."""
    return {
      "version": factshock.__version__,
      "weights": self.weights,
      "layerwise": list(self.layerwise) if self.layerwise else None,
      "inputs": inputs,
      "digest": digest,
    }


def mix_checkpoints(
  paths: Sequence[FilePath],
  weights: Sequence[float] | str | None,
  output: FilePath,
  layerwise: Sequence[float] | None = None,
  allow_other_tokenizer: bool = False,
) -> MixRecord:
  """Writes the weighted average of models, holding about one leaf of each in memory.

  Beside the result, which is a step folder or, where one is a HuggingFace model, a folder in that
  format with the tokenizer of the first of these, stands `mix.json`: inputs, weights, digests,
  version.

  Args:
    paths: folders of checkpoints (a step folder, or a folder of steps: its newest), or HuggingFace
      models (folders or hub ids).
    weights: as for `interpolation.interpolate`; None with `layerwise`.
    output: the folder to write; must not exist.
    layerwise: (bottom, top) alphas of the second of two checkpoints instead of weights.
    allow_other_tokenizer: whether models are mixed whose tokens have other ids.

  Returns:
    The record that was written.

  Raises:
    UserError: counts, weights or folders that do not fit, or trees that differ; names every leaf.
  """
  check_new(output)
  mix = Mix.of(weights, layerwise, len(paths))
  check_inputs(paths, allow_other_tokenizer)
  if any(map(huggingface.is_source, paths)):
    return _mix_huggingface(paths, mix, output)
  folders = [store.step_folder(path) for path in paths]
  return _mix_own(folders, mix, output)


def check_new(output: FilePath) -> None:
  """Raises a UserError where the folder to write is there already."""
  if os.path.exists(output):
    raise UserError(f"{output}: already exists; remove it or choose another --output")


def check_inputs(paths: Sequence[FilePath], allow_other_tokenizer: bool = False) -> None:
  """Checks that models can be mixed, reading none of their weights.

  Args:
    paths: as for `mix_checkpoints`.
    allow_other_tokenizer: whether their tokens may have other ids.

  Raises:
    UserError: they cannot, as they differ in tokens, format, leaves or dtype, or are adapters.
  """
  for path in paths:
    belongings.check_one_format(str(path))
  if not allow_other_tokenizer:
    _check_tokenizers(paths)
  if any(map(huggingface.is_source, paths)):
    _checked_sources(paths)
  else:
    _checked_manifests([store.step_folder(path) for path in paths])


def check_for_hub(paths: Sequence[FilePath]) -> None:
  """Raises a UserError where a mix of models would not be one that the hub takes."""
  if not any(map(huggingface.is_source, paths)):
    raise UserError(
      f"--push_to_hub: {paths[0]} is a checkpoint of factshock, and the hub takes HuggingFace "
      "models; mix without it, then: factshock convert --model=MIX --output=FOLDER "
      "--to=huggingface --push_to_hub=org/name"
    )


def _check_tokenizers(paths: Sequence[FilePath]) -> None:
  """Checks that tokens have the same ids in all models that bring a tokenizer.

  Raises:
    UserError: names two models and a token that differs.
  """
  first: tuple[FilePath, TokenIds] | None = None
  for path in paths:
    tokens = token_maps.of_model(path)
    if tokens is None:
      continue
    if first is None:
      first = (path, tokens)
    elif first[1] != tokens:
      differing = dict(sorted(first[1].items() ^ tokens.items()))
      token = min(
        differing, key=lambda name: (min(first[1].get(name, 0), tokens.get(name, 0)), name)
      )
      ids = [str(of_model.get(token, "none")) for of_model in (first[1], tokens)]
      raise UserError(
        f"{path}: has another tokenizer than {first[0]}: the id of {token[:40]!r} is {ids[1]} and "
        f"{ids[0]}, so that their average means nothing; say --allow_other_tokenizer to insist"
      )


def _mix_own(
  folders: Sequence[str],
  mix: Mix,
  output: FilePath,
) -> MixRecord:
  """Mixes checkpoints of ours as `mix_checkpoints` does."""
  read, leaves = _checked_manifests(folders)
  inputs: list[MixInput] = []
  for folder, manifest, params in zip(folders, read, leaves):
    inputs.append(
      {
        "path": os.path.abspath(folder),
        "step": manifest["step"],
        "digest": manifests.tree_digest(params),
      }
    )

  def record_of(manifest: Manifest) -> MixRecord:
    digest = manifests.tree_digest(manifest["leaves"])
    return mix.record(inputs, digest)

  record: CheckpointRecord = {
    "step": read[0]["step"],
    "loader_state": None,
    "config": read[0]["config"],
  }
  tree = _lazy_mix(folders, leaves, mix)
  card = functools.partial(mix_card.write, folders, read[0], output)
  manifest = store.write(
    output, {"params": tree}, record, {mix_record.NAME: record_of}, {origins.CARD: card}
  )
  return record_of(manifest)


def _checked_manifests(
  folders: Sequence[str],
) -> tuple[list[Manifest], list[dict[str, LeafRecord]]]:
  """Returns the manifests of checkpoints that can be mixed, and the leaves of their weights."""
  read = [store.read_manifest(folder) for folder in folders]
  adapters = []
  for folder, manifest in zip(folders, read):
    if "lora" in (manifest["config"] or {}):
      adapters.append(folder)
  _refuse_adapters(adapters)
  leaves = [manifests.params_only(manifest["leaves"]) for manifest in read]
  _check_leaves(folders, leaves)
  return read, leaves


def _refuse_adapters(paths: Sequence[FilePath]) -> None:
  if paths:  # the average of two products is not the product of two averages
    shown = ", ".join(map(str, paths))
    raise UserError(
      f"{shown}: low-rank adapters cannot be averaged as models; merge them "
      "into their model first: factshock convert --model=ADAPTERS --output=MERGED "
      "--to=huggingface (or orbax)"
    )


def _check_leaves(folders: Sequence[str], leaves: Sequence[Mapping[str, LeafRecord]]) -> None:
  """Checks that checkpoints have the same leaves, of floating point.

  Raises:
    UserError: names every leaf that differs.
  """
  first = manifests.leaf_specs(leaves[0])
  _check_dtypes(folders, [manifests.leaf_specs(of_folder) for of_folder in leaves])
  lines = []
  for folder, other in zip(folders[1:], leaves[1:]):
    specs = manifests.leaf_specs(other)
    differing = manifests.differences(first, specs)
    lines += [f"{folder}: {line}" for line in differing]
  for name, (_, dtype) in first.items():
    if not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
      lines.append(f"{folders[0]}: {name} is not floating point")
  _raise_differing(folders[0], lines)


def _check_dtypes(
  paths: Sequence[FilePath],
  specs: Sequence[Mapping[str, manifests.Spec]],
) -> None:
  """Checks that models of equal shapes are stored in equal dtypes.

  Raises:
    UserError: they are not; says how to bring them into one.
  """
  first = {name: dtype for name, (_, dtype) in specs[0].items()}
  for path, spec in zip(paths[1:], specs[1:]):
    other = {name: dtype for name, (_, dtype) in spec.items()}
    if first == other or first.keys() != other.keys():
      continue
    name = next(name for name in first if first[name] != other[name])
    common = _common_dtype(first[name])
    to = "huggingface" if huggingface.is_source(path) else "orbax"
    raise UserError(
      f"{path}: its dtype is {other[name]}, that of {paths[0]} is {first[name]}; bring it into "
      f"one: factshock convert --model={path} --output=OTHER --to={to} --dtype={common}"
    )


def _common_dtype(dtype: str) -> str:
  """Returns the dtype of parameters, as `convert` writes it, that holds values of another."""
  return "bfloat16" if dtype == "bfloat16" else "float32"


def _raise_differing(first: FilePath, lines: Sequence[str]) -> None:
  if lines:
    raise UserError(f"models that differ from {first} cannot be mixed:\n  " + "\n  ".join(lines))


def _lazy_mix(
  folders: Sequence[str],
  leaves: Sequence[Mapping[str, LeafRecord]],
  mix: Mix,
) -> dict[str, Any]:
  """Returns the mixed parameters, a nested dict of leaves that are computed as they are written."""
  shapes = {}
  for name, (shape, dtype) in manifests.leaf_specs(leaves[0]).items():
    shapes[name.removeprefix("params/")] = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
  shares = mix.shares(shapes)
  lazy = {}
  progress = Progress("mixing", len(shapes))
  for name, shape in shapes.items():
    full_name = f"params/{name}"
    records = [of_folder[full_name] for of_folder in leaves]
    mixed = functools.partial(_mixed_blocks, folders, records, full_name, shares[name])
    blocks = functools.partial(_with_progress, mixed, progress)
    lazy[name] = tree_files.Lazy(shape.shape, shape.dtype, blocks=blocks)
  return tree_files.nested(lazy)


def _with_progress(
  blocks: Callable[[], Iterator[np.ndarray]], progress: Progress
) -> Iterator[np.ndarray]:
  """Yields the blocks of a leaf, which is one unit of progress."""
  yield from blocks()
  progress.advance()


def _mixed_blocks(
  folders: Sequence[str],
  leaves: Sequence[LeafRecord],
  name: str,
  shares: Shares,
) -> Iterator[np.ndarray]:
  """Yields the weighted sum of one leaf of each folder, in blocks."""
  per_layer = [np.ravel(share) for share in shares]
  layers = max(map(len, per_layer))
  size = math.prod(leaves[0]["shape"])
  cuts = leaf_files.counts(layers, size)
  counts = [count for _, count in cuts]
  blocks = [
    tree_files.leaf_blocks(folder, name, leaf, counts) for folder, leaf in zip(folders, leaves)
  ]
  for (layer, _), *values in zip(cuts, *blocks, strict=True):
    of_layer = [share[0] if len(share) == 1 else share[layer] for share in per_layer]
    mixed = _weighted_sum(values, of_layer)
    _check_finite(mixed, values, folders, name)
    yield mixed


def _weighted_sum(values: Iterable[np.ndarray], shares: Shares) -> np.ndarray:
  """Returns the weighted sum of arrays, in float32 and then in their dtype."""
  total = None
  dtype = None
  # What is not finite is an error of its own, with the name of the array.
  with np.errstate(over="ignore", invalid="ignore"):
    for value, share in zip(values, shares):
      dtype = value.dtype
      scaled = value.astype(np.float32)
      scaled *= np.asarray(share, np.float32)
      before = 0 if total is None else total
      total = np.add(before, scaled, out=total)
    if total is None:
      raise ValueError("expected arrays to sum, got none")
    return total.astype(dtype, copy=False)


def _check_finite(
  mixed: np.ndarray,
  values: Sequence[np.ndarray],
  paths: Sequence[FilePath],
  name: str,
) -> None:
  """Checks that a part of a mixture is of finite numbers: NaN stays NaN, whatever its share.

  Args:
    mixed: the weighted sum.
    values: what was summed.
    paths: of the models that hold the values.
    name: of the array in errors.

  Raises:
    UserError: it is not, or one of the values is not.
  """
  if finite.is_finite(mixed):
    return
  broken = [path for path, value in zip(paths, values) if not finite.is_finite(value)]
  if broken:
    raise UserError(
      f"{broken[0]}: {name} holds NaN or infinite numbers; such a model is broken, train it again"
    )
  raise UserError(f"{name}: the mixture is too large for {mixed.dtype}; choose smaller weights")


def _mix_huggingface(
  paths: Sequence[FilePath],
  mix: Mix,
  output: FilePath,
) -> MixRecord:
  """Mixes models of which some are HuggingFace's, as `mix_checkpoints` does.

  Tensor by tensor, as they are stored.
  """
  sources = _checked_sources(paths)
  first = sources[0]
  tensors = tensor_names.tensors(first.config)
  shares = _tensor_shares(first.config, tensors, mix)
  digests: list[Digests] = [{} for _ in sources]
  mixed_digests: Digests = {}

  def writable(tensor: Tensor) -> weight_files.Writable:
    name = tensor.name
    all_digests = [*digests, mixed_digests]
    read = functools.partial(_mix_tensor, sources, name, shares[name], all_digests)
    return weight_files.Writable(name, tensor.shape, first.tensors[name].dtype, read)

  @functools.cache
  def record() -> MixRecord:
    inputs = _describe_sources(sources, digests)
    return mix.record(inputs, manifests.tree_digest(mixed_digests))

  huggingface.write_folder(
    output,
    list(map(writable, tensors)),
    huggingface.to_json(first.config, first.config.param_dtype, first.json),
    tokenizer_from=next(
      source.folder for source, path in zip(sources, paths) if huggingface.is_source(path)
    ),
    progress=Progress("mixing", len(tensors)),
    extra_files={mix_record.NAME: record},
    card=lambda: mix_card.text_of(paths, first.config, output, record()),
  )
  return record()


def _checked_sources(paths: Sequence[FilePath]) -> list[huggingface.Source]:
  """Returns models, opened, that can be mixed; checkpoints of ours as HuggingFace models."""
  sources: list[huggingface.Source] = []
  for path in paths:
    is_theirs = huggingface.is_source(path)
    sources.append(
      huggingface.open_source(path) if is_theirs else conversion.as_huggingface(str(path))
    )
  _refuse_adapters([path for path, source in zip(paths, sources) if source.adapters])
  _check_tensors(paths, sources)
  return sources


def _describe_sources(
  sources: Sequence[huggingface.Source],
  digests: Sequence[Digests],
) -> list[MixInput]:
  """Returns path and digest of each model."""
  inputs: list[MixInput] = []
  for source, digest in zip(sources, digests):
    inputs.append(
      {
        "path": os.path.abspath(source.folder),
        "step": None,
        "digest": manifests.tree_digest(digest),
      }
    )
  return inputs


def _check_tensors(paths: Sequence[FilePath], sources: Sequence[huggingface.Source]) -> None:
  """Checks that HuggingFace models are of the same sizes and have the same tensors.

  Raises:
    UserError: names every difference.
  """
  specs = [_tensor_specs(source) for source in sources]
  _check_dtypes(paths, specs)
  lines = []
  for path, spec in zip(paths[1:], specs[1:]):
    lines += [f"{path}: {line}" for line in manifests.differences(specs[0], spec)]
  for path, source in zip(paths[1:], sources[1:]):
    differing = families.differences(sources[0].config, source.config)
    lines += [f"{path}: {line}" for line in differing]
  _raise_differing(paths[0], lines)


def _tensor_specs(source: huggingface.Source) -> dict[str, manifests.Spec]:
  """Returns shape and dtype name of each tensor."""
  tensors = source.tensors.items()
  return {name: (tensor.shape, tensor.dtype.name) for name, tensor in tensors}


def _tensor_shares(
  config: ModelConfig,
  tensors: Sequence[Tensor],
  mix: Mix,
) -> dict[str, Shares]:
  """Returns the shares of the models by tensor."""
  if mix.layerwise is None:
    return {tensor.name: mix.weights or [] for tensor in tensors}
  shapes = {}
  for leaf, leaf_tensors in tensor_names.by_leaf(config).items():
    shape = tensor_names.leaf_shape(leaf_tensors)
    shapes[leaf] = jax.ShapeDtypeStruct(shape, jnp.float32)
  leaf_shares = mix.shares(shapes)
  shares = {}
  for tensor in tensors:
    _, leaf_alphas = leaf_shares[tensor.leaf]
    alpha = np.ravel(leaf_alphas)[tensor.layer or 0]
    shares[tensor.name] = [1 - alpha, alpha]
  return shares


def _mix_tensor(
  sources: Sequence[huggingface.Source],
  name: str,
  shares: Shares,
  digests: Sequence[Digests],
) -> np.ndarray:
  """Returns the weighted sum of a tensor of each source, which are read block by block.

  Args:
    sources: the models.
    name: the tensor's.
    shares: of the models.
    digests: get the tensor's digest in each source, and in the result.
  """
  tensors = [source.tensors[name] for source in sources]
  mixed = np.empty(tensors[0].shape, tensors[0].dtype)
  flat = mixed.reshape(-1)
  arrays = (*tensors, mixed)
  hashers = [leaf_files.new_hasher(array.dtype, array.shape) for array in arrays]
  start = 0
  blocks_of = [tensor.blocks(leaf_files.BLOCK) for tensor in tensors]
  for blocks in zip(*blocks_of, strict=True):
    cut = slice(start, start + len(blocks[0]))
    flat[cut] = _weighted_sum(blocks, shares)
    _check_finite(flat[cut], blocks, [source.folder for source in sources], name)
    for hasher, block in zip(hashers, (*blocks, flat[cut])):
      hasher.update(block.view(np.uint8))
    start = cut.stop
  for digests_by_name, hasher in zip(digests, hashers):
    digests_by_name[name] = {"digest": leaf_files.spell(hasher)}
  return mixed

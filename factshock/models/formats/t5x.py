"""T5 checkpoints of T5X: its msgpack file `checkpoint`, and folders of zarr arrays.

The msgpack file holds the arrays, or they stand beside it. Names are those of T5X's T5 examples:
"target.encoder.layers_0.attention.query.kernel". Layers that T5X scanned are stacked along the
second axis of one array, as UMT5's are: "target.encoder.encoder.attention.query.kernel".
"""

import dataclasses
import functools
import gzip
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorstore
from flax import serialization

from factshock.models import t5
from factshock.models.formats.huggingface import names
from factshock.models.formats.tensors import Tensor
from factshock.models.model_config import DTYPES, ModelConfig
from factshock.runtime import json_files
from factshock.runtime.errors import UserError
from factshock.types import FilePath, Params

_TARGET = re.compile(r"^_?(?:optimizer\.)?target\.(.+)$")
_BLOCK = 1 << 20
_MOST_PACKED = 5000  # how many times an array may be larger than its compressed files
_LAYERS_AXIS = 1  # of scanned layers
_TOP_NAMES = {
  "embedding": ("token_embedder/embedding", False),
  "head": ("decoder/logits_dense/kernel", True),
}
_UNTOLD = ("relative_max_distance", "dropout", "dtype", "epsilon")  # by shapes
_BIAS = "relpos_bias/rel_embedding"


class Form(NamedTuple):
  """Says how a checkpoint names what is in it.

  Attributes:
    is_gated: whether a feed-forward layer has a gate.
    is_scanned: whether one array holds a weight of all layers.
  """

  is_gated: bool
  is_scanned: bool


@dataclasses.dataclass(frozen=True)
class Array:
  """Array of a checkpoint.

  Attributes:
    shape: as stored.
    dtype: as stored.
    read: gives the array.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
  """Checkpoint that is open for reading leaf by leaf.

  Attributes:
    folder: its path.
    config: its sizes.
    arrays: by T5X's name, with "/".
    form: of the names.
  """

  folder: str
  config: t5.T5Config
  arrays: Mapping[str, Array]
  form: Form

  def read_leaf(self, leaf: str, dtype: Any = None) -> np.ndarray:
    """Returns one leaf of our parameters.

    Args:
      leaf: its key path, such as "encoder/layers/self_attention/query".
      dtype: of the array; None takes that of the config's parameters.
    """
    tensors = names.by_leaf(self.config)[leaf]
    out = np.empty(names.leaf_shape(tensors), np.dtype(dtype or self.config.param_dtype))
    read = functools.lru_cache(1)(lambda name: self.arrays[name].read())
    for tensor in tensors:
      name, transposed = _name(tensor, self.form)
      target = out if tensor.layer is None else out[tensor.layer]
      value = read(name)
      if tensor.layer is not None and self.form.is_scanned:
        value = value.take(tensor.layer, _LAYERS_AXIS)
      target[...] = value.T if transposed else value.reshape(target.shape)
    return out


def is_checkpoint(path: FilePath) -> bool:
  """Returns whether a path is a T5X checkpoint: the msgpack file, its folder, or zarr arrays."""
  path = str(path)
  if os.path.isfile(path):
    return os.path.basename(path).startswith("checkpoint")
  if not os.path.isdir(path):
    return False
  return os.path.isfile(os.path.join(path, "checkpoint")) or any(
    map(_TARGET.match, os.listdir(path))
  )


def load(
  path: FilePath, *, like: ModelConfig | None = None, param_dtype: Any = None
) -> tuple[Params, t5.T5Config]:
  """Reads a checkpoint whole: (params of numpy arrays, T5Config).

  Args:
    path: as of `open_source`.
    like: as of `open_source`.
    param_dtype: of the parameters; None takes the stored one.
  """
  source = open_source(path, like=like)
  params: Params = {}
  for leaf in names.by_leaf(source.config):
    *parents, last = leaf.split("/")
    inner = params
    for key in parents:
      inner = inner.setdefault(key, {})
    inner[last] = source.read_leaf(leaf, param_dtype)
  return params, source.config


def open_source(path: FilePath, *, like: ModelConfig | None = None) -> Source:
  """Opens a checkpoint for reading leaf by leaf; sizes are read from the shapes.

  Args:
    path: the msgpack file, or the folder that holds it or zarr arrays.
    like: a config with what shapes do not tell: the gate's activation, distances of the relative
      bias, dropout; None takes those of T5 v1.1 (v1.0 where there is no gate).

  Raises:
    UserError: nothing there, damaged files, `like` of another family, or arrays missing, unexpected
      or mis-shaped; names every one.
  """
  path = str(path)
  if like is not None and not isinstance(like, t5.T5Config):
    raise UserError(f"{path}: expected the config of a T5 beside it, got a {type(like).__name__}")
  arrays = _arrays(path)
  _check_dtypes(path, arrays)
  form = Form(
    is_gated=any(name.endswith("/mlp/wi_0/kernel") for name in arrays),
    is_scanned="encoder/encoder/attention/query/kernel" in arrays,
  )
  try:
    config = _config(path, arrays, like, form)
  except UserError as error:
    raise error if path in str(error) else UserError(f"{path}: {error}") from error
  expected = {}
  for tensor in names.tensors(config):
    name, transposed = _name(tensor, form)
    ours = tensor.shape[::-1] if tensor.transposed else tensor.shape
    shape = ours[::-1] if transposed else ours
    if tensor.layer is not None and form.is_scanned:
      side = tensor.leaf.split("/")[0]
      depth = config.encoder_layers if side == "encoder" else config.decoder_layers
      shape = (*shape[:_LAYERS_AXIS], depth, *shape[_LAYERS_AXIS:])
    expected[name] = shape
  _check(path, arrays, expected, form)
  return Source(path, config, arrays, form)


def _check_dtypes(path: str, arrays: Mapping[str, Array]) -> None:
  """Raises a UserError that names the arrays that are not of floating point."""
  others = [
    f"{name} {array.dtype.name}" for name, array in arrays.items() if not _is_float(array.dtype)
  ]
  if others:
    raise UserError(f"{path}: expected arrays of floating point, got {', '.join(others[:5])}")


def _is_float(dtype: np.dtype) -> bool:
  return dtype.name in ("float32", "bfloat16", "float16", "float64")


def _check(
  path: str, arrays: Mapping[str, Array], expected: Mapping[str, tuple[int, ...]], form: Form
) -> None:
  """Raises a UserError that names every array missing, unexpected or mis-shaped."""
  lines = []
  for name, shape in expected.items():
    if name not in arrays:
      lines.append(f"missing {name} {list(shape)}")
  for name in sorted(arrays):
    if name not in expected:
      lines.append(f"unexpected {name} {list(arrays[name].shape)}")
  for name, shape in expected.items():
    if name in arrays and not _fits(arrays[name].shape, shape, form):
      lines.append(f"mis-shaped {name} expected {list(shape)} got {list(arrays[name].shape)}")
  if lines:
    raise UserError(f"{path}: expected a T5 of T5X's examples: {'; '.join(lines)}")


def _fits(shape: tuple[int, ...], expected: tuple[int, ...], form: Form) -> bool:
  """Returns whether shapes are equal, once [D, H, K] is [D, H*K] or [H, K, D] is [H*K, D].

  Of scanned layers the axis of layers comes second in both.
  """
  if form.is_scanned and len(shape) == 4 and len(expected) == 3:
    if shape[_LAYERS_AXIS] != expected[_LAYERS_AXIS]:
      return False
    shape = shape[:1] + shape[2:]
    expected = expected[:1] + expected[2:]
  if len(shape) != 3 or len(expected) != 2:
    return shape == expected
  first, middle, last = shape
  return expected in ((first, middle * last), (first * middle, last))


def _name(tensor: Tensor, form: Form) -> tuple[str, bool]:
  """Returns T5X's name of a tensor, and whether it is stored as our transpose."""
  side, *inner = tensor.leaf.split("/")
  if not inner:
    return _TOP_NAMES[side]
  if inner[0] == "relative_bias":
    return f"{side}/{_BIAS}", True
  if inner[0] == "final_norm":
    return f"{side}/{side}_norm/scale", False
  prefix = f"{side}/{side}" if form.is_scanned else f"{side}/layers_{tensor.layer}"
  if inner[1] == "relative_bias":
    return f"{prefix}/{_BIAS}", True
  block, last = inner[1:]
  if block.endswith("_norm"):
    return f"{prefix}/{_norm_name(side, block.removesuffix('_norm'))}/{last}", False
  blocks = {
    "self_attention": "attention" if side == "encoder" else "self_attention",
    "cross_attention": "encoder_decoder_attention",
    "feed_forward": "mlp",
  }
  up = "wi_1" if form.is_gated else "wi"
  weight = {"gate": "wi_0", "up": up, "down": "wo"}.get(last, last)
  return f"{prefix}/{blocks[block]}/{weight}/kernel", False


def _norm_name(side: str, block: str) -> str:
  """Returns T5X's name of the norm before a block of a layer."""
  if block == "feed_forward":
    return "pre_mlp_layer_norm"
  return "pre_attention_layer_norm" if side == "encoder" else f"pre_{block}_layer_norm"


def _config(
  path: str, arrays: Mapping[str, Array], like: t5.T5Config | None, form: Form
) -> t5.T5Config:
  """Returns the config that the arrays' names and shapes tell, the rest from `like`."""
  prefix = "encoder/encoder" if form.is_scanned else "encoder/layers_0"

  def shape(name: str, axes: int = 2) -> tuple[int, ...]:
    if name not in arrays:
      present = ", ".join(sorted(arrays)[:5]) or "nothing"
      raise UserError(f"{path}: expected a T5 of T5X's examples, got no {name}; found {present}")
    got = arrays[name].shape
    in_layers = form.is_scanned and name.startswith(f"{prefix}/")
    if not 2 <= len(got) - in_layers <= axes or 0 in got:
      raise UserError(f"{path}: expected a T5 of T5X's examples, got {name} of shape {list(got)}")
    return got[:1] + got[2:] if in_layers else got

  vocab_size, d_model = shape("token_embedder/embedding")
  query = shape(f"{prefix}/attention/query/kernel", 3)
  own_bias = f"{prefix}/{_BIAS}"
  in_every_layer = own_bias in arrays
  heads, buckets = shape(own_bias if in_every_layer else f"encoder/{_BIAS}")
  rest = {} if like is None else {name: getattr(like, name) for name in _UNTOLD}
  gate = "gated-gelu" if like is None else like.feed_forward
  dtype = arrays["token_embedder/embedding"].dtype.name
  return t5.T5Config(
    vocab_size=vocab_size,
    d_model=d_model,
    d_ff=shape(f"{prefix}/mlp/{'wi_0' if form.is_gated else 'wi'}/kernel")[1],
    num_heads=heads,
    d_kv=math.prod(query[1:]) // heads,
    encoder_layers=_depth(arrays, "encoder"),
    decoder_layers=max(1, _depth(arrays, "decoder")),
    relative_buckets=buckets,
    bias_in_every_layer=in_every_layer,
    feed_forward=gate if form.is_gated else "relu",
    tie_head="decoder/logits_dense/kernel" not in arrays,
    param_dtype=dtype if dtype in DTYPES else "float32",
    **rest,
  )


def _depth(arrays: Mapping[str, Array], side: str) -> int:
  """Returns how many layers the arrays of the encoder or decoder name, or hold if scanned."""
  scanned = arrays.get(f"{side}/{side}/pre_mlp_layer_norm/scale")
  if scanned is not None and len(scanned.shape) == 2:
    return scanned.shape[_LAYERS_AXIS]
  layer = re.compile(rf"{side}/layers_(\d+)/")
  matches = [layer.match(name) for name in arrays]
  return len({match[1] for match in matches if match})


def _arrays(path: str) -> dict[str, Array]:
  """Returns the arrays of a checkpoint by T5X's name, with "/"."""
  folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
  file = path if os.path.isfile(path) else os.path.join(path, "checkpoint")
  if os.path.isfile(file):
    return {name: _array(folder, name, value) for name, value in _target(file).items()}
  if not os.path.isdir(path):
    raise UserError(f"{path}: expected a T5X checkpoint, got nothing there; check the path")
  arrays = {}
  for name in sorted(os.listdir(folder)):
    match = _TARGET.match(name)
    if match:
      arrays[match[1].replace(".", "/")] = _zarr(os.path.join(folder, name))
  return arrays


def _target(file: str) -> dict[str, Any]:
  """Returns the parameters of a msgpack file: those of `optimizer.target`, `target`, or all."""
  try:
    with open(file, "rb") as opened:
      content: Any = serialization.msgpack_restore(opened.read())
    for key in ("optimizer", "target"):
      content = content.get(key, content)
    if not isinstance(content, dict):
      raise ValueError(f"a {type(content).__name__} instead of a tree")
    return dict(_flat(content))
  except Exception as error:  # msgpack and flax raise many types for a damaged file
    raise UserError(
      f"{file}: expected a msgpack file of T5X, got a damaged one or another ({error})"
    ) from error


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields the path of each leaf of a tree, with "/", and the leaf."""
  for key, value in tree.items():
    if isinstance(value, dict) and "driver" not in value:
      yield from _flat(value, f"{prefix}{key}/")
    else:
      yield f"{prefix}{key}", value


def _array(folder: str, name: str, value: Any) -> Array:
  """Returns an array of the msgpack file.

  That is the value itself, or the zarr array beside the file that it describes.
  """
  if not isinstance(value, dict):
    if not isinstance(value, np.ndarray | np.generic):
      raise UserError(f"{folder}: expected the array {name}, got a {type(value).__name__}")
    array = np.asarray(value)
    return Array(array.shape, array.dtype, lambda: array)
  store = value.get("kvstore")
  path = store.get("path") if isinstance(store, dict) else value.get("path")
  path = path or f"target.{name.replace('/', '.')}"
  if not isinstance(path, str):
    raise UserError(f"{folder}: expected the path of the array {name}, got {path!r:.60}")
  return _zarr(os.path.join(folder, os.path.basename(path.rstrip("/"))))


def _zarr(path: str) -> Array:
  """Returns a zarr array, open for reading."""
  for folder, _, file_names in os.walk(path):  # a pipe would be waited for
    for file_name in file_names:
      json_files.check_regular(os.path.join(folder, file_name))
  settings = {"driver": "zarr", "kvstore": {"driver": "file", "path": path}}
  try:
    store = tensorstore.open(settings, open=True, read=True).result()
  except (ValueError, OSError) as error:
    reason = " ".join(str(error).split())[:150]
    raise UserError(
      f"{path}: expected a zarr array, got none that can be read ({reason})"
    ) from error

  def read() -> np.ndarray:
    _check_chunks(path, store)
    try:
      return np.asarray(store.read().result())
    except ValueError as error:
      reason = " ".join(str(error).split())[:150]
      raise UserError(f"{path}: damaged: {reason}; copy it again") from error

  return Array(tuple(store.shape), store.dtype.numpy_dtype, read)


def _check_chunks(path: str, store: tensorstore.TensorStore) -> None:
  """Raises a UserError where chunks are lost, which zarr reads as zeros, or too small.

  Arrays that name a fill value may leave chunks out.
  """
  grid: Any = store.chunk_layout.read_chunk.shape
  expected = math.prod(-(-size // chunk) for size, chunk in zip(store.shape, grid))
  itemsize = store.dtype.numpy_dtype.itemsize
  gzipped = _gzipped_size(path, math.prod(grid) * itemsize)
  count = 0
  stored = 0
  for folder, _, file_names in os.walk(path):
    for name in file_names:
      file = os.path.join(folder, name)
      stored += json_files.check_regular(file)
      if not name.startswith("."):
        count += 1
        _check_gzip(file, gzipped)
  if count < expected and store.fill_value is None:
    raise UserError(f"{path}: expected {expected} chunks, got {count}; copy it again")
  size = math.prod(store.shape) * itemsize
  if size > _MOST_PACKED * max(stored, 1 << 10):  # before as much is allocated
    raise UserError(f"{path}: expected {size:,} bytes, got {stored:,} on the disk; copy it again")


def _gzipped_size(path: str, chunk_bytes: int) -> int | None:
  """Returns the bytes of each gzipped chunk of an array; None where chunks are no gzip."""
  compressor = json_files.read(os.path.join(path, ".zarray")).get("compressor")
  if not isinstance(compressor, dict) or compressor.get("id") != "gzip":
    return None
  return chunk_bytes


def _check_gzip(file: str, expected: int | None) -> None:
  """Raises a UserError where a gzipped chunk is damaged: tensorstore compares no checksum."""
  if expected is None:
    return
  size = 0
  reason = "its size is another"
  try:
    with gzip.open(file, "rb") as opened:
      while size <= expected and (block := opened.read(_BLOCK)):
        size += len(block)
  except (OSError, EOFError, zlib.error) as error:
    reason = " ".join(str(error).split())[:100]
    size = -1
  if size != expected:
    folder, name = os.path.split(file)
    raise UserError(f"{folder}: damaged: the gzip data of {name} ({reason}); copy it again")

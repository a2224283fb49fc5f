"""T5 checkpoints of T5X: its msgpack file `checkpoint`, with arrays inside or beside it, and folders of zarr arrays.

Names are those of T5X's T5 examples: "target.encoder.layers_0.attention.query.kernel". Layers that T5X scanned
(stacked in one array) are not read.
"""

import math
import os
import re
from typing import NamedTuple

import numpy as np
import tensorstore
from flax import serialization

from factshock.models import model_config, t5
from factshock.models.formats.huggingface import names
from factshock.runtime.errors import UserError

_TARGET = re.compile(r"^_?(?:optimizer\.)?target\.(.+)$")


class Array(NamedTuple):
  """An array of a checkpoint; `read()` gives it."""

  shape: tuple
  dtype: np.dtype
  read: object


class Source(NamedTuple):
  """A checkpoint that is open for reading leaf by leaf."""

  folder: str
  config: t5.T5Config
  arrays: dict  # T5X's name, with "/" -> Array

  def read_leaf(self, leaf, dtype=None):
    """One leaf of our parameters, such as "encoder/layers/self_attention/query", as a numpy array."""
    parts = names.by_leaf(self.config)[leaf]
    out = np.empty(names.leaf_shape(parts), np.dtype(dtype or self.config.param_dtype))
    for part in parts:
      name, transposed = _name(part, self.config)
      place = out if part.layer is None else out[part.layer]
      value = self.arrays[name].read()
      place[...] = value.T if transposed else value.reshape(place.shape)
    return out


def is_checkpoint(path):
  """Whether a path is a T5X checkpoint: the msgpack file, its folder, or a folder of zarr arrays."""
  path = str(path)
  if os.path.isfile(path):
    return os.path.basename(path).startswith("checkpoint")
  return os.path.isdir(path) and (
    os.path.isfile(os.path.join(path, "checkpoint")) or any(map(_TARGET.match, os.listdir(path)))
  )


def load(path, *, like=None, param_dtype=None):
  """Reads a checkpoint whole: (params as nested dict of numpy arrays, T5Config). See `open_source`."""
  source = open_source(path, like=like)
  params = {}
  for leaf in names.by_leaf(source.config):
    *parents, last = leaf.split("/")
    inner = params
    for key in parents:
      inner = inner.setdefault(key, {})
    inner[last] = source.read_leaf(leaf, param_dtype)
  return params, source.config


def open_source(path, *, like=None):
  """Opens a checkpoint for reading leaf by leaf; sizes are read from the shapes.

  Args:
    path: the msgpack file, or the folder that holds it or zarr arrays.
    like: a T5Config with what shapes do not tell: the gate's activation, distances of the relative bias,
      dropout; None takes those of T5 v1.1 (v1.0 where there is no gate).

  Raises:
    UserError: nothing there, damaged files, or arrays missing, unexpected or mis-shaped; names every one.
  """
  path = str(path)
  arrays = _arrays(path)
  config = _config(path, arrays, like)
  expected = {}
  for part in names.tensors(config):
    name, transposed = _name(part, config)
    ours = part.shape[::-1] if part.transposed else part.shape
    expected[name] = ours[::-1] if transposed else ours
  lines = [
    f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in arrays
  ]
  lines += [
    f"unexpected {name} {list(arrays[name].shape)}"
    for name in sorted(arrays)
    if name not in expected
  ]
  lines += [
    f"mis-shaped {name} expected {list(shape)} got {list(arrays[name].shape)}"
    for name, shape in expected.items()
    if name in arrays and not _fits(arrays[name].shape, shape)
  ]
  if lines:
    raise UserError(f"{path}: expected a T5 of T5X's examples: {'; '.join(lines)}")
  return Source(path, config, arrays)


def _fits(shape, expected):
  """Equal, or equal once [D, H, K] is [D, H*K] or [H, K, D] is [H*K, D]."""
  if len(shape) != 3 or len(expected) != 2:
    return shape == expected
  first, middle, last = shape
  return expected in ((first, middle * last), (first * middle, last))


def _name(part, config):
  """(T5X's name of a tensor of ours, whether it is stored as our transpose)."""
  side, *rest = part.leaf.split("/")
  if not rest:
    return {
      "embedding": ("token_embedder/embedding", False),
      "head": ("decoder/logits_dense/kernel", True),
    }[side]
  if rest[0] == "relative_bias":
    return f"{side}/relpos_bias/rel_embedding", True
  if rest[0] == "final_norm":
    return f"{side}/{side}_norm/scale", False
  block, last = rest[1:]
  own = {
    "self_attention": "attention" if side == "encoder" else "self_attention",
    "cross_attention": "encoder_decoder_attention",
    "feed_forward": "mlp",
  }
  if block.endswith("_norm"):
    kind = block.removesuffix("_norm")
    if kind != "feed_forward" and side == "decoder":
      theirs = f"pre_{kind}_layer_norm"
    else:
      theirs = "pre_attention_layer_norm" if kind != "feed_forward" else "pre_mlp_layer_norm"
  else:
    gated = config.feed_forward != "relu"
    last = {"gate": "wi_0", "up": "wi_1" if gated else "wi", "down": "wo"}.get(last, last)
    theirs = f"{own[block]}/{last}"
    last = "kernel"
  return f"{side}/layers_{part.layer}/{theirs}/{last}", False


def _config(path, arrays, like):
  """The T5Config that the arrays' names and shapes tell, the rest from `like`."""

  def shape(name):
    if name not in arrays:
      raise UserError(
        f"{path}: expected a T5 of T5X's examples, got no {name}; found "
        f"{', '.join(sorted(arrays)[:5]) or 'nothing'}"
      )
    return arrays[name].shape

  vocab, d_model = shape("token_embedder/embedding")
  gated = "encoder/layers_0/mlp/wi_0/kernel" in arrays
  heads, buckets = shape("encoder/relpos_bias/rel_embedding")
  depths = [
    len({match[1] for match in map(re.compile(rf"{side}/layers_(\d+)/").match, arrays) if match})
    for side in ("encoder", "decoder")
  ]
  feed_forward = (like.feed_forward if like else "gated-gelu") if gated else "relu"
  rest = (
    {
      "relative_max_distance": like.relative_max_distance,
      "dropout": like.dropout,
      "dtype": like.dtype,
      "epsilon": like.epsilon,
    }
    if like
    else {}
  )
  dtype = arrays["token_embedder/embedding"].dtype.name
  return t5.T5Config(
    vocab_size=vocab,
    d_model=d_model,
    d_ff=shape(f"encoder/layers_0/mlp/{'wi_0' if gated else 'wi'}/kernel")[1],
    num_heads=heads,
    d_kv=math.prod(shape("encoder/layers_0/attention/query/kernel")[1:]) // heads,
    encoder_layers=depths[0],
    decoder_layers=max(1, depths[1]),
    relative_buckets=buckets,
    feed_forward=feed_forward,
    tie_head="decoder/logits_dense/kernel" not in arrays,
    param_dtype=dtype if dtype in model_config.DTYPES else "float32",
    **rest,
  )


def _arrays(path):
  """Dict of T5X's names, with "/", -> Array."""
  folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
  file = path if os.path.isfile(path) else os.path.join(path, "checkpoint")
  if os.path.isfile(file):
    return {name: _array(folder, name, value) for name, value in _flat(_target(file))}
  if not os.path.isdir(path):
    raise UserError(f"{path}: expected a T5X checkpoint, got nothing there; check the path")
  matches = filter(None, map(_TARGET.match, sorted(os.listdir(folder))))
  return {match[1].replace(".", "/"): _zarr(os.path.join(folder, match[0])) for match in matches}


def _target(file):
  """The parameters' tree of a msgpack file: in `optimizer.target`, `target`, or all of it."""

  try:
    with open(file, "rb") as opened:
      content = serialization.msgpack_restore(opened.read())
    for key in ("optimizer", "target"):
      content = content.get(key, content)
    if not isinstance(content, dict):
      raise ValueError(f"a {type(content).__name__} instead of a tree")
    return content
  except Exception as error:  # msgpack and flax raise errors of many types for a damaged file
    raise UserError(
      f"{file}: expected a msgpack file of T5X, got a damaged one or another ({error})"
    ) from error


def _flat(tree, prefix=""):
  for key, value in tree.items():
    if isinstance(value, dict) and "driver" not in value:
      yield from _flat(value, f"{prefix}{key}/")
    else:
      yield prefix + key, value


def _array(folder, name, value):
  """An array of the msgpack file: itself, or the description of a zarr array that stands beside the file."""
  if not isinstance(value, dict):
    value = np.asarray(value)
    return Array(value.shape, value.dtype, lambda: value)
  path = (
    value.get("kvstore", {}).get("path") or value.get("path") or f"target.{name.replace('/', '.')}"
  )
  return _zarr(os.path.join(folder, os.path.basename(path.rstrip("/"))))


def _zarr(path):

  try:
    store = tensorstore.open(
      {"driver": "zarr", "kvstore": {"driver": "file", "path": path}}, open=True, read=True
    ).result()
  except ValueError as error:
    raise UserError(
      f"{path}: expected a zarr array, got none that can be read "
      f"({' '.join(str(error).split())[:150]})"
    ) from error

  def read():
    _check_chunks(path, store)
    try:
      return np.asarray(store.read().result())
    except ValueError as error:
      raise UserError(
        f"{path}: damaged: {' '.join(str(error).split())[:150]}; copy it again"
      ) from error

  return Array(tuple(store.shape), store.dtype.numpy_dtype, read)


def _check_chunks(path, store):
  """Raises a UserError where chunks are lost, which zarr reads as zeros; arrays that name a fill value may do so."""
  grid = store.chunk_layout.read_chunk.shape
  expected = math.prod(-(-size // chunk) for size, chunk in zip(store.shape, grid))
  got = sum(
    len([name for name in inside if not name.startswith(".")]) for _, _, inside in os.walk(path)
  )
  if got < expected and store.fill_value is None:
    raise UserError(f"{path}: expected {expected} chunks, got {got}; copy it again")

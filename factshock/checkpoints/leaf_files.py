"""Files of a checkpoint's leaves: an array as one plain file, read and written a block at a time.

Each has a digest. The layout is that of zarr 2 without compression, of one chunk: `<leaf>/.zarray`
and `<leaf>/0.0` (a 0 for each dimension) with the array's bytes in C order. Orbax and tensorstore
read it; so does anything that reads bytes.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from factshock.devices import host
from factshock.runtime import files, json_files
from factshock.runtime.errors import UserError
from factshock.types import Array

BLOCK = 1 << 20  # numbers of a block: few megabytes, which caches hold
_XXH3 = "xxh3-128:"  # before a digest; without it, SHA-256, as checkpoints had at first


class Hasher(Protocol):
  """Computes a digest from bytes that come one after the other."""

  def update(self, data: Any, /) -> None:
    """Adds bytes."""
    ...

  def hexdigest(self) -> str:
    """Returns the digest of all bytes so far."""
    ...


def digest(array: Array) -> str:
  """Returns the digest of an array's bytes, its shape and its dtype (XXH3, 128 bits).

  It tells of damage, not of forgery.
  """
  array = np.asarray(array)
  return digest_of_blocks(array.dtype, array.shape, [array])


def digest_of_blocks(
  dtype: npt.DTypeLike,
  shape: Sequence[int],
  blocks: Iterable[np.ndarray],
  like: str = _XXH3,
) -> str:
  """Returns the `digest` of an array that comes as blocks in C order.

  Args:
    dtype: the array's.
    shape: the array's.
    blocks: arrays that hold its numbers.
    like: a digest of the kind that is wanted.
  """
  hasher = new_hasher(dtype, shape, like)
  for block in blocks:
    hasher.update(_bytes(block))
  return spell(hasher, like)


def new_hasher(
  dtype: npt.DTypeLike,
  shape: Sequence[int],
  like: str = _XXH3,
) -> Hasher:
  """Returns what is updated with an array's bytes, for `spell` to give its digest.

  Args:
    dtype: the array's.
    shape: the array's.
    like: a digest of the kind that is wanted.
  """
  header = f"{np.dtype(dtype).name}{tuple(shape)}".encode()
  return xxhash.xxh3_128(header) if like.startswith(_XXH3) else hashlib.sha256(header)


def spell(hasher: Hasher, like: str = _XXH3) -> str:
  """Returns the digest of a `new_hasher`, of the kind of the digest `like`."""
  prefix = _XXH3 if like.startswith(_XXH3) else ""
  return prefix + hasher.hexdigest()


def write(
  folder: str,
  shape: Sequence[int],
  dtype: npt.DTypeLike,
  blocks: Iterable[np.ndarray],
) -> str:
  """Writes a leaf's folder from blocks in C order, one after the other; returns the digest.

  Raises:
    OSError: the disk is full, or fails.
    ValueError: the blocks are not as many numbers as the shape (a programmer's error).
  """
  dtype = np.dtype(dtype)
  hasher = new_hasher(dtype, shape)
  size = dtype.itemsize * math.prod(shape)
  written = 0
  os.makedirs(folder)
  layout = {
    "chunks": list(shape),
    "compressor": None,
    "dimension_separator": ".",
    "dtype": _zarr_name(dtype),
    "fill_value": None,
    "filters": None,
    "order": "C",
    "shape": list(shape),
    "zarr_format": 2,
  }
  with open(os.path.join(folder, ".zarray"), "w", encoding="utf-8") as file:
    json.dump(layout, file)
  with files.direct_write(os.path.join(folder, _chunk_name(shape))) as write_bytes:
    for block in blocks:
      data = _bytes(block)
      hasher.update(data)
      write_bytes(data)
      written += data.nbytes
  if written != size:
    raise ValueError(f"expected {size} bytes of a leaf {tuple(shape)}, got {written}")
  return spell(hasher)


def is_plain(
  folder: str,
  shape: Sequence[int],
  dtype: npt.DTypeLike,
) -> bool:
  """Returns whether a leaf's folder is laid out as `write` does it."""
  layout = _layout(folder)
  expected = {
    "chunks": list(shape),
    "compressor": None,
    "dtype": _zarr_name(dtype),
    "filters": None,
    "order": "C",
    "shape": list(shape),
  }
  if any(layout.get(name) != value for name, value in expected.items()):
    return False
  size = np.dtype(dtype).itemsize * math.prod(shape)
  path = os.path.join(folder, _chunk_name(shape))
  return os.path.isfile(path) and os.path.getsize(path) == size


def check_regular(*folders: str) -> None:
  """Checks that files, links and folders alone stand in some folders: a pipe would be waited for.

  Raises:
    json_files.Broken: names something else.
  """
  for folder in filter(os.path.isdir, folders):
    for name in os.listdir(folder):
      path = os.path.join(folder, name)
      if os.path.exists(path) and not os.path.isdir(path):
        json_files.check_regular(path)


def stored_shape(folder: str) -> list[int] | None:
  """Returns the shape of a leaf as its folder says, None where it does not."""
  shape = _layout(folder).get("shape")
  return shape if isinstance(shape, list) else None


def _layout(folder: str) -> dict[str, Any]:
  """Returns what zarr says of a leaf; {} where it cannot be read."""
  try:
    return json_files.read(os.path.join(folder, ".zarray"))
  except UserError:
    return {}


def read(
  folder: str,
  shape: Sequence[int],
  dtype: npt.DTypeLike,
  counts: Iterable[int],
) -> Iterator[np.ndarray]:
  """Yields the numbers of a plain leaf as arrays [count], for each of the counts.

  Raises:
    OSError: the file is shorter than they say, or the disk fails.
  """
  with open(os.path.join(folder, _chunk_name(shape)), "rb", buffering=0) as file:
    for count in counts:
      block = host.aligned([count], dtype)
      data = _bytes(block)
      got = 0
      while got < data.nbytes:
        more = file.readinto(data[got:])
        if not more:
          raise OSError(f"{folder}: expected {data.nbytes} more bytes, got {got}")
        got += more
      yield block


def counts(layers: int, size: int) -> list[tuple[int, int]]:
  """Cuts `size` numbers of equally large layers into blocks, none of two layers.

  Returns:
    (layer, count) of each block.
  """
  layer_size = size // layers
  blocks = []
  for layer in range(layers):
    for start in range(0, layer_size, BLOCK):
      blocks.append((layer, min(BLOCK, layer_size - start)))
  return blocks


def _bytes(array: np.ndarray) -> memoryview:
  return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _chunk_name(shape: Sequence[int]) -> str:
  return ".".join("0" for _ in shape) or "0"


def _zarr_name(dtype: npt.DTypeLike) -> str:
  """Returns a dtype as zarr 2 spells it.

  Those that numpy does not have (bfloat16) go by their names, as tensorstore does it.
  """
  dtype = np.dtype(dtype)
  return dtype.name if dtype.kind == "V" else dtype.str

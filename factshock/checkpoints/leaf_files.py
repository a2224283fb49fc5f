"""The files of a checkpoint's leaves: an array as one plain file, read and written a block at a time, with a digest.

The layout is that of zarr 2 without compression, of one chunk: `<leaf>/.zarray` and `<leaf>/0.0` (a 0 for each dimension) with the
array's bytes in C order. Orbax and tensorstore read it; so does anything that reads bytes.
"""

import hashlib
import json
import math
import os

import numpy as np
import xxhash

from factshock.runtime import files

BLOCK = 1 << 20  # numbers of a block: few megabytes, which caches hold
_XXH3 = "xxh3-128:"  # before a digest; without it, SHA-256, as checkpoints had at first


def digest(array):
  """The digest of an array's bytes, its shape and its dtype: it tells of damage, not of forgery (XXH3, 128 bits)."""
  array = np.asarray(array)
  return digest_of_blocks(array.dtype, array.shape, [array])


def digest_of_blocks(dtype, shape, blocks, like=_XXH3):
  """As `digest`, of an array that comes as blocks in C order; of the kind of the digest `like`."""
  found = hasher(dtype, shape, like)
  for block in blocks:
    found.update(_bytes(block))
  return spelled(found, like)


def hasher(dtype, shape, like=_XXH3):
  """What is updated with an array's bytes; `spelled` gives its digest. Of the kind of the digest `like`."""
  return (xxhash.xxh3_128 if like.startswith(_XXH3) else hashlib.sha256)(
    f"{np.dtype(dtype).name}{tuple(shape)}".encode()
  )


def spelled(found, like=_XXH3):
  """The digest of a `hasher`, of the kind of the digest `like`."""
  return (_XXH3 if like.startswith(_XXH3) else "") + found.hexdigest()


def write(folder, shape, dtype, blocks):
  """Writes a leaf's folder from blocks in C order, one after the other; returns the digest.

  Raises:
    OSError: the disk is full, or fails.
    ValueError: the blocks are not as many numbers as the shape (a programmer's error).
  """
  dtype, found, written = np.dtype(dtype), hasher(dtype, shape), 0
  os.makedirs(folder)
  with open(os.path.join(folder, ".zarray"), "w", encoding="utf-8") as file:
    json.dump(
      {
        "chunks": list(shape),
        "compressor": None,
        "dimension_separator": ".",
        "dtype": _zarr_name(dtype),
        "fill_value": None,
        "filters": None,
        "order": "C",
        "shape": list(shape),
        "zarr_format": 2,
      },
      file,
    )
  with files.direct_write(os.path.join(folder, _chunk(shape))) as write_bytes:
    for block in blocks:
      data = _bytes(block)
      found.update(data)
      write_bytes(data)
      written += data.nbytes
  if written != dtype.itemsize * math.prod(shape):
    raise ValueError(
      f"expected {dtype.itemsize * math.prod(shape)} bytes of a leaf {tuple(shape)}, got {written}"
    )
  return spelled(found)


def is_plain(folder, shape, dtype):
  """Whether a leaf's folder is laid out as `write` does it."""
  try:
    with open(os.path.join(folder, ".zarray"), encoding="utf-8") as file:
      said = json.load(file)
  except (OSError, ValueError):
    return False
  wanted = {
    "chunks": list(shape),
    "compressor": None,
    "dtype": _zarr_name(dtype),
    "filters": None,
    "order": "C",
    "shape": list(shape),
  }
  size = np.dtype(dtype).itemsize * math.prod(shape)
  path = os.path.join(folder, _chunk(shape))
  return (
    all(said.get(name) == value for name, value in wanted.items())
    and os.path.exists(path)
    and os.path.getsize(path) == size
  )


def read(folder, shape, dtype, counts):
  """Yields the numbers of a plain leaf as arrays [count], for each of the counts."""
  with open(os.path.join(folder, _chunk(shape)), "rb", buffering=0) as file:
    for count in counts:
      block = np.empty(count, dtype)
      data = memoryview(_bytes(block))
      got = 0
      while got < data.nbytes:
        more = file.readinto(data[got:])
        if not more:
          raise OSError(f"{folder}: expected {data.nbytes} more bytes, got {got}")
        got += more
      yield block


def counts(layers, size):
  """How `layers` parts of equal size are cut into blocks: (layer, numbers) of each block, none of two layers."""
  part = size // layers
  return [
    (layer, min(BLOCK, part - start)) for layer in range(layers) for start in range(0, part, BLOCK)
  ]


def _bytes(array):
  return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _chunk(shape):
  return ".".join("0" for _ in shape) or "0"


def _zarr_name(dtype):
  """A dtype as zarr 2 spells it; those that numpy has not (bfloat16) by their names, as tensorstore does."""
  dtype = np.dtype(dtype)
  return dtype.name if dtype.kind == "V" else dtype.str

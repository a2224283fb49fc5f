"""Files of tensors: safetensors read and written piece by piece, PyTorch's .bin where it is allowed."""

import contextlib
import errno
import itertools
import json
import math
import os
import shutil
import struct
from typing import NamedTuple

import ml_dtypes
import numpy as np

from factshock.runtime.errors import UserError
from factshock.runtime.files import direct_write

INDEX = "model.safetensors.index.json"
_DTYPES = {
  "F32": np.dtype(np.float32),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F16": np.dtype(np.float16),
  "F64": np.dtype(np.float64),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_ROWS = 256  # read or transposed at a time: about a second-level cache
_LINE = 64  # bytes by which the rows of the buffer are longer: a power of two apart they would share cache lines


class Stored(NamedTuple):
  """A tensor in a safetensors file: where its bytes begin, and what they are."""

  path: str
  offset: int
  dtype: np.dtype
  shape: tuple

  def read_into(self, out, transposed=False):
    """Fills `out` (our layout, any floating dtype) from the file, holding a few rows more than `out`."""
    with open(self.path, "rb", buffering=0) as file:
      if not transposed and out.dtype == self.dtype and out.flags.c_contiguous:
        return self._fill(file, out, self.offset)
      rows = (self.shape or (1,))[0]
      size = math.prod(self.shape[1:]) * self.dtype.itemsize
      block = np.empty((min(_ROWS, rows), *self.shape[1:]), self.dtype)
      for first in range(0, rows, _ROWS):
        part = block[: rows - first]
        self._fill(file, part, self.offset + first * size)
        place(out, part, first, transposed)

  def read(self):
    """The tensor as an array of its own."""
    array = np.empty(self.shape, self.dtype)
    self.read_into(array)
    return array

  def blocks(self, count):
    """Yields the tensor's numbers in order, `count` at a time; each array is overwritten by the next."""
    size = math.prod(self.shape)
    block = np.empty(min(count, size), self.dtype)
    with open(self.path, "rb", buffering=0) as file:
      for first in range(0, size, count):
        part = block[: size - first]
        self._fill(file, part, self.offset + first * self.dtype.itemsize)
        yield part

  def _fill(self, file, array, start):
    left = _bytes(array)
    while left:  # one call reads 2 GiB at most
      got = os.preadv(file.fileno(), [left], start)
      if not got:
        raise UserError(f"{self.path}: the file ended while it was read; copy it again")
      left = left[got:]
      start = start + got


class Held(NamedTuple):
  """A tensor that is in memory already."""

  array: np.ndarray

  @property
  def dtype(self):
    return self.array.dtype

  @property
  def shape(self):
    return self.array.shape

  def read_into(self, out, transposed=False):
    """Fills `out` (our layout, any floating dtype)."""
    if transposed:
      return transpose_into(out, self.array)
    out[...] = self.array

  def read(self):
    """The array itself."""
    return self.array

  def blocks(self, count):
    """Yields the tensor's numbers in order, `count` at a time."""
    flat = np.ascontiguousarray(self.array).reshape(-1)
    for first in range(0, flat.size, count):
      yield flat[first : first + count]


def place(out, block, first, transposed):
  """Puts rows [first, ...) of a tensor into `out`, which is the tensor or its transpose."""
  if out.dtype == block.dtype and not out.dtype.isbuiltin == 1:  # plain integers are copied faster
    out, block = out.view(f"u{out.itemsize}"), block.view(f"u{out.itemsize}")
  if transposed:
    padded = np.empty((len(block), block.shape[1] + _LINE // block.itemsize), block.dtype)[
      :, : block.shape[1]
    ]
    padded[...] = block
    out[:, first : first + len(block)] = padded.T
  else:
    out.reshape(-1, *block.shape[1:])[first : first + len(block)] = block


def transpose_into(out, array):
  """out[...] = array.T for two dimensions, block by block: ten times as fast as numpy at once."""
  for first in range(0, len(array), _ROWS):
    place(out, array[first : first + _ROWS], first, True)


def _bytes(array):
  return memoryview(array.reshape(-1).view(np.uint8))


def safetensors_in(folder):
  """Dict name -> Stored of a folder's safetensors, from their headers alone; None where it has none.

  Raises:
    UserError: an index that names what is not there, or a file that is cut short or damaged.
  """
  index = os.path.join(folder, INDEX)
  single = os.path.join(folder, "model.safetensors")
  if not os.path.exists(index):
    return read_header(single) if os.path.exists(single) else None
  weight_map = _weight_map(index)
  found = {}
  for name in sorted(set(weight_map.values())):
    if not os.path.exists(os.path.join(folder, name)):
      raise UserError(f"{folder}: {INDEX} names the shard {name}, which is not there; copy it too")
    found |= read_header(os.path.join(folder, name))
  lost = sorted(weight_map.keys() - found.keys())
  if lost:
    raise UserError(f"{folder}: {INDEX} names tensors that no shard holds: {', '.join(lost)}")
  return found


def _weight_map(path):
  try:
    with open(path, encoding="utf-8") as file:
      found = json.load(file)["weight_map"]
    if not found or any(os.path.basename(name) != name for name in found.values()):
      raise ValueError("shards are not plain file names")
    return found
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f"{path}: expected the index of safetensors, got a broken file ({error!r}); copy it again"
    ) from error


def read_header(path):
  """Dict name -> Stored of one safetensors file.

  Raises:
    UserError: the file is cut short, or is no safetensors file, or holds dtypes other than floats.
  """
  size = os.path.getsize(path)
  try:
    with open(path, "rb") as file:
      (length,) = struct.unpack("<Q", file.read(8))
      if length > min(size, 100_000_000):
        raise ValueError(f"its header would be {length} bytes long")
      header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    ends = [8 + length + row["data_offsets"][1] for row in header.values()]
  except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
    raise UserError(
      f"{path}: expected a safetensors file, got a damaged one or another ({error}); copy it again"
    ) from error
  if max(ends, default=0) > size:
    raise UserError(f"{path}: cut short: expected {max(ends)} bytes, got {size}; copy it again")
  return {name: _stored(path, name, row, 8 + length) for name, row in header.items()}


def _stored(path, name, row, base):
  dtype = _DTYPES.get(row.get("dtype"))
  shape = tuple(row.get("shape", ()))
  if dtype is None:
    raise UserError(
      f"{path}: {name} has dtype {row.get('dtype')}; expected one of {', '.join(_DTYPES)}"
    )
  begin, end = row["data_offsets"]
  if begin < 0 or end - begin != math.prod(shape) * dtype.itemsize:
    raise UserError(
      f"{path}: damaged: {name} takes {end - begin} bytes, expected "
      f"{math.prod(shape) * dtype.itemsize}; copy it again"
    )
  return Stored(path, base + begin, dtype, shape)


def pickled_in(folder):
  """Dict name -> Held of a folder's pytorch_model*.bin, read by PyTorch's loader of weights only; or None.

  Raises:
    UserError: PyTorch is not installed, or the files hold something other than tensors.
  """
  index = os.path.join(folder, "pytorch_model.bin.index.json")
  names = ["pytorch_model.bin"]
  if os.path.exists(index):
    names = sorted(set(_weight_map(index).values()))
  elif not os.path.exists(os.path.join(folder, names[0])):
    return None
  try:
    import torch
  except ImportError as error:
    raise UserError(
      f"{folder}: reading {names[0]} needs PyTorch; install it (pip install torch) or use a model "
      "with safetensors"
    ) from error
  found = {}
  for name in names:
    try:
      found |= torch.load(os.path.join(folder, name), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types for a damaged or unsafe file
      first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
      raise UserError(f"{folder}/{name}: cannot be read as weights only ({first})") from error
  return {name: Held(_numpy(tensor)) for name, tensor in found.items()}


def _numpy(tensor):
  import torch

  if tensor.dtype == torch.bfloat16:
    return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
  return tensor.numpy()


class Writable(NamedTuple):
  """A tensor to write: `read()` gives an array of this shape and dtype when its turn comes."""

  name: str
  shape: tuple
  dtype: np.dtype
  read: object

  @property
  def nbytes(self):
    return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(folder, tensors, shard_bytes, progress=None):
  """Writes Writables into a folder as model.safetensors, or as shards of up to `shard_bytes` and their index."""
  shards = _shards(tensors, shard_bytes)
  names = [
    f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)
  ]
  if len(shards) == 1:
    names = ["model.safetensors"]
  else:
    index = {
      "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)},
      "weight_map": {tensor.name: name for name, shard in zip(names, shards) for tensor in shard},
    }
    with open(os.path.join(folder, INDEX), "w", encoding="utf-8") as file:
      json.dump(index, file, indent=1)
  count = itertools.count(1)
  for name, shard in zip(names, shards):
    write_file(os.path.join(folder, name), shard, lambda: progress and progress.update(next(count)))


def write_file(path, tensors, after_each=lambda: None):
  """Writes Writables as one safetensors file; calls `after_each` when one is written."""
  with direct_write(path) as write:
    write(_header(tensors))
    for tensor in tensors:
      write(_array_bytes(tensor))
      after_each()


def _shards(tensors, shard_bytes):
  shards = [[]]
  size = 0
  for tensor in tensors:
    if shards[-1] and size + tensor.nbytes > shard_bytes:
      shards.append([])
      size = 0
    shards[-1].append(tensor)
    size += tensor.nbytes
  return shards


def _header(shard):
  header = {"__metadata__": {"format": "pt"}}
  offset = 0
  for tensor in shard:
    header[tensor.name] = {
      "dtype": _CODES[tensor.dtype],
      "shape": list(tensor.shape),
      "data_offsets": [offset, offset + tensor.nbytes],
    }
    offset += tensor.nbytes
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  return struct.pack("<Q", len(text)) + text


def _array_bytes(tensor):
  array = np.ascontiguousarray(tensor.read())
  if array.shape != tuple(tensor.shape) or array.dtype != tensor.dtype:
    raise ValueError(
      f"{tensor.name}: expected {tensor.dtype}{tensor.shape}, got {array.dtype}{array.shape}"
    )
  return _bytes(array)


@contextlib.contextmanager
def whole_folder(target):
  """Context manager: a folder to fill, which appears as `target` when all is done; removed on any error.

  Raises:
    UserError: `target` exists, or the disk is full or fails.
  """
  target = os.path.abspath(str(target))
  if os.path.exists(target):
    raise UserError(f"{target}: already exists; remove it or choose another folder")
  parent, name = os.path.split(target)
  temporary = os.path.join(parent, f".saving-{name}-{os.getpid()}")
  try:
    os.makedirs(temporary)
    yield temporary
    os.rename(temporary, target)
  except OSError as error:
    reason = os.strerror(error.errno) if error.errno else error
    hint = "free space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    raise UserError(
      f"{target}: cannot be written: {reason}; {hint}choose another folder"
    ) from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)

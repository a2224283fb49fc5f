"""Files of tensors: safetensors read and written piece by piece, PyTorch's .bin where allowed."""

import contextlib
import dataclasses
import errno
import itertools
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, Protocol

import ml_dtypes
import numpy as np

from factshock.models.formats import layout
from factshock.runtime import folders, json_files, settings
from factshock.runtime.errors import UserError
from factshock.runtime.files import direct_write
from factshock.runtime.progress import Progress
from factshock.types import FilePath

# Files of weights, in the order in which transformers looks for them: the first that is there is
# read, and none of the others (its _get_resolved_checkpoint_files).
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
WEIGHTS = (SINGLE, INDEX, PICKLED, PICKLED_INDEX)
_DTYPES = {
  "F32": np.dtype(np.float32),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F16": np.dtype(np.float16),
  "F64": np.dtype(np.float64),
}
_PICKLED = ("float32", "bfloat16", "float16", "float64")
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MOST_AXES = 32  # of numpy's arrays
_WHOLE_NUMBERS = settings.tuple_of(
  settings.Check((int,), lambda v: 0 <= v < 1 << 62, "a whole number")
)
_LONGEST_HEADER = 100_000_000  # bytes, as in the safetensors format


class StoredTensor(Protocol):
  """Tensor that can be read when it is wanted."""

  @property
  def dtype(self) -> np.dtype: ...
  @property
  def shape(self) -> tuple[int, ...]: ...
  def read_into(self, out: np.ndarray, transposed: bool = False) -> None: ...
  def read(self) -> np.ndarray: ...
  def blocks(self, count: int) -> Iterator[np.ndarray]: ...


@dataclasses.dataclass(frozen=True)
class Stored:
  """Tensor in a safetensors file.

  Attributes:
    path: the file.
    offset: where the tensor's bytes begin.
    dtype: as stored.
    shape: as stored.
  """

  path: str
  offset: int
  dtype: np.dtype
  shape: tuple[int, ...]

  @property
  def nbytes(self) -> int:
    """Returns how many bytes it takes in the file."""
    return math.prod(self.shape) * self.dtype.itemsize

  def read_into(self, out: np.ndarray, transposed: bool = False) -> None:
    """Fills `out` from the file, holding a few rows more than `out`.

    Args:
      out: array of our layout, of any floating dtype.
      transposed: whether it is the transpose of what is stored.
    """
    with open(self.path, "rb", buffering=0) as file:
      if not transposed and out.dtype == self.dtype and out.flags.c_contiguous:
        self._fill(file, out, self.offset)
        return
      rows = (self.shape or (1,))[0]
      size = math.prod(self.shape[1:]) * self.dtype.itemsize
      block = np.empty((min(layout.ROWS, rows), *self.shape[1:]), self.dtype)
      for first in range(0, rows, layout.ROWS):
        part = block[: rows - first]
        self._fill(file, part, self.offset + first * size)
        layout.put_rows(out, part, first, transposed)

  def read(self) -> np.ndarray:
    """Returns the tensor as an array of its own."""
    array = np.empty(self.shape, self.dtype)
    self.read_into(array)
    return array

  def blocks(self, count: int) -> Iterator[np.ndarray]:
    """Yields the tensor's numbers in order, `count` at a time.

    Each array is overwritten by the next.
    """
    size = math.prod(self.shape)
    block = np.empty(min(count, size), self.dtype)
    with open(self.path, "rb", buffering=0) as file:
      for first in range(0, size, count):
        part = block[: size - first]
        self._fill(file, part, self.offset + first * self.dtype.itemsize)
        yield part

  def _fill(self, file: IO[bytes], array: np.ndarray, start: int) -> None:
    """Reads an array's bytes from a position of the file."""
    left = _bytes(array)
    while left:  # one call reads 2 GiB at most
      count = os.preadv(file.fileno(), [left], start)
      if not count:
        raise UserError(f"{self.path}: the file ended while it was read; copy it again")
      left = left[count:]
      start = start + count


@dataclasses.dataclass(frozen=True)
class Held:
  """Tensor that is in memory already."""

  array: np.ndarray

  @property
  def dtype(self) -> np.dtype:
    """Returns the array's dtype."""
    return self.array.dtype

  @property
  def shape(self) -> tuple[int, ...]:
    """Returns the array's shape."""
    return self.array.shape

  def read_into(self, out: np.ndarray, transposed: bool = False) -> None:
    """Fills `out`, of our layout and any floating dtype, or of the transpose."""
    if transposed:
      layout.transpose_into(out, self.array)
    else:
      out[...] = self.array

  def read(self) -> np.ndarray:
    """Returns the array itself."""
    return self.array

  def blocks(self, count: int) -> Iterator[np.ndarray]:
    """Yields the tensor's numbers in order, `count` at a time."""
    flat = np.ascontiguousarray(self.array).reshape(-1)
    for first in range(0, flat.size, count):
      yield flat[first : first + count]


def _bytes(array: np.ndarray) -> memoryview:
  return memoryview(array.reshape(-1).view(np.uint8))  # pyright: ignore[reportArgumentType]


def weights_in(folder: FilePath) -> list[str]:
  """Returns those files of WEIGHTS that are in a folder; the first is the one that is read."""
  return [name for name in WEIGHTS if os.path.isfile(os.path.join(folder, name))]


def safetensors_in(folder: FilePath) -> dict[str, Stored] | None:
  """Returns the tensors of a folder's safetensors by name, from their headers alone.

  Of a single file and an index the single file is read, as by transformers. Returns None where it
  has neither.

  Raises:
    UserError: an index that names what is not there, or a file that is cut short or damaged.
  """
  present = weights_in(folder)
  if SINGLE in present:
    return read_header(os.path.join(folder, SINGLE))
  return _sharded_in(folder) if INDEX in present else None


def _sharded_in(folder: FilePath) -> dict[str, Stored]:
  """Returns the tensors of all shards that an index names."""
  weight_map = _weight_map(os.path.join(folder, INDEX))
  tensors: dict[str, Stored] = {}
  for name in sorted(set(weight_map.values())):
    shard = os.path.join(folder, name)
    if not os.path.isfile(shard):
      raise UserError(f"{folder}: {INDEX} names the shard {name}, which is not there; copy it too")
    header = read_header(shard)
    _check_new(folder, name, header, tensors)
    tensors |= header
  lost = sorted(weight_map.keys() - tensors.keys())
  if lost:
    raise UserError(f"{folder}: {INDEX} names tensors that no shard holds: {', '.join(lost)}")
  return tensors


def _check_new(
  folder: FilePath, shard: str, read: Mapping[str, Any], before: Mapping[str, Any]
) -> None:
  """Raises a UserError where a shard holds tensors that those before it hold too."""
  twice = sorted(read.keys() & before.keys())
  if twice:
    raise UserError(
      f"{folder}: {shard} holds {', '.join(twice[:3])}, as another shard does; these may be shards "
      "of two models: copy all of one again"
    )


def _weight_map(path: str) -> dict[str, str]:
  """Returns the file name of each tensor's shard, from an index."""
  try:
    shards = json_files.read(path).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(map(_is_file_name, shards.values())):
      raise ValueError("shards are not plain file names")
    return shards
  except ValueError as error:
    raise UserError(
      f"{path}: expected the index of safetensors, got a broken file ({error!r}); copy it again"
    ) from error


def _is_file_name(name: Any) -> bool:
  if not isinstance(name, str) or name in ("", ".", "..") or "\0" in name:
    return False
  return os.path.basename(name) == name


def read_header(path: FilePath) -> dict[str, Stored]:
  """Returns the tensors of one safetensors file by name.

  Raises:
    UserError: the file is cut short, or is no safetensors file, or holds dtypes other than floats.
  """
  size = json_files.check_regular(path)
  try:
    with open(path, "rb") as file:
      (length,) = struct.unpack("<Q", file.read(8))
      if length > min(size, _LONGEST_HEADER):
        raise ValueError(f"its header would be {length} bytes long")
      header = json.loads(file.read(length))
    if not isinstance(header, dict):
      raise ValueError(f"its header is a {type(header).__name__}")
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not _is_metadata(metadata):
      raise ValueError(f"its metadata are {metadata!r:.60}")
    "".join((*header, *(metadata or {}), *(metadata or {}).values())).encode()  # no half characters
    for name, entry in header.items():
      _check_entry(name, entry)
  except (OSError, ValueError, RecursionError, struct.error) as error:
    raise UserError(
      f"{path}: expected a safetensors file, got a damaged one or another ({error}); copy it again"
    ) from error
  stored = {name: _stored(str(path), name, entry, 8 + length) for name, entry in header.items()}
  _check_layout(path, stored, 8 + length, size)
  return stored


def _is_metadata(value: Any) -> bool:
  """Returns whether a value is texts by name, as the metadata of a header must be."""
  return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _check_entry(name: str, entry: Any) -> None:
  """Raises a ValueError where a tensor's entry in a header lacks a dtype, a shape or offsets."""
  if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
    raise ValueError(f"no dtype of {name!r:.60}")
  shape, offsets = entry.get("shape"), entry.get("data_offsets")
  if shape is None or not _WHOLE_NUMBERS.fits(shape) or len(shape) > _MOST_AXES:
    raise ValueError(f"{name!r:.60} has the shape {shape!r:.60}")
  if offsets is None or not _WHOLE_NUMBERS.fits(offsets) or len(offsets) != 2:
    raise ValueError(f"{name!r:.60} has the offsets {offsets!r:.60}")


def _check_layout(path: FilePath, stored: Mapping[str, Stored], base: int, size: int) -> None:
  """Checks that the tensors of a file follow one another from `base` to its end, as they must.

  Raises:
    UserError: the file is cut short or too long, or tensors share bytes.
  """
  end = base
  for tensor in sorted(stored.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
    if tensor.offset != end:
      raise UserError(
        f"{path}: damaged: a tensor begins at byte {tensor.offset}, expected {end}; copy it again"
      )
    end += tensor.nbytes
  if end > size:
    raise UserError(f"{path}: cut short: expected {end} bytes, got {size}; copy it again")
  if end < size:
    raise UserError(f"{path}: damaged: expected {end} bytes, got {size}; copy it again")


def _stored(path: str, name: str, entry: Mapping[str, Any], base: int) -> Stored:
  """Returns a tensor from its entry in the header, whose offsets count from `base`."""
  dtype = _DTYPES.get(entry["dtype"])
  shape = tuple(entry["shape"])
  if dtype is None:
    raise UserError(
      f"{path}: {name} has dtype {entry['dtype']}; expected one of {', '.join(_DTYPES)}"
    )
  begin, end = entry["data_offsets"]
  size = math.prod(shape) * dtype.itemsize
  if end - begin != size:
    raise UserError(
      f"{path}: damaged: {name} takes {end - begin} bytes, expected {size}; copy it again"
    )
  return Stored(path, base + begin, dtype, shape)


def pickled_in(folder: FilePath) -> dict[str, Held] | None:
  """Returns the tensors of a folder's pytorch_model*.bin by name; None where it has none.

  They are read by PyTorch's loader of weights only.

  Raises:
    UserError: PyTorch is not installed, or the files hold something other than tensors.
  """
  present = weights_in(folder)
  if PICKLED in present:
    names = [PICKLED]
  elif PICKLED_INDEX in present:
    names = sorted(set(_weight_map(os.path.join(folder, PICKLED_INDEX)).values()))
  else:
    return None
  try:
    import torch  # noqa: PLC0415  # an extra
  except ImportError as error:
    raise UserError(
      f"{folder}: reading {names[0]} needs PyTorch; install it (pip install torch) or use a model "
      "with safetensors"
    ) from error
  tensors: dict[str, Any] = {}
  for name in names:
    path = os.path.join(folder, name)
    json_files.check_regular(path)
    try:
      loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged or unsafe files
      lines = str(error).strip().splitlines() or [type(error).__name__]
      raise UserError(f"{folder}/{name}: cannot be read as weights only ({lines[0]})") from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
      raise UserError(f"{path}: expected tensors by name, got a {type(loaded).__name__}")
    _check_new(folder, name, loaded, tensors)
    tensors |= loaded
  return {name: Held(_numpy(folder, name, tensor)) for name, tensor in tensors.items()}


def _numpy(folder: FilePath, name: str, tensor: Any) -> np.ndarray:
  """Returns a PyTorch tensor as an array that shares its memory.

  Raises:
    UserError: it is no tensor, or not a dense one of floating point in memory.
  """
  import torch  # noqa: PLC0415  # an extra

  got = f"a {type(tensor).__name__}"
  if isinstance(tensor, torch.Tensor):
    is_dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if is_dense and str(tensor.dtype).removeprefix("torch.") in _PICKLED:
      tensor = tensor.detach()
      if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
      return tensor.resolve_neg().numpy()
    got = f"{tensor.dtype} ({tensor.layout}, on {tensor.device.type})"
  raise UserError(
    f"{folder}: {name!r:.80} of its pickled weights is {got}; expected one of {', '.join(_PICKLED)}"
  )


@dataclasses.dataclass(frozen=True)
class Writable:
  """Tensor to write.

  Attributes:
    name: its name in the file.
    shape: as stored.
    dtype: as stored.
    read: gives its array when its turn comes.
  """

  name: str
  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def nbytes(self) -> int:
    """Returns how many bytes it takes in the file."""
    return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Computed:
  """Tensor of a model in another format, made when it is read."""

  tensor: Writable

  @property
  def dtype(self) -> np.dtype:
    """Returns the dtype that it has as it is read."""
    return self.tensor.dtype

  @property
  def shape(self) -> tuple[int, ...]:
    """Returns the shape that it has as it is read."""
    return self.tensor.shape

  def read_into(self, out: np.ndarray, transposed: bool = False) -> None:
    """Fills `out`, of our layout and any floating dtype, or of the transpose."""
    Held(self.read()).read_into(out, transposed)

  def read(self) -> np.ndarray:
    """Returns the tensor's array."""
    return self.tensor.read()

  def blocks(self, count: int) -> Iterator[np.ndarray]:
    """Yields the tensor's numbers in order, `count` at a time."""
    yield from Held(self.read()).blocks(count)


def write_safetensors(
  folder: FilePath,
  tensors: Sequence[Writable],
  shard_bytes: float,
  progress: Progress | None = None,
) -> None:
  """Writes tensors into a folder as model.safetensors, or as shards and their index.

  Args:
    folder: an existing folder.
    tensors: in the order of the files.
    shard_bytes: largest size of a shard (one tensor may exceed it).
    progress: told of each tensor that is written; None for no progress.
  """
  shards = _shards(tensors, shard_bytes)
  count = len(shards)
  if count == 1:
    names = [SINGLE]
  else:
    names = [f"model-{index:05d}-of-{count:05d}.safetensors" for index in range(1, count + 1)]
    _write_index(folder, names, shards)
  written = itertools.count(1)

  def update() -> None:
    if progress is not None:
      progress.update(next(written))

  for name, shard in zip(names, shards):
    write_file(os.path.join(folder, name), shard, update)


def _write_index(
  folder: FilePath, names: Sequence[str], shards: Sequence[Sequence[Writable]]
) -> None:
  """Writes the index of shards: the shard of each tensor, and their size."""
  weight_map = {}
  total = 0
  for name, shard in zip(names, shards):
    for tensor in shard:
      weight_map[tensor.name] = name
      total += tensor.nbytes
  with open(os.path.join(folder, INDEX), "w", encoding="utf-8") as file:
    json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, file, indent=1)


def write_file(
  path: FilePath, tensors: Sequence[Writable], after_each: Callable[[], None] | None = None
) -> None:
  """Writes tensors as one safetensors file; calls `after_each` when one is written."""
  with direct_write(path) as write:
    write(_header(tensors))
    for tensor in tensors:
      write(_array_bytes(tensor))
      if after_each is not None:
        after_each()


def _shards(tensors: Sequence[Writable], shard_bytes: float) -> list[list[Writable]]:
  """Returns the tensors in runs of at most `shard_bytes`."""
  shards: list[list[Writable]] = [[]]
  size = 0
  for tensor in tensors:
    if shards[-1] and size + tensor.nbytes > shard_bytes:
      shards.append([])
      size = 0
    shards[-1].append(tensor)
    size += tensor.nbytes
  return shards


def _header(shard: Sequence[Writable]) -> bytes:
  """Returns the header of a safetensors file, with its length in front."""
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
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


def _array_bytes(tensor: Writable) -> memoryview:
  """Returns the bytes of a tensor's array, which must be as was declared."""
  array = np.ascontiguousarray(tensor.read())
  if array.shape != tuple(tensor.shape) or array.dtype != tensor.dtype:
    raise ValueError(
      f"{tensor.name}: expected {tensor.dtype}{tensor.shape}, got {array.dtype}{array.shape}"
    )
  return _bytes(array)


@contextlib.contextmanager
def whole_folder(target: FilePath) -> Iterator[str]:
  """Yields a folder to fill, which appears as `target` when all is done; removed on any error.

  Raises:
    UserError: `target` exists, or the disk is full or fails.
  """
  target = os.path.abspath(str(target))
  if os.path.exists(target):
    raise UserError(f"{target}: already exists; remove it or choose another folder")
  temporary = folders.temporary_path(target)
  try:
    with folders.filling(temporary):
      yield temporary
      os.rename(temporary, target)
  except OSError as error:
    reason = os.strerror(error.errno) if error.errno else error
    hint = "free space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    raise UserError(
      f"{target}: cannot be written: {reason}; {hint}choose another folder"
    ) from error

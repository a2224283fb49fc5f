"""Files in the GGUF format: metadata and tensors, checked before any tensor is read.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Its own package takes twenty
seconds to open a file of 262,144 tokens, and loops for ever over some damaged ones; it dequantises.
"""

import contextlib
import dataclasses
import mmap
import os
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from factshock.models.formats.gguf import packaged
from factshock.models.formats.gguf.tensors import Quantized
from factshock.runtime import json_files
from factshock.runtime.errors import UserError
from factshock.types import FilePath

ENDING = ".gguf"
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32  # bytes, where the metadata name none
_MOST_AXES = 4
_SPLIT = re.compile(r".*-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)

# Types of metadata by their number: struct's letter, and two that have a length.
_SCALARS = dict(zip(range(8), "BbHhIif?")) | dict(zip((10, 11, 12), "Qqd"))
_TEXT = 8
_ARRAY = 9


@dataclasses.dataclass(frozen=True)
class GgufFile:
  """Holds what the head of a file says.

  Attributes:
    path: the file.
    metadata: values by key; arrays of numbers as numpy arrays, of texts as lists.
    tensors: by their names in the file.
  """

  path: str
  metadata: Mapping[str, Any]
  tensors: Mapping[str, Quantized]


class _Damage(ValueError):
  """Says what in a file cannot be."""


def is_file(path: FilePath) -> bool:
  """Returns whether a path is meant as a GGUF file, whether or not one is there."""
  path = str(path)
  return path.lower().endswith(ENDING) and not os.path.isdir(path)


def read_metadata(path: FilePath) -> dict[str, Any]:
  """Returns the metadata of a file by key; see `read`, whose checks of them this makes."""
  with _opened(path) as data:
    return _metadata(_Cursor(data), str(path))[0]


def read(path: FilePath) -> GgufFile:
  """Returns the metadata and the tensors of a file, none of which is read yet.

  Raises:
    UserError: package gguf is missing, or the file is no GGUF, cut off, damaged, of the other byte
      order, a part of several, or holds tensors of a type that the package does not know.
  """
  packaged.load()
  with _opened(path) as data:
    cursor = _Cursor(data)
    metadata, count = _metadata(cursor, str(path))
    entries = [_entry(cursor) for _ in range(count)]
    tensors = _tensors(str(path), entries, metadata, cursor)
  return GgufFile(str(path), metadata, tensors)


@contextlib.contextmanager
def _opened(path: FilePath) -> Iterator[mmap.mmap]:
  """Yields a file's bytes, and turns what is wrong with them into a UserError."""
  path = str(path)
  if not os.path.exists(path):
    raise UserError(f"{path}: expected a GGUF file, got nothing there; check the path")
  size = json_files.check_regular(path)
  try:
    with open(path, "rb") as file:
      if not size:
        raise UserError(f"{path}: expected a GGUF file, got an empty one; copy it again")
      with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data
  except _Damage as error:
    raise UserError(f"{path}: expected a GGUF file, got a damaged one: {error}") from error
  except OSError as error:
    raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


class _Cursor:
  """Reads values of a file one behind the other."""

  def __init__(self, data: mmap.mmap) -> None:
    self._data = data
    self.size = len(data)
    self.position = 0

  def skip(self, count: int) -> int:
    """Returns where the next `count` bytes begin, and goes behind them.

    Raises:
      _Damage: the file ends before.
    """
    start = self.position
    if count > self.size - start:
      raise _Damage(
        f"cut off or changed: at least {start + count:,} bytes expected, {self.size:,} there; copy "
        "it again"
      )
    self.position = start + count
    return start

  def number(self, code: str) -> Any:
    """Returns a number of struct's type `code`."""
    start = self.skip(struct.calcsize(f"<{code}"))
    return struct.unpack_from(f"<{code}", self._data, start)[0]

  def text(self) -> str:
    """Returns a text, which stands behind its length."""
    start = self.skip(self.number("Q"))
    try:
      return self._data[start : self.position].decode()
    except UnicodeDecodeError as error:
      raise _Damage(f"a text at byte {start:,} is no UTF-8; copy it again") from error

  def value(self, kind: int) -> Any:
    """Returns a value of one of the format's types."""
    if kind in _SCALARS:
      return self.number(_SCALARS[kind])
    if kind == _TEXT:
      return self.text()
    if kind == _ARRAY:
      return self._array()
    raise _Damage(f"a value of type {kind} before byte {self.position:,}; copy it again")

  def _array(self) -> Any:
    kind = self.number("I")
    count = self.number("Q")
    if kind == _TEXT:
      if count > self.size:
        self.skip(count)
      return [self.text() for _ in range(count)]
    if kind not in _SCALARS:
      raise _Damage(f"an array of type {kind} before byte {self.position:,}; copy it again")
    dtype = np.dtype(f"<{_SCALARS[kind]}")
    start = self.skip(count * dtype.itemsize)
    return np.frombuffer(self._data[start : self.position], dtype)


def _metadata(cursor: _Cursor, path: str) -> tuple[dict[str, Any], int]:
  """Returns the metadata and how many tensors follow; the cursor is then behind the metadata."""
  if cursor.size < len(_MAGIC) or cursor.number("4s") != _MAGIC:
    raise UserError(
      f"{path}: expected a GGUF file, got another (it does not begin with {_MAGIC.decode()}); give "
      "the model's .gguf"
    )
  version = cursor.number("I")
  if version & 0xFFFF == 0:
    raise UserError(
      f"{path}: is a GGUF file of the other byte order (big-endian); convert it with llama.cpp's "
      "gguf_convert_endian.py, or take the usual file of the model"
    )
  if version not in _VERSIONS:
    raise UserError(
      f"{path}: is of version {version} of the GGUF format; supported are "
      f"{' and '.join(map(str, _VERSIONS))}: convert the model again"
    )
  tensor_count = cursor.number("Q")
  metadata: dict[str, Any] = {}
  for _ in range(cursor.number("Q")):
    key = cursor.text()
    if key in metadata:
      raise _Damage(f"two values of {key:.80}; copy it again")
    metadata[key] = cursor.value(cursor.number("I"))
  _check_whole(path, metadata)
  return metadata, tensor_count


def _check_whole(path: str, metadata: Mapping[str, Any]) -> None:
  """Raises a UserError where a file is one part of several."""
  match = _SPLIT.fullmatch(path)
  count = metadata.get("split.count", 0) or (int(match[1]) if match else 0)
  if count > 1:
    raise UserError(
      f"{path}: is one of {count} parts of a model; join them with llama.cpp's gguf-split --merge "
      "and give the whole file"
    )


@dataclasses.dataclass(frozen=True)
class _Entry:
  """Holds what the head says of a tensor; `offset` counts from where the tensors begin."""

  name: str
  shape: tuple[int, ...]
  kind: int
  offset: int


def _entry(cursor: _Cursor) -> _Entry:
  """Returns the entry of the next tensor."""
  name = cursor.text()
  axes = cursor.number("I")
  if axes > _MOST_AXES:
    raise _Damage(f"{name:.80} has {axes} axes; copy it again")
  shape = tuple(cursor.number("Q") for _ in range(axes))
  return _Entry(name, shape[::-1], cursor.number("I"), cursor.number("Q"))


def _tensors(
  path: str, entries: list[_Entry], metadata: Mapping[str, Any], cursor: _Cursor
) -> dict[str, Quantized]:
  """Returns the tensors of a file by name, checked to lie in it one behind the other."""
  alignment = metadata.get("general.alignment", _ALIGNMENT)
  if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
    raise _Damage(f"general.alignment {alignment!r:.60} is no power of two; copy it again")
  first = -(-cursor.position // alignment) * alignment
  tensors: dict[str, Quantized] = {}
  for entry in entries:
    if entry.name in tensors:
      raise _Damage(f"two tensors {entry.name:.80}; copy it again")
    tensors[entry.name] = _tensor(path, entry, first)
  _check_layout(tensors, first, alignment, cursor.size)
  return tensors


def _tensor(path: str, entry: _Entry, first: int) -> Quantized:
  """Returns a tensor of an entry."""
  if not entry.shape or 0 in entry.shape:
    raise _Damage(f"{entry.name:.80} has the shape {list(entry.shape)}; copy it again")
  kind = packaged.kind_of(path, entry.name, entry.kind)
  width = entry.shape[-1]
  if width % kind.block:
    raise _Damage(
      f"{entry.name:.80} has rows of {width} numbers, {kind.name} blocks of {kind.block}; copy it "
      "again"
    )
  return Quantized(path, first + entry.offset, kind, entry.shape)


def _check_layout(tensors: Mapping[str, Quantized], first: int, alignment: int, size: int) -> None:
  """Raises _Damage where tensors do not follow one another, or the file ends before they do."""
  end = first
  ordered = sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes))
  for name, tensor in ordered:
    expected = -(-end // alignment) * alignment
    if tensor.offset != expected:
      raise _Damage(
        f"{name:.80} begins at byte {tensor.offset:,}, expected {expected:,}; copy it again"
      )
    end = tensor.offset + tensor.nbytes
  if end > size:
    raise _Damage(f"cut off: {end:,} bytes expected, {size:,} there; copy it again")

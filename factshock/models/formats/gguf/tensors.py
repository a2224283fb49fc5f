"""Tensors of a GGUF file, dequantised as they are read, in HuggingFace's layout."""

import dataclasses
import math
import os
from collections.abc import Iterator
from typing import IO

import numpy as np

from factshock.models.formats import layout
from factshock.models.formats.gguf.packaged import Kind
from factshock.runtime.errors import UserError

_NUMBERS = 1 << 18  # dequantised at a time


@dataclasses.dataclass(frozen=True)
class Quantized:
  """Tensor in a GGUF file.

  Attributes:
    path: the file.
    offset: where the tensor's bytes begin.
    kind: the type of its numbers.
    shape: its shape.
    head_rows: of Llama's queries and keys, whose rows llama.cpp reorders within each head, how many
      rows a head has; 0 of the others.
    shift: what is added to the numbers: -1 of Gemma's norms, which llama.cpp stores plus one.
  """

  path: str
  offset: int
  kind: Kind
  shape: tuple[int, ...]
  head_rows: int = 0
  shift: float = 0.0

  @property
  def dtype(self) -> np.dtype:
    """Returns the dtype of the numbers once read."""
    return self.kind.dtype

  @property
  def nbytes(self) -> int:
    """Returns how many bytes it takes in the file."""
    return math.prod(self.shape[:-1]) * self._row_bytes

  @property
  def _row_bytes(self) -> int:
    return self.shape[-1] // self.kind.block * self.kind.block_bytes

  def read_into(self, out: np.ndarray, transposed: bool = False) -> None:
    """Fills `out` from the file, holding a few rows more than `out`.

    Args:
      out: array of our layout, of any floating dtype.
      transposed: whether it is the transpose of what is stored.
    """
    first = 0
    for rows in self._rows():
      if len(self.shape) == 1:
        out[...] = rows[0]
        return
      layout.put_rows(out, rows, first, transposed)
      first += len(rows)

  def read(self) -> np.ndarray:
    """Returns the tensor as an array of its own."""
    array = np.empty(self.shape, self.dtype)
    self.read_into(array)
    return array

  def blocks(self, count: int) -> Iterator[np.ndarray]:
    """Yields the tensor's numbers in order, `count` at a time."""
    left = np.empty(0, self.dtype)
    for rows in self._rows():
      left = np.concatenate((left, rows.reshape(-1)))
      while len(left) >= count:
        yield left[:count]
        left = left[count:]
    if len(left):
      yield left

  def _rows(self) -> Iterator[np.ndarray]:
    """Yields rows [N, columns] in order, as many at a time as make a block or a head."""
    count = math.prod(self.shape[:-1])
    step = self.head_rows or max(1, _NUMBERS // self.shape[-1])
    with open(self.path, "rb", buffering=0) as file:
      for first in range(0, count, step):
        stored = self._stored(file, first, min(step, count - first))
        yield self._in_layout(self.kind.numbers(stored))

  def _in_layout(self, rows: np.ndarray) -> np.ndarray:
    """Returns rows as HuggingFace has them."""
    if self.head_rows:
      # llama.cpp turns pairs of neighbours, HuggingFace pairs half a head apart.
      rows = np.concatenate((rows[0::2], rows[1::2]))
    return rows + rows.dtype.type(self.shift) if self.shift else rows

  def _stored(self, file: IO[bytes], first: int, count: int) -> np.ndarray:
    """Returns the bytes [N, bytes] of some rows."""
    stored = np.empty((count, self._row_bytes), np.uint8)
    start = self.offset + first * self._row_bytes
    left = memoryview(stored.reshape(-1))  # pyright: ignore[reportArgumentType]
    while left:  # one call reads 2 GiB at most
      length = os.preadv(file.fileno(), [left], start)
      if not length:
        raise UserError(f"{self.path}: the file ended while it was read; copy it again")
      left = left[length:]
      start += length
    return stored

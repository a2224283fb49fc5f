"""What package `gguf`, an extra, knows: types of tensors, and how they are dequantised."""

import dataclasses
from types import ModuleType

import ml_dtypes
import numpy as np

from factshock.runtime.errors import UserError

# Types whose bytes are numbers already.
_PLAIN = {
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F64": np.dtype(np.float64),
}


@dataclasses.dataclass(frozen=True)
class Kind:
  """Type of a tensor's numbers.

  Attributes:
    number: the format's number of it.
    name: its name, such as "Q4_K".
    block: how many numbers are stored together.
    block_bytes: how many bytes they take.
    dtype: what they are read as: as they are, or dequantised to float32.
  """

  number: int
  name: str
  block: int
  block_bytes: int
  dtype: np.dtype

  def numbers(self, stored: np.ndarray) -> np.ndarray:
    """Returns the numbers [N, columns] of rows of bytes [N, bytes]."""
    if self.name in _PLAIN:
      return stored.view(self.dtype)
    package = load()
    return package.quants.dequantize(stored, package.GGMLQuantizationType(self.number))


def load() -> ModuleType:
  """Returns package gguf.

  Raises:
    UserError: it is not installed.
  """
  try:
    import gguf  # noqa: PLC0415  # an extra
    import gguf.quants  # noqa: PLC0415  # an extra
  except ImportError as error:
    raise UserError(
      "reading .gguf files needs package gguf; install it: pip install 'factshock[gguf]'"
    ) from error
  return gguf


def kind_of(path: str, name: str, number: int) -> Kind:
  """Returns the type of a number.

  Args:
    path: the file, for errors.
    name: the tensor's, for errors.
    number: as the file has it.

  Raises:
    UserError: the package does not know it, or cannot dequantise it.
  """
  package = load()
  known = {int(member): member.name for member in package.GGMLQuantizationType}
  kind = known.get(number, str(number))
  if kind not in _PLAIN and kind not in _dequantised(package):
    supported = ", ".join(sorted({*_PLAIN, *_dequantised(package)}))
    raise UserError(
      f"{path}: {name:.80} is of type {kind}, which package gguf cannot dequantise (it can "
      f"{supported}); quantise the model to another type, or install a newer gguf"
    )
  block, block_bytes = package.GGML_QUANT_SIZES[package.GGMLQuantizationType(number)]
  return Kind(number, kind, block, block_bytes, _PLAIN.get(kind, np.dtype(np.float32)))


def _dequantised(package: ModuleType) -> set[str]:
  """Returns the names of the types that the package dequantises."""
  # Each has a class of its name; there is no public list.
  return {
    member.name for member in package.GGMLQuantizationType if hasattr(package.quants, member.name)
  }

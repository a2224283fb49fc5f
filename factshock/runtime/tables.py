"""Tables as pandas DataFrames: made of rows, turned into rows, written as csv."""

import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from factshock.runtime import files

Frame: TypeAlias = pd.DataFrame


def frame(
  rows: Sequence[Mapping[str, Any]],
  columns: Sequence[str] = (),
  index: str | None = None,
) -> Frame:
  """Returns a frame of rows.

  Args:
    rows: values by column; a row may lack some.
    columns: those of a frame without rows.
    index: the column that names the rows, if any does.
  """
  made = pd.DataFrame(list(rows)) if rows else pd.DataFrame(columns=list(columns))
  return made.set_index(index) if index else made


def rows(table: Frame) -> list[dict[str, Any]]:
  """Returns the rows of a frame as plain values, each without the columns it has no value in.

  An index that has a name is a column like others.
  """
  if any(name is not None for name in table.index.names):
    table = table.reset_index()
  plain = []
  for record in table.to_dict("records"):
    row = {}
    for name, value in record.items():
      if not _is_missing(value):
        row[str(name)] = _plain(value)
    plain.append(row)
  return plain


def write_csv(path: str | os.PathLike[str], table: Frame) -> None:
  """Writes a frame, with its index where that has a name; the file is whole or absent."""
  with files.atomic_write(path) as file:
    table.to_csv(file, index=table.index.name is not None, lineterminator="\n")


def _is_missing(value: Any) -> bool:
  """Returns whether a cell is empty: None, NaN or pandas' NA."""
  return value is None or value is pd.NA or value is pd.NaT or value != value


def _plain(value: Any) -> Any:
  """Returns a value as JSON knows it: numpy's numbers and arrays as Python's."""
  if isinstance(value, np.ndarray):
    return _plain(value.tolist())
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if isinstance(value, (bool, np.bool_)):
    return bool(value)
  if isinstance(value, numbers.Integral):
    return int(value)
  return float(value) if isinstance(value, numbers.Real) else value

"""Tables as pandas DataFrames: made of rows, turned into rows, written as csv."""

import csv
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
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


def rows(
  table: Frame | Iterable[Mapping[str, Any]],
  kept: Sequence[str] = (),
) -> list[dict[str, Any]]:
  """Returns rows of plain values, of a frame without the columns that a row has no value in.

  An index that has a name is a column like others.

  Args:
    table: a frame, or rows.
    kept: columns of a frame that stay where they have no value, as None.
  """
  if isinstance(table, pd.DataFrame):
    return [_without_missing(row, kept) for row in _records(table)]
  return [{str(name): _plain(value) for name, value in row.items()} for row in table]


def _records(table: Frame) -> list[dict[Any, Any]]:
  if any(name is not None for name in table.index.names):
    table = table.reset_index()
  return table.to_dict("records")


def _without_missing(record: Mapping[Any, Any], kept: Sequence[str]) -> dict[str, Any]:
  row: dict[str, Any] = {}
  for name, value in record.items():
    if not _is_missing(value):
      row[str(name)] = _plain(value)
    elif name in kept:
      row[str(name)] = None
  return row


def read_tsv(path: str | os.PathLike[str]) -> Frame:
  """Returns the frame of a .tsv with a header, compressed or not, whose texts stay as they are."""
  with files.open_text(path) as file:
    return pd.read_csv(file, sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False)


def write_csv(path: str | os.PathLike[str], table: Frame) -> None:
  """Writes a frame, with its index where that has a name; the file is whole or absent."""
  with files.atomic_write(path) as file:
    table.to_csv(file, index=table.index.name is not None, lineterminator="\n")


def _is_missing(value: Any) -> bool:
  """Returns whether a cell is empty: None, NaN or pandas' NA."""
  if isinstance(value, float):
    return value != value
  return value is None or value is pd.NA or value is pd.NaT


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

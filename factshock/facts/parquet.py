"""Tables in parquet files: pyarrow behind two typed functions.

pyarrow ships no types and takes a fifth of a second to import, so it is imported where it is used.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from factshock.runtime import files
from factshock.runtime.errors import UserError
from factshock.types import FilePath


def read_rows(
  path: FilePath,
  required: Sequence[str],
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields each row's number from 1 on and the row, read batch by batch.

  Args:
    path: the file.
    required: columns that it must have.

  Raises:
    UserError: no parquet file, or a column is missing.
  """
  pyarrow = importlib.import_module("pyarrow")
  parquet = importlib.import_module("pyarrow.parquet")
  index = 0
  try:
    with parquet.ParquetFile(path) as file:
      names: list[str] = file.schema_arrow.names
      if not set(required) <= set(names):
        raise UserError(f"{path}: expected the columns {', '.join(required)}, got {names}")
      for batch in file.iter_batches():
        for row in batch.to_pylist():
          index += 1
          yield index, row
  except (OSError, pyarrow.ArrowException) as error:
    raise UserError(
      f"{path}: expected a parquet file, got an error on reading it: {error}"
    ) from error


def write_columns(
  path: FilePath,
  columns: Mapping[str, Sequence[Any]],
) -> None:
  """Writes columns of equal length; the file appears whole or not at all.

  Raises:
    UserError: a column holds values of several types.
  """
  pyarrow = importlib.import_module("pyarrow")
  parquet = importlib.import_module("pyarrow.parquet")
  try:
    table = pyarrow.table(columns)
  except pyarrow.ArrowException as error:
    raise UserError(
      f"{path}: expected values of one type in each column, got: {error}; write .jsonl instead"
    ) from error
  with files.atomic_write(path, binary=True) as file:
    parquet.write_table(table, file)

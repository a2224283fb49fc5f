"""Data sets of the HuggingFace hub and of TFDS, opened.

Where one cannot be opened there is one clear error.
"""

import functools
import importlib
from collections.abc import Iterator
from typing import Any, Protocol, cast

from factshock.runtime.errors import UserError


class DataSet(Protocol):
  """Rows by number, as both libraries give them."""

  def __len__(self) -> int: ...
  def __getitem__(self, index: int, /) -> dict[str, Any]: ...
  def __iter__(self) -> Iterator[dict[str, Any]]: ...


@functools.lru_cache(maxsize=8)  # parts of one data set are read one by one
def open_hub(
  name: str,
  split: str | None = None,
  config: str | None = None,
  data_files: str | None = None,
) -> DataSet:
  """Opens a data set of the hub (a datasets.Dataset), from its cache where it was read before.

  Args:
    name: "org/name".
    split: name of the split; needed where there are several.
    config: name of the data set's configuration.
    data_files: pattern of the files to read, all by default.

  Raises:
    UserError: it cannot be read, or has several splits and none was named.
  """
  # datasets takes a second to import and ships few types.
  datasets = importlib.import_module("datasets")
  files = {"data_files": data_files} if data_files else {}
  try:
    loaded: Any = datasets.load_dataset(name, config, split=split, **files)
  except Exception as error:  # of a dozen kinds, by what is missing
    raise UserError(
      f"{name}: no such file, and no such data set could be read from the hub "
      f"({type(error).__name__}: {_on_one_line(error)}); where there is no network, download it "
      "elsewhere and give the path of a .jsonl, .csv or .parquet file in the place of the name"
    ) from error
  if not isinstance(loaded, dict):
    return loaded
  splits = cast(dict[str, DataSet], loaded)
  if len(splits) > 1:
    raise UserError(
      f"{name}: expected one split, got {', '.join(splits)}; say {name}?split={next(iter(splits))}"
    )
  return next(iter(splits.values()))


@functools.lru_cache(maxsize=8)
def open_tfds(name: str, split: str) -> DataSet:
  """Opens a TFDS data set in array_record form (rows by number), without TensorFlow.

  Raises:
    UserError: tensorflow-datasets is not installed, or the data set cannot be read.
  """
  try:
    tfds = importlib.import_module("tensorflow_datasets")
  except ImportError as error:
    raise UserError(
      "tfds: needs the package tensorflow-datasets: pip install 'factshock[tfds]'"
    ) from error
  try:
    return tfds.data_source(name, split=split)
  except Exception as error:  # of a dozen kinds, by what is missing
    raise UserError(
      f"tfds:{name}: could not be read ({type(error).__name__}: {_on_one_line(error)}); it must be "
      "prepared in array_record form, in $TFDS_DATA_DIR"
    ) from error


def _on_one_line(error: Exception) -> str:
  return " ".join(str(error).split())[:200]

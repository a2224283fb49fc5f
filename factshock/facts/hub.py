"""Data sets of the HuggingFace hub and of TFDS, opened, with one clear error where they cannot be."""

import functools

from factshock.runtime.errors import UserError


@functools.lru_cache(maxsize=8)  # parts of one data set are read one by one
def open_hub(name, split=None, config=None, data_files=None):
  """A data set of the hub (a datasets.Dataset), from its cache where it was read before.

  Args:
    name: "org/name". data_files: a pattern of the files to read, all by default.
  Raises:
    UserError: it cannot be read, or has several splits and none was named.
  """
  import datasets

  files = {"data_files": data_files} if data_files else {}
  try:
    found = datasets.load_dataset(name, config, split=split, **files)
  except Exception as error:  # of a dozen kinds, by what is missing
    raise UserError(
      f"{name}: no such file, and no such data set could be read from the hub ({type(error).__name__}: "
      f"{_said(error)}); where there is no network, download it elsewhere and give the path of a .jsonl, .csv "
      "or .parquet file in the place of the name"
    ) from error
  if isinstance(found, dict):
    if len(found) > 1:
      raise UserError(
        f"{name}: expected one split, got {', '.join(found)}; say {name}?split={next(iter(found))}"
      )
    found = next(iter(found.values()))
  return found


@functools.lru_cache(maxsize=8)
def open_tfds(name, split):
  """A TFDS data set in array_record form (rows by number), without TensorFlow.

  Raises:
    UserError: tensorflow-datasets is not installed, or the data set cannot be read.
  """
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise UserError("tfds: needs tensorflow-datasets; install factshock[tfds]") from error
  try:
    return tfds.data_source(name, split=split)
  except Exception as error:
    raise UserError(
      f"tfds:{name}: could not be read ({type(error).__name__}: {_said(error)}); it must be "
      "prepared in array_record form, in $TFDS_DATA_DIR"
    ) from error


def _said(error):
  return " ".join(str(error).split())[:200]

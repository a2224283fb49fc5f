"""Ends of a HuggingFace model's answers: the tokens that its files name beside the tokenizer's EOS.

A chat model often ends its turn with another token than its text, and says so in config.json or
generation_config.json alone, as a number or a list of numbers.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from factshock.models.formats.huggingface.writing import GENERATION
from factshock.runtime import json_files
from factshock.runtime.errors import UserError
from factshock.types import FilePath

FILES = ("config.json", GENERATION)
KEY = "eos_token_id"


def read(paths: Iterable[FilePath], size: int) -> tuple[int, ...]:
  """Returns the ids that files name as ends, each once.

  Args:
    paths: the files, as FILES names them; those that are not there are passed over.
    size: number of tokens.

  Raises:
    UserError: a file without a JSON object, or an end that is no id of a token.
  """
  ends: dict[int, None] = {}
  for path in paths:
    if os.path.exists(path):
      ends.update(dict.fromkeys(_ends_of(path, size)))
  return tuple(ends)


def _ends_of(path: FilePath, size: int) -> list[int]:
  try:
    return of_values(json_files.read(path), path, size)
  except json_files.Broken as error:
    raise UserError(f"{error}; copy it again") from error


def of_values(
  values: Mapping[str, Any],
  path: FilePath,
  size: int,
) -> list[int]:
  """Returns the ids that a file's values name as ends.

  Args:
    values: by key, as of config.json.
    path: the file, for errors.
    size: number of tokens.

  Raises:
    UserError: an end that is no id of a token.
  """
  text_values = values.get("text_config")
  ends = _listed(values.get(KEY))
  if isinstance(text_values, Mapping):  # of a model that reads more than text
    ends += _listed(text_values.get(KEY))
  for end in ends:
    if isinstance(end, bool) or not isinstance(end, int) or not 0 <= end < size:
      raise UserError(
        f"{path}: {KEY}: expected ids of tokens below {size}, got {end!r:.60}; name the tokens "
        "that end an answer"
      )
  return ends


def _listed(value: Any) -> list[Any]:
  if value is None:
    return []
  return list(value) if isinstance(value, list) else [value]


def write(folder: FilePath, ends: Sequence[int]) -> None:
  """Makes generation_config.json of a folder name all of some ends, its other values as they are.

  A file that names them is not touched.
  """
  path = os.path.join(folder, GENERATION)
  values: dict[str, Any] = json_files.read(path) if os.path.exists(path) else {}
  if set(ends) <= set(_listed(values.get(KEY))):
    return
  with open(path, "w", encoding="utf-8") as file:
    json.dump({**values, KEY: list(ends)}, file, indent=2)

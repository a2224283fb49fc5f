"""Digests of the files of a HuggingFace tokenizer that we keep, so that damage is noticed."""

import hashlib
import os

from factshock.models.formats.huggingface import writing
from factshock.runtime import digests, json_files
from factshock.runtime.errors import UserError
from factshock.types import FilePath

NAME = "tokenizer_digests.json"
_KEY = "digests"


def write_digests(folder: FilePath) -> None:
  """Writes the digests of a tokenizer's files into their folder."""
  json_files.write_sealed(os.path.join(folder, NAME), {_KEY: _digests(folder)})


def check(folder: FilePath) -> None:
  """Checks that the files of a folder are plain, and those that `write_digests` saw, if it did.

  Raises:
    UserError: one is no plain file, is lost, or is not what it was.
  """
  for name in _present(folder):
    json_files.check_regular(os.path.join(folder, name))
  path = os.path.join(folder, NAME)
  if not os.path.exists(path):
    return
  expected = json_files.read_sealed(path, [_KEY]).get(_KEY)
  if not isinstance(expected, dict):
    raise UserError(f"{path}: expected the digests of a tokenizer's files, got none")
  got = _digests(folder)
  for name, digest in expected.items():
    if got.get(name) != digest:
      raise UserError(
        f"{os.path.join(folder, name)}: the tokenizer's file is damaged or was changed (its digest "
        f"is not the one of {NAME}); restore it from a copy"
      )


def folder_digest(folder: FilePath) -> str:
  """Returns one digest of all files of a tokenizer's folder, whatever its kind."""
  others = (NAME, writing.GENERATION)
  with os.scandir(folder) as entries:
    names = sorted(entry.name for entry in entries if entry.is_file() and entry.name not in others)
  lines = [f"{name} {digests.of_file(os.path.join(folder, name))}" for name in names]
  return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _digests(folder: FilePath) -> dict[str, str]:
  """Returns the digest of each of a tokenizer's files by name."""
  return {name: digests.of_file(os.path.join(folder, name)) for name in _present(folder)}


def _present(folder: FilePath) -> list[str]:
  return [name for name in writing.BESIDE if os.path.exists(os.path.join(folder, name))]

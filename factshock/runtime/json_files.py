"""JSON objects in files: read whatever they hold, and sealed by a digest of their own text."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from typing import Any

from factshock.runtime import files, json_text
from factshock.runtime.errors import UserError
from factshock.runtime.files import Path

MOST_BYTES = 1 << 28  # of a file; those of the largest models' checkpoints take a few megabytes

_SEAL = "file_digest"
_SEALED = re.compile(rb'(.*),\n "file_digest": "([0-9a-f]{64})"\n}\n?', re.DOTALL)


class Broken(UserError):
  """Says that a file is no file, not what was written, or something else than a JSON object."""


def read(path: Path) -> dict[str, Any]:
  """Returns the JSON object that a file holds.

  Raises:
    UserError: there is no such file, it cannot be read, or (Broken) it holds something else.
  """
  return _parse(path, _bytes_of(path))


def read_sealed(path: Path, known: Iterable[str]) -> dict[str, Any]:
  """Returns the JSON object that `write_sealed` wrote, without the digest of its text.

  One without a digest, as was written once, is returned too.

  Args:
    path: the file.
    known: the keys it may have.

  Raises:
    UserError: there is no such file, it cannot be read, or (Broken) it is not what was written.
  """
  content = _bytes_of(path)
  value = _parse(path, content)
  if _SEAL in value:
    del value[_SEAL]
    match = _SEALED.fullmatch(content)
    if match is None or hashlib.sha256(match[1]).hexdigest() != match[2].decode():
      raise Broken(f"{path}: the file is damaged (its digest is not that of its text)")
  unknown = sorted(value.keys() - set(known))
  if unknown:
    raise Broken(f"{path}: the file is damaged: unknown key {_short(unknown[0])}")
  return value


def write_sealed(path: Path, value: Mapping[str, Any], *, ascii_only: bool = True) -> None:
  """Writes a JSON object, closed by the digest of its text, so that any change is noticed.

  Args:
    path: the file, which appears when all is written.
    value: the object; of at least one key.
    ascii_only: whether other characters are escaped.
  """
  body = json.dumps(value, indent=1, ensure_ascii=ascii_only).removesuffix("\n}")
  digest = hashlib.sha256(body.encode()).hexdigest()
  with files.atomic_write(path) as file:
    file.write(f'{body},\n "{_SEAL}": "{digest}"\n}}\n')


def check_regular(path: Path) -> int:
  """Returns the size of a plain file.

  Raises:
    UserError: it is missing, or (Broken) no plain file: a pipe, which would be waited for, or a
      folder.
  """
  try:
    status = os.stat(path)
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or error
    raise UserError(f"{path}: cannot be read: {reason}") from error
  if not stat.S_ISREG(status.st_mode):
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
    raise Broken(f"{path}: expected a file, got {kind}; give a plain file")
  return status.st_size


def _bytes_of(path: Path) -> bytes:
  size = check_regular(path)
  if size > MOST_BYTES:
    raise Broken(f"{path}: expected a JSON object of at most {MOST_BYTES:,} bytes, got {size:,}")
  try:
    with open(path, "rb") as file:
      return file.read()
  except OSError as error:
    raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _parse(path: Path, content: bytes) -> dict[str, Any]:
  try:
    value = json_text.loads(content.decode("utf-8-sig"))
  except ValueError as error:  # of UTF-8, of JSON, of integers of many digits
    raise Broken(f"{path}: expected JSON, got a broken file ({error})") from error
  if not isinstance(value, dict):
    raise Broken(f"{path}: expected a JSON object, got {type(value).__name__}")
  return value


def _short(text: str) -> str:
  """Returns a text for an error, cut where it is long."""
  return repr(text[:60])

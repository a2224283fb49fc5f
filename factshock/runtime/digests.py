"""Digests of files, which tell of damage, not of forgery."""

import errno
import os
import stat

import xxhash

from factshock.runtime.files import Path

_BLOCK = 1 << 22  # bytes


def of_file(path: Path) -> str:
  """Returns the digest of what a file holds (XXH3, 128 bits).

  Raises:
    OSError: it cannot be read, or is no plain file (a pipe, which would be waited for).
  """
  if not stat.S_ISREG(os.stat(path).st_mode):
    raise OSError(errno.EINVAL, "expected a plain file", str(path))
  hasher = xxhash.xxh3_128()
  with open(path, "rb", buffering=0) as file:
    while block := file.read(_BLOCK):
      hasher.update(block)
  return f"xxh3-128:{hasher.hexdigest()}"

"""Digests of files, which tell of damage, not of forgery."""

import xxhash

from factshock.runtime.files import Path

_BLOCK = 1 << 22  # bytes


def of_file(path: Path) -> str:
  """Returns the digest of what a file holds (XXH3, 128 bits).

  Raises:
    OSError: it cannot be read.
  """
  hasher = xxhash.xxh3_128()
  with open(path, "rb", buffering=0) as file:
    while block := file.read(_BLOCK):
      hasher.update(block)
  return f"xxh3-128:{hasher.hexdigest()}"

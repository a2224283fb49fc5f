"""Changes by a seed: of bytes, of text, of JSON values, and of how a file is stored."""

import bz2
import copy
import gzip
import json
import lzma
import random
from collections.abc import Callable
from typing import Any

import pyarrow

# What other programs, people and attackers put where something else is expected.
PIECES = (
  b"\x00",
  b"\xff",
  b"\xc3\x28",
  b"\xef\xbb\xbf",
  b"\r",
  b"\r\n",
  b"\n",
  b"\t",
  b",",
  b'"',
  b"'",
  b"\\",
  b"\\ud800",
  b"\xc2\x85",
  b"\xe2\x80\xa8",
  b"\xc2\xa0",
  b"NaN",
  b"-Infinity",
  b"1e999",
  b"1_000",
  b"0x10",
  b"9" * 5000,
  b"[" * 1500,
  b'{"a":' * 1500,
  b"\xe0\xa4\xb9" * 50,
  b"x" * 20_000,
  b"=cmd|' /C calc'!A0",
  b"%s{0}$x",
)
VALUES: tuple[Any, ...] = (
  None,
  True,
  False,
  0,
  -1,
  1,
  2**31,
  2**63,
  10**30,
  10**400,
  0.5,
  -0.0,
  1e308,
  float("nan"),
  float("inf"),
  float("-inf"),
  "",
  " ",
  "0",
  "NaN",
  "1e5",
  "\ud800",
  "\x00",
  "x" * 5000,
  "../../etc/passwd",
  [],
  [None],
  [[]],
  ["a", 1],
  {},
  {"a": 1},
)


def changed_bytes(rng: random.Random, data: bytes, changes: int = 3) -> bytes:
  """Returns bytes with one change or more of any sort."""
  for _ in range(rng.randint(1, changes)):
    data = rng.choice(_BYTE_CHANGES)(rng, data)
  return data


def _flipped(rng: random.Random, data: bytes) -> bytes:
  if not data:
    return data
  at = rng.randrange(len(data))
  return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _cut_short(rng: random.Random, data: bytes) -> bytes:
  return data[: rng.randint(0, len(data))]


def _without_slice(rng: random.Random, data: bytes) -> bytes:
  begin, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
  return data[:begin] + data[min(end, begin + rng.choice((1, 4, 40))) :]


def _with_slice_again(rng: random.Random, data: bytes) -> bytes:
  begin, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
  return data[:end] + data[begin:]


def _with_piece(rng: random.Random, data: bytes) -> bytes:
  at = rng.randint(0, len(data))
  return data[:at] + rng.choice(PIECES) + data[at:]


def _with_lines_moved(rng: random.Random, data: bytes) -> bytes:
  lines = data.splitlines(keepends=True)
  rng.shuffle(lines)
  return b"".join(lines)


_BYTE_CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
  _flipped,
  _cut_short,
  _without_slice,
  _with_slice_again,
  _with_piece,
  _with_piece,
  _with_lines_moved,
)


def changed_value(rng: random.Random, value: Any, changes: int = 2) -> Any:
  """Returns a JSON value with one node or more replaced, dropped, renamed or repeated."""
  value = copy.deepcopy(value)
  for _ in range(rng.randint(1, changes)):
    parent, key = _node(rng, value)
    if parent is None:
      return rng.choice(VALUES)
    change = rng.random()
    if change < 0.15:
      del parent[key]
    elif change < 0.3 and isinstance(parent, dict):
      parent[f"{key}{rng.choice(('', ' ', 's', '_', 'x'))}"] = parent.pop(key)
    elif change < 0.4 and isinstance(parent, list):
      parent.append(parent[key])
    elif change < 0.5 and type(parent[key]) is str:
      parent[key] = _changed_text(rng, parent[key])
    elif change < 0.6 and type(parent[key]) in (int, float):
      parent[key] = parent[key] * rng.choice((-1, 0, 10, 10**12))
    else:
      parent[key] = copy.deepcopy(rng.choice(VALUES))
  return value


def _node(rng: random.Random, value: Any) -> tuple[Any, Any]:
  """Returns (parent, key) of some node of a JSON value; None where it has none."""
  nodes: list[tuple[Any, Any]] = []
  todo = [value]
  while todo:
    parent = todo.pop()
    keys: list[Any] = []
    if isinstance(parent, dict):
      keys = list(parent)
    elif isinstance(parent, list):
      keys = list(range(len(parent)))
    nodes += [(parent, key) for key in keys]
    todo += [parent[key] for key in keys]
  return rng.choice(nodes) if nodes else (None, None)


def _changed_text(rng: random.Random, text: str) -> str:
  data = changed_bytes(rng, text.encode("utf-8", "surrogatepass"), 1)
  return data.decode("utf-8", "replace")


def dumps(value: Any) -> str:
  """Returns JSON as lax writers write it: NaN as NaN, half characters escaped."""
  return json.dumps(value)


_STORED: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
  ("", lambda data: data),
  (".gz", lambda data: gzip.compress(data, 1)),
  (".bz2", bz2.compress),
  (".xz", lzma.compress),
  (".zst", lambda data: bytes(memoryview(pyarrow.compress(data, "zstd")))),
)


def stored(rng: random.Random, name: str, data: bytes) -> tuple[str, bytes]:
  """Returns a file's name and bytes: plain mostly, else compressed, at times broken."""
  if rng.random() < 0.7:
    return name, data
  ending, compress = rng.choice(_STORED)
  compressed = compress(data)
  if rng.random() < 0.4:
    compressed = changed_bytes(rng, compressed, 1)
  return name + ending, compressed

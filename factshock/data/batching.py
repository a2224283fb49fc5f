"""Examples of different lengths in one array: padded to few shapes, or packed several to a row."""

import numpy as np


def bucket(length):
  """The smallest of 8, 16, 24, 32, 48, 64, 96, 128, ... that holds `length`: few shapes, little padding."""
  size = 8
  while size < length:
    # From 16 on the steps alternate between x 3/2 and x 4/3, so that every other size is a power of two.
    size = 16 if size == 8 else size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
  return size


def pack_batch(batch, row_multiple=1, least_rows=0):
  """The examples of a padded batch in fewer rows of the same lengths, so that less padding is computed.

  Args:
    batch: `inputs` [B, S], `targets` [B, T], `weights` [B, T]; an example starts its row, padding (0) follows.
    row_multiple, least_rows: rows of padding are added until there are `least_rows` and a multiple of
      `row_multiple`: every number of rows is compiled anew.

  Returns:
    The same dict with R rows, and `input_segments` [R, S], `target_segments` [R, T] int32: the example's
    number in its row from 1 on, 0 on padding. No token is cut or dropped.
  """
  size_Bx2 = np.stack([np.count_nonzero(batch[name], axis=1) for name in ("inputs", "targets")], axis=1)
  capacity = batch["inputs"].shape[1], batch["targets"].shape[1]
  row_B, start_Bx2, segment_B = _place(size_Bx2, capacity)
  rows = max(int(row_B.max(initial=-1)) + 1, least_rows)
  rows += -rows % row_multiple
  packed = {}
  for side, (name, length) in enumerate(zip(("input", "target"), capacity)):
    example, column = np.nonzero(np.arange(length)[None] < size_Bx2[:, side, None])
    place = row_B[example], start_Bx2[example, side] + column
    for array in (f"{name}s", "weights")[:side + 1]:
      packed[array] = np.zeros((rows, length), batch[array].dtype)
      packed[array][place] = batch[array][example, column]
    packed[f"{name}_segments"] = np.zeros((rows, length), np.int32)
    packed[f"{name}_segments"][place] = segment_B[example]
  return packed


def _place(size_Bx2, capacity):
  """(row, starts [2], segment) of each example: the first row with room for both sides, the longest first."""
  row_B, segment_B = np.zeros((2, len(size_Bx2)), np.int64)
  start_Bx2 = np.zeros_like(size_Bx2)
  order = np.argsort(-(size_Bx2 / np.asarray(capacity)).sum(axis=1), kind="stable")
  used = []  # tokens of both sides and examples of each row; plain ints, as numpy's cost more than the search
  for example, (inputs, targets) in zip(order.tolist(), size_Bx2[order].tolist()):
    for row, (first, second, count) in enumerate(used):
      if first + inputs <= capacity[0] and second + targets <= capacity[1]:
        break
    else:
      row, first, second, count = len(used), 0, 0, 0
      used.append(None)
    used[row] = first + inputs, second + targets, count + 1
    row_B[example], start_Bx2[example], segment_B[example] = row, (first, second), count + 1
  return row_B, start_Bx2, segment_B

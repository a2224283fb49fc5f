"""Examples of different lengths in one array: padded to few shapes, or packed several to a row."""

import numpy as np


def bucket(length):
  """The smallest of 8, 16, 24, 32, 48, 64, 96, 128, ... that holds `length`: few shapes, little padding."""
  size = 8
  while size < length:
    # From 16 on the steps alternate between x 3/2 and x 4/3, so that every other size is a power of two.
    size = 16 if size == 8 else size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
  return size


# The sides of an example: the field that tells its length, that one's padding, all fields of the side, and
# the name of the segments.
_SOFT = ("answer_tokens", "answer_shares", "answer_shifts")  # of data/soft_labels.py, where they are given
_ENCODER_DECODER = (("inputs", 0, ("inputs",), "input_segments"),
                    ("targets", 0, ("targets", "weights", *_SOFT), "target_segments"))
_DECODER = (("tokens", -1, ("tokens", "weights", *_SOFT), "segments"),)


def pack_batch(batch, row_multiple=1, least_rows=0):
  """The examples of a padded batch in fewer rows of the same lengths, so that less padding is computed.

  Args:
    batch: `inputs` [B, S], `targets` [B, T], `weights` [B, T], padded with 0; or of a decoder-only model `tokens` and
      `weights` [B, S], padded with -1; with the fields of soft labels or without. An example starts its row.
    row_multiple, least_rows: rows of padding are added until there are `least_rows` and a multiple of
      `row_multiple`: every number of rows is compiled anew.

  Returns:
    The same dict with R rows, and int32 `input_segments` [R, S] and `target_segments` [R, T], or `segments` [R, S]:
    the example's number in its row from 1 on, 0 on padding. No token is cut or dropped.
  """
  sides = _DECODER if "tokens" in batch else _ENCODER_DECODER
  size_BxE = np.stack([np.count_nonzero(batch[name] != pad, axis=1) for name, pad, _, _ in sides], axis=1)
  capacity = tuple(batch[name].shape[1] for name, _, _, _ in sides)
  row_B, start_BxE, segment_B = fit(size_BxE, capacity)
  rows = max(int(row_B.max(initial=-1)) + 1, least_rows)
  rows += -rows % row_multiple
  packed = {}
  for side, (length, (first, pad, names, segments)) in enumerate(zip(capacity, sides)):
    example, column = np.nonzero(np.arange(length)[None] < size_BxE[:, side, None])
    place = row_B[example], start_BxE[example, side] + column
    for name in (name for name in names if name in batch):
      packed[name] = np.full((rows, length, *batch[name].shape[2:]), pad if name == first else 0, batch[name].dtype)
      packed[name][place] = batch[name][example, column]
    packed[segments] = np.zeros((rows, length), np.int32)
    packed[segments][place] = segment_B[example]
  return packed


def fit(size_BxE, capacity):
  """(row, starts [E], segment) of each example: the first row with room for all E sides, the longest first."""
  row_B, segment_B = np.zeros((2, len(size_BxE)), np.int64)
  start_BxE = np.zeros_like(size_BxE)
  order = np.argsort(-(size_BxE / np.asarray(capacity)).sum(axis=1), kind="stable")
  used = []  # tokens of each side and examples of each row; plain ints, as numpy's cost more than the search
  for example, size in zip(order.tolist(), size_BxE[order].tolist()):
    for row, (filled, count) in enumerate(used):
      if filled[0] + size[0] <= capacity[0] and filled[-1] + size[-1] <= capacity[-1]:  # one side or two
        break
    else:
      row, filled, count = len(used), [0] * len(size), 0
      used.append(None)
    used[row] = [a + b for a, b in zip(filled, size)], count + 1
    row_B[example], start_BxE[example], segment_B[example] = row, filled, count + 1
  return row_B, start_BxE, segment_B

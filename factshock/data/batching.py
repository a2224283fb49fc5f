"""Examples of different lengths in one array: padded to few shapes, or packed several to a row."""

from typing import NamedTuple

import numpy as np

_LONGEST_ROW = 256  # tokens of a packed row, unless an example is longer
_SHAPES = 3  # numbers of rows that a run's batches may come in


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


class Rows(NamedTuple):
  """The shape of packed rows: tokens of each side, rows of a batch at least, and by how many more they grow where these are too few."""
  lengths: tuple
  least: int
  step: int

  def count(self, needed):
    """How many rows a batch gets that needs so many."""
    return self.least + max(0, -(-(needed - self.least) // self.step)) * self.step


def plan_rows(batches, multiple=1):
  """The Rows that leave least padding in padded batches, with few numbers of rows, as each is compiled anew.

  Args:
    batches: some batches of a run, as for `pack_batch`. multiple: of the rows.
  Rows are up to _LONGEST_ROW tokens long, or as long as an example's: examples of uneven lengths fill long rows better, but
  attention costs more there.
  """
  sides = _sides(batches[0])
  sizes = [_sizes(batch, sides) for batch in batches]
  widths = [batches[0][name].shape[1] for name, _, _, _ in sides]  # what no example of the run is longer than, seen here or not
  means = np.mean([size_BxE.mean(axis=0) for size_BxE in sizes], axis=0)
  best = None
  for first in _lengths(int(widths[0])):
    # the other side in proportion, with a little room: either may be the one that is full first
    others = [()] if len(widths) == 1 else [(max(_fours(widths[1]), _fours(share * first * means[1] / means[0])),) for share in (1.0, 1.07, 1.15)]
    for lengths in ((first, *other) for other in others):
      needed = [int(fit(size_BxE, lengths)[0].max(initial=0)) + 1 for size_BxE in sizes]
      for least in sorted({-(-rows // multiple) * multiple for rows in needed}):
        rows = Rows(lengths, least, multiple * max(1, least // 8 // multiple))
        counts = [rows.count(one) for one in needed]
        places = sum(counts) * sum(lengths)
        if len(set(counts)) <= _SHAPES and (best is None or places < .99 * best[0]):  # shorter rows come first
          best = places, rows
  return best[1]


def _lengths(longest):
  length = _fours(longest)
  found = [length]
  while 2 * length <= max(_LONGEST_ROW, longest) and len(found) < 24:
    length = _fours(length * 1.1 + 1)
    found.append(length)
  return [one for one in found if one <= max(_LONGEST_ROW, found[0])]


def _fours(length):
  return -(-int(np.ceil(length)) // 4) * 4


def pack_batch(batch, row_multiple=1, least_rows=0, rows=None):
  """The examples of a padded batch in fewer rows of the same lengths, so that less padding is computed.

  Args:
    batch: `inputs` [B, S], `targets` [B, T], `weights` [B, T], padded with 0; or of a decoder-only model `tokens` and
      `weights` [B, S], padded with -1; with the fields of soft labels or without. An example starts its row.
    row_multiple, least_rows: rows of padding are added until there are `least_rows` and a multiple of
      `row_multiple`: every number of rows is compiled anew.
    rows: a Rows, which says lengths and number of rows in their place.

  Returns:
    The same dict with R rows, and int32 `input_segments` [R, S] and `target_segments` [R, T], or `segments` [R, S]:
    the example's number in its row from 1 on, 0 on padding. No token is cut or dropped.
  """
  sides = _sides(batch)
  size_BxE = _sizes(batch, sides)
  capacity = tuple(batch[name].shape[1] for name, _, _, _ in sides) if rows is None else rows.lengths
  row_B, start_BxE, segment_B = fit(size_BxE, capacity)
  needed = int(row_B.max(initial=-1)) + 1
  rows = -(-max(needed, least_rows) // row_multiple) * row_multiple if rows is None else rows.count(needed)
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


def _sides(batch):
  return _DECODER if "tokens" in batch else _ENCODER_DECODER


def _sizes(batch, sides):
  """How many tokens each example has of each side: [B, E]."""
  return np.stack([np.count_nonzero(batch[name] != pad, axis=1) for name, pad, _, _ in sides], axis=1)


def fit(size_BxE, capacity):
  """(row, starts [E], segment) of each example: the first row with room for all E sides, the longest first."""
  row_B, segment_B = np.zeros((2, len(size_BxE)), np.int64)
  start_BxE = np.zeros_like(size_BxE)
  order = np.argsort(-(size_BxE / np.asarray(capacity)).sum(axis=1), kind="stable")
  first, last = capacity[0], capacity[-1]  # one side or two
  least = size_BxE.min(axis=0, initial=first).tolist()
  used, open_rows = [], []  # tokens of each side and examples of each row; rows with room for the smallest sizes there are
  found = []
  for size in size_BxE[order].tolist():  # plain ints, as numpy's cost more than the search
    for row in open_rows:
      filled, count = used[row]
      if filled[0] + size[0] <= first and filled[-1] + size[-1] <= last:
        break
    else:
      row, filled, count = len(used), [0] * len(size), 0
      used.append(None)
      open_rows.append(row)
    found.append((row, count + 1, filled))
    filled = [a + b for a, b in zip(filled, size)]
    used[row] = filled, count + 1
    if filled[0] + least[0] > first or filled[-1] + least[-1] > last:
      open_rows.remove(row)
  if found:
    rows, segments, starts = zip(*found)
    row_B[order], segment_B[order], start_BxE[order] = rows, segments, starts
  return row_B, start_BxE, segment_B

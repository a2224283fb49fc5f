"""Examples of different lengths in one array: padded to few shapes, or packed several to a row."""

from typing import NamedTuple

import numpy as np

_LONGEST_ROW = 256  # tokens of a packed row, unless an example is longer
_SHAPES = 6  # that a run's packed batches may have, as each is compiled,
_GAIN = 0.005  # and the share of positions that one more has to save
_ROOM = np.arange(0.94, 1.3, 0.02)  # tokens of a side over its mean that shapes are tried with


def bucket(length):
  """The smallest of 8, 16, 24, 32, 48, 64, 96, 128, ... that holds `length`: few shapes, little padding."""
  size = 8
  while size < length:
    # From 16 on the steps alternate between x 3/2 and x 4/3, so that every other size is a power of
    # two.
    size = 16 if size == 8 else size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
  return size


# The sides of an example: the field that tells its length, that one's padding, all fields of the
# side, and the name of the segments.
_SOFT = (
  "answer_tokens",
  "answer_shares",
  "answer_shifts",
)  # of data/soft_labels.py, where they are given
_ENCODER_DECODER = (
  ("inputs", 0, ("inputs",), "input_segments"),
  ("targets", 0, ("targets", "weights", *_SOFT), "target_segments"),
)
_DECODER = (("tokens", -1, ("tokens", "weights", *_SOFT), "segments"),)


class Shapes(NamedTuple):
  """Shapes of packed batches, the smallest first, each (rows, tokens of a row of each side); and by how many rows the last grows where
  all are too small."""

  each: tuple
  step: int

  def place(self, size_BxE):
    """(rows, tokens of each side, what `fit` says) in the smallest shape that holds the examples."""
    total_E = size_BxE.sum(axis=0)
    for rows, lengths in self.each:
      if (total_E <= rows * np.asarray(lengths)).all():
        found = fit(size_BxE, lengths)
        if found[0].max(initial=-1) < rows:
          return rows, lengths, found
    rows, lengths = self.each[-1]
    found = fit(size_BxE, lengths)
    return (
      rows + max(0, -(-(int(found[0].max(initial=-1)) + 1 - rows) // self.step)) * self.step,
      lengths,
      found,
    )


def plan_shapes(batches, multiple=1):
  """The Shapes that leave least padding in padded batches: the best one that holds all of them, and then what saves most.

  Args:
    batches: some batches of a run, as for `pack_batch`. multiple: of the rows.
  Rows are up to _LONGEST_ROW tokens long, or as long as an example's: examples of uneven lengths
  fill long rows better, but attention costs more there.
  """
  sides = _sides(batches[0])
  sizes = [_sizes(batch, sides) for batch in batches]
  widths = [
    batches[0][name].shape[1] for name, _, _, _ in sides
  ]  # what no example of the run is longer than, seen here or not
  tried = _tried(sizes, widths, multiple)
  places_C = np.array([rows * sum(lengths) for rows, lengths in tried], float)
  cost_CxB = np.array(
    [
      [places if _holds(shape, size_BxE) else np.inf for size_BxE in sizes]
      for shape, places in zip(tried, places_C)
    ]
  )
  chosen = [int(np.argmin(cost_CxB.max(axis=1)))]
  best_B = cost_CxB[chosen[0]]
  while len(chosen) < _SHAPES:
    sums_C = np.minimum(cost_CxB, best_B).sum(axis=1)
    if sums_C.min() > (1 - _GAIN) * best_B.sum():
      break
    chosen.append(int(sums_C.argmin()))
    best_B = np.minimum(best_B, cost_CxB[chosen[-1]])
  each = tuple(tried[i] for i in sorted(chosen, key=lambda i: places_C[i]))
  return Shapes(each, multiple * max(1, each[-1][0] // 8 // multiple))


def _tried(sizes, widths, multiple):
  """Shapes to choose from: of few numbers of rows, with more or less room; the first ones hold every batch in rows of the arrays' widths."""
  means = np.mean([size_BxE.sum(axis=0) for size_BxE in sizes], axis=0)
  widths = tuple(map(_fours, widths))
  fullest = max(int(fit(size_BxE, widths)[0].max(initial=0)) + 1 for size_BxE in sizes)
  longest = max(_LONGEST_ROW, *widths)
  most = max(1, -(-fullest // multiple))
  least = min(most, max(1, -(-int(np.ceil(means.max() / longest)) // multiple)))
  found = {(multiple * most, widths): None}
  for rows in (
    multiple * np.unique(np.geomspace(least, most, _SHAPES).round().astype(int))
  ).tolist():
    for room in _ROOM:
      lengths = tuple(max(width, _fours(room * mean / rows)) for width, mean in zip(widths, means))
      for more in (0, 4, 8) if len(lengths) > 1 else (0,):
        found |= {
          (rows, (lengths[0] + more, *lengths[1:])): None,
          (rows, (*lengths[:-1], lengths[-1] + more)): None,
        }
  return [shape for shape in found if max(shape[1]) <= longest + 8]


def _holds(shape, size_BxE):
  rows, lengths = shape
  return (size_BxE.sum(axis=0) <= rows * np.asarray(lengths)).all() and fit(size_BxE, lengths)[
    0
  ].max(initial=-1) < rows


def _fours(length):
  return -(-int(np.ceil(length)) // 4) * 4


def pack_batch(batch, shapes=None):
  """The examples of a padded batch in fewer rows, so that less padding is computed.

  Args:
    batch: `inputs` [B, S], `targets` [B, T], `weights` [B, T], padded with 0; or of a decoder-only
      model `tokens` and `weights` [B, S], padded with -1; with the fields of soft labels or
      without. An example starts its row.
    shapes: a Shapes; None: rows of the same lengths, as few as hold the examples.

  Returns:
    The same dict with R rows, and int32 `input_segments` [R, S] and `target_segments` [R, T], or
    `segments` [R, S]: the example's number in its row from 1 on, 0 on padding. No token is cut or
    dropped.
  """
  sides = _sides(batch)
  size_BxE = _sizes(batch, sides)
  shapes = shapes or Shapes(((0, tuple(batch[name].shape[1] for name, _, _, _ in sides)),), 1)
  rows, lengths, (row_B, start_BxE, segment_B) = shapes.place(size_BxE)
  packed = {}
  for side, (length, (first, pad, names, segments)) in enumerate(zip(lengths, sides)):
    example, column = np.nonzero(np.arange(length)[None] < size_BxE[:, side, None])
    place = row_B[example], start_BxE[example, side] + column
    for name in (name for name in names if name in batch):
      packed[name] = np.full(
        (rows, length, *batch[name].shape[2:]), pad if name == first else 0, batch[name].dtype
      )
      packed[name][place] = batch[name][example, column]
    packed[segments] = np.zeros((rows, length), np.int32)
    packed[segments][place] = segment_B[example]
  return packed


def token_fields(batch: dict[str, np.ndarray]) -> dict[str, int]:
  """Returns the padding of each field of a batch that holds tokens, the predicted ones last."""
  return {name: pad for name, pad, _, _ in _sides(batch)}


def _sides(batch):
  return _DECODER if "tokens" in batch else _ENCODER_DECODER


def _sizes(batch, sides):
  """How many tokens each example has of each side: [B, E]."""
  return np.stack(
    [np.count_nonzero(batch[name] != pad, axis=1) for name, pad, _, _ in sides], axis=1
  )


def fit(size_BxE, capacity):
  """(row, starts [E], segment) of each example: the first row with room for all E sides, the longest first."""
  row_B, segment_B = np.zeros((2, len(size_BxE)), np.int64)
  start_BxE = np.zeros_like(size_BxE)
  order = np.argsort(-(size_BxE / np.asarray(capacity)).sum(axis=1), kind="stable")
  first = capacity[0]  # one side or two
  last = capacity[-1]
  least = size_BxE.min(axis=0, initial=first).tolist()
  used = []  # tokens of each side and examples of each row; rows with room for the smallest sizes there are
  open_rows = []
  found = []
  for size in size_BxE[order].tolist():  # plain ints, as numpy's cost more than the search
    for row in open_rows:
      filled, count = used[row]
      if filled[0] + size[0] <= first and filled[-1] + size[-1] <= last:
        break
    else:
      row = len(used)
      filled = [0] * len(size)
      count = 0
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

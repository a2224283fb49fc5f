"""Examples of different lengths in one array: padded to few shapes, or packed into shared rows.

In names of arrays, `E` are the sides of an example: inputs and targets, or its tokens alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from factshock.types import Batch

_LONGEST_ROW = 256  # tokens of a packed row, unless an example is longer
_SHAPES = 6  # that a run's packed batches may have, as each is compiled,
_GAIN = 0.005  # and the share of positions that one more has to save
_SLACKS = np.arange(0.94, 1.3, 0.02)  # tokens of a side over its mean that shapes are tried with

# Rows, and tokens of a row of each side.
Shape: TypeAlias = tuple[int, tuple[int, ...]]


class Side(NamedTuple):
  """Fields of one side of an example.

  `tokens` tells its length by the `pad` that follows; `fields` are all of the side; `segments` is
  the name of the field that packing adds.
  """

  tokens: str
  pad: int
  fields: tuple[str, ...]
  segments: str


# Of data/soft_labels.py, where they are given.
_SOFT = ("answer_tokens", "answer_shares", "answer_shifts")
_INPUTS = Side(
  tokens="inputs",
  pad=0,
  fields=("inputs",),
  segments="input_segments",
)
_TARGETS = Side(
  tokens="targets",
  pad=0,
  fields=("targets", "weights", *_SOFT),
  segments="target_segments",
)
_TOKENS = Side(
  tokens="tokens",
  pad=-1,
  fields=("tokens", "weights", *_SOFT),
  segments="segments",
)


class Fit(NamedTuple):
  """Row, start on each side, and segment (from 1 on in its row) of each example."""

  row_B: np.ndarray
  start_BxE: np.ndarray
  segment_B: np.ndarray

  @property
  def rows(self) -> int:
    """Returns how many rows are used."""
    last = int(self.row_B.max(initial=-1))
    return last + 1


class Shapes(NamedTuple):
  """Shapes of packed batches, the smallest first.

  `step` is by how many rows the last one grows where all are too small.
  """

  shapes: tuple[Shape, ...]
  step: int

  def place(self, size_BxE: np.ndarray) -> tuple[Shape, Fit]:
    """Returns the smallest shape that holds the examples, and where each stands in it.

    Args:
      size_BxE: tokens of each example on each side.
    """
    total_E = size_BxE.sum(axis=0)
    for shape in self.shapes:
      rows, lengths = shape
      space_E = rows * np.asarray(lengths)
      if (total_E > space_E).any():
        continue
      placement = fit(size_BxE, lengths)
      if placement.rows <= rows:
        return shape, placement
    rows, lengths = self.shapes[-1]
    placement = fit(size_BxE, lengths)
    missing = placement.rows - rows
    steps = max(0, _ceil_div(missing, self.step))
    return (rows + steps * self.step, lengths), placement


def bucket(length: int) -> int:
  """Returns the smallest of 8, 16, 24, 32, 48, 64, 96, 128, ... that holds `length`.

  So there are few shapes and little padding.
  """
  size = 8
  while size < length:
    # From 16 on the steps alternate between x 3/2 and x 4/3, so that every other size is a power of
    # two.
    if size == 8:
      size = 16
    elif size & (size - 1) == 0:
      size = size * 3 // 2
    else:
      size = size * 4 // 3
  return size


def plan_shapes(batches: Sequence[Batch], multiple: int = 1) -> Shapes:
  """Returns the shapes that leave least padding in padded batches.

  They are the best one that holds all of them, and then what saves most. Rows are up to
  _LONGEST_ROW tokens long, or as long as an example's: examples of uneven lengths fill long rows
  better, but attention costs more there.

  Args:
    batches: some batches of a run, as for `pack_batch`.
    multiple: of the rows.
  """
  sides = _sides(batches[0])
  sizes = [_sizes(batch, sides) for batch in batches]
  # What no example of the run is longer than, seen here or not.
  widths = _widths(batches[0], sides)
  tried = _tried(sizes, widths, multiple)
  positions = [rows * sum(lengths) for rows, lengths in tried]
  positions_C = np.array(positions, float)
  holds_CxB = np.array([_holds_each(shape, sizes) for shape in tried])
  cost_CxB = np.where(holds_CxB, positions_C[:, None], np.inf)
  highest_C = cost_CxB.max(axis=1)
  first = int(highest_C.argmin())
  chosen = [first]
  best_B = cost_CxB[first]
  while len(chosen) < _SHAPES:
    # What the batches cost with each candidate beside those chosen.
    sums_C = np.minimum(cost_CxB, best_B).sum(axis=1)
    needed = (1 - _GAIN) * best_B.sum()
    if sums_C.min() > needed:
      break
    candidate = int(sums_C.argmin())
    chosen.append(candidate)
    best_B = np.minimum(best_B, cost_CxB[candidate])
  chosen.sort(key=lambda candidate: positions_C[candidate])
  shapes = [tried[candidate] for candidate in chosen]
  largest_rows, _ = shapes[-1]
  step = max(1, largest_rows // 8 // multiple)
  return Shapes(tuple(shapes), multiple * step)


def _tried(
  sizes: Sequence[np.ndarray],
  widths: Sequence[int],
  multiple: int,
) -> list[Shape]:
  """Returns shapes to choose from, of few numbers of rows, with more or less slack.

  The first ones hold every batch in rows of the arrays' widths.
  """
  totals = [size_BxE.sum(axis=0) for size_BxE in sizes]
  means = np.mean(totals, axis=0)
  full_widths = tuple(map(_round_up_to_4, widths))
  fits = [fit(size_BxE, full_widths) for size_BxE in sizes]
  fullest = max(placement.rows for placement in fits)
  longest = max(_LONGEST_ROW, *full_widths)
  most = max(1, _ceil_div(fullest, multiple))
  least_rows = int(np.ceil(means.max() / longest))
  least = max(1, _ceil_div(least_rows, multiple))
  steps = np.geomspace(min(most, least), most, _SHAPES)
  multiples = steps.round().astype(int)
  row_counts = multiple * np.unique(multiples)
  # A dict in place of a set, as the order decides between shapes that are equally good.
  shapes: dict[Shape, None] = {(multiple * most, full_widths): None}
  for rows in row_counts.tolist():
    for slack in _SLACKS:
      with_slack = [_round_up_to_4(slack * mean / rows) for mean in means]
      lengths = tuple(map(max, full_widths, with_slack))
      for longer in _lengthened(lengths):
        shapes[rows, longer] = None
  return [shape for shape in shapes if max(shape[1]) <= longest + 8]


def _lengthened(lengths: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
  """Yields lengths of two sides with one of them a little longer; that of one side as it is."""
  if len(lengths) == 1:
    yield lengths
    return
  first, last = lengths
  for more in (0, 4, 8):
    yield first + more, last
    yield first, last + more


def _holds(shape: Shape, size_BxE: np.ndarray) -> bool:
  """Returns whether a shape holds examples of these sizes."""
  rows, lengths = shape
  total_E = size_BxE.sum(axis=0)
  space_E = rows * np.asarray(lengths)
  if (total_E > space_E).any():
    return False
  return fit(size_BxE, lengths).rows <= rows


def _holds_each(shape: Shape, sizes: Sequence[np.ndarray]) -> list[bool]:
  return [_holds(shape, size_BxE) for size_BxE in sizes]


def _round_up_to_4(length: float) -> int:
  fours = _ceil_div(int(np.ceil(length)), 4)
  return 4 * fours


def _ceil_div(a: int, b: int) -> int:
  return -(-a // b)


def pack_batch(
  batch: Mapping[str, np.ndarray],
  shapes: Shapes | None = None,
) -> Batch:
  """Packs the examples of a padded batch into fewer rows, so that less padding is computed.

  Args:
    batch: `inputs` [B, S], `targets` [B, T], `weights` [B, T], padded with 0; or of a decoder-only
      model `tokens` and `weights` [B, S], padded with -1; with the fields of soft labels or
      without. An example starts its row.
    shapes: what the batch may become; None: rows of the same lengths, as few as hold the examples.

  Returns:
    The same fields with R rows, and int32 `input_segments` [R, S] and `target_segments` [R, T], or
    `segments` [R, S]: the example's number in its row from 1 on, 0 on padding. No token is cut or
    dropped.
  """
  sides = _sides(batch)
  size_BxE = _sizes(batch, sides)
  if shapes is None:
    no_rows = (0, tuple(_widths(batch, sides)))
    shapes = Shapes((no_rows,), step=1)
  (rows, lengths), placement = shapes.place(size_BxE)
  packed: Batch = {}
  for index, (length, side) in enumerate(zip(lengths, sides)):
    is_token_BxL = np.arange(length)[None] < size_BxE[:, index, None]
    example, column = np.nonzero(is_token_BxL)
    start = placement.start_BxE[example, index]
    target = (placement.row_B[example], start + column)
    for name in side.fields:
      if name not in batch:
        continue
      fill = side.pad if name == side.tokens else 0
      values = batch[name][example, column]
      packed[name] = _spread(values, target, (rows, length), fill)
    segments = placement.segment_B[example].astype(np.int32)
    packed[side.segments] = _spread(segments, target, (rows, length), 0)
  return packed


def _spread(
  values: np.ndarray,
  target: tuple[np.ndarray, np.ndarray],
  shape: tuple[int, int],
  fill: int,
) -> np.ndarray:
  """Returns an array [*shape, ...] with the values at the (rows, columns) of `target`."""
  whole_shape = (*shape, *values.shape[1:])
  spread = np.full(whole_shape, fill, values.dtype)
  spread[target] = values
  return spread


def token_fields(batch: Mapping[str, Any]) -> dict[str, int]:
  """Returns the padding of each field of a batch that holds tokens, the predicted ones last."""
  return {side.tokens: side.pad for side in _sides(batch)}


def _sides(batch: Mapping[str, Any]) -> tuple[Side, ...]:
  if "tokens" in batch:
    return (_TOKENS,)
  return (_INPUTS, _TARGETS)


def _widths(
  batch: Mapping[str, np.ndarray],
  sides: Sequence[Side],
) -> list[int]:
  """Returns the width of the arrays of each side."""
  widths: list[int] = []
  for side in sides:
    _, width = batch[side.tokens].shape
    widths.append(width)
  return widths


def _sizes(
  batch: Mapping[str, np.ndarray],
  sides: Sequence[Side],
) -> np.ndarray:
  """Returns how many tokens each example has on each side: [B, E]."""
  sizes_E: list[np.ndarray] = []
  for side in sides:
    sizes_E.append(lengths_of(batch[side.tokens], side.pad))
  return np.stack(sizes_E, axis=1)


def lengths_of(tokens_BxL: np.ndarray, pad: int = 0) -> np.ndarray:
  """Returns the tokens of each row, int64 [B]: up to the last that is no padding, which is EOS."""
  is_token = tokens_BxL != pad
  behind_B = np.argmax(is_token[:, ::-1], axis=1)
  return np.where(is_token.any(axis=1), tokens_BxL.shape[1] - behind_B, 0)


def _longest_first(size_BxE: np.ndarray, capacity: Sequence[int]) -> np.ndarray:
  """Returns the order of examples by the shares of a row that they fill, the largest first."""
  share_BxE = size_BxE / np.asarray(capacity)
  share_B = share_BxE.sum(axis=1)
  return np.argsort(-share_B, kind="stable")


def fit(size_BxE: np.ndarray, capacity: Sequence[int]) -> Fit:
  """Places each example into the first row with space for all its sides, the longest first.

  Args:
    size_BxE: tokens of each example on each side.
    capacity: tokens of a row on each side, of which there are one or two.
  """
  row_B = np.zeros(len(size_BxE), np.int64)
  segment_B = np.zeros_like(row_B)
  start_BxE = np.zeros_like(size_BxE)
  order = _longest_first(size_BxE, capacity)
  first = capacity[0]
  last = capacity[-1]
  least = size_BxE.min(axis=0, initial=first).tolist()
  used: list[tuple[list[int], int]] = []  # tokens of each side, and examples, of each row
  open_rows: list[int] = []  # with space for the smallest sizes there are
  placed: list[tuple[int, int, list[int]]] = []
  for size in size_BxE[order].tolist():  # plain ints, as numpy's cost more than the search
    for row in open_rows:
      filled, examples = used[row]
      if filled[0] + size[0] <= first and filled[-1] + size[-1] <= last:
        break
    else:
      row = len(used)
      filled = [0] * len(size)
      examples = 0
      used.append((filled, examples))
      open_rows.append(row)
    segment = examples + 1
    placed.append((row, segment, filled))
    filled = [before + more for before, more in zip(filled, size)]
    used[row] = (filled, segment)
    if filled[0] + least[0] > first or filled[-1] + least[-1] > last:
      open_rows.remove(row)
  if placed:
    rows, segments, starts = zip(*placed)
    row_B[order] = rows
    segment_B[order] = segments
    start_BxE[order] = starts
  return Fit(row_B, start_BxE, segment_B)

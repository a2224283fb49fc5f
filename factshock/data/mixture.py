"""Batches mixed from several sources at an exact ratio.

The order is a pure function of (seed, step).

A grain element is a whole batch (its index is the step): grain's own per-example path costs more
than the corruption itself (5.5 ms for 128 examples, measured), so shuffling, mixing and corruption
are done here for all examples of a batch at once; grain gives the prefetching thread, the iterator
and its state. The ratio is still exact by the example: of the first k, each source has given its
share of k, rounded.
"""

import fractions
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import grain
import numpy as np
from numpy.typing import ArrayLike

from factshock.data import batching, span_corruption
from factshock.data.example_sources import Make, Source
from factshock.runtime.errors import UserError
from factshock.types import Batch

_STEPS = 10**12  # more than any run takes
_PLANNED = 2048  # examples by which the shape of packed rows is chosen, or three batches

# Gives those of a batch's rows that are handed out, ascending, from how many there are.
RowsOf: TypeAlias = Callable[[int], np.ndarray]


def whole_ratios(ratios: Sequence[float]) -> tuple[int, ...]:
  """Returns the ratios as smallest whole numbers: [1, 4] or [.2, .8] -> (1, 4).

  Raises:
    ValueError: one is not positive.
  """
  given = [fractions.Fraction(str(ratio)) for ratio in ratios]
  exact = [ratio.limit_denominator(1000) for ratio in given]
  if not exact or min(exact) <= 0:
    raise ValueError(f"expected positive ratios, got {list(ratios)}; leave out a source of ratio 0")
  denominators = [ratio.denominator for ratio in exact]
  scale = math.lcm(*denominators)
  whole = [int(ratio * scale) for ratio in exact]
  divisor = math.gcd(*whole)
  return tuple(ratio // divisor for ratio in whole)


def select(
  positions_B: ArrayLike,
  ratios: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (source_B, index_B): each position's source, and its index in that one's order.

  Interleaves as grain's `MapDataset.mix` does: of any k positions each source has its share,
  rounded.

  Args:
    positions_B: positions of the mixture.
    ratios: examples of each source.
  """
  here = np.asarray(positions_B, np.int64)
  after = here + 1
  source_B = np.full(here.shape, -1)
  index_B = np.zeros_like(here)
  rest = sum(ratios)
  for source, ratio in enumerate(ratios):
    others = rest - ratio
    next_here = here * others // rest
    next_after = after * others // rest
    index = here - next_here
    mine = (source_B < 0) & (index != after - next_after)
    source_B[mine] = source
    index_B[mine] = index[mine]
    here = next_here
    after = next_after
    rest = others
  return source_B, index_B


def permute(
  indices_B: ArrayLike,
  size: int,
  key: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (row_B, pass_B): the row of each index under a random order that is new each pass.

  In O(batch), without a table: a Feistel network with modular addition over a x b >= `size`
  numbers, a and b close to the root of `size`, walked until below `size` (Black & Rogaway 2002).

  Args:
    indices_B: places in the order, from 0 on.
    size: rows.
    key: of the order.
  """
  indices = np.asarray(indices_B, np.int64)
  passes, rows = np.divmod(indices, size)
  pass_keys = span_corruption.keys(int(key), passes)
  random_Bx6 = span_corruption.draw(pass_keys, 6)
  first_side = math.isqrt(size - 1) + 1
  sides = (first_side, -(-size // first_side))
  outside = np.arange(len(rows))
  while len(outside):
    walked = _feistel(rows[outside], random_Bx6[outside], sides)
    rows[outside] = walked
    outside = outside[walked >= size]
  return rows, passes


def _feistel(
  rows: np.ndarray,
  random_BxR: np.ndarray,
  sides: tuple[int, int],
) -> np.ndarray:
  """Returns a permutation of the numbers below the product of the sides, a round a column."""
  halves = list(np.divmod(rows, sides[1]))
  for step in range(random_BxR.shape[1]):
    mine = step % 2
    other = 1 - mine
    side = sides[mine]
    other_half = halves[other].astype(np.uint64)
    mixed = span_corruption.mix(other_half + random_BxR[:, step])
    shift = (mixed % np.uint64(side)).astype(np.int64)
    halves[mine] = (halves[mine] + shift) % side
  return halves[0] * sides[1] + halves[1]


def make_batch(
  sources: Sequence[Source],
  makers: Sequence[Make],
  ratios: Sequence[int],
  batch_size: int,
  seed: int,
  step: int,
  rows_of: RowsOf = np.arange,
) -> Batch:
  """Makes the batch of one step, a row an example.

  Args:
    sources: what is mixed.
    makers: `make` of each source.
    ratios: examples of each, whole numbers.
    batch_size: B.
    seed: of order and masks.
    step: index of the batch.
    rows_of: gives those of B rows that are made.

  Returns:
    The fields that the sources give, 0 in the rows of others, and `weights` (see `_weighted`); with
    `predicted` [B, K] where all sources say how many tokens the loss counts (see `_predicted`).
  """
  positions_B = step * batch_size + np.arange(batch_size)
  source_B, index_B = select(positions_B, ratios)
  row_R = rows_of(batch_size)
  source_keys = span_corruption.keys(seed, np.arange(len(sources)))
  batch: Batch = {}
  for position, (source, make) in enumerate(zip(sources, makers)):
    of_source_B = source_B == position
    if not of_source_B.any():
      continue
    mine = np.flatnonzero(of_source_B[row_R])
    # Without a row of its own it makes one too: every process's batch needs its fields.
    positions_M = row_R[mine] if len(mine) else np.flatnonzero(of_source_B)[:1]
    index_M = index_B[positions_M]
    made = _examples(source, make, int(source_keys[position]), index_M)
    for name, array in made.items():
      if name not in batch:
        batch[name] = _empty(len(row_R), array)
      batch[name][mine] = array[: len(mine)]
  counts = [source.predicted for source in sources]
  most = max(counts) + -max(counts) % 4  # so that there are few shapes
  if all(counts) and most < batch["weights"].shape[1]:
    batch["predicted"] = _predicted(batch["weights"], most)
  return batch


def _predicted(weights_BxS: np.ndarray, most: int) -> np.ndarray:
  """Returns the positions of the tokens that the loss counts, [B, most], then zeros.

  Nothing predicts the token at 0, so that it counts in no loss.
  """
  counted_BxS = weights_BxS > 0
  first_BxK = np.argsort(~counted_BxS, axis=1, kind="stable")[:, :most]
  is_counted_BxK = np.take_along_axis(counted_BxS, first_BxK, axis=1)
  return np.where(is_counted_BxK, first_BxK, 0).astype(np.int32)


def _empty(rows: int, like: np.ndarray) -> np.ndarray:
  """Returns an array of zeros, of so many rows as those of another array."""
  shape = (rows, *like.shape[1:])
  return np.zeros(shape, like.dtype)


def _examples(
  source: Source,
  make: Make,
  key: int,
  index_M: np.ndarray,
) -> Batch:
  """Returns the examples that come at some places of a source's order, weighted."""
  rows, passes = permute(index_M, source.size, key)
  keys_M = span_corruption.keys(key, rows + passes * source.size)
  made = make(rows, keys_M)
  return _weighted(made, source.loss_weight)


def _weighted(made: Batch, loss_weight: float) -> Batch:
  """Returns examples with float32 weights of their tokens, times that of their source.

  Where there are none they are 1 on target tokens and 0 on padding.
  """
  weights = made["weights"] if "weights" in made else _inside(made["targets"])
  weighted = weights * loss_weight
  return {**made, "weights": weighted.astype(np.float32)}


def _inside(targets_BxT: np.ndarray) -> np.ndarray:
  """Returns bool [B, T], True within each row's length."""
  columns = np.arange(targets_BxT.shape[1])[None]
  return columns < batching.lengths_of(targets_BxT)[:, None]


def _packed(
  make: Callable[[int], Batch],
  row_multiple: int,
  rows_of: RowsOf,
) -> Callable[[int], Batch]:
  """Returns `make` with packed rows, in shapes that leave least padding in the first batches.

  Rows may be longer than the lengths of the batches where that leaves less padding
  (`batching.plan_shapes`); fields of segments tell their examples apart. Each batch is made whole
  before its rows are handed out, as the rows hang together.
  """
  first = make(0)
  rows_of_batch = len(first["weights"])
  batch_count = max(3, min(16, _PLANNED // rows_of_batch))
  later_batches = [make(step) for step in range(1, batch_count)]
  first_batches = [first, *later_batches]
  shapes = batching.plan_shapes(first_batches, row_multiple)

  def packed(step: int) -> Batch:
    batch = batching.pack_batch(make(step), shapes)
    row_R = rows_of(len(batch["weights"]))
    return {name: array[row_R] for name, array in batch.items()}

  return packed


class Batches(Iterator[Batch]):
  """Iterator that `batches` returns: endless, prefetched, and exact to resume."""

  def __init__(
    self,
    dataset: grain.MapDataset[Batch],
    identity: Mapping[str, int | str],
  ) -> None:
    """Begins at step 0.

    Args:
      dataset: batches by step.
      identity: what the batches depend on, as kept in the state.
    """
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=3)
    self._identity = identity
    self._iterator = iter(dataset.to_iter_dataset(options))

  def starting_at(self, step: int) -> "Batches":
    """Goes to a step and returns the iterator itself."""
    self._iterator.set_state({"next_index": step})
    return self

  def __iter__(self) -> "Batches":
    return self

  def __next__(self) -> Batch:
    return next(self._iterator)

  def get_state(self) -> dict[str, int | str]:
    """Returns what is needed to go on after the last batch handed out."""
    state = self._iterator.get_state()
    return {**self._identity, "step": int(state["next_index"])}

  def set_state(self, state: Mapping[str, int | str]) -> None:
    """Goes to where `get_state` was called.

    Raises:
      UserError: it was called on other data or another order.
    """
    for name, value in self._identity.items():
      kept = state.get(name)
      if kept != value:
        raise UserError(
          f"loader state: expected {name} {value!r}, got {kept!r}: the checkpoint "
          "is of other data or settings; restore them, or start anew"
        )
    step = int(state["step"])
    self._iterator.set_state({"next_index": step})


def batches(
  sources: Sequence[Source],
  ratios: Sequence[float],
  *,
  batch_size: int,
  input_length: int,
  target_length: int,
  seed: int,
  pack_to: int = 0,
  rows_of: RowsOf = np.arange,
) -> Batches:
  """Returns an endless iterator of batches, made ahead in a background thread.

  Args:
    sources: what is mixed.
    ratios: examples of each; [1, 4]: four of the second to one of the first.
    batch_size: B.
    input_length: S of every batch.
    target_length: T of every batch.
    seed: of order and masks.
    pack_to: 0 for an example a row; else examples are packed into a multiple of so many rows.
    rows_of: gives the rows to hand out. The batch is the same whoever has which of its rows.

  Raises:
    UserError: an example that does not fit the lengths.
    ValueError: ratios that are not positive, or not one a source.
  """
  whole = whole_ratios(ratios)
  if len(whole) != len(sources):
    raise ValueError(f"expected one ratio for each of {len(sources)} sources, got {len(whole)}")
  makers = [source.prepare(input_length, target_length) for source in sources]
  make = functools.partial(make_batch, sources, makers, whole, batch_size, seed)
  make_rows: Callable[[int], Batch] = functools.partial(make, rows_of=rows_of)
  if pack_to:
    make_rows = _packed(make, pack_to, rows_of)
  dataset = grain.MapDataset.range(_STEPS).map(make_rows)
  return Batches(dataset, _identity(sources, whole, batch_size, seed))


def _identity(
  sources: Sequence[Source],
  ratios: Sequence[int],
  batch_size: int,
  seed: int,
) -> dict[str, int | str]:
  """Returns what the batches depend on, as kept in the loader's state."""
  source_sizes = [f"{source.name}:{source.size}" for source in sources]
  return {
    "sources": ",".join(source_sizes),
    "ratios": ":".join(map(str, ratios)),
    "batch_size": batch_size,
    "seed": seed,
  }

"""Bootstrap intervals over queries and seeds, and paired tests between two arms.

A bootstrap resample of N queries only changes how often each query counts. Up to about ten thousand
queries these counts are drawn once, as a table [N, R], and serve every arm. Beyond, equal rows are
gathered into cells first, and the cells' counts are drawn from the multinomial distribution that
they have exactly: the cost then hangs on the number of distinct rows, not on N. What is compared in
pairs is coded in one cell.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from factshock.types import Estimate

TABLE_ENTRIES = 10_000_000  # a table of counts [N, R] up to 40 MB is drawn query by query
PICKS = 50_000_000  # beyond, entity measures draw at most so many queries in all resamples,
CELL_PICKS = 5_000_000  # and fill at most so many cells,
FEWEST_RESAMPLES = 100  # but never get fewer resamples than this (or than asked for)
CHUNK_ENTRIES = 1 << 17  # histograms are handed over in chunks that the processor's cache holds,
CELL_ENTRIES = 1 << 21  # or, where drawn query by query, of this many cells
HOT_ENTRIES = 1 << 22  # entries of a block of columns written as 0 and 1


@dataclasses.dataclass(frozen=True)
class Bootstrap:
  """Settings of a bootstrap.

  Attributes:
    resamples: how many are drawn.
    confidence: of the percentile intervals.
    seed: of the random generator.
  """

  resamples: int = 1000
  confidence: float = 0.95
  seed: int = 0


DEFAULT_BOOTSTRAP = Bootstrap()


class Draw(NamedTuple):
  """Counts of N queries in R resamples: a table [N, R], None if it is too large."""

  queries: int
  resamples: int
  counts_NxR: np.ndarray | None
  rng: np.random.Generator


class Sample(NamedTuple):
  """Measure of one arm and seed, and its bootstrap resamples [R]."""

  value: float
  resamples: np.ndarray


class SeedEstimate(Estimate):
  """Estimate with the value of each seed; None where it is undefined."""

  by_seed: dict[str, float | None]


class McNemar(NamedTuple):
  """Two-sided p of the exact McNemar test and its mid-p form."""

  exact: float
  middle: float


def make_draw(
  queries: int,
  resamples: int,
  rng: np.random.Generator,
) -> Draw:
  """Returns a bootstrap draw for one set of queries."""
  if queries * resamples > TABLE_ENTRIES:
    return Draw(queries, resamples, None, rng)
  picks_RxN = rng.integers(0, queries, (resamples, queries))
  offsets_R = np.arange(resamples) * queries
  picks_RxN += offsets_R[:, None]
  counts = np.bincount(picks_RxN.ravel(), minlength=resamples * queries)
  counts_RxN = counts.reshape(resamples, queries)
  counts_NxR = np.ascontiguousarray(counts_RxN.T, np.float32)
  return Draw(queries, resamples, counts_NxR, rng)


def cell_counts(
  draw: Draw,
  codes: Iterable[np.ndarray],
  sizes: Iterable[int],
) -> Iterator[np.ndarray]:
  """Yields resampled counts of each value of integer columns: float64 arrays [R, size].

  Values that are to be resampled together must be coded as one.

  Args:
    draw: the resamples.
    codes: columns [N].
    sizes: bound of each column's values.
  """
  if draw.counts_NxR is None:
    for code_N, size in zip(codes, sizes):
      counts_C = np.bincount(code_N, minlength=size)
      filled_C = counts_C > 0
      yield _spread(_multinomial(draw, counts_C[filled_C]), filled_C)
    return
  most_columns = max(1, HOT_ENTRIES // draw.queries)
  block: list[tuple[np.ndarray, int]] = []
  columns = 0
  for code_N, size in zip(codes, sizes):
    block.append((code_N, size))
    columns += size
    if columns >= most_columns:
      yield from _table_counts(draw.counts_NxR, block)
      block = []
      columns = 0
  if block:
    yield from _table_counts(draw.counts_NxR, block)


def _table_counts(
  counts_NxR: np.ndarray, block: Sequence[tuple[np.ndarray, int]]
) -> Iterator[np.ndarray]:
  """Yields counts of coded columns: one product of the table with their filled cells as 0 and 1."""
  queries = len(counts_NxR)
  filled = [np.bincount(code_N, minlength=size) > 0 for code_N, size in block]
  ends = np.cumsum([filled_C.sum() for filled_C in filled])
  hot_NxK = np.zeros((queries, ends[-1]), np.float32)
  for (code_N, _), filled_C, end in zip(block, filled, ends):
    column_C = np.cumsum(filled_C) - 1
    start = end - filled_C.sum()
    hot_NxK[np.arange(queries), start + column_C[code_N]] = 1
  sums_RxK = counts_NxR.T @ hot_NxK
  sums = np.split(sums_RxK, ends[:-1], axis=1)
  for block_sums, filled_C in zip(sums, filled):
    yield _spread(block_sums, filled_C)


def _spread(counts_RxK: np.ndarray, filled_C: np.ndarray) -> np.ndarray:
  """Returns columns put where `filled_C` is true, zeros elsewhere: float64 [R, C]."""
  counts_RxC = np.zeros((len(counts_RxK), len(filled_C)))
  counts_RxC[:, filled_C] = counts_RxK
  return counts_RxC


def histogram(
  draw: Draw,
  code_N: np.ndarray,
  cells: int,
) -> np.ndarray | None:
  """Returns the resampled histogram of an integer column: float32 [cells, R].

  None where the draw has no table of counts.
  """
  if draw.counts_NxR is None:
    return None
  return _histogram(draw.counts_NxR, code_N, cells)


def _histogram(
  counts_NxR: np.ndarray,
  code_N: np.ndarray,
  cells: int,
) -> np.ndarray:
  counts_ExR = np.zeros((cells, counts_NxR.shape[1]), np.float32)
  for code, counts_R in zip(code_N.tolist(), counts_NxR):  # faster than np.add.reduceat
    counts_ExR[code] += counts_R
  return counts_ExR


def parts(draw: Draw, cells: int) -> Iterator[slice]:
  """Yields the parts of the resamples in which `histogram_pairs` yields a table's histograms."""
  step = max(1, CHUNK_ENTRIES // cells)
  for start in range(0, draw.resamples, step):
    yield slice(start, start + step)


def histogram_pairs(
  draw: Draw,
  first_N: np.ndarray,
  second_N: np.ndarray,
  cells: int,
  second_ExR: np.ndarray | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields resampled histograms of two integer columns, a few resamples each: two [r, cells].

  Where there are very many queries or cells, fewer resamples are drawn in all (see PICKS).

  Args:
    draw: the resamples.
    first_N: a column of codes below `cells`.
    second_N: another one.
    cells: how many codes there are.
    second_ExR: `histogram` of the second column.
  """
  if second_ExR is not None and draw.counts_NxR is not None:
    first_ExR = _histogram(draw.counts_NxR, first_N, cells)
    for part in parts(draw, cells):
      yield first_ExR[:, part].T, second_ExR[:, part].T
    return
  most = min(PICKS // draw.queries, CELL_PICKS // cells)
  resamples = min(draw.resamples, max(FEWEST_RESAMPLES, most))
  step = max(1, CELL_ENTRIES // cells)
  for start in range(0, resamples, step):
    count = min(step, resamples - start)
    pairs = [_pick_both(draw, first_N, second_N, cells) for _ in range(count)]
    firsts = [first for first, _ in pairs]
    seconds = [second for _, second in pairs]
    yield np.stack(firsts), np.stack(seconds)


def _pick_both(
  draw: Draw,
  first_N: np.ndarray,
  second_N: np.ndarray,
  cells: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns histograms [cells] of two columns in one resample of the same queries."""
  picks_N = _picks_of_resample(draw)
  first_E = np.bincount(first_N[picks_N], minlength=cells)
  second_E = np.bincount(second_N[picks_N], minlength=cells)
  return first_E, second_E


def _picks_of_resample(draw: Draw) -> np.ndarray:
  """Returns the queries that one resample draws, with replacement [N]."""
  return draw.rng.integers(0, draw.queries, draw.queries, dtype=np.int32)


def _multinomial(draw: Draw, counts_K: np.ndarray) -> np.ndarray:
  shares_K = counts_K / draw.queries
  return draw.rng.multinomial(draw.queries, shares_K, draw.resamples)


def sums(draw: Draw, values_NxK: np.ndarray) -> np.ndarray:
  """Returns resampled sums of real columns, all of the same resamples: array [R, K].

  The cost hangs on N x R.
  """
  if draw.counts_NxR is not None:
    return draw.counts_NxR.T @ values_NxK.astype(np.float32)
  sums_R: list[np.ndarray] = []
  for _ in range(draw.resamples):
    counts_N = np.bincount(_picks_of_resample(draw), minlength=draw.queries)
    sums_R.append(counts_N @ values_NxK)
  return np.stack(sums_R)


def seed_picks(
  seeds: int,
  resamples: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """Returns which seeds each resample draws, with replacement: int array [resamples, seeds]."""
  return rng.integers(0, seeds, (resamples, seeds))


def over_seeds(samples_SxR: np.ndarray, picks_RxS: np.ndarray) -> np.ndarray:
  """Returns means over resampled seeds, each with a resample of its own queries: [R].

  This is the second level of the bootstrap. A seed drawn twice brings two different resamples of
  its queries (the table is read at shifted rows), the same ones for every arm. Seeds where the
  measure is undefined (NaN) are left out of a mean.

  Args:
    samples_SxR: resamples of each seed.
    picks_RxS: as from `seed_picks`.
  """
  resamples: int
  seeds: int
  resamples, seeds = picks_RxS.shape
  step = resamples // max(1, seeds)
  shift_S: np.ndarray = np.arange(seeds) * step
  row_R = np.arange(resamples)
  index_RxS = (row_R[:, None] + shift_S[None]) % samples_SxR.shape[1]
  return nan_mean(np.asarray(samples_SxR)[picks_RxS, index_RxS])


def nan_mean(values: np.ndarray) -> np.ndarray:
  """Returns the mean over the last axis of what is not NaN; NaN where nothing is."""
  known = ~np.isnan(values)
  count = known.sum(-1)
  total = np.where(known, values, 0.0).sum(-1)
  mean = total / np.maximum(count, 1)
  return np.where(count > 0, mean, np.nan)


def interval(samples_R: np.ndarray, confidence: float) -> tuple[float, float]:
  """Returns the percentile interval of bootstrap samples.

  (nan, nan) where more than half of them are undefined.
  """
  known = samples_R[~np.isnan(samples_R)]
  if 2 * len(known) <= len(samples_R):
    return np.nan, np.nan
  tail = (1 - confidence) / 2
  low, high = np.quantile(known, [tail, 1 - tail]).tolist()
  return low, high


def estimate(by_seed: Mapping[int, Sample], bootstrap: Bootstrap) -> SeedEstimate:
  """Returns the mean over seeds, its percentile interval and each seed's value; None for undefined.

  Args:
    by_seed: the measure of each seed.
    bootstrap: over seeds; a single seed's own resamples give its interval.
  """
  seeds = sorted(by_seed)
  samples = [by_seed[seed] for seed in seeds]
  values_S = np.array([sample.value for sample in samples])
  shortest = min(len(sample.resamples) for sample in samples)
  samples_SxR = np.stack([sample.resamples[:shortest] for sample in samples])
  samples_R = samples_SxR[0]
  if len(seeds) > 1:
    picks_RxS = _picks(len(seeds), bootstrap.resamples, bootstrap.seed)
    samples_R = over_seeds(samples_SxR, picks_RxS)
  low, high = interval(samples_R, bootstrap.confidence)
  mean = float(nan_mean(values_S))
  if math.isnan(mean):
    low = math.nan
    high = math.nan
  value_of_seed: dict[str, float | None] = {}
  for seed, value in zip(seeds, values_S.tolist()):
    value_of_seed[str(seed)] = none_if_nan(value)
  return {
    "mean": none_if_nan(mean),
    "low": none_if_nan(low),
    "high": none_if_nan(high),
    "by_seed": value_of_seed,
  }


@functools.lru_cache(maxsize=64)
def _picks(
  seeds: int,
  resamples: int,
  seed: int,
) -> np.ndarray:
  rng = np.random.default_rng([seed, seeds, 1])
  return seed_picks(seeds, resamples, rng)


def none_if_nan(value: float) -> float | None:
  """Returns a number as JSON can hold it: None for NaN."""
  if math.isnan(value):
    return None
  return float(value)


def mcnemar(wins: int, losses: int) -> McNemar:
  """Tests paired right and wrong answers of two arms by McNemar's exact test.

  Of Binomial(wins + losses, 1/2); mid-p is less conservative (Fagerland et al. 2013).

  Args:
    wins: how many queries only the first arm has right.
    losses: how many only the second has.
  """
  total = wins + losses
  fewer = min(wins, losses)
  if total == 0:
    return McNemar(1.0, 1.0)
  log_numbers = np.log(np.arange(1, total + 1))
  log_factorial = np.concatenate([[0.0], np.cumsum(log_numbers)])
  log_first = log_factorial[: fewer + 1]
  falling = log_factorial[total - fewer :][::-1]
  log_second = falling[: fewer + 1]
  log_ways = log_factorial[total] - log_first - log_second
  terms = np.exp(log_ways - total * np.log(2))
  tail = 2 * float(np.sum(terms))
  middle = tail - float(terms[-1])
  return McNemar(min(1.0, tail), min(1.0, middle))

"""Bootstrap intervals over queries and seeds, and paired tests between two arms.

A bootstrap resample of N queries only changes how often each query counts. Up to about ten thousand queries
these counts are drawn once, as a table [N, R], and serve every arm. Beyond, equal rows are gathered into
cells first, and the cells' counts are drawn from the multinomial distribution that they have exactly: the
cost then hangs on the number of distinct rows, not on N. What is compared in pairs is coded in one cell.
"""

import functools
import math
import typing

import numpy as np

TABLE_ENTRIES = 10_000_000  # a table of counts [N, R] up to 40 MB is drawn query by query
PICKS = (
  50_000_000  # beyond the table, entity measures draw at most so many queries in all resamples,
)
CELL_PICKS = 5_000_000  # and fill at most so many cells,
FEWEST_RESAMPLES = 100  # but never get fewer resamples than this (or than asked for)
CHUNK_ENTRIES = 1 << 17  # histograms are handed over in chunks that the processor's cache holds,
CELL_ENTRIES = 1 << 21  # or, where drawn query by query, of this many cells
HOT_ENTRIES = 1 << 22  # entries of a block of columns written as 0 and 1


class Draw(typing.NamedTuple):
  """How often each of N queries counts in R resamples: a table [N, R], or None where it is too large."""

  queries: int
  resamples: int
  counts_NxR: np.ndarray | None
  rng: np.random.Generator


def make_draw(queries, resamples, rng):
  """A bootstrap draw for one set of queries."""
  table = None
  if queries * resamples <= TABLE_ENTRIES:
    picks_RxN = rng.integers(0, queries, (resamples, queries))
    picks_RxN += np.arange(resamples)[:, None] * queries
    table = np.bincount(picks_RxN.ravel(), minlength=resamples * queries).reshape(
      resamples, queries
    )
    table = np.ascontiguousarray(table.T, np.float32)
  return Draw(queries, resamples, table, rng)


def cell_counts(draw, codes, sizes):
  """Yields resampled counts of each value of integer columns [N] with values below `sizes`: arrays [R, size].

  Values that are to be resampled together must be coded as one.
  """
  if draw.counts_NxR is None:
    for code_N, size in zip(codes, sizes):
      counts_C = np.bincount(code_N, minlength=size)
      yield _spread(_multinomial(draw, counts_C[counts_C > 0], draw.resamples), counts_C > 0)
    return
  step = max(1, HOT_ENTRIES // draw.queries)
  block = []
  columns = 0
  for code_N, size in zip(codes, sizes):
    block.append((code_N, size))
    columns += size
    if columns >= step:
      yield from _table_counts(draw, block)
      block = []
      columns = 0
  if block:
    yield from _table_counts(draw, block)


def _table_counts(draw, block):
  """Counts of a block of coded columns, by one product of the table with their filled cells as 0 and 1."""
  filled_C = [np.bincount(code_N, minlength=size) > 0 for code_N, size in block]
  ends = np.cumsum([filled.sum() for filled in filled_C])
  hot_NxK = np.zeros((draw.queries, ends[-1]), np.float32)
  for (code_N, _), filled, end in zip(block, filled_C, ends):
    hot_NxK[np.arange(draw.queries), end - filled.sum() + (np.cumsum(filled) - 1)[code_N]] = 1
  for sums_RxK, filled in zip(np.split(draw.counts_NxR.T @ hot_NxK, ends[:-1], axis=1), filled_C):
    yield _spread(sums_RxK, filled)


def _spread(counts_RxK, filled_C):
  """Columns put where `filled_C` is true, zeros elsewhere: float64 [R, C]."""
  found_RxC = np.zeros((len(counts_RxK), len(filled_C)))
  found_RxC[:, filled_C] = counts_RxK
  return found_RxC


def histogram(draw, code_N, cells):
  """Resampled histogram of an integer column: float32 [cells, R]; None where there is no table of counts."""
  if draw.counts_NxR is None:
    return None
  found_ExR = np.zeros((cells, draw.resamples), np.float32)
  for code, counts_R in zip(code_N.tolist(), draw.counts_NxR):  # faster than np.add.reduceat
    found_ExR[code] += counts_R
  return found_ExR


def histogram_pairs(draw, first_N, second_N, cells, second_ExR):
  """Yields resampled histograms of two integer columns, a few resamples at a time: two arrays [r, cells].

  `second_ExR` is `histogram` of the second column. Where there are very many queries or cells, fewer
  resamples are drawn in all (see PICKS).
  """
  if second_ExR is not None:
    step = max(1, CHUNK_ENTRIES // cells)
    first_ExR = histogram(draw, first_N, cells)
    for start in range(0, draw.resamples, step):
      yield first_ExR[:, start : start + step].T, second_ExR[:, start : start + step].T
    return
  most = min(PICKS // draw.queries, CELL_PICKS // cells)
  resamples = min(draw.resamples, max(FEWEST_RESAMPLES, most))
  step = max(1, CELL_ENTRIES // cells)
  for start in range(0, resamples, step):
    pairs = [
      _pick_both(draw, first_N, second_N, cells) for _ in range(start, min(start + step, resamples))
    ]
    yield tuple(np.stack(histograms_RxE) for histograms_RxE in zip(*pairs))


def _pick_both(draw, first_N, second_N, cells):
  """Histograms [cells] of two columns in one resample, drawn query by query: the same queries for both."""
  picks_N = draw.rng.integers(0, draw.queries, draw.queries, dtype=np.int32)
  return tuple(np.bincount(codes_N[picks_N], minlength=cells) for codes_N in (first_N, second_N))


def _multinomial(draw, counts_K, resamples):
  return draw.rng.multinomial(draw.queries, counts_K / draw.queries, resamples)


def sums(draw, values_NxK):
  """Resampled sums of real columns, all of the same resamples: array [R, K]; the cost hangs on N x R."""
  if draw.counts_NxR is not None:
    return draw.counts_NxR.T @ values_NxK.astype(np.float32)
  picks = (
    draw.rng.integers(0, draw.queries, draw.queries, dtype=np.int32) for _ in range(draw.resamples)
  )
  return np.stack([np.bincount(picks_N, minlength=draw.queries) @ values_NxK for picks_N in picks])


def seed_picks(seeds, resamples, rng):
  """Which seeds each resample draws, with replacement: int array [resamples, seeds]."""
  return rng.integers(0, seeds, (resamples, seeds))


def over_seeds(samples_SxR, picks_RxS):
  """Second level of the bootstrap: means over resampled seeds, each with a resample of its own queries.

  A seed drawn twice brings two different resamples of its queries (the table is read at shifted places),
  the same ones for every arm. Seeds where the measure is undefined (NaN) are left out of a mean.
  """
  resamples, seeds = picks_RxS.shape
  shift_S = np.arange(seeds) * (resamples // max(1, seeds))
  places_RxS = (np.arange(resamples)[:, None] + shift_S[None]) % samples_SxR.shape[1]
  return nan_mean(np.asarray(samples_SxR)[picks_RxS, places_RxS])


def nan_mean(values):
  """Mean over the last axis of what is not NaN; NaN where nothing is."""
  known = ~np.isnan(values)
  count = known.sum(-1)
  return np.where(count > 0, np.where(known, values, 0.0).sum(-1) / np.maximum(count, 1), np.nan)


def interval(samples_R, confidence):
  """Percentile interval of bootstrap samples; (nan, nan) where more than half of them are undefined."""
  known = samples_R[~np.isnan(samples_R)]
  if 2 * len(known) <= len(samples_R):
    return np.nan, np.nan
  tail = (1 - confidence) / 2
  return tuple(np.quantile(known, [tail, 1 - tail]).tolist())


def estimate(by_seed, *, resamples, confidence, seed):
  """An estimate in plain values: mean over seeds, percentile interval, value of each seed; None for what is undefined.

  Args:
    by_seed: dict seed -> what has a `value` and its bootstrap `resamples` [R], as measures.Sample has.
    resamples, confidence, seed: of the bootstrap over seeds.
  """
  runs = sorted(by_seed)
  values = np.array([by_seed[run].value for run in runs])
  shortest = min(len(by_seed[run].resamples) for run in runs)
  samples_SxR = np.stack([by_seed[run].resamples[:shortest] for run in runs])
  samples_R = (
    over_seeds(samples_SxR, _picks(len(runs), resamples, seed)) if len(runs) > 1 else samples_SxR[0]
  )
  low, high = interval(samples_R, confidence)
  mean = float(nan_mean(values))
  if math.isnan(mean):
    low = high = math.nan
  return {
    "mean": _plain(mean),
    "low": _plain(low),
    "high": _plain(high),
    "by_seed": {str(run): _plain(value) for run, value in zip(runs, values.tolist())},
  }


@functools.lru_cache(maxsize=64)
def _picks(seeds, resamples, seed):
  return seed_picks(seeds, resamples, np.random.default_rng([seed, seeds, 1]))


def _plain(value):
  return None if math.isnan(value) else value


def mcnemar(wins, losses):
  """Exact McNemar test of paired right/wrong answers: two-sided p and its mid-p form.

  Args:
    wins, losses: how many queries only the first, only the second arm has right.

  Returns:
    (exact p, mid-p): of Binomial(wins + losses, 1/2); mid-p is less conservative (Fagerland et al. 2013).
  """
  total = wins + losses
  fewer = min(wins, losses)
  if total == 0:
    return 1.0, 1.0
  log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
  ways = (
    log_factorial[total]
    - log_factorial[: fewer + 1]
    - log_factorial[total - fewer :][::-1][: fewer + 1]
  )
  terms = np.exp(ways - total * np.log(2))
  tail = 2 * float(np.sum(terms))
  return min(1.0, tail), min(1.0, tail - float(terms[-1]))

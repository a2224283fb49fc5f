"""T5 span corruption in numpy, a whole batch at once, as a pure function of one key an example.

The semantics are those of the T5 library (`t5/data/preprocessors.py`: `random_spans_noise_mask`,
`noise_span_to_unique_sentinel`, `nonnoise_span_to_unique_sentinel`, `random_spans_helper`).
Needs numpy alone.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from factshock.types import Tokenizer

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class Noise:
  """Settings of what is masked.

  Args:
    density: share of tokens to mask.
    mean_span_length: mean tokens of a span.
    roll: lets spans start anywhere (see `noise_spans`); for sequences with one or two spans.
  """

  density: float = 0.15
  mean_span_length: float = 3.0
  roll: bool = False


T5_NOISE = Noise()


@dataclasses.dataclass(frozen=True)
class Marks:
  """Ids of the tokens that corruption adds.

  Args:
    sentinel0: id of <extra_id_0>; the others follow downwards.
    eos: id of the end of a sequence.
    sentinels: how many there are.
  """

  sentinel0: int
  eos: int = 1
  sentinels: int = 100

  @classmethod
  def of(cls, tokenizer: Tokenizer) -> "Marks":
    """Returns the marks of a tokenizer that has sentinels."""
    return cls(tokenizer.sentinel(0), tokenizer.eos, tokenizer.sentinels)


class Spans(NamedTuple):
  """Noise spans of a batch: how many each row has, and all of them row by row in flat arrays."""

  counts_B: np.ndarray
  starts: np.ndarray
  ends: np.ndarray


def mix(x: np.ndarray) -> np.ndarray:
  """Returns the splitmix64 finalizer (Steele, Lea, Flood 2014), a bijection of uint64 arrays."""
  x = x ^ (x >> np.uint64(30))
  x = x * np.uint64(0xBF58476D1CE4E5B9)
  x = x ^ (x >> np.uint64(27))
  x = x * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def keys(seed: int, indices_B: ArrayLike) -> np.ndarray:
  """Returns one uint64 key an example, a pure function of seed and example index.

  No two indices share a key.
  """
  seed_1 = np.asarray([seed % 2**64], np.uint64)
  index_B = np.asarray(indices_B).astype(np.uint64)
  mixed_seed_1 = mix(seed_1 + _GOLDEN)
  return mix(mixed_seed_1 ^ mix(index_B))


def draw(
  keys_B: ArrayLike,
  count: int,
  stream: int = 0,
) -> np.ndarray:
  """Returns random uint64 [B, count], a pure function of the keys; streams are independent."""
  counters = np.arange(1, count + 1, dtype=np.uint64)
  counters = counters + np.uint64(stream << 32)
  steps = counters * _GOLDEN
  keys_Bx1 = np.asarray(keys_B)[:, None]
  return mix(keys_Bx1 + steps[None])


def scale(random: np.ndarray, limits: np.ndarray) -> np.ndarray:
  """Maps uint64 randomness to integers in [0, limit), limits below 2**31.

  The bias is below limit / 2**32.
  """
  high_bits = random >> np.uint64(32)
  scaled = high_bits * limits.astype(np.uint64)
  return (scaled >> np.uint64(32)).astype(np.int64)


def noise_counts(
  lengths_B: ArrayLike,
  noise: Noise = T5_NOISE,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (noise tokens, noise spans) of sequences, rounded in float32 as the T5 library does.

  noise = round(length x density) clipped to [1, length - 1], spans = max(1, round(noise / mean));
  halves round to even. A sequence of less than two tokens has no noise. Where the non-noise tokens
  are too few to keep all spans apart (the T5 library fails there) there are as many spans as they
  can keep apart.

  Args:
    lengths_B: tokens of each sequence.
    noise: what is masked.
  """
  lengths = np.asarray(lengths_B, np.int64)
  exact_tokens = lengths.astype(np.float32) * np.float32(noise.density)
  tokens = np.round(exact_tokens).astype(np.int64)
  most_tokens = np.maximum(lengths - 1, 1)
  tokens = np.clip(tokens, 1, most_tokens)
  tokens = np.where(lengths < 2, 0, tokens)
  exact_spans = tokens.astype(np.float32) / np.float32(noise.mean_span_length)
  spans = np.round(exact_spans).astype(np.int64)
  spans = np.clip(spans, 1, np.maximum(tokens, 1))
  kept_apart = np.maximum(lengths - tokens, 1)
  spans = np.minimum(spans, kept_apart)
  return tokens, np.where(tokens > 0, spans, 0)


def span_lengths(length: int, noise: Noise = T5_NOISE) -> tuple[int, int]:
  """Returns (S, T): lengths of inputs and targets, EOS included, of `length` corrupted tokens.

  With `roll` the targets may end in a closing sentinel; T counts it.
  """
  tokens, spans = map(int, noise_counts(length, noise))
  has_closing = length == 1 or bool(noise.roll and length)
  closing = int(has_closing)
  inputs = length - tokens + spans + 1
  targets = tokens + spans + closing + 1
  return inputs, targets


def raw_length(
  input_length: int,
  noise: Noise = T5_NOISE,
  target_length: int | None = None,
) -> int:
  """Returns the most tokens whose corrupted form fits; 0 where not even one token does.

  `random_spans_helper` of the T5 library.

  Args:
    input_length: what the inputs have to fit.
    noise: what is masked.
    target_length: what the targets have to fit, if anything.
  """

  def fits(length: int) -> bool:
    inputs, targets = span_lengths(length, noise)
    if inputs > input_length:
      return False
    return target_length is None or targets <= target_length

  length = 0
  while fits(length + 1):
    length += 1
  return length


def _choose(
  random_RxK: np.ndarray,
  pools_R: np.ndarray,
  counts_R: np.ndarray,
) -> np.ndarray:
  """Returns for each row `count` distinct integers of range(pool), ascending [R, K].

  Unused columns hold the pool size. Floyd's sampling, all rows in step: every subset is equally
  likely.
  """
  rows, most = random_RxK.shape
  width = int(pools_R.max(initial=0)) + 1
  unused = width - 1  # the last column takes what unused columns write
  column_K = np.arange(most)
  pools_Rx1 = pools_R[:, None]
  counts_Rx1 = counts_R[:, None]
  top = pools_Rx1 - counts_Rx1 + column_K[None]
  used = column_K[None] < counts_Rx1
  start = np.arange(rows)[:, None] * width
  limits = np.where(used, top + 1, 1)
  tries = np.where(used, scale(random_RxK, limits), unused) + start
  top = np.where(used, top, unused) + start
  taken = np.zeros(rows * width, bool)
  picks = np.empty((most, rows), np.int64)
  tries = np.ascontiguousarray(tries.T)
  top = np.ascontiguousarray(top.T)
  for column in range(most):
    tried = tries[column]
    pick = np.where(taken[tried], top[column], tried)
    taken[pick] = True
    picks[column] = pick
  chosen = np.where(used, picks.T - start, pools_Rx1)
  return np.sort(chosen, axis=1)


def noise_spans(
  lengths_B: ArrayLike,
  keys_B: np.ndarray,
  noise: Noise = T5_NOISE,
) -> Spans:
  """Returns the noise spans of each row, drawn at random.

  The noise tokens are cut at random into non-empty spans, kept apart by non-empty non-noise spans;
  every outcome that the counts allow is equally likely. Without `roll` a row begins with non-noise
  and ends with noise, as in the T5 library: a sequence with one span is then always masked at its
  end. With `roll` the non-noise before the first and after the last span may be of any length, none
  included, so that a single span starts at any position with equal probability. The T5 library's
  `random_roll` instead rotates the finished mask, which tears a span at the edge in two (one span
  more than computed, and sentinels of inputs and targets that no longer agree where the mask begins
  with noise); here spans stay whole and their number is as computed.

  Args:
    lengths_B: tokens of each row.
    keys_B: uint64, one a row (see `keys`).
    noise: what is masked.
  """
  lengths = np.asarray(lengths_B, np.int64)
  tokens, spans = noise_counts(lengths, noise)
  most = int(spans.max(initial=0))
  clear = lengths - tokens
  cuts = np.maximum(spans - 1, 0)
  token_pool = np.maximum(tokens - 1, 0)
  clear_pool = clear + 1 if noise.roll else np.maximum(clear - 1, 0)
  clear_cuts = spans if noise.roll else cuts
  picks = _choose(
    np.concatenate([draw(keys_B, most), draw(keys_B, most, stream=1)]),
    np.concatenate([token_pool, clear_pool]),
    np.concatenate([cuts, clear_cuts]),
  )
  # Tokens of noise up to the end of each span, and of non-noise up to its start.
  noise_after, clear_before = np.split(picks, 2)
  noise_after = np.minimum(noise_after + 1, tokens[:, None])
  if not noise.roll:
    clear_before = np.minimum(clear_before + 1, clear[:, None])
  return _placed(spans, noise_after, clear_before)


def _placed(
  spans_B: np.ndarray,
  noise_after: np.ndarray,
  clear_before: np.ndarray,
) -> Spans:
  """Returns spans from the tokens of noise up to each one's end, and of non-noise up to its start.

  Both are [B, K], K the most spans of a row.
  """
  noise_before = np.zeros_like(noise_after)
  noise_before[:, 1:] = noise_after[:, :-1]
  columns = np.arange(noise_after.shape[1])
  used = columns[None] < spans_B[:, None]
  starts = clear_before + noise_before
  ends = clear_before + noise_after
  return Spans(spans_B, starts[used], ends[used])


def noise_mask(
  lengths_B: ArrayLike,
  keys_B: np.ndarray,
  noise: Noise = T5_NOISE,
  width: int | None = None,
) -> np.ndarray:
  """Returns bool [B, width], True on the tokens of `noise_spans`.

  Args:
    lengths_B: tokens of each row.
    keys_B: uint64, one a row.
    noise: what is masked.
    width: that of the longest row if not given.
  """
  lengths = np.asarray(lengths_B, np.int64)
  rows = len(lengths)
  if width is None:
    width = int(lengths.max(initial=0))
  spans = noise_spans(lengths, keys_B, noise)
  row = np.repeat(np.arange(rows), spans.counts_B)
  change = np.zeros((rows, width + 1), np.int8)
  change[row, spans.starts] = 1
  change[row, spans.ends] = -1
  is_noise = np.cumsum(change[:, :width], axis=1, dtype=np.int8)
  return is_noise.astype(bool)


def mask_spans(noise_BxL: np.ndarray) -> Spans:
  """Returns the runs of True, the inverse of `noise_mask`."""
  width = noise_BxL.shape[1] + 1
  # Runs do not cross rows: the last column of the padded grid is False, and so is the first.
  before = np.pad(noise_BxL, ((0, 0), (1, 0)))
  after = np.pad(noise_BxL, ((0, 0), (0, 1)))
  edges = np.flatnonzero(before != after)
  starts = edges[0::2]
  ends = edges[1::2]
  row = starts // width
  counts = np.bincount(row, minlength=len(noise_BxL))
  return Spans(counts, starts % width, ends % width)


def _copy(
  tokens: np.ndarray,
  output: np.ndarray,
  sources: np.ndarray,
  destinations: np.ndarray,
  lengths: np.ndarray,
) -> None:
  """Copies runs of tokens between flat arrays, each of its length, between the two indices."""
  done = np.cumsum(lengths) - lengths
  index = np.arange(lengths.sum())
  from_index = index + np.repeat(sources - done, lengths)
  to_index = index + np.repeat(destinations - done, lengths)
  output[to_index] = tokens[from_index]


def _sum_before(values: np.ndarray, counts_B: np.ndarray) -> np.ndarray:
  """Returns the sum of the values before each one in its row; rows have these counts of values."""
  total = np.cumsum(values) - values
  first = np.cumsum(counts_B) - counts_B
  before_B = np.append(total, 0)[first]
  return total - np.repeat(before_B, counts_B)


def _width(
  counts_B: np.ndarray,
  length: int | None,
  name: str,
) -> int:
  """Returns the width of rows of these tokens and EOS: as given, else of the longest.

  Raises:
    ValueError: the length given is too small.
  """
  longest = int(counts_B.max(initial=0)) + 1
  if length is not None and longest > length:
    raise ValueError(
      f"expected corrupted {name} of at most {length} tokens, got {longest}; see raw_length"
    )
  if length is None:
    return longest
  return length


def apply_mask(
  tokens_BxL: np.ndarray,
  lengths_B: ArrayLike,
  noise_BxL: np.ndarray,
  marks: Marks,
  *,
  input_length: int | None = None,
  target_length: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Corrupts a batch by a given noise mask.

  Each noise span becomes a sentinel in the inputs, numbered from <extra_id_0> on; the targets hold
  each sentinel followed by its span, and a closing sentinel where non-noise follows the last span.
  That is the T5 library's form for every mask that begins with non-noise. Where a mask begins
  with noise the library's targets would begin without a sentinel; here they begin with the first
  one.

  Args:
    tokens_BxL: token ids; what lies beyond a row's length is ignored.
    lengths_B: tokens of each row.
    noise_BxL: True on the tokens to mask.
    marks: ids of sentinels and EOS.
    input_length: S to pad the inputs to, instead of to the longest row.
    target_length: T to pad the targets to, likewise.

  Returns:
    (inputs_BxS, targets_BxT), EOS-ended, zero-padded int32.

  Raises:
    ValueError: a row needs more sentinels than there are, or does not fit a given length.
  """
  lengths = np.asarray(lengths_B, np.int64)
  columns = np.arange(np.shape(noise_BxL)[1])
  inside = columns[None] < lengths[:, None]
  spans = mask_spans(noise_BxL & inside)
  return _replace(tokens_BxL, lengths, spans, marks, input_length, target_length)


def _replace(
  tokens_BxL: np.ndarray,
  lengths: np.ndarray,
  spans: Spans,
  marks: Marks,
  input_length: int | None,
  target_length: int | None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (inputs_BxS, targets_BxT) of given spans."""
  counts = spans.counts_B
  if counts.max(initial=0) >= marks.sentinels:
    raise ValueError(
      f"expected fewer noise spans than the {marks.sentinels} sentinels, got {counts.max()}"
    )
  tokens = np.ascontiguousarray(tokens_BxL)
  spans_before = _sum_before(np.ones_like(spans.starts), counts)
  sentinels = marks.sentinel0 - spans_before
  inputs = _inputs(tokens, lengths, spans, sentinels, marks.eos, input_length)
  return inputs, _targets(tokens, lengths, spans, sentinels, marks, target_length)


def _inputs(
  tokens: np.ndarray,
  lengths: np.ndarray,
  spans: Spans,
  sentinels: np.ndarray,
  eos: int,
  input_length: int | None,
) -> np.ndarray:
  """Returns [B, S]: the tokens without noise, and a sentinel in the place of each span."""
  counts, starts, ends = spans
  rows = len(counts)
  # One run of non-noise before each span and one behind the last, any of which may be empty.
  run_counts = counts + 1
  last = np.cumsum(run_counts) - 1
  begin = np.zeros(len(starts) + rows, np.int64)
  stop = np.zeros_like(begin)
  inner = np.ones(len(begin), bool)
  inner[last] = False
  stop[inner] = starts
  stop[last] = lengths
  begin[1:][inner[:-1]] = ends
  size = stop - begin
  row = np.repeat(np.arange(rows), run_counts)
  before = _sum_before(size + 1, run_counts)
  filled = before + size
  width = _width(filled[last], input_length, "inputs")
  inputs = np.zeros((rows, width), np.int32)
  flat = inputs.reshape(-1)
  destinations = row * width + before
  sources = row * tokens.shape[1] + begin
  _copy(tokens.reshape(-1), flat, sources, destinations, size)
  after = destinations + size
  flat[after[inner]] = sentinels
  flat[after[last]] = eos
  return inputs


def _targets(
  tokens: np.ndarray,
  lengths: np.ndarray,
  spans: Spans,
  sentinels: np.ndarray,
  marks: Marks,
  target_length: int | None,
) -> np.ndarray:
  """Returns [B, T]: each span behind its sentinel.

  A closing sentinel follows where the row does not end with noise.
  """
  counts, starts, ends = spans
  row_count = len(counts)
  rows = np.arange(row_count)
  size = ends - starts
  row = np.repeat(rows, counts)
  before = _sum_before(size + 1, counts)
  sums = np.bincount(row, size + 1, minlength=row_count)
  filled = sums.astype(np.int64)
  at_end = np.zeros(row_count, np.int64)
  at_end[row] = ends  # the last one of a row is kept
  closing = at_end < lengths
  width = _width(filled + closing, target_length, "targets")
  targets = np.zeros((row_count, width), np.int32)
  flat = targets.reshape(-1)
  destinations = row * width + before
  sources = row * tokens.shape[1] + starts
  _copy(tokens.reshape(-1), flat, sources, destinations + 1, size)
  flat[destinations] = sentinels
  targets[rows, filled] = marks.sentinel0 - counts
  targets[rows, filled + closing] = marks.eos
  return targets


def corrupt(
  tokens_BxL: np.ndarray,
  lengths_B: ArrayLike,
  keys_B: np.ndarray,
  marks: Marks,
  noise: Noise = T5_NOISE,
  *,
  input_length: int | None = None,
  target_length: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Corrupts a batch as T5 does.

  Args:
    tokens_BxL: token ids; what lies beyond a row's length is ignored.
    lengths_B: tokens of each row.
    keys_B: uint64, one a row (see `keys`); equal keys and tokens give equal results in any batch.
    marks: ids of sentinels and EOS.
    noise: what is masked.
    input_length: S to pad the inputs to, instead of to the longest row.
    target_length: T to pad the targets to, likewise.

  Returns:
    (inputs_BxS, targets_BxT), int32, EOS-ended, zero-padded.

  Raises:
    ValueError: more spans than sentinels, or a result longer than the length given.
  """
  lengths = np.asarray(lengths_B, np.int64)
  spans = noise_spans(lengths, keys_B, noise)
  return _replace(tokens_BxL, lengths, spans, marks, input_length, target_length)


def restore(
  inputs_S: Iterable[int],
  targets_T: Iterable[int],
  marks: Marks,
  pad: int = 0,
) -> np.ndarray:
  """Returns the tokens of which `corrupt` made a row's inputs and targets; both may be padded.

  Args:
    inputs_S: the row's inputs.
    targets_T: the row's targets.
    marks: ids of sentinels and EOS.
    pad: id of padding.

  Raises:
    ValueError: the sentinels of the inputs do not come in order, or the targets lack one of them.
  """
  targets = _content(targets_T, marks, pad)
  spans = _spans_by_sentinel(targets, marks)
  tokens: list[int] = []
  expected = 0
  for token in _content(inputs_S, marks, pad):
    index = _sentinel_index(token, marks)
    if index is None:
      tokens.append(token)
      continue
    if index != expected or expected not in spans:
      raise ValueError(f"expected sentinel {expected} in inputs and targets, got {index}")
    tokens += spans[expected]
    expected += 1
  return np.asarray(tokens, np.int32)


def _content(
  row: Iterable[int],
  marks: Marks,
  pad: int,
) -> list[int]:
  """Returns a row's tokens before EOS, without the padding behind them."""
  tokens = [int(token) for token in row]
  while tokens and tokens[-1] == pad:
    tokens.pop()
  if marks.eos not in tokens:
    return tokens
  end = tokens.index(marks.eos)
  return tokens[:end]


def _sentinel_index(token: int, marks: Marks) -> int | None:
  """Returns N of a token that is <extra_id_N>, else None."""
  index = marks.sentinel0 - token
  if not 0 <= index < marks.sentinels:
    return None
  return index


def _spans_by_sentinel(
  targets: Sequence[int],
  marks: Marks,
) -> dict[int, list[int]]:
  """Returns the tokens behind each sentinel of targets."""
  spans: dict[int, list[int]] = {}
  current: list[int] | None = None
  for token in targets:
    index = _sentinel_index(token, marks)
    if index is not None:
      current = spans.setdefault(index, [])
    elif current is None:
      raise ValueError(f"expected targets that begin with a sentinel, got token {token}")
    else:
      current.append(token)
  return spans

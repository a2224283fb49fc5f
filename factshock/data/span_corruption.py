"""T5 span corruption in numpy, a whole batch at once, as a pure function of one key an example.

The semantics are those of the T5 library (`t5/data/preprocessors.py`: `random_spans_noise_mask`,
`noise_span_to_unique_sentinel`, `nonnoise_span_to_unique_sentinel`, `random_spans_helper`).
Needs numpy alone.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x):
  """The splitmix64 finalizer (Steele, Lea, Flood 2014): a bijection of uint64 arrays."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def keys(seed, indices_B):
  """One uint64 key an example, a pure function of (seed, example index); no two indices share a key."""
  start = mix(np.asarray([seed % 2**64], np.uint64) + _GOLDEN)
  return mix(start ^ mix(np.asarray(indices_B).astype(np.uint64)))


def draw(keys_B, count, stream=0):
  """[B, count] random uint64, a pure function of the keys; streams are independent of one another."""
  counters = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(stream << 32)
  return mix(np.asarray(keys_B)[:, None] + counters[None] * _GOLDEN)


def scale(random, limits):
  """Maps uint64 randomness to integers in [0, limit), limits below 2**31; the bias is below limit / 2**32."""
  return (((random >> np.uint64(32)) * limits.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def noise_counts(lengths_B, noise_density=0.15, mean_span_length=3.0):
  """(noise tokens, noise spans) of sequences of these lengths, rounded in float32 as the T5 library does.

  noise = round(length x density) clipped to [1, length - 1], spans = max(1, round(noise / mean)); halves
  round to even. A sequence of less than two tokens has no noise. Where the non-noise tokens are too few
  to keep all spans apart (the T5 library fails there) there are as many spans as they can keep apart.
  """
  lengths = np.asarray(lengths_B, np.int64)
  noise = np.round(lengths.astype(np.float32) * np.float32(noise_density)).astype(np.int64)
  noise = np.where(lengths < 2, 0, np.clip(noise, 1, np.maximum(lengths - 1, 1)))
  spans = np.round(noise.astype(np.float32) / np.float32(mean_span_length)).astype(np.int64)
  spans = np.minimum(np.clip(spans, 1, np.maximum(noise, 1)), np.maximum(lengths - noise, 1))
  return noise, np.where(noise > 0, spans, 0)


def span_lengths(length, noise_density=0.15, mean_span_length=3.0, roll=False):
  """(S, T): the lengths of inputs and targets, EOS included, of `length` corrupted tokens.

  With `roll` the targets may end in a closing sentinel; T counts it.
  """
  noise, spans = (int(n) for n in noise_counts(length, noise_density, mean_span_length))
  closing = int(length == 1 or bool(roll and length))
  return length - noise + spans + 1, noise + spans + closing + 1


def raw_length(
  input_length, noise_density=0.15, mean_span_length=3.0, target_length=None, roll=False
):
  """The most tokens whose corrupted inputs fill `input_length` (`random_spans_helper` of the T5 library).

  Where `target_length` is given the targets have to fit it too. 0 where not even one token fits.
  """

  def fits(length):
    inputs, targets = span_lengths(length, noise_density, mean_span_length, roll)
    return inputs <= input_length and (target_length is None or targets <= target_length)

  length = 0
  while fits(length + 1):
    length += 1
  return length


def _choose(random_RxK, pools_R, counts_R):
  """For each row, `count` distinct numbers of range(pool), ascending; unused places hold the pool size.

  Floyd's sampling, all rows in step: every subset is equally likely.
  """
  rows, most = random_RxK.shape
  width = int(pools_R.max(initial=0)) + 1  # the last column takes what unused places write
  top = pools_R[:, None] - counts_R[:, None] + np.arange(most)[None]
  used = np.arange(most)[None] < counts_R[:, None]
  start = np.arange(rows)[:, None] * width
  tries = np.where(used, scale(random_RxK, np.where(used, top + 1, 1)), width - 1) + start
  top = np.where(used, top, width - 1) + start
  taken = np.zeros(rows * width, bool)
  picks = np.empty((most, rows), np.int64)
  tries = np.ascontiguousarray(tries.T)
  top = np.ascontiguousarray(top.T)
  for place in range(most):
    pick = np.where(taken[tries[place]], top[place], tries[place])
    taken[pick] = True
    picks[place] = pick
  return np.sort(np.where(used, picks.T - start, pools_R[:, None]), axis=1)


def noise_spans(lengths_B, keys_B, *, noise_density=0.15, mean_span_length=3.0, roll=False):
  """(spans_B, starts, ends): the number of noise spans of each row, and all spans row by row in flat arrays.

  The noise tokens are cut at random into non-empty spans, kept apart by non-empty non-noise spans; every
  outcome that the counts allow is equally likely. Without `roll` a row begins with non-noise and ends
  with noise, as in the T5 library: a sequence with one span is then always masked at its end. With `roll`
  the non-noise before the first and after the last span may be of any length, none included, so that a
  single span starts at any position with equal probability. The T5 library's `random_roll` instead
  rotates the finished mask, which tears a span at the edge in two (one span more than computed, and
  sentinels of inputs and targets that no longer agree where the mask begins with noise); here spans
  stay whole and their number is as computed.
  """
  lengths = np.asarray(lengths_B, np.int64)
  rows = len(lengths)
  noise, spans = noise_counts(lengths, noise_density, mean_span_length)
  most = int(spans.max(initial=0))
  clear = lengths - noise
  cuts = np.maximum(spans - 1, 0)
  random = np.concatenate([draw(keys_B, most), draw(keys_B, most, stream=1)])
  pools = np.concatenate(
    [np.maximum(noise - 1, 0), clear + 1 if roll else np.maximum(clear - 1, 0)]
  )
  picks = _choose(random, pools, np.concatenate([cuts, spans if roll else cuts]))
  # Tokens of noise up to the end of each span, and of non-noise up to its start.
  noise_after = np.minimum(picks[:rows] + 1, noise[:, None])
  clear_before = picks[rows:] if roll else np.minimum(picks[rows:] + 1, clear[:, None])
  noise_before = np.concatenate([np.zeros((rows, 1), np.int64), noise_after[:, :-1]], axis=1)[
    :, :most
  ]
  used = np.arange(most)[None] < spans[:, None]
  return spans, (clear_before + noise_before)[used], (clear_before + noise_after)[used]


def noise_mask(
  lengths_B, keys_B, *, noise_density=0.15, mean_span_length=3.0, roll=False, width=None
):
  """[B, width] bool, True on the tokens of `noise_spans`; the width is the longest row's if not given."""
  lengths = np.asarray(lengths_B, np.int64)
  width = int(lengths.max(initial=0)) if width is None else width
  spans, starts, ends = noise_spans(
    lengths, keys_B, noise_density=noise_density, mean_span_length=mean_span_length, roll=roll
  )
  row = np.repeat(np.arange(len(lengths)), spans)
  change = np.zeros((len(lengths), width + 1), np.int8)
  change[row, starts], change[row, ends] = 1, -1
  return np.cumsum(change[:, :width], axis=1, dtype=np.int8).astype(bool)


def mask_spans(noise_BxL):
  """(spans_B, starts, ends) of the runs of True, the inverse of `noise_mask`."""
  width = noise_BxL.shape[1] + 1
  before = np.pad(noise_BxL, ((0, 0), (1, 0)))
  # Runs do not cross rows: the last column of the padded grid is False, and so is the first.
  edges = np.flatnonzero(before != np.pad(noise_BxL, ((0, 0), (0, 1))))
  starts = edges[0::2]
  ends = edges[1::2]
  return np.bincount(starts // width, minlength=len(noise_BxL)), starts % width, ends % width


def _copy(tokens, output, sources, places, lengths):
  """Copies runs of tokens between flat arrays: each of its length, from a source index to a place."""
  done = np.cumsum(lengths) - lengths
  index = np.arange(lengths.sum())
  output[index + np.repeat(places - done, lengths)] = tokens[
    index + np.repeat(sources - done, lengths)
  ]


def _within(values, counts_B):
  """Running sum of values before each one within its row; rows have these counts of values."""
  total = np.cumsum(values) - values
  first = np.cumsum(counts_B) - counts_B
  return total - np.repeat(np.append(total, 0)[first], counts_B)


def _width(counts_B, length, what):
  """Width of rows of these tokens and EOS: as given, else of the longest. ValueError if too small."""
  longest = int(counts_B.max(initial=0)) + 1
  if length is not None and longest > length:
    raise ValueError(
      f"expected corrupted {what} of at most {length} tokens, got {longest}; see raw_length"
    )
  return longest if length is None else length


def apply_mask(
  tokens_BxL,
  lengths_B,
  noise_BxL,
  *,
  sentinel0,
  eos=1,
  sentinels=100,
  input_length=None,
  target_length=None,
):
  """(inputs_BxS, targets_BxT) for a given noise mask: EOS-ended, zero-padded int32.

  Each noise span becomes a sentinel in the inputs, numbered from `sentinel0` downwards; the targets hold
  each sentinel followed by its span, and a closing sentinel where non-noise follows the last span.
  That is the T5 library's form for every mask that begins with non-noise. Where a mask begins
  with noise the library's targets would begin without a sentinel; here they begin with the first one.

  Raises:
    ValueError: a row needs more sentinels than there are, or does not fit a given length.
  """
  lengths = np.asarray(lengths_B, np.int64)
  inside = np.arange(np.shape(noise_BxL)[1])[None] < lengths[:, None]
  return _replace(
    tokens_BxL,
    lengths,
    mask_spans(noise_BxL & inside),
    sentinel0,
    eos,
    sentinels,
    input_length,
    target_length,
  )


def _replace(tokens_BxL, lengths, spans, sentinel0, eos, sentinels, input_length, target_length):
  """(inputs_BxS, targets_BxT) of given spans: (spans_B, starts, ends)."""
  counts, starts, ends = spans
  if counts.max(initial=0) >= sentinels:
    raise ValueError(
      f"expected fewer noise spans than the {sentinels} sentinels, got {counts.max()}"
    )
  tokens = np.ascontiguousarray(tokens_BxL)
  marks = sentinel0 - _within(np.ones_like(starts), counts)
  return (
    _inputs(tokens, lengths, counts, starts, ends, marks, eos, input_length),
    _targets(tokens, lengths, counts, starts, ends, marks, sentinel0, eos, target_length),
  )


def _inputs(tokens, lengths, counts, starts, ends, marks, eos, input_length):
  """[B, S]: the tokens without noise, a sentinel in the place of each span."""
  # One run of non-noise before each span and one behind the last, any of which may be empty.
  last = np.cumsum(counts + 1) - 1
  begin = np.zeros(len(starts) + len(counts), np.int64)
  stop = np.zeros_like(begin)
  inner = np.ones(len(begin), bool)
  inner[last] = False
  stop[inner], stop[last] = starts, lengths
  begin[1:][inner[:-1]] = ends
  size = stop - begin
  row = np.repeat(np.arange(len(counts)), counts + 1)
  before = _within(size + 1, counts + 1)
  inputs = np.zeros((len(counts), _width((before + size)[last], input_length, "inputs")), np.int32)
  flat = inputs.reshape(-1)
  places = row * inputs.shape[1] + before
  _copy(tokens.reshape(-1), flat, row * tokens.shape[1] + begin, places, size)
  flat[(places + size)[inner]] = marks
  flat[(places + size)[last]] = eos
  return inputs


def _targets(tokens, lengths, counts, starts, ends, marks, sentinel0, eos, target_length):
  """[B, T]: each span behind its sentinel, and a closing sentinel where the row does not end with noise."""
  rows = np.arange(len(counts))
  size = ends - starts
  row = np.repeat(rows, counts)
  before = _within(size + 1, counts)
  filled = np.bincount(row, size + 1, minlength=len(counts)).astype(np.int64)
  at_end = np.zeros(len(counts), np.int64)
  at_end[row] = ends  # the last one of a row is kept
  closing = at_end < lengths
  targets = np.zeros((len(counts), _width(filled + closing, target_length, "targets")), np.int32)
  flat = targets.reshape(-1)
  places = row * targets.shape[1] + before
  _copy(tokens.reshape(-1), flat, row * tokens.shape[1] + starts, places + 1, size)
  flat[places] = marks
  targets[rows, filled] = sentinel0 - counts
  targets[rows, filled + closing] = eos
  return targets


def corrupt(
  tokens_BxL,
  lengths_B,
  keys_B,
  *,
  noise_density=0.15,
  mean_span_length=3.0,
  roll=False,
  sentinel0,
  eos=1,
  sentinels=100,
  input_length=None,
  target_length=None,
):
  """T5 span corruption of a batch: (inputs_BxS, targets_BxT), int32, EOS-ended, zero-padded.

  Args:
    tokens_BxL: token ids; what lies beyond a row's length is ignored.
    lengths_B: tokens of each row.
    keys_B: uint64, one a row (see `keys`); equal keys and tokens give equal results in any batch.
    noise_density: share of tokens to mask. mean_span_length: mean tokens of a span.
    roll: let spans start anywhere (see `noise_spans`); for sequences with one or two spans.
    sentinel0: id of <extra_id_0>; the others follow downwards. sentinels: how many there are.
    input_length, target_length: pad to these (S, T) instead of to the longest row.

  Raises:
    ValueError: more spans than sentinels, or a result longer than the length given.
  """
  lengths = np.asarray(lengths_B, np.int64)
  spans = noise_spans(
    lengths, keys_B, noise_density=noise_density, mean_span_length=mean_span_length, roll=roll
  )
  return _replace(
    tokens_BxL, lengths, spans, sentinel0, eos, sentinels, input_length, target_length
  )


def restore(inputs_S, targets_T, *, sentinel0, eos=1, pad=0, sentinels=100):
  """The tokens of which `corrupt` made this row's inputs and targets; both may be padded.

  Raises:
    ValueError: the sentinels of the inputs do not come in order, or the targets lack one of them.
  """

  def content(row):
    row = [int(token) for token in row if token != pad]
    return row[: row.index(eos)] if eos in row else row

  def number(token):
    return sentinel0 - token if sentinel0 - sentinels < token <= sentinel0 else None

  spans = {}
  current = None
  for token in content(targets_T):
    if number(token) is not None:
      current = spans.setdefault(number(token), [])
    elif current is None:
      raise ValueError(f"expected targets that begin with a sentinel, got token {token}")
    else:
      current.append(token)
  tokens = []
  expected = 0
  for token in content(inputs_S):
    if number(token) is None:
      tokens.append(token)
      continue
    if number(token) != expected or expected not in spans:
      raise ValueError(f"expected sentinel {expected} in inputs and targets, got {number(token)}")
    tokens += spans[expected]
    expected += 1
  return np.asarray(tokens, np.int32)

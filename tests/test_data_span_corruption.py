"""Span corruption against a slow reference of the T5 library's definition, by hand, and
inverted.
"""

import collections

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from factshock.data import span_corruption
from factshock.data.span_corruption import Marks, Noise

TOP = 1099  # <extra_id_0>
MARKS = Marks(TOP)


def t5_spans(tokens, mask):
  """`noise_span_to_unique_sentinel` of the T5 library for one sequence, in plain Python."""
  result, number, previous = [], 0, False
  for token, noise in zip(tokens, mask):
    if not noise:
      result.append(token)
    elif not previous:
      result.append(TOP - number)
      number += 1
    previous = noise
  return result


def t5_counts(length, density, mean):
  """(noise tokens, noise spans) as `random_spans_noise_mask` counts them, in float32 as there."""
  length = max(length, 2)
  noise = int(np.round(np.float32(length) * np.float32(density)))
  noise = min(max(noise, 1), length - 1)
  return noise, max(int(np.round(np.float32(noise) / np.float32(mean))), 1)


def spans_of(mask):
  """Number of runs of True."""
  mask = np.concatenate([[False], mask])
  return int((mask[1:] & ~mask[:-1]).sum())


def batch_of(lengths, seed=0):
  """Random tokens [B, L] of some lengths, garbage behind them."""
  lengths = np.asarray(lengths)
  tokens = np.random.default_rng(seed).integers(
    3, 900, (len(lengths), max(1, lengths.max(initial=0)))
  )
  return tokens.astype(np.int32), lengths, span_corruption.keys(seed, np.arange(len(lengths)))


def unpadded(row):
  return [int(token) for token in row if token]


def test_hand_worked_two_spans():
  tokens = np.asarray([[11, 12, 13, 14, 15, 16, 17, 18]])
  mask = np.asarray([[0, 1, 1, 0, 0, 1, 0, 0]], bool)
  inputs, targets = span_corruption.apply_mask(tokens, [8], mask, MARKS)
  assert inputs.tolist() == [[11, TOP, 14, 15, TOP - 1, 17, 18, 1]]
  assert targets.tolist() == [[TOP, 12, 13, TOP - 1, 16, TOP - 2, 1]]


def test_hand_worked_noise_at_the_end_has_no_closing_sentinel():
  inputs, targets = span_corruption.apply_mask(
    np.asarray([[11, 12, 13]]), [3], np.asarray([[False, False, True]]), MARKS
  )
  assert inputs.tolist() == [[11, 12, TOP, 1]] and targets.tolist() == [[TOP, 13, 1]]


def test_hand_worked_noise_at_the_start_begins_with_the_first_sentinel():
  inputs, targets = span_corruption.apply_mask(
    np.asarray([[11, 12, 13]]), [3], np.asarray([[True, True, False]]), MARKS
  )
  assert inputs.tolist() == [[TOP, 13, 1]] and targets.tolist() == [[TOP, 11, 12, TOP - 1, 1]]


def test_hand_worked_one_and_no_token():
  tokens, lengths = np.asarray([[7, 8], [7, 8], [7, 8]]), [1, 0, 2]
  inputs, targets = span_corruption.corrupt(
    tokens, lengths, span_corruption.keys(0, range(3)), MARKS
  )
  assert inputs.tolist() == [[7, 1, 0], [1, 0, 0], [7, TOP, 1]]
  assert targets.tolist() == [[TOP, 1, 0], [1, 0, 0], [TOP, 8, 1]]


def test_eight_tokens_have_one_noise_token_in_one_span():
  assert [int(n) for n in span_corruption.noise_counts(8)] == [1, 1]
  assert span_corruption.span_lengths(8) == (9, 3) and span_corruption.span_lengths(
    8, Noise(roll=True)
  ) == (9, 4)


@hypothesis.given(
  lengths=st.lists(st.integers(0, 90), min_size=1, max_size=6),
  seed=st.integers(0, 99),
  density=st.sampled_from([0.1, 0.15, 0.3, 0.5]),
  mean=st.sampled_from([2.0, 3.0, 8.0]),
  roll=st.booleans(),
)
def test_equals_the_reference_on_the_same_masks_and_inverts(lengths, seed, density, mean, roll):
  tokens, lengths, keys = batch_of(lengths, seed)
  noise = Noise(density, mean, roll)
  masks = span_corruption.noise_mask(lengths, keys, noise, width=tokens.shape[1])
  inputs, targets = span_corruption.corrupt(tokens, lengths, keys, MARKS, noise)
  for row, length in enumerate(lengths):
    raw, mask = tokens[row, :length].tolist(), masks[row, :length]
    assert not masks[row, length:].any()
    assert unpadded(inputs[row]) == t5_spans(raw, mask) + [1]
    if length and not mask[0]:
      assert unpadded(targets[row]) == t5_spans(raw, ~mask) + [1]
    if length > 1:
      assert (mask.sum(), spans_of(mask)) == t5_counts(length, density, mean)
    if length > 1 and not roll:
      assert not mask[0] and mask[-1]
    sizes = len(unpadded(inputs[row])), len(unpadded(targets[row]))
    expected = span_corruption.span_lengths(int(length), noise)
    assert sizes[0] == expected[0] and expected[1] - roll <= sizes[1] <= expected[1]
    assert span_corruption.restore(inputs[row], targets[row], MARKS).tolist() == raw


@hypothesis.given(data=st.data(), length=st.integers(0, 20))
def test_any_mask_inverts(data, length):
  bits = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
  mask = np.asarray(bits, bool).reshape(1, length)
  tokens = np.arange(3, 3 + length)[None]
  inputs, targets = span_corruption.apply_mask(tokens, [length], mask, MARKS)
  assert span_corruption.restore(inputs[0], targets[0], MARKS).tolist() == tokens[0].tolist()


@pytest.mark.parametrize("roll", [False, True])
def test_a_row_does_not_depend_on_its_batch(roll):
  tokens, lengths, keys = batch_of([40, 9, 23, 2, 61])
  inputs, targets = span_corruption.corrupt(tokens, lengths, keys, MARKS, Noise(roll=roll))
  for row in range(5):
    alone = span_corruption.corrupt(
      tokens[row : row + 1], lengths[row : row + 1], keys[row : row + 1], MARKS, Noise(roll=roll)
    )
    assert unpadded(alone[0][0]) == unpadded(inputs[row]) and unpadded(alone[1][0]) == unpadded(
      targets[row]
    )


def test_keys_differ_by_seed_and_index():
  keys = np.concatenate([span_corruption.keys(seed, np.arange(10000)) for seed in range(3)])
  assert len(np.unique(keys)) == 30000
  assert (span_corruption.keys(1, [5, 7]) == span_corruption.keys(1, np.arange(10))[[5, 7]]).all()


def chi_square(counts, kinds):
  """Pearson's statistic against equal frequencies."""
  counts = np.asarray(list(counts.values()) + [0] * (kinds - len(counts)))
  expected = counts.sum() / kinds
  return ((counts - expected) ** 2 / expected).sum()


def test_every_mask_is_equally_likely():
  """7 tokens, 4 of noise in 2 spans: C(3,1) x C(2,1) masks without roll, C(3,1) x C(4,2) with
  it.
  """
  for roll, kinds in ((False, 6), (True, 18)):
    masks = span_corruption.noise_mask(
      np.full(18000, 7),
      span_corruption.keys(3, np.arange(18000)),
      Noise(0.57, 2.0, roll),
    )
    counts = collections.Counter(map(bytes, masks))
    assert len(counts) == kinds
    assert chi_square(counts, kinds) < 45  # the 99.98% quantile at 17 degrees of freedom


def test_rolled_single_span_starts_anywhere():
  masks = span_corruption.noise_mask(
    np.full(8000, 8), span_corruption.keys(0, np.arange(8000)), Noise(roll=True)
  )
  assert chi_square(collections.Counter(masks.argmax(axis=1).tolist()), 8) < 30
  still = span_corruption.noise_mask(np.full(50, 8), span_corruption.keys(0, np.arange(50)))
  assert (still.argmax(axis=1) == 7).all()


def test_512_inputs_are_the_published_lengths():
  """T5: 568 raw tokens fill 512 inputs, with 114 targets (density .15, mean 3)."""
  assert span_corruption.raw_length(512) == 568
  assert span_corruption.span_lengths(568) == (512, 114)


@pytest.mark.parametrize("input_length", [16, 24, 100, 512, 1024])
@pytest.mark.parametrize("density,mean", [(0.15, 3.0), (0.3, 2.0), (0.5, 8.0)])
def test_raw_length_is_the_library_helper(input_length, density, mean):
  def lengths(tokens):
    noise = int(round(tokens * density))
    spans = int(round(noise / mean))
    return tokens - noise + spans + 1, noise + spans + 1

  tokens = input_length - 1
  while lengths(tokens + 1)[0] <= input_length:
    tokens += 1
  assert span_corruption.raw_length(input_length, Noise(density, mean)) == tokens
  assert span_corruption.span_lengths(tokens, Noise(density, mean)) == lengths(tokens)


def test_too_few_sentinels_or_room_is_an_error():
  tokens, lengths, keys = batch_of([200])
  with pytest.raises(ValueError, match="10 sentinels, got 10"):
    span_corruption.corrupt(tokens, lengths, keys, Marks(TOP, sentinels=10))
  with pytest.raises(ValueError, match="inputs of at most 100 tokens, got 181"):
    span_corruption.corrupt(tokens, lengths, keys, MARKS, input_length=100)


def test_lengths_given_pad_to_them():
  tokens, lengths, keys = batch_of([8, 5])
  inputs, targets = span_corruption.corrupt(
    tokens, lengths, keys, MARKS, input_length=20, target_length=6
  )
  assert inputs.shape == (2, 20) and targets.shape == (2, 6)
  assert inputs.dtype == targets.dtype == np.int32


def test_restore_refuses_what_does_not_match():
  with pytest.raises(ValueError, match="sentinel 0"):
    span_corruption.restore([5, TOP, 1], [TOP - 1, 7, 1], MARKS)
  with pytest.raises(ValueError, match="begin with a sentinel"):
    span_corruption.restore([5, TOP, 1], [7, 1], MARKS)

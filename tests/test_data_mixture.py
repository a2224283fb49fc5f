"""Mixtures: exact ratios, an order by (seed, step) alone, exact resume, and salient-span
masking.
"""

import collections
import itertools
import json
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from factshock.data import (
  corpora,
  decoder_text,
  example_sources,
  mixture,
  span_corruption,
  tokenizers,
)
from factshock.runtime.errors import UserError

TOKENIZER = tokenizers.word_tokenizer([f"w{i}" for i in range(200)], 24)
TOP = TOKENIZER.sentinel(0)


def examples(count):
  """Examples that are told apart by their target token."""
  return [
    {
      "inputs": np.asarray([3, 4, TOP, 1], np.int32),
      "targets": np.asarray([TOP, 3 + i, 1], np.int32),
    }
    for i in range(count)
  ]


def corpus(count=300, seed=0):
  """Sentences of 6 to 9 random words."""
  lengths = np.random.default_rng(seed).integers(6, 10, count)
  tokens = np.random.default_rng(seed + 1).integers(3, 203, lengths.sum()).astype(np.int32)
  return corpora.Corpus(tokens, np.append(0, np.cumsum(lengths)).astype(np.int64))


def make(seed=0, start=0, batch_size=10, qa_weight=1.0, ratios=(1, 4), length=12, pack_to=0):
  sources = [
    example_sources.qa_source(examples(7), loss_weight=qa_weight),
    example_sources.span_source(corpus(), TOKENIZER, noise=span_corruption.Noise(roll=True)),
  ]
  return mixture.batches(
    sources,
    ratios,
    batch_size=batch_size,
    input_length=length,
    target_length=length // 2,
    seed=seed,
    pack_to=pack_to,
  ).starting_at(start)


def equal(first, second):
  return all((first[name] == second[name]).all() for name in ("inputs", "targets", "weights"))


def is_qa(batch):
  return (batch["inputs"][:, :4] == [[3, 4, TOP, 1]]).all(axis=1)


def test_batches_have_the_form_of_a_batch():
  batch = next(make())
  assert batch["inputs"].shape == (10, 12) and batch["targets"].shape == batch["weights"].shape == (
    10,
    6,
  )
  assert [batch[name].dtype for name in ("inputs", "targets", "weights")] == [
    np.int32,
    np.int32,
    np.float32,
  ]
  assert (batch["weights"] == (batch["targets"] != 0)).all()
  assert ((batch["inputs"] == 1).sum(axis=1) == 1).all() and (
    (batch["targets"] == 1).sum(axis=1) == 1
  ).all()


def test_ratio_is_exact_by_the_example():
  assert [is_qa(batch).sum() for batch in itertools.islice(make(), 5)] == [2] * 5
  counts = [is_qa(batch).sum() for batch in itertools.islice(make(batch_size=8), 5)]
  assert sum(counts) == 8 and set(counts) <= {1, 2}


@hypothesis.given(ratios=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_selection_interleaves_evenly_and_in_order(ratios):
  source, place = mixture.select(np.arange(300), ratios)
  for number, ratio in enumerate(ratios):
    assert place[source == number].tolist() == list(range((source == number).sum()))
    share = np.cumsum(source == number) - np.arange(1, 301) * ratio / sum(ratios)
    assert abs(share).max() < len(ratios)
    assert (source == number)[: sum(ratios)].sum() == ratio


def test_whole_ratios():
  assert mixture.whole_ratios([1, 4]) == mixture.whole_ratios([0.2, 0.8]) == (1, 4)
  assert mixture.whole_ratios([3, 7]) == (3, 7) and mixture.whole_ratios([2, 2]) == (1, 1)
  with pytest.raises(ValueError, match="expected positive ratios"):
    mixture.whole_ratios([1, 0])


@hypothesis.given(size=st.integers(1, 500), key=st.integers(0, 2**64 - 1))
def test_each_pass_holds_every_row_once(size, key):
  rows, passes = mixture.permute(np.arange(2 * size), size, key)
  assert (np.sort(rows.reshape(2, size), axis=1) == np.arange(size)).all()
  assert (passes == np.arange(2 * size) // size).all()


def test_passes_differ_and_first_places_are_uniform():
  rows = mixture.permute(np.arange(600), 200, 5)[0].reshape(3, 200)
  assert (rows[0] == rows[1]).sum() < 20 and (rows[1] == rows[2]).sum() < 20
  pairs = collections.Counter(
    tuple(mixture.permute(np.arange(2), 5, key)[0]) for key in range(4000)
  )
  assert len(pairs) == 20
  assert (
    sum((count - 200) ** 2 / 200 for count in pairs.values()) < 50
  )  # 99.99% quantile at 19 degrees


def test_every_example_comes_once_a_pass():
  seen = [batch["targets"][is_qa(batch), 1] for batch in itertools.islice(make(), 7)]
  assert sorted(np.concatenate(seen).tolist()) == sorted(list(range(3, 10)) * 2)


def test_order_is_a_function_of_seed_and_step():
  first = list(itertools.islice(make(), 6))
  assert all(map(equal, first, make()))
  assert not equal(first[0], next(make(seed=1)))
  assert equal(first[4], next(make(start=4)))


def test_masks_are_new_in_each_pass():
  line = corpora.Corpus(np.arange(3, 11, dtype=np.int32), np.asarray([0, 8]))
  source = example_sources.span_source(line, TOKENIZER, noise=span_corruption.Noise(roll=True))
  batch = next(
    mixture.batches([source], [1], batch_size=200, input_length=12, target_length=6, seed=0)
  )
  assert len(set(batch["targets"][:, 1].tolist())) == 8
  for inputs, targets in zip(batch["inputs"], batch["targets"]):
    restored = span_corruption.restore(inputs, targets, span_corruption.Marks(TOP, sentinels=24))
    assert restored.tolist() == list(range(3, 11))


def test_resume_is_exact_and_counts_what_was_handed_out():
  loader = make()
  for _ in range(3):
    next(loader)
  time.sleep(0.2)  # let the thread prefetch: what is in its buffer must not count
  state = json.loads(json.dumps(loader.get_state()))
  assert state["step"] == 3
  expected = list(itertools.islice(loader, 4))
  resumed = make()
  resumed.set_state(state)
  assert all(map(equal, expected, resumed))
  loader.set_state(state)
  assert all(map(equal, expected, loader))


def test_packed_batches_hold_the_same_examples_in_few_shapes():
  def tokens(batch):
    return sorted(batch["targets"][batch["targets"] != 0].tolist())

  packed, shapes, filled, places = make(length=24, pack_to=2), set(), 0, 0
  for plain, one in itertools.islice(zip(make(length=24), packed), 20):
    assert tokens(plain) == tokens(one) and one["weights"].sum() == plain["weights"].sum()
    shapes.add(one["inputs"].shape)
    filled, places = filled + (one["inputs"] != 0).sum(), places + one["inputs"].size
  assert len(shapes) <= 6 and all(rows % 2 == 0 and length >= 24 for rows, length in shapes)
  assert filled > 0.7 * places
  again = make(length=24, pack_to=2)
  again.set_state(packed.get_state())
  assert equal(next(again), next(packed))


def test_state_of_other_data_is_refused():
  for other in (make(seed=1), make(ratios=(1, 3)), make(batch_size=9)):
    with pytest.raises(UserError, match="loader state: expected"):
      other.set_state(make().get_state())


def test_loss_weight_zero_keeps_the_examples():
  batch, silent = next(make()), next(make(qa_weight=0.0))
  assert (batch["inputs"] == silent["inputs"]).all() and (
    batch["targets"] == silent["targets"]
  ).all()
  assert (silent["weights"][is_qa(batch)] == 0).all()
  assert (silent["weights"][~is_qa(batch)] == batch["weights"][~is_qa(batch)]).all()
  heavy = next(make(qa_weight=4.0))["weights"]
  assert heavy[is_qa(batch)].max() == 4 and heavy[is_qa(batch), 3:].max() == 0


def test_lines_are_cut_to_what_fits():
  batch = next(make(length=8))
  assert ((batch["inputs"] == 1).sum(axis=1) == 1).all()
  assert max((row != 0).sum() for row in batch["inputs"]) == 8


def test_what_does_not_fit_is_an_error():
  long = [*examples(2), {"inputs": np.ones(30, np.int32), "targets": np.ones(2, np.int32)}]
  with pytest.raises(
    UserError, match="source 'qa', example 2: expected at most 12 input .* got 30"
  ):
    mixture.batches(
      [example_sources.qa_source(long)], [1], batch_size=2, input_length=12, target_length=6, seed=0
    )
  with pytest.raises(UserError, match="at least one example"):
    example_sources.qa_source([])
  with pytest.raises(UserError, match="at least one line"):
    example_sources.span_source(
      corpora.Corpus(np.zeros(0, np.int32), np.zeros(1, np.int64)), TOKENIZER
    )
  spans = example_sources.span_source(corpus(), TOKENIZER)
  with pytest.raises(UserError, match="at least 2 corrupted tokens"):
    mixture.batches([spans], [1], batch_size=2, input_length=2, target_length=6, seed=0)
  with pytest.raises(ValueError, match="one ratio for each"):
    mixture.batches([spans], [1, 2], batch_size=2, input_length=12, target_length=6, seed=0)


def test_more_spans_than_sentinels_is_an_error():
  line = corpora.Corpus(np.full(600, 3, np.int32), np.asarray([0, 600]))
  with pytest.raises(
    UserError, match="expected fewer noise spans than the tokenizer's 24 sentinels, got 26"
  ):
    mixture.batches(
      [example_sources.span_source(line, TOKENIZER)],
      [1],
      batch_size=2,
      input_length=462,
      target_length=200,
      seed=0,
    )


def salient_windows(count=50):
  """Windows "4 context, 2 subject, 3 context, 1 object, 4 context" with tokens that tell the parts
  apart.
  """
  window = [10, 11, 12, 13, 50, 51, 20, 21, 22, 60, 30, 31, 32, 33]
  return corpora.SalientWindows(
    np.asarray(window * count, np.int32),
    np.arange(count + 1) * 14,
    np.asarray([[4, 6]] * count),
    np.asarray([[9, 10]] * count),
    np.arange(count),
  )


def salient_rows(input_length=20, **options):
  source = example_sources.salient_source(salient_windows(), TOKENIZER, **options)
  batch = next(
    mixture.batches(
      [source], [1], batch_size=2000, input_length=input_length, target_length=6, seed=0
    )
  )
  return [
    (
      span_corruption.restore(a, b, span_corruption.Marks(TOP, sentinels=24)).tolist(),
      b[b != 0].tolist(),
    )
    for a, b in zip(batch["inputs"], batch["targets"])
  ]


def test_salient_spans_come_in_their_shares():
  special = {TOP, TOP - 1, 1}
  masked = collections.Counter(
    tuple(t for t in target if t not in special) for _, target in salient_rows()
  )
  assert abs(masked[(60,)] / 2000 - 0.6) < 0.05  # a random span hits it too, seldom
  assert abs(masked[(50, 51)] / 2000 - 0.1) < 0.03
  always = salient_rows(object_share=1.0, subject_share=0.0)
  assert {tuple(target) for _, target in always} == {(TOP, 60, TOP - 1, 1), (TOP, 60, 1)}


def test_salient_crops_keep_both_names_and_vary():
  rows = salient_rows()
  window = salient_windows(1).tokens.tolist()
  starts, ends = collections.Counter(), collections.Counter()
  for tokens, target in rows:
    start = window.index(tokens[0])
    assert tokens == window[start : start + len(tokens)] and {50, 51, 60} <= set(tokens)
    starts[start] += 1
    ends[start + len(tokens)] += 1
  assert sorted(starts) == [0, 1, 2, 3, 4] and sorted(ends) == [10, 11, 12, 13, 14]
  assert min(starts.values()) > 300 and min(ends.values()) > 300


def test_closing_sentinel_exactly_where_text_follows():
  for tokens, target in salient_rows(object_share=1.0, subject_share=0.0):
    assert (target[-2] == TOP - 1) == (tokens[-1] != 60)


def test_salient_windows_are_cropped_to_the_length(capsys):
  rows = salient_rows(input_length=9)
  assert {len(tokens) for tokens, _ in rows} <= {6, 7, 8} and all(
    {50, 51, 60} <= set(row) for row, _ in rows
  )
  assert capsys.readouterr().out == ""
  rows = salient_rows(input_length=6, object_share=1.0, subject_share=0.0)
  assert "50 objects and 50 subjects of 50 windows do not fit" in capsys.readouterr().out
  assert {token for tokens, _ in rows for token in tokens} == set(
    salient_windows(1).tokens.tolist()
  )
  assert {len(tokens) for tokens, _ in rows} == {5}


def test_shares_that_exceed_one():
  with pytest.raises(ValueError, match="shares that add up to at most 1"):
    example_sources.salient_source(
      salient_windows(), TOKENIZER, object_share=0.8, subject_share=0.4
    )


def test_a_batch_costs_little():
  """128 short sentences: about 1 ms on a quiet core; the bound leaves room for a busy machine."""
  sources = [
    example_sources.qa_source(examples(7)),
    example_sources.span_source(corpus(3000), TOKENIZER, noise=span_corruption.Noise(roll=True)),
  ]
  makers = [source.prepare(12, 6) for source in sources]
  began = time.process_time()
  for step in range(50):
    mixture.make_batch(sources, makers, (1, 4), 128, 0, step)
  assert (time.process_time() - began) / 50 < 0.006


def test_batches_name_the_tokens_that_count_where_few_do():
  weights = [[0, 0, 1, 1, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0.5, 0, 2]]
  examples = [
    {"tokens": np.arange(len(row), dtype=np.int32), "weights": np.array(row, np.float32)}
    for row in weights
  ]
  source = decoder_text.qa_source(examples)
  batch = next(
    mixture.batches([source], [1], batch_size=6, input_length=8, target_length=0, seed=0)
  )
  assert batch["predicted"].shape == (6, 4)
  for row_weights, positions in zip(batch["weights"], batch["predicted"]):
    counted = np.flatnonzero(row_weights)
    assert positions.tolist() == [*counted, *[0] * (4 - len(counted))]


def test_batches_with_text_do_not_name_the_tokens_that_count():
  example = {"tokens": np.arange(3, dtype=np.int32), "weights": np.ones(3, np.float32)}
  asked = decoder_text.qa_source([example])
  text = example_sources.Source("text", 1, asked.prepare)
  batch = next(
    mixture.batches([asked, text], [1, 1], batch_size=4, input_length=8, target_length=0, seed=0)
  )
  assert "predicted" not in batch

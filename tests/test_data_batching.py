"""Buckets and packing: shapes, weights, and that nothing is lost."""

import functools

import hf_t5
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np

from factshock.data import batching
from factshock.models import t5
from factshock.training import train_step


def padded(sizes, input_length=16, target_length=8):
  """A padded batch of examples of these token counts, each with its own tokens and weights."""
  batch = {
    "inputs": np.zeros((len(sizes), input_length), np.int32),
    "targets": np.zeros((len(sizes), target_length), np.int32),
    "weights": np.zeros((len(sizes), target_length), np.float32),
  }
  for row, (inputs, targets) in enumerate(sizes):
    batch["inputs"][row, :inputs] = np.arange(2, 2 + inputs) + 10 * row
    batch["targets"][row, :targets] = np.arange(2, 2 + targets) + 10 * row
    batch["weights"][row, :targets] = (row + 1) / 8
  return batch


def test_buckets_are_few_and_hold_their_length():
  sizes = [batching.bucket(length) for length in range(1, 1025)]
  assert sorted(set(sizes)) == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
  assert all(size >= length for length, size in enumerate(sizes, 1))


def unpacked(packed):
  """(inputs, targets, weights) of every example of a packed batch, sorted."""
  found = []
  for row in range(len(packed["inputs"])):
    segments = packed["input_segments"][row], packed["target_segments"][row]
    assert np.unique(segments[0]).tolist()[-1] == np.unique(segments[1]).tolist()[-1]
    for number in range(1, segments[0].max(initial=0) + 1):
      here = [segment == number for segment in segments]
      assert here[0].any() and here[1].any()
      found.append(
        tuple(
          tuple(packed[name][row][here[side]])
          for name, side in (("inputs", 0), ("targets", 1), ("weights", 1))
        )
      )
    for segment, names in zip(segments, (("inputs",), ("targets", "weights"))):
      assert all((packed[name][row][segment == 0] == 0).all() for name in names)
  return sorted(found)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
  st.lists(
    st.lists(st.tuples(st.integers(1, 16), st.integers(1, 8)), min_size=12, max_size=12),
    min_size=2,
    max_size=6,
  ),
  st.integers(1, 3),
)
def test_planned_rows_hold_every_batch_in_few_shapes_with_no_more_padding(batches, multiple):
  """Any batch of as many examples fits, seen before or not; the rows are a multiple; nothing is
  lost.
  """
  batches = [padded(sizes) for sizes in batches]
  shapes = batching.plan_shapes(batches[:-1], multiple)
  packed = [batching.pack_batch(batch, shapes) for batch in batches]
  assert all(
    len(one["inputs"]) % multiple == 0 and unpacked(one) == unpacked(batching.pack_batch(batch))
    for one, batch in zip(packed, batches)
  )
  assert len({one["inputs"].shape for one in packed[:-1]}) <= len(shapes.shapes) <= 6
  places = lambda many: sum(one["inputs"].size + one["targets"].size for one in many)
  fullest = max(len(batching.pack_batch(batch)["inputs"]) for batch in batches[:-1])
  one_shape = (
    -(-fullest // multiple)
    * multiple
    * (batches[0]["inputs"].shape[1] + batches[0]["targets"].shape[1])
  )
  assert places(packed[:-1]) <= one_shape * len(batches[:-1])


def test_planned_rows_hold_examples_longer_than_those_they_were_planned_by():
  shapes = batching.plan_shapes([padded([(3, 2)] * 12)] * 2)
  longest = padded([(16, 8)] + [(3, 2)] * 11)
  assert unpacked(batching.pack_batch(longest, shapes)) == unpacked(batching.pack_batch(longest))


def test_a_batch_larger_than_all_shapes_gets_more_rows():
  shapes = batching.plan_shapes([padded([(3, 2)] * 12)] * 2, 2)
  large = padded([(16, 8)] * 12)
  packed = batching.pack_batch(large, shapes)
  assert len(packed["inputs"]) % 2 == 0 and unpacked(packed) == unpacked(batching.pack_batch(large))


def test_batches_of_uneven_length_have_little_padding():
  """Questions of a few tokens, as PopQA has them: under a tenth of the positions of batches that
  were not planned by is padding.
  """
  random = np.random.default_rng(0)
  draw = lambda: padded(
    [(random.integers(7, 24), random.integers(2, 10)) for _ in range(32)], 24, 12
  )
  shapes = batching.plan_shapes([draw() for _ in range(32)])
  packed = [batching.pack_batch(draw(), shapes) for _ in range(100)]
  filled = sum(
    np.count_nonzero(one["input_segments"]) + np.count_nonzero(one["target_segments"])
    for one in packed
  )
  assert filled > 0.9 * sum(one["inputs"].size + one["targets"].size for one in packed)
  assert (
    len({one["inputs"].shape + one["targets"].shape for one in packed}) <= len(shapes.shapes) + 1
  )


def test_long_rows_fill_better_where_examples_are_uneven():
  """Of 64 examples, one as long as the row: a row each would be padding, for the most part."""
  batches = [
    padded([(16, 8)] + [(5 + (row + shift) % 3, 2) for row in range(63)]) for shift in range(4)
  ]
  shapes = batching.plan_shapes(batches)
  packed = [batching.pack_batch(batch, shapes) for batch in batches]
  filled = sum((one["inputs"] != 0).sum() + (one["targets"] != 0).sum() for one in packed)
  assert filled > 0.9 * sum(one["inputs"].size + one["targets"].size for one in packed)


@hypothesis.given(st.lists(st.tuples(st.integers(1, 16), st.integers(1, 8)), max_size=40))
def test_packing_loses_nothing(sizes):
  batch = padded(sizes)
  packed = batching.pack_batch(batch)
  assert {name: array.dtype for name, array in packed.items()} == {
    "inputs": np.int32,
    "targets": np.int32,
    "weights": np.float32,
    "input_segments": np.int32,
    "target_segments": np.int32,
  }
  assert len(packed["inputs"]) <= len(sizes)
  assert unpacked(packed) == sorted(
    tuple(
      tuple(batch[name][row, :length])
      for name, length in (("inputs", i), ("targets", t), ("weights", t))
    )
    for row, (i, t) in enumerate(sizes)
  )


def test_long_and_short_examples_share_rows():
  packed = batching.pack_batch(padded([(6, 2), (10, 2), (6, 2), (10, 2)]))
  assert packed["input_segments"].tolist() == [[1] * 10 + [2] * 6] * 2
  assert packed["target_segments"].tolist() == [[1, 1, 2, 2, 0, 0, 0, 0]] * 2


def test_packed_examples_give_the_same_loss_and_gradient():
  config = t5.T5Config(
    vocab_size=64, d_model=16, d_ff=32, num_heads=2, d_kv=8, encoder_layers=2, decoder_layers=2
  )
  params = t5.init(config, jax.random.key(0))
  sizes = [(3, 2), (16, 8), (5, 1), (1, 1), (4, 3), (6, 2)]
  batch = padded(sizes)
  packed = batching.pack_batch(batch, batching.Shapes(((4, (16, 8)),), 4))
  assert packed["target_segments"].max() > 2 and len(packed["inputs"]) == 4
  of = hf_t5.quick_jit(
    jax.value_and_grad(functools.partial(train_step.loss_fn, model_config=config), has_aux=True)
  )
  (loss, sums), gradient = of(params, batch=batch)
  (packed_loss, packed_sums), packed_gradient = of(params, batch=packed)
  np.testing.assert_allclose(
    [packed_loss, packed_sums["tokens"], packed_sums["correct"]],
    [loss, sums["tokens"], sums["correct"]],
    rtol=1e-5,
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), packed_gradient, gradient
  )

"""Padding and packing: shapes, weights, and that nothing is lost."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from factshock.console import UserError
from factshock.data import batching


def example(inputs, targets):
  """An example of these token counts, with tokens that tell it from others."""
  return {"inputs": np.arange(2, 2 + inputs, dtype=np.int32) + 10 * targets,
          "targets": np.arange(2, 2 + targets, dtype=np.int32) + 10 * inputs}


def test_pad_batch():
  batch = batching.pad_batch([example(3, 2), example(1, 4)], input_length=4, target_length=5)
  assert batch["inputs"].tolist() == [[22, 23, 24, 0], [42, 0, 0, 0]]
  assert batch["targets"].tolist() == [[32, 33, 0, 0, 0], [12, 13, 14, 15, 0]]
  assert batch["weights"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]
  assert [batch[name].dtype for name in ("inputs", "targets", "weights")] == [np.int32, np.int32, np.float32]


def test_own_weights_are_kept():
  batch = batching.pad_batch([{**example(2, 3), "weights": np.asarray([0, 1, .5])}], target_length=4)
  assert batch["weights"].tolist() == [[0, 1, .5, 0]]


def test_buckets_are_few_and_hold_their_length():
  sizes = [batching.bucket(length) for length in range(1, 1025)]
  assert sorted(set(sizes)) == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
  assert all(size >= length for length, size in enumerate(sizes, 1))
  assert batching.pad_batch([example(9, 3), example(17, 2)])["inputs"].shape == (2, 24)


@hypothesis.given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), max_size=40))
def test_packing_loses_nothing(sizes):
  examples = [example(*size) for size in sizes]
  found = []
  for row in batching.pack(examples, 16, 8):
    assert len(row["inputs"]) == len(row["input_segments"]) <= 16
    assert len(row["targets"]) == len(row["target_segments"]) <= 8
    segments = row["input_segments"].max()
    assert (np.unique(row["input_segments"]) == np.arange(1, segments + 1)).all()
    assert (np.unique(row["target_segments"]) == np.arange(1, segments + 1)).all()
    for segment in range(1, segments + 1):
      found.append((tuple(row["inputs"][row["input_segments"] == segment]),
                    tuple(row["targets"][row["target_segments"] == segment])))
  assert sorted(found) == sorted((tuple(one["inputs"]), tuple(one["targets"])) for one in examples)


def test_first_fit_fills_earlier_rows():
  rows = batching.pack([example(10, 2), example(10, 2), example(6, 2), example(6, 2)], 16, 8)
  assert [len(row["inputs"]) for row in rows] == [16, 16]
  batch = batching.pad_batch(rows, 16, 8)
  assert batch["input_segments"].tolist() == [[1] * 10 + [2] * 6] * 2
  assert batch["target_segments"].tolist() == [[1, 1, 2, 2, 0, 0, 0, 0]] * 2
  assert batch["weights"].sum() == 8


def test_too_long_and_empty():
  with pytest.raises(UserError, match="example 1: expected at most 8 input and 4 target tokens, got 9 and 2"):
    batching.pack([example(2, 2), example(9, 2)], 8, 4)
  with pytest.raises(UserError, match="example 0: .* got 2 and 5"):
    batching.pad_batch([example(2, 5)], 8, 4)
  with pytest.raises(ValueError, match="at least one example"):
    batching.pad_batch([])
  assert batching.pack([], 8, 4) == []

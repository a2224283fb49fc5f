"""Mixing of answers: probabilities over candidates, and of predictions files."""

import json
import math

import numpy as np
import pytest

from factshock.predictions import mixing
from factshock.runtime.errors import UserError


def test_probabilities_are_mixed_over_candidates():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 4, 7)) * 3
  p, q = (np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True) for x in (a, b))
  mixed = mixing.mix_probabilities(a, b, 0.3)
  np.testing.assert_allclose(np.exp(mixed), 0.7 * p + 0.3 * q, rtol=1e-12)
  np.testing.assert_allclose(np.exp(mixing.mix_probabilities(a, b, 0.0)), p)
  np.testing.assert_allclose(np.exp(mixing.mix_probabilities(a, b, 1.0)), q)
  far = mixing.mix_probabilities([-2000.0, -2001.0], [0.0, 0.0], 0.0)
  np.testing.assert_allclose(far, [-0.3132617, -1.3132617], rtol=1e-6)
  with pytest.raises(ValueError, match="between 0 and 1"):
    mixing.mix_probabilities(a, b, 1.5)


def row(subject, first, second, arm="a"):
  """Returns a row with two candidates, Paris and Rome, of these probabilities."""
  candidates = [["Paris", math.log(first)], ["Rome", math.log(second)]]
  candidates.sort(key=lambda pair: -pair[1])
  return {
    "subject": subject,
    "relation": "capital",
    "object": "Paris",
    "prediction": candidates[0][0],
    "score": candidates[0][1],
    "candidates": candidates,
    "arm": arm,
  }


def write(path, rows):
  path.write_text("".join(json.dumps(each) + "\n" for each in rows))
  return str(path)


def test_files_in_another_order_are_mixed_query_by_query(tmp_path):
  before = write(tmp_path / "before.jsonl", [row("France", 0.8, 0.2), row("Italy", 0.4, 0.6)])
  after = write(tmp_path / "after.jsonl", [row("Italy", 0.9, 0.1), row("France", 0.1, 0.9)])
  france, italy = mixing.mix_files([before, after], [0.5, 0.5])
  assert (france["subject"], france["prediction"], france["arm"]) == ("France", "Rome", "a_mixed")
  assert france["score"] == pytest.approx(math.log(0.55), abs=1e-5)
  assert italy["prediction"] == "Paris"
  assert dict(italy["candidates"])["Rome"] == pytest.approx(math.log(0.35), abs=1e-5)


def test_three_files_are_mixed_by_their_weights(tmp_path):
  shares = [0.2, 0.3, 0.5]
  given = [0.9, 0.5, 0.1]
  paths = [
    write(tmp_path / f"{index}.jsonl", [row("France", p, 1 - p)]) for index, p in enumerate(given)
  ]
  (mixed,) = mixing.mix_files(paths, shares)
  expected = sum(share * p for share, p in zip(shares, given))
  assert dict(mixed["candidates"])["Paris"] == pytest.approx(math.log(expected), abs=1e-5)


def test_files_that_do_not_fit_are_refused(tmp_path):
  first = write(tmp_path / "first.jsonl", [row("France", 0.8, 0.2)])
  other = write(tmp_path / "other.jsonl", [row("Spain", 0.8, 0.2)])
  with pytest.raises(UserError, match="other.jsonl: expected the queries of .*first.jsonl"):
    mixing.mix_files([first, other], [0.5, 0.5])
  generated = row("France", 0.8, 0.2)
  del generated["candidates"]
  text = write(tmp_path / "text.jsonl", [generated])
  with pytest.raises(UserError, match="text.jsonl: expected candidates in every row"):
    mixing.mix_files([first, text], [0.5, 0.5])
  with pytest.raises(UserError, match="at least 0"):
    mixing.mix_files([first, first], [1.5, -0.5])

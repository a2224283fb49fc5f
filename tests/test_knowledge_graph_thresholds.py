"""Thresholds: bounds against the binomial tail, promises in simulation, expected F1 against brute
force.
"""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from factshock.knowledge_graph import thresholds


def test_the_bound_is_that_of_clopper_and_pearson():
  right = np.r_[np.ones(45), np.zeros(5)]
  share, bound = thresholds.lower_bound(right, np.arange(50), np.ones(50), 0.1)
  assert share == 0.9
  # at the bound, as many right answers or more have a chance of exactly .1
  np.testing.assert_allclose(stats.binom.sf(44, 50, bound), 0.1, atol=1e-6)


def test_answers_about_one_subject_count_as_fewer():
  right = np.tile([1, 1, 1, 0], 25).astype(float)
  apart = thresholds.lower_bound(right, np.arange(100), np.ones(100), 0.1)[1]
  together = thresholds.lower_bound(
    np.sort(right), np.repeat(np.arange(10), 10), np.ones(100), 0.1
  )[1]
  assert together < apart - 0.05
  sure = thresholds.lower_bound(np.ones(100), np.repeat(np.arange(10), 10), np.ones(100), 0.1)[1]
  np.testing.assert_allclose(sure, 0.1 ** (1 / 10), rtol=1e-6)


def test_unequal_weights_count_as_fewer_answers():
  right = np.r_[np.ones(90), np.zeros(10)]
  weight = np.where(np.arange(100) % 2, 9.0, 1.0)
  even, uneven = (
    thresholds.lower_bound(right, np.arange(100), one, 0.1) for one in (np.ones(100), weight)
  )
  assert even[0] == uneven[0] == 0.9 and uneven[1] < even[1]


def test_weights_change_which_precision_is_promised():
  """Two relations, one always right, one half: what is promised is the mix that is asked."""
  confidence, relation = np.full(2000, 0.75), np.arange(2000) % 2
  right = (relation == 0) | (np.arange(2000) % 4 == 1)
  easy, hard = (np.where(relation == 0, a, b) for a, b in ((10.0, 0.1), (0.1, 10.0)))
  assert (
    thresholds.choose_threshold(confidence, right, np.arange(2000), 0.9, easy).value is not None
  )
  assert thresholds.choose_threshold(confidence, right, np.arange(2000), 0.9, hard).value is None


def test_a_promise_holds_on_new_queries():
  """Of 300 simulated calibrations the promise fails in at most about one of ten, and where answers
  allow something is accepted.
  """
  rng, failed, empty = np.random.default_rng(0), 0, 0
  truth = lambda p: p**1.3  # confidences that are too high
  for _ in range(300):
    p = rng.beta(1.2, 0.8, 400)
    found = thresholds.choose_threshold(p, rng.random(400) < truth(p), np.arange(400), 0.85)
    new = rng.beta(1.2, 0.8, 20000)
    empty += found.value is None
    failed += found.value is not None and truth(new[new >= found.value]).mean() < 0.85
  assert failed <= 30 + 3 * np.sqrt(30 * 0.9)
  assert empty < 150


def test_nothing_is_promised_that_cannot_be_kept():
  few = thresholds.choose_threshold(np.full(10, 0.99), np.ones(10), np.arange(10), 0.9)
  assert few.value is None and few.units == 10
  rng = np.random.default_rng(1)
  none = thresholds.choose_threshold(rng.random(500), rng.random(500) < 0.3, np.arange(500), 0.9)
  assert none.value is None
  all_right = thresholds.choose_threshold(rng.random(500), np.ones(500), np.arange(500), 0.9)
  assert all_right.accepted == 500 and all_right.precision == 1


def test_queries_needed_is_the_least_that_passes():
  needed = thresholds.queries_needed(0.9)
  passes = lambda count: (
    thresholds.lower_bound(
      np.ones(count), np.arange(count), np.ones(count), 0.1 / thresholds.STARTS
    )[1]
    >= 0.9
  )
  assert passes(needed) and not passes(needed - 1)


def brute_force(p, unlisted, nothing):
  """How many to accept, by the expected F1 of each number."""
  gold = sum(p) + unlisted
  best, most = 0, np.prod([1 - one for one in p]) * nothing
  for k in range(1, len(p) + 1):
    value = 2 * sum(p[:k]) / (k + gold)
    if value > most + 1e-12:
      best, most = k, value
  return best


@settings(max_examples=200, deadline=None)
@given(
  st.lists(
    st.tuples(
      st.lists(st.integers(1, 99), min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 4)
    ),
    min_size=1,
    max_size=5,
  )
)
def test_the_cut_has_the_greatest_expected_f1(queries):
  p = [sorted((one / 100 for one in values), reverse=True) for values, _, _ in queries]
  column = lambda values: np.array(list(itertools.chain(*values)))
  found = thresholds.accept_by_expected_f1(
    column(p),
    column([[i] * len(values) for i, values in enumerate(p)]),
    column([[unlisted / 2] * len(values) for (_, unlisted, _), values in zip(queries, p)]),
    column([[nothing / 4] * len(values) for (_, _, nothing), values in zip(queries, p)]),
  )
  place = 0
  for (_, unlisted, nothing), values in zip(queries, p):
    mine = found[place : place + len(values)]
    assert mine.tolist() == sorted(mine.tolist(), reverse=True)
    count, wanted = int(mine.sum()), brute_force(values, unlisted / 2, nothing / 4)
    gold = sum(values) + unlisted / 2
    value = lambda k: (
      2 * sum(values[:k]) / (k + gold) if k else np.prod([1 - one for one in values]) * nothing / 4
    )
    np.testing.assert_allclose(value(count), value(wanted), atol=1e-9)
    place += len(values)


def test_the_cut_of_nothing_is_nothing():
  assert not len(
    thresholds.accept_by_expected_f1(np.zeros(0), np.zeros(0, int), np.zeros(0), np.zeros(0))
  )

"""Calibration curves: closed forms, brute force, shrinkage, and what is kept apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.knowledge_graph import calibration


def simulated(rng, count, relations=1, shift=0.0, slope=1.0):
  """(score, right, relation): answers whose chance to be right is sigmoid(slope logit p +
  shift).
  """
  x = rng.normal(0, 2, count)
  right = rng.random(count) < 1 / (1 + np.exp(-(slope * x + shift)))
  return -np.log1p(np.exp(-x)), right, rng.integers(0, relations, count)


def _data(score, right, relation):
  return calibration._Data(calibration.logits(score), right.astype(float), relation)


def best_increasing(y, weight):
  """Isotonic least squares by the min-max formula, O(n^3)."""
  n = len(y)
  mean = lambda i, j: np.average(y[i : j + 1], weights=weight[i : j + 1])
  return np.array(
    [max(min(mean(i, j) for j in range(k, n)) for i in range(k + 1)) for k in range(n)]
  )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 5)), min_size=1, max_size=12))
def test_isotonic_is_least_squares(pairs):
  y, weight = map(np.array, zip(*pairs))
  curve = calibration._fit_isotonic(np.arange(len(y), dtype=float), y, weight)
  edge = 0.5 / (weight.sum() + 1)
  found = np.interp(np.arange(len(y)), curve.x, curve.y)
  np.testing.assert_allclose(found, np.clip(best_increasing(y, weight), edge, 1 - edge), atol=1e-9)


def test_platt_is_the_greatest_likelihood():
  from scipy import optimize

  score, right, _ = simulated(np.random.default_rng(0), 400, shift=-0.7, slope=0.6)
  x = calibration.logits(score)
  curve = calibration._fit_platt(x, right.astype(float), np.ones(len(x)))
  ends = np.array([x.min(), x.max()])

  def loss(ab):
    z = ab[0] * x + ab[1]
    at_ends = ab[0] * ends + ab[1]
    return np.sum(np.logaddexp(0, z) - right * z) + np.sum(np.logaddexp(0, at_ends) - 0.5 * at_ends)

  best = optimize.minimize(loss, [1.0, 0.0]).x
  np.testing.assert_allclose([curve.x[0], curve.y[0]], best, atol=1e-3)


def test_logits_are_of_probabilities():
  p = np.array([0.1, 0.5, 0.999])
  np.testing.assert_allclose(calibration.logits(np.log(p)), np.log(p / (1 - p)), rtol=1e-9)
  assert np.isfinite(calibration.logits([0.0, -1e9])).all()


@pytest.mark.parametrize("method", calibration.METHODS)
def test_a_curve_never_falls(method):
  score, right, relation = simulated(np.random.default_rng(1), 300, relations=3)
  found, _ = calibration.fit(
    score, right, relation, calibration.assign_folds(np.arange(300)), method
  )
  for number in range(3):
    grid = np.sort(np.r_[score, -1e-9, -50.0])
    values = calibration.confidence(found, grid, np.full(len(grid), number))
    assert (np.diff(values) >= -1e-12).all() and 0 < values.min() and values.max() < 1


def test_answers_that_a_threshold_tells_apart_have_a_curve_off_0_and_1():
  x = np.array([-3.0, -2.0, 2.0, 3.0])
  curve = calibration._fit_platt(x, np.array([0.0, 0, 1, 1]), np.ones(4))
  assert 0 < curve.x[0] < 5


def test_scores_that_tell_nothing_give_the_share_that_is_right():
  rng = np.random.default_rng(2)
  score, right = -rng.random(2000), rng.random(2000) < 0.3
  found, apart = calibration.fit(
    score, right, np.zeros(2000, int), calibration.assign_folds(np.arange(2000))
  )
  np.testing.assert_allclose(apart.mean(), 0.3, atol=0.03)
  assert apart.std() < 0.08
  opposite = calibration._fit_platt(np.arange(10.0), (np.arange(10) < 5).astype(float), np.ones(10))
  np.testing.assert_allclose([opposite.x[0], opposite.y[0]], [0, 0], atol=1e-9)


def test_confidence_holds_for_relations_that_differ():
  rng = np.random.default_rng(3)
  score, right, relation = simulated(rng, 20000, relations=2)
  harder = rng.random(20000) < 0.5
  right = np.where(relation == 1, right & harder, right)
  found, apart = calibration.fit(score, right, relation, calibration.assign_folds(np.arange(20000)))
  for number in range(2):
    own = relation == number
    np.testing.assert_allclose(apart[own].mean(), right[own].mean(), atol=0.02)
    sure = own & (apart > 0.4)
    np.testing.assert_allclose(apart[sure].mean(), right[sure].mean(), atol=0.03)


def test_a_relation_with_few_answers_is_near_the_pooled_curve():
  score, right, relation = simulated(np.random.default_rng(4), 1000)
  relation[:2], right[:2] = 1, False
  score[:2] = np.log(0.9)
  found = calibration._fit_curves(_data(score, right, relation), "platt", 100.0)
  own, pooled = (calibration.confidence(found, [np.log(0.9)], [number])[0] for number in (1, 7))
  assert pooled - 0.05 < own < pooled
  alone = calibration._fit_curves(_data(score, right, relation), "platt", 1e-3)
  assert calibration.confidence(alone, [np.log(0.9)], [1])[0] < 0.5


def test_confidences_are_of_curves_that_have_not_seen_the_fold():
  """The right answers of one fold do not change that fold's own confidences."""
  score, right, relation = simulated(np.random.default_rng(5), 200)
  fold = calibration.assign_folds(np.arange(200))
  for method in calibration.METHODS:
    pick = lambda labels: calibration._evaluate(
      calibration._fit_curves(_data(score, labels, relation).take(fold != 0), method, 10.0),
      calibration.logits(score)[fold == 0],
      relation[fold == 0],
    )
    np.testing.assert_array_equal(pick(right), pick(np.where(fold == 0, ~right, right)))
  flipped = calibration.fit(score, np.where(fold == 0, ~right, right), relation, fold, "platt")
  plain = calibration.fit(score, right, relation, fold, "platt")
  if flipped[0].strength == plain[0].strength:
    np.testing.assert_allclose(flipped[1][fold == 0], plain[1][fold == 0])
  assert not np.allclose(flipped[1][fold == 1], plain[1][fold == 1])


def test_folds_are_of_subjects_and_even():
  names = [f"s{i % 50}" for i in range(500)]
  fold = calibration.assign_folds(names)
  assert all(
    len(set(fold[[j for j in range(500) if names[j] == name]])) == 1 for name in set(names)
  )
  assert np.bincount(fold[:50]).tolist() == [10] * 5
  shuffled = np.random.default_rng(0).permutation(500)
  np.testing.assert_array_equal(
    calibration.assign_folds([names[i] for i in shuffled]), fold[shuffled]
  )


def test_curves_are_fitted_to_plain_answers_alone():
  score, right, relation = simulated(np.random.default_rng(6), 400)
  fold, odd = calibration.assign_folds(np.arange(400)), np.arange(400) % 4 == 0
  spoilt = np.where(odd, False, right)
  found, _ = calibration.fit(score, spoilt, relation, fold, "platt", ~odd)
  clean, _ = calibration.fit(score[~odd], right[~odd], relation[~odd], fold[~odd], "platt")
  np.testing.assert_allclose(found.pooled.x, clean.pooled.x, atol=1e-6)


def test_one_subject_alone_can_be_fitted():
  found, apart = calibration.fit(
    [-0.1, -2.0], [True, False], [0, 0], calibration.assign_folds(["a", "a"])
  )
  assert np.isfinite(apart).all() and found.units == {0: 2}
  with pytest.raises(ValueError, match="got none"):
    calibration.fit([], [], [], [])


def test_json_has_an_identity_of_its_numbers():
  score, right, relation = simulated(np.random.default_rng(7), 100)
  fold = calibration.assign_folds(np.arange(100))
  one = calibration.to_json(calibration.fit(score, right, relation, fold)[0], ["born_in"])
  other = calibration.to_json(calibration.fit(score, ~right, relation, fold)[0], ["born_in"])
  assert one["identity"] != other["identity"] and list(one["relations"]) == ["born_in"]

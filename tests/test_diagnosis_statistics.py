"""Bootstrap intervals against closed forms, seeds as a second level, McNemar against scipy."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.diagnosis import statistics


def interval_of(right_N, seed, resamples=400):
  draw = statistics.make_draw(len(right_N), resamples, np.random.default_rng(seed))
  (counts,) = statistics.cell_counts(draw, [right_N.astype(int)], [2])
  return statistics.interval(counts[:, 1] / len(right_N), 0.95)


@pytest.mark.parametrize("table_entries", [statistics.TABLE_ENTRIES, 0])
def test_intervals_cover_a_binomial_share_as_often_as_they_say(monkeypatch, table_entries):
  monkeypatch.setattr(statistics, "TABLE_ENTRIES", table_entries)
  rng, covered, trials = np.random.default_rng(0), 0, 400
  for trial in range(trials):
    low, high = interval_of(rng.random(300) < 0.4, trial)
    covered += low <= 0.4 <= high
  assert 0.91 <= covered / trials <= 0.98


@pytest.mark.parametrize("table_entries", [statistics.TABLE_ENTRIES, 0])
def test_interval_width_is_that_of_the_binomial(monkeypatch, table_entries):
  monkeypatch.setattr(statistics, "TABLE_ENTRIES", table_entries)
  low, high = interval_of(np.arange(1000) < 300, 1, resamples=4000)
  assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 1000), rel=0.08)
  assert (low + high) / 2 == pytest.approx(0.3, abs=0.003)


@pytest.mark.parametrize("table_entries", [statistics.TABLE_ENTRIES, 0])
def test_every_resample_counts_all_queries_and_columns_stay_joint(monkeypatch, table_entries):
  monkeypatch.setattr(statistics, "TABLE_ENTRIES", table_entries)
  rng = np.random.default_rng(2)
  first, second = rng.integers(0, 7, 200), rng.integers(0, 5, 200)
  draw = statistics.make_draw(200, 300, rng)
  for counts, size in zip(statistics.cell_counts(draw, [first, second], [9, 5]), [9, 5]):
    assert counts.shape == (300, size) and (counts.sum(1) == 200).all() and (counts >= 0).all()
  gold_ExR = statistics.histogram(draw, first, 9)
  pairs = list(statistics.histogram_pairs(draw, first, first, 9, gold_ExR))
  assert sum(len(left) for left, _ in pairs) == 300
  for left, right in pairs:
    np.testing.assert_array_equal(left, right)
    assert (left.sum(1) == 200).all()


def test_the_table_and_the_cells_give_the_same_distribution(monkeypatch):
  rng = np.random.default_rng(3)
  code, spread = rng.integers(0, 4, 500), []
  for entries in (statistics.TABLE_ENTRIES, 0):
    monkeypatch.setattr(statistics, "TABLE_ENTRIES", entries)
    (counts,) = statistics.cell_counts(statistics.make_draw(500, 4000, rng), [code], [4])
    spread.append(np.cov(counts.T))
    np.testing.assert_allclose(counts.mean(0), np.bincount(code), rtol=0.02)
  np.testing.assert_allclose(spread[0], spread[1], atol=8)


def test_seeds_that_differ_widen_the_interval():
  rng = np.random.default_rng(4)
  picks = statistics.seed_picks(5, 2000, rng)
  alike = 0.5 + 0.01 * rng.standard_normal((5, 2000))
  apart = alike + np.array([-0.2, -0.1, 0, 0.1, 0.2])[:, None]
  widths = [
    np.subtract(*statistics.interval(statistics.over_seeds(samples, picks), 0.95)[::-1])
    for samples in (alike, apart)
  ]
  assert widths[1] > 5 * widths[0]
  spread = np.std([-0.2, -0.1, 0, 0.1, 0.2]) / np.sqrt(5)  # of a mean of 5 resampled seeds
  assert widths[1] == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_a_seed_drawn_twice_brings_two_different_resamples():
  samples = np.arange(100.0)[None]
  found = statistics.over_seeds(np.repeat(samples, 2, 0), np.zeros((100, 2), int))
  assert (found == (np.arange(100) + (np.arange(100) + 50) % 100) / 2).all()


def test_undefined_values_are_left_out_or_stay_undefined():
  assert statistics.nan_mean(np.array([[1, np.nan], [np.nan, np.nan]]))[0] == 1
  assert np.isnan(statistics.nan_mean(np.array([np.nan])))
  assert np.isnan(statistics.interval(np.array([1, np.nan, np.nan]), 0.95)).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_binomial_test(wins, losses):
  exact, middle = statistics.mcnemar(wins, losses)
  if wins + losses == 0:
    assert (exact, middle) == (1, 1)
    return
  assert exact == pytest.approx(scipy.stats.binomtest(wins, wins + losses).pvalue, rel=1e-8)
  fewer = min(wins, losses)
  point = scipy.stats.binom.pmf(fewer, wins + losses, 0.5)
  tail = 2 * scipy.stats.binom.cdf(fewer, wins + losses, 0.5)
  assert middle == pytest.approx(min(1, tail - point), rel=1e-8)
  assert middle <= exact


def test_mcnemar_of_a_million_discordant_queries_is_quick_and_finite():
  assert statistics.mcnemar(500_000, 500_000)[0] == 1
  assert 0 <= statistics.mcnemar(600_000, 400_000)[0] < 1e-300

"""Calibration measures against brute force and closed forms; intervals that cover; clusters; bad
input.
"""

import json

import numpy as np
import pytest
from extraction_fixture import make_units
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.diagnosis import calibration, calibration_quality, table
from factshock.diagnosis.ranking import Units, rank_units
from factshock.diagnosis.statistics import Bootstrap
from factshock.runtime.errors import UserError

# Few levels, so that confidences and scores tie.
ROWS = st.lists(
  st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 2), st.integers(0, 5)),
  min_size=1,
  max_size=25,
)
PRECISIONS = st.sampled_from([0.1, 0.5, 0.7, 0.8, 0.9, 1.0])


def columns(rows):
  """confidence, right, score and query of drawn rows."""
  confidence, right, score, query = (np.array(column) for column in zip(*rows))
  return confidence / 4, right, score.astype(float), query


def cuts(confidence, score):
  """Places [N] of the units kept at each cut of the ranking, from the strictest."""
  keys = list(zip(confidence.tolist(), score.tolist()))
  return [np.array([key >= cut for key in keys]) for cut in sorted(set(keys), reverse=True)]


def calibrated(size, rng):
  confidence = rng.beta(2, 1, size)
  return confidence, rng.random(size) < confidence


def one_relation(confidence, right, query=None, score=None):
  query = np.arange(len(confidence)) if query is None else query
  score = confidence if score is None else score
  return Units(confidence, right, score, np.zeros(len(confidence), int), query)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_auroc_is_the_share_of_pairs_in_order(rows):
  confidence, right, score, _ = columns(rows)
  keys = list(zip(confidence.tolist(), score.tolist()))
  pairs = [
    (keys[i] > keys[j]) + 0.5 * (keys[i] == keys[j])
    for i in np.flatnonzero(right)
    for j in np.flatnonzero(~right)
  ]
  found = calibration.auroc(confidence, right, score)
  assert np.isnan(found) if not pairs else found == pytest.approx(np.mean(pairs))


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_risk_is_counted_at_each_cut_and_ends_at_the_error_rate(rows):
  confidence, right, score, _ = columns(rows)
  kept = cuts(confidence, score)
  coverage, risk, area = calibration.risk_coverage(confidence, right, score)
  np.testing.assert_allclose(coverage, [some.mean() for some in kept])
  np.testing.assert_allclose(risk, [1 - right[some].mean() for some in kept], atol=1e-12)
  assert (coverage[-1], risk[-1]) == (1, pytest.approx(1 - right.mean()))
  each = [min((some for some in kept if some[i]), key=np.sum) for i in range(len(right))]
  assert area == pytest.approx(np.mean([1 - right[some].mean() for some in each]))


@settings(max_examples=60, deadline=None)
@given(ROWS, PRECISIONS)
def test_yield_is_the_last_cut_with_the_precision(rows, precision):
  confidence, right, score, query = columns(rows)
  good = [
    some
    for some in cuts(confidence, score)
    if right[some].any() and right[some].mean() >= precision - 1e-9
  ]
  found = calibration.yield_at(precision, confidence, right, score, query, queries=10)
  if not good:
    assert found[:4] == (0, 0, 0, 0) and np.isnan(found.threshold)
    return
  last = good[-1]
  assert found[:4] == (
    len(set(query[last])),
    len(set(query[last])) / 10,
    right[last].sum(),
    last.sum(),
  )
  assert found.threshold == confidence[last].min()


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_a_higher_precision_never_yields_more(rows):
  confidence, right, score, query = columns(rows)
  shares = [
    calibration.yield_at(precision, confidence, right, score, query).share
    for precision in (0.2, 0.5, 0.8, 0.9, 1.0)
  ]
  assert shares == sorted(shares, reverse=True)
  everything = calibration.yield_at(max(right.mean(), 0.01), confidence, right, score, query)
  assert everything.share == (1 if right.any() else 0)


def test_seven_of_ten_are_seventy_percent():
  assert calibration.yield_at(0.07, np.full(100, 0.5), np.arange(100) < 7).share == 1


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 6))
def test_bins_keep_equal_confidences_together_and_ece_is_their_mean_gap(rows, bins):
  confidence, right, _, _ = columns(rows)
  found = calibration.reliability(confidence, right, bins)
  assert found.units.sum() == len(right) and len(found.units) <= bins
  assert (found.low[1:] > found.high[:-1]).all(), "bins rise and share no confidence"
  gap = 0
  for low, high, mean, share, units in zip(*found):
    some = (confidence >= low) & (confidence <= high)
    assert (some.sum(), confidence[some].mean()) == (units, pytest.approx(mean))
    assert right[some].mean() == pytest.approx(share)
    gap += some.mean() * abs(confidence[some].mean() - right[some].mean())
  assert calibration.expected_calibration_error(confidence, right, bins) == pytest.approx(gap)


def test_bins_have_equal_mass_where_nothing_ties():
  confidence = np.random.default_rng(0).permutation(90) / 90
  found = calibration.reliability(confidence, confidence > 0.5)
  assert found.units.tolist() == [6] * 15
  np.testing.assert_allclose(found.low, np.arange(15) * 6 / 90)


def test_ece_of_perfect_confidences_falls_to_zero_by_the_bias_told():
  rng = np.random.default_rng(1)
  for size in (150, 1500, 15000):
    found = np.mean(
      [calibration.expected_calibration_error(*calibrated(size, rng)) for _ in range(60)]
    )
    spread = np.sqrt(2 / np.pi) * np.mean([np.sqrt(p * (1 - p)) for p in rng.beta(2, 1, 5000)])
    assert found == pytest.approx(spread * np.sqrt(15 / size), rel=0.1)


def test_closed_forms():
  right = np.arange(100) < 30
  level = np.full(100, 0.4)
  assert calibration.expected_calibration_error(level, right) == pytest.approx(0.1)
  assert calibration.brier(level, right) == pytest.approx(0.3 * 0.36 + 0.7 * 0.16)
  assert calibration.auroc(level, right) == 0.5
  assert calibration.risk_coverage(level, right)[2] == pytest.approx(0.7)
  sure = right.astype(float)
  assert calibration.brier(sure, right) == 0 == calibration.expected_calibration_error(sure, right)
  assert calibration.auroc(sure, right) == 1 and calibration.auroc(1 - sure, right) == 0
  assert calibration.auroc(level, right, np.arange(100)) == 0, "ties are broken by the score"


def test_weights_are_repetitions():
  """What a resample measures is what the measures say of its units, each as often as it was
  drawn.
  """
  rng = np.random.default_rng(2)
  confidence, right, score = (
    rng.integers(0, 9, 60) / 8,
    rng.random(60) < 0.6,
    rng.integers(0, 3, 60).astype(float),
  )
  ranking = rank_units(confidence, right, score)
  weights = rng.integers(0, 4, (5, 60))
  found = calibration_quality._measures(
    ranking, np.ones(60), weights[:, ranking.order].astype(float), weights.sum(1), (0.7,)
  )
  for row, weight in enumerate(weights):
    again = [np.repeat(column, weight) for column in (confidence, right, score)]
    cut = calibration.yield_at(0.7, *again)
    assert found["auroc"][row] == pytest.approx(calibration.auroc(*again))
    assert found["aurc"][row] == pytest.approx(calibration.risk_coverage(*again)[2])
    assert found["brier"][row] == pytest.approx(calibration.brier(*again[:2]))
    assert found["share_right"][row] == pytest.approx(again[1].mean())
    assert (found["share@0.7"][row], found["right@0.7"][row], found["answers@0.7"][row]) == (
      pytest.approx(cut.share),
      cut.right,
      cut.answers,
    )
    coverage, risk, _ = calibration.risk_coverage(*again)
    half = risk[np.searchsorted(coverage, 0.5 - 1e-12)]
    assert found["risk"][row][calibration_quality.GRID // 2 - 1] == pytest.approx(half)


def test_quality_holds_the_measures_of_all_and_of_each_relation():
  units, names, asked = make_units(5, seed=3)
  found = calibration_quality.quality(units, names, asked, bootstrap=Bootstrap(resamples=20))
  assert json.loads(json.dumps(found, allow_nan=False)) == found
  assert (found["units"], found["queries"], list(found["relations"])) == (
    len(units.right),
    asked.sum(),
    names,
  )
  for group, chosen, queries in [
    (found["pooled"], units.relation >= 0, asked.sum()),
    (found["relations"][names[2]], units.relation == 2, asked[2]),
  ]:
    confidence, right, score, _, query = (column[chosen] for column in units)
    assert (group["units"], group["queries"], group["right"]) == (
      chosen.sum(),
      queries,
      right.sum(),
    )
    assert group["auroc"]["mean"] == pytest.approx(calibration.auroc(confidence, right, score))
    assert group["brier"]["mean"] == pytest.approx(calibration.brier(confidence, right))
    assert group["ece"]["mean"] == pytest.approx(
      calibration.expected_calibration_error(confidence, right, group["bins"])
    )
    assert group["aurc"]["mean"] == pytest.approx(
      calibration.risk_coverage(confidence, right, score)[2]
    )
    assert group["overconfidence"]["mean"] == pytest.approx(confidence.mean() - right.mean())
    assert sum(row["units"] for row in group["reliability"]) == chosen.sum()
    assert group["risk_coverage"][-1]["risk"]["mean"] == pytest.approx(1 - right.mean())
    for row in group["yields"]:
      cut = calibration.yield_at(row["precision"], confidence, right, score, query, queries=queries)
      assert (row["share"]["mean"], row["right"]["mean"], row["answers"]) == (
        pytest.approx(cut.share),
        cut.right,
        cut.answers,
      )
  estimates = [value for value in found["pooled"].values() if isinstance(value, dict)]
  assert len(estimates) == 8 and all(row["low"] <= row["mean"] <= row["high"] for row in estimates)


def test_the_order_of_units_does_not_matter():
  units, names, asked = make_units(4, seed=4)
  order = np.random.default_rng(0).permutation(len(units.right))
  found, again = (
    calibration_quality.quality(some, names, asked, bootstrap=Bootstrap(resamples=1))
    for some in (units, Units(*(column[order] for column in units)))
  )
  for key in ("ece", "auroc", "aurc", "brier"):
    assert found["pooled"][key]["mean"] == pytest.approx(again["pooled"][key]["mean"])
  for first, second in zip(found["pooled"]["yields"], again["pooled"]["yields"]):
    assert (first["share"]["mean"], first["threshold"]) == (
      second["share"]["mean"],
      second["threshold"],
    )


def test_units_of_one_cluster_are_drawn_together():
  """Ten copies of every unit add nothing: intervals are those of the clusters."""
  confidence, right = calibrated(80, np.random.default_rng(5))
  found = [
    calibration_quality.quality(
      one_relation(
        np.repeat(confidence, copies), np.repeat(right, copies), np.repeat(np.arange(80), copies)
      ),
      ["r"],
      bootstrap=Bootstrap(resamples=300),
    )
    for copies in (1, 10)
  ]
  for key in ("share_right", "auroc", "brier"):
    for end in ("low", "mean", "high"):
      assert found[0]["pooled"][key][end] == pytest.approx(found[1]["pooled"][key][end])


def test_a_subject_is_resampled_with_its_queries_of_all_relations():
  confidence, right = np.full(60, 0.5), np.arange(60) < 30
  both = Units(
    *(np.tile(column, 2) for column in (confidence, right, confidence)),
    np.repeat([0, 1], 60),
    np.tile(np.arange(60), 2),
  )
  found = calibration_quality.quality(both, ["a", "b"], bootstrap=Bootstrap(resamples=400))
  assert found["queries"] == 120 and found["pooled"]["queries"] == 120
  width = [
    group["share_right"]["high"] - group["share_right"]["low"]
    for group in (found["pooled"], found["relations"]["a"])
  ]
  assert width[0] == pytest.approx(width[1], rel=0.15), (
    "two relations of the same subjects tell no more than one"
  )


def test_queries_without_an_answer_count_against_the_yield():
  confidence, right = np.full(50, 0.9), np.ones(50, bool)
  rows = [
    calibration_quality.quality(one_relation(confidence, right), ["r"], [queries])["pooled"][
      "yields"
    ][1]
    for queries in (50, 200)
  ]
  assert [row["share"]["mean"] for row in rows] == [1, 0.25]
  low, high = rows[1]["share"]["low"], rows[1]["share"]["high"]
  assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 * 0.75 / 200), rel=0.12), "binomial"


def test_intervals_cover():
  """95% intervals hold the truth of over-confident answers in nearly 95% of trials; that of ECE in
  fewer, as told.
  """
  rng, trials = np.random.default_rng(6), 100
  covered = dict.fromkeys(("share_right", "overconfidence", "auroc", "ece_debiased"), 0)
  confidence, right = draw_overconfident(400_000, rng)
  truth = {
    "share_right": right.mean(),
    "overconfidence": 0.1,
    "ece_debiased": 0.1,
    "auroc": calibration.auroc(confidence, right),
  }
  for trial in range(trials):
    units = one_relation(*draw_overconfident(400, rng))
    found = calibration_quality.quality(
      units, ["r"], bootstrap=Bootstrap(resamples=150, seed=trial)
    )["pooled"]
    for key in covered:
      covered[key] += found[key]["low"] <= truth[key] <= found[key]["high"]
  low = {"ece_debiased": 0.75}
  assert all(low.get(key, 0.88) <= count / trials for key, count in covered.items()), covered


def draw_overconfident(size, rng):
  confidence = rng.uniform(0.15, 0.95, size)
  return confidence, rng.random(size) < confidence - 0.1


def test_the_bias_of_ece_is_less():
  rng, plain, less = np.random.default_rng(7), [], []
  for trial in range(40):
    found = calibration_quality.quality(
      one_relation(*calibrated(200, rng)), ["r"], bootstrap=Bootstrap(resamples=100, seed=trial)
    )["pooled"]
    plain.append(found["ece"]["mean"])
    less.append(found["ece_debiased"]["mean"])
  assert np.mean(less) < 0.75 * np.mean(plain), "the truth is 0"


def test_few_units_take_fewer_bins():
  found = calibration_quality.quality(
    one_relation(*calibrated(45, np.random.default_rng(8))),
    ["r"],
    bootstrap=Bootstrap(resamples=10),
  )
  assert (found["bins"], found["pooled"]["bins"], len(found["pooled"]["reliability"])) == (15, 4, 4)


def test_what_is_undefined_is_none():
  all_right = one_relation(np.linspace(0.5, 1, 5), np.ones(5, bool))
  found = calibration_quality.quality(
    all_right, ["r", "empty"], [5, 7], bootstrap=Bootstrap(resamples=50)
  )
  assert found["pooled"]["auroc"] == {"mean": None, "low": None, "high": None}
  empty = found["relations"]["empty"]
  assert (empty["units"], empty["queries"], empty["ece"], empty["yields"][0]["share"]) == (
    0,
    7,
    None,
    None,
  )
  nothing = calibration_quality.quality(Units(*[np.array([])] * 5), ["r"], [3])
  assert nothing["pooled"]["units"] == 0 and nothing["queries"] == 3
  all_wrong = calibration_quality.quality(
    one_relation(np.full(20, 0.2), np.zeros(20, bool)), ["r"], bootstrap=Bootstrap(resamples=50)
  )
  assert all_wrong["pooled"]["yields"][0]["share"]["mean"] == 0
  assert all_wrong["pooled"]["yields"][0]["threshold"] is None


@pytest.mark.parametrize(
  "confidence, message",
  [
    ([0.5, 1.2], r"in \[0, 1\], got 1.2 \(unit 1 from 0; 1 of 2"),
    ([-0.1, 0.5], "got -0.1"),
    ([0.5, np.nan], "got nan"),
    ([0.5], "got 1, 2 and 2"),
    ([], "got 0, 2 and 2"),
  ],
)
def test_bad_confidences_are_refused(confidence, message):
  with pytest.raises(UserError, match=message):
    calibration.auroc(np.array(confidence), np.array([True, False]), np.zeros(2))


def test_other_bad_input_is_refused():
  units = one_relation(np.array([0.5, 0.6]), np.array([True, False]))
  with pytest.raises(UserError, match="at least one answer"):
    calibration.brier([], [])
  with pytest.raises(UserError, match="1 NaN"):
    calibration.auroc([0.5, 0.6], [True, False], [0, np.nan])
  with pytest.raises(UserError, match="codes of 1 relations, got 0 to 3"):
    calibration_quality.quality(units._replace(relation=np.array([0, 3])), ["r"])
  with pytest.raises(UserError, match=r"as have an answer, \[2\]; got \[1\]"):
    calibration_quality.quality(units, ["r"], [1])
  with pytest.raises(UserError, match="a query for each of 2 units"):
    calibration_quality.quality(units._replace(query=np.array([0])), ["r"])


def test_lines_for_the_terminal():
  units, names, asked = make_units(3, seed=9)
  found = calibration_quality.quality(units, names, asked, bootstrap=Bootstrap(resamples=50))
  lines = table.calibration_lines(found)
  assert (
    f"{len(units.right)} held-out answers to {asked.sum()} queries" in lines[0]
    and "15 bins" in lines[0]
  )
  assert any(
    line.strip().startswith("AUROC") and f"{found['pooled']['auroc']['mean']:.3f} [" in line
    for line in lines
  )
  row = found["pooled"]["yields"][1]
  assert any(
    "yield at 90% precision" in line
    and f"{row['share']['mean']:.3f} [" in line
    and f"of {row['answers']} answers" in line
    for line in lines
  )
  empty = table.calibration_lines(
    calibration_quality.quality(Units(*[np.array([])] * 5), ["r"], [3])
  )
  assert any(line.split() == ["ECE", "-"] for line in empty)

"""The summary says what the numbers say, also when an effect is absent."""

import copy

import pytest
from report_fixture import make_diagnosis

from factshock.report import numbers, reading, summary


def estimate(mean, half=0.02, seeds=("0",)):
  return {
    "mean": mean,
    "low": mean - half,
    "high": mean + half,
    "by_seed": dict.fromkeys(seeds, mean),
  }


def curve_diagnosis(values, half=0.02):
  """A finetuning curve over steps 0, 1, 2, ... and nothing else."""
  arms = {f"finetune@{step}": {"right": estimate(value, half)} for step, value in enumerate(values)}
  arms |= {"finetune": arms[f"finetune@{len(values) - 1}"], "zero": arms["finetune@0"]}
  points = [{"step": step, "label": f"finetune@{step}"} for step in range(len(values))]
  return {
    "arms": arms,
    "reference": "zero",
    "curves": {"steps": {"finetune": points}},
    "seeds": [0],
  }


def about(diagnosis, topic):
  return dict(summary.sentences(diagnosis)).get(topic)


@pytest.mark.parametrize(
  "values, expected",
  [
    (
      [0.3, 0.4, 0.2],
      "from .300 at step 0 to .400 at step 1, then down to .200 at step 2, .100 below where",
    ),
    ([0.3, 0.4, 0.35], "to .400 at step 1, then down to .350 at step 2, .050 above where it began"),
    ([0.3, 0.4, 0.3], "not clearly different from where it began (.000)"),
    ([0.3, 0.35, 0.4], "to .400 at step 2: no clear fall beyond a point is seen"),
    ([0.3, 0.4, 0.39], "to .400 at step 1 and .390 at step 2: no clear fall"),
    (
      [0.3, 0.31, 0.2],
      "no clear gain: exact match was .300 at step 0, at most .310 (step 1), and fell to .200",
    ),
    ([0.3, 0.31, 0.3], "made no clear difference"),
  ],
)
def test_the_curve_is_told_as_it_is(values, expected):
  assert expected in about(curve_diagnosis(values), "Finetuning")


def test_a_curve_without_step_0_starts_at_zero_shot():
  diagnosis = curve_diagnosis([0.3, 0.4, 0.2])
  del diagnosis["curves"]["steps"]["finetune"][0]
  assert "from .300 at step 0 to .400" in about(diagnosis, "Finetuning")


def test_without_a_curve_before_and_after_are_compared():
  diagnosis = curve_diagnosis([0.3, 0.4, 0.2]) | {"curves": {}}
  assert (
    about(diagnosis, "Finetuning")
    == "Finetuning moved exact match from .300 to .200: a clear loss."
  )


@pytest.mark.parametrize(
  "rare, common, expected",
  [
    (2.46, 0.29, "Both sides"),
    (2.46, 0.95, "only the over-prediction"),
    (1.05, 0.29, "only the under-prediction"),
    (1.05, 0.95, "No clear frequency shock"),
    (0.5, 1.5, "No clear frequency shock"),
  ],
)
def test_shock_is_claimed_only_where_the_interval_excludes_1(rare, common, expected):
  diagnosis = curve_diagnosis([0.3, 0.4, 0.2])
  diagnosis["arms"]["finetune"]["shock"] = {
    "ratio": {"rare_seen": estimate(rare, 0.1), "common_unseen": estimate(common, 0.1)}
  }
  said = about(diagnosis, "Frequency shock")
  assert expected in said and numbers.ratio(rare) in said


def test_shock_that_zero_shot_has_already_is_not_claimed():
  diagnosis = curve_diagnosis([0.3, 0.4, 0.2])
  for label, rare in (("zero", 3.0), ("finetune", 2.0)):
    found = {"ratio": {"rare_seen": estimate(rare, 0.1)}}
    diagnosis["arms"][label] = diagnosis["arms"][label] | {"shock": found}
  assert "No clear frequency shock" in about(diagnosis, "Frequency shock")


def test_remedies_are_sorted_by_what_they_did():
  diagnosis = copy.deepcopy(make_diagnosis())
  for row in diagnosis["comparisons"]:
    if row["against"] == "finetune" and row["arm"] == "mixture":
      row["difference"] = {"mean": 0.01, "low": -0.01, "high": 0.03, "by_seed": {}}
    if row["against"] == "finetune" and row["arm"] == "output_mixing":
      row["difference"] = {"mean": -0.05, "low": -0.06, "high": -0.04, "by_seed": {}}
  said = about(diagnosis, "Remedies")
  assert "clearly better: Both combined (+.141), Weight mixing (+.131)" in said
  assert "clearly worse: Output mixing (−.050)" in said
  assert "not clearly different: Mixture finetuning (+.010)" in said
  assert "The best, Both combined, reaches .420, above zero-shot (.339)" in said


def test_popular_against_unpopular_half():
  assert (
    "the popular half is better (+.124); the popular half is better than the whole (.384)"
    in about(make_diagnosis(), "Which facts")
  )


def test_nothing_to_say_gives_no_sentence():
  assert summary.sentences({"arms": {"mine": {"right": estimate(0.5)}}}) == []


def test_change_turns_a_comparison_round_and_falls_back_on_seeds():
  arms = {"a": {"right": estimate(0.4)}, "b": {"right": estimate(0.3)}}
  row = {"arm": "a", "against": "b", "difference": {"mean": 0.1, "low": -0.01, "high": 0.2}}
  found = reading.change({"arms": arms, "comparisons": [row]}, "b", "a")
  assert (found.difference, found.low, found.high, found.clear) == (-0.1, -0.2, 0.01, False)
  seeds = ("0", "1", "2")
  wide = {label: {"right": estimate(mean, 0.5, seeds)} for label, mean in (("a", 0.4), ("b", 0.3))}
  assert reading.change({"arms": wide}, "a", "b").clear
  wide["a"]["right"]["by_seed"]["1"] = 0.2
  assert not reading.change({"arms": wide}, "a", "b").clear
  assert reading.change({"arms": wide}, "a", "missing") is None


@pytest.mark.parametrize(
  "value, expected",
  [
    (0.339, ".339"),
    (-0.06, "−.060"),
    (1, "1.000"),
    (0, ".000"),
    (-0.0001, ".000"),
    (None, "–"),
    (float("nan"), "–"),
  ],
)
def test_shares_are_written_short(value, expected):
  assert numbers.share(value) == expected


def test_roles_that_are_not_given_are_those_asked_for():
  labels = ("best", "base", "tuned", "mix", "mix@0.1")
  arms = {label: {"right": estimate(0.3)} for label in labels}
  diagnosis = {
    "arms": arms,
    "reference": "base",
    "known": "best",
    "groups": {"mix": "remedy"},
    "verdict": {"finetuned": "tuned"},
  }
  assert reading.roles(diagnosis) == {
    "zero_shot": "base",
    "ceiling": "best",
    "finetuned": "tuned",
    "remedies": ["mix"],
  }
  assert (
    reading.roles(diagnosis | {"roles": {"finetuned": "gone", "remedies": []}})["finetuned"] is None
  )
  assert (
    reading.roles({"arms": {"base": {}, "other": {}}, "reference": "base"})["finetuned"] == "other"
  )

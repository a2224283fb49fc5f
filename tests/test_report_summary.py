"""The summary says what the numbers say, also when an effect is absent."""

import copy
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_fixture import make_diagnosis

from factshock.report import numbers, page, reading, remedies, summary


def estimate(mean, half=0.02, seeds=("0",)):
  return {
    "mean": mean,
    "low": mean - half,
    "high": mean + half,
    "by_seed": dict.fromkeys(seeds, mean),
  }


def compared(arm, against, mean, half=0.02):
  """A paired comparison; one that is clear where the mean is beyond `half`."""
  return {"arm": arm, "against": against, "difference": estimate(mean, half)}


def curve_diagnosis(values, half=0.02):
  """A finetuning curve over steps 0, 1, 2, ... and the comparisons of its points."""
  labels = {f"finetune@{step}": value for step, value in enumerate(values)}
  labels |= {"finetune": values[-1], "zero": values[0]}
  pairs = [
    compared(arm, against, labels[arm] - labels[against], half)
    for arm in labels
    for against in labels
    if arm < against
  ]
  return {**uncompared_curve(values), "comparisons": pairs}


def uncompared_curve(values, half=0.2):
  """The same without comparisons; the intervals of all points overlap."""
  arms = {f"finetune@{step}": {"right": estimate(value, half)} for step, value in enumerate(values)}
  arms |= {"finetune": arms[f"finetune@{len(values) - 1}"], "zero": arms["finetune@0"]}
  points = [{"step": step, "label": f"finetune@{step}"} for step in range(len(values))]
  return {
    "arms": arms,
    "reference": "zero",
    "roles": {"finetuned": "finetune"},
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
      "no clear gain: exact match was .300 at step 0, at most .310 at step 1, and fell to .200",
    ),
    ([0.3, 0.31, 0.3], "made no clear difference"),
  ],
)
def test_the_curve_is_told_as_it_is(values, expected):
  assert expected in about(curve_diagnosis(values), "Finetuning")


def test_a_curve_without_step_0_starts_at_zero_shot():
  diagnosis = curve_diagnosis([0.3, 0.4, 0.2])
  del diagnosis["curves"]["steps"]["finetune"][0]
  assert "from .300 zero-shot to .400 at step 1" in about(diagnosis, "Finetuning")


def has_zero_at_start(values, with_zero):
  diagnosis = curve_diagnosis(values)
  if not with_zero:
    del diagnosis["curves"]["steps"]["finetune"][0]
  return diagnosis


def set_pair(diagnosis, arm, against, low, high):
  for row in diagnosis["comparisons"]:
    if {row["arm"], row["against"]} == {arm, against}:
      sign = 1 if row["arm"] == arm else -1
      ends = sorted((sign * low, sign * high))
      row["difference"] |= {"mean": sum(ends) / 2, "low": ends[0], "high": ends[1]}


def test_the_stored_test_is_what_the_sentence_says_where_intervals_overlap():
  diagnosis = has_zero_at_start([0.380, 0.350, 0.329], with_zero=False)
  diagnosis["comparisons"] = [
    compared("finetune@1", "zero", -0.03, 0.046),
    compared("finetune@2", "zero", -0.05, 0.047),
    compared("finetune@2", "finetune@1", -0.021, 0.04),
  ]
  assert about(diagnosis, "Finetuning") == (
    "Finetuning took exact match from .380 zero-shot down to .329 at step 2, .050 below where it "
    "began."
  )


POINT = st.integers(0, 1000).map(lambda value: value / 1000)


@given(
  values=st.lists(POINT, min_size=3, max_size=5),
  halves=st.lists(POINT, min_size=12, max_size=12),
  with_zero=st.booleans(),
)
def test_every_claim_on_the_curve_is_its_paired_comparison(values, halves, with_zero):
  diagnosis = has_zero_at_start(values, with_zero)
  names = [f"finetune@{step}" for step in range(len(values))]
  if not with_zero:
    names[0] = "zero"
  pairs = [(i, j) for i in range(len(values)) for j in range(i)]
  signs = {}
  for (i, j), half in zip(pairs, halves):
    half /= 2
    difference = values[i] - values[j]
    set_pair(diagnosis, names[i], names[j], difference - half, difference + half)
    signs[i, j] = (difference - half > 0) - (difference + half < 0)
    signs[j, i] = -signs[i, j]
  said = about(diagnosis, "Finetuning")
  last, peak = len(values) - 1, max(range(len(values)), key=values.__getitem__)
  rose, fell = signs.get((peak, 0), 0) > 0, signs.get((last, peak), 0) < 0
  overall = signs[last, 0]
  assert ("where it began" not in said) or (
    ("below where it began" in said, "above where it began" in said) == (overall < 0, overall > 0)
  )
  assert ("no clear difference" in said) == (not rose and not fell and overall == 0)
  assert ("no clear gain" in said) <= (not rose and overall <= 0)
  assert ("then down to" in said) == (rose and fell)
  assert ("no clear fall" in said) <= (rose and not fell)
  assert ("Finetuning took" in said) <= (rose or overall != 0 or fell)
  assert numbers.share(values[0]) in said and numbers.share(values[-1]) in said


def test_without_a_comparison_nothing_is_claimed():
  said = about(uncompared_curve([0.3, 0.9, 0.1]), "Finetuning")
  assert ".300 at step 0, at most .900 at step 1, and .100 at step 2" in said
  assert said.endswith("so neither a gain nor a loss is claimed.")
  before_and_after = uncompared_curve([0.3, 0.9, 0.1]) | {"curves": {}}
  assert about(before_and_after, "Finetuning").endswith(": not compared on the same queries.")


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


@pytest.mark.parametrize(
  "before, half, expected",
  [
    (3.0, 0.1, "No clear frequency shock"),
    (1.8, 0.1, "only the over-prediction"),
    (1.8, 0.3, "No clear frequency shock"),
    (1.8, None, "No clear frequency shock"),
  ],
)
def test_shock_that_zero_shot_has_already_is_not_claimed(before, half, expected):
  diagnosis = curve_diagnosis([0.3, 0.4, 0.2])
  for label, rare in (("zero", before), ("finetune", 2.0)):
    found = {"ratio": {"rare_seen": estimate(rare, 0.1)}}
    diagnosis["arms"][label] = diagnosis["arms"][label] | {"shock": found}
  for row in diagnosis["comparisons"]:
    if (row["arm"], row["against"]) == ("finetune", "zero") and half:
      row["ratio_difference"] = {"rare_seen": estimate(2.0 - before, half)}
  assert expected in about(diagnosis, "Frequency shock")


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
  assert (
    "The highest, Both combined, reaches .420, not clearly above Weight mixing (.410); " in said
  )
  assert "it is above zero-shot (.339)" in said
  for row in diagnosis["comparisons"]:
    if row["against"] == "weight_mixing":
      row["difference"] = {"mean": 0.01, "low": 0.001, "high": 0.02, "by_seed": {}}
  others = [("combined", label, 0.05) for label in ("mixture", "output_mixing", "finetune_early")]
  diagnosis["comparisons"] += [compared(*row) for row in others]
  said = about(diagnosis, "Remedies")
  assert "The best, Both combined, reaches .420, above zero-shot (.339)" in said


def early_diagnosis(steps, early, others, seeds=("0", "1", "2")):
  """A finetuned arm, stopped early, and other remedies: label to share right."""
  shares = {"zero": 0.3, "tuned": 0.2, "tuned_early": early, **others}
  diagnosis = {
    "arms": {label: {"right": estimate(share)} for label, share in shares.items()},
    "titles": {"tuned_early": "Tuned, stopped early"},
    "reference": "zero",
    "roles": {"zero_shot": "zero", "finetuned": "tuned", "remedies": list(others)},
    "table": list(shares),
    "selected": {
      "tuned_early": {seed: {"step": step, "development": 0.4} for seed, step in zip(seeds, steps)}
    },
    "remedies": dict.fromkeys(["tuned_early", *others], "tuned"),
  }
  diagnosis["comparisons"] = [
    compared(arm, against, shares[arm] - shares[against])
    for arm in shares
    for against in shares
    if arm != against
  ]
  return diagnosis


def test_early_stopping_is_among_the_remedies():
  diagnosis = early_diagnosis((25, 50, 25), 0.415, {"mix": 0.389})
  said = about(diagnosis, "Remedies")
  assert "clearly better: Tuned, stopped early (+.215), Mix (+.189)" in said
  assert "The best, Tuned, stopped early, reaches .415, above zero-shot (.300)" in said
  assert reading.best_remedy(diagnosis) == "tuned_early"
  page_text = page.render(diagnosis, {})
  assert "exact match of the best remedy, Tuned, stopped early" in page_text


def test_remedies_that_train_are_named_stopped_early_too():
  shares = {"mixture": 0.3, "mixture_early": 0.425, "weight_mixing": 0.389}
  diagnosis = early_diagnosis((25, 50, 25), 0.415, shares)
  diagnosis["titles"]["mixture_early"] = "Mixture, stopped early"
  # As an experiment writes it: roles and remedies name arms, not what of them stops early.
  diagnosis["roles"]["remedies"] = ["mixture", "weight_mixing"]
  del diagnosis["remedies"]["mixture_early"]
  said = about(diagnosis, "Remedies")
  assert (
    "clearly better: Mixture, stopped early (+.225), Tuned, stopped early (+.215), Weight mixing "
    "(+.189), Mixture (+.100)" in said
  )
  assert "The highest, Mixture, stopped early, reaches .425" in said
  assert "not clearly above Tuned, stopped early (.415)" in said
  page_text = page.render(diagnosis, {})
  assert "exact match of the highest remedy, Mixture, stopped early" in page_text
  rows = re.findall("<tr><th scope=row>(.*?)</th>(.*?)</tr>", remedies.table(diagnosis) or "")
  early, late = dict(rows)["Mixture, stopped early"], dict(rows)["Mixture"]
  assert "+.225" in early and "+.010" in early  # over finetuning, and over it stopped early
  assert "+.100" in late and "−.115" in late
  diagnosis["selected"]["mixture_early"] = {"0": {"step": 0, "development": 0.4}}
  said = about(diagnosis, "Remedies")
  assert "Mixture, stopped early (+.225; step 0 chosen: no finetuning)" in said
  assert "The best, Tuned, stopped early" in said


def test_what_is_stopped_early_at_step_0_is_no_finetuning():
  diagnosis = early_diagnosis((0, 0, 0), 0.415, {"mix": 0.389})
  diagnosis["descriptions"] = {"tuned_early": {"use_when": "always"}}
  said = about(diagnosis, "Remedies")
  assert "Tuned, stopped early (+.215; step 0 chosen: no finetuning)" in said
  assert "The best, Mix, reaches .389" in said
  page_text = page.render(diagnosis, {})
  assert "exact match of the best remedy, Mix" in page_text
  assert "always" not in page_text and "not here: step 0 chosen: no finetuning" in page_text
  alone = early_diagnosis((0, 0, 0), 0.415, {})
  assert "Development facts chose to do nothing in every seed." in about(alone, "Remedies")
  assert "best remedy" not in page.render(alone, {})


def test_step_0_in_some_seeds_is_said():
  diagnosis = early_diagnosis((0, 25, 0), 0.415, {"mix": 0.389})
  said = about(diagnosis, "Remedies")
  assert "(+.215; step 0 chosen in 2 of 3 seeds: no finetuning)" in said


def test_alpha_0_and_no_correction_are_no_remedies():
  diagnosis = early_diagnosis((25, 25, 25), 0.25, {"mix": 0.31, "prior": 0.2, "last": 0.2})
  diagnosis["selected"] |= {
    "mix": {"0": {"alpha": 0.0, "development": 0.4}},
    "prior": {"0": {"tau": 0.0, "development": 0.4}},
    "last": {"0": {"alpha": 1.0, "development": 0.4}},
  }
  said = about(diagnosis, "Remedies")
  assert "Mix (+.110; alpha 0 chosen: no finetuning)" in said
  assert "Prior (.000; tau 0 chosen: no correction)" in said
  assert "Last (.000)" in said
  assert "The best, Tuned, stopped early" in said


@pytest.mark.parametrize("lead, rank", [(0.03, "best"), (0.01, "highest")])
def test_best_is_said_only_where_the_paired_test_says_so(lead, rank):
  diagnosis = early_diagnosis((25, 25, 25), 0.4, {"mix": 0.4 + lead})
  assert f"The {rank}, Mix" in about(diagnosis, "Remedies")
  assert f"exact match of the {rank} remedy, Mix" in page.render(diagnosis, {})


def test_popular_against_unpopular_half():
  assert (
    "the popular half is better (+.124); the popular half is better than the whole (.384)"
    in about(make_diagnosis(), "Which facts")
  )


def test_arms_none_of_which_is_finetuned_are_compared_with_the_reference():
  assert summary.sentences({"arms": {"mine": {"right": estimate(0.5)}}}) == [
    ("Arms", "“Mine” has .500 [.480, .520] of its answers right.")
  ]
  arms = {name: {"right": estimate(0.5)} for name in ("base", "better", "worse", "same")}
  rows = [
    compared("better", "base", 0.1),
    compared("worse", "base", -0.1),
    compared("same", "base", 0.01),
  ]
  diagnosis = {"arms": arms, "reference": "base", "comparisons": rows}
  assert about(diagnosis, "Finetuning") is None
  assert about(diagnosis, "Arms") == (
    "“Base” has .500 [.480, .520] of its answers right. Against “Base”, clearly better: Better "
    "(+.100); clearly worse: Worse (−.100); not clearly different: Same (+.010)."
  )


def test_nothing_to_say_gives_no_sentence():
  assert summary.sentences({"arms": {"mine": {}}}) == []


def test_change_turns_a_comparison_round_and_knows_nothing_else():
  arms = {"a": {"right": estimate(0.4)}, "b": {"right": estimate(0.3)}}
  row = {"arm": "a", "against": "b", "difference": {"mean": 0.1, "low": -0.01, "high": 0.2}}
  found = reading.change({"arms": arms, "comparisons": [row]}, "b", "a")
  assert (found.difference, found.low, found.high, found.clear) == (-0.1, -0.2, 0.01, False)
  seeds = ("0", "1", "2")
  wide = {label: {"right": estimate(mean, 0.5, seeds)} for label, mean in (("a", 0.4), ("b", 0.3))}
  assert reading.change({"arms": wide}, "a", "b") is None
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
  shocked = {"shock": {"shock": estimate(0.1)}}
  for arms, finetuned in (
    ({"base": {}, "other": shocked}, "other"),
    ({"base": {}, "other@25": shocked, "best": shocked}, "other@25"),
    ({"base": {}, "other": {}}, None),
    ({"base": {}, "other": shocked, "third": shocked}, None),
  ):
    diagnosis = {"arms": arms, "reference": "base", "known": "best"}
    assert reading.roles(diagnosis)["finetuned"] == finetuned

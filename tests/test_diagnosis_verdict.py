"""The verdict on hand-made cases: the prior shifted, access lost, both, neither, and too little to
tell.
"""

import numpy as np
import pytest

from factshock.diagnosis import summary, table, verdict
from factshock.predictions import prior_correction, reading
from factshock.runtime.errors import UserError

ANSWERS = "abcdefgh"


def scores(gold, knows, strength=4.0, seed=0):
  """Log-probabilities [Q, 8]: the gold answer is likely where the model `knows`, else noise
  alone.
  """
  random = np.random.default_rng(seed)
  found = random.normal(size=(len(gold), 8))
  found[np.arange(len(gold)), gold] += np.where(knows, strength, 0)
  return found


def rows_of(log_p_QxC, gold):
  found = []
  normalised_QxC = log_p_QxC - np.logaddexp.reduce(log_p_QxC, axis=1, keepdims=True)
  for number, (scores_C, right) in enumerate(zip(normalised_QxC, gold)):
    ranked = sorted(
      ([name, float(score)] for name, score in zip(ANSWERS, scores_C)), key=lambda pair: -pair[1]
    )
    found.append(
      {
        "subject": f"s{number}",
        "relation": "r",
        "object": ANSWERS[right],
        "prediction": ranked[0][0],
        "candidates": ranked,
      }
    )
  return found


def diagnosed(count, after, known="cloze"):
  """The diagnosis of a model that knows half of the facts, of `after(gold, knows)` and of that
  corrected by the first's prior.
  """
  random = np.random.default_rng(7)
  gold, knows = random.integers(8, size=count), random.random(count) < 0.5
  before, tuned = rows_of(scores(gold, knows), gold), rows_of(after(gold, knows), gold)
  of = prior_correction.tables_of(tuned, "tuned")
  ratios, _ = prior_correction.log_ratios(
    of, prior_correction.priors_of(prior_correction.tables_of(before, "before"))
  )
  arms = {
    "before": before,
    "cloze": rows_of(scores(gold, knows, seed=5), gold),
    "tuned": tuned,
    "corrected": prior_correction.corrected_rows(prior_correction.correct(of, ratios, 1), tuned),
  }
  return summary.diagnose(
    {name: {0: reading.from_rows(enumerate(rows, 1))} for name, rows in arms.items()},
    summary.Options(reference="before", known=known, finetuned="tuned", corrected="corrected"),
    summary.Bootstrap(resamples=400),
  )


SHIFT = np.array([3.0, 3, 3, 3, -3, -3, -3, -3])


def forgets(gold, knows, share=0.6):
  return knows & (np.random.default_rng(3).random(len(gold)) > share)


@pytest.mark.parametrize(
  "after, expected",
  [
    (lambda gold, knows: scores(gold, knows) + SHIFT, "prior"),
    (lambda gold, knows: scores(gold, forgets(gold, knows), seed=1), "access"),
    (lambda gold, knows: scores(gold, forgets(gold, knows), seed=1) + SHIFT, "both"),
    (lambda gold, knows: scores(gold, knows), "none"),
    (
      lambda gold, knows: scores(gold, knows | (np.arange(len(gold)) % 3 == 0)),
      "gain",
    ),  # new knowledge alone
  ],
)
def test_each_kind_is_told(after, expected):
  found = diagnosed(800, after)["verdict"]
  assert found["verdict"] == expected, found


def test_the_evidence_is_that_of_the_cases():
  shifted = diagnosed(800, lambda gold, knows: scores(gold, knows) + SHIFT)["verdict"]
  assert shifted["evidence"]["loss"]["mean"] < -0.1 and 0.7 < shifted["share_of_loss"] <= 1
  gained = diagnosed(
    800, lambda gold, knows: scores(gold, knows | (np.arange(len(gold)) % 3 == 0))
  )["verdict"]
  assert verdict.sign(gained["evidence"]["knowledge"]) == 1 and gained["share_of_loss"] is None
  assert verdict.sign(gained["evidence"]["access"]) >= 0


def around(mean, half=0.02):
  return {"mean": mean, "low": mean - half, "high": mean + half, "by_seed": {"0": mean}}


def judged(loss, prior, access, knowledge=None, known_share=0.5):
  """The verdict of hand-made differences."""
  compared = verdict.pairs("a", "b", "c")
  differences = (loss, prior, around(loss["mean"] + prior["mean"]))
  rows = [
    {"arm": arm, "against": against, "difference": difference}
    for (arm, against), difference in zip(compared, differences)
  ]
  rows[0] |= {"difference_unknown": knowledge}
  rows[2] |= {"difference_known": access}
  arms = {"d": {"right": {"mean": known_share}}}
  return verdict.verdict({"comparisons": rows, "known": "d", "arms": arms}, "a", "b", "c")


@pytest.mark.parametrize(
  "loss, prior, access, expected",
  [
    (around(0.0), around(0.0), around(-0.3), "none"),  # as good as before
    (around(0.0), around(0.1), around(-0.3), "none"),
    (around(-0.01), around(0.1), around(0.0), "none"),  # a loss that is not clear
    (around(0.215), around(0.0), around(-0.3), "gain"),
    (around(0.215), around(0.1), around(0.1), "gain"),
    (around(-0.1), around(0.0), around(-0.3), "access"),
    (around(-0.1), around(0.1), around(-0.3), "both"),
    (around(-0.1), around(0.1), around(0.0), "prior"),
    (around(-0.1), around(0.0), around(0.0), "unclear"),
    (around(-0.1), around(-0.1), around(0.0), "unclear"),
  ],
)
def test_only_a_clear_loss_is_blamed_on_something(loss, prior, access, expected):
  found = judged(loss, prior, access)
  text = "\n".join(verdict.lines(found))
  assert found["verdict"] == expected
  is_lost = loss["high"] < 0
  assert (found["share_of_loss"] is not None) == is_lost
  assert ("lost" in found["text"] or "shifted" in found["text"]) == is_lost
  assert ("Nothing needs mending" in text) == (not is_lost)
  assert ("would still gain" in text) == (not is_lost and prior["low"] > 0)
  assert ("of the loss" in text or "times the loss" in text) == (is_lost and prior["low"] > 0)
  assert ("clearly better than before" in text) == (loss["low"] > 0)
  assert ("Weight mixing" in text) == (is_lost and expected != "unclear")


def test_few_queries_are_not_judged():
  """A clear loss that is neither clearly one nor the other."""
  estimate = lambda mean, low, high: {
    "mean": mean,
    "low": low,
    "high": high,
    "by_seed": {"0": mean},
  }
  rows = [
    {
      "arm": arm,
      "against": against,
      "difference": difference,
      "difference_known": known,
      "difference_unknown": None,
    }
    for (arm, against), difference, known in zip(
      verdict.pairs("a", "b", "c"),
      (estimate(-0.1, -0.15, -0.05), estimate(0.03, -0.01, 0.07), estimate(-0.07, -0.1, -0.04)),
      (None, None, estimate(-0.1, -0.3, 0.1)),
    )
  ]
  found = verdict.verdict({"comparisons": rows, "known": "d"}, "a", "b", "c")
  assert found["verdict"] == "unclear" and found["share_of_loss"] == pytest.approx(0.3)


def test_the_terminal_says_it_with_its_evidence():
  lines = table.lines(diagnosed(300, lambda gold, knows: scores(gold, knows) + SHIFT))
  text = "\n".join(lines)
  assert (
    "Verdict: The answer prior has shifted" in text
    and "of the loss" in text
    and "Try first: Answer-prior correction" in text
  )
  assert "corrected - before on facts that cloze has right (access)" in text


def test_facts_are_not_known_by_the_reference_itself():
  """The reference's lucky guesses would look like lost knowledge; without another arm access is
  over all facts.
  """
  found = diagnosed(800, lambda gold, knows: scores(gold, knows, seed=1), known="before")
  assert (
    found["verdict"]["verdict"] == "none"
    and found["verdict"]["known"] is None
    and found["verdict"]["evidence"]["knowledge"] is None
  )
  row = next(
    row for row in found["comparisons"] if (row["arm"], row["against"]) == ("corrected", "before")
  )
  assert verdict.sign(row["difference_known"]) == -1  # the artefact


def test_a_correction_without_its_arm_is_refused():
  rows = rows_of(scores(np.zeros(5, int), np.ones(5, bool)), np.zeros(5, int))
  arms = {name: {0: reading.from_rows(enumerate(rows, 1))} for name in "ab"}
  with pytest.raises(UserError, match="a verdict needs both"):
    summary.diagnose(arms, summary.Options(corrected="b"))

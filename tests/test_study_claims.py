"""Claims of both papers: which arms they compare, and what is found of them."""

import ml_collections
import pytest

from configs import demo, smollm2_135m
from factshock.report import tables
from factshock.study import claims, comparisons


def row_of(expected, low, high, of="right"):
  claim = claims.Claim(claims.SHOCK, "so it is", "a", ("b",), expected, of)
  return claims._finding({"mean": (low + high) / 2, "low": low, "high": high}, claim.expected)


@pytest.mark.parametrize(
  "expected, low, high, finding",
  [
    ("above", 0.01, 0.05, "holds"),
    ("above", -0.01, 0.05, "unclear"),
    ("above", -0.05, -0.01, "fails"),
    ("below", -0.05, -0.01, "holds"),
    ("below", 0.01, 0.05, "fails"),
    ("at least", -0.01, 0.05, "holds"),
    ("at least", -0.03, 0.05, "unclear"),
    ("at least", -0.05, -0.01, "fails"),
    ("at most", -0.05, 0.01, "holds"),
    ("at most", -0.05, 0.03, "unclear"),
    ("at most", 0.01, 0.05, "fails"),
  ],
)
def test_a_claim_holds_where_its_interval_lies_on_the_side_it_names(expected, low, high, finding):
  assert row_of(expected, low, high) == finding


def test_every_claim_has_its_arms_in_the_study_of_real_models():
  config = smollm2_135m.get_config("text")
  compared = {claim for claim, _ in claims._compared(config)}
  without = {claim for claim in claims.CLAIMS if claim.arm in ("natural", "known")}
  assert compared == set(claims.CLAIMS) - without
  pairs = comparisons.pairs(config, list(config.arms))
  assert set(pairs) >= set(claims.pairs(config))
  mixtures = [pair for claim, pair in claims._compared(config) if claim.arm == "mixture"]
  assert mixtures == [("replay", "finetune"), ("mixture", "finetune")]


def test_rows_hold_what_was_measured_and_can_be_read():
  config = smollm2_135m.get_config()
  gap = {"mean": 0.03, "low": 0.0102, "high": 0.0498, "by_seed": {"0": 0.03}}
  change = {"mass": {"mean": -0.1, "low": -0.2, "high": -0.05}}
  diagnosis = {
    "arms": {"popular_half": {}},
    "titles": {"popular_half": "Popular half", "unpopular_half": "Unpopular <half>"},
    "comparisons": [
      {"arm": "popular_half", "against": "unpopular_half", "difference": gap},
      {"arm": "finetune", "against": "zero_shot", "difference": {"mean": None}},
    ],
    "attention": {
      "reference": "zero_shot",
      "arms": {"unpopular_half": {"sites": {"self": {"change": change}}}},
      "comparisons": [
        {"arm": "popular_half", "against": "unpopular_half", "site": "self", **change}
      ],
    },
  }
  rows = claims.rows(config, diagnosis)
  found = {row["claim"]: (row["measure"], row["finding"]) for row in rows}
  assert found == {
    "popular facts are better than unpopular ones": ("right", "holds"),
    "unpopular facts lower the attention to subjects": ("attention", "holds"),
    "attention to subjects is higher after popular than after unpopular facts": (
      "attention",
      "fails",
    ),
  }
  assert rows[0]["visible"] == pytest.approx(2.8 * 0.0198 / 1.96)
  lines = claims.lines(rows, diagnosis["titles"])
  assert lines[1].strip() == "+0.030 [+0.010, +0.050]  Popular half - Unpopular <half>"
  assert max(map(len, lines)) <= 100
  page = tables.claims({**diagnosis, "claims": rows})
  assert "Unpopular &lt;half&gt;" in page and "<b>fails</b>" in page
  assert tables.claims({"arms": {}}) is None


def test_a_study_without_the_arms_has_no_claims():
  config = demo.get_config()
  config.arms = ml_collections.ConfigDict({"zero_shot": demo.arms()["zero_shot_cloze"]})
  config.roles = ml_collections.ConfigDict(dict.fromkeys(config.roles, ""))
  assert claims.rows(config, {"comparisons": []}) == []

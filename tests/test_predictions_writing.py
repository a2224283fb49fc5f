"""Rows of a predictions file: order, ties, what is carried, and the file itself."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from factshock.predictions import writing
from factshock.predictions.tallies import Tally
from factshock.runtime.errors import UserError

FACTS = [
  {
    "subject": "Ada",
    "relation": "born",
    "object": "London",
    "aliases": ["Londinium"],
    "popularity": 2.5,
    "x": 1,
  },
  {"subject": "Bob", "relation": "work", "object": "baker"},
  {"subject": "Cy", "relation": "born", "object": "Rome", "subject_id": "Q1"},
]
CANDIDATES = {"born": ["Rome", "London", "Aix"], "work": ["baker"]}
SCORES = [np.array([-3, -1, -2.0]), np.array([-0.5]), np.array([-1, -1, -9.0], np.float32)]
LABELS = dict(arm="finetune", seed=0, split="test")


def test_rows_keep_order_and_carry_the_fact():
  rows = writing.prediction_rows(FACTS, CANDIDATES, SCORES, top=2, step=25, **LABELS)
  assert rows[0] == {
    "subject": "Ada",
    "relation": "born",
    "object": "London",
    "aliases": ["Londinium"],
    "popularity": 2.5,
    "prediction": "London",
    "score": -1.0,
    "candidates": [["London", -1.0], ["Aix", -2.0]],
    "arm": "finetune",
    "seed": 0,
    "split": "test",
    "step": 25,
    "among": 3,
  }
  assert rows[1]["candidates"] == [["baker", -0.5]]
  assert rows[2]["subject_id"] == "Q1" and "popularity" not in rows[2]


def test_ties_go_to_the_name_that_sorts_first_whatever_the_order_of_candidates():
  row = writing.prediction_rows(FACTS, CANDIDATES, SCORES, top=None, **LABELS)[2]
  assert [name for name, _ in row["candidates"]] == ["London", "Rome", "Aix"]
  turned = {**CANDIDATES, "born": CANDIDATES["born"][::-1]}
  scores = [SCORES[0][::-1], SCORES[1], SCORES[2][::-1]]
  assert writing.prediction_rows(FACTS, turned, scores, top=None, **LABELS)[2] == row


def test_differences_below_six_digits_are_ties():
  scores = [SCORES[0], SCORES[1], np.array([-1.00000001, -1.00000002, -1.0000001])]
  row = writing.prediction_rows(FACTS, CANDIDATES, scores, **LABELS)[2]
  assert row["candidates"] == [["Aix", -1.0], ["London", -1.0], ["Rome", -1.0]]


@given(st.lists(st.floats(-1e4, 0), min_size=1, max_size=20))
@example([-2.0076987941928908e-29])
@example([-2.0076987941928908e-12])
def test_six_digits_are_those_of_the_g_format(scores):
  facts = [{"subject": "s", "relation": "r", "object": "a"}] * len(scores)
  rows = writing.text_rows(facts, ["a"] * len(scores), scores, **LABELS)
  for row, score in zip(rows, scores):
    assert row["score"] == pytest.approx(float(f"{score:.6g}"), rel=1.1e-5, abs=1e-17)
    assert float(f"{row['score']:.6g}") == row["score"]


def test_the_order_can_be_had_again_from_the_rows():
  random = np.random.default_rng(0)
  names = [f"n{number:03d}" for number in random.permutation(200)]
  facts = [{"subject": str(number), "relation": "r", "object": names[0]} for number in range(50)]
  scores = list(np.round(random.normal(size=(50, 200)), 1) - 10)
  for row in writing.prediction_rows(facts, {"r": names}, scores, top=None, **LABELS):
    assert row["candidates"] == sorted(row["candidates"], key=lambda pair: (-pair[1], pair[0]))
    assert len(row["candidates"]) == 200


def test_no_probability_at_all_is_written_as_a_number():
  scores = [np.array([-np.inf, -1, -2.0]), SCORES[1], SCORES[2]]
  row = writing.prediction_rows(FACTS, CANDIDATES, scores, **LABELS)[0]
  assert row["candidates"][-1] == ["Rome", writing.LOWEST]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_diverged_model_is_an_error(bad):
  with pytest.raises(UserError, match="diverged"):
    writing.prediction_rows(FACTS, CANDIDATES, [np.array([bad, -1, -2.0]), *SCORES[1:]], **LABELS)


@pytest.mark.parametrize(
  "scores, top, words",
  [
    (SCORES[:2], 10, "one array of scores a fact"),
    ([SCORES[0], SCORES[0], SCORES[2]], 10, "expected 1 scores"),
    (SCORES, 0, "top"),
  ],
)
def test_arguments_that_do_not_fit(scores, top, words):
  with pytest.raises(ValueError, match=words):
    writing.prediction_rows(FACTS, CANDIDATES, scores, top=top, **LABELS)


def test_generated_texts_have_no_candidates():
  scores = np.array([-1.23456789, -2, -3], np.float32)
  rows = writing.text_rows(FACTS, ["London", "cook", ""], scores, **LABELS)
  assert rows[0]["prediction"] == "London" and rows[0]["score"] == -1.23457
  assert "candidates" not in rows[0] and rows[2]["prediction"] == ""
  with pytest.raises(ValueError, match="a text and a score for each of"):
    writing.text_rows(FACTS, ["London"], [-1.0], **LABELS)


@pytest.mark.parametrize("name", ["p.jsonl", "deep/p.jsonl.gz"])
def test_the_file_holds_the_rows(tmp_path, name):
  rows = writing.prediction_rows(FACTS, CANDIDATES, SCORES, **LABELS)
  rows[0]["subject"] = "Zoë"
  writing.write_predictions(tmp_path / name, rows)
  data = (tmp_path / name).read_bytes()
  text = (gzip.decompress(data) if name.endswith("gz") else data).decode()
  assert [json.loads(line) for line in text.splitlines()] == rows
  assert "Zoë" in text


def test_nothing_is_left_of_a_file_that_fails(tmp_path):
  path = tmp_path / "p.jsonl"
  writing.write_predictions(path, [{"a": 1}])
  with pytest.raises(ValueError):
    writing.write_predictions(path, [{"a": 2}, {"a": float("nan")}])
  assert path.read_text() == '{"a": 1}\n' and len(list(tmp_path.iterdir())) == 1
  with pytest.raises(UserError, match="ending in .jsonl"):
    writing.write_predictions(tmp_path / "p.txt", [])


def test_candidates_are_the_distinct_objects_of_a_relation():
  facts = FACTS + [{"subject": "D", "relation": "born", "object": "Rome"}]
  assert writing.candidates_of(facts) == {"born": ["London", "Rome"], "work": ["baker"]}
  assert writing.candidates_of(facts, ["work"]) == {"work": ["baker"]}
  with pytest.raises(UserError, match="none of 'died'"):
    writing.candidates_of(facts, ["died", "work"])


def test_answers_that_hold_a_right_one_are_counted_too():
  rows = [
    {"prediction": "Paris", "object": "Paris"},
    {"prediction": "It is Paris, I think", "object": "paris"},
    {"prediction": "the big apple", "object": "New York", "aliases": ["Big Apple"]},
    {"prediction": "Rome", "object": "Oslo"},
  ]
  tally = Tally()
  assert list(tally.over(rows)) == rows
  assert tally.describe() == (
    "4 answers, 1 of them word for word right (25.0%), 3 hold an accepted answer (75.0%)"
  )

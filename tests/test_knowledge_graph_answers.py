"""Answers read from predictions: merging of names, queries of several rows, and bad input."""

import json
import math
import tracemalloc

import numpy as np
import pytest

from factshock.knowledge_graph import answers
from factshock.runtime.errors import UserError


def write(path, *rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def row(subject="ada", relation="born_in", **rest):
  return {
    "subject": subject,
    "relation": relation,
    "object": "London",
    "prediction": "Rome",
    "score": -1.0,
    **rest,
  }


def test_names_of_one_answer_are_one_candidate(tmp_path):
  names = answers.collect_names(
    [
      {
        "relation": "born_in",
        "object": "New York City",
        "aliases": ["NYC", "New York"],
        "object_id": "Q60",
      },
      {"relation": "born_in", "object": "Paris"},
    ]
  )
  path = write(
    tmp_path / "p.jsonl",
    row(
      candidates=[
        ["Paris", np.log(0.4)],
        ["nyc", np.log(0.3)],
        ["the New York", np.log(0.2)],
        ["", np.log(0.1)],
      ]
    ),
  )
  found = answers.read(path, names)
  assert list(found.texts) == ["New York City", "Paris"] and found.rank_N.tolist() == [1, 2]
  np.testing.assert_allclose(np.exp(found.score_N), [5 / 9, 4 / 9])
  assert names.ids["born_in", "New York City"] == "Q60"


def test_a_name_of_two_answers_is_nobodys():
  names = answers.collect_names(
    [
      {"relation": "r", "object": "Georgia (country)", "aliases": ["Georgia"]},
      {"relation": "r", "object": "Georgia (state)", "aliases": ["Georgia"]},
      {"relation": "s", "object": "Georgia"},
    ]
  )
  assert ("r", "georgia") not in names.labels and names.labels["s", "georgia"] == "Georgia"
  assert names.labels["r", "georgia country"] == "Georgia (country)"


def test_rows_of_one_query_are_its_right_answers(tmp_path):
  listed = {"candidates": [["Rome", -0.5], ["Oslo", -1.5], ["Bonn", -2.5]]}
  path = write(
    tmp_path / "p.jsonl",
    row(object="Oslo", **listed),
    row(subject="bob", object=None),
    row(object="Rome", aliases=["Roma"], **listed),
  )
  found = answers.read(path, labelled=True)
  assert list(found.subjects) == ["ada", "bob"] and found.query_N.tolist() == [0, 0, 0, 1]
  assert found.golds == [[("oslo",), ("rome", "roma")], []]
  assert answers.is_right(found).tolist() == [True, True, False, False]


def test_two_names_of_one_right_answer_count_once(tmp_path):
  path = write(
    tmp_path / "p.jsonl",
    row(object="Rome", aliases=["Roma"], candidates=[["Rome", -0.5], ["Roma", -1.5]]),
  )
  found = answers.read(path, labelled=True)
  assert answers.is_right(found).tolist() == [True, False]


def test_generated_answers_keep_their_log_probability(tmp_path):
  found = answers.read(
    write(tmp_path / "p.jsonl", row(score=-2.5), row(subject="bob", prediction="", score=-1.0))
  )
  assert (
    list(found.texts) == ["Rome"] and found.score_N.tolist() == [-2.5] and len(found.subjects) == 2
  )


def test_rounding_of_another_batch_is_the_same_answer(tmp_path):
  pairs = [["Rome", -1.0], ["Oslo", -1.0001]]
  path = write(
    tmp_path / "p.jsonl",
    row(candidates=pairs),
    row(object="Rome", candidates=[["Oslo", -1.0], ["Rome", -1.0002]]),
  )
  assert answers.read(path, labelled=True).golds == [[("london",), ("rome",)]]


def test_taking_queries(tmp_path):
  rows = [row(subject=name, candidates=[[f"{name}1", -0.5], [f"{name}2", -1.5]]) for name in "abcd"]
  found = answers.take(
    answers.read(write(tmp_path / "p.jsonl", *rows), labelled=True),
    np.array([False, True, False, True]),
  )
  assert (
    list(found.subjects) == ["b", "d"]
    and list(found.texts) == ["b1", "b2", "d1", "d2"]
    and found.query_N.tolist() == [0, 0, 1, 1]
  )


@pytest.mark.parametrize(
  "rows, message",
  [
    ([row(), row(subject="bob", score=None)], "in 1 of 2"),
    ([row(score=0.3)], "expected log-probabilities, at most 0"),
    ([row(score=float("nan"))], "p.jsonl:1: expected"),
    ([row(), row(prediction="Oslo", score=-1.5)], "p.jsonl:2: expected one answer to a query"),
    ([row(subject="")], "non-empty text in `subject`"),
    ([row(candidates=["Rome"])], r"expected candidates as \[text, log-probability\]"),
    ([row(prediction=7)], "expected a text in `prediction`"),
    (
      [{"subject": "a", "relation": "r", "prediction": "x", "score": -1}],
      "expected `object`, the right answer",
    ),
    ([row(object=["x"])], "expected a text in `object`"),
    ([], "got no rows"),
  ],
)
def test_bad_rows(tmp_path, rows, message):
  with pytest.raises(UserError, match=message):
    answers.read(write(tmp_path / "p.jsonl", *rows), labelled=True)


def test_overlap_is_refused_with_its_count():
  known = [(name, "r") for name in "abc"]
  with pytest.raises(UserError, match="apart from the queries, got 2 of 3 shared"):
    answers.check_separate_queries(known, ((name, "r") for name in "bcd"), "queries")
  answers.check_separate_queries(known, [("a", "s")], "queries")


def test_a_further_right_answer_is_of_its_query_alone(tmp_path):
  path = write(
    tmp_path / "p.jsonl",
    row(object="Rome"),
    row(subject="bob", object="Rome"),
    row(object="Oslo"),
  )
  assert answers.read(path, labelled=True).golds == [[("rome",), ("oslo",)], [("rome",)]]


def test_rows_that_say_the_same_again_are_counted_once(tmp_path, capsys):
  rows = [row(object="Rome"), row(object="Rome"), row(object="Roma", aliases=["Rome"])]
  path = write(tmp_path / "p.jsonl", *rows, row(object="Rome"))
  assert answers.read(path, labelled=True).golds[0][0] == ("rome",)
  assert "p.jsonl:2: says again what a row before says, as 2 rows do" in capsys.readouterr().out


def test_impossible_candidates_and_other_predictions(tmp_path, capsys):
  candidates = [["Rome", -1.0], ["Oslo", -math.inf]]
  path = write(tmp_path / "p.jsonl", row(prediction="Oslo", candidates=candidates))
  assert list(answers.read(path).texts) == ["Rome"]
  assert "p.jsonl:1: `prediction` is not the likeliest of" in capsys.readouterr().out


def test_queries_that_are_not_wanted_are_named(tmp_path):
  path = write(tmp_path / "p.jsonl", row(), row(subject="bob"), row(subject="bob"))
  left_out = set()
  found = answers.read(path, only={("ada", "born_in")}, left_out=left_out)
  assert list(found.queries()) == [("ada", "born_in")] and left_out == {("bob", "born_in")}


def test_texts_are_held_once():
  texts = answers.Texts.of(["Rome", "Oslo", "Rome"])
  assert texts.names == ["Rome", "Oslo"] and texts.code_N.dtype == np.int32
  assert list(texts) == ["Rome", "Oslo", "Rome"] and texts[2] == "Rome" and len(texts[1:]) == 2
  assert list(texts.where(np.array([False, True, True]))) == ["Oslo", "Rome"]
  assert answers.Texts.of(texts) is texts and texts.take(np.array([1])) == ["Oslo"]


def test_a_row_is_held_as_numbers(tmp_path):
  """Ten candidates are 8 bytes of score, 4 of text, 4 of query and 2 of rank each."""
  few, many = (
    write(
      tmp_path / f"{size}.jsonl",
      *(
        row(subject=f"s{i}", candidates=[[f"e{(i + j) % 50}", -1.0 - j] for j in range(10)])
        for i in range(size)
      ),
    )
    for size in (500, 1500)
  )
  held = []
  for path in (few, many):
    tracemalloc.start()
    found = answers.read(path)
    held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    del found
  assert (held[1] - held[0]) / 1000 < 400

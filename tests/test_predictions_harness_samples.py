"""The lm-evaluation-harness's samples files as predictions; test_harness_tasks.py reads files that
it wrote itself.
"""

import json

import numpy as np
import pytest

from factshock.predictions import accuracy, reading
from factshock.runtime.errors import UserError

NAME = "samples_popqa_2026-01-02T03-04-05.678901.jsonl"
DOC = {
  "subject": "Ann",
  "relation": "P19",
  "object": "Oslo",
  "aliases": ["Christiania"],
  "popularity": 7.0,
}
SAID = {
  "doc_id": 0,
  "doc": DOC,
  "target": "Oslo",
  "arguments": {"gen_args_0": {"arg_0": "Q: ?\nA:", "arg_1": {"until": ["\n"]}}},
  "resps": [[" Oslo"]],
  "filtered_resps": [" Oslo"],
  "filter": "none",
  "exact_match": 1.0,
}
CHOSEN = {
  **SAID,
  "target": "1",
  "arguments": {
    f"gen_args_{n}": {"arg_0": "Q", "arg_1": f" {name}"}
    for n, name in enumerate(["Rome", "Oslo", "Bern"])
  },
  "resps": [[["-3.0", "False"]], [["-1.5", "True"]], [["-2.5", "False"]]],
  "filtered_resps": [["-3.0", "False"], ["-1.5", "True"], ["-2.5", "False"]],
}


def read(tmp_path, *rows, name=NAME):
  (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
  return reading.read(tmp_path / name)


def texts(found, column):
  return [found.strings[code] for code in getattr(found, column)]


def test_generated_answers(tmp_path):
  found = read(
    tmp_path, SAID, {**SAID, "filtered_resps": ["Rome "], "doc": {**DOC, "subject": "Bo"}}
  )
  assert texts(found, "subject") == ["Ann", "Bo"] and texts(found, "prediction") == ["Oslo", "Rome"]
  assert texts(found, "label") == [NAME.removesuffix(".jsonl")] * 2
  assert found.rank is None and found.popularity.tolist() == [7, 7]
  assert accuracy.exact_match(found).tolist() == [1, 0]


def test_choices_are_candidates(tmp_path):
  found = read(tmp_path, CHOSEN, {**CHOSEN, "doc": {**DOC, "object": "Rome", "aliases": []}})
  assert texts(found, "prediction") == ["Oslo"] * 2 and found.score.tolist() == [-1.5, -1.5]
  assert found.rank.tolist() == [1, 3] and found.listed == 3


def test_choices_scored_without_a_context_too_count_once(tmp_path):
  bare = {
    f"gen_args_{n + 3}": {**pair, "arg_0": ""}
    for n, pair in enumerate(CHOSEN["arguments"].values())
  }
  row = {
    **CHOSEN,
    "arguments": {**CHOSEN["arguments"], **bare},
    "filtered_resps": CHOSEN["filtered_resps"] + [["0.0", "True"]] * 3,
  }
  found = read(tmp_path, row)
  assert found.listed == 3 and texts(found, "prediction") == ["Oslo"]


@pytest.mark.parametrize(
  "doc",
  [
    {"subj": "Ann", "prop": "P19", "obj": "Oslo", "possible_answers": '["Oslo", "Christiania"]'},
    {"sub_label": "Ann", "predicate_id": "P19", "obj_label": "Oslo", "answers": ["Christiania"]},
  ],
)
def test_other_names_of_the_same(tmp_path, doc):
  found = read(tmp_path, {**SAID, "doc": doc, "filtered_resps": ["christiania"]})
  assert [texts(found, name) for name in ("subject", "relation", "object")] == [
    ["Ann"],
    ["P19"],
    ["Oslo"],
  ]
  assert accuracy.exact_match(found).tolist() == [1]


def test_a_question_without_a_fact_is_asked_of_its_task(tmp_path):
  found = read(tmp_path, {**CHOSEN, "doc": {"question": "Where?", "subject": "geography"}})
  assert [texts(found, name) for name in ("subject", "relation", "object")] == [
    ["Where?"],
    ["popqa"],
    ["Oslo"],
  ]
  assert found.rank.tolist() == [1]


def test_filters_are_arms(tmp_path):
  found = read(tmp_path, *({**SAID, "filter": name} for name in ("strict", "loose")))
  assert list(reading.group_by_arm([found])) == [
    f"{NAME.removesuffix('.jsonl')}/{name}" for name in ("strict", "loose")
  ]


def test_predictions_with_a_column_doc_stay_predictions(tmp_path):
  row = {
    "subject": "s",
    "relation": "r",
    "object": "o",
    "prediction": "p",
    "doc": {"subject": "other"},
  }
  found = read(tmp_path, row, name="mine.jsonl")
  assert texts(found, "subject") == ["s"] and np.isnan(found.score).all()


@pytest.mark.parametrize(
  "row, words",
  [
    ({**SAID, "doc": {"text": "It was"}}, "expected a document with subject, relation and object"),
    ({**SAID, "doc": {"question": "Where?"}, "target": None}, "expected a document with subject"),
    (
      {**SAID, "arguments": {"gen_args_0": {"arg_0": "Q"}}, "filtered_resps": [["-12.5"]]},
      "expected a context and a continuation of each choice",
    ),
    (
      {**CHOSEN, "filtered_resps": [["-3.0", "False"]]},
      "a generated text or a log-probability of each choice",
    ),
    (
      {**CHOSEN, "filtered_resps": [["nan", "False"]] * 3},
      "expected a generated text or a log-probability",
    ),
    (
      {**SAID, "filtered_resps": [["Oslo", "Rome"]]},
      "expected one generated text in filtered_resps",
    ),
    ({**SAID, "doc": {"question": "Where?"}, "target": "[]"}, "expected a document with subject"),
    ({**SAID, "doc": {"question": "?"}, "target": "['a' 'b']"}, "expected a document with subject"),
    ({"subject": "s"}, "expected a sample with doc and filtered_resps"),
  ],
)
def test_samples_that_are_no_predictions(tmp_path, row, words):
  with pytest.raises(UserError, match=rf"{NAME}:2: .*{words}"):
    read(tmp_path, SAID, row)


def asked(question, answer, target, prediction, right):
  """Returns a sample of a question as the harness (0.4.13) writes it."""
  return {
    **SAID,
    "doc": {"question": question, "answer": answer},
    "target": target,
    "filtered_resps": [prediction],
    "filter": "remove_whitespace",
    "metrics": ["exact_match"],
    "exact_match": right,
  }


TRIVIAQA = [
  asked(
    "What is the capital of France",
    {"value": "Paris", "aliases": ["Paris", "City of Light"]},
    "['Paris', 'City of Light']",
    "City of Light",
    1.0,
  ),
  asked(
    "What is the capital of Japan",
    {"value": "Tokyo", "aliases": ["Edo", "Tokyo"]},
    "['Edo', 'Tokyo']",
    "Paris",
    0.0,
  ),
]
NQ_OPEN = [
  asked("who sang it", ["Ann's", 'The "B"'], '["Ann\'s", \'The "B"\']', "b", 1.0),
  asked("who wrote it", ["Bo"], "['Bo']", "Ann's", 0.0),
]


@pytest.mark.parametrize("rows, gold", [(TRIVIAQA, ["Paris", "Tokyo"]), (NQ_OPEN, ["Ann's", "Bo"])])
def test_a_target_that_is_a_list_is_answers(tmp_path, capsys, rows, gold):
  found = read(tmp_path, *rows)
  assert texts(found, "object") == gold
  assert accuracy.exact_match(found).tolist() == [1, 0]
  assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
  "doc, target, accepted",
  [
    ({"answer": "Oslo"}, "Oslo", ("Oslo",)),
    (
      {"answers": {"text": ["Oslo", "in Oslo"], "answer_start": [3, 1]}},
      "Oslo",
      ("Oslo", "in Oslo"),
    ),
    ({"answers": ["Oslo", "Rome"], "choices": 2}, "Bern", ("Bern",)),
    ({"aliases": ["Christiania"]}, "Oslo", ("Oslo", "Christiania")),
    ({"answer": ["Oslo", "Christiania"]}, None, ("Oslo", "Christiania")),
    ({}, "[2, 3.5]", ("2", "3.5")),
    ({}, "[Verse 1]", ("[Verse 1]",)),
    ({}, ["Oslo", "Christiania"], ("Oslo", "Christiania")),
    ({}, '["Oslo","Christiania"]', ("Oslo", "Christiania")),
  ],
)
def test_answers_of_questions(tmp_path, doc, target, accepted):
  row = {**SAID, "doc": {"question": "Where?", **doc}, "target": target, "exact_match": None}
  assert read(tmp_path, row).answers == [accepted]


def test_targets_in_words_beside_a_fact_are_aliases(tmp_path):
  found = read(tmp_path, {**SAID, "target": "['Oslo', 'Oslo, Norway']"})
  assert found.answers == [("Oslo", "Christiania", "Oslo, Norway")]


def test_several_choices_are_right(tmp_path, capsys):
  """As in webqs, whose target is a list of indices; documents list wrong choices too."""
  doc = {"question": "Where?", "answers": ["Rome", "Oslo", "Bern"]}
  row = {**CHOSEN, "doc": doc, "target": "[0, 2]", "acc": 0.0}
  found = read(tmp_path, row)
  assert found.answers == [("Rome", "Bern")] and accuracy.exact_match(found).tolist() == [0]
  assert capsys.readouterr().out == ""


def test_texts_in_lists_are_generated_where_a_filter_leaves_one(tmp_path):
  rows = [{**SAID, "filtered_resps": responses} for responses in ([[" Oslo"]], [["Oslo", "Oslo "]])]
  assert texts(read(tmp_path, *rows), "prediction") == ["Oslo"] * 2


def test_where_the_own_metric_differs_is_said(tmp_path, capsys):
  rows = [
    {**SAID, "filter": "strict", "exact_match": 0.0},
    {**SAID, "filter": "loose"},
    {**SAID, "filter": "strict", "exact_match": 0.0, "filtered_resps": ["Rome"]},
  ]
  read(tmp_path, *rows)
  assert capsys.readouterr().out == (
    f"  {tmp_path / NAME}: the samples' own exact_match after the filter strict is 0.0%, our exact "
    "match 50.0%; they differ in 1 of 2 (line 1)\n"
  )

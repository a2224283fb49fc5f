"""Rankings as lm-pub-quiz's result files: what is written, and what lm-pub-quiz makes of it."""

import json

import answered
import numpy as np
import pytest
import tiny_folders

from factshock.answering import asking, pub_quiz
from factshock.facts import relations, schema, world
from factshock.predictions import accuracy, reading, writing
from factshock.runtime.errors import UserError

TEMPLATES = {"P36": "The capital of [X] is [Y].", "P30": "[X] is located in [Y]."}


def ranked(top=None, seed=0):
  """Rows of a predictions file: 2 relations, 5 and 3 candidates, random scores."""
  random = np.random.default_rng(seed)
  answers = {"P36": ["Rome", "Oslo", "Paris", "Bern", "Kyiv"], "P30": ["Asia", "Europe", "Africa"]}
  facts = [
    {
      "subject": f's{number} "é"',
      "relation": relation,
      "object": random.choice(objects).item(),
      "subject_id": f"Q{number}",
    }
    for relation, objects in answers.items()
    for number in range(30)
  ]
  scores = [np.log(random.dirichlet(np.ones(len(answers[fact["relation"]])))) for fact in facts]
  return writing.prediction_rows(facts, answers, scores, arm="a", seed=0, split="test", top=top)


def test_files_hold_every_score_in_the_order_of_the_answers(tmp_path):
  rows = ranked()
  pub_quiz.write(tmp_path / "quiz", rows, model="mine", templates=TEMPLATES)
  metadata = json.loads((tmp_path / "quiz" / pub_quiz.METADATA).read_text())
  assert list(metadata) == ["P36", "P30"] and metadata["P30"]["answer_space_labels"] == [
    "Africa",
    "Asia",
    "Europe",
  ]
  assert (
    metadata["P36"]["templates"] == [TEMPLATES["P36"]]
    and metadata["P36"]["model_name_or_path"] == "mine"
  )
  for relation in metadata:
    mine = [row for row in rows if row["relation"] == relation]
    lines = (tmp_path / "quiz" / f"{relation}_results.jsonl").read_text().splitlines()
    for row, line in zip(mine, map(json.loads, lines), strict=True):
      names = metadata[relation]["answer_space_labels"]
      assert dict(zip(names, line["pll_scores"])) == dict(row["candidates"])
      assert names[line["answer_idx"]] == row["object"] and line["sub_label"] == row["subject"]


def test_lm_pub_quiz_finds_the_accuracy_that_diagnose_finds(tmp_path):
  lm_pub_quiz = pytest.importorskip("lm_pub_quiz")
  rows = ranked()
  pub_quiz.write(tmp_path / "quiz", rows, model="mine", templates=TEMPLATES)
  found = lm_pub_quiz.DatasetResults.from_path(tmp_path / "quiz")
  right = accuracy.exact_match(reading.from_rows(enumerate(rows, 1)))
  by_relation = {
    name: np.mean([one for one, row in zip(right, rows) if row["relation"] == name])
    for name in TEMPLATES
  }
  assert 0 < min(by_relation.values()) and max(by_relation.values()) < 1
  table = found.get_metrics(["accuracy", "support"], accumulate=False)
  assert table["accuracy"].to_dict() == pytest.approx(by_relation)
  assert table["support"].to_dict() == {"P36": 30, "P30": 30}
  assert found.get_metrics("accuracy", accumulate=True) == pytest.approx(right.mean())
  assert found["P36"].used_template == TEMPLATES["P36"]
  kept = found["P30"].instance_table
  assert kept["sub_label"].tolist() == [row["subject"] for row in rows if row["relation"] == "P30"]
  assert kept["obj_label"].tolist() == [row["object"] for row in rows if row["relation"] == "P30"]


def test_ids_of_objects_are_kept_where_all_are_known_and_differ(tmp_path):
  rows = [
    {
      "subject": str(n),
      "relation": "P1",
      "object": name,
      "object_id": f"Q{n}",
      "candidates": [["x", -1.0], ["y", -2.0]],
    }
    for n, name in enumerate("xy")
  ]
  pub_quiz.write(tmp_path / "a", rows, model="m")
  pub_quiz.write(tmp_path / "b", [{**row, "object_id": "Q1"} for row in rows], model="m")
  ids = [
    json.loads((tmp_path / name / pub_quiz.METADATA).read_text())["P1"]["answer_space_ids"]
    for name in "ab"
  ]
  assert ids == [["Q0", "Q1"], ["P1-0", "P1-1"]]


def test_rankings_that_cannot_be_written(tmp_path):
  with pytest.raises(UserError, match="expected all its 2 candidates, .*--top=0"):
    pub_quiz.write(tmp_path / "quiz", ranked(top=2), model="m")
  with pytest.raises(UserError, match="expected all its 0 candidates"):
    pub_quiz.write(
      tmp_path / "quiz", [{"subject": "s", "relation": "P1", "object": "o"}], model="m"
    )
  with pytest.raises(UserError, match="name of a file"):
    pub_quiz.write(tmp_path / "quiz", [{**row, "relation": "a/b"} for row in ranked()], model="m")
  assert not (tmp_path / "quiz").exists()
  pub_quiz.write(tmp_path / "quiz", ranked(), model="m")
  with pytest.raises(UserError, match="holds results already"):
    pub_quiz.write(tmp_path / "quiz", ranked(), model="m")


@pytest.mark.parametrize("family", ["t5", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_ranking_is_written_whole_beside_the_predictions(tmp_path, family):
  made = world.make_world(0, relations=2, subjects=60, answers=15, mean_mentions=3)
  tiny_folders.make(tmp_path, made.sentences)
  schema.write_facts(tmp_path / "facts.jsonl", made.facts)
  relations.write_relations(tmp_path / "relations.jsonl", made.relations)
  rows = answered.answer_facts(
    str(tmp_path / family),
    str(tmp_path / "facts.jsonl"),
    str(tmp_path / "said.jsonl"),
    asking.AnswerOptions(
      relations=str(tmp_path / "relations.jsonl"), pub_quiz=str(tmp_path / "quiz")
    ),
  )
  metadata = json.loads((tmp_path / "quiz" / pub_quiz.METADATA).read_text())
  for relation, about in metadata.items():
    mine, names = [row for row in rows if row["relation"] == relation], about["answer_space_labels"]
    assert (
      about["templates"] == [made.relations[relation]["questions"][0] + " [Y]"] and len(names) > 10
    )
    lines = [
      json.loads(line)
      for line in (tmp_path / "quiz" / f"{relation}_results.jsonl").read_text().splitlines()
    ]
    assert [names[int(np.argmax(line["pll_scores"]))] for line in lines] == [
      row["prediction"] for row in mine
    ]
    assert all(len(line["pll_scores"]) == len(names) for line in lines)
    assert all(len(row["candidates"]) == 10 for row in mine)

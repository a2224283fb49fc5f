"""Candidates of ranking: all answers known of a relation, and where they are said to come from."""

import json

import pytest

from factshock.answering import known_answers
from factshock.checkpoints.loading import Origin
from factshock.facts import schema
from factshock.runtime.errors import UserError


def facts_of(relation, *objects):
  return [{"subject": f"s{n}", "relation": relation, "object": o} for n, o in enumerate(objects)]


def origin_of(workdir=None, seed=0):
  record = {"seed": seed, "workdir": str(workdir)} if workdir else {}
  return Origin("checkpoint", {}, record)


@pytest.fixture
def workdir(tmp_path):
  for seed in (0, 1):
    folder = tmp_path / "run" / "facts" / str(seed)
    folder.mkdir(parents=True)
    schema.write_facts(folder / "pool.jsonl", facts_of("r", "Oslo", f"Bern{seed}"))
    schema.write_facts(folder / "test.jsonl", facts_of("r", "Rome"))
    (folder / "relations.jsonl").write_text(json.dumps({"relation": "r"}) + "\n")
  return tmp_path / "run"


def test_finetuning_facts_and_other_files_give_candidates_too(tmp_path, workdir, capsys):
  schema.write_facts(tmp_path / "more.jsonl", facts_of("r", "Paris", "Oslo") + facts_of("q", "x"))
  more = str(tmp_path / "more.jsonl")
  facts = facts_of("r", "Rome", "Rome")
  test = str(workdir / "facts" / "0" / "test.jsonl")
  candidates = known_answers.of_relations(facts, test, ["r"], origin_of(workdir), [None, more])
  assert candidates == {"r": ["Bern0", "Oslo", "Paris", "Rome"]}
  pool = workdir / "facts" / "0" / "pool.jsonl"
  assert capsys.readouterr().out == f"  among 4 candidates from {test}, {more}, {pool}\n"


def test_facts_of_the_checkpoints_own_seed(workdir):
  candidates = known_answers.of_relations([], "none", ["r"], origin_of(workdir, seed=1))
  assert candidates == {"r": ["Bern1", "Oslo", "Rome"]}


def test_a_model_without_a_workdir_has_the_facts_given(capsys):
  facts = facts_of("r", "a", "b") + facts_of("q", "c")
  assert known_answers.of_relations(facts, "mine", ["r", "q"], origin_of()) == {
    "r": ["a", "b"],
    "q": ["c"],
  }
  assert capsys.readouterr().out == "  among 3 candidates of 2 relations from mine\n"


def test_a_relation_without_any_answer_is_named():
  with pytest.raises(UserError, match="got none of 'q'"):
    known_answers.of_relations(facts_of("r", "a"), "mine", ["q"], origin_of())


def test_a_file_alone(tmp_path, capsys):
  path = str(tmp_path / "mine.jsonl")
  schema.write_facts(path, facts_of("r", "Oslo", "Rome") + facts_of("q", "x"))
  facts = [*facts_of("r", "Rome", "Bern"), {**facts_of("r", "Roma")[0], "aliases": ["Rome"]}]
  assert known_answers.of_file(path, ["r"], facts) == {"r": ["Oslo", "Rome"]}
  assert capsys.readouterr().out == (
    f"  among 2 candidates from {path}\n"
    "  1 of 3 facts have no answer among them: no prediction of these can be right\n"
  )
  with pytest.raises(UserError, match="mine.jsonl: .*got none of 'p'"):
    known_answers.of_file(path, ["p"], [])

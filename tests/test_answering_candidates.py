"""Several answers a query from a model: ranked, beams, votes; each query asked once, and the
extraction that follows.
"""

import gzip
import importlib
import json
import re

import answered
import numpy as np
import pytest
import tiny_folders
import verb_flags

from factshock.answering import asking, candidates, decoding
from factshock.answering import queries as answering_queries
from factshock.answering.prompting import Prompting
from factshock.checkpoints import loading
from factshock.data import prompts
from factshock.facts import queries as query_room
from factshock.facts import relations as relation_files
from factshock.facts import schema, world
from factshock.interface import extracting
from factshock.knowledge_graph import canonical, pipeline
from factshock.runtime.errors import UserError

FAMILIES = ("t5", "llama")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """A folder with facts, relations, and a T5 and a Llama of random weights."""
  folder = tmp_path_factory.mktemp("models")
  made = world.make_world(0, relations=2, subjects=40, answers=6, mean_mentions=3)
  schema.write_facts(folder / "facts.jsonl", made.facts)
  relation_files.write_relations(folder / "relations.jsonl", made.relations)
  tiny_folders.make(folder, made.sentences)
  return folder


def rows(path):
  with gzip.open(path, "rt") as file:
    return [json.loads(line) for line in file]


def ask(home, family, folder, method, queries, known, **options):
  paths = [str(folder / f"{name}.jsonl.gz") for name in ("asked", "known")]
  relations = relation_files.read_relations(home / "relations.jsonl")
  answering_queries.answer(
    lambda: loading.open_model(str(home / family)),
    answering_queries.Questions(query_room.of_rows(queries), known, relations),
    paths,
    candidates.QueryOptions(method=method, prompting=Prompting("question"), **options),
    lambda asked: asked,
  )
  return [rows(path) for path in paths]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", candidates.METHODS)
def test_every_method_answers_each_query_once(home, tmp_path, family, method):
  facts = schema.read_facts(home / "facts.jsonl")
  queries = [
    {"subject": fact["subject"], "relation": fact["relation"], "subject_id": f"Q{i + 1}"}
    for i, fact in enumerate(facts[:5])
  ]
  known = [
    {**facts[6], "aliases": ["other"]},
    {**facts[6], "object": "second"},
    {**facts[7], "object": None},
  ]
  asked, calibration = ask(
    home,
    family,
    tmp_path,
    method,
    queries,
    known,
    beams=3,
    samples=6,
    max_tokens=6,
    answer_set=str(home / "facts.jsonl"),
  )
  assert [row["subject_id"] for row in asked] == [row["subject_id"] for row in queries] and not any(
    "object" in row for row in asked
  )
  assert [row["object"] for row in calibration] == [facts[6]["object"], "second", None]
  assert (
    calibration[0]["candidates" if method != "greedy" else "score"]
    == calibration[1]["candidates" if method != "greedy" else "score"]
  )
  for row in asked:
    listed = row.get("candidates", [[row["prediction"], row["score"]]])
    assert listed[0] == [row["prediction"], row["score"]] and all(score <= 0 for _, score in listed)
    assert [score for _, score in listed] == sorted((score for _, score in listed), reverse=True)
    if method == "votes":
      np.testing.assert_allclose(sum(np.exp(score) for _, score in listed), 1, rtol=1e-4)
      assert all(abs(6 * np.exp(score) - round(6 * np.exp(score))) < 1e-4 for _, score in listed)
    if method == "beam":
      assert 1 <= len(listed) <= 3


@pytest.mark.parametrize("only", [False, True])
def test_the_candidates_are_those_given_alone_where_asked(home, tmp_path, capsys, only):
  facts = schema.read_facts(home / "facts.jsonl")
  relation = facts[0]["relation"]
  asked = [fact for fact in facts if fact["relation"] == relation][:4]
  schema.write_facts(tmp_path / "test.jsonl", asked)
  listed = sorted({"Elsewhere", "Nowhere", asked[0]["object"]})
  given = [{"subject": "s", "relation": relation, "object": name} for name in listed]
  path = str(tmp_path / "candidates.jsonl")
  schema.write_facts(path, given)
  options = asking.AnswerOptions(
    prompting=Prompting("question"),
    candidates=path,
    candidates_only=only,
    relations=str(home / "relations.jsonl"),
  )
  test, output = str(tmp_path / "test.jsonl"), str(tmp_path / "out.jsonl")
  predicted = answered.answer_facts(str(home / "t5"), test, output, options)
  known = sorted({*listed, *(fact["object"] for fact in asked)})
  expected = listed if only else known
  assert all(row["among"] == len(expected) for row in predicted)
  assert {name for name, _ in predicted[0]["candidates"]} == set(expected)
  sources_named = path if only else f"{test}, {path}"
  lines = [f"  among {len(expected)} candidates from {sources_named}"]
  without = sum(fact["object"] not in listed for fact in asked)
  if only:
    assert without
    lines.append(
      f"  {without} of 4 facts have no answer among them: no prediction of these can be right"
    )
  assert [line for line in capsys.readouterr().out.splitlines() if "among" in line] == lines


@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_hypothesis_is_the_beams_answer(home, family):
  model, _ = loading.open_model(str(home / family))
  facts, relations = (
    schema.read_facts(home / "facts.jsonl")[:4],
    relation_files.read_relations(home / "relations.jsonl"),
  )
  texts = prompts.prompt_texts(facts, relations, "question", family == "llama")
  options = decoding.DecodingOptions(5, method="beam", beams=4)
  listed = decoding.hypotheses(model, texts, options)
  said, scores = decoding.generate(model, texts, options)
  assert [pairs[0][0] for pairs in listed] == said and all(len(pairs) == 4 for pairs in listed)
  np.testing.assert_allclose([pairs[0][1] for pairs in listed], scores, rtol=1e-6)
  assert decoding.hypotheses(model, [], options) == []


def test_from_a_model_to_a_graph(home, tmp_path):
  facts = schema.read_facts(home / "facts.jsonl")
  asked = ask(
    home,
    "t5",
    tmp_path,
    "rank",
    [{key: fact[key] for key in ("subject", "relation")} for fact in facts[:20]],
    facts[20:],
  )
  assert len(asked[0]) == 20
  summary = extracting.extract(
    str(tmp_path / "g"),
    str(tmp_path / "asked.jsonl.gz"),
    str(tmp_path / "known.jsonl.gz"),
    pipeline.Options(rule="f1", model={"model": "t5", **loading.identity_of(str(home / "t5"))}),
  )
  found = list(canonical.read(str(tmp_path / "g/triples.jsonl")))
  accepted = [row["subject"] for row in found if row["accepted"]]
  assert summary["counts"]["queries"] == 20 and 0 < len(accepted) == len(set(accepted))


def extracted(monkeypatch, home, tmp_path, *flags):
  """extraction.json of the verb, which asks the T5 four queries."""
  facts = schema.read_facts(home / "facts.jsonl")
  schema.write_facts(tmp_path / "q.jsonl", facts[:4])
  schema.write_facts(tmp_path / "k.jsonl", facts[4:])
  values = verb_flags.defined(monkeypatch, "extract")
  values(
    [
      "extract",
      f"--model={home}/t5",
      f"--queries={tmp_path}/q.jsonl",
      f"--calibration={tmp_path}/k.jsonl",
      f"--relations={home}/relations.jsonl",
      f"--output={tmp_path}/graph",
      "--prompt=question",
      "--rule=f1",
      "--overwrite",
      *flags,
    ]
  )
  importlib.import_module("factshock.extract").main([])  # `factshock.extract` is the function
  return json.loads((tmp_path / "graph" / "extraction.json").read_text())


def test_an_extraction_says_how_the_model_was_asked(home, tmp_path, monkeypatch, capsys):
  summary = extracted(monkeypatch, home, tmp_path, "--answer_dtype=float32")
  nothing = dict.fromkeys(("beams", "samples", "max_tokens", *candidates.SPENT))
  asked = {"method": "rank", "prompt": "question", "shots": 0, "answer_dtype": "float32"}
  assert summary["asked"] == {**asked, **nothing} and "asked" in summary["notes"]
  page = (tmp_path / "graph" / "report.html").read_text()
  assert "method rank; prompt question; shots 0; answer dtype float32" in page
  assert "to compare" not in capsys.readouterr().out  # it is the model's own dtype


def test_an_extraction_in_another_dtype_says_how_many_answers_change(
  home, tmp_path, monkeypatch, capsys
):
  flags = ("--method=beam", "--beams=2", "--max_tokens=3", "--answer_dtype=bfloat16")
  summary = extracted(monkeypatch, home, tmp_path, *flags)
  asked = summary["asked"]
  assert (asked["beams"], asked["max_tokens"], asked["samples"]) == (2, 3, None)
  assert asked["answer_dtype"] == "bfloat16"
  said = capsys.readouterr().out
  facts = schema.read_facts(home / "facts.jsonl")
  number = len({(fact["subject"], fact["relation"]) for fact in facts})
  number = len(range(0, number, -(-number // 100)))
  assert f"asking {number} of the questions in float32 too, to compare" in said
  assert re.search(rf"\d+ of {number} answers in bfloat16 are those of float32", said)


def test_queries_and_what_they_cannot_be(tmp_path):
  (tmp_path / "s.txt").write_text("Ada\nBob\n")
  assert [
    (row["subject"], row["relation"])
    for row in query_room.cross(str(tmp_path / "s.txt"), ["r", "s"])
  ] == [("Ada", "r"), ("Ada", "s"), ("Bob", "r"), ("Bob", "s")]
  (tmp_path / "q.jsonl").write_text(
    '{"subject": "Ada", "relation": "r", "object": null}\n{"subject": "Bob", "relation": "r"}\n'
  )
  assert [row.get("object", "absent") for row in query_room.read(str(tmp_path / "q.jsonl"))] == [
    None,
    "absent",
  ]
  for text, words in (
    ('{"subject": "Ada"}', "expected a column `relation`"),
    ('{"subject": "", "relation": "r"}', "non-empty string"),
    ("", "got no rows"),
  ):
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(UserError, match=words):
      query_room.read(str(tmp_path / "q.jsonl"))


def test_queries_and_subjects_that_come_again_are_merged_and_counted(tmp_path, capsys):
  (tmp_path / "s.txt").write_text("Ada\nBob\nAda\n")
  crossed = query_room.cross(str(tmp_path / "s.txt"), ["r"])
  assert [row["subject"] for row in crossed] == ["Ada", "Bob"]
  assert "s.txt: 3 rows; 1 merged, as they say the same subject again" in capsys.readouterr().out
  rows = [
    {"subject": "Ada", "relation": "r", "object": "x", "aliases": ["y"]},
    {"subject": "Ada", "relation": "r", "object": "z"},
    {"subject": "Ada", "relation": "r", "object": "x", "aliases": ["w"], "subject_id": "Q1"},
  ]
  (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  merged = {**rows[0], "aliases": ["y", "w"], "subject_id": "Q1"}
  assert query_room.read(str(tmp_path / "q.jsonl")) == [merged, rows[1]]
  assert "q.jsonl: 3 rows; 1 merged" in capsys.readouterr().out


def test_queries_without_an_answer_are_read_from_lm_kbc(tmp_path):
  (tmp_path / "train.jsonl").write_text(
    '{"SubjectEntity": "Ada", "SubjectEntityID": "Q1", "Relation": "r", "ObjectEntities": '
    '["x", "y"]}\n'
    '{"SubjectEntity": "Bob", "SubjectEntityID": "Q2", "Relation": "r", "ObjectEntities": []}\n'
  )
  found = query_room.read(f"lm_kbc:{tmp_path}/train.jsonl")
  assert [(row["subject"], row["object"]) for row in found] == [
    ("Ada", "x"),
    ("Ada", "y"),
    ("Bob", None),
  ]

"""Readers of the field's data sets: small files of each layout, the real files, and what is wrong
with a file.
"""

import gzip
import json

import pytest

from factshock.facts import relations as relation_files
from factshock.facts import schema, sources, templates
from factshock.runtime.errors import UserError


def jsonl(path, *rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
  return path


def test_facts_that_a_file_says_again_are_merged_and_counted(tmp_path, capsys):
  fact = {"subject": "Ada", "relation": "r", "object": "x"}
  again = {**fact, "aliases": ["y"], "popularity": 2.0}
  choice = {**fact, "object": "c", "choices": ["c", "d"]}
  other_choices = {**choice, "choices": ["c", "e"]}
  path = jsonl(tmp_path / "f.jsonl", fact, again, choice, other_choices, fact)
  assert sources.read_facts(path) == [
    again,
    choice,
    {**other_choices, "subject": "Ada (2)"},
  ]
  assert capsys.readouterr().out == (
    f"  {path}: 5 rows, 3 facts; 2 merged, as they say the same fact again; 1 told apart by a "
    "number, as only their choices differ\n"
  )
  assert sources.read(jsonl(tmp_path / "g.jsonl", fact)).notes == []
  named_so = {**choice, "subject": "Ada (2)"}
  facts = sources.read_facts(jsonl(tmp_path / "h.jsonl", choice, named_so, other_choices))
  assert facts == [choice, named_so, {**other_choices, "subject": "Ada (3)"}]


TREX = {"sub_label": "Ada", "obj_label": "London", "sub_uri": "Q1", "obj_uri": "Q84"}


def test_trex_takes_relations_beside_it_and_any_of_its_layouts(tmp_path):
  jsonl(
    tmp_path / "relations.jsonl",
    {"relation": "P19", "template": "[X] was born in [Y] .", "type": "N-1"},
  )
  jsonl(tmp_path / "test.jsonl", {**TREX, "relation": "P19"}, {**TREX, "predicate_id": "P20"})
  (tmp_path / "lama" / "P19").mkdir(parents=True)
  jsonl(tmp_path / "lama" / "P19" / "train.jsonl", TREX)
  found = sources.read(f"trex:{tmp_path}")
  assert [fact["relation"] for fact in found.facts] == ["P19", "P20"]
  assert found.facts[0] == {
    "subject": "Ada",
    "relation": "P19",
    "object": "London",
    "subject_id": "Q1",
    "object_id": "Q84",
  }
  assert found.relations["P19"]["statements"] == ["[X] was born in [Y] ."]
  assert sources.read(f"trex:{tmp_path / 'lama'}?split=train").facts[0]["relation"] == "P19"
  with pytest.raises(UserError, match=r"expected one of the 1 given relations \(P19\), got 'P20'"):
    schema.check_facts(found.facts, found.relations, "trex")


def test_popqa_in_full_and_without_popularity(tmp_path):
  full = {
    "subj": "Ada",
    "prop": "father",
    "obj": "Lord Byron",
    "possible_answers": '["Lord Byron", "Byron"]',
    "s_pop": 7,
    "o_pop": 9,
    "question": "Who is the father of Ada?",
    "s_uri": "http://www.wikidata.org/entity/Q1",
  }
  fact = sources.read(f"popqa:{jsonl(tmp_path / 'a.jsonl', full)}").facts[0]
  assert fact == {
    "subject": "Ada",
    "relation": "father",
    "object": "Lord Byron",
    "aliases": ["Byron"],
    "popularity": 7.0,
    "object_popularity": 9.0,
    "question": "Who is the father of Ada?",
    "subject_id": "Q1",
  }
  short = tmp_path / "b.csv"
  short.write_text(
    "question,correct_answer,possible_answers,type\nIn what city was Ada "
    'born?,London,"[""London""]",place of birth\n'
    'Where is Ada?,London,"[""London""]",place of birth\n'
  )
  found = sources.read(f"popqa:{short}")
  assert [(fact["subject"], fact["object"]) for fact in found.facts] == [("Ada", "London")]
  assert found.notes == [
    f"popqa:{short}: 2 rows, 1 facts; dropped: 1 whose question is not in its relation's template"
  ]


def test_entityquestions_subject_is_what_the_template_leaves(tmp_path):
  path = jsonl(
    tmp_path / "a.jsonl",
    {"r": "P40", "q": "Who is O'Hara's child's child?", "a": ["A", "B"]},
    {"r": "P19", "q": "Where was Ada born?", "a": []},
  )
  found = sources.read(f"entityquestions:{path}")
  assert found.facts[0]["subject"] == "O'Hara's child" and found.facts[0]["aliases"] == ["B"]
  assert "dropped: 1 without an answer" in found.notes[0]


def test_mmlu_with_and_without_header(tmp_path):
  for name, line in (
    ("a_test.csv", "Two and two?,3,4,5,6,B\n"),
    (
      "b_test.csv",
      "question,choice0,choice1,choice2,choice3,answer\nOne?,1,2,3,4,0\nOne?,1,7,8,9,0\n",
    ),
  ):
    (tmp_path / name).write_text(line)
  found = sources.read(f"mmlu:{tmp_path}")
  assert [(fact["subject"], fact["object"], fact["choices"]) for fact in found.facts] == [
    ("Two and two?", "4", ["3", "4", "5", "6"]),
    ("One?", "1", ["1", "2", "3", "4"]),
    ("One? (2)", "1", ["1", "7", "8", "9"]),
  ]
  assert sorted(found.relations) == ["a", "b"]
  with pytest.raises(
    UserError, match="a_test.csv:1: expected a question, four choices and the answer, got 1 cells"
  ):
    (tmp_path / "a_test.csv").write_text("Two and two?\n")
    sources.read(f"mmlu:{tmp_path}")


def test_lm_kbc_gives_a_fact_for_each_object(tmp_path):
  path = jsonl(
    tmp_path / "train.jsonl",
    {
      "SubjectEntity": "Water",
      "Relation": "hasPart",
      "ObjectEntities": [["hydrogen", "H"], ["oxygen"]],
    },
    {"SubjectEntity": "Void", "Relation": "hasPart", "ObjectEntities": []},
  )
  (tmp_path / "masked_prompts.csv").write_text(
    "Relation,PromptTemplate\nhasPart,{subject_entity} holds {mask_token}.\n"
  )
  found = sources.read(f"lm_kbc:{tmp_path}")
  assert [(fact["object"], fact.get("aliases")) for fact in found.facts] == [
    ("hydrogen", ["H"]),
    ("oxygen", None),
  ]
  assert (
    found.relations["hasPart"]["statements"] == ["[X] holds [Y]."] and "2 rows" in found.notes[0]
  )
  assert sources.read(f"lm_kbc:{path}").facts == found.facts


def test_columns_of_any_hub_data_set(tmp_path, monkeypatch):
  import datasets

  data = datasets.Dataset.from_list(
    [{"s": "Ada", "o": "London", "more": ["City"]}, {"s": "", "o": "Rome", "more": []}]
  )
  monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: {"test": data})
  found = sources.read("hub:org/data?subject=s&relation='born in'&object=o&aliases=more")
  assert found.facts == [
    {"subject": "Ada", "relation": "born in", "object": "London", "aliases": ["City"]}
  ]
  assert "dropped: 1 without a subject" in found.notes[0]
  with pytest.raises(UserError, match="row 1: expected a column 'x', got s, o, more"):
    sources.read("hub:org/data?subject=x&relation='r'&object=o")
  with pytest.raises(UserError, match="got none for relation, object"):
    sources.read("hub:org/data?subject=s")


def test_hub_name_offline_says_how_to_point_at_a_copy():
  with pytest.raises(
    UserError, match=r"akariasai/PopQA: no such file, .* give the path of a .jsonl"
  ):
    sources.read("popqa:akariasai/PopQA")


@pytest.mark.parametrize(
  "spec, row, message",
  [
    (
      "popqa",
      {"question": "q", "possible_answers": "none", "prop": "father"},
      "expected a list of texts .* in column `possible_answers`",
    ),
    (
      "popqa",
      {"question": "q", "possible_answers": "[]", "prop": "height"},
      "expected one of PopQA's relations",
    ),
    (
      "popqa",
      {"r": "P19", "q": "q", "a": []},
      "expected a row of popqa with question, possible_answers, got r, q, a",
    ),
    (
      "entityquestions",
      {"r": "P1", "q": "q", "a": ["x"]},
      "expected one of EntityQuestions' relations",
    ),
    ("trex", {"sub_label": "a", "obj_label": "b"}, "expected a `relation` or `predicate_id`"),
    ("pararel", {"relation": "P1", "sub_label": "a"}, "expected a row of pararel"),
    (
      "lm_kbc",
      {"SubjectEntity": "a", "Relation": "r", "ObjectEntities": "b"},
      "expected a list in `ObjectEntities`",
    ),
    (
      "entityquestions",
      {"r": "P19", "q": "Where was A born?", "a": []},
      "expected at least one fact, got none .1 without an answer",
    ),
  ],
)
def test_a_file_that_is_not_what_its_prefix_says(spec, row, message, tmp_path):
  path = jsonl(tmp_path / "x.jsonl", row)
  with pytest.raises(UserError, match=message) as error:
    sources.read(f"{spec}:{path}")
  assert str(path) in str(error.value)


def test_a_file_cut_within_its_gzip_stream(tmp_path):
  path = tmp_path / "x.jsonl.gz"
  whole = gzip.compress(
    "".join(json.dumps({**TREX, "relation": f"P{n}"}) + "\n" for n in range(5000)).encode()
  )
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(UserError, match="gzip data are broken after line"):
    sources.read(f"trex:{path}")


def test_unknown_keys_and_empty_places_are_named(tmp_path):
  with pytest.raises(UserError, match="expected keys of config, limit, .*, split after"):
    sources.read("popqa:x?spilt=test")
  with pytest.raises(UserError, match="got no path and no name"):
    sources.read("popqa:")
  with pytest.raises(UserError, match="popqq:x: no such file; .* its name is popqa:PATH"):
    sources.read("popqq:x")
  with pytest.raises(UserError, match="got a folder that holds a.jsonl; say popqa:"):
    jsonl(tmp_path / "a.jsonl", {})
    sources.read(f"popqa:{tmp_path}")


def test_templates_are_relations():
  for table in (templates.POPQA, templates.ENTITYQUESTIONS):
    for row in templates.rows(table).values():
      relation_files.check_templates(row["statements"], row["questions"], "templates")


@pytest.mark.parametrize(
  "spec, rows, facts",
  [
    ("trex:{}/trex?split=train", 31115, None),
    ("trex:{}/trex?split=dev", 7777, None),
    ("trex:{}/trex", 22881, None),
    ("popqa:{}/popqa/popqa_full_no_popularity.csv.gz", 14265, None),
    ("popqa:{}/popqa/popqa_with_popularity_union.jsonl.gz", 2905, 2905),
    ("entityquestions:{}/entityquestions/train.jsonl.gz", 176560, None),
    ("entityquestions:{}/entityquestions/dev.jsonl.gz", 22068, None),
    ("entityquestions:{}/entityquestions/test.jsonl.gz", 22075, None),
    ("mmlu:{}/mmlu", 14042, None),
    ("mmlu:{}/mmlu?split=dev", 285, None),
    ("pararel:{}/pararel/facts.jsonl.gz", 29411, None),
    ("lm_kbc:{}/lm_kbc/2022", 1200, None),
    ("lm_kbc:{}/lm_kbc/2022?split=dev", 594, None),
    ("lm_kbc:{}/lm_kbc/2024", 377, None),
    ("lm_kbc:{}/lm_kbc/2024?split=val", 378, None),
    ("lm_kbc:{}/lm_kbc/2025", 477, None),
    ("lm_kbc:{}/lm_kbc/2025?split=val", 478, None),
  ],
)
def test_row_counts_of_the_real_files(spec, rows, facts, data_dir, tmp_path):
  found = sources.read(spec.format(data_dir))
  assert f": {rows:,} rows, {len(found.facts):,} facts" in found.notes[0]
  assert facts in (None, len(found.facts))
  schema.write_facts(
    tmp_path / "facts.jsonl", found.facts[:500]
  )  # what `read_facts` would refuse is refused


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_every_subject_of_entityquestions_is_recovered(split, data_dir):
  """The issue's 99% are 100%: each question is its template filled with its subject."""
  found = sources.read(f"entityquestions:{data_dir}/entityquestions/{split}.jsonl.gz")
  assert "template" not in found.notes[0]
  for fact in found.facts:
    question = found.relations[fact["relation"]]["questions"][0]
    assert relation_files.question(question, fact["subject"]) == fact["question"]

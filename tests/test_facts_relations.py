"""Relations: filling templates, both file layouts, and templates that are wrong."""

import json

import pytest

from factshock.facts import relations
from factshock.runtime.errors import UserError

ROW = {
  "relation": "P19",
  "label": "place of birth",
  "statements": ["[X] was born in [Y] .", "[Y] bore [X] ."],
  "questions": ["where was [X] born ?"],
  "type": "N-1",
}


def read(tmp_path, *rows):
  path = tmp_path / "relations.jsonl"
  path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
  return relations.read_relations(path)


def test_filling_templates():
  assert relations.statement("[Y] bore [X] .", "Ann", "Rome") == "Rome bore Ann ."
  assert relations.around_answer("[X] was born in [Y] .", "A[Y]") == ("A[Y] was born in ", " .")
  assert relations.around_answer("[Y] bore [X] .", "Ann") == ("", " bore Ann .")
  assert relations.question("where was [X] born ?", "Ann") == "where was Ann born ?"


def test_names_that_look_like_blanks_or_patterns_stay_as_they_are():
  assert (
    relations.statement("[X] was born in [Y] .", r"[Y] \1", "[X]") == r"[Y] \1 was born in [X] ."
  )


def test_relations_survive_writing_and_reading(tmp_path):
  table = {
    "P19": dict(ROW, held_out_statements=["[X] : [Y]"]),
    "P20": dict(ROW, relation="P20", questions=[]),
  }
  relations.write_relations(tmp_path / "r.jsonl.gz", table)
  assert relations.read_relations(tmp_path / "r.jsonl.gz") == table
  assert list(relations.read_relations(tmp_path / "r.jsonl.gz")) == ["P19", "P20"]


def test_lama_layout_becomes_statements_with_the_template_first(tmp_path):
  row = {
    "relation": "P19",
    "template": "[X] was born in [Y] .",
    "paraphrases": ["[Y] bore [X].", "[X] was born in [Y] ."],
    "wikidata": 1,
  }
  assert read(tmp_path, row)["P19"] == {
    "relation": "P19",
    "label": "P19",
    "type": "",
    "questions": [],
    "wikidata": 1,
    "statements": ["[X] was born in [Y] .", "[Y] bore [X]."],
  }


def test_question_template_is_never_made_up(tmp_path):
  table = read(tmp_path, ROW, "", dict(ROW, relation="P20", questions=[]))
  assert relations.question_template(table, "P19") == "where was [X] born ?"
  with pytest.raises(UserError, match="relation 'P20': .*got none; add one"):
    relations.question_template(table, "P20")
  with pytest.raises(
    UserError, match=r"relation 'P3': expected one of the 2 given relations \(P19, P20\)"
  ):
    relations.question_template(table, "P3")


@pytest.mark.parametrize(
  "row, expected",
  [
    ("nonsense", "expected a JSON object"),
    ("3", "expected a JSON object"),
    ({"label": "x", "statements": ROW["statements"]}, "column `relation`, got None"),
    ({"relation": "P20"}, "non-empty list in column `statements`"),
    ({"relation": "P20", "statements": []}, "non-empty list in column `statements`"),
    ({"relation": "P20", "statements": "[X] [Y]"}, "non-empty strings in column `statements`"),
    ({"relation": "P20", "template": 3}, "column `template`"),
    ({"relation": "P20", "template": "[X] [Y]", "statements": ["[X] [Y]"]}, "got both"),
    (
      {"relation": "P20", "template": "[X] died ."},
      "expected 1 [Y] in the statement '[X] died .', got 0",
    ),
    (
      dict(ROW, relation="P20", statements=["[X] [X] [Y]"]),
      "1 [X] in the statement '[X] [X] [Y]', got 2",
    ),
    (
      dict(ROW, relation="P20", questions=["where ?"]),
      "expected 1 [X] in the question 'where ?', got 0",
    ),
    (dict(ROW, relation="P20", questions=["is [X] [Y] ?"]), "expected 0 [Y] in the question"),
    (dict(ROW, relation="P20", label=5), "column `label`"),
    (ROW, "expected each relation once, got 'P19' again (first in line 1)"),
  ],
)
def test_a_bad_row_is_named(tmp_path, row, expected):
  with pytest.raises(UserError) as caught:
    read(tmp_path, ROW, row)
  assert str(caught.value).startswith(f"{tmp_path / 'relations.jsonl'}:2: ")
  assert expected in str(caught.value)


def test_all_problems_of_a_file_are_named_at_once(tmp_path):
  rows = [ROW, "{", ROW, {**ROW, "relation": "P1", "questions": ["who ?"]}]
  with pytest.raises(UserError) as caught:
    read(tmp_path, *rows)
  lines = str(caught.value).splitlines()
  assert len(lines) == 3
  assert "relations.jsonl:2: expected a JSON object" in lines[0]
  assert "relations.jsonl:3: expected each relation once, got 'P19' again" in lines[1]
  assert "(first in line 1)" in lines[1]
  assert "relations.jsonl:4: expected 1 [X] in the question 'who ?', got 0" in lines[2]
  with pytest.raises(UserError, match=r"relations.jsonl:11: .*\n  and 5 more$"):
    read(tmp_path, *[ROW] * 16)


def test_an_empty_file_is_refused(tmp_path):
  with pytest.raises(UserError, match="empty file"):
    read(tmp_path, "")


def test_the_real_relations_are_read(data_dir):
  table = relations.read_relations(data_dir / "trex" / "relations.jsonl")
  assert len(table) == 46
  assert table["P19"]["statements"][0] == "[X] was born in [Y] ."
  assert table["P19"]["type"] == "N-1"

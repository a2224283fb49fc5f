"""Predictions as other programs write them, and what is refused of them."""

import importlib
import json

import pytest

from factshock.predictions import accuracy, foreign, prior_correction, reading, repeats
from factshock.predictions import rows as prediction_rows
from factshock.runtime.errors import UserError

diagnose = importlib.import_module("factshock.diagnose")

ROWS = [
  {"subject": "Ada", "relation": "r", "object": "Bath", "prediction": "bath", "score": -0.5},
  {"subject": "Bo", "relation": "r", "object": "1969", "prediction": "1970", "score": -1.5},
]


def write(path, text):
  path.write_text(text, encoding="utf-8")
  return str(path)


def jsonl(path, *rows):
  return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def texts(predictions, name):
  return [predictions.strings[code] for code in getattr(predictions, name)]


def table(rows, separator):
  lines = [rows[0], *(row.values() for row in rows)]
  return "".join(separator.join(map(str, cells)) + "\n" for cells in lines)


def written(folder):
  import pyarrow
  import pyarrow.parquet

  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "a.parquet")
  return [
    write(folder / "a.csv", "\ufeff" + table(ROWS, ",")),
    write(folder / "a.tsv", table(ROWS, "\t")),
    write(folder / "a.json", json.dumps(ROWS, indent=1)),
    write(folder / "a.jsonl", "\ufeff" + "".join(json.dumps(row) + "\r\n" for row in ROWS)),
    str(folder / "a.parquet"),
  ]


def test_every_format_gives_the_same(tmp_path):
  for path in written(tmp_path):
    found = reading.read(path)
    assert texts(found, "subject") == ["Ada", "Bo"] and texts(found, "label") == ["a", "a"]
    assert found.score.tolist() == [-0.5, -1.5] and found.popularity is None
    assert [row for _, row in prediction_rows.read_rows(path)] == ROWS


def test_columns_of_other_names_and_no_relation(tmp_path):
  path = write(tmp_path / "a.csv", "question,answer,text\nWhere?,Bath,bath\n")
  columns = foreign.parse_columns(["subject=question", "object=answer", "prediction=text"])
  found = reading.read(path, columns=columns)
  assert texts(found, "subject") == ["Where?"] and texts(found, "prediction") == ["bath"]
  assert texts(found, "relation") == [foreign.NO_RELATION]
  with pytest.raises(UserError, match="expected a relation in every row"):
    repeats.check_relations(reading.group_by_arm([found]))
  with pytest.raises(UserError, match=r"got no subject, object, .*--columns=subject=NAME"):
    reading.read(path)
  with pytest.raises(UserError, match=r"expected .*columns answers|expected a text in object"):
    reading.read(path, columns={**columns, "object": "answers"})
  ours = jsonl(tmp_path / "ours.jsonl", ROWS[0])
  with pytest.raises(UserError, match="expected the columns answer, .* is for every file"):
    reading.read(ours, columns=columns)
  for pairs in (["subject"], ["nothing=a"], ["subject=a", "subject=b"], ["subject="]):
    with pytest.raises(UserError, match="expected OURS=THEIRS"):
      foreign.parse_columns(pairs)


def test_numbers_nulls_and_lists(tmp_path):
  row = {"subject": 7, "object": 1969.0, "prediction": 1969, "aliases": ["'69", 69]}
  null = {"subject": "Bo", "object": ["Bath", "Baths"], "prediction": None, "aliases": None}
  found = reading.read(jsonl(tmp_path / "a.jsonl", row, null))
  assert texts(found, "subject") == ["7", "Bo"] and texts(found, "prediction") == ["1969", ""]
  assert found.answers == [("1969", "'69", "69"), ("Bath", "Baths")]
  found = reading.read(
    jsonl(tmp_path / "a.jsonl", {**ROWS[0], "object": "[null]", "subject": 1e308})
  )
  assert texts(found, "object") == ["[null]"] and texts(found, "subject") == ["1e+308"]
  for cell in ('["x", "y"]', "['x', 'y']", "x|y"):
    found = reading.read(jsonl(tmp_path / "a.jsonl", {**ROWS[0], "aliases": cell}))
    assert found.answers == [("Bath", "x", "y")]
  for broken in (
    {"object": None},
    {"subject": True},
    {"prediction": {"a": 1}},
    {"relation": None},
  ):
    with pytest.raises(UserError, match="a.jsonl:1: expected a text in"):
      reading.read(jsonl(tmp_path / "a.jsonl", {**ROWS[0], **broken}))


def test_rows_that_are_gone_through_hold_the_aliases_that_are_read(tmp_path):
  for cell, expected in (
    ("Aquae Sulis", ["Aquae Sulis"]),
    ("x|y", ["x", "y"]),
    (["x", 69], ["x", "69"]),
  ):
    path = jsonl(tmp_path / "a.jsonl", {**ROWS[0], "aliases": cell})
    assert prediction_rows.read_all_rows(path)[0]["aliases"] == expected
    assert reading.read(path).answers == [("Bath", *expected)]
  path = jsonl(tmp_path / "a.jsonl", {**ROWS[0], "aliases": "a;b"})
  with pytest.raises(UserError, match="a.jsonl:1: expected a list of texts in aliases, got 'a;b'"):
    prediction_rows.read_all_rows(path)


def test_rows_that_are_gone_through_hold_texts(tmp_path):
  row = {"subject": 7, "relation": 17, "object": ["Bath", "Baths"], "prediction": None}
  path = jsonl(tmp_path / "a.jsonl", row)
  expected = {"subject": "7", "relation": "17", "object": "Bath", "prediction": ""}
  assert prediction_rows.read_all_rows(path) == [{**expected, "aliases": ["Baths"]}]
  for name in ("subject", "relation", "object"):
    path = jsonl(tmp_path / "a.jsonl", {**ROWS[0], name: None})
    with pytest.raises(UserError, match=f"a.jsonl:1: expected a text in {name}, got None"):
      prediction_rows.read_all_rows(path)


def test_what_is_blank_is_no_right_answer(tmp_path):
  for blank in ("", "  "):
    with pytest.raises(UserError, match="a.jsonl:1: expected the right answer in object, got"):
      reading.read(jsonl(tmp_path / "a.jsonl", {**ROWS[0], "object": blank}))
    path = jsonl(tmp_path / "a.jsonl", {**ROWS[0], "prediction": "", "aliases": [blank, "x"]})
    found = reading.read(path)
    assert found.answers == [("Bath", "x")] and not accuracy.scores(found).any()
    assert prediction_rows.read_all_rows(path)[0]["aliases"] == ["x"]


def test_predictions_beside_the_likeliest_candidate_are_noticed():
  candidates = [["Rome", -2.0], ["the Bath", -1.0], ["Bonn", -1.0]]
  for prediction, expected in (("Bath", True), ("Bonn", True), ("Rome", False), ("x", False)):
    row = {"prediction": prediction, "candidates": candidates}
    assert prediction_rows.predicts_likeliest(row) is expected
    assert prediction_rows.predicts_likeliest({**row, "candidates": dict(candidates)}) is expected
  assert prediction_rows.predicts_likeliest({"prediction": "x"})


def test_relations_in_some_rows_alone_are_refused(tmp_path):
  without = {name: value for name, value in ROWS[1].items() if name != "relation"}
  with pytest.raises(UserError, match="in every row or in none, got none in 1 of 2"):
    reading.read(jsonl(tmp_path / "a.jsonl", ROWS[0], without))


def test_probabilities_are_refused(tmp_path):
  probability = [["Bath", 0.9], ["Rome", 0.1]]
  for change in ({"score": 0.9}, {"candidates": probability}):
    path = jsonl(tmp_path / "a.jsonl", {**ROWS[0], **change})
    with pytest.raises(UserError, match="a.jsonl:1: .*is it a probability"):
      reading.read(path)
  rows = [{**row, "candidates": probability} for row in ROWS]
  with pytest.raises(UserError, match="are they probabilities"):
    prior_correction.tables_of(rows, "a.jsonl")


def test_an_arm_is_named_and_its_points_stay(tmp_path):
  path = jsonl(tmp_path / "a.jsonl", *({**ROWS[0], "arm": "x", "step": step} for step in (0, 5)))
  assert texts(reading.read(path, "after"), "label") == ["after@0", "after@5"]
  assert texts(reading.read(path, "after"), "subject") == ["Ada", "Ada"]
  path = jsonl(tmp_path / "a.jsonl", *({**ROWS[0], "arm": arm} for arm in "xy"))
  with pytest.raises(UserError, match="expected rows of one arm, to be named 'after', got x, y"):
    reading.read(path, "after")


def test_several_models_and_repeated_rows_in_a_file(tmp_path, capsys):
  other = [{**row, "prediction": "other"} for row in ROWS]
  arms = reading.group_by_arm([reading.read(jsonl(tmp_path / "a.jsonl", *ROWS, *other))])
  with pytest.raises(UserError, match=r"4 rows of 2 queries, 2 with other .*--columns=arm=NAME"):
    repeats.check(arms)
  repeats.check(reading.group_by_arm([reading.read(jsonl(tmp_path / "a.jsonl", *ROWS, ROWS[0]))]))
  assert "3 rows of 2 queries, 0 with other predictions; each row counts" in capsys.readouterr().out
  repeats.check(reading.group_by_arm([reading.read(jsonl(tmp_path / "a.jsonl", *ROWS))]))
  assert capsys.readouterr().out == ""


def test_models_of_different_queries_in_a_file(tmp_path):
  rows = [{**row, "model": name} for row, name in zip(ROWS, ("small", "large"))]
  path = jsonl(tmp_path / "a.jsonl", *rows)
  message = r"'small' and 'large' in column `model`; name them as arms, --columns=arm=model"
  with pytest.raises(UserError, match=message):
    reading.read(path)
  assert texts(reading.read(path, columns={"arm": "model"}), "label") == ["small", "large"]
  with pytest.raises(UserError, match="`model`; give each a file"):
    prediction_rows.read_all_rows(path)
  one = jsonl(tmp_path / "b.jsonl", *({**row, "model": "small"} for row in ROWS))
  assert len(reading.read(one)) == len(prediction_rows.read_all_rows(one)) == 2
  for name, values in (("arm", "ab"), ("seed", (0, 1))):
    rows = [{**row, name: value, "model": value} for row, value in zip(ROWS, values)]
    path = jsonl(tmp_path / f"{name}.jsonl", *rows)
    with pytest.raises(UserError, match=f"in column `{name}`; give each a file"):
      prediction_rows.read_all_rows(path)
  assert texts(reading.read(str(tmp_path / "arm.jsonl")), "label") == ["a", "b"]


def test_the_verb_names_arms(tmp_path):
  path = jsonl(tmp_path / "a=b.jsonl", *ROWS)
  assert diagnose._arm_and_path(path) == (None, path)
  assert diagnose._arm_and_path(f"before={path}") == ("before", path)
  assert diagnose._arm_and_path("none.jsonl") == (None, "none.jsonl")


@pytest.mark.parametrize("text", ["9007199254740993", "-7", "+7", "4000000000000000001", "-0.0"])
def test_whole_numbers_in_texts_are_exact(tmp_path, text):
  path = write(tmp_path / "a.csv", table([{**ROWS[0], "seed": text}], ","))
  assert reading.read(path).seed.tolist() == [int(text.removesuffix(".0"))]

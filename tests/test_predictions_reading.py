"""Reading predictions files: what is refused, how rows are grouped and matched."""

import gzip
import json
import math

import numpy as np
import pytest

from factshock.predictions import reading
from factshock.predictions import rows as prediction_rows
from factshock.runtime.errors import UserError

ROW = {
  "subject": "Marat",
  "relation": "P19",
  "object": "Moscow",
  "prediction": "Baku",
  "score": -1.5,
}


def write(path, rows):
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (gzip.open if str(path).endswith(".gz") else open)(path, "wt").write(text)
  return path


def rows_of(*rows):
  return reading.from_rows(enumerate(({**ROW, **row} for row in rows), 1))


@pytest.mark.parametrize("name", ["arm_a.jsonl", "arm_a.jsonl.gz"])
def test_reads_the_smallest_file_any_program_may_write(tmp_path, name):
  row = {key: ROW[key] for key in reading.TEXT_COLUMNS}
  found = reading.read(write(tmp_path / name, [row, {**row, "subject": "Ann"}]))
  assert len(found) == 2
  assert [found.strings[code] for code in found.subject] == ["Marat", "Ann"]
  assert found.strings[found.label[0]] == "arm_a"
  assert found.seed.tolist() == [0, 0] and found.rank is None and found.popularity is None
  assert np.isnan(found.score).all()


def test_rank_of_the_gold_answer_counts_aliases_and_is_kept_without_the_lists():
  candidates = [["Baku", -1.0], ["the moscow!", -2.0], ["Kyiv", -3.0]]
  found = rows_of(
    {"candidates": candidates},
    {"candidates": candidates, "object": "Rome"},
    {"candidates": candidates, "object": "Kiev", "aliases": ["Kyiv"]},
  )
  assert found.rank.tolist() == [2, 0, 3] and found.listed == 3


def test_steps_and_alphas_make_points_of_an_arm():
  found = rows_of(
    {"arm": "finetune", "step": 25},
    {"arm": "mixing", "alpha": 0.3},
    {"arm": "mixing@0.3", "alpha": 0.3},
    {"arm": "plain", "step": None},
  )
  assert [found.strings[code] for code in found.label] == [
    "finetune@25",
    "mixing@0.3",
    "mixing@0.3",
    "plain",
  ]


def test_rows_are_grouped_by_arm_and_seed_across_files(tmp_path):
  first = write(
    tmp_path / "a.jsonl",
    [
      {**ROW, "arm": "x", "seed": 1},
      {**ROW, "arm": "y", "seed": 0},
      {**ROW, "arm": "x", "seed": 1, "subject": "Ann"},
    ],
  )
  second = write(tmp_path / "b.jsonl", [{**ROW, "arm": "x", "seed": 2.0}])
  found = reading.group_by_arm([reading.read(first), reading.read(second)])
  assert {
    label: {seed: len(part) for seed, part in by_seed.items()} for label, by_seed in found.items()
  } == {"x": {1: 2, 2: 1}, "y": {0: 1}}
  with pytest.raises(UserError, match=r"b.jsonl: .*that no other file has, got arm 'x' seed 2"):
    reading.group_by_arm([reading.read(second), reading.read(second)])


def test_several_splits_must_be_told_apart():
  both = rows_of({"split": "dev"}, {"split": "test"})
  with pytest.raises(UserError, match="one split, got dev, test; choose one with --split"):
    reading.select_split(both)
  assert len(reading.select_split(both, "test")) == 1
  with pytest.raises(UserError, match="expected rows of split 'tset'"):
    reading.select_split(both, "tset")


def test_matching_follows_subject_relation_object_and_occurrence():
  left = rows_of({"subject": "A"}, {"subject": "B"}, {"subject": "A", "prediction": "second"})
  right = rows_of({"subject": "B"}, {"subject": "A", "prediction": "first"}, {"subject": "A"})
  assert reading.match(left, right).tolist() == [1, 0, 2]


def test_matching_says_how_many_queries_differ():
  left = rows_of({"subject": "A"}, {"subject": "B"}, {"subject": "C"})
  right = rows_of({"subject": "A"}, {"subject": "A"}, {"subject": "D"}, {"subject": "E"})
  with pytest.raises(UserError, match="got 2 of its 3 queries missing and 3 others") as error:
    reading.match(left, right)
  for query in ("the reference alone has ('B', ", "the other alone has ('D', "):
    assert query in str(error.value)


@pytest.mark.parametrize(
  "text, message",
  [
    ("", "a.jsonl: expected predictions, a JSON object a line, got no rows"),
    ("\n\n", "got no rows"),
    ('{"subject": "x"\n', r"a.jsonl:1: expected .* got a line that is not JSON"),
    ("[1, 2]\n", "a.jsonl:1: expected a JSON object .* got list; .* ends with .json$"),
    (f"[\n{json.dumps(ROW)}\n]\n", r"a.jsonl:1: .* not JSON .*'\['; a file that is one JSON array"),
    (
      json.dumps(ROW) + "\n" + json.dumps({"subject": "x", "relation": "r"}) + "\n",
      r"a.jsonl:2: .* got no object, prediction \(columns: subject, relation\)",
    ),
    (json.dumps({**ROW, "object": True}), "a.jsonl:1: expected a text in object, got True"),
    (json.dumps({**ROW, "score": float("nan")}), "a.jsonl:1: expected a number in score, got nan"),
    (json.dumps({**ROW, "score": "-1"}), "expected a number in score, got '-1'"),
    (json.dumps({**ROW, "seed": math.nan}), "expected a whole number in seed, got nan"),
    (json.dumps({**ROW, "seed": 1.5}), "expected a whole number in seed, got 1.5"),
    (json.dumps({**ROW, "arm": 7}), "expected a text in arm, got 7"),
    (json.dumps({**ROW, "aliases": "a;b"}), "expected a list of texts in aliases, got 'a;b'"),
    (json.dumps({**ROW, "aliases": [["x"]]}), "expected a list of texts in aliases"),
    (json.dumps({**ROW, "candidates": [["a", -2], ["b", -1]]}), "best first"),
    (json.dumps({**ROW, "candidates": [["a", float("nan")]]}), "expected candidates as a list"),
    (json.dumps({**ROW, "candidates": ["a"]}), "expected candidates as a list"),
    (json.dumps({**ROW, "candidates": {}}), "expected candidates as a list"),
    (
      json.dumps({**ROW, "candidates": []}) + "\n" + json.dumps(ROW),
      "or in none, got them in 1 of 2",
    ),
  ],
)
def test_bad_files_give_one_clear_error(tmp_path, text, message):
  (tmp_path / "a.jsonl").write_text(text)
  with pytest.raises(UserError, match=message):
    reading.read(tmp_path / "a.jsonl")


def test_other_suffixes_and_missing_files_are_refused(tmp_path):
  with pytest.raises(UserError, match="expected a file name that ends in .jsonl"):
    reading.read(tmp_path / "a.xlsx")
  with pytest.raises(UserError, match="cannot be read"):
    reading.read(tmp_path / "a.jsonl")


def test_rows_of_every_format_are_read_in_one_place(tmp_path):
  whole = {**ROW, "aliases": ["Moskva"], "note": "kept"}
  path = str(write(tmp_path / "a.jsonl", [whole]))
  assert list(prediction_rows.read_rows(path)) == [(f"{path}:1", whole)]
  assert prediction_rows.read_all_rows(path) == [whole]
  (tmp_path / "a.csv").write_text("subject,relation,object,prediction\nMarat,P19,Moscow,Baku\n")
  ((context, row),) = prediction_rows.read_rows(str(tmp_path / "a.csv"), ("prediction",))
  assert context.endswith("a.csv:2") and row["prediction"] == "Baku"


@pytest.mark.parametrize(
  "text, message",
  [
    ("", "a.jsonl: expected predictions, got no rows"),
    ("[1]\n", "a.jsonl:1: expected a JSON object .* got list"),
    ('{"subject": "x"}\n', "a.jsonl:1: expected a row .* got no object .*--columns=object=NAME"),
    ('{"subject": "\\ud83d"}\n', "a.jsonl:1: expected text that UTF-8 can hold, got half a char"),
  ],
)
def test_bad_rows_give_one_clear_error(tmp_path, text, message):
  (tmp_path / "a.jsonl").write_text(text)
  with pytest.raises(UserError, match=message):
    prediction_rows.read_all_rows(str(tmp_path / "a.jsonl"))


def test_escaped_pairs_of_half_characters_are_characters(tmp_path):
  (tmp_path / "a.jsonl").write_text(json.dumps({**ROW, "subject": "\N{GRINNING FACE}"}))
  assert reading.read(tmp_path / "a.jsonl").strings[0] == "\N{GRINNING FACE}"


def test_arms_ranked_among_different_numbers_of_candidates_are_noticed():
  def arms_of(**among):
    rows = []
    for arm, numbers in among.items():
      for subject, number in enumerate(numbers):
        row = {"subject": str(subject), "relation": "r", "object": "o", "prediction": "p"}
        rows.append({**row, "arm": arm, "among": number})
    return reading.group_by_arm([reading.from_rows(enumerate(rows, 1))])

  assert reading.candidates_note(arms_of(a=[3, 4], b=[3, 4], c=[None, None])) is None
  assert reading.candidates_note(arms_of(a=[3, 4], b=["many", 1])) is None
  note = reading.candidates_note(arms_of(before=[3, 4], after=[1200, 4]))
  assert note is not None and "before 3.5, after 602)" in note

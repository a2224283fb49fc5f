"""Scoring by the LM-KBC rules: numbers worked out by hand for every edition, averages, baselines,
bad input.
"""

import itertools
import json
import math
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest

from factshock.diagnosis import lm_kbc, lm_kbc_files, lm_kbc_rules, lm_kbc_table
from factshock.diagnosis.statistics import Bootstrap
from factshock.runtime.errors import UserError

TWO_THIRDS = 2 / 3


def score(year, predicted, gold, relation="r", strict=False):
  return pytest.approx(
    lm_kbc_rules.score(lm_kbc_rules.EDITIONS[year], predicted, gold, relation, strict)[:3]
  )


@pytest.mark.parametrize(
  "predicted, gold, expected",
  [
    (["U.S.A."], [["united states", "USA"], ["france"]], (1, 0.5, TWO_THIRDS)),
    (["USA", "usa.", "Spain"], [["usa"], ["france"]], (0.5, 0.5, 0.5)),  # distinct after cleaning
    (
      ["United States", "USA"],
      [["united states", "usa"]],
      (0.5, 1, TWO_THIRDS),
    ),  # golds hit: one of two
    (["King"], [["king"], ["king", "prince"]], (1, 1, 1)),  # one prediction hits two golds
    (
      ["bmw"],
      [[], ["BMW"]],
      (1, 0.5, TWO_THIRDS),
    ),  # a gold without aliases, as the train rows have two
    (["none", "a"], [["a"]], (0.5, 1, TWO_THIRDS)),
    (["none", "null"], [], (0, 1, 0)),
    (["a"], [], (0, 1, 0)),
  ],
)
def test_2022_compares_cleaned_texts_with_alias_lists(predicted, gold, expected):
  assert expected == score("2022", predicted, gold)


@pytest.mark.parametrize("nothing", [[], [""], ["None"], ["null."], ["--"], ["none", "NONE"]])
def test_2022_takes_a_lone_none_as_empty(nothing):
  assert (1, 1, 1) == score("2022", nothing, [])
  assert (1, 0, 0) == score("2022", nothing, [["a"]])


@pytest.mark.parametrize(
  "predicted, gold, expected",
  [
    (["Q1", "Q1", "Q2"], ["Q1"], (TWO_THIRDS, 2, 1)),
    (["Q1"] * 2, ["Q1"], (1, 2, 4 / 3)),
    ([], [""], (1, 1, 1)),
    ([""], [""], (1, 1, 1)),
    (["Q1"], [""], (0, 1, 0)),
    (["", "Q1"], [""], (0.5, 1, TWO_THIRDS)),
    ([""], ["Q1"], (0, 0, 0)),
    ([], ["Q1"], (1, 0, 0)),
  ],
)
def test_2023_counts_repeated_ids_and_writes_empty_gold_as_a_list_of_nothing(
  predicted, gold, expected
):
  assert expected == score("2023", predicted, gold)


def test_strict_recall_never_exceeds_one():
  assert (TWO_THIRDS, 1, 0.8) == score("2023", ["Q1", "Q1", "Q2"], ["Q1"], strict=True)
  assert (1, 1, 1) == score("2025", ["Rome", "Rome "], ["Rome"], strict=True)
  assert (TWO_THIRDS, 1, 0.8) == score("2025", ["100", "101", "7"], ["100"], "hasArea", strict=True)


@pytest.mark.parametrize(
  "predicted, gold, expected",
  [
    (["Q1", "Q1", "Q2"], ["Q1", "Q3", "Q3"], (0.5, 0.5, 0.5)),
    ([], [], (1, 1, 1)),
    (["Q1"], [], (0, 1, 0)),
    ([], ["Q1"], (1, 0, 0)),
    (["q1"], ["Q1"], (0, 0, 0)),
  ],
)
def test_2024_compares_sets_of_ids(predicted, gold, expected):
  assert expected == score("2024", predicted, gold)


@pytest.mark.parametrize(
  "relation, predicted, gold, expected",
  [
    ("r", [" Rome "], ["Rome"], (1, 1, 1)),
    ("r", ["rome"], ["Rome"], (0, 0, 0)),
    ("r", ["Rome", "Rome", "Rome "], ["Rome", "Rome"], (1, 2, 4 / 3)),
    ("r", ["105"], ["100"], (0, 0, 0)),
    ("hasArea", ["105"], ["100"], (1, 1, 1)),
    ("hasArea", ["95"], ["100"], (1, 1, 1)),
    ("hasArea", ["105.1"], ["100"], (0, 0, 0)),
    ("hasCapacity", ["10,400 "], ["10000"], (1, 1, 1)),
    ("hasCapacity", ["about 100"], ["100"], (0, 0, 0)),
    ("hasArea", ["100", "101", "7"], ["100"], (TWO_THIRDS, 2, 1)),
    ("hasArea", ["0"], ["0"], (0, 0, 0)),
    ("hasArea", ["nan", "inf"], ["100"], (0, 0, 0)),
    ("hasArea", [], ["100"], (1, 0, 0)),
  ],
)
def test_2025_keeps_case_and_takes_numbers_within_five_percent(relation, predicted, gold, expected):
  assert expected == score("2025", predicted, gold, relation)


@pytest.mark.parametrize(
  "text, expected",
  [
    ("O'Brien", "obrien"),
    ("O\u2019Brien", "obrien"),
    ("Kaua\u02bbi", "kauai"),
    ("Stra\u00dfe", "strasse"),
    ("Canal+", "canal"),
    (" Saint-\u00c9tienne  (Loire)", "saint etienne loire"),
    ("A\u2014B|C", "a b c"),
    ("\u2122", "tm"),
    ("\u0149", "n"),
    ("x\u00b4y", "xy"),
    ("\u0141\u00f3d\u017a", "\u0142odz"),
    ("!?", ""),
  ],
)
def test_2026_normalises_marks_case_and_punctuation(text, expected):
  assert lm_kbc_rules.normalise_2026(text) == expected


@pytest.mark.parametrize(
  "relation, predicted, gold, expected",
  [
    (
      "r",
      ["Georgia", "Sakartvelo"],
      [["Sakartvelo", "Georgia"], ["Georgia"]],
      (1, 1, 1),
    ),  # first fit finds one
    ("r", ["NYC", "New York City"], [["New York City", "NYC"]], (0.5, 1, TWO_THIRDS)),
    ("r", ["Rome", "rome!"], [["Rome"]], (1, 1, 1)),
    ("r", ["a"], [["a"], ["A."]], (1, 0.5, TWO_THIRDS)),
    ("hasCapacity", ["100", "101"], [["100", "999"]], (0.5, 1, TWO_THIRDS)),  # one to one
    ("hasCapacity", ["999"], [["100", "999"]], (0, 0, 0)),  # the first alias alone
    ("hasArea", ["104", "96"], [["100"], ["104"]], (0.5, 0.5, 0.5)),  # in turn: 104 takes the 100
    ("hasArea", ["96", "104"], [["100"], ["104"]], (1, 1, 1)),
    ("hasArea", ["0"], [["0"], []], (0, 0, 0)),
    ("r", [], [], (1, 1, 1)),
    ("r", ["a"], [], (0, 1, 0)),
  ],
)
def test_2026_matches_one_to_one(relation, predicted, gold, expected):
  assert expected == score("2026", predicted, gold, relation)


@hypothesis.example(
  [{0, 1}, {2, 3}, {0, 2}, {0}]
)  # the last needs the third to give back what it was given
@hypothesis.given(st.lists(st.sets(st.integers(0, 4)), max_size=5))
def test_matching_is_as_large_as_the_best_of_all_assignments(choices):
  best = max(
    sum(right in mine for right, mine in zip(order, choices))
    for order in itertools.permutations(range(5))
  )
  assert lm_kbc_rules.matching_size([sorted(mine) for mine in choices]) == best


def test_matching_follows_paths_of_any_length():
  assert lm_kbc_rules.matching_size([[0]] + [[i - 1, i] for i in range(1, 3000)][::-1]) == 3000


TEXTS = st.lists(st.sampled_from(["a", "A ", "b", "none", "", "100", "103", "96"]), max_size=4)


@hypothesis.given(
  st.sampled_from(sorted(lm_kbc_rules.EDITIONS)), TEXTS, TEXTS, st.sampled_from(["r", "hasArea"])
)
def test_precision_and_strict_scores_lie_between_zero_and_one(year, predicted, gold, relation):
  edition = lm_kbc_rules.EDITIONS[year]
  gold = [[text] for text in gold] if edition.aliases else gold
  plain, strict = (
    lm_kbc_rules.score(edition, predicted, gold, relation, flag) for flag in (False, True)
  )
  assert all(0 <= value <= 1 for value in (plain.precision, *strict[:3])) and strict.recall == min(
    plain.recall, 1
  )
  if year in ("2022", "2024", "2026"):
    assert plain == strict


def rows_of(*rows, column="ObjectEntitiesID"):
  return [
    {"SubjectEntity": subject, "Relation": relation, column: objects}
    for relation, subject, objects in rows
  ]


def write(path, rows):
  path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
  return path


GOLD = [("a", "s1", ["Q1"]), ("a", "s2", ["Q1", "Q2"]), ("a", "s3", []), ("b", "s1", [])]
SAID = [("a", "s1", ["Q1"]), ("a", "s2", ["Q1"]), ("a", "s3", ["Q9"]), ("b", "s1", [])]


def diagnose(
  tmp_path, year="2024", said=SAID, gold=GOLD, train=None, column="ObjectEntitiesID", **options
):
  files = [
    write(tmp_path / f"{name}.jsonl", rows_of(*rows, column=column)) if rows else None
    for name, rows in (("said", said), ("val", gold), ("train", train))
  ]
  train = files[2] and lm_kbc_files.read(files[2], year, gold=True)
  options = {"bootstrap": Bootstrap(resamples=200), **options}
  gold = lm_kbc_files.read(files[1], year, gold=True)
  return lm_kbc.diagnose(year, lm_kbc_files.read_all([files[0]], year), gold, train, **options)


def means(estimates):
  return {name: value["mean"] for name, value in estimates.items() if isinstance(value, dict)}


def test_averages_worked_out_by_hand(tmp_path):
  found = diagnose(tmp_path)
  mine = found["systems"]["said"]
  assert found["headline"] == "rows" and found["relations"] == ["a", "b"]
  assert means(mine["rows"]) == pytest.approx(
    {"precision": 0.75, "recall": 0.875, "f1": TWO_THIRDS}
  )
  assert means(mine["relations"]) == pytest.approx(
    {"precision": 5 / 6, "recall": 11 / 12, "f1": 7 / 9}
  )
  assert means(mine["micro"]) == pytest.approx(
    {"precision": TWO_THIRDS, "recall": TWO_THIRDS, "f1": TWO_THIRDS}
  )
  assert means(mine["empty"]) == pytest.approx({"precision": 1, "recall": 0.5, "f1": TWO_THIRDS})
  assert {name: mine["empty"][name] for name in ("gold", "predicted", "both")} == {
    "gold": 2,
    "predicted": 1,
    "both": 1,
  }
  assert mine["by_relation"]["a"] == {
    "rows": 3,
    "precision": pytest.approx(TWO_THIRDS),
    "recall": pytest.approx(5 / 6),
    "f1": pytest.approx(5 / 9),
    "objects": 3,
    "gold_objects": 3,
    "empty": 0,
    "gold_empty": 1,
  }
  empty = found["baselines"]["all_empty"]
  assert (
    means(empty["rows"]) == {"precision": 1, "recall": 0.5, "f1": 0.5}
    and empty["micro"]["f1"]["mean"] == 0
  )
  assert means(found["differences"][0]) == pytest.approx(
    {"rows": 1 / 6, "relations": 1 / 9, "micro": TWO_THIRDS}
  )
  assert means(empty["empty"])["precision"] == 0.5 and found["train"] is None


def test_saying_empty_is_undefined_where_no_answer_is(tmp_path):
  found = diagnose(tmp_path, said=[(relation, subject, ["Q1"]) for relation, subject, _ in GOLD])
  empty = found["systems"]["said"]["empty"]
  assert (
    means(empty) == {"precision": None, "recall": 0, "f1": None}
    and empty["precision"]["low"] is None
  )
  json.dumps(found, allow_nan=False)


def test_the_headline_of_2022_is_the_mean_over_relations(tmp_path):
  gold = [(relation, subject, [[name] for name in objects]) for relation, subject, objects in GOLD]
  assert diagnose(tmp_path, "2022", gold=gold, column="ObjectEntities")["headline"] == "relations"


def test_the_order_of_the_files_changes_nothing(tmp_path):
  train = [("a", "t1", ["Q1"]), ("a", "t2", ["Q1", "Q2"])]
  (tmp_path / "other").mkdir()
  first, second = (
    diagnose(tmp_path, train=train),
    diagnose(tmp_path / "other", said=SAID[::-1], gold=GOLD[::-1], train=train[::-1]),
  )
  for name in ("systems", "baselines", "differences", "constant_sets"):
    assert first[name] == second[name]


def test_intervals_are_those_of_the_binomial_and_of_rows_within_relations(tmp_path):
  gold = [("a", f"s{i}", ["Q1"]) for i in range(400)]
  said = [("a", f"s{i}", ["Q1"] if i % 4 else ["Q2"]) for i in range(400)]
  f1 = diagnose(tmp_path, said=said, gold=gold, bootstrap=Bootstrap(resamples=2000))["systems"][
    "said"
  ]["rows"]["f1"]
  half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
  assert (f1["mean"], f1["low"], f1["high"]) == pytest.approx(
    (0.75, 0.75 - half, 0.75 + half), abs=0.006
  )
  # Scores that differ between relations alone: resampling within relations sees no spread.
  gold = [(relation, f"s{i}", ["Q1"]) for relation in "ab" for i in range(9)]
  said = [
    (relation, subject, ["Q1"] if relation == "a" else ["Q2"]) for relation, subject, _ in gold
  ]
  f1 = diagnose(tmp_path, said=said, gold=gold)["systems"]["said"]["rows"]["f1"]
  assert (f1["mean"], f1["low"], f1["high"]) == (0.5, 0.5, 0.5)


def test_an_answer_equal_to_a_baseline_differs_by_nothing(tmp_path):
  found = diagnose(tmp_path, said=[(*row[:2], []) for row in GOLD])
  assert found["differences"][0]["rows"] == {"mean": 0, "low": 0, "high": 0}
  assert found["systems"]["said"]["rows"] == found["baselines"]["all_empty"]["rows"]


def test_the_constant_set_is_the_best_prefix_on_train(tmp_path):
  """Relation a: {Q1} has F1 (1 + 1 + 2/3 + 0) / 4, more than {} and {Q1, Q2}; b: "none" is best; c:
  not in train.
  """
  train = [
    ("a", "t1", ["Q1"]),
    ("a", "t2", ["Q1"]),
    ("a", "t3", ["Q2", "Q1", "Q1"]),
    ("a", "t4", []),
    ("b", "t1", []),
    ("b", "t2", []),
    ("b", "t3", ["Q5"]),
  ]
  found = diagnose(
    tmp_path, said=[*SAID, ("c", "s", [])], gold=[*GOLD, ("c", "s", ["Q7"])], train=train
  )
  assert found["constant_sets"] == {"a": ["Q1"], "b": [], "c": []} and found["unfitted"] == ["c"]
  constant = found["baselines"]["constant_set"]
  assert constant["rows"]["f1"]["mean"] == pytest.approx((1 + TWO_THIRDS + 0 + 1 + 0) / 5)
  assert [row["baseline"] for row in found["differences"]] == ["all_empty", "constant_set"]
  assert "lacks the relation: c" in lm_kbc_table.lines(found, width=None)[-1]


def test_equally_frequent_objects_go_by_name_and_equal_sets_by_size(tmp_path):
  """b to g stand in two rows each: the five are b to f, with F1 2/7 + 4/7 + 4/7 + 10/12, more than
  b to e's 2.06.
  """
  train = [("a", f"t{i}", list(objects)) for i, objects in enumerate(["gf", "ed", "cb", "abcdefg"])]
  path = write(tmp_path / "train.jsonl", rows_of(*train))
  assert lm_kbc.constant_sets(lm_kbc_files.read(path, "2024", gold=True), "2024") == {
    "a": list("bcdef")
  }
  path = write(
    tmp_path / "train.jsonl", rows_of(("a", "t1", ["x"]), ("a", "t2", []))
  )  # {} and {x}: one row each
  assert lm_kbc.constant_sets(lm_kbc_files.read(path, "2024", gold=True), "2024") == {"a": []}


@pytest.mark.parametrize(
  "year, names, count",
  [("2022", ["none"], 0), ("2023", [""], 0), ("2024", [], 0), ("2024", [""], 1)],
)
def test_what_an_edition_takes_as_no_answer_has_no_object(tmp_path, year, names, count):
  column = lm_kbc_rules.EDITIONS[year].column
  gold = [
    ("a", "s1", [""] if year == "2023" else []),
    ("a", "s2", [["x"]] if year == "2022" else ["x"]),
  ]
  found = diagnose(tmp_path, year, [("a", "s1", names), ("a", "s2", ["x"])], gold, column=column)
  empty = found["systems"]["said"]["empty"]
  assert (empty["gold"], empty["predicted"]) == (1, 1 - count)


def test_missing_rows_are_empty_answers_or_an_error(tmp_path):
  said = [row for row in SAID if row[1] != "s2"]
  for year, options in (("2023", {}), ("2024", {}), ("2025", {"strict": True})):
    with pytest.raises(
      UserError,
      match=r"of the 4 rows of .*val.jsonl, got 1 missing, the first \('s2', 'a'\); "
      "(edition 202[34]|--strict) takes no missing row",
    ):
      diagnose(tmp_path, year, said, column=lm_kbc_rules.EDITIONS[year].column, **options)
  found = diagnose(tmp_path, "2025", said, column="ObjectEntities")
  assert found["systems"]["said"]["counts"]["missing"] == 1
  assert found["systems"]["said"]["by_relation"]["a"]["recall"] == pytest.approx((1 + 0 + 1) / 3)
  assert "said: 1 gold rows missing, scored as empty answers" in lm_kbc_table.lines(found)


def test_unknown_and_repeated_rows_are_counted_and_refused_by_strict(tmp_path):
  said = [("a", "s1", ["Q9"]), *SAID, ("a", "S4", []), ("c", "s1", [])]
  found = diagnose(tmp_path, said=said)
  assert found["systems"]["said"]["counts"] == {
    "rows": 6,
    "missing": 0,
    "unknown": 2,
    "repeated": 1,
    "dropped": 0,
  }
  assert (
    found["systems"]["said"]["rows"] == diagnose(tmp_path)["systems"]["said"]["rows"]
  )  # the last row counts
  remarks = lm_kbc_table.lines(found)[-3:]
  assert remarks[0].startswith("said: 2 rows that gold does not have")
  assert remarks[1].startswith("said: 1 rows given again")
  with pytest.raises(
    UserError, match=r"--strict .* got 2 unknown, 1 repeated \(the first unknown row: \('S4', 'a'\)"
  ):
    diagnose(tmp_path, said=said, strict=True)
  with pytest.raises(UserError, match=r"got none of its 4 rows and 1 others, as \('S4', 'a'\)"):
    diagnose(tmp_path, said=said[5:6])


def test_2026_takes_the_first_of_a_nested_list_and_counts_what_it_drops(tmp_path):
  said = [("a", "s1", [["Q1", "x"], 3, [], None, "Q1."])]
  found = diagnose(tmp_path, "2026", said, [("a", "s1", ["Q1"])], column="ObjectEntities")
  assert (
    found["systems"]["said"]["rows"]["f1"]["mean"] == 1
    and found["systems"]["said"]["counts"]["dropped"] == 3
  )
  with pytest.raises(UserError, match="got 3 dropped"):
    diagnose(tmp_path, "2026", said, [("a", "s1", ["Q1"])], column="ObjectEntities", strict=True)


ROW = {"SubjectEntity": "s", "Relation": "r", "ObjectEntities": ["x"]}


@pytest.mark.parametrize(
  "year, text, message",
  [
    ("2025", "", "expected LM-KBC rows, a JSON object a line, got none"),
    ("2025", "{broken", "a.jsonl:1: expected a JSON object"),
    ("2025", "[1]", "a.jsonl:1: expected a JSON object"),
    (
      "2024",
      json.dumps(ROW),
      r"a.jsonl:1: expected a list in ObjectEntitiesID, which edition 2024 compares, got none "
      r"\(columns: SubjectEntity, Relation, ObjectEntities\)",
    ),
    (
      "2025",
      json.dumps({**ROW, "ObjectEntities": "x"}),
      "expected a list in ObjectEntities, .* got 'x'",
    ),
    (
      "2025",
      json.dumps({**ROW, "ObjectEntities": None}),
      "expected a list in ObjectEntities, .* got 'None'",
    ),
    (
      "2025",
      json.dumps({**ROW, "ObjectEntities": [35000]}),
      "objects that are texts, numbers too .*, got 35000",
    ),
    (
      "2022",
      json.dumps({**ROW, "ObjectEntities": [["x"]]}),
      r"expected objects that are texts.*, got \['x'\]",
    ),
    ("2025", json.dumps({**ROW, "Relation": ""}), "expected a text in Relation, got ''"),
    (
      "2025",
      json.dumps(ROW) + "\n" + json.dumps({"Relation": "r"}),
      r"a.jsonl:2: expected a text in SubjectEntity, got none \(columns: Relation\)",
    ),
  ],
)
def test_bad_predictions_give_one_clear_error(tmp_path, year, text, message):
  (tmp_path / "a.jsonl").write_text(text)
  with pytest.raises(UserError, match=message):
    lm_kbc_files.read(tmp_path / "a.jsonl", year)


def test_gold_of_another_edition_is_refused(tmp_path):
  texts = write(tmp_path / "texts.jsonl", [ROW])
  aliases = write(tmp_path / "aliases.jsonl", [{**ROW, "ObjectEntities": [["x", "y"]]}])
  with pytest.raises(
    UserError, match="texts.jsonl:1: expected gold objects of edition 2022 as lists of aliases"
  ):
    lm_kbc_files.read(texts, "2022", gold=True)
  with pytest.raises(UserError, match="aliases.jsonl:1: expected objects that are texts"):
    lm_kbc_files.read(aliases, "2025", gold=True)
  assert lm_kbc_files.read(texts, "2026", gold=True).objects == {("s", "r"): [["x"]]}


def test_files_are_told_apart_by_name(tmp_path):
  (tmp_path / "b").mkdir()
  first, second = write(tmp_path / "a.jsonl", [ROW]), write(tmp_path / "b" / "a.jsonl", [ROW])
  with pytest.raises(UserError, match="expected files of different names, got 'a' as in"):
    lm_kbc_files.read_all([first, second], "2025")
  with pytest.raises(UserError, match="expected at least one file"):
    lm_kbc_files.read_all([], "2025")
  with pytest.raises(UserError, match="file that ends in"):
    lm_kbc_files.read(tmp_path / "a.csv", "2025")


def run_verb(*arguments):
  command = [sys.executable, "-m", "factshock.diagnose", *map(str, arguments)]
  return subprocess.run(command, capture_output=True, text=True)


def test_the_verb_prints_tables_and_writes_where_asked(tmp_path):
  said = [
    write(tmp_path / f"{name}.jsonl", rows_of(*rows))
    for name, rows in (("one", SAID), ("two", GOLD))
  ]
  gold = write(tmp_path / "val.jsonl", rows_of(*GOLD))
  done = run_verb("--lm_kbc=2024", f"--predictions={said[0]},{said[1]}", f"--gold={gold}")
  assert done.returncode == 0, done.stderr
  assert max(map(len, done.stdout.splitlines())) <= 100 and "no room for: " in done.stdout
  assert "F1 over rows *" in done.stdout and "no constant set: there is no" in done.stdout
  assert "two - (all empty)" in done.stdout and "wrote" not in done.stdout
  write(tmp_path / "train.jsonl", rows_of(*GOLD[:1]))
  done = run_verb(
    "--lm_kbc=2024",
    f"--predictions={said[1]}",
    f"--gold={gold}",
    f"--output={tmp_path / 'out'}",
    "--strict",
  )
  assert done.returncode == 0, done.stderr
  assert "two - (constant set)" in done.stdout and "it has seen 1 of the gold rows" in done.stdout
  found = json.loads((tmp_path / "out" / "lm_kbc.json").read_text())
  assert (
    found["systems"]["two"]["rows"]["f1"]["mean"] == 1
    and found["strict"]
    and "constant_set" in found["notes"]
  )


@pytest.mark.parametrize(
  "options, message",
  [
    (("--lm_kbc=2021",), "--lm_kbc: expected one of 2022, 2023"),
    (("--lm_kbc=2024",), "name them with --gold"),
    (("--lm_kbc=2024", "--gold=none.jsonl"), "none.jsonl: cannot be read"),
    (
      ("--lm_kbc=2024", "--gold=g.jsonl", "--known=a", "--split=b"),
      "--known, --split: not with --lm_kbc",
    ),
    (("--gold=g.jsonl", "--output=out"), "--gold: only with --lm_kbc"),
    ((), "needs --output; --help explains"),
  ],
)
def test_the_verb_refuses_with_one_line(tmp_path, options, message):
  done = run_verb(f"--predictions={write(tmp_path / 'a.jsonl', rows_of(*SAID))}", *options)
  assert done.returncode and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
  "year, name, rows, empty, constant",
  [
    ("2022", "dev", 594, 0.167, 0.360),
    ("2024", "val", 378, 0.257, 0.271),
    ("2025", "val", 478, 0.203, 0.224),
  ],
)
def test_baselines_of_the_real_data(data_dir, tmp_path, year, name, rows, empty, constant):
  folder = data_dir / "lm_kbc" / year
  gold = lm_kbc_files.read(folder / f"{name}.jsonl", year, gold=True)
  train, reason = lm_kbc_files.train_beside(folder / f"{name}.jsonl")
  assert reason is None and lm_kbc_files.train_beside(train)[0] is None
  column = lm_kbc_rules.EDITIONS[year].column
  said = write(
    tmp_path / "all.jsonl",
    [
      {
        "SubjectEntity": subject,
        "Relation": relation,
        column: [item[0] for item in objects] if year == "2022" else objects,
      }
      for (subject, relation), objects in gold.objects.items()
    ],
  )
  found = lm_kbc.diagnose(
    year,
    lm_kbc_files.read_all([said], year),
    gold,
    lm_kbc_files.read(train, year, gold=True),
    bootstrap=Bootstrap(resamples=200),
  )
  answers = {**found["systems"], **found["baselines"]}
  f1 = {label: scores[found["headline"]]["f1"] for label, scores in answers.items()}
  assert found["rows"] == rows and found["train_overlap"] == 0
  assert f1["all"]["mean"] == 1
  assert f1["all_empty"]["mean"] == pytest.approx(empty, abs=0.0005)
  assert f1["constant_set"]["mean"] == pytest.approx(constant, abs=0.0005)
  assert f1["constant_set"]["low"] < constant < f1["constant_set"]["high"]
  gold_empty = found["baselines"]["all_empty"]["empty"]["gold"]
  assert gold_empty == sum(not objects for objects in gold.objects.values())

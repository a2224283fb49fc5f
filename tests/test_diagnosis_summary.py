"""diagnose(): the whole of diagnosis.json on hand-made arms, seeds and bad input; and the verb."""

import csv
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import test_diagnosis_shock as hand

from factshock.diagnosis import statistics, summary, table
from factshock.predictions import reading
from factshock.runtime import second_process
from factshock.runtime.errors import UserError

FINETUNING = {0: hand.of(hand.FINETUNING)}
COUNTS = {0: {("r", name): count for name, count in hand.COUNTS.items()}}


def rows_of(answers, gold=hand.GOLD, **columns):
  return [
    {
      "subject": f"s{i}",
      "relation": "r",
      "object": right,
      "prediction": answer,
      "score": -1.0,
      "popularity": float(i),
      **columns,
    }
    for i, (right, answer) in enumerate(zip(gold, answers))
  ]


def arm(answers, gold=hand.GOLD, order=None, **columns):
  rows = rows_of(answers, gold, **columns)
  return reading.from_rows(enumerate(rows if order is None else [rows[i] for i in order], 1))


def two_arms():
  zero = ["Moscow"] * 6 + ["Rome"] * 4  # right: the four Moscow and two Rome queries
  return {
    "zero": {0: arm(zero)},
    "tuned": {0: arm(hand.ANSWERS, order=[3, 1, 2, 0, 9, 8, 7, 6, 5, 4])},
  }


def means(value):
  return {name: estimate["mean"] for name, estimate in value.items()}


def random_arms(seeds, accuracy, queries=400):
  """Arms whose accuracy in each seed is given: dict label -> list."""
  rng, arms = np.random.default_rng(0), {}
  for label, shares in accuracy.items():
    for seed, share in zip(seeds, shares):
      answers = ["x" if value < share else "y" for value in rng.random(queries)]
      arms.setdefault(label, {})[seed] = arm(answers, ["x"] * queries)
  return arms


def test_prediction_ratios_are_compared_in_pairs():
  options = summary.Options(finetuning=FINETUNING, counts=COUNTS)
  found = summary.diagnose(two_arms(), options, summary.Bootstrap(resamples=200))
  (row,) = found["comparisons"]
  ratios = {label: arm["shock"]["ratio"] for label, arm in found["arms"].items()}
  for group, difference in row["ratio_difference"].items():
    after, before = ratios["tuned"][group]["mean"], ratios["zero"][group]["mean"]
    if after is None:
      assert difference["mean"] is None
    else:
      assert difference["mean"] == pytest.approx(after - before)
      assert difference["low"] <= difference["mean"] <= difference["high"]
  arms = two_arms()
  arms["same"] = arms["zero"]
  same = summary.diagnose(arms, options, summary.Bootstrap(resamples=200))["comparisons"][1]
  assert same["arm"] == "same"
  known = [row for row in same["ratio_difference"].values() if row["mean"] is not None]
  assert known and all((row["low"], row["high"]) == (0, 0) for row in known)
  uncounted = summary.Options(finetuning=FINETUNING)
  (row,) = summary.diagnose(two_arms(), uncounted)["comparisons"]
  assert "ratio_difference" not in row


def test_everything_about_two_arms_worked_by_hand():
  found = summary.diagnose(
    two_arms(),
    summary.Options(
      finetuning=FINETUNING, counts=COUNTS, known="zero", entity_arms=["zero", "tuned"]
    ),
    summary.Bootstrap(resamples=200),
  )
  tuned = found["arms"]["tuned"]
  assert found["reference"] == "zero" and found["seeds"] == [0] and tuned["queries"] == 10
  assert tuned["exact_match"]["mean"] == pytest.approx(0.3)
  assert tuned["exact_match"]["by_seed"] == {"0": pytest.approx(0.3)}
  assert means(tuned["flips"]) == pytest.approx(
    {"gained": 0.2, "lost": 0.5}
  )  # Paris, Baku; 3 Moscow, 2 Rome
  assert tuned["known_kept"]["mean"] == pytest.approx(1 / 6)
  assert found["arms"]["zero"]["known_kept"]["mean"] == 1
  ratio = tuned["shock"]["ratio"]["rare_seen"]
  assert (ratio["mean"], ratio["predicted"], ratio["gold"]) == (4, 4, 1)
  assert tuned["shock"]["shock"]["mean"] == pytest.approx(0.5)
  assert tuned["shock"]["total_variation"]["mean"] == pytest.approx(0.4)
  assert tuned["shock"]["mismatch"]["mean"] == pytest.approx(0.7)
  assert means(tuned["errors"]) == pytest.approx(
    {"finetuning_answer": 4 / 7, "rarer_than_gold": 4 / 7}
  )
  (comparison,) = found["comparisons"]
  assert (comparison["arm"], comparison["against"], comparison["wins"], comparison["losses"]) == (
    "tuned",
    "zero",
    2,
    5,
  )
  assert (
    comparison["difference"]["mean"] == pytest.approx(-0.3)
    and comparison["seeds_same_sign"] == "1/1"
  )
  assert comparison["mcnemar_p"] == pytest.approx(statistics.mcnemar(2, 5)[0])
  (baku,) = [row for row in found["entities"] if row["entity"] == "Baku"]
  assert baku["predicted"] == {"zero": 0, "tuned": 4} and baku["group"] == "rare_seen"
  assert (baku["pretraining"], baku["finetuning"], baku["gold"]) == (5, 2, 1)
  assert "Bern" not in {row["entity"] for row in found["entities"]}
  json.dumps(found, allow_nan=False)
  assert any("zero" in line for line in table.lines(found))


def test_popularity_quartiles():
  bins = summary.diagnose(two_arms())["arms"]["tuned"]["by_popularity"]
  assert [(row["low"], row["high"]) for row in bins] == [(0, 2), (3, 4), (5, 6), (7, 9)]
  assert [row["queries"] for row in bins] == [3, 2, 2, 3]
  assert [row["right"]["mean"] for row in bins] == pytest.approx([1 / 3, 1 / 2, 1 / 2, 0])


def test_queries_without_popularity_are_left_out_of_the_quartiles():
  rows = rows_of(hand.ANSWERS)
  rows[0]["popularity"] = None
  bins = summary.diagnose({"a": {0: reading.from_rows(enumerate(rows))}})["arms"]["a"][
    "by_popularity"
  ]
  assert sum(row["queries"] for row in bins) == 9


def test_candidates_give_hits_and_reciprocal_rank():
  lists = [["Moscow", -1.0], *([f"w{i}", -2.0] for i in range(4)), ["Paris", -3.0]]
  found = summary.diagnose({"a": {0: arm(hand.ANSWERS, candidates=lists)}})["arms"]["a"]
  assert found["hits@1"]["mean"] == pytest.approx(0.4) and found["hits@5"]["mean"] == pytest.approx(
    0.4
  )
  assert found["hits@10"] == {"mean": None, "low": None, "high": None, "by_seed": {"0": None}}
  assert found["mrr"]["mean"] == pytest.approx((4 + 2 / 6) / 10)
  assert "mrr" not in summary.diagnose(two_arms())["arms"]["zero"]


@pytest.mark.parametrize(
  "finetuning, counts, known, unknown",
  [
    (
      FINETUNING,
      None,
      ["range_shift", "mismatch", "total_variation"],
      ["shock", "slope", "spearman"],
    ),
    (None, COUNTS, ["total_variation"], ["shock", "slope", "range_shift", "mismatch"]),
  ],
)
def test_measures_that_lack_what_they_need_are_null(finetuning, counts, known, unknown):
  found = summary.diagnose(two_arms(), summary.Options(finetuning=finetuning, counts=counts))[
    "arms"
  ]["tuned"]
  assert all(found["shock"][name]["mean"] is not None for name in known)
  assert all(found["shock"][name]["mean"] is None for name in unknown)
  assert all(ratio["mean"] is None for ratio in found["shock"]["ratio"].values())
  assert (found["errors"]["finetuning_answer"]["mean"] is None) == (finetuning is None)
  assert (found["errors"]["rarer_than_gold"]["mean"] is None) == (counts is None)


def test_without_finetuning_facts_and_counts_there_is_no_shock():
  assert not {"shock", "errors"} & summary.diagnose(two_arms())["arms"]["tuned"].keys()


def test_an_arm_may_have_finetuning_facts_of_its_own():
  found = summary.diagnose(
    two_arms(),
    summary.Options(
      finetuning=FINETUNING,
      counts=COUNTS,
      finetuning_by_arm={"tuned": {0: hand.of(["Moscow", "Lima"])}},
    ),
  )["arms"]
  assert found["tuned"]["shock"]["range_shift"]["mean"] == pytest.approx(0.2)
  assert found["zero"]["shock"]["range_shift"]["mean"] == 0


def test_row_order_changes_nothing_at_all():
  def run(order):
    arms = {
      "zero": {0: arm(["Moscow"] * 10, order=order)},
      "tuned": {0: arm(hand.ANSWERS, order=order)},
    }
    return summary.diagnose(
      arms,
      summary.Options(finetuning=FINETUNING, counts=COUNTS, known="zero"),
      summary.Bootstrap(resamples=100),
    )

  assert run(None) == run([9, 3, 1, 2, 0, 8, 5, 6, 7, 4])


def test_two_processes_measure_what_one_does(monkeypatch):
  options = summary.Options(finetuning=FINETUNING, counts=COUNTS, known="zero")
  found = [summary.diagnose(two_arms(), options, summary.Bootstrap(resamples=100))]
  # The tests have JAX, beside which there is no second process; this one needs none of it.
  monkeypatch.setattr(second_process, "may_be_made", lambda: True)
  found.append(summary.diagnose(two_arms(), options, summary.Bootstrap(resamples=100)))
  assert found[0] == found[1]


@pytest.mark.parametrize("table_entries", [statistics.TABLE_ENTRIES, 0])
def test_intervals_hold_their_measure_for_small_and_large_sets(monkeypatch, table_entries):
  monkeypatch.setattr(statistics, "TABLE_ENTRIES", table_entries)
  rng = np.random.default_rng(5)
  names = [f"n{i}" for i in range(60)]
  gold, answers = (rng.choice(names, 600, p=np.arange(60, 0, -1) / 1830).tolist() for _ in range(2))
  found = summary.diagnose(
    {"a": {0: arm(answers, gold)}},
    summary.Options(
      finetuning={0: hand.of(names[::2] * 3)},
      counts={0: {("r", name): 600 // (i + 1) for i, name in enumerate(names)}},
    ),
  )["arms"]["a"]
  estimates = [
    found["exact_match"],
    found["f1"],
    found["errors"]["rarer_than_gold"],
    *(row["right"] for row in found["by_popularity"]),
    *found["shock"]["ratio"].values(),
    *(value for name, value in found["shock"].items() if name != "ratio"),
  ]
  assert all(row["low"] <= row["mean"] <= row["high"] for row in estimates)
  share = found["exact_match"]["mean"]
  width = found["exact_match"]["high"] - found["exact_match"]["low"]
  assert width == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 600), rel=0.25)


def test_seeds_are_a_second_level():
  alike = summary.diagnose(random_arms(range(5), {"a": [0.5] * 5}))["arms"]["a"]["exact_match"]
  apart = summary.diagnose(random_arms(range(5), {"a": [0.2, 0.4, 0.5, 0.6, 0.8]}))
  apart = apart["arms"]["a"]["exact_match"]
  assert list(apart["by_seed"]) == ["0", "1", "2", "3", "4"]
  assert apart["mean"] == pytest.approx(np.mean(list(apart["by_seed"].values())))
  assert apart["high"] - apart["low"] > 3 * (alike["high"] - alike["low"])


def test_pairing_removes_what_seeds_share():
  levels = [0.2, 0.4, 0.5, 0.6, 0.8]
  found = summary.diagnose(
    random_arms(range(5), {"a": levels, "b": [level + 0.1 for level in levels]}),
    summary.Options(pairs=[("b", "a")]),
  )
  (row,) = found["comparisons"]
  arm_b = found["arms"]["b"]["exact_match"]
  assert row["seeds_same_sign"] == "5/5"
  assert 0 < row["difference"]["low"] < 0.1 < row["difference"]["high"] < 0.2
  assert row["difference"]["high"] - row["difference"]["low"] < 0.5 * (arm_b["high"] - arm_b["low"])


def test_arms_may_lack_a_seed_but_not_have_none_in_common():
  arms = random_arms([0, 1], {"a": [0.5, 0.5]}) | random_arms([1, 2], {"b": [0.5, 0.5]})
  (row,) = summary.diagnose(arms)["comparisons"]
  assert list(row["difference"]["by_seed"]) == ["1"]
  arms = random_arms([0], {"a": [0.5]}) | random_arms([1], {"b": [0.5]})
  with pytest.raises(UserError, match="expected a seed that both arms have"):
    summary.diagnose(arms)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"reference": "x"}, "reference: expected the label of an arm, one of zero, tuned; got 'x'"),
    ({"known": "x"}, "known: expected the label"),
    ({"pairs": [("tuned", "x")]}, "pairs: expected the label"),
    ({"entity_arms": ["x"]}, "entity_arms: expected the label"),
    ({"counts": {7: {}}}, r"entity counts: expected them for seed 0, got them for \[7\]"),
    ({"finetuning": {}}, "finetuning facts: expected them for seed 0"),
  ],
)
def test_wrong_labels_and_seeds_are_named(options, message):
  with pytest.raises(UserError, match=message):
    summary.diagnose(two_arms(), summary.Options(**options))


def test_arms_of_different_test_sets_are_refused():
  arms = two_arms() | {"other": {0: arm(["Rome"] * 3, ["Rome"] * 3)}}
  with pytest.raises(UserError, match="in arm 'other' as in arm 'zero'.* 10 of its 10|8 of its 10"):
    summary.diagnose(arms)


def test_many_points_cost_little():
  rng, names = np.random.default_rng(6), [f"n{i}" for i in range(80)]
  gold = rng.choice(names, 320).tolist()
  arms = {f"p@{k}": {0: arm(rng.choice(names, 320).tolist(), gold)} for k in range(20)}
  start = time.process_time()
  summary.diagnose(
    arms,
    summary.Options(
      finetuning={0: hand.of(names[::2])}, counts={0: {("r", name): 3 for name in names}}
    ),
  )
  assert time.process_time() - start < 5


def run_verb(*arguments):
  command = [sys.executable, "-m", "factshock.diagnose", *map(str, arguments)]
  return subprocess.run(command, capture_output=True, text=True)


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def test_a_pattern_names_all_files_that_it_fits(tmp_path):
  for seed in (1, 0):
    rows = [{**row, "arm": "tuned", "seed": seed} for row in rows_of(hand.ANSWERS)]
    write(tmp_path / f"tuned_{seed}.jsonl", rows)
  done = run_verb(f"--predictions={tmp_path}/tuned_*.jsonl", f"--output={tmp_path / 'out'}")
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
  assert list(found["arms"]) == ["tuned"] and found["seeds"] == [0, 1]
  none = run_verb(f"--predictions={tmp_path}/other_*.jsonl", f"--output={tmp_path / 'other'}")
  assert none.returncode == 2 and "other_*.jsonl: cannot be read: No such file" in none.stderr


def test_the_verb_writes_a_diagnosis(tmp_path):
  zero = write(tmp_path / "zero.jsonl", rows_of(["Moscow"] * 10))
  tuned = write(tmp_path / "tuned.jsonl", rows_of(hand.ANSWERS))
  facts = write(
    tmp_path / "train.jsonl",
    [
      {"subject": f"t{i}", "relation": "r", "object": name}
      for i, name in enumerate(hand.FINETUNING)
    ],
  )
  counts = tmp_path / "counts.tsv"
  counts.write_text(
    "entity\tcount\trelation\n" + "".join(f"{name}\t{n}\tr\n" for name, n in hand.COUNTS.items())
  )
  done = run_verb(
    f"--predictions={zero},{tuned}",
    f"--finetuning_facts={facts}",
    f"--entity_counts={counts}",
    "--known=zero",
    f"--output={tmp_path / 'out'}",
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("Finetuning: Finetuning moved exact match from ")
  assert "tuned - zero" in done.stdout and "wrote to" in done.stdout
  assert max(map(len, done.stdout.splitlines())) <= max(100, len(f"wrote to {tmp_path}") + 90)
  written = {path.name for path in (tmp_path / "out").iterdir()}
  tables = {"arms.csv", "comparisons.csv", "entities.csv"}
  assert written == {"diagnosis.json", "report.html", "figures", *tables}
  (_, tuned_row) = csv.DictReader((tmp_path / "out" / "arms.csv").open())
  assert tuned_row["arm"] == "tuned" and float(tuned_row["shock"]) == pytest.approx(0.5)
  page = (tmp_path / "out" / "report.html").read_text()
  assert "<h1>Zero and Tuned</h1>" in page and "factshock diagnose --predictions" in page
  found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
  assert found["arms"]["tuned"]["shock"]["shock"]["mean"] == pytest.approx(0.5)
  assert found["format"] == 1 and "slope" in found["notes"]


def test_a_reader_who_has_read_enough_ends_the_verb_without_a_word(tmp_path):
  path = write(tmp_path / "a.jsonl", rows_of(hand.ANSWERS))
  command = [sys.executable, "-u", "-m", "factshock.diagnose", f"--predictions={path}"]
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer, "w") as closed:
    done = subprocess.run(
      [*command, f"--output={tmp_path / 'out'}"], stdout=closed, stderr=subprocess.PIPE, text=True
    )
  assert (done.returncode, done.stderr) == (141, "")
  assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
  "text, options, message",
  [
    ("", (), "a.jsonl: expected predictions"),
    ("{broken\n", (), "a.jsonl:1: expected"),
    (
      json.dumps(rows_of(["x"])[0]),
      ("--reference=b",),
      "expected the label of an arm, one of a; got 'b'",
    ),
    (json.dumps(rows_of(["x"])[0]), ("--entity_counts=none.tsv",), "none.tsv"),
  ],
)
def test_the_verb_ends_with_one_line_and_writes_nothing(tmp_path, text, options, message):
  (tmp_path / "a.jsonl").write_text(text)
  done = run_verb(f"--predictions={tmp_path / 'a.jsonl'}", f"--output={tmp_path / 'out'}", *options)
  assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
  assert not (tmp_path / "out").exists()


def test_help_needs_no_heavy_library():
  code = (
    "import sys; sys.argv = ['diagnose', '--help']; import runpy\n"
    "try: runpy.run_module('factshock.diagnose', run_name='__main__')\n"
    "except SystemExit: pass\n"
    "assert not {'jax', 'scipy', 'pandas', 'datasets', 'matplotlib'} & set(sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert "--finetuning_facts" in done.stdout


def test_macro_average_counts_relations_alike():
  """Relation a: 1 of 4 right, b: 1 of 1; in another order than the reference's."""
  gold = [("a", "x", "x"), ("a", "x", "y"), ("a", "x", "y"), ("a", "x", "y"), ("b", "x", "x")]
  rows = [
    {"subject": f"s{i}", "relation": relation, "object": right, "prediction": said}
    for i, (relation, right, said) in enumerate(gold)
  ]
  other = [{**row, "prediction": "x"} for row in rows]
  found = summary.diagnose(
    {
      "all": {0: reading.from_rows(enumerate(other, 1))},
      "some": {0: reading.from_rows(enumerate(rows[::-1], 1))},
    },
    bootstrap=summary.Bootstrap(resamples=200),
  )
  some = found["arms"]["some"]
  assert some["exact_match"]["mean"] == pytest.approx(0.4) and some["macro_right"][
    "mean"
  ] == pytest.approx(0.625)
  assert (
    means(some["by_relation"]) == {"a": 0.25, "b": 1.0}
    and found["arms"]["all"]["macro_right"]["mean"] == 1
  )
  assert "macro" in table.lines(found, width=None)[1] and some["macro_right"]["low"] < 0.625


def test_right_may_mean_that_an_accepted_answer_is_contained():
  rows = [
    {"subject": f"s{i}", "relation": "a", "object": "x y", "prediction": said, "popularity": i}
    for i, said in enumerate(["x y", "it is x y", "no", "x"])
  ]
  other = [{**row, "prediction": "no"} for row in rows]
  arms = {
    name: {0: reading.from_rows(enumerate(found, 1))}
    for name, found in (("none", other), ("some", rows))
  }
  for criterion, right in (("exact_match", 0.25), ("contains", 0.5)):
    found = summary.diagnose(
      arms,
      summary.Options(
        criterion=criterion, counts={0: {("a", "x y"): 3}}, finetuning={0: [("a", "x y")]}
      ),
      summary.Bootstrap(resamples=200),
    )
    some = found["arms"]["some"]
    assert (some["right"]["mean"], some["exact_match"]["mean"], some["contains"]["mean"]) == (
      right,
      0.25,
      0.5,
    )
    assert (
      found["comparisons"][0]["difference"]["mean"] == right
      and some["flips"]["gained"]["mean"] == right
    )
    assert sum(row["right"]["mean"] for row in some["by_popularity"]) == 4 * right
    assert (
      found["criterion"] == criterion
      and {"exact_match": "exact", "contains": "contains"}[criterion] in table.lines(found)[1]
    )


def test_types_of_relations_are_averaged_by_relation():
  rows = [
    {"subject": f"s{i}", "relation": relation, "object": "x", "prediction": said}
    for i, (relation, said) in enumerate(
      [("us", "x"), ("us", "x"), ("world", "x"), ("world", "y"), ("law", "y"), ("misc", "x")]
    )
  ]
  found = summary.diagnose(
    {"a": {0: reading.from_rows(enumerate(rows, 1))}},
    summary.Options(types={"us": "history", "world": "history", "law": "law", "misc": ""}),
    summary.Bootstrap(resamples=200),
  )
  assert means(found["arms"]["a"]["by_type"]) == {"history": 0.75, "law": 0}


def test_a_terminals_table_has_a_hundred_columns_and_says_what_it_leaves_out():
  names = [f"{'long' * 12}{index}" for index in range(3)]
  arms = {name: {0: arm(hand.ANSWERS)} for name in names}
  found = summary.diagnose(
    arms,
    summary.Options(finetuning=FINETUNING, counts=COUNTS),
    summary.Bootstrap(resamples=100),
  )
  narrow, wide = table.lines(found), table.lines(found, width=None)
  assert max(map(len, narrow)) <= 100 < max(map(len, wide))
  assert all(any(line.lstrip().startswith(name) for line in wide) for name in names)
  shortened = [line for line in narrow if line.lstrip().startswith("long") and "…" in line]
  assert len(shortened) == 5, "three arms and two comparisons, each with both its ends"
  (left_out,) = [line for line in narrow[:8] if "no room for" in line]
  assert "range shift" in left_out and "rare seen" in narrow[1] and "range shift" in wide[1]

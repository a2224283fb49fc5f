"""The answer-prior correction: closed forms, the verb from files to files, choosing tau, and input
that cannot be used.
"""

import json
import math
import os
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.facts import counts
from factshock.predictions import correcting, prior_correction
from factshock.runtime.errors import UserError


def rows_of(p_QxC, gold, names="xyz", relation="r", start=0, **more):
  """Rows of a predictions file from probabilities [Q, C] and the place of each gold answer."""
  found = []
  for number, (p, right) in enumerate(zip(p_QxC, gold), start):
    ranked = sorted(
      ([name, float(np.log(value))] for name, value in zip(names, p)), key=lambda pair: -pair[1]
    )
    found.append(
      {
        "subject": f"s{number}",
        "relation": relation,
        "object": names[right],
        "prediction": ranked[0][0],
        "score": ranked[0][1],
        "candidates": ranked,
        "arm": "tuned",
        "seed": 0,
        "split": "test",
        **more,
      }
    )
  return found


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


probabilities = st.lists(
  st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1, max_size=12
).map(lambda rows: np.array(rows) / np.sum(rows, axis=1, keepdims=True))


@settings(deadline=None)
@given(probabilities, probabilities, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_is_bayes_rule_with_the_prior_exchanged(p_QxC, reference_QxC, tau):
  tables = prior_correction.tables_of(rows_of(p_QxC, [0] * len(p_QxC)), "a")
  reference = prior_correction.priors_of(
    prior_correction.tables_of(rows_of(reference_QxC, [0] * len(reference_QxC)), "b")
  )
  np.testing.assert_allclose(reference["r"], reference_QxC.mean(axis=0), rtol=1e-9)
  ratios, raised = prior_correction.log_ratios(tables, reference)
  expected = p_QxC * (reference_QxC.mean(axis=0) / p_QxC.mean(axis=0)) ** tau
  np.testing.assert_allclose(
    np.exp(prior_correction.correct(tables, ratios, tau)["r"].log_p_QxC),
    expected / expected.sum(axis=1, keepdims=True),
    rtol=1e-7,
  )
  assert raised == 0


def test_a_shifted_prior_is_taken_back_and_tau_is_found():
  """A model whose answers are right but for a factor on each answer: the correction with tau 1
  restores it exactly.
  """
  random = np.random.default_rng(0)
  gold = random.integers(3, size=600)
  true = np.full((600, 3), 0.2)
  true[np.arange(600), gold] = 0.6
  shifted = true * np.array([6, 1, 0.3])
  tables = prior_correction.tables_of(
    rows_of(shifted / shifted.sum(axis=1, keepdims=True), gold), "a"
  )
  dev = rows_of(shifted[:300] / shifted[:300].sum(axis=1, keepdims=True), gold[:300], start=1000)
  ratios = {"r": -np.log([6, 1, 0.3])}
  np.testing.assert_allclose(
    np.exp(prior_correction.correct(tables, ratios, 1)["r"].log_p_QxC), true, rtol=1e-9
  )
  estimated, _ = prior_correction.log_ratios(tables, {"r": true.mean(axis=0)})
  tau, curve = prior_correction.choose_tau(
    prior_correction.tables_of(dev, "dev"), [[row["object"]] for row in dev], estimated
  )
  assert tau > 0 and dict(curve)[tau] == max(share for _, share in curve) > dict(curve)[0.0]
  assert prior_correction.prior_distance(
    prior_correction.correct(tables, estimated, tau), {"r": true.mean(axis=0)}
  ) < prior_correction.prior_distance(tables, {"r": true.mean(axis=0)})


def test_expectation_maximisation_finds_the_queries_answers():
  """Answers 8:1:1 in finetuning and 1:1:8 among the queries; the likelihoods are known, so the
  posterior under 8:1:1 is too.
  """
  random = np.random.default_rng(1)
  gold = random.choice(3, size=4000, p=[0.1, 0.1, 0.8])
  likelihood = np.full((4000, 3), 0.1)
  likelihood[
    np.arange(4000), np.where(random.random(4000) < 0.8, gold, random.integers(3, size=4000))
  ] = 0.8
  posterior = likelihood * np.array([0.8, 0.1, 0.1])
  tables = prior_correction.tables_of(
    rows_of(posterior / posterior.sum(axis=1, keepdims=True), gold), "a"
  )
  prior = prior_correction.estimated_priors(
    tables, [("r", "x")] * 799 + [("r", "y")] * 99 + [("r", "z")] * 99
  )["r"]
  np.testing.assert_allclose(prior, [0.1, 0.1, 0.8], atol=0.05)


def test_counts_and_uniform_and_floor():
  tables = prior_correction.tables_of(rows_of(np.array([[0.7, 0.2, 0.1]]), [0]), "a")
  np.testing.assert_allclose(
    prior_correction.counted_priors(tables, {("r", "x"): 4, ("", "z"): 2})["r"],
    np.array([5, 1, 3]) / 9,
  )
  spelled = {("r", "X."): 3, ("r", "The x"): 1, ("", "Z"): 2}
  np.testing.assert_allclose(
    prior_correction.counted_priors(tables, spelled)["r"], np.array([5, 1, 3]) / 9
  )
  frequencies = counts.read_counts("wordfreq:en")
  np.testing.assert_allclose(
    prior_correction.counted_priors(tables, frequencies)["r"]
    * sum(frequencies["", n] + 1 for n in "xyz"),
    [frequencies["", name] + 1 for name in "xyz"],
  )
  with pytest.raises(UserError, match="expected some candidates among them, got none, not even"):
    prior_correction.counted_priors(tables, {("r", "other"): 4})
  np.testing.assert_allclose(prior_correction.uniform_priors(tables)["r"], 1 / 3)
  ratios, raised = prior_correction.log_ratios(tables, {"r": np.array([1.0, 0.0, 0.0])})
  assert raised == 2 and np.isfinite(ratios["r"]).all()


def run(*flags):
  return subprocess.run(
    [sys.executable, "-m", "factshock.correct", *flags], capture_output=True, text=True
  )


def test_the_verb_writes_corrected_predictions_and_says_what_moved(tmp_path):
  gold = [0, 1, 2, 1]
  tuned = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.5, 0.2, 0.3], [0.7, 0.2, 0.1]])
  before = np.array([[0.4, 0.3, 0.3], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4], [0.3, 0.5, 0.2]])
  predictions = write(tmp_path / "tuned.jsonl", rows_of(tuned, gold, note="kept", popularity=3.0))
  reference = write(tmp_path / "before.jsonl", rows_of(before, gold)[::-1])
  done = run(
    f"--predictions={predictions}", f"--reference={reference}", f"--output={tmp_path}/out.jsonl"
  )
  assert done.returncode == 0, done.stderr
  rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
  expected = tuned * (before.mean(axis=0) / tuned.mean(axis=0))
  expected /= expected.sum(axis=1, keepdims=True)
  assert [row["prediction"] for row in rows] == ["xyz"[best] for best in expected.argmax(axis=1)]
  assert (
    rows[0]["note"] == "kept"
    and rows[0]["popularity"] == 3
    and rows[0]["arm"] == "tuned_corrected"
    and rows[0]["tau"] == 1
  )
  for row, p in zip(rows, expected):
    np.testing.assert_allclose(
      [np.exp(dict(row["candidates"])[name]) for name in "xyz"], p, rtol=1e-4
    )
  assert (
    "lost: x (r) 4 -> " in done.stdout
    and "right 0.250 before" in done.stdout
    and f"{tmp_path}/out.jsonl" in done.stdout
  )
  counts = tmp_path / "counts.tsv"
  counts.write_text("entity\tcount\nx\t1\ny\t9\nz\t9\n")
  dev = write(tmp_path / "dev.jsonl", rows_of(tuned, gold, start=50))
  done = run(
    f"--predictions={predictions}",
    f"--entity_counts={counts}",
    f"--development={dev}",
    f"--output={tmp_path}/out.jsonl",
    "--overwrite",
  )
  assert done.returncode == 0 and "development, right by tau: 0 0.250" in done.stdout, done.stderr


def test_the_verb_reads_columns_of_other_names(tmp_path):
  gold = [0, 1, 2]
  tuned = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.5, 0.2, 0.3]])
  before = np.array([[0.4, 0.3, 0.3], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4]])
  names = {"subject": "question", "object": "answer", "prediction": "text"}
  paths = {}
  for name, p_QxC in (("tuned", tuned), ("before", before)):
    rows = list(rows_of(p_QxC, gold))
    paths[name] = write(tmp_path / f"{name}.jsonl", rows)
    others = [{names.get(key, key): value for key, value in row.items()} for row in rows]
    paths[f"other_{name}"] = write(tmp_path / f"other_{name}.jsonl", others)
  columns = "--columns=" + ",".join(f"{ours}={theirs}" for ours, theirs in names.items())
  for prefix, more in (("", []), ("other_", [columns])):
    done = run(
      f"--predictions={paths[prefix + 'tuned']}",
      f"--reference={paths[prefix + 'before']}",
      f"--output={tmp_path}/{prefix}out.jsonl",
      *more,
    )
    assert done.returncode == 0, done.stderr
  expected, found = (
    [json.loads(line) for line in (tmp_path / f"{prefix}out.jsonl").read_text().splitlines()]
    for prefix in ("", "other_")
  )
  assert found == expected  # and no `text` that still holds what was predicted before
  done = run(
    f"--predictions={paths['other_tuned']}",
    f"--reference={paths['before']}",
    f"--output={tmp_path}/no.jsonl",
  )
  assert done.returncode == 2 and "columns of other names: --columns=subject=NAME" in done.stderr


@pytest.mark.parametrize(
  "change, words",
  [
    (
      lambda rows: [{**row, "candidates": None} for row in rows],
      "expected candidates in every row, got none in 4 of 4",
    ),
    (
      lambda rows: [*rows[:3], {**rows[3], "candidates": rows[3]["candidates"][:2]}],
      "got others in 1; write all of them",
    ),
    (
      lambda rows: [*rows[:3], {**rows[3], "subject": "other"}],
      "got 1 of its 4 missing and 1 others",
    ),
    (
      lambda rows: [{**row, "candidates": [["w", 0.0], *row["candidates"][1:]]} for row in rows],
      "others in|others and",
    ),
  ],
)
def test_references_that_cannot_be_used(tmp_path, change, words):
  p = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.5, 0.2, 0.3], [0.7, 0.2, 0.1]])
  predictions = write(tmp_path / "tuned.jsonl", rows_of(p, [0, 1, 2, 1]))
  reference = write(tmp_path / "before.jsonl", change(rows_of(p, [0, 1, 2, 1])))
  done = run(
    f"--predictions={predictions}", f"--reference={reference}", f"--output={tmp_path}/out.jsonl"
  )
  assert (
    done.returncode == 2
    and "Traceback" not in done.stderr
    and not (tmp_path / "out.jsonl").exists()
  )
  assert any(word in done.stderr for word in words.split("|")), done.stderr


def asked(rows):
  return [(row["subject"], row["relation"]) for row in rows]


def test_development_facts_must_be_others(tmp_path):
  p = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]])
  rows = rows_of(p, [0, 1])
  with pytest.raises(
    UserError,
    match="expected subjects that are not asked about in test.jsonl, got 2 shared, such as 's0'",
  ):
    prior_correction.check_separate_subjects(asked(rows), "test.jsonl", asked(rows), "dev.jsonl")
  others = asked(rows_of(p, [0, 1], start=5))
  prior_correction.check_separate_subjects(asked(rows), "test.jsonl", others, "dev.jsonl")
  for flags, words in (
    ([], "expected one of --reference and --entity_counts, got neither"),
    (["--reference=a", "--entity_counts=b"], "got both"),
  ):
    done = run("--predictions=none.jsonl", f"--output={tmp_path}/o.jsonl", *flags)
    assert done.returncode == 2 and words in done.stderr


@settings(deadline=None, max_examples=30)
@given(probabilities, st.integers(1, 5), st.sampled_from([0.0, 0.5, 1.0]), st.data())
def test_rows_in_turn_are_those_of_all_at_once(p_QxC, block, tau, data):
  rows = rows_of(p_QxC, [0] * len(p_QxC))
  for row in rows:
    row["relation"] = data.draw(st.sampled_from("rst"))
  tables = prior_correction.tables_of(rows, "a")
  ratios, _ = prior_correction.log_ratios(tables, prior_correction.uniform_priors(tables))
  whole = prior_correction.corrected_rows(prior_correction.correct(tables, ratios, tau), rows)
  corrected = prior_correction.Corrected(tables, ratios, tau)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(prior_correction, "_BLOCK", block)
    assert list(corrected.rows(rows, "a")) == whole
  predicted = [(row["relation"], row["prediction"]) for row in whole]
  assert corrected.predicted() == {key: predicted.count(key) for key in predicted}


@pytest.mark.parametrize(
  "change",
  [lambda rows: rows[:-1], lambda rows: rows * 2, lambda rows: [{**rows[0], "relation": "new"}]],
)
def test_a_file_that_changes_meanwhile_is_refused(change):
  rows = rows_of(np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]]), [0, 1])
  tables = prior_correction.tables_of(rows, "a")
  ratios, _ = prior_correction.log_ratios(tables, prior_correction.uniform_priors(tables))
  with pytest.raises(UserError, match="a.jsonl: expected the rows read before, got others"):
    list(prior_correction.Corrected(tables, ratios, 1.0).rows(change(rows), "a.jsonl"))


@pytest.mark.parametrize(
  "candidates, message",
  [
    (["Rome"], r"b.jsonl:2: expected candidates as a list of \[text, log-probability\], got"),
    ([["x", math.nan], ["y", -1.0], ["z", -2.0]], r"b.jsonl:2: expected log-prob.*finite at least"),
    ([[name, -math.inf] for name in "xyz"], r"b.jsonl:2: expected log-probabilities in candidates"),
    ([["x", "y"], ["y", -1.0], ["z", -2.0]], r"b.jsonl:2: expected candidates as a list"),
    ([["x", None], ["y", -1.0], ["z", -2.0]], r"b.jsonl:2: expected candidates as a list"),
    ([["x", -0.5], ["x", -1.0], ["y", -2.0]], "in each of 2 rows, got others in 1"),
  ],
)
def test_candidates_that_are_none_are_named(tmp_path, candidates, message):
  good, bad = rows_of(np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]]), [0, 1])
  path = write(tmp_path / "b.jsonl", [good, {**bad, "candidates": candidates}])
  with pytest.raises(UserError, match=message):
    correcting.correct(path, correcting.CorrectionOptions(reference=path))


def test_a_pipe_is_corrected_too(tmp_path):
  rows = rows_of(np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]]), [0, 1])
  path = write(tmp_path / "a.jsonl", rows)
  pipe = str(tmp_path / "pipe.jsonl")
  os.mkfifo(pipe)
  writer = threading.Thread(target=lambda: write(tmp_path / "pipe.jsonl", rows))
  writer.start()
  options = correcting.CorrectionOptions(reference=path)
  assert list(correcting.correct(pipe, options).rows) == list(
    correcting.correct(path, options).rows
  )
  writer.join()


def test_a_row_is_held_as_numbers(tmp_path):
  """Ten candidates are 80 bytes in each of two files, and all rows are never there as objects."""
  peaks = []
  for size in (300, 900):
    p_QxC = np.random.default_rng(0).dirichlet(np.ones(10), size)
    path = write(tmp_path / f"{size}.jsonl", rows_of(p_QxC, [0] * size, "abcdefghij"))
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(prior_correction, "_BLOCK", 100)
      tracemalloc.start()
      correction = correcting.correct(path, correcting.CorrectionOptions(reference=path))
      assert sum(1 for _ in correction.rows) == correction.queries == size
      peaks.append(tracemalloc.get_traced_memory()[1])
      tracemalloc.stop()
  assert (peaks[1] - peaks[0]) / 600 < 900  # subjects are texts, here one a row

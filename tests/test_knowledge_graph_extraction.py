"""Extraction on simulated models: confidence, promise, guard, several answers, and what is said of
each relation.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.knowledge_graph import answers, consistency, extraction, records, shock_guard, trials
from factshock.runtime.errors import UserError


def world(seed, queries=600, relations=("r", "s"), listed=3, sharp=4.0, shocked=0.0, several=False):
  """Answers of a model that knows some facts better than others; a `shocked` share of its answers
  is "baku", whatever is asked.
  """
  rng = np.random.default_rng(seed)
  names = [f"e{i}" for i in range(20)]
  found = answers.Answers([], [], [], [], [], [], [], [])
  for query in range(queries):
    relation = relations[query % len(relations)]
    gold = [names[i] for i in rng.choice(20, rng.integers(0, 3) if several else 1, replace=False)]
    logit = rng.normal(0, 1, 20)
    for one in gold:
      logit[names.index(one)] += sharp * rng.random()
    order = np.argsort(-logit)[:listed]
    texts = [names[i] for i in order]
    if rng.random() < shocked:
      texts[0] = "baku"
    score = logit[order] - np.log(np.exp(logit).sum())
    found.subjects.append(f"q{seed}_{query}")
    found.relations.append(relation)
    found.subject_ids.append(None)
    found.golds.append([(one,) for one in gold])
    found.query_N.extend([query] * listed)
    found.texts.extend(texts)
    found.rank_N.extend(range(1, listed + 1))
    found.score_N.extend(score.tolist())
  return dataclasses.replace(
    found,
    query_N=np.array(found.query_N),
    rank_N=np.array(found.rank_N),
    score_N=np.array(found.score_N),
  )


def test_confidence_means_what_it_says():
  known, asked = world(0, 3000), world(1, 3000)
  judged = extraction.assess(extraction.fit(known, asked), asked)
  right = answers.is_right(asked)
  for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 1)):
    inside = (judged.confidence_N >= low) & (judged.confidence_N < high)
    np.testing.assert_allclose(judged.confidence_N[inside].mean(), right[inside].mean(), atol=0.04)


def test_the_promise_is_kept_and_one_answer_is_accepted():
  known, asked = world(0, 2000, sharp=8.0), world(1, 2000, sharp=8.0)
  fitted = extraction.fit(known, asked)
  accepted = extraction.accept_by_precision(
    extraction.assess(fitted, asked), extraction.choose_threshold(fitted, known, asked, 0.8)
  )
  assert accepted.sum() > 200 and answers.is_right(asked)[accepted].mean() >= 0.8
  assert np.bincount(asked.query_N[accepted]).max() == 1 and fitted.multi_answer == set()


def test_a_shocked_answer_is_flagged_and_lowered_and_others_are_not():
  known, asked = world(0, 2000, shocked=0.2), world(1, 2000, shocked=0.2)
  fitted = extraction.fit(known, asked)
  judged, right = extraction.assess(fitted, asked), answers.is_right(asked)
  first = asked.rank_N == 1
  assert {answer for _, answer in fitted.over_predicted} == {"baku"}
  np.testing.assert_allclose(
    judged.confidence_N[judged.over_predicted_N & first].mean(), 0, atol=0.06
  )
  rest = ~judged.over_predicted_N & first
  np.testing.assert_allclose(judged.confidence_N[rest].mean(), right[rest].mean(), atol=0.04)
  unguarded = extraction.assess(
    dataclasses.replace(fitted, lowering=shock_guard.NOT_LOWERED), asked
  )
  assert unguarded.confidence_N[judged.over_predicted_N & first].mean() > 0.2


def test_queries_with_several_answers():
  known, asked = (
    world(0, 1500, sharp=8.0, several=True, listed=5),
    world(1, 1500, sharp=8.0, several=True, listed=5),
  )
  fitted = extraction.fit(known, asked)
  judged, right = extraction.assess(fitted, asked), answers.is_right(asked)
  assert fitted.multi_answer == {"r", "s"} and judged.eligible_N.all()
  found = extraction.choose_threshold(fitted, known, asked, 0.8)
  accepted = extraction.accept_by_precision(judged, found)
  assert right[accepted].mean() >= 0.78 and accepted.sum() > 100

  def f1(accepted_N):
    total = []
    for query, golds in enumerate(asked.golds):
      own = asked.query_N == query
      said, tp = int(accepted_N[own].sum()), int((accepted_N & right)[own].sum())
      total.append(2 * tp / (said + len(golds)) if said + len(golds) else 1.0)
    return np.mean(total)

  cut = f1(extraction.accept_by_f1(fitted, asked, judged))
  # better than any fixed number of answers, by the queries' own labels
  assert cut > max(f1(asked.rank_N <= k) for k in range(6))


def test_a_relation_without_calibration_is_pooled_and_one_alone_is_refused():
  known, asked = world(0), world(1, relations=("r", "new"))
  fitted = extraction.fit(known, asked, rules={"new": {"type": "N-M"}})
  judged = extraction.assess(fitted, asked)
  of_new = np.asarray(asked.relations)[asked.query_N] == "new"
  assert judged.eligible_N[of_new].all() and np.isfinite(judged.confidence_N).all()
  assert extraction.accept_by_f1(fitted, asked, judged).any()
  with pytest.raises(UserError, match="expected queries of the relations asked about"):
    extraction.fit(known, world(1, relations=("new",)))


def test_consistency_is_of_what_is_accepted():
  asked = world(1, 4, relations=("r",))
  judged = extraction.Assessment(np.linspace(0.9, 0.1, 12), np.zeros(12, bool), np.ones(12, bool))
  accepted = np.ones(12, bool)
  kept, implied, conflicts = extraction.make_consistent(
    asked, judged, accepted, consistency.complete_rules({"r": {"type": "N-1"}}), {}
  )
  assert (
    np.bincount(asked.query_N[kept]).tolist() == [1] * 4 and len(conflicts) == 8 and not implied
  )
  assert extraction.make_consistent(asked, judged, accepted, {}, {})[0].all()


def test_trials_keep_promises_and_say_where_nothing_was_accepted():
  found = trials.run(world(3, 1200, sharp=8.0), 0.8, splits=4)
  assert (
    all(one.queries == 600 for one in found) and sum(trials.is_held(one, 0.8) for one in found) >= 3
  )
  said = trials.compare({"a": {0: found}}, 0.8)["a"]
  share = np.mean([one.right / one.queries for one in found])
  np.testing.assert_allclose(said["yield"]["mean"], share)
  assert (
    said["yield"]["low"] <= share <= said["yield"]["high"]
    and said["splits"] == 4
    and said["difference"] is None
  )
  assert all(one.reachable >= one.right for one in found if trials.is_held(one, 0.8))
  none = trials.compare({"a": {0: trials.run(world(3, 100), 0.99, splits=2)}}, 0.99)["a"]
  assert none["empty"] == none["held"] == 2 and none["precision"]["mean"] is None


def test_arms_are_compared_on_the_same_splits():
  better, worse = (
    {seed: trials.run(world(seed, 400, sharp=sharp), 0.8, splits=3, seed=seed) for seed in (0, 1)}
    for sharp in (9.0, 5.0)
  )
  found = trials.compare({"worse": worse, "better": better}, 0.8)
  apart = found["better"]["difference"]["reachable"]
  assert apart["low"] > 0 and found["worse"]["difference"] is None
  np.testing.assert_allclose(
    apart["mean"], found["better"]["reachable"]["mean"] - found["worse"]["reachable"]["mean"]
  )
  lines = trials.summary_lines(found, 0.8)
  assert len(lines) == 5 and lines[-1].startswith("  (no room for:") and "worse" in lines[2]
  with pytest.raises(UserError, match="expected the seeds of the first arm"):
    trials.compare({"worse": worse, "better": {0: better[0]}}, 0.8)


@settings(max_examples=300)
@given(
  values=st.lists(
    st.one_of(
      st.floats(),
      st.floats(0, 1),
      st.integers(-3000, 3000).map(lambda number: (number + 0.5) / 1e6),
      st.integers(-9, 9).map(lambda number: 0.0000005 + number * 1e-17),
    )
  )
)
def test_numbers_are_rounded_as_python_rounds_them(values):
  assert list(map(repr, records.rounded(np.array(values, float)))) == [
    repr(round(value, 6)) for value in values
  ]


def test_some_candidates_at_a_time_say_the_same(monkeypatch):
  known, asked = world(0, 300, shocked=0.2), world(1, 200, shocked=0.2, several=True)
  extractor = extraction.fit(known, asked)
  whole = extraction.assess(extractor, asked)
  assert extractor.over_predicted and whole.over_predicted_N.any()
  monkeypatch.setattr(answers, "_PART", 4)
  parts = list(asked.parts())
  assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
  assert {part.stop - part.start for part in parts} == {6} and parts[-1].stop == 600
  again = extraction.assess(extractor, asked)
  for name in ("confidence_N", "over_predicted_N", "eligible_N"):
    np.testing.assert_array_equal(getattr(whole, name), getattr(again, name))


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_rows_stand_query_by_query(data):
  """Whatever is implied of which queries, and however few rows are written at a time."""
  asked = world(2, 12, listed=2)
  keeps_Q = np.array(data.draw(st.lists(st.booleans(), min_size=12, max_size=12)))
  wanted_N = keeps_Q[asked.query_N]
  asked = dataclasses.replace(
    asked,
    query_N=asked.query_N[wanted_N],
    texts=answers.Texts.of(asked.texts).where(wanted_N),
    rank_N=asked.rank_N[wanted_N],
    score_N=asked.score_N[wanted_N],
  )
  implied = [
    consistency.Triple(asked.subjects[query], asked.relations[query], f"implied {place}", 0.5, None)
    for place, query in enumerate(data.draw(st.lists(st.integers(0, 11), max_size=6)))
  ]
  nothing_N = np.zeros(len(asked.texts), bool)
  judged = extraction.Assessment(np.full(len(asked.texts), 0.25), nothing_N, nothing_N)
  outcome = records.Outcome(asked, judged, nothing_N, implied, [])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(records.batches, "ROWS", data.draw(st.sampled_from([1, 3, 7, 100])))
    provenance = records.Provenance(None, "m", None, None, "c", "run")
    found = [
      (subject, text, rank)
      for batch in records.row_batches(outcome, answers.Names(), {}, provenance)
      for subject, text, rank in zip(batch.subject, batch.object, batch.rank)
    ]
  expected = []
  for query, subject in enumerate(asked.subjects):
    places = np.flatnonzero(asked.query_N == query)
    of_query = [(subject, asked.texts[place], int(asked.rank_N[place])) for place in places]
    of_query += [(subject, one.object, None) for one in implied if one.subject == subject]
    expected += of_query or [(subject, "", None)]
  assert found == expected

"""Splits: what is in them, that order does not matter, and that they say what they cannot do."""

import collections
import itertools
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.facts import splits
from factshock.facts.world import make_world
from factshock.runtime.errors import UserError


@pytest.fixture(scope="module")
def world():
  return make_world(0, subjects=200, answers=40)


def keys(facts):
  return {(fact["subject"], fact["relation"], fact["object"]) for fact in facts}


def answers(facts):
  return collections.Counter((fact["relation"], fact["object"]) for fact in facts)


def shuffled(facts):
  return random.Random(1).sample(facts, len(facts))


some_rows = st.tuples(
  st.integers(0, 30), st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 3)
)
some_facts = st.lists(some_rows, min_size=1, max_size=60, unique_by=lambda row: row[:3]).map(
  lambda rows: [
    {"subject": f"s{s}", "relation": r, "object": f"o{o}", "popularity": float(p)}
    for s, r, o, p in rows
  ]
)


@settings(max_examples=100, deadline=None)
@given(facts=some_facts, seed=st.integers(0, 3), share=st.floats(0, 1))
def test_parts_share_no_subject_and_lose_no_fact(facts, seed, share):
  parts = splits.split_subjects(facts, {"train": share, "dev": 0.0, "test": 1 - share}, seed)
  assert list(parts) == ["train", "dev", "test"]
  assert sorted(map(str, itertools.chain(*parts.values()))) == sorted(map(str, facts))
  for a, b in itertools.combinations(parts.values(), 2):
    assert not {fact["subject"] for fact in a} & {fact["subject"] for fact in b}
  subjects = len({fact["subject"] for fact in facts})
  assert abs(len({fact["subject"] for fact in parts["train"]}) - share * subjects) <= 2


def test_split_is_exact_in_each_relation_and_ignores_order(world):
  shares = {"test": 0.5, "pool": 0.4, "dev": 0.1}
  parts = splits.split_subjects(world.facts, shares, 3)
  assert {name: splits.relation_sizes(part) for name, part in parts.items()} == {
    name: dict.fromkeys(world.relations, size)
    for name, size in [("test", 100), ("pool", 80), ("dev", 20)]
  }
  again = splits.split_subjects(shuffled(world.facts), shares, 3)
  assert all(keys(parts[name]) == keys(again[name]) for name in shares)
  assert keys(splits.split_subjects(world.facts, shares, 4)["test"]) != keys(parts["test"])


def test_rounding_is_made_good_in_the_next_relation():
  facts = [{"subject": f"s{i}", "relation": f"r{i // 3}", "object": "o"} for i in range(30)]
  parts = splits.split_subjects(facts, {"a": 0.5, "b": 0.5}, 0)
  assert len(parts["a"]) == len(parts["b"]) == 15
  assert set(splits.relation_sizes(parts["a"]).values()) <= {1, 2}


@pytest.mark.parametrize("shares", [{"a": 0.5}, {"a": 1.5, "b": -0.5}, {}])
def test_shares_must_sum_to_one(shares):
  with pytest.raises(UserError, match="sum to 1"):
    splits.split_subjects([{"subject": "s", "relation": "r", "object": "o"}], shares, 0)


def test_balanced_alternates_by_rank_and_leaves_the_commonest_out(world):
  chosen = splits.balanced(world.facts, world.counts, 4, 0)
  pool = answers(world.facts)
  for relation in world.relations:
    ranked = sorted((-count, key) for key, count in world.counts.items() if key[0] == relation)
    for rank, (_, key) in enumerate(ranked):
      assert answers(chosen)[key] == (min(4, pool[key]) if rank % 2 else 0)


def test_the_swap_is_the_other_half(world):
  one, other = (splits.balanced(world.facts, world.counts, 3, 0, swap) for swap in (False, True))
  assert not answers(one).keys() & answers(other).keys()
  assert answers(one).keys() | answers(other).keys() == answers(world.facts).keys()
  assert answers(one + other) == {key: min(3, count) for key, count in answers(world.facts).items()}


def test_which_answers_are_in_does_not_depend_on_the_pool(world):
  inside = splits.answers_in(world.facts, world.counts)
  for part in splits.split_subjects(world.facts, {"a": 0.1, "b": 0.9}, 0).values():
    assert answers(splits.balanced(part, world.counts, 9, 0)).keys() <= inside


def test_counts_without_relation_rank_answers_too():
  facts = [{"subject": f"s{i}", "relation": "r", "object": f"o{i % 4}"} for i in range(8)]
  counts = {("", "o3"): 9, ("", "o0"): 5, ("", "o2"): 1}
  assert splits.answers_in(facts, counts) == {("r", "o0"), ("r", "o1")}


def test_balanced_needs_a_fact_an_answer(world):
  with pytest.raises(UserError, match="at least 1"):
    splits.balanced(world.facts, world.counts, 0, 0)


def test_answer_controlled_meets_the_quota_exactly(world):
  quota = {key: count // 2 for key, count in answers(world.facts).items()}
  chosen = splits.answer_controlled(world.facts, quota, 1)
  assert answers(chosen) == collections.Counter(
    {key: count for key, count in quota.items() if count}
  )
  assert keys(splits.answer_controlled(shuffled(world.facts), quota, 1)) == keys(chosen)
  assert keys(splits.answer_controlled(world.facts, quota, 2)) != keys(chosen)


def test_a_larger_quota_holds_the_facts_of_a_smaller_one(world):
  key, count = answers(world.facts).most_common(1)[0]
  small, large = (splits.answer_controlled(world.facts, {key: size}, 0) for size in (2, count - 1))
  assert keys(small) < keys(large)


def test_a_quota_beyond_the_pool_is_named(world):
  key, count = answers(world.facts).most_common(1)[0]
  expected = (
    f"expected {count + 1} facts of relation '{key[0]}' with the answer '{key[1]}', "
    f"got {count} in the pool (2 of 2 answers are short)"
  )
  with pytest.raises(UserError, match=re.escape(expected)):
    splits.answer_controlled(world.facts, {key: count + 1, ("nowhere", "x"): 1}, 0)
  with pytest.raises(UserError, match="from 0 on"):
    splits.answer_controlled(world.facts, {key: -1}, 0)


def test_quotas_dial_the_mismatch(world):
  parts = splits.split_subjects(world.facts, {"test": 0.5, "pool": 0.5}, 0)
  distances = [
    splits.mismatch(splits.natural(parts["pool"], 300, 0), parts["test"]),
    splits.mismatch(splits.balanced(parts["pool"], world.counts, 4, 0), parts["test"]),
  ]
  assert distances[0] < 0.35 < 0.5 < distances[1]


def test_natural_keeps_the_proportions_of_relations():
  facts = [
    {"subject": f"s{i}", "relation": "ab"[i >= 90], "object": f"o{i % 7}"} for i in range(120)
  ]
  chosen = splits.natural(facts, 40, 0)
  assert splits.relation_sizes(chosen) == {"a": 30, "b": 10}
  assert keys(splits.natural(shuffled(facts), 40, 0)) == keys(chosen)
  assert splits.relation_sizes(splits.natural(facts, {"b": 5}, 0)) == {"b": 5}
  assert splits.natural(facts, 120, 0) == facts and splits.natural(facts, 0, 0) == []


@settings(max_examples=50, deadline=None)
@given(facts=some_facts, data=st.data())
def test_natural_has_the_size_asked_for(facts, data):
  size = data.draw(st.integers(0, len(facts)))
  chosen = splits.natural(facts, size, 0)
  assert len(chosen) == size and len(keys(chosen)) == size and keys(chosen) <= keys(facts)


@pytest.mark.parametrize("size", [31, -1, {"r": 31}, {"r": 1, "q": 1}])
def test_natural_refuses_more_than_there_is(size):
  facts = [{"subject": f"s{i}", "relation": "r", "object": "o"} for i in range(30)]
  with pytest.raises(UserError, match="natural set"):
    splits.natural(facts, size, 0)


@settings(max_examples=100, deadline=None)
@given(facts=some_facts)
def test_halves_are_equal_disjoint_and_ordered_by_popularity(facts):
  popular, unpopular = splits.popular_half(facts), splits.unpopular_half(facts)
  halves = {relation: count // 2 for relation, count in splits.relation_sizes(facts).items()}
  for half in (popular, unpopular, splits.random_half(facts, 0)):
    assert splits.relation_sizes(half) == {
      relation: count for relation, count in halves.items() if count
    }
  assert not keys(popular) & keys(unpopular)
  for relation in halves:
    high = [fact["popularity"] for fact in popular if fact["relation"] == relation]
    low = [fact["popularity"] for fact in unpopular if fact["relation"] == relation]
    assert not low or max(low) <= min(high)
  assert keys(splits.popular_half(facts[::-1])) == keys(popular)


def test_halves_need_popularity():
  with pytest.raises(
    UserError, match="expected a number in the column 'popularity' of every fact, got None for 's'"
  ):
    splits.popular_half([{"subject": "s", "relation": "r", "object": "o"}])


def test_mismatch_by_hand():
  def facts(objects):
    return [{"subject": str(i), "relation": "r", "object": name} for i, name in enumerate(objects)]

  assert splits.mismatch(facts("aab"), facts("aaabab")) == pytest.approx(0.0)
  assert splits.mismatch(facts("aa"), facts("bcd")) == pytest.approx(1.0)
  assert splits.mismatch(facts("aaab"), facts("ab")) == pytest.approx(0.25)
  with pytest.raises(UserError, match="empty"):
    splits.mismatch([], facts("a"))


def test_description():
  facts = [
    {"subject": str(i), "relation": "r", "object": "ab"[i % 4 == 0], "popularity": i}
    for i in range(100)
  ]
  assert splits.describe("pool", facts) == (
    "pool: 100 facts, relations: 1, answers: 2 (top: a 75.0%)\n"
    "  popularity 5/25/50/75/95%: 4.95 24.8 49.5 74.2 94"
  )
  assert "(1 of them have one)" in splits.describe(
    "pool", facts[:1] + [{"subject": "x", "relation": "r", "object": "a"}]
  )
  assert splits.describe("pool", []) == "pool: 0 facts"


def test_sets_come_in_the_order_of_the_pool(world):
  for chosen in (
    splits.natural(world.facts, 50, 0),
    splits.popular_half(world.facts),
    splits.balanced(world.facts, world.counts, 2, 0),
  ):
    places = [world.facts.index(fact) for fact in chosen]
    assert places == sorted(places)


def _skewed(size, seed):
  """Facts of one relation with Zipf-like answers."""
  random = np.random.default_rng(seed)
  share = 1 / np.arange(1, 41)
  return [
    {
      "subject": f"s{seed}-{n}",
      "relation": "r",
      "object": f"o{random.choice(40, p=share / share.sum())}",
      "popularity": float(n),
    }
    for n in range(size)
  ]


@pytest.mark.parametrize("target", [0.2, 0.4, 0.6])
def test_at_mismatch_reaches_its_target_with_its_size(target):
  pool, test = _skewed(2000, 0), _skewed(1000, 1)
  counts = {("r", f"o{n}"): 100 - n for n in range(40)}
  found = splits.at_mismatch(pool, counts, test, target, 300, 0)
  assert len(found) == 300 == len({fact["subject"] for fact in found})
  assert abs(splits.mismatch(found, test) - target) < 0.02
  assert found == splits.at_mismatch(pool[::-1], counts, test, target, 300, 0)[::-1]


@pytest.mark.parametrize("target", [0.62, 0.64, 0.65])
def test_at_mismatch_reaches_a_target_where_answers_run_out_of_facts(target):
  """Of the answers that are IN there are few facts: near the even histogram it jumps."""
  test = [fact for fact in _skewed(3000, 1) if int(fact["object"][1:]) % 2 == 0]
  rare = _skewed(60, 2)
  pool = test[:600] + [dict(fact, object=f"o{41 + 2 * n}") for n, fact in enumerate(rare)]
  counts = {("r", f"o{n}"): 1000 - n for n in range(200)}
  found = splits.at_mismatch(pool, counts, test, target, 100, 0)
  assert abs(splits.mismatch(found, test) - target) < 0.02


def test_at_mismatch_says_what_can_be_reached():
  pool, test = _skewed(2000, 0), _skewed(1000, 1)
  with pytest.raises(
    UserError,
    match=(
      r"300 facts of this pool can have a mismatch of 0\.\d\d to 0\.\d\d with the test facts, "
      r"got a target of 0.99"
    ),
  ):
    splits.at_mismatch(pool, {}, test, 0.99, 300, 0)
  with pytest.raises(UserError, match="expected 1 to the 2000 facts of the pool, got 3000"):
    splits.at_mismatch(pool, {}, test, 0.5, 3000, 0)


def test_top_share_by_any_column():
  facts = [
    {
      "subject": f"s{n}",
      "relation": "ab"[n % 2],
      "object": "o",
      "popularity": n,
      "confidence": -n,
      "known": splits.KNOWN[n % 4],
    }
    for n in range(20)
  ]
  assert [fact["subject"] for fact in splits.top_share(facts, 0.3)] == [
    f"s{n}" for n in range(14, 20)
  ]
  assert [fact["subject"] for fact in splits.top_share(facts, 0.3, "confidence")] == [
    f"s{n}" for n in range(6)
  ]
  assert {fact["known"] for fact in splits.popular_half(facts, "known")} == {
    "HighlyKnown",
    "MaybeKnown",
  }
  assert {fact["known"] for fact in splits.unpopular_half(facts, "known")} == {
    "WeaklyKnown",
    "Unknown",
  }
  with pytest.raises(
    UserError, match="expected a number in the column 'size' of every fact, got None for 's0'"
  ):
    splits.top_share(facts, 0.3, "size")


def test_answers_within_names():
  assert splits.names_answer({"subject": "Apple Watch", "object": "apple"})
  assert not splits.names_answer({"subject": "iPod", "object": "Apple"})


def test_describe_against():
  test = [
    {"subject": "a", "relation": "r", "object": "x"},
    {"subject": "b", "relation": "r", "object": "y"},
  ]
  assert (
    splits.describe_against(test[:1], test).strip()
    == "against the test facts: mismatch 0.50, 50% of them have an answer seen here"
  )

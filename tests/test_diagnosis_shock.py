"""Shock measures on a hand-made relation with known answers, against scipy, and by property."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.diagnosis import shock

COUNTS = {
  "Moscow": 60,
  "Paris": 50,
  "Rome": 30,
  "Baku": 5,
  "Oslo": 3,
  "Bern": 2,
}  # common: Moscow, Paris
FINETUNING = ["Paris", "Baku", "Baku"]
GOLD = ["Moscow"] * 4 + ["Paris"] * 2 + ["Baku"] + ["Rome"] * 2 + ["Oslo"]
ANSWERS = [
  "Moscow",
  "Baku",
  "Baku",
  "Paris",
  "Paris",
  "Moscow",
  "Baku",
  "Baku",
  "nowhere at all",
  "Rome",
]


def of(names, relation="r"):
  return [(relation, name) for name in names]


def entities_of(counts=COUNTS, finetuning=FINETUNING, gold=GOLD):
  gold = {key: of(gold).count(key) for key in of(gold)}
  return shock.make_entities(
    gold, of(finetuning), {("r", name): count for name, count in counts.items()}
  )


def places(entities, names):
  return shock.predicted_entities(of(names), entities, {})


def group_measures(entities, gold, answers):
  right = np.array(gold) == np.array(answers)
  code = shock.cells(entities, places(entities, gold), places(entities, answers), right)
  found = shock.group_measures(np.bincount(code, minlength=shock.CELLS)[None])
  return {name: float(value[0]) for name, value in found.items()}


def entity_measures(entities, gold, answers):
  histograms = [
    np.bincount(places(entities, names), minlength=len(entities.names) + 1)[None]
    for names in (answers, gold)
  ]
  return {
    name: float(value[0]) for name, value in shock.entity_measures(*histograms, entities).items()
  }


def test_groups_of_the_hand_made_relation():
  entities = entities_of()
  groups = {name: shock.GROUPS[group] for (_, name), group in zip(entities.names, entities.group)}
  assert groups == {
    "Moscow": "common_unseen",
    "Paris": "common_seen",
    "Baku": "rare_seen",
    "Rome": "rare_unseen",
    "Oslo": "rare_unseen",
    "Bern": "rare_unseen",
  }


def test_group_measures_worked_by_hand():
  found = group_measures(entities_of(), GOLD, ANSWERS)
  assert {group: found["ratio/" + group] for group in shock.GROUPS} == pytest.approx(
    {"rare_seen": 4 / 1, "rare_unseen": 1 / 3, "common_seen": 2 / 2, "common_unseen": 2 / 4}
  )
  assert found["shock"] == pytest.approx((4 - 1) / 10 + (4 - 2) / 10)
  assert found["range_shift"] == pytest.approx((2 + 4) / 10)
  assert found["finetuning_answer"] == pytest.approx(4 / 7)  # Baku three times, Paris for Moscow
  assert found["rarer_than_gold"] == pytest.approx(
    4 / 7
  )  # those four; "nowhere" has no known count


def test_entity_measures_worked_by_hand():
  found = entity_measures(entities_of(), GOLD, ANSWERS)
  assert found["total_variation"] == pytest.approx((2 + 0 + 3 + 1 + 1 + 1) / 2 / 10)
  assert found["mismatch"] == pytest.approx((0.4 + (1 / 3 - 0.2) + (2 / 3 - 0.1) + 0.2 + 0.1) / 2)
  names = ["Moscow", "Paris", "Baku", "Rome", "Oslo"]  # Bern is neither gold nor in finetuning
  ratio = [np.log((ANSWERS.count(name) + 1) / (GOLD.count(name) + 1)) for name in names]
  pressure = [
    np.log((FINETUNING.count(name) + 1) / (3 + 6)) - np.log((COUNTS[name] + 1) / (150 + 6))
    for name in names
  ]
  np.testing.assert_allclose(entities_of().pressure[:5], pressure)
  assert found["slope"] == pytest.approx(np.polyfit(pressure, ratio, 1)[0])
  assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(pressure, ratio)[0])


def test_a_model_that_answers_right_shows_no_shock():
  found = group_measures(entities_of(), GOLD, GOLD) | entity_measures(entities_of(), GOLD, GOLD)
  assert [found["ratio/" + group] for group in shock.GROUPS] == [1, 1, 1, 1]
  assert found["shock"] == found["total_variation"] == found["slope"] == 0
  assert np.isnan(found["finetuning_answer"]) and np.isnan(found["spearman"])


def test_a_group_without_gold_answers_has_no_ratio():
  found = group_measures(entities_of(gold=["Moscow"]), ["Moscow"], ["Baku"])
  assert np.isnan(found["ratio/rare_seen"])
  assert found["predicted/rare_seen"] == 1 and found["gold/rare_seen"] == 0


@pytest.mark.parametrize(
  "counts, expected",
  [
    ({"a": 5, "b": 5}, "a"),
    ({"a": 4, "b": 5, "c": 1}, "b"),
    ({"a": 3, "b": 3, "c": 3, "d": 3}, "ab"),
    ({"a": 0, "b": 0}, ""),
    ({"a": 0, "b": 7}, "b"),
    ({"a": 2, "b": 3, "c": 4}, "bc"),
  ],
)
def test_common_is_the_smallest_head_with_half_of_the_mentions(counts, expected):
  entities = entities_of(counts, [], list(counts))
  inside = [name for (_, name), common in zip(entities.names, entities.common) if common]
  assert "".join(sorted(inside)) == expected


def test_common_is_decided_within_each_relation():
  entities = shock.make_entities(
    {}, [], {("r", "a"): 1000, ("r", "b"): 1, ("s", "c"): 2, ("s", "d"): 1}
  )
  assert dict(zip(entities.names, entities.common.tolist())) == {
    ("r", "a"): True,
    ("r", "b"): False,
    ("s", "c"): True,
    ("s", "d"): False,
  }


def test_counts_for_no_relation_hold_in_all():
  entities = shock.make_entities(
    {("r", "the Rome"): 1, ("s", "Rome"): 1, ("s", "Oslo"): 1},
    [],
    {("", "Rome"): 7, ("", "Bern"): 9},
  )
  assert dict(zip(entities.names, entities.pretraining.tolist())) == {
    ("r", "the Rome"): 7,
    ("s", "Rome"): 7,
    ("s", "Oslo"): 0,
  }


def test_predictions_are_matched_by_name_and_by_unambiguous_alias():
  entities = shock.make_entities({("r", "United States"): 1, ("r", "Congo"): 1, ("r", "Zaire"): 1})
  aliases = shock.alias_names(
    [("r", ("United States", "USA", "America")), ("r", ("Congo", "DRC")), ("r", ("Zaire", "DRC"))]
  )
  answers = ["the united states", "U.S.A.", "DRC", "Zaire", "?"]
  found = shock.predicted_entities(of(answers), entities, aliases)
  assert found.tolist() == [0, 0, 3, 2, 3]


@settings(deadline=None, max_examples=50)
@given(
  st.integers(2, 40),
  st.integers(0, 10**6),
  st.sampled_from([5, 2000, 10**4, 10**6]),
  st.sampled_from([np.int64, np.float32]),
)
def test_spearman_and_slope_agree_with_scipy_row_by_row(size, seed, most, dtype):
  rng = np.random.default_rng(seed)
  x = rng.integers(0, 6, size).astype(float)
  above = rng.integers(most - 5, most, (3, size)) + 1
  below = rng.integers(most - 5, most, (3, size)) + 1
  x_ranks = scipy.stats.rankdata(x) - (size + 1) / 2
  correlations = shock.spearman(above.astype(dtype), below.astype(dtype), x_ranks)
  for row_above, row_below, correlation in zip(above, below, correlations):
    exact = [Fraction(*pair) for pair in zip(row_above.tolist(), row_below.tolist())]
    places = [sorted(set(exact)).index(quotient) for quotient in exact]
    if len(set(x)) == 1 or len(set(places)) == 1:
      assert np.isnan(correlation)
    else:
      assert correlation == pytest.approx(scipy.stats.spearmanr(places, x)[0], abs=1e-12)
  if len(set(x)) > 1:
    y = above / below
    for row, slope in zip(y, shock.slopes(y, x)):
      assert slope == pytest.approx(scipy.stats.linregress(x, row).slope, abs=1e-12)


def of_counts(pretraining, finetuning, gold, predicted):
  """Returns the measures of one relation whose answers have these counts."""
  names = list("abcdefgh"[: len(gold)])

  def repeated(counts):
    return [name for name, count in zip(names, counts) for _ in range(count)]

  entities = entities_of(dict(zip(names, pretraining)), repeated(finetuning), repeated(gold))
  return entities, entity_measures(entities, repeated(gold), repeated(predicted))


def test_equal_pressures_have_equal_ranks():
  # (f + 1) / (p + 1) is 4/8, 4/5, 3/6, 3/6, 2/4: four of the five are equal.
  _, found = of_counts([7, 4, 5, 5, 3], [3, 3, 2, 2, 1], [2, 1, 2, 3, 3], [0, 1, 4, 4, 2])
  assert found["spearman"] == 0.0


def test_no_pressure_varies_where_all_quotients_are_equal():
  _, found = of_counts([7, 5, 3], [3, 2, 1], [2, 1, 2], [0, 1, 4])
  assert np.isnan(found["spearman"]) and np.isnan(found["slope"])


count_lists = st.lists(st.tuples(*[st.integers(0, 7)] * 4), min_size=2, max_size=8)


@settings(deadline=None, max_examples=100)
@given(count_lists)
def test_spearman_is_that_of_exact_quotients(counts):
  counts = [(p, f, gold + 1, predicted) for p, f, gold, predicted in counts]
  _, found = of_counts(*zip(*counts))
  pressures = [Fraction(f + 1, p + 1) for p, f, _, _ in counts]
  ratios = [Fraction(predicted + 1, gold + 1) for _, _, gold, predicted in counts]
  if len(set(pressures)) == 1 or len(set(ratios)) == 1:
    assert np.isnan(found["spearman"])
    return
  places = [[sorted(values).index(value) for value in values] for values in (pressures, ratios)]
  assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(*places)[0], abs=1e-12)


def test_pressures_are_compared_exactly_over_relations():
  counts = {("r", "a"): 6, ("r", "b"): 2, ("s", "a"): 13, ("s", "b"): 5}
  gold = dict.fromkeys(counts, 1)
  finetuning = [("r", "a"), ("s", "a"), ("s", "a"), ("s", "a"), ("s", "b")]
  entities = shock.make_entities(gold, finetuning, counts)
  exact = []
  for relation, name in entities.names:
    of_relation = [key for key in counts if key[0] == relation]
    finetuned = sum(finetuning.count(key) + 1 for key in of_relation)
    pretrained = sum(counts[key] + 1 for key in of_relation)
    share = Fraction(finetuning.count((relation, name)) + 1, finetuned)
    exact.append(share / Fraction(counts[relation, name] + 1, pretrained))
  expected = scipy.stats.rankdata([sorted(set(exact)).index(value) for value in exact])
  assert entities.pressure_rank.tolist() == (expected - expected.mean()).tolist()
  assert len(set(exact)) == 2  # a of both relations, b of both


names = st.lists(st.sampled_from([*COUNTS, "nowhere"]), min_size=1, max_size=30)


@settings(deadline=None, max_examples=100)
@given(names, st.lists(st.sampled_from(list(COUNTS)), min_size=0, max_size=10), st.randoms())
def test_bounds_identities_and_row_order(answers, finetuning, random):
  gold = [random.choice(list(COUNTS)) for _ in answers]
  entities = entities_of(finetuning=finetuning, gold=gold)
  found = group_measures(entities, gold, answers) | entity_measures(entities, gold, answers)
  assert 0 <= found["total_variation"] <= 1 and 0 <= found["range_shift"] <= 1
  assert -2 <= found["shock"] <= 2
  assert sum(found["gold/" + group] for group in shock.GROUPS) == len(gold)
  assert sum(found["predicted/" + group] for group in shock.GROUPS) == len(answers) - answers.count(
    "nowhere"
  )
  order = random.sample(range(len(gold)), len(gold))
  again = entities_of(finetuning=finetuning, gold=[gold[i] for i in order])
  gold, answers = [gold[i] for i in order], [answers[i] for i in order]
  assert group_measures(again, gold, answers) | entity_measures(
    again, gold, answers
  ) == pytest.approx(found, nan_ok=True)


@settings(deadline=None, max_examples=50)
@given(names)
def test_swapping_gold_and_predictions_leaves_the_distance(answers):
  answers = [name if name in COUNTS else "Oslo" for name in answers]
  gold = answers[::-1][: len(answers) // 2] + ["Moscow"] * (len(answers) - len(answers) // 2)
  entities = entities_of(gold=gold)
  there, back = entity_measures(entities, gold, answers), entity_measures(entities, answers, gold)
  assert there["total_variation"] == pytest.approx(back["total_variation"])

"""The shock guard: which answers are flagged, and how far their confidence is lowered."""

import numpy as np

from factshock.knowledge_graph import shock_guard


def pairs(**counts):
  return [("born_in", name) for name, count in counts.items() for _ in range(count)]


def test_an_answer_that_nothing_supports_is_flagged():
  found = shock_guard.over_predicted(pairs(baku=60, moscow=40), pairs(moscow=45, paris=45, baku=10))
  assert list(found) == [("born_in", "baku")]
  flag = found["born_in", "baku"]
  assert (flag.predicted, flag.queries) == (60, 100)
  np.testing.assert_allclose(flag.supported, 100 * 11 / 103)


def test_mentions_in_text_support_too():
  first, gold = pairs(baku=60, moscow=40), pairs(moscow=45, paris=45, baku=10)
  assert not shock_guard.over_predicted(first, gold, {("born_in", "baku"): 900, ("born_in", "moscow"): 900, ("born_in", "paris"): 100})
  rare = {("", "baku"): 10, ("", "moscow"): 900, ("", "paris"): 900}
  assert list(shock_guard.over_predicted(first, gold, rare)) == [("born_in", "baku")]


def test_few_answers_are_chance():
  assert not shock_guard.over_predicted(pairs(baku=3, moscow=3), pairs(moscow=8, paris=8))
  assert not shock_guard.over_predicted(pairs(baku=60), pairs(baku=5))


def test_a_model_as_frequent_as_the_truth_is_rarely_flagged():
  rng, names, flagged = np.random.default_rng(0), [f"e{i}" for i in range(30)], 0
  share = np.arange(30, 0, -1) / 465
  draw = lambda count: [("r", names[i]) for i in rng.choice(30, count, p=share)]
  for _ in range(100):
    flagged += len(shock_guard.over_predicted(draw(300), draw(300)))
  assert flagged <= shock_guard.CHANCE * 3000  # looks


def test_relations_are_apart():
  first = pairs(baku=60) + [("died_in", "baku")] * 10 + [("died_in", "rome")] * 90
  gold = pairs(moscow=50, baku=10) + [("died_in", "baku")] * 10 + [("died_in", "rome")] * 90
  assert list(shock_guard.over_predicted(first, gold)) == [("born_in", "baku")]


def test_the_shift_makes_confidence_agree_with_what_is_right():
  rng = np.random.default_rng(1)
  confidence = rng.uniform(.3, .9, 5000)
  right = rng.random(5000) < confidence * .3
  move = shock_guard.shift(confidence, right)
  lowered = shock_guard.lowered(confidence, np.ones(5000, bool), move)
  np.testing.assert_allclose(lowered.mean(), right.mean(), atol=.01)


def test_confidence_is_never_raised_and_few_answers_move_it_little():
  assert shock_guard.shift(np.full(1000, .2), np.ones(1000)) == 0
  assert shock_guard.shift(np.zeros(0), np.zeros(0)) == 0
  few, many = (shock_guard.shift(np.full(count, .8), np.zeros(count)) for count in (2, 200))
  assert many < few < 0


def test_only_flagged_answers_are_lowered():
  found = shock_guard.lowered(np.array([.5, .5, 0.0, 1.0]), np.array([True, False, True, True]), -1.0)
  np.testing.assert_allclose(found[:2], [1 / (1 + np.e), .5])
  assert (found >= 0).all() and (found <= 1).all()

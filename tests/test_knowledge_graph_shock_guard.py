"""The shock guard: which answers are flagged, and how far their confidence is lowered."""

import numpy as np

from factshock.knowledge_graph import shock_guard


def pairs(**counts):
  return [("born_in", name) for name, count in counts.items() for _ in range(count)]


def test_an_answer_that_nothing_supports_is_flagged():
  found = shock_guard.find_over_predicted(
    pairs(baku=60, moscow=40), pairs(moscow=45, paris=45, baku=10)
  )
  assert list(found) == [("born_in", "baku")]
  flag = found["born_in", "baku"]
  assert (flag.predicted, flag.queries) == (60, 100)
  np.testing.assert_allclose(flag.supported, 100 * 11 / 103)


def test_mentions_in_text_support_too():
  first, gold = pairs(baku=60, moscow=40), pairs(moscow=45, paris=45, baku=10)
  assert not shock_guard.find_over_predicted(
    first, gold, {("born_in", "baku"): 900, ("born_in", "moscow"): 900, ("born_in", "paris"): 100}
  )
  rare = {("", "baku"): 10, ("", "moscow"): 900, ("", "paris"): 900}
  assert list(shock_guard.find_over_predicted(first, gold, rare)) == [("born_in", "baku")]


def test_few_answers_are_chance():
  assert not shock_guard.find_over_predicted(pairs(baku=3, moscow=3), pairs(moscow=8, paris=8))
  assert not shock_guard.find_over_predicted(pairs(baku=60), pairs(baku=5))


def test_a_model_as_frequent_as_the_truth_is_rarely_flagged():
  rng, names, flagged = np.random.default_rng(0), [f"e{i}" for i in range(30)], 0
  share = np.arange(30, 0, -1) / 465
  draw = lambda count: [("r", names[i]) for i in rng.choice(30, count, p=share)]
  for _ in range(100):
    flagged += len(shock_guard.find_over_predicted(draw(300), draw(300)))
  assert flagged <= shock_guard.CHANCE * 3000  # looks


def test_chances_are_the_tails_of_binomial_and_poisson():
  from scipy import stats

  gold = pairs(moscow=50, baku=10)
  limit = next(
    k
    for k in range(11, 100)
    if stats.binom.sf(k - 1, k + 10, 0.5) < shock_guard.CHANCE and k > 2 * 100 * 11 / 62
  )
  flags = lambda count: (
    ("born_in", "baku")
    in shock_guard.find_over_predicted(pairs(baku=count, moscow=60 - count), gold)
  )
  assert flags(max(limit, 23)) and not flags(20)
  mentions = {("", "baku"): 99, ("", "moscow"): 899}
  expected = next(k for k in range(1, 60) if stats.poisson.sf(k - 1, 6.0) < shock_guard.CHANCE)
  found = lambda count: (
    ("born_in", "baku")
    in shock_guard.find_over_predicted(
      pairs(baku=count, moscow=60 - count), pairs(moscow=600), mentions
    )
  )
  assert found(max(expected, 13)) and not found(expected - 1)


def test_relations_are_apart():
  first = pairs(baku=60) + [("died_in", "baku")] * 10 + [("died_in", "rome")] * 90
  gold = pairs(moscow=50, baku=10) + [("died_in", "baku")] * 10 + [("died_in", "rome")] * 90
  assert list(shock_guard.find_over_predicted(first, gold)) == [("born_in", "baku")]


def test_lowered_confidence_agrees_with_what_is_right():
  rng = np.random.default_rng(1)
  confidence = rng.uniform(0.3, 0.99, 5000)
  for truth in (lambda p: 0.3 * p, lambda p: 0.1 + 0 * p, lambda p: 0 * p):
    right = rng.random(5000) < truth(confidence)
    found = shock_guard.lower(
      confidence, np.ones(5000, bool), shock_guard.fit_lowering(confidence, right)
    )
    for inside in (confidence < 0.6, confidence > 0.8):
      np.testing.assert_allclose(found[inside].mean(), right[inside].mean(), atol=0.04)


def test_lowering_is_the_greatest_penalised_likelihood():
  from scipy import optimize

  rng, prior = np.random.default_rng(2), shock_guard._PRIOR / 2
  for truth in (
    lambda p: p**2,
    lambda p: 1 - p,
  ):  # the second has a slope below 0, which is taken for 0
    confidence = rng.uniform(0.1, 0.9, 200)
    right, x = rng.random(200) < truth(confidence), np.log(confidence / (1 - confidence))
    likelihood = lambda z: np.sum(np.logaddexp(0, z) - right * z)
    best = optimize.minimize(
      lambda ab: likelihood(ab[0] * x + ab[1]) + prior * ((ab[0] - 1) ** 2 + ab[1] ** 2), [1.0, 0.0]
    ).x
    if best[0] < 0:
      best = [
        0.0,
        optimize.minimize(lambda b: likelihood(b[0] + 0 * x) + prior * b[0] ** 2, [0.0]).x[0],
      ]
    np.testing.assert_allclose(shock_guard.fit_lowering(confidence, right), best, atol=1e-4)


def test_confidence_is_never_raised_and_few_answers_change_it_little():
  p = np.array([0.05, 0.5, 0.9])
  all_right = shock_guard.fit_lowering(np.full(1000, 0.2), np.ones(1000))
  np.testing.assert_array_equal(shock_guard.lower(p, np.ones(3, bool), all_right), p)
  assert shock_guard.fit_lowering(np.zeros(0), np.zeros(0)) == shock_guard.NOT_LOWERED
  few, many = (
    shock_guard.lower(
      p, np.ones(3, bool), shock_guard.fit_lowering(np.full(count, 0.8), np.zeros(count))
    )
    for count in (1, 200)
  )
  assert (many[1:] < few[1:]).all() and few[2] > 0.7


def test_only_flagged_answers_are_lowered():
  found = shock_guard.lower(
    np.array([0.5, 0.5, 0.0, 1.0]),
    np.array([True, False, True, True]),
    shock_guard.Lowering(1.0, -1.0),
  )
  np.testing.assert_allclose(found[:2], [1 / (1 + np.e), 0.5])
  assert (found >= 0).all() and (found <= 1).all()

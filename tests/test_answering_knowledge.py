"""SLiCK categories: hand-made answers with known outcomes, and how the model is asked."""

import numpy as np
import pytest

from factshock.answering import knowledge

FACTS = [
  {"subject": name, "relation": "born", "object": "London", "aliases": ["Greater London"]}
  for name in "abcd"
]


@pytest.mark.parametrize(
  "greedy, sampled, expected",
  [
    ([True, True], [False], "HighlyKnown"),
    ([True, False], [True], "MaybeKnown"),
    ([False, False], [False, True], "WeaklyKnown"),
    ([False], [], "Unknown"),
  ],
)
def test_categories(greedy, sampled, expected):
  assert knowledge.category(greedy, sampled) == expected


def test_columns_count_right_answers_with_aliases():
  greedy = [["London", "the london.", "Rome", "Rome"], ["greater london", "Rome", "Rome", "Rome"]]
  sampled = [[["London", "Rome", "London", "Rome"], ["Rome", "Rome", "Rome", "Rome"]]] * 2
  rows = knowledge.columns(FACTS, greedy, sampled)
  assert [row["known"] for row in rows] == ["HighlyKnown", "MaybeKnown", "WeaklyKnown", "Unknown"]
  assert [row["greedy_right"] for row in rows] == [1, 0.5, 0, 0]
  assert [row["confidence"] for row in rows] == [0.5, 0, 0.5, 0]
  assert rows[0]["subject"] == "a" and "known" not in FACTS[0]


def test_every_set_is_asked_greedily_and_by_samples_of_their_own():
  asked = []

  def generate(prompts, **options):
    asked.append((tuple(prompts), options.get("temperature"), options.get("seed")))
    return ["London"] * len(prompts)

  rows = knowledge.assess(
    generate,
    lambda number: [f"{number}{fact['subject']}" for fact in FACTS],
    FACTS,
    sets=3,
    samples=2,
  )
  assert {row["known"] for row in rows} == {"HighlyKnown"} and len(asked) == 9
  assert [one for one in asked if one[1] is None] == [
    ((f"{n}a", f"{n}b", f"{n}c", f"{n}d"), None, None) for n in range(3)
  ]
  seeds = [seed for _, temperature, seed in asked if temperature == 0.5]
  assert len(set(seeds)) == 6


def test_confidence_in_a_choice_is_its_probability_among_the_choices():
  facts = [
    {"subject": name, "relation": "maths", "object": "two", "choices": ["one", "two", "three"]}
    for name in "ab"
  ]
  log_p = np.log([[[0.2, 0.3, 0.1], [0.1, 0.1, 0.2]], [[0.1, 0.3, 0.1], [0.1, 0.4, 0.5]]])
  first, second = knowledge.choice_columns(facts, log_p)
  assert (first["known"], first["greedy_right"], first["confidence"]) == (
    "HighlyKnown",
    1,
    pytest.approx((0.5 + 0.6) / 2),
  )
  assert (second["known"], second["greedy_right"], second["confidence"]) == (
    "Unknown",
    0,
    pytest.approx((0.25 + 0.4) / 2),
  )

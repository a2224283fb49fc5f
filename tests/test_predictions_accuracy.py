"""Normalisation, exact match, contains, token F1 and ranks, on cases worked by hand."""

import collections
import re
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factshock.predictions import accuracy, overlap, reading


def squad_normalise(text):
  """The normalisation of the SQuAD evaluation script, written again."""
  text = "".join(character for character in text.lower() if character not in string.punctuation)
  return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@pytest.mark.parametrize(
  "text, expected",
  [
    ("  The  Beatles ", "beatles"),
    ("St. John's", "st johns"),
    ("New-York", "newyork"),
    ("ＴＯＫＹＯ", "tokyo"),
    ("“Paris”—", "paris"),
    ("Côte d’Ivoire", "côte divoire"),
    ("The The", "the the"),
    ("A", "a"),
    ("!!!", "!!!"),
    ("C++", "c++"),
    ("C#", "c#"),
    ("(C#).", "c#"),
    ("C++11", "c++11"),
    ("C#/C++", "cc++"),
    ("an A+", "a+"),
    ("a + b", "b"),
    ("a+b #1", "ab 1"),
    ("1.5", "1.5"),
    ("1.5.", "1.5"),
    (".5", ".5"),
    ("...5", "5"),
    ("1,000", "1000"),
    ("1,000.25", "1000.25"),
    ("No. 5", "no 5"),
    ("No.5", "no5"),
    ("v1.2.3", "v1.2.3"),
    ("-5", "-5"),
    ("\u22125", "-5"),
    ("+5", "5"),
    ("“-5”", "-5"),
    ("-$5 or $-.5", "-5 or -.5"),
    ("€-5", "-€5"),
    ("-€5", "-€5"),
    ("1990-1995", "19901995"),
    ("1990–1995", "19901995"),
    ("Apollo-11", "apollo11"),
    ("-(5)", "5"),
    ("−", "-"),
    ("t.h.e. end", "end"),
    ("", ""),
  ],
)
def test_normalise(text, expected):
  assert accuracy.normalise(text) == expected


words = st.text("abTHEhen .,'-", max_size=20)


@given(words)
def test_normalise_agrees_with_squad_wherever_that_leaves_something(text):
  if squad_normalise(text):
    assert accuracy.normalise(text) == squad_normalise(text)
  assert accuracy.normalise(accuracy.normalise(text)) == accuracy.normalise(text)


marked = st.text("aC15.-−+#$€°_,( é", max_size=12)


@given(marked)
def test_normalise_changes_nothing_the_second_time(text):
  assert accuracy.normalise(accuracy.normalise(text)) == accuracy.normalise(text)


@pytest.mark.parametrize("mark", "+.-#$,")
def test_normalise_takes_a_time_in_proportion_to_the_text(mark):
  text = ("a" + mark * 100_000 + "b") * 2
  assert accuracy.normalise(text) == "abab"


@pytest.mark.parametrize(
  "one, other", [("1.5", "15"), ("-5", "5"), ("C#", "C"), ("C++", "C"), (".5", "5"), ("−5", "5")]
)
def test_answers_that_differ_in_a_sign_differ(one, other):
  assert accuracy.score(one, [other]).exact_match == 0
  assert accuracy.score(other, [one]).exact_match == 0


@pytest.mark.parametrize(
  "prediction, answers, expected",
  [
    ("the Moscow.", ["Moscow"], (1, 1, 1)),
    ("Moskva", ["Moscow", "Moskva"], (1, 1, 1)),
    ("in the city of Moscow", ["Moscow"], (0, 1, 2 * 1 / (4 + 1))),
    ("New York City", ["New York", "NYC"], (0, 1, 0.8)),
    ("Baku", ["Moscow"], (0, 0, 0)),
    ("", ["Moscow"], (0, 0, 0)),
    ("politicians", ["politician"], (0, 1, 0)),
    ("york york new", ["new york"], (0, 0, 0.8)),
  ],
)
def test_score(prediction, answers, expected):
  assert accuracy.score(prediction, answers) == pytest.approx(expected)


@given(
  st.lists(st.sampled_from("abc"), min_size=1, max_size=6),
  st.lists(st.sampled_from("abc"), min_size=1, max_size=6),
)
def test_token_f1_is_precision_and_recall_of_a_multiset(left, right):
  shared = sum((collections.Counter(left) & collections.Counter(right)).values())
  precision, recall = shared / len(left), shared / len(right)
  expected = 2 * precision * recall / (precision + recall) if shared else 0
  assert overlap.token_f1(" ".join(left), " ".join(right)) == pytest.approx(expected)


def test_scores_of_all_rows():
  row = {"subject": "x", "relation": "r", "object": "Moscow"}
  texts = ("moscow", "Baku", "Moscow city", "moscow")
  found = reading.from_rows(enumerate({**row, "prediction": text} for text in texts))
  np.testing.assert_allclose(
    accuracy.scores(found), [[1, 1, 1], [0, 0, 0], [0, 1, 2 / 3], [1, 1, 1]]
  )
  assert accuracy.exact_match(found).tolist() == [1, 0, 0, 1]


def test_hits_and_reciprocal_rank():
  rank = np.array([1, 0, 4, 7])
  found = accuracy.hits(rank, 7)
  assert found["hits@1"].tolist() == [1, 0, 0, 0] and found["hits@5"].tolist() == [1, 0, 1, 0]
  assert np.isnan(found["hits@10"]).all()  # lists of 7 cannot tell
  np.testing.assert_allclose(accuracy.reciprocal_rank(rank), [1, 0, 1 / 4, 1 / 7])

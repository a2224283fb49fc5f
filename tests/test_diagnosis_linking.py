"""Answers in sentences are linked to the known answers that they name."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.diagnosis import shock, summary, table
from factshock.diagnosis.linking import Linker
from factshock.facts import entities as entity_search
from factshock.predictions import reading

ANSWERS = [
  ("capital of", ("Wisconsin",)),
  ("capital of", ("New York", "New York State")),
  ("capital of", ("York",)),
  ("capital of", ("United States", "US", "America")),
  ("capital of", ("South America", "America")),
  ("capital of", ("Ö", "O")),
  ("capital of", ("Côte d’Ivoire", "Ivory Coast")),
  ("language", ("French",)),
  ("language", ("日本語",)),
]
ENTITIES = shock.make_entities({(relation, names[0]): 1 for relation, names in ANSWERS})
ALIASES = shock.alias_names(ANSWERS)
LINKER = Linker.of(ENTITIES, ANSWERS, ALIASES)


def linked(text, relation="capital of"):
  (entity,) = LINKER.link([(relation, text)])
  return None if entity is None else ENTITIES.names[entity][1]


@pytest.mark.parametrize(
  "text, expected",
  [
    ("Madison is the capital of the state of Wisconsin", "Wisconsin"),
    ("Wisconsin, not New York", "Wisconsin"),  # the first
    ("in New York State.", "New York"),  # the longest, by an alias
    ("of York and New York", "York"),
    ("the city of NewYork or Yorkshire", None),  # whole words
    ("let us go to wisconsin", None),  # the case of the name
    ("the US (a country)", "United States"),
    ("America", None),  # an alias of two
    ("O what a town", None),  # one letter
    ("It is Cote d'Ivoire: Côte d'Ivoire", "Côte d’Ivoire"),  # one sign, written in two ways
    ("the\nIvory  Coast", "Côte d’Ivoire"),
    ("French", None),  # of another relation
    ("", None),
  ],
)
def test_the_first_and_longest_name_of_the_relation(text, expected):
  assert linked(text) == expected


def test_scripts_without_spaces_and_unknown_relations():
  assert linked("彼は日本語を話す", "language") == "日本語"
  assert linked("French", "unheard of") is None


NAMES = st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=12)


@settings(deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=8), st.data())
def test_linking_a_known_answer_gives_itself(names, data):
  """Whatever the others are: by its name, and where it is found in text at all, by the search."""
  entities = shock.make_entities({("r", name): 1 for name in names})
  name = data.draw(st.sampled_from(names))
  (exact,) = shock.predicted_entities([("r", name)], entities, {})
  assert exact == entities.index["r", shock.normalise(name)]
  first = entities.names[exact][1]
  (found,) = Linker.of(entities, [], {}).link([("r", first)])
  if found is not None:
    same = entity_search.canonical_name
    assert same(entities.names[found][1]) == same(first)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["Rome", "New Rome", "rome", "Oslo", "x", "."]), max_size=8))
def test_the_search_equals_a_plain_one(words):
  text = " ".join(words)
  names = ["Rome", "New Rome", "Oslo"]
  search = entity_search.search_of_names(names)
  starts = {}
  for name in names:
    place = f" {text} ".find(f" {name} ")
    if place >= 0:
      starts[name] = (place, -len(name))
  expected = min(starts, key=starts.__getitem__) if starts else None
  assert entity_search.first_names([text, "", text], search) == [expected, None, expected]


def arm(predictions, golds=("Rome", "Rome", "Oslo", "Oslo")):
  rows = [
    {"subject": f"s{i}", "relation": "r", "object": gold, "prediction": text}
    for i, (gold, text) in enumerate(zip(golds, predictions))
  ]
  return {0: reading.from_rows(enumerate(rows, 1))}


def diagnose(arms):
  counts = {("r", "Rome"): 9, ("r", "Oslo"): 1}
  options = summary.Options(finetuning={0: [("r", "Oslo")]}, counts={0: counts})
  return summary.diagnose(arms, options, summary.Bootstrap(resamples=100))


def test_shock_of_sentences_is_that_of_their_entities():
  """Rome is common and unseen, Oslo rare and seen: told in sentences or in words alike."""
  words = ["Rome", "Oslo", "Oslo", "Paris"]
  sentences = ["It is Rome.", "Oslo, I think", "Oslo", "in Paris"]
  found = diagnose({"words": arm(words), "sentences": arm(sentences)})
  by_words, by_sentences = (found["arms"][label] for label in ("words", "sentences"))
  for measure in ("ratio", "range_shift", "total_variation", "slope"):
    means = [
      json.dumps(by_arm["shock"][measure], sort_keys=True) for by_arm in (by_words, by_sentences)
    ]
    assert means[0] == means[1]
  ratio = by_sentences["shock"]["ratio"]
  assert (ratio["common_unseen"]["predicted"], ratio["rare_seen"]["predicted"]) == (1, 2)
  assert by_words["answers"] == {"exact": 3, "linked": 0, "none": 1}
  assert by_sentences["answers"] == {"exact": 1, "linked": 2, "none": 1}
  text = "\n".join(table.lines(found))
  assert "sentences: of 4 answers 1 are an answer" in text and "2 were linked" in text


def test_answers_that_are_entities_leave_no_trace():
  found = diagnose({"words": arm(["Rome", "Oslo", "Oslo", "rome"])})
  assert "answers" not in found["arms"]["words"]
  assert not table.link_lines(found["arms"]) and not table.verbose_lines(found["arms"])


def test_most_that_name_none_bring_a_warning():
  found = diagnose({"texts": arm(["I do not know", "yes", "no", "Rome"])})
  (line,) = table.link_lines(found["arms"])
  assert "3 name none: the shock measures are of the fewer" in line


def test_both_accuracies_and_which_fits():
  found = diagnose({"texts": arm(["It is Rome.", "Rome", "in Oslo", "Paris"])})
  (line,) = table.verbose_lines(found["arms"])
  assert "exact match 0.250, contains 0.750" in line and "--criterion=contains fits" in line

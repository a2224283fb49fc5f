"""The synthetic world: its sizes, its frequencies, its sentences, and that it depends on the seed
alone.
"""

import collections
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from factshock.facts.relations import (
  around_answer,
  question,
  read_relations,
  statement,
  write_relations,
)
from factshock.facts.schema import check_facts, read_facts, write_facts
from factshock.facts.world import make_world, mentions
from factshock.runtime.errors import UserError


@pytest.fixture(scope="module")
def world():
  return make_world(0)


def sentences_of(world):
  """Dict subject -> its sentences (a subject is the only pair of name pieces in its sentence)."""
  subjects = {fact["subject"] for fact in world.facts + world.background}
  found = collections.defaultdict(list)
  for sentence in world.sentences:
    words = sentence.split()
    (name,) = {f"{a} {b}" for a, b in zip(words, words[1:])} & subjects
    found[name].append(sentence)
  return found


def forms(relation, fact, held_out):
  seen = [statement(text, fact["subject"], fact["object"]) for text in relation["statements"]]
  rare = [
    statement(text, fact["subject"], fact["object"]) for text in relation["held_out_statements"]
  ]
  asked = [f"{question(text, fact['subject'])} {fact['object']}" for text in relation["questions"]]
  return seen + rare + asked if held_out else seen


def test_sizes_are_those_of_the_reference(world):
  assert len(world.facts) == 2560 and len(world.background) == 256 and len(world.relations) == 4
  assert 31_000 < len(world.sentences) < 36_000
  assert 240_000 < sum(len(sentence.split()) for sentence in world.sentences) < 285_000
  assert len({word for sentence in world.sentences for word in sentence.split()}) < 560


def test_every_fact_is_stated_as_often_as_its_popularity_says(world):
  found = sentences_of(world)
  for fact in world.facts + world.background:
    assert len(found[fact["subject"]]) == mentions(fact) >= 1
  stated = [mentions(fact) for fact in world.facts]
  quantiles = np.quantile(stated, [0.05, 0.25, 0.5, 0.75, 0.95])
  np.testing.assert_allclose(quantiles, [2, 4, 7, 14, 37], atol=4)
  assert 0.9 < np.mean([fact["popularity"] for fact in world.facts]) < 1.1


def test_facts_are_stated_in_seen_templates_and_background_facts_also_in_rare_forms(world):
  found = sentences_of(world)
  for fact in world.facts:
    assert set(found[fact["subject"]]) <= set(forms(world.relations[fact["relation"]], fact, False))
  kinds = collections.Counter()
  for fact in world.background:
    known = forms(world.relations[fact["relation"]], fact, True)
    kinds.update(known.index(sentence) for sentence in found[fact["subject"]])
  total = sum(kinds.values())
  assert set(kinds) == set(range(6))
  assert 0.2 < kinds[4] / total < 0.3 and 0.2 < kinds[5] / total < 0.3


def test_templates_alternate_answer_last_and_answer_first(world):
  for relation in world.relations.values():
    first = [text.index("[Y]") < text.index("[X]") for text in relation["statements"]]
    assert first == [False, True, False, True]
    assert relation["statements"][0].endswith("[Y] .")
    assert around_answer(relation["statements"][0], "a b")[1].strip() == "."


def test_every_form_fits_ten_tokens():
  for relation in make_world(0, relations=8, subjects=2, answers=2).relations.values():
    for text in relation["statements"] + relation["held_out_statements"]:
      assert len(statement(text, "a b", "c").split()) <= 9
    assert all(len(question(text, "a b").split()) <= 8 for text in relation["questions"])


def test_answers_follow_zipf_and_words_do_not_clash(world):
  table = collections.defaultdict(collections.Counter)
  for fact in world.facts + world.background:
    table[fact["relation"]][fact["object"]] += 1
  harmonic = sum(1 / rank for rank in range(1, 81))
  for counted in table.values():
    top = [count for _, count in counted.most_common(7)]
    assert 0.5 * 704 / harmonic < top[0] < 1.5 * 704 / harmonic
    assert 0.42 < sum(top) / 704 < 0.62
    assert 65 <= len(counted) <= 80
  answers = {fact["object"] for fact in world.facts + world.background}
  assert len(answers) == sum(map(len, table.values()))
  subjects = [fact["subject"] for fact in world.facts + world.background]
  assert len(set(subjects)) == len(subjects)
  pieces = {piece for name in subjects for piece in name.split()}
  assert len(pieces) <= 128 and not pieces & answers
  words = {
    word for row in world.relations.values() for text in row["statements"] for word in text.split()
  }
  assert not words & (pieces | answers)


def test_counts_are_answer_mentions(world):
  mentioned = collections.Counter(word for sentence in world.sentences for word in sentence.split())
  assert all(mentioned[answer] == count for (_, answer), count in world.counts.items())
  assert sum(world.counts.values()) == len(world.sentences)


def digest(world):
  return hashlib.sha256(
    json.dumps(
      [
        world.facts,
        world.background,
        world.relations,
        world.sentences,
        sorted(world.counts.items()),
      ]
    ).encode()
  ).hexdigest()


def test_the_world_is_a_function_of_its_seed_in_any_process():
  small = dict(subjects=30, answers=10, name_pieces=16)
  np.random.seed(3)
  assert digest(make_world(7, **small)) == digest(make_world(7, **small))
  assert digest(make_world(7, **small)) != digest(make_world(8, **small))
  tests = pathlib.Path(__file__).parent
  code = (
    f"import sys; sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]; "
    "from test_facts_world import digest, make_world; "
    f"print(digest(make_world(7, **{small!r})))"
  )
  out = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    env={**os.environ, "PYTHONHASHSEED": "5"},
  )
  assert out.stdout.strip() == digest(make_world(7, **small)), out.stderr


def test_more_mentions_leave_the_facts_as_they_are():
  few, many = (make_world(1, subjects=20, mean_mentions=each) for each in (1, 20))
  assert few.facts == many.facts and len(few.sentences) < len(many.sentences)


def test_a_world_can_be_written_and_read(tmp_path, world):
  write_facts(tmp_path / "facts.jsonl.gz", world.facts)
  write_relations(tmp_path / "relations.jsonl", world.relations)
  relations = read_relations(tmp_path / "relations.jsonl")
  assert relations == world.relations
  assert read_facts(tmp_path / "facts.jsonl.gz") == world.facts
  check_facts(world.facts, relations, "facts.jsonl.gz")


@pytest.mark.parametrize(
  "options, expected",
  [
    (dict(relations=9), "world.relations: expected a whole number from 1 to 8, got 9"),
    (dict(relations=0), "world.relations"),
    (dict(subjects=2.5), "world.subjects: expected a whole number"),
    (dict(templates=5), "world.templates: expected a whole number from 1 to 4"),
    (dict(background=-0.1), "world.background: expected a number from 0 to 1"),
    (dict(popularity_sigma=float("nan")), "world.popularity_sigma"),
    (dict(answers="80"), "world.answers"),
    (dict(name_pieces=30), "world.name_pieces: expected at least 54"),
  ],
)
def test_values_out_of_range_are_named(options, expected):
  with pytest.raises(UserError) as caught:
    make_world(0, **options)
  assert expected in str(caught.value)
  with pytest.raises(UserError, match="world.seed"):
    make_world(-1)

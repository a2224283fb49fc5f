"""Finding names in text against brute force, and the file of entity counts."""

import re
import time

import pytest
from hypothesis import example, given, settings, strategies as st

from factshock.console import UserError
from factshock.facts import counts
from factshock.facts.world import make_world


def brute_force(text, names):
  """Tries every name at every place."""
  found, place = [], 0
  while place < len(text):
    here = [name for name in names if re.compile(rf"(?<!\w){re.escape(name)}(?!\w)").match(text, place)]
    if here:
      name = max(here, key=len)
      found.append((place, place + len(name), name))
    place = found[-1][1] if here else place + 1
  return found


PIECES = ["a", "ab", "New", "York", "é", "e\u0301", "_", " ", " ", "-", ".", "'", "^", "]", "\\", "7", "東"]
texts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)


@settings(max_examples=400, deadline=None)
@given(names=st.lists(texts, max_size=6), parts=st.lists(texts, max_size=12), glue=st.sampled_from(["", " "]))
@example(names=["New", "New York", "York"], parts=["New York", "New", "Yorks"], glue=" ")
@example(names=["é", "éa"], parts=["é"], glue="")
@example(names=[".a", "a", "a."], parts=["a.a", ".a.", "a."], glue="")
def test_mentions_are_those_of_brute_force(names, parts, glue):
  text = glue.join(parts)
  assert counts.find_mentions(text, counts.mention_index(names)) == brute_force(text, names)


def test_longest_match_at_word_boundaries():
  index = counts.mention_index(["York", "New York", "New York City", "C++", "St. John's", "York"])
  text = "New Yorkers left New York City, York (C++) for St. John's; new york, _York."
  found = counts.find_mentions(text, index)
  assert [name for _, _, name in found] == ["New York City", "York", "C++", "St. John's"]
  assert all(text[start:end] == name for start, end, name in found)


def test_no_names_and_empty_names():
  assert counts.find_mentions("some text", counts.mention_index([])) == []
  with pytest.raises(ValueError, match="non-empty"):
    counts.mention_index(["a", ""])


def test_answers_are_counted_by_relation():
  facts = [{"subject": "x", "relation": "born_in", "object": "York"},
           {"subject": "y", "relation": "lives_in", "object": "York"},
           {"subject": "z", "relation": "born_in", "object": "New York"},
           {"subject": "w", "relation": "born_in", "object": "Rome"}]
  assert counts.count_answers(["New York and York .", "York"], facts) == {
      ("born_in", "York"): 2, ("lives_in", "York"): 2, ("born_in", "New York"): 1, ("born_in", "Rome"): 0}


def test_counting_the_world_gives_the_counts_of_the_world():
  world = make_world(5, subjects=60, answers=12, mean_mentions=4)
  assert counts.count_answers(world.sentences, world.facts + world.background) == world.counts


def test_counting_is_fast():
  names = [f"name{i // 7} part{i}" for i in range(20000)] + [f"name{i}" for i in range(0, 3000, 2)]
  text = " ".join(f"name{i % 3000} part{i} , then word{i}" for i in range(20000))
  index = counts.mention_index(names)
  began = time.process_time()
  assert len(counts.find_mentions(text, index)) > 5000
  seconds = time.process_time() - began
  assert seconds < 20 * len(text) / 15e6 + 1.0


def test_counts_survive_writing_and_reading(tmp_path):
  table = {("b", "x y"): 3, ("a", "z"): 0, ("a", "é"): 10**12, ("a", "b"): 0}
  counts.write_counts(tmp_path / "c.tsv", table)
  assert counts.read_counts(tmp_path / "c.tsv") == table
  assert (tmp_path / "c.tsv").read_text(encoding="utf-8").splitlines() == [
      "entity\tcount\trelation", "é\t1000000000000\ta", "b\t0\ta", "z\t0\ta", "x y\t3\tb"]


def test_counts_without_relation_hold_in_any(tmp_path):
  (tmp_path / "c.tsv").write_text("count\tentity\n3\tRome\n")
  table = counts.read_counts(tmp_path / "c.tsv")
  assert table == {("", "Rome"): 3}
  assert counts.count_of(table, "born_in", "Rome") == 3
  assert counts.count_of(table, "born_in", "Baku") == 0
  assert counts.count_of({("born_in", "Rome"): 0, ("", "Rome"): 5}, "born_in", "Rome") == 0


@pytest.mark.parametrize("text, expected", [
    ("", ":1: expected a header"),
    ("Rome\t3\n", ":1: expected a header"),
    ("entity\tcount\tcount\n", ":1: expected a header"),
    ("entity\tcount\n", "expected at least one count"),
    ("entity\tcount\nRome\n", ":2: expected 2 cells as in the header, got 1"),
    ("entity\tcount\nRome\tmany\n", ":2: expected an entity and a whole number from 0 on, got 'Rome' and"),
    ("entity\tcount\nRome\t-1\n", "whole number"),
    ("entity\tcount\nRome\t1.5\n", "whole number"),
    ("entity\tcount\n\t1\n", "whole number"),
    ("entity\tcount\nRome\t1\n\nRome\t2\n", ":4: expected each entity once"),
])
def test_bad_counts_are_named(tmp_path, text, expected):
  (tmp_path / "c.tsv").write_text(text)
  with pytest.raises(UserError) as caught:
    counts.read_counts(tmp_path / "c.tsv")
  assert expected in str(caught.value)


def test_names_that_tsv_cannot_hold_are_refused(tmp_path):
  with pytest.raises(UserError, match="without tab"):
    counts.write_counts(tmp_path / "c.tsv", {("a", "x\ty"): 1})
  assert list(tmp_path.iterdir()) == []

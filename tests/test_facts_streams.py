"""Facts that are gone through again and again are those that are read at once."""

import json
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factshock.facts import sources, streams
from factshock.runtime.errors import UserError

RELATIONS = {"r": {"relation": "r", "label": "r", "statements": ["[X] is [Y] ."], "questions": []}}
NAMES = st.sampled_from(["a", "b", "é\n"])
FACTS = st.fixed_dictionaries(
  {"subject": NAMES, "relation": st.sampled_from("rq"), "object": NAMES},
  optional={
    "aliases": st.lists(NAMES, max_size=2),
    "choices": st.lists(NAMES, min_size=1, max_size=2),
    "popularity": st.integers(0, 9),
  },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("streams")
  lines = [json.dumps({**RELATIONS["r"], "relation": name}) for name in "rq"]
  (folder / "relations.jsonl").write_text("\n".join(lines))
  return folder


def written(path, facts):
  path.write_text("".join(json.dumps(fact) + "\n" for fact in facts))
  return path


@given(st.lists(FACTS, min_size=1, max_size=12), st.integers(1, 13))
def test_a_stream_gives_what_reading_gives(folder, facts, size):
  path = written(folder / "facts.jsonl", facts)
  expected, relations = sources.read_with_relations(path, folder / "relations.jsonl")
  stream = streams.open_with_relations(path, folder / "relations.jsonl")
  for _ in range(2):
    assert list(stream) == expected
  assert stream.count == len(expected) and stream.relations == relations
  parts = list(stream.parts(size))
  assert sum(parts, []) == expected and all(len(part) == size for part in parts[:-1])


def test_repeats_are_told_and_errors_are_those_of_reading(folder, tmp_path, capsys):
  fact = {"subject": "a", "relation": "r", "object": "b"}
  path = written(tmp_path / "twice.jsonl", [fact, {**fact, "aliases": ["c"]}])
  for read in (sources.read_with_relations, streams.open_with_relations):
    read(path, folder / "relations.jsonl")
    assert capsys.readouterr().out == (
      f"  {path}: 2 rows, 1 facts; 1 merged, as they say the same fact again\n"
    )
  unknown = written(tmp_path / "unknown.jsonl", [fact, {**fact, "relation": "s"}])
  (tmp_path / "empty.jsonl").write_text("")
  for wrong in (unknown, tmp_path / "empty.jsonl", tmp_path / "none.jsonl", tmp_path / "a.txt"):
    said = []
    for read in (sources.read_with_relations, streams.open_with_relations):
      with pytest.raises(UserError) as caught:
        read(wrong, folder / "relations.jsonl")
      said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_file_that_changes_is_noticed(folder, tmp_path):
  fact = {"subject": "a", "relation": "r", "object": "b"}
  path = written(tmp_path / "facts.jsonl", [fact, {**fact, "subject": "c"}])
  stream = streams.open_with_relations(path, folder / "relations.jsonl")
  written(path, [fact])
  with pytest.raises(UserError, match="has changed while it was read"):
    list(stream.parts(1))


def test_a_pipe_is_read_once(folder, tmp_path):
  path = tmp_path / "facts.jsonl"
  os.mkfifo(path)
  fact = {"subject": "a", "relation": "r", "object": "b"}
  threading.Thread(target=written, args=(path, [fact])).start()
  stream = streams.open_with_relations(path, folder / "relations.jsonl")
  assert list(stream) == list(stream) == [fact]

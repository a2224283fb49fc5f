"""Queries as a stream: those that say the same are merged, each (subject, relation) asked once."""

import json
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factshock.facts import queries, sources
from factshock.facts.asked_queries import AskedQueries
from factshock.runtime.errors import UserError

NAMES = st.sampled_from(["a", "b", "é\n"])
ROWS = st.fixed_dictionaries(
  {"subject": NAMES, "relation": st.sampled_from("rq")},
  optional={
    "object": st.none() | NAMES,
    "aliases": st.lists(NAMES, max_size=2),
    "subject_id": st.sampled_from(["Q1", "Q2"]),
  },
)


@given(st.lists(ROWS, min_size=1, max_size=12))
def test_each_subject_and_relation_is_asked_once_and_each_row_gets_its_answer(rows):
  """The last row of each says what is asked, where the first stands."""
  expected = {}
  for row in rows:
    asked = {key: row[key] for key in ("subject", "relation", "subject_id") if key in row}
    expected[row["subject"], row["relation"]] = asked
  found = AskedQueries.of(lambda: iter(rows))
  for _ in range(2):
    assert list(found) == list(expected.values())
  answers = (f"{row['subject']} {row['relation']}" for row in found)
  assert list(found.with_answers(answers)) == [
    (row, f"{row['subject']} {row['relation']}") for row in rows
  ]
  assert found.count == len(expected)


def test_queries_that_change_while_they_are_read_are_refused():
  row = {"subject": "a", "relation": "r"}
  rows = [row, {**row, "subject": "b"}]
  found = AskedQueries.of(lambda: iter(rows))
  for changed in (rows[:1], [*rows, {**row, "subject": "c"}]):
    rows[:] = changed
    with pytest.raises(UserError, match="have changed while they were read; start again"):
      list(found)


@given(st.lists(ROWS, min_size=1, max_size=12))
def test_a_stream_of_queries_merges_rows_that_say_the_same(tmp_path_factory, rows):
  path = tmp_path_factory.mktemp("queries") / "q.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  expected = {}
  for row in rows:
    key = (row["subject"], row["relation"], row.get("object"))
    said = {name: value for name, value in row.items() if value is not None or name == "object"}
    expected[key] = sources.merged(expected.get(key, {}), said)
  stream = queries.open_stream(path)
  for _ in range(2):
    assert list(stream) == list(expected.values())
  assert queries.keys(stream) == {key[:2] for key in expected}


def test_queries_of_a_pipe_are_read_once(tmp_path):
  path = tmp_path / "q.jsonl"
  os.mkfifo(path)
  line = json.dumps({"subject": "a", "relation": "r"}) + "\n"
  writing = threading.Thread(target=path.write_text, args=(line,))
  writing.start()
  stream = queries.open_stream(path)
  writing.join()
  assert list(stream) == list(stream) == [{"subject": "a", "relation": "r"}]

"""Rows read many at a time are those that are read one by one, and so are their errors."""

import contextlib
import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.predictions import accuracy, overlap, plain, reading
from factshock.runtime import files, json_text, second_process
from factshock.runtime.errors import UserError

ROW = {"subject": "Marat", "relation": "P19", "object": "Moscow", "prediction": "Baku"}
CANDIDATES = [["Baku", -1.0], ["the Moscow!", -2]]
FULL = {
  **ROW,
  "aliases": ["Moskva"],
  "score": -1.0,
  "arm": "finetune",
  "seed": 3,
  "split": "test",
  "candidates": CANDIDATES,
  "among": 2,
}

# Values that a column may hold, plain ones first.
TEXT = st.sampled_from(["a", "b c", "", "[x]", "é\u2028", 5, None, 1.5, ["a"], 10**30])
NUMBER = st.sampled_from([-1.0, 0, -3, None, float("-inf"), float("nan"), 1e-7, 2.0, True])
LARGE = st.sampled_from([-(2**53), -(2**53) - 1, -(10**25), 2**63, 10**400, -0.0])
ANSWERS = st.sampled_from([[], ["a"], ["b c", "a"], None, "a|b", ["a", 3], [["a"]], {"a": 1}])
LISTS = st.sampled_from(
  [
    CANDIDATES,
    [["a", 0]],
    [["b c", -1], ["a", -1.5], ["a", -2]],
    [],
    None,
    [["a", -2.0], ["b c", -1.0]],
    [["a", -(2**53)], ["b c", -(2**53) - 1]],
    [["a", -(2**53) - 1], ["b c", -(2**53)]],
    [["a", float("-inf")]],
    [["a", float("nan")]],
    [["a", -1, 2], ["b", -2, 3]],
    [["a", "b"]],
    [[1, -1.0]],
    ["ab", "cd"],
    [["a", False]],
    [["a", 0.5]],
    {"a": 1},
  ]
)
COLUMNS = {
  "subject": TEXT,
  "relation": TEXT,
  "object": TEXT,
  "prediction": TEXT,
  "aliases": ANSWERS,
  "score": st.one_of(NUMBER, LARGE),
  "popularity": st.one_of(NUMBER, LARGE),
  "arm": st.sampled_from(["x", "y", None, 3]),
  "model": st.sampled_from(["m", "n", None, 3, ["m"]]),
  "step": st.sampled_from([1, 25, None, 1.0, True, "7", 2**64]),
  "alpha": st.sampled_from([0.3, 1, None, 1.0, "a"]),
  "seed": st.sampled_from([0, 7, None, -1, 1.0, 2**62, 10**30, True]),
  "split": st.sampled_from(["test", None, 3]),
  "among": st.sampled_from([10, None, 0, "many", 2**40, 10**30]),
  "candidates": LISTS,
  "more": st.one_of(TEXT, LARGE),
}
# One column of a plain row changed: else hardly any would be read at all.
CHANGED = st.sampled_from(sorted(COLUMNS)).flatmap(
  lambda name: COLUMNS[name].map(lambda value: {**FULL, name: value})
)
LINES = st.one_of(
  st.just(json.dumps(FULL)),
  CHANGED.map(json.dumps),
  st.sampled_from(
    [
      "",
      " \t",
      "[]",
      "3",
      "{",
      json.dumps(ROW),
      json.dumps(FULL)[:-1] + ', "seed": 4}',
      json.dumps({**FULL, "subject": "\ud83d\ude00"}),
      json.dumps({**FULL, "subject": "\ud83d"}),
      json.dumps({**FULL, "doc": {}, "filtered_resps": []}),
      json.dumps({**FULL, "more": json.loads("[" * 499 + "]" * 499)}),
      json.dumps({**FULL, "more": json.loads("[" * 500 + "]" * 500)}),
      "\ufeff" + json.dumps(FULL),
    ]
  ),
)


def outcome(read):
  """What reading gives, or its error."""
  try:
    found = read()
  except UserError as error:
    return str(error)
  columns = [getattr(found, name) for name in reading.COLUMNS]
  arrays = [None if column is None else (column.dtype, column.tobytes()) for column in columns]
  return found.strings, found.answers, found.listed, arrays


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
  return str(path)


def row_by_row(path):
  return reading.from_rows(reading.numbered_rows(str(path)), str(path))


@settings(deadline=None, max_examples=150)
@given(st.lists(LINES, min_size=1, max_size=6), st.sampled_from([1, 40, 700, 1 << 18]))
def test_a_file_is_read_as_row_by_row(tmp_path_factory, lines, size):
  path = tmp_path_factory.mktemp("plain") / "a.jsonl"
  path.write_text("\n".join(lines), encoding="utf-8")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(files, "_BATCH", size)
    assert outcome(lambda: reading.read(path)) == outcome(lambda: row_by_row(path))


@contextlib.contextmanager
def same_process(function, items):
  """Stands for a second process: these have no JAX."""
  turns = iter(items)

  def receive():
    try:
      return function(next(turns))
    except UserError:
      return None

  yield receive


@settings(deadline=None, max_examples=100)
@given(st.lists(LINES, min_size=1, max_size=8))
def test_two_halves_are_read_as_row_by_row(tmp_path_factory, lines):
  path = tmp_path_factory.mktemp("halves") / "a.jsonl"
  path.write_text("\n".join(lines), encoding="utf-8")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(reading, "_is_halved", lambda path: True)
    patch.setattr(second_process, "results", same_process)
    assert outcome(lambda: reading.read(path)) == outcome(lambda: row_by_row(path))


HALVED = """import sys
from factshock.predictions import reading
read = reading.read(sys.argv[1])
assert not reading._is_halved(sys.argv[1])
reading._HALVED = 1
assert reading._is_halved(sys.argv[1])
halves = reading.read(sys.argv[1])
assert halves.strings == read.strings and halves.rank.tolist() == read.rank.tolist()
print(len(halves), "jax" in sys.modules)
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor")
def test_a_second_process_reads_the_second_half(tmp_path):
  rows = [{**FULL, "subject": f"Ada {index}"} for index in range(500)]
  path = write(tmp_path / "a.jsonl", rows)
  done = subprocess.run([sys.executable, "-c", HALVED, path], capture_output=True, text=True)
  assert done.stdout == "500 False\n", done.stderr


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(LINES, min_size=1, max_size=4), min_size=1, max_size=4), st.booleans())
def test_many_files_are_read_as_one_by_one(tmp_path_factory, contents, are_named):
  folder = tmp_path_factory.mktemp("many")
  named = []
  for index, lines in enumerate(contents):
    path = folder / f"{index}.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    named.append((f"arm {index}" if are_named else None, str(path)))

  def read_all():
    return [reading.select_split(one) for one in reading.read_all(named)]

  expected = outcomes(
    lambda: [reading.select_split(reading.read(path, arm)) for arm, path in named]
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(reading, "_are_shared", lambda paths: True)
    patch.setattr(second_process, "results", same_process)
    assert outcomes(read_all) == expected


def outcomes(read):
  """What is read of several files, or the error."""
  found = []
  try:
    for one in read():
      found.append(outcome(lambda one=one: one))
  except UserError as error:
    return str(error)
  return found


SHARED = """import sys
from factshock.predictions import reading
named = [(None, path) for path in sys.argv[1:]]
assert not reading._are_shared(sys.argv[1:])
reading._HALVED = 1 << 18
assert reading._are_shared(sys.argv[1:])
one_by_one = [reading.read(path) for _, path in named]
shared = list(reading.read_all(named))
assert [one.path for one in shared] == [path for _, path in named]
for one, other in zip(one_by_one, shared):
  assert one.strings == other.strings and one.rank.tolist() == other.rank.tolist()
print(sum(map(len, shared)), "jax" in sys.modules)
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor")
def test_a_second_process_reads_every_other_file(tmp_path):
  paths = []
  for number in range(5):
    rows = [{**FULL, "subject": f"Ada {number} {index}"} for index in range(500)]
    paths.append(write(tmp_path / f"{number}.jsonl", rows))
  done = subprocess.run([sys.executable, "-c", SHARED, *paths], capture_output=True, text=True)
  assert done.stdout == "2500 False\n", done.stderr


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_middle_is_where_a_line_begins(tmp_path, end):
  path = tmp_path / "a.txt"
  path.write_bytes(f"\ufeffone{end}zwei ü{end}three{end}four".encode())
  middle = files.middle(path)
  halves = [
    *files.line_batches(path, span=files.Span(end=middle)),
    *files.line_batches(path, span=files.Span(middle)),
  ]
  assert [line for _, lines in halves for line in lines] == [line for _, line in files.lines(path)]
  assert (middle < path.stat().st_size) == (end != "\r")


def test_what_this_project_writes_is_plain(tmp_path):
  assert plain.parse([json.dumps(ROW), ""]) is not None
  rows = [{**FULL, "step": step, "prediction": f"Baku {step}"} for step in range(200)]
  lines = list(map(json.dumps, rows))
  assert plain.parse(lines) is not None
  path = tmp_path / "a.jsonl.gz"
  with gzip.open(path, "wt") as file:
    file.write("\n".join(lines))
  assert outcome(lambda: reading.read(path)) == outcome(lambda: row_by_row(path))
  assert reading.read(path).rank.tolist() == [2] * 200


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_batches_are_the_lines(tmp_path, monkeypatch, end, size):
  path = tmp_path / "a.txt"
  path.write_bytes(f"\ufeffone{end}{end}zwei ü{end}\x0bthree\u2028".encode())
  monkeypatch.setattr(files, "_BATCH", size)
  batches = list(files.line_batches(path))
  numbered = [pair for first, lines in batches for pair in enumerate(lines, first)]
  assert numbered == list(files.lines(path))


@pytest.mark.parametrize("broken", [b"\xff", b"x" * 60, b"ok\n" * 9 + b"x" * 51 + b"\nok\n"])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_batches_end_as_the_lines_do(tmp_path, monkeypatch, broken, size):
  path = tmp_path / "a.txt"
  path.write_bytes(b"one\ntwo\n" + broken)
  monkeypatch.setattr(files, "_BATCH", size)
  seen: list[list[str]] = [[], []]
  with pytest.raises(UserError) as expected:
    seen[0].extend(line for _, line in files.lines(path, longest=50))
  with pytest.raises(UserError) as got:
    for _, batch in files.line_batches(path, longest=50):
      seen[1].extend(batch)
  assert str(got.value) == str(expected.value)
  assert seen[0] == seen[1]


FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
  st.one_of(st.none(), st.booleans(), st.integers(), FINITE, st.text()),
  lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
  max_leaves=8,
)


@given(JSON, st.booleans())
def test_values_of_lines_are_those_of_json(value, is_ascii):
  line = json.dumps(value, ensure_ascii=is_ascii)
  found = repr(json_text.plain_loads([line])[0])
  integers = json.dumps(json.loads(line, parse_int=lambda digits: _as_read(int(digits))))
  assert found == repr(json.loads(integers))


def _as_read(number):
  return number if -(2**63) <= number < 2**64 else float(number)


WORDS = st.sampled_from("a the x york York! x x new c# .5 -".split())
ANSWER = st.lists(WORDS, max_size=11).map(" ".join)
RIGHT = ANSWER.filter(bool)


@settings(deadline=None)
@given(st.lists(st.tuples(ANSWER, RIGHT, st.lists(RIGHT, max_size=3))), st.sampled_from([1, 99]))
def test_scores_of_many_are_those_of_each(triples, pairs_at_a_time):
  rows = [
    {**ROW, "prediction": text, "object": name, "aliases": aliases}
    for text, name, aliases in [*triples, ("x", "x", [])]
  ]
  predictions = reading.from_rows(enumerate(rows, 1))
  each = [accuracy.score(row["prediction"], [row["object"], *row["aliases"]]) for row in rows]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(overlap, "_PAIRS", pairs_at_a_time)
    assert np.array_equal(accuracy.scores(predictions), np.array(each))

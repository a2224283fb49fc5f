"""Answers in parts: the same file however it is cut, stopped, shared or damaged."""

import json
import multiprocessing
import os
import signal
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.answering import parts
from factshock.facts.streams import FactStream
from factshock.predictions import writing
from factshock.runtime.errors import UserError

FACTS = [{"subject": f"s{i}", "relation": "r", "object": f"o{i}"} for i in range(23)]
EXPECTED = "".join(json.dumps({**fact, "place": i}) + "\n" for i, fact in enumerate(FACTS))


def stream(facts=FACTS):
  return FactStream("facts.jsonl", {}, len(facts), lambda: iter(facts))


def answer(facts, first):
  return [{**fact, "place": first + i} for i, fact in enumerate(facts)]


def asking(output, answer=answer, facts=FACTS, **asked):
  def write(rows):
    rows = list(rows)
    writing.write_predictions(str(output), rows)
    return len(rows)

  return parts.Asking(stream(facts), answer, {"seed": 0, **asked}, write)


def run(output, size=5, **options):
  with parts.at_work(str(output)):
    return parts.run(str(output), asking(output, **options), size)


def names(folder):
  return sorted(path.name for path in folder.iterdir())


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 30))
def test_parts_of_any_size_give_the_same_file(tmp_path_factory, size):
  output = tmp_path_factory.mktemp("parts") / "out.jsonl"
  assert run(output, size) == len(FACTS)
  assert output.read_text() == EXPECTED
  assert names(output.parent) == ["out.jsonl"]


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst", ".jsonl"])
def test_a_joined_file_has_the_bytes_of_one_written_at_once(tmp_path, ending):
  run(tmp_path / f"joined{ending}")
  writing.write_predictions(str(tmp_path / f"once{ending}"), answer(FACTS, 0))
  assert (tmp_path / f"joined{ending}").read_bytes() == (tmp_path / f"once{ending}").read_bytes()


class Stopped(Exception):
  pass


def stops_at(place, seen=None):
  def stopping(facts, first):
    if first >= place:
      raise Stopped
    if seen is not None:
      seen.append(first)
    return answer(facts, first)

  return stopping


def test_a_stopped_run_goes_on_where_it_was(tmp_path, capsys):
  output = tmp_path / "out.jsonl"
  with pytest.raises(Stopped):
    run(output, answer=stops_at(10))
  assert names(tmp_path) == ["out.jsonl.parts"]
  assert {"00000.jsonl.gz", "00001.jsonl.gz", "asked.json"} == set(
    names(tmp_path / names(tmp_path)[0])
  )
  seen = []
  assert run(output, answer=stops_at(99, seen)) == len(FACTS)
  assert seen == [10, 15, 20]
  assert output.read_text() == EXPECTED and names(tmp_path) == ["out.jsonl"]
  said = capsys.readouterr()
  assert "  23 questions in 5 parts, 2 of them answered before" in said.out
  assert "  13 answers in 0:00, " in said.err


def test_a_failure_before_any_answer_leaves_nothing(tmp_path):
  with pytest.raises(Stopped):
    run(tmp_path / "out.jsonl", answer=stops_at(0))
  assert names(tmp_path) == []


@pytest.mark.parametrize(
  "change, shown",
  [
    ({"seed": 1}, "seed (0, 1)"),
    ({"more": [1]}, "more (None, [1])"),
    ({"size": 4}, "facts a part (5, 4)"),
  ],
)
def test_answers_to_other_questions_are_refused_by_name(tmp_path, change, shown):
  output = tmp_path / "out.jsonl"
  with pytest.raises(Stopped):
    run(output, answer=stops_at(10))
  with pytest.raises(UserError) as caught:
    run(output, **change)
  assert str(caught.value) == (
    f"{output}.parts: holds answers to other questions than these; give the command that it was "
    f"begun with, or --overwrite to begin anew. What differs (there, here): {shown}"
  )
  assert "00001.jsonl.gz" in names(tmp_path / "out.jsonl.parts")


def test_what_is_asked_is_told_where_its_file_is_broken(tmp_path):
  output = tmp_path / "out.jsonl"
  with pytest.raises(Stopped):
    run(output, answer=stops_at(10))
  (tmp_path / "out.jsonl.parts" / "asked.json").write_text('{"see')
  with pytest.raises(UserError, match="broken file .*; give --overwrite to begin anew"):
    run(output)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_unfinished_run_may_go_on_or_begins_anew(tmp_path, monkeypatch, overwrite):
  monkeypatch.setattr(parts.outputs, "overwrites", lambda: overwrite)
  output = tmp_path / "out.jsonl"
  parts.check_new(str(output))
  with pytest.raises(Stopped):
    run(output, answer=stops_at(10))
  parts.check_new(str(output))
  assert (tmp_path / "out.jsonl.parts").exists() == (not overwrite)
  run(output)
  if overwrite:
    parts.check_new(str(output))
  else:
    with pytest.raises(UserError, match="already exists"):
      parts.check_new(str(output))


def test_what_others_are_at_is_not_begun_anew(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(parts.outputs, "overwrites", lambda: True)
  output = tmp_path / "out.jsonl"
  with parts.at_work(str(output)):
    with pytest.raises(Stopped):
      parts.run(str(output), asking(output, stops_at(10)), 5)
    parts.check_new(str(output))
    assert "is at work there; what it has answered is kept" in capsys.readouterr().out
    assert "00001.jsonl.gz" in names(tmp_path / "out.jsonl.parts")


DAMAGE = {
  "cut off": lambda content: content[: len(content) // 2],
  "empty": lambda content: b"",
  "a bit": lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
  "text": lambda content: b"{}\n",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_part_is_asked_again(tmp_path, capsys, damage):
  output = tmp_path / "out.jsonl"
  with pytest.raises(Stopped):
    run(output, answer=stops_at(10))
  path = tmp_path / "out.jsonl.parts" / "00001.jsonl.gz"
  path.write_bytes(damage(path.read_bytes()))
  seen = []
  run(output, answer=stops_at(99, seen))
  assert seen == [10, 15, 20, 5]
  assert output.read_text() == EXPECTED and names(tmp_path) == ["out.jsonl"]
  assert f"  {path}: damaged, asked again\n" in capsys.readouterr().out


def test_an_interrupted_join_is_done_again(tmp_path):
  output = tmp_path / "out.jsonl"
  output.write_text("before")
  whole = asking(output)

  def fails(rows):
    for _, _ in zip(range(12), rows):
      pass
    raise Stopped

  with pytest.raises(Stopped), parts.at_work(str(output)):
    parts.run(str(output), parts.Asking(whole.facts, answer, whole.asked, fails), 5)
  assert output.read_text() == "before"
  assert run(output, answer=stops_at(0)) == len(FACTS)  # nothing is asked
  assert output.read_text() == EXPECTED and names(tmp_path) == ["out.jsonl"]


def test_who_comes_when_all_is_joined_is_told_so(tmp_path):
  """A process that was started with others, and was slow to open its model."""
  output = tmp_path / "out.jsonl"
  with parts.at_work(str(output)):
    assert run(output) == len(FACTS)
    assert parts.run(str(output), asking(output, stops_at(0)), 5) is None
  assert output.read_text() == EXPECTED and names(tmp_path) == ["out.jsonl"]


def slowly(facts, first):
  time.sleep(0.05)
  return answer(facts, first)


def work(output, results, all_started=None):
  """What a process does; where others are started with it, once all of them have."""
  parts._WAIT_SECONDS = 0.02
  asked = []

  def noting(facts, first):
    asked.append(first)
    return slowly(facts, first)

  with parts.at_work(str(output)):
    if all_started:
      all_started.wait(timeout=60)
    results.put((parts.run(str(output), asking(output, answer=noting), 2), asked))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_parts(tmp_path, count):
  output = tmp_path / "out.jsonl"
  context = multiprocessing.get_context("fork")
  results = context.Queue()
  all_started = context.Barrier(count)
  given = (output, results, all_started)
  workers = [context.Process(target=work, args=given) for _ in range(count)]
  for worker in workers:
    worker.start()
  found = [results.get(timeout=60) for _ in workers]
  for worker in workers:
    worker.join()
  assert output.read_text() == EXPECTED and names(tmp_path) == ["out.jsonl"]
  assert sorted(result for result, _ in found if result) == [len(FACTS)]
  assert sorted(first for _, asked in found for first in asked) == list(range(0, 23, 2))


def hangs(output, results):
  def hanging(facts, first):
    if first == 4:
      results.put("hangs")
      time.sleep(600)
    return answer(facts, first)

  run(output, 2, answer=hanging)


def test_the_part_of_a_killed_process_is_asked_by_another(tmp_path):
  output = tmp_path / "out.jsonl"
  context = multiprocessing.get_context("fork")
  results = context.Queue()
  killed = context.Process(target=hangs, args=(output, results))
  killed.start()
  assert results.get(timeout=60) == "hangs"
  other = context.Process(target=work, args=(output, results))
  other.start()
  while not (tmp_path / "out.jsonl.parts" / "00011.jsonl.gz").exists():
    time.sleep(0.02)
  os.kill(killed.pid, signal.SIGKILL)
  killed.join()
  result, asked = results.get(timeout=60)
  other.join()
  assert result == len(FACTS) and asked[-1] == 4
  assert output.read_text() == EXPECTED and names(tmp_path) == ["out.jsonl"]


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="the lock cannot be written"):
    run(tmp_path / "file" / "out.jsonl")

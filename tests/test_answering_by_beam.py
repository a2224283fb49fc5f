"""Answering as an Apache Beam pipeline: the bytes of one process."""

import importlib
import json

import pytest
import tiny_folders
import verb_flags
from stand_in_server import serving

from factshock.answering import parts, preparing
from factshock.facts import relations as relation_files
from factshock.facts import schema, world
from factshock.facts.streams import FactStream
from factshock.runtime.errors import UserError

answer = importlib.import_module("factshock.answer")
COUNT = 30


@pytest.fixture
def folder(tmp_path):
  relation = {"relation": "r", "label": "r", "statements": ["[X] is in [Y] ."], "questions": []}
  (tmp_path / "relations.jsonl").write_text(json.dumps(relation) + "\n")
  facts = [{"subject": f"s{i}", "relation": "r", "object": f"o{i % 3}"} for i in range(COUNT)]
  (tmp_path / "facts.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in facts))
  return tmp_path


def run(monkeypatch, folder, server, output, *arguments):
  monkeypatch.setattr(preparing, "_SERVED_PART", 7)
  with monkeypatch.context() as patch:
    verb_flags.parsed(
      patch,
      "answer",
      f"--model={server.source()}",
      f"--facts={folder}/facts.jsonl",
      f"--relations={folder}/relations.jsonl",
      f"--output={output}",
      "--method=sample",
      "--max_tokens=4",
      "--prompt=cloze",
      *arguments,
    )
    answer.main([])


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_writes_the_bytes_of_one_process(folder, monkeypatch, capsys):
  pytest.importorskip("apache_beam", reason="factshock[beam] is not installed")
  with serving() as server:
    run(monkeypatch, folder, server, folder / "one.jsonl")
    run(monkeypatch, folder, server, folder / "beam.jsonl", "--runner=DirectRunner")
    expected = (folder / "one.jsonl").read_bytes()
    assert (folder / "beam.jsonl").read_bytes() == expected
    said = capsys.readouterr()
    assert f"  {COUNT} questions in 5 parts\n" in said.out
    assert f"  {COUNT} requests, " in said.err and " tokens answered, " in said.err
    stopped(monkeypatch, folder, server)
    run(monkeypatch, folder, server, folder / "rest.jsonl", "--runner=DirectRunner")
    assert "2 of them answered before" in capsys.readouterr().out
    assert (folder / "rest.jsonl").read_bytes() == expected
  assert not list(folder.glob("*.parts*"))


def stopped(monkeypatch, folder, server):
  """Leaves what a process without Beam leaves that is killed after two parts."""
  write = parts._write_part
  left = [2]

  def writing(path, rows):
    if not left[0]:
      raise KeyboardInterrupt
    left[0] -= 1
    write(path, rows)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(parts, "_write_part", writing)
    run(patch, folder, server, folder / "rest.jsonl")


@pytest.mark.filterwarnings("ignore")
def test_what_is_known_is_asked_by_a_pipeline_too(folder, monkeypatch):
  pytest.importorskip("apache_beam", reason="factshock[beam] is not installed")
  more = ("--method=known", f"--shot_facts={folder}/facts.jsonl", "--sets=1", "--samples=1")
  with serving() as server:
    run(monkeypatch, folder, server, folder / "one.jsonl", *more)
    run(monkeypatch, folder, server, folder / "beam.jsonl", *more, "--runner=DirectRunner")
  assert (folder / "beam.jsonl").read_bytes() == (folder / "one.jsonl").read_bytes()


@pytest.mark.parametrize(
  "arguments, message",
  [
    (
      ["--runner=DirectRunner", "--output=gs://b/o.jsonl"],
      "gs://b/o.jsonl: with --runner",
    ),
    (["--beam_options=--x=1"], "--beam_options: expected --runner too"),
  ],
)
def test_what_a_pipeline_cannot_do_is_refused(folder, monkeypatch, arguments, message):
  with serving() as server, pytest.raises(UserError, match=message):
    run(monkeypatch, folder, server, folder / "out.jsonl", *arguments)


def workers(output, answer=lambda facts, first: [{**fact, "place": first} for fact in facts]):
  """What answers parts elsewhere, and the parts that it was given."""
  worker = parts.Worker(str(output), 5, answer, None)
  given = []

  def elsewhere(indices):
    given.append(list(indices))
    for index in reversed(indices):
      worker.answer(index)

  return elsewhere, given


def asking(output, count=12):
  facts = [{"subject": f"s{i}", "relation": "r", "object": "o"} for i in range(count)]
  stream = FactStream("facts", {}, count, lambda: iter(facts))
  return parts.Asking(stream, preparing._answer_nothing, {}, list)


def test_parts_are_answered_elsewhere_and_joined_here(tmp_path):
  output = tmp_path / "out.jsonl"
  elsewhere, given = workers(output)
  with parts.at_work(str(output)):
    rows = parts.run(str(output), asking(output), 5, elsewhere)
  assert [row["place"] for row in rows] == [0] * 5 + [5] * 5 + [10] * 2
  assert given == [[0, 1, 2]] and list(tmp_path.iterdir()) == []


def test_a_worker_that_comes_when_all_is_joined_leaves_nothing(tmp_path):
  workers(tmp_path / "out.jsonl")[0]([0])
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_processes_of_a_runner_have_a_model_each(tmp_path, monkeypatch):
  pytest.importorskip("apache_beam", reason="factshock[beam] is not installed")
  made = world.make_world(0, relations=2, subjects=40, answers=6, mean_mentions=3)
  schema.write_facts(tmp_path / "facts.jsonl", made.facts)
  relation_files.write_relations(tmp_path / "relations.jsonl", made.relations)
  tiny_folders.make(tmp_path, made.sentences)
  monkeypatch.setattr(parts, "SIZE", 16)
  options = "--direct_running_mode=multi_processing --direct_num_workers=2"
  for name, more in {
    "one": [],
    "beam": ["--runner=DirectRunner", f"--beam_options={options}"],
  }.items():
    with monkeypatch.context() as patch:
      verb_flags.parsed(
        patch,
        "answer",
        f"--model={tmp_path}/llama",
        f"--facts={tmp_path}/facts.jsonl",
        f"--relations={tmp_path}/relations.jsonl",
        f"--output={tmp_path}/{name}.jsonl",
        *more,
      )
      answer.main([])
  assert (tmp_path / "beam.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()

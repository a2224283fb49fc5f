"""Models that answer in parts: the answers do not depend on how facts are cut, and a run that was
killed, or is shared by processes, writes the bytes of one that was not.
"""

import gzip
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tiny_folders
import verb_flags
from answered import stop_after

from factshock.answering import asking, parts
from factshock.answering.decoding import DecodingOptions
from factshock.answering.prompting import Prompting
from factshock.facts import relations as relation_files
from factshock.facts import schema, world
from factshock.runtime.errors import UserError

answer = importlib.import_module("factshock.answer")
ROOT = pathlib.Path(__file__).parents[1]
SHORT = DecodingOptions(max_length=4)
SAMPLE = DecodingOptions(max_length=4, method="sample", seed=3)
COUNT = 30


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("home")
  made = world.make_world(0, relations=2, subjects=40, answers=6, mean_mentions=3)
  schema.write_facts(folder / "facts.jsonl", made.facts[:COUNT])
  schema.write_facts(folder / "others.jsonl", made.facts[COUNT:])
  relation_files.write_relations(folder / "relations.jsonl", made.relations)
  tiny_folders.make(folder, made.sentences)
  return folder


def answered(home, output, monkeypatch, size, family="llama", **options):
  monkeypatch.setattr(parts, "SIZE", size)
  options = asking.AnswerOptions(
    **{"decoding": SHORT, "relations": str(home / "relations.jsonl"), **options}
  )
  tally = asking.answer_facts(str(home / family), str(home / "facts.jsonl"), str(output), options)
  rows = [json.loads(line) for line in output.read_text().splitlines()]
  assert tally.answers == len(rows) == COUNT
  return rows


METHODS = {
  "rank": {},
  "greedy": {"mode": "generate"},
  "sample": {"mode": "generate", "decoding": SAMPLE},
  "votes": {"mode": "votes", "samples": 3},
}


@pytest.mark.parametrize("method", METHODS)
def test_answers_do_not_depend_on_the_parts(home, tmp_path, monkeypatch, method):
  whole = answered(home, tmp_path / "whole.jsonl", monkeypatch, 2048, **METHODS[method])
  cut = answered(home, tmp_path / "cut.jsonl", monkeypatch, 7, **METHODS[method])
  assert [row["prediction"] for row in cut] == [row["prediction"] for row in whole]
  scores = [row["score"] for row in whole]
  assert [row["score"] for row in cut] == pytest.approx(scores, rel=1e-4)
  if method == "sample":
    others = {**METHODS[method], "decoding": DecodingOptions(4, method="sample", seed=4)}
    other = answered(home, tmp_path / "other.jsonl", monkeypatch, 7, **others)
    assert [row["prediction"] for row in other] != [row["prediction"] for row in whole]


def test_what_is_known_does_not_depend_on_the_parts(home, tmp_path, monkeypatch):
  options = asking.KnowledgeOptions(
    prompting=Prompting(shots=1, shot_facts=str(home / "others.jsonl")),
    max_tokens=4,
    sets=1,
    samples=2,
    relations=str(home / "relations.jsonl"),
  )
  facts = []
  for size in (2048, 8):
    monkeypatch.setattr(parts, "SIZE", size)
    output = str(tmp_path / f"{size}.csv")
    counts = asking.assess_knowledge(
      str(home / "llama"), str(home / "facts.jsonl"), output, options
    )
    assert sum(counts.values()) == COUNT
    facts.append(schema.read_facts(output))
  assert facts[0] == facts[1]


def run_verb(monkeypatch, home, output, *arguments, size=7):
  monkeypatch.setattr(parts, "SIZE", size)
  with monkeypatch.context() as patch:
    verb_flags.parsed(patch, "answer", *command(home, output), *arguments)
    answer.main([])


def command(home, output, facts="facts.jsonl"):
  return [
    f"--model={home}/llama",
    f"--facts={home}/{facts}",
    f"--relations={home}/relations.jsonl",
    f"--output={output}",
    "--method=greedy",
    "--max_tokens=4",
  ]


def test_notes_come_once_and_not_once_a_part(home, tmp_path, monkeypatch, capsys):
  stops = ["--stop=a", "--stop=e", "--stop=o", "--stop=i"]
  run_verb(monkeypatch, home, tmp_path / "out.jsonl", *stops)
  said = capsys.readouterr()
  assert said.out.count("have no accepted answer without a stop string") == 1
  assert f"of {COUNT} facts have" in said.out
  assert f"  {COUNT} questions in 5 parts\n" in said.out
  assert said.out.splitlines()[-1].startswith(f"{COUNT} answers, ")
  assert said.err.count(" a second") == 1


def test_a_run_goes_on_or_is_refused_or_begins_anew(home, tmp_path, monkeypatch, capsys):
  output = tmp_path / "out.jsonl"
  run_verb(monkeypatch, home, tmp_path / "whole.jsonl")
  expected = (tmp_path / "whole.jsonl").read_bytes()

  def stopped(*arguments):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
      stop_after(patch, 2)
      run_verb(monkeypatch, home, output, *arguments)

  stopped()
  facts = home / "facts.jsonl"
  written = facts.read_text()
  changed = written.replace(json.loads(written.splitlines()[20])["subject"], "Somebody")
  for arguments, name in [
    (("--max_tokens=5",), "max_length (4, 5)"),
    (("--method=beam",), "method (greedy, beam)"),
    (("--prompt=cloze",), "prompt (question, cloze)"),
    (("--arm=mine",), "arm (llama, mine)"),
    ((f"--model={home}/t5",), "model"),
    ((), "facts"),
  ]:
    facts.write_text(written if arguments else changed)
    with pytest.raises(UserError, match="--overwrite to begin anew") as caught:
      run_verb(monkeypatch, home, output, *arguments)
    assert name in str(caught.value).partition("here): ")[2]
  facts.write_text(written)
  run_verb(monkeypatch, home, output)
  assert output.read_bytes() == expected
  assert "2 of them answered before" in capsys.readouterr().out
  with pytest.raises(UserError, match="already exists"):
    run_verb(monkeypatch, home, output)
  stopped("--overwrite")
  assert output.read_bytes() == expected
  run_verb(monkeypatch, home, output, "--overwrite", "--max_tokens=5")
  assert "answered before" not in capsys.readouterr().out
  assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "whole.jsonl"]


def test_a_prompt_that_is_too_long_is_told_before_any_is_asked(home, tmp_path, monkeypatch):
  facts = schema.read_facts(home / "facts.jsonl")
  long = {**facts[0], "subject": "a b c " * 300}
  schema.write_facts(home / "long.jsonl", [*facts, long])
  with monkeypatch.context() as patch, pytest.raises(UserError, match="got [0-9]+; use fewer"):
    patch.setattr(parts, "run", None)
    run_verb(patch, home, tmp_path / "out.jsonl", f"--facts={home}/long.jsonl")
  assert list(tmp_path.iterdir()) == []


def test_a_missing_model_leaves_nothing(home, tmp_path, monkeypatch):
  with pytest.raises(UserError):
    run_verb(monkeypatch, home, tmp_path / "out.jsonl", f"--model={home}/none")
  assert list(tmp_path.iterdir()) == []


# Runs the verb with small parts.
PROGRAM = """\
import importlib, sys
from factshock.answering import parts
from factshock.runtime import console
answer = importlib.import_module("factshock.answer")
parts.SIZE = int(sys.argv.pop(1))
answer.define_flags()
console.run(answer.main)
"""


def start(home, output, facts, size):
  arguments = command(home, output, facts)
  environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  return subprocess.Popen(
    [sys.executable, "-c", PROGRAM, str(size), *arguments],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finished(process):
  said, _ = process.communicate(timeout=300)
  assert process.returncode == 0, said
  return said


@pytest.fixture(scope="module")
def by_one(home):
  """The file that one process writes of many facts."""
  made = world.make_world(1, relations=2, subjects=1500, answers=30, mean_mentions=3)
  schema.write_facts(home / "many.jsonl", made.facts)
  output = home / "one.jsonl.gz"
  finished(start(home, output, "many.jsonl", 256))
  with gzip.open(output, "rt") as file:
    assert sum(1 for _ in file) == len(made.facts)
  return output.read_bytes()


@pytest.mark.slow
def test_a_killed_run_writes_the_bytes_of_one_that_was_not(home, by_one, tmp_path):
  """By default tests/test_answering_parts.py kills a process with answers of no model."""
  output = tmp_path / "out.jsonl.gz"
  killed = start(home, output, "many.jsonl", 256)
  folder = pathlib.Path(f"{output}.parts")
  while len(list(folder.glob("*.jsonl.gz"))) < 2:
    assert killed.poll() is None, killed.communicate()
    time.sleep(0.05)
  killed.send_signal(signal.SIGKILL)
  killed.wait()
  assert "of them answered before" in finished(start(home, output, "many.jsonl", 256))
  assert output.read_bytes() == by_one and not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_write_the_bytes_of_one(home, by_one, tmp_path, count):
  """By default tests/test_answering_parts.py shares answers of no model."""
  output = tmp_path / "out.jsonl.gz"
  started = [start(home, output, "many.jsonl", 256) for _ in range(count)]
  said = [finished(process) for process in started]
  assert output.read_bytes() == by_one
  assert sum("written by another process" in text for text in said) == count - 1
  assert sum("answers, " in text for text in said) == 1

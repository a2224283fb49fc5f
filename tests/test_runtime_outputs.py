"""What is there already is written anew by --overwrite alone, and told before any work."""

import importlib
import json

import pytest
import verb_flags

from factshock.runtime.errors import UserError

ROWS = [
  {
    "subject": "a",
    "relation": "r",
    "object": "x",
    "prediction": "x",
    "candidates": [["x", -0.1], ["y", -2.3]],
  },
  {
    "subject": "b",
    "relation": "r",
    "object": "y",
    "prediction": "x",
    "candidates": [["x", -0.5], ["y", -0.9]],
  },
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  lines = "".join(json.dumps(row) + "\n" for row in ROWS)
  (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
  (tmp_path / "text.txt").write_text("a is x\nb is y\n", encoding="utf-8")
  return tmp_path


def run(monkeypatch, verb, *arguments):
  with monkeypatch.context() as patch:
    verb_flags.parsed(patch, verb, *arguments)
    importlib.import_module(f"factshock.{verb}").main([verb])


COMMANDS = {
  "correct": ["--predictions=rows.jsonl", "--reference=rows.jsonl", "--output=c.jsonl"],
  "count": ["--corpus=text.txt", "--facts=rows.jsonl", "--output=c.tsv", "--processes=1"],
  "diagnose": ["--predictions=rows.jsonl", "--output=d", "--resamples=100"],
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_an_output_is_written_anew_by_overwrite_alone(folder, monkeypatch, verb):
  command = COMMANDS[verb]
  run(monkeypatch, verb, *command)
  before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
  with pytest.raises(UserError, match="already exists; .* --overwrite to write it anew"):
    run(monkeypatch, verb, *command)
  assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
  run(monkeypatch, verb, *command, "--overwrite")


@pytest.mark.parametrize("name", ["report.html", "arms.csv"])
def test_a_diagnosis_leaves_the_files_of_a_study_alone(folder, monkeypatch, name):
  (folder / "d").mkdir()
  (folder / "d" / name).write_text("mine")
  with pytest.raises(UserError, match=f"d/{name}: already exists"):
    run(monkeypatch, "diagnose", *COMMANDS["diagnose"])
  assert (folder / "d" / name).read_text() == "mine"


def test_answers_are_not_asked_for_where_a_file_is(folder, monkeypatch):
  arguments = ["--model=nowhere/at/all", "--facts=rows.jsonl", "--output=rows.jsonl"]
  with pytest.raises(UserError, match="rows.jsonl: already exists"):
    run(monkeypatch, "answer", *arguments)
  with pytest.raises(UserError, match="nowhere/at/all"):
    run(monkeypatch, "answer", *arguments, "--overwrite")
  (folder / "quiz").mkdir()
  (folder / "quiz" / "mine").touch()
  with pytest.raises(UserError, match="quiz: already exists"):
    run(monkeypatch, "answer", *arguments[:2], "--output=new.jsonl", "--pub_quiz=quiz")


def test_an_interrupted_count_goes_on_without_overwrite(folder, monkeypatch):
  run(monkeypatch, "count", *COMMANDS["count"])
  (folder / "c.tsv.parts").mkdir()
  run(monkeypatch, "count", *COMMANDS["count"])
  assert not (folder / "c.tsv.parts").exists()

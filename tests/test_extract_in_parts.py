"""Extracting from a model: its answers are kept in parts until the extraction is whole, shared by
processes, and asked once.
"""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
import tiny_folders
import verb_flags
from answered import stop_after
from stand_in_server import serving

import factshock
from factshock.answering import candidates, parts, preparing
from factshock.facts import relations as relation_files
from factshock.facts import schema, world
from factshock.knowledge_graph import pipeline
from factshock.report import extraction_page
from factshock.runtime.errors import UserError

extract = importlib.import_module("factshock.extract")
ROOT = pathlib.Path(__file__).parents[1]
QUERIES = 20
PREDICTIONS = ("predictions.jsonl.gz", "calibration_predictions.jsonl.gz")
# Of an extraction that is whole, whose other files tell when it ran.
SAME = (*PREDICTIONS, "graph.tsv", "calibration.json")


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
  """They take most of the time."""
  monkeypatch.setattr(extraction_page, "write_report", lambda summary, folder: f"{folder}/none")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("home")
  made = world.make_world(0, relations=2, subjects=40, answers=6, mean_mentions=3)
  schema.write_facts(folder / "queries.jsonl", made.facts[:QUERIES])
  schema.write_facts(folder / "known.jsonl", made.facts[QUERIES:40])
  relation_files.write_relations(folder / "relations.jsonl", made.relations)
  tiny_folders.make(folder, made.sentences)
  return folder


def command(home, output):
  return [
    f"--model={home}/llama",
    f"--queries={home}/queries.jsonl",
    f"--calibration={home}/known.jsonl",
    f"--relations={home}/relations.jsonl",
    f"--output={output}",
    "--method=greedy",
    "--max_tokens=4",
    "--rule=f1",
  ]


@pytest.fixture
def seen(monkeypatch):
  """What the model is asked, (subject, relation) of each."""
  asked = []
  rows = candidates.rows

  def noting(model, origin, facts, *arguments, **options):
    asked.extend((fact["subject"], fact["relation"]) for fact in facts)
    return rows(model, origin, facts, *arguments, **options)

  monkeypatch.setattr(candidates, "rows", noting)
  return asked


def run(monkeypatch, home, output, *arguments):
  monkeypatch.setattr(parts, "SIZE", 7)
  with monkeypatch.context() as patch:
    verb_flags.parsed(patch, "extract", *command(home, output), *arguments)
    extract.main([])


def contents(folder):
  return {name: (folder / name).read_bytes() for name in SAME}


def test_a_stopped_run_goes_on_or_is_refused_or_begins_anew(
  home, tmp_path, monkeypatch, seen, capsys
):
  run(monkeypatch, home, tmp_path / "whole")
  assert len(seen) == len(set(seen)) == 40
  folder = tmp_path / "graph"

  def stopped(*arguments):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
      stop_after(patch, 3)
      run(monkeypatch, home, folder, *arguments)
    return seen.clear()

  stopped()
  assert [path.name for path in folder.iterdir()] == [f"{PREDICTIONS[0]}.parts"]
  for argument, shown in [
    ("--max_tokens=5", "max_tokens (4, 5)"),
    ("--method=beam", "method (greedy, beam)"),
    (f"--model={home}/t5", "model"),
    (f"--queries={home}/known.jsonl --calibration={home}/queries.jsonl", "queries"),
  ]:
    with pytest.raises(UserError, match="answers to other questions") as caught:
      run(monkeypatch, home, folder, *argument.split())
    assert shown in str(caught.value).partition("here): ")[2]
  assert not seen
  run(monkeypatch, home, folder)
  assert len(seen) == 40 - 3 * 7
  assert "40 questions in 6 parts, 3 of them answered before" in capsys.readouterr().out
  assert contents(folder) == contents(tmp_path / "whole")
  assert not list(folder.glob("*.parts*"))
  with pytest.raises(UserError, match="holds an extraction already"):
    run(monkeypatch, home, folder)
  stopped("--overwrite")
  with pytest.raises(UserError, match="holds an extraction already"):
    run(monkeypatch, home, folder)
  run(monkeypatch, home, folder, "--overwrite")
  assert len(seen) == 40 and contents(folder) == contents(tmp_path / "whole")
  assert not list(folder.glob("*.parts*"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("disk")])
def test_an_extraction_that_does_not_end_keeps_its_answers(
  home, tmp_path, monkeypatch, seen, error
):
  run(monkeypatch, home, tmp_path / "whole")
  folder = tmp_path / "graph"

  def fail(*arguments):
    raise error

  with monkeypatch.context() as patch:
    patch.setattr(pipeline, "write_summary", fail)
    with pytest.raises(type(error) if isinstance(error, UserError) else error):
      run(patch, home, folder)
  (folder / pipeline.UNFINISHED).write_text("")  # as a killed one leaves it
  os.utime(folder / pipeline.UNFINISHED, (0, 0))
  seen.clear()
  run(monkeypatch, home, folder, "--rule=precision", "--precision=0.5")
  assert not seen
  for name in PREDICTIONS:
    assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
  assert json.loads((folder / "extraction.json").read_text())["promise"]["target"] == 0.5
  assert not list(folder.glob("*.parts*"))


def test_a_missing_model_leaves_nothing(home, tmp_path, monkeypatch):
  with pytest.raises(UserError):
    run(monkeypatch, home, tmp_path / "graph", f"--model={home}/none")
  assert list(tmp_path.iterdir()) == []


def test_who_finds_it_extracted_says_so(home, tmp_path, monkeypatch, capsys):
  """As processes that were started alike do, of which another one extracts."""
  folder = tmp_path / "graph"
  run(monkeypatch, home, folder)
  monkeypatch.setattr("factshock.interface.extracting.check_new", lambda *_, **__: None)
  monkeypatch.setattr(parts, "run", lambda *_: None)
  capsys.readouterr()
  run(monkeypatch, home, folder)
  assert capsys.readouterr().out == f"extracted by another process: {folder}\n"
  graph = factshock.extract(
    factshock.load(home / "llama"),
    home / "known.jsonl",
    queries=home / "queries.jsonl",
    relations=home / "relations.jsonl",
    output=folder,
  )
  assert len(graph.triples) == len((folder / "graph.tsv").read_text().splitlines())


COUNTED = ("requests", "tokens_asked", "tokens_answered")


def test_what_a_server_was_asked_is_stored_of_all_runs(home, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(preparing, "_SERVED_PART", 7)
  with serving() as server:
    source = f"--model={server.source()}"
    run(monkeypatch, home, tmp_path / "whole", source)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
      stop_after(patch, 3)
      run(patch, home, tmp_path / "graph", source)
    capsys.readouterr()
    run(monkeypatch, home, tmp_path / "graph", source)
  assert " tokens asked and " in capsys.readouterr().err
  asked = [
    json.loads((tmp_path / name / "extraction.json").read_text())["asked"]
    for name in ("whole", "graph")
  ]
  seconds = [numbers.pop("seconds") for numbers in asked]
  assert min(seconds) >= 0
  counts = [{name: numbers.pop(name) for name in COUNTED} for numbers in asked]
  assert asked[0] == asked[1]
  # The part that was interrupted was asked twice.
  assert counts[1]["requests"] == counts[0]["requests"] + 7
  assert all(counts[1][name] > counts[0][name] for name in COUNTED)
  asked = counts
  assert asked[0]["requests"] >= 1 and asked[0]["tokens_asked"] > asked[0]["tokens_answered"] > 0


PROGRAM = """\
import importlib, sys
from factshock.answering import parts
from factshock.runtime import console
extract = importlib.import_module("factshock.extract")
parts.SIZE = 7
extract.define_flags()
console.run(extract.main)
"""


def start(home, output):
  environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  return subprocess.Popen(
    [sys.executable, "-c", PROGRAM, *command(home, output)],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@pytest.mark.slow
@pytest.mark.parametrize("awaited", ["*.parts/00001.jsonl.gz", pipeline.UNFINISHED])
def test_a_killed_run_goes_on(home, tmp_path, monkeypatch, awaited):
  """Killed while it asks, and while it extracts."""
  run(monkeypatch, home, tmp_path / "whole")
  folder = tmp_path / "graph"
  killed = start(home, folder)
  while not list(folder.glob(awaited)):
    assert killed.poll() is None, killed.communicate()
    time.sleep(0.01)
  killed.kill()
  killed.wait()
  assert not (folder / pipeline.SUMMARY).exists()
  again = start(home, folder)
  said, _ = again.communicate(timeout=300)
  assert again.returncode == 0 and "of them answered before" in said, said
  assert contents(folder) == contents(tmp_path / "whole")
  assert not list(folder.glob("*.parts*"))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_asking_and_one_extracts(home, tmp_path, monkeypatch, count):
  run(monkeypatch, home, tmp_path / "whole")
  started = [start(home, tmp_path / "graph") for _ in range(count)]
  said = [process.communicate(timeout=300)[0] for process in started]
  assert [process.returncode for process in started] == [0] * count, said
  assert sum("extracted by another process" in text for text in said) == count - 1
  assert contents(tmp_path / "graph") == contents(tmp_path / "whole")

"""The experiment verb end to end on a tiny world: results, resuming, and workdirs that do not fit."""

import gzip
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

import tiny
from factshock.facts import schema

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def environment():
  # The devices are those of the config, not those of the tests.
  return {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}


def command(workdir, *flags):
  return [sys.executable, "-m", "factshock.experiment", "--config=tests/tiny.py", f"--workdir={workdir}", *flags]


def run(environment, workdir, *flags):
  return subprocess.run(command(workdir, *flags), cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(environment, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "tiny"
  done = run(environment, workdir)
  assert done.returncode == 0, done.stderr + done.stdout
  return workdir, done


def predictions(workdir):
  return {path.name: path.read_bytes() for path in sorted((workdir / "predictions").iterdir())}


def test_the_run_prints_the_table_and_says_where_the_report_is(finished):
  workdir, done = finished
  for name in tiny.KEEP:
    assert re.search(rf"^  {name} +\d+ ", done.stdout, re.M), done.stdout
  assert f"report: {workdir}/report.html" in done.stdout
  assert "Warning" not in done.stderr and "WARNING" not in done.stderr, done.stderr


def test_the_workdir_holds_every_file_of_the_plan(finished):
  workdir, _ = finished
  for name in ("config.json", "diagnosis.json", "report.html", "facts/0/test.jsonl", "facts/0/relations.jsonl",
               "facts/0/counts.tsv", "tokenizer/0/tokenizer.json", "metrics/finetune/0/metrics.jsonl",
               "predictions/finetune@4.seed0.test.jsonl.gz", "checkpoints/pretrained/0/30"):
    assert (workdir / name).exists(), name
  assert list((workdir / "figures").glob("*.png"))


def test_the_diagnosis_holds_all_arms_points_and_choices(finished):
  found = json.loads((finished[0] / "diagnosis.json").read_text())
  assert set(found["table"]) >= set(tiny.KEEP)
  assert [row["step"] for row in found["curves"]["steps"]["finetune"]] == [0, 4, 8]
  assert [row["alpha"] for row in found["curves"]["alpha"]["combined"]] == [0, .5, 1]
  for label, by_seed in found["selected"].items():
    kind = "alpha" if label in ("weight_mixing", "output_mixing", "combined") else "step"
    assert set(by_seed["0"]) == {kind, "development"}


def test_the_ends_of_a_mixing_curve_are_the_models_it_mixes(finished):
  found = json.loads((finished[0] / "diagnosis.json").read_text())["arms"]
  for mixing in ("weight_mixing", "output_mixing"):
    assert found[f"{mixing}@0"]["exact_match"]["mean"] == found["zero_shot_question"]["exact_match"]["mean"]
    assert found[f"{mixing}@1"]["exact_match"]["mean"] == found["finetune"]["exact_match"]["mean"]


def test_a_second_run_skips_what_is_done(finished, environment):
  workdir, _ = finished
  before = {path: path.stat().st_mtime_ns for path in (workdir / "predictions").iterdir()}
  done = run(environment, workdir)
  count = len(tiny.KEEP) + 1
  assert f"{count} stages, {count} of them done before" in done.stdout
  assert before == {path: path.stat().st_mtime_ns for path in (workdir / "predictions").iterdir()}


@pytest.mark.parametrize("when", [
    "checkpoints/mixture/0/4", pytest.param("checkpoints/pretrained/0/10", marks=pytest.mark.slow),
    pytest.param("predictions/weight_mixing@0.5.seed0.test.jsonl.gz", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_same_predictions(finished, environment, tmp_path, when):
  """SIGKILL as soon as a file is there; the rerun must end with the bytes of the run that was not killed."""
  workdir = tmp_path / "killed"
  process = subprocess.Popen(command(workdir), cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
  deadline = time.monotonic() + 120
  while not (workdir / when).exists() and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert (workdir / when).exists() and not (workdir / "report.html").exists()
  done = run(environment, workdir)
  assert done.returncode == 0, done.stderr
  assert predictions(workdir) == predictions(finished[0])


def test_a_workdir_of_another_experiment_is_refused(finished, environment):
  workdir, _ = finished
  before = (workdir / "config.json").read_bytes()
  done = run(environment, workdir, "--config.finetune.learning_rate=0.01")
  assert done.returncode == 2 and "Traceback" not in done.stderr
  assert "config.finetune.learning_rate: 0.0003, 0.01" in done.stderr
  assert (workdir / "config.json").read_bytes() == before


def test_a_folder_of_other_files_is_refused(environment, tmp_path):
  (tmp_path / "thesis.txt").write_text("mine")
  done = run(environment, tmp_path)
  assert done.returncode == 2 and "choose another --workdir" in done.stderr
  assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("mode", ["rank", "generate"])
def test_answer_verb_asks_a_checkpoint(finished, environment, tmp_path, mode):
  """Ranking by the verb gives the predictions the experiment wrote, when it ranks the same candidates."""
  workdir, _ = finished
  output = tmp_path / "answers.jsonl"
  done = subprocess.run(
      [sys.executable, "-m", "factshock.answer", "--config=tests/tiny.py", f"--mode={mode}", f"--output={output}",
       f"--checkpoint={workdir}/checkpoints/finetune/0", f"--facts={workdir}/facts/0/test.jsonl"],
      cwd=ROOT, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert str(output) in done.stdout
  facts = (workdir / "facts/0/test.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in output.read_text().splitlines()]
  assert [row["subject"] for row in rows] == [json.loads(line)["subject"] for line in facts]


def test_answer_verb_refuses_a_checkpoint_of_another_model(finished, environment, tmp_path):
  workdir, _ = finished
  done = subprocess.run(
      [sys.executable, "-m", "factshock.answer", "--config=tests/tiny.py", "--config.model.d_ff=24",
       f"--output={tmp_path}/a.jsonl", f"--checkpoint={workdir}/checkpoints/finetune/0",
       f"--facts={workdir}/facts/0/test.jsonl"], cwd=ROOT, env=environment, capture_output=True, text=True)
  assert done.returncode == 2 and "Traceback" not in done.stderr and "shape" in done.stderr
  assert not list(tmp_path.iterdir())


def test_mixing_chosen_on_facts_has_the_curve_of_the_experiment(finished, tmp_path, environment):
  """The verb's shares right are those of the arm that mixes the same two models, with the same candidates."""
  workdir, _ = finished
  sets = [schema.read_facts(workdir / "facts" / "0" / f"{name}.jsonl") for name in ("pool", "development", "test")]
  schema.write_facts(tmp_path / "all.jsonl", [fact for facts in sets for fact in facts])
  folders = [str(workdir / "checkpoints" / name / "0") for name in ("pretrained", "finetune")]
  done = subprocess.run([sys.executable, "-m", "factshock.mix", f"--checkpoints={','.join(folders)}", "--alphas=0,0.5,1", "--prompt=question",
                         f"--select={workdir}/facts/0/development.jsonl", f"--candidates={tmp_path}/all.jsonl", f"--output={tmp_path}/mixed"],
                        cwd=ROOT, capture_output=True, text=True, env=environment)
  assert done.returncode == 0, done.stderr
  expected = []
  for alpha in ("0", "0.5", "1"):
    with gzip.open(workdir / "predictions" / f"weight_mixing@{alpha}.seed0.development.jsonl.gz", "rt") as file:
      rows = [json.loads(line) for line in file]
    expected.append(f"{alpha} {sum(row['prediction'] == row['object'] for row in rows) / len(rows):.3f}")
  assert "right on development by alpha: " + ", ".join(expected) in done.stdout
  assert json.loads((tmp_path / "mixed" / "mix.json").read_text())["weights"][1] in (0, .5, 1)

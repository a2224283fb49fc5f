"""The experiment verb end to end on a tiny world: results, resuming, and workdirs that do not
fit.
"""

import gzip
import json
import pathlib
import random as random_numbers
import re
import signal
import subprocess
import sys
import time

import answered
import jax
import programs
import pytest
import tiny

from factshock.facts import schema
from factshock.runtime import interruption, provenance
from factshock.study import finetuning, weights

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def environment():
  # The devices are those of the config, not those of the tests.
  return programs.environment()


def command(workdir, *flags):
  return [
    sys.executable,
    "-m",
    "factshock.experiment",
    "--config=tests/helpers/tiny.py",
    f"--workdir={workdir}",
    *flags,
  ]


def run(environment, workdir, *flags):
  return subprocess.run(
    command(workdir, *flags), cwd=ROOT, env=environment, capture_output=True, text=True
  )


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
    assert re.search(rf"^  {name} +[-\d]", done.stdout, re.M), done.stdout
  assert "\nFinetuning: Finetuning " in done.stdout, "sentences come before the tables"
  assert f"report: {workdir}/report.html" in done.stdout
  assert "Warning" not in done.stderr and "WARNING" not in done.stderr, done.stderr


def test_the_workdir_holds_every_file_of_the_plan(finished):
  workdir, _ = finished
  for name in (
    "config.json",
    "diagnosis.json",
    "report.html",
    "facts/0/test.jsonl",
    "facts/0/relations.jsonl",
    "facts/0/counts.tsv",
    "tokenizer/0/tokenizer.json",
    "metrics/finetune/0/metrics.jsonl",
    "predictions/finetune@4.seed0.test.jsonl.gz",
    "checkpoints/pretrained/0/30",
  ):
    assert (workdir / name).exists(), name
  assert list((workdir / "figures").glob("*.svg"))


def test_the_diagnosis_holds_all_arms_points_and_choices(finished):
  found = json.loads((finished[0] / "diagnosis.json").read_text())
  assert set(found["table"]) >= set(tiny.KEEP)
  assert [row["step"] for row in found["curves"]["steps"]["finetune"]] == [0, 4, 8]
  assert [row["alpha"] for row in found["curves"]["alpha"]["combined"]] == [0, 0.5, 1]
  for label, by_seed in found["selected"].items():
    kind = "alpha" if label in ("weight_mixing", "output_mixing", "combined") else "step"
    assert set(by_seed["0"]) == {kind, "development"}


def test_the_ends_of_a_mixing_curve_are_the_models_it_mixes(finished):
  found = json.loads((finished[0] / "diagnosis.json").read_text())["arms"]
  for mixing in ("weight_mixing", "output_mixing"):
    assert (
      found[f"{mixing}@0"]["exact_match"]["mean"]
      == found["zero_shot_question"]["exact_match"]["mean"]
    )
    assert found[f"{mixing}@1"]["exact_match"]["mean"] == found["finetune"]["exact_match"]["mean"]


def test_a_second_run_skips_what_is_done(finished, environment):
  workdir, _ = finished
  before = {path: path.stat().st_mtime_ns for path in (workdir / "predictions").iterdir()}
  done = run(environment, workdir)
  count = len(tiny.KEEP) + 1
  assert f"{count} stages, {count} of them done before" in done.stdout
  assert before == {path: path.stat().st_mtime_ns for path in (workdir / "predictions").iterdir()}


def wait_for(holds, process, seconds=120):
  deadline = time.monotonic() + seconds
  while not holds() and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.002)


@pytest.mark.parametrize(
  "when",
  [
    "checkpoints/mixture/0/4",
    pytest.param("checkpoints/pretrained/0/10", marks=pytest.mark.slow),
    pytest.param("predictions/weight_mixing@0.5.seed0.test.jsonl.gz", marks=pytest.mark.slow),
  ],
)
def test_a_killed_run_goes_on_to_the_same_predictions(finished, environment, tmp_path, when):
  """SIGKILL as soon as a file is there; the rerun must end with the bytes of the run that was not
  killed.
  """
  workdir = tmp_path / "killed"
  process = subprocess.Popen(
    command(workdir), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
  )
  wait_for(lambda: (workdir / when).exists(), process)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert (workdir / when).exists() and not (workdir / "report.html").exists()
  done = run(environment, workdir)
  assert done.returncode == 0, done.stderr
  assert predictions(workdir) == predictions(finished[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", interruption.SIGNALS)
@pytest.mark.parametrize("when", ["mixture@0", "weight_mixing@0"])
def test_a_signal_ends_the_run_with_its_code_and_the_same_command_goes_on(
  finished, environment, tmp_path, number, when
):
  """Asked during finetuning, and during the answers of an arm."""
  began = subprocess.Popen(
    command(tmp_path / "run"),
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  wait_for((tmp_path / "run" / "predictions" / f"{when}.seed0.test.jsonl.gz").exists, began)
  began.send_signal(number)
  _, said = began.communicate(timeout=120)
  assert (
    began.returncode == interruption.EXIT_CODE
    and f"stopped by {number.name}: run the same command again" in said
  )
  assert run(environment, tmp_path / "run").returncode == 0
  assert predictions(tmp_path / "run") == predictions(finished[0])


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_share_a_workdir_without_double_work(finished, environment, tmp_path, killed):
  """Both start at once; one may be killed in the middle, and the other takes over what it was
  at.
  """
  workdir = tmp_path / "shared"
  both = [
    subprocess.Popen(
      command(workdir, "--config.seeds=2"),
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for _ in range(2)
  ]
  if killed:
    wait_for((workdir / "predictions" / "finetune@0.seed1.test.jsonl.gz").exists, both[0])
    both[0].kill()
  said = [process.communicate(timeout=500)[0] for process in both]
  assert both[1].returncode == 0 and (killed or both[0].returncode == 0), said
  ran = re.findall(r"(?m)^seed (\d): (\w+) \(", "\n".join(said))
  assert len(set(ran)) == 2 * (len(tiny.KEEP) + 1) and (killed or len(ran) == len(set(ran)))
  assert killed or all(re.search(r"(?m)^seed \d: \w+ \(", words) for words in said), "both worked"
  mine = {name: data for name, data in predictions(workdir).items() if ".seed0." in name}
  assert mine == predictions(finished[0]) and not list((workdir / "claims").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["mesh", "pmap"])
def test_twenty_kills_at_random_moments_change_no_bit(parallel, environment, tmp_path):
  """One run of packed mixture finetuning that saves every third step, killed in steps and in saves
  alike.
  """

  def train(workdir, **pipes):
    flags = [
      f"--config.parallel={parallel}",
      "--config.finetune.steps=150",
      "--config.finetune.checkpoint_every=3",
      "--config.finetune.pack=True",
      "--config.finetune.log_every=1",
    ]
    return subprocess.Popen(
      [
        sys.executable,
        "-m",
        "factshock.train",
        "--config=tests/helpers/tiny.py",
        f"--workdir={workdir}",
        "--ratio=1",
        *flags,
      ],
      cwd=ROOT,
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )

  def result(workdir):
    rows = map(json.loads, (workdir / "metrics/finetuned/0/metrics.jsonl").read_text().splitlines())
    manifest = json.loads((workdir / "checkpoints/finetuned/0/150/manifest.json").read_text())
    return (
      {name: leaf["digest"] for name, leaf in manifest["leaves"].items()},
      manifest["loader_state"],
      [(row["step"], row["loss"], row["gradient_norm"]) for row in rows],
    )

  random, folder, in_saves = (
    random_numbers.Random(0),
    tmp_path / "killed/checkpoints/finetuned/0",
    0,
  )
  for _ in range(20):
    process, there = train(tmp_path / "killed"), set(folder.iterdir()) if folder.exists() else set()
    wait_for(lambda: folder.exists() and set(folder.iterdir()) - there, process)
    time.sleep(random.uniform(0, 0.3))
    assert process.poll() is None, process.communicate()[1]
    process.kill()
    process.communicate()
    in_saves += any(path.name.startswith(".saving") for path in folder.iterdir())
  for workdir in ("killed", "whole"):
    process = train(tmp_path / workdir)
    assert process.communicate()[1] == "" and process.returncode == 0
  assert result(tmp_path / "killed") == result(tmp_path / "whole")
  assert in_saves, "some kills fell into a save"


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


@pytest.mark.parametrize("method", ["rank", "greedy"])
def test_answer_verb_asks_a_checkpoint(finished, environment, tmp_path, method):
  """Ranking by the verb gives the predictions the experiment wrote, when it ranks the same
  candidates.
  """
  workdir, _ = finished
  output = tmp_path / "answers.jsonl"
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "factshock.answer",
      "--config=tests/helpers/tiny.py",
      f"--method={method}",
      f"--output={output}",
      f"--model={workdir}/checkpoints/finetune/0",
      f"--facts={workdir}/facts/0/test.jsonl",
    ],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert str(output) in done.stdout
  facts = (workdir / "facts/0/test.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in output.read_text().splitlines()]
  assert [row["subject"] for row in rows] == [json.loads(line)["subject"] for line in facts]
  if method == "rank":
    assert "among " in done.stdout and "/facts/0/pool.jsonl" in done.stdout
    with gzip.open(workdir / "predictions" / "finetune@8.seed0.test.jsonl.gz", "rt") as file:
      written = [json.loads(line) for line in file]
    columns = ("prediction", "among")
    for row, expected in zip(rows, written, strict=True):
      assert [row[name] for name in columns] == [expected[name] for name in columns]
      assert row["score"] == pytest.approx(expected["score"], abs=1e-4)


def test_a_config_that_is_given_cuts_the_weights_of_the_model_that_is_asked(finished, tmp_path):
  """As --config.mesh.fsdp=2 does: the answers are those of a model that is whole on each device."""
  from factshock.answering import asking
  from factshock.checkpoints import loading
  from tests.helpers import tiny

  config, found = tiny.get_config(), {}
  for fsdp in (1, 2):
    config.mesh.fsdp = fsdp
    checkpoint = f"{finished[0]}/checkpoints/finetune/0"
    assert loading.open_model(checkpoint, config)[0].mesh.shape["fsdp"] == fsdp
    found[fsdp] = answered.answer_facts(
      checkpoint,
      f"{finished[0]}/facts/0/test.jsonl",
      str(tmp_path / f"{fsdp}.jsonl"),
      asking.AnswerOptions(),
      config=config,
    )
  assert [row["prediction"] for row in found[1]] == [row["prediction"] for row in found[2]]
  assert [row["score"] for row in found[2]] == pytest.approx(
    [row["score"] for row in found[1]], abs=1e-4
  )


def test_answer_verb_refuses_a_checkpoint_of_another_model(finished, environment, tmp_path):
  workdir, _ = finished
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "factshock.answer",
      "--config=tests/helpers/tiny.py",
      "--config.model.d_ff=24",
      f"--output={tmp_path}/a.jsonl",
      f"--model={workdir}/checkpoints/finetune/0",
      f"--facts={workdir}/facts/0/test.jsonl",
    ],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2 and "Traceback" not in done.stderr and "shape" in done.stderr
  assert not list(tmp_path.iterdir())


def test_mixing_chosen_on_facts_has_the_curve_of_the_experiment(finished, tmp_path, environment):
  """The verb's shares right are those of the arm that mixes the same two models, with the same
  candidates.
  """
  workdir, _ = finished
  sets = [
    schema.read_facts(workdir / "facts" / "0" / f"{name}.jsonl")
    for name in ("pool", "development", "test")
  ]
  schema.write_facts(tmp_path / "all.jsonl", [fact for facts in sets for fact in facts])
  folders = [str(workdir / "checkpoints" / name / "0") for name in ("pretrained", "finetune")]
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "factshock.mix",
      f"--models={','.join(folders)}",
      "--alphas=0,0.5,1",
      "--prompt=question",
      f"--select={workdir}/facts/0/development.jsonl",
      f"--candidates={tmp_path}/all.jsonl",
      "--candidates_only",
      f"--output={tmp_path}/mixed",
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=environment,
  )
  assert done.returncode == 0, done.stderr
  assert f" from {tmp_path}/all.jsonl\n" in done.stdout
  expected = []
  for alpha in ("0", "0.5", "1"):
    with gzip.open(
      workdir / "predictions" / f"weight_mixing@{alpha}.seed0.development.jsonl.gz", "rt"
    ) as file:
      rows = [json.loads(line) for line in file]
    expected.append(
      f"{alpha} {sum(row['prediction'] == row['object'] for row in rows) / len(rows):.3f}"
    )
  assert "right on development by alpha: " + ", ".join(expected) in done.stdout
  assert json.loads((tmp_path / "mixed" / "mix.json").read_text())["weights"][1] in (0, 0.5, 1)


@pytest.mark.slow
def test_training_the_first_steps_twice_gives_the_same_bits(monkeypatch):
  config = tiny.get_config()
  config.cpu_devices = 0
  assert finetuning.reproducible(config, ratio=1.0, steps=3) == []
  fresh, count = weights.random_params, iter(range(2))
  monkeypatch.setattr(
    weights,
    "random_params",
    lambda made: {**fresh(made), "head": fresh(made)["head"] + 1e-6 * next(count)},
  )
  assert "head" in finetuning.reproducible(config, steps=3)


def test_every_start_is_recorded_with_its_code(tmp_path):
  provenance.append_run(tmp_path / "runs.jsonl", provenance.describe_run())
  provenance.append_run(tmp_path / "runs.jsonl", {**provenance.describe_run(), "seed": 3})
  first, second = map(json.loads, (tmp_path / "runs.jsonl").read_text().splitlines())
  assert (
    second["seed"] == 3
    and first["versions"]["jax"] == jax.__version__
    and first["device"].startswith("8 x cpu")
  )
  head = subprocess.run(
    ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
  ).stdout.strip()
  assert first["revision"].rstrip("+") == (head or "unknown")

"""The experiment verb on files of facts, relations and text; the files are written from a small
world.
"""

import gzip
import json
import pathlib
import subprocess
import sys

import programs
import pytest
import tiny_own

from factshock.data import mixture
from factshock.devices import partitioning
from factshock.facts import relations as relation_files
from factshock.facts import schema, world
from factshock.runtime.workdir import Workdir
from factshock.study import checks, seed_run

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Facts without popularity, relations in LAMA's layout, gzipped text."""
  folder = tmp_path_factory.mktemp("own")
  made = world.make_world(0, relations=2, subjects=40, answers=6, mean_mentions=3)
  schema.write_facts(
    folder / "facts.jsonl",
    [{key: fact[key] for key in ("subject", "relation", "object")} for fact in made.facts],
  )
  rows = [
    {"relation": name, "template": row["statements"][0], "paraphrases": row["statements"][1:]}
    for name, row in made.relations.items()
  ]
  (folder / "relations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  with gzip.open(folder / "text.txt.gz", "wt") as file:
    file.writelines(sentence + "\n" for sentence in made.sentences)
  return folder


def run(files, workdir, *flags, config="tests/helpers/tiny_own.py"):
  paths = {"facts": "facts.jsonl", "relations": "relations.jsonl", "corpus": "text.txt.gz"}
  given = [
    f"--config.{name}={files / path}"
    for name, path in paths.items()
    if not any(flag.startswith(f"--config.{name}=") for flag in flags)
  ]
  return subprocess.run(
    [
      sys.executable,
      "-m",
      "factshock.experiment",
      f"--config={config}",
      f"--workdir={workdir}",
      *given,
      *flags,
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=programs.environment(),
  )


def test_own_files_run_to_the_report_and_changed_files_are_noticed(files, tmp_path):
  done = run(files, tmp_path / "own")
  assert done.returncode == 0, done.stderr + done.stdout
  assert "windows of text hold the two ends of" in done.stdout
  assert "facts without popularity: taken as how often" in done.stdout
  assert f"report: {tmp_path}/own/report.html" in done.stdout
  assert relation_files.read_relations(tmp_path / "own/facts/0/relations.jsonl")
  assert (
    json.loads((tmp_path / "own/diagnosis.json").read_text())["arms"]["combined"]["queries"] == 30
  )
  right = {
    label: share_right(tmp_path / f"own/predictions/{label}.seed0.development.jsonl.gz")
    for label in ("best_cloze", "zero_shot")
  }
  assert (
    right["best_cloze"] >= right["zero_shot"]
  )  # its first statement is one of those to choose from
  assert "right on development" in done.stdout
  more = tmp_path / "facts.jsonl"
  more.write_text((files / "facts.jsonl").read_text().replace("\n", "\n\n", 1))
  again = run(files, tmp_path / "own", f"--config.facts={more}")
  assert again.returncode == 2 and "config.inputs.facts" in again.stderr


def share_right(path):
  with gzip.open(path, "rt") as file:
    rows = [json.loads(line) for line in file]
  return sum(row["prediction"] == row["object"] for row in rows) / len(rows)


def change(files, tmp_path, name, old, new):
  path = tmp_path / name
  path.write_text((files / name).read_text().replace(old, new, 1))
  return path


@pytest.mark.parametrize(
  "name, old, new, expected",
  [
    ("facts.jsonl", '"born_in"', '"bron_in"', "bron_in"),
    ("facts.jsonl", '"object"', '"objekt"', "facts.jsonl:1: "),
    ("facts.jsonl", "}", "", "facts.jsonl:1: "),
    ("relations.jsonl", "[X]", "[Z]", "relations.jsonl:1: "),
  ],
)
def test_a_mistake_in_a_file_is_one_error_that_names_the_place(
  files, tmp_path, name, old, new, expected
):
  path = change(files, tmp_path, name, old, new)
  done = run(files, tmp_path / "own", f"--config.{path.stem}={path}")
  assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr, (
    done.stderr
  )
  assert not (tmp_path / "own" / "checkpoints").exists()


def test_a_workdir_whose_run_ended_before_training_can_be_used_again(files, tmp_path):
  path = change(files, tmp_path, "facts.jsonl", '"born_in"', '"bron_in"')
  assert run(files, tmp_path / "own", f"--config.facts={path}").returncode == 2
  done = run(files, tmp_path / "own", f"--config.corpus={tmp_path}/none.txt")
  assert done.returncode == 2 and "another experiment" not in done.stderr


def test_a_missing_corpus_and_a_text_of_something_else_are_said(files, tmp_path):
  done = run(files, tmp_path / "a", f"--config.corpus={tmp_path}/none.txt")
  assert done.returncode == 2 and "no such file" in done.stderr
  (tmp_path / "other.txt").write_text("Nothing of that kind.\n")
  done = run(files, tmp_path / "b", f"--config.corpus={tmp_path}/other.txt")
  assert done.returncode == 2 and "is it the right text?" in done.stderr


@pytest.mark.parametrize("masking", ["spans", "salient"])
def test_several_corpora_give_their_shares_of_the_pretraining_task(files, tmp_path, masking):
  """The second text holds a sentence in capitals alone, so that its examples can be told."""
  texts = gzip.open(files / "text.txt.gz", "rt").read().splitlines()
  (tmp_path / "loud.jsonl").write_text(
    "".join(json.dumps({"text": f"{text} LOUD LOUD LOUD"}) + "\n" for text in texts)
  )
  config = tiny_own.get_config()
  config.facts, config.relations = str(files / "facts.jsonl"), str(files / "relations.jsonl")
  config.corpus, config.corpus_weights = f"{files}/text.txt.gz,{tmp_path}/loud.jsonl", (3, 1)
  config.pretrain.masking, config.pretrain.object_share = masking, 1.0
  config.pretrain.subject_share = 0.0
  checks.check(config)
  study = seed_run.prepare(config, Workdir(str(tmp_path / "run")), 0, partitioning.make_mesh())
  sources, shares = zip(*study.texts("whole"))
  assert shares == (0.75, 0.25) and [source.name for source in sources] == ["corpus", "corpus 2"]
  batch = next(
    mixture.batches(sources, shares, batch_size=64, input_length=40, target_length=40, seed=0)
  )
  loud = [
    any("LOUD" in study.tokenizer.decode(batch[side][row]) for side in batch if side != "weights")
    for row in range(64)
  ]
  assert (
    sum(loud[row] for row in range(64)) == 16 or masking == "salient" and 8 < sum(loud) <= 16
  )  # a window may leave it out
  assert len(list((tmp_path / "run" / "corpus").iterdir())) == 2


@pytest.mark.slow
def test_questions_are_asked_for_where_the_config_asks_questions(files, tmp_path):
  done = run(files, tmp_path / "own", config="tests/helpers/tiny_own.py:question")
  assert done.returncode == 2 and "questions" in done.stderr and "Traceback" not in done.stderr

"""The extract verb, from files to files: what is written, what is promised, what is refused."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
import verb_flags
from test_knowledge_graph_extraction import world

from factshock.interface import extracting
from factshock.knowledge_graph import canonical, formats, pipeline
from factshock.predictions import accuracy
from factshock.runtime import locks
from factshock.runtime.errors import UserError

MODEL = {"model": "simulated", "checkpoint": "abc", "mixing_weights": [0.5, 0.5]}


def rows_of(answers, labelled=True):
  """The rows of a predictions file that Answers could have been read from."""
  for query, subject in enumerate(answers.subjects):
    places = np.flatnonzero(answers.query_N == query)
    listed = [[answers.texts[place], float(answers.score_N[place])] for place in places]
    row = {
      "subject": subject,
      "subject_id": f"Q{query + 1}",
      "relation": answers.relations[query],
      "prediction": listed[0][0],
      "score": listed[0][1],
      "candidates": listed,
    }
    golds = [gold[0] for gold in answers.golds[query]] or [None]
    yield from ({**row, "object": gold} for gold in golds) if labelled else [row]


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  folder = tmp_path_factory.mktemp("inputs")
  known, asked = world(0, 1500, sharp=8.0, shocked=0.1), world(1, 1000, sharp=8.0, shocked=0.1)
  return (
    write(folder / "asked.jsonl", rows_of(asked, labelled=False)),
    write(folder / "known.jsonl", rows_of(known)),
    asked,
  )


def run(*flags):
  return subprocess.run(
    [sys.executable, "-m", "factshock.extract", *flags], capture_output=True, text=True
  )


def test_an_extraction_keeps_its_promise_and_says_all(inputs, tmp_path):
  asked, known, truth = inputs
  folder = str(tmp_path / "graph")
  relations = {name: {"relation": name, "label": f"the {name}", "type": "N-1"} for name in "rs"}
  summary = extracting.extract(
    folder,
    asked,
    known,
    pipeline.Options(
      model=MODEL, precision=0.8, graph_formats=("tsv", "lm_kbc"), relations=relations
    ),
  )
  rows = list(canonical.read(f"{folder}/triples.jsonl"))
  accepted = [row for row in rows if row["accepted"]]
  gold = dict(zip(zip(truth.subjects, truth.relations), truth.golds))
  right = [
    (accuracy.normalise(row["object"]),) in gold[row["subject"], row["relation"]]
    for row in accepted
  ]
  assert len(accepted) == summary["counts"]["triples"] > 100 and np.mean(right) >= 0.8
  assert all(
    row["confidence"] >= row["threshold"] == summary["promise"]["threshold"] for row in accepted
  )
  assert {row["model"] for row in rows} == {"simulated"} and {row["run"] for row in rows} == {
    summary["run"]["id"]
  }
  assert {row["relation_label"] for row in rows} == {"the r", "the s"} and rows[0][
    "subject_id"
  ] == "Q1"
  assert summary["counts"]["abstained"] == len(truth.subjects) - len(accepted)
  over = summary["over_predicted"]
  assert {row["entity"] for row in over} == {"baku"} and all(
    row["confidence_after"] < row["confidence_before"] for row in over
  )
  assert all(row["calibration_right"] == 0 and row["displaced"] for row in over)
  assert not any(row["object"] == "baku" for row in accepted)
  lm_kbc = [json.loads(line) for line in open(f"{folder}/lm_kbc.jsonl")]
  assert len(lm_kbc) == 1000 and sum(bool(row["ObjectEntities"]) for row in lm_kbc) == len(accepted)
  assert json.load(open(f"{folder}/extraction.json"))["quality"]["pooled"]["units"] == 1500
  assert "baku" in open(f"{folder}/report.html").read()
  said = "\n".join(pipeline.summary_lines(summary, folder))
  assert "precision of at least 80% is promised" in said and "baku" in said
  with pytest.raises(UserError, match="holds an extraction already"):
    extracting.extract(folder, asked, known, pipeline.Options(model=MODEL))


def test_the_same_inputs_give_the_same_triples_and_run(inputs, tmp_path):
  one, two = (
    extracting.extract(
      str(tmp_path / name), *inputs[:2], pipeline.Options(model=MODEL, graph_formats=())
    )
    for name in "ab"
  )
  assert one["run"]["id"] == two["run"]["id"]
  assert (tmp_path / "a/triples.jsonl").read_bytes() == (tmp_path / "b/triples.jsonl").read_bytes()
  other = extracting.extract(
    str(tmp_path / "c"), *inputs[:2], pipeline.Options(model=MODEL, graph_formats=(), precision=0.7)
  )
  assert other["run"]["id"] != one["run"]["id"]


@pytest.mark.parametrize("corrected", [False, True])
def test_columns_of_other_names_change_nothing(tmp_path, corrected):
  names = {"subject": "question", "object": "answer", "prediction": "text", "score": "logprob"}
  known, asked = (list(rows_of(world(seed, 60, relations=("r",), listed=20))) for seed in (0, 1))
  files = {"asked": asked, "known": known, "before": asked + known}
  found = []
  for folder, columns in (("ours", {}), ("theirs", names)):
    paths = {
      name: write(
        tmp_path / f"{folder}_{name}.jsonl",
        [{columns.get(key, key): value for key, value in row.items()} for row in rows],
      )
      for name, rows in files.items()
    }
    options = pipeline.Options(
      MODEL, columns=columns, prior_correction=paths["before"] if corrected else None
    )
    extracting.extract(str(tmp_path / folder), paths["asked"], paths["known"], options)
    rows = canonical.read(str(tmp_path / folder / "triples.jsonl"))
    found.append([{**row, "run": "", "calibration": ""} for row in rows])
  assert found[0] == found[1] and found[0]


def test_predictions_without_a_relation_are_refused(tmp_path):
  row = {"question": "Ada", "text": "Bath", "object": "Bath", "score": -1.0}
  path = write(tmp_path / "a.jsonl", [row])
  columns = {"subject": "question", "prediction": "text"}
  with pytest.raises(UserError, match="a.jsonl:1: expected a non-empty text in `relation`"):
    extracting.extract(str(tmp_path / "g"), path, path, pipeline.Options(MODEL, columns=columns))


def test_a_promise_that_cannot_be_kept_gives_no_triples_and_says_so(inputs, tmp_path):
  summary = extracting.extract(
    str(tmp_path / "g"), *inputs[:2], pipeline.Options(model=MODEL, precision=0.999)
  )
  assert summary["counts"]["triples"] == 0 and summary["promise"]["threshold"] is None
  assert "no threshold keeps the promise" in "\n".join(pipeline.summary_lines(summary, "g"))
  assert (tmp_path / "g/graph.tsv").read_text() == ""


def test_the_f1_rule_answers_more_and_needs_no_promise(inputs, tmp_path):
  summary = extracting.extract(
    str(tmp_path / "g"), *inputs[:2], pipeline.Options(model=MODEL, rule="f1")
  )
  assert summary["counts"]["triples"] == 1000 and summary["promise"]["target"] is None
  assert {row["threshold"] for row in canonical.read(str(tmp_path / "g/triples.jsonl"))} == {None}


def test_ids_that_no_uri_can_be_made_of_are_counted(inputs, tmp_path, capsys):
  rows = [json.loads(line) | {"subject_id": "no id at all"} for line in open(inputs[0])]
  summary = extracting.extract(
    str(tmp_path / "g"),
    write(tmp_path / "a.jsonl", rows),
    inputs[1],
    pipeline.Options(model=MODEL, precision=0.8, graph_formats=("nt",)),
  )
  said = capsys.readouterr().out
  assert (
    f"nt: {summary['counts']['triples']:,} ids of subjects and objects" in said
    and "'no id at all'" in said
  )


def test_inverse_statements_that_follow_are_in_the_graph(tmp_path):
  relations = {
    "r": {"relation": "r", "type": "1-1", "inverse": "s"},
    "s": {"relation": "s", "type": "1-1"},
  }
  known = write(tmp_path / "k.jsonl", rows_of(world(0, 1500, sharp=8.0)))
  say = lambda subject, relation, answer, p: {
    "subject": subject,
    "relation": relation,
    "prediction": answer,
    "score": float(np.log(p)),
    "candidates": [[answer, float(np.log(p))], ["e9", float(np.log(1 - p))]],
  }
  asked = write(
    tmp_path / "a.jsonl",
    [
      say("oslo", "r", "norway", 0.999),
      say("Norway", "s", "e3", 0.3),
      say("Sweden", "s", "e4", 0.999),
    ],
  )
  summary = extracting.extract(
    str(tmp_path / "g"),
    asked,
    known,
    pipeline.Options(model=MODEL, precision=0.8, relations=relations),
  )
  rows = list(canonical.read(str(tmp_path / "g/triples.jsonl")))
  found = [(row["subject"], row["object"], row.get("flags")) for row in rows if row["accepted"]]
  assert found == [
    ("oslo", "norway", None),
    ("Norway", "oslo", ["implied"]),
    ("Sweden", "e4", None),
  ]
  assert summary["counts"]["implied"] == 1 and [row["subject"] for row in rows] == sorted(
    (row["subject"] for row in rows), key=["oslo", "Norway", "Sweden"].index
  )


def test_prior_correction_moves_answers_before_they_are_judged(tmp_path):
  """All candidates are listed; a shifted model with the correction gives the answers of the
  unshifted one.
  """
  known, asked = (
    list(rows_of(world(seed, 300, relations=("r",), sharp=8.0, listed=20))) for seed in (0, 1)
  )
  reference = write(tmp_path / "before.jsonl", asked + known)

  def shifted(rows):
    for row in rows:
      pairs = [[name, score + (3.0 if name == "e7" else 0.0)] for name, score in row["candidates"]]
      pairs.sort(key=lambda pair: -pair[1])
      total = np.logaddexp.reduce([score for _, score in pairs])
      pairs = [[name, float(min(0, score - total))] for name, score in pairs]
      yield {**row, "candidates": pairs, "prediction": pairs[0][0], "score": pairs[0][1]}

  paths = write(tmp_path / "a.jsonl", shifted(asked)), write(tmp_path / "k.jsonl", shifted(known))
  first = lambda folder: [
    row["object"]
    for row in canonical.read(str(tmp_path / folder / "triples.jsonl"))
    if row["rank"] == 1
  ]
  for folder, options in (("plain", {}), ("corrected", {"prior_correction": reference})):
    extracting.extract(
      str(tmp_path / folder), *paths, pipeline.Options(model=MODEL, graph_formats=(), **options)
    )
  truth = [row["prediction"] for row in asked]
  share = lambda said: np.mean([a == b for a, b in zip(said, truth)])
  assert share(first("corrected")) > share(first("plain")) + 0.05


def test_the_verb_says_what_it_did_and_limits_to_queries(inputs, tmp_path):
  asked, known, truth = inputs
  queries = write(
    tmp_path / "q.jsonl",
    [{"subject": truth.subjects[i], "relation": truth.relations[i]} for i in range(100)]
    + [{"subject": "nobody", "relation": "r"}],
  )
  done = run(
    f"--predictions={asked}",
    f"--calibration={known}",
    f"--queries={queries}",
    f"--output={tmp_path}/g",
    "--precision=0.8",
    "--format=nt,networkx",
  )
  assert done.returncode == 0, done.stderr
  assert (
    "1 of 101 queries have no row" in done.stdout
    and "900 queries in" in done.stdout
    and "graph.nt" in done.stdout
  )
  assert "100 queries, 300 candidate answers" in done.stdout


@pytest.mark.parametrize(
  "change, words",
  [
    (
      lambda asked, known: known.__setitem__(
        0, {**known[0], "subject": asked[0]["subject"], "relation": asked[0]["relation"]}
      ),
      "expected queries apart from the queries, got 1 of 100 shared",
    ),
    (
      lambda asked, known: asked.__setitem__(3, {**asked[3], "score": None, "candidates": None}),
      "got none in 1 of 100",
    ),
    (
      lambda asked, known: asked.__setitem__(3, {**asked[3], "candidates": [["x", 2.0]]}),
      "a.jsonl:4: expected log-probabilities",
    ),
    (
      lambda asked, known: known.__setitem__(
        3, {key: value for key, value in known[3].items() if key != "object"}
      ),
      "k.jsonl:4: expected `object`",
    ),
    (
      lambda asked, known: known.__setitem__(3, {**known[3], "object": ["x"]}),
      "k.jsonl:4: expected a text in `object`",
    ),
    (
      lambda asked, known: known.__setitem__(3, {**known[3], "aliases": "x"}),
      "k.jsonl:4: expected",
    ),
    (
      lambda asked, known: known.__setitem__(3, {**known[3], "aliases": [7]}),
      "k.jsonl:4: expected a text in `object`",
    ),
    (
      lambda asked, known: known.__setitem__(3, {**known[3], "subject": None}),
      "k.jsonl:4: expected a non-empty text in `subject`",
    ),
    (
      lambda asked, known: [row.__setitem__("relation", "other") for row in known],
      "expected queries of the relations asked about",
    ),
  ],
)
def test_bad_files_are_refused_and_nothing_is_written(tmp_path, change, words):
  asked, known = (list(rows_of(world(seed, 100, relations=("r",)))) for seed in (0, 1))
  change(asked, known)
  with pytest.raises(UserError, match=words):
    extracting.extract(
      str(tmp_path / "g"),
      write(tmp_path / "a.jsonl", asked),
      write(tmp_path / "k.jsonl", known),
      pipeline.Options(model=MODEL),
    )
  assert not (tmp_path / "g").exists()


SMALL = pipeline.Options(model=MODEL, graph_formats=("tsv",))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  folder = tmp_path_factory.mktemp("small")
  asked, known = (list(rows_of(world(seed, 100, relations=("r",)))) for seed in (0, 1))
  return write(folder / "a.jsonl", asked), write(folder / "k.jsonl", known)


def test_scores_of_two_kinds_are_remarked_on(small, tmp_path, capsys):
  asked, known = small
  extracting.extract(str(tmp_path / "a"), asked, known, SMALL)
  assert "of another kind than single ones" not in capsys.readouterr().out
  rows = [json.loads(line) for line in open(asked, encoding="utf-8")]
  single = [{name: row[name] for name in row if name != "candidates"} for row in rows]
  path = write(tmp_path / "single.jsonl", single)
  extracting.extract(str(tmp_path / "b"), path, known, SMALL)
  assert "only in the calibration file queries have several" in capsys.readouterr().out


def leave_half(folder, place):
  """Leaves what an extraction killed while it wrote its formats leaves."""
  folder.mkdir(exist_ok=True)
  (folder / "triples.jsonl").write_text("old")
  (folder / "graph.nt").write_text("old")
  holder = {"host": "a", "pid": 999999999, "token": "b", "place": place}
  (folder / pipeline.UNFINISHED).write_text(json.dumps(holder))


def test_an_extraction_that_was_killed_is_made_again_whole(small, tmp_path, capsys):
  leave_half(tmp_path / "g", locks._place())
  extracting.extract(str(tmp_path / "g"), *small, SMALL)
  assert "did not end; it is made again" in capsys.readouterr().out
  names = sorted(path.name for path in (tmp_path / "g").iterdir() if path.is_file())
  assert names == [
    "calibration.json",
    "extraction.json",
    "graph.tsv",
    "labels.tsv",
    "report.html",
    "triples.jsonl",
  ]


def test_an_extraction_at_work_is_left_alone(small, tmp_path):
  leave_half(tmp_path / "g", "another")
  with pytest.raises(UserError, match="process 999999999 of a extracts there"):
    extracting.extract(str(tmp_path / "g"), *small, SMALL)
  assert (tmp_path / "g" / "triples.jsonl").read_text() == "old"


def test_half_an_extraction_without_a_mark_is_named(small, tmp_path):
  (tmp_path / "g").mkdir()
  (tmp_path / "g" / "graph.nt").write_text("mine")
  with pytest.raises(UserError, match="holds graph.nt but no extraction.json"):
    extracting.extract(str(tmp_path / "g"), *small, SMALL)
  assert [path.name for path in (tmp_path / "g").iterdir()] == ["graph.nt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("disk")])
def test_an_extraction_that_fails_late_leaves_nothing(small, tmp_path, monkeypatch, error):
  def fail(*args):
    raise error

  monkeypatch.setattr(pipeline, "write_summary", fail)
  (tmp_path / "g").mkdir()
  (tmp_path / "g" / "notes.txt").write_text("mine")
  with pytest.raises(type(error) if isinstance(error, UserError) else error):
    extracting.extract(str(tmp_path / "g"), *small, SMALL)
  left = {path.name for path in (tmp_path / "g").iterdir()}
  assert left <= {"notes.txt", "report.html", "figures"} and "notes.txt" in left


def verb(monkeypatch, *arguments):
  with monkeypatch.context() as patch:
    verb_flags.parsed(patch, "extract", *arguments)
    importlib.import_module("factshock.extract").main(["extract"])


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_an_extraction_is_written_anew_by_overwrite_alone(small, tmp_path, monkeypatch, capsys):
  folder = tmp_path / "g"
  command = [f"--predictions={small[0]}", f"--calibration={small[1]}", f"--output={folder}"]
  verb(monkeypatch, *command, "--format=tsv,nt")
  before = contents(folder)
  with pytest.raises(UserError, match="holds an extraction already; .* --overwrite to write it"):
    verb(monkeypatch, *command)
  wrong = write(tmp_path / "wrong.jsonl", [{"subject": "a", "relation": "r"}])
  with pytest.raises(UserError, match=r"wrong.jsonl:1"):
    verb(monkeypatch, f"--predictions={wrong}", *command[1:], "--overwrite")
  assert contents(folder) == before  # what there was, after an error
  capsys.readouterr()
  verb(monkeypatch, *command, "--overwrite", "--rule=f1")
  assert {*contents(folder)} == {*before} - {"graph.nt"}  # of which nothing old is left
  assert json.loads(contents(folder)["extraction.json"])["promise"]["rule"] == "f1"
  assert not (folder / "extraction.previous").exists()
  lines = capsys.readouterr().out.splitlines()
  assert all(len(line) <= 100 or line.startswith("  ") for line in lines)


def test_an_overwriting_extraction_that_was_killed(small, tmp_path, capsys):
  """The one before is brought back where the next one fails, and goes where it does not."""
  folder = tmp_path / "g"
  extracting.extract(str(folder), *small, SMALL)
  before = contents(folder)
  (folder / "extraction.previous").mkdir()
  for name in before:
    (folder / name).rename(folder / "extraction.previous" / name)
  leave_half(folder, locks._place())
  with pytest.raises(UserError, match="nowhere"):
    extracting.extract(str(folder), "nowhere", small[1], SMALL)
  assert contents(folder) == before
  extracting.extract(str(folder), *small, SMALL, overwrite=True)
  assert {path.name for path in folder.iterdir()} == {*before, "figures"}


@pytest.mark.parametrize("name", ["report.html", "predictions.jsonl.gz"])
def test_other_files_of_these_names_are_kept(small, tmp_path, monkeypatch, name):
  (tmp_path / "g").mkdir()
  (tmp_path / "g" / name).write_text("mine")
  command = ["--model=nowhere/at/all", f"--calibration={small[1]}", f"--output={tmp_path}/g"]
  with pytest.raises(UserError, match=f"{name}.*--overwrite"):
    verb(monkeypatch, *command)
  with pytest.raises(UserError, match="nowhere/at/all"):
    verb(monkeypatch, *command, "--overwrite")
  assert (tmp_path / "g" / name).read_text() == "mine"


def test_the_answers_compared_alone_have_a_name_of_their_own(monkeypatch, capsys):
  values = verb_flags.parsed(
    monkeypatch, "extract", "--candidates=a", "--calibration=k", "--output=g"
  )
  assert values.answer_set == "a"
  assert "--candidates is now called --answer_set" in capsys.readouterr().err


def test_help_names_every_format():
  said = run("--help").stdout
  assert all(
    f" {name}" in " ".join(said.split("--format:")[1].split())
    for name in formats.FORMATS
    if name != "jsonl"
  )


def test_calibration_on_finetuning_facts_is_refused(inputs, tmp_path):
  rows = [json.loads(line) for line in open(inputs[1])][:2]
  facts = write(
    tmp_path / "f.jsonl",
    [{"subject": row["subject"], "relation": row["relation"], "object": "x"} for row in rows],
  )
  with pytest.raises(UserError, match="apart from the finetuning facts, got 2 of 1,500"):
    extracting.extract(
      str(tmp_path / "g"), *inputs[:2], pipeline.Options(model=MODEL, finetuning=facts)
    )


@pytest.mark.parametrize(
  "flags, words",
  [
    (
      ["--calibration=k", "--output=g"],
      "expected one of --model and --predictions, got neither",
    ),
    (["--predictions=a", "--calibration=k", "--output=g", "--format=tvs"], "tvs"),
    (
      ["--predictions=a", "--calibration=k", "--output=g", "--prior_correction=counts"],
      "needs --entity_counts",
    ),
    (["--predictions=a.jsonl", "--calibration=k.jsonl", "--output=g"], "k.jsonl: cannot be read"),
    (["--model=nowhere/at/all", "--calibration=k", "--output=g"], "nowhere/at/all"),
    (
      ["--predictions=a", "--calibration=k", "--output=g", "--subjects=s.txt"],
      "--subjects needs --relations",
    ),
    (
      ["--predictions=a", "--calibration=k", "--output=g", "--shots=4", "--method=beam"],
      "--method, --shots: only with --model",
    ),
    (
      ["--model=a", "--calibration=k", "--output=g", "--columns=subject=question"],
      "--columns: only with --predictions",
    ),
  ],
)
def test_flags_that_do_not_fit(tmp_path, flags, words):
  done = subprocess.run(
    [sys.executable, "-m", "factshock.extract", *flags],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env={**__import__("os").environ, "PYTHONPATH": __import__("os").getcwd()},
  )
  assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, (
    done.stderr
  )
  assert not (tmp_path / "g").exists()

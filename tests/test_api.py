"""The Python API: tables in memory give what files give the verbs; nothing on stdout."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import test_correct
import test_diagnosis_summary
import test_extract
import tiny
import tiny_folders
from absl import flags

import factshock as fs
from factshock import api
from factshock.facts import relations as relation_files
from factshock.facts import schema, world
from factshock.interface import inputs
from factshock.predictions import rows as prediction_rows

TEMPLATES = {"capital": "The capital of [X] is [Y] ."}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("home")
  made = world.make_world(0, relations=2, subjects=20, answers=6, mean_mentions=3)
  schema.write_facts(folder / "facts.jsonl", made.facts)
  relation_files.write_relations(folder / "relations.jsonl", made.relations)
  tiny_folders.make(folder, made.sentences)
  return folder


@pytest.fixture(scope="module")
def model(home):
  return fs.load(home / "t5")


@pytest.fixture
def silent(capsys):
  """Nothing may be printed on stdout by the test."""
  yield
  assert capsys.readouterr().out == ""


def rows_of(frame):
  return json.loads(frame.to_json(orient="records"))


def test_the_package_gives_the_functions_and_stays_light():
  code = (
    "import sys, factshock as fs, factshock.answer\n"
    "print('jax' in sys.modules, 'pandas' in sys.modules, callable(fs.answer))\n"
    "fs.UserError\n"
    "print('jax' in sys.modules, 'pandas' in sys.modules, 'mix' in dir(fs))"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.split() == ["False", "False", "True", "False", "False", "True"]


def test_names_are_the_apis_also_where_a_verb_is_imported():
  assert importlib.import_module("factshock.diagnose") is sys.modules["factshock.diagnose"]
  importlib.import_module("factshock.mix")
  package = sys.modules["factshock"]
  assert tuple(api.__all__) == package._API
  for name in api.__all__:
    assert getattr(fs, name) is getattr(api, name)
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    fs.nothing  # noqa: B018


def test_no_flag_is_defined_and_none_is_asked():
  assert "predictions" not in flags.FLAGS and "facts" not in flags.FLAGS
  assert "config" not in flags.FLAGS


def test_facts_may_be_a_path_a_frame_or_rows(home, model, silent):
  facts = schema.read_facts(home / "facts.jsonl")[:12]
  schema.write_facts(home / "some.jsonl", facts)
  relations = relation_files.read_relations(home / "relations.jsonl")
  path = home / "relations.jsonl"
  options = {"prompt": "cloze", "candidates": facts, "candidates_only": True}
  by_path = fs.answer(model, home / "some.jsonl", path, **options)
  by_rows = fs.answer(model, facts, relations, **options)
  by_frame = fs.answer(model, pd.DataFrame(facts), list(relations.values()), **options)
  assert set(by_path["split"]) == {"some"} and set(by_rows["split"]) == {"facts"}
  assert rows_of(by_rows) == rows_of(by_frame) == rows_of(by_path.assign(split="facts"))
  assert set(by_rows["arm"]) == {"t5"} and (by_rows["score"] <= 0).all()
  assert by_rows.attrs["model"]["model"] == str(home / "t5")


@pytest.mark.parametrize("mode", ["greedy", "beam", "sample", "votes"])
def test_every_mode_answers(home, model, tmp_path, silent, mode):
  facts = schema.read_facts(home / "facts.jsonl")[:3]
  output = tmp_path / "answers.jsonl"
  answers = fs.answer(
    model, facts, home / "relations.jsonl", mode=mode, max_tokens=4, beams=2, output=output
  )
  assert len(answers) == 3 and list(answers["subject"]) == [fact["subject"] for fact in facts]
  assert [row["prediction"] for row in prediction_rows.read_all_rows(str(output))] == list(
    answers["prediction"]
  )


def test_what_a_model_knows(home, model, silent):
  facts = schema.read_facts(home / "facts.jsonl")
  known = fs.answer(
    model,
    facts[:2],
    home / "relations.jsonl",
    mode="known",
    shot_facts=facts[2:10],
    shots=1,
    sets=1,
    samples=1,
    max_tokens=2,
  )
  assert len(known) == 2 and {"known", "greedy_right", "confidence"} <= set(known)


def test_a_model_may_be_named_and_templates_given_alone(home, silent):
  facts = pd.DataFrame(
    {"subject": ["Norway", "Chad"], "relation": "capital", "object": ["Oslo", 1969]}
  )
  answers = fs.answer(str(home / "t5"), facts, TEMPLATES, prompt="cloze", arm="before")
  assert set(answers["prediction"]) <= {"Oslo", "1969"} and set(answers["arm"]) == {"before"}
  assert repr(fs.load(home / "t5")).startswith("<T5 of ")


def test_errors_are_in_the_callers_words(home, model):
  facts = [{"subject": "Norway", "relation": "capital", "object": "Oslo"}]
  with pytest.raises(fs.UserError, match=r"^facts: row 2: expected a column `object`, got"):
    fs.answer(model, [*facts, {"subject": "Chad", "relation": "capital"}], TEMPLATES)
  with pytest.raises(fs.UserError, match="relations: row 1: .*\\[Y\\]"):
    fs.answer(model, facts, {"capital": "The capital of [X]"}, prompt="cloze")
  with pytest.raises(fs.UserError, match="facts: expected a path, a DataFrame or a list of dicts"):
    fs.answer(model, {"subject": "Norway"}, TEMPLATES)
  with pytest.raises(fs.UserError, match="mode: expected one of rank, greedy.*got 'ranked'"):
    fs.answer(model, facts, TEMPLATES, mode="ranked")
  with pytest.raises(fs.UserError, match="^shots=2 needs shot_facts"):
    fs.answer(model, facts, TEMPLATES, shots=2, prompt="cloze")
  with pytest.raises(fs.UserError, match="nowhere"):
    fs.load(home / "nowhere")
  with pytest.raises(fs.UserError, match="facts: row 1: expected texts, numbers and lists"):
    fs.answer(model, [{**facts[0], "more": object()}], TEMPLATES)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"prompt": "clozes"}, "prompt: expected one of cloze, question, chat.*got 'clozes'"),
    ({"prompt": "letters"}, "prompt='letters' goes with mode='known'"),
    ({"candidates_only": True}, "candidates_only: expected the candidates too"),
    ({"mode": "greedy", "top": 0}, "top: only with mode='rank', which ranks, got mode='greedy'"),
    ({"mode": "beam", "beams": 0}, "beams: expected a number from 1 on, got 0"),
    ({"mode": "sample", "temperature": 0}, "temperature: expected a number from 0.001 on, got 0"),
    ({"shots": "2"}, "shots: expected a number from 0 on, got '2'"),
  ],
)
def test_options_that_flags_would_refuse(model, options, message):
  facts = [{"subject": "Norway", "relation": "capital", "object": "Oslo"}]
  with pytest.raises(fs.UserError, match=message):
    fs.answer(model, facts, TEMPLATES, **options)


def test_numbers_out_of_range_and_single_models(home, tmp_path):
  with pytest.raises(fs.UserError, match="resamples: expected a number from 100 on, got 0"):
    fs.diagnose(arms(), resamples=0)
  with pytest.raises(fs.UserError, match="precision: expected a number from 0.01 to 0.999, got 2"):
    fs.extract([], [], precision=2)
  with pytest.raises(fs.UserError, match="models: expected two or more, got 1"):
    fs.mix([home / "t5"], [1.0], tmp_path / "one")
  with pytest.raises(fs.UserError, match="select: expected two models, got 3"):
    fs.mix([home / "t5"] * 3, None, tmp_path / "three", select="facts.jsonl")


def test_lists_in_cells_are_read_as_of_a_csv_file(tmp_path):
  rows = [
    {"subject": "Norway", "relation": "r", "object": "Oslo", "aliases": "Christiania|Kristiania"},
    {"subject": "Chad", "relation": "r", "object": "N'Djamena", "aliases": "['Fort-Lamy']"},
  ]
  answered = pd.DataFrame(rows).assign(
    prediction=["Kristiania", "Fort-Lamy"], candidates='[["Kristiania", -0.1], ["Oslo", -3]]'
  )
  arms = fs.diagnose(answered, resamples=100).arms
  assert arms["right"].tolist() == [1.0] and arms["hits@1"].tolist() == [0.5]
  answered.to_csv(tmp_path / "answered.csv", index=False)
  of_file = fs.diagnose(tmp_path / "answered.csv", resamples=100).arms
  assert of_file.iloc[0].to_dict() == arms.iloc[0].to_dict()


def test_notes_go_to_a_function_or_stderr(home, model, capsys):
  facts = [{"subject": "Norway", "relation": "capital", "object": "Oslo"}] * 2
  lines = []
  with fs.messages_to(lines.append):
    fs.answer(model, facts, TEMPLATES, prompt="cloze")
  assert any("1 merged" in line for line in lines)
  assert any("among 1 candidates from facts" in line for line in lines)
  assert capsys.readouterr() == ("", "")
  fs.answer(model, facts, TEMPLATES, prompt="cloze")
  assert "1 merged" in capsys.readouterr().err


def arms():
  hand = test_diagnosis_summary
  zero = ["Moscow"] * 6 + ["Rome"] * 4
  return {"zero": hand.rows_of(zero), "tuned": pd.DataFrame(hand.rows_of(hand.hand.ANSWERS))}


def finetuned_on():
  hand = test_diagnosis_summary.hand
  return [
    {"subject": f"t{i}", "relation": "r", "object": name} for i, name in enumerate(hand.FINETUNING)
  ]


def test_a_diagnosis_is_the_verbs(tmp_path, silent):
  hand = test_diagnosis_summary
  found = fs.diagnose(
    arms(),
    finetuning=finetuned_on(),
    counts=hand.COUNTS[0],
    known="zero",
    resamples=200,
    output=tmp_path / "out",
  )
  direct = hand.summary.diagnose(
    hand.two_arms(),
    hand.summary.Options(
      finetuning=hand.FINETUNING, counts=hand.COUNTS, known="zero", entity_arms=["zero", "tuned"]
    ),
    hand.summary.Bootstrap(resamples=200),
  )
  assert found.data["arms"] == direct["arms"] and found.data["entities"] == direct["entities"]
  assert found.arms.loc["tuned", "shock"] == pytest.approx(0.5)
  assert list(found.comparisons["against"]) == ["zero"] and "Baku" in set(found.entities["entity"])
  assert found.sentences and "tuned" in repr(found) and found.verdict is None
  written = sorted(path.name for path in (tmp_path / "out").glob("*.*"))
  assert written == [
    "arms.csv",
    "comparisons.csv",
    "diagnosis.json",
    "entities.csv",
    "report.html",
  ]
  again = fs.read_diagnosis(tmp_path / "out")
  pd.testing.assert_frame_equal(again.arms, found.arms)


def test_sentences_are_about_the_arm_named_as_finetuned():
  three = {**arms(), "mixed": arms()["tuned"]}
  found = fs.diagnose(three, finetuned="tuned", resamples=100)
  assert any(line.startswith("Finetuning: ") for line in found.sentences)
  unnamed = fs.diagnose(three, resamples=100)
  assert not any(line.startswith("Finetuning: ") for line in unnamed.sentences)


def test_a_report_is_shown_in_a_cell(tmp_path, silent):
  report = fs.diagnose(arms(), resamples=100).report()
  cell = report._repr_html_()
  assert cell.startswith("<iframe srcdoc=") and 'sandbox="allow-scripts"' in cell
  assert "&lt;!doctype html&gt;" in cell and "<script" not in cell
  path = report.save(tmp_path / "page.html")
  assert open(path).read() == report.html and "kB" in repr(report)


@pytest.mark.parametrize("as_frames", [False, True])
def test_counts_and_seeds_may_be_given_in_several_ways(silent, as_frames):
  hand = test_diagnosis_summary
  mapping = {("r", name): count for name, count in hand.hand.COUNTS.items()}
  frame = pd.DataFrame(
    [{"entity": name, "relation": "r", "count": n} for name, n in hand.hand.COUNTS.items()]
  )
  seeds = [hand.rows_of(hand.hand.ANSWERS, seed=seed) for seed in (0, 1)]
  zeros = [hand.rows_of(["Moscow"] * 10, seed=seed) for seed in (0, 1)]
  found = fs.diagnose(
    {"zero": list(map(pd.DataFrame, zeros)) if as_frames else zeros, "tuned": seeds},
    finetuning=finetuned_on(),
    counts=frame if as_frames else mapping,
    resamples=100,
  )
  assert found.data["seeds"] == [0, 1]
  assert found.arms.loc["tuned", "shock"] == pytest.approx(0.5)
  unnamed = fs.diagnose([row for rows in seeds for row in rows], resamples=100)
  assert list(unnamed.arms.index) == ["predictions"]


def test_a_diagnosis_says_what_is_wrong():
  with pytest.raises(fs.UserError, match="^tuned: row 1: expected the texts subject.*no object"):
    bad = [{"subject": "a", "relation": "r", "prediction": "b"}]
    fs.diagnose({"zero": arms()["zero"], "tuned": bad})
  with pytest.raises(fs.UserError, match="criterion: expected one of exact_match, contains"):
    fs.diagnose(arms(), criterion="fuzzy")
  with pytest.raises(fs.UserError, match="reference: expected the label of an arm.*got 'none'"):
    fs.diagnose(arms(), reference="none")
  with pytest.raises(fs.UserError, match="there is no|missing|cannot be read"):
    fs.read_diagnosis("nowhere")


def test_empty_cells_of_a_frame():
  answered = pd.DataFrame(
    {"subject": ["a", "b"], "relation": "r", "object": ["x", "y"], "prediction": ["x", np.nan]}
  )
  assert fs.diagnose(answered, resamples=100).arms["right"].tolist() == [0.5]
  with pytest.raises(fs.UserError, match="finetuning: row 2: expected a non-empty string"):
    fs.diagnose(answered, finetuning=answered.assign(object=["x", None]))


def test_a_correction_is_the_verbs(tmp_path, silent):
  p = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.3, 0.2]])
  after = test_correct.rows_of(p, [1, 1, 2])
  before = test_correct.rows_of(np.full((3, 3), 1 / 3), [1, 1, 2])
  output = tmp_path / "corrected.jsonl"
  corrected = fs.correct(pd.DataFrame(after), reference=before, output=output)
  assert set(corrected["arm"]) == {"tuned_corrected"}
  assert any("total variation" in line for line in corrected.attrs["correction"])
  paths = [test_correct.write(tmp_path / f"{i}.jsonl", r) for i, r in enumerate((after, before))]
  command = [
    f"--predictions={paths[0]}",
    f"--reference={paths[1]}",
    f"--output={tmp_path / 'v.jsonl'}",
  ]
  subprocess.run(
    [sys.executable, "-m", "factshock.correct", *command], check=True, capture_output=True
  )
  assert (tmp_path / "v.jsonl").read_text() == output.read_text()
  # Corrected answers go on to a diagnosis as they are.
  found = fs.diagnose({"tuned": after, "corrected": corrected}, resamples=100)
  assert list(found.arms.index) == ["tuned", "corrected"]
  with pytest.raises(fs.UserError, match="expected one of reference and counts, got neither$"):
    fs.correct(after)


@pytest.fixture(scope="module")
def answers():
  known = test_extract.world(0, 1500, sharp=8.0, shocked=0.1)
  asked = test_extract.world(1, 400, sharp=8.0, shocked=0.1)
  return list(test_extract.rows_of(asked, labelled=False)), list(test_extract.rows_of(known))


def test_a_graph_is_tables_files_and_networkx(answers, tmp_path, silent):
  asked, known = answers
  graph = fs.extract(pd.DataFrame(asked), calibration=known, precision=0.8)
  triples = graph.triples
  assert 0 < len(triples) == graph.summary["counts"]["triples"] < len(graph.candidates)
  assert triples["confidence"].is_monotonic_decreasing and triples["accepted"].all()
  network = graph.to_networkx()
  assert network.number_of_edges() == len(triples)
  assert any("precision of at least 80% is promised" in line for line in graph.sentences)
  assert "<iframe" in graph.report()._repr_html_() and str(len(triples)) in repr(graph)
  (path,) = graph.write("nt", tmp_path / "rdf")
  assert len(open(path).read().splitlines()) >= len(triples)
  files = [test_extract.write(tmp_path / f"{i}.jsonl", rows) for i, rows in enumerate(answers)]
  by_files = fs.extract(*files, precision=0.8, formats=["tsv"], output=tmp_path / "graph")
  pd.testing.assert_frame_equal(
    by_files.triples[["subject", "object", "confidence"]],
    triples[["subject", "object", "confidence"]],
  )
  assert (tmp_path / "graph" / "graph.tsv").exists()
  with pytest.raises(fs.UserError, match="holds an extraction already"):
    fs.extract(*files, output=tmp_path / "graph")
  again = fs.extract(*files, rule="f1", output=tmp_path / "graph", overwrite=True)
  assert len(again.triples) == len(asked) and not (tmp_path / "graph" / "graph.tsv").exists()
  with pytest.raises(fs.UserError, match="^shots: only where a model is asked, got answers"):
    fs.extract(*files, shots=4)


def test_an_extraction_asks_a_model(home, model, tmp_path, silent):
  facts = schema.read_facts(home / "facts.jsonl")
  queries = [{name: fact[name] for name in ("subject", "relation")} for fact in facts[:8]]
  graph = fs.extract(
    model,
    facts[8:],
    queries=queries,
    relations=home / "relations.jsonl",
    rule="f1",
    prompt="cloze",
  )
  assert graph.summary["counts"]["queries"] == 8
  assert graph.summary["run"]["model"] == str(home / "t5")
  by_beams = fs.extract(
    model,
    facts[8:],
    queries=queries,
    relations=home / "relations.jsonl",
    rule="f1",
    mode="beam",
    prompt="question",
    shots=2,
    shot_facts=facts[8:],
    beams=3,
    max_tokens=4,
    output=tmp_path / "beams",
  )
  answered = list(schema.read_rows(tmp_path / "beams" / "predictions.jsonl.gz", []))
  assert len(answered) == 8
  assert all(1 <= len(row["candidates"]) <= 3 for _, row in answered)
  assert by_beams.summary["counts"]["queries"] == 8
  with pytest.raises(fs.UserError, match="expected one of queries and subjects, got neither$"):
    fs.extract(model, facts[8:], relations=home / "relations.jsonl")


def test_models_are_mixed_and_converted(home, model, tmp_path, silent):
  folder = fs.mix([model, home / "t5"], [0.5, 0.5], tmp_path / "mixed")
  record = json.loads((tmp_path / "mixed" / "mix.json").read_text())
  assert folder == str(tmp_path / "mixed") and record["weights"] == [0.5, 0.5]
  assert fs.load(folder).parameters == model.parameters
  facts = schema.read_facts(home / "facts.jsonl")[:4]
  chosen = fs.mix(
    [model, model], None, tmp_path / "best", select=facts, relations=home / "relations.jsonl"
  )
  assert json.loads(open(f"{chosen}/mix.json").read())["weights"] == [1.0, 0.0]
  with pytest.raises(fs.UserError, match="expected one of weights, layerwise, select, got none"):
    fs.mix([model, model], None, tmp_path / "none")
  own = fs.convert(model, tmp_path / "own", "orbax", dtype="bfloat16")
  assert own == str(tmp_path / "own") and fs.load(own).parameters == model.parameters
  with pytest.raises(fs.UserError, match="to: expected one of huggingface, orbax, peft"):
    fs.convert(model, tmp_path / "x", "gguf")


def test_a_model_is_finetuned_on_rows(home, tmp_path, silent):
  facts = schema.read_facts(home / "facts.jsonl")[:8]
  relations = relation_files.read_relations(home / "relations.jsonl")
  settings = {
    "finetune.steps": 2,
    "finetune.batch_size": 4,
    "finetune.warmup": 1,
    "finetune.prompt": "cloze",
    "cpu_devices": 1,
  }
  run = {"facts": facts, "relations": relations, "settings": settings}
  config = f"pretrained:{home / 't5'}"
  folder = fs.finetune(config, tmp_path / "runs", **run)
  assert fs.finetune(config, tmp_path / "runs", **run) == folder  # finished before
  finetuned = fs.load(folder)
  answers = fs.answer(finetuned, facts, arm="after")
  assert len(answers) == 8 and set(answers["arm"]) == {"after"}
  mixed = fs.mix(  # with the HuggingFace model that it was before
    [home / "t5", finetuned], None, tmp_path / "mixed", select=facts, relations=relations
  )
  assert fs.load(mixed).parameters == finetuned.parameters
  assert (tmp_path / "mixed" / "model.safetensors").exists()
  with pytest.raises(fs.UserError, match="settings: expected keys and values of the config.*stepz"):
    fs.finetune(config, tmp_path / "other", facts=facts, settings={"finetune.stepz": 2})
  with pytest.raises(fs.UserError, match="did you mean"):
    fs.finetune("pretraind", tmp_path / "other")


@pytest.mark.slow
def test_an_experiment_gives_a_diagnosis(tmp_path, silent):
  found = fs.experiment(tiny.get_config(), tmp_path / "run")
  assert {"finetune", "mixture"} <= set(found.arms.index) and found.sentences


def test_the_theory_is_a_table_of_what_holds(tmp_path, silent, monkeypatch):
  """The study itself is run in test_theory_study."""
  of_claim = {"what": "a correlation", "wanted": "above", "values": [0.8, 1.0], "holds": True}
  of_claim |= {"mean": 0.9, "low": 0.7, "high": 1.1}
  claim = {"statement": "It is monotone.", "verdict": "holds in part", "estimates": [of_claim] * 2}

  def run(config, folder):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.html").write_text("<p>page")
    assert folder == str(tmp_path / "run") and config.seeds == 2
    return {"claims": [claim]}

  monkeypatch.setattr("factshock.study.theory.run", run)
  found = fs.compute_theory(tmp_path / "run", settings={"seeds": 2})
  assert found.claims["verdict"].tolist() == ["holds in part"] * 2
  assert found.claims["low"].tolist() == [0.7] * 2 and found.claims["holds"].all()
  assert "HOLDS IN PART: It is monotone." in repr(found) and "page" in found.report().html
  with pytest.raises(fs.UserError, match=r"^experiment: expected a study .*call compute_theory\("):
    fs.experiment("one_layer", tmp_path / "other")
  with pytest.raises(fs.UserError, match="^compute_theory: expected a config of the theory"):
    fs.compute_theory(tmp_path / "other", "demo")


def test_text_is_counted(tmp_path, silent):
  (tmp_path / "text.txt").write_text("Oslo is the capital of Norway.\nOslo again.\n")
  facts = [{"subject": "Norway", "relation": "capital", "object": "Oslo"}]
  counts = fs.count(tmp_path / "text.txt", facts, tmp_path / "counts.tsv", processes=1)
  assert dict(zip(counts["entity"], counts["count"])) == {"Oslo": 2, "Norway": 1}


def test_tables_in_memory_leave_nothing_behind(tmp_path, monkeypatch):
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
  fs.diagnose(arms(), resamples=100)
  with inputs.tables_as_files() as given:
    path = given.table(pd.DataFrame({"subject": ["a"], "x": [np.nan]}), "facts")
    assert open(path).read() == '{"subject": "a"}\n'
  assert list(tmp_path.iterdir()) == []

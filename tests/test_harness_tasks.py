"""The tasks on facts in the lm-evaluation-harness: tiny models on real data, and the samples read
as predictions.
"""

import functools
import glob
import gzip
import json
import os
import shutil

import answered
import numpy as np
import pytest

lm_eval_tasks = pytest.importorskip("lm_eval.tasks")

import tiny_folders

from factshock import evaluate
from factshock.answering import asking
from factshock.facts import sources
from factshock.harness.tasks import documents
from factshock.predictions import accuracy, reading
from factshock.runtime.errors import UserError

LIMIT = 6
FILES = {
  "popqa": "popqa/popqa_with_popularity_union.jsonl.gz",
  "entityquestions": "entityquestions/test.jsonl.gz",
  "trex": "trex",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tasks")
  tiny_folders.make(
    folder, ["Q: Who was the composer of Easy Living?", "A: London is located in the country"]
  )
  rows = [
    {"sub_label": "Ann", "obj_label": "Oslo", "masked_sentences": ["Ann was born in [MASK] ."]},
    {
      "sub_label": "Bo",
      "obj_label": "Rome",
      "masked_sentences": ["[MASK] and [MASK]", "[MASK] is where Bo lives ."],
    },
    {"sub_label": "Cy", "obj_label": "Bern", "masked_sentences": ["nothing"]},
  ]
  os.makedirs(folder / "lama")
  (folder / "lama" / "place.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return folder


@pytest.fixture(autouse=True)
def ours_alone(monkeypatch):
  """Only our tasks: to look through the harness's own takes 20 seconds."""
  alone = functools.partial(lm_eval_tasks.TaskManager, include_defaults=False)
  monkeypatch.setattr(lm_eval_tasks, "TaskManager", alone)


def run(model, tasks, output, *more, limit=LIMIT):
  """The aggregated results and the samples files of a run by the door, on the first documents."""
  code = evaluate.main(
    [
      "evaluate",
      "--model_args",
      f"checkpoint={model}",
      "--tasks",
      tasks,
      "--limit",
      str(limit),
      "--output_path",
      str(output),
      "--log_samples",
      *more,
    ]
  )
  assert code == 0
  (results,) = glob.glob(f"{output}/**/results_*.json", recursive=True)
  samples = {
    os.path.basename(path).removeprefix("samples_").rpartition("_")[0]: path
    for path in glob.glob(f"{output}/**/samples_*.jsonl", recursive=True)
  }
  return json.loads(open(results).read())["results"], samples


def metadata(data_dir, *names):
  return ["--metadata", ",".join(f"{name}={data_dir / FILES[name]}" for name in names)]


def raw_rows(path):
  """The rows of a data set's file, as they are."""
  with gzip.open(path, "rt") as file:
    return [json.loads(line) for line in file]


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("family, suffix", [("llama", ""), ("t5", "_t5")])
def test_generated_answers_score_in_the_harness_as_in_diagnose(
  home, data_dir, tmp_path, family, suffix
):
  """Random models are always wrong: some of what they said is therefore made right, and they are
  asked again.
  """
  tasks = {"popqa": f"popqa{suffix}", "entityquestions": f"entityquestions{suffix}"}
  raw = {name: raw_rows(data_dir / FILES[name])[:LIMIT] for name in tasks}
  for number, name in enumerate(("first", "second")):
    for data, rows in raw.items():
      write(tmp_path / f"{data}.jsonl", rows)
    given = ",".join(f"{data}={tmp_path / data}.jsonl" for data in tasks)
    results, samples = run(
      home / family, ",".join(tasks.values()), tmp_path / name, "--metadata", given
    )
    assert set(samples) == set(tasks.values())
    found = {data: reading.read(samples[task]) for data, task in tasks.items()}
    for data, rows in raw.items():
      said = [found[data].strings[code] for code in found[data].prediction]
      for row, text in list(zip(rows, said, strict=True))[number::2]:
        column = "possible_answers" if data == "popqa" else "a"
        row[column] = [
          *(json.loads(row[column]) if isinstance(row[column], str) else row[column]),
          text,
          f"{text[:4]}",
        ]
  for data, task in tasks.items():
    exact, contains, _ = accuracy.scores(found[data]).mean(axis=0)
    assert 0 < exact < 1 and exact <= contains < 1
    assert results[task]["exact_match,none"] == pytest.approx(exact)
    assert results[task]["contains,none"] == pytest.approx(contains)
  facts = sources.read_facts(f"popqa:{tmp_path / 'popqa.jsonl'}")
  assert [found["popqa"].strings[code] for code in found["popqa"].subject] == [
    fact["subject"] for fact in facts
  ]
  assert found["popqa"].popularity.tolist() == [fact["popularity"] for fact in facts]


@pytest.mark.parametrize(
  "family, task, data",
  [("llama", "entityquestions", "entityquestions"), ("t5", "popqa_t5", "popqa")],
)
def test_the_harness_asks_as_factshock_asks(home, data_dir, tmp_path, family, task, data):
  """Its answers are those of `answer --method=greedy`, so its prompts are."""
  _, samples = run(home / family, task, tmp_path / "harness", *metadata(data_dir, data))
  source = f"{data}:{data_dir / FILES[data]}"
  facts = sources.read_facts(source)[:LIMIT]
  from factshock.facts import schema

  schema.write_facts(tmp_path / "facts.jsonl", facts)
  rows = answered.answer_facts(
    str(home / family),
    str(tmp_path / "facts.jsonl"),
    str(tmp_path / "own.jsonl"),
    asking.AnswerOptions(mode="generate", relations=source),
  )
  found = reading.read(samples[task])
  assert [found.strings[code] for code in found.prediction] == [row["prediction"] for row in rows]


@pytest.mark.parametrize("family, task", [("llama", "trex"), ("t5", "trex_t5")])
def test_ranked_answers_score_in_the_harness_as_in_diagnose(home, data_dir, tmp_path, family, task):
  """As above: one of the likeliest candidates is made the right one."""
  shutil.copy(data_dir / "trex" / "relations.jsonl", tmp_path)
  rows = [row for row in raw_rows(data_dir / "trex" / "test.jsonl.gz") if row["relation"] == "P19"]
  for name in ("first", "second"):
    write(tmp_path / "test.jsonl", rows)
    results, samples = run(
      home / family, task, tmp_path / name, "--metadata", f"trex={tmp_path / 'test.jsonl'}", limit=3
    )
    found = reading.read(samples[task])
    assert found.listed > 100 and (found.rank > 0).all() and np.isfinite(found.score).all()
    rows[0] = {**rows[0], "obj_label": found.strings[found.prediction[0]]}
  right = accuracy.exact_match(found)
  assert right[0] == 1 and right.mean() < 1
  assert results[task]["acc,none"] == pytest.approx(right.mean())


def test_lama_asks_up_to_the_mask_or_around_it(home, tmp_path, capsys):
  for family, task, count in (("llama", "lama", 1), ("t5", "lama_t5", 2)):
    results, samples = run(
      home / family, task, tmp_path / family, "--metadata", f"lama={home / 'lama'}"
    )
    rows = [json.loads(line) for line in open(samples[task])]
    assert len(rows) == count and rows[0]["doc"]["relation"] == "place"
    assert 0 <= results[task]["precision_at_1,none"] <= 1
  assert rows[1]["arguments"]["gen_args_0"]["arg_0"] == "<extra_id_0> is where Bo lives ."
  said = capsys.readouterr().out
  assert "lama: 1 rows dropped, without a sentence that has one mask" in said
  assert "lama: 1 rows dropped, as the mask does not end them" in said


def test_shots_are_other_documents(home, data_dir, tmp_path):
  _, samples = run(
    home / "t5", "popqa_t5", tmp_path, "--num_fewshot", "2", *metadata(data_dir, "popqa")
  )
  for line in open(samples["popqa_t5"]):
    row = json.loads(line)
    text = row["arguments"]["gen_args_0"]["arg_0"]
    assert text.endswith(row["doc"]["question"]) and text.count(row["doc"]["question"]) == 1
    assert text.count("?") >= 3 and "\n" not in text


def test_popqa_is_asked_as_by_its_authors(home, data_dir, tmp_path):
  """As their run_model.py does: the prompt, the number of new tokens, no end but that."""
  _, samples = run(
    home / "llama", "popqa", tmp_path, "--num_fewshot", "1", *metadata(data_dir, "popqa"), limit=2
  )
  for line in open(samples["popqa"]):
    row = json.loads(line)
    prompt = row["arguments"]["gen_args_0"]["arg_0"]
    settings = row["arguments"]["gen_args_0"]["arg_1"]
    shot, question = prompt.split("\n\n")
    assert question == f"Q: {row['doc']['question']} A:"
    assert shot.startswith("Q: ") and "? A: " in shot
    assert settings["max_gen_toks"] == 15 and settings["until"] == []


@pytest.mark.parametrize(
  "text, expected",
  [
    ("\n\n Oslo\nQ: next", "Oslo"),
    (" Oslo", "Oslo"),
    ("\nOslo", ""),
    (" Oslo, the\n\ncity", "Oslo, the"),
    ("", ""),
  ],
)
def test_popqa_reads_the_first_line(text, expected):
  """As run_model.py does, but for spaces around it."""
  extraction = pytest.importorskip("lm_eval.filters.extraction")
  path = os.path.join(os.path.dirname(documents.__file__), "popqa.yaml")
  (line,) = [line for line in open(path) if "regex_pattern" in line]
  (inner,) = extraction.RegexFilter(json.loads(line.partition(":")[2])).apply([[text]], [{}])
  assert inner == [expected]


@pytest.mark.parametrize(
  "text, right",
  [
    ("Oslo", 1),
    (" Oslo-based", 1),
    ("Oslo/Norway", 1),
    ('"Oslo"', 1),
    ("Oslos", 0),
    ("The Oslo", 0),
    ("", 0),
    ("...", 0),
  ],
)
def test_the_first_word_ends_where_no_word_character_stands(text, right):
  assert documents.first_word({"object": "Oslo"}, [text]) == {"precision_at_1": right}


def test_what_counts_as_right():
  doc = {"object": "New York", "aliases": ["the big apple"]}
  scores = lambda text: tuple(documents.generated(doc, [text]).values())
  assert (
    scores("New York") == (1, 1, 1)
    and scores("it is The Big Apple.") == (0, 1, 0)
    and scores("Rome") == (0, 0, 0)
  )
  assert scores("in new york, I think") == (
    0,
    1,
    1,
  )  # Mallen et al. take the lower-cased answer too
  assert documents.first_word({"object": "Oslo"}, [" oslo, Norway"]) == {"precision_at_1": 1.0}
  assert documents.first_word({"object": "Oslo"}, [""]) == {"precision_at_1": 0.0}


def test_data_that_cannot_be(home, tmp_path, capsys):
  (tmp_path / "other.jsonl").write_text('{"sub_label": "Ann"}\n')
  for task, given, words in (
    ("trex", [], "say --metadata trex=PATH"),
    ("lama", ["--metadata", f"lama={tmp_path / 'other.jsonl'}"], "expected a row of LAMA"),
    ("popqa", ["--metadata", f"popqa={tmp_path / 'absent.jsonl'}"], "absent.jsonl"),
  ):
    assert (
      evaluate.main(
        ["evaluate", "--model_args", f"checkpoint={home / 'llama'}", "--tasks", task, *given]
      )
      == 2
    )
    assert words in capsys.readouterr().err
  with pytest.raises(UserError, match="expected at least one document"):
    documents._dataset([])


def test_the_door_fills_in_what_is_left_out():
  filled = ["--model", "factshock", "--include_path", evaluate.TASKS, "--batch_size", "auto"]
  assert evaluate.arguments(["--tasks", "popqa"]) == ["run", "--tasks", "popqa", *filled]
  given = ["-M", "hf", "--include_path=x", "-b", "4"]
  assert evaluate.arguments(given) == ["run", *given]


@pytest.mark.slow
def test_the_harness_has_no_task_of_these_names():
  theirs, ours = (
    lm_eval_tasks.TaskManager.func(),
    lm_eval_tasks.TaskManager(include_path=evaluate.TASKS),
  )
  assert len(ours.all_tasks) == 8 and not set(ours.all_tasks) & set(theirs.all_tasks)

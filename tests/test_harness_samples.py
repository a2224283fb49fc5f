"""Samples that the lm-evaluation-harness writes of tasks like its own, read as predictions: the
share that is right is the one that it prints.
"""

import glob

import pytest

evaluator = pytest.importorskip("lm_eval.evaluator")
tasks = pytest.importorskip("lm_eval.tasks")
LM = pytest.importorskip("lm_eval.api.model").LM
EvaluationTracker = pytest.importorskip("lm_eval.loggers").EvaluationTracker

import datasets

from factshock.predictions import accuracy, reading

QUESTIONS = [
  {
    "question": "What is the capital of France",
    "answer": {"value": "Paris", "aliases": ["Paris", "City of Light"]},
    "answers": ["City of Light", "Paris"],
    "said": " The City of Light",
  },
  {
    "question": "What is the capital of Japan",
    "answer": {"value": "Tokyo", "aliases": ["Edo", 'The "East" Capital', "Tokyo"]},
    "answers": ["Edo", "Tokyo"],
    "said": " tokyo. It is",
  },
  {
    "question": "What is the capital of Norway",
    "answer": {"value": "Oslo", "aliases": ["Oslo"]},
    "answers": ["Oslo"],
    "said": " Paris",
  },
]
ANSWERS = {row["question"]: row["said"] for row in QUESTIONS}

GENERATED = {
  "output_type": "generate_until",
  "doc_to_text": "Question: {{question}}?\nAnswer:",
  "generation_kwargs": {"until": ["\n"], "do_sample": False},
  "filter_list": [
    {
      "name": "remove_whitespace",
      "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}],
    }
  ],
  "metric_list": [
    {
      "metric": "exact_match",
      "aggregation": "mean",
      "higher_is_better": True,
      "ignore_case": True,
      "ignore_punctuation": True,
      "regexes_to_ignore": ["\\b(?:The |the )"],
    }
  ],
}
CASES = {
  "triviaqa_like": {**GENERATED, "doc_to_target": "{{answer.aliases}}"},
  "nq_open_like": {**GENERATED, "doc_to_target": "{{answers}}"},
  "webqs_like": {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": lambda doc: list(range(len(doc["answers"]))),
    "doc_to_choice": lambda doc: [*doc["answers"], "Bergen"],
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
  },
}


class Model(LM):
  """Gives each question the answer said, up to the first end, and prefers long choices."""

  def generate_until(self, requests, disable_tqdm=False):
    texts = []
    for request in requests:
      prompt, settings = request.args
      text = next(said for question, said in ANSWERS.items() if question in prompt)
      for end in [*settings["until"], "."]:
        text = text.partition(end)[0]
      texts.append(text)
    return texts

  def loglikelihood(self, requests, disable_tqdm=False):
    return [(float(len(request.args[1])) - 99, False) for request in requests]

  def loglikelihood_rolling(self, requests, disable_tqdm=False):
    raise NotImplementedError


@pytest.mark.parametrize("task", CASES)
def test_samples_are_right_as_the_harness_says(task, tmp_path, capsys):
  config = {
    "task": task,
    "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(QUESTIONS)},
    "test_split": "test",
    **CASES[task],
  }
  results = evaluator.simple_evaluate(
    Model(),
    tasks=[config],
    task_manager=tasks.TaskManager(include_defaults=False),
    bootstrap_iters=0,
  )
  tracker = EvaluationTracker(output_path=str(tmp_path))
  tracker.save_results_aggregated(results={}, samples=results["samples"])
  tracker.save_results_samples(task, results["samples"][task])
  (path,) = glob.glob(f"{tmp_path}/**/samples_*.jsonl", recursive=True)
  capsys.readouterr()
  found = reading.read(path)
  (theirs,) = [
    value
    for key, value in results["results"][task].items()
    if key.partition(",")[0] in ("acc", "exact_match")
  ]
  assert 0 < theirs < 1
  assert accuracy.exact_match(found).mean() == pytest.approx(theirs)
  assert [found.strings[code] for code in found.relation] == [task] * 3
  assert capsys.readouterr().out == ""

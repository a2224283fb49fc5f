"""The second paper's study from config to report on a tiny Llama: answers generated, and choices by
their letters.
"""

import json

import hf_tokenizers
import jax
import pytest

from factshock.configs import pretrained, which_facts
from factshock.data import pretrained_tokenizers
from factshock.facts import schema, templates
from factshock.models import decoder
from factshock.models.formats import huggingface
from factshock.runtime.errors import UserError
from factshock.study import checks, pipeline


class Base:
  """A config module for which_facts.of: a model in a folder, trained for a few steps."""

  def __init__(self, folder):
    self.folder = folder

  def get_config(self):
    config = pretrained.get_config(str(self.folder))
    config.model.dtype = "float32"
    config.finetune.update(
      dict(steps=4, batch_size=8, warmup=1, eval_steps=(4,), checkpoint_every=2, input_length=160)
    )
    config.diagnosis.resamples = 200
    config.cpu_devices = 0
    return config


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("which")
  size = pretrained_tokenizers.load(hf_tokenizers.llama_like(folder / "llama")).size
  config = decoder.LlamaConfig(
    vocab_size=size,
    d_model=16,
    d_ff=24,
    num_heads=4,
    num_kv_heads=2,
    d_kv=4,
    layers=1,
    max_length=512,
  )
  tokenizer = {path.name: path.read_bytes() for path in (folder / "llama").iterdir()}
  huggingface.save(str(folder / "model"), decoder.init(config, jax.random.key(0)), config)
  for name, content in tokenizer.items():
    (folder / "model" / name).write_bytes(content)
  rows = [
    {
      "subj": f"Book {n}",
      "prop": "author",
      "obj": f"Writer {n % 5}",
      "possible_answers": [f"Writer {n % 5}", f"W{n % 5}"],
      "question": templates.POPQA["author"][2].replace("[X]", f"Book {n}"),
      "s_pop": n + 1,
    }
    for n in range(48)
  ]
  (folder / "popqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  (folder / "counts.tsv").write_text(
    "entity\tcount\n" + "".join(f"Writer {n}\t{n + 1}\n" for n in range(5))
  )
  schema.write_facts(
    folder / "mmlu.jsonl",
    [
      {
        "subject": f"What is {n}?",
        "relation": "maths",
        "object": f"it is {n}",
        "question": f"What is {n}?",
        "confidence": n / 48,
        "choices": sorted(f"it is {m}" for m in (n, n + 1, n + 2, n + 3)),
      }
      for n in range(48)
    ],
  )
  (folder / "relations.jsonl").write_text(
    '{"relation": "maths", "statements": ["[X] [Y]"], "questions": ["[X]"]}\n'
  )
  (folder / "choice_counts.tsv").write_text(
    "entity\tcount\n" + "".join(f"it is {n}\t1\n" for n in range(48))
  )
  return folder


def keep(config, *names):
  for name in [name for name in config.arms if name not in names]:
    del config.arms[name]
  return config


def rows_of(workdir, label):
  import gzip

  with gzip.open(workdir / "predictions" / f"{label}.seed0.test.jsonl.gz", "rt") as file:
    return [json.loads(line) for line in file]


@pytest.mark.slow
def test_popqa_is_asked_by_generation(home, tmp_path):
  config = which_facts.of(Base(home / "model"), "popqa", f"popqa:{home}/popqa.jsonl", shots=2)
  config.entity_counts = str(home / "counts.tsv")
  keep(config, "zero_shot", "whole", "whole_k_shot", "popular_half", "top_30", "naive_bayes")
  found = pipeline.run(config, str(tmp_path / "run"))
  assert set(found["arms"]) >= {
    "zero_shot",
    "whole",
    "whole_k_shot",
    "popular_half",
    "top_30",
    "naive_bayes",
  }
  assert found["criterion"] == "contains"
  row = rows_of(tmp_path / "run", "whole@4")[0]
  assert "candidates" not in row and row["aliases"] == [row["object"].replace("riter ", "")]
  halves = {
    name: schema.read_facts(tmp_path / "run" / "facts" / "0" / f"{name}.jsonl")
    for name in ("whole", "popular_half", "top_30")
  }
  assert len(halves["popular_half"]) == len(halves["whole"]) // 2 and len(halves["top_30"]) == int(
    len(halves["whole"]) * 0.3
  )
  assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
def test_mmlu_is_asked_by_letters(home, tmp_path):
  config = which_facts.of(
    Base(home / "model"),
    "mmlu",
    str(home / "mmlu.jsonl"),
    prompt="letters",
    shots=2,
    popularity="confidence",
  )
  config.relations, config.entity_counts = (
    str(home / "relations.jsonl"),
    str(home / "choice_counts.tsv"),
  )
  keep(config, "zero_shot", "k_shot", "whole", "unpopular_half")
  found = pipeline.run(config, str(tmp_path / "run"))
  assert set(found["arms"]) >= {"k_shot", "whole", "unpopular_half"}
  row = rows_of(tmp_path / "run", "k_shot")[0]
  assert row["prediction"] == row["candidates"][0][0] and len(row["candidates"]) == 4
  assert row["object"] in [name for name, _ in row["candidates"]]
  low = schema.read_facts(tmp_path / "run" / "facts" / "0" / "unpopular_half.jsonl")
  whole = schema.read_facts(tmp_path / "run" / "facts" / "0" / "whole.jsonl")
  assert (
    max(fact["confidence"] for fact in low)
    <= sorted(fact["confidence"] for fact in whole)[len(whole) // 2]
  )


def test_arms_that_rank_are_refused_where_nothing_is_ranked(home):
  config = which_facts.of(Base(home / "model"), "mmlu", "mmlu:x", prompt="letters")
  with config.unlocked():
    config.arms.majority = dict(kind="majority")
  with pytest.raises(
    UserError, match="config.arms.majority: majority ranks the answers of a relation"
  ):
    checks.check(config)

"""What can be checked is checked before work begins, and all problems are named at once."""

import functools
import json
import os
import shutil

import hf_tokenizers
import jax
import pytest
import tiny
import tiny_folders
import tiny_own
import tiny_pretrained

from factshock.checkpoints import conversion, token_maps
from factshock.devices import partitioning
from factshock.facts import relations as relation_files
from factshock.facts import schema, world
from factshock.runtime.errors import UserError
from factshock.study import checks, finetuning, input_checks, pipeline


@pytest.fixture(scope="module")
def made():
  return world.make_world(0, relations=2, subjects=40, answers=6, mean_mentions=3)


@pytest.fixture
def config(tmp_path, made):
  """A config of files: facts, relations and text."""
  schema.write_facts(tmp_path / "facts.jsonl", made.facts)
  relation_files.write_relations(tmp_path / "relations.jsonl", made.relations)
  (tmp_path / "text.txt").write_text("".join(text + "\n" for text in made.sentences))
  config = tiny_own.get_config("question")
  config.facts = str(tmp_path / "facts.jsonl")
  config.relations = str(tmp_path / "relations.jsonl")
  config.corpus = str(tmp_path / "text.txt")
  return config


def problems_of(call):
  with pytest.raises(UserError) as error:
    call()
  return str(error.value)


def without_questions(config, made):
  rows = {name: {**row, "questions": []} for name, row in made.relations.items()}
  relation_files.write_relations(config.relations, rows)


def test_files_that_fit_pass(config):
  checks.check(config)
  checks.check_inputs(config)


def test_facts_without_questions_are_found_before_anything_is_written(config, made, tmp_path):
  without_questions(config, made)
  message = problems_of(lambda: pipeline.run(config, tmp_path / "run"))
  for relation in made.relations:
    assert f"relation {relation!r}: expected `questions`" in message
  assert "facts of it that 'question' cannot ask: " in message and "asked so by " in message
  assert not (tmp_path / "run").exists()
  message = problems_of(lambda: finetuning.run(config, tmp_path / "run"))
  assert "expected `questions`" in message and "asked so by train" in message
  assert not (tmp_path / "run").exists()


def test_a_question_of_its_own_is_enough(config, made):
  without_questions(config, made)
  facts = [{**fact, "question": f"who is {fact['subject']} ?"} for fact in made.facts]
  schema.write_facts(config.facts, facts)
  checks.check_inputs(config)


def test_all_files_that_are_not_there_are_named_at_once(config, tmp_path):
  names = ("facts.jsonl", "relations.jsonl", "text.txt")
  for name in names:
    os.unlink(tmp_path / name)
  config.entity_counts = str(tmp_path / "counts.tsv")
  config.start_from = str(tmp_path / "start" / "here" / "or" / "there")
  config.tokenizer.path = str(tmp_path / "words.model")
  config.tokenizer.kind = "sentencepiece"
  message = problems_of(lambda: checks.check_inputs(config))
  for name in (*names, "counts.tsv", "start", "words.model"):
    assert str(tmp_path / name) in message


def test_choices_are_asked_of_every_fact(config, made):
  problems = input_checks.problems(config, {"letters": ["a", "b"]})
  assert len(problems) == len(made.relations)
  assert all("'letters' cannot ask" in line and "asked so by a, b" in line for line in problems)


def test_statements_that_a_decoder_cannot_be_asked_by_are_named(made):
  relations = {
    name: {**row, "statements": ["[Y] is of [X] ."]} for name, row in made.relations.items()
  }
  check = functools.partial(input_checks._statement_problems, made.facts, relations)
  assert check(False, ["best"]) == []
  (line,) = check(True, ["best"])
  assert all(name in line for name in relations) and "best" in line


def test_warmups_longer_than_training_are_named_at_once():
  config = tiny.get_config()
  config.pretrain.update(dict(schedule="cosine", warmup=30))
  config.finetune.update(dict(schedule="linear", warmup=9))
  message = problems_of(lambda: checks.check(config))
  assert "config.pretrain.steps: expected more steps than the warmup's 30, got 30" in message
  assert "config.arms.finetune.steps: expected more steps than the warmup's 9, got 8" in message
  assert "config.arms.mixture.steps" in message
  message = problems_of(lambda: finetuning.check(config, 0))
  assert "config.pretrain.steps" in message and "config.finetune.steps" in message


def test_a_pretraining_of_no_steps_needs_no_schedule():
  config = tiny.get_config()
  config.pretrain.update(dict(schedule="cosine", steps=0))
  checks.check(config)


def test_problems_of_sections_arms_and_names_come_together():
  config = tiny.get_config()
  config.split.pool = 0.1
  config.roles.ceiling = "nobody"
  config.pretrain.update(dict(schedule="cosine", warmup=300))
  message = problems_of(lambda: checks.check(config))
  assert all(text in message for text in ("config.split", "config.roles.ceiling", "pretrain.steps"))


def test_batches_that_microbatches_or_devices_cannot_share_are_named_at_once():
  config = tiny.get_config()
  config.pretrain.update(dict(batch_size=15, accumulate=2, pack=False))
  assert "config.pretrain.accumulate: expected a divisor of the 15 rows" in problems_of(
    lambda: checks.check(config)
  )
  config.pretrain.accumulate = 1
  config.finetune.update(dict(batch_size=7, pack=False))
  checks.check(config)
  mesh = partitioning.make_mesh({}, jax.devices()[:2])
  message = problems_of(lambda: checks.check_devices(config, mesh))
  assert "config.pretrain.batch_size" in message and "got 15; choose a multiple of 2" in message
  assert "config.arms.finetune.batch_size" in message and "got 7" in message
  checks.check_devices(tiny.get_config(), mesh)


def test_steps_of_answers_beyond_the_training_are_said():
  config = tiny.get_config()
  assert checks.notes(config) == []
  config.finetune.eval_steps = (0, 4, 8, 20, 40)
  assert checks.notes(config) == [
    "config.finetune.eval_steps: 20, 40 lie beyond the 8 steps and are left out"
  ]


def test_too_few_facts_for_shots_are_found_before_training(config, made, tmp_path):
  relation = next(iter(made.relations))
  other = [fact for fact in made.facts if fact["relation"] != relation]
  few = [fact for fact in made.facts if fact["relation"] == relation][:6]
  schema.write_facts(config.facts, other + few)
  with config.unlocked():
    config.arms.shots = dict(kind="prompted", prompt="question", shots=8)
  message = problems_of(lambda: pipeline.run(config, tmp_path / "run"))
  assert "config.arms.shots: " in message and relation in message
  assert not (tmp_path / "run" / "checkpoints").exists()


def test_facts_of_relations_that_are_not_there_are_named(config, made):
  first = next(iter(made.relations))
  rows = {name: row for name, row in made.relations.items() if name != first}
  relation_files.write_relations(config.relations, rows)
  message = problems_of(lambda: checks.check_inputs(config))
  assert "have an unknown relation" in message and json.dumps(first)[1:-1] in message


def converted(folder, target):
  """Writes the checkpoint of a HuggingFace folder's model; returns its folder."""
  conversion.convert(folder, target, "orbax")
  return str(target)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, made):
  """A folder with the HuggingFace folders of a T5 and a Llama."""
  folder = tmp_path_factory.mktemp("folders")
  tiny_folders.make(folder, made.sentences)
  return folder


def pretrained_config(config, model):
  """Returns the config of a model's study, with the files of `config`."""
  of_model = tiny_pretrained.get_config(str(model))
  for name in ("facts", "relations", "corpus"):
    of_model[name] = config[name]
  of_model.cpu_devices = 0  # the tests have their own
  return of_model


def all_starts(call, folder):
  """Returns the error of `call`, which must leave nothing in a folder."""
  message = problems_of(call)
  assert not folder.exists()
  return message


@pytest.mark.parametrize("kind", ["huggingface", "checkpoint"])
def test_a_start_of_other_sizes_is_found_before_anything_is_written(
  config, folders, tmp_path, kind
):
  config = pretrained_config(config, folders / "llama")
  if kind == "checkpoint":
    config.tokenizer.path = config.start_from
    config.start_from = converted(folders / "llama", tmp_path / "start")
  checks.check_inputs(config)  # fits as it is
  config.model.update(d_ff=40, rope_theta=5000.0)
  os.unlink(config.corpus)
  for run in (pipeline.run, finetuning.run):
    message = all_starts(lambda run=run: run(config, tmp_path / "run"), tmp_path / "run")
    assert "config.start_from=" in message and "(there, here)" in message
    assert "d_ff: 24 and 40" in message and "rope_theta: 10000.0 and 5000.0" in message
    assert str(config.corpus) in message


def test_a_start_of_another_family_is_named_with_all_else(config, folders, tmp_path):
  config = pretrained_config(config, folders / "llama")
  config.start_from = str(folders / "t5")
  config.tokenizer.path = str(tmp_path)
  message = all_starts(lambda: pipeline.run(config, tmp_path / "run"), tmp_path / "run")
  assert "config.tokenizer: " in message and "no tokenizer can be read there" in message
  config.tokenizer.path = str(folders / "llama")
  message = problems_of(lambda: checks.check_inputs(config))
  assert "family: t5 and llama" in message


def test_a_checkpoint_of_another_family_or_of_another_dtype_is_named(config, folders, tmp_path):
  start = converted(folders / "t5", tmp_path / "start")
  config = pretrained_config(config, folders / "llama")
  config.update(dict(start_from=start, tokenizer=dict(path=str(folders / "llama"))))
  assert "family: t5 and llama" in problems_of(lambda: checks.check_inputs(config))
  config = pretrained_config(config, folders / "t5")
  config.update(dict(start_from=start, tokenizer=dict(path=str(folders / "t5"))))
  checks.check_inputs(config)
  config.model.param_dtype = "bfloat16"
  assert "checkpoint of another model: " in problems_of(lambda: checks.check_inputs(config))


def test_tokens_of_a_start_must_be_those_of_the_study(config, folders, made, tmp_path):
  start = converted(folders / "llama", tmp_path / "start")
  config = pretrained_config(config, folders / "llama")
  config.start_from = start
  lines = ["zebras quietly juggle turnips", *reversed(made.sentences)]
  other = hf_tokenizers.llama_like(tmp_path / "other", lines=lines)
  config.tokenizer.path = other
  message = problems_of(lambda: checks.check_inputs(config))
  assert "was trained with another tokenizer than the study's (" in message


@pytest.mark.parametrize(
  "name,expected",
  [
    ("nothing/here/or/there", "nothing there"),
    ("empty", "got none"),
    ("a/b.bin", "got a file"),
    ("no_weights", "expected model.safetensors or model.safetensors.index.json"),
    ("cut", "model.safetensors"),
    ("no_tokenizer", "no tokenizer can be read there"),
    ("t5x", "is a T5X checkpoint; convert it first"),
    ("of_no_kind", "config.json"),
  ],
)
def test_what_is_no_model_to_start_from_is_said(config, folders, tmp_path, name, expected):
  config = pretrained_config(config, folders / "llama")
  start = tmp_path / name
  if name in ("no_weights", "cut", "no_tokenizer", "of_no_kind"):
    shutil.copytree(folders / "llama", start)
  if name == "no_weights":
    (start / "model.safetensors").unlink()
  elif name == "cut":
    with open(start / "model.safetensors", "r+b") as file:
      file.truncate(1000)
  elif name == "no_tokenizer":
    for path in start.glob("*token*"):
      path.unlink()
  elif name == "of_no_kind":
    (start / "config.json").write_text('{"model_type": "bert"}')
  elif name == "empty":
    start.mkdir()
  elif name == "a/b.bin":
    start.parent.mkdir()
    start.write_bytes(b"x")
  elif name == "t5x":
    start.mkdir()
    (start / "checkpoint").write_bytes(b"x")
  config.start_from = str(start)
  message = all_starts(lambda: finetuning.run(config, tmp_path / "run"), tmp_path / "run")
  assert expected in message and str(start) in message


def test_adapters_are_no_model_to_start_from(config, folders, tmp_path):
  start = converted(folders / "llama", tmp_path / "start")
  config = pretrained_config(config, folders / "llama")
  path = tmp_path / "start" / "manifest.json"
  record = json.loads(path.read_text())
  del record["file_digest"]
  record["config"]["lora"] = {"base": str(folders / "llama"), "rank": 2, "alpha": 4.0}
  path.write_text(json.dumps(record))
  config.start_from = start
  assert "holds adapters, not a whole model" in problems_of(lambda: checks.check_inputs(config))


def test_tokens_contradict_where_an_id_or_a_token_has_another():
  conflict = token_maps.conflict
  assert conflict({"a": 0, "b": 1}, {"a": 0, "b": 1, "new": 2}) is None
  assert conflict({"a": 0, "b": 1, "new": 2}, {"a": 0, "b": 1}) is None
  assert conflict({"a": 0, "b": 1}, {"a": 0, "c": 1}) == "id 1 is 'b' there and 'c' here"
  assert conflict({"a": 0, "b": 1}, {"a": 0, "b": 2}) == "the id of 'b' is 1 there and 2 here"

"""Every verb with HuggingFace models that transformers saved: train, answer, convert, mix,
experiment; T5 and Llama.
"""

import collections
import functools
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import answered
import gguf_models
import jax
import ml_collections
import numpy as np
import programs
import pytest
import tiny_folders
import tiny_pretrained

from factshock.answering import asking
from factshock.answering.decoding import DecodingOptions
from factshock.answering.prompting import Prompting
from factshock.checkpoints import belongings, conversion, mixing, store
from factshock.configs import remedies
from factshock.data import pretrained_tokenizers
from factshock.facts import relations as relation_files
from factshock.facts import schema, world
from factshock.models import decoder, lora, t5
from factshock.models.formats import huggingface
from factshock.runtime.errors import UserError
from factshock.study import checks, finetuning, pipeline

ROOT = pathlib.Path(__file__).parents[1]
FAMILIES = ("t5", "llama")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """A folder with facts, relations, text, and a T5 and a Llama of random weights with their
  tokenizers.
  """
  folder = tmp_path_factory.mktemp("pretrained")
  made = world.make_world(0, relations=2, subjects=40, answers=6, mean_mentions=3)
  schema.write_facts(folder / "facts.jsonl", made.facts)
  schema.write_facts(folder / "some.jsonl", made.facts[:12])
  first = made.facts[0]["relation"]
  schema.write_facts(
    folder / "one_relation.jsonl", [fact for fact in made.facts if fact["relation"] == first]
  )
  relation_files.write_relations(folder / "relations.jsonl", made.relations)
  (folder / "text.txt").write_text("".join(sentence + "\n" for sentence in made.sentences))
  tiny_folders.make(folder, made.sentences)
  return folder


def config_of(home, family, **finetune):
  config = tiny_pretrained.get_config(str(home / family))
  for name, file in (
    ("facts", "facts.jsonl"),
    ("relations", "relations.jsonl"),
    ("corpus", "text.txt"),
  ):
    config[name] = str(home / file)
  config.cpu_devices = 0  # the tests have their own
  config.finetune.update(finetune)
  return config


@pytest.fixture(scope="module", params=[pytest.param("t5", marks=pytest.mark.slow), "llama"])
def trained(request, home, tmp_path_factory):
  """(family, folder of the checkpoint) of a whole model finetuned on a mixture."""
  workdir = tmp_path_factory.mktemp("trained") / request.param
  return request.param, finetuning.run(config_of(home, request.param), str(workdir), ratio=1.0)


@pytest.fixture(scope="module", params=[pytest.param("t5", marks=pytest.mark.slow), "llama"])
def adapted(request, home, tmp_path_factory):
  """(family, folder of the checkpoint) of adapters finetuned on a mixture."""
  workdir = tmp_path_factory.mktemp("adapted") / request.param
  config = config_of(
    home, request.param, lora_rank=3, lora_targets=("query", "down"), learning_rate=0.05
  )
  return request.param, finetuning.run(config, str(workdir), ratio=1.0)


def ask(home, checkpoint, output, mode="rank", *, shots=0, shot_facts=None, **options):
  decoding_options = {"max_length": options.pop("max_tokens", 16)}
  decoding_options |= options.pop("decoding_options", {})
  answer_options = asking.AnswerOptions(
    mode=mode,
    prompting=Prompting(options.pop("prompt", None), shots, shot_facts),
    decoding=DecodingOptions(**decoding_options),
    relations=str(home / "relations.jsonl"),
    **options,
  )
  return answered.answer_facts(
    str(checkpoint), str(home / "some.jsonl"), str(output), answer_options
  )


def same_answers(one, other):
  assert [row["prediction"] for row in one] == [row["prediction"] for row in other]
  np.testing.assert_allclose(
    [row["score"] for row in one], [row["score"] for row in other], rtol=3e-4
  )


def test_training_moves_the_weights_and_the_export_answers_the_same(home, trained, tmp_path):
  family, checkpoint = trained
  start = huggingface.load(home / family)[0]
  moved = jax.tree.map(
    lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()),
    start,
    store.restore_params(checkpoint),
  )
  assert min(jax.tree.leaves(moved)) > 0
  before, after = ask(home, checkpoint, tmp_path / "ours.jsonl"), tmp_path / "hf"
  conversion.convert(checkpoint, after, "huggingface")
  same_answers(before, ask(home, after, tmp_path / "hf.jsonl"))
  assert {"tokenizer.json", "tokenizer_config.json", "config.json"} <= set(os.listdir(after))


def test_as_many_candidates_are_kept_as_top_says(home, tmp_path):
  all_rows, two = (ask(home, home / "llama", tmp_path / f"{top}.jsonl", top=top) for top in (0, 2))
  for row, best in zip(all_rows, two, strict=True):
    assert len(row["candidates"]) == row["among"] > 2
    assert [name for name, _ in best["candidates"]] == [name for name, _ in row["candidates"][:2]]


def test_votes_are_the_shares_of_sampled_answers(home, tmp_path):
  options = {"method": "sample", "seed": 3, "temperature": 0.7}
  asked = functools.partial(ask, home, home / "llama")
  voted = asked(tmp_path / "votes.jsonl", "votes", samples=3, decoding_options=options)
  drawn = [
    asked(tmp_path / f"{seed}.jsonl", "generate", decoding_options={**options, "seed": seed})
    for seed in (3, 4, 5)
  ]
  for row, *samples in zip(voted, *drawn, strict=True):
    texts = [sample["prediction"] for sample in samples]
    shares = {text: texts.count(text) / 3 for text in texts}
    found = {text: round(math.exp(score), 3) for text, score in row["candidates"]}
    assert found == {text: round(share, 3) for text, share in shares.items()}
    assert shares[row["prediction"]] == max(shares.values())


def test_a_chat_is_generated_as_transformers_does(home, tmp_path):
  """By the template of the tokenizer; and a model without one is refused."""
  torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
  with pytest.raises(UserError, match="expected a tokenizer with a chat template"):
    ask(home, home / "llama", tmp_path / "none.jsonl", "generate", prompt="chat")
  with pytest.raises(UserError, match="got a T5"):
    ask(home, home / "t5", tmp_path / "none.jsonl", "generate", prompt="chat")
  folder = tmp_path / "chat"
  shutil.copytree(home / "llama", folder)
  template = "{{ bos_token }}Q: {{ messages[0].content }} A:"
  (folder / "chat_template.jinja").write_text(template)
  rows = ask(home, folder, tmp_path / "said.jsonl", "generate", prompt="chat", max_tokens=6)
  own = pretrained_tokenizers.load(folder)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
  relations = relation_files.read_relations(home / "relations.jsonl")
  for row in rows[:4]:
    question = relations[row["relation"]]["questions"][0].replace("[X]", row["subject"])
    ids = tokenizer.apply_chat_template(
      [{"role": "user", "content": question}], return_tensors="pt", add_generation_prompt=True
    )
    ids = ids["input_ids"] if hasattr(ids, "keys") else ids
    said = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    # Not by transformers' decode: tokens of bytes are special to this small tokenizer.
    assert row["prediction"] == own.decode(said.tolist()).strip()


def test_answers_that_no_text_before_a_stop_can_be_are_counted(capsys):
  facts = [
    {"subject": "a", "relation": "r", "object": "St. Louis"},
    {"subject": "b", "relation": "r", "object": "Washington, D.C.", "aliases": ["Washington"]},
  ]
  asking.show_unsayable(facts, ("\n", ".", ","))
  assert "1 of 2 facts have no accepted answer without a stop string" in capsys.readouterr().out
  asking.show_unsayable(facts, ("\n",))
  assert not capsys.readouterr().out


def test_transformers_loads_the_export_with_our_logits(home, trained, tmp_path):
  torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
  family, checkpoint = trained
  conversion.convert(checkpoint, tmp_path / "hf", "huggingface")
  params, config = huggingface.load(tmp_path / "hf")
  tokens = np.arange(3, 12, dtype=np.int32)[None]
  kind = (
    transformers.T5ForConditionalGeneration if family == "t5" else transformers.LlamaForCausalLM
  )
  model = kind.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
  given = {"input_ids": torch.tensor(tokens.astype(np.int64))}
  with torch.no_grad():
    expected = model(
      **given, **({"labels": given["input_ids"]} if family == "t5" else {})
    ).logits.numpy()
  got = (
    t5.forward(params, config, tokens, tokens)
    if family == "t5"
    else decoder.forward(params, config, tokens)
  )
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
  assert transformers.AutoTokenizer.from_pretrained(tmp_path / "hf").encode("who made it ?")


def test_generating_with_shots_and_saying_what_is_known(home, trained, tmp_path):
  family, checkpoint = trained
  shots = {"shots": 2, "shot_facts": str(home / "facts.jsonl")}
  rows = ask(home, checkpoint, tmp_path / "said.jsonl", "generate", max_tokens=8, **shots)
  assert len(rows) == 12 and all(
    "\n" not in row["prediction"] and "<extra_id" not in row["prediction"] for row in rows
  )
  greedy, beams = (
    ask(
      home,
      checkpoint,
      tmp_path / "again.jsonl",
      "generate",
      max_tokens=8,
      **shots,
      decoding_options=options,
    )
    for options in ({"method": "greedy"}, {"method": "beam", "beams": 3, "length_penalty": 0.0})
  )
  assert greedy == rows
  assert (
    np.mean([row["score"] for row in beams]) > np.mean([row["score"] for row in rows]) - 1e-3
  )  # likelier answers
  counts = asking.assess_knowledge(
    checkpoint,
    str(home / "some.jsonl"),
    str(tmp_path / "known.jsonl"),
    asking.KnowledgeOptions(
      prompting=Prompting(**shots),
      max_tokens=8,
      sets=2,
      samples=2,
      relations=str(home / "relations.jsonl"),
    ),
  )
  known = schema.read_facts(tmp_path / "known.jsonl")
  assert counts == collections.Counter(row["known"] for row in known)
  assert all(
    row["known"] in ("HighlyKnown", "MaybeKnown", "WeaklyKnown", "Unknown") for row in known
  )
  assert all(0 <= row["confidence"] <= 1 and 0 <= row["greedy_right"] <= 1 for row in known)


def test_adapters_train_alone_and_answer_as_their_exports_do(home, adapted, tmp_path):
  family, checkpoint = adapted
  record = store.read_manifest(checkpoint)["config"]["lora"]
  base = str(home / family)
  digest = belongings.model_digest(base)
  assert record == {"rank": 3, "alpha": 16.0, "base": base, "base_digest": digest}
  tree = store.restore_params(checkpoint)
  assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree)) > 0.01
  rows = ask(home, checkpoint, tmp_path / "ours.jsonl")
  for to in ("huggingface", "orbax", "peft"):
    conversion.convert(checkpoint, tmp_path / to, to)
    same_answers(rows, ask(home, tmp_path / to, tmp_path / f"{to}.jsonl"))
  base = ask(home, home / family, tmp_path / "base.jsonl")
  with pytest.raises(AssertionError):
    same_answers(base, rows)
  merged = lora.merge(huggingface.load(home / family)[0], tree, 16.0 / 3)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    merged,
    huggingface.load(tmp_path / "huggingface")[0],
  )


@pytest.mark.slow  # by default: digests in test_models_formats_gguf, adapters above
def test_adapters_stand_on_a_gguf_file_known_by_its_digest(home, tmp_path):
  base = tmp_path / "tiny.gguf"
  model = gguf_models.random_model("llama", max_position_embeddings=512)
  gguf_models.write_model(base, "llama", model)
  for file in ("facts.jsonl", "relations.jsonl", "text.txt", "some.jsonl"):
    shutil.copy(home / file, tmp_path)
  config = config_of(tmp_path, "tiny.gguf", lora_rank=3, lora_targets=("query", "down"))
  checkpoint = finetuning.run(config, str(tmp_path / "workdir"), ratio=1.0)
  record = store.read_manifest(checkpoint)["config"]["lora"]
  assert record["base"] == str(base) and record["base_digest"] == belongings.model_digest(str(base))
  said = functools.partial(ask, tmp_path, mode="generate", max_tokens=4)
  rows = said(checkpoint, tmp_path / "ours.jsonl")
  for to in ("huggingface", "peft"):
    conversion.convert(checkpoint, tmp_path / to, to)
    same_answers(rows, said(tmp_path / to, tmp_path / f"{to}.jsonl"))
    assert (tmp_path / to / "generation_config.json").exists()
  content = bytearray(base.read_bytes())
  content[-1] ^= 1
  base.write_bytes(content)
  with pytest.raises(UserError, match="another model than the one that its adapters were trained"):
    said(checkpoint, tmp_path / "again.jsonl")


def test_half_and_half_of_base_and_export_lies_between(home, trained, tmp_path):
  family, checkpoint = trained
  conversion.convert(checkpoint, tmp_path / "hf", "huggingface")
  mixing.mix_checkpoints(
    [str(home / family), str(tmp_path / "hf")], [0.5, 0.5], str(tmp_path / "mixed")
  )
  base, tuned, mixed = (
    huggingface.load(path)[0] for path in (home / family, tmp_path / "hf", tmp_path / "mixed")
  )
  jax.tree.map(
    lambda a, b, c: np.testing.assert_allclose(c, (a + b) / 2, rtol=1e-5, atol=1e-6),
    base,
    tuned,
    mixed,
  )
  assert len(ask(home, tmp_path / "mixed", tmp_path / "mixed.jsonl")) == 12


@pytest.fixture(scope="module")
def environment():
  """That of runs of their own."""
  return programs.environment()


def run(environment, verb, *flags):
  return subprocess.run(
    [sys.executable, "-m", f"factshock.{verb}", *map(str, flags)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=environment,
  )


def paths(home, facts="facts.jsonl"):
  return [
    f"--config.{name}={home / file}"
    for name, file in (("facts", facts), ("relations", "relations.jsonl"), ("corpus", "text.txt"))
  ]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_experiment_runs_to_the_report(home, environment, family, tmp_path):
  done = run(
    environment,
    "experiment",
    f"--config=tests/helpers/tiny_pretrained.py:{home / family}",
    f"--workdir={tmp_path / 'run'}",
    *paths(home, "one_relation.jsonl"),
    *(["--config.finetune.lora_rank=2"] if family == "llama" else []),
  )
  assert done.returncode == 0, done.stderr + done.stdout
  found = json.loads((tmp_path / "run" / "diagnosis.json").read_text())["arms"]
  assert set(tiny_pretrained.KEEP) <= set(found) and (tmp_path / "run" / "report.html").exists()
  assert not (
    tmp_path / "run" / "checkpoints" / "pretrained"
  ).exists()  # the model stays where it is


@pytest.mark.slow
def test_training_killed_and_started_again_ends_with_the_same_adapters(home, environment, tmp_path):
  flags = [
    f"--config=tests/helpers/tiny_pretrained.py:{home / 'llama'}",
    *paths(home),
    "--config.finetune.lora_rank=2",
    "--ratio=1",
    "--config.finetune.steps=30",
    "--config.finetune.eval_steps=(30,)",
  ]
  assert run(environment, "train", *flags, f"--workdir={tmp_path / 'whole'}").returncode == 0
  killed = subprocess.Popen(
    [sys.executable, "-m", "factshock.train", *flags, f"--workdir={tmp_path / 'killed'}"],
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
    env=environment,
  )
  folder, deadline = tmp_path / "killed" / "checkpoints" / "finetuned" / "0", time.time() + 120
  while not (store.latest_step(folder) if folder.exists() else None) and killed.poll() is None:
    assert time.time() < deadline
    time.sleep(0.01)
  if killed.poll() is None:
    os.killpg(killed.pid, signal.SIGKILL)
  killed.wait()
  again = run(environment, "train", *flags, f"--workdir={tmp_path / 'killed'}")
  assert again.returncode == 0, again.stderr
  one, other = (
    store.restore_params(str(tmp_path / name / "checkpoints" / "finetuned" / "0"))
    for name in ("whole", "killed")
  )
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
  "family, finetune, words",
  [
    (
      "llama",
      {"lora_rank": 2, "lora_targets": ("q_proj",)},
      "'q_proj': matches no weight; there are",
    ),
    ("llama", {"input_length": 4}, "expected at most 4 tokens, got"),
    ("t5", {"input_length": 4}, "expected at most 4"),
  ],
)
def test_training_that_cannot_be(home, tmp_path, family, finetune, words):
  with pytest.raises(UserError, match=words):
    finetuning.run(config_of(home, family, **finetune), str(tmp_path / "run"))


def test_models_and_questions_that_cannot_be(home, tmp_path):
  with pytest.raises(UserError, match="--shots=2 needs --shot_facts"):
    ask(home, home / "llama", tmp_path / "out.jsonl", shots=2)
  with pytest.raises(UserError, match="some.jsonl|shots"):
    ask(home, home / "llama", tmp_path / "out.jsonl", shots=50, shot_facts=str(home / "some.jsonl"))
  with pytest.raises(UserError, match="as the model reads 256"):
    ask(
      home, home / "llama", tmp_path / "out.jsonl", shots=15, shot_facts=str(home / "facts.jsonl")
    )
  with pytest.raises(UserError, match="the tokenizer gives ids up to"):
    ask(home, home / "t5", tmp_path / "out.jsonl", tokenizer=str(home / "llama"))
  with pytest.raises(UserError, match="no such folder|nothing there"):
    ask(home, "nobody/nothing", tmp_path / "out.jsonl")
  assert not (tmp_path / "out.jsonl").exists()


def test_parts_that_a_model_does_not_have_are_refused_before_anything_runs(home):
  config = config_of(home, "llama")
  config.model.tie_head = True
  with config.unlocked():
    config.arms.mixture.update(frozen=("encoder",), trained=("head",))
  with pytest.raises(UserError) as caught:
    checks.check(config)
  assert "config.arms.mixture.frozen: the model has no 'encoder' of its own" in str(caught.value)
  assert (
    "config.arms.mixture.trained: the model has no 'head' of its own; its embedding serves"
    in str(caught.value)
  )


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_of_adapters_is_that_of_their_merged_weights(home, family, tmp_path):
  """A study that generates, asked without and after shots."""
  config = config_of(home, family, lora_rank=3, lora_targets=("query", "out"), learning_rate=0.05)
  config.answering.update(dict(mode="generate", max_tokens=3))
  arms = {
    "shots": dict(kind="prompted", prompt="question", shots=2),
    "tuned": dict(kind="finetune", facts="whole"),
    "merged": dict(kind="prompted", prompt="question", of="tuned"),
  }
  config.arms = ml_collections.ConfigDict(
    {name: {**arm, "attention": True} for name, arm in arms.items()}, sort_keys=False
  )
  config.roles.update(dict(zero_shot="shots", finetuned="tuned", ceiling="", remedies=()))
  pipeline.run(config, str(tmp_path / "run"))
  found = {
    label: dict(np.load(tmp_path / "run" / "attention" / f"{label}.seed0.npz"))
    for label in ("shots", "tuned@4", "merged")
  }
  for name, array in found["merged"].items():
    compare = (
      np.testing.assert_array_equal
      if array.dtype.kind == "U"
      else functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    )
    compare(found["tuned@4"][name], array)
  assert (found["shots"]["tokens"] > 2 * found["merged"]["tokens"]).all()
  np.testing.assert_array_equal(found["shots"]["subject_tokens"], found["merged"]["subject_tokens"])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_remedy_runs_on_a_pretrained_model(home, family, tmp_path):
  config = config_of(home, family)
  made = {
    **remedies.remedies("balanced", own="zero_shot", teacher="zero_shot"),
    **remedies.weak("balanced", "zero_shot", "zero_shot"),
    **remedies.controls("balanced", "zero_shot"),
  }
  if family == "llama":
    del made["encoder_only"]
  made["kept"]["checkpoint_every"], made["run_average"]["steps"] = 2, (0, 2, 4)
  plain = dict(finetune=dict(kind="finetune", facts="balanced", title="Finetuning"))
  config.mixing.taus = (0.0, 1.0)
  config.mixing.alphas = (0.5, 1.0)
  config.arms = ml_collections.ConfigDict(
    {"zero_shot": config.arms.zero_shot.to_dict(), **plain, **made}, sort_keys=False
  )
  config.roles.update(
    dict(
      finetuned="finetune", ceiling="zero_shot", corrected="prior_own", remedies=("weight_mixing",)
    )
  )
  found = pipeline.run(config, str(tmp_path / "run"))
  assert set(made) <= set(found["arms"]) and found["verdict"]["verdict"]
  assert {"run_average", "self_distilled", "moving_average", "logit_adjusted", "lora"} <= set(
    found["remedies"]
  )

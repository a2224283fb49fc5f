"""Attention to the subject as a file of a study: which tokens, which facts, batches, the file, arms
that ask for it.
"""

import dataclasses
import os
import pathlib
from unittest import mock

import hf_tokenizers
import jax
import numpy as np
import pytest
import tiny_attention

from factshock.answering import probes, ranking
from factshock.checkpoints.loading import LoadedModel
from factshock.data import pretrained_tokenizers, prompts
from factshock.devices import partitioning
from factshock.models import decoder, families, t5
from factshock.report import page
from factshock.runtime.errors import UserError
from factshock.study import checks, diagnosis, ownership, pipeline

SUBJECTS = ["Ada Byron", "Grace Hopper", "the fox", "Žižek", "Q", "Tokyo Rome Paris"]
ANSWERS = ["London", "Paris", "Rome", "Berlin", "London", "Tokyo"]
FACTS = [
  {
    "subject": subject,
    "relation": "born",
    "object": answer,
    **({"popularity": 2.5} if n % 2 else {}),
  }
  for n, (subject, answer) in enumerate(zip(SUBJECTS, ANSWERS))
]
RELATIONS = {
  "born": {
    "relation": "born",
    "statements": ["[X] was born in [Y] ."],
    "questions": ["where was [X] born ?"],
  }
}
CANDIDATES = {"born": ["Paris", "London", "Rome", "Berlin", "Tokyo", "London town"]}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizers")
  lines = hf_tokenizers.LINES + ["Žižek"]
  return {
    "t5": pretrained_tokenizers.load(hf_tokenizers.t5_like(folder / "t5", lines=lines)),
    "llama": pretrained_tokenizers.load(hf_tokenizers.llama_like(folder / "llama", lines=lines)),
  }


def model_of(kind, tokenizer, **changes):
  sizes = dict(vocab_size=tokenizer.size + 3, d_model=16, d_ff=24, num_heads=4, d_kv=4, **changes)
  config = (
    t5.T5Config(encoder_layers=3, decoder_layers=2, **sizes)
    if kind == "t5"
    else decoder.LlamaConfig(num_kv_heads=2, layers=2, **sizes)
  )
  return config, families.of(config).init(config, jax.random.key(0))


def texts_of(kind, facts=FACTS, shots=0):
  return prompts.prompt_texts(facts, RELATIONS, "question", kind == "llama", shots, FACTS)


def observe(
  tokenizers, kind, facts=FACTS, shots=0, params=None, mesh=None, batch_size=8, **changes
):
  config, fresh = model_of(kind, tokenizers[kind], **changes)
  model = LoadedModel(fresh if params is None else params, config, tokenizers[kind], mesh)
  queries = probes.prepare(model, facts, texts_of(kind, facts, shots), CANDIDATES)
  return probes.observe(model, queries, batch_size=batch_size)


def assert_alike(one, other, rows=slice(None)):
  assert one.keys() == other.keys()
  for name in one.keys() - {"sites"}:
    np.testing.assert_allclose(one[name], other[name][rows], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
  "kind, sites, shape",
  [
    ("t5", ["encoder", "cross"], {"encoder": (6, 3, 4), "cross": (6, 2, 4)}),
    ("llama", ["self"], {"self": (6, 2, 4)}),
  ],
)
def test_names_and_shapes(tokenizers, kind, sites, shape):
  found = observe(tokenizers, kind)
  assert found["sites"] == sites
  expected = {
    f"{site}/{name}"
    for site in sites
    for name in ("mass", "contribution", "contribution_rest", "salience")
  }
  expected -= {f"encoder/{name}" for name in ("contribution", "contribution_rest", "salience")}
  assert set(found) == expected | {"sites", "subject_tokens", "tokens"}
  for name in expected:
    assert (
      found[name].shape == shape[name.split("/")[0]]
      and found[name].dtype == np.float32
      and np.isfinite(found[name]).all()
    )
  assert all(((found[f"{site}/mass"] > 0) & (found[f"{site}/mass"] < 1)).all() for site in sites)


@pytest.mark.parametrize("kind", [pytest.param("t5", marks=pytest.mark.slow), "llama"])
def test_batches_meshes_and_order_change_nothing(tokenizers, kind):
  found = observe(tokenizers, kind)
  assert_alike(observe(tokenizers, kind, batch_size=1), found)
  order = [4, 0, 5]
  assert_alike(observe(tokenizers, kind, [FACTS[place] for place in order]), found, order)
  mesh = partitioning.make_mesh({"data": 2, "fsdp": 2, "model": 2})
  assert_alike(observe(tokenizers, kind, mesh=mesh), found)


def silent(params):
  """The weights with all attention uniform: queries of zeros, no position bias."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf * 0 if path[-1].key in ("query", "relative_bias") else leaf, params
  )


@pytest.mark.parametrize(
  "kind, shots, window",
  [("t5", 0, None), ("t5", 2, None), ("llama", 0, None), ("llama", 2, None), ("llama", 1, 24)],
)
def test_uniform_attention_has_the_share_of_the_subjects_tokens(tokenizers, kind, shots, window):
  """Counted over what the query sees, with shots before it and through a sliding window."""
  changes = {} if window is None else {"sliding_window": window}
  found = observe(
    tokenizers, kind, shots=shots, params=silent(model_of(kind, tokenizers[kind])[1]), **changes
  )
  share = found["subject_tokens"] / found["tokens"]
  assert window is None or (found["tokens"] == window).all()
  for site in found["sites"]:
    np.testing.assert_allclose(
      found[f"{site}/mass"],
      np.broadcast_to(share[:, None, None], found[f"{site}/mass"].shape),
      rtol=1e-5,
    )
  site = found["sites"][
    -1
  ]  # equal weights: the plain mean is what each token has, but for the weight
  np.testing.assert_allclose(
    found[f"{site}/contribution"],
    found[f"{site}/salience"] * share[:, None, None],
    rtol=1e-3,
    atol=1e-6,
  )


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_the_answers_are_those_that_ranking_scores(tokenizers, kind):
  """The logit that shares are of is that of the answer's first token: the head's rows of all others
  count as a mean.
  """
  tokenizer = tokenizers[kind]
  model = LoadedModel(None, model_of(kind, tokenizer)[0], tokenizer)
  asked = probes.prepare(model, FACTS, texts_of(kind), CANDIDATES)
  tries = ranking.prepare(model, texts_of(kind), ["born"] * 6, CANDIDATES).tries["born"]
  place = 0 if kind == "llama" else 1
  first = {
    candidate: int(trie.next_CxL[row, place])
    for trie in tries
    for row, candidate in zip(
      range(len(trie.members)), (CANDIDATES["born"][member] for member in trie.members)
    )
  }
  assert asked.gold == [first[fact["object"]] for fact in FACTS]
  assert asked.among == {"born": sorted(set(first.values()))} and len(asked.among["born"]) < len(
    CANDIDATES["born"]
  )


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_marked_tokens_are_the_subject_in_the_models_own_prompt(tokenizers, kind):
  tokenizer = tokenizers[kind]
  model = LoadedModel(None, model_of(kind, tokenizer)[0], tokenizer)
  asked = probes.prepare(model, FACTS, texts_of(kind, shots=2), CANDIDATES)
  for fact, tokens, marked in zip(FACTS, asked.prompts, asked.marked):
    said = tokenizer.decode([tokens[place] for place in marked]).strip()
    assert said == fact["subject"]
    assert marked[0] > len(tokens) / 2  # not where a shot names it


def test_facts_without_their_subject_are_left_out_and_counted(tokenizers, capsys):
  config, params = model_of("t5", tokenizers["t5"])
  texts = texts_of("t5")
  texts[2] = "who is it ? <extra_id_0>"
  model = LoadedModel(params, config, tokenizers["t5"])
  found = probes.observe(model, probes.prepare(model, FACTS, texts, CANDIDATES))
  assert (
    "1 of 6 facts are left out, as their prompts do not hold the subject" in capsys.readouterr().out
  )
  for name in ("encoder/mass", "cross/contribution", "cross/salience"):
    assert np.isnan(found[name][2]).all() and np.isfinite(np.delete(found[name], 2, axis=0)).all()
  assert (
    found["subject_tokens"][2] == 0
    and found["tokens"][2] == len(tokenizers["t5"].encode(texts[2])) + 1
  )
  with pytest.raises(
    UserError,
    match="hold their subject word for word, got none in 6 facts, as of 'Ada Byron': 'who is it",
  ):
    probes.prepare(model, FACTS, texts[2:3] * 6, CANDIDATES)


def test_a_subject_before_the_window_is_left_out(tokenizers):
  """As is the part of a subject that the query does not see."""
  texts, counts = texts_of("llama"), []
  for window in (None, 6):
    config, _ = model_of("llama", tokenizers["llama"], sliding_window=window)
    asked = probes.prepare(LoadedModel(None, config, tokenizers["llama"]), FACTS, texts, CANDIDATES)
    counts.append(([len(marked) for marked in asked.marked], asked.seen))
  assert counts[1] == ([1] * 6, [6] * 6) and counts[0][0][0] > 1
  config, _ = model_of("llama", tokenizers["llama"], sliding_window=5)
  with pytest.raises(UserError, match="got none in 6 facts"):
    probes.prepare(LoadedModel(None, config, tokenizers["llama"]), FACTS, texts, CANDIDATES)


def test_a_model_with_fewer_tokens_is_refused(tokenizers):
  config, _ = model_of("t5", tokenizers["t5"])
  with pytest.raises(UserError, match="use the tokenizer the checkpoint was trained with"):
    probes.prepare(
      LoadedModel(None, dataclasses.replace(config, vocab_size=20), tokenizers["t5"]),
      FACTS,
      texts_of("t5"),
      CANDIDATES,
    )


def test_the_file_holds_what_was_found(tokenizers, tmp_path):
  found = observe(tokenizers, "t5")
  for name in ("a", "b"):
    probes.write(tmp_path / "new" / f"{name}.npz", FACTS, found)
  assert (tmp_path / "new" / "a.npz").read_bytes() == (tmp_path / "new" / "b.npz").read_bytes()
  assert sorted(os.listdir(tmp_path / "new")) == ["a.npz", "b.npz"]
  with np.load(tmp_path / "new" / "a.npz", allow_pickle=False) as file:
    read = dict(file)
  assert set(read) == set(found) | {"subject", "relation", "object", "popularity"}
  assert (
    read["subject"].tolist() == SUBJECTS
    and read["object"].tolist() == ANSWERS
    and read["sites"].tolist() == ["encoder", "cross"]
  )
  np.testing.assert_array_equal(read["popularity"], [np.nan, 2.5] * 3)
  for name in found.keys() - {"sites"}:
    np.testing.assert_array_equal(read[name], found[name])


def test_nothing_is_left_half_written(tokenizers, tmp_path, monkeypatch):
  monkeypatch.setattr(np, "savez", lambda file, **arrays: file.write(b"half") and 1 / 0)
  with pytest.raises(ZeroDivisionError):
    probes.write(tmp_path / "a.npz", FACTS, {"sites": []})
  assert not os.listdir(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The workdir of a study that was first run without the attention of one arm."""
  folder = str(tmp_path_factory.mktemp("study") / "run")
  pipeline.run(tiny_attention.get_config(zero_shot_cloze=False), folder)
  return folder


def stages(folder, capsys):
  """The stages that a rerun runs; its diagnosis and report are left out."""
  capsys.readouterr()
  with mock.patch.object(diagnosis, "diagnose"), mock.patch.object(page, "write_report"):
    pipeline.run(tiny_attention.get_config(), folder)
  return [
    line.split()[2]
    for line in capsys.readouterr().out.splitlines()
    if line.startswith("seed 0: ") and "(" in line
  ]


def files_of(folder):
  return {
    path: (
      os.stat(f"{folder}/attention/{path}").st_mtime_ns,
      open(f"{folder}/attention/{path}", "rb").read(),
    )
    for path in os.listdir(f"{folder}/attention")
  }


def test_a_study_writes_a_file_a_point_and_writes_again_what_is_missing(run, capsys):
  labels = {
    "unpopular_half@0",
    "unpopular_half@4",
    "weight_mixing@0",
    "weight_mixing@1",
    "attention_restored",
    "average",
  }
  before = files_of(run)
  assert set(before) == {f"{label}.seed0.npz" for label in labels}
  # an arm that now asks for attention is the same experiment, and is run again
  assert stages(run, capsys) == ["zero_shot_cloze"]
  assert set(files_of(run)) == {f"{label}.seed0.npz" for label in labels | {"zero_shot_cloze"}}
  assert {name: files_of(run)[name] for name in before} == before and stages(run, capsys) == []
  # those that are missing are written again, of finetuning by training again
  missing = {
    "unpopular_half@0": "unpopular_half",
    "weight_mixing@1": "weight_mixing",
    "attention_restored": "attention_restored",
  }
  for name in missing:
    os.remove(f"{run}/attention/{name}.seed0.npz")
  assert sorted(stages(run, capsys)) == sorted(missing.values())
  assert {name: content for name, (_, content) in files_of(run).items() if name in before} == {
    name: content for name, (_, content) in before.items()
  }


def test_the_files_of_a_study_are_of_its_models(run):
  def read(label):
    with np.load(f"{run}/attention/{label}.seed0.npz") as file:
      return dict(file)

  ends = read("unpopular_half@0"), read("unpopular_half@4")
  for end, mixed in zip(ends, (read("weight_mixing@0"), read("weight_mixing@1"))):
    for name in end:
      np.testing.assert_array_equal(end[name], mixed[name], err_msg=name)
  assert np.abs(ends[0]["cross/mass"] - ends[1]["cross/mass"]).max() > 1e-5
  facts = pathlib.Path(run, "facts/0/test.jsonl").read_text(encoding="utf-8").splitlines()
  assert len(facts) == len(ends[0]["subject"]) and all(
    f'"{name}"' in line for name, line in zip(ends[0]["subject"], facts)
  )


@pytest.mark.parametrize(
  "change, expected",
  [
    (
      dict(zero_shot_cloze=dict(prompt="letters")),
      (
        "config.arms.zero_shot_cloze.attention: prompts 'cloze' and 'question' name a subject, "
        "'letters' does not"
      ),
    ),
    (
      dict(unpopular_half=dict(prompt="choices")),
      (
        "config.arms.weight_mixing.attention: prompts 'cloze' and 'question' name a subject, "
        "'choices'"
      ),
    ),
    (
      dict(zero_shot_cloze=dict(attention="yes")),
      "config.arms.zero_shot_cloze.attention: expected True or False, got 'yes'",
    ),
    (
      dict(majority=dict(kind="majority", attention=True)),
      "config.arms.majority.attention is unknown",
    ),
  ],
)
def test_arms_that_cannot_be_observed(change, expected):
  config = tiny_attention.get_config()
  with config.unlocked():
    for name, keys in change.items():
      config.arms[name] = {**config.arms.get(name, {}), **keys}
  with pytest.raises(UserError) as caught:
    checks.check(config)
  assert expected in str(caught.value)


def test_attention_may_be_taken_out_of_an_arm_too():
  one, other = ({"arms": {"a": {"kind": "prompted", **more}}} for more in ({"attention": True}, {}))
  assert ownership.differences(one, other) == ownership.differences(other, one) == []
  assert ownership.differences(
    {"model": {"attention": 1}, "attention": 2}, {"model": {}, "attention": 3}
  ) == ["config.attention: 2, 3"]

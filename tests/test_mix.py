"""The verb `python -m factshock.mix`: what it writes and prints, its help, and its errors."""

import dataclasses
import functools
import importlib
import json
import pathlib
import shutil
import subprocess
import sys
import time
import types

import hf_tokenizers
import jax
import numpy as np
import pytest
from absl import flags

from factshock.answering import selection
from factshock.checkpoints import conversion, interpolation, mix_record, mixing, store, tree_files
from factshock.configs import demo
from factshock.data import tokenizers
from factshock.models import decoder, t5
from factshock.models.formats import huggingface
from factshock.models.formats.huggingface import names
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir
from factshock.study import weights

mix_verb = importlib.import_module("factshock.mix")

T5 = t5.T5Config(
  vocab_size=67, d_model=24, d_ff=40, num_heads=3, d_kv=16, encoder_layers=3, decoder_layers=2
)
LLAMA = decoder.LlamaConfig(
  vocab_size=71, d_model=24, d_ff=40, num_heads=4, num_kv_heads=2, d_kv=8, layers=3
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("mix")
  for name, value in (("a", 1.0), ("b", 2.0)):
    store.save(path / name, 5, params={"w": np.full((3,), value, np.float32)})
  return path


def mix(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "factshock.mix", *arguments], capture_output=True, text=True
  )


def test_it_mixes_and_says_where(folder):
  done = mix(f"--models={folder}/a,{folder}/b/5", "--weights=0.3,0.7", f"--output={folder}/out")
  assert done.returncode == 0, done.stderr
  digest = json.loads((folder / "out" / "mix.json").read_text())["digest"]
  assert f"{folder}/out" in done.stdout and digest[:16] in done.stdout
  np.testing.assert_allclose(store.restore_params(folder / "out")["w"], np.full(3, 1.7), rtol=1e-6)


def test_uniform(folder):
  done = mix(
    f"--models={folder}/a,{folder}/b,{folder}/b",
    "--weights=uniform",
    f"--output={folder}/uniform",
  )
  assert done.returncode == 0, done.stderr
  mixed = store.restore_params(folder / "uniform")["w"]
  np.testing.assert_allclose(mixed, np.full(3, 5 / 3), rtol=1e-6)


def test_help_has_an_example_and_is_quick():
  mix("--help")
  began = time.monotonic()
  done = mix("--help")
  assert time.monotonic() - began < 2
  assert "factshock mix --models=" in done.stdout and "--layerwise" in done.stdout


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--models={}/a,{}/b", "--weights=0.3,0.6"], "sum to 1, got 0.3 + 0.6 = 0.9"),
    (["--models={}/a,{}/b", "--weights=0.3,0.3,0.4"], "expected 2 numbers, got 3"),
    (["--models={}/a,{}/b", "--weights=0.3,much"], "expected numbers, got 0.3,much"),
    (
      ["--models={}/a,{}/b", "--weights=uniform", "--candidates=c.jsonl"],
      "--candidates: only with --select",
    ),
    (["--models={}/a,{}/b"], "expected one of --weights, --layerwise and --select, got none"),
    (
      ["--models={}/a,{}/b", "--weights=uniform", "--layerwise=0,1"],
      "got weights and layerwise",
    ),
    (["--models={}/a,{}/b,{}/b", "--layerwise=0,1"], "expected two models, got 3"),
    (["--models={}/a", "--weights=1"], "expected two or more, got 1"),
    (
      ["--models={}/a,{}/none", "--weights=uniform"],
      "none: expected a checkpoint folder, got nothing",
    ),
    (["--models={}/a,{}/b", "--weights=uniform", "--output={}/a"], "a: already exists"),
    (["--models={}/a,{}/b", "--weights=uniform", "--output="], "--output: expected a folder"),
  ],
)
def test_bad_input_is_one_line_and_writes_nothing(folder, arguments, message):
  before = sorted(path.name for path in folder.iterdir())
  output = (
    [] if any(argument.startswith("--output") for argument in arguments) else ["--output={}/bad"]
  )
  done = mix(*(argument.replace("{}", str(folder)) for argument in arguments + output))
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1 and message in done.stderr
  assert sorted(path.name for path in folder.iterdir()) == before


def saved_models(folder, config, count=2, dtype="float32"):
  """Random models of one config in the HuggingFace format, and their params as float32."""
  family, found = (t5 if isinstance(config, t5.T5Config) else decoder), []
  shapes = jax.eval_shape(lambda: family.init(config, jax.random.key(0)))
  for seed in range(count):
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(dtype), shapes)
    huggingface.save(folder / f"hf{seed}", params, config, shard_bytes=20_000)
    (folder / f"hf{seed}" / "tokenizer.json").write_text(str(seed))
    found.append(jax.tree.map(lambda leaf: leaf.astype(np.float32), params))
  return [folder / f"hf{seed}" for seed in range(count)], found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [T5, LLAMA], ids=["t5", "llama"])
def test_huggingface_models_are_mixed_into_another(tmp_path, config, dtype):
  paths, models = saved_models(tmp_path, config, 3, dtype)
  weights = [0.7, 0.5, -0.2]
  written = mixing.mix_checkpoints(paths, weights, tmp_path / "out")
  mixed, found = huggingface.load(tmp_path / "out")
  assert found.param_dtype == dtype
  tolerance = dict(rtol=1e-6, atol=1e-6) if dtype == "float32" else dict(rtol=2**-7, atol=1e-3)
  jax.tree.map(
    lambda mix, *parts: np.testing.assert_allclose(
      np.asarray(mix, np.float32), sum(w * part for w, part in zip(weights, parts)), **tolerance
    ),
    mixed,
    *models,
  )
  provenance = mix_record.read(tmp_path / "out")
  assert provenance == written and provenance["weights"] == weights
  assert len({entry["digest"] for entry in provenance["inputs"]} | {provenance["digest"]}) == 4
  assert (tmp_path / "out" / "tokenizer.json").read_text() == "0"


@pytest.mark.parametrize("config", [T5, LLAMA], ids=["t5", "llama"])
def test_layerwise_mixing_of_huggingface_models_is_that_of_our_trees(tmp_path, config):
  paths, models = saved_models(tmp_path, config)
  mixing.mix_checkpoints(paths, None, tmp_path / "out", (0.9, 0.1))
  mixed, _ = huggingface.load(tmp_path / "out")
  jax.tree.map(
    lambda mix, other: np.testing.assert_allclose(mix, other, rtol=1e-5, atol=1e-6),
    mixed,
    interpolation.interpolate_layerwise(*models, 0.9, 0.1),
  )


def test_shares_by_depth_of_a_decoder_only_model():
  shapes = {leaf: np.zeros(names.leaf_shape(parts)) for leaf, parts in names.by_leaf(LLAMA).items()}
  alphas = interpolation.layerwise_weights(tree_files.nested(shapes), 0.0, 1.0)
  assert (alphas["embedding"], alphas["head"], alphas["final_norm"]["scale"]) == (0, 1, 1)
  np.testing.assert_allclose(
    np.ravel(alphas["layers"]["self_attention"]["query"]), [0.25, 0.5, 0.75]
  )


def test_huggingface_models_that_do_not_fit(tmp_path, folder):
  paths, _ = saved_models(tmp_path, T5)
  other = dataclasses.replace(T5, feed_forward="gated-silu", d_ff=41)
  huggingface.save(tmp_path / "silu", t5.init(other, jax.random.key(0)), other)
  with pytest.raises(UserError) as error:
    mixing.mix_checkpoints([paths[0], tmp_path / "silu"], "uniform", tmp_path / "out")
  for words in (
    "mis-shaped encoder.block.2.layer.1.DenseReluDense.wo.weight expected float32[24,40] got "
    "float32[24,41]",
    "feed_forward: 'gated-gelu' and 'gated-silu'",
  ):
    assert words in str(error.value)
  with pytest.raises(
    UserError, match="a/5: its manifest does not say which model"
  ):  # arrays of no model
    mixing.mix_checkpoints([paths[0], folder / "a"], "uniform", tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shares", [{"weights": [0.25, 0.75]}, {"layerwise": (0.9, 0.1)}])
@pytest.mark.parametrize("config", [T5, LLAMA], ids=["t5", "llama"])
def test_a_checkpoint_is_mixed_as_the_huggingface_model_it_would_be(tmp_path, config, shares):
  paths, _ = saved_models(tmp_path, config)
  own, converted = tmp_path / "own", tmp_path / "converted"
  conversion.convert(paths[1], own, "orbax")
  conversion.convert(own, converted, "huggingface")
  weights, layerwise = shares.get("weights"), shares.get("layerwise")
  for other, name in ((own, "mixed"), (converted, "expected")):
    mixing.mix_checkpoints([paths[0], other], weights, tmp_path / name, layerwise)
    mixing.mix_checkpoints([other, paths[0]], weights, tmp_path / f"{name}_back", layerwise)
  for back in ("", "_back"):
    mixed, expected = tmp_path / f"mixed{back}", tmp_path / f"expected{back}"
    for file in ("model.safetensors", "config.json"):
      assert (mixed / file).read_bytes() == (expected / file).read_bytes()
    records = [mix_record.read(str(folder)) for folder in (mixed, expected)]
    assert records[0]["digest"] == records[1]["digest"]
    assert str(own) in {given["path"] for given in records[0]["inputs"]}
    assert (mixed / "tokenizer.json").read_text() == "0"  # of the first HuggingFace model
    assert "library_name: transformers" in (mixed / "README.md").read_text()


def test_the_verb_mixes_huggingface_models(tmp_path):
  paths, models = saved_models(tmp_path, LLAMA)
  done = mix(f"--models={paths[0]},{paths[1]}", "--weights=0.25,0.75", f"--output={tmp_path}/out")
  assert done.returncode == 0, done.stderr
  mixed, _ = huggingface.load(tmp_path / "out")
  np.testing.assert_allclose(
    mixed["embedding"],
    0.25 * models[0]["embedding"] + 0.75 * models[1]["embedding"],
    rtol=1e-5,
    atol=1e-6,
  )


def test_models_of_other_tokenizers_are_refused(tmp_path):
  paths, _ = saved_models(tmp_path, LLAMA)
  lines = ["Ada was born in London .", "Grace Hopper was born in New York ."]
  for path, text in zip(paths, (lines, [line[::-1] for line in lines])):
    hf_tokenizers.llama_like(path, lines=text)
  with pytest.raises(UserError, match="another tokenizer than .* is .* --allow_other_tokenizer"):
    mixing.mix_checkpoints(paths, "uniform", tmp_path / "out")
  assert not (tmp_path / "out").exists()
  mixing.mix_checkpoints(paths, "uniform", tmp_path / "out", allow_other_tokenizer=True)
  mixing.mix_checkpoints([paths[0], paths[0]], "uniform", tmp_path / "same")


def own_models(tmp_path, *vocabularies):
  """Checkpoints of ours in workdirs of their own, each with a tokenizer of words."""
  paths = []
  for index, words in enumerate(vocabularies):
    workdir = Workdir(str(tmp_path / f"own{index}"))
    tokenizer = tokenizers.word_tokenizer(words, sentinels=4)
    tokenizers.save(tokenizer, workdir.tokenizer(0))
    config = dataclasses.replace(T5, vocab_size=tokenizer.size)
    record = {
      "workdir": workdir.absolute_path,
      "seed": 0,
      "experiment": {"model": {"family": "t5", **vars(config)}},
    }
    params = t5.init(config, jax.random.key(index))
    path = workdir.checkpoints("pretrained", 0)
    store.save(path, 1, params=params, config=record)
    paths.append(path)
  return paths


def flags_of_mix(monkeypatch, *arguments):
  """The verb's flags, defined and set in this process for one test."""
  values = flags.FlagValues()
  for name in ("DEFINE_list", "DEFINE_string", "DEFINE_enum", "DEFINE_bool"):
    define = functools.partial(getattr(flags, name), flag_values=values)
    monkeypatch.setattr(flags, name, define)
  monkeypatch.setattr(flags, "FLAGS", values)
  mix_verb.define_flags()
  values(["mix", *arguments])
  return values


WORDS = ("Ada", "Rome", "where")
SWAPPED = ("Rome", "Ada", "where")
OTHER_IDS = "own1/checkpoints/pretrained/0: has another tokenizer than .*own0.*'Ada' is 4 and 3"


def test_own_models_of_other_tokenizers_are_refused(tmp_path):
  paths = own_models(tmp_path, WORDS, SWAPPED, WORDS)
  with pytest.raises(UserError, match=OTHER_IDS):
    mixing.mix_checkpoints(paths, "uniform", tmp_path / "out")
  # Moved with its workdir, it is known by the tokenizer beside it.
  shutil.move(tmp_path / "own1", tmp_path / "moved" / "own1")
  paths[1] = str(tmp_path / "moved" / "own1" / "checkpoints" / "pretrained" / "0")
  with pytest.raises(UserError, match=OTHER_IDS):
    mixing.mix_checkpoints(paths[:2], None, tmp_path / "out", (0.0, 1.0))
  assert not (tmp_path / "out").exists()
  mixing.mix_checkpoints(paths[:2], "uniform", tmp_path / "out", allow_other_tokenizer=True)
  mixing.mix_checkpoints(paths[::2], "uniform", tmp_path / "same")


@pytest.mark.parametrize("kind", ["own", "huggingface", "adapters", "dtypes"])
def test_selection_begins_with_what_mixing_refuses(tmp_path, kind, monkeypatch):
  """Before any model is read: one compares hours of answers for nothing otherwise."""
  words = "has another tokenizer than"
  if kind == "own":
    paths = own_models(tmp_path, WORDS, SWAPPED)
  elif kind == "adapters":
    paths, words = own_models(tmp_path, WORDS, WORDS), "adapters cannot be averaged"
    lora = {"rank": 1, "alpha": 1.0, "base": paths[0]}
    store.save(paths[1], 2, params=t5.init(T5, jax.random.key(0)), config={"lora": lora})
  else:
    paths, _ = saved_models(tmp_path, LLAMA)
    if kind == "dtypes":
      words = "its dtype is bfloat16"
      paths[1:] = saved_models(tmp_path / "narrow", LLAMA, 1, "bfloat16")[0]
    elif kind == "huggingface":
      for path, line in zip(paths, ("Ada was here", "Rome")):
        hf_tokenizers.llama_like(path, lines=[line])
  monkeypatch.setattr(selection, "choose", lambda *arguments: pytest.fail("models are compared"))
  names = ",".join(map(str, paths))
  values = flags_of_mix(
    monkeypatch,
    f"--models={names}",
    "--select=facts.jsonl",
    f"--output={tmp_path / 'out'}",
  )
  with pytest.raises(UserError, match=words):
    mix_verb.main([])
  if kind in ("own", "huggingface"):
    values.allow_other_tokenizer = True
    with pytest.raises(pytest.fail.Exception, match="models are compared"):
      mix_verb.main([])


def test_an_experiment_that_starts_from_a_model_of_another_tokenizer_is_refused(tmp_path):
  """Its mixing arms would average weights that mean other tokens."""
  start, _ = own_models(tmp_path, WORDS, SWAPPED)
  config = demo.get_config()
  config.start_from = start
  run = types.SimpleNamespace(
    config=config,
    workdir=Workdir(str(tmp_path / "run")),
    seed=0,
    tokenizer=tokenizers.word_tokenizer(SWAPPED, sentinels=4),
    model_config=dataclasses.replace(T5, vocab_size=10),
  )
  with pytest.raises(UserError, match="another tokenizer than the study's"):
    weights.pretrained(run)
  assert not (tmp_path / "run").exists()
  run.tokenizer = tokenizers.word_tokenizer(WORDS, sentinels=4)
  jax.tree.map(
    np.testing.assert_array_equal, weights.start_weights(run), store.restore_params(start)
  )


def test_other_dtypes_are_named_in_one_line(tmp_path):
  wide, _ = saved_models(tmp_path / "wide", LLAMA, count=1)
  narrow, _ = saved_models(tmp_path / "narrow", LLAMA, count=1, dtype="bfloat16")
  with pytest.raises(UserError) as error:
    mixing.mix_checkpoints([*wide, *narrow], "uniform", tmp_path / "out")
  message = str(error.value)
  assert "its dtype is bfloat16" in message and "--dtype=float32" in message
  assert "\n" not in message and len(message) < 600


def test_generation_settings_go_along(tmp_path):
  paths, _ = saved_models(tmp_path, LLAMA)
  for path in paths:
    hf_tokenizers.llama_like(path)
    (pathlib.Path(path) / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
  mixing.mix_checkpoints(paths, "uniform", tmp_path / "out")
  assert "[2, 5]" in (tmp_path / "out" / "generation_config.json").read_text()

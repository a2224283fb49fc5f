"""Folders that hold two answers: the one that transformers reads is read, and said, or the folder
is refused.
"""

import json
import shutil

import numpy as np
import pytest
import test_models_formats_adapters as cases

from factshock.checkpoints import conversion, loading, mixing
from factshock.data import pretrained_tokenizers
from factshock.models.formats import huggingface
from factshock.models.formats.huggingface import files
from factshock.runtime import console
from factshock.runtime.errors import UserError

LLAMA = cases.LLAMA
T5 = cases.T5


@pytest.fixture(autouse=True)
def fresh_lines():
  console.say_once.cache_clear()


def saved(folder, config, seed, **options):
  """Returns the folder that transformers saves a random model in."""
  model = (cases.hf_t5 if config is T5 else cases.hf_llama).peer(config, seed)
  model.save_pretrained(folder, **options)
  return folder


def theirs(folder, config):
  """Returns the logits of the model that transformers reads in a folder."""
  import transformers

  auto = transformers.AutoModelForSeq2SeqLM if config is T5 else transformers.AutoModelForCausalLM
  return cases.their_logits(auto.from_pretrained(folder).eval(), config)


def ours(folder, config, **options):
  params, _ = huggingface.load(folder, **options)
  return np.asarray(cases.forward(params, config, cases.batch_of(config)))


def assert_as_transformers(folder, config, **options):
  expected = theirs(folder, config)
  logits = ours(folder, config, **options)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("config", [LLAMA, T5], ids=["llama", "t5"])
def test_a_single_file_wins_over_an_old_index(tmp_path, config, capsys):
  folder = saved(tmp_path / "old", config, 1, max_shard_size="10KB")
  assert not (folder / files.SINGLE).exists()
  old = ours(folder, config)
  new = saved(tmp_path / "new", config, 2)
  shutil.copy(new / files.SINGLE, folder)
  assert_as_transformers(folder, config)
  assert np.abs(ours(folder, config) - old).max() > 0.1
  np.testing.assert_array_equal(ours(folder, config), ours(new, config))
  lines = capsys.readouterr().err.splitlines()
  said = f"{folder}: holds {files.SINGLE} and {files.INDEX}; {files.SINGLE} is read"
  assert [line for line in lines if line.startswith(said)] == [f"{said}, as by transformers"]


def test_an_index_without_its_shards_is_no_matter_beside_a_single_file(tmp_path):
  folder = saved(tmp_path / "old", LLAMA, 1, max_shard_size="10KB")
  for shard in folder.glob("model-*.safetensors"):
    shard.unlink()
  with pytest.raises(UserError, match="names the shard model-00001.*which is not there"):
    huggingface.load(folder)
  shutil.copy(saved(tmp_path / "new", LLAMA, 2) / files.SINGLE, folder)
  assert_as_transformers(folder, LLAMA)


def pickle_of(folder, config, seed, name=files.PICKLED):
  import torch

  model = (cases.hf_t5 if config is T5 else cases.hf_llama).peer(config, seed)
  torch.save(model.state_dict(), folder / name)


def test_safetensors_win_over_pickles(tmp_path, capsys):
  folder = saved(tmp_path / "model", LLAMA, 1)
  pickle_of(folder, LLAMA, 2)
  assert_as_transformers(folder, LLAMA, allow_pickle=True)
  said = f"{files.SINGLE} and {files.PICKLED}; {files.SINGLE} is read, as by transformers"
  assert said in capsys.readouterr().err
  (folder / files.SINGLE).unlink()
  assert_as_transformers(folder, LLAMA, allow_pickle=True)


def test_an_index_without_shards_beside_a_pickle_is_refused_as_by_transformers(tmp_path):
  folder = saved(tmp_path / "model", LLAMA, 1, max_shard_size="10KB")
  for shard in folder.glob("model-*.safetensors"):
    shard.unlink()
  pickle_of(folder, LLAMA, 2)
  with pytest.raises(UserError, match="which is not there"):
    huggingface.load(folder, allow_pickle=True)
  with pytest.raises(OSError):
    theirs(folder, LLAMA)


def test_a_single_pickle_wins_over_the_index_of_pickles(tmp_path):
  folder = saved(tmp_path / "model", LLAMA, 1)
  (folder / files.SINGLE).unlink()
  pickle_of(folder, LLAMA, 2, "pytorch_model-00001-of-00001.bin")
  weight_map = dict.fromkeys(["model.norm.weight"], "pytorch_model-00001-of-00001.bin")
  index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
  (folder / files.PICKLED_INDEX).write_text(json.dumps(index))
  assert_as_transformers(folder, LLAMA, allow_pickle=True)
  of_index = ours(folder, LLAMA, allow_pickle=True)
  pickle_of(folder, LLAMA, 3)
  assert_as_transformers(folder, LLAMA, allow_pickle=True)
  assert np.abs(ours(folder, LLAMA, allow_pickle=True) - of_index).max() > 0.1


def test_shards_of_two_models_are_refused(tmp_path):
  from safetensors import numpy as safetensors

  folder = saved(tmp_path / "model", LLAMA, 1, max_shard_size="10KB")
  shards = sorted(folder.glob("model-*.safetensors"))
  more = safetensors.load_file(shards[1]) | {"model.norm.weight": np.ones(16, np.float32)}
  assert len(shards) > 2
  safetensors.save_file(more, shards[1], {"format": "pt"})
  with pytest.raises(UserError, match="holds model.norm.weight, as another shard does"):
    huggingface.load(folder)


def test_weights_that_the_config_names_are_not_passed_over(tmp_path):
  folder = saved(tmp_path / "model", LLAMA, 1)
  cases.edit(folder / "config.json", transformers_weights="other.safetensors")
  with pytest.raises(UserError, match="names its weights 'other.safetensors'"):
    huggingface.load(folder)
  cases.edit(folder / "config.json", transformers_weights=files.SINGLE)
  assert_as_transformers(folder, LLAMA)


def with_adapters(folder, config, base, targets):
  """Writes PEFT's adapters, which name another base, into a model's folder."""
  pytest.importorskip("peft")
  model = (cases.hf_t5 if config is T5 else cases.hf_llama).peer(config, 5)
  model.name_or_path = model.config._name_or_path = str(base)
  peft_folder = folder.parent / "peft"
  cases.peft_model(peft_folder, model, targets)
  for name in ("adapter_config.json", "adapter_model.safetensors"):
    shutil.copy(peft_folder / name, folder)


@pytest.mark.parametrize(
  "config, targets", [(LLAMA, ["q_proj", "down_proj"]), (T5, ["q", "v"])], ids=["llama", "t5"]
)
def test_adapters_beside_a_whole_model_are_applied_to_it(tmp_path, config, targets, capsys):
  folder = saved(tmp_path / "model", config, 1)
  plain = ours(folder, config)
  with_adapters(folder, config, saved(tmp_path / "other", config, 2), targets)
  assert_as_transformers(folder, config)
  assert np.abs(ours(folder, config) - plain).max() > 0.1
  assert "the adapters are applied to that model, as by transformers" in capsys.readouterr().err
  assert huggingface.config_of(folder) == huggingface.config_of(tmp_path / "other")
  # So does every verb that reads a model.
  conversion.convert(folder, tmp_path / "merged", "huggingface")
  expected = theirs(folder, config)
  np.testing.assert_allclose(
    theirs(tmp_path / "merged", config), expected, atol=1e-4 * np.abs(expected).max()
  )
  with pytest.raises(UserError, match="adapters cannot be averaged"):
    mixing.mix_checkpoints([folder, tmp_path / "other"], [0.5, 0.5], str(tmp_path / "mixed"))


def test_adapters_beside_a_whole_model_are_not_written_alone(tmp_path):
  """The folder cannot be their base: who reads it there gets the adapters twice."""
  folder = saved(tmp_path / "model", LLAMA, 1)
  with_adapters(folder, LLAMA, saved(tmp_path / "other", LLAMA, 2), ["q_proj"])
  with pytest.raises(UserError, match="move its adapter files into a folder of their own"):
    conversion.convert(folder, tmp_path / "alone", "peft")
  assert not (tmp_path / "alone").exists()


def test_adapters_on_the_hub_stand_on_the_base_they_name(tmp_path, monkeypatch):
  """transformers takes the base of adapters on the hub by name, whole model beside them or not."""
  import huggingface_hub

  folder = saved(tmp_path / "model", LLAMA, 1)
  base = saved(tmp_path / "other", LLAMA, 2)
  with_adapters(folder, LLAMA, base, ["q_proj"])
  monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *given, **options: str(folder))
  logits = ours("org/name", LLAMA)
  (folder / "config.json").unlink()
  np.testing.assert_array_equal(logits, ours(folder, LLAMA))
  shutil.copy(base / "config.json", folder)
  assert np.abs(logits - ours(folder, LLAMA)).max() > 0.1


def test_adapters_upon_adapters_are_refused(tmp_path):
  base = saved(tmp_path / "base", LLAMA, 1)
  with_adapters(base, LLAMA, base, ["q_proj"])
  upon = tmp_path / "upon"
  shutil.copytree(tmp_path / "peft", upon)
  for path in (base, upon, tmp_path / "peft"):
    cases.edit(upon / "adapter_config.json", base_model_name_or_path=str(path))
    for read in (huggingface.load, huggingface.config_of, pretrained_tokenizers.load):
      with pytest.raises(UserError, match="stand on .* which holds adapters itself"):
        read(upon)


def test_adapters_as_a_pickle_too(tmp_path, capsys):
  folder = saved(tmp_path / "model", LLAMA, 1)
  with_adapters(folder, LLAMA, folder, ["q_proj"])
  (folder / "adapter_model.bin").write_bytes(b"old")
  assert_as_transformers(folder, LLAMA)
  assert "adapter_model.safetensors is read, as by PEFT" in capsys.readouterr().err
  (folder / "adapter_model.safetensors").unlink()
  with pytest.raises(UserError, match="let PEFT save the adapters as safetensors"):
    huggingface.load(folder)


def test_two_formats_in_one_folder_are_refused(tmp_path):
  folder = saved(tmp_path / "model", LLAMA, 1)
  conversion.convert(folder, tmp_path / "own", "orbax")
  readers = (
    lambda path: loading.open_model(str(path)),
    lambda path: conversion.convert(path, tmp_path / "out", "huggingface"),
    lambda path: mixing.mix_checkpoints([path, path], [0.5, 0.5], str(tmp_path / "out")),
  )
  shutil.copy(folder / "config.json", tmp_path / "own")
  (folder / "checkpoint").write_bytes(b"t5x")
  for path, other in (
    (tmp_path / "own", "a checkpoint of factshock's and a HuggingFace model"),
    (folder, "a HuggingFace model and a T5X checkpoint"),
  ):
    for read in readers:
      with pytest.raises(UserError, match=f"holds {other}; move one of them"):
        read(path)
  assert not (tmp_path / "out").exists()

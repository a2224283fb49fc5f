"""Tensors under the names that other programs give them: read as transformers reads them."""

import dataclasses
import json
import shutil

import hf_tokenizers
import numpy as np
import pytest
import test_models_formats_adapters as cases
from test_models_formats_two_answers import saved

from factshock.checkpoints import conversion, loading, mixing
from factshock.models.formats import huggingface
from factshock.models.formats.huggingface import files
from factshock.runtime import console
from factshock.runtime.errors import UserError

UNTIED = cases.LLAMA
TIED = dataclasses.replace(UNTIED, tie_head=True)
T5_TIED = dataclasses.replace(cases.RELU, decoder_layers=3)
T5_UNTIED = cases.T5
MODELS = {"llama": TIED, "llama untied": UNTIED, "t5 v1.0": T5_TIED, "t5 v1.1": T5_UNTIED}


def is_t5(config):
  return not hasattr(config, "num_kv_heads")


def their_model(config, seed=1):
  return (cases.hf_t5 if is_t5(config) else cases.hf_llama).peer(config, seed)


def theirs(folder, config):
  import transformers

  auto = transformers.AutoModelForSeq2SeqLM if is_t5(config) else transformers.AutoModelForCausalLM
  return cases.their_logits(auto.from_pretrained(folder).eval(), config)


def ours(folder, config):
  params, got = huggingface.load(folder)
  assert got == config
  return np.asarray(cases.forward(params, config, cases.batch_of(config)))


def assert_close(logits, expected):
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def stored_in(folder):
  from safetensors import numpy as safetensors

  return safetensors.load_file(folder / files.SINGLE)


def store(folder, tensors):
  from safetensors import numpy as safetensors

  safetensors.save_file(tensors, folder / files.SINGLE, {"format": "pt"})


def saved_by_safetensors(folder, config):
  """Returns a folder whose weights `save_model` wrote, and the model's own logits."""
  import safetensors.torch

  model = their_model(config)
  model.save_pretrained(folder)
  (folder / files.SINGLE).unlink()
  safetensors.torch.save_model(model, str(folder / files.SINGLE))
  return folder, cases.their_logits(model, config)


@pytest.mark.parametrize("name", MODELS)
def test_what_save_model_writes_is_read(tmp_path, name):
  config = MODELS[name]
  folder, expected = saved_by_safetensors(tmp_path / "model", config)
  assert_close(ours(folder, config), expected)
  assert_close(theirs(folder, config), expected)


def test_what_save_model_writes_is_converted_and_mixed(tmp_path):
  folder, expected = saved_by_safetensors(tmp_path / "model", TIED)
  assert "model.embed_tokens.weight" not in stored_in(folder)
  plain = saved(tmp_path / "plain", TIED, 1)
  conversion.convert(folder, tmp_path / "whole", "huggingface")
  assert stored_in(tmp_path / "whole").keys() == stored_in(plain).keys()
  mixing.mix_checkpoints([folder, plain], [0.5, 0.5], str(tmp_path / "mixed"))
  assert_close(theirs(tmp_path / "mixed", TIED), expected)


@pytest.mark.parametrize("config", [TIED, T5_TIED, T5_UNTIED], ids=["llama", "v1.0", "v1.1"])
def test_tied_tensors_under_each_of_their_names(tmp_path, config):
  folder = saved(tmp_path / "model", config, 1) if config is TIED else tmp_path / "model"
  if config is not TIED:
    their_model(config).save_pretrained(folder)
  whole = stored_in(folder)
  expected = ours(folder, config)
  kept = "shared.weight" if is_t5(config) else "model.embed_tokens.weight"
  embedding = whole.pop(kept)
  names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
  names = names if is_t5(config) else []
  for name in [*names, *["lm_head.weight"] * config.tie_head]:
    store(folder, whole | {name: embedding})
    assert_close(ours(folder, config), expected)
    assert_close(theirs(folder, config), expected)
  store(folder, whole)
  if config is not T5_UNTIED:  # there transformers takes the head for it, and so do we
    with pytest.raises(UserError, match=f"missing {kept}"):
      huggingface.load(folder)


def test_names_of_one_tensor_with_different_values_are_refused(tmp_path):
  folder = tmp_path / "model"
  their_model(T5_TIED).save_pretrained(folder)
  whole = stored_in(folder)
  embedding = whole.pop("shared.weight")
  both = {"encoder.embed_tokens.weight": embedding, "lm_head.weight": embedding + 1}
  store(folder, whole | both)
  with pytest.raises(UserError, match="differs from shared.weight, which the config says"):
    huggingface.load(folder)


def exported(folder, config):
  """Returns the folder that AutoModel saves, without the head."""
  import transformers

  their_model(config).save_pretrained(folder.parent / "whole")
  transformers.AutoModel.from_pretrained(folder.parent / "whole").save_pretrained(folder)
  return folder


@pytest.mark.parametrize("config", [TIED, T5_TIED], ids=["llama", "t5"])
def test_an_export_of_automodel_is_read(tmp_path, config):
  folder = exported(tmp_path / "model", config)
  if config is TIED:
    assert "embed_tokens.weight" in stored_in(folder)
  assert_close(ours(folder, config), ours(tmp_path / "whole", config))
  assert_close(theirs(folder, config), ours(folder, config))


def test_an_export_of_a_model_with_a_head_of_its_own_lacks_it(tmp_path, capsys):
  folder = exported(tmp_path / "model", UNTIED)
  with pytest.raises(UserError) as error:
    huggingface.load(folder)
  assert str(error.value).endswith("config.json: missing lm_head.weight [40, 16]")
  console.say_once.cache_clear()
  # transformers 5 takes a T5's embedding instead.
  shutil.rmtree(tmp_path / "whole")
  folder = exported(tmp_path / "t5", T5_UNTIED)
  assert_close(ours(folder, T5_UNTIED), theirs(folder, T5_UNTIED))
  said = f"{folder}: holds no lm_head.weight; shared.weight is read for it, as by transformers"
  assert said in capsys.readouterr().err


def test_a_tensor_under_its_long_and_its_short_name_is_refused(tmp_path):
  folder = saved(tmp_path / "model", UNTIED, 1)
  whole = stored_in(folder)
  store(folder, whole | {"norm.weight": whole["model.norm.weight"]})
  with pytest.raises(UserError, match=r"holds model\.norm\.weight and norm\.weight"):
    huggingface.load(folder)


def test_rotary_frequencies_of_an_export_are_left_out(tmp_path):
  folder = exported(tmp_path / "model", TIED)
  frequencies = {"layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}
  store(folder, stored_in(folder) | frequencies)
  assert_close(ours(folder, TIED), ours(tmp_path / "whole", TIED))


@pytest.mark.parametrize("config", [T5_TIED, T5_UNTIED], ids=["v1.0", "v1.1"])
def test_t5s_with_added_tokens(tmp_path, config):
  """They have more rows than the vocabulary had, and the sentinels are not the last ids."""
  import transformers

  tokenizer_folder = hf_tokenizers.t5_like(tmp_path / "tokenizer")
  tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
  first = tokenizer.convert_tokens_to_ids("<extra_id_0>")
  tokenizer.add_tokens(["Zyx", "<fact>"])
  config = dataclasses.replace(config, vocab_size=first + 1)
  model = their_model(config)
  model.resize_token_embeddings(len(tokenizer))
  folder = tmp_path / "model"
  model.save_pretrained(folder)
  tokenizer.save_pretrained(folder)
  opened, _ = loading.open_model(str(folder))
  assert opened.tokenizer.sentinel(0) == first == opened.model_config.vocab_size - 3
  ids = opened.tokenizer.encode("Zyx is <extra_id_0> <fact>")
  assert first in ids and len(tokenizer) - 1 in ids and len(tokenizer) - 2 in ids
  batch = {"inputs": np.array([[*ids, 1]]), "targets": np.array([[first, 3, 1]])}
  import torch

  inputs, labels = (torch.tensor(batch[name]) for name in ("inputs", "targets"))
  read = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
  with torch.no_grad():
    expected = read(input_ids=inputs, labels=labels).logits.numpy()
  assert_close(np.asarray(cases.forward(opened.params, opened.model_config, batch)), expected)


def test_a_t5_with_added_tokens_whose_rows_were_not_added_is_refused(tmp_path):
  import transformers

  tokenizer = transformers.AutoTokenizer.from_pretrained(
    hf_tokenizers.t5_like(tmp_path / "tokenizer")
  )
  config = dataclasses.replace(T5_TIED, vocab_size=len(tokenizer))
  tokenizer.add_tokens(["Zyx"])
  folder = tmp_path / "model"
  their_model(config).save_pretrained(folder)
  tokenizer.save_pretrained(folder)
  with pytest.raises(UserError, match="the tokenizer gives ids up to"):
    loading.open_model(str(folder))


def test_a_fresh_folder_is_read_without_a_line(tmp_path, capsys):
  console.say_once.cache_clear()
  for name, config in MODELS.items():
    folder = tmp_path / name.replace(" ", "_")
    their_model(config).save_pretrained(folder)
    capsys.readouterr()
    huggingface.load(folder)
    assert capsys.readouterr().err == ""
    assert json.loads((folder / "config.json").read_text())

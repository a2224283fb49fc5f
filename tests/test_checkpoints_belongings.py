"""What stands beside a checkpoint: found in a copied workdir, and refused where it is another's."""

import os
import shutil

import numpy as np
import pytest

from factshock.checkpoints import belongings, store
from factshock.data import tokenizer_files, tokenizers
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir


def make(folder, words, value=0.0):
  """A workdir with a tokenizer, weights, and adapters on them; the record of the adapters."""
  workdir = Workdir.of(folder)
  tokenizers.save(tokenizers.word_tokenizer(words, 2), workdir.tokenizer(0))
  record = {
    "seed": 0,
    "workdir": workdir.absolute_path,
    belongings.TOKENIZER_DIGEST: tokenizer_files.folder_digest(workdir.tokenizer(0)),
  }
  base = workdir.checkpoints("pretrained", 0)
  params = {"weight": np.full((2, 2), value, np.float32)}
  store.save(base, 1, params=params, config=record)
  adapters = {"base": os.path.abspath(base), belongings.BASE_DIGEST: belongings.model_digest(base)}
  return workdir, {**record, "lora": adapters}


def test_a_moved_workdir_brings_its_own_tokenizer_and_base(tmp_path):
  first, record = make(tmp_path / "first", ["a", "b"])
  shutil.copytree(first.path, tmp_path / "copy")
  # Another study has taken the place since.
  shutil.rmtree(first.path)
  make(tmp_path / "first", ["b", "a"], value=1.0)
  copy = Workdir.of(tmp_path / "copy")
  for checkpoint in (copy.checkpoints("tuned", 0), copy.checkpoints("tuned", 0) + "/4"):
    found = belongings.path_of(checkpoint, record, "tokenizer")
    assert os.path.samefile(found, copy.tokenizer(0))
    assert os.path.samefile(
      belongings.base_of(checkpoint, record), copy.checkpoints("pretrained", 0)
    )


def test_anothers_tokenizer_and_base_are_refused(tmp_path):
  first, record = make(tmp_path / "first", ["a", "b"])
  checkpoint = str(tmp_path / "taken" / "away")  # the checkpoint alone was copied
  assert belongings.path_of(checkpoint, record, "tokenizer") == first.tokenizer(0)
  shutil.rmtree(first.path)
  make(tmp_path / "first", ["b", "a"], value=1.0)
  with pytest.raises(UserError, match="another tokenizer than the one it was trained with"):
    belongings.path_of(checkpoint, record, "tokenizer")
  with pytest.raises(UserError, match="another model than the one that its adapters"):
    belongings.base_of(checkpoint, record)


def test_records_without_digests_are_read(tmp_path):
  first, record = make(tmp_path / "first", ["a", "b"])
  del record[belongings.TOKENIZER_DIGEST], record["lora"][belongings.BASE_DIGEST]
  checkpoint = first.checkpoints("tuned", 0)
  assert belongings.path_of(checkpoint, record, "tokenizer") == first.tokenizer(0)
  assert belongings.base_of(checkpoint, record) == first.checkpoints("pretrained", 0)


def test_weights_of_a_huggingface_folder_are_told_apart(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  weights = tmp_path / "model.safetensors"
  content = bytearray(np.random.default_rng(0).bytes(1 << 20))
  weights.write_bytes(content)
  first = belongings.model_digest(str(tmp_path))
  (tmp_path / "README.md").write_text("words")
  assert belongings.model_digest(str(tmp_path)) == first
  content[-1] ^= 1
  weights.write_bytes(content)
  assert belongings.model_digest(str(tmp_path)) != first
  assert belongings.model_digest("google/flan-t5-large") is None


def test_a_workdir_in_place_of_a_checkpoint_is_refused_with_those_that_it_holds(tmp_path):
  workdir, _ = make(tmp_path / "run", ["a", "b"])
  (tmp_path / "run" / "config.json").write_text("{}")
  with pytest.raises(UserError, match="expected a checkpoint.* such as .*pretrained/0"):
    belongings.is_checkpoint(workdir.path)
  with pytest.raises(UserError, match="such as .*pretrained/0"):
    store.step_folder(workdir.all_checkpoints)
  with pytest.raises(UserError, match="a HuggingFace model's folder has a config.json"):
    store.step_folder(workdir.all_tokenizers)


def test_a_model_without_a_workdir_brings_no_relations():
  with pytest.raises(UserError, match="llama: brings no relations; say --relations=PATH"):
    belongings.path_of("llama", {}, "relations")

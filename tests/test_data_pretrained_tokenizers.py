"""Tokenizers in HuggingFace's files: T5's sentinels, Llama's missing padding, BOS and EOS, bad
folders.
"""

import json
import os
import pickle
import random
import shutil
import types

import hf_tokenizers
import pytest

from factshock.data import pretrained_tokenizers, tokenizers
from factshock.runtime.errors import UserError


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
  return pretrained_tokenizers.load(hf_tokenizers.llama_like(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
  return pretrained_tokenizers.load(hf_tokenizers.t5_like(tmp_path_factory.mktemp("t5")))


def test_special_tokens_of_each_family(llama, t5):
  assert (llama.pad, llama.bos, llama.eos, llama.sentinels) == (None, 1, 2, 0)
  assert (t5.pad, t5.bos, t5.eos, t5.sentinels) == (0, None, 1, 10)
  assert t5.sentinel(0) == t5.size - 1 and t5.sentinel(9) == t5.size - 10
  with pytest.raises(ValueError, match="below 10, got 10"):
    t5.sentinel(10)


def test_transformers_is_imported_without_its_advice_to_install_pytorch(monkeypatch):
  advice = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
  seen = []

  def imported(name):
    seen.append((name, os.environ.get(advice)))
    return types.SimpleNamespace(AutoTokenizer=None)

  monkeypatch.setattr("importlib.import_module", imported)
  for before in (None, "0"):
    with monkeypatch.context() as patch:
      patch.setenv(advice, before) if before else patch.delenv(advice, raising=False)
      pretrained_tokenizers.import_library()
      assert os.environ.get(advice) == before
  assert seen == [("transformers", "1")] * 2


def test_nothing_is_added_and_text_comes_back(llama, t5):
  for tokenizer in (llama, t5):
    ids = tokenizer.encode("Ada Byron was born in London .")
    assert not {tokenizer.bos, tokenizer.eos, tokenizer.pad} & set(ids)
    assert tokenizer.decode([*ids, tokenizer.eos]).strip() == "Ada Byron was born in London ."
    assert tokenizer.encode_all(["Paris", "Rome Tokyo"]) == [
      tokenizer.encode("Paris"),
      tokenizer.encode("Rome Tokyo"),
    ]
  ids = t5.encode("Ada was born in <extra_id_0> .")
  assert ids.count(t5.sentinel(0)) == 1 and "<extra_id_0>" in t5.decode(ids)


def test_continuation_is_what_follows_the_prompt(llama):
  for prompt, answer in (
    ("Q: who made it ?\nA:", "Grace Hopper"),
    ("Ada Byron was born in", "London"),
  ):
    assert llama.encode(prompt) + llama.encode_continuation(prompt, answer) == llama.encode(
      f"{prompt} {answer}"
    )
  with pytest.raises(UserError, match="answer with at least one token"):
    llama.encode_continuation("Q: who made it ?", "")


def test_saved_beside_a_checkpoint_and_read_by_the_same_call(llama, t5, tmp_path):
  for tokenizer in (llama, t5):
    folder = tmp_path / str(tokenizer.sentinels)
    tokenizers.save(tokenizer, folder)
    again = tokenizers.load(folder)
    assert (
      again.encode("Tokyo Paris") == tokenizer.encode("Tokyo Paris")
      and again.size == tokenizer.size
    )
  assert pickle.loads(pickle.dumps(llama)).encode("Rome") == llama.encode("Rome")


def test_tokens_that_were_added_stand_above_the_sentinels(t5, tmp_path):
  import transformers

  theirs = transformers.AutoTokenizer.from_pretrained(t5.source)
  theirs.add_tokens(["Zyx", "<fact>"])
  theirs.save_pretrained(tmp_path / "more")
  more = pretrained_tokenizers.load(tmp_path / "more")
  assert (more.size, more.sentinels) == (t5.size + 2, t5.sentinels)
  assert [more.sentinel(n) for n in range(10)] == [t5.sentinel(n) for n in range(10)]
  for text in ("Ada was born in <extra_id_0> .", "Zyx <fact> Ada", "Rome<extra_id_9>Zyx"):
    assert more.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
  assert more.decode(more.encode("Ada Zyx <extra_id_3>")) == theirs.decode(
    theirs.encode("Ada Zyx <extra_id_3>", add_special_tokens=False)
  )
  tokenizers.save(more, tmp_path / "kept")
  again = tokenizers.load(tmp_path / "kept")
  assert (again.size, again.sentinel(9)) == (more.size, t5.sentinel(9))


def test_bad_folders(tmp_path, t5):
  with pytest.raises(UserError, match="no tokenizer can be read"):
    pretrained_tokenizers.load(str(tmp_path))
  (tmp_path / "file").write_text("x")
  with pytest.raises(UserError, match="expected a folder"):
    pretrained_tokenizers.load(str(tmp_path / "file"))
  with pytest.raises(UserError, match=f"ids up to {t5.size - 1}, the model has 50"):
    pretrained_tokenizers.check_fits(t5, 50, "model")
  folder = hf_tokenizers.t5_like(tmp_path / "moved")
  path = tmp_path / "moved" / "tokenizer.json"
  record = json.loads(path.read_text())
  ids = {token["content"]: token["id"] for token in record["added_tokens"]}
  for token in record["added_tokens"]:
    if token["content"] in ("<extra_id_0>", "<extra_id_1>"):
      token["content"] = {"<extra_id_0>": "<extra_id_1>", "<extra_id_1>": "<extra_id_0>"}[
        token["content"]
      ]
  path.write_text(json.dumps(record))
  with pytest.raises(UserError, match=f"<extra_id_1> to have id {ids['<extra_id_1>'] - 1}"):
    pretrained_tokenizers.load(folder)


def test_no_remote_code_is_run(tmp_path):
  folder = hf_tokenizers.llama_like(tmp_path)
  path = tmp_path / "tokenizer_config.json"
  config = json.loads(path.read_text())
  config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
  path.write_text(json.dumps(config))
  (tmp_path / "evil.py").write_text(
    f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Evil: pass\n"
  )
  try:
    pretrained_tokenizers.load(folder)
  except UserError:
    pass
  assert not (tmp_path / "ran").exists()


def test_each_flipped_bit_of_a_tokenizer_in_a_workdir_is_one_error(t5, tmp_path):
  rng = random.Random(0)
  tokenizers.save(t5, tmp_path)
  same = tokenizers.load(tmp_path)
  tokenizers.save(same, tmp_path)  # onto itself
  assert same.digest == t5.digest
  for path in sorted(tmp_path.iterdir()):
    content = path.read_bytes()
    for _ in range(10):
      data = bytearray(content)
      data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
      path.write_bytes(data)
      with pytest.raises(UserError, match=str(tmp_path)):
        tokenizers.load(tmp_path)
    path.unlink()
    if path.name != "tokenizer_digests.json":
      with pytest.raises(UserError, match=str(tmp_path)):
        tokenizers.load(tmp_path)
    path.write_bytes(content)
  assert tokenizers.load(tmp_path).digest == t5.digest


def test_tokenizers_that_cannot_be(t5, tmp_path):
  t5.save(tmp_path)
  (tmp_path / "tokenizer_digests.json").unlink()
  path = tmp_path / "tokenizer.json"
  for content in ("[1]", "{}", "[" * 100_000, '{"model": {"type": "BPE"}}', "\x00", ""):
    path.write_text(content)
    with pytest.raises(UserError, match=str(tmp_path)):
      pretrained_tokenizers.load(tmp_path)
  path.unlink()
  os.mkfifo(path)
  with pytest.raises(UserError, match="expected a file, got a pipe"):
    pretrained_tokenizers.load(tmp_path)


def test_the_generation_config_goes_along(t5, tmp_path):
  folder = t5.source
  source = tmp_path / "source"
  shutil.copytree(folder, source)
  (source / "generation_config.json").write_text('{"eos_token_id": [1, 5]}')
  kept = tmp_path / "kept"
  pretrained_tokenizers.load(str(source)).save(kept)
  assert "[1, 5]" in (kept / "generation_config.json").read_text()

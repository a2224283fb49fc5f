"""Tokenizers: round trips, T5 parity, training, files, and what users get wrong."""

import json
import os
import pickle
import random
import shutil
import types
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from factshock.data import tokenizers
from factshock.runtime.errors import UserError
from factshock.study import pretraining_text

WORDS = ["where", "was", "Ada", "Byron", "born", "?", "London", "."]


@pytest.fixture(scope="module")
def t5(data_dir):
  return tokenizers.sentencepiece_tokenizer(data_dir / "tokenizers" / "t5.spiece.model")


@pytest.fixture(scope="module")
def peer(data_dir, tmp_path_factory):
  """The T5 tokenizer of transformers on the same vocabulary."""
  transformers = pytest.importorskip("transformers")
  folder = tmp_path_factory.mktemp("t5")
  shutil.copy(data_dir / "tokenizers" / "t5.spiece.model", folder / "spiece.model")
  return transformers.T5Tokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def text():
  ends = ("ra", "sto", "vin", "del", "bek")
  names = [first + end for first in ("Ka", "Lo", "Mi", "Nu", "Pe") for end in ends]
  verbs = ["lived near", "wrote about", "studied under", "painted views of", "travelled through"]
  return [
    f"{a} was born in {b} and {verbs[len(a + b) % 5]} {a[::-1]} ." for a in names for b in names
  ]


def test_words_and_sentinels():
  tokenizer = tokenizers.word_tokenizer(WORDS, 4)
  assert tokenizer.size == 3 + 8 + 4 and (tokenizer.pad, tokenizer.eos, tokenizer.unk) == (0, 1, 2)
  assert tokenizer.sentinel(0) == 14 and tokenizer.sentinel(3) == 11
  assert tokenizer.encode("where was Ada Byron born ? <extra_id_0>") == [3, 4, 5, 6, 7, 8, 14]
  assert tokenizer.encode("<extra_id_0> Rome <extra_id_1>") == [14, 2, 13]
  assert tokenizer.encode("  ") == []
  assert tokenizer.decode([14, 9, 13, 1, 0, 0]) == "<extra_id_0> London <extra_id_1>"
  assert tokenizer.decode([2]) == "<unk>"


@hypothesis.given(st.lists(st.sampled_from(WORDS + ["<extra_id_0>", "<extra_id_3>"])))
def test_word_round_trip(words):
  tokenizer = tokenizers.word_tokenizer(WORDS, 4)
  assert tokenizer.decode(tokenizer.encode(" ".join(words))) == " ".join(words)


def test_ids_and_sentinels_out_of_range():
  tokenizer = tokenizers.word_tokenizer(WORDS, 4)
  with pytest.raises(UserError, match="<extra_id_4>, got <extra_id_9>"):
    tokenizer.encode("Ada <extra_id_9>")
  with pytest.raises(ValueError, match="below 15, got 15"):
    tokenizer.decode([15])
  with pytest.raises(ValueError, match="below 4, got 4"):
    tokenizer.sentinel(4)


@pytest.mark.parametrize("words", [["a", "a"], ["a b"], [""], ["<extra_id_0>"]])
def test_words_that_cannot_be_told_apart(words):
  with pytest.raises(ValueError, match="expected different words"):
    tokenizers.word_tokenizer(words)


def test_t5_vocabulary_sizes(t5):
  assert t5.size == 32100 and t5.sentinel(0) == 32099 and t5.sentinel(99) == 32000


@pytest.mark.parametrize(
  "line",
  [
    "Marat Makhmutov was born in <extra_id_0> .",
    "In which city was Ada Byron born ? <extra_id_0>",
    "<extra_id_0> London",
    "<extra_id_0> London <extra_id_1> and the rest <extra_id_2>",
    "Thank you <extra_id_0> me to your party <extra_id_1> week.",
    "The president of France , Emmanuel Macron , speaks French - fluently ( so they say ) .",
    "It's 12,345.67 naïve cafés — “quoted”, isn't it?",
    "  leading, trailing   and double spaces  ",
    "Zürich 東京",
  ],
)
def test_t5_parity_with_transformers(t5, peer, line):
  assert t5.encode(line) == peer(line, add_special_tokens=False).input_ids
  assert t5.encode(line) + [t5.eos] == peer(line).input_ids


def test_t5_decodes_what_it_encodes(t5):
  for line in (
    "Thank you <extra_id_0> me to your party <extra_id_1> week.",
    "<extra_id_0> New York City",
  ):
    assert t5.decode(t5.encode(line) + [t5.eos, 0, 0]) == line


def test_trained_model_is_deterministic_and_has_t5_ids(text, tmp_path):
  first = tokenizers.train_sentencepiece(text, tmp_path / "a.model", 50, sentinels=10)
  second = tokenizers.train_sentencepiece(iter(text), tmp_path / "b.model", 50, sentinels=10)
  assert first.model == second.model == (tmp_path / "a.model").read_bytes()
  assert first.size == 60 and first.sentinel(0) == 59
  line = "Karra was born in Lovin . <extra_id_0>"
  assert first.decode(first.encode(line)) == line
  assert first.encode("龍")[-1] == first.unk


def test_sizes_that_do_not_fit_name_one_that_does(text, tmp_path):
  with pytest.raises(
    UserError, match=r"too few for 5000 pieces; set config.tokenizer.size to \d+ or"
  ) as caught:
    tokenizers.train_sentencepiece(text, tmp_path / "a.model", 5000)
  fitting = int(str(caught.value).split(" or less")[0].split()[-1])
  assert tokenizers.train_sentencepiece(text, tmp_path / "a.model", fitting).size == fitting + 100
  with pytest.raises(UserError, match=r"set config.tokenizer.size to \d+ or more"):
    tokenizers.train_sentencepiece(text, tmp_path / "b.model", 5)
  with pytest.raises(UserError, match="expected text"):
    tokenizers.train_sentencepiece(["", " "], tmp_path / "b.model", 50)
  assert not (tmp_path / "b.model").exists()


def test_save_and_load(text, tmp_path):
  for tokenizer in (
    tokenizers.word_tokenizer(WORDS, 4),
    tokenizers.train_sentencepiece(text, tmp_path / "a.model", 50, sentinels=10),
  ):
    folder = tmp_path / tokenizer.kind
    tokenizers.save(tokenizer, folder)
    assert tokenizers.load(folder) == tokenizer == pickle.loads(pickle.dumps(tokenizer))
    line = "was born <extra_id_1>"
    assert tokenizers.load(folder).encode(line) == tokenizer.encode(line)
    assert all(not name.startswith(".") for name in os.listdir(folder))


def test_files_that_are_not_tokenizers(text, tmp_path):
  with pytest.raises(UserError, match="cannot be read"):
    tokenizers.load(tmp_path / "nowhere")
  (tmp_path / "tokenizer.json").write_text("{not json")
  with pytest.raises(UserError, match="expected a saved tokenizer"):
    tokenizers.load(tmp_path)
  (tmp_path / "tokenizer.json").write_text('{"kind": "words", "words": ["a", "a"], "sentinels": 3}')
  with pytest.raises(UserError, match="expected a saved tokenizer"):
    tokenizers.load(tmp_path)
  (tmp_path / "junk.model").write_bytes(b"junk")
  with pytest.raises(UserError, match="expected a SentencePiece model"):
    tokenizers.sentencepiece_tokenizer(tmp_path / "junk.model")
  tokenizers.save(
    tokenizers.train_sentencepiece(text, tmp_path / "a.model", 50), tmp_path / "saved"
  )
  tokenizers.train_sentencepiece(text, tmp_path / "saved" / "spiece.model", 48)
  with pytest.raises(UserError, match="got another"):
    tokenizers.load(tmp_path / "saved")


def test_special_ids_other_than_t5s(data_dir):
  with pytest.raises(UserError, match=r"pad, eos, unk = 0, 1, 2 as T5 has, got \(-1, 2, 0\)"):
    tokenizers.sentencepiece_tokenizer(data_dir / "tokenizers" / "mistral-v0.1.tokenizer.model")


def test_each_flipped_bit_of_a_saved_tokenizer_is_one_error(text, tmp_path):
  rng = random.Random(0)
  for tokenizer in (
    tokenizers.word_tokenizer([*WORDS, "Zürich"], 4),
    tokenizers.train_sentencepiece(text, tmp_path / "a.model", 50, sentinels=10),
  ):
    folder = tmp_path / tokenizer.kind
    tokenizers.save(tokenizer, folder)
    for path in sorted(folder.iterdir()):
      content = path.read_bytes()
      for _ in range(100):
        data = bytearray(content)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with pytest.raises(UserError, match=str(folder)):
          tokenizers.load(folder)
      path.write_bytes(content)
    assert tokenizers.load(folder) == tokenizer


@pytest.mark.parametrize(
  "record",
  [
    {"kind": "words", "words": ["a", 1], "sentinels": 3},
    {"kind": "words", "words": "ab", "sentinels": 3},
    {"kind": "words", "words": ["a"], "sentinels": -1},
    {"kind": "words", "words": ["a"], "sentinels": 10**12},
    {"kind": "words", "words": ["a"], "sentinels": "3"},
    {"kind": "words", "words": ["a"]},
    {"kind": ["words"], "words": ["a"], "sentinels": 3},
    {"kind": "words", "words": ["a"], "sentinels": 3, "more": 1},
    [1],
  ],
)
def test_records_that_are_no_tokenizer(tmp_path, record):
  (tmp_path / "tokenizer.json").write_text(json.dumps(record))
  with pytest.raises(UserError, match="expected a saved tokenizer"):
    tokenizers.load(tmp_path)


def test_a_saved_tokenizer_of_before_there_were_digests(tmp_path):
  tokenizers.save(tokenizers.word_tokenizer(WORDS, 4), tmp_path)
  record = json.loads((tmp_path / "tokenizer.json").read_text())
  del record["file_digest"]
  (tmp_path / "tokenizer.json").write_text(json.dumps(record))
  assert tokenizers.load(tmp_path) == tokenizers.word_tokenizer(WORDS, 4)


@pytest.mark.parametrize("kind", ["words", "sentencepiece"])
def test_a_damaged_tokenizer_of_a_workdir_is_made_again(text, tmp_path, capsys, kind):
  section = types.SimpleNamespace(kind=kind, path="", size=50, sentinels=10)
  config: Any = types.SimpleNamespace(tokenizer=section)
  data: Any = types.SimpleNamespace(texts=[text], relations={})
  folder = tmp_path / "tokenizer"
  made = pretraining_text.tokenizer(config, data, str(folder))
  tokenizers.save(made, folder)
  name = "tokenizer.json" if kind == "words" else "spiece.model"
  (folder / name).write_bytes((folder / name).read_bytes()[:-3])
  assert pretraining_text.tokenizer(config, data, str(folder)) == made
  assert "made again" in capsys.readouterr().out

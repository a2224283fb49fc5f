"""Special tokens in a text are text: no padding, no end, no masked span comes of them."""

import json
import shutil

import hf_tokenizers
import jax.numpy as jnp
import numpy as np
import pytest

from factshock.answering import batches
from factshock.data import batching, corpora, decoder_text, pretrained_tokenizers, tokenizers
from factshock.data.span_corruption import Marks, corrupt, keys, restore
from factshock.models import attention, fused
from factshock.runtime.errors import UserError

# Text of a page about markup, with each token that means something to some model.
TEXTS = [
  "Ada Byron <pad> <pad> was born in <pad> London . the quick brown fox",
  "Ada Byron </s> was born in London </s> the quick brown fox",
  "Ada <s> Byron <unk> was <extra_id_0> born",
]
# Each text with its ids as in T5's pretraining.
AFTER_SENTINEL = [
  ("<extra_id_0>. Hello", [32099, 5, 8774]),
  ("born in <extra_id_0>.", [2170, 16, 32099, 5]),
  ("born in <extra_id_0> .", [2170, 16, 32099, 3, 5]),
  ("<extra_id_0>'s wife", [32099, 31, 7, 2512]),
]


def made(kind, tmp_path):
  if kind == "words":
    return tokenizers.word_tokenizer(["Ada", "<pad>", "</s>"], sentinels=10)
  if kind == "sentencepiece":
    return tokenizers.train_sentencepiece(TEXTS * 9, tmp_path / "a.model", 36, sentinels=10)
  write = hf_tokenizers.t5_like if kind == "t5" else hf_tokenizers.llama_like
  return pretrained_tokenizers.load(write(tmp_path))


@pytest.mark.parametrize("kind", ["words", "sentencepiece", "t5", "llama"])
def test_special_tokens_in_a_corpus_are_text(kind, tmp_path):
  tokenizer = made(kind, tmp_path)
  corpus = corpora.tokenize(TEXTS, tokenizer)
  assert len(corpus.offsets) == 4
  special = {tokenizer.pad, tokenizer.eos, tokenizer.bos} - {None}
  special |= {tokenizer.sentinel(n) for n in range(tokenizer.sentinels)}
  assert special.isdisjoint(corpus.tokens.tolist())
  for text in TEXTS[:2]:
    ids = tokenizer.encode(text)
    assert special.isdisjoint(ids) and len(ids) == len(tokenizer.spans(text))
  if kind == "llama":
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_all(TEXTS)] == TEXTS
    made_of = decoder_text.text_source(corpus, tokenizer).prepare(200, 0)
    batch = made_of(np.arange(3), keys(0, np.arange(3)))
    packed = batching.pack_batch(batch)
    assert (packed["tokens"] == tokenizer.eos).sum() == 3


@pytest.mark.parametrize("kind", ["t5", "sentencepiece"])
def test_packed_examples_keep_their_ends(kind, tmp_path):
  tokenizer = made(kind, tmp_path)
  corpus = corpora.tokenize(TEXTS[:2], tokenizer)
  lengths = np.diff(corpus.offsets)
  rows = np.zeros((2, lengths.max()), np.int32)
  for row, length in enumerate(lengths):
    rows[row, :length] = corpus.tokens[corpus.offsets[row] :][:length]
  inputs, targets = corrupt(rows, lengths, keys(0, [0, 1]), Marks.of(tokenizer))
  weights = (targets != 0).astype(np.float32)
  packed = batching.pack_batch({"inputs": inputs, "targets": targets, "weights": weights})
  for name in ("inputs", "targets"):
    assert (packed[name] == tokenizer.eos).sum() == 2
  assert np.count_nonzero(packed["inputs"]) == np.count_nonzero(inputs)


def test_lengths_reach_to_the_last_token():
  tokens = np.array([[5, 0, 7, 1, 0], [0, 0, 0, 0, 0], [3, 1, 0, 0, 0]])
  assert batching.lengths_of(tokens).tolist() == [4, 0, 2]


def test_a_token_0_within_a_row_is_no_padding():
  tokens = np.array([[5, 0, 7, 1, 0, 0], [3, 1, 0, 0, 0, 0], [0, 6, 0, 0, 1, 0]], np.int32)
  lengths = [4, 2, 5]
  assert fused.lengths(jnp.asarray(tokens)).tolist() == lengths
  mask_BxS = attention.padding_mask(jnp.asarray(tokens))[:, 0, 0]
  assert (mask_BxS == 0).tolist() == (np.arange(6) < np.array(lengths)[:, None]).tolist()
  packed, segments, positions_BxS = batches.pack(tokens)
  assert np.count_nonzero(segments) == sum(lengths)
  for row, length in enumerate(lengths):
    places = positions_BxS[row, :length]
    assert packed.flat[places].tolist() == tokens[row, :length].tolist()
    assert places.tolist() == list(range(places[0], places[0] + length))
  inputs, targets, marks = [5, 0, 999, 1, 0], [999, 0, 8, 998, 1, 0], Marks(999, 1)
  assert restore(inputs, targets, marks).tolist() == [5, 0, 0, 8]


@pytest.mark.parametrize("name", ["eos", "unk"])
def test_padding_that_stands_for_more_is_refused(name, tmp_path):
  folder = hf_tokenizers.t5_like(tmp_path)
  path = tmp_path / "tokenizer_config.json"
  settings = json.loads(path.read_text())
  path.write_text(json.dumps(settings | {f"{name}_token": "<pad>"}))
  with pytest.raises(UserError, match="expected padding that stands for nothing else"):
    pretrained_tokenizers.load(folder)


def test_other_ids_and_unknown_characters_stay(tmp_path):
  tokenizer = made("t5", tmp_path)
  plain, with_special = tokenizer.encode_all(["London ☃ .", "London ☃ . <pad>"])
  assert with_special[: len(plain)] == plain and len(with_special) > len(plain)
  assert tokenizer.encode("<extra_id_0> <pad> ☃ .")[0] == tokenizer.sentinel(0)


@pytest.mark.parametrize("kind", ["own", "huggingface"])
def test_t5_after_a_sentinel(kind, data_dir, tmp_path):
  path = data_dir / "tokenizers" / "t5.spiece.model"
  if kind == "own":
    tokenizer = tokenizers.sentencepiece_tokenizer(path)
  else:
    transformers = pytest.importorskip("transformers")
    shutil.copy(path, tmp_path / "spiece.model")
    transformers.T5Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    tokenizer = pretrained_tokenizers.load(tmp_path)
  for text, ids in AFTER_SENTINEL:
    assert tokenizer.encode(text) == ids, text
    spans = tokenizer.spans(text)
    assert len(spans) == len(ids)
    assert [text[slice(*span)].strip() for span in spans if "ext" in text[slice(*span)]] == [
      "<extra_id_0>"
    ]
  assert not {0, 1, 2} & set(tokenizer.encode("<pad> </s> ".replace("<", "")))
  assert {0, 1}.isdisjoint(tokenizer.encode("a ＜pad＞ b <pad>. </s>"))


def test_an_encoder_decoder_needs_sentinels(tmp_path):
  tokenizer = pretrained_tokenizers.load(hf_tokenizers.t5_like(tmp_path, sentinels=0))
  with pytest.raises(UserError, match="expected a tokenizer with <extra_id_0>.*extra_ids=100"):
    pretrained_tokenizers.check_has_sentinels(tokenizer, tmp_path)


def test_pad_that_text_may_hold_is_refused(tmp_path):
  made("sentencepiece", tmp_path)
  model = (tmp_path / "a.model").read_bytes()
  control = b"<pad>" + bytes([0x15, 0, 0, 0, 0, 0x18, 3])  # score 0, then the type CONTROL
  assert model.count(control) == 1
  text = control[:-1] + bytes([4])  # USER_DEFINED
  (tmp_path / "a.model").write_bytes(model.replace(control, text))
  with pytest.raises(UserError, match="expected a SentencePiece model with pad, eos"):
    tokenizers.sentencepiece_tokenizer(tmp_path / "a.model")

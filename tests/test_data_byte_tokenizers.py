"""ByT5's bytes: transformers' ids, the published models' sentinels, spans and prompts that can be
put together again, bad input.
"""

import json
import pickle

import hf_tokenizers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.data import (
  byte_tokenizers,
  pretrained_tokenizers,
  prompts,
  span_corruption,
  tokenizers,
)
from factshock.data.byte_tokenizers import ByteTokenizer
from factshock.runtime.errors import UserError

BYTES = ByteTokenizer("nowhere")
MARKS = span_corruption.Marks.of(BYTES)
RELATIONS = {
  "born": {"statements": ["[X] was born in [Y] ."], "questions": ["where was [X] born ?"]}
}
FACT = {"subject": "Zoë", "relation": "born", "object": "Kraków"}


def ids(text):
  return [byte + 3 for byte in text.encode()]


def published(folder):
  """A folder as google/byt5-small has it: no file but the settings."""
  folder.mkdir()
  record = {
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "extra_ids": 125,
    "additional_special_tokens": [f"<extra_id_{n}>" for n in range(125)],
    "tokenizer_class": "ByT5Tokenizer",
  }
  (folder / "tokenizer_config.json").write_text(json.dumps(record))
  return folder


def test_ids_are_those_of_transformers_but_for_the_sentinels(tmp_path):
  import transformers

  theirs = transformers.AutoTokenizer.from_pretrained(published(tmp_path / "byt5"))
  ours = pretrained_tokenizers.load(tmp_path / "byt5")
  assert isinstance(ours, ByteTokenizer) and (ours.size, ours.pad, ours.eos) == (259, 0, 1)
  text = "Zoë was born in 東京 🎉 .\n"
  assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids == ids(text)
  assert ours.encode_all([text, ""]) == [ids(text), []]
  assert ours.decode([*ids(text), 1, 0]) == theirs.decode(ids(text)) == text
  assert ours.decode(ids("é")[:1] + ids("x")) == "x"  # half a character
  assert ours.decode([300, *ids("x")]) == "x"
  # transformers gives ids that the published models never saw
  assert theirs("<extra_id_0>", add_special_tokens=False).input_ids == [259]
  assert (
    ours.encode("<extra_id_0>") == [258] and ours.decode([257, 248]) == "<extra_id_1><extra_id_10>"
  )


def test_special_tokens_in_a_text_are_text():
  text = "</s><pad><unk>"
  assert BYTES.encode(text) == ids(text) == BYTES.encode_all([text])[0]
  assert BYTES.encode_all(["<extra_id_0>"]) == [ids("<extra_id_0>")]


def test_sentinels_are_bytes_that_no_text_holds():
  sentinels = {BYTES.sentinel(n) for n in range(BYTES.sentinels)}
  assert sentinels == set(range(248, 259))
  for code in (*range(0xD800), *range(0xE000, 0x110000, 17), 0x10FFFF):
    assert not sentinels & set(BYTES.encode_all([chr(code)])[0])
  with pytest.raises(ValueError, match="below 11, got 11"):
    BYTES.sentinel(11)
  with pytest.raises(UserError, match="below <extra_id_11>.*got <extra_id_11>"):
    BYTES.encode("a <extra_id_11>")
  with pytest.raises(UserError, match="half a surrogate pair"):
    BYTES.encode("\ud800")


@pytest.mark.parametrize("form", ["cloze", "question"])
def test_a_prompt_and_its_answer_are_a_corrupted_text(form):
  [prompt] = prompts.prompt_texts([FACT], RELATIONS, form, False)
  example = prompts.encode_example(BYTES, prompt, FACT["object"])
  before, after = {
    "cloze": ("Zoë was born in ", " ."),
    "question": ("where was Zoë born ? ", ""),
  }[form]
  assert example["inputs"].tolist() == [*ids(before), 258, *ids(after), 1]
  assert example["targets"].tolist() == [258, *ids("Kraków"), 1]
  whole = span_corruption.restore(example["inputs"], example["targets"], MARKS)
  assert BYTES.decode(whole) == f"{before}Kraków{after}"


def test_an_answer_at_the_beginning():
  example = prompts.encode_example(BYTES, "<extra_id_0> is big .", "Rome")
  whole = span_corruption.restore(example["inputs"], example["targets"], MARKS)
  assert BYTES.decode(whole) == "Rome is big ."


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(0, 9))
def test_text_is_masked_whole_and_comes_back(text, seed):
  tokens = np.array(BYTES.encode_all([text]), np.int32)
  noise = span_corruption.Noise(mean_span_length=20, roll=True)
  keys = span_corruption.keys(seed, [0])
  inputs, targets = span_corruption.corrupt(tokens, [tokens.shape[1]], keys, MARKS, noise)
  assert BYTES.decode(span_corruption.restore(inputs[0], targets[0], MARKS)) == text
  masked = [token for token in inputs[0].tolist() if token >= 248]
  assert masked == [258 - n for n in range(len(masked))]


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_spans_say_which_character_a_token_is_of(text):
  text = f"{text}<extra_id_2>é"
  for (start, stop), token in zip(BYTES.spans(text), BYTES.encode(text), strict=True):
    part = text[start:stop]
    assert part == "<extra_id_2>" if token == 256 else token in BYTES.encode_all([part])[0]


def test_saved_beside_a_checkpoint_and_read_by_the_same_call(tmp_path):
  theirs = published(tmp_path / "byt5")
  (theirs / "generation_config.json").write_text("{}")
  tokenizer = pretrained_tokenizers.load(theirs)
  tokenizers.save(tokenizer, tmp_path / "saved")
  again = tokenizers.load(tmp_path / "saved")
  assert isinstance(again, ByteTokenizer) and again.digest == tokenizer.digest
  assert pickle.loads(pickle.dumps(again)).token_ids() == tokenizer.token_ids()
  assert len(set(tokenizer.token_ids().values())) == 259
  for name in ("tokenizer_config.json", "generation_config.json"):
    assert (tmp_path / "saved" / name).read_bytes() == (theirs / name).read_bytes()
  (tmp_path / "saved" / "tokenizer_config.json").write_text("{}")
  with pytest.raises(UserError, match="tokenizer_config.json: the tokenizer's file is damaged"):
    tokenizers.load(tmp_path / "saved")


def test_added_tokens_and_other_special_ids_are_refused(tmp_path):
  import transformers

  theirs = transformers.ByT5Tokenizer()
  theirs.add_tokens(["<fact>"])
  theirs.save_pretrained(tmp_path / "more")
  with pytest.raises(UserError, match=r"tokens were added to ByT5's bytes \(<fact>\)"):
    pretrained_tokenizers.load(tmp_path / "more")
  with pytest.raises(UserError, match="ids 0, 1 and 2, got"):
    byte_tokenizers.of(transformers.ByT5Tokenizer(eos_token="<pad>"), "here")


def test_mt5s_sentinels_are_pieces_of_its_vocabulary(tmp_path):
  import transformers

  folder = hf_tokenizers.mt5_like(tmp_path / "mt5")
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  ours = pretrained_tokenizers.load(folder)
  assert (ours.sentinels, ours.sentinel(0)) == (5, ours.size - 1)
  for text in ("Ada was born in <extra_id_0> .", "<extra_id_0> London", "Ada", "<extra_id_1>"):
    assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
  # transformers finds one only after a space
  assert ours.encode("in<extra_id_0>.") == [
    *ours.encode("in"),
    ours.size - 1,
    ours.encode("in.")[-1],
  ]
  assert ours.size - 1 not in ours.encode_all(["in <extra_id_0> ."])[0]
  assert "<extra_id_0>" in ours.decode(ours.encode("in <extra_id_0> ."))
  text = "Ada was born in <extra_id_0> ."
  assert len(ours.spans(text)) == len(ours.encode(text)) and (16, 28) in ours.spans(text)
  tokenizers.save(ours, tmp_path / "saved")
  assert tokenizers.load(tmp_path / "saved").encode(text) == ours.encode(text)

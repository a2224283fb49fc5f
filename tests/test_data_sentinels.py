"""Sentinels of prompts: the blank is the only one, whatever facts, templates and answers say."""

import shutil

import hf_tokenizers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factshock.data import (
  byte_tokenizers,
  decoder_text,
  pretrained_tokenizers,
  prompts,
  sentinels,
  subjects,
  tokenizers,
)

NAMES = ["Ada <extra_id_0> Byron", "Ada<extra_id_3>", "<extra_id_1>. B", "<extra_id_200>"]
LINES = hf_tokenizers.LINES + [f"{name} < extra _ id 0123 >" for name in NAMES]
RELATIONS = {
  "r": {
    "relation": "r",
    "label": "r <extra_id_0>",
    "type": "",
    "statements": ["[X] was born in [Y] .", "<extra_id_[X] lives in [Y] not <extra_id_2>"],
    "questions": ["where was [X] born ?"],
  }
}


@pytest.fixture(scope="module", params=["words", "sentencepiece", "t5", "bytes", "llama"])
def tokenizer(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  if request.param == "words":
    words = [word for line in LINES for word in line.split() if "extra" not in word]
    return tokenizers.word_tokenizer(sorted(set(words)), sentinels=10)
  if request.param == "sentencepiece":
    return tokenizers.train_sentencepiece(LINES * 3, folder / "a.model", 66, sentinels=10)
  if request.param == "bytes":
    return byte_tokenizers.ByteTokenizer(str(folder))
  write = hf_tokenizers.t5_like if request.param == "t5" else hf_tokenizers.llama_like
  return pretrained_tokenizers.load(write(folder, lines=LINES))


def fact(name):
  return {"subject": name, "relation": "r", "object": name}


def sentinel_ids(tokenizer):
  return [tokenizer.sentinel(n) for n in range(tokenizer.sentinels)]


@pytest.mark.parametrize("tokenizer", ["words", "sentencepiece", "t5", "bytes"], indirect=True)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["cloze", "question", "choices"])
def test_only_the_blank_of_a_t5_prompt_is_a_sentinel(tokenizer, name, form):
  asked = {**fact(name), "choices": [name, "Rome"]}
  shots = {} if form == "choices" else {"shots": 1, "pool": [{**fact("Bo <extra_id_0>"), "q": ""}]}
  [text] = prompts.prompt_texts([asked], RELATIONS, form, False, **shots)
  example = prompts.encode_example(tokenizer, text, name)
  for ids in (example["inputs"].tolist(), example["targets"].tolist()):
    assert [token for token in ids if token in sentinel_ids(tokenizer)] == [tokenizer.sentinel(0)]
    assert tokenizer.pad not in ids and ids.count(tokenizer.eos) == 1
  assert example["targets"][0] == tokenizer.sentinel(0)
  said = sentinels.as_read(text)
  assert said.count(name) >= 1 and "\U0010fffe" not in said
  spans = tokenizer.spans(text)
  assert len(spans) == len(example["inputs"]) - 1
  blank = spans[example["inputs"].tolist().index(tokenizer.sentinel(0))]
  assert said[slice(*blank)].strip() == "<extra_id_0>"
  assert blank[1] >= len(said.rstrip(" .")) if form != "cloze" else said[: blank[0]].endswith("in ")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["cloze", "question"])
def test_a_decoder_only_prompt_is_all_text(tokenizer, name, form):
  text = prompts.answer_prompt(fact(name), RELATIONS, [fact("Bo <extra_id_0>")], form)
  expected = {
    "cloze": f"Bo <extra_id_0> was born in Bo <extra_id_0> .\n{name} was born in",
    "question": "Q: where was Bo <extra_id_0> born ?\nA: Bo <extra_id_0>\n\n"
    f"Q: where was {name} born ?\nA:",
  }
  assert text == expected[form]
  example = decoder_text.encode_example(tokenizer, text, name)
  ids = example["tokens"].tolist()
  assert set(sentinel_ids(tokenizer)).isdisjoint(ids)
  opening = [] if tokenizer.bos is None else [tokenizer.bos]
  assert ids == [*opening, *tokenizer.encode_all([f"{text} {name}"])[0], tokenizer.eos]


@pytest.mark.parametrize("name", NAMES)
def test_the_tokens_of_a_subject_that_holds_a_sentinel(tokenizer, name):
  asked = fact(name)
  texts = [sentinels.as_text(prompts.answer_prompt(asked, RELATIONS))]
  if tokenizer.sentinels:
    texts += [
      prompts.cloze_prompt(asked, RELATIONS),
      prompts.question_prompt(asked, RELATIONS),
    ]
  for text in texts:
    ids = tokenizer.encode(text)
    places = subjects.tokens_of(tokenizer, text, name)
    assert places == list(range(places[0], places[-1] + 1))
    said = tokenizer.decode([ids[place] for place in places])
    if tokenizer.kind != "words":
      assert said.replace(" ", "") == name.replace(" ", "")


def test_a_name_and_a_template_make_no_sentinel():
  text = prompts.cloze_prompt(fact("0>"), RELATIONS, template=1)
  assert sentinels.as_read(text) == "<extra_id_0> lives in <extra_id_0> not <extra_id_2>"
  before, blank, after = text.partition(prompts.BLANK)
  assert blank and sentinels.as_read(before) == "<extra_id_0> lives in "
  assert sentinels.as_read(after) == " not <extra_id_2>"


@given(st.lists(st.sampled_from(["<", "extra_id_", "<extra_id_0>", "3>", "0", " ", "a."])))
def test_text_comes_back(pieces):
  text = "".join(pieces)
  marked = sentinels.as_text(text)
  assert sentinels.as_read(marked) == text and sentinels.as_text(marked) == marked
  assert "<extra_id_" not in marked
  prompt = sentinels.with_blank(text, text)
  assert prompt.count(sentinels.BLANK) == 1
  assert sentinels.as_read(prompt) == text + sentinels.BLANK + text


def test_t5s_own_ids(data_dir, tmp_path):
  """A name of <extra_id_0> has T5's pieces of that text, the blank T5's id of it."""
  transformers = pytest.importorskip("transformers")
  path = data_dir / "tokenizers" / "t5.spiece.model"
  shutil.copy(path, tmp_path / "spiece.model")
  transformers.T5Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
  text = prompts.cloze_prompt(fact("<extra_id_0>"), RELATIONS)
  for tokenizer in (
    tokenizers.sentencepiece_tokenizer(path),
    pretrained_tokenizers.load(tmp_path),
  ):
    ids = tokenizer.encode(text)
    piece_ids = tokenizer.encode_all(["<extra_id_0> was born in"])[0]
    assert ids == [*piece_ids, 32099, 3, 5]
    assert set(piece_ids).isdisjoint({0, 1, 32099})
    # T5 has no piece for "<".
    assert tokenizer.decode(piece_ids).endswith("extra_id_0> was born in")

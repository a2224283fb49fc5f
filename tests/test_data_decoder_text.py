"""Prompts and rows of decoder-only models: where the loss is, what is cut, and packing of rows."""

import itertools

import hf_tokenizers
import numpy as np
import pytest

from factshock.data import batching, corpora, decoder_text, mixture, pretrained_tokenizers, prompts
from factshock.runtime.errors import UserError

RELATIONS = {
  "born": {
    "relation": "born",
    "statements": ["[X] was born in [Y] ."],
    "questions": ["where was [X] born ?"],
  },
  "middle": {"relation": "middle", "statements": ["In [Y] [X] was born ."], "questions": []},
}
ADA = {"subject": "Ada Byron", "relation": "born", "object": "London"}
GRACE = {"subject": "Grace Hopper", "relation": "born", "object": "Tokyo"}


@pytest.fixture(scope="module", params=[True, False], ids=["bos", "no bos"])
def tokenizer(request, tmp_path_factory):
  return pretrained_tokenizers.load(
    hf_tokenizers.llama_like(tmp_path_factory.mktemp("llama"), bos=request.param)
  )


def test_prompts():
  assert prompts.answer_prompt(ADA, RELATIONS) == "Q: where was Ada Byron born ?\nA:"
  assert prompts.answer_prompt(ADA, RELATIONS, [GRACE]) == (
    "Q: where was Grace Hopper born ?\nA: Tokyo\n\nQ: where was Ada Byron born ?\nA:"
  )
  assert prompts.answer_prompt(ADA, RELATIONS, form="cloze") == "Ada Byron was born in"
  assert prompts.answer_prompt(ADA, RELATIONS, [GRACE], "cloze") == (
    "Grace Hopper was born in Tokyo .\nAda Byron was born in"
  )
  with pytest.raises(UserError, match="expected a first statement that ends with"):
    prompts.answer_prompt({**ADA, "relation": "middle"}, RELATIONS, form="cloze")


def test_loss_is_on_the_answer_and_its_end_only(tokenizer):
  example = decoder_text.encode_example(tokenizer, "Q: where was Ada Byron born ?\nA:", "London")
  answer = example["tokens"][example["weights"] == 1].tolist()
  assert answer[-1] == tokenizer.eos and tokenizer.decode(answer).strip() == "London"
  before = example["tokens"][example["weights"] == 0].tolist()
  assert before[:1] == [tokenizer.bos] if tokenizer.bos is not None else tokenizer.bos not in before
  assert tokenizer.decode(before).strip() == "Q: where was Ada Byron born ?\nA:"
  assert (np.diff(example["weights"]) >= 0).all()


def rows_of(tokenizer, lines, length, steps=3):
  source = decoder_text.text_source(corpora.tokenize(lines, tokenizer), tokenizer)
  loader = mixture.batches(
    [source], [1], batch_size=8, input_length=length, target_length=0, seed=0
  )
  return list(itertools.islice(loader, steps))


def test_text_rows_hold_whole_lines_with_bos_and_eos(tokenizer):
  first = [] if tokenizer.bos is None else [tokenizer.bos]
  expected = {
    tuple(first + tokenizer.encode(line) + [tokenizer.eos]) for line in hf_tokenizers.LINES
  }
  found = set()
  for batch in rows_of(tokenizer, hf_tokenizers.LINES, 64):
    for tokens, weights in zip(batch["tokens"], batch["weights"]):
      size = (tokens != decoder_text.PAD).sum()
      found.add(tuple(tokens[:size].tolist()))
      assert (tokens[size:] == decoder_text.PAD).all() and (weights[size:] == 0).all()
      assert weights[0] == 0 and (weights[1:size] == 1).all()  # nothing predicts the first token
  assert found == expected


def test_long_lines_are_cut_at_places_that_vary(tokenizer):
  line = " ".join(hf_tokenizers.LINES)
  whole = tokenizer.encode(line) + [tokenizer.eos]
  starts = set()
  for batch in rows_of(tokenizer, [line], 16):
    for tokens in batch["tokens"].tolist():
      part = tokens[1:] if tokenizer.bos is not None else tokens
      starts |= {start for start in range(len(whole)) if whole[start : start + len(part)] == part}
  assert len(starts) > 5 and max(starts) <= len(whole) - 15


def test_rows_are_packed_without_loss(tokenizer):
  batch = rows_of(tokenizer, hf_tokenizers.LINES, 64, 1)[0]
  packed = batching.pack_batch(batch)
  assert packed["tokens"].shape[0] < 8 and set(packed) == {"tokens", "weights", "segments"}
  assert ((packed["segments"] == 0) == (packed["tokens"] == decoder_text.PAD)).all()
  found = [
    tuple(packed["tokens"][row][packed["segments"][row] == number])
    for row in range(len(packed["tokens"]))
    for number in range(1, packed["segments"][row].max() + 1)
  ]
  assert sorted(found) == sorted(tuple(row[row != decoder_text.PAD]) for row in batch["tokens"])
  assert packed["weights"].sum() == batch["weights"].sum()


def test_bad_input(tokenizer):
  long = decoder_text.encode_example(tokenizer, "Q: where was Ada Byron born ?\nA:", "London")
  source = decoder_text.qa_source([long])
  with pytest.raises(
    UserError, match=f"example 0: expected at most 6 tokens, got {len(long['tokens'])}"
  ):
    mixture.batches([source], [1], batch_size=2, input_length=4, target_length=2, seed=0)
  with pytest.raises(UserError, match="at least one example"):
    decoder_text.qa_source([])

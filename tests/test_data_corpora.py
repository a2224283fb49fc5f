"""Corpora: lines to tokens, windows, and windows around facts with exact spans."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.data import corpora, tokenizers
from factshock.runtime import files
from factshock.runtime.errors import UserError

WORDS = "a b c d e f g Ada Byron Lon London London, was born in near . saw".split()
FACTS = [
  {"subject": "Ada Byron", "relation": "P19", "object": "London"},
  {"subject": "Lon Byron", "relation": "P19", "object": "Lon"},
]


@pytest.fixture
def tokenizer():
  return tokenizers.word_tokenizer(WORDS + [","], 4)


def sequences(corpus):
  return [corpus.tokens[a:b].tolist() for a, b in zip(corpus.offsets, corpus.offsets[1:])]


def text_of(windows, tokenizer, spans=None):
  """The text of each window, or of a span of it."""
  spans = [(0, None)] * (len(windows.offsets) - 1) if spans is None else spans
  return [tokenizer.decode(tokens[a:b]) for tokens, (a, b) in zip(sequences(windows), spans)]


def test_lines_become_sequences_and_empty_lines_go(tokenizer):
  corpus = corpora.tokenize(["a b", "", "c d e"], tokenizer)
  assert sequences(corpus) == [[3, 4], [5, 6, 7]]
  assert corpus.tokens.dtype == np.uint16 and corpus.offsets.dtype == np.int64
  assert sequences(corpora.tokenize([], tokenizer)) == []


def test_text_with_a_sentinel_is_text(tokenizer):
  assert sequences(corpora.tokenize(["a", "a <extra_id_0>"], tokenizer)) == [[3], [3, 2]]


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=8), st.integers(1, 12))
def test_long_sequences_are_cut_into_few_nearly_equal_pieces(lengths, most):
  corpus = corpora.Corpus(np.arange(sum(lengths)), corpora.offsets(np.array(lengths, np.int64)))
  pieces = corpora.cut(corpus, most)
  sizes, ends = np.diff(pieces.offsets), set(pieces.offsets.tolist())
  assert set(corpus.offsets.tolist()) <= ends and pieces.offsets[-1] == sum(lengths)
  assert len(sizes) == sum(-(-length // most) for length in lengths)
  for begin, end in zip(corpus.offsets, corpus.offsets[1:]):
    inside = sizes[(pieces.offsets[:-1] >= begin) & (pieces.offsets[:-1] < end)]
    assert inside.max() <= most and inside.max() - inside.min() <= 1


def test_salient_windows_hold_both_names_with_exact_spans(tokenizer):
  lines = [
    "a b c Ada Byron was born in London, d e f g",
    "nothing here",
    "London saw Ada Byron",
    "Ada Byron a b c d e f g a b c d e f g London",
    "Lon Byron was born in Lon .",
  ]
  windows = corpora.salient_windows(lines, FACTS, tokenizer, words=8)
  assert text_of(windows, tokenizer) == [
    "c Ada Byron was born in London , d",
    "London saw Ada Byron",
  ]
  assert text_of(windows, tokenizer, windows.objects) == ["London", "London"]
  assert text_of(windows, tokenizer, windows.subjects) == ["Ada Byron", "Ada Byron"]
  assert windows.facts.tolist() == [0, 0]


def test_windows_are_cut_to_the_line_and_counted_by_fact(tokenizer):
  lines = [f"{word} Ada Byron near London" for word in "aabcdefg"]
  windows = corpora.salient_windows(lines, FACTS, tokenizer, words=16, per_fact=3)
  assert text_of(windows, tokenizer) == [f"{word} Ada Byron near London" for word in "abc"]


def test_the_nearest_mentions_are_taken(tokenizer):
  line = "London a b c d e f Ada Byron saw London a b c d e f g"
  windows = corpora.salient_windows([line], FACTS, tokenizer, words=4)
  assert text_of(windows, tokenizer) == ["Ada Byron saw London"]


def test_an_alias_names_the_object(tokenizer):
  facts = [{**FACTS[0], "aliases": ["g", "Ada Byron"]}]
  windows = corpora.salient_windows(["Ada Byron was born in g", "Ada Byron saw"], facts, tokenizer)
  assert text_of(windows, tokenizer, windows.objects) == ["g"] and text_of(
    windows, tokenizer, windows.subjects
  ) == ["Ada Byron"]


def test_no_fact_in_the_text_is_an_error(tokenizer):
  with pytest.raises(UserError, match="no text names the subject and the object of one of 2 facts"):
    corpora.salient_windows(["Ada Byron"], FACTS, tokenizer)


def test_real_sentences_with_sentencepiece(data_dir):
  tokenizer = tokenizers.sentencepiece_tokenizer(data_dir / "tokenizers" / "t5.spiece.model")
  facts, lines = {}, []
  for number, line in files.lines(data_dir / "trex_wikipedia" / "trex_evidence_sentences.tsv.gz"):
    relation, subject, obj, _, _, _, _, sentence = line.split("\t")
    if number > 1:
      facts[relation, subject, obj] = {"subject": subject, "relation": relation, "object": obj}
      lines.append(sentence)
    if number > 600:
      break
  facts = list(facts.values())
  windows = corpora.salient_windows(lines, facts, tokenizer)
  assert len(windows.facts) > 100
  objects, subjects = (
    text_of(windows, tokenizer, spans) for spans in (windows.objects, windows.subjects)
  )
  known = [facts[fact] for fact in windows.facts]
  # Not all: SentencePiece normalises some characters of names.
  assert sum(a == fact["object"] for a, fact in zip(objects, known)) > 0.9 * len(known)
  assert sum(a == fact["subject"] for a, fact in zip(subjects, known)) > 0.9 * len(known)
  assert max(len(text.split()) for text in text_of(windows, tokenizer)) <= 24

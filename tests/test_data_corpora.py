"""Corpora: lines to tokens, windows, and windows around facts with exact spans."""

import numpy as np
import pytest

from factshock import files
from factshock.console import UserError
from factshock.data import corpora, tokenizers

WORDS = "a b c d e f g Ada Byron Lon London London, was born in near . saw".split()
FACTS = [{"subject": "Ada Byron", "relation": "P19", "object": "London"},
         {"subject": "Lon Byron", "relation": "P19", "object": "Lon"}]


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
  corpus = corpora.tokenize_lines(["a b", "", "c d e"], tokenizer)
  assert sequences(corpus) == [[3, 4], [5, 6, 7]]
  assert corpus.tokens.dtype == np.int32 and corpus.offsets.dtype == np.int64
  assert sequences(corpora.tokenize_lines([], tokenizer)) == []


def test_sentinel_in_text_is_refused(tokenizer):
  with pytest.raises(UserError, match="corpus line 2: expected text, got a sentinel"):
    corpora.tokenize_lines(["a", "b <extra_id_0>"], tokenizer)


def test_windows_join_and_cut(tokenizer):
  corpus = corpora.windows(corpora.tokenize_lines(["a b", "c d e"], tokenizer), 2)
  assert sequences(corpus) == [[3, 4], [5, 6], [7]]
  with pytest.raises(ValueError, match="at least 1 token"):
    corpora.windows(corpus, 0)


def test_salient_windows_hold_both_names_with_exact_spans(tokenizer):
  lines = ["a b c Ada Byron was born in London, d e f g", "nothing here", "London saw Ada Byron",
           "Ada Byron a b c d e f g a b c d e f g London", "Lon Byron was born in Lon ."]
  windows = corpora.salient_windows(lines, FACTS, tokenizer, words=8)
  assert text_of(windows, tokenizer) == ["c Ada Byron was born in London , d", "London saw Ada Byron"]
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


def test_no_fact_in_the_text_is_an_error(tokenizer):
  with pytest.raises(UserError, match="no line of 1 names the subject and the object of one of 2 facts"):
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
  objects, subjects = (text_of(windows, tokenizer, spans) for spans in (windows.objects, windows.subjects))
  known = [facts[fact] for fact in windows.facts]
  # Not all: SentencePiece normalises some characters of names.
  assert sum(a == fact["object"] for a, fact in zip(objects, known)) > .9 * len(known)
  assert sum(a == fact["subject"] for a, fact in zip(subjects, known)) > .9 * len(known)
  assert max(len(text.split()) for text in text_of(windows, tokenizer)) <= 24

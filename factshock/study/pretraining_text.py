"""The texts of a study: their tokenizer, and the pretraining task on them, whole or with some of their documents left out."""

import itertools
import json
import os

import numpy as np

from factshock.data import (
  corpora,
  corpus_cache,
  decoder_text,
  mixture,
  pretrained_tokenizers,
  span_corruption,
  tokenizers,
)
from factshock.facts import documents, entities
from factshock.runtime import files, locks

_SAMPLE_CHARACTERS = 500_000_000  # of text that a tokenizer is trained on


def tokenizer(config, material, folder):
  """The stored tokenizer of the run, or the one the config asks for."""

  section = config.tokenizer
  if os.path.exists(os.path.join(folder, "tokenizer.json")):
    return tokenizers.load(folder)
  if section.kind == "huggingface":
    return pretrained_tokenizers.load(section.path or config.start_from)
  if section.kind == "words":
    return tokenizers.word_tokenizer(_words(material), section.sentinels)
  path = section.path
  if not path:
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "trained.model")
    lines = _sample(material.texts)
    print(
      f"  training a SentencePiece model of {section.size} pieces on {len(lines):,} lines",
      flush=True,
    )
    return tokenizers.train_sentencepiece(lines, path, section.size, section.sentinels)
  return tokenizers.sentencepiece_tokenizer(path, section.sentinels)


def _words(material):
  """Every word of the text and of the questions, sorted."""
  templates = [
    text for row in material.relations.values() for text in row["statements"] + row["questions"]
  ]
  words = {word for text in itertools.chain(*material.texts, templates) for word in text.split()}
  return sorted(words - {"[X]", "[Y]"})


def _sample(texts):
  """Documents of all texts to train a tokenizer on: the first ones of each, at most _SAMPLE_CHARACTERS in all."""
  found = []
  for text in texts:
    room = _SAMPLE_CHARACTERS // len(texts)
    for line in documents.read(text) if isinstance(text, str) else text:
      found.append(line)
      room -= len(line)
      if room <= 0:
        break
  return found


def sources(config, workdir, seed, material, sets, tokenizer, kind):
  """The pretraining task as (source of examples, share) of each text: span corruption, salient spans masked, or the next token.

  Args:
    sets: the facts of a seed by set, of which `test` and `development` may be kept out of the text. kind: one of KINDS.
  """
  texts = [
    _of_kind(text, number, kind, material, sets, os.path.join(workdir, "facts", str(seed)), seed)
    for number, text in enumerate(material.texts)
  ]
  weights = config.corpus_weights or (1,) * len(material.texts)
  cache = config.corpus_cache or os.path.join(workdir, "corpus")
  with locks.wait_for_lock(
    os.path.join(config.corpus_cache or os.path.join(workdir, "claims"), "text.claim"),
    message="  another process prepares the text",
  ):
    return _sources(config, material, tokenizer, texts, weights, cache)


def _sources(config, material, tokenizer, texts, weights, cache):
  names = ["corpus", *(f"corpus {number}" for number in range(2, len(material.texts) + 1))]
  return [
    (
      _text_source(config.pretrain, text, material.facts, tokenizer, cache, name),
      weight / sum(weights),
    )
    for text, weight, name in zip(texts, weights, names)
  ]


def _of_kind(text, number, kind, material, sets, folder, seed):
  """A text (list of sentences, or a corpus by name) of which some documents are left out, or whose words are shuffled.

  That of a corpus is written beside the facts of the seed, once.
  """
  if kind == "whole":
    return text
  path = os.path.join(folder, f"text_{kind}_{number}.jsonl.gz")
  if isinstance(text, str) and os.path.exists(path):
    return path
  kept = _CHANGES[kind](
    documents.read(text) if isinstance(text, str) else text, material, sets, seed
  )
  if not isinstance(text, str):
    return list(kept)
  with files.atomic_write(path) as file:
    file.writelines(json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in kept)
  return path


def _without(texts, facts):
  """The texts that name no subject of the facts."""
  search = entities.search_of(
    entities.entities_of([{**fact, "object": fact["subject"], "aliases": []} for fact in facts])
  )
  texts = iter(texts)
  while chunk := list(itertools.islice(texts, 1000)):
    yield from (text for text, named in zip(chunk, entities.naming(chunk, search)) if not named)


def _shuffled(texts, seed):
  """Texts of the same lengths with the same words in all, each word anywhere."""
  texts = [text.split() for text in texts]
  words = np.random.default_rng(seed).permutation(
    np.array([word for text in texts for word in text], object)
  )
  ends = np.cumsum([len(text) for text in texts])
  return (" ".join(words[end - len(text) : end]) for text, end in zip(texts, ends))


# The control texts of mixture finetuning: what does it owe to reading again about the facts under test?
_CHANGES = {
  "without_test": lambda texts, material, sets, seed: _without(
    texts, sets["test"] + sets["development"]
  ),
  "background": lambda texts, material, sets, seed: _without(texts, material.facts),
  "random_words": lambda texts, material, sets, seed: _shuffled(texts, seed),
}
KINDS = ("whole", *_CHANGES)


def _text_source(section, text, facts, tokenizer, cache, name):
  """One text, a list of sentences or a corpus by name, as a source of examples; a corpus is kept tokenised in `cache`."""

  spans = dict(noise_density=section.noise_density, mean_span_length=section.mean_span_length)
  named = isinstance(text, str)
  if section.masking == "salient":
    around = dict(words=section.window_words, per_fact=section.windows_per_fact)
    windows = (
      corpus_cache.salient_windows(text, facts, tokenizer, cache, **around)
      if named
      else corpora.salient_windows(text, facts, tokenizer, **around)
    )
    print(
      f"  {len(windows.offsets) - 1:,} windows of text hold the two ends of {len(set(windows.facts.tolist())):,} facts",
      flush=True,
    )
    return mixture.salient_source(
      windows,
      tokenizer,
      object_share=section.object_share,
      subject_share=section.subject_share,
      name=name,
      **spans,
    )
  corpus = (
    corpus_cache.tokenized(text, tokenizer, cache) if named else corpora.tokenize(text, tokenizer)
  )
  if section.masking == "next_token":
    return decoder_text.text_source(corpus, tokenizer, name=name)
  most = span_corruption.raw_length(
    section.input_length, target_length=section.target_length, roll=section.roll, **spans
  )
  return mixture.span_source(
    corpora.cut(corpus, max(1, most)), tokenizer, roll=section.roll, name=name, **spans
  )

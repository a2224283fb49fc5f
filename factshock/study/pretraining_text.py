"""Texts of a study: their tokenizer, and the pretraining task on them, whole or in part."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from factshock.data import (
  corpora,
  corpus_cache,
  decoder_text,
  example_sources,
  pretrained_tokenizers,
  span_corruption,
  tokenizers,
)
from factshock.facts import documents, entities
from factshock.models import families
from factshock.runtime import files, locks, messages
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir
from factshock.study.config import Config
from factshock.study.study_data import FactSets, StudyData, Text
from factshock.training.settings import PretrainingConfig
from factshock.types import Fact, Tokenizer

_SAMPLE_CHARACTERS = 500_000_000  # of text that a tokenizer is trained on
_SEARCHED_AT_ONCE = 1000  # documents in which entities are searched for together

# Sources of the pretraining task, each with its share of the examples.
WeightedSources: TypeAlias = list[tuple[example_sources.Source, float]]


def tokenizer(
  config: Config,
  data: StudyData,
  folder: str,
) -> Tokenizer:
  """Returns the tokenizer stored in a folder, or the one the config asks for.

  One that is damaged is made again, equal as text and settings are: a workdir keeps to its own.
  A SentencePiece model that is trained here is kept in the folder.
  """
  section = config.tokenizer
  if os.path.exists(os.path.join(folder, "tokenizer.json")):
    try:
      return tokenizers.load(folder)
    except UserError as error:
      messages.say(f"  {error}; the tokenizer is made again")
  if section.kind == "huggingface":
    source = section.path or config.start_from
    pretrained = pretrained_tokenizers.load(source)
    if not families.named(config.model.family).decoder_only:
      pretrained_tokenizers.check_has_sentinels(pretrained, source)
    return pretrained
  if section.kind == "words":
    return tokenizers.word_tokenizer(_vocabulary(data), section.sentinels)
  if section.path:
    return tokenizers.sentencepiece_tokenizer(section.path, section.sentinels)
  os.makedirs(folder, exist_ok=True)
  path = os.path.join(folder, "trained.model")
  lines = _sample(data.texts)
  messages.say(f"  training a SentencePiece model of {section.size} pieces on {len(lines):,} lines")
  return tokenizers.train_sentencepiece(lines, path, section.size, section.sentinels)


def _vocabulary(data: StudyData) -> list[str]:
  """Returns every word of the texts and of the relations' templates, sorted."""
  templates = [
    template for row in data.relations.values() for template in row["statements"] + row["questions"]
  ]
  sentences = itertools.chain(*data.texts, templates)
  words = {word for sentence in sentences for word in sentence.split()}
  return sorted(words - {"[X]", "[Y]"})


def _sample(texts: Sequence[Text]) -> list[str]:
  """Returns documents to train a tokenizer on: the first ones of each text.

  They have at most _SAMPLE_CHARACTERS in all, but for the last document of each text.
  """
  sample: list[str] = []
  for text in texts:
    characters_left = _SAMPLE_CHARACTERS // len(texts)
    for document in _documents(text):
      sample.append(document)
      characters_left -= len(document)
      if characters_left <= 0:
        break
  return sample


def _documents(text: Text) -> Iterable[str]:
  return documents.read(text) if isinstance(text, str) else text


def sources(
  config: Config,
  workdir: Workdir,
  seed: int,
  data: StudyData,
  sets: FactSets,
  tokenizer: Tokenizer,
  kind: str,
) -> WeightedSources:
  """Returns the pretraining task on each text of a study: its source of examples and its share.

  The task is span corruption, salient spans masked, or the next token (config.pretrain.masking).

  Args:
    config: of the experiment.
    workdir: where tokenised corpora and changed texts are kept.
    seed: of the run.
    data: of the study.
    sets: facts of the seed by set; `test` and `development` may be kept out of the text.
    tokenizer: of the study.
    kind: one of KINDS.
  """
  texts = _texts(workdir, seed, data, sets, kind)
  given_weights = () if kind == REPLAY else config.corpus_weights
  weights = given_weights or (1,) * len(texts)
  names = ["corpus", *(f"corpus {count}" for count in range(2, len(texts) + 1))]
  cache = config.corpus_cache or workdir.corpus_cache
  lock_folder = config.corpus_cache or workdir.locks
  section = PretrainingConfig.of(config.pretrain)
  with locks.wait_for_lock(
    os.path.join(lock_folder, "text.claim"), message="  another process prepares the text"
  ):
    return [
      (_text_source(section, text, data.facts, tokenizer, cache, name), weight / sum(weights))
      for text, weight, name in zip(texts, weights, names)
    ]


def _texts(
  workdir: Workdir,
  seed: int,
  data: StudyData,
  sets: FactSets,
  kind: str,
) -> list[Text]:
  """Returns the texts of a kind: those of the study, whole or changed, or the model's own."""
  if kind == REPLAY:
    return [workdir.text(seed, kind, 0)]
  return [
    _of_kind(text, kind, workdir.text(seed, kind, index), data, sets, seed)
    for index, text in enumerate(data.texts)
  ]


def _of_kind(
  text: Text,
  kind: str,
  path: str,
  data: StudyData,
  sets: FactSets,
  seed: int,
) -> Text:
  """Returns a text of which some documents are left out, or whose words are shuffled.

  That of a corpus is written to `path`, beside the facts of the seed, once.
  """
  if kind == "whole":
    return text
  change = _CHANGES[kind]
  if not isinstance(text, str):
    return list(change(text, data, sets, seed))
  if os.path.exists(path):
    return path
  with files.atomic_write(path) as file:
    for document in change(documents.read(text), data, sets, seed):
      file.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
  return path


def _without_subjects(texts: Iterable[str], facts: Sequence[Fact]) -> Iterator[str]:
  """Yields the texts that name no subject of the facts."""
  subjects_alone: list[Fact] = [
    {**fact, "object": fact["subject"], "aliases": []} for fact in facts
  ]
  search = entities.search_of(entities.entities_of(subjects_alone))
  texts = iter(texts)
  while chunk := list(itertools.islice(texts, _SEARCHED_AT_ONCE)):
    for text, names_subject in zip(chunk, entities.naming(chunk, search)):
      if not names_subject:
        yield text


def _shuffled(texts: Iterable[str], seed: int) -> Iterator[str]:
  """Yields texts of the same lengths with the same words in all, each word anywhere."""
  split_texts = [text.split() for text in texts]
  words = [word for text in split_texts for word in text]
  shuffled = np.random.default_rng(seed).permutation(np.array(words, object))
  begin = 0
  for text in split_texts:
    yield " ".join(shuffled[begin : begin + len(text)])
    begin += len(text)


def _without_test(
  texts: Iterable[str],
  data: StudyData,
  sets: FactSets,
  seed: int,
) -> Iterator[str]:
  return _without_subjects(texts, sets["test"] + sets["development"])


def _background(
  texts: Iterable[str],
  data: StudyData,
  sets: FactSets,
  seed: int,
) -> Iterator[str]:
  return _without_subjects(texts, data.facts)


def _random_words(
  texts: Iterable[str],
  data: StudyData,
  sets: FactSets,
  seed: int,
) -> Iterator[str]:
  return _shuffled(texts, seed)


# The control texts of mixture finetuning: what does it owe to reading again about the tested facts?
_Change: TypeAlias = Callable[[Iterable[str], StudyData, FactSets, int], Iterator[str]]
_CHANGES: Mapping[str, _Change] = {
  "without_test": _without_test,
  "background": _background,
  "random_words": _random_words,
}
# Text that the model wrote itself (study/replay.py), which needs no corpus.
REPLAY = "replay"
KINDS = ("whole", *_CHANGES, REPLAY)


def _text_source(
  section: PretrainingConfig,
  text: Text,
  facts: Sequence[Fact],
  tokenizer: Tokenizer,
  cache: str,
  name: str,
) -> example_sources.Source:
  """Returns one text as a source of examples; a corpus is kept tokenised in the folder `cache`."""
  if section.masking == "salient":
    return _salient_source(section, text, facts, tokenizer, cache, name)
  if isinstance(text, str):
    corpus = corpus_cache.tokenized(text, tokenizer, cache)
  else:
    corpus = corpora.tokenize(text, tokenizer)
  if section.masking == "next_token":
    return decoder_text.text_source(corpus, tokenizer, name=name)
  noise = span_corruption.Noise(section.noise_density, section.mean_span_length, section.roll)
  most_tokens = span_corruption.raw_length(section.input_length, noise, section.target_length)
  return example_sources.span_source(
    corpora.cut(corpus, max(1, most_tokens)),
    tokenizer,
    noise=noise,
    name=name,
  )


def _salient_source(
  section: PretrainingConfig,
  text: Text,
  facts: Sequence[Fact],
  tokenizer: Tokenizer,
  cache: str,
  name: str,
) -> example_sources.Source:
  """Returns a source of windows of text in which the two ends of a fact are masked."""
  sizes = dict(words=section.window_words, per_fact=section.windows_per_fact)
  if isinstance(text, str):
    windows = corpus_cache.salient_windows(text, facts, tokenizer, cache, **sizes)
  else:
    windows = corpora.salient_windows(text, facts, tokenizer, **sizes)
  window_count = len(windows.offsets) - 1
  fact_count = len(set(windows.facts.tolist()))
  messages.say(f"  {window_count:,} windows of text hold the two ends of {fact_count:,} facts")
  return example_sources.salient_source(
    windows,
    tokenizer,
    object_share=section.object_share,
    subject_share=section.subject_share,
    noise=span_corruption.Noise(section.noise_density, section.mean_span_length),
    name=name,
  )

"""Tokenised caches: the same corpus as in memory, resumed after an interruption, made once; and
data sets as corpora.
"""

import json
import os
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest

from factshock.data import (
  corpora,
  corpus_cache,
  example_sources,
  mixture,
  span_corruption,
  tokenizers,
)
from factshock.facts import corpus_shards, documents, hub
from factshock.runtime.errors import UserError

TOKENIZER = tokenizers.word_tokenizer("a b c d e f g".split(), 4)
FACTS = [
  {"subject": "a", "relation": "r", "object": "g"},
  {"subject": "b", "relation": "r", "object": "f"},
]


def lines(count=300):
  random = np.random.default_rng(0)
  return [" ".join(random.choice(list("abcdefg"), random.integers(1, 9))) for _ in range(count)]


def same(corpus, expected):
  np.testing.assert_array_equal(corpus.tokens, expected.tokens)
  np.testing.assert_array_equal(corpus.offsets, expected.offsets)


@pytest.fixture
def text(tmp_path, monkeypatch):
  """A pattern of three files, in some ten parts, read by one process."""
  monkeypatch.setattr("os.cpu_count", lambda: 1)
  monkeypatch.setattr(documents, "PART_BYTES", 200)
  for number in range(3):
    (tmp_path / f"{number}.txt").write_text(
      "\n".join(lines()[100 * number : 100 * number + 100]) + "\n"
    )
  assert len(documents.parts(str(tmp_path / "*.txt"))) > 10
  return str(tmp_path / "*.txt")


def test_a_cache_holds_what_memory_would(text, tmp_path, monkeypatch, capsys):
  expected = corpora.tokenize(lines(), TOKENIZER)
  corpus = corpus_cache.tokenized(text, TOKENIZER, str(tmp_path / "cache"))
  same(corpus, expected)
  assert isinstance(corpus.tokens, np.memmap) and corpus.tokens.dtype == np.uint16
  monkeypatch.setattr(corpora, "tokenize_part", None)  # made once
  same(corpus_cache.tokenized(text, TOKENIZER, str(tmp_path / "cache")), expected)
  homes = list((tmp_path / "cache").iterdir())
  assert (
    len(homes) == 1 and f"{len(expected.tokens):,} tokens: {homes[0]}" in capsys.readouterr().out
  )
  assert json.loads((homes[0] / "corpus.json").read_text())["sequences"] == 300


def test_several_processes_make_the_same_cache(text, tmp_path, monkeypatch):
  monkeypatch.setattr("os.cpu_count", lambda: 2)
  import jax  # noqa: F401  as in an experiment: workers are then not forked

  same(
    corpus_cache.tokenized(text, TOKENIZER, str(tmp_path / "cache")),
    corpora.tokenize(lines(), TOKENIZER),
  )


def test_batches_of_a_cache_are_those_of_memory(text, tmp_path):
  source = lambda corpus: example_sources.span_source(
    corpora.cut(corpus, 5), TOKENIZER, noise=span_corruption.Noise(roll=True)
  )
  batches = [
    mixture.batches([source(corpus)], [1], batch_size=8, input_length=12, target_length=12, seed=3)
    for corpus in (
      corpora.tokenize(lines(), TOKENIZER),
      corpus_cache.tokenized(text, TOKENIZER, str(tmp_path / "cache")),
    )
  ]
  for _ in range(5):
    one, other = next(batches[0]), next(batches[1])
    assert {name: array.tolist() for name, array in one.items()} == {
      name: array.tolist() for name, array in other.items()
    }


def test_other_text_or_another_tokenizer_is_another_cache(text, tmp_path):
  cache = str(tmp_path / "cache")
  corpus_cache.tokenized(text, TOKENIZER, cache)
  corpus_cache.tokenized(text, tokenizers.word_tokenizer("a b c".split(), 4), cache)
  with open(tmp_path / "0.txt", "a") as file:
    file.write("a b c\n")
  assert len(corpus_cache.tokenized(text, TOKENIZER, cache).offsets) == 302
  assert len(list((tmp_path / "cache").iterdir())) == 3


def test_an_interrupted_cache_goes_on(text, tmp_path, monkeypatch, capsys):
  original, seen = corpora.tokenize_part, []

  def stops(texts, tokenizer):
    if len(seen) == 3:
      raise KeyboardInterrupt
    seen.append(1)
    return original(texts, tokenizer)

  monkeypatch.setattr(corpora, "tokenize_part", stops)
  with pytest.raises(KeyboardInterrupt):
    corpus_cache.tokenized(text, TOKENIZER, str(tmp_path / "cache"))
  monkeypatch.setattr(corpora, "tokenize_part", original)
  same(
    corpus_cache.tokenized(text, TOKENIZER, str(tmp_path / "cache")),
    corpora.tokenize(lines(), TOKENIZER),
  )
  assert "3 of them done before" in capsys.readouterr().out
  assert not list((tmp_path / "cache").glob("*.parts"))


def test_windows_of_parts_are_those_of_the_whole(text, tmp_path, monkeypatch):
  cache, around = str(tmp_path / "cache"), dict(words=4, per_fact=20)
  found = corpus_cache.salient_windows(text, FACTS, TOKENIZER, cache, **around)
  expected = corpora.salient_windows(lines(), FACTS, TOKENIZER, **around)
  for name in expected._fields:
    kept = [np.asarray(getattr(windows, name)) for windows in (found, expected)]
    assert len(kept[0]) and kept[0].shape == kept[1].shape
  by_fact = [
    sorted(
      (fact, windows.tokens[a:b].tolist())
      for fact, a, b in zip(windows.facts.tolist(), windows.offsets, windows.offsets[1:])
    )
    for windows in (found, expected)
  ]
  assert by_fact[0] == by_fact[1]
  with monkeypatch.context() as patched:
    patched.setattr(corpora, "windows_part", None)
    assert (
      corpus_cache.salient_windows(text, FACTS, TOKENIZER, cache, **around).facts.tolist()
      == found.facts.tolist()
    )
  with pytest.raises(UserError, match="no text names"):
    corpus_cache.salient_windows(
      text, [{"subject": "x", "relation": "r", "object": "y"}], TOKENIZER, cache, **around
    )


def test_a_data_set_of_the_hub_is_a_corpus(tmp_path, monkeypatch):
  import datasets

  asked = []

  def load(name, config, split, **more):
    asked.append((name, config, split, more))
    return datasets.Dataset.from_dict({"body": lines(120), "text": ["x"] * 120})

  hub.open_hub.cache_clear()
  monkeypatch.setattr(datasets, "load_dataset", load)
  monkeypatch.setattr(documents, "PART_ROWS", 50)
  spec = "hub:allenai/c4?config=en&split=train&data_files=en/c4-train.0000*.json.gz&column=body"
  assert [(part.begin, part.end) for part in documents.parts(spec)] == [
    (0, 50),
    (50, 100),
    (100, 120),
  ]
  assert list(documents.read(spec)) == lines(120)
  assert asked == [("allenai/c4", "en", "train", {"data_files": "en/c4-train.0000*.json.gz"})]
  monkeypatch.setattr("os.cpu_count", lambda: 1)
  same(
    corpus_cache.tokenized(spec, TOKENIZER, str(tmp_path)), corpora.tokenize(lines(120), TOKENIZER)
  )
  with pytest.raises(
    UserError, match="expected text in a column text or sentence, got the columns body, text"
  ):
    list(documents.read("hub:allenai/c4?column=words"))
  with pytest.raises(
    UserError, match="expected hub:NAME.*with keys of split, config, data_files, column"
  ):
    documents.parts("hub:allenai/c4?name=en")
  hub.open_hub.cache_clear()


def test_a_tfds_data_set_is_a_corpus(monkeypatch):
  rows = [{"text": line.encode()} for line in lines(7)]
  monkeypatch.setitem(
    sys.modules, "tensorflow_datasets", types.SimpleNamespace(data_source=lambda name, split: rows)
  )
  hub.open_tfds.cache_clear()
  assert list(documents.read("tfds:c4/en?split=validation")) == lines(7)
  hub.open_tfds.cache_clear()


def test_several_corpora_are_named_by_commas(tmp_path):
  (tmp_path / "a.txt").write_text("one\n")
  (tmp_path / "b.jsonl").write_text('{"text": "two"}\n')
  both = f"{tmp_path}/a.txt, {tmp_path}/b.jsonl"
  assert list(documents.read(both)) == ["one", "two"] and len(documents.corpora(both)) == 2


def flip(path, bit):
  data = bytearray(path.read_bytes())
  data[bit // 8 % len(data)] ^= 1 << bit % 8
  path.write_bytes(data)


@pytest.fixture
def small(tmp_path, monkeypatch):
  """A pattern of one small file in three parts, and the folder of its cache."""
  monkeypatch.setattr("os.cpu_count", lambda: 1)
  monkeypatch.setattr(documents, "PART_BYTES", 100)
  (tmp_path / "a.txt").write_text("\n".join(lines(40)) + "\n")
  return str(tmp_path / "a.txt"), str(tmp_path / "cache")


def home_of(cache):
  (home,) = pathlib.Path(cache).iterdir()
  return home


def test_each_flipped_bit_of_a_cache_is_noticed_and_it_is_made_again(small, capsys):
  pattern, cache = small
  expected = corpora.tokenize(lines(40), TOKENIZER)
  corpus_cache.tokenized(pattern, TOKENIZER, cache)
  random = np.random.default_rng(0)
  for name in ("tokens.npy", "offsets.npy", "corpus.json"):
    for _ in range(30):
      path = home_of(cache) / name
      flip(path, int(random.integers(0, 8 * path.stat().st_size)))
      capsys.readouterr()
      same(corpus_cache.tokenized(pattern, TOKENIZER, cache), expected)
      assert "made again" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tokens.npy", "offsets.npy", "corpus.json"])
@pytest.mark.parametrize("has_digests", [True, False])
@pytest.mark.parametrize("damage", ["cut", "empty", "lost", "other"])
def test_a_cache_with_a_broken_file_is_made_again(small, name, has_digests, damage):
  pattern, cache = small
  expected = corpora.tokenize(lines(40), TOKENIZER)
  corpus_cache.tokenized(pattern, TOKENIZER, cache)
  if not has_digests:  # as they were once
    record = json.loads((home_of(cache) / "corpus.json").read_text())
    del record["digests"], record["file_digest"]
    (home_of(cache) / "corpus.json").write_text(json.dumps(record))
    same(corpus_cache.tokenized(pattern, TOKENIZER, cache), expected)
  path = home_of(cache) / name
  content = path.read_bytes()
  path.unlink()
  if damage != "lost":
    path.write_bytes({"cut": content[:-9], "empty": b"", "other": b"[1]"}[damage])
  same(corpus_cache.tokenized(pattern, TOKENIZER, cache), expected)


def test_damaged_windows_are_found_again(small, capsys):
  pattern, cache = small
  sizes = dict(words=4, per_fact=20)
  expected = corpus_cache.salient_windows(pattern, FACTS, TOKENIZER, cache, **sizes)
  random = np.random.default_rng(0)
  for _ in range(20):
    path = home_of(cache) / "windows.npz"
    flip(path, int(random.integers(0, 8 * path.stat().st_size)))
    capsys.readouterr()
    found = corpus_cache.salient_windows(pattern, FACTS, TOKENIZER, cache, **sizes)
    for array, other in zip(found, expected):
      np.testing.assert_array_equal(array, other)
    assert "made again" in capsys.readouterr().out


def test_damaged_parts_of_an_interrupted_cache_are_done_again(small, monkeypatch):
  pattern, cache = small
  expected = corpora.tokenize(lines(40), TOKENIZER)
  with monkeypatch.context() as patched:
    patched.setattr(corpus_cache, "_write_tokens", None)
    with pytest.raises(TypeError):
      corpus_cache.tokenized(pattern, TOKENIZER, cache)
  (parts,) = pathlib.Path(cache).glob("*.parts")
  kept = pathlib.Path(cache).parent / "kept"
  shutil.copytree(parts, kept)
  random = np.random.default_rng(0)
  for _ in range(40):
    shutil.rmtree(cache)
    shutil.copytree(kept, parts)
    path = parts / f"{int(random.integers(0, 2)):05d}.npz"
    flip(path, int(random.integers(0, 8 * path.stat().st_size)))
    same(corpus_cache.tokenized(pattern, TOKENIZER, cache), expected)


@pytest.mark.parametrize("name", ["corpus.json", "tokens.npy", "offsets.npy"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "zeros", "lost"])
def test_a_cache_with_something_else_in_a_files_place_is_made_again(text, tmp_path, name, kind):
  expected = corpora.tokenize(lines(), TOKENIZER)
  corpus_cache.tokenized(text, TOKENIZER, str(tmp_path / "cache"))
  (home,) = (tmp_path / "cache").iterdir()
  replace(home / name, kind)
  same(corpus_cache.tokenized(text, TOKENIZER, str(tmp_path / "cache")), expected)
  assert (home / name).is_file()


@pytest.mark.parametrize("kind", ["pipe", "folder", "zeros", "lost"])
def test_parts_of_which_the_digest_is_gone_are_done_anew(text, tmp_path, kind):
  expected = corpora.tokenize(lines(), TOKENIZER)
  key = [documents.parts(text), TOKENIZER.digest, corpora.tokenize_part, lambda: TOKENIZER]
  folder = tmp_path / "parts"
  run = lambda: list(corpus_shards.results(key[0], str(folder), *key[1:], "tokenizing"))
  run()
  replace(folder / "digest.txt", kind)
  assert sum(len(part["tokens"]) for part in run()) == len(expected.tokens)


def replace(path, kind):
  """Puts a pipe, a folder, zeros or nothing in the place of a file."""
  size = path.stat().st_size
  path.unlink()
  if kind == "pipe":
    os.mkfifo(path)
  elif kind == "folder":
    path.mkdir()
  elif kind == "zeros":
    path.write_bytes(bytes(size))

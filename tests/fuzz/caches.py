"""Fuzzer of the caches of tokenised corpora: tokens, windows, and parts of a cache half made.

Whatever became of a cache's files, what comes of it is what the corpus gives anew.
"""

import contextlib
import functools
import io
import pathlib
import random
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from factshock.data import corpora, corpus_cache, tokenizers
from factshock.facts import corpus_shards, documents
from factshock.types import Fact
from fuzz import models
from fuzz.frame import Case, Fuzzer, Make

WORDS = "Ada Byron was born in Bath Grace Hopper and wrote of engines".split()
TOKENIZER = tokenizers.word_tokenizer(WORDS, 4)
FACTS: list[Fact] = [
  {"subject": "Ada", "relation": "born_in", "object": "Bath"},
  {"subject": "Grace", "relation": "wrote", "object": "engines"},
]

Arrays = dict[str, np.ndarray]


class Cache(NamedTuple):
  """A valid cache: where it is, how it is read, and what it holds."""

  folder: pathlib.Path
  read: Callable[[pathlib.Path], Arrays]
  arrays: Arrays


def caches(folder: pathlib.Path) -> Make:
  """Returns the maker of caches in which a file is changed, zeroed or lost."""
  rng = np.random.default_rng(0)
  text = folder / "text.txt"
  text.write_text("".join(" ".join(rng.choice(WORDS, 12)) + "\n" for _ in range(40)))
  tokens = functools.partial(_tokens, str(text))
  windows = functools.partial(_windows, str(text))
  made = [
    Cache(folder / "tokens", tokens, _of(corpora.tokenize(documents.read(str(text)), TOKENIZER))),
    Cache(folder / "windows", windows, windows(folder / "windows")),
  ]
  tokens(folder / "tokens")
  made.append(Cache(_half_made(text, made[0].folder, folder / "parts"), tokens, made[0].arrays))

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    cache = rng.choice(made)
    shutil.copytree(cache.folder, own / "cache")
    files = sorted(path for path in (own / "cache").rglob("*") if path.is_file())
    for path in rng.sample(files, min(len(files), rng.choice((1, 1, 2)))):
      _change(rng, path)

    def wrong(got: tuple[Arrays, Arrays]) -> str | None:
      return models.differing(got[0], cache.arrays) or models.differing(got[1], cache.arrays)

    # Again too: what was made again is whole.
    return Case(lambda: (cache.read(own / "cache"), cache.read(own / "cache")), wrong)

  return make


def _change(rng: random.Random, path: pathlib.Path) -> None:
  if rng.random() < 0.1:
    path.write_bytes(bytes(path.stat().st_size))
  else:
    models.change(rng, path)


def _half_made(text: pathlib.Path, whole: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
  """Makes what an interrupted run leaves of the cache that is whole in another folder."""
  (home,) = whole.iterdir()
  parts = corpus_shards.results(
    documents.parts(str(text)),
    str(target / f"{home.name}.parts"),
    TOKENIZER.digest,
    corpora.tokenize_part,
    lambda: TOKENIZER,
    "tokenizing",
  )
  with contextlib.redirect_stdout(io.StringIO()):
    list(parts)
  return target


def _tokens(text: str, folder: pathlib.Path) -> Arrays:
  with contextlib.redirect_stdout(io.StringIO()):
    return _of(corpus_cache.tokenized(text, TOKENIZER, folder))


def _windows(text: str, folder: pathlib.Path) -> Arrays:
  with contextlib.redirect_stdout(io.StringIO()):
    return _of(corpus_cache.salient_windows(text, FACTS, TOKENIZER, folder, words=6, per_fact=9))


def _of(arrays: Any) -> Arrays:
  """Returns the arrays of a named tuple by name."""
  return {name: np.array(array) for name, array in arrays._asdict().items()}


FUZZERS: dict[str, Fuzzer] = {"caches": caches}

"""Corpora tokenised once into files that are mapped into memory, and the windows found in them.

The work can be resumed. A cache is a folder named by a digest of what it was made of: the corpus
(its files' sizes and times of change), the tokenizer and the settings. It holds tokens.npy and
offsets.npy (corpora.Corpus) or windows.npz, and corpus.json, which says what it is.
"""

import functools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from factshock.data import corpora
from factshock.data.corpora import Corpus, SalientWindows
from factshock.facts import corpus_shards, documents
from factshock.facts.documents import Part
from factshock.runtime import files
from factshock.types import Fact, FilePath, Tokenizer


def tokenized(
  pattern: str,
  tokenizer: Tokenizer,
  folder: FilePath,
) -> Corpus:
  """Returns a corpus of documents, mapped from its cache, which is made if need be.

  Args:
    pattern: the documents, as facts/documents.py reads them.
    tokenizer: what tokenises them.
    folder: where caches are kept.

  Raises:
    UserError: files that cannot be read; what was tokenised is kept and not done again.
  """
  plan = documents.parts(pattern)
  home = _home(folder, pattern, plan, f"tokens {tokenizer.digest}")
  if not _is_made(home):
    _tokenize_all(pattern, plan, tokenizer, home)
  corpus = Corpus(
    np.load(os.path.join(home, "tokens.npy"), mmap_mode="r"),
    np.load(os.path.join(home, "offsets.npy"), mmap_mode="r"),
  )
  sequences = len(corpus.offsets) - 1
  print(f"  {sequences:,} sequences, {len(corpus.tokens):,} tokens: {home}", flush=True)
  return corpus


def _tokenize_all(
  pattern: str,
  plan: Sequence[Part],
  tokenizer: Tokenizer,
  home: str,
) -> None:
  """Makes the cache of a corpus."""

  def tokenized_parts() -> Iterator[Mapping[str, np.ndarray]]:
    return corpus_shards.results(
      plan,
      f"{home}.parts",
      tokenizer.digest,
      corpora.tokenize_part,
      functools.partial(_identity, tokenizer),
      "tokenizing",
    )

  lengths: list[np.ndarray] = []
  left_out = 0
  # Lengths first: the tokens of all parts are more than memory may hold.
  for part in tokenized_parts():
    lengths.append(part["lengths"])
    left_out += int(part["left_out"])
  corpora.print_left_out(left_out)
  ends = corpora.offsets(np.concatenate(lengths))
  token_count = int(ends[-1])
  with files.atomic_write(os.path.join(home, "offsets.npy"), binary=True) as file:
    np.save(file, ends)
  dtype = np.dtype(corpora.token_type(tokenizer))
  _write_tokens(os.path.join(home, "tokens.npy"), tokenized_parts(), dtype, token_count)
  record: dict[str, str | int] = {
    "corpus": pattern,
    "sequences": len(ends) - 1,
    "tokens": token_count,
    "left_out": left_out,
  }
  _finish(home, record)


def _write_tokens(
  path: str,
  parts: Iterator[Mapping[str, np.ndarray]],
  dtype: np.dtype[Any],
  token_count: int,
) -> None:
  """Writes the tokens of all parts into one file, a part at a time."""
  header = {
    "descr": dtype.str,
    "fortran_order": False,
    "shape": (token_count,),
  }
  with files.atomic_write(path, binary=True) as file:
    np.lib.format.write_array_header_1_0(file, header)
    for part in parts:
      file.write(part["tokens"].tobytes())


def salient_windows(
  pattern: str,
  facts: Sequence[Fact],
  tokenizer: Tokenizer,
  folder: FilePath,
  *,
  words: int,
  per_fact: int,
) -> SalientWindows:
  """Returns the corpora.salient_windows of a corpus, from its cache, which is made if need be.

  Args:
    pattern: the documents, as facts/documents.py reads them.
    facts: what is looked for.
    tokenizer: of the windows.
    folder: where caches are kept.
    words: the most words of a window.
    per_fact: the most windows of a fact.

  Raises:
    UserError: files that cannot be read, or none that names a fact's subject and object.
  """
  names = [[fact["subject"], fact["object"], *fact.get("aliases", ())] for fact in facts]
  key = json.dumps(["windows", tokenizer.digest, words, per_fact, names])
  plan = documents.parts(pattern)
  home = _home(folder, pattern, plan, key)
  if not _is_made(home):
    window_parts = corpus_shards.results(
      plan,
      f"{home}.parts",
      key,
      corpora.windows_part,
      functools.partial(corpora.prepare_windows, facts, tokenizer, words, per_fact),
      "finding facts in text",
    )
    # Each part is read in full before it is closed.
    windows = corpora.join_windows(map(dict, window_parts), facts, per_fact)
    _write_windows(home, pattern, windows)
  return _read_windows(home)


def _write_windows(
  home: str,
  pattern: str,
  windows: SalientWindows,
) -> None:
  with files.atomic_write(os.path.join(home, "windows.npz"), binary=True) as file:
    np.savez(file, **windows._asdict())
  record: dict[str, str | int] = {
    "corpus": pattern,
    "windows": len(windows.facts),
    "facts": len(np.unique(windows.facts)),
  }
  _finish(home, record)


def _read_windows(home: str) -> SalientWindows:
  with np.load(os.path.join(home, "windows.npz")) as arrays:
    return SalientWindows(*(arrays[name] for name in SalientWindows._fields))


def _identity(tokenizer: Tokenizer) -> Tokenizer:
  # A function of the module, as other processes have to find it.
  return tokenizer


def _home(
  folder: FilePath,
  pattern: str,
  plan: Sequence[Part],
  key: str,
) -> str:
  """Returns the folder of a cache."""
  return os.path.join(folder, corpus_shards.identity(plan, [pattern, key])[:16])


def _is_made(home: str) -> bool:
  return os.path.exists(os.path.join(home, "corpus.json"))


def _finish(home: str, record: Mapping[str, str | int]) -> None:
  """Marks a cache as whole, and removes the parts it was made of."""
  with files.atomic_write(os.path.join(home, "corpus.json")) as file:
    json.dump(record, file, indent=1)
  shutil.rmtree(f"{home}.parts")

"""Corpora tokenised once into files that are mapped into memory, and the windows found in them.

The work can be resumed. A cache is a folder named by a digest of what it was made of: the corpus
(its files' sizes and times of change), the tokenizer and the settings. It holds tokens.npy and
offsets.npy (corpora.Corpus) or windows.npz, and corpus.json, which says what it is, with a digest
of each file and of itself. One that is damaged is made again.
"""

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from factshock.data import corpora
from factshock.data.corpora import Corpus, SalientWindows
from factshock.facts import corpus_shards, documents
from factshock.facts.documents import Part
from factshock.runtime import digests, files, json_files, messages, processes
from factshock.types import Fact, FilePath, Tokenizer

_RECORD = "corpus.json"
_KEYS = ("corpus", "sequences", "tokens", "windows", "facts", "digests")

T = TypeVar("T")


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
  home = _home(folder, pattern, plan, f"tokens of plain text {tokenizer.digest}")
  corpus = _read_whole(home, _map_corpus)
  if corpus is None:
    _tokenize_all(pattern, plan, tokenizer, home)
    corpus = _map_corpus(home)
  sequences = len(corpus.offsets) - 1
  messages.say(f"  {sequences:,} sequences, {len(corpus.tokens):,} tokens: {home}")
  return corpus


def _map_corpus(home: str) -> Corpus:
  tokens = np.load(os.path.join(home, "tokens.npy"), mmap_mode="r")
  ends = np.load(os.path.join(home, "offsets.npy"), mmap_mode="r")
  return Corpus(tokens, _checked_offsets(ends, tokens))


def _checked_offsets(ends: np.ndarray, tokens: np.ndarray) -> np.ndarray:
  """Returns the offsets of sequences of tokens; raises a ValueError where they cannot be."""
  whole = (
    tokens.ndim == 1
    and tokens.dtype.kind in "iu"
    and ends.dtype == np.int64
    and ends.ndim == 1
    and len(ends) > 0
    and ends[0] == 0
    and ends[-1] == len(tokens)
    and bool(np.all(ends[1:] >= ends[:-1]))
  )
  if not whole:
    raise ValueError("offsets that are not those of its tokens")
  return ends


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
  # Lengths first: the tokens of all parts are more than memory may hold.
  for part in tokenized_parts():
    lengths.append(part["lengths"])
  ends = corpora.offsets(np.concatenate(lengths))
  token_count = int(ends[-1])
  with files.atomic_write(os.path.join(home, "offsets.npy"), binary=True) as file:
    np.save(file, ends)
  dtype = np.dtype(corpora.token_type(tokenizer))
  _write_tokens(os.path.join(home, "tokens.npy"), tokenized_parts(), dtype, token_count)
  record: dict[str, Any] = {
    "corpus": pattern,
    "sequences": len(ends) - 1,
    "tokens": token_count,
  }
  _finish(home, record, ["tokens.npy", "offsets.npy"])


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
  key = json.dumps(["windows of plain text", tokenizer.digest, words, per_fact, names])
  plan = documents.parts(pattern)
  home = _home(folder, pattern, plan, key)
  windows = _read_whole(home, _read_windows)
  if windows is None:
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
  return windows


def _write_windows(
  home: str,
  pattern: str,
  windows: SalientWindows,
) -> None:
  with files.atomic_write(os.path.join(home, "windows.npz"), binary=True) as file:
    np.savez(file, **windows._asdict())
  record: dict[str, Any] = {
    "corpus": pattern,
    "windows": len(windows.facts),
    "facts": len(np.unique(windows.facts)),
  }
  _finish(home, record, ["windows.npz"])


def _read_windows(home: str) -> SalientWindows:
  with np.load(os.path.join(home, "windows.npz")) as arrays:
    windows = SalientWindows(*(arrays[name] for name in SalientWindows._fields))
  _checked_offsets(windows.offsets, windows.tokens)
  return windows


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


def _read_whole(home: str, read: Callable[[str], T]) -> T | None:
  """Returns what `read` gives of a cache; None where it is not made, or is damaged and removed."""
  path = os.path.join(home, _RECORD)
  if not os.path.exists(path):
    return None
  try:
    _check_digests(home, json_files.read_sealed(path, _KEYS))
    return read(home)
  except corpus_shards.DAMAGE as error:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    messages.say(f"  {home}: damaged ({reason}), made again")
    if processes.is_first():
      shutil.rmtree(home)
    return None


def _check_digests(home: str, record: Mapping[str, Any]) -> None:
  """Checks the files of a cache; one that was made before there were digests has none.

  Raises:
    ValueError: a file is not what was written.
    OSError: a file cannot be read.
  """
  for name, digest in record.get("digests", {}).items():
    if digests.of_file(os.path.join(home, name)) != digest:
      raise ValueError(f"{name}: its digest is not the one of {_RECORD}")


def _finish(home: str, record: Mapping[str, Any], names: Sequence[str]) -> None:
  """Marks a cache as whole, and removes the parts it was made of.

  Args:
    home: the cache.
    record: what it is.
    names: of its files, whose digests are recorded.
  """
  # Only the first process writes; the others take its word.
  if processes.is_first():
    of_files = {name: digests.of_file(os.path.join(home, name)) for name in names}
    json_files.write_sealed(os.path.join(home, _RECORD), {**record, "digests": of_files})
  shutil.rmtree(f"{home}.parts", ignore_errors=True)

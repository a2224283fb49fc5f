"""Corpora tokenised once into files that are mapped into memory, and the windows found in them; work that can be resumed.

A cache is a folder named by a digest of what it was made of: the corpus (its files' sizes and times of change), the tokenizer and
the settings. It holds tokens.npy and offsets.npy (corpora.Corpus) or windows.npz, and corpus.json, which says what it is.
"""

import functools
import json
import os
import shutil

import numpy as np

from factshock.data import corpora
from factshock.facts import corpus_shards, documents
from factshock.runtime import files


def tokenized(pattern, tokenizer, folder):
  """The Corpus of the documents of a corpus (facts/documents.py), mapped from its cache in `folder`, made there if need be.

  Raises:
    UserError: files that cannot be read; what was tokenised is kept and not done again.
  """
  plan = documents.parts(pattern)
  home = _home(folder, pattern, plan, f"tokens {tokenizer.digest}")
  if not _is_made(home):
    made = lambda: corpus_shards.results(
      plan,
      f"{home}.parts",
      tokenizer.digest,
      corpora.tokenize_part,
      functools.partial(_same, tokenizer),
      "tokenizing",
    )
    sizes = []
    left_out = 0
    for part in made():  # lengths first: the tokens of all parts are more than memory may hold
      sizes.append(part["lengths"])
      left_out += int(part["left_out"])
    corpora.say_left_out(left_out)
    ends = corpora.offsets(np.concatenate(sizes))
    with files.atomic_write(os.path.join(home, "offsets.npy"), binary=True) as file:
      np.save(file, ends)
    with files.atomic_write(os.path.join(home, "tokens.npy"), binary=True) as file:
      dtype = np.dtype(corpora.token_type(tokenizer))
      np.lib.format.write_array_header_1_0(
        file, {"descr": dtype.str, "fortran_order": False, "shape": (int(ends[-1]),)}
      )
      for part in made():
        file.write(part["tokens"].tobytes())
    _finish(
      home,
      {
        "corpus": pattern,
        "sequences": len(ends) - 1,
        "tokens": int(ends[-1]),
        "left_out": left_out,
      },
    )
  corpus = corpora.Corpus(
    *(np.load(os.path.join(home, f"{name}.npy"), mmap_mode="r") for name in ("tokens", "offsets"))
  )
  print(
    f"  {len(corpus.offsets) - 1:,} sequences, {len(corpus.tokens):,} tokens: {home}", flush=True
  )
  return corpus


def salient_windows(pattern, facts, tokenizer, folder, *, words, per_fact):
  """The corpora.salient_windows of a corpus, read from its cache in `folder`, made there if need be.

  Raises:
    UserError: files that cannot be read, or none that names a fact's subject and object.
  """
  names = [[fact["subject"], fact["object"], *fact.get("aliases", ())] for fact in facts]
  key = json.dumps(["windows", tokenizer.digest, words, per_fact, names])
  plan = documents.parts(pattern)
  home = _home(folder, pattern, plan, key)
  path = os.path.join(home, "windows.npz")
  if not _is_made(home):
    found = corpora.join_windows(
      map(
        dict,
        corpus_shards.results(
          plan,
          f"{home}.parts",
          key,
          corpora.windows_part,
          functools.partial(corpora.prepare_windows, facts, tokenizer, words, per_fact),
          "finding facts in text",
        ),
      ),
      facts,
      per_fact,
    )
    with files.atomic_write(path, binary=True) as file:
      np.savez(file, **found._asdict())
    _finish(
      home, {"corpus": pattern, "windows": len(found.facts), "facts": len(np.unique(found.facts))}
    )
  with np.load(path) as arrays:
    return corpora.SalientWindows(*(arrays[name] for name in corpora.SalientWindows._fields))


def _same(tokenizer):
  return tokenizer


def _home(folder, pattern, plan, key):
  return os.path.join(folder, corpus_shards.identity(plan, [pattern, key])[:16])


def _is_made(home):
  return os.path.exists(os.path.join(home, "corpus.json"))


def _finish(home, record):
  """Says that a cache is whole, and removes the parts it was made of."""
  with files.atomic_write(os.path.join(home, "corpus.json")) as file:
    json.dump(record, file, indent=1)
  shutil.rmtree(f"{home}.parts")

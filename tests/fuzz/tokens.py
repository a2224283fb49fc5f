"""Fuzzers of tokenizers: our own and HuggingFace's, with digests and without.

With digests only what was saved may be read. Without (files of others, or of which the digest is
gone) it must be what the changed files say: as transformers reads them, or plain JSON.
"""

import json
import pathlib
import random
import shutil
from typing import Any, NamedTuple

import hf_tokenizers
import transformers

from factshock.data import pretrained_tokenizers, tokenizer_files, tokenizers
from factshock.types import Tokenizer
from fuzz import models
from fuzz.frame import Case, Fuzzer, Make

LINES = (
  "Ada Byron was born in London .",
  "  Zürich, 東京 and\n\nRome: 0123456789\t",
  "the quick brown fox",
)
_OTHERS = 3  # ids before those of words: padding, end, unknown


class Read(NamedTuple):
  """What a tokenizer made of LINES."""

  digest: str
  size: int
  eos: int
  ids: list[list[int]]
  decoded: list[str]


def folders(folder: pathlib.Path) -> Make:
  """Returns the maker of folders with a tokenizer, one of whose files is changed."""
  made: dict[str, Tokenizer] = {
    "words": tokenizers.word_tokenizer(["Ada", "Byron", "Zürich", "born", "."], 4),
    "t5": pretrained_tokenizers.load(hf_tokenizers.t5_like(folder / "t5-plain")),
    "llama": pretrained_tokenizers.load(hf_tokenizers.llama_like(folder / "llama-plain")),
  }
  for name, tokenizer in made.items():
    tokenizers.save(tokenizer, folder / name)
  saved = {name: _read(folder / name) for name in made}

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    source = rng.choice(sorted(folder.iterdir()))
    home = own / "tokenizer"
    shutil.copytree(source, home)
    files = sorted(path for path in home.iterdir() if path.is_file())
    models.change(rng, rng.choice(files))

    def wrong(got: Read) -> str | None:
      if _has_digest(home):
        return None if got == saved[source.name] else "another tokenizer than was saved"
      return _wrong_words(home, got) if source.name == "words" else _wrong_pretrained(home, got)

    return Case(lambda: _read(home), wrong)

  return make


def _read(folder: pathlib.Path) -> Read:
  tokenizer = tokenizers.load(folder)
  ids = [tokenizer.encode(line) for line in LINES]
  assert tokenizer.encode_all(LINES) == ids
  assert all(0 <= token < tokenizer.size for row in ids for token in row)
  decoded = [tokenizer.decode(row) for row in ids]
  return Read(tokenizer.digest, tokenizer.size, tokenizer.eos, ids, decoded)


def _has_digest(folder: pathlib.Path) -> bool:
  """Returns whether a folder that was read still says what its files were."""
  if (folder / tokenizer_files.NAME).exists():
    return True
  return "file_digest" in json.loads((folder / "tokenizer.json").read_text(encoding="utf-8-sig"))


def _wrong_words(folder: pathlib.Path, got: Read) -> str | None:
  record = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8-sig"))
  words = record["words"]
  expected = [
    [_OTHERS + words.index(word) if word in words else _OTHERS - 1 for word in line.split()]
    for line in LINES
  ]
  if got.size != _OTHERS + len(words) + record["sentinels"]:
    return f"{got.size} tokens of {len(words)} words and {record['sentinels']} sentinels"
  return None if got.ids == expected else f"ids {got.ids}, not {expected}"


def _wrong_pretrained(folder: pathlib.Path, got: Read) -> str | None:
  peer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
  if (got.size, got.eos) != (len(peer), peer.eos_token_id):
    return f"{got.size} tokens, end {got.eos}; transformers: {len(peer)}, {peer.eos_token_id}"
  special = [token.content for token in peer.added_tokens_decoder.values() if token.special]
  hidden = {peer.pad_token_id, peer.eos_token_id, peer.bos_token_id}
  for line, ids, text in zip(LINES, got.ids, got.decoded):
    if any(token in line for token in special):
      continue  # which are text here, and not there
    expected = peer.encode(line, add_special_tokens=False)
    if ids != expected:
      return f"{line!r}: ids {ids}; transformers: {expected}"
    shown = [token for token in ids if token not in hidden]
    expected = peer.decode(shown, clean_up_tokenization_spaces=False)
    if text != expected:
      return f"{line!r}: decoded {text!r}; transformers: {expected!r}"
  return None


FUZZERS: dict[str, Fuzzer] = {"tokenizers": folders}

"""Fuzzers of tokenizers: our own and HuggingFace's, with digests and without."""

import pathlib
import random
import shutil

import hf_tokenizers

from factshock.data import pretrained_tokenizers, tokenizer_files, tokenizers
from fuzz import models
from fuzz.frame import Case, Fuzzer, Make

LINE = "Ada Byron was born in London ."


def folders(folder: pathlib.Path) -> Make:
  """Returns the maker of folders with a tokenizer; with digests all changes must be noticed."""
  made = {
    "words": tokenizers.word_tokenizer(["Ada", "Byron", "Zürich", "born", "."], 4),
    "t5": pretrained_tokenizers.load(hf_tokenizers.t5_like(folder / "t5-plain")),
    "llama": pretrained_tokenizers.load(hf_tokenizers.llama_like(folder / "llama-plain")),
  }
  for name, tokenizer in made.items():
    tokenizers.save(tokenizer, folder / name)

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    source = rng.choice(sorted(folder.iterdir()))
    shutil.copytree(source, own / "tokenizer")
    files = sorted(path for path in (own / "tokenizer").iterdir() if path.is_file())
    path = rng.choice(files)
    models.change(rng, path)

    def wrong(got: tuple[str, list[int]]) -> str | None:
      name = source.name
      is_kept = name in made and path.name != tokenizer_files.NAME
      if is_kept and got[0] != made[name].digest and not path.name.endswith("config.json"):
        return f"another tokenizer than was saved, after a change of {path.name}"
      return None

    return Case(lambda: _read(own / "tokenizer"), wrong)

  return make


def _read(folder: pathlib.Path) -> tuple[str, list[int]]:
  tokenizer = tokenizers.load(folder)
  ids = tokenizer.encode(LINE)
  assert all(0 <= token < tokenizer.size for token in ids)
  tokenizer.decode(ids)
  return tokenizer.digest, ids


FUZZERS: dict[str, Fuzzer] = {"tokenizers": folders}

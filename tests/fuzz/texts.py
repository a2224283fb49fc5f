"""Fuzzer of corpora: text, JSON lines and tables, against plain readers of the same files."""

import pathlib
import random
from collections.abc import Callable

from factshock.facts import documents
from fuzz import mutations, tables
from fuzz.frame import Case, Fuzzer, Make

_TEXTS = (
  "Ada Roe was born in Bath, Somerset.",
  "東京は日本の首都。 <pad> and </s> are text",
  "L’Aquila, New\u00a0York and C++ “quoted”",
  "a\u2028b\u0085c",
  "हिन्दी 1.5 -5",
)


def _written(rng: random.Random, own: pathlib.Path) -> pathlib.Path:
  ending = rng.choice(("txt", "jsonl", "csv", "tsv"))
  if ending != "txt":
    rows = [{"text": text, "url": f"u{index}"} for index, text in enumerate(_TEXTS)]
    return tables.table(rng, own, rows, (ending,))
  data = "\n".join(_TEXTS).encode()
  if rng.random() < 0.8:
    data = mutations.changed_bytes(rng, data)
  name, data = mutations.stored(rng, "corpus.txt", data)
  path = own / name
  path.write_bytes(data)
  return path


def _wrong(path: pathlib.Path) -> Callable[[list[str]], str | None]:
  def wrong(read: list[str]) -> str | None:
    if ".txt" in path.name:
      text = tables.text_of(path)
      plain = None if text is None else text.split("\n")
      if plain and len(read) < len(plain) and path.suffix == ".txt":
        plain = path.read_bytes().decode().split("\n")  # in parts a lone CR ends no line
    else:
      rows = tables.rows_of(path)
      plain = None if rows is None else [row.get("text", row.get("sentence")) for row in rows]
    if plain is None:
      return f"read {len(read)} documents of a file that plain readers refuse"
    kept = [text for text in plain if isinstance(text, str) and text.strip()]
    if len(kept) != len(read):
      return f"{len(read)} documents of {len(kept)}"
    for text, other in zip(read, kept):
      if text.strip("\n\r") not in (other.strip("\n\r"), other.strip('"').replace('""', '"')):
        return f"{text[:80]!r} of {other[:80]!r}"
    return None

  return wrong


def corpora(folder: pathlib.Path) -> Make:
  """Returns the maker of corpora."""
  del folder

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    path = _written(rng, own)
    return Case(lambda: list(documents.read(str(path))), _wrong(path))

  return make


FUZZERS: dict[str, Fuzzer] = {"corpora": corpora}

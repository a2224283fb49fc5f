"""Fuzzers of tables: facts, predictions and counts, against plain readers of the same files."""

import ast
import bz2
import csv
import gzip
import io
import json
import lzma
import math
import pathlib
import random
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import pyarrow

from factshock.facts import counts, schema
from factshock.predictions import foreign, reading
from fuzz import mutations
from fuzz.frame import Case, Fuzzer, Make

Rows: TypeAlias = list[dict[str, Any]]

BOM = 0.15  # share of files with a byte order mark

FACTS: Rows = [
  {"subject": "Ada Roe", "relation": "born_in", "object": "Bath, Somerset", "popularity": 12.5},
  {"subject": "Ünal “Ü” Ş", "relation": "born_in", "object": "İzmir", "aliases": ["Smyrna", "İz"]},
  {"subject": "東京", "relation": "capital_of", "object": "日本", "subject_id": "Q1490"},
  {"subject": "NA", "relation": "born_in", "object": "None", "popularity": 0},
  {"subject": '"Heroes"', "relation": "by", "object": "Lee Roe", "question": "Who?", "note": "x"},
]
PREDICTIONS: Rows = [
  {
    "subject": f"Subject {index}",
    "relation": "born_in",
    "object": answer,
    "prediction": prediction,
    "score": -0.25 * index,
    "seed": index % 2,
    "arm": "finetune",
    "step": 25,
    "popularity": 10 * index,
    "candidates": [[prediction, -0.25 * index], ["Rome", -4.5]],
  }
  for index, (answer, prediction) in enumerate(
    (("Bath", "Bath"), ("İzmir", "izmir"), ("日本", "日本"), ("Rome", "Paris"), ("-5", "5"))
  )
]
COUNTS: Rows = [
  {"entity": "Bath", "relation": "born_in", "count": 12},
  {"entity": "İzmir", "relation": "born_in", "count": 0},
  {"entity": "日本", "relation": "", "count": 123456789},
]


def jsonl(rng: random.Random, rows: Rows) -> str:
  """Returns rows as JSON lines, in one of the ways they are written."""
  spaced = rng.random() < 0.5
  separators = (", ", ": ") if spaced else (",", ":")
  escaped = rng.random() < 0.3
  return _ended(rng, [json.dumps(row, ensure_ascii=escaped, separators=separators) for row in rows])


def delimited(rng: random.Random, rows: Rows, delimiter: str) -> str:
  """Returns rows as a table with a header; lists as JSON; csv quotes what needs it, or all."""
  columns = list(dict.fromkeys(column for row in rows for column in row))
  if rng.random() < 0.3:
    rng.shuffle(columns)
  cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
  if delimiter == "\t":
    return _ended(rng, ["\t".join(row) for row in cells])
  file = io.StringIO()
  quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
  csv.writer(file, lineterminator="\n", quoting=quoting).writerows(cells)
  return _ended(rng, file.getvalue().split("\n"))


def _cell(value: Any) -> str:
  if value is None:
    return ""
  return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _ended(rng: random.Random, lines: Sequence[str]) -> str:
  """Returns lines with a byte order mark at times, either line end, blank lines at times."""
  start = "\ufeff" if rng.random() < BOM else ""
  end = "\r\n" if rng.random() < 0.2 else "\n"
  blank = end if rng.random() < 0.1 else ""
  last = "" if rng.random() < 0.2 else end
  return start + (end + blank).join(lines) + last


def table(
  rng: random.Random,
  folder: pathlib.Path,
  rows: Rows,
  endings: Sequence[str],
) -> pathlib.Path:
  """Writes rows as a file in one of the formats, most of them changed; returns its path."""
  ending = rng.choice(endings)
  changed = rng.random() < 0.5
  written = mutations.changed_value(rng, rows) if changed else rows
  if not isinstance(written, list) or not all(isinstance(row, dict) for row in written):
    ending = "jsonl" if "jsonl" in endings else ending
  if ending == "jsonl":
    text = jsonl(rng, written if isinstance(written, list) else [written])
  else:
    kept = [row for row in written if isinstance(row, dict)] if isinstance(written, list) else []
    text = delimited(rng, kept, "\t" if ending == "tsv" else ",")
  data = text.encode("utf-8", "surrogatepass")
  if not changed and rng.random() < 0.8:
    data = mutations.changed_bytes(rng, data)
  name, data = mutations.stored(rng, f"table.{ending}", data)
  path = folder / name
  path.write_bytes(data)
  return path


_OPENERS: dict[str, Callable[[bytes], bytes]] = {
  ".gz": gzip.decompress,
  ".bz2": bz2.decompress,
  ".xz": lzma.decompress,
  ".zst": lambda data: pyarrow.input_stream(pyarrow.py_buffer(data), compression="zstd").read(),
}


def text_of(path: pathlib.Path) -> str | None:
  """Returns the text of a file as a plain reader has it, None where there is none."""
  data = path.read_bytes()
  try:
    text = _OPENERS.get(path.suffix, bytes)(data).decode("utf-8-sig")
  except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error):
    return None
  return text.replace("\r\n", "\n").replace("\r", "\n")


def rows_of(path: pathlib.Path) -> Rows | None:
  """Returns the rows of a table as plain readers have them, None where it is none."""
  text = text_of(path)
  if text is None:
    return None
  try:
    if ".jsonl" in path.name:
      return [json.loads(line) for line in text.split("\n") if line.strip()]
    if ".csv" in path.name:
      cells = list(csv.reader(io.StringIO(text), strict=True))
    else:
      cells = [line.split("\t") if line else [] for line in text.split("\n")]
    header, *rest = [row for row in cells if row] or [[]]
    return [dict(zip(header, row, strict=True)) for row in rest]
  except (ValueError, RecursionError, csv.Error):
    return None


def _same_text(value: Any, plain: Any) -> bool:
  """Returns whether a text read is what a row holds: as it is, unquoted, or as text."""
  if value == plain:
    return True
  if isinstance(plain, str):
    return value in (plain.strip(), plain.strip().strip('"').replace('""', '"'))
  return not isinstance(plain, (dict, list)) and value in (_plain(plain), str(plain))


def _plain(value: Any) -> str:
  if isinstance(value, float) and value == 0:
    return "0"  # of -0.0 too
  return "" if value is None else json.dumps(value)


def _same_number(value: float | None, plain: Any) -> bool:
  """Returns whether a number read is what a row holds: the number, its text, or none."""
  none_read = value is None or math.isnan(value)
  if none_read or plain in (None, ""):
    return none_read and (plain in (None, "", "NaN", "nan") or plain != plain)
  try:
    return value == float(plain)
  except (TypeError, ValueError, OverflowError):
    return False


def _whole(plain: Any) -> float:
  """Returns the whole number that a cell holds, as a text too, which may be "3.0" or "-0.0"."""
  try:
    return int(plain)
  except ValueError:
    return float(plain)


def _same_texts(value: Sequence[str], plain: Any) -> bool:
  """Returns whether aliases read are those of a row, in any of the ways to write a list."""
  if plain in (None, "", []):
    return not value
  if isinstance(plain, list):
    return list(value) == list(map(str, plain)) or set(value) <= set(map(str, plain))
  ways: list[Any] = [plain.split("|")]
  for parse in (json.loads, ast.literal_eval):
    try:
      ways.append(parse(plain))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
      continue
  return any(set(value) <= set(map(str, way)) for way in ways if isinstance(way, list))


def _wrong_facts(path: pathlib.Path) -> Callable[[Iterable[Any]], str | None]:
  def wrong(facts: Iterable[Any]) -> str | None:
    facts = list(facts)
    rows = rows_of(path)
    if rows is None:
      return f"read {len(facts)} facts of a file that plain readers refuse"
    keys = {tuple(map(str, map(row.get, schema.REQUIRED))) for row in rows}
    if len(facts) != len(keys):
      return f"{len(facts)} facts of {len(keys)} different rows"
    if len(keys) < len(rows):
      return None  # merged: their aliases are those of several rows
    for fact, row in zip(facts, rows):
      for column in schema.REQUIRED:
        if not _same_text(fact[column], row.get(column)):
          return f"{column}: {fact[column]!r} of {row.get(column)!r}"
      if not _same_number(fact.get("popularity"), row.get("popularity")):
        return f"popularity: {fact.get('popularity')!r} of {row.get('popularity')!r}"
      if not _same_texts(fact.get("aliases", []), row.get("aliases")):
        return f"aliases: {fact.get('aliases')!r} of {row.get('aliases')!r}"
    return None

  return wrong


def facts(folder: pathlib.Path) -> Make:
  """Returns the maker of facts files."""
  del folder

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    path = table(rng, own, FACTS, ("jsonl", "csv", "tsv"))
    return Case(lambda: schema.read_facts(path), _wrong_facts(path))

  return make


def _wrong_predictions(path: pathlib.Path) -> Callable[[reading.Predictions], str | None]:
  def wrong(read: reading.Predictions) -> str | None:
    rows = rows_of(path)
    if rows is None:
      return f"read {len(read)} rows of a file that plain readers refuse"
    if len(rows) != len(read):
      return f"{len(read)} rows of {len(rows)}"
    for index, row in enumerate(rows):
      for column in ("subject", "relation", "object", "prediction"):
        text = read.strings[getattr(read, column)[index]]
        if column == "relation" and column not in row and text == foreign.NO_RELATION:
          continue  # files of others may lack it
        plain = row.get(column)
        if column == "object" and isinstance(plain, list) and plain:
          plain = plain[0]  # the others are its other names
        if not _same_text(text, plain):
          return f"{column}: {text!r} of {row.get(column)!r}"
      popularity = None if read.popularity is None else float(read.popularity[index])
      for column, value in (("score", float(read.score[index])), ("popularity", popularity)):
        if not _same_number(value, row.get(column)):
          return f"{column}: {value!r} of {row.get(column)!r}"
      if int(read.seed[index]) != _whole(row.get("seed") or 0):
        return f"seed: {int(read.seed[index])} of {row.get('seed')!r}"
    return None

  return wrong


def predictions(folder: pathlib.Path) -> Make:
  """Returns the maker of predictions files."""
  del folder

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    path = table(rng, own, PREDICTIONS, ("jsonl", "jsonl", "jsonl", "csv", "tsv"))
    return Case(lambda: reading.read(str(path)), _wrong_predictions(path))

  return make


def _wrong_counts(path: pathlib.Path) -> Callable[[dict[Any, int]], str | None]:
  def wrong(read: dict[Any, int]) -> str | None:
    rows = rows_of(path)
    if rows is None:
      return f"read {len(read)} counts of a file that plain readers refuse"
    if len(rows) != len(read):
      return f"{len(read)} counts of {len(rows)} rows"
    for ((relation, entity), count), row in zip(read.items(), rows):
      if not _same_text(entity, row["entity"]) or not _same_text(relation, row.get("relation", "")):
        return f"{entity!r}, {relation!r} of {row}"
      if str(count) != row["count"].lstrip("0").rjust(1, "0"):
        return f"{count} of {row['count']!r}"
    return None

  return wrong


def entity_counts(folder: pathlib.Path) -> Make:
  """Returns the maker of files of counts."""
  del folder

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    path = table(rng, own, COUNTS, ("tsv",))
    return Case(lambda: counts.read_counts(path), _wrong_counts(path))

  return make


FUZZERS: dict[str, Fuzzer] = {"facts": facts, "predictions": predictions, "counts": entity_counts}

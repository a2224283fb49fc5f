"""Files of LM-KBC rows, gold or predicted, and their alignment.

A file holds a JSON object a line: SubjectEntity, Relation and a list of objects, ObjectEntities
(texts; in the gold of 2022 and 2026 lists of aliases) or ObjectEntitiesID.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, cast

from factshock.diagnosis import lm_kbc_rules as rules
from factshock.diagnosis.lm_kbc_rules import Objects
from factshock.facts import schema
from factshock.runtime import files
from factshock.runtime.errors import UserError
from factshock.types import FilePath

RowKey: TypeAlias = tuple[str, str]  # subject, relation


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of a file.

  Attributes:
    path: the file, for messages.
    objects: (subject, relation) -> objects.
    repeated: how many rows came again.
    dropped: how many objects were dropped.
  """

  path: str
  objects: Mapping[RowKey, Objects]
  repeated: int
  dropped: int


def read(
  path: FilePath,
  year: str,
  gold: bool = False,
) -> Rows:
  """Reads a file of gold or of predictions.

  Of rows with one subject and relation the last counts, as in the challenge.

  Args:
    path: the file.
    year: a key of EDITIONS.
    gold: whether it holds gold rows.

  Raises:
    UserError: another suffix, no rows, a line that is no JSON object, or a row without a subject, a
      relation or a list of objects as the edition wants it; names file and line.
  """
  path = str(path)
  if not path.endswith(schema.JSON_SUFFIXES):
    raise UserError(
      f"{path}: expected LM-KBC rows in a file that ends in .jsonl or .json, compressed or "
      "not; convert it"
    )
  edition = rules.EDITIONS[year]
  objects: dict[RowKey, Objects] = {}
  count = 0
  dropped = 0
  for context, row in schema.read_rows(path, ()):
    count += 1
    key, listed = _check_row(row, edition.column, context, year)
    if gold and edition.aliases:
      objects[key] = [_aliases(item, context, year) for item in listed]
    else:
      texts = _flat(listed) if year == "2026" else _texts(listed, context, year)
      objects[key] = texts
      dropped += len(listed) - len(texts)
  if not objects:
    raise UserError(f"{path}: expected LM-KBC rows, a JSON object a line, got none")
  return Rows(path, objects, count - len(objects), dropped)


def read_all(paths: Iterable[FilePath], year: str) -> dict[str, Rows]:
  """Reads several files of predictions by label, the file's name without its suffix.

  Raises:
    UserError: no files, two of one name, or as `read`.
  """
  systems: dict[str, Rows] = {}
  for path in paths:
    name = os.path.basename(path)
    label = re.sub(r"\.jsonl?$", "", name.removesuffix(files.compression(name)))
    if label in systems:
      raise UserError(
        f"{path}: expected files of different names, got {label!r} as in {systems[label].path}; "
        "rename one"
      )
    systems[label] = read(path, year)
  if not systems:
    raise UserError("--predictions: expected at least one file of LM-KBC rows, got none")
  return systems


def align(
  predictions: Rows,
  gold: Rows,
  year: str,
  strict: bool = False,
) -> tuple[list[Objects], dict[str, int]]:
  """Returns predicted objects in the order of the gold rows, and counts of what did not fit.

  Args:
    predictions: rows of a system.
    gold: the gold rows.
    year: a key of EDITIONS.
    strict: whether whatever does not fit is an error.

  Raises:
    UserError: no row of predictions is in gold; a gold row is missing where the edition or `strict`
      refuses that; with `strict` also rows that gold does not have, repeated rows and dropped
      objects.
  """
  missing = [key for key in gold.objects if key not in predictions.objects]
  unknown = [key for key in predictions.objects if key not in gold.objects]
  _check_missing(predictions, gold, missing, unknown)
  if missing and (strict or rules.EDITIONS[year].complete):
    refuses = "--strict" if strict else f"edition {year}"
    raise UserError(
      f"{predictions.path}: expected each of the {len(gold.objects)} rows of {gold.path}, got "
      f"{len(missing)} missing, the first {missing[0]}; {refuses} takes no missing row: give an "
      "empty list where there is no answer"
    )
  counts = {
    "rows": len(predictions.objects),
    "missing": len(missing),
    "unknown": len(unknown),
    "repeated": predictions.repeated,
    "dropped": predictions.dropped,
  }
  if strict:
    _check_strict(predictions, gold, counts, unknown)
  return [predictions.objects.get(key, []) for key in gold.objects], counts


def _check_missing(
  predictions: Rows,
  gold: Rows,
  missing: list[RowKey],
  unknown: list[RowKey],
) -> None:
  if len(missing) == len(gold.objects):
    raise UserError(
      f"{predictions.path}: expected rows of {gold.path}, as {missing[0]}, got none of its "
      f"{len(missing)} rows and {len(unknown)} others, as {unknown[0]}"
    )


def _check_strict(
  predictions: Rows,
  gold: Rows,
  counts: Mapping[str, int],
  unknown: list[RowKey],
) -> None:
  names = [name for name in ("unknown", "repeated", "dropped") if counts[name]]
  if not names:
    return
  listed = ", ".join(f"{counts[name]} {name}" for name in names)
  first = f" (the first unknown row: {unknown[0]})" if unknown else ""
  raise UserError(
    f"{predictions.path}: expected with --strict the rows of {gold.path}, each once, and objects "
    f"that are texts; got {listed}{first}"
  )


def train_beside(gold: FilePath) -> tuple[str | None, str | None]:
  """Returns the train.jsonl beside a gold file: (path, None), or (None, why there is none)."""
  path = os.path.join(os.path.dirname(str(gold)), "train.jsonl")
  if not os.path.exists(path):
    return None, f"there is no {path}"
  if os.path.realpath(path) == os.path.realpath(gold):
    return None, f"{path} is the gold file itself"
  return path, None


def _check_row(
  row: Mapping[str, Any],
  column: str,
  context: str,
  year: str,
) -> tuple[RowKey, list[Any]]:
  """Returns subject and relation of a row, and its list of objects."""
  for name in ("SubjectEntity", "Relation"):
    if not isinstance(row.get(name), str) or not row[name].strip():
      raise UserError(f"{context}: expected a text in {name}, got {_shown(row, name)}")
  if not isinstance(row.get(column), list):
    raise UserError(
      f"{context}: expected a list in {column}, which edition {year} compares, got "
      f"{_shown(row, column)}"
    )
  return (row["SubjectEntity"], row["Relation"]), row[column]


def _shown(row: Mapping[str, Any], name: str) -> str:
  return f"{str(row[name])[:60]!r}" if name in row else f"none (columns: {', '.join(row)})"


def _aliases(
  item: Any,
  context: str,
  year: str,
) -> list[str]:
  """Returns a gold object as a list of aliases; a single text is one where the edition does so."""
  if isinstance(item, str) and year == "2026":
    return [item]
  if isinstance(item, list):
    items = cast(list[Any], item)
    if all(isinstance(text, str) for text in items):
      return items
  raise UserError(
    f"{context}: expected gold objects of edition {year} as lists of aliases (texts), got "
    f"{str(cast(Any, item))[:60]!r}"
  )


def _texts(
  listed: list[Any],
  context: str,
  year: str,
) -> list[str]:
  for item in listed:
    if not isinstance(item, str):
      raise UserError(
        f"{context}: expected objects that are texts, numbers too (edition {year}), got "
        f"{str(item)[:60]}"
      )
  return listed


def _flat(listed: list[Any]) -> list[str]:
  """Returns predictions as 2026 takes them: of a list its first item, and no item but texts."""
  firsts: list[Any] = [item[0] if isinstance(item, list) and item else item for item in listed]
  return [item for item in firsts if isinstance(item, str)]

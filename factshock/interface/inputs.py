"""Tables that a caller of the Python API hands over in memory, as the files that all steps read.

Errors and messages name such a table as its parameter is called, and a line of it as a row.
"""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard, cast

from factshock.facts import listed
from factshock.runtime import json_text, messages, tables
from factshock.runtime.errors import UserError
from factshock.types import FilePath

# A path, a data set such as "popqa:PATH", a DataFrame, or rows.
Table: TypeAlias = FilePath | tables.Frame | Sequence[Mapping[str, Any]]
# Or a template, or the columns of a relation, by its name.
Relations: TypeAlias = Table | Mapping[str, str | Mapping[str, Any]]
# Or a count by entity, or by (relation, entity).
Counts: TypeAlias = Table | Mapping[str, int] | Mapping[tuple[str, str], int]
# Predictions by the name of their arm, one table or one a seed; or without names.
Arms: TypeAlias = Mapping[str, Table | Sequence[Table]] | Table | Sequence[Table]

# Columns of texts, in which DataFrames have numbers where all are digits. The first four are there
# where they are empty: of a fact that is a mistake, of a prediction no answer.
_TEXTS = ("subject", "relation", "object", "prediction", "subject_id", "object_id")
_LISTS = ("aliases", "choices")
# Flags that errors name, and the parameters that are called otherwise.
_PARAMETERS = {
  "finetuning_facts": "finetuning",
  "entity_counts": "counts",
  "method": "mode",
  "workdir": "output",
  "ratio": "ratio",
}
_FLAG = re.compile(r"--(\w+)")
_COMMAND = re.compile(r"(factshock \w+(?: --\S+)+)")


class Files:
  """Writes tables to files of a folder and knows what they are called."""

  def __init__(self, folder: str) -> None:
    """Takes the folder, which lasts as long as the files are needed."""
    self._folder = folder
    self._names: dict[str, str] = {}

  def table(self, given: Table | None, name: str, path: str | None = None) -> str | None:
    """Returns the path of a table of facts or predictions; a path as it is.

    Args:
      given: the table; None is none.
      name: what the caller calls it.
      path: where to write it, in place of the folder.

    Raises:
      UserError: it is no table.
    """
    if given is None or isinstance(given, (str, os.PathLike)):
      return None if given is None else os.fspath(given)
    rows = [_as_read(row) for row in _rows(given, name)]
    # Rows that name no arm or split are called by the file's name.
    stem = name if name.isidentifier() else f"table{len(self._names)}"
    path = path or os.path.join(self._folder, f"{stem}.jsonl")
    _write_lines(path, rows, name)
    self._names[path] = name
    return path

  def needed(self, given: Table, name: str, path: str | None = None) -> str:
    """Returns the path of a table that there must be; as `table`."""
    written = self.table(given, name, path)
    if written is None:
      raise UserError(f"{name}: expected a path, a DataFrame or a list of dicts, got none")
    return written

  def relations(self, given: Relations | None, path: str | None = None) -> str | None:
    """Returns the path of a table of relations, which may be a template by name."""
    if isinstance(given, Mapping):
      given = [_relation(name, value) for name, value in given.items()]
    return self.table(given, "relations", path)

  def counts(self, given: Counts | None) -> str | None:
    """Returns the path of a table of entity counts, which may be a mapping."""
    if given is None or isinstance(given, (str, os.PathLike)):
      return None if given is None else os.fspath(given)
    if isinstance(given, Mapping):
      given = [_count(key, value) for key, value in given.items()]
    rows = _rows(given, "counts")
    header = ["entity", "count"]
    header += ["relation"] if any("relation" in row for row in rows) else []
    path = os.path.join(self._folder, "counts.tsv")
    with open(path, "w", encoding="utf-8", newline="\n") as file:
      for cells in (header, *([str(row.get(name, "")) for name in header] for row in rows)):
        file.write("\t".join(cells) + "\n")
    self._names[path] = "counts"
    return path

  def arms(self, given: Arms) -> list[tuple[str | None, str]]:
    """Returns (name of the arm or None, path) of each table of predictions."""
    if not isinstance(given, Mapping):
      return [(None, path) for path in self._several(given, "predictions")]
    named: list[tuple[str | None, str]] = []
    for label, of_arm in given.items():
      named += [(label, path) for path in self._several(of_arm, label)]
    return named

  def _several(self, given: Table | Sequence[Table], name: str) -> list[str]:
    """Returns the paths of one table or of a list of tables."""
    if is_table(given):
      return [self.needed(given, name)]
    tables_given = cast("Sequence[Table]", given)
    return [self.needed(table, f"{name}[{i}]") for i, table in enumerate(tables_given)]

  def in_words(self, text: str) -> str:
    """Returns a message in which tables are called as the caller does."""
    for path, name in self._names.items():
      text = re.sub(re.escape(path) + r":(\d+)", rf"{name}: row \1", text)
      text = text.replace(path, name)
    return text


@contextlib.contextmanager
def tables_as_files() -> Iterator[Files]:
  """Yields the Files of a call, which go with its end; errors and messages name no file of them.

  Raises:
    UserError: what is raised inside, in the words of the Python API.
  """
  with tempfile.TemporaryDirectory(prefix="factshock-") as folder:
    files = Files(folder)
    try:
      with messages.reworded(files.in_words), messages.kept_off_stdout():
        yield files
    except UserError as error:
      raise UserError(with_parameters(files.in_words(str(error)))) from error


def with_parameters(text: str) -> str:
  """Returns an error of a verb with parameters of the Python API in place of flags.

  Commands that it advises stay as they are.
  """
  text = text.replace("; see --help", "").replace("; --help explains", "")
  parts = _COMMAND.split(text)
  parts[::2] = [
    _FLAG.sub(lambda flag: _PARAMETERS.get(flag[1], flag[1]), part) for part in parts[::2]
  ]
  return "".join(parts)


def is_table(given: object) -> TypeGuard[Table]:
  """Returns whether something is one table, rather than a list of tables."""
  if isinstance(given, (str, os.PathLike, tables.Frame)) or not isinstance(given, Sequence):
    return True
  return not given or isinstance(given[0], Mapping)


def _rows(given: object, name: str) -> list[dict[str, Any]]:
  """Returns the rows of a table.

  Raises:
    UserError: it is no table.
  """
  if isinstance(given, tables.Frame):
    return tables.rows(given, _TEXTS[:4])
  if not isinstance(given, Sequence) or not all(isinstance(row, Mapping) for row in given):
    raise UserError(
      f"{name}: expected a path, a DataFrame or a list of dicts, got {type(given).__name__}"
    )
  return tables.rows(given)


def _as_read(row: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a row whose cells are as those of a csv file would be read."""
  return {name: _cell(name, value) for name, value in row.items()}


def _cell(name: str, value: Any) -> Any:
  """Returns a whole number as a text where a text belongs, and a text as the list it stands for."""
  if name in _TEXTS and type(value) is int:
    return str(value)
  if name in _LISTS and isinstance(value, str):
    return listed.texts(value) or value
  if name == "candidates" and isinstance(value, str):
    with contextlib.suppress(ValueError):
      return json_text.loads(value)
  return value


def _write_lines(path: str, rows: Sequence[Mapping[str, Any]], name: str) -> None:
  """Writes rows as JSON lines.

  Raises:
    UserError: a row holds what JSON cannot.
  """
  with open(path, "w", encoding="utf-8", newline="\n") as file:
    for number, row in enumerate(rows, 1):
      try:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
      except (TypeError, ValueError) as error:
        raise UserError(
          f"{name}: row {number}: expected texts, numbers and lists: {error}"
        ) from error


def _relation(name: str, value: str | Mapping[str, Any]) -> dict[str, Any]:
  """Returns the row of a relation, given by a statement alone or by its columns."""
  columns = {"statements": [value]} if isinstance(value, str) else value
  return {"relation": name, **columns}


def _count(key: str | tuple[str, str], value: int) -> dict[str, Any]:
  """Returns the row of a count, by entity or by (relation, entity)."""
  if isinstance(key, str):
    return {"entity": key, "count": value}
  relation, entity = key
  return {"relation": relation, "entity": entity, "count": value}

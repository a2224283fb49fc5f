"""Queries, (subject, relation), with what is known of their answers.

They are facts whose object may be null (there is none) or not given.
"""

import collections
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from factshock.facts import schema, sources, streams
from factshock.facts.schema import Row
from factshock.runtime import files, messages
from factshock.runtime.errors import UserError
from factshock.types import FilePath

_CARRIED = ("subject_id", "question")


@dataclasses.dataclass(frozen=True)
class QueryStream:
  """Holds where queries come from; each iteration goes through all of them.

  Attributes:
    spec: the path, or the data set.
    again: begins anew with the first.
  """

  spec: str
  again: Callable[[], Iterator[Row]]

  def __iter__(self) -> Iterator[Row]:
    """Returns all queries, in their order."""
    return self.again()


def keys(queries: Iterable[Row]) -> set[tuple[str, str]]:
  """Returns subject and relation of queries."""
  return {(row["subject"], sys.intern(row["relation"])) for row in queries}


def of_rows(rows: Sequence[Row], spec: str = "queries") -> QueryStream:
  """Returns the stream of queries that are in memory."""
  return QueryStream(spec, lambda: iter(rows))


def read(spec: FilePath) -> list[Row]:
  """Returns the queries of `open_stream`, all in memory."""
  return list(open_stream(spec))


def open_stream(spec: FilePath) -> QueryStream:
  """Returns the queries of a data set, or of a table with the columns subject and relation.

  Rows that say the same again are merged, which is printed; those of a file alone are held.

  Returns:
    Rows with `object` where it is given, None where it is null.

  Raises:
    UserError: a row without subject or relation, or of a wrong kind, or no rows.
  """
  if sources.is_source(spec):
    queries_of_source: list[Row] = [dict(fact) for fact in sources.read_facts(spec)]
    for row in sources.read_unanswered(spec):
      queries_of_source.append({**row, "object": None})
    return of_rows(queries_of_source, str(spec))
  found = streams.scan(_again(spec, lambda: _rows(spec)), _key, _add)
  if not found.rows:
    raise UserError(f"{spec}: expected queries, got no rows")
  _print_merged(spec, found.rows, found.count, "query and answer")
  return QueryStream(str(spec), found.again)


def _again(path: FilePath, rows: Callable[[], Iterator[Row]]) -> Callable[[], Iterator[Row]]:
  """Returns what goes through the rows of a file; those of a pipe, which is read once, are held."""
  if not os.path.exists(path) or streams.can_be_read_again(path):
    return rows
  held = list(rows())
  return lambda: iter(held)


def _rows(path: FilePath) -> Iterator[Row]:
  for location, row in schema.read_rows(path, ("subject", "relation")):
    schema.check_fact({**row, "object": row.get("object") or "-"}, location)
    yield sources.merged({}, _without_nulls(row))


def _key(row: Row) -> str:
  return "\0".join((row["subject"], row["relation"], row.get("object") or ""))


def _add(queries: streams.Merged, row: Row, repeated: "collections.Counter[str]") -> None:
  key = (row["subject"], row["relation"], row.get("object"))
  repeated["merged"] += key in queries
  queries[key] = sources.merged(queries.get(key, {}), row)


def _without_nulls(row: Row) -> Row:
  """Returns a query without columns that are null, but for its object."""
  known: Row = {}
  for name, value in row.items():
    if value is not None or name == "object":
      known[name] = value
  return known


def cross(
  subjects: FilePath,
  relations: Sequence[str],
) -> QueryStream:
  """Asks every relation of every subject of a file.

  Args:
    subjects: a file with a name a line (.txt), or a table with a column subject.
    relations: names of the relations.

  Returns:
    Queries, subject by subject.

  Raises:
    UserError: no subjects.
  """
  found = streams.scan(
    _again(subjects, lambda: _subjects(subjects)), lambda row: row["subject"], _add_subject
  )
  if not found.rows:
    raise UserError(f"{subjects}: expected subjects, got none")
  _print_merged(subjects, found.rows, found.count, "subject")

  def again() -> Iterator[Row]:
    for row in found.again():
      carried = {key: row[key] for key in _CARRIED if row.get(key)}
      for relation in relations:
        yield {"subject": row["subject"], "relation": relation, **carried}

  return QueryStream(str(subjects), again)


def _add_subject(subjects: streams.Merged, row: Row, repeated: "collections.Counter[str]") -> None:
  name = row["subject"]
  repeated["merged"] += name in subjects
  subjects[name] = {**row, **subjects.get(name, {})}


def _subjects(path: FilePath) -> Iterator[Row]:
  for location, row in _subject_rows(path):
    schema.check_fact({**row, "relation": "-", "object": "-"}, location)
    yield row


def _print_merged(
  path: FilePath,
  row_count: int,
  count: int,
  what: str,
) -> None:
  merged = row_count - count
  if merged:
    messages.say(
      f"  {path}: {row_count:,} rows; {merged:,} merged, as they say the same {what} again"
    )


def _subject_rows(path: FilePath) -> Iterator[tuple[str, Row]]:
  """Yields (location, row) of each subject of a file."""
  if not str(path).endswith(files.with_compressions(".txt")):
    yield from schema.read_rows(path, ("subject",))
    return
  for line_number, line in files.lines(path):
    name = line.strip()
    if name:
      yield f"{path}:{line_number}", {"subject": name}

"""Queries, (subject, relation), with what is known of their answers.

They are facts whose object may be null (there is none) or not given.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from factshock.facts import schema, sources
from factshock.facts.schema import Row
from factshock.runtime import files
from factshock.runtime.errors import UserError
from factshock.types import FilePath

_CARRIED = ("subject_id", "question")


def read(spec: FilePath) -> list[Row]:
  """Reads the queries of a data set, or of a table with the columns subject and relation.

  Returns:
    Rows with `object` where it is given, None where it is null.

  Raises:
    UserError: a row without subject or relation, or of a wrong kind, a row twice, or no rows.
  """
  if sources.is_source(spec):
    queries_of_source: list[Row] = [dict(fact) for fact in sources.read_facts(spec)]
    for row in sources.read_unanswered(spec):
      queries_of_source.append({**row, "object": None})
    return queries_of_source
  queries: dict[tuple[str, str, Any], Row] = {}
  for location, row in schema.read_rows(spec, ("subject", "relation")):
    answer = row.get("object")
    schema.check_fact({**row, "object": answer or "-"}, location)
    key = (row["subject"], row["relation"], answer)
    if key in queries:
      raise UserError(
        f"{location}: expected each query with its answer once, got {key} again; remove one"
      )
    queries[key] = _without_nulls(row)
  if not queries:
    raise UserError(f"{spec}: expected queries, got no rows")
  return list(queries.values())


def _without_nulls(row: Row) -> Row:
  """Returns a query without columns that are null, but for its object."""
  known: Row = {}
  for name, value in row.items():
    if value is not None or name == "object":
      known[name] = value
  return known


def cross(
  subjects: FilePath,
  relations: Iterable[str],
) -> list[Row]:
  """Asks every relation of every subject of a file.

  Args:
    subjects: a file with a name a line (.txt), or a table with a column subject.
    relations: names of the relations.

  Returns:
    Queries, subject by subject.

  Raises:
    UserError: no subjects, or one twice.
  """
  row_of: dict[str, Row] = {}
  for location, row in _subject_rows(subjects):
    schema.check_fact({**row, "relation": "-", "object": "-"}, location)
    name = row["subject"]
    if name in row_of:
      raise UserError(f"{location}: expected each subject once, got {name!r} again; remove one")
    row_of[name] = row
  if not row_of:
    raise UserError(f"{subjects}: expected subjects, got none")
  queries: list[Row] = []
  for name, row in row_of.items():
    carried = {key: row[key] for key in _CARRIED if row.get(key)}
    for relation in relations:
      queries.append({"subject": name, "relation": relation, **carried})
  return queries


def _subject_rows(path: FilePath) -> Iterator[tuple[str, Row]]:
  """Yields (location, row) of each subject of a file."""
  if not str(path).endswith(files.with_compressions(".txt")):
    yield from schema.read_rows(path, ("subject",))
    return
  for line_number, line in files.lines(path):
    name = line.strip()
    if name:
      yield f"{path}:{line_number}", {"subject": name}

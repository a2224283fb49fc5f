"""Queries, (subject, relation), with what is known of their answers.

They are facts whose object may be null (there is none) or not given.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from factshock.facts import schema, sources
from factshock.facts.schema import Row
from factshock.runtime import files, messages
from factshock.runtime.errors import UserError
from factshock.types import FilePath

_CARRIED = ("subject_id", "question")


def read(spec: FilePath) -> list[Row]:
  """Reads the queries of a data set, or of a table with the columns subject and relation.

  Rows that say the same again are merged, which is printed.

  Returns:
    Rows with `object` where it is given, None where it is null.

  Raises:
    UserError: a row without subject or relation, or of a wrong kind, or no rows.
  """
  if sources.is_source(spec):
    queries_of_source: list[Row] = [dict(fact) for fact in sources.read_facts(spec)]
    for row in sources.read_unanswered(spec):
      queries_of_source.append({**row, "object": None})
    return queries_of_source
  queries: dict[tuple[str, str, Any], Row] = {}
  row_count = 0
  for location, row in schema.read_rows(spec, ("subject", "relation")):
    answer = row.get("object")
    schema.check_fact({**row, "object": answer or "-"}, location)
    key = (row["subject"], row["relation"], answer)
    row_count += 1
    queries[key] = sources.merged(queries.get(key, {}), _without_nulls(row))
  if not queries:
    raise UserError(f"{spec}: expected queries, got no rows")
  _print_merged(spec, row_count, len(queries), "query and answer")
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
    UserError: no subjects.
  """
  row_of: dict[str, Row] = {}
  row_count = 0
  for location, row in _subject_rows(subjects):
    schema.check_fact({**row, "relation": "-", "object": "-"}, location)
    name = row["subject"]
    row_count += 1
    row_of[name] = {**row, **row_of.get(name, {})}
  if not row_of:
    raise UserError(f"{subjects}: expected subjects, got none")
  _print_merged(subjects, row_count, len(row_of), "subject")
  queries: list[Row] = []
  for name, row in row_of.items():
    carried = {key: row[key] for key in _CARRIED if row.get(key)}
    for relation in relations:
      queries.append({"subject": name, "relation": relation, **carried})
  return queries


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

"""Files of entity counts: how often a text names each answer."""

import re
from collections.abc import Mapping, Sequence

from factshock.facts.schema import tsv_line, tsv_records
from factshock.facts.word_frequencies import PREFIX, WordFrequencies
from factshock.runtime import files
from factshock.runtime.errors import UserError
from factshock.types import Answer, FilePath


def read_counts(
  path: FilePath,
  column: str = "count",
) -> Mapping[Answer, int]:
  """Reads entity counts from a .tsv, compressed or not, or opens those of "wordfreq:LANGUAGE".

  Args:
    path: a language of the package wordfreq (word_frequencies.WordFrequencies), or a table with the
      columns `entity`, `relation` and `column` in any order.
    column: name of the column that holds the counts.

  Returns:
    Count by (relation, entity). Without a column `relation` it is "" in every key: counts that hold
    in any relation, which `count_of` knows how to look up.

  Raises:
    UserError: a missing column, a malformed line, a count that is no whole number from 0 on, an
      entity twice in a relation, or an empty file; names file and line.
  """
  if str(path).startswith(PREFIX):
    return WordFrequencies(str(path).removeprefix(PREFIX))
  counts = _table(path, column)
  if not counts:
    raise UserError(f"{path}: expected at least one count, got none")
  return counts


def _table(path: FilePath, column: str) -> dict[Answer, int]:
  """Returns the counts of a .tsv."""
  counts: dict[Answer, int] = {}
  records = (record for record in tsv_records(path) if record[1])
  _, header = next(records, (1, list[str]()))
  _check_header(path, header, column)
  for line_number, cells in records:
    location = f"{path}:{line_number}"
    if len(cells) != len(header):
      raise UserError(
        f"{location}: expected {len(header)} cells as in the header, got {len(cells)}: {cells[:8]}"
      )
    row = dict(zip(header, cells))
    relation = row.get("relation", "")
    entity = row["entity"]
    answer = (relation, entity)
    if answer in counts:
      raise UserError(
        f"{location}: expected each entity once in a relation, got {entity!r} again in {relation!r}"
      )
    counts[answer] = _count(entity, row[column], location)
  return counts


def _check_header(
  path: FilePath,
  header: Sequence[str],
  column: str,
) -> None:
  columns = set(header)
  if not {"entity", column} <= columns or len(columns) != len(header):
    raise UserError(
      f"{path}:1: expected a header with the columns entity, {column} and, if wanted, relation, "
      f"separated by tabs, got {header}"
    )


def _count(
  entity: str,
  cell: str,
  location: str,
) -> int:
  """Returns the count in a cell; a UserError where it, or the entity, is none."""
  if not entity or not re.fullmatch("0*[0-9]{1,18}", cell):
    raise UserError(
      f"{location}: expected an entity and a whole number from 0 on (18 digits at most), "
      f"got {entity!r} and {cell!r}"
    )
  return int(cell)


def write_counts(path: FilePath, counts: Mapping[Answer, int]) -> None:
  """Writes counts by (relation, entity) as tsv, by relation, the most frequent first.

  Raises:
    UserError: an entity or relation with a tab or newline in it.
  """
  with files.atomic_write(path) as file:
    file.write("entity\tcount\trelation\n")
    rows = sorted(counts.items(), key=_sort_key)
    for (relation, entity), count in rows:
      if re.search(r"[\t\n\r]", relation + entity):
        raise UserError(
          f"{path}: expected names without tab or newline, got {entity!r} in relation {relation!r}"
        )
      file.write(tsv_line((entity, str(count), relation)))


def count_of(
  counts: Mapping[Answer, int],
  relation: str,
  entity: str,
) -> int:
  """Returns the count of an entity in a relation, or in any where counts name none; else 0."""
  anywhere = counts.get(("", entity), 0)
  return counts.get((relation, entity), anywhere)


def _sort_key(item: tuple[Answer, int]) -> tuple[str, int, str]:
  (relation, entity), count = item
  return relation, -count, entity

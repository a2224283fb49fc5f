"""The file of entity counts: how often a text names each answer."""

import re

from factshock.runtime import files
from factshock.runtime.errors import UserError


def read_counts(path, column="count"):
  """Reads entity counts, a .tsv[.gz] with the columns `entity`, `relation` and `column` in any order.

  Returns:
    Dict (relation, entity) -> count. Without a column `relation` it is "" in every key: counts that hold in
    any relation, which `count_of` knows how to look up.

  Raises:
    UserError: a missing column, a malformed line, a count that is no whole number from 0 on, an entity
      twice in a relation, or an empty file; names file and line.
  """
  counts = {}
  rows = ((number, line.split("\t")) for number, line in files.lines(path) if line)
  _, header = next(rows, (1, []))
  if not {"entity", column} <= set(header) or len(set(header)) != len(header):
    raise UserError(
      f"{path}:1: expected a header with the columns entity, {column} and, if wanted, relation, "
      f"separated by tabs, got {header}"
    )
  for number, cells in rows:
    if len(cells) != len(header):
      raise UserError(
        f"{path}:{number}: expected {len(header)} cells as in the header, got {len(cells)}: "
        f"{cells[:8]}"
      )
    row = dict(zip(header, cells))
    key = (row.get("relation", ""), row["entity"])
    if not row["entity"] or not re.fullmatch("[0-9]+", row[column]):
      raise UserError(
        f"{path}:{number}: expected an entity and a whole number from 0 on, got "
        f"{row['entity']!r} and {row[column]!r}"
      )
    if key in counts:
      raise UserError(
        f"{path}:{number}: expected each entity once in a relation, got {key[1]!r} again in "
        f"{key[0]!r}"
      )
    counts[key] = int(row[column])
  if not counts:
    raise UserError(f"{path}: expected at least one count, got none")
  return counts


def write_counts(path, counts):
  """Writes counts (dict (relation, entity) -> int) as tsv, by relation, the most frequent first.

  Raises:
    UserError: an entity or relation with a tab or newline in it.
  """
  with files.atomic_write(path) as file:
    file.write("entity\tcount\trelation\n")
    for (relation, entity), count in sorted(counts.items(), key=_order):
      if re.search(r"[\t\n\r]", relation + entity):
        raise UserError(
          f"{path}: expected names without tab or newline, got {entity!r} in relation {relation!r}"
        )
      file.write(f"{entity}\t{count}\t{relation}\n")


def count_of(counts, relation, entity):
  """The count of an entity in a relation (or in any, where the counts name no relations); 0 where unknown."""
  return counts.get((relation, entity), counts.get(("", entity), 0))


def _order(item):
  (relation, entity), count = item
  return relation, -count, entity

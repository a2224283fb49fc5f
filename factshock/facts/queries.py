"""Queries, (subject, relation), with what is known of their answers: facts whose object may be null (there is none) or not given."""

from factshock.facts import schema, sources
from factshock.runtime import files
from factshock.runtime.errors import UserError

_CARRIED = ("subject_id", "question")


def read(spec):
  """The rows of a data set or a table with columns subject and relation: list of dicts; `object` where it is given, None where null.

  Raises:
    UserError: a row without subject or relation, or of a wrong kind, a row twice, or no rows.
  """
  if sources.is_source(spec):
    return sources.read_facts(spec) + [
      row | {"object": None} for row in sources.read_unanswered(spec)
    ]
  found = {}
  for place, row in schema.read_rows(spec, ("subject", "relation")):
    schema.check_fact({**row, "object": row.get("object") or "-"}, place)
    key = row["subject"], row["relation"], row.get("object")
    if key in found:
      raise UserError(
        f"{place}: expected each query with its answer once, got {key} again; remove one"
      )
    found[key] = {
      name: value for name, value in row.items() if value is not None or name == "object"
    }
  if not found:
    raise UserError(f"{spec}: expected queries, got no rows")
  return list(found.values())


def cross(subjects, relations):
  """Every relation asked of every subject of a file: a name a line (.txt), or a table with a column subject.

  Raises:
    UserError: no subjects, or one twice.
  """
  if str(subjects).endswith((".txt", ".txt.gz")):
    rows = [
      (f"{subjects}:{number}", {"subject": line.strip()})
      for number, line in files.lines(subjects)
      if line.strip()
    ]
  else:
    rows = list(schema.read_rows(subjects, ("subject",)))
  found = {}
  for place, row in rows:
    schema.check_fact({**row, "relation": "-", "object": "-"}, place)
    if found.setdefault(row["subject"], row) is not row:
      raise UserError(
        f"{place}: expected each subject once, got {row['subject']!r} again; remove one"
      )
  if not found:
    raise UserError(f"{subjects}: expected subjects, got none")
  return [
    {"subject": name, "relation": relation, **{key: row[key] for key in _CARRIED if row.get(key)}}
    for name, row in found.items()
    for relation in relations
  ]

"""Consistency of a graph: functional relations, inverse and symmetric ones, types. What is more confident stays.

A row of the relations file may say, beside its `type` (1-1 and N-1: a subject has one object; 1-1: an object has one subject), the
relation that is its `inverse`, that it is `symmetric` (true), and a `subject_type` and an `object_type` that its entities must have.
"""

from typing import NamedTuple

from factshock.predictions.accuracy import normalise
from factshock.runtime import files
from factshock.runtime.errors import UserError


class Triple(NamedTuple):
  """A statement; `place` is that of its candidate, None where another statement implies it."""

  subject: str
  relation: str
  object: str
  confidence: float
  place: int | None


class Conflict(NamedTuple):
  """A statement that was dropped (`kind`: functional, inverse, symmetric or type) for another one, or for a type that does not fit."""

  kind: str
  dropped: Triple
  kept: Triple | None
  why: str


def rules_of(relations):
  """Checks the columns that are read here; {relation: row} with `inverse` filled in on both sides.

  Raises:
    UserError: an inverse that is unknown or has another inverse, or columns of another kind.
  """
  found = {name: dict(row) for name, row in relations.items()}
  for name, row in relations.items():
    if not isinstance(row.get("symmetric", False), bool):
      raise UserError(
        f"relation {name!r}: expected true or false in `symmetric`, got {row['symmetric']!r}"
      )
    for column in ("subject_type", "object_type", "inverse"):
      if row.get(column) is not None and not (isinstance(row[column], str) and row[column]):
        raise UserError(f"relation {name!r}: expected a text in `{column}`, got {row[column]!r}")
    other = row.get("inverse")
    if other is None:
      continue
    if other not in found:
      raise UserError(
        f"relation {name!r}: expected one of the relations as its inverse, got {other!r}; add it or leave `inverse` out"
      )
    if found[other].setdefault("inverse", name) != name:
      raise UserError(
        f"relation {name!r}: its inverse {other!r} has the inverse {found[other]['inverse']!r}; expected {name!r}"
      )
  return found


def resolve(triples, rules, types, asked):
  """What of the triples can stand together: (kept, implied, conflicts).

  The triples are gone through from the most confident on; one that contradicts what stands already is dropped. Each kept triple also
  states its mirror in the inverse (or the same, symmetric) relation; mirrors of queries that were asked are implied triples.

  Args:
    triples: list of Triple. rules: of `rules_of`; relations that it lacks have no rule.
    types: dict entity -> set of its types; an entity that it lacks fits everywhere.
    asked: set of (subject, relation) that are queries.
  """
  kept = []
  conflicts = []
  implied = []
  stands = set()  # by normalised names
  of_subject = {}
  of_object = {}
  asked = {(normalise(subject), relation) for subject, relation in asked}
  for triple in sorted(
    triples, key=lambda one: (-one.confidence, one.relation, one.subject, one.object)
  ):
    rule = rules.get(triple.relation, {})
    misfit = _misfit(triple, rule, types)
    if misfit:
      conflicts.append(Conflict("type", triple, None, misfit))
      continue
    both = [(triple, "functional"), *_mirror(triple, rule)]
    against = next(
      (
        found
        for one, kind in both
        if (found := _against(one, kind, rules, stands, of_subject, of_object))
      ),
      None,
    )
    if against:
      conflicts.append(Conflict(against[0], triple, against[1], "less confident"))
      continue
    kept.append(triple)
    for one, kind in both:
      key = _key(one)
      stands.add(key)
      of_subject.setdefault(key[:2], (kind, triple))
      of_object.setdefault(key[1:], (kind, triple))
  said = {_key(triple) for triple in kept}
  for triple in kept:
    for one, _ in _mirror(triple, rules.get(triple.relation, {})):
      key = _key(one)
      if key[:2] in asked and key not in said:
        said.add(key)
        implied.append(one)
  return kept, implied, conflicts


def read_types(path):
  """{entity: set of types} of a .tsv[.gz] with two columns, entity (name or id) and type, under a header.

  Raises:
    UserError: a line that is not that.
  """
  found = {}
  for number, line in files.lines(path):
    cells = line.split("\t")
    if len(cells) != 2 or not all(cells):
      raise UserError(f"{path}:{number}: expected an entity, a tab and a type, got {line[:60]!r}")
    if number == 1:
      if cells != ["entity", "type"]:
        raise UserError(f"{path}:1: expected the header entity, tab, type, got {line[:60]!r}")
      continue
    found.setdefault(cells[0], set()).add(cells[1])
  return found


def is_functional(rule):
  """Whether a subject of the relation has at most one object."""
  return rule.get("type") in ("1-1", "N-1")


def _key(triple):
  return normalise(triple.subject), triple.relation, normalise(triple.object)


def _mirror(triple, rule):
  """[(the same statement from its object's side, what makes it so)], or []."""
  if rule.get("symmetric"):
    return [
      (Triple(triple.object, triple.relation, triple.subject, triple.confidence, None), "symmetric")
    ]
  if rule.get("inverse"):
    return [
      (Triple(triple.object, rule["inverse"], triple.subject, triple.confidence, None), "inverse")
    ]
  return []


def _misfit(triple, rule, types):
  for column, entity in (("subject_type", triple.subject), ("object_type", triple.object)):
    wanted = rule.get(column)
    if wanted and entity in types and wanted not in types[entity]:
      return f"{entity} is {', '.join(sorted(types[entity]))}, not {wanted}"
  return None


def _against(triple, kind, rules, stands, of_subject, of_object):
  """(kind, what stands) that the triple contradicts, or None."""
  subject, relation, object = _key(triple)
  rule = rules.get(relation, {})
  if (subject, relation, object) in stands:
    return None
  other = of_subject.get((subject, relation)) if is_functional(rule) else None
  other = other or (of_object.get((relation, object)) if rule.get("type") == "1-1" else None)
  # two statements as they were made are against each other, or one of them is seen from its object's side
  return other and (other[0] if kind == "functional" else kind, other[1])

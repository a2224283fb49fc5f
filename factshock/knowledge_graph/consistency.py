"""Consistency of a graph: functional relations, inverse and symmetric ones, types.

Of triples that contradict each other the more confident one stays. A row of the relations file may
say, beside its `type` (1-1 and N-1: a subject has one object; 1-1: an object has one subject), the
relation that is its `inverse`, that it is `symmetric` (true), and a `subject_type` and an
`object_type` that its entities must have.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from factshock.predictions.accuracy import normalise
from factshock.runtime import files
from factshock.runtime.errors import UserError

RULE_COLUMNS = ("type", "inverse", "symmetric", "object_type", "subject_type")

Rules: TypeAlias = Mapping[str, Mapping[str, Any]]  # rows of the relations file by relation
Rule: TypeAlias = dict[str, Any]  # a row of the relations file
Types: TypeAlias = Mapping[str, Collection[str]]  # types of each entity
_Key: TypeAlias = tuple[str, str, str]  # a statement by normalised names

_End: TypeAlias = tuple[str, str]  # a subject and its relation, or a relation and its object


class Triple(NamedTuple):
  """Statement; `candidate` is its candidate's index, None where another triple implies it."""

  subject: str
  relation: str
  object: str
  confidence: float
  candidate: int | None


class Conflict(NamedTuple):
  """Statement that was dropped.

  Attributes:
    kind: "functional", "inverse", "symmetric" or "type".
    dropped: the statement.
    kept: the statement that it contradicts; None where a type does not fit.
    reason: why this one was dropped.
  """

  kind: str
  dropped: Triple
  kept: Triple | None
  reason: str


class Resolution(NamedTuple):
  """Triples that can stand together, what follows from them, and what was dropped."""

  kept: list[Triple]
  implied: list[Triple]
  conflicts: list[Conflict]


class _Statement(NamedTuple):
  """Triple as it was made ("functional"), or its mirror ("symmetric" or "inverse")."""

  triple: Triple
  kind: str


def complete_rules(relations: Rules) -> dict[str, Rule]:
  """Checks the columns that are read here, and fills in `inverse` on both sides.

  Args:
    relations: rows of the relations file by relation.

  Returns:
    Copies of the rows.

  Raises:
    UserError: an inverse that is unknown or has another inverse, or columns of a wrong kind.
  """
  rules = {name: dict(row) for name, row in relations.items()}
  for name, row in relations.items():
    _check_columns(name, row)
    inverse = row.get("inverse")
    if inverse is None:
      continue
    if inverse not in rules:
      raise UserError(
        f"relation {name!r}: expected one of the relations as its inverse, got {inverse!r}; add it "
        "or leave `inverse` out"
      )
    other = rules[inverse].setdefault("inverse", name)
    if other != name:
      raise UserError(
        f"relation {name!r}: its inverse {inverse!r} has the inverse {other!r}; expected {name!r}"
      )
  return rules


def _check_columns(name: str, row: Mapping[str, Any]) -> None:
  """Raises a UserError where a column of a relation's row is of a wrong kind."""
  symmetric = row.get("symmetric", False)
  if not isinstance(symmetric, bool):
    raise UserError(f"relation {name!r}: expected true or false in `symmetric`, got {symmetric!r}")
  for column in ("subject_type", "object_type", "inverse"):
    value = row.get(column)
    if value is None:
      continue
    if not isinstance(value, str) or not value:
      raise UserError(f"relation {name!r}: expected a text in `{column}`, got {value!r}")


def resolve(
  triples: Iterable[Triple],
  rules: Rules,
  types: Types,
  queries: Iterable[tuple[str, str]],
) -> Resolution:
  """Returns what of the triples can stand together.

  The triples are gone through from the most confident on; one that contradicts what stands already
  is dropped. Each kept triple also states its mirror in the inverse (or the same, symmetric)
  relation; mirrors of queries that were asked are implied triples.

  Args:
    triples: the accepted ones.
    rules: of `complete_rules`; relations that it lacks have no rule.
    types: types of each entity; an entity that it lacks fits everywhere.
    queries: (subject, relation) that were asked.
  """
  graph = _Graph(rules)
  kept: list[Triple] = []
  conflicts: list[Conflict] = []
  for triple in sorted(triples, key=_by_confidence):
    rule = rules.get(triple.relation, {})
    misfit = _type_misfit(triple, rule, types)
    if misfit:
      conflicts.append(Conflict("type", triple, None, misfit))
      continue
    statements = [_Statement(triple, "functional"), *_mirrors(triple, rule)]
    contradicted = graph.contradicted_by(statements)
    if contradicted:
      kept_triple, kind = contradicted
      conflicts.append(Conflict(kind, triple, kept_triple, "less confident"))
      continue
    kept.append(triple)
    graph.add(statements)
  return Resolution(kept, _implied(kept, rules, queries), conflicts)


def _by_confidence(triple: Triple) -> tuple[float, str, str, str]:
  """Returns the sorting key of triples: the most confident first, ties by their texts."""
  return -triple.confidence, triple.relation, triple.subject, triple.object


def _implied(
  kept: Iterable[Triple],
  rules: Rules,
  queries: Iterable[tuple[str, str]],
) -> list[Triple]:
  """Returns the mirrors of kept triples that answer a query and are not kept themselves."""
  query_keys = {(normalise(subject), relation) for subject, relation in queries}
  stated = {_key(triple) for triple in kept}
  implied: list[Triple] = []
  for triple in kept:
    rule = rules.get(triple.relation, {})
    for mirror, _ in _mirrors(triple, rule):
      key = _key(mirror)
      answers_query = key[:2] in query_keys
      if answers_query and key not in stated:
        stated.add(key)
        implied.append(mirror)
  return implied


class _Graph:
  """Statements that stand, by normalised names."""

  def __init__(self, rules: Rules) -> None:
    self.rules = rules
    self.keys: set[_Key] = set()
    # The first statement of a subject in a relation, and of a relation with an object: its kind,
    # and the triple that made it.
    self.by_subject: dict[_End, _Statement] = {}
    self.by_object: dict[_End, _Statement] = {}

  def add(self, statements: list[_Statement]) -> None:
    """Adds a triple, first of the statements, and its mirrors."""
    triple = statements[0].triple
    for statement in statements:
      subject, relation, object_ = _key(statement.triple)
      source = _Statement(triple, statement.kind)
      self.keys.add((subject, relation, object_))
      self.by_subject.setdefault((subject, relation), source)
      self.by_object.setdefault((relation, object_), source)

  def contradicted_by(self, statements: Iterable[_Statement]) -> _Statement | None:
    """Returns the triple that stands against statements, with the kind of conflict, or None."""
    for statement in statements:
      contradicted = self._contradicted(statement)
      if contradicted:
        return contradicted
    return None

  def _contradicted(self, statement: _Statement) -> _Statement | None:
    """Returns the triple that stands against one statement, with the kind of conflict, or None."""
    subject, relation, object_ = _key(statement.triple)
    rule = self.rules.get(relation, {})
    if (subject, relation, object_) in self.keys:
      return None
    other = None
    if is_functional(rule):
      other = self.by_subject.get((subject, relation))
    is_one_to_one = rule.get("type") == "1-1"
    if other is None and is_one_to_one:
      other = self.by_object.get((relation, object_))
    if other is None:
      return None
    # Both are as they were made, or one of them is seen from its object's side and gives the kind.
    kind = statement.kind
    if kind == "functional":
      kind = other.kind
    return _Statement(other.triple, kind)


def read_types(path: str) -> dict[str, set[str]]:
  """Reads the types of each entity from a .tsv[.gz].

  Args:
    path: two columns, entity (name or id) and type, under a header.

  Raises:
    UserError: a line that is not that.
  """
  types: dict[str, set[str]] = {}
  for line_number, line in files.lines(path):
    cells = line.split("\t")
    if len(cells) != 2 or not all(cells):
      raise UserError(
        f"{path}:{line_number}: expected an entity, a tab and a type, got {line[:60]!r}"
      )
    if line_number == 1:
      if cells != ["entity", "type"]:
        raise UserError(f"{path}:1: expected the header entity, tab, type, got {line[:60]!r}")
      continue
    entity, type_ = cells
    types.setdefault(entity, set()).add(type_)
  return types


def is_functional(rule: Mapping[str, Any]) -> bool:
  """Returns whether a subject of the relation has at most one object."""
  return rule.get("type") in ("1-1", "N-1")


def _key(triple: Triple) -> _Key:
  """Returns a triple by normalised names."""
  subject = normalise(triple.subject)
  object_ = normalise(triple.object)
  return subject, triple.relation, object_


def _mirrors(triple: Triple, rule: Mapping[str, Any]) -> list[_Statement]:
  """Returns the same statement from its object's side, where the relation has one."""
  if rule.get("symmetric"):
    kind = "symmetric"
    relation = triple.relation
  elif rule.get("inverse"):
    kind = "inverse"
    relation = rule["inverse"]
  else:
    return []
  mirror = Triple(triple.object, relation, triple.subject, triple.confidence, None)
  return [_Statement(mirror, kind)]


def _type_misfit(
  triple: Triple,
  rule: Mapping[str, Any],
  types: Types,
) -> str | None:
  """Returns which entity has not the type that its relation asks for, or None."""
  entities = {
    "subject_type": triple.subject,
    "object_type": triple.object,
  }
  for column, entity in entities.items():
    wanted = rule.get(column)
    if not wanted or entity not in types:
      continue
    if wanted not in types[entity]:
      known = ", ".join(sorted(types[entity]))
      return f"{entity} is {known}, not {wanted}"
  return None

"""RDF: N-Triples, N-Quads with a named graph a run and PROV-O, and Turtle of RDF 1.1 and of 1.2.

URIs are those of `nodes.py`; every label of a node, and of a relation, is an rdfs:label (P19
without a `relation_label` has none). Terms of our own are under urn:factshock:term:. Text is UTF-8
as it stands; quotes, backslashes and control characters are escaped.

**graph.nt** holds the accepted triples and the labels, and nothing else.

**graph.nq** holds, for a run with id ID:

- in the graph <urn:factshock:run:ID> what graph.nt holds, so that a query over it sees facts
  alone;
- in the graph <urn:factshock:run:ID:statements> a node a triple with rdf:subject, rdf:predicate,
  rdf:object and a confidence (and flag, where there are flags) of our own. This is RDF's own
  reification: every store gives a triple's confidence with plain SPARQL 1.1, which annotations of
  RDF 1.2 need a newer store for, and it needs no second and third URI a relation, as Wikidata's
  statement nodes do. It costs four lines a triple; rdf:type rdf:Statement, which follows from the
  domain of rdf:subject, is left out for its size. The nodes have names and are not blank, so that
  a file loaded twice adds nothing;
- in the default graph, in PROV-O, where the two graphs come from: the run (prov:Activity with
  times), the software (prov:SoftwareAgent), and the model with its checkpoint and the calibration
  it used (prov:Entity).

**graph.ttl** holds graph.nt's triples and the nodes with confidence and flags, of the same names as
in graph.nq, without named graphs and provenance. It is Turtle of RDF 1.1, which every RDF program
reads.

**graph_rdf12.ttl** holds graph.nt's triples with confidence and flags as RDF 1.2 annotations,
`s p o {| confidence 0.9 |}`, without provenance; it is half as long. Few programs read RDF 1.2 yet;
Oxigraph does, RDFLib 7 does not.
"""

import functools
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias

from factshock.knowledge_graph import nodes
from factshock.knowledge_graph.canonical import CanonicalRow, RowSource, Run
from factshock.knowledge_graph.nodes import Counts
from factshock.runtime import files
from factshock.runtime.errors import UserError

NT = "graph.nt"
NQ = "graph.nq"
TTL = "graph.ttl"
TTL_RDF12 = "graph_rdf12.ttl"
RUN = "urn:factshock:run:"
TERM = "urn:factshock:term:"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_RDFS = "http://www.w3.org/2000/01/rdf-schema#"
_PROV = "http://www.w3.org/ns/prov#"
_XSD = "http://www.w3.org/2001/XMLSchema#"

_LABEL = f"<{_RDFS}label>"
_DOUBLE = f"<{_XSD}double>"
_CONFIDENCE = f"<{TERM}confidence>"
_FLAG = f"<{TERM}flag>"
_SUBJECT = f"<{_RDF}subject>"
_PREDICATE = f"<{_RDF}predicate>"
_OBJECT = f"<{_RDF}object>"
_ESCAPED = re.compile('["\\\\\x00-\x1f\x7f]')
_NAMES = {
  '"': '\\"',
  "\\": "\\\\",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
}


class _Statement(NamedTuple):
  """Triple of terms of an accepted row; `serial` counts the accepted rows from 1."""

  row: CanonicalRow
  subject: str
  predicate: str
  object: str
  serial: int

  @property
  def triple(self) -> str:
    """Returns the triple without its end."""
    return f"{self.subject} {self.predicate} {self.object}"

  @property
  def flags(self) -> list[str]:
    """Returns the flags of the row."""
    return self.row.get("flags") or []


# A property of PROV-O or of ours, and its value: a literal, URI, class of PROV-O; None: no line.
_Property: TypeAlias = tuple[str, str | None]


def write_nt(
  folder: str,
  rows: RowSource,
  run: Run,
) -> tuple[list[str], Counts]:
  """Writes graph.nt.

  Args:
    folder: made where it is missing.
    rows: returns a new iterator over canonical rows.
    run: not used: the format has no place for it.

  Returns:
    (paths written, counts).
  """
  path = os.path.join(folder, NT)

  def line_of(statement: _Statement) -> str:
    return f"{statement.triple} .\n"

  return _write(path, rows, line_of, " .\n")


def write_nq(
  folder: str,
  rows: RowSource,
  run: Run,
) -> tuple[list[str], Counts]:
  """Writes graph.nq, with the provenance of `run` first.

  Args:
    folder: made where it is missing.
    rows: returns a new iterator over canonical rows.
    run: where the rows come from.

  Returns:
    (paths written, counts).

  Raises:
    UserError: a row of another run.
  """
  graph, _ = graph_uris(run["id"])
  path = os.path.join(folder, NQ)
  return _write(
    path,
    rows,
    lambda statement: _quads(statement, run["id"]),
    f" <{graph}> .\n",
    provenance(run),
  )


def _quads(statement: _Statement, run_id: str) -> str:
  """Returns the lines of a row: its triple, and the node with what is known of it."""
  row = statement.row
  _check_run(statement, run_id)
  graph, statements = graph_uris(run_id)
  node = f"<{statements}:{statement.serial}>"
  end = f" <{statements}> .\n"
  flags = [f"{node} {_FLAG} {literal(flag)}{end}" for flag in statement.flags]
  return "".join(
    (
      f"{statement.triple} <{graph}> .\n",
      f"{node} {_SUBJECT} {statement.subject}{end}",
      f"{node} {_PREDICATE} {statement.predicate}{end}",
      f"{node} {_OBJECT} {statement.object}{end}",
      f"{node} {_CONFIDENCE} {_confidence(row, _DOUBLE)}{end}",
      *flags,
    )
  )


def write_ttl(
  folder: str,
  rows: RowSource,
  run: Run,
) -> tuple[list[str], Counts]:
  """Writes graph.ttl (RDF 1.1).

  Args:
    folder: made where it is missing.
    rows: returns a new iterator over canonical rows.
    run: names the nodes of statements.

  Returns:
    (paths written, counts).

  Raises:
    UserError: a row of another run.
  """

  def lines_of(statement: _Statement) -> str:
    _check_run(statement, run["id"])
    flags = "".join(f" ; f:flag {literal(flag)}" for flag in statement.flags)
    return (
      f"{statement.triple} .\n"
      f"s:{statement.serial} r:subject {statement.subject} ; r:predicate {statement.predicate} ; "
      f"r:object {statement.object} ; f:confidence {_confidence(statement.row, 'x:double')}{flags} "
      ".\n"
    )

  _, statements = graph_uris(run["id"])
  begin = _prefixes(f=TERM, r=_RDF, s=f"{statements}:", x=_XSD)
  return _write(os.path.join(folder, TTL), rows, lines_of, " .\n", [begin])


def write_ttl_rdf12(
  folder: str,
  rows: RowSource,
  run: Run,
) -> tuple[list[str], Counts]:
  """Writes graph_rdf12.ttl (RDF 1.2).

  Args:
    folder: made where it is missing.
    rows: returns a new iterator over canonical rows.
    run: not used: the file is without provenance.

  Returns:
    (paths written, counts).
  """

  def annotated(statement: _Statement) -> str:
    flags = "".join(f" ; f:flag {literal(flag)}" for flag in statement.flags)
    confidence = _confidence(statement.row, "x:double")
    return f"{statement.triple} {{| f:confidence {confidence}{flags} |}} .\n"

  begin = f'VERSION "1.2"\n{_prefixes(f=TERM, x=_XSD)}'
  path = os.path.join(folder, TTL_RDF12)
  return _write(path, rows, annotated, " .\n", [begin])


def _prefixes(**uris: str) -> str:
  """Returns the lines of Turtle that give URIs short names."""
  return "".join(f"PREFIX {name}: <{uri}>\n" for name, uri in uris.items())


def _check_run(statement: _Statement, run_id: str) -> None:
  """Raises a UserError where a row is of another run."""
  if statement.row["run"] != run_id:
    raise UserError(
      f"accepted row {statement.serial}: expected rows of the run {run_id!r}, got one of "
      f"{statement.row['run']!r}; write the rows of each run apart"
    )


@functools.lru_cache(maxsize=8)  # asked of every row
def graph_uris(run_id: str) -> tuple[str, str]:
  """Returns the URIs of the graph of a run's facts, and of that of the statements about them."""
  graph = RUN + urllib.parse.quote(run_id, safe="")
  return graph, f"{graph}:statements"


def provenance(run: Run) -> Iterator[str]:
  """Yields the PROV-O lines (N-Triples) of a run; what is None is left out."""
  graphs = graph_uris(run["id"])
  activity = f"{graphs[0]}:extraction"
  agent = _named("software", run["software"], run.get("revision"))
  model = _named("model", run["model"], run.get("checkpoint"))
  calibration = _named("calibration", run["calibration"])
  for graph in graphs:
    of_graph = [
      ("type", "Entity"),
      ("wasGeneratedBy", activity),
      ("wasAttributedTo", agent),
      ("wasDerivedFrom", model),
      ("generatedAtTime", _time(run.get("ended"))),
    ]
    yield from _lines(graph, of_graph)
  of_activity = [
    ("type", "Activity"),
    ("wasAssociatedWith", agent),
    ("used", model),
    ("used", calibration),
    ("startedAtTime", _time(run.get("started"))),
    ("endedAtTime", _time(run.get("ended"))),
    ("targetPrecision", _number(run.get("precision"))),
  ]
  yield from _lines(activity, of_activity)
  yield from _lines(agent, _agent_properties(run))
  yield from _lines(model, _model_properties(run))
  of_calibration = [
    ("type", "Entity"),
    ("label", literal(run["calibration"])),
  ]
  yield from _lines(calibration, of_calibration)


def _agent_properties(run: Run) -> list[_Property]:
  """Returns the properties of the software."""
  return [
    ("type", "Agent"),
    ("type", "SoftwareAgent"),
    ("label", literal(run["software"])),
    ("revision", _text(run.get("revision"))),
  ]


def _model_properties(run: Run) -> list[_Property]:
  """Returns the properties of the model."""
  weights = run.get("mixing_weights")
  weights_text = None if weights is None else json.dumps(weights)
  return [
    ("type", "Entity"),
    ("label", literal(run["model"])),
    ("checkpoint", _text(run.get("checkpoint"))),
    ("mixingWeights", _text(weights_text)),
  ]


def literal(text: str) -> str:
  """Returns a text as a literal of N-Triples."""
  return f'"{_ESCAPED.sub(_escape, text)}"'


def _write(
  path: str,
  rows: RowSource,
  lines_of: Callable[[_Statement], str],
  end: str,
  first: Iterable[str] = (),
) -> tuple[list[str], Counts]:
  """Writes the lines of every accepted row, and the labels not yet written.

  Args:
    path: the file.
    rows: returns a new iterator over canonical rows.
    lines_of: returns the lines of a row.
    end: of the lines of labels.
    first: lines that come before all.

  Returns:
    (paths written, counts).
  """
  counts = nodes.new_counts()
  labels = _Labels()
  with files.atomic_write(path) as file:
    file.writelines(first)
    for edge in nodes.edges(rows(), counts):
      statement = _statement(edge, counts["rows"])
      file.write(lines_of(statement))
      for node, label in _term_labels(statement):
        if label is not None and labels.add(node, label):
          file.write(f"{node} {_LABEL} {literal(label)}{end}")
  return [path], counts


def _statement(edge: nodes.Edge, serial: int) -> _Statement:
  """Returns the terms of an accepted row."""
  relation = edge.row["relation"]
  return _Statement(
    edge.row,
    f"<{nodes.uri(edge.subject)}>",
    f"<{nodes.relation_uri(relation)}>",
    f"<{nodes.uri(edge.object)}>",
    serial,
  )


def _term_labels(statement: _Statement) -> list[tuple[str, str | None]]:
  """Returns the terms of a row with their labels."""
  row = statement.row
  return [
    (statement.subject, row["subject"]),
    (statement.object, row["object"]),
    (statement.predicate, _relation_label(statement)),
  ]


def _relation_label(statement: _Statement) -> str | None:
  """Returns the label of a statement's relation; one with a URI of others may have none."""
  label = statement.row.get("relation_label")
  if label:
    return label
  is_minted = statement.predicate.startswith(f"<{nodes.RELATION}")
  return statement.row["relation"] if is_minted else None


class _Labels:
  """Labels that nodes have had; most nodes have one."""

  def __init__(self) -> None:
    self.first: dict[str, str] = {}
    self.others: set[tuple[str, str]] = set()

  def add(self, node: str, label: str) -> bool:
    """Adds a node's label; returns whether it has not had it before."""
    first = self.first.get(node)
    if first is None:
      self.first[node] = label
      return True
    if first == label or (node, label) in self.others:
      return False
    self.others.add((node, label))
    return True


def _lines(subject: str, properties: Iterable[_Property]) -> Iterator[str]:
  """Yields the lines of a subject's properties; a value that begins with a quote is a literal."""
  for name, value in properties:
    if value is None:
      continue
    predicate = _TERMS.get(name, _PROV + name)
    if name == "type":
      value_term = f"<{_PROV}{value}>"
    elif value.startswith('"'):
      value_term = value
    else:
      value_term = f"<{value}>"
    yield f"<{subject}> <{predicate}> {value_term} .\n"


_TERMS = {
  "type": f"{_RDF}type",
  "label": f"{_RDFS}label",
  **{name: TERM + name for name in ("checkpoint", "mixingWeights", "revision", "targetPrecision")},
}


def _named(kind: str, *names: str | None) -> str:
  """Returns a URI of ours made of a kind and names; None is left out."""
  known = [name for name in names if name is not None]
  quoted = [urllib.parse.quote(name, safe="") for name in known]
  return ":".join([f"urn:factshock:{kind}", *quoted])


def _text(text: str | None) -> str | None:
  """Returns a text as a literal, None for None."""
  if text is None:
    return None
  return literal(text)


def _time(text: str | None) -> str | None:
  """Returns a time as a literal, None for None."""
  if text is None:
    return None
  return f"{literal(text)}^^<{_XSD}dateTime>"


def _number(value: float | None) -> str | None:
  """Returns a number as a literal, None for None."""
  if value is None:
    return None
  return f'"{value!r}"^^<{_XSD}double>'


def _confidence(row: CanonicalRow, double: str) -> str:
  """Returns a row's confidence as a literal; `double` is the term of its type."""
  return f'"{row["confidence"]!r}"^^{double}'


def _escape(match: re.Match[str]) -> str:
  """Returns the escape of a character."""
  letter = match[0]
  return _NAMES.get(letter) or f"\\u{ord(letter):04X}"

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

import contextlib
import functools
import itertools
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TypeAlias

from factshock.knowledge_graph import nodes
from factshock.knowledge_graph.batches import Add, Batch, Edges
from factshock.knowledge_graph.canonical import Run
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
_MINTED = f"<{nodes.RELATION}"
_NAMES = {
  '"': '\\"',
  "\\": "\\\\",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
}


# Returns the lines of an accepted row of its subject, predicate and object as terms, its confidence
# as a literal's text, its flags, and its number among the accepted rows, from 1.
_LinesOf: TypeAlias = Callable[[str, str, str, str, Sequence[str] | None, int], str]

# A property of PROV-O or of ours, and its value: a literal, URI, class of PROV-O; None: no line.
_Property: TypeAlias = tuple[str, str | None]


@contextlib.contextmanager
def write_nt(
  folder: str,
  run: Run,
  counts: Counts,
) -> Generator[Add]:
  """Writes graph.nt.

  Args:
    folder: made where it is missing.
    run: not used: the format has no place for it.
    counts: of what is written.
  """
  with _write(os.path.join(folder, NT), counts, _triple, " .\n") as add:
    yield add


def _triple(
  subject: str,
  predicate: str,
  object_: str,
  confidence: str,
  flags: Sequence[str] | None,
  serial: int,
) -> str:
  """Returns the line of a row in N-Triples."""
  return f"{subject} {predicate} {object_} .\n"


@contextlib.contextmanager
def write_nq(
  folder: str,
  run: Run,
  counts: Counts,
) -> Generator[Add]:
  """Writes graph.nq, with the provenance of `run` first.

  Args:
    folder: made where it is missing.
    run: where the rows come from; a UserError is raised at a row of another.
    counts: of what is written.
  """
  graph, statements = graph_uris(run["id"])
  end = f" <{statements}> .\n"

  def quads(
    subject: str,
    predicate: str,
    object_: str,
    confidence: str,
    flags: Sequence[str] | None,
    serial: int,
  ) -> str:
    node = f"<{statements}:{serial}>"
    flag_lines = [f"{node} {_FLAG} {literal(flag)}{end}" for flag in flags or ()]
    return (
      f"{subject} {predicate} {object_} <{graph}> .\n"
      f"{node} {_SUBJECT} {subject}{end}"
      f"{node} {_PREDICATE} {predicate}{end}"
      f"{node} {_OBJECT} {object_}{end}"
      f'{node} {_CONFIDENCE} "{confidence}"^^{_DOUBLE}{end}'
    ) + "".join(flag_lines)

  path = os.path.join(folder, NQ)
  with _write(path, counts, quads, f" <{graph}> .\n", provenance(run), run["id"]) as add:
    yield add


@contextlib.contextmanager
def write_ttl(
  folder: str,
  run: Run,
  counts: Counts,
) -> Generator[Add]:
  """Writes graph.ttl (RDF 1.1).

  Args:
    folder: made where it is missing.
    run: names the nodes of statements; a UserError is raised at a row of another.
    counts: of what is written.
  """

  def statements(
    subject: str,
    predicate: str,
    object_: str,
    confidence: str,
    flags: Sequence[str] | None,
    serial: int,
  ) -> str:
    return (
      f"{subject} {predicate} {object_} .\n"
      f"s:{serial} r:subject {subject} ; r:predicate {predicate} ; r:object {object_} ; "
      f'f:confidence "{confidence}"^^x:double{_turtle_flags(flags)} .\n'
    )

  begin = _prefixes(f=TERM, r=_RDF, s=f"{graph_uris(run['id'])[1]}:", x=_XSD)
  path = os.path.join(folder, TTL)
  with _write(path, counts, statements, " .\n", [begin], run["id"]) as add:
    yield add


@contextlib.contextmanager
def write_ttl_rdf12(
  folder: str,
  run: Run,
  counts: Counts,
) -> Generator[Add]:
  """Writes graph_rdf12.ttl (RDF 1.2).

  Args:
    folder: made where it is missing.
    run: not used: the file is without provenance.
    counts: of what is written.
  """
  begin = f'VERSION "1.2"\n{_prefixes(f=TERM, x=_XSD)}'
  with _write(os.path.join(folder, TTL_RDF12), counts, _annotated, " .\n", [begin]) as add:
    yield add


def _annotated(
  subject: str,
  predicate: str,
  object_: str,
  confidence: str,
  flags: Sequence[str] | None,
  serial: int,
) -> str:
  """Returns the line of a row in Turtle of RDF 1.2."""
  return (
    f'{subject} {predicate} {object_} {{| f:confidence "{confidence}"^^x:double'
    f"{_turtle_flags(flags)} |}} .\n"
  )


def _turtle_flags(flags: Sequence[str] | None) -> str:
  """Returns flags as what follows a confidence in Turtle."""
  return "".join(f" ; f:flag {literal(flag)}" for flag in flags) if flags else ""


def _prefixes(**uris: str) -> str:
  """Returns the lines of Turtle that give URIs short names."""
  return "".join(f"PREFIX {name}: <{uri}>\n" for name, uri in uris.items())


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


@contextlib.contextmanager
def _write(
  path: str,
  counts: Counts,
  lines_of: _LinesOf,
  end: str,
  first: Iterable[str] = (),
  run_id: str | None = None,
) -> Generator[Add]:
  """Writes the lines of every accepted row, and after them the labels not yet written.

  Args:
    path: the file.
    counts: of what is written.
    lines_of: returns the lines of a row.
    end: of the lines of labels.
    first: lines that come before all.
    run_id: the run that rows must be of, or None: any.
  """
  labels = _Labels()
  with files.atomic_write(path) as file:
    file.writelines(first)

    def add(batch: Batch) -> None:
      edges = batch.edges
      if edges and run_id not in (None, edges.run):
        raise UserError(
          f"accepted row {counts['rows'] + 1}: expected rows of the run {run_id!r}, got one of "
          f"{edges.run!r}; write the rows of each run apart"
        )
      lines = _lines_and_labels(edges, counts["rows"] + 1, lines_of, labels, end)
      nodes.add_counts(counts, edges.ends)
      file.write("".join(lines))

    yield add


def _lines_and_labels(
  edges: Edges,
  serial: int,
  lines_of: _LinesOf,
  labels: "_Labels",
  end: str,
) -> list[str]:
  """Returns the lines of rows from a number on, after each those of its labels that are new."""
  subjects = list(map(_node_term, edges.ends.subject))
  predicates = list(map(_relation_term, edges.relation))
  objects = list(map(_node_term, edges.ends.object))
  rows = map(
    lines_of,
    subjects,
    predicates,
    objects,
    map(repr, edges.confidence),
    edges.flags,
    itertools.count(serial),
  )
  relation_labels = map(_label_of_relation, predicates, edges.relation, edges.relation_label)
  of_terms = zip(rows, subjects, edges.subject, objects, edges.object, predicates, relation_labels)
  lines: list[str] = []
  first = labels.first
  for row, subject, subject_label, object_, object_label, predicate, relation_label in of_terms:
    lines.append(row)
    if first.get(subject) != subject_label and labels.add(subject, subject_label):
      lines.append(f"{subject} {_LABEL} {literal(subject_label)}{end}")
    if first.get(object_) != object_label and labels.add(object_, object_label):
      lines.append(f"{object_} {_LABEL} {literal(object_label)}{end}")
    if relation_label is not None and labels.add(predicate, relation_label):
      lines.append(f"{predicate} {_LABEL} {literal(relation_label)}{end}")
  return lines


@functools.lru_cache(maxsize=1 << 16)  # a subject's rows stand together; some objects are frequent
def _node_term(key: str) -> str:
  """Returns the term of the node with a key."""
  return f"<{nodes.uri(key)}>"


@functools.lru_cache(maxsize=1 << 12)
def _relation_term(relation: str) -> str:
  """Returns the term of a relation."""
  return f"<{nodes.relation_uri(relation)}>"


def _label_of_relation(
  predicate: str,
  relation: str,
  label: str | None,
) -> str | None:
  """Returns the label of a relation by its term; one with a URI of others may have none."""
  if label:
    return label
  return relation if predicate.startswith(_MINTED) else None


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


def _escape(match: re.Match[str]) -> str:
  """Returns the escape of a character."""
  letter = match[0]
  return _NAMES.get(letter) or f"\\u{ord(letter):04X}"

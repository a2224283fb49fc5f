"""RDF: N-Triples, N-Quads with a named graph a run and PROV-O provenance, and RDF 1.2 Turtle.

URIs are those of `nodes.py`; every label of a node, and of a relation, is an rdfs:label (P19 without a
`relation_label` has none). Terms of our own are under urn:factshock:term:. Text is UTF-8 as it stands; quotes,
backslashes and control characters are escaped.

**graph.nt** holds the accepted triples and the labels, and nothing else.

**graph.nq** holds, for a run with id ID:

- in the graph <urn:factshock:run:ID> what graph.nt holds, so that a query over it sees facts alone;
- in the graph <urn:factshock:run:ID:statements> a node a triple with rdf:subject, rdf:predicate, rdf:object
  and a confidence (and flag, where there are flags) of our own. This is RDF's own reification: every store
  gives a triple's confidence with plain SPARQL 1.1, which annotations of RDF 1.2 need a newer store for, and
  it needs no second and third URI a relation, as Wikidata's statement nodes do. It costs four lines a triple;
  rdf:type rdf:Statement, which follows from the domain of rdf:subject, is left out for its size. The nodes
  have names and are not blank, so that a file loaded twice adds nothing;
- in the default graph, in PROV-O, where the two graphs come from: the run (prov:Activity with times), the
  software (prov:SoftwareAgent), and the model with its checkpoint and the calibration it used (prov:Entity).

**graph.ttl** holds graph.nt's triples with confidence and flags as RDF 1.2 annotations, `s p o {| confidence
0.9 |}`, without provenance; it is far smaller than graph.nq. Few programs read RDF 1.2 yet; Oxigraph does.
"""

import json
import os
import re
import urllib.parse

from factshock.knowledge_graph import nodes
from factshock.runtime import files
from factshock.runtime.errors import UserError

NT = "graph.nt"
NQ = "graph.nq"
TTL = "graph.ttl"
RUN = "urn:factshock:run:"
TERM = "urn:factshock:term:"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_RDFS = "http://www.w3.org/2000/01/rdf-schema#"
_PROV = "http://www.w3.org/ns/prov#"
_XSD = "http://www.w3.org/2001/XMLSchema#"

_LABEL = f"<{_RDFS}label>"
_CONFIDENCE = f"<{TERM}confidence>"
_FLAG = f"<{TERM}flag>"
_SUBJECT, _PREDICATE, _OBJECT = (f"<{_RDF}{name}>" for name in ("subject", "predicate", "object"))
_ESCAPED = re.compile('["\\\\\x00-\x1f\x7f]')
_NAMES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def write_nt(folder, rows, run):
  """Writes graph.nt; returns (paths, counts)."""
  return _write(
    os.path.join(folder, NT), rows, lambda row, s, p, o, number: f"{s} {p} {o} .\n", " .\n"
  )


def write_nq(folder, rows, run):
  """Writes graph.nq, with the provenance of `run` first; returns (paths, counts).

  Raises:
    UserError: a row of another run.
  """
  graph, statements = graph_uris(run["id"])
  end = f" <{graph}> .\n"
  of_statement = f" <{statements}> .\n"

  def quads(row, s, p, o, number):
    if row["run"] != run["id"]:
      raise UserError(
        f"accepted row {number}: expected rows of the run {run['id']!r}, got one of {row['run']!r}; "
        "write the rows of each run apart"
      )
    node = f"<{statements}:{number}>"
    flags = "".join(
      f"{node} {_FLAG} {literal(flag)}{of_statement}" for flag in row.get("flags") or ()
    )
    return (
      f"{s} {p} {o}{end}{node} {_SUBJECT} {s}{of_statement}{node} {_PREDICATE} {p}{of_statement}"
      f"{node} {_OBJECT} {o}{of_statement}{node} {_CONFIDENCE} {_double(row)}{of_statement}{flags}"
    )

  return _write(os.path.join(folder, NQ), rows, quads, end, provenance(run))


def write_ttl(folder, rows, run):
  """Writes graph.ttl (RDF 1.2); returns (paths, counts)."""

  def annotated(row, s, p, o, number):
    flags = "".join(f" ; f:flag {literal(flag)}" for flag in row.get("flags") or ())
    return f"{s} {p} {o} {{| f:confidence {_double(row, 'x:double')}{flags} |}} .\n"

  begin = f'VERSION "1.2"\nPREFIX f: <{TERM}>\nPREFIX x: <{_XSD}>\n'
  return _write(os.path.join(folder, TTL), rows, annotated, " .\n", [begin])


def graph_uris(run):
  """(URI of the graph of the facts, URI of the graph of the statements about them) of a run's id."""
  graph = RUN + urllib.parse.quote(run, safe="")
  return graph, f"{graph}:statements"


def provenance(run):
  """Yields the PROV-O lines (N-Triples) of a run, a dict as of `formats.write`; what is None is left out."""
  graphs = graph_uris(run["id"])
  activity = f"{graph_uris(run['id'])[0]}:extraction"
  agent = _named("software", run["software"], run.get("revision"))
  model = _named("model", run["model"], run.get("checkpoint"))
  calibration = _named("calibration", run["calibration"])
  for graph in graphs:
    yield from _lines(
      graph,
      [
        ("type", "Entity"),
        ("wasGeneratedBy", activity),
        ("wasAttributedTo", agent),
        ("wasDerivedFrom", model),
        ("generatedAtTime", _time(run.get("ended"))),
      ],
    )
  yield from _lines(
    activity,
    [
      ("type", "Activity"),
      ("wasAssociatedWith", agent),
      ("used", model),
      ("used", calibration),
      ("startedAtTime", _time(run.get("started"))),
      ("endedAtTime", _time(run.get("ended"))),
      ("targetPrecision", _number(run.get("precision"))),
    ],
  )
  yield from _lines(
    agent,
    [
      ("type", "Agent"),
      ("type", "SoftwareAgent"),
      ("label", _text(run["software"])),
      ("revision", _text(run.get("revision"))),
    ],
  )
  weights = run.get("mixing_weights")
  yield from _lines(
    model,
    [
      ("type", "Entity"),
      ("label", _text(run["model"])),
      ("checkpoint", _text(run.get("checkpoint"))),
      ("mixingWeights", None if weights is None else _text(json.dumps(weights))),
    ],
  )
  yield from _lines(calibration, [("type", "Entity"), ("label", _text(run["calibration"]))])


def literal(text):
  """A text as a literal of N-Triples."""
  return f'"{_ESCAPED.sub(_escaped, text)}"'


def _write(path, rows, lines_of, end, first=()):
  """Writes `first`, and for every accepted row `lines_of` it and the labels not yet written, each with `end`."""
  counts = nodes.new_counts()
  labels = {}
  with files.atomic_write(path) as file:
    file.writelines(first)
    for row, subject, object_ in nodes.edges(rows(), counts):
      relation_uri = nodes.relation_uri(row["relation"])
      s = f"<{nodes.uri(subject)}>"
      p = f"<{relation_uri}>"
      o = f"<{nodes.uri(object_)}>"
      file.write(lines_of(row, s, p, o, counts["rows"]))
      minted = row["relation"] if relation_uri.startswith(nodes.RELATION) else None
      for node, label in (
        (s, row["subject"]),
        (o, row["object"]),
        (p, row.get("relation_label") or minted),
      ):
        if label is not None and _is_new(labels, node, label):
          file.write(f"{node} {_LABEL} {literal(label)}{end}")
  return [path], counts


def _is_new(labels, node, label):
  """Whether a node has not had this label before; `labels` remembers it: {node: first label, (node, label): label}."""
  first = labels.get(node)
  if first is None:
    labels[node] = label
  elif first == label or (node, label) in labels:
    return False
  else:
    labels[node, label] = label
  return True


def _lines(subject, pairs):
  """Lines of a subject; a value is a literal (begins with a quote), a URI, a class of PROV-O, or None: no line."""
  for name, value in pairs:
    if value is not None:
      value = f"{_PROV}{value}" if name == "type" else value
      value = value if value.startswith('"') else f"<{value}>"
      yield f"<{subject}> <{_TERMS.get(name, _PROV + name)}> {value} .\n"


_TERMS = {
  "type": f"{_RDF}type",
  "label": f"{_RDFS}label",
  **{name: TERM + name for name in ("checkpoint", "mixingWeights", "revision", "targetPrecision")},
}


def _named(kind, *parts):
  quoted = [urllib.parse.quote(part, safe="") for part in parts if part is not None]
  return ":".join([f"urn:factshock:{kind}", *quoted])


def _text(text):
  return None if text is None else literal(text)


def _time(text):
  return None if text is None else f"{literal(text)}^^<{_XSD}dateTime>"


def _number(value):
  return None if value is None else f'"{value!r}"^^<{_XSD}double>'


def _double(row, kind=f"<{_XSD}double>"):
  return f'"{row["confidence"]!r}"^^{kind}'


def _escaped(match):
  return _NAMES.get(match[0]) or f"\\u{ord(match[0]):04X}"

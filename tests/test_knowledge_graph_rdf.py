"""RDF of triples: Oxigraph and RDFLib read back every label, triple, confidence and where the
triples come from.
"""

import os
import re

import graph_rows
import pytest
from graph_rows import NASTY, RUN, row, some_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.knowledge_graph import nodes, rdf
from factshock.runtime.errors import UserError

NASTY_ROWS = [
  row(label, NASTY[number - 3], NASTY[-number - 1], confidence=number / 100)
  for number, label in enumerate(NASTY)
]
GRAPH, STATEMENTS = "urn:factshock:run:run%201%2Fa", "urn:factshock:run:run%201%2Fa:statements"
SYNTAX, SCHEMA = (
  "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
  "http://www.w3.org/2000/01/rdf-schema#",
)
ENDS = ("subject", "predicate", "object")
PROV, TERM = "http://www.w3.org/ns/prov#", "urn:factshock:term:"


def written(folder, name, rows, run=RUN):
  [path], counts = graph_rows.write(name, folder, rows, run)
  return path, counts


def uris(rows):
  """(subject, relation, object) URIs of rows, with the confidence of each."""
  return [
    (nodes.uri(s), nodes.relation_uri(found["relation"]), nodes.uri(o), found["confidence"])
    for found, s, o in graph_rows.edges(rows)[0]
  ]


def labelled(rows):
  """The set of (URI, label) that the rows give; a relation that is an id is no label."""
  labels = set()
  for found, (subject, relation, object_, _) in zip(rows, uris(rows)):
    labels |= {(subject, found["subject"]), (object_, found["object"])}
    if relation.startswith(nodes.RELATION):
      labels.add((relation, found["relation"]))
  return labels


def oxigraph(path, rdf_format):
  """List of (subject, predicate, object, graph) as Oxigraph reads a file, terms as their values."""
  pyoxigraph = pytest.importorskip(
    "pyoxigraph", reason="pyoxigraph is not installed (extra [graph])"
  )
  value = lambda term: getattr(term, "value", term)
  return [
    tuple(map(value, (quad.subject, quad.predicate, quad.object, quad.graph_name)))
    for quad in pyoxigraph.parse(path=path, format=getattr(pyoxigraph.RdfFormat, rdf_format))
  ]


def split(quads):
  """(set of triples, set of (URI, label)) of quads of facts."""
  return (
    {quad[:3] for quad in quads if quad[1] != SCHEMA + "label"},
    {(quad[0], quad[2]) for quad in quads if quad[1] == SCHEMA + "label"},
  )


@settings(max_examples=60, deadline=None)
@given(rows=some_rows())
def test_oxigraph_reads_n_triples(tmp_path_factory, rows):
  path, counts = written(tmp_path_factory.mktemp("nt"), "nt", rows)
  quads = oxigraph(path, "N_TRIPLES")
  assert split(quads) == ({triple[:3] for triple in uris(rows)}, labelled(rows))
  assert counts["rows"] == len(rows) and len(quads) == len(rows) + len(labelled(rows))


def test_rdflib_reads_n_triples(tmp_path):
  rdflib = pytest.importorskip("rdflib", reason="rdflib is not installed (extra [graph])")
  path, _ = written(tmp_path, "nt", NASTY_ROWS)
  found = rdflib.Graph().parse(path, format="nt")
  triples = {triple[:3] for triple in uris(NASTY_ROWS)}
  assert split([tuple(map(str, triple)) for triple in found]) == (triples, labelled(NASTY_ROWS))


@settings(max_examples=60, deadline=None)
@given(rows=some_rows())
def test_oxigraph_reads_n_quads_by_graph(tmp_path_factory, rows):
  path, _ = written(tmp_path_factory.mktemp("nq"), "nq", rows)
  quads = oxigraph(path, "N_QUADS")
  facts = [quad for quad in quads if quad[3] == GRAPH]
  assert split(facts) == ({triple[:3] for triple in uris(rows)}, labelled(rows))
  of_nodes = {}
  for node, predicate, value, _ in (quad for quad in quads if quad[3] == STATEMENTS):
    of_nodes.setdefault(node, {})[predicate.split("#")[-1].split(":")[-1]] = value
  assert [
    (found["subject"], found["predicate"], found["object"], float(found["confidence"]))
    for found in of_nodes.values()
  ] == uris(rows)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # RDFLib's own use of its old names
def test_confidences_are_had_by_plain_sparql(tmp_path):
  rdflib = pytest.importorskip("rdflib", reason="rdflib is not installed (extra [graph])")
  path, _ = written(tmp_path, "nq", NASTY_ROWS)
  query = """SELECT ?s ?p ?o ?c ?model WHERE {
    GRAPH ?run { ?s ?p ?o }
    GRAPH ?statements {
      ?node rdf:subject ?s ; rdf:predicate ?p ; rdf:object ?o ; <urn:factshock:term:confidence> ?c }
    ?run prov:wasGeneratedBy/prov:used ?used . ?statements prov:wasGeneratedBy/prov:used ?used .
    ?used <urn:factshock:term:checkpoint> ?model }"""
  found = rdflib.Dataset()
  found.parse(path, format="nquads")
  answers = found.query(query, initNs={"prov": rdflib.PROV, "rdf": rdflib.RDF})
  rows = [
    (str(s), str(p), str(o), confidence.toPython(), str(model))
    for s, p, o, confidence, model in answers
  ]
  assert sorted(rows) == sorted((*triple, "ab12") for triple in uris(NASTY_ROWS))


def test_provenance_of_a_run(tmp_path):
  path, _ = written(tmp_path, "nq", [row()])
  found = {quad[:3] for quad in oxigraph(path, "N_QUADS") if "urn" not in str(quad[3])}
  model, activity = "urn:factshock:model:t5%20base:ab12", GRAPH + ":extraction"
  agent = "urn:factshock:software:factshock%200.1.0:0123abc%2B"
  assert found == {
    *(
      (graph, *rest)
      for graph in (GRAPH, STATEMENTS)
      for rest in (
        (SYNTAX + "type", PROV + "Entity"),
        (PROV + "wasGeneratedBy", activity),
        (PROV + "wasAttributedTo", agent),
        (PROV + "wasDerivedFrom", model),
        (PROV + "generatedAtTime", RUN["ended"]),
      )
    ),
    (activity, SYNTAX + "type", PROV + "Activity"),
    (activity, PROV + "wasAssociatedWith", agent),
    (activity, PROV + "used", model),
    (activity, PROV + "used", "urn:factshock:calibration:dev-1"),
    (activity, PROV + "startedAtTime", RUN["started"]),
    (activity, PROV + "endedAtTime", RUN["ended"]),
    (activity, "urn:factshock:term:targetPrecision", "0.9"),
    (agent, SYNTAX + "type", PROV + "Agent"),
    (agent, SYNTAX + "type", PROV + "SoftwareAgent"),
    (agent, SCHEMA + "label", "factshock 0.1.0"),
    (agent, "urn:factshock:term:revision", "0123abc+"),
    (model, SYNTAX + "type", PROV + "Entity"),
    (model, SCHEMA + "label", "t5 base"),
    (model, "urn:factshock:term:checkpoint", "ab12"),
    (model, "urn:factshock:term:mixingWeights", "[0.5, 0.5]"),
    ("urn:factshock:calibration:dev-1", SYNTAX + "type", PROV + "Entity"),
    ("urn:factshock:calibration:dev-1", SCHEMA + "label", "dev-1"),
  }


def test_what_a_run_does_not_know_is_left_out():
  run = RUN | {"checkpoint": None, "mixing_weights": None, "precision": None, "revision": None}
  text = "".join(rdf.provenance(run))
  assert (
    "None" not in text
    and "urn:factshock:term:" not in text
    and "<urn:factshock:model:t5%20base> " in text
  )


@pytest.mark.parametrize("name", ["nq", "ttl"])
def test_rows_of_another_run_are_refused(tmp_path, name):
  with pytest.raises(UserError, match="row 2: expected rows of the run 'run 1/a', got one of 'b'"):
    written(tmp_path, name, [row(), row(run="b")])
  assert not os.listdir(tmp_path)


def statements(triples):
  """(subject, predicate, object, confidence, flags) of the nodes of statements, and the others."""
  reifying = {SYNTAX + "subject", SYNTAX + "predicate", SYNTAX + "object"}
  of_nodes = {}
  facts = []
  for subject, predicate, value in triples:
    if predicate in reifying or predicate.startswith(TERM):
      of_nodes.setdefault(subject, {}).setdefault(predicate, set()).add(value)
    else:
      facts.append((subject, predicate, value))
  spoken = []
  for node, found in of_nodes.items():
    assert node.startswith(STATEMENTS + ":")
    (subject,), (relation,), (object_,) = (found[SYNTAX + end] for end in ENDS)
    (confidence,) = found[TERM + "confidence"]
    spoken.append((subject, relation, object_, float(confidence), found.get(TERM + "flag", set())))
  return sorted(spoken, key=repr), facts


@settings(max_examples=60, deadline=None)
@given(rows=some_rows(), flags=st.lists(graph_rows.labels, max_size=2, unique=True))
def test_oxigraph_reads_turtle(tmp_path_factory, rows, flags):
  rows = [found | {"flags": flags} for found in rows]
  path, _ = written(tmp_path_factory.mktemp("ttl"), "ttl", rows)
  spoken, facts = statements(quad[:3] for quad in oxigraph(path, "TURTLE"))
  assert spoken == sorted(((*triple, set(flags)) for triple in uris(rows)), key=repr)
  assert split(facts) == ({triple[:3] for triple in uris(rows)}, labelled(rows))


def test_rdflib_reads_turtle(tmp_path):
  rdflib = pytest.importorskip("rdflib", reason="rdflib is not installed (extra [graph])")
  rows = [*NASTY_ROWS, row("flagged", flags=["over-predicted", 'a "quote"'])]
  path, _ = written(tmp_path, "ttl", rows)
  found = rdflib.Graph().parse(path)
  spoken, facts = statements(tuple(map(str, triple)) for triple in found)
  assert spoken == sorted(
    ((*triple, set(given.get("flags", ()))) for triple, given in zip(uris(rows), rows)), key=repr
  )
  assert split(facts) == ({triple[:3] for triple in uris(rows)}, labelled(rows))


def test_a_turtle_file_loaded_twice_adds_nothing(tmp_path):
  rdflib = pytest.importorskip("rdflib", reason="rdflib is not installed (extra [graph])")
  path, _ = written(tmp_path, "ttl", NASTY_ROWS)
  found = rdflib.Graph().parse(path)
  size = len(found)
  assert len(found.parse(path)) == size


@settings(max_examples=60, deadline=None)
@given(rows=some_rows(), flags=st.lists(graph_rows.labels, min_size=1, max_size=2, unique=True))
def test_oxigraph_reads_turtle_annotations(tmp_path_factory, rows, flags):
  rows = [found | {"flags": flags} for found in rows]
  path, _ = written(tmp_path_factory.mktemp("ttl"), "ttl_rdf12", rows)
  quads = oxigraph(path, "TURTLE")
  reified = {quad[0]: quad[2] for quad in quads if quad[1] == SYNTAX + "reifies"}
  said = [quad for quad in quads if quad[0] in reified and quad[1] != SYNTAX + "reifies"]
  of_nodes = {node: [quad[1:3] for quad in said if quad[0] == node] for node in reified}
  spoken = sorted(
    ((triple.subject.value, triple.predicate.value, triple.object.value), sorted(of_nodes[node]))
    for node, triple in reified.items()
  )
  flagged = [(TERM + "flag", flag) for flag in flags]
  assert spoken == sorted(
    (triple[:3], sorted([(TERM + "confidence", repr(triple[3])), *flagged]))
    for triple in uris(rows)
  )
  others = [quad for quad in quads if quad[0] not in reified]
  assert split(others) == ({triple[:3] for triple in uris(rows)}, labelled(rows))


def test_flags_are_on_the_statement(tmp_path):
  path, _ = written(tmp_path, "nq", [row(), row("b", flags=["over-predicted", 'a "quote"'])])
  found = {(quad[0], quad[2]) for quad in oxigraph(path, "N_QUADS") if quad[1] == TERM + "flag"}
  assert found == {(STATEMENTS + ":2", "over-predicted"), (STATEMENTS + ":2", 'a "quote"')}


def test_every_label_of_a_node_is_kept_once(tmp_path):
  rows = [
    row(label, "P1", object_, subject_id="Q90", relation_label=relation)
    for label, relation, object_ in (
      ("Paris", "in", "x"),
      ("Lutetia", "in", "x"),
      ("Paris", "within", "y"),
    )
  ]
  written(tmp_path, "nt", rows)
  found = re.findall(r"<(\S+)> <\S+#label> (.*) \.", (tmp_path / "graph.nt").read_text())
  paris, relation = "http://www.wikidata.org/entity/Q90", "http://www.wikidata.org/prop/direct/P1"
  assert sorted(found) == sorted(
    [
      (paris, '"Paris"'),
      (paris, '"Lutetia"'),
      (relation, '"in"'),
      (relation, '"within"'),
      ("urn:factshock:entity:x", '"x"'),
      ("urn:factshock:entity:y", '"y"'),
    ]
  )


iri = st.builds(
  lambda scheme, rest: scheme + rest,
  st.sampled_from(["http://a", "https://a.example/", "urn:ab:", "http://", "urn:", ""]),
  st.text("ab%2F/:?#[]@!$&'()*+,;=<>\"{}|\\^` .é\n", max_size=8),
)


@settings(max_examples=400, deadline=None)
@given(text=iri)
def test_what_passes_for_an_iri_is_one_to_oxigraph(text):
  pyoxigraph = pytest.importorskip(
    "pyoxigraph", reason="pyoxigraph is not installed (extra [graph])"
  )
  if nodes.is_id(text) and text[0] not in "QPL":
    assert pyoxigraph.NamedNode(text).value == text

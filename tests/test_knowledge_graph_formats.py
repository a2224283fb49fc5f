"""Formats of triples: what is read back is what was written, by us and by the programs that the
formats are for.
"""

import collections
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import unittest.mock
import weakref

import graph_rows
import graph_writer
import pytest
from graph_rows import NASTY, RUN, row, some_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.knowledge_graph import batches, canonical, formats, nodes, tables
from factshock.runtime.errors import UserError

NASTY_ROWS = [
  row(label, f"r{number % 3}", NASTY[-number - 1], rank=number + 1)
  for number, label in enumerate(NASTY)
]
IMPLIED = row("implied") | {"score": None, "rank": None}  # by another triple


def written(tmp_path, name, rows, run=RUN):
  return graph_rows.write(name, tmp_path, rows, run)


def keys(rows):
  """(subject key, relation, object key) of the accepted rows."""
  return [
    (subject, found["relation"], object_) for found, subject, object_ in graph_rows.edges(rows)[0]
  ]


def split_key(found, end):
  return found.get(end), found.get(end + "_id")


# --- canonical rows


@settings(max_examples=50, deadline=None)
@given(rows=some_rows())
def test_canonical_rows_survive_a_round_trip(tmp_path_factory, rows):
  path = tmp_path_factory.mktemp("rows") / "triples.jsonl"
  graph_rows.write_rows(path, rows)
  assert list(canonical.read(path)) == rows
  assert [batches.json_lines(batch) for batch in batches.read(path)] == (
    [path.read_text(encoding="utf-8")] if rows else []
  )


def test_canonical_rows_are_written_in_order_without_what_is_not_given(tmp_path):
  path = tmp_path / "triples.jsonl"
  given_row = dict(reversed(row(subject_id="Q1", extra=7, flags=["over-predicted"]).items())) | {
    "object_id": None
  }
  graph_rows.write_rows(path, [given_row | {"checkpoint": None}])
  [found] = canonical.read(path)
  assert list(found) == [
    key for key in canonical.KEYS if key not in ("object_id", "relation_label")
  ] + ["extra"]
  assert found["checkpoint"] is None


@pytest.mark.parametrize(
  "change, words",
  [
    ({"confidence": 1.2}, "probability from 0 to 1.*`confidence`, got 1.2"),
    ({"confidence": -1e-9}, "probability from 0 to 1"),
    ({"confidence": float("nan")}, "probability from 0 to 1.*got nan"),
    ({"confidence": True}, "probability from 0 to 1.*got True"),
    ({"score": float("-inf")}, "finite number or null in `score`"),
    ({"rank": 0}, "whole number from 1"),
    ({"accepted": 1}, "true or false"),
    ({"subject": ""}, "non-empty text in `subject`"),
    ({"object": None}, "text in `object`, got None"),
    ({"object": ""}, "an object in an accepted row"),
    ({"subject_id": 42}, "`subject_id`, got 42"),
    ({"mixing_weights": [0.5, "a"]}, "list of numbers or null"),
    ({"flags": "x"}, "list of non-empty texts"),
  ],
)
def test_bad_rows_are_refused_with_file_and_line(tmp_path, change, words):
  path = tmp_path / "triples.jsonl"
  path.write_text(json.dumps(row()) + "\n\n" + json.dumps(row() | change) + "\n")
  with pytest.raises(UserError, match=rf"triples\.jsonl:3: .*{words}"):
    list(canonical.read(path))
  with pytest.raises(UserError, match=f"row 2: .*{words}"):
    written(tmp_path / "again", "jsonl", [row(), row() | change])
  assert not os.listdir(tmp_path / "again")
  with pytest.raises(UserError, match=rf"triples\.jsonl:3: .*{words}"):
    list(batches.read(path))


def test_a_missing_key_and_a_line_that_is_no_object_are_named(tmp_path):
  path = tmp_path / "triples.jsonl"
  path.write_text(json.dumps({key: value for key, value in row().items() if key != "run"}))
  with pytest.raises(UserError, match=r":1: expected an id in `run`, got a row without it"):
    list(canonical.read(path))
  path.write_text("[1]\n")
  with pytest.raises(UserError, match=r":1: expected a JSON object"):
    list(canonical.read(path))


def test_a_model_that_answered_nothing_is_a_row(tmp_path):
  graph_rows.write_rows(tmp_path / "triples.jsonl", [row(object_="", accepted=False)])
  assert next(canonical.read(tmp_path / "triples.jsonl"))["object"] == ""


# --- nodes


@settings(max_examples=200, deadline=None)
@given(one=graph_rows.labels, other=graph_rows.labels)
def test_distinct_labels_have_distinct_keys_and_uris(one, other):
  ((_, first, second),), _ = graph_rows.edges([row(one, "r", other)])
  assert (one == other) == (first == second) == (nodes.uri(first) == nodes.uri(second))
  assert nodes.of_key(first) == (one, None)
  assert re.fullmatch(r"urn:factshock:entity:([\w.~-]|%[0-9A-F]{2})*", nodes.uri(first), re.ASCII)
  assert (one == other) == (nodes.relation_uri(one) == nodes.relation_uri(other))


@pytest.mark.parametrize(
  "identifier, uri",
  [
    ("Q42", "http://www.wikidata.org/entity/Q42"),
    ("L7", "http://www.wikidata.org/entity/L7"),
    *(
      (iri, iri)
      for iri in (
        "http://www.wikidata.org/entity/Q42",
        "https://a.example:80/b%20c?d=é#e",
        "urn:isbn:0451450523",
        "HTTP://a.example",
      )
    ),
  ],
)
def test_ids_become_uris(identifier, uri):
  ((_, subject, _),), ends = graph_rows.edges([row(subject_id=identifier)])
  assert nodes.uri(subject) == uri and ends.unusable_ids == 0


@pytest.mark.parametrize(
  "identifier",
  [
    "Q0",
    "Q042",
    "q42",
    "Q42 ",
    "Q42\n",
    "E7",
    "42",
    "http://",
    "http:///a",
    "http://a b",
    "http://a/<b>",
    "http://a/b\n",
    'http://a/"',
    "http://a/%zz",
    "http://a/\\b",
    "http://a/{b}",
    "http://a/|",
    "http://a/\ue000",
    "ftp://a/b",
    "/a/b",
    "urn:x",
    "urn:x:",
    "urn::y",
    "mailto:a@b",
    "urn:factshock:entity:a",
  ],
)
def test_an_id_that_is_neither_wikidata_nor_an_iri_is_counted_and_not_used(identifier):
  rows = [row("A b", subject_id=identifier, object_id="Q1"), row(object_id="bad")]
  ((_, subject, _), _), ends = graph_rows.edges(rows)
  assert nodes.uri(subject) == "urn:factshock:entity:A%20b"
  assert ends.unusable_ids == 2
  assert ends.first_unusable_id == f"{identifier!r} of the subject 'A b'"


def test_the_first_unusable_id_is_the_first_by_rows():
  rows = [row(object_id="bad"), row("B", subject_id="worse")]
  _, ends = graph_rows.edges(rows)
  assert ends.first_unusable_id == "'bad' of the object 'o'"


def test_entities_that_share_a_label_stay_two_and_a_label_is_no_id():
  rows = [
    row("Paris", object_id="Q1"),
    row("Paris", subject_id="Q90"),
    row("Paris", subject_id="Q830149"),
    row("Lutetia", subject_id="Q90"),
    row("Q90"),
    row("\\Q90"),
  ]
  found = [subject for subject, _, _ in keys(rows)]
  assert found == ["Paris", "Q90", "Q830149", "Q90", "\\Q90", "\\\\Q90"]
  assert len({nodes.uri(key) for key in found}) == len(set(found)) == 5


def test_relations_become_uris():
  assert nodes.relation_uri("P19") == "http://www.wikidata.org/prop/direct/P19"
  assert nodes.relation_uri("http://schema.org/birthPlace") == "http://schema.org/birthPlace"
  assert nodes.relation_uri("born in") == "urn:factshock:relation:born%20in"
  assert nodes.relation_uri("http://a b") == "urn:factshock:relation:http%3A%2F%2Fa%20b"


# --- tsv


@settings(max_examples=200, deadline=None)
@given(text=graph_rows.labels)
def test_a_tsv_cell_gives_its_text_back_and_is_safe_for_strip_and_split(text):
  cell = tables.escape(text)
  assert tables.unescape(cell) == text
  assert (
    cell == cell.strip() and "\t" not in cell and len(cell.splitlines()) == 1 and cell[0] != '"'
  )


@settings(max_examples=50, deadline=None)
@given(rows=some_rows())
def test_tsv_gives_labels_ids_and_confidences_back(tmp_path_factory, rows):
  folder = tmp_path_factory.mktemp("tsv")
  (path, labels_path), counts = written(folder, "tsv_confidence", rows)
  labels = tables.read_labels(labels_path)
  assert counts["rows"] == len(rows)
  found = list(tables.read_tsv(path))
  assert len(found) == len(rows)
  first = {}
  for given_row, got, (subject, _, object_) in zip(rows, found, keys(rows)):
    assert (got["relation"], got["confidence"]) == (given_row["relation"], given_row["confidence"])
    for end, key in (("subject", subject), ("object", object_)):
      label, identifier = split_key(got, end)
      assert nodes.of_key(key) == (label, identifier)
      if identifier is None:
        assert label == given_row[end]
      else:
        assert labels[identifier] == first.setdefault(identifier, given_row[end])


def test_tsv_is_a_line_a_triple_of_accepted_rows(tmp_path):
  rows = [
    row("a", "r", "b", confidence=1e-7),
    row("a", "r", "c", accepted=False),
    row("d\n", "P1", "e", subject_id="Q1"),
  ]
  written(tmp_path, "tsv", rows), written(tmp_path, "tsv_confidence", rows)
  assert (tmp_path / "graph.tsv").read_text() == "a\tr\tb\nQ1\tP1\te\n"
  assert (tmp_path / "graph_confidence.tsv").read_text() == "a\tr\tb\t1e-07\nQ1\tP1\te\t0.75\n"
  assert (tmp_path / "labels.tsv").read_text() == "Q1\td\\n\n"


@pytest.mark.parametrize(
  "line, words",
  [
    ("a\tb", "3 or 4 cells, got 2"),
    ("a\tb\tc\\x", "one of the escapes .*got .*x'"),
    ("a\tb\tc\\", "one of the escapes"),
    ("a\tb\tc\t1.5", "confidence from 0 to 1, got '1.5'"),
    ("a\tb\tc\tnan", "got 'nan'"),
    ("a\tb\tc\thigh", "got 'high'"),
  ],
)
def test_bad_tsv_is_named_by_line(tmp_path, line, words):
  path = tmp_path / "graph.tsv"
  path.write_text("a\tb\tc\n" + line + "\n")
  with pytest.raises(UserError, match=rf"graph\.tsv:2: .*{words}"):
    list(tables.read_tsv(path))


@pytest.mark.parametrize("first", ["\ufeffa", " a", '"', "nan", "\n"])
def test_pandas_reads_tsv_as_pykeen_does(tmp_path, first):
  pandas = pytest.importorskip("pandas")
  rows = [row(first), *NASTY_ROWS]  # what begins a file may be a mark of byte order to a reader
  (path, _), _ = written(tmp_path, "tsv", rows)
  frame = pandas.read_csv(
    path, sep="\t", encoding="utf-8", dtype=str, header=None, keep_default_na=False
  )
  assert [tuple(map(tables.unescape, cells)) for cells in frame.to_numpy().tolist()] == keys(rows)


def test_pykeen_reads_tsv(tmp_path):
  pytest.importorskip("pykeen", reason="pykeen is not installed")
  from pykeen.triples import TriplesFactory

  (path, _), _ = written(tmp_path, "tsv", NASTY_ROWS)
  factory = TriplesFactory.from_path(path)
  expected = keys(NASTY_ROWS)
  assert {tuple(map(tables.unescape, triple)) for triple in factory.triples} == set(expected)
  assert set(map(tables.unescape, factory.entity_to_id)) == {
    end for s, _, o in expected for end in (s, o)
  }


def test_pykeen_trains_on_a_graph(tmp_path, monkeypatch):
  monkeypatch.setenv("PYSTOW_HOME", str(tmp_path / "pystow"))
  pytest.importorskip("pykeen", reason="pykeen is not installed")
  from pykeen.pipeline import pipeline
  from pykeen.triples import TriplesFactory

  rows = [row(f"s{number}", f"r{number % 3}", f"o{number % 7}") for number in range(60)]
  (path, _), _ = written(tmp_path, "tsv", [*rows, *NASTY_ROWS])
  factory = TriplesFactory.from_path(path)
  done = pipeline(
    training=factory,
    testing=factory,
    model="TransE",
    model_kwargs={"embedding_dim": 8},
    training_kwargs={"num_epochs": 3, "use_tqdm": False},
    evaluation_kwargs={"use_tqdm": False},
    random_seed=0,
    device="cpu",
  )
  assert len(done.losses) == 3 and done.losses[-1] < done.losses[0]
  assert 0 < done.get_metric("hits@10") <= 1


# --- OpenKE, Neo4j, NetworkX, LM-KBC


def read_openke(folder):
  """What OpenKE's Reader.h reads: counts first, then triples as head, tail, relation, by
  whitespace.
  """
  names = []
  for name in ("entity2id.txt", "relation2id.txt"):
    count, *lines = (folder / name).read_text(encoding="utf-8").split("\n")[:-1]
    pairs = [line.split("\t") for line in lines]
    assert [int(number) for _, number in pairs] == list(range(int(count)))
    names.append([tables.unescape(text) for text, _ in pairs])
  count, *numbers = map(int, (folder / "train2id.txt").read_text().split())
  assert len(numbers) == 3 * count
  return [
    (names[0][head], names[1][relation], names[0][tail])
    for head, tail, relation in zip(numbers[::3], numbers[1::3], numbers[2::3])
  ]


@settings(max_examples=50, deadline=None)
@given(rows=some_rows())
def test_openke_files_hold_the_triples(tmp_path_factory, rows):
  folder = tmp_path_factory.mktemp("openke")
  _, counts = written(folder, "openke", rows)
  assert read_openke(folder / "openke") == keys(rows)
  assert counts["entities"] == len({end for s, _, o in keys(rows) for end in (s, o)})


@settings(max_examples=50, deadline=None)
@given(rows=some_rows())
def test_neo4j_files_are_csv_of_nodes_and_relationships(tmp_path_factory, rows):
  (of_nodes, of_edges), counts = written(tmp_path_factory.mktemp("neo4j"), "neo4j", rows)
  with open(of_nodes, newline="", encoding="utf-8") as file:
    found_nodes = list(csv.DictReader(file))
  with open(of_edges, newline="", encoding="utf-8") as file:
    found = list(csv.DictReader(file))
  triples = [(edge[":START_ID"], edge[":TYPE"], edge[":END_ID"]) for edge in found]
  assert triples == keys(rows)
  assert [float(edge["confidence:double"]) for edge in found] == [
    wanted["confidence"] for wanted in rows
  ]
  labels = {node["key:ID"]: node["label"] for node in found_nodes}
  assert len(labels) == len(found_nodes) == counts["entities"]
  assert set(labels) == {end for s, _, o in triples for end in (s, o)}
  assert all(nodes.is_id(key) or nodes.of_key(key)[0] == label for key, label in labels.items())


def test_neo4j_quotes_all_texts_and_counts_line_breaks(tmp_path):
  rows = [
    row(" a", "P1", 'b\n"c"', object_id="Q1", relation_label="says", flags=["over-predicted"]),
    row("a", "r", "b"),
  ]
  _, counts = written(tmp_path, "neo4j", rows)
  assert (tmp_path / "neo4j" / "nodes.csv").read_text() == (
    'key:ID,label,uri,:LABEL\n" a"," a","urn:factshock:entity:%20a","Entity"\n'
    '"Q1","b\n""c""","http://www.wikidata.org/entity/Q1","Entity"\n'
    '"a","a","urn:factshock:entity:a","Entity"\n"b","b","urn:factshock:entity:b","Entity"\n'
  )
  assert (tmp_path / "neo4j" / "relationships.csv").read_text().splitlines()[1] == (
    '" a","Q1","P1","http://www.wikidata.org/prop/direct/P1","says",0.75,-1.5,1,"run 1/a",'
    '"[""over-predicted""]"'
  )
  assert counts["line_breaks"] == 1 and counts["entities"] == 4


def test_neo4j_gets_no_property_where_there_is_no_number(tmp_path):
  written(tmp_path, "neo4j", [IMPLIED])
  with open(tmp_path / "neo4j" / "relationships.csv", newline="", encoding="utf-8") as file:
    (edge,) = csv.DictReader(file)
  assert (edge["score:double"], edge["rank:int"]) == ("", "")


def test_neo4j_imports_the_files(tmp_path):
  """Asks neo4j-admin, where it is installed; it writes into its own data folder."""
  if not shutil.which("neo4j-admin"):
    pytest.skip("neo4j-admin is not installed")
  # Neo4j holds any text but one with a zero.
  rows = [*filter(lambda found: "\0" not in "".join(keys([found])[0]), NASTY_ROWS)]
  rows += [row("flagged", flags=["over-predicted"]), IMPLIED]
  (of_nodes, of_edges), counts = written(tmp_path, "neo4j", rows)
  done = subprocess.run(
    [
      "neo4j-admin",
      *("database", "import", "full", "--overwrite-destination", "--multiline-fields=true"),
      f"--nodes={of_nodes}",
      f"--relationships={of_edges}",
      f"--report-file={tmp_path / 'report'}",
      "neo4j",
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert f"{counts['entities']} nodes" in done.stdout and f"{len(rows)} rel" in done.stdout


@settings(max_examples=30, deadline=None)
@given(rows=some_rows())
def test_networkx_reads_the_graph(tmp_path_factory, rows):
  networkx = pytest.importorskip("networkx")
  [path], counts = written(tmp_path_factory.mktemp("networkx"), "networkx", rows)
  with open(path, encoding="utf-8") as file:
    graph = networkx.node_link_graph(json.load(file), edges="edges")
  assert isinstance(graph, networkx.MultiDiGraph) and graph.graph == RUN
  last = dict(zip(keys(rows), rows))
  assert {(s, r, o): data["confidence"] for s, o, r, data in graph.edges(keys=True, data=True)} == {
    key: found["confidence"] for key, found in last.items()
  }
  assert graph.number_of_nodes() == counts["entities"]
  for (subject, _, _), found in reversed(list(zip(keys(rows), rows))):
    assert nodes.is_id(subject) or graph.nodes[subject]["label"] == found["subject"]


def test_a_written_graph_is_what_networkx_itself_writes(tmp_path):
  networkx = pytest.importorskip("networkx")
  [path], _ = written(tmp_path, "networkx", NASTY_ROWS)
  with open(path, encoding="utf-8") as file:
    found = json.load(file)
  again = networkx.node_link_data(networkx.node_link_graph(found, edges="edges"), edges="edges")
  unordered = lambda items: collections.Counter(json.dumps(item, sort_keys=True) for item in items)
  for part in ("nodes", "edges"):
    assert unordered(again.pop(part)) == unordered(found.pop(part))
  assert again == found


def test_lm_kbc_has_a_row_a_query_also_the_unanswered(tmp_path):
  rows = [
    row("a", "r", "x", subject_id="Q1", object_id="Q7"),
    row("a", "r", "12", subject_id="Q1", rank=2),
    row("a", "r", "z", subject_id="Q1", accepted=False),
    row("a", "t", "", accepted=False),
    row('"\n', "t", "nan"),
  ]
  [path], counts = written(tmp_path, "lm_kbc", rows)
  with open(path, encoding="utf-8") as file:
    found = [json.loads(line) for line in file]
  columns = ("SubjectEntity", "SubjectEntityID", "Relation", "ObjectEntities", "ObjectEntitiesID")
  query = lambda *values: dict(zip(columns, values))
  assert found == [
    query("a", "Q1", "r", ["x", "12"], ["Q7", "12"]),
    query("a", "", "t", [], []),
    query('"\n', "", "t", ["nan"], ["nan"]),
  ]
  assert (counts["rows"], counts["queries"], counts["without_answer"]) == (3, 3, 1)


def test_lm_kbc_refuses_a_query_in_two_places(tmp_path):
  with pytest.raises(UserError, match="rows of a query beside each other"):
    written(tmp_path, "lm_kbc", [row("a"), row("b"), row("a")])
  assert not os.listdir(tmp_path)


# --- all formats


@pytest.mark.parametrize("name", formats.FORMATS)
def test_the_files_are_those_of_the_table_and_no_rows_are_fine(tmp_path, name):
  paths, counts = written(tmp_path, name, [])
  relative = lambda some: sorted(os.path.relpath(path, tmp_path) for path in some)
  found = [os.path.join(place, file) for place, _, names in os.walk(tmp_path) for file in names]
  assert relative(found) == relative(paths) == sorted(formats.FORMATS[name].files)
  assert counts["rows"] == counts["unusable_ids"] == 0


@pytest.mark.parametrize("name", formats.FORMATS)
def test_nothing_is_left_where_the_rows_break_off(tmp_path, name):
  def broken():
    yield from (row(f"s{number}") for number in range(2000))
    raise UserError("broken off")

  with pytest.raises(UserError, match="broken off"):
    written(tmp_path, name, broken())
  assert not [file for _, _, names in os.walk(tmp_path) for file in names]


@pytest.mark.parametrize("name", formats.FORMATS)
def test_rows_are_taken_batch_by_batch_and_let_go(tmp_path, name, monkeypatch):
  monkeypatch.setattr(batches, "ROWS", 10)

  class Row(dict):
    pass

  alive, most = weakref.WeakSet(), 0
  Row.__hash__ = object.__hash__

  def rows():
    nonlocal most
    for number in range(500):
      found = Row(row("s", "r", f"o{number % 5}"))
      alive.add(found)
      most = max(most, len(alive))
      yield found

  written(tmp_path, name, rows())
  assert most <= 2 * batches.ROWS


@pytest.mark.parametrize("name", formats.FORMATS)
def test_half_a_character_is_refused(tmp_path, name):
  with pytest.raises(UserError, match="text that UTF-8 can hold"):
    written(tmp_path, name, [row("a\ud800")])


# Of every row of these one thing is unusual.
SMALL_GRAPH = [
  *NASTY_ROWS,
  IMPLIED | {"flags": ["implied"]},
  row("left out", accepted=False),
  row("no answer", object_="", accepted=False),
  row("flagged", flags=["over_predicted", 'a\n"b"'], relation_label='says "x"'),
  row("first", "P19", "o", subject_id="Q5", object_id="http://www.wikidata.org/entity/Q7"),
  row("second", "P19", "other", subject_id="Q5", object_id="no id", confidence=1, score=0),
  row("more", more={"a": [1, None]}, confidence=1e-7, rank=3),
]
# SHA-256 of the files of SMALL_GRAPH as they were written a row at a time, to the letter.
DIGESTS = {
  "jsonl": "1f7434bc090a1cd0",
  "tsv": "05107aab5bd51026",
  "tsv_confidence": "a037fbe1a09c4d83",
  "openke": "6059dddba76421cb",
  "nt": "e7a510fb5952c39d",
  "nq": "e8d7a0f74f3a0e6a",
  "ttl": "a0ef1b3e8a6b7248",
  "ttl_rdf12": "04bc0fd6d8b1a2ae",
  "neo4j": "7a83bb481eb34ee0",
  "networkx": "9bc7d6524b7735f9",
  "lm_kbc": "704523a53f01e472",
}


def digest(paths):
  digest = hashlib.sha256()
  for path in paths:
    with open(path, "rb") as file:
      digest.update(file.read())
  return digest.hexdigest()[:16]


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_small_graph_is_written_as_it_always_was(tmp_path, name):
  assert digest(written(tmp_path, name, SMALL_GRAPH).paths) == DIGESTS[name]


@settings(max_examples=100, deadline=None)
@given(rows=graph_rows.any_rows(), size=st.integers(1, 4))
def test_every_format_is_written_as_by_a_simple_writer(tmp_path_factory, rows, size):
  folder = tmp_path_factory.mktemp("graph")
  names = list(formats.FORMATS)
  with unittest.mock.patch.object(batches, "ROWS", size):
    # All at once, in one pass.
    formats.write(names, str(folder), batches.of_rows(rows, "rows"), RUN)
  for name in names:
    if name == "tsv":
      continue  # its labels are those of tsv_confidence, in one file
    for file, text in zip(formats.FORMATS[name].files, graph_writer.write(name, rows)):
      assert (folder / file).read_bytes() == text.encode(), file
  assert (folder / tables.GRAPH).read_bytes() == graph_writer.write("tsv", rows)[0].encode()


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_key_that_may_be_null_may_be_missing(tmp_path, name):
  nullable = ("score", "rank", "threshold", "checkpoint", "mixing_weights")
  missing = {key: value for key, value in row().items() if key not in nullable}
  null = row() | dict.fromkeys(nullable)
  paths, _ = written(tmp_path / "missing", name, [missing])
  again, _ = written(tmp_path / "null", name, [null])
  assert digest(paths) == digest(again)


def test_an_error_is_that_of_the_first_bad_row(tmp_path):
  path = tmp_path / "triples.jsonl"
  without = {key: value for key, value in row().items() if key != "run"}
  path.write_text("\n".join(map(json.dumps, [row(), row() | {"confidence": 2}, without])))
  with pytest.raises(UserError, match=r"triples\.jsonl:2: .*`confidence`, got 2"):
    list(batches.read(str(path)))


def test_an_unknown_format_is_named_with_the_nearest():
  with pytest.raises(UserError, match="got 'tvs'; did you mean 'tsv'"):
    formats.check_names(["nt", "tvs"])


def test_unusable_ids_are_counted_in_every_format_with_nodes(tmp_path):
  rows = [row("A", subject_id="http://a b"), row("B", subject_id="Q1", object_id="E 7")]
  for name in set(formats.FORMATS) - {"jsonl", "lm_kbc"}:
    _, counts = written(tmp_path, name, rows)
    assert (counts["unusable_ids"], counts["first_unusable_id"]) == (
      2,
      "'http://a b' of the subject 'A'",
    ), name


def test_the_room_imports_no_jax():
  code = "import sys; import factshock.knowledge_graph.formats; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0


ODD = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(-2, 2),
  st.floats(),
  st.text(max_size=2),
  st.lists(st.floats(), max_size=2),
  st.just({}),
)


@settings(max_examples=300)
@given(st.sampled_from(canonical.KEYS), ODD, st.booleans())
def test_a_row_that_is_let_pass_at_once_passes_every_check(key, value, leave_out):
  changed = graph_rows.row(subject_id="Q1", mixing_weights=[0.5, 0.5]) | {key: value}
  if leave_out:
    del changed[key]
  if canonical._is_usual(changed):
    for name, is_right, _ in canonical._CHECKS:
      assert (
        is_right(changed.get(name)) or changed.get(name) is None and name in canonical._OPTIONAL
      )


def test_usual_rows_are_let_pass_at_once():
  assert canonical._is_usual(graph_rows.row()) and canonical._is_usual(
    graph_rows.row(mixing_weights=[0.5, 0.5], object_id="Q2")
  )

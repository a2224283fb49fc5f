"""Writing a million triples in every format, beside RDFLib's and NetworkX' own writers.

  PYTHONPATH=. python tests/benchmarks/graph_export.py [--triples=1000000] [--compare=100000]
[--format=nt,tsv] [--growth=10000]
      [--rounds=1] [--folder=DIR]

A file of canonical rows is made: --triples accepted triples, and a candidate that was not accepted
  beside every
second; 4 triples a subject, two objects in three among 100,000 frequent ones and the others once;
40 Wikidata relations; names of two or three words, a twentieth of them not ASCII; ids on all
subjects and 9 of 10 objects. Then each format is written from it, in a process of its own, and four
in one pass: the time is that of the whole process, the start of Python and the reading and checking
of the rows included, until what it wrote is on the disk (sync), and its memory is the peak resident
set. Compared are
RDFLib, Oxigraph and NetworkX on --compare triples (they hold the graph in memory): rows from the
same file by the same reader, the graph built and written by their own serialisers, with the same
labels. Time: about 4 minutes; needs 2 GB on the disk for a million triples.
"""

import os
import random
import shutil
import statistics
import sys
import tempfile

import children
import tables
from absl import flags

from factshock.knowledge_graph import batches, formats
from factshock.runtime import console
from factshock.runtime.errors import UserError

TRIPLES = flags.DEFINE_integer("triples", 1_000_000, "accepted triples to write", lower_bound=1)
GROWTH = flags.DEFINE_multi_integer(
  "growth", [10_000, 100_000], "fewer triples to write, to see time and memory grow"
)
COMPARE = flags.DEFINE_integer(
  "compare", 100_000, "triples for the comparison with others; 0: none", lower_bound=0
)
FORMAT = flags.DEFINE_list("format", list(formats.FORMATS), "formats to write")
ROUNDS = flags.DEFINE_integer("rounds", 1, "runs of each; the median counts", lower_bound=1)
FOLDER = flags.DEFINE_string(
  "folder", None, "where to write; default: the folder of temporary files"
)

RUN = {
  "id": "run-1",
  "started": "2025-01-01T00:00:00+00:00",
  "ended": "2025-01-01T01:00:00+00:00",
  "model": "t5-base",
  "checkpoint": "9f" * 32,
  "mixing_weights": [0.5, 0.5],
  "calibration": "isotonic-5f",
  "precision": 0.9,
  "software": "factshock 0.1.0",
  "revision": "0" * 40,
}
MADE_BY = {
  **{key: RUN[key] for key in ("model", "checkpoint", "mixing_weights", "calibration")},
  "run": RUN["id"],
}
SYLLABLES = (
  "ka",
  "ro",
  "mi",
  "ten",
  "sul",
  "va",
  "dor",
  "lin",
  "pe",
  "gra",
  "nu",
  "shi",
  "os",
  "bel",
  "ar",
  "to",
)

# What a process does that writes one format; the others hold the graph as a user of theirs would.
OURS = """import sys
from factshock.knowledge_graph import batches, formats
names, source, folder = sys.argv[1:4]
formats.write(names.split("+"), folder, batches.read(source), {run!r})"""
EDGES = """import json, os, sys
from factshock.knowledge_graph import batches, nodes
def edges(path):
  for batch in batches.read(path):
    found = batch.edges
    ends, run = found.ends, batch.provenance.run
    for subject, label, relation, object_, object_label, confidence, score, rank in zip(
      ends.subject, found.subject, found.relation, ends.object, found.object,
      found.confidence, found.score, found.rank):
      values = dict(confidence=confidence, score=score, rank=rank, run=run)
      yield subject, label, relation, object_, object_label, values
"""
RDFLIB = f"""{EDGES.replace("{", "{{").replace("}", "}}")}
import rdflib
graph = rdflib.Graph()
for subject, label, relation, object_, object_label, _ in edges(sys.argv[2]):
  s, o = rdflib.URIRef(nodes.uri(subject)), rdflib.URIRef(nodes.uri(object_))
  graph.add((s, rdflib.URIRef(nodes.relation_uri(relation)), o))
  graph.add((s, rdflib.RDFS.label, rdflib.Literal(label)))
  graph.add((o, rdflib.RDFS.label, rdflib.Literal(object_label)))
graph.serialize(os.path.join(sys.argv[3], "graph.nt"), format="nt", encoding="utf-8")"""
OXIGRAPH = f"""{EDGES.replace("{", "{{").replace("}", "}}")}
import pyoxigraph as ox
store, name = ox.Store(), ox.NamedNode("http://www.w3.org/2000/01/rdf-schema#label")
def quads():
  for subject, label, relation, object_, object_label, _ in edges(sys.argv[2]):
    s, o = ox.NamedNode(nodes.uri(subject)), ox.NamedNode(nodes.uri(object_))
    yield ox.Quad(s, ox.NamedNode(nodes.relation_uri(relation)), o)
    yield ox.Quad(s, name, ox.Literal(label))
    yield ox.Quad(o, name, ox.Literal(object_label))
store.bulk_extend(quads())
path = os.path.join(sys.argv[3], "graph.nt")
store.dump(path, ox.RdfFormat.N_TRIPLES, from_graph=ox.DefaultGraph())"""
NETWORKX = f"""{EDGES.replace("{", "{{").replace("}", "}}")}
import networkx
graph = networkx.MultiDiGraph()
for subject, label, relation, object_, object_label, values in edges(sys.argv[2]):
  graph.add_node(subject, label=label)
  graph.add_node(object_, label=object_label)
  graph.add_edge(subject, object_, relation, **values)
with open(os.path.join(sys.argv[3], "graph.json"), "w", encoding="utf-8") as file:
  json.dump(networkx.node_link_data(graph, edges="edges"), file, ensure_ascii=False)"""
PEERS = (
  ("nt", "rdflib", RDFLIB),
  ("nt", "pyoxigraph", OXIGRAPH),
  ("networkx", "networkx", NETWORKX),
)
# What is asked for at once; the last is one pass for four.
TOGETHER = "tsv+nt+networkx+neo4j"


def name_of(number):
  """A name of two or three words, nearly always its own; one in twenty is not ASCII."""
  words = [[], [], []]
  for place in range(8):
    words[place % 3 if number & 1 else place % 2].append(SYLLABLES[number >> 4 * place & 15])
  name = " ".join("".join(word).capitalize() for word in words if word)
  return name.replace("a", "á").replace("o", "ø") if number % 20 == 0 else name


def rows(triples, seed=0):
  """Yields canonical rows with this many accepted triples."""
  draw, frequent = random.Random(seed), min(100_000, triples)
  for number in range(triples):
    subject = number // 4
    objects = draw.randrange(frequent) if number % 3 else frequent + number
    base = {
      "subject": name_of(subject),
      "subject_id": f"Q{subject + 1}",
      "relation": f"P{1 + number * 7 % 40}",
    }
    for rank, accepted in ((1, True), (2, False))[: 1 + number % 2]:
      object_ = 1 << 24 | objects + rank - 1
      found = (
        base | {"object": name_of(object_)} | ({"object_id": f"Q{object_}"} if objects % 10 else {})
      )
      confidence = round(draw.uniform(0.9, 1) if accepted else draw.uniform(0, 0.1), 6)
      yield found | {
        "confidence": confidence,
        "score": -round(draw.expovariate(1), 6),
        "rank": rank,
        "accepted": accepted,
        "threshold": 0.9,
        **MADE_BY,
      }


def measured(code, name, source, home):
  """(Seconds until all is on the disk, peak resident bytes, bytes written, seconds of CPU) of one
  process.
  """
  output = os.path.join(home, "out")
  os.makedirs(output)
  os.sync()
  command = [sys.executable, "-c", code.format(run=RUN), name, source, output]
  used = children.run(command, until_written=True)
  size = sum(
    os.path.getsize(os.path.join(place, file))
    for place, _, files in os.walk(output)
    for file in files
  )
  shutil.rmtree(output)
  return used.seconds, used.peak, size, used.cpu


def median(code, name, source, home):
  """Medians of `measured` over the rounds."""
  print(f"  {name}: {ROUNDS.value} rounds", file=sys.stderr, flush=True)
  return tuple(
    map(statistics.median, zip(*(measured(code, name, source, home) for _ in range(ROUNDS.value))))
  )


def make(home, triples):
  """Writes the canonical rows; returns their path."""
  print(f"  making {triples} triples", file=sys.stderr, flush=True)
  folder = os.path.join(home, f"triples-{triples}")
  (written,) = formats.write(["jsonl"], folder, batches.of_rows(rows(triples), folder), RUN)
  return written.paths[0]


def compare(home):
  """Prints the table of RDFLib and NetworkX beside ours; one that is not installed is said to be
  missing.
  """
  import importlib.util

  source, lines = make(home, COMPARE.value), []
  for name, package, code in PEERS:
    if name not in FORMAT.value:
      continue
    if importlib.util.find_spec(package) is None:
      lines.append([name, package, "not installed", "", "", "", ""])
      continue
    ours, theirs = median(OURS, name, source, home), median(code, name, source, home)
    lines.append(
      [
        name,
        package,
        f"{ours[0]:.1f}",
        f"{theirs[0]:.1f}",
        f"**{theirs[0] / ours[0]:.1f}**",
        f"{ours[3]:.1f}",
        f"{theirs[3]:.1f}",
        f"{ours[1] / 1e6:.0f} MB",
        f"{theirs[1] / 1e6:.0f} MB",
      ]
    )
  print(f"{COMPARE.value:,} triples:\n")
  tables.table(
    [
      "format",
      "other",
      "ours, s",
      "other, s",
      "time of other over ours",
      "CPU, ours",
      "CPU, other",
      "memory, ours",
      "memory, other",
    ],
    lines,
  )


def table_of(home, triples):
  """Prints the table of all formats for so many triples; returns the most seconds and bytes."""
  source = make(home, triples)
  lines, slowest, largest = [], 0, 0
  for name in (*FORMAT.value, TOGETHER):
    seconds, memory, size, cpu = median(OURS, name, source, home)
    largest = max(largest, memory)
    if name != TOGETHER:
      slowest = max(slowest, seconds)
    lines.append(
      [name, f"{seconds:.1f}", f"{cpu:.1f}", f"{memory / 1e6:.0f} MB", f"{size / 1e6:.0f} MB"]
    )
  print(f"{triples:,} triples, rows of {os.path.getsize(source) / 1e6:.0f} MB:\n")
  tables.table(["format", "s", "s of CPU", "peak memory", "written"], lines)
  os.remove(source)
  return slowest, largest


def main(_):
  formats.check_names(FORMAT.value)
  with tempfile.TemporaryDirectory(prefix="graph-export-", dir=FOLDER.value) as home:
    need, free = 2e3 * max(TRIPLES.value, COMPARE.value), shutil.disk_usage(home).free
    if free < need:
      raise UserError(
        f"{home}: needs {need / 1e9:.1f} GB free, got {free / 1e9:.1f}; say --folder=DIR"
      )
    for triples in GROWTH.value:
      table_of(home, triples)
    slowest, largest = table_of(home, TRIPLES.value)
    print(
      tables.goal(
        f"every format under 15 s for a million triples; at most {slowest:.1f} s here", slowest < 15
      )
    )
    print(tables.goal(f"memory under 2 GB; at most {largest / 1e9:.2f} GB here", largest < 2e9))
    if COMPARE.value:
      compare(home)


if __name__ == "__main__":
  console.run(main)

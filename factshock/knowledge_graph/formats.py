"""The formats that triples are written in: one table of them, and the two that are JSON.

All formats but jsonl hold the accepted rows alone, and are written as a stream: memory grows with the
distinct nodes (for lm_kbc, queries), not with the rows. Which node a row's subject and object are, and what
they are called, says `nodes.py`; how labels are escaped, `tables.py` and `rdf.py`. In JSON they need nothing
beyond JSON's own escapes.

**networkx** is node-link JSON, a directed multigraph that networkx.node_link_graph(json.load(file),
edges="edges") reads. A node's `id` is its key, with its first `label` beside it; an edge's `key` is its
relation, so that a triple is an edge (a triple given twice is one, with the later confidence); the run is in
`graph`.

**lm_kbc** is a row a query in the manner of the LM-KBC challenges (SubjectEntity, SubjectEntityID, Relation,
ObjectEntities, ObjectEntitiesID), with empty lists where no answer was accepted. An object without an id
stands with its label in ObjectEntitiesID, as in the challenges' own baseline; a subject without an id has the
id "". Ids are written as given: no URI is made of them.
"""

import difflib
import itertools
import json
import os
from typing import Callable, NamedTuple

from factshock.knowledge_graph import canonical, nodes, rdf, tables
from factshock.runtime import files
from factshock.runtime.errors import UserError

NETWORKX = "graph.json"
LM_KBC = "lm_kbc.jsonl"
_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class Format(NamedTuple):
  """A format: what it is for, `write(folder, rows, run) -> (paths, counts)`, and the names of its files."""

  about: str
  write: Callable
  files: tuple


def write(name, folder, rows, run):
  """Writes rows in one format into a folder; every file is whole or absent.

  Args:
    name: one of FORMATS.
    folder: made where it is missing.
    rows: function without arguments that gives a new iterator over canonical rows.
    run: where the rows come from: `id`, `started`, `ended` (ISO 8601), `model`, `checkpoint`,
      `mixing_weights`, `calibration`, `precision` (the target, or None), `software`, `revision`.

  Returns:
    (Paths written, counts): a dict of `rows` written, `unusable_ids` (ends of rows whose id was neither a
    Wikidata id nor an IRI), `first_unusable_id` (or None), and what the format counts besides.

  Raises:
    UserError: unknown format, the folder cannot be written, or text that UTF-8 cannot hold.
  """
  check_names([name])
  try:
    return FORMATS[name].write(folder, rows, run)
  except UnicodeEncodeError as error:
    raise UserError(
      f"{folder}: expected text that UTF-8 can hold, got {error.object[:60]!r}"
    ) from error


def check_names(names):
  """Raises a UserError that names the first of `names` that is no format, and the nearest one."""
  for name in names:
    if name not in FORMATS:
      near = difflib.get_close_matches(name, FORMATS, 1)
      raise UserError(
        f"format: expected one of {', '.join(FORMATS)}, got {name!r}"
        + (f"; did you mean {near[0]!r}?" if near else "")
      )


def write_jsonl(folder, rows, run):
  """Writes all rows to triples.jsonl; returns (paths, counts). UserError for a row that is not canonical."""
  path = os.path.join(folder, canonical.FILE)
  return [path], nodes.new_counts() | {"rows": canonical.write(path, rows())}


def write_networkx(folder, rows, run):
  """Writes graph.json; returns (paths, counts)."""
  path = os.path.join(folder, NETWORKX)
  counts = nodes.new_counts()
  labels = {}
  with files.atomic_write(path) as file:
    file.write(f'{{"directed": true, "multigraph": true, "graph": {_ENCODE(run)}, "edges": [')
    for row, subject, object_ in nodes.edges(rows(), counts):
      labels.setdefault(subject, row["subject"])
      labels.setdefault(object_, row["object"])
      file.write(("\n" if counts["rows"] == 1 else ",\n") + _ENCODE(_edge(row, subject, object_)))
    file.write(
      '],\n"nodes": ['
    )  # after the edges: the order of keys means nothing, and so one pass is enough
    for number, (key, label) in enumerate(labels.items()):
      file.write((",\n" if number else "\n") + _ENCODE({"id": key, "label": label}))
    file.write("]}\n")
  return [path], counts | {"entities": len(labels)}


def write_lm_kbc(folder, rows, run):
  """Writes lm_kbc.jsonl; returns (paths, counts), with the `queries` and those `without_answer`.

  Raises:
    UserError: the rows of a query do not stand together.
  """
  path = os.path.join(folder, LM_KBC)
  counts = nodes.new_counts() | {"queries": 0, "without_answer": 0}
  seen = set()
  with files.atomic_write(path) as file:
    for query, candidates in itertools.groupby(rows(), _query):
      if query in seen:
        raise UserError(
          f"{path}: expected all rows of a query beside each other, got {query} again later; "
          "sort the rows by subject and relation"
        )
      seen.add(query)
      answers = [
        (row["object"], row.get("object_id") or row["object"])
        for row in candidates
        if row["accepted"]
      ]
      counts["queries"] += 1
      counts["rows"] += len(answers)
      counts["without_answer"] += not answers
      file.write(_ENCODE(_lm_kbc_row(query, answers)) + "\n")
  return [path], counts


def _edge(row, subject, object_):
  edge = {"source": subject, "target": object_, "key": row["relation"]}
  if row.get("relation_label"):
    edge["label"] = row["relation_label"]
  edge |= {name: row[name] for name in ("confidence", "score", "rank", "run")}
  return edge | {"flags": row["flags"]} if row.get("flags") else edge


def _query(row):
  return row["subject"], row.get("subject_id") or "", row["relation"]


def _lm_kbc_row(query, answers):
  subject, identifier, relation = query
  return {
    "SubjectEntity": subject,
    "SubjectEntityID": identifier,
    "Relation": relation,
    "ObjectEntities": [label for label, _ in answers],
    "ObjectEntitiesID": [object_id for _, object_id in answers],
  }


FORMATS = {
  "jsonl": Format(
    "all candidates with confidence, score and provenance", write_jsonl, (canonical.FILE,)
  ),
  "tsv": Format(
    "3 columns: PyKEEN and most embedding libraries",
    tables.write_tsv,
    (tables.GRAPH, tables.LABELS),
  ),
  "tsv_confidence": Format(
    "4 columns, the last the confidence",
    tables.write_tsv_confidence,
    (tables.GRAPH_CONFIDENCE, tables.LABELS),
  ),
  "openke": Format(
    "OpenKE's numbered files: head, tail, relation", tables.write_openke, tables.OPENKE
  ),
  "nt": Format("N-Triples: any RDF program", rdf.write_nt, (rdf.NT,)),
  "nq": Format(
    "N-Quads: a named graph a run, with confidences and PROV-O", rdf.write_nq, (rdf.NQ,)
  ),
  "ttl": Format(
    "RDF 1.2 Turtle with confidences as annotations: Oxigraph", rdf.write_ttl, (rdf.TTL,)
  ),
  "neo4j": Format("CSV for neo4j-admin database import", tables.write_neo4j, tables.NEO4J),
  "networkx": Format("node-link JSON of a directed multigraph", write_networkx, (NETWORKX,)),
  "lm_kbc": Format(
    "a row a query, as the LM-KBC challenges take predictions", write_lm_kbc, (LM_KBC,)
  ),
}

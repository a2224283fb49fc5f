"""Formats that triples are written in: one table of them, and the two that are JSON.

All formats but jsonl hold the accepted rows alone, and are written as a stream: memory grows with
the distinct nodes (for lm_kbc, queries), not with the rows. Which node a row's subject and object
are, and what they are called, is decided in `nodes.py`; how labels are escaped, in `tables.py` and
`rdf.py`. In JSON they need nothing beyond JSON's own escapes.

**networkx** is node-link JSON, a directed multigraph that networkx.node_link_graph(json.load(file),
edges="edges") reads. A node's `id` is its key, with its first `label` beside it; an edge's `key` is
its relation, so that a triple is an edge (a triple given twice is one, with the later confidence);
the run is in `graph`.

**lm_kbc** is a row a query in the manner of the LM-KBC challenges (SubjectEntity, SubjectEntityID,
Relation, ObjectEntities, ObjectEntitiesID), with empty lists where no answer was accepted. An
object without an id stands with its label in ObjectEntitiesID, as in the challenges' own baseline;
a subject without an id has the id "". Ids are written as given: no URI is made of them.
"""

import difflib
import itertools
import json
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from factshock.knowledge_graph import canonical, nodes, rdf, tables
from factshock.knowledge_graph.canonical import CanonicalRow, RowSource, Run
from factshock.knowledge_graph.nodes import Counts
from factshock.runtime import files
from factshock.runtime.errors import UserError

NETWORKX = "graph.json"
LM_KBC = "lm_kbc.jsonl"

# Paths written, and counts.
Written: TypeAlias = tuple[list[str], Counts]

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_QueryKey: TypeAlias = tuple[str, str, str]  # subject, its id or "", relation


class Format(NamedTuple):
  """Describes a format: what it is for, its writer, and the names of its files."""

  about: str
  write: Callable[[str, RowSource, Run], Written]
  files: tuple[str, ...]


def write(
  name: str,
  folder: str,
  rows: RowSource,
  run: Run,
) -> Written:
  """Writes rows in one format into a folder; every file is whole or absent.

  Args:
    name: one of FORMATS.
    folder: made where it is missing.
    rows: returns a new iterator over canonical rows.
    run: where the rows come from.

  Returns:
    (paths written, counts).

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


def check_names(names: Iterable[str]) -> None:
  """Checks names of formats.

  Raises:
    UserError: names the first that is no format, and the nearest one.
  """
  for name in names:
    if name not in FORMATS:
      nearest = difflib.get_close_matches(name, FORMATS, 1)
      hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
      raise UserError(f"format: expected one of {', '.join(FORMATS)}, got {name!r}{hint}")


def write_jsonl(
  folder: str,
  rows: RowSource,
  run: Run,
) -> Written:
  """Writes all rows to triples.jsonl.

  Args:
    folder: made where it is missing.
    rows: returns a new iterator over canonical rows.
    run: not used: every row names its run.

  Raises:
    UserError: a row that is not canonical.
  """
  path = os.path.join(folder, canonical.FILE)
  counts = nodes.new_counts()
  counts["rows"] = canonical.write(path, rows())
  return [path], counts


def write_networkx(
  folder: str,
  rows: RowSource,
  run: Run,
) -> Written:
  """Writes graph.json."""
  path = os.path.join(folder, NETWORKX)
  counts = nodes.new_counts()
  labels: dict[str, str] = {}
  with files.atomic_write(path) as file:
    file.write(f'{{"directed": true, "multigraph": true, "graph": {_encode(run)}, "edges": [')
    for row, subject, object_ in nodes.edges(rows(), counts):
      labels.setdefault(subject, row["subject"])
      labels.setdefault(object_, row["object"])
      separator = "\n" if counts["rows"] == 1 else ",\n"
      file.write(separator + _encode(_edge(row, subject, object_)))
    # After the edges: the order of keys means nothing, and so one pass is enough.
    file.write('],\n"nodes": [')
    for index, (key, label) in enumerate(labels.items()):
      separator = ",\n" if index else "\n"
      file.write(separator + _encode({"id": key, "label": label}))
    file.write("]}\n")
  counts["entities"] = len(labels)
  return [path], counts


def write_lm_kbc(
  folder: str,
  rows: RowSource,
  run: Run,
) -> Written:
  """Writes lm_kbc.jsonl; counts the `queries` and those `without_answer`.

  Args:
    folder: made where it is missing.
    rows: returns a new iterator over canonical rows.
    run: not used: the challenges' rows name none.

  Raises:
    UserError: the rows of a query do not stand together.
  """
  path = os.path.join(folder, LM_KBC)
  counts = nodes.new_counts()
  queries: set[_QueryKey] = set()
  without_answer = 0
  with files.atomic_write(path) as file:
    for query, candidates in itertools.groupby(rows(), _query):
      if query in queries:
        raise UserError(
          f"{path}: expected all rows of a query beside each other, got {query} again later; "
          "sort the rows by subject and relation"
        )
      queries.add(query)
      # Texts alone: rows are let go one by one.
      accepted = [
        (row["object"], row.get("object_id") or row["object"])
        for row in candidates
        if row["accepted"]
      ]
      counts["rows"] += len(accepted)
      without_answer += not accepted
      file.write(_encode(_lm_kbc_row(query, accepted)) + "\n")
  counts["queries"] = len(queries)
  counts["without_answer"] = without_answer
  return [path], counts


def _edge(
  row: CanonicalRow,
  subject: str,
  object_: str,
) -> dict[str, Any]:
  """Returns the edge of a row in node-link JSON."""
  edge: dict[str, Any] = {"source": subject, "target": object_, "key": row["relation"]}
  if row.get("relation_label"):
    edge["label"] = row.get("relation_label")
  edge["confidence"] = row["confidence"]
  edge["score"] = row["score"]
  edge["rank"] = row["rank"]
  edge["run"] = row["run"]
  if row.get("flags"):
    edge["flags"] = row.get("flags")
  return edge


def _query(row: CanonicalRow) -> _QueryKey:
  """Returns which query a row answers."""
  return row["subject"], row.get("subject_id") or "", row["relation"]


def _lm_kbc_row(query: _QueryKey, accepted: list[tuple[str, str]]) -> dict[str, Any]:
  """Returns the challenges' row of a query with its accepted answers, each a label and an id."""
  subject, subject_id, relation = query
  return {
    "SubjectEntity": subject,
    "SubjectEntityID": subject_id,
    "Relation": relation,
    "ObjectEntities": [label for label, _ in accepted],
    "ObjectEntitiesID": [object_id for _, object_id in accepted],
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
  "ttl": Format("Turtle with confidences: any RDF program", rdf.write_ttl, (rdf.TTL,)),
  "ttl_rdf12": Format(
    "RDF 1.2 Turtle with confidences as annotations: Oxigraph",
    rdf.write_ttl_rdf12,
    (rdf.TTL_RDF12,),
  ),
  "neo4j": Format("CSV for neo4j-admin database import", tables.write_neo4j, tables.NEO4J),
  "networkx": Format("node-link JSON of a directed multigraph", write_networkx, (NETWORKX,)),
  "lm_kbc": Format(
    "a row a query, as the LM-KBC challenges take predictions", write_lm_kbc, (LM_KBC,)
  ),
}

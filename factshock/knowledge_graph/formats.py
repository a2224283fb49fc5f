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

import contextlib
import difflib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from factshock.knowledge_graph import batches, canonical, nodes, rdf, tables
from factshock.knowledge_graph.batches import Add, Batch, Edges, encode, quote
from factshock.knowledge_graph.canonical import Run
from factshock.knowledge_graph.nodes import Counts
from factshock.runtime import files
from factshock.runtime.errors import UserError

NETWORKX = "graph.json"
LM_KBC = "lm_kbc.jsonl"

_QueryKey: TypeAlias = tuple[str, str, str]  # subject, its id or "", relation
_LmKbcAnswer: TypeAlias = tuple[str, str]  # label and id


class Format(NamedTuple):
  """Describes a format: what it is for, its writer, and the names of its files.

  The writer is a context manager, given a folder, the run, and counts that it keeps: of what is
  added inside its files are written at the end, and none where an error ends it.
  """

  about: str
  write: Callable[[str, Run, Counts], contextlib.AbstractContextManager[Add]]
  files: tuple[str, ...]


class Written(NamedTuple):
  """Paths that were written in a format, and counts."""

  paths: list[str]
  counts: Counts


def write(
  names: Sequence[str],
  folder: str,
  rows: Iterable[Batch],
  run: Run,
) -> list[Written]:
  """Writes rows in some formats into a folder, all in one pass; every file is whole or absent.

  Args:
    names: of FORMATS.
    folder: made where it is missing.
    rows: batches of canonical rows.
    run: where the rows come from.

  Returns:
    Of each format what was written.

  Raises:
    UserError: unknown format, the folder cannot be written, or text that UTF-8 cannot hold.
  """
  check_names(names)
  counts = [nodes.new_counts() for _ in names]
  try:
    with contextlib.ExitStack() as stack:
      adds = [
        stack.enter_context(FORMATS[name].write(folder, run, own))
        for name, own in zip(names, counts)
      ]
      for batch in rows:
        for add in adds:
          add(batch)
  except UnicodeEncodeError as error:
    text = error.object[max(0, error.start - 30) : error.end + 30]
    raise UserError(f"{folder}: expected text that UTF-8 can hold, got {text!r}") from error
  paths = [[os.path.join(folder, file) for file in FORMATS[name].files] for name in names]
  return list(map(Written, paths, counts))


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


@contextlib.contextmanager
def write_jsonl(
  folder: str,
  run: Run,
  counts: Counts,
) -> Generator[Add]:
  """Writes all rows to triples.jsonl.

  Args:
    folder: made where it is missing.
    run: not used: every row names its run.
    counts: of what is written.
  """
  with files.atomic_write(os.path.join(folder, canonical.FILE)) as file:

    def add(batch: Batch) -> None:
      counts["rows"] += len(batch)
      file.write(batches.json_lines(batch))

    yield add


@contextlib.contextmanager
def write_networkx(
  folder: str,
  run: Run,
  counts: Counts,
) -> Generator[Add]:
  """Writes graph.json."""
  labels: dict[str, str] = {}
  with files.atomic_write(os.path.join(folder, NETWORKX)) as file:
    file.write(f'{{"directed": true, "multigraph": true, "graph": {encode(run)}, "edges": [')

    def add(batch: Batch) -> None:
      edges = batch.edges
      if not edges:
        return
      separator = ",\n" if counts["rows"] else "\n"
      nodes.add_counts(counts, edges.ends)
      columns = zip(edges.ends.subject, edges.subject, edges.ends.object, edges.object)
      for subject, subject_label, object_, object_label in columns:
        labels.setdefault(subject, subject_label)
        labels.setdefault(object_, object_label)
      file.write(separator + ",\n".join(_edges(edges)))

    yield add
    # After the edges: the order of keys means nothing, and so one pass is enough.
    file.write('],\n"nodes": [')
    separator = "\n"
    for key, label in labels.items():
      file.write(f'{separator}{{"id": {quote(key)}, "label": {quote(label)}}}')
      separator = ",\n"
    file.write("]}\n")
  counts["entities"] = len(labels)


def _edges(edges: Edges) -> list[str]:
  """Returns the edges of rows in node-link JSON."""
  run = quote(edges.run)
  columns = zip(
    map(quote, edges.ends.subject),
    map(quote, edges.ends.object),
    map(quote, edges.relation),
    [f', "label": {quote(label)}' if label else "" for label in edges.relation_label],
    map(repr, edges.confidence),
    batches.number_texts(edges.score, "null"),
    batches.number_texts(edges.rank, "null"),
    [f', "flags": {encode(flags)}' if flags else "" for flags in edges.flags],
  )
  return [
    f'{{"source": {subject}, "target": {object_}, "key": {relation}{label}, '
    f'"confidence": {confidence}, "score": {score}, "rank": {rank}, "run": {run}{flags}}}'
    for subject, object_, relation, label, confidence, score, rank, flags in columns
  ]


@contextlib.contextmanager
def write_lm_kbc(
  folder: str,
  run: Run,
  counts: Counts,
) -> Generator[Add]:
  """Writes lm_kbc.jsonl; counts the `queries` and those `without_answer`.

  Args:
    folder: made where it is missing.
    run: not used: the challenges' rows name none.
    counts: of what is written.

  Raises:
    UserError: the rows of a query do not stand together.
  """
  path = os.path.join(folder, LM_KBC)
  queries = _Queries(path)
  with files.atomic_write(path) as file:

    def add(batch: Batch) -> None:
      file.write("".join(queries.ended_by(batch)))

    yield add
    file.write("".join(queries.last()))
  counts["rows"] = queries.answers
  counts["queries"] = len(queries.seen)
  counts["without_answer"] = queries.without_answer


class _Queries:
  """Collects the accepted answers of queries, whose rows stand together."""

  def __init__(self, path: str) -> None:
    self.path = path
    self.seen: set[_QueryKey] = set()
    self.answers = 0
    self.without_answer = 0
    self._query: _QueryKey | None = None
    self._accepted: list[_LmKbcAnswer] = []

  def ended_by(self, batch: Batch) -> Iterator[str]:
    """Yields the lines of the queries before the last of a batch, which may go on."""
    subject_ids = [identifier or "" for identifier in batch.subject_id]
    queries = zip(batch.subject, subject_ids, batch.relation)
    for query, is_accepted, label, identifier in zip(
      queries, batch.accepted, batch.object, batch.object_id
    ):
      if query != self._query:
        yield from self.last()
        self._begin(query)
      if is_accepted:
        self._accepted.append((label, identifier or label))

  def _begin(self, query: _QueryKey) -> None:
    """Begins a query."""
    if query in self.seen:
      raise UserError(
        f"{self.path}: expected all rows of a query beside each other, got {query} again later; "
        "sort the rows by subject and relation"
      )
    self.seen.add(query)
    self._query = query

  def last(self) -> Iterator[str]:
    """Yields the line of the query that was begun last, if any, and ends it."""
    if self._query is None:
      return
    self.answers += len(self._accepted)
    self.without_answer += not self._accepted
    yield encode(_lm_kbc_row(self._query, self._accepted)) + "\n"
    self._query = None
    self._accepted = []


def _lm_kbc_row(query: _QueryKey, accepted: list[_LmKbcAnswer]) -> dict[str, Any]:
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

r"""Tables: TSV for PyKEEN and its like, the id files of OpenKE, and CSV for neo4j-admin.

**TSV** has no header and no quoting: subject, relation, object (the order PyKEEN reads) and, as a
fourth cell where asked for, the confidence. A line is a triple and a raw tab is a cell's end,
whatever the labels hold: in cells, a backslash is `\\`, a tab `\t`, a newline `\n`, a carriage
return `\r`; other control and line-separating characters, and white space that begins or ends a
cell (many readers strip it), are `\uXXXX`; a quotation mark is `\"` where it begins a cell (there
pandas, with which PyKEEN reads, takes it for quoting), and as it is elsewhere. `read_tsv` undoes
this. "nan", "NA", "None" stand as they are: PyKEEN reads them as texts, and pandas does with
keep_default_na=False.

Cells name nodes by their keys (`nodes.py`): the id where there is one, so that entities that share
a label stay two and an entity with two labels stays one; else the label. The labels of ids are in
labels.tsv beside it (id, label; of several labels the first).

**OpenKE** reads numbers, in one folder: entity2id.txt and relation2id.txt (their count, then a
name and its number a line), and train2id.txt (count, then *head tail relation* a line, an order
that differs from others'). Names are escaped as in TSV.

**Neo4j** reads nodes.csv and relationships.csv as they are:

    neo4j-admin database import full --nodes=nodes.csv --relationships=relationships.csv \
        --multiline-fields=true neo4j

Every text is quoted, since unquoted white space at its ends is trimmed. --multiline-fields is
needed only where a label holds a line break; the count `line_breaks` says of how many lines.
The files are for programs, and kept to the letter: a spreadsheet runs a cell that begins with = + -
or @ as a formula, so import them there as text; the count `formulas` says of how many lines.
`flags` is a JSON list.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from typing import NotRequired, TypedDict

from factshock.knowledge_graph import batches, nodes
from factshock.knowledge_graph.batches import Add, Batch, Edges
from factshock.knowledge_graph.canonical import Run
from factshock.knowledge_graph.nodes import Counts
from factshock.runtime import files
from factshock.runtime.errors import UserError

GRAPH = "graph.tsv"
GRAPH_CONFIDENCE = "graph_confidence.tsv"
LABELS = "labels.tsv"
OPENKE = tuple(
  os.path.join("openke", name)
  for name in ("entity2id.txt", "relation2id.txt", "train2id.txt", LABELS)
)
NEO4J = (
  os.path.join("neo4j", "nodes.csv"),
  os.path.join("neo4j", "relationships.csv"),
)

_FORMULA = re.compile(r'(?:\A|,)"[=+@-]')
_FORMULAS = re.compile(r'(?:\A|[,\n])"[=+@-]')  # found in lines wherever the other is found in one
_ESCAPED = re.compile('[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029]|\\A["\ufeff]|\\A\\s|\\s\\Z')
_NAMES = {
  "\\": "\\\\",
  "\t": "\\t",
  "\n": "\\n",
  "\r": "\\r",
  '"': '\\"',
}
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|(.?))", re.DOTALL)
_LETTERS = {escape[1]: letter for letter, escape in _NAMES.items()}


class TableRow(TypedDict):
  """Triple of graph.tsv: of subject and object the label or the id, whichever names the node."""

  subject: NotRequired[str]
  subject_id: NotRequired[str]
  relation: str
  object: NotRequired[str]
  object_id: NotRequired[str]
  confidence: NotRequired[float]


def escape(text: str) -> str:
  """Returns a text as a TSV cell."""
  if not _ESCAPED.search(text):
    return text
  return _ESCAPED.sub(_escape_letter, text)


def unescape(cell: str) -> str:
  """Returns the text of a TSV cell.

  Raises:
    ValueError: an escape that `escape` does not write.
  """
  if "\\" not in cell:
    return cell
  return _ESCAPE.sub(_unescape_letter, cell)


@contextlib.contextmanager
def write_tsv(
  folder: str,
  run: Run,
  counts: Counts,
  confidence: bool = False,
) -> Generator[Add]:
  """Writes graph.tsv (or graph_confidence.tsv) and labels.tsv.

  Args:
    folder: made where it is missing.
    run: not used: the format has no place for it.
    counts: of what is written.
    confidence: adds the confidence as a fourth cell.
  """
  name = GRAPH_CONFIDENCE if confidence else GRAPH
  labels: dict[str, str] = {}
  with files.atomic_write(os.path.join(folder, name)) as file:

    def add(batch: Batch) -> None:
      edges = batch.edges
      nodes.add_counts(counts, edges.ends)
      _note_labels(labels, edges)
      cells = [
        map(escape, edges.ends.subject),
        map(escape, edges.relation),
        map(escape, edges.ends.object),
      ]
      if confidence:
        cells.append(map(repr, edges.confidence))
      file.write("".join([f"{line}\n" for line in map("\t".join, zip(*cells))]))

    yield add
    _write_labels(os.path.join(folder, LABELS), labels)


def write_tsv_confidence(
  folder: str,
  run: Run,
  counts: Counts,
) -> contextlib.AbstractContextManager[Add]:
  """Writes graph_confidence.tsv and labels.tsv."""
  return write_tsv(folder, run, counts, confidence=True)


def read_tsv(path: str) -> Iterator[TableRow]:
  """Yields the triples of graph.tsv or graph_confidence.tsv.

  Raises:
    UserError: a line of other than 3 or 4 cells, a wrong escape, or a confidence outside of 0 to 1.
  """
  for context, cells in _read_cells(path, (3, 4)):
    subject, subject_id = nodes.of_key(cells[0])
    object_, object_id = nodes.of_key(cells[2])
    row: TableRow = {"relation": cells[1]}
    if subject is not None:
      row["subject"] = subject
    if subject_id is not None:
      row["subject_id"] = subject_id
    if object_ is not None:
      row["object"] = object_
    if object_id is not None:
      row["object_id"] = object_id
    if len(cells) == 4:
      row["confidence"] = _probability(cells[3], context)
    yield row


def read_labels(path: str) -> dict[str, str]:
  """Returns the label of each id of a labels.tsv.

  Raises:
    UserError: a line of other than 2 cells, or a wrong escape.
  """
  labels: dict[str, str] = {}
  for _, cells in _read_cells(path, (2,)):
    key, label = cells
    labels[key] = label
  return labels


@contextlib.contextmanager
def write_openke(
  folder: str,
  run: Run,
  counts: Counts,
) -> Generator[Add]:
  """Writes OpenKE's id files into the folder openke."""
  entity_path, relation_path, triple_path, label_path = (
    os.path.join(folder, name) for name in OPENKE
  )
  labels: dict[str, str] = {}
  entities: dict[str, int] = {}
  relations: dict[str, int] = {}
  with (
    files.atomic_write(triple_path, binary=True) as file,
    tempfile.TemporaryFile(dir=os.path.dirname(triple_path)) as body,
  ):

    def add(batch: Batch) -> None:
      edges = batch.edges
      nodes.add_counts(counts, edges.ends)
      _note_labels(labels, edges)
      lines: list[str] = []
      for head, tail, relation in zip(edges.ends.subject, edges.ends.object, edges.relation):
        head_number = entities.setdefault(head, len(entities))
        tail_number = entities.setdefault(tail, len(entities))
        relation_number = relations.setdefault(relation, len(relations))
        lines.append(f"{head_number} {tail_number} {relation_number}\n")
      body.write("".join(lines).encode())

    yield add
    file.write(b"%d\n" % counts["rows"])  # comes first, and is known last
    body.seek(0)
    shutil.copyfileobj(body, file)
    _write_numbers(entity_path, entities)
    _write_numbers(relation_path, relations)
    _write_labels(label_path, labels)
  counts["entities"] = len(entities)
  counts["relations"] = len(relations)


@contextlib.contextmanager
def write_neo4j(
  folder: str,
  run: Run,
  counts: Counts,
) -> Generator[Add]:
  """Writes nodes.csv and relationships.csv into the folder neo4j."""
  node_path, relationship_path = (os.path.join(folder, name) for name in NEO4J)
  keys: set[str] = set()
  counts["line_breaks"] = 0
  counts["formulas"] = 0
  with (
    files.atomic_write(node_path) as node_file,
    files.atomic_write(relationship_path) as relationship_file,
  ):
    node_file.write("key:ID,label,uri,:LABEL\n")
    relationship_file.write(
      ":START_ID,:END_ID,:TYPE,uri,label,confidence:double,score:double,rank:int,run,flags\n"
    )

    def add(batch: Batch) -> None:
      edges = batch.edges
      nodes.add_counts(counts, edges.ends)
      for file, lines in (
        (node_file, _new_nodes(keys, edges)),
        (relationship_file, _relationships(edges)),
      ):
        text = "".join(lines)
        counts["line_breaks"] += _line_breaks(text, lines)
        counts["formulas"] += _formulas(text, lines)
        file.write(text)

    yield add
  counts["entities"] = len(keys)


def _new_nodes(keys: set[str], edges: Edges) -> list[str]:
  """Returns the lines of nodes.csv of the nodes whose keys are new, and adds these keys."""
  lines: list[str] = []
  columns = zip(edges.ends.subject, edges.subject, edges.ends.object, edges.object)
  for subject, subject_label, object_, object_label in columns:
    if subject not in keys:
      keys.add(subject)
      lines.append(_node(subject, subject_label))
    if object_ not in keys:
      keys.add(object_)
      lines.append(_node(object_, object_label))
  return lines


def _node(key: str, label: str) -> str:
  """Returns the line of nodes.csv of a node."""
  return f'{_quoted(key)},{_quoted(label)},{_quoted(nodes.uri(key))},"Entity"\n'


def _relationships(edges: Edges) -> list[str]:
  """Returns the lines of relationships.csv of edges."""
  columns = zip(
    map(_quoted, edges.ends.subject),
    map(_quoted, edges.ends.object),
    map(_quoted, edges.relation),
    map(_quoted, map(nodes.relation_uri, edges.relation)),
    [_quoted(label or name) for label, name in zip(edges.relation_label, edges.relation)],
    map(repr, edges.confidence),
    batches.number_texts(edges.score, ""),  # no property of a triple that others imply
    batches.number_texts(edges.rank, ""),
    itertools.repeat(_quoted(edges.run)),
    ["[]" if not flags else json.dumps(flags, ensure_ascii=False) for flags in edges.flags],
  )
  return [f"{','.join(cells)},{_quoted(flags)}\n" for *cells, flags in columns]


def _quoted(text: str) -> str:
  """Returns a text as a quoted CSV cell."""
  return '"' + text.replace('"', '""') + '"'


def _line_breaks(text: str, lines: Sequence[str]) -> int:
  """Returns in how many lines, which together are a text, a label holds a line break."""
  if "\r" not in text and text.count("\n") == len(lines):
    return 0
  return sum(line.count("\n") > 1 or "\r" in line for line in lines)


def _formulas(text: str, lines: Sequence[str]) -> int:
  """Returns of how many lines of quoted cells, together a text, a spreadsheet would run a cell."""
  if not _FORMULAS.search(text):
    return 0
  return sum(map(_has_formula, lines))


def _has_formula(line: str) -> bool:
  """Returns whether a spreadsheet would run a cell of a line of quoted cells."""
  return _FORMULA.search(line) is not None


def _note_labels(labels: dict[str, str], edges: Edges) -> None:
  """Remembers the first label of every node that is an id."""
  columns = zip(edges.ends.subject, edges.subject, edges.ends.object, edges.object)
  for subject, subject_label, object_, object_label in columns:
    if subject not in labels and nodes.is_id(subject):
      labels[subject] = subject_label
    if object_ not in labels and nodes.is_id(object_):
      labels[object_] = object_label


def _write_labels(path: str, labels: Mapping[str, str]) -> None:
  """Writes ids and labels, a pair a line."""
  with files.atomic_write(path) as file:
    for key, label in labels.items():
      file.write(f"{escape(key)}\t{escape(label)}\n")


def _write_numbers(path: str, numbers: Mapping[str, int]) -> None:
  """Writes a count, and names with their numbers, a pair a line."""
  with files.atomic_write(path) as file:
    file.write(f"{len(numbers)}\n")
    for name, number in numbers.items():
      file.write(f"{escape(name)}\t{number}\n")


def _read_cells(path: str, sizes: Collection[int]) -> Iterator[tuple[str, list[str]]]:
  """Yields (context for messages, unescaped cells) of the lines of a file written here.

  Args:
    path: the file.
    sizes: how many cells a line may have.
  """
  for line_number, line in files.lines(path):
    context = f"{path}:{line_number}"
    cells = line.split("\t")
    if len(cells) not in sizes:
      wanted = " or ".join(map(str, sizes))
      raise UserError(f"{context}: expected {wanted} cells, got {len(cells)}: {line[:60]!r}")
    try:
      texts = [unescape(cell) for cell in cells]
    except ValueError as error:
      raise UserError(f"{context}: {error}") from error
    yield context, texts


def _probability(cell: str, context: str) -> float:
  """Returns the confidence in a cell."""
  try:
    value = float(cell)
  except ValueError:
    value = -1
  if not 0 <= value <= 1:
    raise UserError(f"{context}: expected a confidence from 0 to 1, got {cell!r}")
  return value


def _escape_letter(match: re.Match[str]) -> str:
  """Returns the escape of a character."""
  letter = match[0]
  return _NAMES.get(letter) or f"\\u{ord(letter):04x}"


def _unescape_letter(match: re.Match[str]) -> str:
  """Returns the character of an escape."""
  if match[1]:
    return chr(int(match[1], 16))
  if match[2] not in _LETTERS:
    escapes = " ".join(_NAMES.values())
    raise ValueError(f"expected one of the escapes {escapes} \\uXXXX, got {match[0]!r}")
  return _LETTERS[match[2]]

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
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from typing import NotRequired, TypedDict

from factshock.knowledge_graph import nodes
from factshock.knowledge_graph.canonical import CanonicalRow, RowSource, Run
from factshock.knowledge_graph.nodes import Counts, Edge
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


def write_tsv(
  folder: str,
  rows: RowSource,
  run: Run,
  confidence: bool = False,
) -> tuple[list[str], Counts]:
  """Writes graph.tsv (or graph_confidence.tsv) and labels.tsv.

  Args:
    folder: made where it is missing.
    rows: returns a new iterator over canonical rows.
    run: not used: the format has no place for it.
    confidence: adds the confidence as a fourth cell.

  Returns:
    (paths written, counts).
  """
  name = GRAPH_CONFIDENCE if confidence else GRAPH
  path = os.path.join(folder, name)
  labels_path = os.path.join(folder, LABELS)
  counts = nodes.new_counts()
  labels: dict[str, str] = {}
  with files.atomic_write(path) as file:
    for edge in nodes.edges(rows(), counts):
      _note_labels(labels, edge)
      cells = [
        escape(edge.subject),
        escape(edge.row["relation"]),
        escape(edge.object),
      ]
      if confidence:
        cells.append(repr(edge.row["confidence"]))
      file.write("\t".join(cells) + "\n")
    _write_labels(labels_path, labels)
  return [path, labels_path], counts


def write_tsv_confidence(
  folder: str,
  rows: RowSource,
  run: Run,
) -> tuple[list[str], Counts]:
  """Writes graph_confidence.tsv and labels.tsv."""
  return write_tsv(folder, rows, run, confidence=True)


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


def write_openke(
  folder: str,
  rows: RowSource,
  run: Run,
) -> tuple[list[str], Counts]:
  """Writes OpenKE's id files into the folder openke."""
  entity_path, relation_path, triple_path, label_path = (
    os.path.join(folder, name) for name in OPENKE
  )
  counts = nodes.new_counts()
  labels: dict[str, str] = {}
  entities: dict[str, int] = {}
  relations: dict[str, int] = {}
  with (
    files.atomic_write(triple_path, binary=True) as file,
    tempfile.TemporaryFile(dir=os.path.dirname(triple_path)) as body,
  ):
    for edge in nodes.edges(rows(), counts):
      _note_labels(labels, edge)
      head = entities.setdefault(edge.subject, len(entities))
      tail = entities.setdefault(edge.object, len(entities))
      relation = relations.setdefault(edge.row["relation"], len(relations))
      body.write(b"%d %d %d\n" % (head, tail, relation))
    file.write(b"%d\n" % counts["rows"])  # comes first, and is known last
    body.seek(0)
    shutil.copyfileobj(body, file)
    _write_numbers(entity_path, entities)
    _write_numbers(relation_path, relations)
    _write_labels(label_path, labels)
  counts["entities"] = len(entities)
  counts["relations"] = len(relations)
  return [entity_path, relation_path, triple_path, label_path], counts


def write_neo4j(
  folder: str,
  rows: RowSource,
  run: Run,
) -> tuple[list[str], Counts]:
  """Writes nodes.csv and relationships.csv into the folder neo4j."""
  node_path, relationship_path = (os.path.join(folder, name) for name in NEO4J)
  counts = nodes.new_counts()
  keys: set[str] = set()
  line_breaks = 0
  formulas = 0
  with contextlib.ExitStack() as stack:
    node_file = stack.enter_context(files.atomic_write(node_path))
    relationship_file = stack.enter_context(files.atomic_write(relationship_path))
    node_file.write("key:ID,label,uri,:LABEL\n")
    relationship_file.write(
      ":START_ID,:END_ID,:TYPE,uri,label,confidence:double,score:double,rank:int,run,flags\n"
    )
    for edge in nodes.edges(rows(), counts):
      row, subject, object_ = edge
      ends = (
        (subject, row["subject"]),
        (object_, row["object"]),
      )
      for key, label in ends:
        if key not in keys:
          keys.add(key)
          line = _node(key, label)
          line_breaks += _has_line_break(line)
          formulas += _has_formula(line)
          node_file.write(line)
      line = _relationship(edge)
      line_breaks += _has_line_break(line)
      formulas += _has_formula(line)
      relationship_file.write(line)
  counts["entities"] = len(keys)
  counts["line_breaks"] = line_breaks
  counts["formulas"] = formulas
  return [node_path, relationship_path], counts


def _node(key: str, label: str) -> str:
  """Returns the line of nodes.csv of a node."""
  uri = nodes.uri(key)
  cells = [
    _quoted(key),
    _quoted(label),
    _quoted(uri),
    _quoted("Entity"),
  ]
  return ",".join(cells) + "\n"


def _relationship(edge: Edge) -> str:
  """Returns the line of relationships.csv of an edge."""
  row = edge.row
  relation = row["relation"]
  flags = "[]"
  if row.get("flags"):
    flags = json.dumps(row.get("flags"), ensure_ascii=False)
  cells = [
    _quoted(edge.subject),
    _quoted(edge.object),
    _quoted(relation),
    _quoted(nodes.relation_uri(relation)),
    _quoted(row.get("relation_label") or relation),
    f"{row['confidence']!r}",
    _number(row["score"]),
    _number(row["rank"]),
    _quoted(row["run"]),
    _quoted(flags),
  ]
  return ",".join(cells) + "\n"


def _number(value: float | None) -> str:
  """Returns a number as a CSV cell; an empty one, of a triple that others imply, is no property."""
  return "" if value is None else f"{value!r}"


def _quoted(text: str) -> str:
  """Returns a text as a quoted CSV cell."""
  return '"' + text.replace('"', '""') + '"'


def _has_line_break(line: str) -> bool:
  """Returns whether a label in a line holds a line break."""
  return line.count("\n") > 1 or "\r" in line


def _has_formula(line: str) -> bool:
  """Returns whether a spreadsheet would run a cell of a line of quoted cells."""
  return _FORMULA.search(line) is not None


def _note_labels(labels: dict[str, str], edge: Edge) -> None:
  """Remembers the first label of every node that is an id."""
  row: CanonicalRow = edge.row
  if nodes.is_id(edge.subject):
    labels.setdefault(edge.subject, row["subject"])
  if nodes.is_id(edge.object):
    labels.setdefault(edge.object, row["object"])


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

r"""Tables: TSV for PyKEEN and its like, the id files of OpenKE, and CSV for neo4j-admin.

**TSV** has no header and no quoting: subject, relation, object (the order PyKEEN reads) and, as a fourth cell
where asked for, the confidence. A line is a triple and a raw tab is a cell's end, whatever the labels hold: in
cells, a backslash is `\\`, a tab `\t`, a newline `\n`, a carriage return `\r`; other control and line-separating
characters, and white space that begins or ends a cell (many readers strip it), are `\uXXXX`; a quotation mark
is `\"` where it begins a cell (there pandas, with which PyKEEN reads, takes it for quoting), and as it is
elsewhere. `read_tsv` undoes this. "nan", "NA", "None" stand as they are: PyKEEN reads them as texts, and pandas
does with keep_default_na=False.

Cells name nodes by their keys (`nodes.py`): the id where there is one, so that entities that share a label stay
two and an entity with two labels stays one; else the label. The labels of ids are in labels.tsv beside it (id,
label; of several labels the first).

**OpenKE** reads numbers, in one folder: entity2id.txt and relation2id.txt (their count, then a name and its
number a line), and train2id.txt (count, then *head tail relation* a line, an order that differs from others').
Names are escaped as in TSV.

**Neo4j** reads nodes.csv and relationships.csv as they are:

    neo4j-admin database import full --nodes=nodes.csv --relationships=relationships.csv --multiline-fields=true neo4j

Every text is quoted, since unquoted white space at its ends is trimmed. --multiline-fields is needed only where a
label holds a line break; the count `line_breaks` says of how many lines. `flags` is a JSON list.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile

from factshock.knowledge_graph import nodes
from factshock.runtime import files
from factshock.runtime.errors import UserError

GRAPH = "graph.tsv"
GRAPH_CONFIDENCE = "graph_confidence.tsv"
LABELS = "labels.tsv"
OPENKE = tuple(
  os.path.join("openke", name)
  for name in ("entity2id.txt", "relation2id.txt", "train2id.txt", LABELS)
)
NEO4J = tuple(os.path.join("neo4j", name) for name in ("nodes.csv", "relationships.csv"))

_ESCAPED = re.compile('[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029]|\\A["\ufeff]|\\A\\s|\\s\\Z')
_NAMES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", '"': '\\"'}
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|(.?))", re.DOTALL)
_LETTERS = {escape[1]: letter for letter, escape in _NAMES.items()}


def escape(text):
  """A text as a TSV cell."""
  return _ESCAPED.sub(_escaped, text) if _ESCAPED.search(text) else text


def unescape(cell):
  """The text of a TSV cell. ValueError for an escape that `escape` does not write."""
  return _ESCAPE.sub(_unescaped, cell) if "\\" in cell else cell


def write_tsv(folder, rows, run, confidence=False):
  """Writes graph.tsv (or graph_confidence.tsv) and labels.tsv; returns (paths, counts)."""
  paths = [
    os.path.join(folder, name) for name in (GRAPH_CONFIDENCE if confidence else GRAPH, LABELS)
  ]
  counts = nodes.new_counts()
  labels = {}
  with files.atomic_write(paths[0]) as file:
    for row, subject, object_ in nodes.edges(rows(), counts):
      _note_labels(labels, row, subject, object_)
      end = f"\t{row['confidence']!r}\n" if confidence else "\n"
      file.write(f"{escape(subject)}\t{escape(row['relation'])}\t{escape(object_)}{end}")
    _write_labels(paths[1], labels)
  return paths, counts


def write_tsv_confidence(folder, rows, run):
  """Writes graph_confidence.tsv and labels.tsv; returns (paths, counts)."""
  return write_tsv(folder, rows, run, confidence=True)


def read_tsv(path):
  """Yields what graph.tsv or graph_confidence.tsv hold, as dicts.

  A dict has `subject` or `subject_id`, `relation`, `object` or `object_id`, and `confidence` where there is a
  fourth cell.

  Raises:
    UserError: a line of other than 3 or 4 cells, a wrong escape, or a confidence outside of 0 to 1.
  """
  for where, cells in _cells(path, (3, 4)):
    found = {}
    for end, cell in (("subject", cells[0]), ("relation", cells[1]), ("object", cells[2])):
      label, identifier = (cell, None) if end == "relation" else nodes.of_key(cell)
      found |= {end: label} if identifier is None else {end + "_id": identifier}
    if len(cells) == 4:
      found["confidence"] = _probability(cells[3], where)
    yield found


def read_labels(path):
  """dict id -> label of a labels.tsv. UserError as of `read_tsv`."""
  return dict(cells for _, cells in _cells(path, (2,)))


def write_openke(folder, rows, run):
  """Writes OpenKE's id files into the folder openke; returns (paths, counts)."""
  paths = [os.path.join(folder, name) for name in OPENKE]
  counts = nodes.new_counts()
  labels = {}
  entities = {}
  relations = {}
  with (
    files.atomic_write(paths[2], binary=True) as file,
    tempfile.TemporaryFile(dir=os.path.dirname(paths[2])) as body,
  ):
    for row, subject, object_ in nodes.edges(rows(), counts):
      _note_labels(labels, row, subject, object_)
      head, tail = (entities.setdefault(key, len(entities)) for key in (subject, object_))
      body.write(
        b"%d %d %d\n" % (head, tail, relations.setdefault(row["relation"], len(relations)))
      )
    file.write(b"%d\n" % counts["rows"])  # comes first, and is known last
    body.seek(0)
    shutil.copyfileobj(body, file)
    for path, numbered in ((paths[0], entities), (paths[1], relations)):
      _write_numbers(path, numbered)
    _write_labels(paths[3], labels)
  return paths, counts | {"entities": len(entities), "relations": len(relations)}


def write_neo4j(folder, rows, run):
  """Writes nodes.csv and relationships.csv into the folder neo4j; returns (paths, counts)."""
  paths = [os.path.join(folder, name) for name in NEO4J]
  counts = nodes.new_counts()
  seen = set()
  line_breaks = 0
  with contextlib.ExitStack() as stack:
    of_nodes, of_edges = (stack.enter_context(files.atomic_write(path)) for path in paths)
    of_nodes.write("key:ID,label,uri,:LABEL\n")
    of_edges.write(
      ":START_ID,:END_ID,:TYPE,uri,label,confidence:double,score:double,rank:int,run,flags\n"
    )
    for row, subject, object_ in nodes.edges(rows(), counts):
      for key, label in ((subject, row["subject"]), (object_, row["object"])):
        if key not in seen:
          seen.add(key)
          line = f'{_quoted(key)},{_quoted(label)},{_quoted(nodes.uri(key))},"Entity"\n'
          line_breaks += _breaks(line)
          of_nodes.write(line)
      line = _relationship(row, subject, object_)
      line_breaks += _breaks(line)
      of_edges.write(line)
  return paths, counts | {"entities": len(seen), "line_breaks": line_breaks}


def _relationship(row, subject, object_):
  relation = row["relation"]
  flags = json.dumps(row["flags"], ensure_ascii=False) if row.get("flags") else "[]"
  return (
    f"{_quoted(subject)},{_quoted(object_)},{_quoted(relation)},{_quoted(nodes.relation_uri(relation))},"
    f"{_quoted(row.get('relation_label') or relation)},{row['confidence']!r},{row['score']!r},{row['rank']},"
    f"{_quoted(row['run'])},{_quoted(flags)}\n"
  )


def _quoted(text):
  return '"' + text.replace('"', '""') + '"'


def _breaks(line):
  return line.count("\n") > 1 or "\r" in line


def _note_labels(labels, row, subject, object_):
  """Remembers the first label of every node that is an id."""
  if nodes.is_id(subject):
    labels.setdefault(subject, row["subject"])
  if nodes.is_id(object_):
    labels.setdefault(object_, row["object"])


def _write_labels(path, labels):
  with files.atomic_write(path) as file:
    for key, label in labels.items():
      file.write(f"{escape(key)}\t{escape(label)}\n")


def _write_numbers(path, numbered):
  with files.atomic_write(path) as file:
    file.write(f"{len(numbered)}\n")
    for name, number in numbered.items():
      file.write(f"{escape(name)}\t{number}\n")


def _cells(path, sizes):
  """(place as errors name it, unescaped cells) of the lines of a file written here."""
  for number, line in files.lines(path):
    where = f"{path}:{number}"
    cells = line.split("\t")
    if len(cells) not in sizes:
      raise UserError(
        f"{where}: expected {' or '.join(map(str, sizes))} cells, got {len(cells)}: {line[:60]!r}"
      )
    try:
      yield where, list(map(unescape, cells))
    except ValueError as error:
      raise UserError(f"{where}: {error}") from error


def _probability(cell, where):
  try:
    number = float(cell)
  except ValueError:
    number = -1
  if not 0 <= number <= 1:
    raise UserError(f"{where}: expected a confidence from 0 to 1, got {cell!r}")
  return number


def _escaped(match):
  letter = match[0]
  return _NAMES.get(letter) or f"\\u{ord(letter):04x}"


def _unescaped(match):
  if match[1]:
    return chr(int(match[1], 16))
  if match[2] not in _LETTERS:
    raise ValueError(
      f"expected one of the escapes {' '.join(_NAMES.values())} \\uXXXX, got {match[0]!r}"
    )
  return _LETTERS[match[2]]

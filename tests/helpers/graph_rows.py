"""Canonical rows for tests of the knowledge graph's formats, and labels that break formats."""

from hypothesis import strategies as st

from factshock.knowledge_graph import batches, formats, nodes

RUN = {
  "id": "run 1/a",
  "started": "2025-01-02T03:04:05+00:00",
  "ended": "2025-01-02T03:05:05+00:00",
  "model": "t5 base",
  "checkpoint": "ab12",
  "mixing_weights": [0.5, 0.5],
  "calibration": "dev-1",
  "precision": 0.9,
  "software": "factshock 0.1.0",
  "revision": "0123abc+",
}
NASTY = [
  "nan",
  "None",
  "NA",
  "null",
  "N/A",
  "#N/A",
  "-inf",
  "1",
  "1.0",
  "true",
  " ",
  "  lead",
  "trail  ",
  "\t",
  "a\tb",
  "a\nb",
  "a\r\nb",
  "\r",
  "\n",
  '"',
  '"quoted"',
  'He said "no"',
  'a""b',
  "'",
  "\\",
  "\\t",
  "a\\nb",
  "\\\\",
  "\\Q42",
  "Q42",
  "P19",
  "http://a.example/b",
  "urn:isbn:1",
  "<b>",
  "%20",
  "a%b",
  "a,b",
  "a;b",
  "{|",
  "?x",
  "_:b",
  "#",
  "@en",
  "^^",
  "é",
  "e\u0301",
  "東京",
  "🙂",
  "\u00a0",
  "\u200b",
  "\ufeff",
  "\ufeffa",
  "\u2028",
  "a\u2029b",
  "\x85",
  "\x0b",
  "\x1c",
  "\x7f",
  "\x00",
  "a\x00b",
  ".",
  "-",
  "0",
  "a b",
  "A B",
  "a_b",
  "\u0130",
  "\ufffe",
  "\U0010ffff",
]
labels = st.one_of(
  st.sampled_from(NASTY),
  st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
  st.text("\\\"\t\n\r u0Q1' ", min_size=1, max_size=6),
)
ids = st.one_of(
  st.none(),
  st.sampled_from(["Q42", "Q1", "http://a.example/b", "urn:isbn:1", "no id", "Q042", "http://a b"]),
)


def row(subject="s", relation="r", object_="o", **more):
  """An accepted canonical row; an id or a label that is None is left out."""
  given = {
    "subject": subject,
    "relation": relation,
    "object": object_,
    "confidence": 0.75,
    "score": -1.5,
    "rank": 1,
    "accepted": True,
    "threshold": 0.5,
    "model": "t5 base",
    "checkpoint": "ab12",
    "mixing_weights": [0.5, 0.5],
    "calibration": "dev-1",
    "run": "run 1/a",
  } | more
  return {
    key: value
    for key, value in given.items()
    if value is not None or key in ("checkpoint", "mixing_weights", "score", "rank")
  }


def some_rows():
  """Hypothesis strategy: lists of accepted rows with nasty labels and some ids."""
  one = st.builds(
    lambda subject, relation, object_, subject_id, object_id, confidence: row(
      subject, relation, object_, subject_id=subject_id, object_id=object_id, confidence=confidence
    ),
    labels,
    labels,
    labels,
    ids,
    ids,
    st.floats(0, 1),
  )
  return st.lists(one, max_size=6)


def any_rows():
  """Hypothesis strategy: lists of rows of one run, of every kind, those of a query together."""
  texts = st.lists(labels, min_size=1, max_size=2)
  numbers = st.one_of(st.none(), st.floats(-1e9, 0), st.integers(-3, 0))
  one = st.builds(
    row,
    labels,
    labels,
    labels,
    subject_id=ids,
    object_id=ids,
    relation_label=st.one_of(st.none(), labels),
    confidence=st.one_of(st.floats(0, 1), st.integers(0, 1)),
    score=numbers,
    rank=st.one_of(st.none(), st.integers(1, 3)),
    accepted=st.booleans(),
    flags=st.one_of(st.none(), texts),
    further=st.one_of(st.none(), texts),
  )
  query = lambda found: (found["subject"], found.get("subject_id") or "", found["relation"])
  unordered = st.lists(one, max_size=8, unique_by=query)
  return st.builds(lambda rows: [again for found in rows for again in [found] * 2], unordered)


def edges(rows):
  """(Row, subject key, object key) of accepted rows, and what `nodes.keys` says of their ids."""
  column = lambda end: ([row[end] for row in rows], [row.get(f"{end}_id") for row in rows])
  ends = nodes.keys(column("subject"), column("object"))
  return list(zip(rows, ends.subject, ends.object)), ends


def write(name, folder, rows, run=RUN):
  """Paths and counts of rows written in one format."""
  context = str(folder / formats.FORMATS[name].files[0])
  (written,) = formats.write([name], str(folder), batches.of_rows(rows, context), run)
  return written


def write_rows(path, rows):
  """Writes rows to a file of canonical rows."""
  with open(path, "w", encoding="utf-8") as file:
    file.writelines(map(batches.json_lines, batches.of_rows(rows, str(path))))

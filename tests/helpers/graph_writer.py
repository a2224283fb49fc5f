"""Simple writers of all formats of triples, a row at a time, to hold the fast ones against."""

import json

from graph_rows import RUN

from factshock.knowledge_graph import canonical, nodes, rdf, tables

LABEL = "<http://www.w3.org/2000/01/rdf-schema#label>"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DOUBLE = "<http://www.w3.org/2001/XMLSchema#double>"
TERM = "urn:factshock:term:"
GRAPH, STATEMENTS = rdf.graph_uris(RUN["id"])


def write(name, rows):
  """Texts of the files of one format, in the order of formats.FORMATS."""
  edges = [(row, key(row, "subject"), key(row, "object")) for row in rows if row["accepted"]]
  if name in ("jsonl", "lm_kbc"):
    return WRITERS[name](rows)
  return WRITERS[name](edges)


def key(row, end):
  """The key of the node at one end of a row."""
  label, identifier = row[end], row.get(f"{end}_id")
  if identifier is not None and nodes.is_id(identifier):
    short = identifier.removeprefix(nodes.WIKIDATA_ENTITY)
    return short if nodes.is_id(short) and short[0] in "QPL" else identifier
  return "\\" + label if label.startswith("\\") or nodes.is_id(label) else label


def to_json(value):
  return json.dumps(value, ensure_ascii=False)


def jsonl(rows):
  optional = ("subject_id", "relation_label", "object_id", "flags")
  order = lambda row: [*canonical.KEYS, *(name for name in row if name not in canonical.KEYS)]
  kept = lambda row, name: name in row and (row[name] is not None or name not in optional)
  lines = [to_json({name: row[name] for name in order(row) if kept(row, name)}) for row in rows]
  return ["".join(line + "\n" for line in lines)]


def labels_tsv(edges):
  labels = {}
  for row, subject, object_ in edges:
    for node, label in ((subject, row["subject"]), (object_, row["object"])):
      if nodes.is_id(node):
        labels.setdefault(node, label)
  return "".join(
    f"{tables.escape(node)}\t{tables.escape(label)}\n" for node, label in labels.items()
  )


def tsv(edges, confidence=False):
  lines = []
  for row, subject, object_ in edges:
    cells = [tables.escape(text) for text in (subject, row["relation"], object_)]
    lines.append("\t".join(cells + [repr(row["confidence"])] * confidence) + "\n")
  return ["".join(lines), labels_tsv(edges)]


def openke(edges):
  entities, relations, lines = {}, {}, [f"{len(edges)}\n"]
  for row, subject, object_ in edges:
    head, tail = (entities.setdefault(node, len(entities)) for node in (subject, object_))
    lines.append(f"{head} {tail} {relations.setdefault(row['relation'], len(relations))}\n")
  numbered = lambda names: "".join(
    [f"{len(names)}\n", *(f"{tables.escape(name)}\t{names[name]}\n" for name in names)]
  )
  return [numbered(entities), numbered(relations), "".join(lines), labels_tsv(edges)]


def neo4j(edges):
  quoted = lambda text: '"' + text.replace('"', '""') + '"'
  number = lambda value: "" if value is None else repr(value)
  of_nodes = {}
  lines = [":START_ID,:END_ID,:TYPE,uri,label,confidence:double,score:double,rank:int,run,flags\n"]
  for row, subject, object_ in edges:
    for node, label in ((subject, row["subject"]), (object_, row["object"])):
      cells = [node, label, nodes.uri(node), "Entity"]
      of_nodes.setdefault(node, ",".join(map(quoted, cells)) + "\n")
    relation = row["relation"]
    label = row.get("relation_label") or relation
    texts = [subject, object_, relation, nodes.relation_uri(relation), label]
    numbers = [number(row[name]) for name in ("confidence", "score", "rank")]
    flags = to_json(row.get("flags") or [])
    lines.append(
      ",".join([*map(quoted, texts), *numbers, quoted(row["run"]), quoted(flags)]) + "\n"
    )
  return ["key:ID,label,uri,:LABEL\n" + "".join(of_nodes.values()), "".join(lines)]


def networkx(edges):
  labels, items = {}, []
  for row, subject, object_ in edges:
    labels.setdefault(subject, row["subject"]), labels.setdefault(object_, row["object"])
    edge = {"source": subject, "target": object_, "key": row["relation"]}
    edge |= {"label": row["relation_label"]} if row.get("relation_label") else {}
    edge |= {name: row[name] for name in ("confidence", "score", "rank", "run")}
    items.append(edge | ({"flags": row["flags"]} if row.get("flags") else {}))
  of_nodes = [{"id": node, "label": label} for node, label in labels.items()]
  listed = lambda some: "".join("\n" + to_json(item) + "," for item in some)[:-1]
  head = '{"directed": true, "multigraph": true, "graph": ' + to_json(RUN)
  return [f'{head}, "edges": [{listed(items)}],\n"nodes": [{listed(of_nodes)}]}}\n']


def lm_kbc(rows):
  queries = {}
  for row in rows:
    query = (row["subject"], row.get("subject_id") or "", row["relation"])
    answers = queries.setdefault(query, [])
    if row["accepted"]:
      answers.append((row["object"], row.get("object_id") or row["object"]))
  names = ("SubjectEntity", "SubjectEntityID", "Relation", "ObjectEntities", "ObjectEntitiesID")
  lines = []
  for query, answers in queries.items():
    columns = [[answer[place] for answer in answers] for place in (0, 1)]
    lines.append(to_json(dict(zip(names, (*query, *columns)))) + "\n")
  return ["".join(lines)]


def of_statements(first, statement, end):
  """A writer of RDF: what comes first, the lines of a statement, and the end of labels' lines."""

  def write_edges(edges):
    lines, labelled = list(first), set()
    for serial, (row, subject, object_) in enumerate(edges, 1):
      uris = [nodes.uri(subject), nodes.relation_uri(row["relation"]), nodes.uri(object_)]
      subject, predicate, object_ = (f"<{uri}>" for uri in uris)
      lines.append(statement(row, (subject, predicate, object_), serial))
      name = row["relation"] if uris[1].startswith(nodes.RELATION) else None
      of_terms = [
        (subject, row["subject"]),
        (object_, row["object"]),
        (predicate, row.get("relation_label") or name),
      ]
      for pair in of_terms:
        if pair[1] is not None and pair not in labelled:
          labelled.add(pair)
          lines.append(f"{pair[0]} {LABEL} {rdf.literal(pair[1])}{end}")
    return ["".join(lines)]

  return write_edges


def quads(row, triple, serial):
  node, end = f"<{STATEMENTS}:{serial}>", f" <{STATEMENTS}> .\n"
  lines = [f"{' '.join(triple)} <{GRAPH}> .\n"]
  for name, term in zip(("subject", "predicate", "object"), triple):
    lines.append(f"{node} <{RDF}{name}> {term}{end}")
  lines.append(f'{node} <{TERM}confidence> "{row["confidence"]!r}"^^{DOUBLE}{end}')
  lines += [f"{node} <{TERM}flag> {rdf.literal(flag)}{end}" for flag in row.get("flags") or []]
  return "".join(lines)


def confidence_and_flags(row):
  flags = [f" ; f:flag {rdf.literal(flag)}" for flag in row.get("flags") or []]
  return f'f:confidence "{row["confidence"]!r}"^^x:double' + "".join(flags)


def turtle(row, triple, serial):
  subject, predicate, object_ = triple
  return (
    f"{' '.join(triple)} .\ns:{serial} r:subject {subject} ; r:predicate {predicate} ; "
    f"r:object {object_} ; {confidence_and_flags(row)} .\n"
  )


def annotated(row, triple, serial):
  return f"{' '.join(triple)} {{| {confidence_and_flags(row)} |}} .\n"


PREFIXES = f"PREFIX f: <{TERM}>\n", "PREFIX x: <http://www.w3.org/2001/XMLSchema#>\n"
WRITERS = {
  "jsonl": jsonl,
  "tsv": tsv,
  "tsv_confidence": lambda edges: tsv(edges, confidence=True),
  "openke": openke,
  "nt": of_statements([], lambda row, triple, serial: f"{' '.join(triple)} .\n", " .\n"),
  "nq": of_statements(list(rdf.provenance(RUN)), quads, f" <{GRAPH}> .\n"),
  "ttl": of_statements(
    [PREFIXES[0], f"PREFIX r: <{RDF}>\nPREFIX s: <{STATEMENTS}:>\n", PREFIXES[1]], turtle, " .\n"
  ),
  "ttl_rdf12": of_statements(['VERSION "1.2"\n', *PREFIXES], annotated, " .\n"),
  "neo4j": neo4j,
  "networkx": networkx,
  "lm_kbc": lm_kbc,
}

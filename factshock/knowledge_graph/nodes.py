"""Which node of the graph a row's subject or object is, and what a node is called.

A node is its id, where a row gives one that can be used: a Wikidata id (Q42, P19, L7) or an absolute http, https
or urn IRI. Two rows with one id are one node, whatever their labels; two ids are two nodes, though they may
share a label. Without an id a node is its label. An id that is neither is counted and not used: the node is its
label then, so that entities with such ids and one label are one node; give them IRIs to keep them apart.

Its *key* names a node where formats have no URIs: the id, or the label to the letter. A label that looks like an
id (the answer "Q42", as text) has a backslash before it, as has one that begins with a backslash, so that no
label is taken for an id. Its *URI* is http://www.wikidata.org/entity/Q42 for a Wikidata id, an IRI as it stands,
and urn:factshock:entity: with the percent-encoded label else. Keys and URIs are one to one: distinct labels have
distinct URIs. Relations are named likewise: P19 is http://www.wikidata.org/prop/direct/P19, an IRI is itself, and
others are minted under urn:factshock:relation:.
"""

import functools
import re
import urllib.parse

ENTITY = "urn:factshock:entity:"
RELATION = "urn:factshock:relation:"
WIKIDATA_ENTITY = "http://www.wikidata.org/entity/"
WIKIDATA_RELATION = "http://www.wikidata.org/prop/direct/"

# RFC 3987, without user names and numeric IPv6 hosts. What is ours is minted from labels and is nobody's id.
_LETTER = (
  "A-Za-z0-9\\-._~!$&'()*+,;=\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef"
  + "".join(f"{chr(plane << 16)}-{chr((plane << 16) + 0xFFFD)}" for plane in range(1, 14))
  + "\U000e1000-\U000efffd"
)
_PLACE = f"(?:[{_LETTER}:@/]|%[0-9A-Fa-f]{{2}})"
_REST = rf"(?:\?(?:{_PLACE}|[?])*)?(?:#(?:{_PLACE}|[?])*)?"
_IRI = re.compile(
  rf"(?i:https?)://(?:[{_LETTER}]|%[0-9A-Fa-f]{{2}})+(?::\d*)?(?:/{_PLACE}*)?{_REST}"
  rf"|(?!(?i:urn:factshock:))(?i:urn):[A-Za-z0-9][A-Za-z0-9-]{{0,30}}[A-Za-z0-9]:(?!/){_PLACE}+{_REST}"
)
_WIKIDATA = re.compile(r"[QPL][1-9][0-9]*")
_PROPERTY = re.compile(r"P[1-9][0-9]*")
_FIRST = frozenset("QPLhHuU")  # what ids begin with; most labels need no more than this look


def is_id(text):
  """Whether a text is an id that can name a node: a Wikidata id, or an absolute http, https or urn IRI."""
  return text[:1] in _FIRST and bool(_WIKIDATA.fullmatch(text) or _IRI.fullmatch(text))


def new_counts():
  """dict of what a writer counts: `rows` written, `unusable_ids` and the first of them (None, or where it was)."""
  return {"rows": 0, "unusable_ids": 0, "first_unusable_id": None}


def edges(rows, counts):
  """Yields (row, key of its subject, key of its object) of the accepted rows; counts them, and ids not used."""
  for row in rows:
    if row["accepted"]:
      counts["rows"] += 1
      yield row, _key(row, "subject", counts), _key(row, "object", counts)


def of_key(key):
  """(Label or None, id or None) of a key: what `edges` made it of."""
  if is_id(key):
    return None, key
  return (key[1:] if key[:1] == "\\" else key), None


@functools.lru_cache(
  maxsize=1 << 16
)  # a subject's rows stand together, and some objects are frequent
def uri(key):
  """The URI of the node with this key."""
  label, identifier = of_key(key)
  if identifier is None:
    return ENTITY + urllib.parse.quote(label, safe="")
  return WIKIDATA_ENTITY + identifier if identifier[0] in "QPL" else identifier


@functools.lru_cache(maxsize=1 << 12)
def relation_uri(relation):
  """The URI of a relation."""
  if _PROPERTY.fullmatch(relation):
    return WIKIDATA_RELATION + relation
  return relation if _IRI.fullmatch(relation) else RELATION + urllib.parse.quote(relation, safe="")


def _key(row, end, counts):
  label = row[end]
  identifier = row.get(end + "_id")
  if identifier is not None:
    if is_id(identifier):
      short = identifier[len(WIKIDATA_ENTITY) :] if identifier.startswith(WIKIDATA_ENTITY) else ""
      return short if _WIKIDATA.fullmatch(short) else identifier
    counts["unusable_ids"] += 1
    counts["first_unusable_id"] = (
      counts["first_unusable_id"] or f"{identifier!r} of the {end} {label!r}"
    )
  return "\\" + label if label[:1] == "\\" or is_id(label) else label

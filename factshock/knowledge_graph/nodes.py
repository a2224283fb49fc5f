r"""Nodes of the graph: which one a row's subject or object is, and what a node is called.

A node is its id, where a row gives one that can be used: a Wikidata id (Q42, P19, L7) or an
absolute http, https or urn IRI. Two rows with one id are one node, whatever their labels; two ids
are two nodes, though they may share a label. Without an id a node is its label. An id that is
neither is counted and not used: the node is its label then, so that entities with such ids and one
label are one node; give them IRIs to keep them apart.

Its *key* names a node where formats have no URIs: the id, or the label to the letter. A label that
looks like an id (the answer "Q42", as text) has a backslash before it, as has one that begins with
a backslash, so that no label is taken for an id. Its *URI* is http://www.wikidata.org/entity/Q42
for a Wikidata id, an IRI as it stands, and urn:factshock:entity: with the percent-encoded label
else. Keys and URIs are one to one: distinct labels have distinct URIs. Relations are named
likewise: P19 is http://www.wikidata.org/prop/direct/P19, an IRI is itself, and others are minted
under urn:factshock:relation:.
"""

import functools
import re
import urllib.parse
from collections.abc import Sequence
from typing import Literal, NamedTuple, NotRequired, TypeAlias, TypedDict

ENTITY = "urn:factshock:entity:"
RELATION = "urn:factshock:relation:"
WIKIDATA_ENTITY = "http://www.wikidata.org/entity/"
WIKIDATA_RELATION = "http://www.wikidata.org/prop/direct/"

# RFC 3987, without user names and numeric IPv6 hosts. What is minted from labels is nobody's id.
_LETTER = (
  "A-Za-z0-9\\-._~!$&'()*+,;=\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef"
  + "".join(f"{chr(plane << 16)}-{chr((plane << 16) + 0xFFFD)}" for plane in range(1, 14))
  + "\U000e1000-\U000efffd"
)
_PLACE = f"(?:[{_LETTER}:@/]|%[0-9A-Fa-f]{{2}})"
_REST = rf"(?:\?(?:{_PLACE}|[?])*)?(?:#(?:{_PLACE}|[?])*)?"
_HTTP = rf"(?i:https?)://(?:[{_LETTER}]|%[0-9A-Fa-f]{{2}})+(?::\d*)?(?:/{_PLACE}*)?{_REST}"
_URN = (
  r"(?!(?i:urn:factshock:))(?i:urn):[A-Za-z0-9][A-Za-z0-9-]{0,30}[A-Za-z0-9]:"
  rf"(?!/){_PLACE}+{_REST}"
)
_IRI = re.compile(f"{_HTTP}|{_URN}")
_WIKIDATA = re.compile(r"[QPL][1-9][0-9]*")
_PROPERTY = re.compile(r"P[1-9][0-9]*")
_is_wikidata = _WIKIDATA.fullmatch
_FIRST = frozenset("QPLhHuU")  # what ids begin with; most labels need no more than this look
_ESCAPED = _FIRST | {"\\"}
# Labels, and ids where they are given.
Column: TypeAlias = tuple[Sequence[str], Sequence[str | None]]


class Counts(TypedDict):
  """Counts of a writer.

  Attributes:
    rows: rows written.
    unusable_ids: ends of rows whose id is neither a Wikidata id nor an IRI.
    first_unusable_id: the first of them and where it was, or None.
    entities, relations, line_breaks, formulas, queries, without_answer: what some formats count
      besides.
  """

  rows: int
  unusable_ids: int
  first_unusable_id: str | None
  entities: NotRequired[int]
  relations: NotRequired[int]
  line_breaks: NotRequired[int]
  formulas: NotRequired[int]
  queries: NotRequired[int]
  without_answer: NotRequired[int]


class Ends(NamedTuple):
  """Nodes at the ends of edges: keys of subjects and objects, and what ids could not be used."""

  subject: list[str]
  object: list[str]
  unusable_ids: int
  first_unusable_id: str | None


def is_id(text: str) -> bool:
  """Returns whether a text is an id that can name a node.

  That is a Wikidata id, or an absolute http, https or urn IRI.
  """
  if text[:1] not in _FIRST:
    return False
  return bool(_WIKIDATA.fullmatch(text) or _IRI.fullmatch(text))


def new_counts() -> Counts:
  """Returns the counts of a writer that has written nothing."""
  return {"rows": 0, "unusable_ids": 0, "first_unusable_id": None}


def keys(subjects: Column, objects: Column) -> Ends:
  """Returns the nodes of the subjects and objects of rows, each column its labels and ids."""
  unusable: list[tuple[int, str]] = []  # the place among all ends, and what is wrong there
  subject_keys = _keys(subjects, "subject", unusable)
  object_keys = _keys(objects, "object", unusable)
  return Ends(subject_keys, object_keys, len(unusable), min(unusable)[1] if unusable else None)


def add_counts(counts: Counts, ends: Ends) -> None:
  """Adds rows that were written to the counts of a writer."""
  counts["rows"] += len(ends.subject)
  counts["unusable_ids"] += ends.unusable_ids
  counts["first_unusable_id"] = counts["first_unusable_id"] or ends.first_unusable_id


def of_key(key: str) -> tuple[str | None, str | None]:
  """Returns (label, None) or (None, id): what `edges` made a key of."""
  if is_id(key):
    return None, key
  return _label_of(key), None


def _label_of(key: str) -> str:
  """Returns the label of a key that is no id."""
  if key[:1] == "\\":
    return key[1:]
  return key


def uri(key: str) -> str:
  """Returns the URI of the node with a key."""
  if not is_id(key):
    label = _label_of(key)
    return ENTITY + urllib.parse.quote(label, safe="")
  if key[0] in "QPL":
    return WIKIDATA_ENTITY + key
  return key


@functools.lru_cache(maxsize=1 << 12)
def relation_uri(relation: str) -> str:
  """Returns the URI of a relation."""
  if _PROPERTY.fullmatch(relation):
    return WIKIDATA_RELATION + relation
  if _IRI.fullmatch(relation):
    return relation
  return RELATION + urllib.parse.quote(relation, safe="")


def _keys(
  column: Column,
  end: Literal["subject", "object"],
  unusable: list[tuple[int, str]],
) -> list[str]:
  """Returns the keys of the nodes at one end of rows.

  Args:
    column: labels and ids.
    end: which one, for messages.
    unusable: gets ids that cannot be used, as of `keys`.
  """
  labels, identifiers = column
  keys: list[str] = []
  for row, (label, identifier) in enumerate(zip(labels, identifiers)):
    if identifier is not None:
      if _is_wikidata(identifier):
        keys.append(identifier)
        continue
      if is_id(identifier):
        keys.append(_short(identifier))
        continue
      unusable.append((2 * row + (end == "object"), f"{identifier!r} of the {end} {label!r}"))
    keys.append("\\" + label if label[:1] in _ESCAPED and _is_escaped(label) else label)
  return keys


def _is_escaped(label: str) -> bool:
  """Returns whether a label gets a backslash before it, as it could be taken for an id."""
  return label[:1] == "\\" or is_id(label)


def _short(identifier: str) -> str:
  """Returns an id, the URI of a Wikidata entity as its Wikidata id."""
  if identifier.startswith(WIKIDATA_ENTITY):
    short = identifier[len(WIKIDATA_ENTITY) :]
    if _WIKIDATA.fullmatch(short):
      return short
  return identifier

"""The entities of facts and how often text names them: Aho-Corasick search for all their names at once."""

import collections
import itertools
import re
import unicodedata
from typing import NamedTuple

import ahocorasick_rs
import numpy as np

# In what is searched it takes the place of each space and stands on both sides of every other sign,
# in names and in text, and names begin and end with one more: the search itself then finds names
# only where no word goes on before or after them. (Two thirds of the hits without it are parts of
# words.) A text has one such form, and no other text the same.
_BORDER = "\x00"
_SIGN = re.compile(r"[^\w ]")  # as _kinds tells them
_CHUNK = 1 << 20  # characters searched at a time


class Entities(NamedTuple):
  """Entities and their names. Name i is names[i]; pairs (name, entity) say whose it is."""

  labels: list  # sorted
  names: list  # sorted, in NFC, folded where asked for
  name_of_pair: np.ndarray
  entity_of_pair: np.ndarray
  ambiguous: (
    list  # for each label "" or why its count cannot be trusted: "several" entities, one "letter"
  )
  facts: np.ndarray  # [facts, 2]: numbers of subject and object
  folded: bool


class Search(NamedTuple):
  """Entities ready for `count_documents`."""

  entities: Entities
  automaton: object  # ahocorasick_rs.AhoCorasick of the names with borders
  entity_of_name: tuple  # (offsets [names + 1], entities): those of each name
  facts_of_subject: tuple  # (offsets [entities + 1], numbers of facts)
  object_of_fact: np.ndarray  # [facts]
  capitalised: list  # (number, label) of entities whose label is one word and not in lower case


def entities_of(facts, folded=False):
  """The Entities of facts: subjects by name, objects by name and aliases; equal labels are one entity.

  Args:
    facts: list of facts. folded: names count without regard to case.
  """
  aliases = collections.defaultdict(set)
  ids = collections.defaultdict(set)
  for fact in facts:
    for role in ("subject", "object"):
      aliases[fact[role]].add(_normal(fact[role], folded))
      if fact.get(f"{role}_id"):
        ids[fact[role]].add(fact[f"{role}_id"])
    aliases[fact["object"]].update(_normal(alias, folded) for alias in fact.get("aliases", ()))
  labels = sorted(aliases)
  number = {label: i for i, label in enumerate(labels)}
  owners = collections.defaultdict(list)
  for label in labels:
    for name in aliases[label]:
      owners[name].append(number[label])
  names = sorted(owners)
  pairs = [(i, entity) for i, name in enumerate(names) for entity in owners[name]]
  several = {entity for name in names if len(owners[name]) > 1 for entity in owners[name]}
  several |= {number[label] for label, found in ids.items() if len(found) > 1}
  letter = {number[label] for label in labels if any(len(name) == 1 for name in aliases[label])}
  ambiguous = [
    " ".join(["several"] * (i in several) + ["letter"] * (i in letter)) for i in range(len(labels))
  ]
  return Entities(
    labels,
    names,
    *np.array(pairs, np.int64).reshape(-1, 2).T.copy(),
    ambiguous,
    np.array([[number[fact["subject"]], number[fact["object"]]] for fact in facts], np.int64),
    folded,
  )


def _normal(text, folded):
  """A text in NFC, folded if asked for, on one line: as it is searched."""
  if not text.isascii():
    text = unicodedata.normalize("NFC", text)
  if "\n" in text or _BORDER in text:
    text = text.replace("\n", " ").replace(_BORDER, " ")
  return text.casefold() if folded else text


def search_of(entities):
  """The Search of Entities."""

  bordered = [
    _BORDER + _SIGN.sub(rf"{_BORDER}\g<0>{_BORDER}", name).replace(" ", _BORDER) + _BORDER
    for name in entities.names
  ]
  automaton = ahocorasick_rs.AhoCorasick(
    bordered,
    matchkind=ahocorasick_rs.MatchKind.Standard,
    implementation=ahocorasick_rs.Implementation.ContiguousNFA,
    store_patterns=False,
  )
  return Search(
    entities,
    automaton,
    _grouped(entities.name_of_pair, entities.entity_of_pair, len(entities.names)),
    _grouped(entities.facts[:, 0], np.arange(len(entities.facts)), len(entities.labels)),
    entities.facts[:, 1].copy(),
    [
      (i, label)
      for i, label in enumerate(entities.labels)
      if label != label.lower() and re.fullmatch(r"\w+", label)
    ],
  )


def _grouped(keys, values, size):
  """(offsets [size + 1], values by key): the values of key k are values[offsets[k]:offsets[k + 1]]."""
  order = np.argsort(keys, kind="stable")
  return np.searchsorted(keys[order], np.arange(size + 1)), values[order]


def count_documents(documents, search):
  """Counts over documents (texts): a dict of int64 arrays.

  `mentions` [entities]: places where a name stands with no word character (regex \\w) right before
  or after it, each place once however many names of the entity it is. `longest` [entities]: of
  those the ones that remain when, from left to right, the longest mention is taken and what
  overlaps it left out. `documents` [entities]: documents with a mention. `together` [facts]:
  documents that mention subject and object. `size` [2]: documents and bytes read.
  """
  entities = search.entities
  total = {
    name: np.zeros(len(entities.labels), np.int64) for name in ("mentions", "longest", "documents")
  }
  total |= {"together": np.zeros(len(entities.facts), np.int64), "size": np.zeros(2, np.int64)}
  for chunk in _chunks(documents):
    text = "\n".join(chunk)
    total["size"] += len(chunk), len(text.encode()) - (len(chunk) - 1)
    if text.count("\n") >= len(chunk) or entities.folded or _BORDER in text or not text.isascii():
      text = "\n".join(_normal(one, entities.folded) for one in chunk)
    _count_chunk(text, search, total)
  return total


def _chunks(documents):
  """Lists of documents of about _CHUNK characters."""
  chunk = []
  size = 0
  for text in documents:
    chunk.append(text)
    size += len(text)
    if size >= _CHUNK:
      yield chunk
      chunk = []
      size = 0
  if chunk:
    yield chunk


def _count_chunk(text, search, total):
  """Adds to `total` the counts of some documents, a line each."""
  codes, _ = _with_borders(text)
  name, start, end = _find(codes, search)
  document = np.searchsorted(np.flatnonzero(codes == ord("\n")), start)
  size = len(total["mentions"])
  entity, hit = _expand(search.entity_of_name, name)
  total["mentions"] += np.bincount(entity, minlength=size)
  longest = _expand(search.entity_of_name, name[_leftmost_longest(start, end)])[0]
  total["longest"] += np.bincount(longest, minlength=size)
  pairs, fact, _ = _facts_named(document[hit] * size + entity, search)
  total["documents"] += np.bincount(pairs % size, minlength=size)
  total["together"] += np.bincount(fact, minlength=len(total["together"]))


def _find(codes, search):
  """(name, start, end) of every mention in code points with borders, by the ends; without the borders around the name."""
  hits = search.automaton.find_matches_as_indexes(_as_text(codes), overlapping=True)
  name, start, end = (
    np.fromiter(itertools.chain.from_iterable(hits), np.int64, 3 * len(hits)).reshape(-1, 3).T
  )
  return name, start + 1, end - 1


def _facts_named(pairs, search):
  """(different pairs (document * entities + entity), sorted; facts with both ends in one document; the subject's pair of each)."""
  size = len(search.entities.labels)
  pairs = np.sort(pairs, kind="stable")  # nearly sorted as they come
  pairs = pairs[np.concatenate([pairs[:1] == pairs[:1], pairs[1:] != pairs[:-1]])]
  entity = pairs % size
  fact, pair = _expand(search.facts_of_subject, entity)
  here = np.zeros(size, bool)
  here[entity] = True
  kept = np.flatnonzero(
    here[search.object_of_fact[fact]]
  )  # most objects are in none of these documents
  fact = fact[kept]
  pair = pair[kept]
  wanted = (pairs - entity)[pair] + search.object_of_fact[
    fact
  ]  # (the same document, the fact's object)
  found = (
    np.flatnonzero(pairs[np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)] == wanted)
    if len(pairs)
    else kept
  )
  return pairs, fact[found], pair[found]


def naming(documents, search):
  """Whether each document mentions any of the names: list of bool."""
  codes, _ = _with_borders("\n".join(_normal(one, search.entities.folded) for one in documents))
  _, start, _ = _find(codes, search)
  named = np.zeros(len(documents), bool)
  named[np.searchsorted(np.flatnonzero(codes == ord("\n")), start)] = True
  return named.tolist()


def facts_in(documents, search):
  """Yields (text of the document, number of the fact, subject places, object places) of facts with both named in a document.

  The text is as it was searched: in NFC and on one line. Places are lists of (first character,
  character after the last) of the mentions that are not within a longer name, of whatever name of
  the entity; none of the two lists is empty.
  """
  size = len(search.entities.labels)
  for chunk in _chunks(documents):
    lines = [_normal(one, search.entities.folded) for one in chunk]
    codes, places = _with_borders("\n".join(lines))
    name, start, end = _find(codes, search)
    longest = np.sort(_leftmost_longest(start, end))
    name = name[longest]
    start = np.searchsorted(places, start[longest])
    end = np.searchsorted(places, end[longest])
    breaks = np.searchsorted(places, np.flatnonzero(codes == ord("\n")))
    document = np.searchsorted(breaks, start)
    first = np.append(0, breaks + 1)[
      document
    ]  # character of the chunk that its document begins with
    start = start - first
    end = end - first
    entity, hit = _expand(search.entity_of_name, name)
    order = np.argsort(document[hit] * size + entity, kind="stable")
    hit, keys = hit[order], (document[hit] * size + entity)[order]
    pairs, fact, owner = _facts_named(keys, search)

    def of(key):
      these = hit[np.searchsorted(keys, key) : np.searchsorted(keys, key, "right")]
      return list(zip(start[these].tolist(), end[these].tolist()))

    for number, key in zip(fact.tolist(), pairs[owner].tolist()):
      yield (
        lines[key // size],
        number,
        of(key),
        of(key - key % size + int(search.entities.facts[number, 1])),
      )


def _expand(grouped, keys):
  """(all values of the keys, one after another; which key each is of)."""
  offsets, values = grouped
  lengths = offsets[keys + 1] - offsets[keys]
  which = np.repeat(np.arange(len(keys)), lengths)
  begin = np.cumsum(lengths) - lengths
  return values[offsets[keys][which] + np.arange(len(which)) - begin[which]], which


def _leftmost_longest(start, end):
  """Numbers of the mentions that are left when from the left the longest is taken, and then the next that is free."""
  if not len(start):
    return np.zeros(0, np.int64)
  order = np.argsort(
    (start << 32) - end, kind="stable"
  )  # by start, the longest first; nearly sorted as they come
  start = start[order]
  end = end[order]
  reached = np.maximum.accumulate(end)
  first = np.flatnonzero(
    np.concatenate([[True], start[1:] >= reached[:-1]])
  )  # of runs of mentions that overlap
  last = np.append(first[1:], len(start)) - 1
  kept = first.tolist()
  for begin, stop in zip(*(edge[reached[last] > end[first]].tolist() for edge in (first, last))):
    free = end[begin]  # more than one mention of the run may stay
    for place in range(begin + 1, stop + 1):
      if start[place] >= free:
        kept.append(place)
        free = end[place]
  return order[kept]


def _with_borders(text):
  """(uint32 code points of a text with borders, places [characters] of its characters among them).

  The text begins and ends with a border; a space's place is its border's, which stands for it.
  """
  codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
  kind = _kinds()[codes]
  places = np.cumsum(
    kind, dtype=np.int32
  )  # a sign takes its border, itself and one more; all else one code
  out = np.zeros(int(places[-1]) + 2 if len(codes) else 2, "<u4")
  places -= kind >> 1  # from the last code of each character to the character
  out[places] = np.where(codes == ord(" "), np.uint32(0), codes)
  return out, places


def _as_text(codes):
  return codes.tobytes().decode("utf-32-le")


_KINDS = []


def _kinds():
  """int8 [all code points]: 1 for word characters and the space, 3 for other signs: the codes they take with borders."""
  if not _KINDS:
    kinds = np.fromiter(
      (1 if _is_word(chr(code)) else 3 for code in range(0x110000)), np.int8, 0x110000
    )
    kinds[ord(" ")] = 1
    _KINDS.append(kinds)
  return _KINDS[0]


def _is_word(letter):
  return letter.isalnum() or letter == "_"

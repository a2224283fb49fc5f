"""The entities of facts and how often text names them: Aho-Corasick search for all their names at once."""

import collections
import itertools
import re
import unicodedata
from typing import NamedTuple

import numpy as np

# Stands at every border between a word and something else, in names and in text, so that the search itself finds
# names only where no word goes on before or after them: two thirds of the hits without it are parts of words.
_BORDER = "\x00"
_CHUNK = 1 << 20  # characters searched at a time


class Entities(NamedTuple):
  """Entities and their names. Name i is names[i]; pairs (name, entity) say whose it is."""
  labels: list         # sorted
  names: list          # sorted, in NFC, folded where asked for
  name_of_pair: np.ndarray
  entity_of_pair: np.ndarray
  ambiguous: list      # for each label "" or why its count cannot be trusted: "several" entities, one "letter"
  facts: np.ndarray    # [facts, 2]: numbers of subject and object
  folded: bool


class Search(NamedTuple):
  """Entities ready for `count_documents`."""
  entities: Entities
  automaton: object    # ahocorasick_rs.AhoCorasick of the names with borders
  open_start: np.ndarray  # [names]: begins with a sign, so that the border before it has to be looked at
  open_end: np.ndarray
  entity_of_name: tuple   # (offsets [names + 1], entities): those of each name
  facts_of_subject: tuple  # (offsets [entities + 1], numbers of facts)
  capitalised: list    # (number, label) of entities whose label is one word and not in lower case


def entities_of(facts, folded=False):
  """The Entities of facts: subjects by name, objects by name and aliases; equal labels are one entity.

  Args:
    facts: list of facts. folded: names count without regard to case.
  """
  aliases, ids = collections.defaultdict(set), collections.defaultdict(set)
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
  ambiguous = [" ".join(["several"] * (i in several) + ["letter"] * (i in letter)) for i in range(len(labels))]
  return Entities(labels, names, *np.array(pairs, np.int64).reshape(-1, 2).T.copy(), ambiguous,
                  np.array([[number[fact["subject"]], number[fact["object"]]] for fact in facts], np.int64), folded)


def _normal(text, folded):
  """A text in NFC, folded if asked for, on one line: as it is searched."""
  if not text.isascii():
    text = unicodedata.normalize("NFC", text)
  if "\n" in text or _BORDER in text:
    text = text.replace("\n", " ").replace(_BORDER, " ")
  return text.casefold() if folded else text


def search_of(entities):
  """The Search of Entities."""
  import ahocorasick_rs

  automaton = ahocorasick_rs.AhoCorasick(
      [re.sub(r"\b", _BORDER, name) for name in entities.names], matchkind=ahocorasick_rs.MatchKind.Standard,
      implementation=ahocorasick_rs.Implementation.ContiguousNFA, store_patterns=False)
  return Search(entities, automaton, np.array([not _is_word(name[0]) for name in entities.names], bool),
                np.array([not _is_word(name[-1]) for name in entities.names], bool),
                _grouped(entities.name_of_pair, entities.entity_of_pair, len(entities.names)),
                _grouped(entities.facts[:, 0], np.arange(len(entities.facts)), len(entities.labels)),
                [(i, label) for i, label in enumerate(entities.labels) if label != label.lower() and re.fullmatch(r"\w+", label)])


def _grouped(keys, values, size):
  """(offsets [size + 1], values by key): the values of key k are values[offsets[k]:offsets[k + 1]]."""
  order = np.argsort(keys, kind="stable")
  return np.searchsorted(keys[order], np.arange(size + 1)), values[order]


def count_documents(documents, search):
  """Counts over documents (texts): a dict of int64 arrays.

  `mentions` [entities]: places where a name stands with no word character (regex \\w) right before or after it, each
  place once however many names of the entity it is. `longest` [entities]: of those the ones that remain when, from left to right,
  the longest mention is taken and what overlaps it left out. `documents` [entities]: documents with a mention.
  `together` [facts]: documents that mention subject and object. `size` [2]: documents and bytes read.
  """
  entities = search.entities
  total = {name: np.zeros(len(entities.labels), np.int64) for name in ("mentions", "longest", "documents")}
  total |= {"together": np.zeros(len(entities.facts), np.int64), "size": np.zeros(2, np.int64)}
  for chunk in _chunks(documents):
    text = "\n".join(chunk)
    total["size"] += len(chunk), len(text.encode()) - (len(chunk) - 1)
    if text.count("\n") >= len(chunk) or not text.isascii() or entities.folded or _BORDER in text:
      text = "\n".join(_normal(one, entities.folded) for one in chunk)
    _count_chunk(text, search, total)
  return total


def _chunks(documents):
  """Lists of documents of about _CHUNK characters."""
  chunk, size = [], 0
  for text in documents:
    chunk.append(text)
    size += len(text)
    if size >= _CHUNK:
      yield chunk
      chunk, size = [], 0
  if chunk:
    yield chunk


def _count_chunk(text, search, total):
  """Adds to `total` the counts of some documents, a line each."""
  text = _with_borders(text)
  name, start, end = _find(text, search)
  document = np.searchsorted(np.flatnonzero(text == ord("\n")), start)
  size = len(total["mentions"])
  entity, hit = _expand(search.entity_of_name, name)
  total["mentions"] += np.bincount(entity, minlength=size)
  longest = _expand(search.entity_of_name, name[_leftmost_longest(start, end)])[0]
  total["longest"] += np.bincount(longest, minlength=size)
  pairs, fact, found = _facts_named(document[hit] * size + entity, search)
  total["documents"] += np.bincount(pairs % size, minlength=size)
  total["together"] += np.bincount(fact[found], minlength=len(total["together"]))


def _find(text, search):
  """(name, start, end) of every mention in a text with borders, by the ends."""
  hits = search.automaton.find_matches_as_indexes(text.tobytes().decode("utf-32-le"), overlapping=True)
  name, start, end = np.fromiter(itertools.chain.from_iterable(hits), np.int64, 3 * len(hits)).reshape(-1, 3).T
  keep = ~(search.open_start[name] & _is_border(text, start - 1)) & ~(search.open_end[name] & _is_border(text, end))
  return name[keep], start[keep], end[keep]


def _facts_named(pairs, search):
  """(different pairs (document * entities + entity) in order; facts whose subject is in one; for each whether its object is too)."""
  size = len(search.entities.labels)
  pairs = np.sort(pairs, kind="stable")  # nearly sorted as they come
  pairs = pairs[np.concatenate([pairs[:1] == pairs[:1], pairs[1:] != pairs[:-1]])]
  fact, pair = _expand(search.facts_of_subject, pairs % size)
  wanted = pairs[pair] - pairs[pair] % size + search.entities.facts[fact, 1]  # (the same document, the fact's object)
  place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
  return pairs, fact, pairs[place] == wanted if len(pairs) else np.zeros(0, bool)


def facts_in(documents, search):
  """Yields (text of the document, number of the fact, subject places, object places) of facts with both named in a document.

  The text is as it was searched: in NFC and on one line. Places are lists of (first character, character after the last) of the
  mentions that are not within a longer name, of whatever name of the entity; none of the two lists is empty.
  """
  size = len(search.entities.labels)
  for chunk in _chunks(documents):
    lines = [_normal(one, search.entities.folded) for one in chunk]
    text = _with_borders("\n".join(lines))
    name, start, end = _find(text, search)
    longest = np.sort(_leftmost_longest(start, end))
    name, start, end = name[longest], start[longest], end[longest]
    breaks = np.flatnonzero(text == ord("\n"))
    document = np.searchsorted(breaks, start)
    borders = np.cumsum(text == ord(_BORDER))
    first = np.append(0, breaks + 1 - borders[breaks])[document]  # character of the chunk that its document begins with
    start, end = start - np.append(0, borders)[start] - first, end - borders[end - 1] - first
    entity, hit = _expand(search.entity_of_name, name)
    order = np.argsort(document[hit] * size + entity, kind="stable")
    hit, keys = hit[order], (document[hit] * size + entity)[order]
    pairs, fact, found = _facts_named(keys, search)
    owner = _expand(search.facts_of_subject, pairs % size)[1][found]

    def places(key):
      these = hit[np.searchsorted(keys, key):np.searchsorted(keys, key, "right")]
      return list(zip(start[these].tolist(), end[these].tolist()))

    for number, key in zip(fact[found].tolist(), pairs[owner].tolist()):
      yield lines[key // size], number, places(key), places(key - key % size + int(search.entities.facts[number, 1]))


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
  order = np.lexsort((-end, start))
  start, end = start[order], end[order]
  reached = np.maximum.accumulate(end)
  first = np.flatnonzero(np.concatenate([[True], start[1:] >= reached[:-1]]))  # of runs of mentions that overlap
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
  """uint32 code points of a text with _BORDER put between word characters and others, and at the ends of it."""
  codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
  if not len(codes):
    return codes
  word = _words()[codes]
  edge = np.concatenate([word[:1], word[1:] != word[:-1], word[-1:]])
  shift = np.cumsum(edge, dtype=np.int32)
  out = np.zeros(len(codes) + int(shift[-1]), "<u4")
  out[np.arange(len(codes), dtype=np.int32) + shift[:-1]] = codes
  return out


def _is_border(text, places):
  """Whether _BORDER stands at these places of a text of code points; outside of it there is none."""
  inside = (places >= 0) & (places < len(text))
  return inside & (text[np.where(inside, places, 0)] == 0)


_WORDS = []


def _words():
  """bool [all code points]: whether each is a word character."""
  if not _WORDS:
    _WORDS.append(np.fromiter((_is_word(chr(code)) for code in range(0x110000)), bool, 0x110000))
  return _WORDS[0]


def _is_word(letter):
  return letter.isalnum() or letter == "_"

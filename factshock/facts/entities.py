"""Entities of facts and how often text names them: Aho-Corasick search for all names at once."""

import collections
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import ahocorasick_rs
import numpy as np

from factshock.facts import lettering
from factshock.types import Fact

# In what is searched it takes the place of each space and stands on both sides of every other sign,
# in names and in text, and names begin and end with one more: the search itself then finds names
# only where no word goes on before or after them. (Two thirds of the hits without it are parts of
# words.) Letters of scripts without spaces between words (facts/lettering.py) are signs here, and
# names have no border more on the side where such a one stands.
_BORDER = "\x00"
_CHUNK = 1 << 20  # characters searched at a time

# First character of a mention in a text, and the one after its last.
TextSpan: TypeAlias = tuple[int, int]


class Entities(NamedTuple):
  """Entities and their names.

  `labels` and `names` are sorted; names are in NFC, folded where asked for, with the signs of
  facts/lettering.py. The pairs (name, entity) say whose name it is. `ambiguous` says for each label
  why its count cannot be trusted: "several" entities, one "letter", a "script" without spaces, or
  several of these; else "". `facts` [facts, 2] are the indices of subject and object.
  """

  labels: list[str]
  names: list[str]
  name_of_pair: np.ndarray
  entity_of_pair: np.ndarray
  ambiguous: list[str]
  facts: np.ndarray
  folded: bool


class Grouped(NamedTuple):
  """Values by key: those of key k are values[offsets[k]:offsets[k + 1]]."""

  offsets: np.ndarray
  values: np.ndarray


class Capitalised(NamedTuple):
  """Entities whose label is one word and not in lower case: indices, labels, these lowered."""

  entity: np.ndarray
  labels: list[str]
  lowered: list[str]


class Search(NamedTuple):
  """Entities ready for `count_documents`.

  The automaton holds the names with borders. `is_unspaced` [names] says which end in a script
  without spaces; it is None where none does. `object_of_fact` [facts] are indices.
  """

  entities: Entities
  automaton: ahocorasick_rs.AhoCorasick
  is_unspaced: np.ndarray | None
  entity_of_name: Grouped
  facts_of_subject: Grouped
  object_of_fact: np.ndarray
  capitalised: Capitalised


class FactMention(NamedTuple):
  """Document that names both ends of a fact.

  The text is as it was searched: in NFC and on one line. `fact` is an index. The spans are those of
  the mentions that are not within a longer name, of whatever name of the entity; at least one each.
  """

  text: str
  fact: int
  subjects: list[TextSpan]
  objects: list[TextSpan]


def entities_of(
  facts: Sequence[Fact],
  folded: bool = False,
) -> Entities:
  """Returns the entities of facts; equal labels are one entity.

  Args:
    facts: their subjects go by name, their objects by name and aliases.
    folded: whether names count without regard to case.
  """
  aliases, ids = _names_and_ids(facts, folded)
  labels = sorted(aliases)
  index_of = {label: index for index, label in enumerate(labels)}
  owners: dict[str, list[int]] = collections.defaultdict(list)
  for index, label in enumerate(labels):
    for name in aliases[label]:
      owners[name].append(index)
  names = sorted(owners)
  pairs: list[tuple[int, int]] = []
  for index, name in enumerate(names):
    pairs += [(index, entity) for entity in owners[name]]
  name_of_pair, entity_of_pair = np.array(pairs, np.int64).reshape(-1, 2).T.copy()
  fact_ends: list[tuple[int, int]] = []
  for fact in facts:
    fact_ends.append((index_of[fact["subject"]], index_of[fact["object"]]))
  return Entities(
    labels,
    names,
    name_of_pair,
    entity_of_pair,
    _ambiguities(labels, aliases, owners, ids),
    np.array(fact_ends, np.int64),
    folded,
  )


def _names_and_ids(
  facts: Sequence[Fact],
  folded: bool,
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
  """Returns the names of each label, itself included, and the identifiers that facts give it."""
  names: dict[str, set[str]] = collections.defaultdict(set)
  ids: dict[str, set[str]] = collections.defaultdict(set)
  for fact in facts:
    ends = (
      (fact["subject"], fact.get("subject_id")),
      (fact["object"], fact.get("object_id")),
    )
    for label, entity_id in ends:
      names[label].add(_name(label, folded))
      if entity_id:
        ids[label].add(entity_id)
    names_of_object = names[fact["object"]]
    for alias in fact.get("aliases", ()):
      names_of_object.add(_name(alias, folded))
  for names_of_label in names.values():
    names_of_label.discard("")  # nothing of it is seen
  return names, ids


def _name(text: str, folded: bool) -> str:
  return lettering.canonical(_normalise(text, folded))


def _ambiguities(
  labels: Sequence[str],
  aliases: dict[str, set[str]],
  owners: dict[str, list[int]],
  ids: dict[str, set[str]],
) -> list[str]:
  """Returns for each label why its count cannot be trusted, "" if it can."""
  shared: set[int] = set()
  for entities in owners.values():
    if len(entities) > 1:
      shared.update(entities)
  reasons: list[str] = []
  for index, label in enumerate(labels):
    words: list[str] = []
    if index in shared or len(ids.get(label, ())) > 1:
      words.append("several")
    if any(len(name) == 1 for name in aliases[label]):
      words.append("letter")
    if any(map(_has_unspaced_end, aliases[label])):
      words.append("script")
    reasons.append(" ".join(words))
  return reasons


def _has_unspaced_end(name: str) -> bool:
  """Returns whether a name is found without a word border on one side or both."""
  return not name.isascii() and any(map(lettering.is_unspaced, (name[0], name[-1])))


def _normalise(text: str, folded: bool) -> str:
  """Returns a text in NFC, folded if asked for, on one line: as it is searched."""
  if not text.isascii():
    text = unicodedata.normalize("NFC", text)
  if "\n" in text or _BORDER in text:
    text = text.replace("\n", " ").replace(_BORDER, " ")
  if folded:
    return text.casefold()
  return text


def search_of(entities: Entities) -> Search:
  """Returns the search for all names of entities."""
  automaton = ahocorasick_rs.AhoCorasick(
    _patterns(entities.names),
    matchkind=ahocorasick_rs.MatchKind.Standard,
    implementation=ahocorasick_rs.Implementation.ContiguousNFA,
    store_patterns=False,
  )
  subject_of_fact, object_of_fact = entities.facts.T
  facts = np.arange(len(entities.facts))
  is_unspaced = np.fromiter(
    (lettering.is_unspaced(name[-1]) for name in entities.names), bool, len(entities.names)
  )
  return Search(
    entities,
    automaton,
    is_unspaced if is_unspaced.any() else None,
    _group(entities.name_of_pair, entities.entity_of_pair, len(entities.names)),
    _group(subject_of_fact, facts, len(entities.labels)),
    object_of_fact.copy(),
    _capitalised(entities.labels),
  )


def _capitalised(labels: Sequence[str]) -> Capitalised:
  entity: list[int] = []
  for index, label in enumerate(labels):
    if label != label.lower() and re.fullmatch(r"\w+", label):
      entity.append(index)
  as_is = [labels[index] for index in entity]
  return Capitalised(np.array(entity, np.int64), as_is, [label.lower() for label in as_is])


def _patterns(names: Sequence[str]) -> list[str]:
  """Returns names as they stand in a text with borders."""
  if not names:
    return []
  codes, _ = _with_borders("\n".join(names))
  patterns = _as_text(codes).split("\n")
  return [_ends_opened(pattern, name) for pattern, name in zip(patterns, names, strict=True)]


def _ends_opened(pattern: str, name: str) -> str:
  """Returns a pattern without a border more where a letter of a script without spaces stands."""
  if name.isascii():
    return pattern
  if lettering.is_unspaced(name[0]) and pattern.startswith(_BORDER * 2):
    pattern = pattern[1:]
  if lettering.is_unspaced(name[-1]):
    pattern = pattern[:-1]
  return pattern


def _group(
  keys: np.ndarray,
  values: np.ndarray,
  size: int,
) -> Grouped:
  """Returns values by key, of keys below `size`."""
  order = np.argsort(keys, kind="stable")
  offsets = np.searchsorted(keys[order], np.arange(size + 1))
  return Grouped(offsets, values[order])


def count_documents(
  documents: Iterable[str],
  search: Search,
) -> dict[str, np.ndarray]:
  r"""Counts over documents.

  Args:
    documents: texts.
    search: for the names of entities.

  Returns:
    int64 arrays. `mentions` [entities]: spans where a name stands with no word character right
    before or after it (facts/lettering.py says what is one), each span once however many names of
    the entity it is. `longest` [entities]: of those the ones that remain when, from left to right,
    the longest mention is taken and what overlaps it left out. `documents` [entities]: documents
    with a mention. `together` [facts]: documents that mention subject and object. `size` [2]:
    documents and bytes read.
  """
  entities = search.entities
  entity_count = len(entities.labels)
  total = {
    "mentions": np.zeros(entity_count, np.int64),
    "longest": np.zeros(entity_count, np.int64),
    "documents": np.zeros(entity_count, np.int64),
    "together": np.zeros(len(entities.facts), np.int64),
    "size": np.zeros(2, np.int64),
  }
  for chunk in _chunks(documents):
    text = "\n".join(chunk)
    size = len(text.encode()) - (len(chunk) - 1)
    total["size"] += len(chunk), size
    has_line_breaks = text.count("\n") >= len(chunk)
    if has_line_breaks or entities.folded or _BORDER in text or not text.isascii():
      lines = [_normalise(document, entities.folded) for document in chunk]
      text = "\n".join(lines)
    _count_chunk(text, search, total)
  return total


def _chunks(documents: Iterable[str]) -> Iterator[list[str]]:
  """Yields lists of documents of about _CHUNK characters."""
  chunk: list[str] = []
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


def _count_chunk(
  text: str,
  search: Search,
  total: dict[str, np.ndarray],
) -> None:
  """Adds to `total` the counts of some documents, a line each."""
  codes, _ = _with_borders(text)
  name, start, end = _find(codes, search)
  document = np.searchsorted(_line_breaks(codes), start)
  size = len(total["mentions"])
  entity, hit = _expand(search.entity_of_name, name)
  total["mentions"] += np.bincount(entity, minlength=size)
  longest_names = name[_leftmost_longest(start, end)]
  longest, _ = _expand(search.entity_of_name, longest_names)
  total["longest"] += np.bincount(longest, minlength=size)
  pairs = document[hit] * size + entity
  named = _facts_named(pairs, search)
  total["documents"] += np.bincount(named.pairs % size, minlength=size)
  fact_count = len(total["together"])
  total["together"] += np.bincount(named.facts, minlength=fact_count)


def _line_breaks(codes: np.ndarray) -> np.ndarray:
  return np.flatnonzero(codes == ord("\n"))


def _find(
  codes: np.ndarray,
  search: Search,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns (name, start, end) of every mention in code points with borders, by the ends.

  The borders around the name are left out.
  """
  hits = search.automaton.find_matches_as_indexes(_as_text(codes), overlapping=True)
  values = itertools.chain.from_iterable(hits)
  flat = np.fromiter(values, np.int64, 3 * len(hits))
  found = flat.reshape(-1, 3).T
  if search.is_unspaced is not None:
    found = found[:, ~_goes_on(codes, search.is_unspaced, found)]
  name, start, end = found
  return name, start + 1, end - 1


def _goes_on(
  codes: np.ndarray,
  is_unspaced: np.ndarray,
  found: np.ndarray,
) -> np.ndarray:
  """Returns which names of scripts without spaces have a mark behind them: part of a syllable."""
  name, _, end = found
  goes_on = is_unspaced[name] & (end < len(codes))
  which = np.flatnonzero(goes_on)
  goes_on[which] = lettering.unspaced_marks()[codes[end[which]]]
  return goes_on


class _Named(NamedTuple):
  """Pairs and facts that documents name.

  `pairs` are the different (document * entities + entity), sorted; `facts` those with both ends in
  one document, and `subject_pairs` the index of each one's subject among the pairs.
  """

  pairs: np.ndarray
  facts: np.ndarray
  subject_pairs: np.ndarray


def _facts_named(pairs: np.ndarray, search: Search) -> _Named:
  """Returns the facts that documents name both ends of, from pairs of document and entity."""
  size = len(search.entities.labels)
  pairs = np.sort(pairs, kind="stable")  # nearly sorted as they come
  is_first = np.ones(len(pairs), bool)
  is_first[1:] = pairs[1:] != pairs[:-1]
  pairs = pairs[is_first]
  entity = pairs % size
  fact, pair = _expand(search.facts_of_subject, entity)
  present = np.zeros(size, bool)
  present[entity] = True
  kept = np.flatnonzero(present[search.object_of_fact[fact]])  # most objects are in no document
  fact = fact[kept]
  pair = pair[kept]
  if not len(pairs):
    return _Named(pairs, fact, pair)
  # The same document, the fact's object.
  document_base = pairs - entity
  wanted = document_base[pair] + search.object_of_fact[fact]
  nearest = np.searchsorted(pairs, wanted)
  nearest = np.minimum(nearest, len(pairs) - 1)
  together = np.flatnonzero(pairs[nearest] == wanted)
  return _Named(pairs, fact[together], pair[together])


def naming(documents: Sequence[str], search: Search) -> list[bool]:
  """Returns for each document whether it mentions any of the names."""
  lines = (_normalise(document, search.entities.folded) for document in documents)
  codes, _ = _with_borders("\n".join(lines))
  _, start, _ = _find(codes, search)
  document = np.searchsorted(_line_breaks(codes), start)
  named = np.zeros(len(documents), bool)
  named[document] = True
  return named.tolist()


def search_of_names(names: Iterable[str]) -> Search:
  """Returns the search for names as they stand; those of no letter or one are not searched."""
  canonical = {_name(name, False) for name in names}
  searched = sorted(name for name in canonical if len(name) > 1 or _has_unspaced_end(name))
  index = np.arange(len(searched))
  nothing = [""] * len(searched)
  facts = np.zeros((0, 2), np.int64)
  return search_of(Entities(searched, searched, index, index, nothing, facts, False))


def first_names(texts: Sequence[str], search: Search) -> list[str | None]:
  """Returns the name that each text mentions first, of several there the longest; None for none.

  Args:
    texts: what is searched, as documents of `count_documents` are.
    search: of `search_of_names`.

  Returns:
    Names as `canonical_name` gives them.
  """
  found: list[str | None] = [None] * len(texts)
  if not search.entities.names or not texts:
    return found
  codes, _ = _with_borders("\n".join(_normalise(text, False) for text in texts))
  name, start, end = _find(codes, search)
  order = np.argsort((start << 32) - end, kind="stable")  # by start, the longest first
  document = np.searchsorted(_line_breaks(codes), start[order])
  first_of, places = np.unique(document, return_index=True)
  for index, place in zip(first_of.tolist(), places.tolist()):
    found[index] = search.entities.names[int(name[order[place]])]
  return found


def canonical_name(text: str) -> str:
  """Returns a name in NFC with the signs of facts/lettering.py, as it is searched."""
  return _name(text, False)


def facts_in(
  documents: Iterable[str],
  search: Search,
) -> Iterator[FactMention]:
  """Yields each fact with both ends named in a document, with the mentions of both."""
  size = len(search.entities.labels)
  for chunk in _chunks(documents):
    lines = [_normalise(document, search.entities.folded) for document in chunk]
    mentions = _mentions(lines, search)
    named = _facts_named(mentions.pairs, search)
    subject_pairs = named.pairs[named.subject_pairs].tolist()
    for fact, subject_pair in zip(named.facts.tolist(), subject_pairs):
      document = subject_pair // size
      object_pair = document * size + int(search.entities.facts[fact, 1])
      yield FactMention(
        lines[document],
        fact,
        mentions.spans(subject_pair),
        mentions.spans(object_pair),
      )


class _Mentions(NamedTuple):
  """Mentions that are not within longer ones, sorted by `pairs` (document * entities + entity).

  `start` and `end` are characters of their documents.
  """

  pairs: np.ndarray
  start: np.ndarray
  end: np.ndarray

  def spans(self, pair: int) -> list[TextSpan]:
    """Returns the spans of an entity in a document."""
    first = np.searchsorted(self.pairs, pair)
    stop = np.searchsorted(self.pairs, pair, "right")
    starts = self.start[first:stop].tolist()
    ends = self.end[first:stop].tolist()
    return list(zip(starts, ends))


def _mentions(lines: Sequence[str], search: Search) -> _Mentions:
  """Returns the mentions of entities in documents, a line each."""
  size = len(search.entities.labels)
  codes, positions = _with_borders("\n".join(lines))
  name, start, end = _find(codes, search)
  longest = np.sort(_leftmost_longest(start, end))
  name = name[longest]
  start = np.searchsorted(positions, start[longest])
  end = np.searchsorted(positions, end[longest])
  breaks = np.searchsorted(positions, _line_breaks(codes))
  document = np.searchsorted(breaks, start)
  # Character of the chunk that its document begins with.
  first = np.append(0, breaks + 1)[document]
  entity, hit = _expand(search.entity_of_name, name)
  pairs = document[hit] * size + entity
  order = np.argsort(pairs, kind="stable")
  hit = hit[order]
  start_in_document = start - first
  end_in_document = end - first
  return _Mentions(pairs[order], start_in_document[hit], end_in_document[hit])


def _expand(
  grouped: Grouped,
  keys: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (all values of the keys, one after another; which key each is of)."""
  offsets, values = grouped
  first = offsets[keys]
  lengths = offsets[keys + 1] - first
  which = np.repeat(np.arange(len(keys)), lengths)
  begin = np.cumsum(lengths) - lengths
  index = first[which] + np.arange(len(which)) - begin[which]
  return values[index], which


def _leftmost_longest(start: np.ndarray, end: np.ndarray) -> np.ndarray:
  """Returns the indices of the mentions that are left when from the left the longest are taken.

  After each the next is taken that is free.
  """
  if not len(start):
    return np.zeros(0, np.int64)
  # By start, the longest first; nearly sorted as they come.
  order = np.argsort((start << 32) - end, kind="stable")
  start = start[order]
  end = end[order]
  reached = np.maximum.accumulate(end)
  # Runs of mentions that overlap.
  begins_run = np.ones(len(start), bool)
  begins_run[1:] = start[1:] >= reached[:-1]
  first = np.flatnonzero(begins_run)
  last = np.append(first[1:], len(start)) - 1
  kept: list[int] = first.tolist()
  goes_on = reached[last] > end[first]  # more than one mention of the run may stay
  runs = zip(first[goes_on].tolist(), last[goes_on].tolist())
  for begin, stop in runs:
    free = end[begin]
    for index in range(begin + 1, stop + 1):
      if start[index] >= free:
        kept.append(index)
        free = end[index]
  return order[kept]


def _with_borders(text: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns uint32 code points of a text with borders, and the positions of its characters there.

  The text begins and ends with a border; a space's position is its border's, which stands for it.
  """
  codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
  code_counts = lettering.code_counts()[codes]
  searched = lettering.searched_codes()[codes]
  is_kept = None
  if not text.isascii() or "  " in text or "\t" in text or "\r" in text:
    # Of spaces in a row the first alone counts, and what is not seen takes no code.
    is_space = searched == 0
    code_counts[1:][is_space[1:] & is_space[:-1]] = 0
    is_kept = code_counts > 0
  # A sign takes its border, itself and one more; most else one code.
  positions = np.cumsum(code_counts, dtype=np.int32)
  size = int(positions[-1]) + 2 if len(codes) else 2
  out = np.zeros(size, "<u4")
  positions -= code_counts >> 1  # from the last code of each character to the character
  if is_kept is None or is_kept.all():
    out[positions] = searched
  else:
    out[positions[is_kept]] = searched[is_kept]
  return out, positions


def _as_text(codes: np.ndarray) -> str:
  return codes.tobytes().decode("utf-32-le")

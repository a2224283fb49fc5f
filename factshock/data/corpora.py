"""Text as token arrays: one flat array for a corpus, windows of it, and windows around facts."""

import collections
import re
from typing import NamedTuple

import numpy as np

from factshock.console import Progress, UserError


class Corpus(NamedTuple):
  """Sequence i is `tokens[offsets[i]:offsets[i + 1]]`; tokens int32, offsets int64, one more than those."""
  tokens: np.ndarray
  offsets: np.ndarray


class SalientWindows(NamedTuple):
  """Windows that hold a fact, laid out as in Corpus; token spans [n, 2] and the fact's number of each."""
  tokens: np.ndarray
  offsets: np.ndarray
  subjects: np.ndarray
  objects: np.ndarray
  facts: np.ndarray


def tokenize_lines(lines, tokenizer, label="tokenizing"):
  """The Corpus of some lines, one sequence a line, without EOS; lines without a token are left out.

  Raises:
    UserError: a line holds a sentinel, which would be taken for a masked span.
  """
  lines = lines if isinstance(lines, collections.abc.Sized) else list(lines)
  progress = Progress(label, len(lines))
  sequences = []
  for number, line in enumerate(lines, 1):
    sequences.append(np.asarray(tokenizer.encode(line), np.int32))
    if len(sequences[-1]) and sequences[-1].max() >= tokenizer.size - tokenizer.sentinels:
      raise UserError(f"corpus line {number}: expected text, got a sentinel <extra_id_N> in "
                      f"{line[:80]!r}; take it out")
    progress.update(number)
  return _corpus([sequence for sequence in sequences if len(sequence)])


def _corpus(sequences):
  """A Corpus of a list of 1-D arrays."""
  lengths = [len(sequence) for sequence in sequences]
  tokens = np.concatenate(sequences).astype(np.int32) if sequences else np.zeros(0, np.int32)
  return Corpus(tokens, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def windows(corpus, length):
  """The same tokens, lines joined and cut every `length` tokens as T5 does; the last may be shorter."""
  if length < 1:
    raise ValueError(f"expected a window of at least 1 token, got {length}")
  total = len(corpus.tokens)
  return Corpus(corpus.tokens, np.append(np.arange(0, total, length), total).astype(np.int64))


def salient_windows(lines, facts, tokenizer, *, words=16, per_fact=8):
  """Windows of at most `words` words around a fact's subject and object, for salient-span masking.

  A window is cut where a line names both verbatim (the two mentions nearest to each other), with as
  much context on either side as there is room; at most `per_fact` different windows a fact, in the order of
  the lines, and none for a fact whose object stands inside its subject's name. The window's tokens
  are those of its pieces (before, first name, between, second name, after) one after the other, so
  that the spans of the names are whole tokens. (Guu et al. 2020, REALM, section 3.4.)

  Raises:
    UserError: no line names a fact's subject and object.
  """
  from factshock.facts import counts

  by_subject = collections.defaultdict(list)
  for number, fact in enumerate(facts):
    if fact["object"] not in fact["subject"]:
      by_subject[fact["subject"]].append(number)
  names = counts.mention_index({name for fact in facts for name in (fact["subject"], fact["object"])})
  lines = lines if isinstance(lines, collections.abc.Sized) else list(lines)
  progress = Progress("finding facts in text", len(lines))
  seen, found = collections.defaultdict(set), []
  for number, line in enumerate(lines, 1):
    for fact, pieces in _fact_windows(line, facts, by_subject, counts.find_mentions(line, names), words):
      text = "".join(pieces[0])
      if len(seen[fact]) < per_fact and text not in seen[fact]:
        seen[fact].add(text)
        found.append((fact, *_tokenize_pieces(*pieces, tokenizer)))
    progress.update(number)
  if not found:
    raise UserError(f"no line of {len(lines)} names the subject and the object of one of {len(facts)} facts; "
                    "check that the corpus and the facts belong together")
  numbers, sequences, subjects, objects = zip(*found)
  corpus = _corpus(sequences)
  return SalientWindows(corpus.tokens, corpus.offsets, np.asarray(subjects, np.int32),
                        np.asarray(objects, np.int32), np.asarray(numbers, np.int64))


def _fact_windows(line, facts, by_subject, mentions, words):
  """Yields (fact number, (five pieces of text, is the subject first)) for each fact found in the line."""
  places = collections.defaultdict(list)
  for start, end, name in mentions:
    places[name].append((start, end))
  if len(places) < 2:
    return
  bounds = [match.span() for match in re.finditer(r"\S+", line)]
  for subject in places:
    for number in by_subject.get(subject, ()):
      objects = places.get(facts[number]["object"], ())
      pairs = [(first, second) for first in places[subject] for second in objects]
      if not pairs:
        continue
      nearest = min(pairs, key=lambda pair: max(pair[0][1], pair[1][1]) - min(pair[0][0], pair[1][0]))
      cut = _cut(bounds, *sorted(nearest), words)
      if cut:
        (start, end), (first, second) = cut, sorted(nearest)
        edges = (start, *first, *second, end)
        yield number, ([line[a:b] for a, b in zip(edges, edges[1:])], nearest[0] < nearest[1])


def _cut(bounds, first, second, words):
  """(start, end) characters of at most `words` words around two mentions; None where both do not fit."""
  begin = next(i for i, (_, end) in enumerate(bounds) if end > first[0])
  stop = next(i for i in range(len(bounds) - 1, -1, -1) if bounds[i][0] < second[1]) + 1
  room = words - (stop - begin)
  if room < 0:
    return None
  left = min(begin, max(room // 2, room - (len(bounds) - stop)))
  right = min(len(bounds), stop + room - left)
  return bounds[begin - left][0], bounds[right - 1][1]


def _tokenize_pieces(pieces, subject_first, tokenizer):
  """(tokens, subject span, object span) of a window's five pieces."""
  encoded = [tokenizer.encode(piece) for piece in pieces]
  edges = np.cumsum([0, *map(len, encoded)])
  first, second = (edges[1], edges[2]), (edges[3], edges[4])
  tokens = np.concatenate([np.asarray(ids, np.int32) for ids in encoded])
  return (tokens, first, second) if subject_first else (tokens, second, first)

"""Text as token arrays: one flat array for a corpus, pieces of it, and windows around facts."""

import collections
import itertools
import re
from typing import NamedTuple

import numpy as np

from factshock.facts import entities
from factshock.runtime.errors import UserError

_SENTINEL = "<extra_id_"


class Corpus(NamedTuple):
  """Sequence i is `tokens[offsets[i]:offsets[i + 1]]`; tokens of `token_type`, offsets int64, one more than the sequences."""

  tokens: np.ndarray
  offsets: np.ndarray


class SalientWindows(NamedTuple):
  """Windows that hold a fact, laid out as in Corpus; token spans [n, 2] and the fact's number of each."""

  tokens: np.ndarray
  offsets: np.ndarray
  subjects: np.ndarray
  objects: np.ndarray
  facts: np.ndarray


def tokenize(texts, tokenizer):
  """The Corpus of some texts, one sequence each, without EOS.

  Texts without a token are left out, and those with a sentinel, as it would be taken for a masked span; how many is printed.
  """
  return join([tokenize_part(texts, tokenizer)])


def tokenize_part(texts, tokenizer):
  """Some texts as a dict of `tokens`, `lengths` [sequences] and `left_out` (texts with a sentinel), for `join`."""
  tokens = []
  lengths = []
  left_out = 0
  texts = iter(texts)
  dtype = token_type(tokenizer)
  while batch := list(itertools.islice(texts, 1000)):
    kept = [text for text in batch if not tokenizer.sentinels or _SENTINEL not in text]
    left_out += len(batch) - len(kept)
    encoded = [ids for ids in tokenizer.encode_all(kept) if len(ids)]
    lengths += map(len, encoded)
    tokens.append(np.fromiter(itertools.chain.from_iterable(encoded), dtype))
  return {
    "tokens": np.concatenate(tokens) if tokens else np.zeros(0, dtype),
    "lengths": np.asarray(lengths, np.int64),
    "left_out": np.asarray(left_out),
  }


def token_type(tokenizer):
  """The smallest of uint16 and int32 that holds a tokenizer's ids."""
  return np.uint16 if tokenizer.size <= 1 << 16 else np.int32


def join(parts):
  """The Corpus of what `tokenize_part` gave."""
  parts = list(parts)
  say_left_out(sum(int(part["left_out"]) for part in parts))
  return Corpus(
    np.concatenate([part["tokens"] for part in parts]),
    offsets(np.concatenate([part["lengths"] for part in parts])),
  )


def offsets(lengths):
  """Offsets int64 of sequences of these lengths, one more than those."""
  return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def say_left_out(count):
  """Prints how many documents were left out for a sentinel in them, if any."""
  if count:
    print(f"  {count:,} documents left out, as a sentinel <extra_id_N> stands in them", flush=True)


def cut(corpus, most):
  """The corpus with each sequence of more than `most` tokens cut into as few pieces, of nearly equal length, as fit."""
  if most < 1:
    raise ValueError(f"expected pieces of at least 1 token, got {most}")
  lengths = np.diff(corpus.offsets)
  pieces = -(-lengths // most)
  if not len(pieces) or pieces.max() <= 1:
    return corpus
  sequence = np.repeat(np.arange(len(pieces)), pieces)
  number = np.arange(len(sequence)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
  starts = corpus.offsets[:-1][sequence] + number * lengths[sequence] // pieces[sequence]
  return Corpus(corpus.tokens, np.append(starts, corpus.offsets[-1]))


def salient_windows(texts, facts, tokenizer, *, words=16, per_fact=8):
  """Windows of at most `words` words around a fact's subject and object, for salient-span masking.

  A window is cut where a text names both (facts/entities.py; the two mentions nearest to each other), with as
  much context on either side as there is room; at most `per_fact` different windows a fact, in the order of
  the texts, and none for a fact whose object stands inside its subject's name. The window's tokens
  are those of its pieces (before, first name, between, second name, after) one after the other, so
  that the spans of the names are whole tokens. (Guu et al. 2020, REALM, section 3.4.)

  Raises:
    UserError: no text names a fact's subject and object.
  """
  prepared = prepare_windows(facts, tokenizer, words, per_fact)
  return join_windows([windows_part(texts, prepared)], facts, per_fact)


def prepare_windows(facts, tokenizer, words, per_fact):
  """What `windows_part` needs beside the texts."""

  return entities.search_of(entities.entities_of(facts)), facts, tokenizer, words, per_fact


def windows_part(texts, prepared):
  """The windows of some texts as a dict of `tokens`, `lengths`, `subjects`, `objects` and `facts`, for `join_windows`."""

  search, facts, tokenizer, words, per_fact = prepared
  seen = collections.defaultdict(set)
  found = []
  for line, fact, subjects, objects in entities.facts_in(texts, search):
    pieces = (
      len(seen[fact]) < per_fact
      and facts[fact]["object"] not in facts[fact]["subject"]
      and _window(line, subjects, objects, words)
    )
    if pieces and (text := "".join(pieces[0])) not in seen[fact]:
      seen[fact].add(text)
      found.append((fact, *_tokenize_pieces(*pieces, tokenizer)))
  numbers, sequences, subjects, objects = zip(*found) if found else ((), (), (), ())
  return {
    "tokens": np.concatenate([np.zeros(0, np.int32), *sequences]),
    "lengths": np.array([len(one) for one in sequences], np.int64),
    "subjects": np.array(subjects, np.int32).reshape(-1, 2),
    "objects": np.array(objects, np.int32).reshape(-1, 2),
    "facts": np.array(numbers, np.int64),
  }


def join_windows(parts, facts, per_fact):
  """The SalientWindows of what `windows_part` gave, at most `per_fact` different ones a fact. Raises: UserError without any."""
  parts = list(parts)
  joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  ends = offsets(joined["lengths"])
  seen = collections.defaultdict(set)
  kept = []
  for number, fact in enumerate(joined["facts"].tolist()):
    text = joined["tokens"][ends[number] : ends[number + 1]].tobytes()
    if len(seen[fact]) < per_fact and text not in seen[fact]:
      seen[fact].add(text)
      kept.append(number)
  if not kept:
    raise UserError(
      f"no text names the subject and the object of one of {len(facts)} facts; "
      "check that the corpus and the facts belong together"
    )
  tokens = np.concatenate([joined["tokens"][ends[number] : ends[number + 1]] for number in kept])
  return SalientWindows(
    tokens,
    offsets(joined["lengths"][kept]),
    *(joined[name][kept] for name in ("subjects", "objects", "facts")),
  )


def _window(line, subjects, objects, words):
  """(five pieces of a text around two names, is the subject first), or None where no window holds them."""
  pairs = [
    (first, second)
    for first in subjects
    for second in objects
    if first[1] <= second[0] or second[1] <= first[0]
  ]
  if not pairs:
    return None
  nearest = min(pairs, key=lambda pair: max(pair[0][1], pair[1][1]) - min(pair[0][0], pair[1][0]))
  first, second = sorted(nearest)
  cut_at = _cut([match.span() for match in re.finditer(r"\S+", line)], first, second, words)
  if not cut_at:
    return None
  edges = (cut_at[0], *first, *second, cut_at[1])
  return [line[a:b] for a, b in zip(edges, edges[1:])], nearest[0] < nearest[1]


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
  first = (edges[1], edges[2])
  second = (edges[3], edges[4])
  tokens = np.concatenate([np.asarray(ids, np.int32) for ids in encoded])
  return (tokens, first, second) if subject_first else (tokens, second, first)

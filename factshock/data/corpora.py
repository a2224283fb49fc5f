"""Text as token arrays: one flat array for a corpus, pieces of it, and windows around facts."""

import collections
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from factshock.facts import entities
from factshock.facts.entities import Search, TextSpan
from factshock.runtime.errors import UserError
from factshock.types import Fact, Tokenizer

_ENCODED_AT_ONCE = 1000  # texts

# Arrays of a part of a corpus by name, as `tokenize_part` and `windows_part` make them.
PartArrays: TypeAlias = Mapping[str, np.ndarray]


class Corpus(NamedTuple):
  """Token sequences in one flat array.

  Sequence i is `tokens[offsets[i]:offsets[i + 1]]`; tokens are of `token_type`, offsets int64, one
  more than the sequences.
  """

  tokens: np.ndarray
  offsets: np.ndarray


class SalientWindows(NamedTuple):
  """Windows of text that each hold a fact, laid out as in Corpus.

  `subjects` and `objects` are token spans [n, 2], `facts` the index of each window's fact.
  """

  tokens: np.ndarray
  offsets: np.ndarray
  subjects: np.ndarray
  objects: np.ndarray
  facts: np.ndarray


def tokenize(
  texts: Iterable[str],
  tokenizer: Tokenizer,
) -> Corpus:
  """Returns the corpus of some texts, one sequence each, without EOS.

  Texts without a token are left out. A special token in a text, such as "<pad>", "</s>" or
  "<extra_id_0>", is text like any other.
  """
  return join([tokenize_part(texts, tokenizer)])


def tokenize_part(
  texts: Iterable[str],
  tokenizer: Tokenizer,
) -> dict[str, np.ndarray]:
  """Tokenises some texts, for `join`.

  Returns:
    `tokens` and `lengths` [sequences].
  """
  tokens: list[np.ndarray] = []
  lengths: list[int] = []
  texts = iter(texts)
  dtype = token_type(tokenizer)
  while batch := list(itertools.islice(texts, _ENCODED_AT_ONCE)):
    encoded = [ids for ids in tokenizer.encode_all(batch) if len(ids)]
    lengths += map(len, encoded)
    tokens.append(np.fromiter(itertools.chain.from_iterable(encoded), dtype))
  return {
    "tokens": np.concatenate([np.zeros(0, dtype), *tokens]),
    "lengths": np.asarray(lengths, np.int64),
  }


def token_type(tokenizer: Tokenizer) -> type[np.uint16] | type[np.int32]:
  """Returns the smallest of uint16 and int32 that holds a tokenizer's ids."""
  if tokenizer.size <= 1 << 16:
    return np.uint16
  return np.int32


def join(parts: Iterable[PartArrays]) -> Corpus:
  """Returns the corpus of what `tokenize_part` gave."""
  parts = list(parts)
  tokens = np.concatenate([part["tokens"] for part in parts])
  lengths = np.concatenate([part["lengths"] for part in parts])
  return Corpus(tokens, offsets(lengths))


def offsets(lengths: np.ndarray) -> np.ndarray:
  """Returns int64 offsets of sequences of these lengths, one more than those."""
  with_start = np.concatenate([[0], np.cumsum(lengths)])
  return with_start.astype(np.int64)


def cut(corpus: Corpus, most: int) -> Corpus:
  """Returns the corpus with sequences of more than `most` tokens cut.

  Each is cut into as few pieces, of nearly equal length, as fit.
  """
  if most < 1:
    raise ValueError(f"expected pieces of at least 1 token, got {most}")
  lengths = np.diff(corpus.offsets)
  pieces = -(-lengths // most)
  if not len(pieces) or pieces.max() <= 1:
    return corpus
  sequence = np.repeat(np.arange(len(pieces)), pieces)
  pieces_before = np.cumsum(pieces) - pieces
  index = np.arange(len(sequence)) - np.repeat(pieces_before, pieces)
  done = index * lengths[sequence] // pieces[sequence]
  starts = corpus.offsets[:-1][sequence] + done
  return Corpus(corpus.tokens, np.append(starts, corpus.offsets[-1]))


def salient_windows(
  texts: Iterable[str],
  facts: Sequence[Fact],
  tokenizer: Tokenizer,
  *,
  words: int = 16,
  per_fact: int = 8,
) -> SalientWindows:
  """Returns windows of text around a fact's subject and object, for salient-span masking.

  A window is cut where a text names both (facts/entities.py; the two mentions nearest to each
  other), with as much context on either side as the window holds. A fact whose object stands inside
  its subject's name has none. The window's tokens are those of its pieces (before, first name,
  between, second name, after) one after the other, so that the spans of the names are whole tokens.
  (Guu et al. 2020, REALM, section 3.4.)

  Args:
    texts: what is searched.
    facts: what is looked for.
    tokenizer: of the windows.
    words: the most words of a window.
    per_fact: the most different windows of a fact, in the order of the texts.

  Raises:
    UserError: no text names a fact's subject and object.
  """
  finder = prepare_windows(facts, tokenizer, words, per_fact)
  return join_windows([windows_part(texts, finder)], facts, per_fact)


class WindowFinder(NamedTuple):
  """Settings of `windows_part`, with the search for the facts' names."""

  search: Search
  facts: Sequence[Fact]
  tokenizer: Tokenizer
  words: int
  per_fact: int


def prepare_windows(
  facts: Sequence[Fact],
  tokenizer: Tokenizer,
  words: int,
  per_fact: int,
) -> WindowFinder:
  """Returns what `windows_part` needs beside the texts.

  Args:
    facts: what is looked for.
    tokenizer: of the windows.
    words: the most words of a window.
    per_fact: the most windows of a fact.
  """
  named = entities.entities_of(facts)
  search = entities.search_of(named)
  return WindowFinder(search, facts, tokenizer, words, per_fact)


def windows_part(
  texts: Iterable[str],
  finder: WindowFinder,
) -> dict[str, np.ndarray]:
  """Finds the windows of some texts, for `join_windows`.

  Returns:
    `tokens`, `lengths`, `subjects`, `objects` and `facts`, as in SalientWindows.
  """
  seen: dict[int, set[str]] = collections.defaultdict(set)
  indices: list[int] = []
  windows: list[_TokenWindow] = []
  for mention in entities.facts_in(texts, finder.search):
    index = mention.fact
    fact = finder.facts[index]
    if len(seen[index]) >= finder.per_fact or fact["object"] in fact["subject"]:
      continue
    window = _window(
      mention.text,
      mention.subjects,
      mention.objects,
      finder.words,
    )
    if not window:
      continue
    text = "".join(window.pieces)
    if text in seen[index]:
      continue
    seen[index].add(text)
    indices.append(index)
    windows.append(_tokenize_window(window, finder.tokenizer))
  return _window_arrays(windows, indices)


def _window_arrays(
  windows: Sequence["_TokenWindow"],
  facts: Sequence[int],
) -> dict[str, np.ndarray]:
  """Returns the arrays of windows, each of a fact."""
  sequences = [window.tokens for window in windows]
  lengths = [len(tokens) for tokens in sequences]
  subjects = [window.subject for window in windows]
  objects = [window.object for window in windows]
  return {
    "tokens": np.concatenate([np.zeros(0, np.int32), *sequences]),
    "lengths": np.array(lengths, np.int64),
    "subjects": np.array(subjects, np.int32).reshape(-1, 2),
    "objects": np.array(objects, np.int32).reshape(-1, 2),
    "facts": np.array(facts, np.int64),
  }


def join_windows(
  parts: Iterable[PartArrays],
  facts: Sequence[Fact],
  per_fact: int,
) -> SalientWindows:
  """Joins what `windows_part` gave, at most `per_fact` different windows a fact.

  Args:
    parts: arrays of each part.
    facts: what was looked for.
    per_fact: the most windows of a fact.

  Raises:
    UserError: there is no window.
  """
  joined = _joined(parts)
  ends = offsets(joined["lengths"])
  seen: dict[int, set[bytes]] = collections.defaultdict(set)
  kept: list[int] = []
  kept_tokens: list[np.ndarray] = []
  for window, fact in enumerate(joined["facts"].tolist()):
    tokens = joined["tokens"][ends[window] : ends[window + 1]]
    text = tokens.tobytes()
    if len(seen[fact]) < per_fact and text not in seen[fact]:
      seen[fact].add(text)
      kept.append(window)
      kept_tokens.append(tokens)
  if not kept:
    raise UserError(
      f"no text names the subject and the object of one of {len(facts)} facts; "
      "check that the corpus and the facts belong together"
    )
  return SalientWindows(
    np.concatenate(kept_tokens),
    offsets(joined["lengths"][kept]),
    joined["subjects"][kept],
    joined["objects"][kept],
    joined["facts"][kept],
  )


def _joined(parts: Iterable[PartArrays]) -> dict[str, np.ndarray]:
  """Returns each array of all parts, one part after the other."""
  parts = list(parts)
  joined: dict[str, np.ndarray] = {}
  for name in parts[0]:
    joined[name] = np.concatenate([part[name] for part in parts])
  return joined


class _Window(NamedTuple):
  """Five pieces of text around two names: before, first name, between, second name, after."""

  pieces: list[str]
  subject_first: bool


class _TokenWindow(NamedTuple):
  """Tokens of a window, and the spans of subject and object among them."""

  tokens: np.ndarray
  subject: tuple[int, int]
  object: tuple[int, int]


def _window(
  line: str,
  subjects: Iterable[TextSpan],
  objects: Sequence[TextSpan],
  words: int,
) -> _Window | None:
  """Returns the window around the nearest two names, or None where no window holds them."""
  pairs: list[tuple[TextSpan, TextSpan]] = []
  for subject, object_ in itertools.product(subjects, objects):
    if subject[1] <= object_[0] or object_[1] <= subject[0]:
      pairs.append((subject, object_))
  if not pairs:
    return None
  nearest = min(pairs, key=_extent)
  first, second = sorted(nearest)
  word_spans = [match.span() for match in re.finditer(r"\S+", line)]
  bounds = _cut(word_spans, first, second, words)
  if not bounds:
    return None
  start, end = bounds
  edges = (start, *first, *second, end)
  pieces = [line[begin:stop] for begin, stop in itertools.pairwise(edges)]
  subject, object_ = nearest
  return _Window(pieces, subject_first=subject < object_)


def _extent(pair: tuple[TextSpan, TextSpan]) -> int:
  """Returns how many characters hold two spans."""
  subject, object_ = pair
  start = min(subject[0], object_[0])
  end = max(subject[1], object_[1])
  return end - start


def _cut(
  bounds: Sequence[TextSpan],
  first: TextSpan,
  second: TextSpan,
  words: int,
) -> TextSpan | None:
  """Returns (start, end) characters of at most `words` words around two mentions.

  `bounds` are those of the words; None where both mentions do not fit.
  """
  count = len(bounds)
  # The words from `begin` up to before `stop` hold both mentions.
  begin = next(i for i, (_, end) in enumerate(bounds) if end > first[0])
  stop = count
  while bounds[stop - 1][0] >= second[1]:
    stop -= 1
  spare = words - (stop - begin)
  if spare < 0:
    return None
  words_behind = count - stop
  spare_left = max(spare // 2, spare - words_behind)
  left = min(begin, spare_left)
  right = min(count, stop + spare - left)
  start, _ = bounds[begin - left]
  _, end = bounds[right - 1]
  return start, end


def _tokenize_window(window: _Window, tokenizer: Tokenizer) -> _TokenWindow:
  encoded = tokenizer.encode_all(window.pieces)
  edges = np.cumsum([0, *map(len, encoded)])
  first = (edges[1], edges[2])
  second = (edges[3], edges[4])
  tokens = np.concatenate([np.asarray(ids, np.int32) for ids in encoded])
  if window.subject_first:
    return _TokenWindow(tokens, first, second)
  return _TokenWindow(tokens, second, first)

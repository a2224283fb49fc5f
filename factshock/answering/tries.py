"""Candidate answers as tries of tokens: each context that candidates share stands once."""

import bisect
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NODES = 128  # contexts a trie may hold: beyond, attention among them would cost more than it shares


class Trie(NamedTuple):
  """Contexts (inner nodes, parents first) of some candidates, and where each one's tokens stand.

  A NamedTuple, as compiled functions take it whole: JAX knows its arrays.

  Attributes:
    tokens_M: int32, last token of each context; node 0 is the start (token 0), as is padding.
    distance_MxM: int32, by how many tokens context j is shorter than context i that begins with it,
      else -1.
    nodes_CxL: int32, with next_CxL: candidate c is the product of p(next | node) over its tokens.
    next_CxL: int32, see nodes_CxL.
    used_CxL: bool, false on padding.
    members: which candidates these are (places in the relation's list); C is padded beyond them.
  """

  tokens_M: np.ndarray
  distance_MxM: np.ndarray
  nodes_CxL: np.ndarray
  next_CxL: np.ndarray
  used_CxL: np.ndarray
  members: tuple[int, ...]


def build(
  sequences: Sequence[tuple[int, ...]],
  closing: int,
  limit: int = NODES,
) -> list[Trie]:
  """Builds tries over token sequences: together they hold each once, at most `limit` contexts each.

  A sequence that another one continues gets the token `closing` at its end, so that no two of the
  events "the text begins with this sequence" overlap. Sequences without a difference share their
  score.

  Args:
    sequences: non-empty tuples of token ids.
    closing: token id that ends a text.
    limit: contexts of a trie; a single sequence longer than this gets a trie of its own.

  Returns:
    The tries, padded to few sizes.
  """
  closed = close(sequences, closing)
  order = sorted(range(len(closed)), key=closed.__getitem__)
  tries = []
  members: list[int] = []
  contexts: dict[tuple[int, ...], None] = {}
  for index in order:
    own = _contexts(closed[index])
    if members and len(contexts.keys() | own.keys()) > limit:
      tries.append(_trie(closed, members, list(contexts)))
      members = []
      contexts = {}
    members.append(index)
    contexts |= own
  return [*tries, _trie(closed, members, list(contexts))]


def close(sequences: Sequence[tuple[int, ...]], closing: int) -> list[tuple[int, ...]]:
  """Returns the sequences, with `closing` at the end of those that another one continues."""
  continued: set[tuple[int, ...]] = set()
  for shorter, longer in itertools.pairwise(sorted(set(sequences))):
    if longer[: len(shorter)] == shorter:
      continued.add(shorter)
  return [(*sequence, closing) if sequence in continued else sequence for sequence in sequences]


def bucket(size: int, steps: Sequence[int]) -> int:
  """Returns the smallest of `steps` that holds `size`; beyond them a multiple of the last.

  So there are few shapes to compile.
  """
  if size > steps[-1]:
    return -(-size // steps[-1]) * steps[-1]
  return steps[bisect.bisect_left(steps, size)]


def _contexts(sequence: tuple[int, ...]) -> dict[tuple[int, ...], None]:
  """Returns the contexts of a sequence's tokens, shortest first, as the keys of a dict."""
  return {sequence[:end]: None for end in range(len(sequence))}


def _trie(
  sequences: Sequence[tuple[int, ...]],
  members: Sequence[int],
  contexts: Sequence[tuple[int, ...]],
) -> Trie:
  node_of = {context: node for node, context in enumerate(contexts)}
  tokens_M, distance_MxM = _nodes(contexts, node_of)
  longest = max(len(sequences[index]) for index in members)
  shape = bucket(len(members), (NODES,)), bucket(longest, (8,))
  nodes_CxL = np.zeros(shape, np.int32)
  next_CxL = np.zeros(shape, np.int32)
  used_CxL = np.zeros(shape, bool)
  for row, index in enumerate(members):
    sequence = sequences[index]
    nodes_CxL[row, : len(sequence)] = [node_of[context] for context in _contexts(sequence)]
    next_CxL[row, : len(sequence)] = sequence
    used_CxL[row, : len(sequence)] = True
  return Trie(tokens_M, distance_MxM, nodes_CxL, next_CxL, used_CxL, tuple(members))


def _nodes(
  contexts: Sequence[tuple[int, ...]], node_of: dict[tuple[int, ...], int]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns tokens_M and distance_MxM of a Trie."""
  size = bucket(len(contexts), (2, 16, 64, NODES))
  tokens_M = np.zeros(size, np.int32)
  distance_MxM = np.full((size, size), -1, np.int32)
  np.fill_diagonal(distance_MxM, 0)
  for node, context in enumerate(contexts):
    tokens_M[node] = context[-1] if context else 0
    for end in range(len(context)):
      distance_MxM[node, node_of[context[:end]]] = len(context) - end
  return tokens_M, distance_MxM

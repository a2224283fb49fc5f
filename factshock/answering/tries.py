"""Candidate answers as tries of tokens: each context that candidates share stands once."""

import bisect
import typing

import numpy as np

NODES = 128  # contexts a trie may hold: beyond, attention among them would cost more than it shares


class Trie(typing.NamedTuple):
  """The contexts (inner nodes, parents first) of some candidates, and where each candidate's tokens stand.

  tokens_M: int32, last token of each context; node 0 is the start (token 0), as is padding.
  distance_MxM: int32, by how many tokens context j is shorter than context i that begins with it, else -1.
  nodes_CxL, next_CxL: int32, candidate c is the product of p(next | node) over its tokens.
  used_CxL: bool, false on padding.
  members: which candidates these are (places in the relation's list); C is padded beyond them.
  """

  tokens_M: np.ndarray
  distance_MxM: np.ndarray
  nodes_CxL: np.ndarray
  next_CxL: np.ndarray
  used_CxL: np.ndarray
  members: tuple


def build(sequences, closing, limit=NODES):
  """Tries over token sequences: together they hold each sequence once, at most `limit` contexts each.

  A sequence that another one continues gets the token `closing` at its end, so that no two of the
  events "the text begins with this sequence" overlap. Sequences without a difference share their score.

  Args:
    sequences: list of non-empty tuples of token ids.
    closing: token id that ends a text.
    limit: a single sequence longer than this gets a trie of its own.
  Returns: list of Trie, padded to few sizes.
  """
  continued = {sequence[:end] for sequence in sequences for end in range(len(sequence))}
  closed = [sequence + (closing,) * (sequence in continued) for sequence in sequences]
  order = sorted(range(len(closed)), key=closed.__getitem__)
  tries = []
  members = []
  contexts = {}
  for which in order:
    own = _contexts(closed[which])
    if members and len(contexts.keys() | own.keys()) > limit:
      tries.append(_trie(closed, members, contexts))
      members = []
      contexts = {}
    members.append(which)
    contexts |= own
  return tries + [_trie(closed, members, contexts)]


def bucket(size, steps):
  """The smallest of `steps` that holds `size`; beyond them multiples of the last: few shapes to compile."""
  if size > steps[-1]:
    return -(-size // steps[-1]) * steps[-1]
  return steps[bisect.bisect_left(steps, size)]


def _contexts(sequence):
  return {sequence[:end]: None for end in range(len(sequence))}


def _trie(sequences, members, contexts):
  place = {context: index for index, context in enumerate(contexts)}
  size = bucket(len(place), (2, 16, 64, NODES))
  tokens_M = np.zeros(size, np.int32)
  distance_MxM = np.full((size, size), -1, np.int32)
  np.fill_diagonal(distance_MxM, 0)
  for context, index in place.items():
    tokens_M[index] = context[-1] if context else 0
    for end in range(len(context)):
      distance_MxM[index, place[context[:end]]] = len(context) - end
  longest = max(len(sequences[which]) for which in members)
  shape = bucket(len(members), (16, NODES)), bucket(longest, (2, 8))
  nodes_CxL = np.zeros(shape, np.int32)
  next_CxL = np.zeros(shape, np.int32)
  used_CxL = np.zeros(shape, bool)
  for row, which in enumerate(members):
    sequence = sequences[which]
    nodes_CxL[row, : len(sequence)] = [place[sequence[:end]] for end in range(len(sequence))]
    next_CxL[row, : len(sequence)] = sequence
    used_CxL[row, : len(sequence)] = True
  return Trie(tokens_M, distance_MxM, nodes_CxL, next_CxL, used_CxL, tuple(members))

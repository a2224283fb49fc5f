"""Merges of byte-pair encodings: as a file states them, or as the scores of its tokens imply."""

from collections.abc import Mapping, Sequence

from factshock.runtime.errors import UserError

_NORMAL = 1
_USER_DEFINED = 4


def stated(pairs: Sequence[str], ids: Mapping[str, int], path: str) -> list[tuple[str, str]]:
  """Returns the merges that a file lists, "left right" each.

  Args:
    pairs: as the file has them.
    ids: of the tokens.
    path: the file, for errors.

  Raises:
    UserError: one is no pair of tokens that make a token.
  """
  merges: list[tuple[str, str]] = []
  for pair in pairs:
    left, _, right = pair.partition(" ")
    if left not in ids or right not in ids or left + right not in ids:
      raise UserError(
        f"{path}: expected two tokens that make up a third as a merge, got {pair[:60]!r}; convert "
        "the model again"
      )
    merges.append((left, right))
  return merges


def derived(
  tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]
) -> list[tuple[str, str]]:
  """Returns the merges of a SentencePiece model: of two tokens that make a third, best first.

  SentencePiece merges the pair whose token has the best score; tokens that users defined, which it
  never cuts, come before all.

  Args:
    tokens: by id.
    types: of the tokens.
    scores: of the tokens.
  """
  merging = {
    token: number
    for number, (token, kind) in enumerate(zip(tokens, types))
    if kind in (_NORMAL, _USER_DEFINED)
  }
  order = sorted(
    merging.values(), key=lambda number: (types[number] == _NORMAL, _rank(types, scores, number))
  )
  merges: list[tuple[str, str]] = []
  for number in order:
    token = tokens[number]
    pairs: list[tuple[int, int]] = []
    for cut in range(1, len(token)):
      left = merging.get(token[:cut])
      right = merging.get(token[cut:])
      if left is not None and right is not None:
        pairs.append((left, right))
    for left, right in sorted(pairs):
      merges.append((tokens[left], tokens[right]))
  return merges


def _rank(types: Sequence[int], scores: Sequence[float], number: int) -> float:
  """Returns what tokens of a type are sorted by: scores, or ids where users defined them."""
  return -scores[number] if types[number] == _NORMAL else number

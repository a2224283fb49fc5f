"""Where a continuation begins among the tokens of a text that a server has read.

Servers differ in how they write tokens: with BOS or without, with white space that the text lacks
or lacking some that it has, and with a sign in place of part of a character. Their `text_offset`
goes wrong with these. So tokens are laid on the text from its end, back to where the prompt ends.
"""

import re
from collections.abc import Iterator, Sequence

_BYTES = re.compile(r"<0x[0-9A-Fa-f]{2}>|bytes:.*", re.DOTALL)
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_LONGEST = 8  # characters, at most, that a token holds which the server cannot write


class UnreadableError(ValueError):
  """Tokens cannot be laid on the text; its message says why."""


def first_of_continuation(
  texts: Sequence[str],
  prompt: str,
  continuation: str,
) -> int:
  """Returns the index of the first token of a continuation.

  White space between prompt and continuation belongs to the latter.

  Args:
    texts: the tokens of prompt and continuation, with or without others before them (BOS).
    prompt: what stands before.
    continuation: what follows.

  Raises:
    UnreadableError: the tokens spell another text, or one holds the end of the prompt and the
      beginning of the continuation.
  """
  whole = prompt + continuation
  border = len(prompt.rstrip())
  first, begin = len(texts), len(whole)
  for index, begin, end in _spans(whole, texts):
    if end <= border:
      break
    if begin < border:
      raise _straddles(prompt, whole[begin:end])
    first = index
    if begin == border:
      break
  if begin > border or first == len(texts):
    raise UnreadableError(f"its tokens do not spell the text; they begin {list(texts[:8])}")
  return first


def _spans(whole: str, texts: Sequence[str]) -> Iterator[tuple[int, int, int]]:
  """Yields tokens from the last on: an index, and where the token begins and ends in the text.

  Neighbours that hold parts of characters come as one, with the index of the first.
  """
  position = len(whole)
  unread = 0
  for index in reversed(range(len(texts))):
    if _is_unreadable(texts[index]):
      unread += 1
      continue
    begin, end = _place(whole, texts[index], position, unread)
    if unread:
      yield index + 1, end, position
    yield index, begin, end
    position = begin
    unread = 0
  if unread:
    yield 0, 0, position


def _is_unreadable(token: str) -> bool:
  """Returns whether a token is part of a character, which servers write in several ways."""
  return not token or _REPLACEMENT in token or _BYTES.fullmatch(token) is not None


def _place(
  whole: str,
  token: str,
  position: int,
  unread: int,
) -> tuple[int, int]:
  """Returns where a token begins and ends: before `position` and what `unread` tokens hold."""
  for form in _forms(token):
    if unread:
      reach = len(form) + unread * _LONGEST
      begin = whole.rfind(form, max(0, position - reach), position - 1)
      if begin >= 0:
        return begin, begin + len(form)
      continue
    for end in (position, len(whole[:position].rstrip())):
      if whole.endswith(form, 0, end):
        return end - len(form), end
  raise UnreadableError(f"token {token!r} is not in the text before {whole[position:][:20]!r}")


def _forms(token: str) -> Iterator[str]:
  """Yields a token as it is, and with the signs that tokenizers have for white space read."""
  yield token
  spaced = token.replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n")
  if spaced != token:
    yield spaced


def _straddles(prompt: str, token: str) -> UnreadableError:
  return UnreadableError(
    f"the prompt ends with {prompt[-20:]!r}, in the middle of the token {token!r}: what follows "
    "has no log-probability of its own; end the prompt with a sign, or ask by generation"
  )

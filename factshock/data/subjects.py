"""Positions of a subject's tokens in a prompt."""

from factshock.data import sentinels
from factshock.types import Tokenizer

# Opens the answer of a question (prompts.answer_prompt): no subject "A" stands there.
_ANSWER = "\nA:"


def tokens_of(
  tokenizer: Tokenizer,
  prompt: str,
  subject: str,
) -> list[int]:
  """Returns the positions of the tokens that hold a character of the subject, ascending.

  Of several occurrences the last counts, as a k-shot prompt ends with its fact; one that is a word
  of its own goes before one within a word.

  Args:
    tokenizer: what encodes the prompt.
    prompt: the text.
    subject: what is looked for.

  Returns:
    Positions in tokenizer.encode(prompt); none where the subject does not stand in the prompt
    verbatim.
  """
  blank = sentinels.BLANK
  hidden = prompt.removesuffix(_ANSWER).replace(blank, "\0" * len(blank))
  text = sentinels.as_read(hidden)
  begin = _last_occurrence(text, subject)
  if begin is None:
    return []
  end = begin + len(subject)
  return [
    position
    for position, (first, last) in enumerate(tokenizer.spans(prompt))
    if (first < end and last > begin) or begin <= first == last < end
  ]


def _last_occurrence(text: str, subject: str) -> int | None:
  """Returns where the subject last begins in a text, at best as a word of its own; else None."""
  if not subject:
    return None
  starts = [start for start in range(len(text)) if text.startswith(subject, start)]
  whole_words = [
    start
    for start in starts
    if not _is_within_word(text, start) and not _is_within_word(text, start + len(subject))
  ]
  if whole_words:
    return whole_words[-1]
  return starts[-1] if starts else None


def _is_within_word(text: str, index: int) -> bool:
  """Returns whether the characters on both sides of an index are of one word."""
  if not 0 < index < len(text):
    return False
  before = text[index - 1]
  after = text[index]
  return before.isalnum() and after.isalnum()

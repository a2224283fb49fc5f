"""Sentinels in prompts: <extra_id_N> is one where a prompt was given it, else text like any other.

In the prompt of a T5, "<extra_id_" of a name or a question is written with a character that no text
holds, so that the blank for the answer is the only sentinel.
"""

BLANK = "<extra_id_0>"  # where the answer goes
_OPENING = "<extra_id_"
_OF_TEXT = "<\U0010fffeextra_id_"  # the character is of no text, as Unicode keeps it free


def as_text(text: str) -> str:
  """Returns a text as it stands in a prompt: none of its <extra_id_N> is a sentinel."""
  return text.replace(_OPENING, _OF_TEXT)


def with_blank(before: str, after: str = "") -> str:
  """Returns the prompt of two texts and the blank for the answer between them."""
  return f"{as_text(before)}{BLANK}{as_text(after)}"


def as_read(prompt: str) -> str:
  """Returns what a prompt says: as it is, but for what `as_text` marked in it."""
  return prompt.replace(_OF_TEXT, _OPENING)


def has_text(prompt: str) -> bool:
  """Returns whether a prompt holds <extra_id_N> as text."""
  return _OF_TEXT in prompt

"""Which tokens of a prompt are its subject's."""

from factshock.data.prompts import BLANK

_ANSWER = (
  "\nA:"  # opens the answer of a question (prompts.answer_prompt): no subject "A" stands there
)


def tokens_of(tokenizer, prompt, subject):
  """Places in tokenizer.encode(prompt) of the tokens that hold a character of the subject, ascending.

  Of several occurrences the last counts, as a k-shot prompt ends with its fact; one that is a word of its own goes
  before one within a word. None where the subject does not stand in the prompt verbatim.
  """
  begin = _last_place(prompt.removesuffix(_ANSWER).replace(BLANK, "\0" * len(BLANK)), subject)
  if begin is None:
    return []
  end = begin + len(subject)
  return [
    place
    for place, (first, last) in enumerate(tokenizer.spans(prompt))
    if first < end and last > begin or begin <= first == last < end
  ]


def _last_place(text, subject):
  """Where the subject last begins in a text, at best as a word of its own; None where it does not stand there."""
  places = (
    [place for place in range(len(text)) if text.startswith(subject, place)] if subject else []
  )
  alone = [
    place
    for place in places
    if not _within_word(text, place) and not _within_word(text, place + len(subject))
  ]
  return (alone or places or [None])[-1]


def _within_word(text, place):
  """Whether the characters on both sides of a place are of one word."""
  return 0 < place < len(text) and text[place - 1].isalnum() and text[place].isalnum()

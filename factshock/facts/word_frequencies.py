"""How common answers are in text, from the package `wordfreq`: counts without a corpus.

Its data are licensed under CC BY-SA 4.0, and have to be named (credits.py).
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from factshock.runtime.errors import UserError
from factshock.types import Answer

PREFIX = "wordfreq:"
_WORDS = 1_000_000_000  # counts are of so many words of text


class WordFrequencies(Mapping[Answer, int]):
  """Counts of any entity in a billion words of a language; it lists none, being asked for each.

  A name of several words is as frequent as wordfreq estimates from its words.
  """

  def __init__(self, language: str) -> None:
    """Opens the frequencies of a language.

    Raises:
      UserError: the package is not installed, or has no such language.
    """
    try:
      self._wordfreq: Any = importlib.import_module("wordfreq")
    except ImportError as error:
      raise UserError(
        f"{PREFIX}{language}: needs the package wordfreq: pip install 'factshock[wordfreq]'"
      ) from error
    languages = sorted(self._wordfreq.available_languages())
    if language not in languages:
      raise UserError(
        f"{PREFIX}{language}: expected a language of {', '.join(languages)}, got {language!r}"
      )
    self._language = language

  def __getitem__(self, answer: Answer) -> int:
    """Returns the count of an entity in any relation; KeyError in one in particular."""
    relation, entity = answer
    if relation:
      raise KeyError(answer)
    return round(self._wordfreq.word_frequency(entity, self._language) * _WORDS)

  def __iter__(self) -> Iterator[Answer]:
    """Yields nothing."""
    return iter(())

  def __len__(self) -> int:
    """Returns 0, the number of those listed."""
    return 0

  def __bool__(self) -> bool:
    """Returns that there are counts."""
    return True

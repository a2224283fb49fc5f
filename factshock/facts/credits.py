"""Whom data are credited to, where their licence asks for it."""

from collections.abc import Iterable

GEONAMES = "GeoNames (https://www.geonames.org), licensed under CC BY 4.0"
WORDFREQ = (
  "word frequencies of wordfreq (Robyn Speer, https://github.com/rspeer/wordfreq), data licensed "
  "under CC BY-SA 4.0"
)

# By what the name of a source of facts or of counts begins with.
_BY_PREFIX = {"geonames:": GEONAMES, "wordfreq:": WORDFREQ}


def credits_of(names: Iterable[str]) -> list[str]:
  """Returns whom sources of facts and of counts are to be credited to, where they ask for it."""
  listed = list(names)
  return [
    credit
    for prefix, credit in _BY_PREFIX.items()
    if any(name.startswith(prefix) for name in listed)
  ]

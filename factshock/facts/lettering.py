"""Signs of text as names are searched in it: what is a word, a space, the same sign, or no sign.

- All spaces are one space: no-break, thin and ideographic ones, tabs, and several in a row.
- Typographic apostrophes are `'`, and hyphens that do not break are `-`.
- What is not seen (soft hyphens, joiners, direction marks, variation selectors) is not there.
- Vowel signs and other combining marks are part of a word.
- Han, Kana, Thai, Lao, Khmer and Burmese are written without spaces: a name in them is found
  wherever it stands, with no word border, unless a vowel sign or tone mark goes on.
"""

import bisect
import functools
import re
import unicodedata

import numpy as np

_CODES = 0x110000
_ASSIGNED = 0x323B0  # code points from here on are no letters
_APOSTROPHES = "\u2018\u2019\u201b\u02bb\u02bc\uff07"
_HYPHENS = "\u2010\u2011"
# Joiners, direction marks, the byte order mark and selectors of variants.
_INVISIBLE = (
  "\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f"
  "\ufeff\U000e0100-\U000e01ef"
)
# First and last code points of scripts that are written without spaces between words.
_UNSPACED = (
  (0x0E00, 0x0EFF),  # Thai, Lao
  (0x1000, 0x109F),  # Burmese
  (0x1780, 0x17FF),  # Khmer
  (0x1950, 0x19FF),  # Tai Le, New Tai Lue
  (0x1A20, 0x1AAF),  # Tai Tham
  (0x3005, 0x3007),  # signs among Han
  (0x3040, 0x312F),  # Kana, Bopomofo
  (0x31A0, 0x31FF),
  (0x3400, 0x4DBF),  # Han
  (0x4E00, 0x9FFF),
  (0xA9E0, 0xA9FF),
  (0xAA60, 0xAADF),
  (0xF900, 0xFAFF),
  (0xFF66, 0xFF9F),  # Katakana of half width
  (0x1B000, 0x1B16F),
  (0x20000, 0x323AF),
)
_FIRST = [first for first, _ in _UNSPACED]
_LAST = [last for _, last in _UNSPACED]
_IS_INVISIBLE = re.compile(f"[{_INVISIBLE}]")
_SPACES = re.compile(r"\s+")
_SAME_SIGNS = str.maketrans(
  dict.fromkeys(_APOSTROPHES, "'") | dict.fromkeys(_HYPHENS, "-"),
)


def canonical(name: str) -> str:
  """Returns a name with each sign as all its variants are searched; "" where nothing is seen."""
  if not name.isascii():
    name = _IS_INVISIBLE.sub("", name.translate(_SAME_SIGNS))
  return _SPACES.sub(" ", name).strip()


def is_unspaced(letter: str) -> bool:
  """Returns whether a character is a letter, or goes on a letter, of a script without spaces."""
  code = ord(letter)
  index = bisect.bisect_right(_FIRST, code) - 1
  if index < 0 or code > _LAST[index]:
    return False
  return letter.isalnum() or _is_mark(letter)


@functools.cache
def code_counts() -> np.ndarray:
  """Returns int8 [all code points]: the codes that each takes with borders.

  They are 0 for what is not seen, 1 for the space and characters of words, 2 for marks of scripts
  without spaces (themselves and a border), and 3 for their letters and for other signs.
  """
  counts = np.full(_CODES, 3, np.int8)
  counts[:_ASSIGNED] = np.fromiter(map(_code_count, map(chr, range(_ASSIGNED))), np.int8)
  hidden = [match.start() for match in _IS_INVISIBLE.finditer(_all_codes())]
  counts[hidden] = 0
  for letter in _APOSTROPHES + _HYPHENS:
    counts[ord(letter)] = 3
  return counts


def _code_count(letter: str) -> int:
  if letter.isspace() and letter != "\n":
    return 1
  is_mark = not letter.isalnum() and _is_mark(letter)
  if is_unspaced(letter):
    return 2 if is_mark else 3
  return 1 if is_mark or letter.isalnum() or letter == "_" else 3


def _is_mark(letter: str) -> bool:
  """Returns whether a character is a combining mark of letters, and not one of symbols."""
  return unicodedata.category(letter)[0] == "M" and not "\u20d0" <= letter <= "\u20ff"


@functools.cache
def searched_codes() -> np.ndarray:
  """Returns uint32 [all code points]: each as it is searched, the spaces as 0.

  Line breaks stay, as they stand between documents.
  """
  codes = np.arange(_CODES, dtype=np.uint32)
  spaces = [match.start() for match in re.finditer(r"[^\S\n]", _all_codes())]
  codes[spaces] = 0
  codes[[ord(letter) for letter in _APOSTROPHES]] = ord("'")
  codes[[ord(letter) for letter in _HYPHENS]] = ord("-")
  return codes


@functools.cache
def unspaced_marks() -> np.ndarray:
  """Returns bool [all code points]: whether each goes on a letter of a script without spaces."""
  return code_counts() == 2


def _all_codes() -> str:
  """Returns all code points in order, those that are halves of characters as letters."""
  codes = np.arange(_CODES, dtype="<u4")
  codes[0xD800:0xE000] = ord("x")
  return codes.tobytes().decode("utf-32-le")

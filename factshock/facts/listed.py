"""Lists of texts as tables hold them: lists, JSON, Python's way of writing them, or a|b."""

import ast
import re
from typing import Any, cast

from factshock.runtime import json_text

_STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
# Strings with nothing between them, as numpy prints arrays, would be joined by Python in silence.
_PYTHON_LIST = re.compile(rf"\[\s*(?:{_STRING}(?:\s*,\s*{_STRING})*\s*,?\s*)?\]")
# One text by itself, no number and no list in a writing that we don't read.
_BARE = re.compile(r"[^\W\d][^;\t\[\]{}]*")
EXPECTED = "a list of texts (JSON, a Python list, or texts with | between them)"


def parse(text: str) -> Any:
  """Returns the list that a cell holds.

  Raises:
    ValueError: it is no list, and no text that could be meant as one of it alone.
  """
  stripped = text.strip()
  if "|" in stripped and not stripped.startswith("["):
    return [part.strip() for part in stripped.split("|") if part.strip()]
  if _BARE.fullmatch(stripped):
    return [stripped]
  try:
    return json_text.loads(stripped)
  except ValueError:
    if not _PYTHON_LIST.fullmatch(stripped):
      raise
  try:
    return ast.literal_eval(stripped)
  except (SyntaxError, MemoryError, RecursionError) as error:
    raise ValueError(str(error)) from error


def texts(value: Any) -> list[str] | None:
  """Returns a list of texts from a list or a cell of text; None where it is no list of texts."""
  if isinstance(value, str):
    try:
      value = parse(value)
    except ValueError:
      return None
  if isinstance(value, list):
    items = cast(list[Any], value)
    if all(isinstance(item, str) for item in items):
      return items
  return None

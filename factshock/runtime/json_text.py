"""JSON of others parsed: what is nested too deep to be handled is an error as any other."""

import json
from collections.abc import Iterable
from typing import Any, cast

import orjson

DEEPEST = 500  # levels of lists and objects; Python's own recursion ends at 1,000


def loads(text: str) -> Any:
  """Returns the value of a JSON text.

  Raises:
    ValueError: it is none, is nested too deep, or holds an integer of thousands of digits.
  """
  try:
    value: Any = json.loads(text)
  except RecursionError as error:
    raise ValueError(f"lists and objects nested over {DEEPEST} deep") from error
  check_depth(text, value)
  return value


def plain_loads(lines: Iterable[str]) -> list[Any]:
  """Returns the values of lines of JSON, quickly; blank lines have none.

  They are those of `loads`, but for whole numbers outside 64 bits: these may come as floats, from
  2**63 on.

  Raises:
    ValueError: a line that `loads` refuses, or that may hold half a character.
  """
  values: list[Any] = []
  for line in lines:
    try:
      value = orjson.loads(line)
    except orjson.JSONDecodeError:
      if not line.strip():
        continue
      if "\\u" in line:
        raise
      value = loads(line)  # it may hold NaN or infinity
    # Each level is opened and closed.
    if len(line) > 2 * DEEPEST:
      check_depth(line, value)
    values.append(value)
  return values


def check_depth(text: str, value: Any) -> None:
  """Raises a ValueError where a value that was read from a text is nested too deep.

  Such a value could be read and then be printed or written no more.
  """
  if text.count("[") + text.count("{") <= DEEPEST:
    return
  level = [value]
  for _ in range(DEEPEST):
    level = [child for parent in level for child in _children(parent)]
    if not level:
      return
  raise ValueError(f"lists and objects nested over {DEEPEST} deep")


def _children(value: Any) -> list[Any]:
  """Returns the lists and objects in a list or an object."""
  if isinstance(value, dict):
    values = list(cast(dict[Any, Any], value).values())
  elif isinstance(value, list):
    values = cast(list[Any], value)
  else:
    return []
  return [child for child in values if isinstance(child, (dict, list))]

"""Checks of the Python API's parameters: what flags refuse as they are parsed."""

import math
from collections.abc import Mapping, Sequence

from factshock.runtime.errors import UserError

PROMPTS = ("cloze", "question", "chat")
CHOICE_PROMPTS = ("letters", "choices")
_FROM_0 = (0, math.inf)
_FROM_1 = (1, math.inf)
# The least and the most that a parameter may be, as of the flag of its name.
_RANGES: dict[str, tuple[float, float]] = {
  "beams": _FROM_1,
  "confidence": (0.5, 0.999),
  "max_tokens": _FROM_1,
  "precision": (0.01, 0.999),
  "ratio": _FROM_0,
  "resamples": (100, math.inf),
  "samples": _FROM_1,
  "seed": _FROM_0,
  "sets": _FROM_1,
  "shots": _FROM_0,
  "tau": _FROM_0,
  "temperature": (1e-3, math.inf),
  "top": _FROM_0,
}


def check_among(name: str, value: str | None, known: Sequence[str]) -> None:
  """Raises a UserError where a parameter has none of the values that it may have; None may be."""
  if value is not None and value not in known:
    raise UserError(f"{name}: expected one of {', '.join(known)}, got {value!r}")


def check_numbers(**values: float | None) -> None:
  """Raises a UserError where a parameter is no number of its range; None may be."""
  for name, value in values.items():
    low, high = _RANGES[name]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and low <= value <= high):
      span = f"from {low:g} on" if math.isinf(high) else f"from {low:g} to {high:g}"
      raise UserError(f"{name}: expected a number {span}, got {value!r}")


def check_prompt(prompt: str | None, mode: str) -> None:
  """Raises a UserError where there is no such form of prompts, or not in a mode."""
  check_among("prompt", prompt, (*PROMPTS, *CHOICE_PROMPTS))
  if prompt in CHOICE_PROMPTS and mode != "known":
    raise UserError(f"prompt={prompt!r} goes with mode='known'; give mode={prompt!r} to answer so")


def check_ranking(
  mode: str,
  only: Mapping[str, object],
  candidates_only: bool,
) -> None:
  """Raises a UserError where parameters do not go with a mode, or with each other.

  Args:
    mode: how a model is asked.
    only: parameters that go with "rank" alone, by name.
    candidates_only: whether the candidates given are compared alone.
  """
  given = [name for name, value in only.items() if value is not None]
  if given and mode != "rank":
    raise UserError(f"{given[0]}: only with mode='rank', which ranks, got mode={mode!r}")
  if candidates_only and "candidates" not in given:
    raise UserError("candidates_only: expected the candidates too; give candidates")


def check_asks_a_model(**given: object) -> None:
  """Raises a UserError where parameters are given that go with a model, and none is asked."""
  for name, value in given.items():
    if value is not None:
      raise UserError(f"{name}: only where a model is asked, got answers; give a model of load")


def check_ways_to_mix(count: int, ways: Mapping[str, object]) -> None:
  """Raises a UserError where there are too few models, or not one way to weigh them.

  Args:
    count: how many models there are.
    ways: the ways by name; None is not given.
  """
  if count < 2:
    raise UserError(f"models: expected two or more, got {count}")
  given = [name for name, value in ways.items() if value is not None]
  if len(given) != 1:
    raise UserError(f"expected one of {', '.join(ways)}, got {' and '.join(given) or 'none'}")
  if given[0] != "weights" and count != 2:
    raise UserError(f"{given[0]}: expected two models, got {count}")


def stops(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
  """Returns the texts that end an answer: one, several, or None."""
  if given is None:
    return None
  return (given,) if isinstance(given, str) else tuple(given)

"""What is wrong with the flags of a command line, as absl finds it, in one line of our words."""

import difflib
import re
from typing import Any

from absl import flags

from factshock.runtime import flag_names

_ILLEGAL = re.compile(r"flag --([\w.]+)=(.*?): (.*)", re.DOTALL)
_MISSING_VALUE = re.compile(r"Missing value for flag -+([\w.]+)")
_REQUIRED = re.compile(r"Flag --([\w.]+) must have a value other than None")
_TOO_EARLY = re.compile(r"Found -+(\S+) in argv before a value for --config.*")
_CONFIG_KEY = "config."  # before a key of the config in the name of a flag


def describe(error: flags.Error, values: flags.FlagValues) -> str:
  """Returns what is wrong, with what was expected and got, and what to do.

  Args:
    error: of absl, which parsed the flags.
    values: the flags that there are.
  """
  text = " ".join(str(error).split())
  if isinstance(error, flags.UnrecognizedFlagError):
    return _unknown(error, values)
  required = _REQUIRED.search(text)
  if required:
    return f"needs --{required[1]}; --help explains"
  early = _TOO_EARLY.fullmatch(text)
  if early:
    return (
      f"--{early[1].partition('=')[0]}: stands before --config, whose key it sets; give it after"
    )
  missing = _MISSING_VALUE.fullmatch(text)
  if missing:
    expected = _expected(missing[1], values) or "a value"
    return f"--{missing[1]}: expected {expected}, got nothing"
  illegal = _ILLEGAL.fullmatch(text)
  if illegal:
    name, given, reason = illegal.groups()
    expected = _expected(name, values)
    return f"--{name}: expected {expected}, got {given!r}" if expected else f"--{name}: {reason}"
  return text


def _unknown(error: flags.UnrecognizedFlagError, values: flags.FlagValues) -> str:
  """Returns that there is no such flag, and which is near."""
  name = error.flagname
  if name.startswith(_CONFIG_KEY) and "config" in values:
    # The verbs that have a workdir take a model in the place of its config.
    model = values["model"].value if {"model", "workdir"} <= set(values) else None
    instead = f" (--config=pretrained:{model} in the place of --model)" if model else ""
    return f"--{name}: needs --config=NAME too, the config whose key it sets{instead}"
  names = [other for other in values if flag_names.current(values, other) == other]
  close = difflib.get_close_matches
  near = close(name, names, 1) or close(name, list(values), 1)
  hint = f"did you mean --{flag_names.current(values, near[0])}? " if near else ""
  keys = " (and --config.KEY=VALUE sets a key of the config)" if "config" in values else ""
  return f"there is no flag --{name}; {hint}--help lists the flags{keys}"


def _expected(name: str, values: flags.FlagValues) -> str | None:
  """Returns what a flag takes, or None where its parser does not say."""
  if name not in values:
    return None
  parser: Any = values[flag_names.current(values, name)].parser
  if isinstance(parser, flags.EnumParser):
    return f"one of {', '.join(parser.enum_values)}"
  if isinstance(parser, flags.BooleanParser):
    return "true or false"
  if isinstance(parser, flags.IntegerParser):
    return "a whole number" + _bounds(parser.lower_bound, parser.upper_bound)
  if isinstance(parser, flags.FloatParser):
    return "a number" + _bounds(parser.lower_bound, parser.upper_bound)
  return None


def _bounds(lowest: float | None, highest: float | None) -> str:
  """Returns the range of a number in words."""
  if lowest is not None and highest is not None:
    return f" from {lowest:g} to {highest:g}"
  if lowest is not None:
    return f" of at least {lowest:g}"
  return "" if highest is None else f" of at most {highest:g}"

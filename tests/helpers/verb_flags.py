"""The flags of a verb, defined and parsed in this process for one test."""

import functools
import importlib
import inspect

import grain  # noqa: F401 - it defines flags when it is loaded first, and reads them later
from absl import flags
from ml_collections import config_flags

from factshock.runtime import config_files, console

flags.disclaim_key_flags()  # the flags are the verb's, not this module's


def defined(monkeypatch, verb):
  """Returns the flags of a verb as it defines them, and makes them flags.FLAGS for the test."""
  values = flags.FlagValues()
  for module in (flags, config_flags):
    for name, function in inspect.getmembers(module, inspect.isfunction):
      if "flag_values" in inspect.signature(function).parameters:
        monkeypatch.setattr(module, name, _defining(function, values))
  monkeypatch.setattr(flags, "FLAGS", values)
  of_config = functools.partial(config_files.define_flag, values=values)
  monkeypatch.setattr(config_files, "define_flag", of_config)
  importlib.import_module(f"factshock.{verb}").define_flags()
  return values


def _defining(function, values):
  """Returns a function of absl or ml_collections that takes these flags where none are given."""
  signature = inspect.signature(function)

  @functools.wraps(function)
  def define(*arguments, **named):
    if "flag_values" not in signature.bind_partial(*arguments, **named).arguments:
      named["flag_values"] = values
    return function(*arguments, **named)

  return define


def parsed(monkeypatch, verb, *arguments):
  """Returns the flags of a verb as a command line sets them."""
  values = defined(monkeypatch, verb)
  argv = [verb, *arguments]
  monkeypatch.setattr("sys.argv", argv)  # config_flags looks for the config's flags there
  console.parse_flags(values, argv)
  return values

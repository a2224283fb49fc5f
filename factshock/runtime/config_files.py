"""Config files by name: `--config=demo` is configs/demo.py, which comes along with factshock.

A config file is a program with a function get_config(). It may import files of its own folder, and
the configs that come along as `from factshock.configs import demo`.
"""

import ast
import contextlib
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import ml_collections
from absl import flags
from ml_collections import config_flags

from factshock.runtime import console
from factshock.runtime.errors import UserError

flags.disclaim_key_flags()  # --config is a flag of the verb that defines it, as its --help shows

# The ConfigDict of a config.
Config: TypeAlias = Any
# Adds a key, given by its path, to a config that lacks it.
AddKey: TypeAlias = Callable[[Config, Sequence[str]], None]

_KEY_FLAG = re.compile(r"--?(?:no)?config\.([\w.]+)(?:=|$)")

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "configs")


def define_flag(
  help_text: str,
  values: flags.FlagValues = flags.FLAGS,
  argv: list[str] | None = None,
  add_key: AddKey | None = None,
) -> None:
  """Defines --config, whose value is a name or a path, with `:VARIANT` where the config has any.

  Args:
    help_text: what --help says of it.
    values: the flags that it joins.
    argv: the command line in which flags of single keys are looked for; None takes the process's.
    add_key: adds a key to the config, given by its path, where a flag sets it and the config lacks
      it; None leaves that an error.
  """
  config_flags.DEFINE_config_file("config", None, help_text, flag_values=values, sys_argv=argv)
  flag = values["config"]
  flag.parser = _Parser(flag.parser, argv, add_key)


def load(value: str) -> Config:
  """Returns the config of a name or a path.

  Raises:
    UserError: it is not there or cannot be read; names file and line.
  """
  values = flags.FlagValues()
  argv = ["", f"--config={value}"]
  define_flag("", values, argv)
  console.parse_flags(values, argv)
  return values.config


def names() -> list[str]:
  """Returns the names of the configs that come along, sorted."""
  stems = [os.path.splitext(entry)[0] for entry in os.listdir(FOLDER) if entry.endswith(".py")]
  return sorted(stem for stem in stems if "\ndef get_config(" in _text(stem))


def docstring(value: str) -> str:
  """Returns what a config of a name or a path says of itself, without running it."""
  path, _, _ = find(value).partition(":")
  return ast.get_docstring(ast.parse(_text(path))) or ""


def _text(path: str) -> str:
  """Returns the text of a config file, or of one that comes along by its name."""
  with open(path if path.endswith(".py") else _path(path), encoding="utf-8") as file:
    return file.read()


def _path(name: str) -> str:
  """Returns the path of a config that comes along."""
  return os.path.join(FOLDER, f"{name}.py")


def find(value: str) -> str:
  """Returns the path of a config file, with the variant that its name or path has.

  Args:
    value: a name ("demo"), or a path that ends with .py; ":VARIANT" may follow.

  Raises:
    UserError: no config has the name, or no file is there; says what may have been meant.
  """
  name, colon, variant = value.partition(":")
  if name in names():
    return _path(name) + colon + variant
  if not name.endswith(".py"):
    raise UserError(f"--config={value}: expected {_expected(name)}")
  if not os.path.isfile(name):
    expected = _expected(os.path.splitext(os.path.basename(name))[0])
    raise UserError(f"--config={value}: there is no file {name}; expected {expected}")
  return value


def stem(value: str) -> str:
  """Returns what a config's workdir is called: the name without folder, .py and variant.

  Of a model, as in pretrained:google/flan-t5-base, it is the last part of its name.
  """
  name = os.path.basename(value).partition(":")[0]
  return name.removesuffix(".py")


def _expected(name: str) -> str:
  """Returns what --config may be, with the name that is nearest to one that there is not."""
  own = f"{name}.py"
  close = [own] if os.path.isfile(own) else difflib.get_close_matches(name, names(), 1)
  hint = f"; did you mean --config={close[0]}?" if close else ""
  return f"a file of your own that ends with .py, or a name that `factshock configs` lists{hint}"


@contextlib.contextmanager
def _importable(folders: list[str]) -> Iterator[None]:
  """Lets modules of some folders be imported, before all others, while the context lasts."""
  sys.path[:0] = folders
  try:
    yield
  finally:
    for folder in folders:
      sys.path.remove(folder)


class _Parser(flags.ArgumentParser[object]):
  """Parser of --config that knows configs by name and lets a file import its neighbours."""

  def __init__(
    self,
    parser: flags.ArgumentParser[object],
    argv: list[str] | None,
    add_key: AddKey | None,
  ) -> None:
    """Keeps the parser of ml_collections, which loads the file, and arguments of `define_flag`."""
    self._parser = parser
    self._argv = argv
    self._add_key = add_key

  def parse(self, argument: str) -> object:
    """Returns the config of a name or a path."""
    path = find(argument)
    folder = os.path.dirname(os.path.abspath(path.partition(":")[0]))
    # As `python -m` has it: where the command was given.
    with _importable([folder, os.getcwd()]):
      config = self._parser.parse(path)
    if self._add_key and isinstance(config, ml_collections.ConfigDict):
      for key_path in self._paths_set():
        self._add_key(config, key_path)
    return config

  def _paths_set(self) -> list[list[str]]:
    """Returns the path of each key that a flag sets."""
    argv = sys.argv if self._argv is None else self._argv
    matches = (_KEY_FLAG.match(argument) for argument in argv)
    return [match[1].split(".") for match in matches if match]

  def flag_type(self) -> str:
    """Returns what --help says the value is."""
    return "config name or file"

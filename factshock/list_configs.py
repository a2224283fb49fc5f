"""Lists the configs that come along, or explains every key of one: `factshock configs demo`.

  factshock configs
  factshock configs demo
  factshock configs own_facts:question
  factshock configs mine.py

A config is named, or is a file of your own that ends with .py; :VARIANT follows where it has any.
Of each key stand the flag that sets it to the value that it has, what it says and, in brackets,
what it may be. Flags of keys, such as --config.world.relations=8, come after the config where it
runs: `factshock experiment --config=demo --config.world.relations=8`.
"""

from collections.abc import Sequence

from factshock.runtime import console
from factshock.runtime.errors import UserError


def define_flags() -> None:
  """Defines no flags: the verb takes a name."""


def main(argv: Sequence[str]) -> None:
  """Prints the names of the configs with a line each, or the keys of the one that is named."""
  from factshock.runtime import config_files

  if len(argv) > 2:
    raise UserError(f"expected the name of one config, got {' '.join(argv[1:])}; see --help")
  if len(argv) == 1:
    print("\n".join(_listing()))
    return
  from factshock.study import reference

  config = config_files.load(argv[1])
  print(f"{argv[1]}: {config_files.docstring(argv[1])}")
  print("\n".join(reference.lines(config)))


def _listing() -> list[str]:
  """Returns a line for each config that comes along."""
  from factshock.runtime import config_files

  names = config_files.names()
  width = max(map(len, names))
  summaries = {name: config_files.docstring(name).partition("\n")[0] for name in names}
  usage = "usage: factshock experiment --config=NAME (factshock configs NAME explains its keys)"
  return [usage, "", *(f"  {name:{width}}  {summary}" for name, summary in summaries.items())]


if __name__ == "__main__":
  define_flags()
  console.run(main, takes_arguments=True)

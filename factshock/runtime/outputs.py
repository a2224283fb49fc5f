"""Outputs that are there already are written anew only where --overwrite says so."""

import os

from absl import flags

from factshock.runtime.errors import UserError

flags.disclaim_key_flags()  # --help of a verb lists the flag among its own


def define_flag() -> None:
  """Defines --overwrite."""
  flags.DEFINE_bool("overwrite", False, "Write --output anew where it is there already.")


def overwrites() -> bool:
  """Returns whether --overwrite is given."""
  return bool(flags.FLAGS.overwrite)


def check_new(path: str) -> None:
  """Checks that a file, or a folder with anything in it, is not there, unless --overwrite is given.

  Raises:
    UserError: it is.
  """
  if overwrites():
    return
  if os.path.isfile(path) or (os.path.isdir(path) and os.listdir(path)):
    raise UserError(
      f"{path}: already exists; choose another name, or give --overwrite to write it anew"
    )

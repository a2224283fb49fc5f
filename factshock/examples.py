"""Writes the files of the documentation's examples into a folder, to run its commands there.

  factshock examples
  factshock examples --output=mine

The files are answers of SmolLM2-135M, before and after finetuning, facts with their relations, and
the notebook; README.md in the folder says what each holds.
"""

import os
import shutil
from collections.abc import Sequence

from absl import flags

from factshock.runtime import console, outputs

# A link to docs/examples, whose files come along in a wheel.
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "example_files")


def define_flags() -> None:
  """Defines the flags; called only where the verb runs as a program."""
  flags.DEFINE_string("output", "examples", "Folder to write.")
  outputs.define_flag()


def main(argv: Sequence[str]) -> None:
  """Copies the files."""
  del argv
  output = flags.FLAGS.output
  outputs.check_new(output)
  compiled = shutil.ignore_patterns("__pycache__")  # pip makes it of first.py
  shutil.copytree(FOLDER, output, ignore=compiled, dirs_exist_ok=True)
  print(f"wrote the examples' files to {output}; README.md there says what each holds")


if __name__ == "__main__":
  define_flags()
  console.run(main)

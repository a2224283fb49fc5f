"""Commands of README.md and docs/: run in a copy of docs/examples, compared with what is shown.

In a page, a block marked `console` holds commands after `$ ` and some lines of what they print; one
marked `python` is run too. Blocks of commands marked `sh` are not run: their verbs, flags and
configs are checked, and a comment above says why they are not: <!-- not run: needs a GPU -->.

  python tests/helpers/documents.py [PAGE ...]     # prints what the console blocks print now
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import programs

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
_FENCE = re.compile(r"^( *)```(\w*)")
_REASON = re.compile(r"<!-- not run: (.+?) -->")
# What differs from run to run: times, and the digests that name runs.
_CHANGING = re.compile(r"\b(\d+(\.\d+)? ?s|\d+:\d\d|[0-9a-f]{16})\b")
_OPERATORS = ("|", ";", "&&", ">", "2>&1")
# What the pages of measurements show was run when it was measured, for minutes or hours.
MEASURED = "measured once"


class Block(NamedTuple):
  """Block of code of a page.

  Attributes:
    page: the file.
    line: where the block begins, from 1.
    language: console, python, sh, or another.
    lines: what it holds.
    reason: why it is not run, "" where no reason is given.
  """

  page: pathlib.Path
  line: int
  language: str
  lines: list[str]
  reason: str

  def name(self) -> str:
    """Returns the block's place."""
    return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[pathlib.Path]:
  """Returns README.md and the pages of docs/."""
  return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: pathlib.Path) -> Iterator[Block]:
  """Yields the blocks of a page."""
  lines = page.read_text(encoding="utf-8").splitlines()
  of_page = MEASURED if page.parent.name == "measurements" else ""
  number = 0
  while number < len(lines):
    if not (found := _FENCE.match(lines[number])):
      number += 1
      continue
    indent, language = found.groups()
    end = lines.index(f"{indent}```", number + 1)
    above = next((line for line in reversed(lines[:number]) if line.strip()), "")
    reason = _REASON.search(above)
    held = [line[len(indent) :] for line in lines[number + 1 : end]]
    yield Block(page, number + 1, language, held, reason.group(1) if reason else of_page)
    number = end + 1


def joined(lines: Sequence[str]) -> list[str]:
  """Returns the commands of a block, each on one line, without comments."""
  text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
  return [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]


def steps(block: Block) -> list[tuple[str, list[str]]]:
  """Returns the commands of a console block, each with the lines shown of what it prints."""
  found: list[tuple[str, list[str]]] = []
  goes_on = False
  for line in block.lines:
    if line.startswith("$ "):
      found.append((line[2:], []))
    elif goes_on:
      found[-1] = (f"{found[-1][0]}\n{line}", [])
    else:
      found[-1][1].append(line)
    goes_on = (line.startswith("$ ") or goes_on) and line.endswith("\\")
  return found


def verbs_and_flags(command: str) -> Iterator[tuple[str, list[str]]]:
  """Yields verb and arguments of each factshock command in a line of shell."""
  words = shlex.split(command, comments=True)
  for place, word in enumerate(words[:-1]):
    if words[place + 1] in _OPERATORS:
      continue
    if word == "factshock" and (place == 0 or words[place - 1] in _OPERATORS):
      ends = [end for end in range(place + 1, len(words)) if words[end] in _OPERATORS]
      yield words[place + 1], words[place + 2 : min(ends, default=len(words))]


class Folder:
  """Folder in which commands are run: a copy of the examples, with `factshock` on the path."""

  def __init__(self, folder: str | os.PathLike[str]) -> None:
    self.folder = pathlib.Path(folder) / "examples"
    shutil.copytree(EXAMPLES, self.folder)
    programs_folder = pathlib.Path(folder) / "bin"
    programs_folder.mkdir()
    for name, start in (("factshock", "-m factshock"), ("python", "")):
      program = programs_folder / name
      program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {start} "$@"\n')
      program.chmod(0o755)
    self.path = f"{programs_folder}{os.pathsep}{os.environ['PATH']}"

  def run(self, command: str) -> str:
    """Returns what a command prints; one that fails shows so by 2>&1, or is an AssertionError."""
    done = subprocess.run(
      ["bash", "-c", command],
      cwd=self.folder,
      env=programs.environment(PATH=self.path, COLUMNS="100"),
      capture_output=True,
      text=True,
    )
    if "2>&1" not in command:
      assert done.returncode == 0, f"{command}\nexit code {done.returncode}\n{done.stderr}"
    return done.stdout


def missing(shown: Sequence[str], printed: str) -> list[str]:
  """Returns the lines shown that are not printed in this order; `...` stands for any lines."""
  lines = iter([_plain(line) for line in printed.splitlines()])
  wanted = [_plain(line) for line in shown if line.strip() not in ("", "...")]
  return [line for line in wanted if line not in lines]


def _plain(line: str) -> str:
  """Returns a line without the spaces at its end and what differs from run to run."""
  return _CHANGING.sub("~", line.rstrip())


def main() -> None:
  """Prints what the console blocks of some pages print now, and marks lines that differ."""
  for page in map(pathlib.Path, sys.argv[1:] or map(str, pages())):
    with tempfile.TemporaryDirectory() as temporary:
      folder = Folder(temporary)
      for block in blocks(page.resolve()):
        for command, shown in steps(block) if block.language == "console" else ():
          printed = folder.run(command)
          print(f"== {block.name()}\n$ {command}\n{printed}")
          for line in missing(shown, printed):
            print(f"NOT PRINTED: {line}")


if __name__ == "__main__":
  main()

"""Examples of --help and of configs: each can be pasted into a shell, and its flags are there."""

import ast

import documents
import pytest
import verb_flags

from factshock.__main__ import VERBS

ROOT = documents.ROOT
# Verbs whose flags are another program's, or none.
OTHER = ("evaluate", "configs")
SOURCES = sorted([*(ROOT / "factshock").glob("*.py"), *(ROOT / "configs").glob("*.py")])
SOURCES = [path for path in SOURCES if not path.name.startswith("_")]


def commands(path):
  """Returns the lines of a module's docstring that are commands, each whole."""
  docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
  return [
    line for line in documents.joined(docstring.splitlines()) if line.startswith("factshock ")
  ]


EXAMPLES = [
  pytest.param(verb, arguments, id=f"{path.stem}-{index}")
  for path in SOURCES
  for index, line in enumerate(commands(path))
  for verb, arguments in documents.verbs_and_flags(line)
]


def test_every_verb_shows_an_example():
  shown = {verb for path in SOURCES for line in commands(path) for verb in [line.split()[1]]}
  assert set(VERBS) <= shown


def test_no_example_has_a_sign_that_a_shell_takes_for_its_own():
  for path in SOURCES:
    for line in commands(path):
      bare = line.split("'")[::2]  # what stands outside of quotes
      assert not set("".join(bare)) & set("?*[]|<>&;$`!(){}"), f"{path.name}: {line}"


@pytest.mark.parametrize("verb, arguments", EXAMPLES)
def test_an_example_is_a_command_with_the_flags_that_are_there(
  monkeypatch, capsys, verb, arguments
):
  assert verb in VERBS
  if verb in OTHER:
    return
  # The config of a model of the hub is made of its files.
  kept = ["--config=own_facts" if a.startswith("--config=pretrained:") else a for a in arguments]
  verb_flags.parsed(monkeypatch, verb, *kept)
  assert capsys.readouterr().err == ""  # no old names

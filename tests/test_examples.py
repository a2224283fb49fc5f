"""`factshock examples`: the documentation's files, in a folder of one's own."""

import documents
import pytest
import verb_flags

from factshock import examples
from factshock.runtime.errors import UserError


def run(monkeypatch, *arguments):
  verb_flags.parsed(monkeypatch, "examples", *arguments)
  examples.main(["examples"])


def read(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_files_are_those_of_the_documentation(monkeypatch, tmp_path, capsys):
  monkeypatch.chdir(tmp_path)
  run(monkeypatch)
  assert read(tmp_path / "examples") == read(documents.EXAMPLES)
  assert capsys.readouterr().out.startswith("wrote the examples' files to examples; README.md")


def test_what_an_installation_compiles_is_left_out(monkeypatch, tmp_path):
  (tmp_path / "installed" / "__pycache__").mkdir(parents=True)
  (tmp_path / "installed" / "first.py").write_text("1")
  monkeypatch.setattr(examples, "FOLDER", str(tmp_path / "installed"))
  run(monkeypatch, f"--output={tmp_path / 'mine'}")
  assert read(tmp_path / "mine") == {"first.py": b"1"}


def test_a_folder_that_is_there_is_left_alone_unless_it_is_to_be_written_anew(
  monkeypatch, tmp_path
):
  mine = tmp_path / "facts.jsonl"
  mine.write_text("mine")
  with pytest.raises(UserError, match="already exists; choose another name, or give --overwrite"):
    run(monkeypatch, f"--output={tmp_path}")
  assert read(tmp_path) == {"facts.jsonl": b"mine"}
  run(monkeypatch, f"--output={tmp_path}", "--overwrite")
  assert read(tmp_path) == read(documents.EXAMPLES)

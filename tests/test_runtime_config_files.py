"""--config by name and by path, what a config file may import, and what its workdir is called."""

import pathlib
import sys

import pytest
from absl import flags

from factshock.runtime import config_files, console
from factshock.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


def load(*arguments):
  values = flags.FlagValues()
  argv = ["experiment", *arguments]
  config_files.define_flag("", values, argv)
  console.parse_flags(values, argv)
  return values.config


def test_every_config_file_has_a_name():
  files = {path.stem for path in (ROOT / "configs").glob("[!_]*.py")}
  shared = {"real_models", "which_facts"}  # what several configs have in common
  assert set(config_files.names()) == files - shared and "demo" in files


def test_a_config_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert load("--config=demo", "--config.finetune.steps=3").finetune.steps == 3
  assert (
    load("--config=own_facts:question").name == load(f"--config={ROOT}/configs/own_facts.py").name
  )


def test_a_path_with_a_variant_is_left_as_it_is(tmp_path):
  (tmp_path / "mine.py").touch()
  for value in (f"{tmp_path}/mine.py", f"{tmp_path}/mine.py:a/b.py:c"):
    assert config_files.find(value) == value
  found = pathlib.Path(config_files.find("pretrained:google/flan-t5-base"))
  assert found == pathlib.Path(config_files.FOLDER, "pretrained.py:google/flan-t5-base")


@pytest.mark.parametrize(
  "value, words",
  [
    (
      "dmeo",
      "expected a file of your own that ends with .py, or a name.*did you mean --config=demo",
    ),
    ("demo.json", "expected a file of your own that ends with .py"),
    ("configs/demo.py", "there is no file configs/demo.py;.*did you mean --config=demo"),
    ("", "expected a file of your own"),
    ("own", "expected a file of your own.*did you mean --config=own.py"),
  ],
)
def test_a_config_that_is_not_there_is_one_line(value, words, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "own.py").touch()
  with pytest.raises(UserError, match=f"^--config={value}: {words}") as caught:
    load(f"--config={value}")
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("relative", [False, True])
def test_a_config_file_imports_its_neighbours_and_what_comes_along(relative, tmp_path, monkeypatch):
  folder = tmp_path / "mine"
  folder.mkdir()
  neighbour = f"neighbour_{relative}"
  (folder / f"{neighbour}.py").write_text("STEPS = 7\n")
  (folder / "own.py").write_text(
    f"import {neighbour}\nfrom factshock.configs import demo\n\n\n"
    "def get_config(name='mine'):\n  config = demo.get_config()\n"
    f"  config.finetune.steps, config.name = {neighbour}.STEPS, name\n  return config\n"
  )
  monkeypatch.chdir(tmp_path)
  path = "mine/own.py" if relative else str(folder / "own.py")
  before = list(sys.path)

  config = load(f"--config={path}:a variant", "--config.finetune.batch_size=8")

  assert (config.finetune.steps, config.finetune.batch_size, config.name) == (7, 8, "a variant")
  assert sys.path == before


def test_the_old_import_of_configs_is_explained(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".", str(ROOT))])
  monkeypatch.delitem(sys.modules, "configs", raising=False)
  monkeypatch.chdir(tmp_path)
  (tmp_path / "own.py").write_text("from configs import demo\n")
  with pytest.raises(UserError, match="from factshock.configs import demo"):
    load("--config=own.py")


@pytest.mark.parametrize(
  "value, name",
  [
    ("demo", "demo"),
    ("configs/demo.py", "demo"),
    ("own_facts:question", "own_facts"),
    ("/a/own_facts.py:question", "own_facts"),
    ("pretrained:google/flan-t5-base", "flan-t5-base"),
    ("configs/pretrained.py:google/flan-t5-base", "flan-t5-base"),
  ],
)
def test_a_workdir_is_called_as_its_config(value, name):
  assert config_files.stem(value) == name

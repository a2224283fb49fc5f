"""The wheel in a fresh environment, called from an empty folder: what `pip install` gives."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("factshock", "configs", "docs/examples")
PARTS = (*FOLDERS, "docs/notebook.ipynb", "setup.py", "pyproject.toml", "README.md", "LICENSE")
# Links in the code, and what they lead to.
LINKS = {"factshock/configs": "configs", "factshock/example_files": "docs/examples"}

# What is importable here must not be taken for what is installed there.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

# Minutes; configs by name and by path are tested in this process by test_runtime_config_files.py.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """The path of the wheel, made of a copy of the code that is no clone."""
  folder = tmp_path_factory.mktemp("wheel")
  leave_out = shutil.ignore_patterns("__pycache__")
  for name in PARTS:
    if (ROOT / name).is_dir():
      shutil.copytree(ROOT / name, folder / "code" / name, symlinks=True, ignore=leave_out)
    else:
      shutil.copy(ROOT / name, folder / "code" / name)
  _pip("wheel", "--no-deps", f"--wheel-dir={folder}", folder / "code")
  [path] = folder.glob("*.whl")
  return path


def _pip(*arguments):
  subprocess.run(
    [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
    cwd="/",
    env=ENVIRONMENT,
    check=True,
  )


@pytest.fixture(scope="module")
def command(wheel, tmp_path_factory):
  """The command of an environment with the wheel alone; what it needs is taken from this one's."""
  folder = tmp_path_factory.mktemp("environment")
  subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
  _pip("--python", folder / "bin" / "python", "install", "--no-deps", wheel)
  version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
  path = folder / "lib" / version / "site-packages" / "needed.pth"
  path.write_text(sysconfig.get_path("purelib") + "\n")
  return folder / "bin" / "factshock"


@pytest.fixture
def run(command, tmp_path):
  """A function that runs the command in an empty folder, and returns what it prints."""

  def call(*arguments):
    done = subprocess.run(
      [command, *arguments],
      cwd=tmp_path,
      env={**ENVIRONMENT, "JAX_PLATFORMS": "cpu"},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  return call


def test_the_wheel_holds_the_code_and_the_configs_as_one_package(wheel):
  with zipfile.ZipFile(wheel) as file:
    names = {name for name in file.namelist() if ".dist-info/" not in name}
  listed = subprocess.run(
    ["git", "ls-files", *FOLDERS],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.splitlines()
  for link, folder in LINKS.items():
    listed = [
      link + name.removeprefix(folder) if name.startswith(f"{folder}/") else name for name in listed
    ]
  assert set(listed) - set(LINKS) == names


def test_the_first_door_opens_in_the_examples(run, tmp_path):
  run("examples", "--output=.")
  first = "--predictions=before.jsonl,after.jsonl"
  assert "After (+.013)" in run("diagnose", first, "--output=out")
  assert (tmp_path / "out" / "arms.csv").is_file()


def test_the_command_lists_verbs_and_configs_and_explains_keys(run):
  assert run().startswith("usage: factshock VERB") and "\n  experiment " in run("--help")
  assert "\n  demo " in run("configs")
  assert "  --config.finetune.steps=200\n" in run("configs", "demo")


def test_a_config_that_comes_along_is_found_by_its_name(run):
  assert "parameters: 6,755,192,832" in run("train", "--config=llama2_7b", "--dry_run")


@pytest.mark.parametrize("is_relative", [False, True])
def test_a_config_of_ones_own_imports_neighbours_and_what_comes_along(run, tmp_path, is_relative):
  folder = tmp_path / "mine"
  folder.mkdir()
  (folder / "sizes.py").write_text("SUBJECTS = 48\n")
  (folder / "own.py").write_text(
    '"""Own."""\nimport sizes\nfrom factshock.configs import demo\n\n'
    "def get_config():\n  config = demo.get_config()\n"
    "  config.world.subjects = sizes.SUBJECTS\n  return config\n"
  )
  path = "mine/own.py" if is_relative else folder / "own.py"
  assert "--config.world.subjects=48\n" in run("configs", path)
  sizes = "--config.model.vocab_size=500"
  assert "t5: " in run("train", f"--config={path}", sizes, "--dry_run")


def test_a_whole_experiment(run, tmp_path):
  shutil.copy(ROOT / "tests" / "helpers" / "tiny.py", tmp_path)
  assert "report: runs/tiny/report.html" in run("experiment", "--config=tiny.py")
  assert (tmp_path / "runs" / "tiny" / "report.html").is_file()

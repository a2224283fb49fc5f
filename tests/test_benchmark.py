"""The verb `python -m factshock.benchmark`: what it lists, runs and writes, and its errors. Nothing
is timed.
"""

import os
import pathlib
import subprocess
import sys

import pytest

from factshock import benchmark
from factshock.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = {
  "quick": (
    '"""Nothing against nothing.\n\nMore.\n"""\nimport sys\nprint("| side | s '
    '|\\n|---|---|\\n| ours | 1 |")\nprint("half way", file=sys.stderr)\n'
  ),
  "plain": '"""Words without a table."""\nprint("two of three")\n',
  "no_gpu": (
    '"""Needs what is not there."""\nimport sys\nsys.exit("error: needs a GPU" and '
    'print("error: needs a GPU", file=sys.stderr) or 2)\n'
  ),
  "no_package": '"""Needs a package."""\nimport no_such_package\n',
  "broken": '"""Fails."""\nraise RuntimeError("a mistake")\n',
}


@pytest.fixture
def clone(tmp_path):
  """A folder that looks like a clone, with benchmarks that take no time."""
  (tmp_path / "factshock").symlink_to(ROOT / "factshock")
  folder = tmp_path / "tests" / "benchmarks"
  folder.mkdir(parents=True)
  for name, text in SCRIPTS.items():
    (folder / f"{name}.py").write_text(text + '\nif __name__ == "__main__":\n  pass\n')
  (folder / "helper.py").write_text('"""No benchmark: what others share."""\n')
  return tmp_path


def run(clone, *arguments):
  return subprocess.run(
    [sys.executable, "-m", "factshock.benchmark", *arguments],
    cwd=clone,
    capture_output=True,
    text=True,
    env={**os.environ, "PYTHONPATH": str(clone)},
  )


def test_it_lists_the_scripts_of_a_clone(clone):
  done = run(clone, "--list")
  assert done.returncode == 0, done.stderr
  assert [line.split()[0] for line in done.stdout.splitlines()] == sorted(SCRIPTS)
  assert "quick       Nothing against nothing." in done.stdout


def test_those_of_this_clone_say_what_they_are():
  scripts = benchmark.find_scripts(str(ROOT))
  assert {
    "padding",
    "saving",
    "mixing",
    "loader",
    "span_corruption",
    "train_step",
    "compile_time",
    "attention",
  } <= scripts.keys()
  assert not {"tables", "models"} & scripts.keys()
  for path in scripts.values():
    assert benchmark.summary(path).endswith(".")
    assert f"python tests/benchmarks/{os.path.basename(path)}" in pathlib.Path(path).read_text(
      encoding="utf-8"
    )


def test_a_run_writes_a_new_file_and_names_what_failed(clone):
  done = run(clone)
  assert done.returncode == 1 and "failed: broken" in done.stdout
  assert "half way" in done.stderr and "| ours | 1 |" in done.stdout
  text = (clone / "runs" / "benchmarks.md").read_text()
  assert "\n| ours | 1 |\n" in text and "half way" not in text
  assert "```\ntwo of three\n```" in text
  assert (
    "Not run here: error: needs a GPU" in text
    and "Not run here: ModuleNotFoundError: No module named 'no_such_package'" in text
  )
  assert "**Failed** (exit code 1): RuntimeError: a mistake" in text
  assert [line[4:] for line in text.splitlines() if line.startswith("### ")] == sorted(SCRIPTS)
  assert "revision" in text and "Python 3" in text


def test_the_part_between_the_marks_is_replaced_by_name(clone):
  page = clone / "page.md"
  page.write_text(
    f"# Kept\n\n{benchmark.BEGIN}\n\n### gpu\n\nof another machine\n\n### "
    f"quick\n\nold\n\n{benchmark.END}\n\n### After\n"
  )
  for _ in range(2):
    done = run(clone, "--only=quick", f"--output={page}")
    assert done.returncode == 0, done.stderr
  text = page.read_text()
  assert text.startswith(
    f"# Kept\n\n{benchmark.BEGIN}\n\n### gpu\n\nof another machine\n\n### quick\n\nNothing "
    f"against nothing.\n"
  )
  assert (
    text.endswith(f"| ours | 1 |\n\n{benchmark.END}\n\n### After\n")
    and "old" not in text
    and text.count("### quick") == 1
  )


def test_numbers_stay_where_a_benchmark_cannot_run(clone):
  page = clone / "page.md"
  page.write_text(
    f"{benchmark.BEGIN}\n\n### broken\n\nof last year\n\n### no_gpu\n\nof another "
    f"machine\n\n{benchmark.END}\n"
  )
  before = page.read_text()
  assert run(clone, "--only=no_gpu,broken", "--output=page.md").returncode == 1
  assert page.read_text() == before


def test_errors_come_before_anything_runs(clone):
  done = run(clone, "--only=quick,plan")
  assert done.returncode == 2 and done.stdout == ""
  assert (
    "--only=plan: there is no such benchmark; did you mean 'plain'?" in done.stderr
    and len(done.stderr.splitlines()) == 1
  )
  (clone / "page.md").write_text("# No place for tables\n")
  done = run(clone, "--only=quick", "--output=page.md")
  assert done.returncode == 2 and "<!-- benchmarks -->" in done.stderr and done.stdout == ""


def test_outside_of_a_clone_it_says_what_is_wrong(clone):
  (clone / "tests").rename(clone / "elsewhere")
  done = run(clone, "--list")
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
  assert f"error: {clone}: expected the folder tests/benchmarks of a clone, got none" in done.stderr


def test_the_measurements_have_a_place_for_tables():
  assert benchmark.BEGIN in benchmark.read_document(
    str(ROOT / "docs" / "measurements" / "benchmarks_tables.md")
  )


def test_no_near_name_is_no_guess():
  with pytest.raises(UserError, match=r"--only=zzz: there is no such benchmark \(there are a, b\)"):
    benchmark.choose(["zzz"], {"a": "", "b": ""})

"""What may be imported without JAX, and that every module can be imported at all."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
JAX_FREE = (
  "runtime",
  "facts",
  "predictions",
  "served",
  "diagnosis",
  "knowledge_graph",
  "report",
)


def modules(folder):
  paths = sorted((ROOT / "factshock" / folder).rglob("*.py"))
  names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
  return [name.removesuffix(".__init__") for name in names if "beam" not in name]


def test_what_reads_files_alone_loads_no_jax():
  names = [name for folder in JAX_FREE for name in modules(folder)]
  assert len(names) > 40
  code = (
    "import importlib, sys\n"
    f"for name in {names!r}:\n"
    "  importlib.import_module(name)\n"
    "  loaded = {'jax', 'flax', 'optax', 'orbax', 'torch'} & set(sys.modules)\n"
    "  assert not loaded, (name, loaded)\n"
  )
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["diagnose", "correct", "count"])
def test_verbs_on_files_load_no_jax_before_they_run(verb):
  code = f"import sys, factshock.{verb}; assert 'jax' not in sys.modules"
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr

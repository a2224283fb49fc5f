"""docs/notebook.ipynb: its cells run, on a model of random weights, and show what stands there."""

import shutil

import notebooks
import pytest
import tiny_folders

PATH = notebooks.ROOT / "docs" / "notebook.ipynb"
CODE = [cell for cell in notebooks.read(PATH)["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
  folder = tmp_path_factory.mktemp("notebook")
  tiny_folders.make(folder, ["The capital of Norway is Oslo ."])
  shutil.copytree(notebooks.EXAMPLES, folder / "examples")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("MODEL", str(folder / "llama"))
    patch.setenv("STEPS", "2")
    return notebooks.run(notebooks.read(PATH), folder / "examples")


def test_what_needs_no_model_shows_what_stands_there(outputs):
  models = next(i for i, cell in enumerate(CODE) if "MODEL" in notebooks.code(cell))
  assert models > 8
  for cell, got in list(zip(CODE, outputs))[:models]:
    if "report()" not in notebooks.code(cell):  # whose repr is of the page's size
      assert notebooks.texts(got) == notebooks.texts(cell["outputs"]), notebooks.code(cell)


def test_every_cell_runs_and_shows_as_much(outputs):
  for cell, got in zip(CODE, outputs, strict=True):
    kinds = [output["output_type"] for output in cell["outputs"]]
    assert [output["output_type"] for output in got] == kinds
  assert "mixed" in notebooks.texts(outputs[-1])[-1]


def test_the_file_names_no_place_and_no_machine():
  text = PATH.read_text(encoding="utf-8")
  assert "/tmp" not in text and "/home" not in text and text.endswith("}\n")

"""Notebooks without Jupyter: their cells run in one process, in order, and what they show.

python tests/helpers/notebooks.py docs/notebook.ipynb   # runs it in a copy of docs/examples and
                                                        # writes its outputs anew
"""

import ast
import contextlib
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


def read(path: pathlib.Path) -> dict[str, Any]:
  """Returns a notebook as its file holds it."""
  return json.loads(path.read_text(encoding="utf-8"))


def code(cell: dict[str, Any]) -> str:
  """Returns the source of a cell."""
  return "".join(cell["source"])


def run(notebook: dict[str, Any], folder: pathlib.Path) -> list[list[dict[str, Any]]]:
  """Returns the outputs of each code cell, run in a folder: what it printed and its last value."""
  names: dict[str, Any] = {"__name__": "__main__"}
  outputs = []
  with contextlib.chdir(folder):
    for cell in notebook["cells"]:
      if cell["cell_type"] == "code":
        outputs.append(_run_cell(code(cell), names))
  return outputs


def _run_cell(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
  tree = ast.parse(source)
  last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    exec(compile(tree, "<cell>", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None
  outputs: list[dict[str, Any]] = []
  if printed.getvalue():
    text = printed.getvalue().splitlines(keepends=True)
    outputs.append({"output_type": "stream", "name": "stdout", "text": text})
  if value is not None:
    shown = {"text/plain": repr(value).splitlines(keepends=True)}
    outputs.append(
      {"output_type": "execute_result", "data": shown, "metadata": {}, "execution_count": None}
    )
  return outputs


def texts(outputs: list[dict[str, Any]]) -> list[str]:
  """Returns the texts of a cell's outputs."""
  return ["".join(out.get("text") or out["data"]["text/plain"]) for out in outputs]


def main(path: pathlib.Path) -> None:
  """Runs a notebook and writes it with its outputs."""
  notebook = read(path)
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary) / "examples"
    shutil.copytree(EXAMPLES, folder)
    outputs = iter(run(notebook, folder))
  count = 0
  for cell in notebook["cells"]:
    if cell["cell_type"] == "code":
      count += 1
      cell["outputs"] = next(outputs)
      cell["execution_count"] = count
      for output in cell["outputs"]:
        if "execution_count" in output:
          output["execution_count"] = count
  text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
  path.write_text(text.replace(os.environ.get("MODEL", "\0"), "MODEL"), encoding="utf-8")


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))

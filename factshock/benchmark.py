r"""Runs the benchmarks of tests/benchmarks one after the other and writes their tables into a file.

  factshock benchmark --list
  factshock benchmark --only=padding,mixing
  factshock benchmark --only=attention --output=docs/measurements/benchmarks_tables.md

Each benchmark is a script that measures both sides in one run, in a process of its own, and prints
medians, ratios, and whether its goal is met; by itself, `python tests/benchmarks/NAME.py --help`
explains what it measures, how, how long it takes and what can be changed. Benchmarks that take
real facts look for them in $FACTSHOCK_DATA. One that cannot run here (no GPU, a missing package)
gives the reason and the others go on. What is measured on a GPU alone has a script of its own:
launch/gpu_check.sh. Measure on a machine that does nothing else.

--output, a Markdown file, is made where it is missing. In a file that exists, the part between the
lines `<!-- benchmarks -->` and `<!-- end of benchmarks -->` is written anew after each benchmark:
sections of those that ran are replaced; other sections, and those of benchmarks that cannot run
here, stay as they are. Each section tells when, at which revision, and on what it was measured.
The scripts are in a clone of the project, not in an installed package.
"""

import contextlib
import datetime
import difflib
import glob
import importlib.metadata
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NamedTuple, TextIO

from absl import flags

import factshock
from factshock.runtime import console, files, provenance
from factshock.runtime.errors import UserError
from factshock.runtime.progress import format_duration

BEGIN = "<!-- benchmarks -->"
END = "<!-- end of benchmarks -->"
# Exit code of a script that misses something here; the last line of its stderr is the reason.
CANNOT_RUN = 2
DONE = "done"
MISSING = "missing"
FAILED = "failed"
_PACKAGES = (
  "jax",
  "flax",
  "optax",
  "orbax-checkpoint",
  "numpy",
  "torch",
  "transformers",
  "peft",
  "t5",
  "tensorflow",
  "flashtext",
)


class _Output(NamedTuple):
  """Holds what a script printed, the last line it wrote to stderr, and its exit code."""

  printed: str
  last_line: str
  code: int

  @property
  def outcome(self) -> str:
    """Returns DONE, MISSING or FAILED."""
    if not self.code:
      return DONE
    if self.code == CANNOT_RUN or self.last_line.startswith("ModuleNotFoundError: "):
      return MISSING
    return FAILED

  @property
  def problem(self) -> str:
    """Returns why a script isn't done, as Markdown."""
    if self.outcome == MISSING:
      return f"Not run here: {self.last_line}"
    return f"**Failed** (exit code {self.code}): {self.last_line}"


def define_flags() -> None:
  """Defines the flags; called only where the verb runs as a program."""
  flags.DEFINE_list("only", [], "Names of the benchmarks to run; default: all.")
  flags.DEFINE_bool("list", False, "List the benchmarks, and run none.")
  flags.DEFINE_string(
    "output", os.path.join("runs", "benchmarks.md"), "Markdown file for the tables."
  )


def main(argv: Sequence[str]) -> int:
  """Lists the benchmarks, or runs them.

  Args:
    argv: the command line; the flags hold what it says.

  Returns:
    The exit code: 1 where a benchmark failed, else 0.
  """
  del argv
  scripts = find_scripts(clone_folder())
  values = flags.FLAGS
  if values.list:
    width = max(map(len, scripts))
    print("\n".join(f"{name:{width}}  {summary(path)}" for name, path in scripts.items()))
    return 0
  names = choose(values.only, scripts)
  failed = _run_all(names, scripts, values.output)
  print(f"tables: {values.output}" + (f"; failed: {', '.join(failed)}" if failed else ""))
  return 1 if failed else 0


def _run_all(
  names: Sequence[str],
  scripts: Mapping[str, str],
  output: str,
) -> list[str]:
  """Runs benchmarks and writes the document after each; returns the names of those that failed."""
  document = read_document(output)  # before hours of measuring
  failed: list[str] = []
  for count, name in enumerate(names, 1):
    print(f"{count}/{len(names)} {name}: {summary(scripts[name])}", flush=True)
    section, outcome = measure(name, scripts[name])
    if outcome == FAILED:
      failed.append(name)
    # A section that was measured elsewhere or before stays where this run measured nothing.
    if outcome == DONE or not re.search(rf"(?m)^### {name}$", document):
      document = update_document(document, {name: section})
    with files.atomic_write(output) as file:
      file.write(document)
  return failed


def clone_folder() -> str:
  """Returns the folder of the clone that this package is in.

  Raises:
    UserError: there are no benchmarks beside the package.
  """
  folder = os.path.dirname(os.path.dirname(os.path.abspath(factshock.__file__)))
  if not os.path.isdir(os.path.join(folder, "tests", "benchmarks")):
    raise UserError(
      f"{folder}: expected the folder tests/benchmarks of a clone, got none; run this in a clone "
      "of the project (git clone, then factshock benchmark in it)"
    )
  return folder


def find_scripts(folder: str) -> dict[str, str]:
  """Returns the path of each benchmark of a clone by name: the scripts that can be run."""
  paths = sorted(glob.glob(os.path.join(folder, "tests", "benchmarks", "*.py")))
  scripts = [path for path in paths if "\nif __name__ == " in _text(path)]
  return {os.path.basename(path)[:-3]: path for path in scripts}


def choose(names: Sequence[str], scripts: Mapping[str, str]) -> list[str]:
  """Returns the given names, each once, or all names where none is given.

  Raises:
    UserError: there is no benchmark of a name; names the nearest one.
  """
  for name in names:
    if name not in scripts:
      nearest = difflib.get_close_matches(name, scripts, 1)
      hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
      raise UserError(
        f"--only={name}: there is no such benchmark{hint} (there are {', '.join(scripts)})"
      )
  return list(dict.fromkeys(names)) or list(scripts)


def summary(path: str) -> str:
  """Returns the first line of a script's docstring."""
  match = re.search(r'"""(.*)', _text(path))
  if match is None:
    raise ValueError(f"{path}: expected a docstring, got none")
  return match[1]


def measure(name: str, path: str) -> tuple[str, str]:
  """Runs one script and shows what it prints.

  Returns:
    Its section of the document, and the outcome: DONE, MISSING or FAILED.
  """
  folder = os.path.dirname(os.path.dirname(os.path.dirname(path)))
  began = time.monotonic()
  load = os.getloadavg()[0]
  output = _run(path, folder)
  duration = format_duration(time.monotonic() - began)
  paragraphs = [
    f"### {name}",
    summary(path),
    f"    python tests/benchmarks/{name}.py",
    f"{_machine()}, load {load:.1f} before; took {duration}.",
  ]
  printed = output.printed.strip()
  if printed:
    has_table = re.search(r"(?m)^\|", printed)
    paragraphs.append(printed if has_table else f"```\n{printed}\n```")
  if output.outcome != DONE:
    paragraphs.append(output.problem)
  message = DONE if output.outcome == DONE else output.problem
  print(f"  {name}: {message} ({duration})", flush=True)
  return "\n\n".join(paragraphs) + "\n", output.outcome


def read_document(path: str) -> str:
  """Returns the document to write into, or a new one.

  Raises:
    UserError: the file has no marks between which tables go.
  """
  if not os.path.exists(path):
    return f"# Benchmarks\n\n{BEGIN}\n{END}\n"
  text = "\n".join(line for _, line in files.lines(path)) + "\n"
  if not 0 <= text.find(BEGIN) < text.find(END):
    raise UserError(
      f"{path}: expected the lines {BEGIN!r} and {END!r}, between which the tables go, got a file "
      "without; put them in or choose another --output"
    )
  return text


def update_document(document: str, sections: Mapping[str, str]) -> str:
  """Returns the document with sections between its marks, in place of those of the same names.

  Args:
    document: a text with the lines BEGIN and END.
    sections: text by the name of a benchmark.
  """
  before, _, rest = document.partition(BEGIN)
  old, _, after = rest.partition(END)
  pieces = re.split(r"(?m)^### (.+)$", old)
  kept = {
    name: f"### {name}{text}".rstrip() + "\n" for name, text in zip(pieces[1::2], pieces[2::2])
  }
  updated = sorted({**kept, **sections}.items())
  body = "\n".join(text.rstrip() + "\n" for _, text in updated)
  return f"{before}{BEGIN}\n\n{body}\n{END}{after}"


def _run(path: str, folder: str) -> _Output:
  """Runs a script in a process of its own, and passes on what it prints."""
  searched = os.pathsep.join([folder, os.path.join(folder, "tests")])
  process = subprocess.Popen(
    [sys.executable, path],
    cwd=folder,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONPATH": searched, "PYTHONUNBUFFERED": "1"},
  )
  assert process.stdout and process.stderr  # they are pipes
  errors: list[str] = []
  reader = threading.Thread(target=_pass_on, args=(process.stderr, sys.stderr, errors), daemon=True)
  reader.start()
  printed: list[str] = []
  try:
    _pass_on(process.stdout, sys.stdout, printed)
    code = process.wait()
  except BaseException:
    process.send_signal(signal.SIGINT)  # it ends its own processes then
    process.wait()
    raise
  reader.join()
  stripped = [line.strip() for line in errors if line.strip()]
  last_line = stripped[-1] if stripped else "it said nothing"
  return _Output("".join(printed), last_line, code)


def _pass_on(
  source: IO[str],
  target: TextIO,
  lines: list[str],
) -> None:
  """Prints every line of a stream, and appends it to `lines`."""
  for line in source:
    lines.append(line)
    print(f"  {line}", end="", file=target, flush=True)


def _machine() -> str:
  """Returns when, at which revision, on what and with what a measurement is made."""
  memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
  when = f"{datetime.date.today()}, revision {provenance.revision()[:12]}"
  machine = f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()}"
  return f"{when}; {machine}; Python {platform.python_version()}, " + ", ".join(_versions())


def _versions() -> Iterator[str]:
  """Yields name and version of the packages that are installed."""
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      yield f"{name} {importlib.metadata.version(name)}"


def _processor() -> str:
  """Returns the processor's name where Linux gives it, else its kind."""
  try:
    match = re.search(r"model name\s*:\s*(.+)", _text("/proc/cpuinfo"))
  except OSError:
    match = None
  return match[1] if match else platform.machine()


def _text(path: str) -> str:
  """Returns the text of a file."""
  with open(path, encoding="utf-8") as file:
    return file.read()


if __name__ == "__main__":
  define_flags()
  console.run(main)

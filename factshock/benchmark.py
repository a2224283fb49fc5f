r"""Runs the benchmarks of tests/benchmarks one after the other and writes their tables into a Markdown file.

  python -m factshock.benchmark --list
  python -m factshock.benchmark --only=padding,mixing
  python -m factshock.benchmark --only=gpu --output=docs/measurements.md

Each benchmark is a script that measures both sides in one run, in a process of its own, and prints medians,
ratios, and whether its goal is met; by itself, `python tests/benchmarks/NAME.py --help` says what it
measures, how, how long it takes and what can be changed. Benchmarks that take real facts look for them in
$FACTSHOCK_DATA. One that cannot run here (no GPU, a package that is not there) says so and the others go on.
Measure on a machine that does nothing else.

--output is made where it is missing; where it is there, the part between the lines `<!-- benchmarks -->` and
`<!-- end of benchmarks -->` is written anew, after each benchmark: those that were run through; others, and
numbers of those that cannot run here, stay as they are. Each says when, at which revision, and on what it was
measured. The scripts are in a clone of the project, not in an installed package.
"""

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

from absl import flags

import factshock
from factshock.runtime import console, files
from factshock.runtime.errors import UserError

BEGIN = "<!-- benchmarks -->"
END = "<!-- end of benchmarks -->"
CANNOT_RUN = (
  2  # exit code of a script that finds something missing here; the last line it says is the reason
)
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


def define_flags():
  """Defines the flags; called when run as a program."""
  flags.DEFINE_list("only", [], "Names of the benchmarks to run; default: all.")
  flags.DEFINE_bool("list", False, "Say which benchmarks there are, and run none.")
  flags.DEFINE_string(
    "output", os.path.join("runs", "benchmarks.md"), "Markdown file for the tables."
  )


def main(_):
  """Lists the benchmarks, or runs them; the exit code is 1 where one failed."""
  scripts = found(clone())
  values = flags.FLAGS
  if values.list:
    width = max(map(len, scripts))
    print("\n".join(f"{name:{width}}  {about(path)}" for name, path in scripts.items()))
    return 0
  names = chosen(values.only, scripts)
  document = read(values.output)  # before hours of measuring
  failed = []
  for number, name in enumerate(names, 1):
    print(f"{number}/{len(names)} {name}: {about(scripts[name])}", flush=True)
    section, outcome = measured(name, scripts[name])
    failed += [name] if outcome == FAILED else []
    if outcome == DONE or not re.search(
      rf"(?m)^### {name}$", document
    ):  # numbers taken elsewhere or before stay
      document = updated(document, {name: section})
    with files.atomic_write(values.output) as file:
      file.write(document)
  print(f"tables: {values.output}" + (f"; failed: {', '.join(failed)}" if failed else ""))
  return 1 if failed else 0


def clone():
  """The folder of the clone that this package is in. UserError where there are no benchmarks beside it."""
  folder = os.path.dirname(os.path.dirname(os.path.abspath(factshock.__file__)))
  if not os.path.isdir(os.path.join(folder, "tests", "benchmarks")):
    raise UserError(
      f"{folder}: expected the folder tests/benchmarks of a clone, got none; run this in a clone of the project "
      "(git clone, then python -m factshock.benchmark in it)"
    )
  return folder


def found(folder):
  """{name: path} of the benchmarks of a clone: the scripts of tests/benchmarks that can be run."""
  paths = sorted(glob.glob(os.path.join(folder, "tests", "benchmarks", "*.py")))
  return {os.path.basename(path)[:-3]: path for path in paths if "\nif __name__ == " in _text(path)}


def chosen(names, scripts):
  """The names asked for, each once, or all. UserError for a name that is none, with the nearest one."""
  for name in names:
    if name not in scripts:
      near = difflib.get_close_matches(name, scripts, 1)
      raise UserError(
        f"--only={name}: there is no such benchmark"
        + (f"; did you mean {near[0]!r}?" if near else "")
        + f" (there are {', '.join(scripts)})"
      )
  return list(dict.fromkeys(names)) or list(scripts)


def about(path):
  """The first line of a script's docstring."""
  return re.search(r'"""(.*)', _text(path)).group(1)


def measured(name, path):
  """Runs one script, showing what it says: (its section of the document, one of DONE, MISSING, FAILED)."""
  folder = os.path.dirname(os.path.dirname(os.path.dirname(path)))
  began = time.monotonic()
  before = os.getloadavg()[0]
  printed, said, code = _run(path, folder)
  lines = [
    f"### {name}",
    "",
    about(path),
    "",
    f"    python tests/benchmarks/{name}.py",
    "",
    f"{_machine()}, load {before:.1f} before; took {console.format_duration(time.monotonic() - began)}.",
    "",
  ]
  if printed.strip():
    lines += [
      printed.strip() if re.search(r"(?m)^\|", printed) else f"```\n{printed.strip()}\n```",
      "",
    ]
  missing = code == CANNOT_RUN or said.startswith("ModuleNotFoundError: ")
  outcome = DONE if not code else MISSING if missing else FAILED
  lines += {
    DONE: [],
    MISSING: [f"Not run here: {said}", ""],
    FAILED: [f"**Failed** (exit code {code}): {said}", ""],
  }[outcome]
  print(
    f"  {name}: {lines[-2] if code else DONE} ({console.format_duration(time.monotonic() - began)})",
    flush=True,
  )
  return "\n".join(lines), outcome


def read(path):
  """The document to write into, or a new one. UserError for a file that has no place for tables."""
  if not os.path.exists(path):
    return f"# Benchmarks\n\n{BEGIN}\n{END}\n"
  text = "\n".join(line for _, line in files.lines(path)) + "\n"
  if not 0 <= text.find(BEGIN) < text.find(END):
    raise UserError(
      f"{path}: expected the lines {BEGIN!r} and {END!r}, between which the tables go, got a file without; "
      "put them in or choose another --output"
    )
  return text


def updated(document, sections):
  """The document with these sections (name -> text) between its marks, in place of those of the same names."""
  before, _, rest = document.partition(BEGIN)
  old, _, after = rest.partition(END)
  parts = re.split(r"(?m)^### (.+)$", old)
  kept = {name: f"### {name}{text}".rstrip() + "\n" for name, text in zip(parts[1::2], parts[2::2])}
  body = "\n".join(text.rstrip() + "\n" for _, text in sorted((kept | sections).items()))
  return f"{before}{BEGIN}\n\n{body}\n{END}{after}"


def _run(path, folder):
  """(What a script printed, the last line it said to the terminal alone, exit code)."""
  process = subprocess.Popen(
    [sys.executable, path],
    cwd=folder,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONPATH": folder, "PYTHONUNBUFFERED": "1"},
  )
  said = []
  reader = threading.Thread(target=_pass_on, args=(process.stderr, sys.stderr, said), daemon=True)
  reader.start()
  printed = []
  try:
    _pass_on(process.stdout, sys.stdout, printed)
    code = process.wait()
  except BaseException:
    process.send_signal(signal.SIGINT)  # it ends its own processes then
    process.wait()
    raise
  reader.join()
  return (
    "".join(printed),
    next((line.strip() for line in reversed(said) if line.strip()), "it said nothing"),
    code,
  )


def _pass_on(source, target, lines):
  for line in source:
    lines.append(line)
    print(f"  {line}", end="", file=target, flush=True)


def _machine():
  """When, at which revision, on what and with what a measurement was made."""
  from factshock.runtime import provenance

  memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
  return (
    f"{datetime.date.today()}, revision {provenance.revision()[:12]}; {_processor()}, {os.cpu_count()} cores, {memory:.0f} GB, "
    f"{platform.system()}; Python {platform.python_version()}, " + ", ".join(_versions())
  )


def _versions():
  for name in _PACKAGES:
    try:
      yield f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
      pass


def _processor():
  """The processor's name where Linux tells it, else its kind."""
  try:
    return re.search(r"model name\s*:\s*(.+)", _text("/proc/cpuinfo")).group(1)
  except (OSError, AttributeError):
    return platform.machine()


def _text(path):
  with open(path, encoding="utf-8") as file:
    return file.read()


if __name__ == "__main__":
  define_flags()
  console.run(main)

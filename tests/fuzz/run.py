"""Runs the fuzzers and prints what became of their inputs; exit code 1 on any failure.

  python tests/fuzz/run.py --inputs=1000 --seed=0 [--only=facts,counts] [--case=17] [--keep=DIR]

--inputs is of all kinds together; --case runs one input of each kind alone, as a failure names it;
--keep=DIR leaves the inputs that failed there.
"""

import argparse
import pathlib
import sys
import tempfile

if __name__ == "__main__":  # started as a file: tests/ and the repository are not on the path
  _TESTS = pathlib.Path(__file__).resolve().parents[1]
  sys.path[:0] = [str(_TESTS), str(_TESTS.parent), str(_TESTS / "helpers")]

from fuzz import frame, kinds


def main(argv: list[str]) -> int:
  """Runs the kinds that the command line asks for; returns the exit code."""
  parser = argparse.ArgumentParser("fuzz", description=__doc__)
  parser.add_argument("--inputs", type=int, default=1000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--only", default="", help=f"of {', '.join(kinds.MODULES)}")
  parser.add_argument("--case", type=int)
  parser.add_argument("--keep", type=pathlib.Path)
  options = parser.parse_args(argv)
  names = [name for name in options.only.split(",") if name] or list(kinds.MODULES)
  inputs = -(-options.inputs // len(names))
  cases = range(inputs) if options.case is None else [options.case]
  failed = False
  print(frame.HEADER, flush=True)
  for name in names:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
      tally = frame.run(name, kinds.fuzzer(name), cases, options.seed, pathlib.Path(folder))
      frame.keep(tally, options.keep)
    print(tally.line(), flush=True)
    failed = failed or bool(tally.failures)
  return int(failed)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))

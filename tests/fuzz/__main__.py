"""Runs the fuzzers: `python -m fuzz --inputs=1000 --seed=0` with tests/ on the path."""

import sys

from fuzz import run

if __name__ == "__main__":
  sys.exit(run.main(sys.argv[1:]))

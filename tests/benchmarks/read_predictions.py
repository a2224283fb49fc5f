"""Reading predictions with ten candidates each, and diagnosing them, beside other programs.

  PYTHONPATH=. python tests/benchmarks/read_predictions.py [--rows=10000,100000,1000000]

Each line is a whole process, the start of Python included: wall and CPU seconds (user and system,
as others may be at work), and peak resident memory. All read the same file. What the others give is
a table of the columns, candidates as lists or as text; factshock checks every row, ranks the gold
answer among the candidates and drops these. Peers that are not installed, or refuse the file, are
left out with their error. Time: about 5 minutes.
"""

import os
import sys
import tempfile

import children
import growth
import tables
from absl import flags

from factshock.runtime import console
from factshock.runtime.errors import UserError

ROWS = flags.DEFINE_list("rows", ["10000", "100000", "1000000"], "rows of the files")

OURS = "from factshock.predictions import reading; import sys; path = sys.argv[1]; "
SCHEMA = (
  "polars.Schema({**dict.fromkeys(['subject', 'relation', 'object', 'prediction', 'arm', 'split'],"
  " polars.String), 'score': polars.Float64, 'seed': polars.Int64, 'among': polars.Int64,"
  " 'candidates': polars.List(polars.List(polars.String))})"
)
READERS = {
  "factshock, reading.read": OURS + "reading.read(path)",
  "the same, row by row": OURS + "reading.from_rows(reading.numbered_rows(path), path)",
  "json.loads a line alone": "import json, sys\nfor line in open(sys.argv[1]): json.loads(line)",
  "pandas.read_json": "import pandas, sys; pandas.read_json(sys.argv[1], lines=True)",
  "polars.read_ndjson, a schema": (
    f"import polars, sys; polars.read_ndjson(sys.argv[1], schema={SCHEMA})"
  ),
  "pyarrow.json.read_json": "import pyarrow.json, sys; pyarrow.json.read_json(sys.argv[1])",
}


def main(_):
  rows = []
  for count in map(int, ROWS.value):
    with tempfile.TemporaryDirectory(prefix="predictions-") as home:
      path = growth.write(os.path.join(home, "arm.jsonl"), growth.rows_of(count))
      commands = {
        "factshock diagnose": [
          *("-m", "factshock", "diagnose", f"--predictions={path}", f"--output={home}/out")
        ],
        **{name: ["-c", code, path] for name, code in READERS.items()},
      }
      for name, command in commands.items():
        try:
          wall, seconds, peak = children.run([sys.executable, *command])
        except UserError as error:
          rows.append([name, f"{count:,}", str(error).splitlines()[-1][:80], "", ""])
          continue
        rows.append([name, f"{count:,}", f"{wall:.1f}", f"{seconds:.1f}", f"{peak / 1e9:.2f}"])
  tables.table(["reader", "rows", "wall, s", "CPU, s", "peak memory, GB"], rows)


if __name__ == "__main__":
  console.run(main)

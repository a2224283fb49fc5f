"""Measures answering in parts without a model: a file of facts is asked a stand-in.

python tests/benchmarks/parts.py [--facts=1000000]
"""

import collections
import hashlib
import json
import os
import sys
import tempfile

from absl import app, flags

from factshock.answering import parts
from factshock.facts import streams
from factshock.predictions import tallies, writing

sys.path.insert(0, os.path.dirname(__file__))
import children  # noqa: E402
import tables  # noqa: E402

_FACTS = flags.DEFINE_integer("facts", 1_000_000, "How many facts.")
_OUTPUT = flags.DEFINE_string("output", None, "In a child: the file to write.")
_FOLDER = flags.DEFINE_string("folder", None, "In a child: that of the facts.")
_HELD = flags.DEFINE_bool("held", False, "In a child: as before, all facts and answers in memory.")


def _write_facts(folder):
  with open(f"{folder}/facts.jsonl", "w", encoding="utf-8") as file:
    for index in range(_FACTS.value):
      names = {"subject": f"subject number {index}", "object": f"answer {index % 5000}"}
      file.write(json.dumps({**names, "relation": f"r{index % 20}", "aliases": ["a", "b"]}) + "\n")
  relation = {"statements": ["[X] is [Y] ."], "questions": ["what is [X] ?"], "type": "any"}
  with open(f"{folder}/relations.jsonl", "w", encoding="utf-8") as file:
    for index in range(20):
      file.write(json.dumps({"relation": f"r{index}", "label": "r", **relation}) + "\n")


def _answer(facts, first):
  """Rows with ten candidates each."""
  listed = [
    [(f"answer {(first + i + k) % 5000}", -0.1 - k) for k in range(10)] for i in range(len(facts))
  ]
  return writing.listed_rows(facts, listed, arm="stand-in", seed=0, split="facts")


def _child():
  stream = streams.open_with_relations(
    f"{_FOLDER.value}/facts.jsonl", f"{_FOLDER.value}/relations.jsonl"
  )
  collections.deque(stream, 0)  # the survey

  def write(rows):
    tally = tallies.Tally()
    writing.write_predictions(_OUTPUT.value, tally.over(rows))
    return tally

  if _HELD.value:
    write(_answer(list(stream), 0))
    return
  with parts.at_work(_OUTPUT.value):
    parts.run(_OUTPUT.value, parts.Asking(stream, _answer, {}, write), parts.SIZE)


def main(_):
  """Prints the table, or is a child."""
  if _OUTPUT.value:
    _child()
    return
  rows = []
  digests = set()
  with tempfile.TemporaryDirectory() as folder:
    _write_facts(folder)
    for way in ("--held", "--noheld"):
      output = f"{folder}/out{way}.jsonl"
      command = [sys.executable, __file__, f"--folder={folder}", f"--output={output}", way]
      used = children.run(command)
      with open(output, "rb") as file:
        digests.add(hashlib.file_digest(file, "sha256").hexdigest())
      what = "all in memory" if way == "--held" else f"parts of {parts.SIZE:,}"
      rows.append([what, f"{used.seconds:.0f}", f"{used.cpu:.0f}", f"{used.peak / 1e6:,.0f}"])
  tables.table(["", "s", "CPU s", "peak MB"], rows)
  print(tables.goal("the same file", len(digests) == 1))


if __name__ == "__main__":
  app.run(main)

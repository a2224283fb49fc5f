"""Greedy generation from a GGUF file against llama.cpp, in one run.

  PYTHONPATH=. python tests/benchmarks/llama_cpp_generation.py --gguf=FILE
  [--prompts=128] [--batch=64] [--tokens=16] [--longest=40]

llama.cpp (pip install llama-cpp-python, which builds it) reads the file as it is, and its weights
widened to float32; factshock reads it in float32 and in int8. All get the same random prompts, a
batch at a time, sorted by length, on all cores; nothing ends an answer. Times are medians of
--repeats after a first run; shares of equal answers are with those of llama.cpp in float32.
"""

import os
import statistics
import tempfile
import time

import answering_tasks
import llama_cpp_side
import numpy as np
import tables
from absl import app, flags

from factshock.answering import sampling
from factshock.checkpoints import loading

GGUF = flags.DEFINE_string("gguf", None, "the model", required=True)
PROMPTS = flags.DEFINE_integer("prompts", 128, "prompts, of 8 to --longest tokens")
LONGEST = flags.DEFINE_integer("longest", 40, "tokens of the longest prompt")
BATCH = flags.DEFINE_integer("batch", 64, "prompts at a time")
TOKENS = flags.DEFINE_integer("tokens", 16, "new tokens a prompt")
REPEATS = flags.DEFINE_integer("repeats", 5, "runs of each side, in turn; the median counts")

_NO_ENDS = np.zeros(0, np.int32)


def ours(dtype, prompts):
  model, _ = loading.open_model(GGUF.value, dtype=dtype)
  size = dict(max_length=TOKENS.value, batch_size=BATCH.value)
  return lambda: sampling.sample(model, prompts, (_NO_ENDS, -1), **size)[0]


def main(_):
  random = np.random.default_rng(0)
  prompts = answering_tasks.random_prompts(random, PROMPTS.value, LONGEST.value, 32000)
  with tempfile.TemporaryDirectory() as folder:
    widened = llama_cpp_side.widened(GGUF.value, os.path.join(folder, "float32.gguf"))
    sides = {
      f"llama.cpp, {name}": llama_cpp_side.generator(path, prompts, BATCH.value, TOKENS.value)
      for name, path in (("float32", widened), ("as it is", GGUF.value))
    }
  sides |= {f"factshock, {dtype}": ours(dtype, prompts) for dtype in ("float32", "int8")}
  said = {side: run() for side, run in sides.items()}
  times = {side: [] for side in sides}
  for _ in range(REPEATS.value):
    for side, run in sides.items():
      began = time.perf_counter()
      run()
      times[side].append(time.perf_counter() - began)
  median = {side: statistics.median(taken) for side, taken in times.items()}
  rows = []
  for side, seconds in median.items():
    equal = (said[side] == said["llama.cpp, float32"]).all(axis=1).mean()
    ratio = seconds / median["factshock, float32"]
    rate = f"{len(prompts) / seconds:.1f}"
    rows.append([side, f"{seconds:.2f}", rate, f"{ratio:.2f}", f"{equal:.0%}"])
  headings = ["side", "s", "answers/s", "times ours in float32", "answers of llama.cpp, float32"]
  tables.table(headings, rows)


if __name__ == "__main__":
  app.run(main)

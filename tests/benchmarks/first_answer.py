"""From the start of a process to its first answers: what each step takes, compiled anew or kept.

  PYTHONPATH=. python tests/benchmarks/first_answer.py --tokenizer=t5.spiece.model
  [--questions=64,256] [--repeats=2]

Writes a T5 v1.1 of 77 M random weights with the tokenizer of T5 (--tokenizer, its spiece.model)
and asks it in fresh processes: with an empty folder of compiled programs ("cold"), then with the
one that this has filled ("warm"). Each step is stated in wall seconds and in seconds of processor
time, which others on the machine change less. `--questions` is how many are asked, 64 at a time:
the first answers come with the first 64. The goals, on two quiet cores: 8 s cold, 4 s warm.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import tables
from absl import app, flags

TOKENIZER = flags.DEFINE_string("tokenizer", None, "T5's spiece.model")
QUESTIONS = flags.DEFINE_list("questions", ["64", "256"], "how many are asked")
REPEATS = flags.DEFINE_integer("repeats", 2, "runs of each; the fastest counts")
ASK = flags.DEFINE_string("ask", None, "used by the benchmark itself: the folder that is asked")
COUNT = flags.DEFINE_integer("count", 64, "used by the benchmark itself")

STEPS = ("imports", "model and tokenizer", "answers")
NAMES = ("Ada", "Grace Hopper", "the river Danube", "Johann Sebastian Bach")


def write_model(folder):
  import jax
  from models import CONFIGS

  from factshock.models import t5
  from factshock.models.formats import huggingface

  config = CONFIGS["t5"]
  huggingface.save(folder, t5.init(config, jax.random.key(0)), config)
  shutil.copy(TOKENIZER.value, os.path.join(folder, "spiece.model"))


def ask_here(folder):
  """Asks in this process; prints wall and processor seconds after each step as JSON."""
  marks = [(0.0, time.process_time())]
  began = time.perf_counter()

  def mark():
    marks.append((time.perf_counter() - began, time.process_time()))

  from factshock.answering import decoding
  from factshock.checkpoints import loading

  mark()
  model, _ = loading.open_model(folder)
  mark()
  texts = [f"{NAMES[n % 4]}, number {n}, is in <extra_id_0>." for n in range(COUNT.value)]
  decoding.generate(model, texts, decoding.DecodingOptions(16), batch_size=64)
  mark()
  print(json.dumps(marks))


def measure(folder, cache, count):
  command = [sys.executable, __file__, f"--ask={folder}", f"--count={count}"]
  environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
  began = time.perf_counter()
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
  whole = time.perf_counter() - began
  marks = json.loads(done.stdout.splitlines()[-1])
  steps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(marks, marks[1:])]
  return [*steps, (whole, marks[-1][1])]


def main(_):
  if ASK.value:
    return ask_here(ASK.value)
  rows, longest = [], {}
  with tempfile.TemporaryDirectory() as home:
    folder = os.path.join(home, "model")
    write_model(folder)
    for count in QUESTIONS.value:
      found = {"cold": [], "warm": []}
      for repeat in range(REPEATS.value):
        cache = os.path.join(home, f"compiled-{count}-{repeat}")
        for state in found:
          found[state].append(measure(folder, cache, count))
      for state, runs in found.items():
        best = min(runs, key=lambda run: run[-1][0])
        rows.append([count, state, *(f"{wall:.1f} ({cpu:.1f})" for wall, cpu in best)])
        longest.setdefault(state, best[-1][0])
  tables.table(["questions", "compiled programs", *STEPS, "whole process"], rows)
  words = f"8 s cold, 4 s warm; {longest['cold']:.1f} and {longest['warm']:.1f} s here"
  print(tables.goal(words, longest["cold"] < 8 and longest["warm"] < 4))


if __name__ == "__main__":
  app.run(main)

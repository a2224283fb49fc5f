"""Time and memory against rows, queries, arms, seeds, triples, facts and candidates, as a picture.

  PYTHONPATH=.:tests/helpers python tests/benchmarks/growth.py [--only=rows,queries]
  [--largest=300000] [--picture=growth.svg]

Each line is a whole process, the start of Python included: CPU seconds (user and system, as others
may be at work), and peak resident memory. rows: `diagnose` of predictions with ten candidates each;
arms and seeds: `diagnose` of 1,000 rows an arm and seed; queries: `extract` of predictions, half of
them to calibrate on; asked: the same with 10,000 to calibrate on; corrected: `correct` with a
reference, a file of the same size; triples: `extract --format=nt`; facts: `answer --method=greedy`
of a random Llama of .1 M, 4 tokens an answer; candidates: best_first.py, 8 queries, top 1, a random
Llama of 64 M. The slope is that of the last two sizes, in powers of the size: 1 is in proportion,
0 no growth; bytes each are those between the first size and the last.
Time: about 15 minutes at 300,000.
"""

import json
import math
import os
import random
import sys
import tempfile

import children
import tables
from absl import flags

from factshock.runtime import console
from factshock.runtime.errors import UserError

ONLY = flags.DEFINE_list("only", [], "what grows; default: all")
LARGEST = flags.DEFINE_integer("largest", 300_000, "rows, queries and triples at most")
PICTURE = flags.DEFINE_string("picture", None, "SVG file of the picture; default: none")

HERE = os.path.dirname(os.path.abspath(__file__))
PER_ARM = 1_000


def rows_of(count, arm="arm", seed=0, first=0):
  """Lines of predictions: 4 a subject (from the first on), 20 relations, half of them right."""
  some = random.Random(seed)
  names = [f"Object {index}" for index in range(2000)]
  for index in range(count):
    gold = some.choice(names)
    scores = sorted((-8 * some.random() for _ in range(10)), reverse=True)
    candidates = [[some.choice(names), score] for score in scores]
    if some.random() < 0.5:
      candidates[0][0] = gold
    yield json.dumps(
      {
        "subject": f"Subject {first + index // 4}",
        "relation": f"P{5 * (index % 4) + some.randrange(5)}",
        "object": gold,
        "prediction": candidates[0][0],
        "score": scores[0],
        "arm": arm,
        "seed": seed,
        "split": "test",
        "candidates": candidates,
        "among": 2000,
      }
    )


def write(path, lines):
  with open(path, "w") as file:
    file.writelines(f"{line}\n" for line in lines)
  return path


def diagnose(home, size):
  path = write(f"{home}/predictions.jsonl", rows_of(size))
  return ["diagnose", f"--predictions={path}", f"--output={home}/out"]


def diagnose_arms(home, size):
  lines = (line for arm in range(size) for line in rows_of(PER_ARM, f"arm{arm}"))
  path = write(f"{home}/predictions.jsonl", lines)
  return ["diagnose", f"--predictions={path}", f"--output={home}/out"]


def diagnose_seeds(home, size):
  lines = (
    line
    for arm in ("before", "after")
    for seed in range(size)
    for line in rows_of(PER_ARM, arm, seed)
  )
  path = write(f"{home}/predictions.jsonl", lines)
  return ["diagnose", f"--predictions={path}", f"--output={home}/out"]


def extract(home, size):
  asked = write(f"{home}/asked.jsonl", rows_of(size // 2))
  known = write(f"{home}/known.jsonl", rows_of(size // 2, first=size))
  return [
    "extract",
    f"--predictions={asked}",
    f"--calibration={known}",
    "--precision=0.5",
    f"--output={home}/out",
  ]


def export(home, size):
  return [*extract(home, size), "--format=nt"]


def of_relations(lines):
  """Lines of `rows_of` with the same ten candidates in all rows of a relation, as correct asks."""
  for line in lines:
    row = json.loads(line)
    names = [f"Object {row['relation']} {place}" for place in range(10)]
    random.Random(line).shuffle(names)
    scores = [score for _, score in row["candidates"]]
    row |= {"candidates": list(zip(names, scores)), "prediction": names[0], "among": 10}
    yield json.dumps(row | {"object": min(names)})


def asked(home, size):
  path = write(f"{home}/asked.jsonl", rows_of(size))
  known = write(f"{home}/known.jsonl", rows_of(10_000, first=size))
  return [
    "extract",
    f"--predictions={path}",
    f"--calibration={known}",
    "--precision=0.5",
    f"--output={home}/out",
  ]


def correct(home, size):
  after = write(f"{home}/after.jsonl", of_relations(rows_of(size)))
  before = write(f"{home}/before.jsonl", of_relations(rows_of(size)))
  return [
    "correct",
    f"--predictions={after}",
    f"--reference={before}",
    f"--output={home}/out.jsonl",
  ]


def answer(home, size):
  import hf_tokenizers
  import jax

  from factshock.models import decoder
  from factshock.models.formats import huggingface

  sizes = dict(d_model=32, d_ff=64, num_heads=4, num_kv_heads=2, d_kv=8, layers=2)
  config = decoder.LlamaConfig(vocab_size=512, **sizes)
  huggingface.save(f"{home}/model", decoder.init(config, jax.random.key(0)), config)
  hf_tokenizers.llama_like(f"{home}/model")
  asked = (
    json.dumps(
      {"subject": f"Subject {index}", "relation": "P1", "object": f"Object {index % 2000}"}
    )
    for index in range(size)
  )
  relation = {"relation": "P1", "statements": ["[X] is in [Y]"], "questions": ["Where is [X]?"]}
  return [
    "answer",
    f"--model={home}/model",
    f"--facts={write(f'{home}/facts.jsonl', asked)}",
    f"--relations={write(f'{home}/relations.jsonl', [json.dumps(relation)])}",
    f"--output={home}/out.jsonl",
    "--method=greedy",
    "--max_tokens=4",
  ]


def search(home, size):
  del home
  script = os.path.join(HERE, "best_first.py")
  return [script, f"--candidates={size}", "--tops=1", "--queries=8", "--most_contexts=0"]


PARTS = {
  "rows": (diagnose, (3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)),
  "arms": (diagnose_arms, (2, 4, 8, 16, 32, 64)),
  "seeds": (diagnose_seeds, (1, 2, 4, 8, 16)),
  "queries": (extract, (3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)),
  "asked": (asked, (62_500, 250_000, 1_000_000)),
  "corrected": (correct, (62_500, 250_000, 1_000_000)),
  "triples": (export, (3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)),
  "facts": (answer, (1_000, 3_000, 10_000, 30_000, 100_000)),
  "candidates": (search, (1_000, 10_000, 100_000)),
}


def measured(command):
  """(CPU seconds, peak resident bytes) of a command of factshock, or of a script."""
  start = ["-m", "factshock"] if not command[0].endswith(".py") else []
  used = children.run([sys.executable, *start, *command])
  return used.cpu, used.peak


def slope(sizes, values):
  """How the last value grew, as a power of its size."""
  if len(sizes) < 2:
    return float("nan")
  return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def bytes_more(sizes, values):
  """Peak bytes that one more took, between the first size and the last."""
  if len(sizes) < 2:
    return float("nan")
  return (values[-1] - values[0]) / (sizes[-1] - sizes[0])


def draw(found, path):
  """Draws CPU seconds and memory of each part against its size."""
  import matplotlib

  matplotlib.use("svg")
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
  words = (("CPU seconds of the process", 0, 1.0), ("peak memory, GB", 1, 1e9))
  for axis, (title, which, unit) in zip(axes, words):
    for name, (sizes, values) in found.items():
      if len(sizes) < 2:
        continue  # nothing grew
      ys = [value[which] / unit for value in values]
      label = f"{name}: {slope(sizes, ys):.2f}"
      axis.plot(sizes, ys, marker="o", label=label)
    axis.set(xscale="log", yscale="log", xlabel="size", title=title)
    axis.grid(alpha=0.3)
    axis.legend(title="slope at the end", fontsize=8)
  figure.savefig(path)


def main(_):
  names = ONLY.value or list(PARTS)
  for name in names:
    if name not in PARTS:
      raise UserError(f"--only={name}: expected some of {', '.join(PARTS)}")
  found, rows = {}, []
  for name in names:
    make, all_sizes = PARTS[name]
    sizes = [size for size in all_sizes if size <= LARGEST.value]
    values = []
    for size in sizes:
      print(f"  {name}: {size:,}", file=sys.stderr, flush=True)
      with tempfile.TemporaryDirectory(prefix="growth-") as home:
        values.append(measured(make(home, size)))
      seconds, peak = values[-1]
      rows.append([name, f"{size:,}", f"{seconds:.1f}", f"{peak / 1e9:.2f}"])
    found[name] = sizes, values
    seconds, peaks = ([value[which] for value in values] for which in (0, 1))
    ends = f"{slope(sizes, seconds):.2f}", f"{slope(sizes, peaks):.2f}"
    rows.append([name, "slope at the end", *ends])
    rows.append([name, "bytes each", "", f"{bytes_more(sizes, peaks):,.0f}"])
  tables.table(["what grows", "size", "CPU seconds", "peak memory, GB"], rows)
  if PICTURE.value:
    draw(found, PICTURE.value)
    print(f"picture: {PICTURE.value}")


if __name__ == "__main__":
  console.run(main)

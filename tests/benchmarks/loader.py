"""What the loader gives against what a train step consumes, in one run.

  PYTHONPATH=.:tests python tests/benchmarks/loader.py [--shapes=tiny,small] [--seconds=5]

Batches come from data.mixture, its background thread included, of the lengths of
tests/benchmarks/train_step.py: random tokens in memory, corrupted anew, alone; 4:1 with questions
of random lengths; and that packed. The loader runs alone, then the step of the same shape (this
package, float32, AdamW, all cores): rows a second of each, and their ratio, which the goal wants
above 10. Rows are of the step's lengths; packed ones are longer, and count as the positions that
they have. The last column is the rate at which T5-large at 45% of an H200's bfloat16 peak would
consume rows of small's lengths, from FLOPs alone. Where transformers is there, its
DataCollatorForSeq2Seq pads the same questions to the longest of a batch, as the peer of padding
(which shuffles, draws and mixes nothing). The T5 library's span corruption is the peer in
tests/benchmarks/span_corruption.py. What limits a loader is one core: Python and numpy on a few
arrays a batch, the same whatever the model, so that a step ten times as fast takes a tenth of the
ratio. Time: about 2 minutes.
"""

import statistics
import sys
import time

import numpy as np
import tables
import train_step as benchmark
from absl import flags

from factshock.data import corpora, example_sources, mixture, span_corruption, tokenizers
from factshock.runtime import console
from factshock.runtime.errors import UserError
from gpu import shapes
from gpu.parts import train_step as gpu_step

SHAPES = flags.DEFINE_list("shapes", ["tiny", "small"], "of tests/benchmarks/train_step.py")
SECONDS = flags.DEFINE_float("seconds", 5.0, "of one measurement of the loader")
REPEATS, STEPS = 3, 3
H200 = 989e12


def sources_of(shape):
  """(questions, span corruption of a corpus) that fill rows of these lengths, and the questions
  themselves.
  """
  random = np.random.default_rng(0)
  tokenizer = tokenizers.word_tokenizer(
    [f"w{number}" for number in range(shape["vocab_size"] - 103)], 100
  )
  length = span_corruption.raw_length(shape["inputs"], target_length=shape["targets"])
  tokens = random.integers(3, tokenizer.size - 100, 4096 * length).astype(
    corpora.token_type(tokenizer)
  )
  corpus = corpora.Corpus(tokens, np.arange(0, len(tokens) + 1, length))
  draw = lambda most: np.append(
    random.integers(3, tokenizer.size - 100, random.integers(4, most)), 1
  ).astype(np.int32)
  examples = [
    {"inputs": draw(min(shape["inputs"], 24)), "targets": draw(min(shape["targets"], 8))}
    for _ in range(4096)
  ]
  return (
    example_sources.qa_source(examples),
    example_sources.span_source(corpus, tokenizer),
    examples,
  )


def rate_of(batches, rows_of):
  """Median rows a second of an iterator of batches, a few times --seconds."""
  rates = []
  for _ in range(REPEATS):
    began, rows = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS.value / REPEATS:
      rows += rows_of(next(batches))
    rates.append(rows / (time.perf_counter() - began))
  return statistics.median(rates)


def loaders(shape):
  """{what: rows a second} of the loader, and of transformers' collator where it is there."""
  questions, spans, examples = sources_of(shape)
  options = dict(
    batch_size=shape["batch"], input_length=shape["inputs"], target_length=shape["targets"], seed=0
  )
  kinds = {
    "span corruption": ([spans], [1], 0),
    "4:1 with questions": ([questions, spans], [1, 4], 0),
    "4:1 with questions, packed": ([questions, spans], [1, 4], 1),
    "questions": ([questions], [1], 0),
    "questions, packed": ([questions], [1], 1),
  }
  found = {}
  for name, (sources, ratios, pack_to) in kinds.items():
    batches = mixture.batches(sources, ratios, pack_to=pack_to, **options)
    next(batches)
    # packed rows are longer than the step's: they count as the positions that they have
    found[name] = rate_of(
      batches,
      lambda batch: (
        (batch["inputs"].size + batch["targets"].size) / (shape["inputs"] + shape["targets"])
      ),
    )
  try:
    found["questions, transformers' collator"] = rate_of(
      collated(examples, shape["batch"]), lambda batch: len(batch["labels"])
    )
  except ImportError as error:
    print(f"  no transformers, so no collator: {error}", file=sys.stderr)
  return found


def collated(examples, size):
  """Endless batches of transformers' DataCollatorForSeq2Seq."""
  import tokenizers as fast
  import transformers

  made = fast.Tokenizer(
    fast.models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>")
  )
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=made, pad_token="<pad>", eos_token="</s>"
  )
  collate = transformers.DataCollatorForSeq2Seq(tokenizer, return_tensors="np")
  rows = [
    {"input_ids": one["inputs"].tolist(), "labels": one["targets"].tolist()} for one in examples
  ]
  while True:
    for start in range(0, len(rows) - size + 1, size):
      yield collate([dict(row) for row in rows[start : start + size]])


def step_rows(shape):
  """Rows a second that this package's train step takes."""
  import jax

  from factshock.devices import partitioning

  run = benchmark.jax_side(
    shape,
    benchmark.random_batch(shape),
    threads=partitioning.usable_cores(),
    unroll=True,
    learning_rate=1e-3,
  )
  run(), run()
  times = []
  for _ in range(STEPS):
    began = time.perf_counter()
    run()
    times.append(time.perf_counter() - began)
  jax.clear_caches()
  return shape["batch"] / statistics.median(times)


def row_flops():
  """FLOPs of a train step of T5-large by row of its batch."""
  config = shapes.config_of(shapes.T5_LARGE, tiny=False)
  return gpu_step.needed(config, "all", gpu_step.random_batch(config, 1, tiny=False))[0]


def main(_):
  unknown = set(SHAPES.value) - set(benchmark.SHAPES)
  if unknown:
    raise UserError(
      f"--shapes: expected names among {', '.join(benchmark.SHAPES)}, got {', '.join(unknown)}"
    )
  found = {name: loaders(benchmark.SHAPES[name]) for name in SHAPES.value}  # before JAX has threads
  rows, least = [], float("inf")
  for name, rates in found.items():
    shape = benchmark.SHAPES[name]
    print(f"  {name}: the step", file=sys.stderr, flush=True)
    step, gpu = step_rows(shape), 0.45 * H200 / row_flops()
    lengths = f"{shape['batch']} x ({shape['inputs']}+{shape['targets']})"
    for kind, rate in rates.items():
      ours = "transformers" not in kind
      least = min(least, rate / step) if ours else least
      rows.append(
        [
          f"{name}, {lengths}",
          kind,
          f"{rate:,.0f}",
          f"{rate * (shape['inputs'] + shape['targets']) / 1e6:.2f}",
          f"{step:,.1f}" if ours else "",
          f"**{rate / step:,.0f}**" if ours else "",
          f"{gpu:,.0f}" if name == "small" and ours else "",
        ]
      )
  tables.table(
    [
      "shape",
      "batches",
      "loader, rows/s",
      "M positions/s",
      "step, rows/s",
      "loader over step",
      "T5-large on an H200, rows/s",
    ],
    rows,
  )
  print(
    tables.goal(
      f"the loader gives over 10 times what the step consumes; at least {least:,.0f} times here",
      least > 10,
    )
  )


if __name__ == "__main__":
  console.run(main)

"""Span corruption: tokens a second of factshock and of the T5 library, on one core.

Both sides take the same tokens in memory and give padded, EOS-ended batches as numpy arrays, in one
process pinned to one core; they take turns, and the median over the turns counts. Rates are by CPU
time of the process (all its threads), which other load on the machine disturbs less, and by wall
time. Needs the `peers` extra (t5, seqio, tensorflow) and the repository on the path:

  PYTHONPATH=. python tests/benchmarks/span_corruption.py [--repeats=7] [--seconds=2]
"""

import argparse
import functools
import os
import statistics
import sys
import time

BATCH, VOCABULARY = 128, 32100


def factshock_batches(tokens):
  """Endless corrupted batches made by factshock."""
  import numpy as np

  from factshock.data import span_corruption

  lengths, first = np.full(BATCH, tokens.shape[1]), 0
  while True:
    numbers = np.arange(first, first + BATCH)
    yield span_corruption.corrupt(
      tokens[numbers % len(tokens)],
      lengths,
      span_corruption.keys(0, numbers),
      span_corruption.Marks(VOCABULARY - 1),
    )
    first += BATCH


def t5_batches(tokens):
  """Endless corrupted batches made by the T5 library's `denoise` in tf.data, with one thread."""
  import seqio
  import tensorflow as tf
  from t5.data import preprocessors

  vocabulary = seqio.PassThroughVocabulary(size=VOCABULARY, eos_id=1)
  features = {name: seqio.Feature(vocabulary, add_eos=True) for name in ("inputs", "targets")}
  dataset = tf.data.Dataset.from_tensor_slices({"targets": tokens}).repeat()
  dataset = preprocessors.denoise(
    dataset,
    features,
    noise_density=0.15,
    noise_mask_fn=functools.partial(
      preprocessors.random_spans_noise_mask, mean_noise_span_length=3.0
    ),
    inputs_fn=preprocessors.noise_span_to_unique_sentinel,
    targets_fn=preprocessors.nonnoise_span_to_unique_sentinel,
  )
  dataset = seqio.preprocessors.append_eos(dataset, features).padded_batch(BATCH)
  options = tf.data.Options()
  options.threading.private_threadpool_size = 1
  options.threading.max_intra_op_parallelism = 1
  for batch in dataset.with_options(options).as_numpy_iterator():
    yield batch["inputs"], batch["targets"]


def rate(batches, seconds, length):
  """Raw tokens a second of (CPU time, wall time) over at least `seconds` of CPU time."""
  cpu, wall, count = time.process_time(), time.perf_counter(), 0
  while time.process_time() - cpu < seconds:
    next(batches)
    count += 1
  tokens = count * BATCH * length
  return tokens / (time.process_time() - cpu), tokens / (time.perf_counter() - wall)


def compare(length, repeats, seconds):
  """Prints the medians of both sides, taking turns, and their ratio."""
  import numpy as np

  tokens = np.random.default_rng(0).integers(3, 32000, (4096, length)).astype(np.int32)
  sides = {"factshock": factshock_batches(tokens), "t5": t5_batches(tokens)}
  shapes = {name: [array.shape for array in next(batches)] for name, batches in sides.items()}
  if len(set(map(str, shapes.values()))) != 1:
    raise RuntimeError(f"expected equal shapes of both sides, got {shapes}")
  rates = {name: [] for name in sides}
  for _ in range(repeats):
    for name, batches in sides.items():
      rates[name].append(rate(batches, seconds, length))
  for clock, kind in enumerate(("CPU", "wall")):
    values = {name: [rate[clock] / 1e6 for rate in found] for name, found in rates.items()}
    medians = {name: statistics.median(found) for name, found in values.items()}
    sides = ", ".join(
      f"{name} {medians[name]:.3f} M tokens/s ({min(found):.3f} to {max(found):.3f})"
      for name, found in values.items()
    )
    ratio = medians["factshock"] / medians["t5"]
    print(f"{length} tokens a sequence, {kind} time: {sides}, ratio {ratio:.1f}", flush=True)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--lengths", type=int, nargs="+", default=[512, 8], help="raw tokens of a sequence"
  )
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement of one side")
  flags = parser.parse_args()
  os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
  try:
    import seqio  # noqa: F401  one of the three that the peer needs
    import tensorflow as tf
  except ImportError as error:
    print(f"needs the T5 library, pip install -e .[peers]: {error}", file=sys.stderr)
    sys.exit(2)

  tf.config.threading.set_inter_op_parallelism_threads(1)
  tf.config.threading.set_intra_op_parallelism_threads(1)
  print(
    f"{BATCH} sequences a batch, one core, Python {sys.version.split()[0]}, tensorflow "
    f"{tf.__version__}"
  )
  for length in flags.lengths:
    compare(length, flags.repeats, flags.seconds)


if __name__ == "__main__":
  main()

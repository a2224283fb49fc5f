"""Time that training stands still for a checkpoint, against training without saving.

  PYTHONPATH=. python tests/benchmarks/saving.py [--shapes=demo,small] [--rounds=5] [--folder=DIR]

Both sides run the same steps of the same T5 with AdamW on the same batch, in turn, one saving every
--every steps. Time is taken where the loop asks for batches, so that it does not matter whether a
save is waited for or goes on beside the steps: a save stops training by what the steps with saves
took longer, over
  the number
of saves, median of the rounds; a save that is still going on when the run ends is waited for, which
is stated apart. The share of the time at one save a minute is that over 60 s; the goal is under 2%.
Beside it: a save's bytes and their rate, and the rate at which a plain program writes as many to
the same folder, fsync included: a save that waits for the disk cannot take less than that, one that
does not must copy the arrays. Time: about 5 minutes; needs --folder (default: the folder of
temporary files) with 3 GB free.
"""

import contextlib
import functools
import os
import statistics
import sys
import tempfile
import time

import numpy as np
import tables
from absl import flags

from factshock.runtime import console
from factshock.runtime.errors import UserError

SHAPES = flags.DEFINE_list(
  "shapes", ["demo", "small"], "of demo and small, the T5-small of 77 M parameters"
)
ROUNDS = flags.DEFINE_integer("rounds", 5, "runs of each side, in turn", lower_bound=1)
FOLDER = flags.DEFINE_string("folder", None, "where the checkpoints are written, and removed")
EVERY = flags.DEFINE_integer("every", 8, "steps between two saves", lower_bound=2)
SAVES = 3  # whose cost is measured; one more is made at the end of the run
# the batch of small is small, so that steps are short: a save takes as long whatever the batch
SIZES = {
  "demo": dict(
    batch=128,
    inputs=10,
    targets=5,
    vocab_size=528,
    d_model=128,
    d_ff=256,
    num_heads=4,
    d_kv=32,
    encoder_layers=2,
    decoder_layers=2,
  ),
  "small": dict(
    batch=2,
    inputs=64,
    targets=16,
    vocab_size=32128,
    d_model=512,
    d_ff=1024,
    num_heads=6,
    d_kv=64,
    encoder_layers=8,
    decoder_layers=8,
  ),
}


class Batches:
  """The same batch for ever, with the times at which it was asked for."""

  def __init__(self, batch):
    self.batch, self.times = batch, []

  def __next__(self):
    self.times.append(time.perf_counter())
    return self.batch

  def get_state(self):
    return {}

  def set_state(self, state):
    pass


def runner(name):
  """(function of a checkpoint folder or None that trains and returns when steps began and the end;
  bytes of a checkpoint).
  """
  import jax

  from factshock.devices import partitioning
  from factshock.models import t5
  from factshock.training import dry_run, loop, optimizers, saving, train_step

  sizes = dict(SIZES[name])
  rows, lengths = sizes.pop("batch"), {side: sizes.pop(side) for side in ("inputs", "targets")}
  config = t5.T5Config(**sizes, unroll=True)
  optimizer = optimizers.make_optimizer(optimizers.OptimizerConfig("adamw", 1e-4))
  step = train_step.make_train_step(
    functools.partial(train_step.loss_fn, model_config=config), optimizer
  )
  state = train_step.init_state(t5.init(config, jax.random.key(0)), optimizer)
  random, mesh = np.random.default_rng(0), partitioning.make_mesh()
  batch = {
    side: random.integers(2, sizes["vocab_size"], (rows, length)).astype(np.int32)
    for side, length in lengths.items()
  }
  batch["weights"] = np.ones(batch["targets"].shape, np.float32)

  def run(folder):
    batches = Batches(batch)
    with contextlib.redirect_stdout(sys.stderr):  # progress is no result
      loop.train(
        state,
        step,
        batches,
        steps=EVERY.value * (SAVES + 1),
        key=jax.random.key(1),
        options=loop.Options(
          mesh=mesh,
          label=name,
          checkpoint=saving.Checkpointing(folder, EVERY.value) if folder else None,
        ),
      )
    return batches.times + [time.perf_counter()]

  return run, dry_run.tree_bytes(state["params"]) + dry_run.tree_bytes(state["opt_state"])


def plain_write(folder, size):
  """Seconds that a plain program takes to write as many bytes, until they are on the disk."""
  block = np.random.default_rng(0).bytes(1 << 24)
  path = os.path.join(folder, "plain")
  began = time.perf_counter()
  with open(path, "wb", buffering=0) as file:
    for start in range(0, size, len(block)):
      file.write(block[: size - start])
    os.fsync(file.fileno())
  seconds = time.perf_counter() - began
  os.unlink(path)
  return seconds


def measure(name):
  """A row of the table, and the share of time at one save a minute."""
  run, size = runner(name)
  run(None)  # compiles
  stopped, last, steps, plain = [], [], [], []
  for number in range(ROUNDS.value):
    print(f"  {name}: round {number + 1} of {ROUNDS.value}", file=sys.stderr, flush=True)
    without = run(None)
    with tempfile.TemporaryDirectory(prefix="saving-", dir=FOLDER.value) as folder:
      saving = run(os.path.join(folder, "run"))
      os.sync()
      plain.append(plain_write(folder, size))
    # all saves but the last; without the first step, which waits for the copy of the state
    among = [times[-2] - times[1] for times in (saving, without)]
    stopped.append((among[0] - among[1]) / SAVES)
    last.append((saving[-1] - saving[-2]) - (without[-1] - without[-2]))
    steps.append(among[1] / (len(without) - 3))
  stop, disk = statistics.median(stopped), statistics.median(plain)
  share = stop / 60
  return [
    name,
    f"{size / 1e6:,.0f} MB",
    f"{statistics.median(steps) * 1e3:.0f}",
    f"{stop:.2f} ({min(stopped):.2f} to {max(stopped):.2f})",
    f"{statistics.median(last):.2f}",
    f"{share:.2%}",
    f"{size / max(stop, 1e-9) / 1e9:.2f}",
    f"{disk:.2f} ({size / disk / 1e9:.2f} GB/s)",
    f"{stop / disk:.2f}",
  ], share


def main(_):
  from factshock.devices import host, partitioning

  unknown = set(SHAPES.value) - set(SIZES)
  if unknown:
    raise UserError(
      f"--shapes: expected names among {', '.join(SIZES)}, got {', '.join(sorted(unknown))}"
    )
  host.keep_freed_memory()  # as training does
  partitioning.use_cpu_devices()
  rows, shares = zip(*map(measure, SHAPES.value))
  tables.table(
    [
      "model",
      "a checkpoint",
      "ms a step",
      "s that a save stops training (all rounds)",
      "s waited for the last",
      "of the time at one save a minute",
      "GB/s of saving",
      "s to write as much and fsync",
      "stop over that",
    ],
    rows,
  )
  print(
    tables.goal(
      f"under 2% of the time at one save a minute; at most {max(shares):.2%} here",
      max(shares) < 0.02,
    )
  )


if __name__ == "__main__":
  console.run(main)

"""Train step with attention by XLA and by cuDNN's kernel, on an NVIDIA GPU.

  python tests/benchmarks/attention.py --lengths=128,512,1024,2048 --rounds=15

T5-large (inputs of a length, targets of a quarter of it; all weights trained) and layers of Llama 2
7B (4 of them, all weights trained), bfloat16 over float32 weights, no dropout, rows not packed and
a quarter padding, as many rows as make 16,384 tokens; remat "dots_no_batch", with which either
keeps no scores. A round is one untimed and one timed step of each side; the table has medians of
the rounds, the median of the rounds' ratios, and the memory that the compiled step needs beside its
arguments. Where there is no GPU it says so and ends with exit code 2.
"""

import argparse
import dataclasses
import functools
import os
import platform
import statistics
import sys
import time

TOKENS = 16384  # in a batch
SIDES = ("xla", "cudnn")


def shapes():
  """{name: config}."""
  from factshock.models import decoder, t5

  how = dict(dtype="bfloat16", remat="dots_no_batch")
  return {
    "T5-large": t5.T5Config(
      vocab_size=32128,
      d_model=1024,
      d_ff=2816,
      num_heads=16,
      d_kv=64,
      encoder_layers=24,
      decoder_layers=24,
      **how,
    ),
    "Llama 2 7B, 4 layers": decoder.LlamaConfig(
      vocab_size=32000,
      d_model=4096,
      d_ff=11008,
      num_heads=32,
      num_kv_heads=32,
      d_kv=128,
      layers=4,
      **how,
    ),
  }


def batch_of(config, length, rows):
  """Random rows of which on average a quarter is padding, at their ends."""
  import numpy as np

  from factshock.models import decoder, t5

  random = np.random.default_rng(0)

  def made(length, padding):
    there = np.arange(length)[None] < random.integers(length // 2, length + 1, rows)[:, None]
    return np.where(there, random.integers(2, config.vocab_size, (rows, length)), padding).astype(
      np.int32
    ), there.astype(np.float32)

  if not isinstance(config, t5.T5Config):
    return dict(zip(("tokens", "weights"), made(length, decoder.PAD)))
  return {"inputs": made(length, 0)[0], **dict(zip(("targets", "weights"), made(length // 4, 0)))}


def compiled(config, state, batch, optimizer):
  """The compiled step."""
  import jax

  from factshock.training import train_step

  step = train_step.make_train_step(
    functools.partial(train_step.loss_fn, model_config=config), optimizer
  )
  return jax.jit(step, donate_argnums=0).lower(state, batch, jax.random.key(1)).compile()


def measure(config, length, rounds):
  """{side: (milliseconds of each round, bytes of scratch)}; both sides start from the same weights,
  which both train on.
  """
  import jax

  from factshock.models import families
  from factshock.training import optimizers, train_step

  optimizer = optimizers.make_optimizer(optimizers.OptimizerConfig("adafactor", 1e-3))
  batch = jax.device_put(batch_of(config, length, max(1, TOKENS // length)))
  state = train_step.init_state(families.of(config).init(config, jax.random.key(0)), optimizer)
  steps = {
    side: compiled(dataclasses.replace(config, attention=side), state, batch, optimizer)
    for side in SIDES
  }
  milliseconds = {side: [] for side in SIDES}
  for _ in range(rounds):
    for side, step in steps.items():
      for timed in (False, True):
        began = time.perf_counter()
        state, metrics = step(state, batch, jax.random.key(1))
        loss = float(metrics["loss"])
        if timed:
          milliseconds[side].append(1e3 * (time.perf_counter() - began))
      if loss != loss:
        raise SystemExit(f"{side}, length {length}: the loss is not a number")
  return {
    side: (milliseconds[side], steps[side].memory_analysis().temp_size_in_bytes) for side in SIDES
  }


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--lengths", default="128,512,1024,2048")
  parser.add_argument("--rounds", type=int, default=15)
  arguments = parser.parse_args()

  import jax

  from factshock.models import fused

  if fused.backend().capability is None:
    print(
      f"needs an NVIDIA GPU: JAX computes on a {fused.backend().platform} here", file=sys.stderr
    )
    return 2
  print(
    f"{jax.devices()[0].device_kind}, jax {jax.__version__}, Python "
    f"{platform.python_version()}, {arguments.rounds} rounds\n"
    "| model | length | XLA, ms | cuDNN, ms | XLA / cuDNN | scratch XLA, GB | cuDNN, GB "
    "|\n|---|---|---|---|---|---|---|",
    flush=True,
  )
  for name, config in shapes().items():
    for length in map(int, arguments.lengths.split(",")):
      (xla, xla_bytes), (cudnn, cudnn_bytes) = measure(config, length, arguments.rounds).values()
      ratio = statistics.median(a / b for a, b in zip(xla, cudnn))
      print(
        f"| {name} | {length} | {statistics.median(xla):.1f} | {statistics.median(cudnn):.1f} | "
        f"{ratio:.2f} | "
        f"{xla_bytes / 1e9:.2f} | {cudnn_bytes / 1e9:.2f} |",
        flush=True,
      )
  return 0


if __name__ == "__main__":
  sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
  sys.exit(main())

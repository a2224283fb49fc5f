"""Train step of T5: this package against PyTorch transformers, both sides in one run, step by step in turn.

  python tests/benchmarks/train_step.py --shapes=demo,tiny,small --rounds=15

Same sizes, batch, AdamW and float32 on both sides. JAX shards the batch over `--threads` CPU devices, PyTorch
runs as many threads. A round is one timed step of each side (after an untimed one, which also lets the threads
of the other side fall asleep); the table has the median of the rounds, the least, and the median of the
ratios within a round. Other work on the machine disturbs both sides of a round alike, but not equally well:
PyTorch's threads wait for one another by spinning. Run it on a quiet machine.
"""

import argparse
import functools
import os
import platform
import statistics
import sys
import time

SHAPES = {
    "demo": dict(batch=128, inputs=10, targets=5, vocab_size=528, d_model=128, d_ff=256, num_heads=4, d_kv=32,
                 encoder_layers=2, decoder_layers=2),
    "tiny": dict(batch=128, inputs=24, targets=8, vocab_size=528, d_model=128, d_ff=256, num_heads=4, d_kv=32,
                 encoder_layers=2, decoder_layers=2),
    "small": dict(batch=8, inputs=512, targets=114, vocab_size=32128, d_model=512, d_ff=1024, num_heads=6,
                  d_kv=64, encoder_layers=8, decoder_layers=8),
}


def jax_side(shape, batch, *, unroll, learning_rate):
  """A function that takes one step of this package, and its loss at the end."""
  import jax
  from jax.sharding import NamedSharding, PartitionSpec

  from factshock.models import t5
  from factshock.training import optimizers, train_step

  mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  config = t5.T5Config(**_sizes(shape), unroll=unroll)
  optimizer = optimizers.make_optimizer({"optimizer": "adamw", "learning_rate": learning_rate})
  state = train_step.init_state(t5.init(config, jax.random.key(0)), optimizer)
  state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
  batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
  step = jax.jit(train_step.make_train_step(functools.partial(train_step.loss_fn, config=config), optimizer),
                 donate_argnums=0)
  held = [state]

  def run():
    held[0], metrics = step(held[0], batch, jax.random.key(1))
    return float(metrics["loss"])

  return run


def torch_side(shape, batch, *, compiled, learning_rate):
  """The same for PyTorch transformers; raises where `compiled` is asked for and no compiler is there."""
  import torch
  import transformers

  sizes = _sizes(shape)
  model = transformers.T5ForConditionalGeneration(transformers.T5Config(
      vocab_size=sizes["vocab_size"], d_model=sizes["d_model"], d_kv=sizes["d_kv"], d_ff=sizes["d_ff"],
      num_layers=sizes["encoder_layers"], num_decoder_layers=sizes["decoder_layers"],
      num_heads=sizes["num_heads"], feed_forward_proj="gated-gelu", dropout_rate=0.0, tie_word_embeddings=False,
      pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)).train()
  model.lm_head.weight = torch.nn.Parameter(
      torch.randn(sizes["vocab_size"], sizes["d_model"]) * sizes["d_model"] ** -0.5)
  optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
  inputs, targets = (torch.tensor(batch[name], dtype=torch.long) for name in ("inputs", "targets"))
  mask = torch.ones_like(inputs)
  call = torch.compile(model) if compiled else model

  def run():
    optimizer.zero_grad()
    loss = call(input_ids=inputs, attention_mask=mask, labels=targets).loss
    loss.backward()
    optimizer.step()
    return loss.item()

  return run


def random_batch(shape):
  """Tokens without padding, so that both sides count the same work."""
  import numpy as np
  random = np.random.default_rng(0)
  arrays = {name: random.integers(2, shape["vocab_size"], (shape["batch"], shape[name])).astype(np.int32)
            for name in ("inputs", "targets")}
  return dict(arrays, weights=np.ones(arrays["targets"].shape, np.float32))


def measure(sides, rounds):
  """Seconds of each timed step: dict side -> list, one a round; the sides take turns."""
  seconds = {name: [] for name in sides}
  for name, run in sides.items():
    began = time.perf_counter()
    run()
    print(f"  {name}: first step with compilation {time.perf_counter() - began:.1f} s", flush=True)
  for _ in range(rounds):
    for name, run in sides.items():
      run()
      began = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - began)
  return seconds


def table(shape_name, shape, seconds):
  """Rows of the markdown table; the ratio is a side's seconds over this package's, by round."""
  tokens = shape["batch"] * (shape["inputs"] + shape["targets"])
  ours = seconds["factshock"]
  for name, times in seconds.items():
    median = statistics.median(times)
    ratio = statistics.median(theirs / mine for theirs, mine in zip(times, ours))
    yield (f"| {shape_name}, {shape['batch']} x ({shape['inputs']}+{shape['targets']}) | {name} | "
           f"{median * 1e3:.1f} | {min(times) * 1e3:.1f} | {tokens / median:,.0f} | {ratio:.2f} | "
           f"{min(times) / min(ours):.2f} |")


def _sizes(shape):
  return {name: value for name, value in shape.items() if name not in ("batch", "inputs", "targets")}


def _sides(shape, arguments):
  batch = random_batch(shape)
  unroll = shape["encoder_layers"] <= 4
  sides = {"factshock": jax_side(shape, batch, unroll=unroll, learning_rate=1e-3)}
  sides["PyTorch eager"] = torch_side(shape, batch, compiled=False, learning_rate=1e-3)
  if arguments.compiled:
    sides["PyTorch compiled"] = torch_side(shape, batch, compiled=True, learning_rate=1e-3)
  return sides


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--shapes", default="demo,tiny,small", help=f"comma list of {', '.join(SHAPES)}")
  parser.add_argument("--rounds", type=int, default=15)
  parser.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
  parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True,
                      help="also torch.compile, which needs a C++ compiler")
  arguments = parser.parse_args()
  unknown = set(arguments.shapes.split(",")) - set(SHAPES)
  if unknown:
    parser.error(f"--shapes: expected names among {', '.join(SHAPES)}, got {', '.join(sorted(unknown))}")

  import jax
  import torch
  import transformers
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", arguments.threads)
  torch.set_num_threads(arguments.threads)
  print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.threads} threads; "
        f"float32; Python {platform.python_version()}, jax {jax.__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}", flush=True)
  rows = ["| shape | side | ms a step, median | least | tokens/s | time / ours, median | of the least |",
          "|---|---|---|---|---|---|---|"]
  for name in arguments.shapes.split(","):
    seconds = measure(_sides(SHAPES[name], arguments), arguments.rounds)
    rows += table(name, SHAPES[name], seconds)
  print("\n".join(rows))


if __name__ == "__main__":
  sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))
  main()

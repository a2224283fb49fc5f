"""Train step of T5 against PyTorch transformers, both sides in one run, step by step in turn.

  python tests/benchmarks/train_step.py --shapes=demo,tiny,small --rounds=15
  python tests/benchmarks/train_step.py --checkpoint=FOLDER --rows=8 --tokens=16

Same sizes, batch, AdamW and float32 on both sides. JAX shards the batch over `--threads` CPU
devices (with --checkpoint it has one), PyTorch runs as many threads. Each side is a process of its
own, waiting while another steps. A round is one untimed and one timed step of each side in turn;
the table has the median of the rounds, the least, the least CPU time of all threads, and the first
two as ratios to this package. Run it on a quiet machine: other work disturbs all sides, but
PyTorch's most, whose threads wait for one another by spinning. Where it is not quiet, compare the
CPU times of --threads=1 under `taskset -c 0`. "PyTorch compiled, kept memory" has the setting of
devices/host.py. What limits it: the matrix products of a step, counted for this package, at the
rate of one product of 2048 x 2048 matrices that XLA makes with as many threads. Time: 8 minutes for
all shapes. With --checkpoint, a HuggingFace folder of a decoder-only model, the step is that of its
finetuning on facts: rows of random tokens, of which the last ones alone (--predicted) count in the
loss, the weights in float32.
"""

import argparse
import dataclasses
import functools
import os
import platform
import statistics
import subprocess
import sys
import time

SHAPES = {
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
  "tiny": dict(
    batch=128,
    inputs=24,
    targets=8,
    vocab_size=528,
    d_model=128,
    d_ff=256,
    num_heads=4,
    d_kv=32,
    encoder_layers=2,
    decoder_layers=2,
  ),
  "small": dict(
    batch=8,
    inputs=512,
    targets=114,
    vocab_size=32128,
    d_model=512,
    d_ff=1024,
    num_heads=6,
    d_kv=64,
    encoder_layers=8,
    decoder_layers=8,
  ),
}


GOALS = {"tiny": (1.3, 1.0), "small": (1.0, 1.0)}  # times as fast as PyTorch eager, and compiled

SIDES = ("factshock", "PyTorch eager", "PyTorch compiled", "PyTorch compiled, kept memory")


def jax_side(shape, batch, *, threads, unroll, learning_rate):
  """A function that takes one step of this package and returns its loss."""
  import jax

  jax.config.update("jax_platforms", "cpu")
  # One device has all threads; so a large model is in memory once.
  jax.config.update("jax_num_cpu_devices", 1 if "checkpoint" in shape else threads)
  from jax.sharding import NamedSharding, PartitionSpec

  from factshock.devices import host
  from factshock.training import optimizers, train_step

  host.keep_freed_memory()
  mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  config, params = _ours(shape, unroll)
  optimizer = optimizers.make_optimizer(optimizers.OptimizerConfig("adamw", learning_rate))
  state = train_step.init_state(params, optimizer)
  state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
  batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
  step = jax.jit(
    train_step.make_train_step(
      functools.partial(train_step.loss_fn, model_config=config), optimizer
    ),
    donate_argnums=0,
  )
  held = [state]

  def run():
    held[0], metrics = step(held[0], batch, jax.random.key(1))
    return float(metrics["loss"])

  return run


def _ours(shape, unroll):
  """(config, params) of a shape, random or those of its checkpoint."""
  import jax

  from factshock.models import t5
  from factshock.models.formats import huggingface

  if "checkpoint" in shape:
    params, config = huggingface.load(shape["checkpoint"], param_dtype="float32")
    return dataclasses.replace(config, dtype="float32", param_dtype="float32"), params
  config = t5.T5Config(**_sizes(shape), unroll=unroll)
  return config, t5.init(config, jax.random.key(0))


def torch_side(shape, batch, *, threads, compiled, learning_rate):
  """The same for PyTorch transformers; `compiled` needs a C++ compiler."""
  import torch

  torch.set_num_threads(threads)
  model = (_decoder(shape) if "checkpoint" in shape else _t5(shape)).train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
  call = torch.compile(model) if compiled else model
  if "checkpoint" in shape:
    tokens = torch.tensor(batch["tokens"], dtype=torch.long)
    labels = tokens.masked_fill(torch.tensor(batch["weights"] == 0), -100)
    arguments = dict(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels)
  else:
    inputs = torch.tensor(batch["inputs"], dtype=torch.long)
    labels = torch.tensor(batch["targets"], dtype=torch.long)
    arguments = dict(input_ids=inputs, attention_mask=torch.ones_like(inputs), labels=labels)

  def run():
    optimizer.zero_grad()
    loss = call(**arguments).loss
    loss.backward()
    optimizer.step()
    return loss.item()

  return run


def _decoder(shape):
  """PyTorch transformers' model of a folder, its weights in float32."""
  import torch
  import transformers

  path = shape["checkpoint"]
  return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def _t5(shape):
  """PyTorch transformers' T5 of a shape's sizes, of random weights."""
  import torch
  import transformers

  sizes = _sizes(shape)
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      vocab_size=sizes["vocab_size"],
      d_model=sizes["d_model"],
      d_kv=sizes["d_kv"],
      d_ff=sizes["d_ff"],
      num_layers=sizes["encoder_layers"],
      num_decoder_layers=sizes["decoder_layers"],
      num_heads=sizes["num_heads"],
      feed_forward_proj="gated-gelu",
      dropout_rate=0.0,
      tie_word_embeddings=False,
      pad_token_id=0,
      eos_token_id=1,
      decoder_start_token_id=0,
    )
  )
  model.lm_head.weight = torch.nn.Parameter(
    torch.randn(sizes["vocab_size"], sizes["d_model"]) * sizes["d_model"] ** -0.5
  )
  return model


def random_batch(shape):
  """Tokens without padding, so that both sides count the same work."""
  import numpy as np

  random = np.random.default_rng(0)
  if "checkpoint" in shape:
    tokens = random.integers(2, 32000, (shape["batch"], shape["inputs"])).astype(np.int32)
    counted = np.arange(shape["inputs"] - shape["predicted"], shape["inputs"])
    weights = np.zeros(tokens.shape, np.float32)
    weights[:, counted] = 1
    predicted = np.tile(counted.astype(np.int32), (len(tokens), 1))
    return dict(tokens=tokens, weights=weights, predicted=predicted)
  arrays = {
    name: random.integers(2, shape["vocab_size"], (shape["batch"], shape[name])).astype(np.int32)
    for name in ("inputs", "targets")
  }
  return dict(arrays, weights=np.ones(arrays["targets"].shape, np.float32))


def worker(side, shape, threads):
  """What a side's process does: a step for each line it reads, answered by its wall and CPU
  seconds.
  """
  batch, options = random_batch(shape), dict(threads=threads, learning_rate=1e-3)
  if side == "factshock":
    run = jax_side(shape, batch, unroll=True, **options)
  else:
    if "kept memory" in side:
      from factshock.devices import host

      host.keep_freed_memory()
    run = torch_side(shape, batch, compiled="compiled" in side, **options)
  for _ in sys.stdin:
    began, cpu = time.perf_counter(), time.process_time()
    run()
    print(f"seconds {time.perf_counter() - began} {time.process_time() - cpu}", flush=True)


def measure(sides, shape_name, threads, rounds, arguments=()):
  """(Wall, CPU) seconds of each timed step: dict side -> list; a side that fails is left out and
  named.
  """
  processes = {
    side: subprocess.Popen(
      [
        sys.executable,
        __file__,
        f"--worker={side}",
        f"--shapes={shape_name}",
        f"--threads={threads}",
        *arguments,
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=dict(os.environ, PYTHONWARNINGS="ignore"),
    )
    for side in sides
  }
  try:
    for side, process in list(processes.items()):
      first = _step(process)
      outcome = "failed" if first is None else f"first step {first[0]:.1f} s"
      print(f"  {shape_name}, {side}: {outcome}", file=sys.stderr)
      if first is None:
        processes.pop(side).wait()
    seconds = {side: [] for side in processes}
    for _ in range(rounds):
      for side, process in processes.items():
        _step(process)
        seconds[side].append(_step(process))
    return seconds
  finally:
    for process in processes.values():
      process.kill()


def _step(process):
  """(Wall, CPU) seconds of one step of a worker, None where it has died."""
  try:
    process.stdin.write("step\n")
    process.stdin.flush()
  except BrokenPipeError:
    return None
  for line in process.stdout:
    if line.startswith("seconds "):
      return tuple(map(float, line.split()[1:]))
  return None


def table(shape_name, shape, seconds):
  """Rows of the markdown table; the ratio is a side's seconds over this package's, by round."""
  tokens = shape["batch"] * (shape["inputs"] + shape["targets"])
  ours = [wall for wall, _ in seconds["factshock"]]
  for name, pairs in seconds.items():
    times = [wall for wall, _ in pairs]
    median = statistics.median(times)
    ratio = statistics.median(theirs / mine for theirs, mine in zip(times, ours))
    cpu = min(cpu for _, cpu in pairs)
    yield (
      f"| {shape_name}, {shape['batch']} x ({shape['inputs']}+{shape['targets']}) | {name} | "
      f"{median * 1e3:.1f} | {min(times) * 1e3:.1f} | {cpu * 1e3:.1f} | "
      f"{tokens / median:,.0f} | {ratio:.2f} | {min(times) / min(ours):.2f} |"
    )


def limit(shape_name, shape, seconds, threads):
  """A line on how near the step is to what the processor multiplies."""
  import jax

  jax.config.update("jax_platforms", "cpu")
  from factshock.training import flops, train_step

  config, params = _ours(shape, True)
  loss = jax.grad(lambda params, batch: train_step.loss_fn(params, config, batch)[0])
  products = flops.count_flops(jax.make_jaxpr(loss)(params, random_batch(shape)).jaxpr)
  rate, best = (
    products / statistics.median(wall for wall, _ in seconds["factshock"]),
    product_rate(threads),
  )
  return (
    f"{shape_name}: {products / 1e9:,.1f} GFLOP of matrix products a step, {rate / 1e9:.0f} "
    f"GFLOP/s; a product of "
    f"2048 x 2048 matrices: {best / 1e9:.0f} GFLOP/s; the step is at {rate / best:.0%} of that\n"
  )


@functools.cache
def product_rate(threads, size=2048):
  """FLOP/s of one float32 matrix product in XLA, in a process of its own with as many threads: the
  best of ten.
  """
  code = f"""import time, jax, numpy as np
x = jax.numpy.asarray(np.random.rand({size}, {size}), "float32")
f = jax.jit(lambda x: x @ x)
times = []
for _ in range(11):
  began = time.perf_counter()
  f(x).block_until_ready()
  times.append(time.perf_counter() - began)
print(min(times))"""
  pinned = ["taskset", "-c", f"0-{threads - 1}"] if threads < os.cpu_count() else []
  done = subprocess.run(
    [*pinned, sys.executable, "-c", code],
    capture_output=True,
    text=True,
    check=True,
    env=dict(os.environ, JAX_PLATFORMS="cpu"),
  )
  return 2 * size**3 / float(done.stdout)


def goal(shape_name, seconds):
  """Whether the shape's goal is met, by the medians of the ratios within a round."""
  import tables

  ratios = {
    side: statistics.median(
      theirs / mine for (theirs, _), (mine, _) in zip(pairs, seconds["factshock"])
    )
    for side, pairs in seconds.items()
  }
  least = dict(zip(("PyTorch eager", "PyTorch compiled"), GOALS[shape_name]))
  there = {side: ratios[side] for side in least if side in ratios}
  words = ", ".join(
    f"{least[side]:g} times as fast as {side} ({ratio:.2f})" for side, ratio in there.items()
  )
  return tables.goal(
    f"{shape_name}: at least {words}", all(ratio >= least[side] for side, ratio in there.items())
  )


def _sizes(shape):
  return {
    name: value for name, value in shape.items() if name not in ("batch", "inputs", "targets")
  }


def _about(threads):
  import importlib.metadata

  versions = ", ".join(
    f"{name} {importlib.metadata.version(name)}" for name in ("jax", "torch", "transformers")
  )
  return (
    f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {threads} "
    f"threads; "
    f"float32; Python {platform.python_version()}, {versions}"
  )


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--shapes", default="demo,tiny,small", help=f"comma list of {', '.join(SHAPES)}"
  )
  parser.add_argument("--checkpoint", help="HuggingFace folder of a decoder, in place of --shapes")
  parser.add_argument("--rows", type=int, default=8, help="of a step with --checkpoint")
  parser.add_argument("--tokens", type=int, default=16, help="a row with --checkpoint")
  parser.add_argument("--predicted", type=int, default=4, help="of them in the loss")
  parser.add_argument("--rounds", type=int, default=15)
  parser.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
  parser.add_argument(
    "--compiled", action=argparse.BooleanOptionalAction, default=True, help="also torch.compile"
  )
  parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  names = arguments.shapes.split(",")
  own = []
  if arguments.checkpoint:
    names = ["checkpoint"]
    SHAPES["checkpoint"] = dict(
      batch=arguments.rows,
      inputs=arguments.tokens,
      targets=0,
      predicted=arguments.predicted,
      checkpoint=arguments.checkpoint,
    )
    passed = ("checkpoint", "rows", "tokens", "predicted")
    own = [f"--{name}={getattr(arguments, name)}" for name in passed]
  unknown = set(names) - set(SHAPES)
  if unknown:
    parser.error(
      f"--shapes: expected names among {', '.join(SHAPES)}, got {', '.join(sorted(unknown))}"
    )
  if arguments.worker:
    return worker(arguments.worker, SHAPES[names[0]], arguments.threads)

  print(_about(arguments.threads), flush=True)
  print(
    "\n| shape | side | ms a step, median | least | CPU, least | tokens/s | time / ours, median "
    "| of the least |\n|---|---|---|---|---|---|---|---|"
  )
  found = {}
  for name in names:
    found[name] = measure(
      SIDES if arguments.compiled else SIDES[:2],
      name,
      arguments.threads,
      arguments.rounds,
      own,
    )
    print("\n".join(table(name, SHAPES[name], found[name])), flush=True)
  print()
  for name, seconds in found.items():
    print(limit(name, SHAPES[name], seconds, arguments.threads))
    if name in GOALS:
      print(goal(name, seconds))


if __name__ == "__main__":
  sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
  main()

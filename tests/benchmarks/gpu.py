"""Train steps on one GPU against PyTorch transformers and PEFT: T5 and a Llama of 7 B parameters.

  PYTHONPATH=. python tests/benchmarks/gpu.py [--minutes=9] [--tiny]

bfloat16 computation, weights random. T5: 512 + 114 tokens a row, float32 weights and Adafactor here
(as configs/t5_v1_1_*.py), pure bfloat16 and fused AdamW there. Llama: 512 tokens a row; all weights
(bfloat16, AdamW; its state is float32 here, bfloat16 there), and adapters of rank 16 on the
attention's four products. Each measurement is a process of its own, which takes the largest batch
that fits of those listed; steps are timed after two untimed ones, with the loss of each fetched,
and the median counts. All take at most --minutes together: the goals' rows come first, what there
is no time left for is named. MFU is FLOPs of the
  matrix
products that the step needs (none made twice), over its time and the bfloat16 peak of the device
(dense, as the vendor states it). Floors: those FLOPs at the peak, and weights and optimizer state
read and written once at the memory's rate. Published for T5X at large and xl: 37% on A100; under
30% on H100. Without a GPU: exit code 2. --tiny runs all of it with small shapes on whatever device
there is, to see that it works.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import gpu_sides
import tables
from absl import flags

from factshock.runtime import console
from factshock.runtime.errors import UserError

MINUTES = flags.DEFINE_float("minutes", 9.0, "for all measurements together")
TINY = flags.DEFINE_bool("tiny", False, "small shapes, on any device")
SIDE = flags.DEFINE_string(
  "side", None, "used by the benchmark itself: the side that a fresh process measures"
)
ROW = flags.DEFINE_string("row", None, "used by the benchmark itself: the row it measures")
STEPS = 8
PEAKS = (
  ("H200", 989e12, 4.8e12),
  ("H100 PCIe", 756e12, 2.0e12),
  ("H100", 989e12, 3.35e12),
  ("A100", 312e12, 2.0e12),
)  # bfloat16 FLOP/s and bytes/s by the vendor's data sheets
OURS, COMPILED, EAGER = "factshock", "PyTorch compiled", "PyTorch eager"
ORDER = [
  (OURS, "T5 large"),
  (OURS, "T5 xl"),
  (OURS, "Llama 7B, LoRA"),
  (OURS, "Llama 7B, all"),
  (COMPILED, "T5 large"),
  (EAGER, "Llama 7B, LoRA"),
  (EAGER, "Llama 7B, all"),
  (COMPILED, "T5 xl"),
  (OURS, "T5 base"),
  (COMPILED, "T5 base"),
  (COMPILED, "Llama 7B, LoRA"),
  (COMPILED, "Llama 7B, all"),
  (EAGER, "T5 large"),
  (EAGER, "T5 xl"),
  (EAGER, "T5 base"),
]
LONGEST, REPORTING = (
  100.0,
  20.0,
)  # seconds of one measurement, and kept for counting FLOPs at the end
GOALS = {"T5 large": 0.45, "T5 xl": 0.45, "Llama 7B, LoRA": 0.5, "Llama 7B, all": 0.5}


def gpu_of_torch():
  try:
    import torch
  except ImportError:
    return None
  return "cuda" if torch.cuda.is_available() else "cpu" if TINY.value else None


def out_of_memory(error):
  text = f"{type(error).__name__}: {error}".lower()
  return "out of memory" in text or "resource_exhausted" in text or "outofmemory" in text


def measure(side, name):
  """What a worker prints: dict of `ms`, `first` (s), `rows`, `gigabytes`; or `error`."""
  family, sizes, lengths, batches, trained = gpu_sides.row_of(name, TINY.value)
  for rows in batches:
    try:
      began = time.perf_counter()
      if side == OURS:
        run = gpu_sides.our_runner(family, sizes, lengths, trained, rows)
      else:
        run = gpu_sides.torch_runner(
          family, sizes, lengths, trained, rows, side == COMPILED, gpu_of_torch()
        )
      run()
      first, times = time.perf_counter() - began, []
      run()
      for _ in range(STEPS):
        began = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - began))
      return {
        "ms": statistics.median(times),
        "least": min(times),
        "first": first,
        "rows": rows,
        "gigabytes": peak_memory(side),
      }
    except Exception as error:
      if not out_of_memory(error):
        raise
      print(f"    {rows} rows do not fit", file=sys.stderr, flush=True)
    run = None  # the next, smaller one starts with an empty device
    if side != OURS:
      import gc

      import torch

      gc.collect()
      torch.cuda.empty_cache()
  return {"error": f"{batches[-1]} rows do not fit into memory"}


def peak_memory(side):
  if side == OURS:
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e9
  import torch

  return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0


def worker(side, limit, name=""):
  """What a process of its own prints, as JSON; or `error`, where it fails or takes longer than
  `limit` seconds.
  """
  command = [sys.executable, __file__, f"--side={side}", f"--row={name}", f"--tiny={TINY.value}"]
  # a session of its own, so that the compilers it starts end with it
  process = subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
    env={**os.environ, "XLA_PYTHON_CLIENT_MEM_FRACTION": ".95"},
  )
  try:
    lines = process.communicate(timeout=limit)[0].splitlines()
  except subprocess.TimeoutExpired:
    return {"error": f"longer than {limit:.0f} s"}
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()
  if process.returncode or not lines:
    return {"error": f"failed with exit code {process.returncode}"}
  return json.loads(lines[-1])


def devices():
  """What a worker says of the devices: that of JAX and that of PyTorch."""
  import jax

  return {
    "platform": jax.default_backend(),
    "kind": jax.devices()[0].device_kind,
    "torch": gpu_of_torch(),
  }


def cells(name, side, found, peak, rate):
  """A row of the table, and the MFU or None."""
  if "error" in found:
    return [name, side, "", found["error"], "", "", "", "", "", ""], None
  flops, moved = gpu_sides.needed(name, TINY.value)
  flops *= found["rows"]
  family, _, lengths, _, _ = gpu_sides.row_of(name, TINY.value)
  seconds, tokens = found["ms"] / 1e3, found["rows"] * sum(lengths)
  mfu = flops / seconds / peak if peak else None
  floors = f"{1e3 * flops / peak:.1f}, {1e3 * moved / rate:.1f}" if peak and side == OURS else ""
  return [
    name,
    side,
    f"{found['rows']} x {'+'.join(str(length) for length in lengths if length)}",
    f"{found['ms']:.1f}",
    f"{found['least']:.1f}",
    f"{tokens / seconds:,.0f}",
    f"{flops / 1e12:.3g}",
    f"**{mfu:.1%}**" if mfu else "unknown peak",
    floors,
    f"{found['gigabytes']:.1f}; {found['first']:.0f}",
  ], mfu


def report(found, device):
  """Prints the table, ratios and goals."""
  peak, rate = next(
    (numbers for name, *numbers in PEAKS if name.lower() in device["kind"].lower()), (None, None)
  )
  rows, mfus = [], {}
  for side, name in ((side, name) for name in gpu_sides.ROWS for side in (OURS, COMPILED, EAGER)):
    one = found[side, name]
    line, mfu = cells(name, side, one, peak, rate)
    per_row = {key: value["ms"] / value["rows"] for key, value in found.items() if "ms" in value}
    ours = per_row.get((OURS, name))
    rows.append(
      [*line, f"{per_row[side, name] / ours:.2f}" if ours and (side, name) in per_row else ""]
    )
    mfus[side, name] = mfu
  rates = (
    f"{peak / 1e12:.0f} TFLOP/s in bfloat16, {rate / 1e12:.2f} TB/s"
    if peak
    else "whose peak is not known"
  )
  print(f"{device['kind']}, {rates}\n")
  tables.table(
    [
      "model",
      "side",
      "batch",
      "ms a step, median",
      "least",
      "tokens/s",
      "TFLOP a step",
      "MFU",
      "floors, ms: FLOPs, bytes of weights and state",
      "peak GB; s to the first step",
      "time a row, over ours",
    ],
    rows,
  )
  for name, least in GOALS.items():
    mfu = mfus.get((OURS, name))
    words = f"{name}: at least {least:.0%} MFU"
    print(tables.goal(words, mfu >= least) if mfu else f"Goal: {words}: open.\n")


def main(_):
  if SIDE.value:
    print(json.dumps(devices() if SIDE.value == "devices" else measure(SIDE.value, ROW.value)))
    return
  began = time.monotonic()
  left = lambda: 60 * MINUTES.value - REPORTING - (time.monotonic() - began)
  device = worker("devices", 120)
  if "error" in device:
    raise UserError(f"the devices could not be asked: {device['error']}")
  if device["platform"] != "gpu" and not TINY.value:
    raise UserError(
      f"needs a GPU that JAX sees (pip install -e .[gpu]), got {device['kind']}; --tiny tries the "
      "code without"
    )
  found = {}
  for side, name in ORDER:
    if side != OURS and device["torch"] is None:
      found[side, name] = {"error": "no PyTorch that sees the GPU"}
    elif left() < 20:
      found[side, name] = {"error": "no time left"}
    else:
      found[side, name] = worker(side, min(LONGEST, left()), name)
    print(
      f"  {name}, {side}: {found[side, name]}, {left():.0f} s left", file=sys.stderr, flush=True
    )
  os.environ["JAX_PLATFORMS"] = "cpu"  # what is left is counting
  report(found, device)


if __name__ == "__main__":
  console.run(main)

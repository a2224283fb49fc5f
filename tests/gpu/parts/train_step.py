"""Train steps of T5 and of a Llama of 7 B parameters against PyTorch transformers and PEFT.

bfloat16 computation, weights and tokens random, rows full. T5: 512 + 114 tokens a row, all weights
trained; here float32 weights and Adafactor (as configs/t5_v1_1_*.py), there pure bfloat16 and fused
AdamW. Llama: 512 tokens a row; all weights (bfloat16; Adafactor here, as AdamW's float32 state of 7
B parameters exceeds 80 GB; AdamW with bfloat16 state there), and adapters of rank 16 on the
attention's four products. Attention by cuDNN where it can, unless the name says XLA. The largest
batch of those listed is taken that fits. A step is timed until its loss has been fetched. FLOPs are
those of the matrix products that the step needs, none counted twice, so that their share of the
peak is MFU; bytes are weights and optimizer state read and written once. "deterministic" runs with
--xla_gpu_deterministic_ops=true; "unrolled" without a loop over layers, which
compiles for minutes; "pmap" and "mesh" are the two ways over devices (README), here
over one, so that the difference is what they cost. Published for T5X at large and xl: 37% MFU on
A100.
"""

import dataclasses
import functools
import importlib
import sys
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from factshock.devices import partitioning
from factshock.models import families, lora
from factshock.models.decoder import LlamaConfig
from factshock.models.t5 import T5Config
from factshock.training import drivers, dry_run, flops, train_step
from factshock.training.optimizers import OptimizerConfig, make_optimizer
from factshock.types import Batch, Params
from gpu import machine, shapes
from gpu.plan import COMPILED
from gpu.results import OURS, Speed

TO_TRY = {
  "FLOPs": "the products themselves: a trace (train --profile_steps=5) shows which are far from "
  "the peak; larger batches, or products of 8 bits",
  "bytes": "a larger batch or accumulation: weights and optimizer state are read less often",
  "neither": "a trace (train --profile_steps=5): what lies between the products (norms, softmax, "
  "casts, the optimizer), XLA's latency-hiding scheduler and command buffers, remat none",
}
RANK = 16
TARGETS = ("query", "key", "value", "out")

# A function that takes one step and waits for its loss.
Run = Callable[[], float]


class Attempt(NamedTuple):
  """A batch to try: rows, and what our reverse pass keeps (config.model.remat)."""

  rows: int
  remat: str = "none"


class Row(NamedTuple):
  """Holds what a name of the plan stands for.

  Attributes:
    model: name in `shapes`.
    attempts: batches, from the one that is best if it fits.
    trained: "all" or "lora".
    attention: config.model.attention.
    parallel: None for one device, else one of drivers.PARALLEL.
    unroll: config.model.unroll.
  """

  model: str
  attempts: tuple[Attempt, ...]
  trained: str = "all"
  attention: str = "auto"
  parallel: str | None = None
  unroll: bool = False


# The first of each needs, by XLA's compiler for an H100, 47 to 63 of its 80 GB (gpu.programs).
_LARGE = (Attempt(64), Attempt(32), Attempt(16))
_LARGE_XLA = (Attempt(64, "dots_no_batch"), Attempt(32, "dots_no_batch"), Attempt(16))
_XL = (Attempt(24), Attempt(16), Attempt(8))
_ADAPTERS = (Attempt(16), Attempt(8), Attempt(8, "full"))
_ALL = (Attempt(8), Attempt(8, "dots_no_batch"), Attempt(8, "full"))

ROWS = {
  "T5 large": Row(shapes.T5_LARGE, _LARGE),
  "T5 large, deterministic": Row(shapes.T5_LARGE, _LARGE),
  "T5 large, attention by XLA": Row(shapes.T5_LARGE, _LARGE_XLA, attention="xla"),
  "T5 large, mesh": Row(shapes.T5_LARGE, _LARGE, parallel="mesh"),
  "T5 large, pmap": Row(shapes.T5_LARGE, _LARGE, parallel="pmap"),
  "T5 large, unrolled": Row(shapes.T5_LARGE, _LARGE, unroll=True),
  "T5 xl": Row(shapes.T5_XL, _XL),
  "Llama 7B, LoRA": Row(shapes.LLAMA_7B, _ADAPTERS, trained="lora"),
  "Llama 7B, all": Row(shapes.LLAMA_7B, _ALL),
}


def measure(name: str, side: str, tiny: bool) -> Speed:
  """Returns the speed of a step with the first batch that fits."""
  row = ROWS[name]
  attempts = (Attempt(4),) if tiny else row.attempts
  for attempt in attempts:
    try:
      return _measure_attempt(row, attempt, side, tiny)
    except Exception as failure:
      if not machine.is_out_of_memory(failure):
        raise
      # Only its text: the traceback would hold the arrays.
      message = str(failure)
    print(f"{attempt} does not fit: {message}", file=sys.stderr, flush=True)
    if side != OURS:
      machine.empty_torch_cache()
  raise RuntimeError(f"{attempts[-1]} does not fit into the device's memory")


def _measure_attempt(row: Row, attempt: Attempt, side: str, tiny: bool) -> Speed:
  """Returns the speed of a step with one batch."""
  config = dataclasses.replace(
    shapes.config_of(row.model, tiny),
    attention=row.attention,
    remat=attempt.remat,
    unroll=row.unroll,
  )
  batch = random_batch(config, attempt.rows, tiny)
  began = time.perf_counter()
  with machine.compilations() as compiling:
    if side == OURS:
      run = our_runner(config, row, batch)
    else:
      device = machine.torch_device(tiny)
      run = _peers().runner(config, row.trained, batch, side == COMPILED, device, tiny)
    run()
  first = time.perf_counter() - began
  run()
  with machine.compilations() as compiled:
    median, least = machine.timed(run)
  needed_flops, needed_bytes = needed(config, row.trained, batch)
  lengths = "+".join(str(batch[name].shape[1]) for name in batch if name != "weights")
  tokens = sum(batch[name].size for name in batch if name != "weights")
  gigabytes = machine.peak_gigabytes() if side == OURS else machine.torch_peak_gigabytes()
  return Speed(
    seconds=median,
    least=least,
    first=first,
    shape=f"{attempt.rows} x {lengths}",
    amount=tokens,
    unit="tokens",
    flops=needed_flops,
    bytes=needed_bytes,
    gigabytes=gigabytes,
    compiling=sum(compiling) if side == OURS else None,
    compiled=len(compiled) if side == OURS else None,
    note=f"remat {attempt.remat}" if side == OURS and attempt.remat != "none" else "",
  )


def _peers() -> types.ModuleType:
  """Returns the peers' side, which needs PyTorch."""
  return importlib.import_module("gpu.training_peers")


def random_batch(config: T5Config | LlamaConfig, rows: int, tiny: bool) -> Batch:
  """Returns a batch of random tokens without padding."""
  random = np.random.default_rng(0)

  def draw(length: int) -> np.ndarray:
    return random.integers(2, config.vocab_size, (rows, length)).astype(np.int32)

  if isinstance(config, LlamaConfig):
    tokens_BxS = draw(16 if tiny else 512)
    return {"tokens": tokens_BxS, "weights": np.ones(tokens_BxS.shape, np.float32)}
  inputs_BxS = draw(16 if tiny else 512)
  targets_BxT = draw(8 if tiny else 114)
  return {
    "inputs": inputs_BxS,
    "targets": targets_BxT,
    "weights": np.ones(targets_BxT.shape, np.float32),
  }


def our_parts(
  config: T5Config | LlamaConfig, trained: str
) -> tuple[train_step.LossFn, optax.GradientTransformation, Callable[[jax.Array], Any]]:
  """Returns what a step is made of.

  Args:
    config: of the model.
    trained: "all" or "lora".

  Returns:
    The loss, the optimizer, and a function of a key that gives (trained, frozen or None).
  """
  init = functools.partial(families.of(config).init, config)
  if trained == "all":
    loss = functools.partial(train_step.loss_fn, model_config=config)
    optimizer = make_optimizer(OptimizerConfig("adafactor", 1e-4))
    return loss, optimizer, lambda key: (init(key), None)

  def adapted(adapters: Params, frozen: Params, **arguments: Any) -> Any:
    return train_step.loss_fn(lora.attach(frozen, adapters, 2.0), config, **arguments)

  def both(key: jax.Array) -> tuple[Params, Params]:
    params = init(key)
    return lora.init(params, key, RANK, TARGETS), params

  return adapted, make_optimizer(OptimizerConfig("adamw", 1e-4)), both


def our_runner(config: T5Config | LlamaConfig, row: Row, batch: Batch) -> Run:
  """Returns a function that takes a step of ours and waits for its loss."""
  loss, optimizer, init = our_parts(config, row.trained)
  params, frozen = jax.jit(init)(jax.random.key(0))
  mesh = None
  if row.parallel is not None:
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
  driver = drivers.driver(mesh, row.parallel or "mesh")
  axis = drivers.AXIS if row.parallel == "pmap" else None
  state = driver.place(drivers.init_state(params, optimizer, mesh, row.parallel or "mesh"))
  del params
  more = () if frozen is None else (driver.place(frozen),)
  step = driver.compile(
    train_step.make_train_step(loss, optimizer, axis=axis), state, frozen is not None
  )
  placed = driver.shard(batch)
  key = driver.place(jax.random.key(1))
  held = [state]
  del state

  def run() -> float:
    held[0], metrics = step(held[0], placed, key, *more)
    return float(metrics["loss"])

  return run


def needed(config: T5Config | LlamaConfig, trained: str, batch: Batch) -> tuple[int, int]:
  """Returns what a step needs, from shapes alone.

  Returns:
    FLOPs of the matrix products, and bytes of weights and optimizer state read and written once;
    frozen weights are read only.
  """
  config = dataclasses.replace(config, attention="xla", remat="none")
  loss, optimizer, init = our_parts(config, trained)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params, frozen = jax.eval_shape(init, key)
  make_state = functools.partial(train_step.init_state, optimizer=optimizer)
  state = jax.eval_shape(make_state, params)
  step = train_step.make_train_step(loss, optimizer)
  made = flops.model_flops(step, state, batch, key, frozen)
  return made, 2 * dry_run.tree_bytes(state) + dry_run.tree_bytes(frozen)

"""A checkpoint of a 7B model's training: written from the device, read back to it, verified.

As the training loop saves: it stands still until a copy is on the host, and goes on while that is
written and digested (`training.saving.Saver`); `note` says for how long it stands still. Weights in
bfloat16 at random, Adafactor's factored state; written past the page cache, and so read from the
disk. The time is that of writing, until all is on the disk. What is read is compared with what was
saved, bit for bit, on the device. Where the disk is too slow or too small for all layers, fewer are
taken, which `shape` says.
"""

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from factshock.checkpoints import store
from factshock.devices import host
from factshock.models import families
from factshock.models.decoder import LlamaConfig
from factshock.runtime import files
from factshock.runtime.errors import UserError
from factshock.training import drivers, optimizers, saving, train_step
from factshock.training.train_step import TrainState
from gpu import machine, shapes
from gpu.results import Check, Speed

TO_TRY = {
  "neither": "if one file alone is written faster, copies and digests take the time: write several "
  "leaves at once; a stop longer than the bytes over the bus: copy into pinned host memory",
}
_FOLDER = os.path.join(".gpu_check", "saving")
# Seconds that writing may take, and the largest share of the free disk that is filled.
_LONGEST = 30.0
_SHARE = 0.7
_PROBE_BYTES = 1 << 28


class _NoBatches:
  """Stands for the loader, whose position a checkpoint holds too."""

  def get_state(self) -> Any:
    """Returns the position."""
    return {}

  def set_state(self, state: Any) -> None:
    """Takes a position."""
    del state


def measure(name: str, side: str, tiny: bool) -> Speed | list[Check]:
  """Returns the speed of saving a model of `shapes`; that of reading is its note."""
  del side
  host.keep_freed_memory()
  model_config = shapes.config_of(name, tiny)
  if not isinstance(model_config, LlamaConfig):
    raise ValueError(f"expected a decoder-only model, got {name}")
  shutil.rmtree(_FOLDER, ignore_errors=True)
  os.makedirs(_FOLDER)
  try:
    rate = _write_rate(os.path.join(_FOLDER, "probe"), _PROBE_BYTES >> 8 if tiny else _PROBE_BYTES)
    return _measure_layers(_fitting(model_config, rate), model_config.layers, rate)
  finally:
    shutil.rmtree(_FOLDER, ignore_errors=True)


def _measure_layers(model_config: LlamaConfig, layers_of_all: int, rate: float) -> Speed:
  """Returns the speed of saving a model that fits the disk."""
  state, first = _timed(lambda: _random_state(model_config))
  size = _tree_bytes(state["params"]) + _tree_bytes(state["opt_state"])
  with saving.Saver(saving.Checkpointing(_FOLDER), _NoBatches()) as saver:
    began = time.perf_counter()
    saver.save(1, state)
    stopped = time.perf_counter() - began
  saved = time.perf_counter() - began
  read, placed = _restore(state)
  layers = f"{model_config.layers} layers"
  if model_config.layers < layers_of_all:
    layers = f"{model_config.layers} of {layers_of_all} layers"
  gigabytes = size / 1e9
  note = (
    f"training stands still for {stopped:.2f} s; read and verified in {read:.1f} s "
    f"({gigabytes / read:.2f} GB/s), on the device {placed:.2f} s later, all bits the same; "
    f"one file alone is written at {rate / 1e9:.2f} GB/s"
  )
  return Speed(
    seconds=saved,
    least=saved,
    first=first + saved,
    shape=f"{gigabytes:.2f} GB, {layers}",
    amount=gigabytes,
    unit="GB",
    flops=0,
    bytes=size,
    gigabytes=machine.peak_gigabytes(),
    note=note,
  )


def _random_state(model_config: LlamaConfig) -> TrainState:
  """Returns a state before the first step, on the device."""
  config = optimizers.OptimizerConfig("adafactor", learning_rate=1e-3)
  optimizer = optimizers.make_optimizer(config)
  params = families.of(model_config).init(model_config, jax.random.key(0))
  return train_step.init_state(params, optimizer)


def _restore(state: TrainState) -> tuple[float, float]:
  """Reads the checkpoint and puts it on the device, as the loop does where it goes on.

  Args:
    state: the one that was saved.

  Returns:
    Seconds of reading, and of putting on the device.

  Raises:
    UserError: a leaf differs from the one that was saved.
  """
  like = {"params": state["params"], "opt_state": state["opt_state"]}
  saved, read = _timed(lambda: store.restore_newest(_FOLDER, like))
  if saved is None:
    raise UserError(f"{_FOLDER}: expected a checkpoint, got none")
  trees = {"params": saved["params"], "opt_state": saved["opt_state"]}
  place = drivers.driver(None, "mesh").place
  restored, placed = _timed(lambda: place(trees))
  same = jax.tree.map(_is_same, restored, like)
  if not all(jax.tree.leaves(same)):
    raise UserError(f"{_FOLDER}: expected the bits that were saved, got others")
  return read, placed


def _is_same(one: jax.Array, other: jax.Array) -> bool:
  """Returns whether two arrays have one dtype and the same bits."""
  return one.dtype == other.dtype and bool(jnp.array_equal(one, other))


def _fitting(model_config: LlamaConfig, rate: float) -> LlamaConfig:
  """Returns a config with as many layers as the disk holds, and takes in time.

  Args:
    model_config: the model's.
    rate: bytes that the disk takes a second.
  """
  init = families.of(model_config).init
  tree = jax.eval_shape(lambda: init(model_config, jax.random.key(0)))
  size = _tree_bytes(tree)
  room = min(_LONGEST * rate, _SHARE * shutil.disk_usage(_FOLDER).free)
  layers = int(model_config.layers * min(1.0, room / size))
  return dataclasses.replace(model_config, layers=max(1, layers))


def _write_rate(path: str, size: int) -> float:
  """Returns the bytes a second of one file written as checkpoints are."""
  block = os.urandom(1 << 20)
  began = time.perf_counter()
  with files.direct_write(path) as write:
    for _ in range(size // len(block)):
      write(block)
  seconds = time.perf_counter() - began
  os.unlink(path)
  return size / seconds


def _tree_bytes(tree: Any) -> int:
  """Returns the bytes of a tree of arrays, or of their shapes."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
  """Returns what a function gives, ready on the device, and its seconds."""
  began = time.perf_counter()
  result = jax.block_until_ready(run())
  return result, time.perf_counter() - began

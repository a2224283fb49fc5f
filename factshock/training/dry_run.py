"""Needs of a train step, found out from shapes alone: parameters, memory per device and FLOPs."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from factshock.checkpoints import tree_files
from factshock.devices import host, partitioning
from factshock.devices.partitioning import Shardings
from factshock.training import flops
from factshock.training.train_step import StepFn, TrainState
from factshock.types import Batch, Params


@dataclasses.dataclass(frozen=True)
class _Placed:
  """Arguments of a step as shapes, and how each is cut over a mesh.

  `weights` are all of the model's, `trained` those that are trained: the same, or adapters.
  """

  arguments: Sequence[Any]
  shardings: Sequence[Shardings]
  weights: Params
  weight_shardings: Shardings
  trained: Params
  trained_shardings: Shardings


def describe(
  step_fn: StepFn,
  state: TrainState,
  batch: Batch,
  mesh: jax.sharding.Mesh,
  frozen: Params | None = None,
  saves: bool = False,
) -> list[str]:
  """Returns lines that say what training will take; nothing of the model is allocated.

  Args:
    step_fn: a train step of `train_step.make_train_step`.
    state: shapes, as of jax.eval_shape(init_state, ...).
    batch: arrays or shapes [B, ...] by name, the whole batch.
    mesh: the mesh of the run.
    frozen: shapes of the weights that are not trained, or None.
    saves: whether checkpoints are written on the way, each from a copy.
  """
  batch = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in batch.items()}
  placed = _place(state, batch, mesh, frozen)
  devices = mesh.size
  rows = next(iter(batch.values())).shape[0]
  device_rows = rows // partitioning.batch_shard_count(mesh)
  axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
  trained_size = tree_size(state["params"])
  compiled = _compile(step_fn, placed, mesh)
  needed = _device_memory(compiled, state, batch, mesh, placed)
  return [
    f"parameters: {trained_size + tree_size(frozen):,}, of them trained {trained_size:,}",
    f"devices: {devices} {_platform(mesh)}, {axes}; {device_rows:,} of {rows:,} rows of a batch on "
    "each",
    "weights, with the mesh axis that each dimension is cut over:",
    *_cut_lines(placed.weights, placed.weight_shardings),
    *_memory_lines(needed, state, mesh, saves),
    _flops_line(step_fn, placed.arguments, devices),
  ]


def memory(
  step_fn: StepFn,
  state: TrainState,
  batch: Batch,
  mesh: jax.sharding.Mesh,
  frozen: Params | None = None,
  saves: bool = False,
) -> tuple[list[str], int]:
  """Returns lines on the memory that training will take, and the bytes of it that devices take.

  Args:
    step_fn: as for `describe`, and so are the others.
    state: shapes.
    batch: arrays or shapes [B, ...] by name.
    mesh: the mesh of the run.
    frozen: shapes of the weights that are not trained, or None.
    saves: whether checkpoints are written on the way.
  """
  batch = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in batch.items()}
  placed = _place(state, batch, mesh, frozen)
  compiled = _compile(step_fn, placed, mesh)
  needed = _device_memory(compiled, state, batch, mesh, placed)
  return _memory_lines(needed, state, mesh, saves), mesh.size * needed.total


def _memory_lines(
  needed: "_Memory",
  state: TrainState,
  mesh: jax.sharding.Mesh,
  saves: bool,
) -> list[str]:
  lines = [_memory_line(needed, mesh)]
  if _platform(mesh) == "cpu":
    lines.append(_process_line(needed, tree_bytes(state) if saves else 0, mesh))
  return lines


def _place(
  state: TrainState,
  batch: Batch,
  mesh: jax.sharding.Mesh,
  frozen: Params | None,
) -> _Placed:
  key = jax.eval_shape(lambda: jax.random.key(0))
  arguments: list[Any] = [state, batch, key]
  state_shardings = partitioning.state_shardings(state, mesh)
  shardings: list[Shardings] = [
    state_shardings,
    partitioning.batch_sharding(mesh),
    partitioning.replicated(mesh),
  ]
  weights = state["params"]
  weight_shardings = state_shardings["params"]
  if frozen is not None:
    weights = frozen
    weight_shardings = partitioning.param_shardings(frozen, mesh)
    arguments.append(frozen)
    shardings.append(weight_shardings)
  return _Placed(
    arguments, shardings, weights, weight_shardings, state["params"], state_shardings["params"]
  )


@dataclasses.dataclass(frozen=True)
class _Memory:
  """Bytes that a device needs: `trained` those of the weights that are trained, in `weights` too.

  `scratch` is what a step needs beside its arguments, gradients and activations.
  """

  weights: int
  trained: int
  optimizer: int
  batch: int
  scratch: int

  @property
  def total(self) -> int:
    """Returns all bytes."""
    return self.weights + self.optimizer + self.batch + self.scratch


def _device_memory(
  compiled: jax.stages.Compiled,
  state: TrainState,
  batch: Batch,
  mesh: jax.sharding.Mesh,
  placed: _Placed,
) -> _Memory:
  trained = _device_bytes(placed.trained, placed.trained_shardings)
  weights = trained
  if placed.weights is not placed.trained:
    weights += _device_bytes(placed.weights, placed.weight_shardings)
  optimizer = _device_bytes(state["opt_state"], placed.shardings[0]["opt_state"])
  batch_bytes = tree_bytes(batch) // partitioning.batch_shard_count(mesh)
  analysis: Any = compiled.memory_analysis()
  scratch = analysis.temp_size_in_bytes
  return _Memory(weights, trained, optimizer, batch_bytes, scratch)


def _memory_line(needed: _Memory, mesh: jax.sharding.Mesh) -> str:
  note = "; on a CPU with wide copies of bfloat16 weights" if _platform(mesh) == "cpu" else ""
  return (
    f"memory a device: {gigabytes(needed.total)} = parameters {gigabytes(needed.weights)} + "
    f"optimizer state {gigabytes(needed.optimizer)} + gradients ({gigabytes(needed.trained)}) and "
    f"activations {gigabytes(needed.scratch)} (the compiler's scratch{note})"
  )


def _process_line(needed: _Memory, copied: int, mesh: jax.sharding.Mesh) -> str:
  """Returns what the process will hold at most where the devices' memory is its own.

  Code and libraries are taken to be what this process holds, the compiled step among it.
  """
  host.release_freed_memory()
  devices = mesh.size * needed.total
  own = host.held_memory_bytes()
  line = (
    f"memory of the process: {gigabytes(devices + own + copied)} = devices {gigabytes(devices)} + "
    f"libraries and compiled code {gigabytes(own)}"
  )
  if copied:
    line += f" + a copy while a checkpoint is written {gigabytes(copied)}"
  return line


def _flops_line(
  step_fn: StepFn,
  arguments: Sequence[Any],
  devices: int,
) -> str:
  needed = flops.model_flops(step_fn, *arguments)
  made = flops.step_flops(step_fn, *arguments)
  line = (
    f"matrix products a step: {needed / 1e12:.3g} TFLOP, {needed / devices / 1e12:.3g} a device"
  )
  if made > needed:
    line += f"; {(made - needed) / 1e12:.3g} more are computed again, to save memory"
  return line


def _cut_lines(weights: Params, shardings: Shardings) -> list[str]:
  """Returns a line for each weight: its shape and the mesh axis each dimension is cut over."""
  sharding_of: Mapping[str, Any] = tree_files.flat_leaves(shardings)
  lines = []
  for name, leaf in tree_files.flat_leaves(weights).items():
    shape = ", ".join(f"{size:,}" for size in leaf.shape)
    spec = sharding_of[name].spec
    cut = tuple(spec) if any(spec) else "whole"
    lines.append(f"  {name} [{shape}] {cut}")
  return lines


def _platform(mesh: jax.sharding.Mesh) -> str:
  return mesh.devices.flat[0].platform


def _device_bytes(tree: Params, shardings: Shardings) -> int:
  """Returns the bytes of a device's shards of a tree."""
  return sum(
    math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
    for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings))
  )


def _compile(
  step_fn: StepFn,
  placed: _Placed,
  mesh: jax.sharding.Mesh,
) -> jax.stages.Compiled:
  """Returns the compiled step, which is itself a part of what a process holds."""
  jitted = jax.jit(
    step_fn,
    donate_argnums=0,
    in_shardings=tuple(placed.shardings),
    out_shardings=(placed.shardings[0], partitioning.replicated(mesh)),
  )
  return jitted.lower(*placed.arguments).compile()


def tree_size(tree: Any) -> int:
  """Returns how many numbers a tree of arrays or shapes has."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def tree_bytes(tree: Any) -> int:
  """Returns the bytes of a tree of arrays or shapes."""
  return sum(
    math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
  )


def gigabytes(count: int) -> str:
  """Returns bytes as text: in GB, or in MB where they are less than a tenth of one."""
  if count >= 1e8:
    return f"{count / 1e9:,.2f} GB"
  return f"{count / 1e6:,.1f} MB"

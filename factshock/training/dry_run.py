"""What a train step will take, found out from shapes alone: parameters, memory per device and FLOPs."""

import math

import jax
import numpy as np

from factshock.checkpoints import tree_files
from factshock.devices import partitioning
from factshock.training import flops


def describe(step_fn, state, batch, mesh, frozen=None):
  """Lines that say what training will take; nothing of the model is allocated.

  Args:
    step_fn: a train step of `train_step.make_train_step`.
    state, frozen: trees of jax.ShapeDtypeStruct, as of jax.eval_shape(init_state, ...).
    batch: dict of arrays or shapes [B, ...], the whole batch.
    mesh: the mesh of the run.
  """
  devices = mesh.size
  ways = partitioning.batch_shard_count(mesh)
  batch = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in batch.items()}
  key = jax.eval_shape(lambda: jax.random.key(0))
  arguments = (state, batch, key) if frozen is None else (state, batch, key, frozen)
  shardings = (
    partitioning.state_shardings(state, mesh),
    partitioning.batch_sharding(mesh),
    partitioning.replicated(mesh),
  )
  shardings += () if frozen is None else (partitioning.param_shardings(frozen, mesh),)
  needed = flops.model_flops(step_fn, *arguments)
  made = flops.step_flops(step_fn, *arguments)
  trained = _bytes_a_device(state["params"], shardings[0]["params"])
  kept = 0 if frozen is None else _bytes_a_device(frozen, shardings[3])
  optimizer = _bytes_a_device(state["opt_state"], shardings[0]["opt_state"])
  scratch = _scratch(step_fn, arguments, shardings, mesh)
  total = trained + kept + optimizer + tree_bytes(batch) // ways + scratch
  rows = next(iter(batch.values())).shape[0]
  return [
    f"parameters: {tree_size(state['params']) + tree_size(frozen):,}, of them trained {tree_size(state['params']):,}",
    f"devices: {devices} {mesh.devices.flat[0].platform}, {' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())}; "
    f"{rows // ways:,} of {rows:,} rows of a batch on each",
    *_cuts(
      state["params"] if frozen is None else frozen,
      shardings[0]["params"] if frozen is None else shardings[3],
    ),
    f"memory a device: {gigabytes(total)} = parameters {gigabytes(trained + kept)} + optimizer state "
    f"{gigabytes(optimizer)} + gradients ({gigabytes(trained)}) and activations "
    f"{gigabytes(scratch)} (the compiler's scratch{_note(mesh)})",
    f"matrix products a step: {needed / 1e12:.3g} TFLOP, {needed / devices / 1e12:.3g} a device{_again(needed, made)}",
  ]


def _cuts(params, shardings):
  """A line for each weight: its shape and the mesh axis each of its dimensions is cut over."""
  names = tree_files.flat_leaves(params)
  specs = tree_files.flat_leaves(shardings)
  return ["weights, with the mesh axis that each dimension is cut over:"] + [
    f"  {name} [{', '.join(f'{size:,}' for size in leaf.shape)}] {tuple(specs[name].spec) if any(specs[name].spec) else 'whole'}"
    for name, leaf in names.items()
  ]


def _bytes_a_device(tree, shardings):
  return sum(
    math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
    for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings))
  )


def _again(needed, made):
  return (
    f"; {(made - needed) / 1e12:.3g} more are computed again, to save memory"
    if made > needed
    else ""
  )


def _note(mesh):
  return (
    "; on a CPU with wide copies of bfloat16 weights"
    if mesh.devices.flat[0].platform == "cpu"
    else ""
  )


def _scratch(step_fn, arguments, shardings, mesh):
  """Bytes a device needs beside the arguments while the compiled step runs."""
  compiled = (
    jax.jit(
      step_fn,
      donate_argnums=0,
      in_shardings=shardings,
      out_shardings=(shardings[0], partitioning.replicated(mesh)),
    )
    .lower(*arguments)
    .compile()
  )
  return compiled.memory_analysis().temp_size_in_bytes


def tree_size(tree):
  """Numbers in a tree of arrays or shapes."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def tree_bytes(tree):
  """Bytes of a tree of arrays or shapes."""
  return sum(
    math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
  )


def gigabytes(count):
  """A number of bytes in words: GB, or MB where it is less than a tenth of one."""
  return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"

"""What a train step will take, found out from shapes alone: parameters, memory per device and FLOPs."""

import math

import jax
import numpy as np
from jax.interpreters import partial_eval


def describe(step_fn, state, batch, mesh, frozen=None):
  """Lines that say what training will take; nothing of the model is allocated.

  Args:
    step_fn: a train step of `train_step.make_train_step`.
    state, frozen: trees of jax.ShapeDtypeStruct, as of jax.eval_shape(init_state, ...).
    batch: dict of arrays or shapes [B, ...], the whole batch.
    mesh: the mesh of the run; parameters lie whole on each device, the batch is cut over "data".
  """
  devices = mesh.size
  batch = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in batch.items()}
  key = jax.eval_shape(lambda: jax.random.key(0))
  arguments = (state, batch, key) if frozen is None else (state, batch, key, frozen)
  flops = count_flops(_without_dead_code(jax.make_jaxpr(step_fn)(*arguments).jaxpr))
  trained, whole = tree_bytes(state["params"]), tree_bytes(state["params"]) + tree_bytes(frozen)
  scratch = _scratch(step_fn, arguments, mesh)
  total = whole + tree_bytes(state["opt_state"]) + tree_bytes(batch) // devices + scratch
  return [
      f"parameters: {tree_size(state['params']) + tree_size(frozen):,}, of them trained {tree_size(state['params']):,}",
      f"devices: {devices} {mesh.devices.flat[0].platform}; parameters and optimizer state whole on each, "
      f"{next(iter(batch.values())).shape[0] // devices:,} of {next(iter(batch.values())).shape[0]:,} rows of a batch on each",
      f"memory a device: {gigabytes(total)} = parameters {gigabytes(whole)} + optimizer state "
      f"{gigabytes(tree_bytes(state['opt_state']))} + gradients ({gigabytes(trained)}) and activations "
      f"{gigabytes(scratch)} (the compiler's scratch{_note(mesh)})",
      f"matrix products a step: {flops / 1e12:.3g} TFLOP, {flops / devices / 1e12:.3g} a device"]


def count_flops(jaxpr):
  """Floating-point operations of the matrix products of a jaxpr, loops of known length included."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      contracted = equation.params["dimension_numbers"][0][0]
      shape = equation.invars[0].aval.shape
      total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
    total += times * sum(count_flops(inner) for inner in _inner(equation.params))
  return total


def _without_dead_code(jaxpr):
  """The jaxpr without what no output needs, as the compiler drops it: gradients of frozen weights, say."""
  return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), True)[0]


def _inner(params):
  """The jaxprs that an equation calls."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      item = getattr(item, "jaxpr", item)
      if hasattr(item, "eqns"):
        yield item


def _note(mesh):
  return "; on a CPU with wide copies of bfloat16 weights" if mesh.devices.flat[0].platform == "cpu" else ""


def _scratch(step_fn, arguments, mesh):
  """Bytes a device needs beside the arguments while the compiled step runs."""
  from factshock.training import partitioning

  whole = partitioning.replicated(mesh)
  cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  shardings = tuple(cut if place == 1 else whole for place in range(len(arguments)))
  compiled = jax.jit(step_fn, donate_argnums=0, in_shardings=shardings, out_shardings=whole).lower(*arguments).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def tree_size(tree):
  """Numbers in a tree of arrays or shapes."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def tree_bytes(tree):
  """Bytes of a tree of arrays or shapes."""
  return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def gigabytes(count):
  """A number of bytes in words: GB, or MB where it is less than a tenth of one."""
  return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"

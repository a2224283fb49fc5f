"""How a train step is spread over devices: one device, a mesh (jit), or replicas (pmap). The step itself is the same pure function."""

import functools
from typing import Callable, NamedTuple

import jax
import numpy as np

from factshock.devices import partitioning
from factshock.runtime.errors import UserError
from factshock.training import train_step

PARALLEL = ("mesh", "pmap")
AXIS = "replicas"  # the axis over which a pmapped step sums (train_step.make_train_step's `axis`)


class Driver(NamedTuple):
  """What the loop does with a state, a batch and a step."""

  place: Callable  # tree (a train state, a key or frozen weights) -> the same on the devices
  shard: (
    Callable  # batch of numpy arrays, the rows of this process -> the whole batch on the devices
  )
  compile: Callable  # (step function, placed state, whether it takes frozen weights) -> compiled step, its state donated
  one: Callable  # tree from the devices -> the tree as it was before `place`


def driver(mesh, parallel="mesh"):
  """The Driver of a mesh (None: the first device). UserError for pmap over a mesh that cuts weights."""
  if mesh is None:
    return Driver(
      lambda tree: jax.device_put(tree, jax.local_devices()[0]),
      jax.device_put,
      _jit,
      lambda tree: tree,
    )
  if parallel == "mesh":
    return Driver(
      functools.partial(_place, mesh),
      lambda batch: partitioning.join_rows(batch, mesh),
      _jit,
      lambda tree: tree,
    )
  if mesh.size != mesh.shape["data"]:
    raise UserError(
      f"config.parallel='pmap' holds all weights on each device; expected config.mesh.fsdp=1 and config.mesh.model=1, got "
      f"{mesh.shape['fsdp']} and {mesh.shape['model']}"
    )
  devices = np.array(
    mesh.local_devices
  )  # of several processes each feeds its own; the sum is over all
  rows = jax.sharding.NamedSharding(
    jax.sharding.Mesh(devices, (AXIS,)), jax.sharding.PartitionSpec(AXIS)
  )
  return Driver(
    functools.partial(_replicas, rows, len(devices)),
    functools.partial(_cut, rows, len(devices)),
    _pmap,
    _first,
  )


def init_state(params, optimizer, mesh, parallel="mesh"):
  """As train_step.init_state, each weight cut over the mesh from the beginning and the optimizer's arrays as it: none is ever whole."""

  if mesh is None or parallel == "pmap":
    return train_step.init_state(params, optimizer)
  params = partitioning.place_params(params, mesh)
  shapes = jax.eval_shape(functools.partial(train_step.init_state, optimizer=optimizer), params)
  leaves, structure = jax.tree.flatten(partitioning.state_shardings(shapes, mesh)["opt_state"])
  return {
    "params": params,
    "opt_state": _optimizer_init(optimizer, tuple(leaves), structure)(params),
    "step": jax.numpy.zeros((), jax.numpy.int32),
  }


@functools.lru_cache(maxsize=32)
def _optimizer_init(optimizer, shardings, structure):
  return jax.jit(optimizer.init, out_shardings=structure.unflatten(shardings))


def _place(mesh, tree):
  if isinstance(tree, dict) and {"params", "opt_state"} <= tree.keys():
    return partitioning.place(tree, partitioning.state_shardings(tree, mesh))
  return partitioning.place_params(tree, mesh)


def _jit(step_fn, state, frozen):
  leaves, structure = jax.tree.flatten(jax.tree.map(lambda leaf: leaf.sharding, state))
  compiled = _jitted(step_fn, tuple(leaves), structure)

  def run(*arguments):
    with jax.transfer_guard(
      "disallow"
    ):  # what a step reads is on the devices already (pmap puts its arguments there itself)
      return compiled(*arguments)

  return run


@functools.lru_cache(maxsize=32)
def _jitted(step_fn, shardings, structure):
  """The jitted step; the cache keeps it, and so its compiled code, for later calls. The state stays where it is."""
  return jax.jit(step_fn, donate_argnums=0, out_shardings=(structure.unflatten(shardings), None))


@functools.lru_cache(maxsize=32)
def _pmapped(step_fn, frozen):
  return jax.pmap(
    step_fn, axis_name=AXIS, donate_argnums=0, in_axes=(0, 0, 0, *([0] if frozen else []))
  )


def _pmap(step_fn, state, frozen):
  compiled = _pmapped(step_fn, frozen)

  def run(*arguments):
    state, metrics = compiled(*arguments)
    return state, _first(metrics)

  return run


def _replicas(rows, count, tree):
  """A copy of each leaf on each device, as arrays [devices, ...]."""
  return jax.tree.map(
    lambda leaf: jax.device_put(jax.numpy.broadcast_to(leaf, (count, *leaf.shape)), rows), tree
  )


def _cut(rows, count, batch):
  """Each array [B, ...] of a batch as [devices, B / devices, ...]."""
  for name, array in batch.items():
    if array.shape[0] % count:
      raise UserError(
        f"expected a batch size that {count} devices share evenly, got {array.shape[0]} ({name}); choose a multiple of {count}"
      )
  return {
    name: jax.device_put(np.reshape(array, (count, -1, *array.shape[1:])), rows)
    for name, array in batch.items()
  }


def _first(tree):
  """The copy of each leaf that the first device has."""
  return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data[0], tree)

"""Where arrays live: a mesh of devices, weights cut over its axes "fsdp" and "model", batches over "data" and "fsdp"."""

import math
import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from factshock.models import sharding
from factshock.runtime import processes
from factshock.runtime.errors import UserError

AXES = ("data", "fsdp", "model")


def usable_cores():
  """The largest power of two of cores this process may use, at most 8 (so that usual batches divide)."""
  try:
    cores = len(os.sched_getaffinity(0))
  except AttributeError:  # not on macOS
    cores = os.cpu_count() or 1
  return 1 << (min(cores, 8).bit_length() - 1)


def use_cpu_devices(count=0):
  """Makes the host appear as `count` CPU devices; call it before JAX first touches a device.

  Data parallelism over host devices is faster than XLA's own threads where arrays are small.

  Args:
    count: the number of devices; 0 takes `usable_cores()`. A count already forced through
      XLA_FLAGS stays as it is.

  Raises:
    UserError: the count is negative.
    RuntimeError: JAX has already started its devices (a programmer's error).
  """
  if count < 0:
    raise UserError(f"expected a number of CPU devices >= 0 (0 = one a core), got {count}")
  if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", count or usable_cores())


def make_mesh(sizes=None, devices=None):
  """A mesh with the axes of AXES over `devices` (where none are given all, those of other processes too).

  Args:
    sizes: {axis: devices along it}; one may be -1, which is what is left. None: all along "data".
  Raises:
    UserError: sizes that do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  shape = mesh_shape(sizes or {}, len(devices))
  # Explicit axes are the default of jax >= 0.9; the compiler shall place intermediates (Auto).
  return jax.make_mesh(
    shape, AXES, devices=devices, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES)
  )


def mesh_shape(sizes, devices):
  """The devices along each axis of AXES, as `make_mesh` takes them. UserError as there."""
  shape = [sizes.get(axis, -1 if axis == "data" else 1) for axis in AXES]
  said = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, shape))
  if shape.count(-1) > 1:
    raise UserError(
      f"config.mesh: expected at most one size of -1, which is what is left, got {said}"
    )
  known = math.prod(size for size in shape if size != -1)
  if devices % known or (-1 not in shape and known != devices):
    raise UserError(f"config.mesh: expected sizes that share {devices} device(s), got {said}")
  return tuple(devices // known if size == -1 else size for size in shape)


def replicated(mesh):
  """The sharding of an array that lies whole on every device of the mesh."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def param_shardings(params, mesh):
  """A tree like `params` of how each weight is cut, by the rules of models/sharding.py."""

  return jax.tree.map_with_path(
    lambda path, leaf: _named(mesh, sharding.spec(_name(path), leaf.shape, mesh.shape)), params
  )


def state_shardings(state, mesh):
  """A tree like a train state: the optimizer's arrays are cut as the parameter they belong to, where they have its shape."""

  of = {
    _name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state["params"])[0]
  }

  def of_optimizer(path, leaf):
    name = _name(path)
    owner = next(
      (
        param
        for param in of
        if (name == param or name.endswith("/" + param)) and of[param].shape == leaf.shape
      ),
      None,
    )
    return _named(mesh, sharding.spec(owner, leaf.shape, mesh.shape) if owner else ())

  whole = jax.tree.map(
    lambda _: replicated(mesh),
    {name: part for name, part in state.items() if name not in ("params", "opt_state")},
  )
  return {
    **whole,
    "params": param_shardings(state["params"], mesh),
    "opt_state": jax.tree.map_with_path(of_optimizer, state["opt_state"]),
  }


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _named(mesh, axes):
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def place_params(params, mesh):
  """Puts parameters on the mesh, each weight cut as the rules say (no copy where it lies there already)."""
  return place(params, param_shardings(params, mesh))


def place(tree, shardings):
  """Puts arrays where a tree of shardings says; arrays of this process alone must be the same in all processes."""
  return (
    jax.device_put(tree, shardings)
    if processes.process_count() == 1
    else jax.tree.map(_put, tree, shardings)
  )


def _put(array, sharding):

  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    return jax.device_put(array, sharding)
  if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(
      _put(jax.random.key_data(array), sharding), impl=jax.random.key_impl(array)
    )
  # device_put would compare the arrays of all processes first, and takes no array that lies on one device
  host = np.asarray(array)
  return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def fetch(tree):
  """A tree of arrays as numpy arrays, whole; of several processes all must call it, as each has a part only."""

  def one(array):
    apart = isinstance(array, jax.Array) and not (
      array.is_fully_addressable or array.is_fully_replicated
    )
    return np.asarray(multihost_utils.process_allgather(array, tiled=True) if apart else array)

  return jax.tree.map(one, tree)


def batch_ways(mesh):
  """Into how many parts a batch is cut: the devices along "data" and "fsdp"."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def batch_sharding(mesh):
  """How an array [B, ...] of a batch is cut."""
  return _named(mesh, [("data", "fsdp")])


def shard_batch(batch, mesh):
  """Cuts every array of a batch along its first axis over the mesh's "data" and "fsdp" axes.

  Args:
    batch: dict of arrays [B, ...], the whole batch, the same in all processes.
    mesh: a mesh of `make_mesh`.

  Raises:
    UserError: the batch size is no multiple of the number of parts.
  """

  _check_divides(batch, batch_ways(mesh))
  if processes.process_count() == 1:
    return jax.device_put(batch, batch_sharding(mesh))
  return join_rows(
    {name: array[local_rows(mesh, len(array))] for name, array in batch.items()}, mesh
  )


def local_rows(mesh, rows):
  """Which of a batch's rows this process needs: int array, ascending; over an axis "model" several may need the same."""
  if processes.process_count() == 1:
    return np.arange(rows)
  owned = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
  return np.unique(np.concatenate([np.arange(rows)[index] for index in owned]))


def join_rows(batch, mesh):
  """The batch on the mesh, dict of arrays [B, ...], from each process's own `local_rows` of it.

  Raises:
    UserError: the batch size is no multiple of the number of parts.
  """

  if processes.process_count() == 1:
    return shard_batch(batch, mesh)
  ways = batch_ways(mesh)
  mine = len(local_rows(mesh, ways))
  _check_divides(batch, mine)
  return {
    name: jax.make_array_from_process_local_data(
      batch_sharding(mesh), array, (len(array) // mine * ways, *array.shape[1:])
    )
    for name, array in batch.items()
  }


def agreement(mesh):
  """A function of a flag: whether it was set in any process when all called it the time before; alone, the flag itself.

  A sum over the devices, of which the host reads the one before: no process waits for another more than its steps do.
  """

  if processes.process_count() == 1:
    return bool
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXES))
  total = jax.jit(jax.numpy.sum, out_shardings=replicated(mesh))
  before = []

  def agreed(flag):
    mine = np.full(len(mesh.local_devices), bool(flag), np.int32)
    before.append(total(jax.make_array_from_process_local_data(everywhere, mine, (mesh.size,))))
    return len(before) > 1 and int(before.pop(0)) > 0

  return agreed


def _check_divides(batch, ways):
  for name, array in batch.items():
    if array.shape[0] % ways:
      raise UserError(
        f"expected a batch size that {ways} devices share evenly, got {array.shape[0]} "
        f"({name}); choose a multiple of {ways}"
      )

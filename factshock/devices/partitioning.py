"""Placement of arrays on a mesh of devices.

Weights are cut over the mesh's axes "fsdp" and "model", batches over "data" and "fsdp".
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding
from jax.tree_util import KeyPath

from factshock.models import sharding
from factshock.runtime import processes
from factshock.runtime.errors import UserError
from factshock.types import Batch, Params

AXES = ("data", "fsdp", "model")

# A tree of jax.sharding.NamedSharding, of the structure of the arrays it is for.
Shardings: TypeAlias = Any


def usable_cores() -> int:
  """Returns the largest power of two of the cores this process may use.

  It is at most 8, so that usual batch sizes divide by it.
  """
  try:
    cores = len(os.sched_getaffinity(0))
  except AttributeError:  # not on macOS
    cores = os.cpu_count() or 1
  exponent = min(cores, 8).bit_length() - 1
  return 1 << exponent


def use_cpu_devices(count: int = 0) -> None:
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


def make_mesh(
  sizes: Mapping[str, int] | None = None,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """Returns a mesh of devices with the axes of AXES.

  Args:
    sizes: devices along each axis by its name; one may be -1, which is what is left. None puts all
      along "data".
    devices: the JAX devices of the mesh; None takes all, those of other processes too.

  Raises:
    UserError: sizes that do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  shape = mesh_shape(sizes or {}, len(devices))
  # Explicit axes are the default of jax >= 0.9; the compiler shall place intermediates (Auto).
  axis_types = (AxisType.Auto,) * len(AXES)
  return jax.make_mesh(shape, AXES, devices=devices, axis_types=axis_types)


def mesh_shape(sizes: Mapping[str, int], device_count: int) -> tuple[int, ...]:
  """Returns the devices along each axis of AXES for sizes as `make_mesh` takes them.

  Raises:
    UserError: as `make_mesh`.
  """
  given = {"data": -1, "fsdp": 1, "model": 1, **sizes}
  shape = [given[axis] for axis in AXES]
  shape_text = " x ".join(f"{axis}={given[axis]}" for axis in AXES)
  open_count = shape.count(-1)
  if open_count > 1:
    raise UserError(
      f"config.mesh: expected at most one size of -1, which is what is left, got {shape_text}"
    )
  known_sizes = [size for size in shape if size != -1]
  left, remainder = divmod(device_count, math.prod(known_sizes))
  is_short = open_count == 0 and left != 1
  if remainder or is_short:
    raise UserError(
      f"config.mesh: expected sizes that share {device_count} device(s), got {shape_text}"
    )
  return tuple(left if size == -1 else size for size in shape)


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that lies whole on every device of the mesh."""
  return NamedSharding(mesh, PartitionSpec())


def param_shardings(params: Params, mesh: Mesh) -> Shardings:
  """Returns how each weight is cut, by the rules of models/sharding.py: a tree like `params`."""

  def of_weight(path: KeyPath, leaf: jax.Array) -> NamedSharding:
    axes = sharding.spec(_name(path), leaf.shape, mesh.shape)
    return _named(mesh, axes)

  return jax.tree.map_with_path(of_weight, params)


def state_shardings(state: Mapping[str, Any], mesh: Mesh) -> dict[str, Shardings]:
  """Returns how the arrays of a train state are cut: a tree like `state`.

  The optimizer's arrays are cut as the parameter they belong to, where they have its shape.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(state["params"])
  params = {_name(path): leaf for path, leaf in leaves}

  def of_optimizer(path: KeyPath, leaf: jax.Array) -> NamedSharding:
    owner = _owner(_name(path), leaf.shape, params)
    if not owner:
      return replicated(mesh)
    axes = sharding.spec(owner, leaf.shape, mesh.shape)
    return _named(mesh, axes)

  others = dict(state)
  del others["params"]
  del others["opt_state"]
  return {
    **jax.tree.map(lambda _: replicated(mesh), others),
    "params": param_shardings(state["params"], mesh),
    "opt_state": jax.tree.map_with_path(of_optimizer, state["opt_state"]),
  }


def _owner(
  name: str,
  shape: tuple[int, ...],
  params: Mapping[str, jax.Array],
) -> str | None:
  """Returns the name of the parameter that an array of the optimizer belongs to, if any."""
  for param_name, param in params.items():
    is_named = name == param_name or name.endswith("/" + param_name)
    if is_named and param.shape == shape:
      return param_name
  return None


def _name(path: KeyPath) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _named(mesh: Mesh, axes: Sequence[Any]) -> NamedSharding:
  spec = PartitionSpec(*axes)
  return NamedSharding(mesh, spec)


def place_params(params: Params, mesh: Mesh) -> Params:
  """Puts parameters on the mesh, each weight cut as the rules say.

  What lies there already is not copied.
  """
  return place(params, param_shardings(params, mesh))


def place(tree: Params, shardings: Shardings) -> Params:
  """Puts arrays on the devices as a tree of shardings says.

  Arrays of this process alone must be the same in all processes.
  """
  if processes.process_count() == 1:
    return jax.device_put(tree, shardings)
  return jax.tree.map(_put, tree, shardings)


def _put(array: Any, sharding: Sharding) -> jax.Array:
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    return jax.device_put(array, sharding)
  if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
    key_data = _put(jax.random.key_data(array), sharding)
    key_impl = jax.random.key_impl(array)
    return jax.random.wrap_key_data(key_data, impl=key_impl)
  # device_put would compare the arrays of all processes first, and takes no array that lies on one
  # device.
  host_array = np.asarray(array)
  return jax.make_array_from_callback(host_array.shape, sharding, lambda index: host_array[index])


def fetch(tree: Any) -> Any:
  """Returns a tree of arrays as whole numpy arrays.

  Of several processes all must call it, as each has only some of their shards.
  """
  return jax.tree.map(_fetch_array, tree)


def _fetch_array(array: Any) -> np.ndarray:
  if isinstance(array, jax.Array):
    is_here = array.is_fully_addressable or array.is_fully_replicated
    if not is_here:
      array = multihost_utils.process_allgather(array, tiled=True)
  return np.asarray(array)


def batch_shard_count(mesh: Mesh) -> int:
  """Returns how many shards a batch is cut into: the devices along "data" and "fsdp"."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns how an array [B, ...] of a batch is cut."""
  return _named(mesh, [("data", "fsdp")])


def shard_batch(batch: Batch, mesh: Mesh) -> Batch:
  """Cuts every array of a batch along its first axis over the mesh's "data" and "fsdp" axes.

  Args:
    batch: arrays [B, ...] by name, the whole batch, the same in all processes.
    mesh: a mesh of `make_mesh`.

  Raises:
    UserError: the batch size is no multiple of the number of shards.
  """
  check_divides(batch, batch_shard_count(mesh))
  if processes.process_count() == 1:
    return jax.device_put(batch, batch_sharding(mesh))
  own_rows = {}
  for name, array in batch.items():
    rows = local_rows(mesh, len(array))
    own_rows[name] = array[rows]
  return join_rows(own_rows, mesh)


def local_rows(mesh: Mesh | None, row_count: int) -> np.ndarray:
  """Returns which of a batch's rows this process needs: ints, ascending.

  Over an axis "model" several processes may need the same rows. Without a mesh there is one
  process, which needs all.
  """
  rows = np.arange(row_count)
  if mesh is None or processes.process_count() == 1:
    return rows
  index_of_device = batch_sharding(mesh).addressable_devices_indices_map((row_count,))
  owned = [rows[index] for index in index_of_device.values()]
  return np.unique(np.concatenate(owned))


def join_rows(batch: Batch, mesh: Mesh) -> Batch:
  """Returns the whole batch on the mesh, arrays [B, ...] by name.

  Args:
    batch: this process's own `local_rows` of it.
    mesh: a mesh of `make_mesh`.

  Raises:
    UserError: the batch size is no multiple of the number of shards.
  """
  if processes.process_count() == 1:
    return shard_batch(batch, mesh)
  shards = batch_shard_count(mesh)
  own_shards = len(local_rows(mesh, shards))
  check_divides(batch, own_shards)
  joined = {}
  for name, array in batch.items():
    own_count, *others = array.shape
    shape = (own_count // own_shards * shards, *others)
    joined[name] = jax.make_array_from_process_local_data(batch_sharding(mesh), array, shape)
  return joined


def make_agreement(mesh: Mesh | None) -> Callable[[Any], bool]:
  """Returns a function of a flag on which all processes agree; alone, it returns the flag itself.

  All processes call it together. It returns whether the flag was set in any of them when they
  called it the time before: a sum over the devices, of which the host reads the one before, so that
  no process waits for another more than its steps do.
  """
  if mesh is None or processes.process_count() == 1:
    return bool
  over_all_axes = _named(mesh, [AXES])
  total = jax.jit(jax.numpy.sum, out_shardings=replicated(mesh))
  totals: list[jax.Array] = []

  def agreed(flag: Any) -> bool:
    own_flags = np.full(len(mesh.local_devices), bool(flag), np.int32)
    flags = jax.make_array_from_process_local_data(over_all_axes, own_flags, (mesh.size,))
    totals.append(total(flags))
    if len(totals) == 1:
      return False
    count_before = int(totals.pop(0))
    return count_before > 0

  return agreed


def check_divides(batch: Batch, shards: int) -> None:
  """Raises UserError where a batch has rows that so many devices cannot share evenly."""
  for name, array in batch.items():
    rows = array.shape[0]
    if rows % shards:
      raise UserError(
        f"expected a batch size that {shards} devices share evenly, got {rows} ({name}); choose a "
        f"multiple of {shards}"
      )

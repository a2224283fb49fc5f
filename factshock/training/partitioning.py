"""Where arrays live: a mesh of the local devices, parameters on all of them, batches cut over them."""

import os

from factshock.console import UserError


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
  import jax
  if count < 0:
    raise UserError(f"expected a number of CPU devices >= 0 (0 = one a core), got {count}")
  if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", count or usable_cores())


def make_mesh(devices=None):
  """Returns a mesh with one axis "data" over `devices` (all local devices where none are given)."""
  import jax
  devices = jax.local_devices() if devices is None else devices
  # Explicit axes are the default of jax >= 0.9; the compiler shall place intermediates (Auto).
  return jax.make_mesh((len(devices),), ("data",), devices=devices,
                       axis_types=(jax.sharding.AxisType.Auto,))


def replicated(mesh):
  """The sharding of an array that lies whole on every device of the mesh."""
  import jax
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def replicate(tree, mesh):
  """Puts every leaf of a tree whole on every device of the mesh (no copy where it lies there already)."""
  import jax
  return jax.device_put(tree, replicated(mesh))


def shard_batch(batch, mesh):
  """Cuts every array of a batch along its first axis over the mesh's "data" axis.

  Args:
    batch: dict of arrays [B, ...].
    mesh: a mesh with an axis "data".

  Raises:
    UserError: the batch size is no multiple of the number of devices.
  """
  import jax
  devices = mesh.shape["data"]
  for name, array in batch.items():
    if array.shape[0] % devices:
      raise UserError(f"expected a batch size that {devices} devices share evenly, got {array.shape[0]} "
                      f"({name}); choose a multiple of {devices}")
  return jax.device_put(batch, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))

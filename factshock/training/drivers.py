"""Drivers of a train step: one device, a mesh (jit), or replicas (pmap) of the same pure step."""

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np
import optax

from factshock.devices import host, partitioning
from factshock.runtime.errors import UserError
from factshock.training import train_step
from factshock.training.train_step import Scalars, StepFn, TrainState
from factshock.types import Batch, Params

PARALLEL = ("mesh", "pmap")
# Of a step on a GPU. XLA writes a product straight into the array that a scan over layers stacks
# its results in, and where something else reads the product too makes it twice: 18% more FLOPs in a
# step of T5 large, 52% in one of Llama 7B. (jax.pmap takes no such options: XLA_FLAGS does.)
GPU_OPTIONS = {"xla_gpu_enable_dynamic_slice_fusion": False}
AXIS = "replicas"  # the axis over which a pmapped step sums (train_step.make_train_step's `axis`)

# A pytree of arrays: a train state, a key or frozen weights.
Tree: TypeAlias = Any

# The structure of a pytree (jax.tree.structure).
TreeStructure: TypeAlias = Any

# A step ready to run, its state donated: (state, batch, key, and frozen weights if any).
CompiledStep: TypeAlias = Callable[..., tuple[TrainState, Scalars]]


class Driver(Protocol):
  """Placement of a train state, its batches and its step on devices."""

  def place(self, tree: Tree) -> Tree:
    """Returns a tree on the devices."""
    ...

  def shard(self, batch: Batch) -> Batch:
    """Returns the whole batch on the devices from the rows of this process."""
    ...

  def compile(
    self,
    step_fn: StepFn,
    state: TrainState,
    has_frozen: bool,
  ) -> CompiledStep:
    """Returns the compiled step.

    Args:
      step_fn: the pure step.
      state: a placed state.
      has_frozen: whether the step takes frozen weights too.
    """
    ...

  def unplace(self, tree: Tree) -> Tree:
    """Returns a tree from the devices as it was before `place`."""
    ...


class _Jitted:
  """What drivers of jitted steps share: the state stays as it was placed."""

  def compile(
    self,
    step_fn: StepFn,
    state: TrainState,
    has_frozen: bool,
  ) -> CompiledStep:
    return _compile(step_fn, state)

  def unplace(self, tree: Tree) -> Tree:
    return tree


class _OneDevice(_Jitted):
  """Driver of the first device of this process."""

  def place(self, tree: Tree) -> Tree:
    return jax.device_put(tree, jax.local_devices()[0])

  def shard(self, batch: Batch) -> Batch:
    return jax.device_put(batch)


class _OnMesh(_Jitted):
  """Driver of a mesh: weights and batches are cut over it, XLA adds what devices exchange."""

  def __init__(self, mesh: jax.sharding.Mesh) -> None:
    self._mesh = mesh

  def place(self, tree: Tree) -> Tree:
    if isinstance(tree, dict) and {"params", "opt_state"} <= tree.keys():
      return partitioning.place(tree, partitioning.state_shardings(tree, self._mesh))
    return partitioning.place_params(tree, self._mesh)

  def shard(self, batch: Batch) -> Batch:
    return partitioning.join_rows(batch, self._mesh)


class _Replicated:
  """Driver of replicas: each device holds all weights and a share of the batch (pmap)."""

  def __init__(self, mesh: jax.sharding.Mesh) -> None:
    # Of several processes each feeds its own devices; the sum is over all.
    self._devices = np.array(mesh.local_devices)
    replicas = jax.sharding.Mesh(self._devices, (AXIS,))
    self._sharding = jax.sharding.NamedSharding(replicas, jax.sharding.PartitionSpec(AXIS))

  def place(self, tree: Tree) -> Tree:
    """Returns a copy of each leaf on each device, as arrays [devices, ...]."""
    count = len(self._devices)

    def replicate(leaf: jax.Array) -> jax.Array:
      copies = jax.numpy.broadcast_to(leaf, (count, *leaf.shape))
      return jax.device_put(copies, self._sharding)

    return jax.tree.map(replicate, tree)

  def shard(self, batch: Batch) -> Batch:
    """Returns each array [B, ...] of a batch as [devices, B / devices, ...]."""
    count = len(self._devices)
    partitioning.check_divides(batch, count)
    return {
      name: jax.device_put(np.reshape(array, (count, -1, *array.shape[1:])), self._sharding)
      for name, array in batch.items()
    }

  def compile(
    self,
    step_fn: StepFn,
    state: TrainState,
    has_frozen: bool,
  ) -> CompiledStep:
    compiled = _pmapped(step_fn, has_frozen)

    def run(*arguments: Tree) -> tuple[TrainState, Scalars]:
      state, metrics = compiled(*arguments)
      return state, self.unplace(metrics)

    return run

  def unplace(self, tree: Tree) -> Tree:
    """Returns the copy of each leaf that the first device has."""
    return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data[0], tree)


def driver(mesh: jax.sharding.Mesh | None, parallel: str = "mesh") -> Driver:
  """Returns the driver of a mesh.

  Args:
    mesh: of partitioning.make_mesh; None takes the first device alone.
    parallel: one of PARALLEL.

  Raises:
    UserError: pmap over a mesh that cuts weights.
  """
  if mesh is None:
    return _OneDevice()
  if parallel == "mesh":
    return _OnMesh(mesh)
  if mesh.size != mesh.shape["data"]:
    raise UserError(
      "config.parallel='pmap' holds all weights on each device; expected config.mesh.fsdp=1 and "
      f"config.mesh.model=1, got {mesh.shape['fsdp']} and {mesh.shape['model']}"
    )
  return _Replicated(mesh)


def init_state(
  params: Params,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh | None,
  parallel: str = "mesh",
) -> TrainState:
  """Returns the state before the first step, on the mesh.

  Each weight is cut over the mesh from the beginning and the optimizer's arrays as it: none is ever
  whole.
  """
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
def _optimizer_init(
  optimizer: optax.GradientTransformation,
  shardings: tuple[jax.sharding.Sharding, ...],
  structure: TreeStructure,
) -> Callable[[Params], Tree]:
  return jax.jit(optimizer.init, out_shardings=structure.unflatten(shardings))


def forget_compiled() -> None:
  """Lets go of all compiled programs of this process; they are compiled, or read, again if used.

  Those of a study's earlier arms take half a gigabyte beside the training of a later one. What took
  more than a second to compile is read from host.use_compilation_cache's folder.
  """
  _compiled_shapes.cache_clear()
  jax.clear_caches()


def _compile(step_fn: StepFn, state: TrainState) -> CompiledStep:
  """Returns the jitted step; the state stays where it is."""
  leaves, structure = jax.tree.flatten(jax.tree.map(lambda leaf: leaf.sharding, state))
  compiled = _jitted(step_fn, tuple(leaves), structure)
  on_cpu = jax.default_backend() == "cpu"
  seen = _compiled_shapes(compiled)

  def run(*arguments: Tree) -> tuple[TrainState, Scalars]:
    shapes = tuple((name, array.shape) for name, array in arguments[1].items())
    if on_cpu and shapes not in seen:
      seen.add(shapes)
      # What the compiler leaves would stand beside the step's scratch. (The call below compiles
      # nothing again.)
      compiled.lower(*arguments).compile()
      host.release_freed_memory()
    # What a step reads is on the devices already (pmap puts its arguments there itself).
    with jax.transfer_guard("disallow"):
      return compiled(*arguments)

  return run


@functools.lru_cache(maxsize=32)
def _jitted(
  step_fn: StepFn,
  shardings: tuple[jax.sharding.Sharding, ...],
  structure: TreeStructure,
) -> Any:
  """Returns the jitted step; the cache keeps it, and so its compiled code, for later calls."""
  return jax.jit(
    step_fn,
    donate_argnums=0,
    out_shardings=(structure.unflatten(shardings), None),
    compiler_options=GPU_OPTIONS if jax.default_backend() == "gpu" else None,
  )


@functools.lru_cache(maxsize=32)
def _compiled_shapes(compiled: CompiledStep) -> set[Any]:
  """Returns the shapes of batches that a step was compiled for so far, to be added to."""
  return set()


@functools.lru_cache(maxsize=32)
def _pmapped(step_fn: StepFn, has_frozen: bool) -> CompiledStep:
  in_axes = (0, 0, 0, 0) if has_frozen else (0, 0, 0)
  return jax.pmap(step_fn, axis_name=AXIS, donate_argnums=0, in_axes=in_axes)

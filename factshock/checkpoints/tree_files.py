"""One tree of a checkpoint on disk: orbax's layout, its leaves written and read as plain files, each with a digest.

Of several processes each writes, and digests, the parts that it has.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from factshock.checkpoints import leaf_files
from factshock.runtime import files, processes
from factshock.runtime.errors import UserError

_READERS = 4


class Damaged(UserError):
  """A checkpoint that cannot be read, or whose data are not those that were saved."""


@dataclasses.dataclass(frozen=True)
class Lazy:
  """A leaf that is computed when it is written: `read()` gives an array of this shape and dtype.

  With `blocks`, that is called in its place: it gives the array as a series of arrays in C order, one in memory at a time.
  """

  shape: tuple
  dtype: object
  read: Callable | None
  blocks: Callable | None = None


def write_tree(folder, tree_name, tree):
  """Writes one tree through orbax; returns the manifest's leaves of it."""
  if not jax.tree.leaves(tree):
    return {}
  if any(_is_cut(leaf) for leaf in jax.tree.leaves(tree)):
    return _write_parts(folder, tree_name, tree)
  if not processes.is_first():
    return {}
  written = {}
  lazy = jax.tree.map(_lazy, tree)
  # One plain file a leaf: a leaf can be written and read alone, and raw bytes are as fast as the disk.
  registry = ocp.type_handlers.create_type_handler_registry((Lazy, _LazyHandler(written)))
  with _orbax(use_compression=False, type_handler_registry=registry) as checkpointer:
    checkpointer.save(folder, args=ocp.args.PyTreeSave(lazy))
  return {f"{tree_name}/{name}": written[name.replace("/", ".")] for name in flat_leaves(lazy)}


def read_tree(folder, tree_name, leaves):
  """Reads a whole tree as numpy arrays and verifies it; {} where the checkpoint has none."""
  names = [
    name.removeprefix(f"{tree_name}/") for name in leaves if name.startswith(f"{tree_name}/")
  ]
  if not names:
    return {}
  known = {name: leaves[f"{tree_name}/{name}"] for name in names}
  plain = [
    name
    for name in names
    if "parts" not in known[name]
    and leaf_files.is_plain(
      _leaf_path(folder, f"{tree_name}/{name}"), known[name]["shape"], known[name]["dtype"]
    )
  ]
  others = [name for name in names if name not in set(plain)]
  values = (
    flat_leaves(_orbax_restore(os.path.join(folder, tree_name), nested(dict.fromkeys(others, 0))))
    if others
    else {}
  )
  with concurrent.futures.ThreadPoolExecutor(
    _READERS
  ) as pool:  # reading and hashing release the interpreter lock
    values.update(
      zip(
        plain, pool.map(lambda name: _read_plain(folder, f"{tree_name}/{name}", known[name]), plain)
      )
    )
    list(
      pool.map(
        lambda name: _verify(folder, f"{tree_name}/{name}", values[name], known[name]), names
      )
    )
  return nested({name: values[name] for name in names})


def read_leaf(folder, name, leaves):
  """Reads one leaf, such as "params/encoder/norm", of a step folder and verifies its digest."""
  tree_name, *keys = name.split("/")
  tree = functools.reduce(lambda inner, key: {key: inner}, reversed(keys), 0)
  value = _orbax_restore(os.path.join(folder, tree_name), tree)
  for key in keys:
    value = value[key]
  _verify(folder, name, value, leaves[name])
  return value


def leaf_blocks(folder, name, leaf, counts):
  """Yields one leaf, such as "params/encoder/norm", as arrays [count] in C order; verifies its digest at the end.

  A leaf that several processes wrote is read whole first. Raises: UserError (Damaged) where it is damaged.
  """
  shape = tuple(leaf["shape"])
  dtype = np.dtype(leaf["dtype"])
  path = _leaf_path(folder, name)
  if "parts" in leaf or not leaf_files.is_plain(path, shape, dtype):
    yield from np.split(read_leaf(folder, name, {name: leaf}).reshape(-1), np.cumsum(counts)[:-1])
    return
  found = leaf_files.hasher(dtype, shape, leaf["digest"])
  for block in leaf_files.read(path, shape, dtype, counts):
    found.update(block.view(np.uint8))
    yield block
  _check_digest(folder, name, leaf_files.spelled(found, leaf["digest"]), leaf)


def flat_leaves(tree):
  """A pytree's leaves as a dict by key path, such as "0/mu/encoder/norm"; None gives {}."""
  paths = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def nested(leaves):
  """A dict by key path as a nested dict."""
  tree = {}
  for name, leaf in leaves.items():
    *parents, last = name.split("/")
    functools.reduce(lambda inner, key: inner.setdefault(key, {}), parents, tree)[last] = leaf
  return tree


def _leaf_path(folder, name):
  tree_name, _, rest = name.partition("/")
  return os.path.join(folder, tree_name, rest.replace("/", "."))


def _is_cut(leaf):
  """Whether each of several processes has a part of an array."""
  return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def _write_parts(folder, tree_name, tree):
  """As `write_tree` where each process has parts: each writes its own, and their digests beside them for the first to join."""
  with _orbax(alone=False, use_compression=False) as checkpointer:
    checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))
  parts = {name: _parts(leaf) for name, leaf in flat_leaves(tree).items()}
  with files.atomic_write(f"{folder}.parts-{processes.process_index()}.json", by_all=True) as file:
    json.dump(parts, file)
  processes.barrier("parts written")
  if not processes.is_first():
    return {}
  found = {}
  for process in range(processes.process_count()):
    path = f"{folder}.parts-{process}.json"
    with files.open_text(path) as file:
      for name, of_process in json.load(file).items():
        found.setdefault(name, []).extend(of_process)
    os.unlink(path)
  return {
    f"{tree_name}/{name}": {
      "digest": _joint_digest(found[name]),
      "shape": list(leaf.shape),
      "dtype": leaf.dtype.name,
      "parts": sorted(found[name]),
    }
    for name, leaf in flat_leaves(tree).items()
  }


def _parts(leaf):
  """[[start, end] of each dimension, digest] of each part of an array that this process writes: every part is one process's."""
  if not _is_cut(leaf):
    return (
      [[[[0, size] for size in leaf.shape], leaf_files.digest(leaf)]]
      if processes.is_first()
      else []
    )
  return [
    [
      [list(cut.indices(size)[:2]) for cut, size in zip(shard.index, leaf.shape)],
      leaf_files.digest(shard.data),
    ]
    for shard in leaf.addressable_shards
    if shard.replica_id == 0
  ]


def _joint_digest(parts):
  return hashlib.sha256("".join(of_part for _, of_part in sorted(parts)).encode()).hexdigest()


@contextlib.contextmanager
def _orbax(alone=True, **options):
  """Context manager: an orbax Checkpointer of one file a leaf, without warnings about unused features.

  Args:
    alone: whether this process reads or writes without waiting for the others, where there are others.
  """
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  me = processes.process_index()
  among = ocp.options.MultiprocessingOptions(
    *((me, {me}) if alone and processes.process_count() > 1 else ())
  )
  try:
    with ocp.Checkpointer(
      ocp.PyTreeCheckpointHandler(use_ocdbt=False, multiprocessing_options=among, **options),
      multiprocessing_options=among,
    ) as checkpointer:
      yield checkpointer
  finally:
    logging.set_verbosity(before)


class _LazyHandler(ocp.type_handlers.NumpyHandler):
  """Tells orbax to have leaves written, and digested, one after the other; orbax itself writes what it says of them."""

  def __init__(self, written):
    super().__init__(deepcopy_host_arrays=False)
    self._written = written

  async def serialize(self, values, infos, args=None):
    for value, info in zip(values, infos):
      await info.await_path_creation()
      blocks = value.blocks() if value.blocks else map(np.asarray, [value.read()])
      self._written[info.name] = {
        "digest": leaf_files.write(
          os.path.join(info.parent_dir, info.name), value.shape, value.dtype, blocks
        ),
        "shape": list(value.shape),
        "dtype": np.dtype(value.dtype).name,
      }
    return []


def _lazy(leaf):
  if isinstance(leaf, Lazy):
    return leaf
  return Lazy(
    tuple(np.shape(leaf)),
    np.dtype(getattr(leaf, "dtype", None) or np.asarray(leaf).dtype),
    lambda: np.asarray(leaf),
  )


def _read_plain(folder, name, leaf):
  try:
    (array,) = leaf_files.read(
      _leaf_path(folder, name), leaf["shape"], leaf["dtype"], [math.prod(leaf["shape"])]
    )
  except OSError as error:
    raise Damaged(
      f"{_leaf_path(folder, name)}: the checkpoint cannot be read: {error}; restore it from a copy or "
      "remove this step to use the one before"
    ) from error
  return array.reshape(leaf["shape"])


def _orbax_restore(path, tree):
  """Restores the leaves of `tree` (whose values do not matter) from one orbax folder."""
  arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
  try:
    with _orbax() as checkpointer:
      return checkpointer.restore(
        os.path.abspath(path),
        args=ocp.args.PyTreeRestore(item=tree, restore_args=arguments, partial_restore=True),
      )
  except (
    Exception
  ) as error:  # orbax and tensorstore raise errors of many types for a damaged folder
    reason = " ".join(str(error).split())[:300]
    raise Damaged(
      f"{path}: the checkpoint cannot be read: {reason}; restore it from a copy or "
      "remove this step to use the one before"
    ) from error


def _verify(folder, name, value, leaf):
  parts = leaf.get("parts")
  if parts is None:
    found = leaf_files.digest_of_blocks(value.dtype, value.shape, [value], leaf["digest"])
  else:
    found = _joint_digest(
      [[cut, leaf_files.digest(value[tuple(slice(*ends) for ends in cut)])] for cut, _ in parts]
    )
  _check_digest(folder, name, found, leaf)


def _check_digest(folder, name, found, leaf):
  if found != leaf["digest"]:
    raise Damaged(
      f"{folder}: the data of leaf {name} are damaged (their digest is not the one of the "
      "manifest); restore it from a copy or remove this step to use the one before"
    )

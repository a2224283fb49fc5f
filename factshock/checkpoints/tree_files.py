"""One tree of a checkpoint on disk: orbax's layout, its leaves as plain files, each with a digest.

Of several processes each writes, and digests, the parts that it has.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import orbax.checkpoint as ocp
from absl import logging

from factshock.checkpoints import leaf_files
from factshock.checkpoints.manifest import Bounds, LeafRecord
from factshock.runtime import files, json_files, processes, progress
from factshock.runtime.errors import UserError
from factshock.types import Array

_READERS = 4


class Damaged(UserError):
  """Says that a checkpoint cannot be read, or that its data are not those that were saved."""


@dataclasses.dataclass(frozen=True)
class Lazy:
  """Computes a leaf when it is written.

  Attributes:
    shape: its shape.
    dtype: its dtype.
    read: gives the array.
    blocks: is called in place of `read`: gives the array as a series of arrays in C order, one in
      memory at a time.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray] | None = None
  blocks: Callable[[], Iterable[np.ndarray]] | None = None

  def as_blocks(self) -> Iterable[np.ndarray]:
    """Returns the array as a series of arrays in C order."""
    if self.blocks is not None:
      return self.blocks()
    if self.read is None:
      raise ValueError("expected a leaf with `read` or `blocks`, got neither")
    return map(np.asarray, [self.read()])


def write_tree(
  folder: str,
  tree_name: str,
  tree: Any,
) -> dict[str, LeafRecord]:
  """Writes one tree through orbax.

  Args:
    folder: where to write it.
    tree_name: "params" or "opt_state", before the leaves' names.
    tree: a pytree of arrays or Lazy.

  Returns:
    The manifest's leaves of it; in other processes than the first {}.
  """
  leaves = jax.tree.leaves(tree)
  if not leaves:
    return {}
  if any(_is_cut(leaf) for leaf in leaves):
    return _write_parts(folder, tree_name, tree)
  if not processes.is_first():
    return {}
  written: dict[str, LeafRecord] = {}
  lazy_tree = jax.tree.map(_lazy, tree)
  # One plain file a leaf: a leaf can be written and read alone, and raw bytes are as fast as the
  # disk.
  registry = ocp.type_handlers.create_type_handler_registry((Lazy, _LazyHandler(written)))
  with _orbax(use_compression=False, type_handler_registry=registry) as checkpointer:
    checkpointer.save(folder, args=ocp.args.PyTreeSave(lazy_tree))
  names = flat_leaves(lazy_tree)
  return {f"{tree_name}/{name}": written[name.replace("/", ".")] for name in names}


def read_tree(
  folder: str,
  tree_name: str,
  leaves: Mapping[str, LeafRecord],
) -> dict[str, Any]:
  """Reads a whole tree as numpy arrays and verifies it; {} where the checkpoint has none.

  Args:
    folder: the step folder.
    tree_name: "params" or "opt_state".
    leaves: the manifest's.

  Raises:
    Damaged: a leaf cannot be read, or its data are not those that were saved.
  """
  prefix = f"{tree_name}/"
  names = [name for name in leaves if name.startswith(prefix)]
  plain = [name for name in names if _is_plain(folder, name, leaves[name])]
  others = [name.removeprefix(prefix) for name in names if name not in set(plain)]
  values: dict[str, np.ndarray] = {}
  if others:
    for name in others:
      _check_stored(folder, prefix + name, leaves[prefix + name])
    tree_path = os.path.join(folder, tree_name)
    restored = _orbax_restore(tree_path, nested(dict.fromkeys(others, 0)))
    values |= {prefix + name: value for name, value in flat_leaves(restored).items()}

  def read(name: str) -> np.ndarray:
    return _read_plain(folder, name, leaves[name])

  def verify(name: str) -> None:
    _verify(folder, name, values[name], leaves[name])

  # Reading and hashing release the interpreter lock.
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    arrays = progress.over("reading weights", pool.map(read, plain), len(plain))
    values |= dict(zip(plain, arrays))
    list(pool.map(verify, names))
  return nested({name.removeprefix(prefix): values[name] for name in names})


def read_leaf(
  folder: str,
  name: str,
  leaves: Mapping[str, LeafRecord],
) -> np.ndarray:
  """Reads one leaf, such as "params/encoder/norm", of a step folder and verifies its digest.

  Raises:
    Damaged: it cannot be read, or its data are not those that were saved.
  """
  tree_name, *keys = name.split("/")
  tree: Any = 0
  for key in reversed(keys):
    tree = {key: tree}
  _check_stored(folder, name, leaves[name])
  value = _orbax_restore(os.path.join(folder, tree_name), tree)
  for key in keys:
    value = value[key]
  _verify(folder, name, value, leaves[name])
  return value


def leaf_blocks(
  folder: str,
  name: str,
  leaf: LeafRecord,
  counts: Sequence[int],
) -> Iterator[np.ndarray]:
  """Yields one leaf as arrays [count] in C order; verifies its digest at the end.

  A leaf that several processes wrote is read whole first.

  Args:
    folder: the step folder.
    name: such as "params/encoder/norm".
    leaf: the manifest's record of it.
    counts: numbers of each block, together as many as the leaf has.

  Raises:
    Damaged: it cannot be read, or its data are not those that were saved.
  """
  if not _is_plain(folder, name, leaf):
    flat = read_leaf(folder, name, {name: leaf}).reshape(-1)
    ends = np.cumsum(counts)
    yield from np.split(flat, ends[:-1])
    return
  path = _leaf_path(folder, name)
  hasher = leaf_files.new_hasher(leaf["dtype"], leaf["shape"], leaf["digest"])
  try:
    for block in leaf_files.read(path, leaf["shape"], leaf["dtype"], counts):
      hasher.update(block.view(np.uint8))
      yield block
  except OSError as error:
    raise _damaged(path, error) from error
  digest = leaf_files.spell(hasher, leaf["digest"])
  _check_digest(folder, name, digest, leaf)


def flat_leaves(tree: Any) -> dict[str, Any]:
  """Returns a pytree's leaves by key path, such as "0/mu/encoder/norm"; None gives {}."""
  paths, _ = jax.tree_util.tree_flatten_with_path(tree)
  leaves = {}
  for path, leaf in paths:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    leaves[name] = leaf
  return leaves


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a dict by key path as a nested dict."""
  tree: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *parents, last = name.split("/")
    inner = tree
    for key in parents:
      inner = inner.setdefault(key, {})
    inner[last] = leaf
  return tree


def _leaf_path(folder: str, name: str) -> str:
  tree_name, _, rest = name.partition("/")
  return os.path.join(folder, tree_name, rest.replace("/", "."))


def _is_plain(
  folder: str,
  name: str,
  leaf: LeafRecord,
) -> bool:
  """Returns whether a leaf is one plain file, that one process wrote."""
  if "parts" in leaf:
    return False
  return leaf_files.is_plain(_leaf_path(folder, name), leaf["shape"], leaf["dtype"])


def _is_cut(leaf: Any) -> bool:
  """Returns whether each of several processes has a part of an array."""
  return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def _write_parts(
  folder: str,
  tree_name: str,
  tree: Any,
) -> dict[str, LeafRecord]:
  """Writes a tree as `write_tree` where each process has parts.

  Each writes its own, and their digests beside them for the first to join.
  """
  with _orbax(alone=False, use_compression=False) as checkpointer:
    checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))
  own_parts = {name: _own_parts(leaf) for name, leaf in flat_leaves(tree).items()}
  path = _parts_path(folder, processes.process_index())
  with files.atomic_write(path, by_all=True) as file:
    json.dump(own_parts, file)
  processes.barrier("parts written")
  if not processes.is_first():
    return {}
  parts = _gather_parts(folder)
  records: dict[str, LeafRecord] = {}
  for name, leaf in flat_leaves(tree).items():
    records[f"{tree_name}/{name}"] = {
      "digest": _joint_digest(parts[name]),
      "shape": list(leaf.shape),
      "dtype": leaf.dtype.name,
      "parts": sorted(parts[name]),
    }
  return records


def _parts_path(folder: str, process: int) -> str:
  return f"{folder}.parts-{process}.json"


def _gather_parts(folder: str) -> dict[str, list[tuple[Bounds, str]]]:
  """Returns the parts of all processes by leaf; removes the files that say them."""
  parts: dict[str, list[tuple[Bounds, str]]] = {}
  for process in range(processes.process_count()):
    path = _parts_path(folder, process)
    with files.open_text(path) as file:
      for name, parts_of_process in json.load(file).items():
        parts.setdefault(name, []).extend(parts_of_process)
    os.unlink(path)
  return parts


def _own_parts(leaf: Array) -> list[tuple[Bounds, str]]:
  """Returns bounds and digest of each part of an array that this process writes.

  Every part is one process's.
  """
  if isinstance(leaf, jax.Array) and _is_cut(leaf):
    parts = []
    for shard in leaf.addressable_shards:
      if shard.replica_id == 0:
        slices = zip(shard.index, leaf.shape)
        bounds = [list(cut.indices(size)[:2]) for cut, size in slices]
        parts.append((bounds, leaf_files.digest(shard.data)))
    return parts
  if not processes.is_first():
    return []
  whole = [[0, size] for size in leaf.shape]
  return [(whole, leaf_files.digest(leaf))]


def _joint_digest(parts: Iterable[tuple[Bounds, str]]) -> str:
  text = "".join(digest for _, digest in sorted(parts))
  return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _orbax(alone: bool = True, **options: Any) -> Iterator[ocp.Checkpointer]:
  """Yields an orbax Checkpointer of one file a leaf, without warnings about unused features.

  Args:
    alone: whether this process reads or writes without waiting for the others, where there are
      others.
    **options: of orbax's PyTreeCheckpointHandler.
  """
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  if alone and processes.process_count() > 1:
    process = processes.process_index()
    multiprocessing = ocp.options.MultiprocessingOptions(process, {process})
  else:
    multiprocessing = ocp.options.MultiprocessingOptions()
  try:
    handler = ocp.PyTreeCheckpointHandler(
      use_ocdbt=False, multiprocessing_options=multiprocessing, **options
    )
    with ocp.Checkpointer(handler, multiprocessing_options=multiprocessing) as checkpointer:
      yield checkpointer
  finally:
    logging.set_verbosity(verbosity)


class _LazyHandler(ocp.type_handlers.NumpyHandler):
  """Has orbax write and digest leaves one after the other; orbax writes its own metadata."""

  def __init__(self, written: dict[str, LeafRecord]) -> None:
    """Takes the dict that gets the record of each leaf that is written."""
    super().__init__()
    self._written = written

  async def serialize(
    self,
    values: Sequence[Any],
    infos: Sequence[Any],
    args: Sequence[Any] | None = None,
  ) -> list[Any]:
    """Writes Lazy leaves where orbax says."""
    for value, info in zip(values, infos):
      await info.await_path_creation()
      path = os.path.join(info.parent_dir, info.name)
      digest = leaf_files.write(path, value.shape, value.dtype, value.as_blocks())
      self._written[info.name] = {
        "digest": digest,
        "shape": list(value.shape),
        "dtype": np.dtype(value.dtype).name,
      }
    return []


def _lazy(leaf: Any) -> Lazy:
  if isinstance(leaf, Lazy):
    return leaf
  dtype: npt.DTypeLike = getattr(leaf, "dtype", None) or np.asarray(leaf).dtype
  shape = tuple(np.shape(leaf))
  return Lazy(shape, np.dtype(dtype), lambda: np.asarray(leaf))


def _read_plain(
  folder: str,
  name: str,
  leaf: LeafRecord,
) -> np.ndarray:
  path = _leaf_path(folder, name)
  size = math.prod(leaf["shape"])
  try:
    (array,) = leaf_files.read(path, leaf["shape"], leaf["dtype"], [size])
  except OSError as error:
    raise _damaged(path, error) from error
  return array.reshape(leaf["shape"])


def _check_stored(
  folder: str,
  name: str,
  leaf: LeafRecord,
) -> None:
  """Checks that a leaf that orbax is to read is stored in the shape that the manifest says.

  Otherwise what a damaged file says would be allocated.

  Raises:
    Damaged: it is not there, or has another shape, or a pipe stands among its files.
  """
  path = _leaf_path(folder, name)
  try:
    leaf_files.check_regular(os.path.dirname(path), path)
  except json_files.Broken as error:
    raise _damaged(path, error) from error
  shape = leaf_files.stored_shape(path)
  if shape != leaf["shape"]:
    got = "nothing that can be read" if shape is None else shape
    raise _damaged(path, f"expected an array {leaf['shape']}, got {got}")


def _orbax_restore(path: str, tree: Any) -> Any:
  """Restores the leaves of `tree` (whose values do not matter) from one orbax folder."""
  arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
  try:
    request = ocp.args.PyTreeRestore(
      item=tree,
      restore_args=arguments,
      partial_restore=True,
    )
    with _orbax() as checkpointer:
      return checkpointer.restore(os.path.abspath(path), args=request)
  # Orbax and tensorstore raise errors of many types for a damaged folder.
  except Exception as error:
    reason = " ".join(str(error).split())
    raise _damaged(path, reason[:300]) from error


def _damaged(path: str, reason: object) -> Damaged:
  return Damaged(
    f"{path}: the checkpoint cannot be read: {reason}; restore it from a copy or remove this step "
    "to use the one before"
  )


def _verify(
  folder: str,
  name: str,
  value: np.ndarray,
  leaf: LeafRecord,
) -> None:
  """Checks that a leaf's data are those that were saved.

  Raises:
    Damaged: they are not.
  """
  parts = leaf.get("parts")
  if list(value.shape) != leaf["shape"] or value.dtype.name != leaf["dtype"]:
    raise _damaged(_leaf_path(folder, name), f"an array {value.dtype.name}{list(value.shape)}")
  if parts is None:
    digest = leaf_files.digest_of_blocks(value.dtype, value.shape, [value], leaf["digest"])
  else:
    read_parts = []
    for bounds, _ in parts:
      part = value[tuple(slice(*ends) for ends in bounds)]
      read_parts.append((bounds, leaf_files.digest(part)))
    digest = _joint_digest(read_parts)
  _check_digest(folder, name, digest, leaf)


def _check_digest(
  folder: str,
  name: str,
  digest: str,
  leaf: LeafRecord,
) -> None:
  if digest != leaf["digest"]:
    raise Damaged(
      f"{folder}: the data of leaf {name} are damaged (their digest is not the one of the "
      "manifest); restore it from a copy or remove this step to use the one before"
    )

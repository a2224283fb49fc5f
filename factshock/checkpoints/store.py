"""Checkpoints: orbax arrays plus a manifest with a digest of every leaf, whole or absent on disk.

A step folder `<folder>/<step>/` holds `params/` and, in training, `opt_state/` (orbax arrays, one
folder a leaf) and `manifest.json`: step, loader state, config, of each leaf digest, shape and
dtype, and a digest of its own text. It is written under a temporary name and renamed, so a step
folder that exists is complete.

Of several processes each writes, and digests, the parts of the weights that it has; any number of
processes reads what they wrote. All of them must call what saves or restores.
"""

import contextlib
import errno
import functools
import glob
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import jax
import numpy as np

from factshock.checkpoints import manifest as manifests
from factshock.checkpoints import tree_files
from factshock.checkpoints.manifest import Checkpoint, CheckpointRecord, LeafRecord, Manifest
from factshock.runtime import folders, json_files, messages, processes
from factshock.runtime.errors import UserError
from factshock.types import FilePath, Params

_TREES = ("params", "opt_state")
_LOOKED_AT = 100  # folders looked at for steps, for an error's hint

T = TypeVar("T")


def save(
  folder: FilePath,
  step: int,
  *,
  params: Params,
  opt_state: Any = None,
  loader_state: Any = None,
  config: Mapping[str, Any] | None = None,
  keep: int | None = None,
) -> None:
  """Writes `<folder>/<step>/`; all of it appears at once, or nothing does.

  Args:
    folder: the run's folder; what a killed process left there of a save is removed.
    step: number of training steps done.
    params: nested dict of arrays.
    opt_state: any pytree of arrays (optax), stored as its leaves by key path.
    loader_state: what the loader's `get_state` gave (JSON).
    config: the run's configuration (JSON).
    keep: number of newest steps to keep; None keeps all.

  Raises:
    UserError: the step exists, or the disk is full or fails; the last good step is untouched.
  """
  opt_leaves = tree_files.nested(tree_files.flat_leaves(opt_state))
  record: CheckpointRecord = {
    "step": int(step),
    "loader_state": loader_state,
    "config": config,
  }
  try:
    write(_step_path(folder, int(step)), {"params": params, "opt_state": opt_leaves}, record)
  except UserError as error:
    good = latest_step(folder)
    last = "none: this was the first" if good is None else f"step {good} in {folder}"
    raise UserError(f"{error}; the last good checkpoint is {last}") from error
  if keep and processes.is_first():
    _remove_old(folder, keep)


def drop_optimizer(folder: FilePath) -> None:
  """Takes the optimizer's state out of all steps of a folder; weights, and their digests, stay."""
  if not processes.is_first():
    return
  for step in _steps(folder):
    path = _step_path(folder, step)
    manifest = read_manifest(path)
    leaves = manifests.params_only(manifest["leaves"])
    if leaves != manifest["leaves"]:
      # First the manifest: a leaf that it names is there, whenever this ends.
      manifests.write(os.path.join(path, manifests.NAME), {**manifest, "leaves": leaves})
    shutil.rmtree(os.path.join(path, "opt_state"), ignore_errors=True)


def _remove_old(folder: FilePath, keep: int) -> None:
  """Removes all but the `keep` newest steps."""
  for step in _steps(folder)[:-keep]:
    shutil.rmtree(_step_path(folder, step))


def _step_path(folder: FilePath, step: int | str) -> str:
  return os.path.join(str(folder), str(step))


def write(
  target: FilePath,
  trees: Mapping[str, Any],
  record: CheckpointRecord,
  extra_files: Mapping[str, Callable[[Manifest], Any]] | None = None,
  extra_folders: Mapping[str, Callable[[str], None]] | None = None,
) -> Manifest:
  """Writes a checkpoint folder leaf by leaf, so that `Lazy` leaves are in memory one at a time.

  Args:
    target: the folder to make; must not exist.
    trees: "params" and "opt_state" (nested dicts of arrays or `Lazy`); empty ones are left out.
    record: what the manifest holds besides the leaves.
    extra_files: by file name what gives the JSON object to write there, with its own digest.
    extra_folders: by a path within the folder what makes the folder, or file, there; called last.

  Returns:
    The manifest.

  Raises:
    UserError: the folder exists, or the disk is full or fails.
  """
  target = os.path.abspath(target)
  if processes.broadcast(lambda: os.path.exists(target), "checkpoint exists"):
    raise UserError(f"{target}: already exists; remove it or choose another folder")
  temporary = processes.broadcast(lambda: folders.temporary_path(target), "folder to save in")
  with _whole_or_absent(temporary, target):
    leaves: dict[str, LeafRecord] = {}
    for tree_name, tree in trees.items():
      tree_path = os.path.join(temporary, tree_name)
      leaves |= tree_files.write_tree(tree_path, tree_name, tree)
    manifest: Manifest = {"format": manifests.FORMAT, **record, "leaves": leaves}
    manifests.write(os.path.join(temporary, manifests.NAME), manifest)
    for file_name, value_of in (extra_files or {}).items():
      path = os.path.join(temporary, file_name)
      json_files.write_sealed(path, value_of(manifest))
    if processes.is_first():
      for name, fill in (extra_folders or {}).items():
        fill(os.path.join(temporary, name))
  return manifest


def latest_step(folder: FilePath) -> int | None:
  """Returns the newest complete step of a run's folder, or None; as this process sees it."""
  return max(_steps(folder), default=None)


def agreed_latest_step(folder: FilePath) -> int | None:
  """Returns `latest_step` as the first of several processes sees it; all must call it."""
  return processes.broadcast(lambda: latest_step(folder), "newest checkpoint")


def step_folder(folder: FilePath, step: int | None = None) -> str:
  """Returns the step folder meant by `folder`: itself, or its `step`, or its newest step.

  Raises:
    UserError: there is no such folder, or no checkpoint in it.
  """
  folder = str(folder)
  if not os.path.isdir(folder):
    raise UserError(f"{folder}: expected a checkpoint folder, got nothing there; check the path")
  if step is None and os.path.exists(os.path.join(folder, manifests.NAME)):
    return folder
  steps = _steps(folder)
  is_missing = step is not None and step not in steps
  if not steps or is_missing:
    wanted = "a checkpoint" if step is None else f"the checkpoint of step {step}"
    got = f"only steps {steps}" if steps else "none"
    raise UserError(
      f"{folder}: expected {wanted}, got {got}; give a step folder or a folder of steps that "
      f"factshock wrote{_such_as(folder)}"
    )
  if step is None:
    step = max(steps)
  return _step_path(folder, step)


def read_manifest(folder: FilePath, step: int | None = None) -> Manifest:
  """Returns the manifest of a checkpoint.

  Raises:
    UserError: no checkpoint there, or its manifest is broken (Damaged) or of another format.
  """
  path = os.path.join(step_folder(folder, step), manifests.NAME)
  try:
    return manifests.read(path)
  except json_files.Broken as error:
    raise tree_files.Damaged(
      f"{error}; restore it from a copy or remove this step to use the one before"
    ) from error


def restore(
  folder: FilePath,
  step: int | None = None,
  like: Mapping[str, Any] | None = None,
  or_weights: bool = False,
) -> Checkpoint:
  """Reads a checkpoint whole and verifies every digest.

  Args:
    folder: a step folder, or the folder of steps.
    step: which step; None takes the newest.
    like: `params` and, to go on training, `opt_state`: trees of arrays or ShapeDtypeStructs.
    or_weights: whether weights alone will do where `like` has an opt_state.

  Returns:
    The checkpoint, params as a nested dict of numpy arrays, opt_state in the structure of
    like["opt_state"]; without it a dict of leaves by key path. Of weights alone it is None.

  Raises:
    UserError: no checkpoint, a leaf that is damaged (Damaged), or leaves missing, extra or of
      another shape.
  """
  return _together(functools.partial(_restore, folder, step, like or {}, or_weights))


def _restore(
  folder: FilePath,
  step: int | None,
  like: Mapping[str, Any],
  or_weights: bool,
) -> Checkpoint:
  folder = step_folder(folder, step)
  manifest = read_manifest(folder)
  leaves = manifest["leaves"]
  if or_weights and leaves == manifests.params_only(leaves):
    like = {"params": like["params"]}
  check_like(folder, leaves, like)
  opt_tree = tree_files.read_tree(folder, "opt_state", leaves)
  opt_state: Any = tree_files.flat_leaves(opt_tree) or None
  if like.get("opt_state") is not None:
    opt_state = unflatten_like(like["opt_state"], opt_state or {})
  return {
    "params": tree_files.read_tree(folder, "params", leaves),
    "opt_state": opt_state,
    "step": manifest["step"],
    "loader_state": manifest["loader_state"],
    "config": manifest["config"],
  }


def _together(read: Callable[[], T]) -> T:
  """Returns what `read()` gives; a damage that one of several processes finds is Damaged in all."""
  result: T | None = None
  damage = None
  try:
    result = read()
  except tree_files.Damaged as error:
    damage = error
  gathered = processes.gather(str(damage) if damage else None, "checkpoint read")
  messages = [message for message in gathered if message]
  if messages:
    raise damage or tree_files.Damaged(messages[0])
  return cast(T, result)


def restore_newest(
  folder: FilePath,
  like: Mapping[str, Any] | None = None,
  finished: int | None = None,
) -> Checkpoint | None:
  """Restores the newest step that is whole, as `restore` does; None where there is none.

  Steps that are not whole are set aside, which is printed.

  Args:
    folder: the run's folder.
    like: as for `restore`.
    finished: the last step of the run, whose weights alone will do.

  Raises:
    UserError: the newest whole step is of another model, or of another version.
  """
  if processes.is_first():
    folders.remove_abandoned(folder)
  names = processes.broadcast(lambda: _without_manifest(folder), "unfinished checkpoints")
  for name in names:
    path = os.path.join(folder, name)
    set_aside(folder, name, f"{path}: the checkpoint is unfinished, it has no {manifests.NAME}")
  while (step := agreed_latest_step(folder)) is not None:
    try:
      return restore(folder, step, like, or_weights=step == finished)
    except tree_files.Damaged as error:
      set_aside(folder, step, error)
  return None


def _without_manifest(folder: FilePath) -> list[str]:
  """Returns the names of step folders that have no manifest."""
  names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  unfinished = []
  for name in names:
    path = os.path.join(folder, name, manifests.NAME)
    if name.isdecimal() and not os.path.exists(path):
      unfinished.append(name)
  return unfinished


def set_aside(
  folder: FilePath,
  step: int | str,
  reason: object,
) -> None:
  """Renames a damaged step to `damaged-<step>`, which counts as no step; nothing is deleted.

  Args:
    folder: the run's folder.
    step: the step, or its folder's name.
    reason: is printed.
  """

  def rename() -> str:
    aside = os.path.join(str(folder), f"damaged-{step}")
    while os.path.exists(aside):
      aside += "-again"
    os.rename(_step_path(folder, step), aside)
    return aside

  aside = processes.broadcast(rename, "damaged checkpoint")
  good = agreed_latest_step(folder)
  start = "the start" if good is None else f"step {good}"
  messages.say(f"  {reason}; set aside as {aside}, going on from {start}")


def restore_params(folder: FilePath, step: int | None = None) -> Params:
  """Reads only the parameters of a checkpoint: a nested dict of numpy arrays, digests verified."""
  path = step_folder(folder, step)

  def read() -> Params:
    leaves = read_manifest(path)["leaves"]
    return tree_files.read_tree(path, "params", leaves)

  return _together(read)


def restore_leaf(folder: FilePath, name: str) -> np.ndarray:
  """Reads one parameter of a step folder by its key path, its digest verified."""
  full_name = f"params/{name}"

  def read() -> np.ndarray:
    leaf = read_manifest(folder)["leaves"][full_name]
    tree = tree_files.read_tree(str(folder), "params", {full_name: leaf})
    return tree_files.flat_leaves(tree)[name]

  return _together(read)


def unflatten_like(like: Any, leaves: Mapping[str, Any]) -> Any:
  """Puts a dict of leaves by key path back into the structure of `like`."""
  ordered = [leaves[name] for name in tree_files.flat_leaves(like)]
  return jax.tree.unflatten(jax.tree.structure(like), ordered)


def check_like(
  folder: str,
  leaves: Mapping[str, LeafRecord],
  like: Mapping[str, Any],
) -> None:
  """Checks that a checkpoint's trees have the leaves of those of `like`.

  Raises:
    UserError: names every leaf that is missing, extra or of another shape.
  """
  specs = manifests.leaf_specs(leaves)
  expected = {}
  got = {}
  for tree_name in _TREES:
    if like.get(tree_name) is None:
      continue
    for name, leaf in tree_files.flat_leaves(like[tree_name]).items():
      expected[f"{tree_name}/{name}"] = (tuple(leaf.shape), leaf.dtype.name)
    for name, spec in specs.items():
      if name.startswith(f"{tree_name}/"):
        got[name] = spec
  lines = manifests.differences(expected, got)
  if lines:
    raise UserError(f"{folder}: checkpoint of another model: {'; '.join(lines)}")


def _such_as(folder: str) -> str:
  """Returns in words the first folders of steps below one, or what else a model could be."""
  below = [
    path
    for pattern in ("*", "*/*", "checkpoints/*/*")
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))[:_LOOKED_AT]
    if _steps(path)
  ]
  if not below:
    return " (a HuggingFace model's folder has a config.json)"
  return f", such as {', '.join(below[:3])}"


def _steps(folder: FilePath) -> list[int]:
  """Returns the complete steps of a run's folder, ascending."""
  try:
    names = os.listdir(folder)
  except (FileNotFoundError, NotADirectoryError):
    return []
  steps = []
  for name in names:
    path = os.path.join(str(folder), name, manifests.NAME)
    if name.isdecimal() and os.path.exists(path):
      steps.append(int(name))
  return sorted(steps)


@contextlib.contextmanager
def _whole_or_absent(temporary: str, target: str) -> Iterator[None]:
  """Makes the folder `temporary`, renamed to `target` at the end, removed on any error."""
  try:
    with folders.filling(temporary) if processes.is_first() else contextlib.nullcontext():
      yield
      processes.barrier("checkpoint written")
      if processes.is_first():
        os.rename(temporary, target)
        _sync(os.path.dirname(target))
    processes.barrier("checkpoint there")
  except Exception as error:
    shutil.rmtree(temporary, ignore_errors=True)
    reason = _disk_error(error)
    if reason is None or isinstance(error, UserError):
      raise
    raise UserError(
      f"{target}: the checkpoint could not be saved: {reason}; free space or choose another folder"
    ) from error
  except BaseException:  # an interrupt must leave nothing either
    shutil.rmtree(temporary, ignore_errors=True)
    raise


def _disk_error(error: BaseException | None) -> str | None:
  """Returns what the disk said, if that is why a save failed.

  Tensorstore wraps it in errors of many types.
  """
  codes = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES)
  while error is not None:
    if isinstance(error, OSError) and error.errno:
      return os.strerror(error.errno)
    text = str(error).lower()
    for code in codes:
      reason = os.strerror(code)
      if reason.lower() in text:
        return reason
    error = error.__cause__ or error.__context__
  return None


def _sync(path: str) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)

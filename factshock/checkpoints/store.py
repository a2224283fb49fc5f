"""Checkpoints: orbax arrays plus a manifest with a digest of every leaf, whole or absent on disk.

A step folder `<folder>/<step>/` holds `params/` and, in training, `opt_state/` (orbax arrays, one folder
a leaf) and `manifest.json`: step, loader state, config, and of each leaf digest, shape and dtype. It is
written under a temporary name and renamed, so a step folder that exists is complete.

Of several processes each writes, and digests, the parts of the weights that it has; any number of processes reads what
they wrote. All of them must call what saves or restores.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil

import jax

from factshock.checkpoints import tree_files
from factshock.runtime import files, processes
from factshock.runtime.errors import UserError

FORMAT = 1
MANIFEST = "manifest.json"
_TEMPORARY = ".saving-"
_TREES = ("params", "opt_state")


def save(folder, step, *, params, opt_state=None, loader_state=None, config=None, keep=None):
  """Writes `<folder>/<step>/`; all of it appears at once, or nothing does.

  Args:
    folder: the run's folder; what an interrupted save left there is removed.
    step: number of training steps done.
    params: nested dict of arrays.
    opt_state: any pytree of arrays (optax), stored as its leaves by key path.
    loader_state: what the loader's `get_state` gave (JSON).
    config: the run's configuration (JSON).
    keep: number of newest steps to keep; None keeps all.

  Raises:
    UserError: the step exists, or the disk is full or fails; the last good step is untouched.
  """
  if processes.is_first():
    _remove_unfinished(folder)
  trees = {"params": params, "opt_state": tree_files.nested(tree_files.flat_leaves(opt_state))}
  target = os.path.join(str(folder), str(int(step)))
  try:
    write(target, trees, {"step": int(step), "loader_state": loader_state, "config": config})
  except UserError as error:
    good = latest_step(folder)
    raise UserError(
      f"{error}; the last good checkpoint is "
      + (f"step {good} in {folder}" if good is not None else "none: this was the first")
    ) from error
  for old in _steps(folder)[:-keep] if keep and processes.is_first() else ():
    shutil.rmtree(os.path.join(str(folder), str(old)))


def write(target, trees, record, extra_files=None):
  """Writes a checkpoint folder leaf by leaf, so that `Lazy` leaves are in memory one at a time.

  Args:
    target: the folder to make; must not exist.
    trees: dict of "params" and "opt_state" (nested dicts of arrays or `Lazy`); empty ones are left out.
    record: dict of what the manifest holds besides the leaves: step, loader_state, config.
    extra_files: dict file name -> function(manifest) that gives the JSON value to write there.

  Returns:
    The manifest.
  """
  target = os.path.abspath(target)
  if processes.broadcast(lambda: os.path.exists(target), "checkpoint exists"):
    raise UserError(f"{target}: already exists; remove it or choose another folder")
  parent, name = os.path.split(target)
  temporary = processes.broadcast(
    lambda: os.path.join(parent, f"{_TEMPORARY}{name}-{os.getpid()}"), "folder to save in"
  )
  with _whole_or_absent(temporary, target):
    leaves = {}
    for tree_name, tree in trees.items():
      leaves.update(tree_files.write_tree(os.path.join(temporary, tree_name), tree_name, tree))
    manifest = {"format": FORMAT, **record, "leaves": leaves}
    values = {MANIFEST: manifest} | {
      file: value(manifest) for file, value in (extra_files or {}).items()
    }
    for file, value in values.items():
      _write_json(os.path.join(temporary, file), value)
  return manifest


def latest_step(folder):
  """The newest complete step of a run's folder, or None where there is none; as this process sees it."""
  return max(_steps(folder), default=None)


def agreed_latest_step(folder):
  """`latest_step` as the first of several processes sees it; all must call it."""
  return processes.broadcast(lambda: latest_step(folder), "newest checkpoint")


def step_folder(folder, step=None):
  """The step folder meant by `folder`: itself, or its `step`, or its newest step.

  Raises:
    UserError: there is no such folder, or no checkpoint in it.
  """
  folder = str(folder)
  if not os.path.isdir(folder):
    raise UserError(f"{folder}: expected a checkpoint folder, got nothing there; check the path")
  if step is None and os.path.exists(os.path.join(folder, MANIFEST)):
    return folder
  steps = _steps(folder)
  if not steps or (step is not None and step not in steps):
    wanted = "a checkpoint" if step is None else f"the checkpoint of step {step}"
    raise UserError(
      f"{folder}: expected {wanted}, got {f'only steps {steps}' if steps else 'none'}; "
      "give a step folder or a folder of steps that factshock wrote"
    )
  return os.path.join(folder, str(max(steps) if step is None else step))


def read_manifest(folder, step=None):
  """The manifest of a checkpoint: format, step, loader_state, config, leaves (by "params/a/b").

  Raises:
    UserError: no checkpoint there, or its manifest is broken (Damaged) or of another format.
  """
  path = os.path.join(step_folder(folder, step), MANIFEST)
  try:
    manifest = json.loads("\n".join(line for _, line in files.lines(path)))
    found = manifest["format"] if manifest["leaves"] else None
  except (ValueError, KeyError, TypeError) as error:
    if isinstance(error, UserError):
      raise
    raise tree_files.Damaged(
      f"{path}: expected the manifest of a checkpoint, got a broken file ({error})"
    ) from error
  if found != FORMAT:
    raise UserError(f"{path}: expected format {FORMAT}, got {found}; it is from another version")
  return manifest


def restore(folder, step=None, like=None):
  """Reads a checkpoint whole and verifies every digest.

  Args:
    folder: a step folder, or the folder of steps.
    step: which step; None takes the newest.
    like: dict with `params` and, to go on training, `opt_state`: trees of arrays or ShapeDtypeStructs.

  Returns:
    dict of params (nested dict of numpy arrays), opt_state (in the structure of like["opt_state"];
    without it a dict of leaves by key path, or None), step, loader_state and config.

  Raises:
    UserError: no checkpoint, a leaf that is damaged (Damaged), or leaves missing, extra or of another shape.
  """
  return _together(functools.partial(_restore, folder, step, like or {}))


def _restore(folder, step, like):
  folder = step_folder(folder, step)
  manifest = read_manifest(folder)
  _check_like(folder, manifest["leaves"], like)
  opt_state = (
    tree_files.flat_leaves(tree_files.read_tree(folder, "opt_state", manifest["leaves"])) or None
  )
  if like.get("opt_state") is not None:
    opt_state = unflatten_like(like["opt_state"], opt_state or {})
  return {
    "params": tree_files.read_tree(folder, "params", manifest["leaves"]),
    "opt_state": opt_state,
    **{name: manifest[name] for name in ("step", "loader_state", "config")},
  }


def _together(read):
  """What `read()` gives; a damage that one of several processes finds is Damaged in all."""
  try:
    found = read()
    damage = None
  except tree_files.Damaged as error:
    found = None
    damage = error
  said = [words for words in processes.gather(damage and str(damage), "checkpoint read") if words]
  if said:
    raise damage or tree_files.Damaged(said[0])
  return found


def restore_newest(folder, like=None):
  """As `restore`, the newest step that is whole; None where there is none. Steps that are not are set aside, and said.

  Raises:
    UserError: the newest whole step is of another model, or of another version.
  """
  for name in processes.broadcast(lambda: _without_manifest(folder), "unfinished checkpoints"):
    set_aside(
      folder,
      name,
      f"{os.path.join(folder, name)}: the checkpoint is unfinished, it has no {MANIFEST}",
    )
  while (step := agreed_latest_step(folder)) is not None:
    try:
      return restore(folder, step, like)
    except tree_files.Damaged as error:
      set_aside(folder, step, error)
  return None


def _without_manifest(folder):
  names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  return [
    name
    for name in names
    if name.isdecimal() and not os.path.exists(os.path.join(folder, name, MANIFEST))
  ]


def set_aside(folder, step, why):
  """Renames a damaged step to `damaged-<step>`, which counts as no step, and says so; nothing is deleted."""

  def rename():
    aside = os.path.join(str(folder), f"damaged-{step}")
    while os.path.exists(aside):
      aside += "-again"
    os.rename(os.path.join(str(folder), str(step)), aside)
    return aside

  aside = processes.broadcast(rename, "damaged checkpoint")
  good = agreed_latest_step(folder)
  print(
    f"  {why}; set aside as {aside}, going on from "
    + (f"step {good}" if good is not None else "the start"),
    flush=True,
  )


def restore_params(folder, step=None):
  """Reads only the parameters of a checkpoint: a nested dict of numpy arrays, digests verified."""
  folder = step_folder(folder, step)
  return _together(lambda: tree_files.read_tree(folder, "params", read_manifest(folder)["leaves"]))


def unflatten_like(like, leaves):
  """Puts a dict of leaves by key path back into the structure of `like`."""
  return jax.tree.unflatten(
    jax.tree.structure(like), [leaves[name] for name in tree_files.flat_leaves(like)]
  )


def differences(expected, got):
  """Lines that name every missing, extra and mis-shaped leaf of `got` against `expected`.

  Both map a leaf's name to (shape, dtype name).
  """
  lines = [
    f"missing {name} {_spell(expected[name])}" for name in sorted(expected.keys() - got.keys())
  ]
  lines += [f"extra {name} {_spell(got[name])}" for name in sorted(got.keys() - expected.keys())]
  lines += [
    f"mis-shaped {name} expected {_spell(expected[name])} got {_spell(got[name])}"
    for name in sorted(expected.keys() & got.keys())
    if expected[name] != got[name]
  ]
  return lines


def leaf_specs(leaves):
  """(shape, dtype name) by leaf name of a manifest's leaves."""
  return {name: (tuple(leaf["shape"]), leaf["dtype"]) for name, leaf in leaves.items()}


def tree_digest(leaves):
  """One digest for all leaves of a manifest, whatever their order."""
  text = "".join(f"{name} {leaves[name]['digest']}\n" for name in sorted(leaves))
  return hashlib.sha256(text.encode()).hexdigest()


def _spell(spec):
  shape, dtype = spec
  return f"{dtype}[{','.join(map(str, shape))}]"


def _check_like(folder, leaves, like):
  expected = {}
  got = {}
  for tree_name in _TREES:
    if like.get(tree_name) is not None:
      expected.update(
        {
          f"{tree_name}/{name}": (tuple(leaf.shape), leaf.dtype.name)
          for name, leaf in tree_files.flat_leaves(like[tree_name]).items()
        }
      )
      got.update(
        {
          name: spec
          for name, spec in leaf_specs(leaves).items()
          if name.startswith(f"{tree_name}/")
        }
      )
  lines = differences(expected, got)
  if lines:
    raise UserError(f"{folder}: checkpoint of another model: {'; '.join(lines)}")


def _steps(folder):
  """The complete steps of a run's folder, ascending."""
  try:
    names = os.listdir(folder)
  except (FileNotFoundError, NotADirectoryError):
    return []
  return sorted(
    int(name)
    for name in names
    if name.isdecimal() and os.path.exists(os.path.join(str(folder), name, MANIFEST))
  )


def _remove_unfinished(folder):
  with contextlib.suppress(FileNotFoundError):
    for name in os.listdir(folder):
      if name.startswith(_TEMPORARY):
        shutil.rmtree(os.path.join(str(folder), name), ignore_errors=True)


@contextlib.contextmanager
def _whole_or_absent(temporary, target):
  """Makes the folder `temporary`, renamed to `target` at the end, removed on any error."""
  try:
    if processes.is_first():
      os.makedirs(temporary)
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


def _disk_error(error):
  """What the disk said, if that is why a save failed; tensorstore wraps it in errors of many types."""
  while error is not None:
    if isinstance(error, OSError) and error.errno:
      return os.strerror(error.errno)
    for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES):
      if os.strerror(code).lower() in str(error).lower():
        return os.strerror(code)
    error = error.__cause__ or error.__context__
  return None


def _sync(path):
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _write_json(path, value):
  with files.atomic_write(path) as file:
    json.dump(value, file, indent=1)

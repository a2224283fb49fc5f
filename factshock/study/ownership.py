"""Whose a workdir is: an experiment's, of which a rerun may change some things only."""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from factshock.facts import documents, sources
from factshock.runtime import files, folders, locks, processes
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir
from factshock.study import config as configs
from factshock.study.config import Config

# The keys of a config that a rerun may change.
MAY_CHANGE = (
  "corpus_cache",
  "seeds",
  "diagnosis",
  "roles",
  "name",
  "loggers",
  "cpu_devices",
  "mesh",
  "parallel",
)
# Those of an arm; what `attention` adds is a file that then is missing.
ARM_MAY_CHANGE = ("title", "group", "attention")
# Those of config.model: as a mesh does, these alter the rounding alone.
HOW_COMPUTED = ("remat", "attention")

_INPUTS = ("facts", "relations", "corpus", "entity_counts")
_MOST_DIGESTED = 1 << 30  # bytes of a file; of larger ones the size counts
_BLOCK = 1 << 20
_PRESENT = "present."  # before the names of the locks that say who is at work in a workdir
_TRAIN = "train"  # what `train` is told beside its config; older workdirs lack it


@contextlib.contextmanager
def at_work(
  config: Config,
  workdir: Workdir,
  more: Mapping[str, Any] | None = None,
) -> Iterator[None]:
  """Stores the config in a new workdir, or checks that an old one is of the same experiment.

  Inside, other processes see that this one is at work there. Seeds, arms and what only concerns
  the report may be added on a rerun.

  Args:
    config: of the experiment.
    workdir: where it stands.
    more: what else makes the run what it is, by name.

  Raises:
    UserError: the workdir is of another experiment (naming what differs), holds other files, or
      others are at work there with another config.
  """
  record = configs.to_dict(config) | input_digests(config) | dict(more or {})
  with contextlib.ExitStack() as held:
    with processes.first_process_first("claiming the workdir"):
      if processes.is_first():
        _check_folder(workdir)
        # What is told apart here, no other process changes meanwhile.
        with locks.wait_for_lock(os.path.join(workdir.locks, "starting")):
          _claim(record, workdir)
          if not _others_present(workdir):
            folders.remove_all_abandoned(workdir)
          presence = os.path.join(workdir.locks, f"{_PRESENT}{uuid.uuid4().hex}")
          held.enter_context(locks.try_lock(presence))
      else:
        _check_seen(record, workdir)
    yield


def _check_folder(workdir: Workdir) -> None:
  """Checks that a folder is a workdir, or may become one; writes nothing.

  Raises:
    UserError: it holds other files.
  """
  if os.path.exists(workdir.config) or not os.path.isdir(workdir):
    return
  if set(os.listdir(workdir)) - {os.path.basename(workdir.locks)}:
    raise UserError(
      f"{workdir}: not empty, and no workdir of an experiment; choose another --workdir"
    )


def _check_seen(record: Mapping[str, Any], workdir: Workdir) -> None:
  """Checks in a process that is not the first that it sees what that one has written."""
  if not os.path.exists(workdir.config) or differences(_read_json(workdir.config), record):
    raise UserError(
      f"{workdir}: process {processes.process_index()} does not see what process 0 wrote there; "
      "choose a --workdir on a file system that all machines share"
    )


def _claim(record: Mapping[str, Any], workdir: Workdir) -> None:
  if os.path.exists(workdir.config):
    former = _read_json(workdir.config)
    if _is_same(former, record, workdir):
      # Arms that this run leaves out have results there that a later one takes as they are.
      record = {**record, "arms": {**former.get("arms", {}), **record.get("arms", {})}}
  with files.atomic_write(workdir.config) as file:
    json.dump(record, file, indent=1)


def _is_same(former: Mapping[str, Any], record: Mapping[str, Any], workdir: Workdir) -> bool:
  """Returns whether a workdir's config is that of a record; if not, what is prepared is removed.

  Raises:
    UserError: they differ, and the workdir has results, or others are at work there.
  """
  differing = differences(former, record)
  if not differing:
    return True
  advice = "choose another --workdir"
  present = _others_present(workdir)
  if present:
    state = f"is where {present} works on another experiment"
  elif any(map(os.path.exists, (workdir.all_checkpoints, workdir.all_predictions))):
    state = "is the workdir of another experiment"
    advice += " or remove it"
  else:
    # An attempt that ended before any training, as with a mistake in its flags: start over.
    for folder in (workdir.all_facts, workdir.all_tokenizers):
      shutil.rmtree(folder, ignore_errors=True)
    return False
  lines = "\n  ".join(differing)
  raise UserError(f"{workdir}: {state}; {advice}. What differs (there, here):\n  {lines}")


def _others_present(workdir: Workdir) -> str | None:
  """Returns in words a process that is at work in a workdir; clears what dead ones have left."""
  for path in sorted(glob.glob(os.path.join(glob.escape(workdir.locks), f"{_PRESENT}*"))):
    if locks.is_locked(path):
      return locks.holder_of(path)
    with contextlib.suppress(FileNotFoundError):
      os.unlink(path)
  return None


def input_digests(config: Config) -> dict[str, dict[str, str]]:
  """Returns {"inputs": digests} of the files that a config names, so that changed ones are noticed.

  Digests are SHA-256. Of a file larger than 1 GB the size counts, and not what it holds. A config
  of the synthetic world names no files, and has no "inputs".
  """
  if config.facts == "world":
    return {}
  digests = {}
  for name in _INPUTS:
    digest = hashlib.sha256()
    for spec in _specs(config, name):
      for path in sources.files_of(spec):
        _add_to_digest(digest, path)
    digests[name] = digest.hexdigest()
  return {"inputs": digests}


def _specs(config: Config, name: str) -> Sequence[str]:
  return documents.corpora(config[name]) if name == "corpus" else [config[name]]


def _add_to_digest(digest: "hashlib._Hash", path: str) -> None:
  size = os.path.getsize(path)
  if size > _MOST_DIGESTED:
    digest.update(f"{size} bytes".encode())
    return
  with open(path, "rb") as file:
    while block := file.read(_BLOCK):
      digest.update(block)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "config") -> list[str]:
  """Returns lines that name each value in which two configs differ, but for what may change.

  Args:
    old: a config or a section of it, as plain dicts.
    new: the other.
    path: name of the section in the lines.
  """
  lines = []
  for key in sorted(set(old) | set(new)):
    if _may_differ(path, key, both_have_it=key in old and key in new):
      continue
    before = old.get(key, "missing")
    after = new.get(key, "missing")
    if isinstance(before, dict) and isinstance(after, dict):
      lines += differences(before, after, f"{path}.{key}")
    elif before != after:
      lines.append(f"{path}.{key}: {before!r}, {after!r}")
  return lines


def _may_differ(path: str, key: str, both_have_it: bool) -> bool:
  """Returns whether a rerun may change a key of a section."""
  if path == "config":
    return key in MAY_CHANGE or (key == _TRAIN and not both_have_it)
  if path == "config.arms":
    return not both_have_it
  if path == "config.model":
    return key in HOW_COMPUTED
  return path.startswith("config.arms.") and key in ARM_MAY_CHANGE


def _read_json(path: str) -> dict[str, Any]:
  try:
    with files.open_text(path) as file:
      return json.load(file)
  except ValueError as error:
    raise UserError(f"{path}: expected JSON, got a broken file ({error})") from error

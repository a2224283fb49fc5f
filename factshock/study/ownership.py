"""Whose a workdir is: an experiment's, of which a rerun may change some things only."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from factshock.facts import documents, sources
from factshock.runtime import files, processes
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


def claim(config: Config, workdir: Workdir) -> None:
  """Stores the config in a new workdir, or checks that an old one is of the same experiment.

  Seeds, arms and what only concerns the report may be added on a rerun.

  Raises:
    UserError: the workdir is of another experiment (naming what differs), or holds other files.
  """
  with processes.first_process_first("claiming the workdir"):
    _claim(config, workdir)


def _claim(config: Config, workdir: Workdir) -> None:
  record = configs.to_dict(config) | input_digests(config)
  exists = os.path.exists(workdir.config)
  if not exists and not processes.is_first():
    raise UserError(
      f"{workdir}: process {processes.process_index()} does not see what process 0 wrote there; "
      "choose a --workdir on a file system that all machines share"
    )
  if exists:
    _check_same(record, workdir)
  elif os.path.isdir(workdir) and os.listdir(workdir):
    raise UserError(
      f"{workdir}: not empty, and no workdir of an experiment; choose another --workdir"
    )
  with files.atomic_write(workdir.config) as file:
    json.dump(record, file, indent=1)


def _check_same(record: Mapping[str, Any], workdir: Workdir) -> None:
  """Checks that a workdir's config is that of a record; what is only prepared starts over.

  Raises:
    UserError: they differ, and the workdir has results.
  """
  differing = differences(_read_json(workdir.config), record)
  if not differing:
    return
  if any(map(os.path.exists, (workdir.all_checkpoints, workdir.all_predictions))):
    raise UserError(
      f"{workdir}: is the workdir of another experiment; choose another --workdir or remove it. "
      "What differs (there, here):\n  " + "\n  ".join(differing)
    )
  # An attempt that ended before any training, as with a mistake in its flags: start over.
  for folder in (workdir.all_facts, workdir.all_tokenizers):
    shutil.rmtree(folder, ignore_errors=True)


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
    return key in MAY_CHANGE
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

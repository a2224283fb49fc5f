"""The folder of a study: whose it is, and what a rerun in it may change."""

import hashlib
import json
import os
import shutil

from factshock.facts import documents, sources
from factshock.runtime import files, processes
from factshock.runtime.errors import UserError
from factshock.study import config as configs

RESULTS = ("checkpoints", "predictions")
PREPARED = ("facts", "tokenizer")
_DIGESTED = 1 << 30
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
ARM_MAY_CHANGE = (
  "title",
  "group",
  "attention",
)  # of an arm; what attention adds is a file that then is missing
HOW_COMPUTED = (
  "remat",
  "attention",
)  # of config.model: as a mesh does, these alter the rounding alone


def claim(config, workdir):
  """Stores the config in a new workdir, or checks that an old one is of the same experiment.

  Seeds, arms and what only concerns the report may be added on a rerun.

  Raises:
    UserError: the workdir is of another experiment (naming what differs), or holds other files.
  """
  with processes.first_process_first("claiming the workdir"):
    _claim(config, workdir)


def _claim(config, workdir):
  path = os.path.join(workdir, "config.json")
  wanted = configs.to_dict(config) | input_digests(config)
  if not processes.is_first() and not os.path.exists(path):
    raise UserError(
      f"{workdir}: process {processes.process_index()} does not see what process 0 wrote there; choose a --workdir on a file system "
      "that all machines share"
    )
  if not os.path.exists(path):
    if os.path.isdir(workdir) and os.listdir(workdir):
      raise UserError(
        f"{workdir}: not empty, and no workdir of an experiment; choose another --workdir"
      )
  else:
    differing = differences(_read_json(path), wanted)
    if differing and not any(os.path.exists(os.path.join(workdir, name)) for name in RESULTS):
      # An attempt that ended before any training, with a mistake in its flags, say: start over.
      for name in PREPARED:
        shutil.rmtree(os.path.join(workdir, name), ignore_errors=True)
    elif differing:
      raise UserError(
        f"{workdir}: is the workdir of another experiment; choose another --workdir or remove it. "
        "What differs (there, here):\n  " + "\n  ".join(differing)
      )
  with files.atomic_write(path) as file:
    json.dump(wanted, file, indent=1)


def input_digests(config):
  """{"inputs": SHA-256 of the files that config.facts, relations and corpus name}: changed files are noticed.

  Of a file larger than _DIGESTED bytes the size counts, and not what it holds.
  """
  if config.facts == "world":
    return {}
  digests = {}
  for name in ("facts", "relations", "corpus", "entity_counts"):
    digests[name] = hashlib.sha256()
    for spec in documents.corpora(config[name]) if name == "corpus" else [config[name]]:
      for path in sources.files_of(spec):
        _add_to_digest(digests[name], path)
  return {"inputs": {name: digest.hexdigest() for name, digest in digests.items()}}


def _add_to_digest(digest, path):
  if os.path.getsize(path) > _DIGESTED:
    digest.update(f"{os.path.getsize(path)} bytes".encode())
    return
  with open(path, "rb") as file:
    while block := file.read(1 << 20):
      digest.update(block)


def differences(old, new, where="config"):
  """Lines that name each value in which two configs differ, but for what a rerun may change."""
  found = []
  for key in sorted(set(old) | set(new)):
    path = f"{where}.{key}"
    if (where == "config" and key in MAY_CHANGE) or (
      where == "config.arms" and not (key in old and key in new)
    ):
      continue
    if (
      where.startswith("config.arms.")
      and key in ARM_MAY_CHANGE
      or where == "config.model"
      and key in HOW_COMPUTED
    ):
      continue
    a = old.get(key, "missing")
    b = new.get(key, "missing")
    if isinstance(a, dict) and isinstance(b, dict):
      found += differences(a, b, path)
    elif a != b:
      found.append(f"{path}: {a!r}, {b!r}")
  return found


def _read_json(path):
  try:
    with files.open_text(path) as file:
      return json.load(file)
  except ValueError as error:
    raise UserError(f"{path}: expected JSON, got a broken file ({error})") from error

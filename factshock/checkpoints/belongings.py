"""What a checkpoint needs from beside it: its tokenizer, relations, and the base of its adapters.

A workdir may be copied or moved: what stands in the workdir that a checkpoint lies in comes before
what stands where it was written. Digests tell whether it is what the checkpoint was made with.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from factshock.checkpoints import manifest as manifests
from factshock.checkpoints import store
from factshock.data import tokenizer_files
from factshock.models.formats import t5x
from factshock.models.formats.gguf import files as gguf_files
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir
from factshock.served import endpoints

What: TypeAlias = Literal["tokenizer", "relations"]

# Keys of a checkpoint's record; records of older versions lack them.
TOKENIZER_DIGEST = "tokenizer_digest"
BASE_DIGEST = "base_digest"

_SAMPLES = 16  # of a file of weights, evenly spread
_SAMPLE_BYTES = 1 << 16
_WEIGHTS = re.compile(r".*\.(safetensors|bin|gguf)")


def is_checkpoint(path: str) -> bool:
  """Returns whether a path is meant as a checkpoint of ours.

  Anything else is a GGUF file, a HuggingFace folder or hub id: "org/name" or "org/name@revision".

  Raises:
    UserError: it is a folder that holds models of two formats, a whole workdir, or a served model.
  """
  _refuse_served(path)
  if os.path.isdir(path):
    check_one_format(path)
    return not _is_pretrained(path)
  if gguf_files.is_file(path):
    return False
  return not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", path)


def check_one_format(path: str) -> None:
  """Raises a UserError where a folder holds models of two formats, or is a whole workdir."""
  _refuse_served(path)
  if not os.path.isdir(path):
    return
  if os.path.isdir(Workdir(path).all_checkpoints) and os.path.isdir(Workdir(path).all_tokenizers):
    store.step_folder(path)  # it holds no step itself: the error names those that it holds
  formats = {
    "a checkpoint of factshock's": os.path.exists(os.path.join(path, manifests.NAME)),
    "a HuggingFace model": _is_pretrained(path),
    "a T5X checkpoint": t5x.is_checkpoint(path),
  }
  present = [name for name, is_there in formats.items() if is_there]
  if len(present) > 1:
    raise UserError(
      f"{path}: holds {' and '.join(present)}; move one of them into a folder of its own"
    )


def _refuse_served(path: str) -> None:
  """Raises a UserError where a path names a served model, or the address of one."""
  if endpoints.is_endpoint(path):
    raise UserError(
      f"{path}: the weights of a served model are not here; answer, extract and evaluate can ask it"
    )
  if path.startswith(("http://", "https://")):
    raise UserError(
      f"{path}: expected a model's folder or hub id, got an address; a served model is named "
      f"endpoint:{path}?model=NAME"
    )


def _is_pretrained(path: str) -> bool:
  names = ("config.json", "adapter_config.json")
  return any(os.path.exists(os.path.join(path, name)) for name in names)


def workdir_of(checkpoint: str, record: Mapping[str, Any]) -> Workdir:
  """Returns the workdir that a checkpoint lies in, else the one that its record names."""
  folder = os.path.abspath(checkpoint)
  while os.path.dirname(folder) != folder:
    parent = os.path.dirname(folder)
    around = Workdir(parent)
    if folder == around.all_checkpoints and os.path.isdir(around.all_tokenizers):
      return around
    folder = parent
  return Workdir(str(record.get("workdir") or ""))


def path_of(checkpoint: str, record: Mapping[str, Any], what: What) -> str:
  """Returns the path of the tokenizer or the relations of a checkpoint's workdir.

  Raises:
    UserError: nothing is there, or it is not the tokenizer that the checkpoint was trained with.
  """
  workdir = workdir_of(checkpoint, record)
  seed = str(record.get("seed"))
  path = workdir.tokenizer(seed) if what == "tokenizer" else workdir.relations(seed)
  if not workdir.path or not os.path.exists(path):
    lacks = f"its workdir ({workdir.path}) is not there" if workdir.path else f"brings no {what}"
    raise UserError(f"{checkpoint}: {lacks}; say --{what}=PATH")
  expected = record.get(TOKENIZER_DIGEST) if what == "tokenizer" else None
  if expected and tokenizer_files.folder_digest(path) != expected:
    raise UserError(
      f"{checkpoint}: {path} is another tokenizer than the one it was trained with, whose answers "
      "would be wrong; restore that one, or say --tokenizer=PATH to insist on one"
    )
  return path


def base_of(checkpoint: str, record: Mapping[str, Any]) -> str:
  """Returns the model that a checkpoint's adapters stand on: a folder, a GGUF file or a hub id.

  Raises:
    UserError: it is not the one that they were trained on.
  """
  section = record["lora"]
  base = str(section["base"])
  written = str(record.get("workdir") or "")
  here = workdir_of(checkpoint, record).absolute_path
  if written and os.path.commonpath([written, os.path.abspath(base)]) == written:
    moved = os.path.join(here, os.path.relpath(base, written))
    base = moved if os.path.exists(moved) else base
  expected = section.get(BASE_DIGEST)
  if expected and model_digest(base) != expected:
    raise UserError(
      f"{checkpoint}: {base} is another model than the one that its adapters were trained on, and "
      "the weights of both would make a wrong one; restore that model there"
    )
  return base


def model_digest(source: str) -> str | None:
  """Returns a text that differs where a model's weights do; None of a hub id.

  Of a HuggingFace folder it is made from the names, sizes and samples of the files of weights, of a
  GGUF file from its size and samples.
  """
  if is_checkpoint(source):
    folder = store.step_folder(source)
    return manifests.tree_digest(manifests.params_only(store.read_manifest(folder)["leaves"]))
  digest = hashlib.sha256()
  if os.path.isfile(source):
    for sample in _samples(source):
      digest.update(sample)
    return digest.hexdigest()
  if not os.path.isdir(source):
    return None
  for name in sorted(filter(_WEIGHTS.fullmatch, os.listdir(source))):
    digest.update(f"{name}\n".encode())
    for sample in _samples(os.path.join(source, name)):
      digest.update(sample)
  return digest.hexdigest()


def _samples(path: str) -> Iterator[bytes]:
  """Yields the size of a file and parts of it, the first and the last among them."""
  size = os.path.getsize(path)
  yield f"{size} bytes\n".encode()
  with open(path, "rb") as file:
    for index in range(_SAMPLES):
      file.seek(max(0, size - _SAMPLE_BYTES) * index // (_SAMPLES - 1))
      yield file.read(_SAMPLE_BYTES)

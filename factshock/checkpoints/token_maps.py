"""Which token has which id in a stored model's tokenizer, and whether two tokenizers agree."""

import os
from collections.abc import Mapping

from factshock.checkpoints import belongings, store
from factshock.data import pretrained_tokenizers, tokenizers
from factshock.models.formats import huggingface
from factshock.types import FilePath


def of_model(path: FilePath) -> dict[str, int] | None:
  """Returns the ids of a model's tokens; None where it brings no tokenizer."""
  if huggingface.is_source(path):
    folder = huggingface.open_source(path).folder
    if not pretrained_tokenizers.is_folder(folder):
      return None
    return pretrained_tokenizers.load(folder).token_ids()
  folder = store.step_folder(path)
  record = store.read_manifest(folder)["config"] or {}
  workdir = belongings.workdir_of(folder, record)
  tokenizer = workdir.tokenizer(str(record.get("seed")))
  if not workdir.path or not os.path.exists(tokenizer):
    return None
  return tokenizers.load(tokenizer).token_ids()


def conflict(one: Mapping[str, int], other: Mapping[str, int]) -> str | None:
  """Returns how two tokenizers contradict each other, None where they do not.

  One may have tokens that the other lacks, with ids that the other lacks.
  """
  names = {index: token for token, index in other.items()}
  for token, index in sorted(one.items(), key=lambda item: item[1]):
    if index in names and names[index] != token:
      return f"id {index} is {token[:40]!r} there and {names[index][:40]!r} here"
    if token in other and other[token] != index:
      return f"the id of {token[:40]!r} is {index} there and {other[token]} here"
  return None

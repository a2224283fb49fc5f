"""Ids of special tokens in a file's metadata, above all of those that end an answer."""

from collections.abc import Mapping
from typing import Any

from factshock.runtime.errors import UserError

_PREFIX = "tokenizer.ggml."
_CONTROL = 3  # type of tokens
# Keys of config.json, and llama.cpp's.
_IDS = {"bos_token_id": "bos_token_id", "pad_token_id": "padding_token_id"}
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Control tokens that end an answer whether or not the metadata name them (src/llama-vocab.cpp).
_ENDS = frozenset(
  (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "<|end_of_text|>",
    "<end_of_utterance>",
  )
)


def of(metadata: Mapping[str, Any], path: str) -> dict[str, Any]:
  """Returns the ids of special tokens as config.json and generation_config.json have them.

  `eos_token_id` is one id or, the metadata's own first, a list.

  Args:
    metadata: of the file.
    path: the file, for errors.

  Raises:
    UserError: an id that no token has.
  """
  ids: dict[str, Any] = {}
  for name, key in _IDS.items():
    token = token_id(metadata, key, path)
    if token is not None:
      ids[name] = token
  named = [token_id(metadata, key, path) for key in _END_KEYS]
  ends = list(dict.fromkeys(token for token in [*named, *_by_text(metadata)] if token is not None))
  if ends:
    ids["eos_token_id"] = ends[0] if len(ends) == 1 else ends
  return ids


def token_id(metadata: Mapping[str, Any], key: str, path: str) -> int | None:
  """Returns the id that the metadata have for a special token, None where they have none.

  Raises:
    UserError: no token has it.
  """
  token = metadata.get(f"{_PREFIX}{key}")
  size = len(metadata.get(f"{_PREFIX}tokens", ()))
  if token is None:
    return None
  if type(token) is not int or not 0 <= token < size:
    raise UserError(
      f"{path}: expected the id of one of {size:,} tokens as {_PREFIX}{key}, got {token!r:.60}; "
      "convert the model again"
    )
  return token


def _by_text(metadata: Mapping[str, Any]) -> list[int]:
  tokens = metadata.get(f"{_PREFIX}tokens", ())
  types = metadata.get(f"{_PREFIX}token_type", ())
  return [
    number
    for number, (token, kind) in enumerate(zip(tokens, types))
    if kind == _CONTROL and token in _ENDS
  ]

"""Tokenizers of GGUF files as HuggingFace's files: tokenizer.json and what stands beside it."""

import base64
import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from factshock.models.formats.gguf import ends, files, merges, pre_tokenizers
from factshock.runtime import files as atomic_files
from factshock.runtime.errors import UserError
from factshock.types import FilePath

Json: TypeAlias = dict[str, Any]

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
GENERATION = "generation_config.json"

_SPACE = "\u2581"  # stands for a space in SentencePiece's pieces
_PREFIX = "tokenizer.ggml."
_MODELS = ("gpt2", "llama", "t5")
_SENTINELS = 100  # of a T5
_FILLER = re.compile(r"\[PAD\d+\]")  # what llama.cpp's converter fills a vocabulary with
# Types of tokens.
_UNKNOWN = 2
_CONTROL = 3
_USER_DEFINED = 4
_UNUSED = 5
_BYTE = 6
# Words of tokenizer_config.json, and llama.cpp's keys.
_SPECIAL = {
  "bos_token": "bos_token_id",
  "eos_token": "eos_token_id",
  "unk_token": "unknown_token_id",
  "pad_token": "padding_token_id",
}
_SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
_SPLIT_SPACES: Json = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_JOIN_SPACES: Json = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Holds what a file says of its tokenizer.

  Attributes:
    path: the file, for errors.
    metadata: of the file.
    kind: "gpt2" (byte-level BPE), "llama" (SentencePiece's BPE) or "t5" (its unigrams).
    tokens: by id, without what only fills the vocabulary.
    types: of the tokens.
  """

  path: str
  metadata: Mapping[str, Any]
  kind: str
  tokens: list[str]
  types: list[int]

  def get(self, key: str, default: Any) -> Any:
    """Returns a value of the tokenizer's metadata."""
    return self.metadata.get(f"{_PREFIX}{key}", default)

  def id_of(self, key: str) -> int | None:
    """Returns the id of a special token; None where there is none."""
    token = ends.token_id(self.metadata, key, self.path)
    return token if token is None or token < len(self.tokens) else None

  @functools.cached_property
  def ids(self) -> dict[str, int]:
    """Returns the ids of the tokens."""
    return {token: number for number, token in enumerate(self.tokens)}

  @property
  def scores(self) -> list[float]:
    """Returns a score of each token.

    Raises:
      UserError: the file has none.
    """
    scores = self.get("scores", None)
    if not isinstance(scores, np.ndarray) or len(scores) < len(self.tokens):
      raise UserError(
        f"{self.path}: expected a score of each token (tokenizer.ggml.scores), got none or fewer; "
        "convert the model again"
      )
    return scores.tolist()[: len(self.tokens)]

  def of_type(self, kind: int) -> list[int]:
    """Returns the ids of the tokens of a type."""
    return [number for number, other in enumerate(self.types) if other == kind]


def write(path: FilePath, folder: FilePath) -> None:
  """Writes the tokenizer of a GGUF file into a folder as HuggingFace's files.

  Raises:
    UserError: the file has none, or one that is not supported.
  """
  vocabulary = read(path)
  os.makedirs(folder, exist_ok=True)
  contents = {
    TOKENIZER: tokenizer_json(vocabulary),
    CONFIG: tokenizer_config(vocabulary),
    GENERATION: generation_config(vocabulary),
  }
  for name, content in contents.items():
    with atomic_files.atomic_write(os.path.join(folder, name)) as file:
      json.dump(content, file, ensure_ascii=False)


def read(path: FilePath) -> Vocabulary:
  """Returns the vocabulary of a GGUF file.

  Raises:
    UserError: the file has none, or one that is not supported.
  """
  path = str(path)
  metadata = files.read_metadata(path)
  kind = metadata.get(f"{_PREFIX}model")
  tokens = metadata.get(f"{_PREFIX}tokens")
  if not isinstance(tokens, list) or not tokens:
    raise UserError(f"{path}: holds no tokenizer (tokenizer.ggml.tokens); say --tokenizer=FOLDER")
  if kind not in _MODELS:
    raise UserError(
      f"{path}: the tokenizer {kind!r:.60} is not supported; supported are {', '.join(_MODELS)}; "
      "say --tokenizer=FOLDER to take that of the model's own folder"
    )
  types = metadata.get(f"{_PREFIX}token_type", np.ones(len(tokens), np.int32))
  if not isinstance(types, np.ndarray) or len(types) != len(tokens):
    raise UserError(
      f"{path}: expected a type of each of {len(tokens):,} tokens (tokenizer.ggml.token_type); "
      "convert the model again"
    )
  named = [token or f"[EMPTY_{number}]" for number, token in enumerate(tokens)]
  return _trimmed(Vocabulary(path, metadata, kind, named, types.tolist()))


def _trimmed(vocabulary: Vocabulary) -> Vocabulary:
  """Returns a vocabulary without the tokens at its end that only fill it.

  Of a T5 the first hundred of them are the sentinels, whose names its SentencePiece model has not.

  Raises:
    UserError: two tokens are spelled alike.
  """
  tokens = list(vocabulary.tokens)
  types = list(vocabulary.types)
  first = len(tokens)
  while first and types[first - 1] == _UNUSED and _FILLER.fullmatch(tokens[first - 1]):
    first -= 1
  kept = first
  # mT5's and UMT5's are pieces of it.
  has_sentinels = any(f"{space}<extra_id_0>" in tokens for space in ("", _SPACE))
  if vocabulary.kind == "t5" and not has_sentinels and len(tokens) - first >= _SENTINELS:
    kept = first + _SENTINELS
    tokens[first:kept] = [f"<extra_id_{n}>" for n in reversed(range(_SENTINELS))]
    types[first:kept] = [_CONTROL] * _SENTINELS
  trimmed = dataclasses.replace(vocabulary, tokens=tokens[:kept], types=types[:kept])
  if len(trimmed.ids) != kept:
    seen: set[str] = set()
    twice = next(token for token in trimmed.tokens if token in seen or seen.add(token))
    raise UserError(f"{vocabulary.path}: holds the token {twice[:60]!r} twice; convert it again")
  return trimmed


def tokenizer_json(vocabulary: Vocabulary) -> Json:
  """Returns the tokenizer.json of a vocabulary, as the Rust tokenizers read it."""
  make = {"gpt2": _byte_level, "llama": _sentencepiece, "t5": _unigram}[vocabulary.kind]
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": _added_tokens(vocabulary),
    **make(vocabulary),
    "post_processor": _post_processor(vocabulary),
  }


def tokenizer_config(vocabulary: Vocabulary) -> Json:
  """Returns the tokenizer_config.json of a vocabulary."""
  values: Json = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
    "add_bos_token": _adds(vocabulary, "bos"),
    "add_eos_token": _adds(vocabulary, "eos"),
  }
  for name, key in _SPECIAL.items():
    token = vocabulary.id_of(key)
    if token is not None:
      values[name] = vocabulary.tokens[token]
  template = vocabulary.metadata.get("tokenizer.chat_template")
  if isinstance(template, str):
    values["chat_template"] = template
  return values


def generation_config(vocabulary: Vocabulary) -> Json:
  """Returns the generation_config.json of a vocabulary: the ids that begin and end a text."""
  values = ends.of(vocabulary.metadata, vocabulary.path)
  if vocabulary.kind == "t5":
    values["decoder_start_token_id"] = vocabulary.metadata.get("t5.decoder_start_token_id", 0)
  return values


def _added_tokens(vocabulary: Vocabulary) -> list[Json]:
  """Returns the tokens that are found in a text before it is cut."""
  special = {_CONTROL, _UNKNOWN}
  return [
    {
      "id": number,
      "content": token,
      "single_word": False,
      "lstrip": False,
      "rstrip": False,
      "normalized": False,
      "special": kind in special,
    }
    for number, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types))
    if kind in special or (kind == _USER_DEFINED and not _is_spaces(token))
  ]


def _is_spaces(token: str) -> bool:
  """Returns whether a token is two spaces or more, which pieces of SentencePiece make up."""
  return len(token) > 1 and not token.strip(" ")


def _byte_level(vocabulary: Vocabulary) -> Json:
  """Returns the parts of tokenizer.json of a byte-level BPE."""
  cut = pre_tokenizers.named(vocabulary.get("pre", None), vocabulary.path)
  pairs = vocabulary.get("merges", None)
  if not isinstance(pairs, list):
    raise UserError(
      f"{vocabulary.path}: expected the merges of its tokens (tokenizer.ggml.merges), got none; "
      "convert the model again"
    )
  steps: list[Json] = [
    {**_SPLIT, "pattern": {"Regex": expression}} for expression in cut.expressions
  ]
  byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
  return {
    "normalizer": {"type": "NFC"} if cut.composed else None,
    "pre_tokenizer": {
      "type": "Sequence",
      "pretokenizers": [*steps, {**byte_level, "use_regex": False}],
    },
    "decoder": {**byte_level, "use_regex": False},
    "model": _bpe(vocabulary.ids, merges.stated(pairs, vocabulary.ids, vocabulary.path))
    | {"ignore_merges": cut.ignore_merges},
  }


def _sentencepiece(vocabulary: Vocabulary) -> Json:
  """Returns the parts of tokenizer.json of SentencePiece's BPE."""
  tokens = [
    token.replace(" ", _SPACE) if _is_spaces(token) else token for token in vocabulary.tokens
  ]
  ids = {token: number for number, token in enumerate(tokens)}
  prefix = bool(vocabulary.get("add_space_prefix", True))
  unknown = vocabulary.id_of("unknown_token_id")
  pairs = merges.derived(tokens, vocabulary.types, vocabulary.scores)
  decoder: list[Json] = [_JOIN_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}]
  first: list[Json] = []
  if prefix:
    decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    first.append({"type": "Prepend", "prepend": _SPACE})
  return {
    "normalizer": {"type": "Sequence", "normalizers": [*first, _SPLIT_SPACES]},
    "pre_tokenizer": None,
    "decoder": {"type": "Sequence", "decoders": decoder},
    "model": _bpe(ids, pairs)
    | {
      "unk_token": None if unknown is None else tokens[unknown],
      "fuse_unk": True,
      "byte_fallback": bool(vocabulary.of_type(_BYTE)),
    },
  }


def _bpe(ids: Mapping[str, int], pairs: Sequence[tuple[str, str]]) -> Json:
  return {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
    "vocab": dict(ids),
    "merges": [list(pair) for pair in pairs],
  }


def _unigram(vocabulary: Vocabulary) -> Json:
  """Returns the parts of tokenizer.json of SentencePiece's unigrams, as T5's own has them."""
  charsmap = vocabulary.get("precompiled_charsmap", None)
  unknown = vocabulary.id_of("unknown_token_id")
  unknowns = vocabulary.of_type(_UNKNOWN)
  scheme = "always" if vocabulary.get("add_space_prefix", True) else "never"
  spaces = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": True}
  normalizer = None
  if charsmap is not None and len(charsmap):
    encoded = base64.b64encode(np.asarray(charsmap).astype(np.uint8).tobytes()).decode()
    normalizer = {"type": "Precompiled", "precompiled_charsmap": encoded}
  return {
    "normalizer": normalizer,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, spaces]},
    "decoder": spaces,
    "model": {
      "type": "Unigram",
      "unk_id": unknown if unknown is not None else (unknowns or [None])[0],
      "vocab": _scored(vocabulary),
      "byte_fallback": bool(vocabulary.of_type(_BYTE)),
    },
  }


def _scored(vocabulary: Vocabulary) -> list[list[Any]]:
  """Returns each token with its score; a special one is never found as a piece of a text."""
  rows: list[list[Any]] = []
  for token, score, kind in zip(vocabulary.tokens, vocabulary.scores, vocabulary.types):
    rows.append([token, 0.0 if kind in (_CONTROL, _UNKNOWN) else score])
  return rows


def _adds(vocabulary: Vocabulary, which: str) -> bool:
  """Returns whether a BOS ("bos") or EOS ("eos") is put around each text."""
  default = {("llama", "bos"): True, ("t5", "eos"): True}.get((vocabulary.kind, which), False)
  if vocabulary.kind == "gpt2" and which == "bos":
    default = pre_tokenizers.named(vocabulary.get("pre", None), vocabulary.path).add_bos
  adds = bool(vocabulary.get(f"add_{which}_token", default))
  return adds and vocabulary.id_of(f"{which}_token_id") is not None


def _post_processor(vocabulary: Vocabulary) -> Json | None:
  """Returns what puts BOS and EOS around a text; None where nothing does."""
  before = [vocabulary.id_of("bos_token_id")] if _adds(vocabulary, "bos") else []
  after = [vocabulary.id_of("eos_token_id")] if _adds(vocabulary, "eos") else []
  if not before and not after:
    return None

  def part(which: str) -> list[Json]:
    number = "AB".index(which)
    text: Json = {"Sequence": {"id": which, "type_id": number}}
    return [*_as_special(vocabulary, before, number), text, *_as_special(vocabulary, after, number)]

  special: Json = {}
  for token in {*before, *after}:
    assert token is not None
    content = vocabulary.tokens[token]
    special[content] = {"id": content, "ids": [token], "tokens": [content]}
  return {
    "type": "TemplateProcessing",
    "single": part("A"),
    "pair": [*part("A"), *part("B")],
    "special_tokens": special,
  }


def _as_special(vocabulary: Vocabulary, tokens: Iterable[int | None], number: int) -> list[Json]:
  return [
    {"SpecialToken": {"id": vocabulary.tokens[token], "type_id": number}}
    for token in tokens
    if token is not None
  ]

"""Copies of a HuggingFace tokenizer for which its special tokens are text like any other.

transformers' own `split_special_tokens` is not enough: a unigram model then still finds "<pad>"
among its pieces, with the best score of all, and so takes it for padding.
"""

import functools
import json
import re
from collections.abc import Collection, Iterable
from typing import Any, TypeAlias

from factshock.data import sentinels

# A tokenizers.Tokenizer: the Rust one inside a tokenizer of transformers.
Backend: TypeAlias = Any

# What the Rust tokenizers write as JSON.
Record: TypeAlias = dict[str, Any]

# How mT5's pieces begin that are sentinels, with the space before them.
_SENTINEL_PIECE = "▁<extra_id_"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # stands for a byte of a character that has no piece
_SENTINEL = re.compile(r"(<extra_id_\d+>)")
_NO_CHARACTER = "\U0010fffe"  # which no text holds, as Unicode keeps it free


def sentinel_piece(n: int) -> str:
  """Returns the piece of mT5's <extra_id_n>."""
  return f"{_SENTINEL_PIECE}{n}>"


def special_ids(backend: Backend) -> dict[str, int]:
  """Returns the special tokens and their ids, those that stand for bytes left out.

  mT5's sentinels are among them, which are pieces like any other.
  """
  ids: dict[str, int] = {}
  for token, added in backend.get_added_tokens_decoder().items():
    if added.special and not _BYTE.fullmatch(added.content):
      ids[added.content] = token
  number = 0
  while (token := backend.token_to_id(sentinel_piece(number))) is not None:
    ids[sentinel_piece(number)] = token
    number += 1
  return ids


def as_text(
  backend: Backend,
  prefix: bool = True,
) -> Backend:
  """Returns a copy that takes special tokens in a text for text: none of their ids comes of it.

  Args:
    backend: the tokenizer; other ids are as it gives them.
    prefix: whether a text begins with a space where it does for `backend`.
  """
  record: Record = json.loads(backend.to_str())
  record |= {"post_processor": None, "truncation": None, "padding": None}
  names: dict[str, str] = {}
  for content, token in special_ids(backend).items():
    names[content] = _name_of(token)
  # Renamed and not taken out, so that every token keeps its id.
  for added in record["added_tokens"]:
    if added["content"] in names:
      added |= {"content": names[added["content"]], "normalized": False}
  _rename_pieces(record["model"], names)
  if not prefix:
    for step in ("normalizer", "pre_tokenizer"):
      record[step] = _without_prefix(record[step])
  return type(backend).from_str(json.dumps(record))


def _name_of(token: int) -> str:
  """Returns what stands for a special token in texts for the copies of `as_text`."""
  return f"{_NO_CHARACTER}{token}{_NO_CHARACTER}"


def _rename_pieces(model: Record, names: dict[str, str]) -> None:
  """Gives the pieces of a model (Unigram, BPE, WordPiece, WordLevel) other names."""
  vocabulary = model["vocab"]
  if isinstance(vocabulary, list):
    model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    return
  model["vocab"] = {names.get(piece, piece): token for piece, token in vocabulary.items()}
  if model.get("unk_token") in names:
    model["unk_token"] = names[model["unk_token"]]
  if "merges" in model:
    model["merges"] = [merge for merge in model["merges"] if not _makes_any(merge, names)]


def _makes_any(merge: str | list[str], names: Collection[str]) -> bool:
  """Returns whether a merge of two pieces has to do with one of these."""
  first, second = merge.split(" ") if isinstance(merge, str) else merge
  return not {first, second, first + second}.isdisjoint(names)


def _without_prefix(step: Record | None) -> Record | None:
  """Returns a normalizer or pre-tokenizer that puts no space before a text."""
  if step is None or step["type"] == "Prepend":
    return None
  step = dict(step)
  if step["type"] == "Metaspace":
    step["prepend_scheme"] = "never"
  if "add_prefix_space" in step:
    step["add_prefix_space"] = False
  for steps in ("normalizers", "pretokenizers"):
    if steps in step:
      changed = map(_without_prefix, step[steps])
      step[steps] = [inner for inner in changed if inner is not None]
  return step


class PlainText:
  """Tokenises texts in which special tokens were found as text."""

  def __init__(
    self,
    backend: Backend,
    unknown: str | None,
    kept: Iterable[str] = (),
  ) -> None:
    """Looks for the special tokens of a tokenizer; its copy is made when one is found.

    Args:
      backend: the tokenizer.
      unknown: its token of unknown characters, which may come of other text.
      kept: sentinels, which stay special where `sentinels.as_text` did not mark them.
    """
    ids = special_ids(backend)
    self._backend = backend
    self._kept = {content: ids[content] for content in kept if content in ids}
    self._unknown = unknown
    self._ids = frozenset(ids.values()) - {*self._kept.values(), ids.get(unknown or "")}

  def is_needed(self, text: str, ids: Iterable[int]) -> bool:
    """Returns whether the tokens `ids` of a text may hold special ones."""
    if self._unknown and self._unknown in text:
      return True
    return not self._ids.isdisjoint(ids)

  def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns the ids of a text, and the span of each in `sentinels.as_read(text)`."""
    renamed, starts = self._renamed(text)
    encoding = self._copy.encode(renamed, add_special_tokens=False)
    return encoding.ids, [(starts[first], starts[last]) for first, last in encoding.offsets]

  def _renamed(self, text: str) -> tuple[str, list[int]]:
    """Returns a text as the copy reads it, and where each of its characters stands in the text."""
    pieces: list[str] = []
    starts: list[int] = []
    start = 0
    for piece in _SENTINEL.split(text):
      is_kept = piece in self._kept
      read = piece if is_kept else sentinels.as_read(piece)
      stop = start + len(read)
      if is_kept:
        pieces.append(_name_of(self._kept[piece]))
        starts += [start] * len(pieces[-1])
      else:
        pieces.append(read)
        starts += range(start, stop)
      start = stop
    return "".join(pieces), [*starts, start]

  @functools.cached_property
  def _copy(self) -> Backend:
    return as_text(self._backend)

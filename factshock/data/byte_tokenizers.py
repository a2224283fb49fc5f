"""ByT5's tokenizer: the bytes of UTF-8, and sentinels as the published models know them.

ByT5 was pretrained with 259 ids: padding, EOS, unknown, and the 256 bytes. Its sentinels are the
last bytes, counted down from id 258 (`sentinel_id` of the T5 library; transformers' page of ByT5
masks by these ids, too). transformers' ByT5Tokenizer writes <extra_id_0> as id 259 and goes up from
there, to rows of the embedding that pretraining never touched. Here <extra_id_N> is 258 - N.

Source: Xue et al. 2022, "ByT5: Towards a token-free future with pre-trained byte-to-byte models".
"""

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from factshock.data import sentinels, tokenizer_files
from factshock.models.formats.huggingface import writing
from factshock.runtime.errors import UserError
from factshock.types import FilePath

KIND = "bytes"
CLASS = "ByT5Tokenizer"  # its name in transformers

_OFFSET = 3  # padding, EOS and unknown come first
_SIZE = _OFFSET + 256
# Bytes 0xF5 to 0xFF, which no text in UTF-8 holds: with more, an emoji could be a sentinel.
# Pretraining (1,024 bytes, spans of 20 on average) needs about nine.
_SENTINELS = 11
_SPECIAL = ("<pad>", "</s>", "<unk>")
_SENTINEL = re.compile(r"<extra_id_(\d{1,9})>")


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
  """Tokenizer of a ByT5 in a folder (or with a hub id) `source`.

  Nothing is added to a text or taken from it: spaces around a sentinel are bytes like others.
  """

  source: str
  size: int = _SIZE
  sentinels: int = _SENTINELS
  eos: int = 1
  pad: int = 0
  bos: None = None
  kind: str = KIND

  @property
  def opening(self) -> tuple[int, ...]:
    """Returns the ids that it puts before a text: none."""
    return ()

  @property
  def tail(self) -> tuple[int, ...]:
    """Returns the ids between a prompt and its answer: none."""
    return ()

  @property
  def ends(self) -> tuple[int, ...]:
    """Returns the ids that end an answer: EOS."""
    return (self.eos,)

  def sentinel(self, n: int) -> int:
    """Returns the id of <extra_id_n>; ValueError where there is none."""
    if not 0 <= n < self.sentinels:
      raise ValueError(f"expected a sentinel below {self.sentinels}, got {n}")
    return self.size - 1 - n

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text's bytes, and of the "<extra_id_N>" in it; no EOS.

    Raises:
      UserError: a sentinel that it does not have, or half a surrogate pair.
    """
    ids: list[int] = []
    # re.split with one group: texts at even positions, sentinel numbers at odd ones.
    for position, piece in enumerate(_SENTINEL.split(text)):
      ids += (
        [self._sentinel_in(text, int(piece))] if position % 2 else _bytes(sentinels.as_read(piece))
      )
    return ids

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of each text; "<extra_id_N>" in it is text, too."""
    return [_bytes(text) for text in texts]

  def encode_continuation(self, prompt: str, text: str) -> list[int]:
    """Returns the ids that follow those of `prompt` in "PROMPT TEXT"; UserError where empty."""
    if not text.strip():
      raise UserError(
        f"prompt {prompt[-60:]!r}: expected an answer with at least one token, got {text!r}"
      )
    return _bytes(f" {text}")

  def spans(self, text: str) -> list[tuple[int, int]]:
    """Returns for each token of `encode(text)` its first character and the one after its last."""
    spans: list[tuple[int, int]] = []
    start = 0
    for position, piece in enumerate(_SENTINEL.split(text)):
      is_sentinel = position % 2 == 1
      part = f"<extra_id_{piece}>" if is_sentinel else sentinels.as_read(piece)
      spans += [(start, start + len(part))] if is_sentinel else _spans(part, start)
      start += len(part)
    return spans

  def token_ids(self) -> dict[str, int]:
    """Returns the id of each token; that of a byte is named by its value, "<0x41>"."""
    ids = {name: token for token, name in enumerate(_SPECIAL)}
    ids |= {f"<0x{byte:02X}>": byte + _OFFSET for byte in range(256 - self.sentinels)}
    return ids | {f"<extra_id_{n}>": self.sentinel(n) for n in range(self.sentinels)}

  @property
  def digest(self) -> str:
    """Returns a text that differs where the tokenizer does."""
    return hashlib.sha256(repr((self.kind, self.size, self.sentinels)).encode()).hexdigest()

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of token ids: sentinels as "<extra_id_N>", no padding and no EOS.

    Bytes that are no UTF-8 are left out, as by transformers, and so are the ids from 259 on, which
    stand for nothing.
    """
    encoded = b""
    lowest = self.size - self.sentinels
    for token in map(int, ids):
      if lowest <= token < self.size:
        encoded += f"<extra_id_{self.size - 1 - token}>".encode()
      elif _OFFSET <= token < lowest:
        encoded += bytes([token - _OFFSET])
    return encoded.decode("utf-8", errors="ignore")

  def token_texts(self) -> list[str]:
    """Returns the text of each token by itself in the order of ids, "" of half a character."""
    return [self.decode([token]) for token in range(self.size)]

  def save(self, folder: FilePath) -> None:
    """Writes the tokenizer's own files into a folder, and digests.

    The model's generation_config.json goes along, as exports take it from there.
    """
    if os.path.realpath(self.source) != os.path.realpath(folder):
      os.makedirs(folder, exist_ok=True)
      if os.path.isdir(self.source):
        writing.copy_tokenizer(self.source, folder)
      else:
        self._theirs.save_pretrained(folder)
    tokenizer_files.write_digests(folder)

  @functools.cached_property
  def _theirs(self) -> Any:
    # It takes most of a second to import, which all but the hub's tokenizers need not wait for.
    import transformers  # noqa: PLC0415

    name, _, revision = self.source.partition("@")
    return transformers.AutoTokenizer.from_pretrained(name, revision=revision or None)

  def _sentinel_in(self, text: str, n: int) -> int:
    if n < self.sentinels:
      return self.sentinel(n)
    raise UserError(
      f"text {text[:80]!r}: expected sentinels below <extra_id_{self.sentinels}>, which are the "
      f"bytes that no text holds, got <extra_id_{n}>; take it out of the text"
    )


def of(tokenizer: Any, source: FilePath) -> ByteTokenizer:
  """Returns the tokenizer of a ByT5Tokenizer of transformers.

  Raises:
    UserError: tokens were added to it, or its special ids are others.
  """
  special = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
  added = [
    token
    for token, number in tokenizer.get_added_vocab().items()
    if number >= _OFFSET and not _SENTINEL.fullmatch(token)
  ]
  if special != (0, 1, 2):
    raise UserError(
      f"{source}: expected padding, EOS and unknown of a ByT5 with ids 0, 1 and 2, got {special}; "
      "use the model's own tokenizer"
    )
  if added:
    raise UserError(
      f"{source}: tokens were added to ByT5's bytes ({', '.join(sorted(added)[:5])}), which is not "
      "supported; use the model's own tokenizer"
    )
  return ByteTokenizer(str(source))


def _bytes(text: str) -> list[int]:
  """Returns the ids of a text's bytes."""
  try:
    return [byte + _OFFSET for byte in text.encode()]
  except UnicodeEncodeError as error:
    raise UserError(
      f"text {text[:80]!r}: expected characters that UTF-8 can hold, got half a surrogate pair; "
      "mend the file that it is from"
    ) from error


def _spans(part: str, start: int) -> list[tuple[int, int]]:
  """Returns the spans of the tokens of a text's part from `start` on, one a character."""
  spans: list[tuple[int, int]] = []
  for index, character in enumerate(part, start):
    spans += [(index, index + 1)] * len(_bytes(character))
  return spans

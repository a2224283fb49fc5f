"""Text to token ids and back: words for a closed world, SentencePiece for text, sentinels on top.

Ids as in T5: 0 padding, 1 end of sequence, 2 unknown, then words or pieces, then the sentinels, of
which <extra_id_0> is the last id of all.
"""

import dataclasses
import functools
import hashlib
import io
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import sentencepiece

from factshock.data import pretrained_tokenizers, sentinels
from factshock.data.byte_tokenizers import ByteTokenizer
from factshock.data.pretrained_tokenizers import PretrainedTokenizer
from factshock.runtime import files, json_files, settings
from factshock.runtime.errors import UserError
from factshock.types import FilePath, TokenIds, Tokenizer

_SENTINEL = re.compile(r"<extra_id_(\d+)>")

# The keys of a saved tokenizer, and what two of them may be.
_RECORD_KEYS = ("format", "kind", "sentinels", "words", "sha256")
_SENTINELS = settings.Check((int,), lambda v: 0 <= v <= 1_000_000, "a number of sentinels")
_WORDS = settings.tuple_of(settings.TEXT)

# Behind a model's bytes: ModelProto.normalizer_spec (3) with add_dummy_prefix (3) false. Of two
# messages one behind the other protobuf takes the last value of each field.
_WITHOUT_PREFIX = bytes([3 << 3 | 2, 2, 3 << 3, 0])

# How SentencePiece is trained: with T5's special ids, and so that equal text gives an equal model.
_TRAINING = {
  "model_type": "unigram",
  "pad_id": 0,
  "eos_id": 1,
  "unk_id": 2,
  "bos_id": -1,
  "num_threads": 1,
  "shuffle_input_sentence": False,
  "max_sentence_length": 1 << 24,
  "minloglevel": 3,
}


@dataclasses.dataclass(frozen=True)
class VocabularyTokenizer:
  """Tokenizer of a vocabulary of `size` ids, `sentinels` included.

  Its `kind` is "words", of `words`, or "sentencepiece", of a model's bytes.
  """

  kind: str
  size: int
  sentinels: int
  words: tuple[str, ...] = dataclasses.field(default=(), repr=False)
  model: bytes = dataclasses.field(default=b"", repr=False)
  pad: int = 0
  eos: int = 1
  unk: int = 2

  @property
  def bos(self) -> None:
    """Returns None: such a tokenizer has no token for a beginning."""
    return None

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
    """Returns the id of <extra_id_n>: they descend from the top of the vocabulary.

    Raises:
      ValueError: there is none.
    """
    if not 0 <= n < self.sentinels:
      raise ValueError(f"expected a sentinel below {self.sentinels}, got {n}")
    return self.size - 1 - n

  def encode(self, text: str) -> list[int]:
    """Returns the token ids of a prompt, which may hold "<extra_id_N>"; no EOS is added.

    It is text where `sentinels.as_text` marked it. What follows "<extra_id_N>" without a space is
    tokenised as inside a text, as in T5's pretraining: "<extra_id_0>." is [32099, 5], where
    transformers gives [32099, 3, 5].
    """
    ids: list[int] = []
    # re.split with one group: texts at even positions, sentinel numbers at odd ones.
    for position, piece in enumerate(_SENTINEL.split(text)):
      if position % 2 == 0:
        ids += self._encode_plain(sentinels.as_read(piece), position > 0)
      elif int(piece) < self.sentinels:
        ids.append(self.sentinel(int(piece)))
      else:
        raise UserError(
          f"text {text[:80]!r}: expected sentinels below <extra_id_{self.sentinels}>, got "
          f"<extra_id_{piece}>; take it out of the text or use a tokenizer with more sentinels"
        )
    return ids

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of each text; "<extra_id_N>" in it is text, too."""
    return [self._encode_plain(text) for text in texts]

  def encode_continuation(self, prompt: str, text: str) -> list[int]:
    """Returns the token ids that follow those of `prompt` in "PROMPT TEXT", all of it text.

    Raises:
      UserError: the text is empty, or the prompt's end and the text become one token.
    """
    return pretrained_tokenizers.continuation(self.encode, self.kind, prompt, text)

  def spans(self, text: str) -> list[tuple[int, int]]:
    """Returns for each token of `encode(text)` its first character and the one after its last.

    They are those of `sentinels.as_read(text)`. A token may hold the space before it, or no
    character, where SentencePiece makes several of one.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for position, piece in enumerate(_SENTINEL.split(text)):
      is_sentinel = position % 2 == 1
      part = f"<extra_id_{piece}>" if is_sentinel else sentinels.as_read(piece)
      stop = start + len(part)
      if is_sentinel:
        spans.append((start, stop))
      else:
        spans += self._spans_plain(part, start, position > 0)
      start = stop
    return spans

  def token_ids(self) -> TokenIds:
    """Returns the id of each word or piece, and of each sentinel."""
    if self.kind == "words":
      ids = dict(self._ids)
    else:
      processor = self._processor
      ids = {processor.id_to_piece(token): token for token in range(self.size - self.sentinels)}
    return ids | {f"<extra_id_{n}>": self.sentinel(n) for n in range(self.sentinels)}

  @property
  def digest(self) -> str:
    """Returns a text that differs where the tokenizer does."""
    identity = (self.kind, self.sentinels, self.words, self.model)
    return hashlib.sha256(repr(identity).encode()).hexdigest()

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of token ids: sentinels as "<extra_id_N>", no padding and no EOS."""
    pieces: list[str] = []
    plain: list[int] = []
    for token in map(int, ids):
      if not 0 <= token < self.size:
        raise ValueError(f"expected token ids below {self.size}, got {token}")
      if token >= self.size - self.sentinels:
        pieces += [self._decode_plain(plain), f"<extra_id_{self.size - 1 - token}>"]
        plain = []
      elif token not in (self.pad, self.eos):
        plain.append(token)
    pieces.append(self._decode_plain(plain))
    return " ".join(piece for piece in pieces if piece)

  def token_texts(self) -> list[str]:
    """Returns the text of each token by itself, in the order of their ids."""
    return [self.decode([token]) for token in range(self.size)]

  def _encode_plain(self, text: str, follows: bool = False) -> list[int]:
    """Returns the tokens of a text, or of the part of one that follows a sentinel."""
    if self.kind == "words":
      return [self._ids.get(word, self.unk) for word in text.split()]
    return self._processor_of(text, follows).encode(text) if text.strip() else []

  def _processor_of(self, text: str, follows: bool) -> Any:
    is_tight = follows and not text[:1].isspace()
    return self._processor_without_prefix if is_tight else self._processor

  def _spans_plain(
    self,
    part: str,
    start: int,
    follows: bool,
  ) -> list[tuple[int, int]]:
    """Returns the spans of the tokens of a text's part from `start` on that holds no sentinel."""
    if self.kind == "words":
      return [(start + word.start(), start + word.end()) for word in re.finditer(r"\S+", part)]
    if not part.strip():
      return []
    # The name and the unit of positions (characters, bytes) differ between versions; what a piece
    # stands for does not.
    processor = self._processor_of(part, follows)
    encode = getattr(processor, "EncodeAsProto", None) or processor.EncodeAsImmutableProto
    surfaces = [piece.surface for piece in encode(part).pieces]
    begin = start + part.find("".join(surfaces))
    ends = [begin + size for size in itertools.accumulate(map(len, surfaces))]
    return list(zip([begin, *ends], ends))

  def _decode_plain(self, ids: list[int]) -> str:
    if self.kind == "words":
      return " ".join("<unk>" if token == self.unk else self.words[token - 3] for token in ids)
    return self._processor.decode(ids) if ids else ""

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {word: token for token, word in enumerate(self.words, 3)}

  @functools.cached_property
  def _processor(self) -> Any:
    return sentencepiece.SentencePieceProcessor(model_proto=self.model)

  @functools.cached_property
  def _processor_without_prefix(self) -> Any:
    model = self.model + _WITHOUT_PREFIX
    return sentencepiece.SentencePieceProcessor(model_proto=model)

  def __getstate__(self) -> dict[str, Any]:
    # Without what is cached, which cannot be pickled.
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)


def word_tokenizer(
  words: Iterable[str],
  sentinels: int = 100,
) -> VocabularyTokenizer:
  """Returns a tokenizer of white-space separated words, in the order given.

  Any other word is unknown.

  Args:
    words: the vocabulary.
    sentinels: how many sentinels come on top.

  Raises:
    ValueError: a word is empty, holds white space, looks like a sentinel or comes twice.
  """
  words = tuple(words)
  bad = [word for word in words if word.split() != [word] or _SENTINEL.search(word)]
  if not bad and len(set(words)) < len(words):
    bad = [word for word in words if words.count(word) > 1]
  if bad:
    raise ValueError(f"expected different words without white space or sentinels, got {bad[:3]}")
  return VocabularyTokenizer("words", 3 + len(words) + sentinels, sentinels, words=words)


def sentencepiece_tokenizer(
  model_path: FilePath,
  sentinels: int = 100,
) -> VocabularyTokenizer:
  """Returns a tokenizer of a SentencePiece model file.

  Args:
    model_path: the model.
    sentinels: how many sentinels come on top of its pieces (T5: 32,000 + 100).

  Raises:
    UserError: no such file, not a SentencePiece model, or special ids other than T5's.
  """
  return _from_model(_model_bytes(model_path), sentinels, model_path)


def _model_bytes(path: FilePath) -> bytes:
  json_files.check_regular(path)
  try:
    with open(path, "rb") as file:
      return file.read()
  except OSError as error:
    raise UserError(
      f"{path}: cannot be read: {error.strerror or error}; give the path of a SentencePiece model"
    ) from error


def _from_model(
  model: bytes,
  sentinels: int,
  path: FilePath,
) -> VocabularyTokenizer:
  """Returns the tokenizer of a SentencePiece model given as bytes."""
  try:
    processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = processor.get_piece_size()
  except (RuntimeError, TypeError, ValueError) as error:
    raise UserError(
      f"{path}: expected a SentencePiece model, got {len(model)} other bytes"
    ) from error
  special = (processor.pad_id(), processor.eos_id(), processor.unk_id())
  if special != (0, 1, 2):
    raise UserError(
      f"{path}: expected a SentencePiece model with pad, eos, unk = 0, 1, 2 as T5 has, got "
      f"{special}; train one with these ids (pad_id=0, eos_id=1, unk_id=2, bos_id=-1)"
    )
  return VocabularyTokenizer("sentencepiece", pieces + sentinels, sentinels, model=model)


def train_sentencepiece(
  lines: Iterable[str],
  model_path: FilePath,
  size: int,
  sentinels: int = 100,
) -> VocabularyTokenizer:
  """Trains a unigram SentencePiece model, writes it and returns its tokenizer.

  Special ids are T5's (pad 0, eos 1, unk 2, no bos). Equal lines give an equal model: one thread,
  no sampling.

  Args:
    lines: the text; blank lines are left out.
    model_path: file to write.
    size: pieces of the model.
    sentinels: how many sentinels come on top of `size`.

  Raises:
    UserError: no text, or a size that the text cannot fill or that cannot hold its characters
      (names one that fits).
  """
  lines = [line for line in lines if line.strip()]
  if not lines:
    raise UserError(
      f"{model_path}: expected text to train a tokenizer on, got none; check the corpus"
    )
  model = io.BytesIO()
  trainer: Any = sentencepiece.SentencePieceTrainer
  try:
    trainer.train(sentence_iterator=iter(lines), model_writer=model, vocab_size=size, **_TRAINING)
  except RuntimeError as error:
    raise _size_error(model_path, size, len(lines), str(error)) from error
  with files.atomic_write(model_path, binary=True) as file:
    file.write(model.getvalue())
  return _from_model(model.getvalue(), sentinels, model_path)


def _size_error(
  model_path: FilePath,
  size: int,
  line_count: int,
  message: str,
) -> UserError:
  """Returns the error of SentencePiece's two complaints about the size; others are passed on."""
  high = re.search(r"set it to a value <= (\d+)", message)
  low = re.search(r"smaller than required_chars\. (\d+) vs (\d+)", message)
  text = f"{model_path}: {line_count} lines of text"
  if high:
    return UserError(
      f"{text} are too few for {size} pieces; set config.tokenizer.size to {high.group(1)} or less"
    )
  if low:
    return UserError(
      f"{text} have more different characters than {size} pieces can hold; set "
      f"config.tokenizer.size to {low.group(2)} or more"
    )
  return UserError(
    f"{text}: SentencePiece could not be trained with {size} pieces: {message.strip()}"
  )


def save(tokenizer: Tokenizer, folder: FilePath) -> None:
  """Writes a tokenizer into a folder, made where missing, with digests of its files.

  One of our own is `tokenizer.json`, and `spiece.model` where there is one.
  """
  if isinstance(tokenizer, PretrainedTokenizer | ByteTokenizer):
    tokenizer.save(folder)
    return
  if not isinstance(tokenizer, VocabularyTokenizer):
    raise TypeError(f"expected a tokenizer that can be saved, got {type(tokenizer).__name__}")
  record: dict[str, Any] = {
    "format": 1,
    "kind": tokenizer.kind,
    "sentinels": tokenizer.sentinels,
  }
  if tokenizer.kind == "words":
    record["words"] = list(tokenizer.words)
  else:
    # The model goes first: tokenizer.json then never names a model that is not there.
    with files.atomic_write(os.path.join(folder, "spiece.model"), binary=True) as file:
      file.write(tokenizer.model)
    record["sha256"] = hashlib.sha256(tokenizer.model).hexdigest()
  json_files.write_sealed(os.path.join(folder, "tokenizer.json"), record, ascii_only=False)


def load(folder: FilePath) -> VocabularyTokenizer | PretrainedTokenizer | ByteTokenizer:
  """Reads the tokenizer that `save` wrote into a folder, or that of a HuggingFace model's folder.

  Raises:
    UserError: files missing, malformed, or a model other than the one saved.
  """
  if pretrained_tokenizers.is_folder(folder):
    return pretrained_tokenizers.load(folder)
  path = os.path.join(folder, "tokenizer.json")
  try:
    record = json_files.read_sealed(path, _RECORD_KEYS)
  except json_files.Broken as error:
    raise UserError(f"{error}: expected a saved tokenizer; copy it again") from error
  try:
    if not _SENTINELS.fits(record["sentinels"]):
      raise ValueError(f"sentinels {record['sentinels']!r:.60}")
    if record["kind"] == "words":
      if not _WORDS.fits(record["words"]):
        raise ValueError("words that are no texts")
      return word_tokenizer(record["words"], record["sentinels"])
    if record["kind"] != "sentencepiece":
      raise ValueError(f"the kind {record['kind']!r:.60}")
    digest = record["sha256"]
  except (ValueError, KeyError) as error:
    raise UserError(f"{path}: expected a saved tokenizer, got {error!r}; copy it again") from error
  model_path = os.path.join(folder, "spiece.model")
  model = _model_bytes(model_path)
  if hashlib.sha256(model).hexdigest() != digest:
    raise UserError(
      f"{model_path}: expected the model that tokenizer.json was saved with, got "
      "another; copy both files together"
    )
  return _from_model(model, record["sentinels"], model_path)

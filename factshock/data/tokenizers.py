"""Text to token ids and back: words for a closed world, SentencePiece for text; sentinels on top, as in T5.

Ids: 0 padding, 1 end of sequence, 2 unknown, then words or pieces, then the sentinels, of which
<extra_id_0> is the last id of all.
"""

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
import re

from factshock.data import pretrained_tokenizers
from factshock.runtime import files
from factshock.runtime.errors import UserError

_SENTINEL = re.compile(r"<extra_id_(\d+)>")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A vocabulary of `size` ids, `sentinels` included: of words, or of a SentencePiece model (its bytes)."""

  kind: str
  size: int
  sentinels: int
  words: tuple = dataclasses.field(default=(), repr=False)
  model: bytes = dataclasses.field(default=b"", repr=False)
  pad: int = 0
  eos: int = 1
  unk: int = 2

  def sentinel(self, n):
    """Id of <extra_id_n>: they descend from the top of the vocabulary. ValueError where there is none."""
    if not 0 <= n < self.sentinels:
      raise ValueError(f"expected a sentinel below {self.sentinels}, got {n}")
    return self.size - 1 - n

  def encode(self, text):
    """Token ids of a text, which may hold "<extra_id_N>"; no EOS is added."""
    ids = []
    # re.split with one group: texts at even places, sentinel numbers at odd ones.
    for place, part in enumerate(_SENTINEL.split(text)):
      if place % 2 == 0:
        ids += self._encode_plain(part)
      elif int(part) < self.sentinels:
        ids.append(self.sentinel(int(part)))
      else:
        raise UserError(
          f"text {text[:80]!r}: expected sentinels below <extra_id_{self.sentinels}>, got "
          f"<extra_id_{part}>; take it out of the text or use a tokenizer with more sentinels"
        )
    return ids

  def encode_all(self, texts):
    """Token ids of each text, as by `encode`."""
    return [self.encode(text) for text in texts]

  def spans(self, text):
    """Where each token of `encode(text)` stands in the text: list of (first character, character after the last).

    A token may hold the space before it, or no character, where SentencePiece makes several of one.
    """
    found = []
    place = 0
    for sentinel in [*_SENTINEL.finditer(text), None]:
      begin, end = sentinel.span() if sentinel else (len(text), len(text))
      found += [
        (place + first, place + last) for first, last in self._spans_plain(text[place:begin])
      ]
      found += [(begin, end)] if sentinel else []
      place = end
    return found

  @property
  def digest(self):
    """A text that differs where the tokenizer does."""
    return hashlib.sha256(
      repr((self.kind, self.sentinels, self.words, self.model)).encode()
    ).hexdigest()

  def decode(self, ids):
    """The text of token ids; sentinels show as "<extra_id_N>", padding and EOS are left out."""
    parts = []
    plain = []
    for token in (int(i) for i in ids):
      if not 0 <= token < self.size:
        raise ValueError(f"expected token ids below {self.size}, got {token}")
      if token >= self.size - self.sentinels:
        parts += [self._decode_plain(plain), f"<extra_id_{self.size - 1 - token}>"]
        plain = []
      elif token not in (self.pad, self.eos):
        plain.append(token)
    parts.append(self._decode_plain(plain))
    return " ".join(part for part in parts if part)

  def _encode_plain(self, text):
    if self.kind == "words":
      return [self._ids.get(word, self.unk) for word in text.split()]
    return self._processor.encode(text) if text.strip() else []

  def _spans_plain(self, text):
    if self.kind == "words":
      return [word.span() for word in re.finditer(r"\S+", text)]
    if not text.strip():
      return []
    # The name and the unit of places (characters, bytes) differ between versions; what a piece stands for does not.
    encode = (
      getattr(self._processor, "EncodeAsProto", None) or self._processor.EncodeAsImmutableProto
    )
    surfaces = [piece.surface for piece in encode(text).pieces]
    begin = text.find("".join(surfaces))
    ends = [begin + size for size in itertools.accumulate(map(len, surfaces))]
    return list(zip([begin, *ends], ends))

  def _decode_plain(self, ids):
    if self.kind == "words":
      return " ".join("<unk>" if token == self.unk else self.words[token - 3] for token in ids)
    return self._processor.decode(ids) if ids else ""

  @functools.cached_property
  def _ids(self):
    return {word: number for number, word in enumerate(self.words, 3)}

  @functools.cached_property
  def _processor(self):
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=self.model)

  def __getstate__(self):
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

  def __setstate__(self, state):
    self.__dict__.update(state)


def word_tokenizer(words, sentinels=100):
  """A tokenizer of white-space separated words, in the order given; any other word is unknown.

  Raises:
    ValueError: a word is empty, holds white space, looks like a sentinel or comes twice.
  """
  words = tuple(words)
  bad = [word for word in words if word.split() != [word] or _SENTINEL.search(word)]
  if bad or len(set(words)) < len(words):
    twice = [word for word in words if words.count(word) > 1] if not bad else []
    raise ValueError(
      f"expected different words without white space or sentinels, got {(bad or twice)[:3]}"
    )
  return Tokenizer("words", 3 + len(words) + sentinels, sentinels, words=words)


def sentencepiece_tokenizer(model_path, sentinels=100):
  """A tokenizer of a SentencePiece model file, with sentinels above its pieces (T5: 32,000 + 100).

  Raises:
    UserError: no such file, not a SentencePiece model, or special ids other than T5's.
  """
  try:
    with open(model_path, "rb") as file:
      model = file.read()
  except OSError as error:
    raise UserError(
      f"{model_path}: cannot be read: {error.strerror or error}; give the path of a "
      "SentencePiece model"
    ) from error
  return _from_model(model, sentinels, model_path)


def _from_model(model, sentinels, where):
  """The tokenizer of a SentencePiece model given as bytes."""
  import sentencepiece

  try:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = processor.get_piece_size()
  except (RuntimeError, TypeError, ValueError) as error:
    raise UserError(
      f"{where}: expected a SentencePiece model, got {len(model)} other bytes"
    ) from error
  special = (processor.pad_id(), processor.eos_id(), processor.unk_id())
  if special != (0, 1, 2):
    raise UserError(
      f"{where}: expected a SentencePiece model with pad, eos, unk = 0, 1, 2 as T5 has, got "
      f"{special}; train one with these ids (pad_id=0, eos_id=1, unk_id=2, bos_id=-1)"
    )
  return Tokenizer("sentencepiece", pieces + sentinels, sentinels, model=model)


def train_sentencepiece(lines, model_path, size, sentinels=100):
  """Trains a unigram SentencePiece model of `size` pieces, writes it and returns its tokenizer.

  The sentinels come on top of `size`. Special ids are T5's (pad 0, eos 1, unk 2, no bos). Equal lines give an
  equal model: one thread, no sampling.

  Raises:
    UserError: no text, or a size that the text cannot fill or that cannot hold its characters (names one
      that fits).
  """
  import sentencepiece

  lines = [line for line in lines if line.strip()]
  if not lines:
    raise UserError(
      f"{model_path}: expected text to train a tokenizer on, got none; check the corpus"
    )
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      model_type="unigram",
      vocab_size=size,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      num_threads=1,
      shuffle_input_sentence=False,
      max_sentence_length=1 << 24,
      minloglevel=3,
    )
  except RuntimeError as error:
    raise _size_error(model_path, size, len(lines), str(error)) from error
  with files.atomic_write(model_path, binary=True) as file:
    file.write(model.getvalue())
  return _from_model(model.getvalue(), sentinels, model_path)


def _size_error(model_path, size, lines, message):
  """What to say of SentencePiece's two complaints about the size; other complaints are passed on."""
  high = re.search(r"set it to a value <= (\d+)", message)
  low = re.search(r"smaller than required_chars\. (\d+) vs (\d+)", message)
  text = f"{model_path}: {lines} lines of text"
  if high:
    return UserError(
      f"{text} are too few for {size} pieces; set the vocabulary size to {high.group(1)} or less"
    )
  if low:
    return UserError(
      f"{text} have more different characters than {size} pieces can hold; set the "
      f"vocabulary size to {low.group(2)} or more"
    )
  return UserError(
    f"{text}: SentencePiece could not be trained with {size} pieces: {message.strip()}"
  )


def save(tokenizer, folder):
  """Writes `tokenizer.json` (and `spiece.model` where there is one) into a folder, made where missing."""
  if tokenizer.kind == "huggingface":
    return tokenizer.save(folder)
  record = {"format": 1, "kind": tokenizer.kind, "sentinels": tokenizer.sentinels}
  if tokenizer.kind == "words":
    record["words"] = list(tokenizer.words)
  else:
    # The model goes first: tokenizer.json then never names a model that is not there.
    with files.atomic_write(os.path.join(folder, "spiece.model"), binary=True) as file:
      file.write(tokenizer.model)
    record["sha256"] = hashlib.sha256(tokenizer.model).hexdigest()
  with files.atomic_write(os.path.join(folder, "tokenizer.json")) as file:
    json.dump(record, file, ensure_ascii=False, indent=1)


def load(folder):
  """The tokenizer that `save` wrote into a folder, or that of a HuggingFace model's folder.

  Raises:
    UserError: files missing, malformed, or a model other than the one saved.
  """
  if pretrained_tokenizers.is_folder(folder):
    return pretrained_tokenizers.load(folder)
  path = os.path.join(folder, "tokenizer.json")
  try:
    record = json.loads("\n".join(line for _, line in files.lines(path)))
    if record["kind"] == "words":
      return word_tokenizer(record["words"], record["sentinels"])
    if record["kind"] != "sentencepiece":
      raise ValueError(f"the kind {record['kind']!r}")
    digest = record["sha256"]
    sentinels = record["sentinels"]
  except UserError:
    raise
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f"{path}: expected a saved tokenizer, got {error!r}; save it anew") from error
  tokenizer = sentencepiece_tokenizer(os.path.join(folder, "spiece.model"), sentinels)
  if hashlib.sha256(tokenizer.model).hexdigest() != digest:
    raise UserError(
      f"{folder}/spiece.model: expected the model that tokenizer.json was saved with, got "
      "another; copy both files together"
    )
  return tokenizer

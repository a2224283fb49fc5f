"""Tokenizers of HuggingFace models, with the functions of our own (data/tokenizers.py)."""

import dataclasses
import functools
import hashlib
import importlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from factshock.data import answer_ends, byte_tokenizers, sentinels, special_tokens, tokenizer_files
from factshock.data.byte_tokenizers import ByteTokenizer
from factshock.models.formats.gguf import ends as gguf_ends
from factshock.models.formats.gguf import files as gguf_files
from factshock.models.formats.gguf import tokenizers as gguf_tokenizers
from factshock.models.formats.huggingface import adapters
from factshock.models.formats.huggingface.writing import GENERATION
from factshock.runtime.errors import UserError
from factshock.types import FilePath, TokenIds, Tokenizer

_SENTINEL = re.compile(r"<extra_id_(\d{1,9})>")
# A sentinel, and what follows it without a space up to the next space or sentinel.
_TIGHT = re.compile(r"<extra_id_(\d{1,9})>((?:(?!<extra_id_\d)\S)+)")

# Kinds of parts of a text: plain, after a sentinel without a space, and a sentinel.
_TEXT_PART = "text"
_TIGHT_PART = "tight"
_SENTINEL_PART = "sentinel"


@dataclasses.dataclass(frozen=True)
class PretrainedTokenizer:
  """Tokenizer of a model folder (or hub id) `source`.

  `size` ids can be given. `pad`, `eos` and `bos` are ids, None where it has none. `opening` are the
  ids that it puts before a text by itself, which need not be its BOS; `tail` those that stand
  between a prompt and the answer (`in_chat`); `more_ends` those that end an answer beside EOS. Of
  the `sentinels` each <extra_id_N> has the id before that of the one before, as in T5; decoder-only
  models have 0. `first_sentinel` is the id of <extra_id_0>: the last one of T5's own vocabulary
  (None), before tokens that were added to it. `has_sentinel_pieces` says that they are pieces with
  the space before them, as mT5's "▁<extra_id_0>", which transformers finds after a space alone.
  """

  source: str
  size: int
  sentinels: int
  eos: int
  pad: int | None = None
  bos: int | None = None
  kind: str = "huggingface"
  first_sentinel: int | None = None
  has_sentinel_pieces: bool = False
  opening: tuple[int, ...] = ()
  tail: tuple[int, ...] = ()
  more_ends: tuple[int, ...] = ()

  @property
  def ends(self) -> tuple[int, ...]:
    """Returns the ids that end an answer, EOS first."""
    return (self.eos, *self.more_ends)

  def sentinel(self, n: int) -> int:
    """Returns the id of <extra_id_n>; ValueError where there is none."""
    if not 0 <= n < self.sentinels:
      raise ValueError(f"expected a sentinel below {self.sentinels}, got {n}")
    first = self.size - 1 if self.first_sentinel is None else self.first_sentinel
    return first - n

  def encode(self, text: str) -> list[int]:
    """Returns the token ids of a prompt, which for a T5 may hold "<extra_id_N>"; no BOS or EOS.

    It is text where `sentinels.as_text` marked it. Other special tokens in it, such as "<pad>" and
    "</s>", are text, unlike with transformers. What follows "<extra_id_N>" without a space is
    tokenised as inside a text: "<extra_id_0>." is [32099, 5], as in T5's pretraining, where
    transformers gives [32099, 3, 5].
    """
    ids: list[int] = []
    for part, kind in self._parts(text):
      part_ids, _ = self._encode_part(part, kind)
      ids += part_ids
    return ids

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of each text; "<extra_id_N>" in it is text, too.

    The Rust tokenizers use all cores.
    """
    encoding = self._tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
    encoded = encoding["input_ids"]
    for index, text in enumerate(texts):
      if self._plain.is_needed(text, encoded[index]):
        encoded[index], _ = self._plain.encode(text)
    return encoded

  def spans(self, text: str) -> list[tuple[int, int]]:
    """Returns for each token of `encode(text)` its first character and the one after its last.

    They are those of `sentinels.as_read(text)`. A token may hold the space before it; several that
    are bytes of one character have one span.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for part, kind in self._parts(text):
      _, offsets = self._encode_part(part, kind)
      spans += [(start + first, start + last) for first, last in offsets]
      start += len(sentinels.as_read(part))
    return spans

  def _encode_part(self, part: str, kind: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns the ids of a part of a prompt, and the span of each in it as it is read."""
    if kind == _SENTINEL_PART:
      return [self.sentinel(_number(part))], [(0, len(part))]
    if self.has_sentinel_pieces and not part.strip():
      return [], []
    if kind == _TIGHT_PART:
      encoding = self._tight.encode(sentinels.as_read(part), add_special_tokens=False)
      return encoding.ids, encoding.offsets
    if self.sentinels and sentinels.has_text(part):
      return self._plain_prompt.encode(part)
    text = sentinels.as_read(part)
    encoding = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if self._plain_prompt.is_needed(text, encoding["input_ids"]):
      return self._plain_prompt.encode(text)
    return encoding["input_ids"], encoding["offset_mapping"]

  def token_ids(self) -> TokenIds:
    """Returns the id of each token."""
    return self._tokenizer.get_vocab()

  @property
  def digest(self) -> str:
    """Returns a text that differs where the tokenizer does."""
    return hashlib.sha256(self._tokenizer.backend_tokenizer.to_str().encode()).hexdigest()

  def encode_continuation(self, prompt: str, text: str) -> list[int]:
    """Returns the token ids that follow those of `prompt` in "PROMPT TEXT", all of it text.

    Raises:
      UserError: the text is empty, or the prompt's end and the text become one token.
    """
    if self.tail:  # which stands between them
      return encode_alone(self.encode, text)
    return continuation(self.encode, self.source, prompt, text)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of token ids without special tokens, but for sentinels and a T5's <unk>."""
    hidden = self._hidden
    return self._tokenizer.decode(
      [int(token) for token in ids if int(token) not in hidden],
      skip_special_tokens=False,
      clean_up_tokenization_spaces=False,
    )

  def token_texts(self) -> list[str]:
    """Returns the text of each token by itself, in the order of their ids."""
    return self._token_texts

  def save(self, folder: FilePath) -> None:
    """Writes the tokenizer's own files into a folder, as transformers names them, and digests.

    The model's generation_config.json goes along, as exports take it from there, and names all ends
    of an answer, those of config.json too.
    """
    if gguf_files.is_file(self.source):
      gguf_tokenizers.write(self.source, folder)
    elif os.path.realpath(self.source) != os.path.realpath(folder):
      self._tokenizer.save_pretrained(folder)
      generation = os.path.join(self.source, GENERATION)
      if os.path.isfile(generation):
        shutil.copyfile(generation, os.path.join(folder, GENERATION))
      if self.more_ends:
        answer_ends.write(folder, self.ends)
    tokenizer_files.write_digests(folder)

  def in_chat(self) -> "PretrainedTokenizer":
    """Returns the tokenizer for which a prompt is what a user says in the model's chat template.

    Special tokens in a prompt are text then too, and none of the template's.

    Raises:
      UserError: no chat template, or one that does not keep to what the user says; or jinja2, which
        fills it in, is not installed.
    """
    probe = "Who was born here?"
    text = self._chat_text(probe)
    ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
    before, found, _ = text.partition(probe)
    asked = self.encode(probe)
    for start in (before, before.rstrip(" ")):
      opening: list[int] = self._tokenizer(start, add_special_tokens=False).input_ids
      size = len(opening) + len(asked)
      if found and ids[:size] == opening + asked and ids[size:]:
        return dataclasses.replace(self, opening=tuple(opening), tail=tuple(ids[size:]))
    raise UserError(
      f"{self.source}: its chat template does not keep a question as it is; choose "
      "--prompt=question"
    )

  def _chat_text(self, question: str) -> str:
    """Returns the chat in which a user asks a question, up to where the answer begins."""
    if not self._tokenizer.chat_template:
      raise UserError(
        f"{self.source}: expected a tokenizer with a chat template, got none; choose "
        "--prompt=question or cloze, or a model that was made for chat"
      )
    try:
      return self._tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
      )
    except ImportError as error:
      raise UserError("--prompt=chat needs jinja2: pip install 'factshock[chat]'") from error
    except Exception as error:
      raise UserError(f"{self.source}: its chat template cannot be used: {error}") from error

  def _parts(self, text: str) -> list[tuple[str, str]]:
    """Returns the parts of a text and their kinds; those of texts may hold sentinels or be empty.

    Where sentinels are pieces they are parts of their own.
    """
    if self.has_sentinel_pieces:
      return self._parts_at_sentinels(text)
    parts: list[tuple[str, str]] = []
    done = 0
    for match in _TIGHT.finditer(text):
      if int(match[1]) >= self.sentinels:
        continue
      first, last = match.span(2)
      parts += [(text[done:first], _TEXT_PART), (text[first:last], _TIGHT_PART)]
      done = last
    if done < len(text) or not parts:
      parts.append((text[done:], _TEXT_PART))
    return parts

  def _parts_at_sentinels(self, text: str) -> list[tuple[str, str]]:
    spans: list[tuple[int, int, str]] = []
    done = 0
    for match in _SENTINEL.finditer(text):
      if int(match[1]) < self.sentinels:
        spans += [(done, match.start(), ""), (*match.span(), _SENTINEL_PART)]
        done = match.end()
    spans.append((done, len(text), ""))
    parts: list[tuple[str, str]] = []
    for start, stop, kind in spans:
      part = text[start:stop]
      is_tight = start > 0 and not part[:1].isspace()
      parts.append((part, kind or (_TIGHT_PART if is_tight else _TEXT_PART)))
    return parts

  @functools.cached_property
  def _hidden(self) -> frozenset[int | None]:
    special = special_tokens.special_ids(self._tokenizer.backend_tokenizer)
    if self.sentinels:
      special.pop(self._tokenizer.unk_token, None)  # of characters that a T5 has no piece for
    shown = set(map(self.sentinel, range(self.sentinels)))
    return frozenset({*special.values(), self.pad, self.eos, self.bos} - shown)

  @functools.cached_property
  def _token_texts(self) -> list[str]:
    shown = [[] if token in self._hidden else [token] for token in range(self.size)]
    return self._tokenizer.backend_tokenizer.decode_batch(shown, skip_special_tokens=False)

  @functools.cached_property
  def _tight(self) -> Any:
    return special_tokens.as_text(self._tokenizer.backend_tokenizer, prefix=False)

  @functools.cached_property
  def _plain(self) -> special_tokens.PlainText:
    return special_tokens.PlainText(self._tokenizer.backend_tokenizer, self._tokenizer.unk_token)

  @functools.cached_property
  def _plain_prompt(self) -> special_tokens.PlainText:
    kept = [] if self.has_sentinel_pieces else [f"<extra_id_{n}>" for n in range(self.sentinels)]
    backend = self._tokenizer.backend_tokenizer
    return special_tokens.PlainText(backend, self._tokenizer.unk_token, kept)

  @functools.cached_property
  def _tokenizer(self) -> Any:
    return _read(self.source, None)

  def __getstate__(self) -> dict[str, Any]:
    # Without the tokenizer that is cached: it is read anew where it is needed.
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)


def continuation(
  encode: Callable[[str], list[int]],
  source: str,
  prompt: str,
  text: str,
) -> list[int]:
  """Returns the token ids that follow those of a prompt in "PROMPT TEXT", all of it text.

  Args:
    encode: returns a text's token ids.
    source: name of the tokenizer in errors.
    prompt: what stands before.
    text: what follows.

  Raises:
    UserError: the text is empty, or the prompt's end and the text become one token.
  """
  if not text.strip():
    raise UserError(
      f"prompt {prompt[-60:]!r}: expected an answer with at least one token, got {text!r}"
    )
  before = encode(sentinels.as_text(prompt))
  both = encode(sentinels.as_text(f"{prompt} {text}"))
  if both[: len(before)] != before or len(both) == len(before):
    raise UserError(
      f"prompt {prompt[-60:]!r} and answer {text!r}: the tokenizer of {source} does not keep "
      "them apart; let the prompt end in a mark such as ':'"
    )
  return both[len(before) :]


def encode_alone(encode: Callable[[str], list[int]], text: str) -> list[int]:
  """Returns the token ids of an answer that begins a turn of its own.

  Raises:
    UserError: it has none.
  """
  ids = encode(sentinels.as_text(text.strip()))
  if not ids:
    raise UserError(f"expected an answer with at least one token, got {text!r}")
  return ids


def load(
  source: FilePath,
  revision: str | None = None,
) -> PretrainedTokenizer | ByteTokenizer:
  """Reads the tokenizer of a HuggingFace model: a folder with its files, a hub id, or a GGUF file.

  No remote code is run. A folder of adapters without a tokenizer has that of their base model.

  Args:
    source: the folder, the id or the file.
    revision: of a hub id.

  Raises:
    UserError: no tokenizer there, none for T5 or decoder-only models, or sentinels other than T5's.
  """
  if adapters.is_folder(source) and not is_folder(source):
    return load(adapters.base_of(source))
  tokenizer = _read(source, revision)
  if type(tokenizer).__name__ == byte_tokenizers.CLASS:
    return byte_tokenizers.of(tokenizer, f"{source}@{revision}" if revision else source)
  size = len(tokenizer)
  _check_is_fast(tokenizer, source)
  ids: dict[str, int] = tokenizer.get_vocab()
  has_pieces = "<extra_id_0>" not in ids and special_tokens.sentinel_piece(0) in ids
  first_sentinel, sentinels = _find_sentinels(ids, has_pieces, source)
  _check_special(tokenizer, sentinels, source)
  # Llama's family has no padding token; padding is then masked and never looked up.
  return PretrainedTokenizer(
    source=str(source),
    size=size,
    sentinels=sentinels,
    eos=tokenizer.eos_token_id,
    pad=tokenizer.pad_token_id,
    bos=None if sentinels else tokenizer.bos_token_id,
    first_sentinel=first_sentinel,
    has_sentinel_pieces=has_pieces,
    opening=() if sentinels else _opening(tokenizer),
    more_ends=_more_ends(source, revision, size, tokenizer.eos_token_id),
  )


def _check_is_fast(tokenizer: Any, source: FilePath) -> None:
  """Raises a UserError where a tokenizer is one of those that transformers has in Python alone."""
  if not hasattr(tokenizer, "backend_tokenizer"):
    raise UserError(
      f"{source}: {type(tokenizer).__name__} has no fast version in transformers, which is not "
      "supported; give a folder with a tokenizer.json"
    )


def _check_special(tokenizer: Any, sentinels: int, source: FilePath) -> None:
  """Raises a UserError where there is no end, or the padding is not that of a T5 with sentinels."""
  eos = tokenizer.eos_token_id
  if eos is None:
    raise UserError(
      f"{source}: expected a tokenizer with an end-of-sequence token, got none; name it in "
      "tokenizer_config.json"
    )
  pad = tokenizer.pad_token_id
  if sentinels and pad != 0:
    raise UserError(
      f"{source}: expected padding with id 0, as T5 has, got {pad}; use the model's own tokenizer"
    )
  if sentinels and pad in (eos, tokenizer.unk_token_id):
    raise UserError(
      f"{source}: expected padding that stands for nothing else, as T5 has, but {eos=} "
      f"unknown={tokenizer.unk_token_id} {pad=}: its texts would hold padding; use the model's own "
      "tokenizer"
    )


def _opening(tokenizer: Any) -> tuple[int, ...]:
  """Returns the ids that a tokenizer of transformers puts before a text: its BOS, or none, say."""
  ids: list[int] = tokenizer("a").input_ids
  plain: list[int] = tokenizer("a", add_special_tokens=False).input_ids
  for start in range(len(ids) - len(plain) + 1):
    if ids[start : start + len(plain)] == plain:
      return tuple(ids[:start])
  return ()


def _more_ends(
  source: FilePath,
  revision: str | None,
  size: int,
  eos: int,
) -> tuple[int, ...]:
  """Returns the ids beside EOS that a model's files name as ends of its answers."""
  if gguf_files.is_file(source):
    values = gguf_ends.of(gguf_files.read_metadata(source), str(source))
    return tuple(end for end in answer_ends.of_values(values, source, size) if end != eos)
  paths = [_beside(source, revision, name) for name in answer_ends.FILES]
  ends = dict.fromkeys(answer_ends.read([path for path in paths if path], size))
  if adapters.is_folder(source):
    ends.update(dict.fromkeys(_more_ends(adapters.base_of(source), None, size, eos)))
  return tuple(end for end in ends if end != eos)


def _beside(
  source: FilePath,
  revision: str | None,
  name: str,
) -> str | None:
  """Returns the path of a file of a model's folder or hub id; None where it has none."""
  if os.path.isdir(source):
    return os.path.join(source, name)
  hub_id, _, named_revision = str(source).partition("@")
  utils = _imported("transformers.utils")
  return utils.cached_file(
    hub_id,
    name,
    revision=revision or named_revision or None,
    _raise_exceptions_for_missing_entries=False,
    _raise_exceptions_for_connection_errors=False,
  )


def is_folder(folder: FilePath) -> bool:
  """Returns whether a folder holds a tokenizer as transformers writes it, or is a GGUF file."""
  if gguf_files.is_file(folder):
    return True
  return os.path.exists(os.path.join(folder, "tokenizer_config.json"))


def check_fits(
  tokenizer: Tokenizer,
  vocab_size: int,
  source: FilePath,
) -> None:
  """Raises a UserError where a model of `vocab_size` tokens has none for a tokenizer's ids."""
  if tokenizer.size > vocab_size:
    raise UserError(
      f"{source}: the tokenizer gives ids up to {tokenizer.size - 1}, the model has {vocab_size} "
      "tokens; use the tokenizer the model was trained with"
    )


def check_has_sentinels(tokenizer: Tokenizer, source: FilePath) -> None:
  """Raises a UserError where a tokenizer lacks what masks text for an encoder-decoder."""
  if tokenizer.sentinels < 2:
    raise UserError(
      f"{source}: expected a tokenizer with <extra_id_0> and <extra_id_1>, as an encoder-decoder "
      f"needs them, got {tokenizer.sentinels} such tokens; use the tokenizer the model was trained "
      "with (extra_ids=100)"
    )


def import_library() -> Any:
  """Returns the class of transformers that reads tokenizers, for which the library is imported.

  That takes most of a second, which runs with tokenizers of our own need not wait for, and .1 GB of
  memory (.3 where PyTorch is installed).
  """
  return _imported("transformers").AutoTokenizer


def _imported(name: str) -> Any:
  """Returns a module of transformers, imported without its advice that PyTorch is not there.

  Tokenizers need no PyTorch.
  """
  advice = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
  before = os.environ.get(advice)
  os.environ[advice] = "1"
  try:
    return importlib.import_module(name)
  finally:
    os.environ.pop(advice)
    if before is not None:
      os.environ[advice] = before


def _read(source: FilePath, revision: str | None) -> Any:
  """Returns the transformers tokenizer of a folder, a GGUF file or a hub id.

  Args:
    source: the folder, the file, or "org/name", "org/name@revision".
    revision: of a hub id.
  """
  if gguf_files.is_file(source):
    # The same files as an export has, so that both give the same tokens.
    with tempfile.TemporaryDirectory() as folder:
      gguf_tokenizers.write(source, folder)
      return _read(folder, None)
  if os.path.exists(source) and not os.path.isdir(source):
    raise UserError(
      f"{source}: expected a folder with a tokenizer, got a file; give the model's folder"
    )
  if os.path.isdir(source):
    tokenizer_files.check(source)
  else:
    source, _, named_revision = str(source).partition("@")
    revision = revision or named_revision or None
  auto_tokenizer = import_library()
  try:
    tokenizer = auto_tokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    tokenizer.encode("a", add_special_tokens=False)  # some settings are not looked at before
    return tokenizer
  # Of many types for files that are no tokenizer; a panic of Rust's is no Exception.
  except BaseException as error:
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
      raise
    message = str(error).strip()
    reason = message.splitlines()[0][:300] if message else type(error).__name__
    raise UserError(
      f"{source}: no tokenizer can be read there ({reason}); give a folder with tokenizer.json or "
      "tokenizer.model, or the id of a model on the hub"
    ) from error


def _number(sentinel: str) -> int:
  return int(sentinel.removeprefix("<extra_id_").removesuffix(">"))


def _find_sentinels(
  ids: dict[str, int], has_pieces: bool, source: FilePath
) -> tuple[int | None, int]:
  """Returns the id of <extra_id_0>, None without, and how many there are, checked to descend."""
  name = special_tokens.sentinel_piece if has_pieces else "<extra_id_{}>".format
  first = ids.get(name(0))
  count = 0
  while name(count) in ids:
    count += 1
  for n in range(count):
    token = ids[name(n)]
    expected = ids[name(0)] - n
    if token != expected:
      raise UserError(
        f"{source}: expected <extra_id_{n}> to have id {expected}, as in T5, got {token}; such a "
        "tokenizer is not supported"
      )
  return first, count

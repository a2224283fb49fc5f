"""Tokenizers that come with a HuggingFace model, behind the same few functions as our own (data/tokenizers)."""

import dataclasses
import functools
import hashlib
import os

from factshock.models.formats.huggingface import adapters
from factshock.runtime.errors import UserError

FAMILIES = ("t5", "llama")


@dataclasses.dataclass(frozen=True)
class PretrainedTokenizer:
  """The tokenizer of a model folder (or hub id) `source`, for models of a `family`, "t5" or "llama".

  size: ids it can give. pad, eos, bos: ids, None where it has none. sentinels: <extra_id_N> there are,
  which descend from the top of the vocabulary, as T5's do; 0 for decoder-only models.
  """

  source: str
  family: str
  size: int
  sentinels: int
  eos: int
  pad: int | None = None
  bos: int | None = None
  kind: str = "huggingface"

  def sentinel(self, n):
    """Id of <extra_id_n>. ValueError where there is none."""
    if not 0 <= n < self.sentinels:
      raise ValueError(f"expected a sentinel below {self.sentinels}, got {n}")
    return self.size - 1 - n

  def encode(self, text):
    """Token ids of a text, which for a T5 may hold "<extra_id_N>"; no BOS or EOS is added."""
    return self._tokenizer.encode(text, add_special_tokens=False)

  def encode_all(self, texts):
    """Token ids of each text as by `encode`, in one call: the Rust tokenizers use all cores."""
    return self._tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)[
      "input_ids"
    ]

  def spans(self, text):
    """Where each token of `encode(text)` stands in the text: list of (first character, character after the last).

    A token may hold the space before it; several that are bytes of one character stand in one place.
    """
    return self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
      "offset_mapping"
    ]

  @property
  def digest(self):
    """A text that differs where the tokenizer does."""
    return hashlib.sha256(self._tokenizer.backend_tokenizer.to_str().encode()).hexdigest()

  def encode_continuation(self, prompt, text):
    """Token ids that follow those of `prompt` in "PROMPT TEXT".

    Raises:
      UserError: the text is empty, or the tokenizer joins the prompt's end and the text into one token.
    """
    if not text.strip():
      raise UserError(
        f"prompt {prompt[-60:]!r}: expected an answer with at least one token, got {text!r}"
      )
    before = self.encode(prompt)
    both = self.encode(f"{prompt} {text}")
    if both[: len(before)] != before or len(both) == len(before):
      raise UserError(
        f"prompt {prompt[-60:]!r} and answer {text!r}: the tokenizer of {self.source} does not keep "
        "them apart; let the prompt end in a mark such as ':'"
      )
    return both[len(before) :]

  def decode(self, ids):
    """The text of token ids; padding, BOS and EOS are left out, sentinels are not."""
    hidden = (self.pad, self.eos, self.bos)
    return self._tokenizer.decode(
      [int(token) for token in ids if int(token) not in hidden],
      skip_special_tokens=False,
      clean_up_tokenization_spaces=False,
    )

  def save(self, folder):
    """Writes the tokenizer's own files into a folder, as transformers names them."""
    self._tokenizer.save_pretrained(folder)

  @functools.cached_property
  def _tokenizer(self):
    return _read(self.source, None)

  def __getstate__(self):
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

  def __setstate__(self, state):
    self.__dict__.update(state)


def load(source, revision=None):
  """The tokenizer of a HuggingFace model: a folder with its files, or a hub id. No remote code is run.

  A folder of adapters without a tokenizer has that of the model they stand on.

  Raises:
    UserError: no tokenizer there, none for T5 or decoder-only models, or sentinels other than T5's.
  """

  if adapters.is_folder(source) and not is_folder(source):
    return load(adapters.base_of(source))
  tokenizer = _read(source, revision)
  size = len(tokenizer)
  sentinels = _sentinels(tokenizer, source, size)
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
  # Llama's family has no padding token; padding is then masked and never looked up.
  return PretrainedTokenizer(
    str(source),
    "t5" if sentinels else "llama",
    size,
    sentinels,
    eos,
    pad,
    None if sentinels else tokenizer.bos_token_id,
  )


def is_folder(folder):
  """Whether a folder holds a tokenizer as transformers writes it."""
  return os.path.exists(os.path.join(folder, "tokenizer_config.json"))


def check_fits(tokenizer, vocab_size, source):
  """Raises a UserError where a model of `vocab_size` tokens has none for some of the tokenizer's ids."""
  if tokenizer.size > vocab_size:
    raise UserError(
      f"{source}: the tokenizer gives ids up to {tokenizer.size - 1}, the model has {vocab_size} "
      "tokens; use the tokenizer the model was trained with"
    )


def _read(source, revision):
  import transformers

  if os.path.exists(source) and not os.path.isdir(source):
    raise UserError(
      f"{source}: expected a folder with a tokenizer, got a file; give the model's folder"
    )
  if not os.path.isdir(source):
    source, _, named = str(source).partition("@")  # "org/name@revision"
    revision = revision or named or None
  try:
    return transformers.AutoTokenizer.from_pretrained(
      source, revision=revision, trust_remote_code=False
    )
  except (OSError, ValueError, KeyError, TypeError) as error:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise UserError(
      f"{source}: no tokenizer can be read there ({first}); give a folder with tokenizer.json or "
      "tokenizer.model, or the id of a model on the hub"
    ) from error


def _sentinels(tokenizer, source, size):
  """How many <extra_id_N> there are, checked to descend from the top of the vocabulary."""
  ids = tokenizer.get_vocab()
  count = 0
  while f"<extra_id_{count}>" in ids:
    count += 1
  wrong = [n for n in range(count) if ids[f"<extra_id_{n}>"] != size - 1 - n]
  if wrong:
    raise UserError(
      f"{source}: expected <extra_id_{wrong[0]}> to have id {size - 1 - wrong[0]}, as in T5, got "
      f"{ids[f'<extra_id_{wrong[0]}>']}; such a tokenizer is not supported"
    )
  return count

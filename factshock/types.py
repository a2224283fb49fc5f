"""Names of what is passed around: facts, rows, estimates, parameters, tokenizers. No JAX."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypeAlias, TypedDict

import numpy as np

if TYPE_CHECKING:
  import jax

Array: TypeAlias = "jax.Array | np.ndarray"

FilePath: TypeAlias = str | os.PathLike[str]

# A nested dict of arrays: a model's parameters, or anything of their structure.
Params: TypeAlias = dict[str, Any]

# The id of each token of a tokenizer.
TokenIds: TypeAlias = dict[str, int]

# Arrays of one batch by name, each with the examples on its first axis.
Batch: TypeAlias = dict[str, Any]

# Arrays of one example by name, unpadded.
Example: TypeAlias = dict[str, np.ndarray]

# An ml_collections.ConfigDict, one of its sections, or plain nested dicts of the same form: the
# types of its values are those of study/config.SCHEMA.
Config: TypeAlias = Any

# A relation and one of its answers, as counts and priors are keyed.
Answer: TypeAlias = tuple[str, str]

# The answers to rank, by relation.
Candidates: TypeAlias = Mapping[str, Sequence[str]]


class Fact(TypedDict):
  """One fact; columns that are not named here are carried along."""

  subject: str
  relation: str
  object: str
  aliases: NotRequired[list[str]]
  subject_id: NotRequired[str]
  object_id: NotRequired[str]
  popularity: NotRequired[float]
  question: NotRequired[str]
  choices: NotRequired[list[str]]


class Relation(TypedDict):
  """The templates of one relation: statements with [X] and [Y], questions with [X]."""

  relation: str
  label: str
  statements: list[str]
  questions: list[str]
  type: str


class PredictionRow(Fact):
  """A fact with what a model answered; `candidates` are (answer, log-probability), best first."""

  prediction: str
  score: NotRequired[float | None]
  candidates: NotRequired[list[tuple[str, float]]]
  arm: NotRequired[str]
  seed: NotRequired[int]
  split: NotRequired[str]


class Estimate(TypedDict):
  """A mean with its interval; None where there is too little to estimate from."""

  mean: float | None
  low: float | None
  high: float | None


class Tokenizer(Protocol):
  """Turns text into token ids and back.

  `sentinels` is the number of its <extra_id_N>: 0 where it has none, as of a decoder-only model.
  `pad` and `bos` are None where it has none; `opening` are the ids that it puts before a text and
  `tail` those that stand between a prompt and its answer, which of a decoder-only model's chat are
  some; `ends` are those that end an answer, EOS first. `digest` is a text that differs where
  tokenizers do.
  """

  @property
  def kind(self) -> str: ...
  @property
  def size(self) -> int: ...
  @property
  def sentinels(self) -> int: ...
  @property
  def pad(self) -> int | None: ...
  @property
  def eos(self) -> int: ...
  @property
  def bos(self) -> int | None: ...
  @property
  def opening(self) -> tuple[int, ...]: ...
  @property
  def tail(self) -> tuple[int, ...]: ...
  @property
  def ends(self) -> tuple[int, ...]: ...
  @property
  def digest(self) -> str: ...
  def sentinel(self, n: int) -> int: ...
  def token_ids(self) -> TokenIds: ...
  def encode(self, text: str) -> list[int]: ...
  def encode_all(self, texts: Sequence[str]) -> list[list[int]]: ...
  def encode_continuation(self, prompt: str, text: str) -> list[int]: ...
  def spans(self, text: str) -> list[tuple[int, int]]: ...
  def decode(self, ids: Iterable[int]) -> str: ...
  def token_texts(self) -> list[str]: ...

"""What is done before a model is asked: it is put in place, what is asked is gone through once."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import ml_collections

import factshock
from factshock.answering import batches, methods, parts
from factshock.answering.methods import Model
from factshock.answering.prompting import PromptWriter
from factshock.checkpoints.loading import LoadedModel
from factshock.data import prompts
from factshock.data.pretrained_tokenizers import PretrainedTokenizer
from factshock.facts.streams import FactStream
from factshock.predictions.rows import Row
from factshock.runtime import files, messages
from factshock.runtime.errors import UserError
from factshock.served.endpoints import Endpoint
from factshock.served.models import ServedModel
from factshock.types import Fact

_TEMPLATE = 128  # tokens at most, about, that a chat's template adds to a prompt
_SERVED_PART = 256  # facts of a part that a server answers: a killed run loses few requests

T = TypeVar("T")


def in_form(model: Model, form: str) -> Model:
  """Returns a model that reads prompts of a form: those of a chat in its own template.

  Raises:
    UserError: a chat with a model that has no template, or a server that is asked otherwise.
  """
  if isinstance(model, ServedModel):
    _check_form(model.endpoint, form)
    return model
  if form != prompts.CHAT:
    return model
  tokenizer = model.tokenizer
  if not model.decoder_only or not isinstance(tokenizer, PretrainedTokenizer):
    raise UserError(
      "--prompt=chat: expected a decoder-only model with a chat template, got a T5; choose "
      "--prompt=question"
    )
  return dataclasses.replace(model, tokenizer=tokenizer.in_chat())


def _check_form(endpoint: Endpoint, form: str) -> None:
  """Raises a UserError where a server is asked by messages and the form is no chat, or not so."""
  if endpoint.chat and form != prompts.CHAT:
    raise UserError(
      f"--prompt={form}: a chat server answers messages and goes on with no text; choose "
      "--prompt=chat, or leave api=chat out of the endpoint"
    )
  if form == prompts.CHAT and not endpoint.chat:
    raise UserError(
      f"--prompt=chat: {endpoint.source} is asked to go on with a text; add api=chat to it"
    )


def placed(model: Model, form: str) -> Model:
  """Returns a model that reads prompts of a form, its weights on their devices."""
  model = in_form(model, form)
  if isinstance(model, ServedModel):
    return model
  return model.with_params(batches.place(model)[0])


def part_size(model: Model) -> int:
  """Returns how many facts are kept at a time."""
  return _SERVED_PART if isinstance(model, ServedModel) else parts.SIZE


class Asker(Protocol):
  """What asks facts by parts, with all that is the same for every part; it can be pickled."""

  @property
  def form(self) -> str:
    """Returns the form of the prompts."""
    ...

  def rows(
    self, model: Model, facts: Sequence[Fact], first: int = 0
  ) -> Sequence[Mapping[str, Any]]:
    """Returns a row of each fact; `first` is the place of the first."""
    ...


@dataclasses.dataclass(frozen=True)
class Job:
  """Says how the parts of a file are answered, by this process or elsewhere.

  Attributes:
    source: what the model is opened from.
    config: that of the experiment, or None.
    tokenizer: folder of the tokenizer; None is the model's own.
    dtype: that the model is computed in; None is its own.
    output: the file.
    size: facts of a part.
    asker: asks them.
  """

  source: str
  config: ml_collections.ConfigDict | None
  tokenizer: str | None
  dtype: str | None
  output: str
  size: int
  asker: Asker

  def worker(self) -> parts.Worker:
    """Opens the model, and returns what answers parts."""
    model, _ = methods.open_model(self.source, self.config, self.tokenizer, self.dtype)
    model = placed(model, self.asker.form)
    answer = functools.partial(self.asker.rows, model)
    return parts.Worker(self.output, self.size, answer, methods.spending(model))

  def run(
    self,
    model: Model | None,
    facts: FactStream,
    asked: Mapping[str, Any],
    write: Callable[[Iterator[Row]], T],
    elsewhere: "Elsewhere | None" = None,
  ) -> T | None:
    """Answers by a model from `placed`, or has it done elsewhere; returns as `parts.run`."""
    # What other processes have spent, none of them prints here.
    write = functools.partial(self._written, write, elsewhere is not None)
    if elsewhere is not None:
      asking = parts.Asking(facts, _answer_nothing, asked, write)
      return parts.run(self.output, asking, self.size, functools.partial(elsewhere, self))
    assert model is not None
    answer = functools.partial(self.asker.rows, model)
    asking = parts.Asking(facts, answer, asked, write, methods.spending(model))
    return parts.run(self.output, asking, self.size)

  def _written(self, write: Callable[[Iterator[Row]], T], tells: bool, rows: Iterator[Row]) -> T:
    """Writes, and beside the file what a server was asked for it; prints that where it `tells`."""
    written = write(rows)
    path = f"{self.output}.spent.json"
    spent = parts.spent(self.output)
    if not spent:
      with contextlib.suppress(FileNotFoundError):  # of a file that this one has replaced
        os.unlink(path)
      return written
    with files.atomic_write(path) as file:
      json.dump(spent, file, indent=1)
    if tells:
      numbers = (f"{count:,} {name.replace('_', ' ')}" for name, count in spent.items())
      messages.say_aside(f"  {', '.join(numbers)}")
    return written


def _answer_nothing(facts: Sequence[Fact], first: int) -> Sequence[Row]:
  raise AssertionError("answered elsewhere")


# Has the parts of these indices answered by workers of a job.
Elsewhere: TypeAlias = Callable[[Job, Sequence[int]], None]


def identity(source: str, model: Model, dtype: str | None) -> dict[str, Any]:
  """Returns what tells a model, and how it is computed, from others.

  Args:
    source: what the model was opened from.
    model: the model.
    dtype: that was asked for.
  """
  return {
    "factshock": factshock.__version__,
    "model": methods.digests_of(source, model),
    "tokenizer": None if isinstance(model, ServedModel) else model.tokenizer.digest,
    "dtype": [dtype, methods.dtype_of(model)],
  }


def digests(values: Mapping[str, Any]) -> dict[str, str]:
  """Returns a digest of each of some values of what JSON can hold."""
  return {
    name: hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]
    for name, value in values.items()
  }


def length_check(model: Model, more: int) -> Callable[[str], None]:
  """Returns what raises a UserError for a prompt that the model cannot read; a server says so.

  Args:
    model: that reads the prompts.
    more: tokens that follow a prompt.
  """
  if isinstance(model, ServedModel):
    return lambda prompt: None
  limit = getattr(model.model_config, "max_length", None) or batches.LONGEST
  # A token is a byte at least; a template adds some.
  surely_fits = min(limit, batches.LONGEST) - more - _TEMPLATE
  return functools.partial(_check_length, model, more, surely_fits)


def _check_length(
  model: LoadedModel,
  more: int,
  surely_fits: int,
  prompt: str,
) -> None:
  """Raises a UserError for a prompt of too many tokens; one of few bytes surely fits."""
  if len(prompt.encode()) > surely_fits:
    size = len(batches.encode_prompt(model, prompt))
    batches.check_length(size, model.model_config, more)


class Survey:
  """Goes through all facts once before any is asked: checks their prompts, notes what they are.

  Attributes:
    answers: those of each relation, where they are kept.
  """

  def __init__(
    self,
    writer: PromptWriter,
    facts: FactStream,
    check: Callable[[str], None],
    keeps_answers: bool = False,
  ) -> None:
    self.answers: dict[str, dict[str, None]] = {}
    self._writer = writer
    self._facts = facts
    self._check = check
    self._keeps_answers = keeps_answers
    self._hasher = hashlib.sha256()

  def __iter__(self) -> Iterator[Fact]:
    """Yields each fact once it is looked at."""
    for fact in self._facts:
      # Shots are chosen from the whole pool, of which the first of a relation shows enough.
      if not self._writer.shots or fact["relation"] not in self.answers:
        self._check(*self._writer.write([fact], self._facts.relations))
      answers = self.answers.setdefault(fact["relation"], {})
      if self._keeps_answers:
        answers[fact["object"]] = None
      self._hasher.update(json.dumps(fact, ensure_ascii=False).encode() + b"\n")
      yield fact

  def digest(self) -> str:
    """Returns how many facts there are, and a digest of them."""
    return f"{self._facts.count:,}: {self._hasher.hexdigest()[:16]}"

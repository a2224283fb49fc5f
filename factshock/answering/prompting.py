"""Prompts for the facts of a file: their form, and the answered shots before them."""

import dataclasses
from collections.abc import Mapping, Sequence

from factshock.answering import methods
from factshock.answering.methods import Model
from factshock.checkpoints.loading import Origin
from factshock.data import prompts
from factshock.facts import sources
from factshock.runtime.errors import UserError
from factshock.types import Fact, Relation


@dataclasses.dataclass(frozen=True)
class Prompting:
  """Says how facts are put to a model.

  Attributes:
    form: "cloze", "question", or of facts with choices "letters" or "choices"; None is the form
      that the model was finetuned on.
    shots: how many answered facts stand before each prompt.
    shot_facts: the facts file to draw them from.
    stops: strings that end an answer; None are those that the form and the model call for.
  """

  form: str | None = None
  shots: int = 0
  shot_facts: str | None = None
  stops: tuple[str, ...] | None = None

  def form_for(self, origin: Origin) -> str:
    """Returns the form of prompts for a model."""
    return self.form or origin.prompt

  def stops_for(
    self,
    model: Model,
    origin: Origin,
  ) -> tuple[str, ...]:
    """Returns the strings that end a model's answers."""
    if self.stops is not None:
      return self.stops
    return origin.stops(self.form_for(origin)) if model.decoder_only else ()

  def read_pool(self, count_tokens: sources.CountTokens | None = None) -> list[Fact]:
    """Returns the facts to draw shots from.

    Args:
      count_tokens: as of sources.read.

    Raises:
      UserError: shots are wanted and there is no file.
    """
    if not self.shots:
      return []
    if not self.shot_facts:
      raise UserError(f"--shots={self.shots} needs --shot_facts=FILE, the facts to draw them from")
    return sources.read_facts(self.shot_facts, count_tokens)


@dataclasses.dataclass(frozen=True)
class PromptWriter:
  """Writes the prompts of facts for a model.

  Attributes:
    form: the form of prompts.
    decoder_only: whether they are for a decoder-only model.
    shots: how many answered facts stand before each prompt.
    pool: the facts to draw them from.
  """

  form: str
  decoder_only: bool
  shots: int
  pool: Sequence[Fact]

  @classmethod
  def of(
    cls,
    model: Model,
    form: str,
    prompting: Prompting,
  ) -> "PromptWriter":
    """Returns the writer of prompts for a model, with the pool of shots read."""
    pool = prompting.read_pool(methods.token_counter(model))
    return cls(form, model.decoder_only, prompting.shots, pool)

  def write(
    self,
    facts: Sequence[Fact],
    relations: Mapping[str, Relation],
    seed: int = 0,
  ) -> list[str]:
    """Returns the prompt of each fact, with the shots of a seed."""
    return prompts.prompt_texts(
      facts, relations, self.form, self.decoder_only, self.shots, self.pool, seed
    )

"""Several answers to each query: ranked candidates, a beam's hypotheses, or votes of samples."""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from factshock.answering import methods
from factshock.answering.decoding import DecodingOptions
from factshock.answering.methods import Model
from factshock.answering.prompting import Prompting
from factshock.checkpoints.loading import Origin
from factshock.predictions import writing
from factshock.predictions.rows import Row
from factshock.runtime import messages
from factshock.runtime.progress import Progress
from factshock.types import Candidates

METHODS = ("rank", "greedy", "beam", "votes")
COMPARED = 100  # answers at most, with those of the model's own dtype
SPENT = ("requests", "tokens_asked", "tokens_answered", "seconds")  # of a served model
_NO_SHOTS = Prompting()


@dataclasses.dataclass(frozen=True)
class QueryOptions:
  """Says how queries are answered.

  Attributes:
    method: one of METHODS.
    prompting: how the queries are put to the model.
    answer_set: path of facts whose objects "rank" compares alone; None is all that are
      known: the facts with known answers, the shots and the facts of the checkpoint's workdir.
    max_tokens: longest generated answer.
    beams: hypotheses of "beam".
    samples: of "votes": an answer's probability is the share of samples that give it.
    temperature: of "votes".
    list_all: whether "rank" lists all candidates of a query; else as many as the config says.
  """

  method: str = "rank"
  prompting: Prompting = _NO_SHOTS
  answer_set: str | None = None
  max_tokens: int = 16
  beams: int = 4
  samples: int = 16
  temperature: float = 1.0
  list_all: bool = False

  def described(self, origin: Origin) -> dict[str, Any]:
    """Returns how a model is asked, as extraction.json says it; None is what has no say in it."""
    generates = self.method != "rank"
    return {
      "method": self.method,
      "prompt": self.prompting.form_for(origin),
      "shots": self.prompting.shots,
      "beams": self.beams if self.method == "beam" else None,
      "samples": self.samples if self.method == "votes" else None,
      "max_tokens": self.max_tokens if generates else None,
      "answer_dtype": origin.dtype,
      **dict.fromkeys(SPENT),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
  """Some of the queries that a model has answered, with all that it takes to ask them again.

  Attributes:
    facts: the queries.
    texts: their prompts.
    candidates: the answers that "rank" compares.
    labels: columns of every row.
    predictions: the answers that were given.
    options: how the queries were asked.
    own_dtype: what the model is computed in where nothing else is asked for.
  """

  facts: Sequence[Mapping[str, Any]]
  texts: Sequence[str]
  candidates: Candidates | None
  labels: Mapping[str, Any]
  predictions: Sequence[str]
  options: QueryOptions
  own_dtype: str | None

  def say_how_many_are_equal(
    self,
    model: Model,
    origin: Origin,
    dtype: str,
  ) -> None:
    """Asks again; prints how many of the answers that were given in a dtype stay the same.

    Args:
      model: the model in its own dtype.
      origin: what its folder says of it.
      dtype: what the model was computed in before.
    """
    known = {"candidates": self.candidates, **self.labels}
    ask = functools.partial(rows, model, origin, self.facts, self.texts, self.options, **known)
    say_how_many_are_equal(ask, self.predictions, dtype, origin.own_dtype)


def say_how_many_are_equal(
  ask: Callable[[], Sequence[Row]],
  predictions: Sequence[str],
  dtype: str,
  own_dtype: str | None,
) -> None:
  """Asks some questions again; prints how many of the predictions in a dtype stay the same.

  Args:
    ask: asks them of the model in its own dtype.
    predictions: what was answered before.
    dtype: what the model was computed in then.
    own_dtype: the model's own.
  """
  number = len(predictions)
  messages.say(f"asking {number} of the questions in {own_dtype} too, to compare")
  equal = sum(row["prediction"] == before for row, before in zip(ask(), predictions))
  messages.say(f"{equal} of {number} answers in {dtype} are those of {own_dtype}")


def keep_some(answers: Iterable[Row], step: int, kept: list[str]) -> Iterator[Row]:
  """Yields rows of answers, and adds the prediction of one of `step` to those kept."""
  for place, row in enumerate(answers):
    if place % step == 0:
      kept.append(row["prediction"])
    yield row


def rows(
  model: Model,
  origin: Origin,
  facts: Sequence[Mapping[str, Any]],
  texts: Sequence[str],
  options: QueryOptions,
  *,
  candidates: Candidates | None = None,
  first: int = 0,
  **labels: Any,
) -> list[Row]:
  """Returns rows of a predictions file with `candidates`, best first.

  Args:
    model: the model to ask.
    origin: what its folder says of it.
    facts: the queries, facts whose object may be unknown.
    texts: the prompt of each query.
    options: how to answer.
    candidates: answers to compare by relation, for the method "rank".
    first: the place of the first among all that are asked.
    **labels: columns of every row (arm, seed, split).
  """
  batch_size = origin.batch_size
  stops = options.prompting.stops_for(model, origin)
  if options.method == "rank":
    top = None if options.list_all else origin.top
    size = {"batch_size": batch_size, "stops": stops}
    return methods.ranked_rows(model, facts, texts, candidates or {}, top=top, **size, **labels)
  decoding_options = DecodingOptions(options.max_tokens, beams=options.beams, stops=stops)
  if options.method == "greedy":
    place = {"batch_size": batch_size, "first": first}
    generated = methods.generate(model, texts, decoding_options, **place)
    return writing.text_rows(facts, *generated, **labels)
  if options.method == "beam":
    answers = methods.hypotheses(model, texts, decoding_options, batch_size=batch_size)
    return writing.listed_rows(facts, answers, **labels)
  sampling = dataclasses.replace(decoding_options, method="sample", temperature=options.temperature)
  sampled = votes(model, texts, sampling, options.samples, batch_size, first)
  return writing.listed_rows(facts, sampled, **labels)


def votes(
  model: Model,
  texts: Sequence[str],
  sampling: DecodingOptions,
  samples: int,
  batch_size: int,
  first: int = 0,
) -> list[list[tuple[str, float]]]:
  """Returns for each prompt its answers with the log of their share of the samples.

  Args:
    model: the model to ask.
    texts: the prompts.
    sampling: how a sample is drawn; its seed is that of the first, the next ones follow.
    samples: how many answers are drawn to each prompt.
    batch_size: prompts at a time.
    first: place of the first prompt, as of decoding.generate.
  """
  progress = Progress("sampling", samples)
  answers_MxN = []
  for index in range(samples):
    seeded = dataclasses.replace(sampling, seed=sampling.seed + index)
    answers_M, _ = methods.generate(model, texts, seeded, batch_size=batch_size, first=first)
    answers_MxN.append(answers_M)
    progress.update(index + 1)
  listed = []
  for answers_M in zip(*answers_MxN):
    counts = collections.Counter(answers_M)
    listed.append([(text, math.log(count / samples)) for text, count in counts.items()])
  return listed

"""Queries and calibration facts of an extraction: each (subject, relation) is asked once, in parts.

The answers to both are kept as they come (parts.py) beside the predictions file of the queries;
what follows from them is made before the parts go, so that a run which is killed meanwhile makes it
again and asks nothing.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from factshock.answering import candidates, known_answers, methods, parts, preparing
from factshock.answering.candidates import QueryOptions, Sample
from factshock.answering.methods import Model
from factshock.answering.prompting import PromptWriter
from factshock.checkpoints.loading import Origin
from factshock.facts.asked_queries import AskedQueries
from factshock.facts.queries import QueryStream
from factshock.facts.streams import FactStream
from factshock.predictions import writing
from factshock.predictions.rows import Row
from factshock.types import Candidates, Fact, Relation

_CARRIED = ("subject", "relation", "object", "aliases", "object_id")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Questions:
  """Holds what is asked for an extraction.

  Attributes:
    queries: what is asked, with its answers where they are known.
    known: calibration facts, rows of facts/queries.py with their answers.
    relations: relations with templates, by name.
  """

  queries: QueryStream
  known: Sequence[Row]
  relations: Mapping[str, Relation]

  def rows(self) -> Iterator[Row]:
    """Yields all of them, the queries first."""
    return itertools.chain(self.queries, self.known)


def answer(
  open_model: Callable[[], tuple[Model, Origin]],
  questions: Questions,
  outputs: Sequence[str],
  options: QueryOptions,
  then: Callable[[Mapping[str, Any]], T],
) -> tuple[T, Sample] | None:
  """Answers queries and calibration facts, and writes a predictions file of each.

  Args:
    open_model: returns the model to ask, and what its folder says of it. It is let go of before
      `then`.
    questions: what is asked.
    outputs: the paths of the two predictions files; the parts stand beside the first.
    options: how to answer.
    then: makes what follows from the files, with how the model was asked.

  Returns:
    What `then` returned, and some of the queries with their answers; None where another process has
    done it all.

  Raises:
    UserError: a relation without templates or candidates; parts of other questions.
  """
  with parts.at_work(outputs[0]):
    model, origin = open_model()
    asker = _Asker(model, origin, questions, options)
    asking = parts.Asking(
      asker.stream,
      asker.rows,
      {**asker.asked(), **preparing.identity(origin.checkpoint, model, origin.dtype)},
      functools.partial(asker.write, outputs, then),
      methods.spending(model),
    )
    size = preparing.part_size(model)
    del model  # the asker lets go of it when all is answered
    done = parts.run(outputs[0], asking, size)
  return None if done is None else (done, asker.sample())


class _Asker:
  """Asks queries by parts, with all that is the same for every part.

  Attributes:
    stream: what is asked, each (subject, relation) once.
  """

  def __init__(
    self,
    model: Model,
    origin: Origin,
    questions: Questions,
    options: QueryOptions,
  ) -> None:
    form = options.prompting.form_for(origin)
    model = preparing.placed(model, form)
    self._model: Model | None = model
    self._origin = origin
    self._options = options
    self._questions = questions
    self._writer = PromptWriter.of(model, form, options.prompting)
    self._stops = options.prompting.stops_for(model, origin)
    self._queries = AskedQueries.of(questions.rows)
    again = cast(Callable[[], Iterator[Fact]], self._queries.__iter__)  # prompts need no object
    spec = questions.queries.spec
    self.stream = FactStream(spec, questions.relations, self._queries.count, again)
    ranks = options.method == "rank"
    check = preparing.length_check(model, 0 if ranks else options.max_tokens)
    self._survey = preparing.Survey(self._writer, self.stream, check)
    collections.deque(self._survey, 0)
    self._candidates = self._known_answers() if ranks else None
    self._labels = {"arm": origin.arm, "seed": origin.seed, "split": "queries"}
    self._step = -(-self.stream.count // candidates.COMPARED)
    self._compared: list[str] = []

  def _known_answers(self) -> Candidates:
    """Returns the answers that are compared, of the relations of the queries.

    They are those of the answer set alone, or else all that are known: candidates that hold the
    calibration facts' answers for certain would make these look easier than the queries are.
    """
    known = self._questions.known
    relations = list(self._survey.answers)
    if self._options.answer_set is not None:
      return known_answers.of_file(self._options.answer_set, relations, known)
    shot_facts = self._options.prompting.shot_facts
    name = "the calibration facts"
    return known_answers.of_relations(known, name, relations, self._origin, [shot_facts])

  def asked(self) -> dict[str, Any]:
    """Returns what the answers depend on beside the model."""
    digested = {
      "relations": self._questions.relations,
      "candidates": self._candidates,
      "shots": [self._writer.shots, self._writer.pool],
    }
    options = self._options
    return {
      "queries": self._survey.digest(),
      **preparing.digests(digested),
      **self._labels,
      "method": options.method,
      "prompt": self._writer.form,
      "stop": list(self._stops),
      "max_tokens": options.max_tokens,
      "beams": options.beams,
      "samples": options.samples,
      "temperature": options.temperature,
      "batch_size": self._origin.batch_size,
      "top": None if options.list_all else self._origin.top,
    }

  def rows(self, facts: Sequence[Fact], first: int) -> list[Row]:
    """Returns a row of predictions of each query; `first` is the place of the first."""
    assert self._model is not None  # let go of when all is answered
    return candidates.rows(
      self._model,
      self._origin,
      facts,
      self._texts(facts),
      self._options,
      candidates=self._candidates,
      first=first,
      **self._labels,
    )

  def _texts(self, facts: Sequence[Fact]) -> list[str]:
    return self._writer.write(facts, self._questions.relations)

  def write(
    self,
    outputs: Sequence[str],
    then: Callable[[Mapping[str, Any]], T],
    answers: Iterator[Row],
  ) -> T:
    """Writes both predictions files from the answers, and makes what follows."""
    self._compared = []
    looked_at = candidates.keep_some(answers, self._step, self._compared)
    answered = self._queries.with_answers(looked_at)
    rows = (_with_answer(answer, row) for row, answer in answered)
    count = len(self._queries.places_R) - len(self._questions.known)
    writing.write_predictions(outputs[0], itertools.islice(rows, count))
    writing.write_predictions(outputs[1], rows)
    self._model = None
    return then({**self._options.described(self._origin), **parts.spent(outputs[0])})

  def sample(self) -> Sample:
    """Returns some of the queries with their answers."""
    facts = list(itertools.islice(self.stream, 0, None, self._step))
    texts = self._texts(facts)
    return Sample(
      facts,
      texts,
      self._candidates,
      self._labels,
      self._compared,
      self._options,
      self._origin.own_dtype,
    )


def _with_answer(answer: Row, row: Row) -> Row:
  """Returns a query's row with the columns of the answer."""
  columns = {name: row[name] for name in _CARRIED if name in row}
  for name, value in answer.items():
    if name not in ("subject", "relation"):
      columns[name] = value
  return columns

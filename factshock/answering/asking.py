"""From a model and a facts file to a predictions file, or to what the model knows of the facts."""

import collections
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from factshock.answering import (
  candidates,
  choices,
  knowledge,
  known_answers,
  methods,
  parts,
  preparing,
  pub_quiz,
)
from factshock.answering.decoding import DecodingOptions
from factshock.answering.methods import Model
from factshock.answering.prompting import Prompting, PromptWriter
from factshock.checkpoints import loading
from factshock.checkpoints.loading import Origin
from factshock.data import prompts
from factshock.facts import schema, sources, streams
from factshock.facts.streams import FactStream
from factshock.predictions import writing
from factshock.predictions.rows import Row
from factshock.predictions.tallies import Tally
from factshock.runtime import interruption, messages
from factshock.runtime.progress import Progress
from factshock.types import Candidates, Fact, Relation

_NO_SHOTS = Prompting()
_FOUR_SHOTS = Prompting(shots=4)
_GREEDY = DecodingOptions(max_length=16)


@dataclasses.dataclass(frozen=True)
class AnswerOptions:
  """Says how a model answers the facts of a file; see factshock/answer.py.

  Attributes:
    mode: "rank", "generate", "votes", or of facts with choices "letters" or "choices".
    prompting: how the facts are put to it; with choices the mode is the form.
    decoding: how "generate" does it, and "votes" draws each answer.
    candidates: path of facts whose objects "rank" compares too, beside those of the facts asked, of
      the shots and of the checkpoint's workdir; None adds none.
    candidates_only: whether "rank" compares the objects of `candidates` alone.
    tokenizer: folder of the tokenizer; None is the checkpoint's own.
    relations: path of the relations; None is those of the data set or of the checkpoint's workdir.
    arm: name of the arm in the rows; None is the checkpoint's.
    top: how many candidates a row of "rank" keeps, the best; 0 is all, None as many as the config
      says.
    pub_quiz: folder to write the ranking of all candidates to as well, as results of lm-pub-quiz.
    samples: answers that "votes" draws to each question; their shares are the probabilities.
    dtype: that the model is computed in; None is its own (loading.open_model).
  """

  mode: str = "rank"
  prompting: Prompting = _NO_SHOTS
  decoding: DecodingOptions = _GREEDY
  candidates: str | None = None
  candidates_only: bool = False
  tokenizer: str | None = None
  relations: str | None = None
  arm: str | None = None
  top: int | None = None
  pub_quiz: str | None = None
  samples: int = 16
  dtype: str | None = None


@dataclasses.dataclass(frozen=True)
class KnowledgeOptions:
  """Says how it is found out what a model knows; 4 shots, 10 sets and 16 samples are the paper's.

  Attributes:
    prompting: how the facts are put to it; of facts with choices (forms "letters", "choices") their
      likelihoods are taken and nothing is sampled.
    max_tokens: longest generated answer.
    sets: sets of shots.
    samples: samples of each set.
    tokenizer: folder of the tokenizer; None is the checkpoint's own.
    relations: path of the relations; None is those of the data set or of the checkpoint's workdir.
    dtype: that the model is computed in; None is its own (loading.open_model).
  """

  prompting: Prompting = _FOUR_SHOTS
  max_tokens: int = 16
  sets: int = 10
  samples: int = 16
  tokenizer: str | None = None
  relations: str | None = None
  dtype: str | None = None


def answer_facts(
  checkpoint: str,
  facts: str,
  output: str,
  options: AnswerOptions,
  *,
  config: ml_collections.ConfigDict | None = None,
  elsewhere: preparing.Elsewhere | None = None,
) -> Tally | None:
  """Writes the predictions of a model on a facts file; returns how many are right.

  They are kept in parts (parts.py): a killed run goes on, processes started alike share the work.

  Args:
    checkpoint: path of a checkpoint, or a HuggingFace model: a folder or a hub id.
    facts: path of the facts, or a data set.
    output: path of the predictions file.
    options: how to answer.
    config: the experiment's config; None is that of the checkpoint, or loading.DEFAULTS.
    elsewhere: has the parts answered in place of this process; None is this process.

  Returns:
    The counts; None where another process has written the file.

  Raises:
    UserError: files that are missing, malformed, or do not fit; parts of other questions.
  """
  writing.check_name(output)
  with interruption.signals_end_run(), parts.at_work(output):
    model, origin = methods.open_model(checkpoint, config, options.tokenizer, options.dtype)
    stream = _stream(model, origin, facts, options)
    asker, asked = _prepare(model, origin, stream, options)
    asked |= preparing.identity(checkpoint, model, options.dtype)
    answers = _Answers(asker, origin, output, -(-stream.count // candidates.COMPARED))
    job = _job(checkpoint, model, config, options, output, asker)
    model = None if elsewhere else preparing.placed(model, asker.form)
    tally = job.run(model, stream, asked, answers.write, elsewhere)
  if options.dtype not in (None, origin.own_dtype) and tally is not None:
    del model  # its weights make room for those of the model's own dtype
    _say_how_many_are_equal(asker, answers, stream, checkpoint, config)
  return tally


def _job(
  checkpoint: str,
  model: Model,
  config: ml_collections.ConfigDict | None,
  options: AnswerOptions | KnowledgeOptions,
  output: str,
  asker: preparing.Asker,
) -> preparing.Job:
  """Returns how the parts of a file are answered."""
  size = preparing.part_size(model)
  return preparing.Job(checkpoint, config, options.tokenizer, options.dtype, output, size, asker)


def _stream(
  model: Model,
  origin: Origin,
  facts: str,
  options: AnswerOptions | KnowledgeOptions,
) -> FactStream:
  """Returns the facts that are asked."""
  counter = methods.token_counter(model)
  return streams.open_with_relations(facts, options.relations, origin.relations_path, counter)


class _Answers:
  """Writes predictions as they come from parts, and keeps some to be compared."""

  def __init__(
    self,
    asker: "_Asker",
    origin: Origin,
    output: str,
    step: int,
  ) -> None:
    """Keeps one answer of `step`."""
    self.compared: list[str] = []
    self.step = step
    self._asker = asker
    self._origin = origin
    self._output = output

  def write(self, rows: Iterator[Row]) -> Tally:
    """Writes all rows; returns how many are right."""
    tally = Tally()
    self.compared = []
    looked_at = candidates.keep_some(rows, self.step, self.compared)
    finished = self._asker.finished(self._origin, looked_at)
    writing.write_predictions(self._output, tally.over(finished))
    return tally


def _say_how_many_are_equal(
  asker: "_Asker",
  answers: _Answers,
  facts: FactStream,
  checkpoint: str,
  config: ml_collections.ConfigDict | None,
) -> None:
  """Asks some questions again in the model's own dtype; prints how many answers stay the same.

  Nothing is asked where answers are drawn at random.
  """
  options = asker.options
  if options.mode == "votes" or options.decoding.method == "sample":
    return
  model, origin = loading.open_model(checkpoint, config, options.tokenizer)
  some = list(itertools.islice(facts, 0, None, answers.step))
  ask = functools.partial(asker.rows, preparing.placed(model, asker.form), some)
  candidates.say_how_many_are_equal(ask, answers.compared, str(options.dtype), origin.own_dtype)


def answers_of(
  model: Model,
  origin: Origin,
  facts: str,
  options: AnswerOptions,
) -> list[Row]:
  """Returns the predictions of an opened model on a facts file; its tokenizer is the model's.

  Arguments and errors are those of `answer_facts`; `origin` is what the model's folder says of it.
  """
  stream = _stream(model, origin, facts, options)
  asker, _ = _prepare(model, origin, stream, options)
  rows = asker.rows(preparing.in_form(model, asker.form), list(stream))
  return list(asker.finished(origin, iter(rows)))


@dataclasses.dataclass(frozen=True)
class _Asker:
  """Asks facts by parts, with all that is the same for every part.

  Attributes:
    options: how to answer.
    form: of the prompts.
    writer: of the prompts.
    relations: of the facts.
    known: the answers that "rank" compares.
    stops: strings that end an answer.
    batch_size: prompts at a time.
    kept: how many candidates a row keeps; None is all.
    labels: columns of every row.
  """

  options: AnswerOptions
  form: str
  writer: PromptWriter
  relations: Mapping[str, Relation]
  known: Candidates
  stops: tuple[str, ...]
  batch_size: int
  kept: int | None
  labels: Mapping[str, Any]

  def rows(
    self,
    model: Model,
    facts: Sequence[Fact],
    first: int = 0,
  ) -> list[Row]:
    """Returns a row of predictions of each fact; where all candidates are wanted, with all.

    Args:
      model: from `preparing.in_form`.
      facts: the facts.
      first: the place of the first among all that are asked.
    """
    texts = self.writer.write(facts, self.relations)
    size = {"batch_size": self.batch_size}
    if self.options.mode in prompts.CHOICE_PROMPTS:
      letters = self.form == "letters"
      scores = methods.choice_scores(model, facts, texts, letters=letters, **size)
      return choices.rows(facts, scores, **self.labels)
    if self.options.mode != "rank":
      return self._generated(model, facts, texts, first)
    top = None if self.options.pub_quiz else self.kept
    how = {"top": top, "stops": self.stops, **size}
    return methods.ranked_rows(model, facts, texts, self.known, **how, **self.labels)

  def _generated(
    self,
    model: Model,
    facts: Sequence[Fact],
    texts: Sequence[str],
    first: int,
  ) -> list[Row]:
    """Returns rows of answers that the model generates, or of votes among those that it samples."""
    how = dataclasses.replace(self.options.decoding, stops=self.stops)
    if self.options.mode == "votes":
      sampling = dataclasses.replace(how, method="sample")
      samples = self.options.samples
      votes = candidates.votes(model, texts, sampling, samples, self.batch_size, first)
      return writing.listed_rows(facts, votes, **self.labels)
    generated = methods.generate(model, texts, how, batch_size=self.batch_size, first=first)
    return writing.text_rows(facts, *generated, **self.labels)

  def finished(self, origin: Origin, rows: Iterator[Row]) -> Iterable[Row]:
    """Returns rows of all facts as predictions hold them; writes the results of lm-pub-quiz too."""
    folder = self.options.pub_quiz
    if not folder:
      return rows
    ranked = list(rows)
    _write_pub_quiz(folder, origin.checkpoint, ranked, self.relations, self.form)
    return writing.shortened(ranked, self.kept)


def _prepare(
  model: Model,
  origin: Origin,
  facts: FactStream,
  options: AnswerOptions,
) -> tuple[_Asker, dict[str, Any]]:
  """Returns what asks the facts, and whatever the answers depend on beside the model."""
  labels = _labels(options, origin, facts.spec)
  has_choices = options.mode in prompts.CHOICE_PROMPTS
  form = options.mode if has_choices else options.prompting.form_for(origin)
  writer = PromptWriter.of(preparing.in_form(model, form), form, options.prompting)
  given_stops = options.decoding.stops
  stops = options.prompting.stops_for(model, origin) if given_stops is None else given_stops
  generates = options.mode in ("generate", "votes")
  more = options.decoding.max_length if generates else 0
  ranks = options.mode == "rank"
  survey = preparing.Survey(
    writer, facts, preparing.length_check(preparing.in_form(model, form), more), ranks
  )
  if generates:
    show_unsayable(survey, stops)
  else:
    collections.deque(survey, 0)
  counter = methods.token_counter(model)
  known = {}
  if ranks:
    known = _known_answers(survey, facts, counter, origin, options)
  asker = _Asker(
    options,
    form,
    writer,
    facts.relations,
    known,
    stops,
    origin.batch_size,
    _kept(origin, options),
    labels,
  )
  return asker, {"facts": survey.digest(), **_asked(asker)}


def _asked(asker: _Asker) -> dict[str, Any]:
  """Returns what the answers depend on beside the model and the facts."""
  options = asker.options
  digested = {
    "relations": asker.relations,
    "candidates": asker.known,
    "shots": [asker.writer.shots, asker.writer.pool],
  }
  return {
    **preparing.digests(digested),
    **asker.labels,
    "mode": options.mode,
    "prompt": asker.form,
    "stop": list(asker.stops),
    **dataclasses.asdict(dataclasses.replace(options.decoding, stops=None)),
    "samples": options.samples,
    "batch_size": asker.batch_size,
    "top": asker.kept,
    "pub_quiz": bool(options.pub_quiz),
  }


def _known_answers(
  survey: preparing.Survey,
  facts: FactStream,
  counter: sources.CountTokens | None,
  origin: Origin,
  options: AnswerOptions,
) -> Candidates:
  """Returns the answers of each fact's relation that "rank" compares."""
  names = survey.answers.keys()
  if options.candidates and options.candidates_only:
    return known_answers.of_file(options.candidates, names, facts, counter)
  others = [options.prompting.shot_facts, options.candidates]
  asked = [
    {"relation": name, "object": answer}
    for name, answers in survey.answers.items()
    for answer in answers
  ]
  return known_answers.of_relations(asked, facts.spec, names, origin, others, counter)


def _kept(origin: Origin, options: AnswerOptions) -> int | None:
  """Returns how many candidates a row keeps; None is all."""
  return origin.top if options.top is None else options.top or None


def show_unsayable(facts: Iterable[Fact], stops: Sequence[str]) -> None:
  """Prints how many facts have no accepted answer without a stop string, if any."""
  unsayable = 0
  example = ""
  count = 0
  for fact in facts:
    count += 1
    accepted = [fact["object"], *(fact.get("aliases") or [])]
    if all(any(stop in answer for stop in stops) for answer in accepted):
      unsayable += 1
      example = example or fact["object"]
  if unsayable:
    messages.say(
      f"  {unsayable:,} of {count:,} facts have no accepted answer without a stop string "
      f"({', '.join(map(repr, stops))}), such as {example[:60]!r}: no answer can be theirs "
      "word for word; --stop names other stop strings"
    )


def _labels(
  options: AnswerOptions,
  origin: Origin,
  facts_path: str,
) -> dict[str, Any]:
  """Returns the columns of every row: arm, seed, and as split the name of the facts file."""
  split, *_ = os.path.basename(facts_path).split(".")
  return {
    "arm": options.arm or origin.arm,
    "seed": origin.seed,
    "split": split,
  }


def _write_pub_quiz(
  folder: str,
  model: str,
  rows: Sequence[Row],
  relations: Mapping[str, Relation],
  form: str,
) -> None:
  """Writes rows with all their candidates as results of lm-pub-quiz too."""
  templates = _templates(rows, relations, form)
  pub_quiz.write(folder, rows, model=model, templates=templates)


def _templates(
  rows: Sequence[Row],
  relations: Mapping[str, Relation],
  form: str,
) -> dict[str, str]:
  """Returns the text with [X] and [Y] by which each relation of the rows was put to the model."""
  templates = {}
  for name in dict.fromkeys(row["relation"] for row in rows):
    relation = relations[name]
    if form == "cloze":
      templates[name] = relation["statements"][0]
    else:
      questions = relation.get("questions") or ["[X]"]
      templates[name] = f"{questions[0]} [Y]"
  return templates


def assess_knowledge(
  checkpoint: str,
  facts: str,
  output: str,
  options: KnowledgeOptions,
  *,
  config: ml_collections.ConfigDict | None = None,
  elsewhere: preparing.Elsewhere | None = None,
) -> Mapping[str, int] | None:
  """Writes the facts of a file with what a model knows of each, in parts as `answer_facts`.

  Args:
    checkpoint: path of a checkpoint, or a HuggingFace model: a folder or a hub id.
    facts: path of the facts, or a data set.
    output: path of the facts file to write, with the columns of knowledge.KnownFact.
    options: how to find it out.
    config: as for `answer_facts`, and so are errors.
    elsewhere: as for `answer_facts`.

  Returns:
    How many facts are of each category; None where another process has written the file.
  """
  schema.check_writable(output)

  def write(known: Iterator[Row]) -> Mapping[str, int]:
    rows = list(known)
    schema.write_facts(output, rows)
    return collections.Counter(row["known"] for row in rows)

  with interruption.signals_end_run(), parts.at_work(output):
    model, origin = methods.open_model(checkpoint, config, options.tokenizer, options.dtype)
    stream = _stream(model, origin, facts, options)
    assessor, asked = _prepare_assessment(model, origin, stream, options)
    asked |= preparing.identity(checkpoint, model, options.dtype)
    job = _job(checkpoint, model, config, options, output, assessor)
    model = None if elsewhere else preparing.placed(model, assessor.form)
    return job.run(model, stream, asked, write, elsewhere)


def knowledge_of(
  model: Model,
  origin: Origin,
  facts: str,
  options: KnowledgeOptions,
) -> list[knowledge.KnownFact]:
  """Returns the facts of a file with what an opened model knows of each.

  Args:
    model: the model; its tokenizer is used.
    origin: what its folder says of it.
    facts: path of the facts, or a data set.
    options: how to find it out.

  Raises:
    UserError: as `answer_facts`.
  """
  stream = _stream(model, origin, facts, options)
  assessor, _ = _prepare_assessment(model, origin, stream, options)
  return assessor.rows(preparing.in_form(model, assessor.form), list(stream))


def _prepare_assessment(
  model: Model,
  origin: Origin,
  facts: FactStream,
  options: KnowledgeOptions,
) -> tuple["_Assessor", dict[str, Any]]:
  """Returns what finds out what is known, and whatever that depends on beside the model."""
  form = options.prompting.form_for(origin)
  writer = PromptWriter.of(preparing.in_form(model, form), form, options.prompting)
  survey = preparing.Survey(
    writer, facts, preparing.length_check(preparing.in_form(model, form), options.max_tokens)
  )
  stops: tuple[str, ...] = ()
  if form in prompts.CHOICE_PROMPTS:
    collections.deque(survey, 0)
  else:
    stops = options.prompting.stops_for(model, origin)
    show_unsayable(survey, stops)
  assessor = _Assessor(options, form, writer, facts.relations, stops, origin.batch_size)
  asked = {
    "facts": survey.digest(),
    "mode": "known",
    **preparing.digests({"relations": facts.relations, "shots": [writer.shots, writer.pool]}),
    "prompt": form,
    "stop": list(stops),
    "max_tokens": options.max_tokens,
    "sets": options.sets,
    "samples": options.samples,
    "batch_size": origin.batch_size,
  }
  return assessor, asked


@dataclasses.dataclass(frozen=True)
class _Assessor:
  """Finds out by parts what a model knows of facts, with all that is the same for every part.

  Attributes:
    options: how to find it out.
    form: of the prompts.
    writer: of the prompts.
    relations: of the facts.
    stops: strings that end an answer.
    batch_size: prompts at a time.
  """

  options: KnowledgeOptions
  form: str
  writer: PromptWriter
  relations: Mapping[str, Relation]
  stops: tuple[str, ...]
  batch_size: int

  def rows(
    self,
    model: Model,
    facts: Sequence[Fact],
    first: int = 0,
  ) -> list[knowledge.KnownFact]:
    """Returns facts with what a model knows of each; `first` is the place of the first."""

    def prompts_of(set_index: int) -> list[str]:
      return self.writer.write(facts, self.relations, set_index)

    if self.form in prompts.CHOICE_PROMPTS:
      return self._of_choices(model, facts, prompts_of)

    def generate(texts: Sequence[str], **sampling: Any) -> list[str]:
      method = "sample" if sampling else "greedy"
      how = DecodingOptions(self.options.max_tokens, method=method, stops=self.stops, **sampling)
      return methods.generate(model, texts, how, batch_size=self.batch_size, first=first)[0]

    options = self.options
    return knowledge.assess(
      generate,
      prompts_of,
      facts,
      sets=options.sets,
      samples=options.samples,
      progress=Progress("asking", options.sets * (1 + options.samples)),
    )

  def _of_choices(
    self,
    model: Model,
    facts: Sequence[Fact],
    prompts_of: Callable[[int], Sequence[str]],
  ) -> list[knowledge.KnownFact]:
    """Returns facts with what the likelihoods of their choices say of each."""
    progress = Progress("asking", self.options.sets)
    scores: list[np.ndarray] = []
    for index in range(self.options.sets):
      texts = prompts_of(index)
      letters = self.form == "letters"
      size = self.batch_size
      scores.append(methods.choice_scores(model, facts, texts, letters=letters, batch_size=size))
      progress.update(index + 1)
    return knowledge.choice_columns(facts, scores)

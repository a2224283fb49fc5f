"""From a model and a facts file to a predictions file, or to what the model knows of the facts."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from factshock.answering import (
  best_first,
  candidates,
  choices,
  decoding,
  knowledge,
  known_answers,
  pub_quiz,
)
from factshock.answering.decoding import DecodingOptions
from factshock.answering.prompting import Prompting, PromptWriter
from factshock.checkpoints import loading
from factshock.checkpoints.loading import LoadedModel, Origin
from factshock.data import prompts
from factshock.data.pretrained_tokenizers import PretrainedTokenizer
from factshock.facts import schema, sources
from factshock.predictions import writing
from factshock.predictions.rows import Row
from factshock.runtime import messages
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress
from factshock.types import Candidates, Fact, Relation

_NO_SHOTS = Prompting()
_FOUR_SHOTS = Prompting(shots=4)
_GREEDY = DecodingOptions(max_length=16)
_COMPARED = 100  # answers at most, with those of the model's own dtype


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
) -> list[Row]:
  """Writes the predictions of a model on a facts file; returns the rows.

  Args:
    checkpoint: path of a checkpoint, or a HuggingFace model: a folder or a hub id.
    facts: path of the facts, or a data set.
    output: path of the predictions file.
    options: how to answer.
    config: the experiment's config; None is that of the checkpoint, or loading.DEFAULTS.

  Raises:
    UserError: files that are missing, malformed, or do not fit each other or the config's model.
  """
  opened = loading.open_model(checkpoint, config, options.tokenizer, options.dtype)
  answers = answers_of(*opened, facts, options)
  writing.write_predictions(output, answers)
  if options.dtype is not None:
    del opened  # its weights make room for those of the model's own dtype
    _say_how_many_are_equal(answers, checkpoint, facts, options, config)
  return answers


def _say_how_many_are_equal(
  answers: Sequence[Row],
  checkpoint: str,
  facts: str,
  options: AnswerOptions,
  config: ml_collections.ConfigDict | None,
) -> None:
  """Asks some questions again in the model's own dtype; prints how many answers stay the same.

  Nothing is asked where that is the dtype of the answers, or where answers are drawn at random.
  """
  if options.mode == "votes" or options.decoding.method == "sample":
    return
  model, origin = loading.open_model(checkpoint, config, options.tokenizer)
  own_dtype = model.model_config.dtype
  if own_dtype == options.dtype:
    return
  step = -(-len(answers) // _COMPARED)
  some = range(0, len(answers), step)
  messages.say(f"asking {len(some)} of the questions in {own_dtype} too, to compare")
  in_own = answers_of(model, origin, facts, dataclasses.replace(options, pub_quiz=None), some)
  equal = sum(answers[index]["prediction"] == row["prediction"] for index, row in zip(some, in_own))
  messages.say(f"{equal} of {len(some)} answers in {options.dtype} are those of {own_dtype}")


def answers_of(
  model: LoadedModel,
  origin: Origin,
  facts: str,
  options: AnswerOptions,
  only: Sequence[int] | None = None,
) -> list[Row]:
  """Returns the predictions of an opened model on a facts file; its tokenizer is the model's.

  Arguments and errors are those of `answer_facts`; `origin` is what the model's folder says of it.
  `only` are the places of the facts that are asked; None is all.
  """
  counter = prompts.token_counter(model.tokenizer)
  rows, relations = sources.read_with_relations(
    facts, options.relations, origin.relations_path, counter
  )
  labels = _labels(options, origin, facts)
  has_choices = options.mode in prompts.CHOICE_PROMPTS
  form = options.mode if has_choices else options.prompting.form_for(origin)
  model = in_form(model, form)
  texts = PromptWriter.of(model, form, options.prompting).write(rows, relations)
  known = _known_answers(rows, counter, origin, facts, options) if options.mode == "rank" else {}
  if only is not None:
    rows = [rows[index] for index in only]
    texts = [texts[index] for index in only]
  size = {"batch_size": origin.batch_size}
  if has_choices:
    return choices.rows(model, rows, texts, letters=form == "letters", **size, **labels)
  given_stops = options.decoding.stops
  stops = options.prompting.stops_for(model, origin) if given_stops is None else given_stops
  if options.mode in ("generate", "votes"):
    show_unsayable(rows, stops)
    return _generated(model, rows, texts, stops, options, origin.batch_size, labels)
  kept = _kept(origin, options)
  top = None if options.pub_quiz else kept
  answers = best_first.rows(model, rows, texts, known, top=top, stops=stops, **size, **labels)
  if options.pub_quiz:
    _write_pub_quiz(options.pub_quiz, origin.checkpoint, answers, relations, form)
    return writing.shortened(answers, kept)
  return answers


def _generated(
  model: LoadedModel,
  facts: Sequence[Fact],
  texts: Sequence[str],
  stops: tuple[str, ...],
  options: AnswerOptions,
  batch_size: int,
  labels: Mapping[str, Any],
) -> list[Row]:
  """Returns rows of answers that the model generates, or of votes among those that it samples."""
  how = dataclasses.replace(options.decoding, stops=stops)
  if options.mode == "votes":
    sampling = dataclasses.replace(how, method="sample")
    votes = candidates.votes(model, texts, sampling, options.samples, batch_size)
    return writing.listed_rows(facts, votes, **labels)
  generated = decoding.generate(model, texts, how, batch_size=batch_size)
  return writing.text_rows(facts, *generated, **labels)


def _known_answers(
  facts: Sequence[Fact],
  counter: sources.CountTokens,
  origin: Origin,
  path: str,
  options: AnswerOptions,
) -> Candidates:
  """Returns the answers of each fact's relation that "rank" compares."""
  names = [fact["relation"] for fact in facts]
  if options.candidates and options.candidates_only:
    return known_answers.of_file(options.candidates, names, facts, counter)
  others = [options.prompting.shot_facts, options.candidates]
  return known_answers.of_relations(facts, path, names, origin, others, counter)


def _kept(origin: Origin, options: AnswerOptions) -> int | None:
  """Returns how many candidates a row keeps; None is all."""
  return origin.top if options.top is None else options.top or None


def in_form(model: LoadedModel, form: str) -> LoadedModel:
  """Returns a model that reads prompts of a form: those of a chat in its own template.

  Raises:
    UserError: a chat with a model that has no template.
  """
  if form != prompts.CHAT:
    return model
  tokenizer = model.tokenizer
  if not model.decoder_only or not isinstance(tokenizer, PretrainedTokenizer):
    raise UserError(
      "--prompt=chat: expected a decoder-only model with a chat template, got a T5; choose "
      "--prompt=question"
    )
  return dataclasses.replace(model, tokenizer=tokenizer.in_chat())


def show_unsayable(facts: Sequence[Fact], stops: Sequence[str]) -> None:
  """Prints how many facts have no accepted answer without a stop string, if any."""
  unsayable = []
  for fact in facts:
    accepted = [fact["object"], *(fact.get("aliases") or [])]
    if all(any(stop in answer for stop in stops) for answer in accepted):
      unsayable.append(fact["object"])
  if unsayable:
    messages.say(
      f"  {len(unsayable):,} of {len(facts):,} facts have no accepted answer without a stop string "
      f"({', '.join(map(repr, stops))}), such as {unsayable[0][:60]!r}: no answer can be theirs "
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
) -> list[knowledge.KnownFact]:
  """Writes the facts of a file with what a model knows of each; returns them.

  Args:
    checkpoint: path of a checkpoint, or a HuggingFace model: a folder or a hub id.
    facts: path of the facts, or a data set.
    output: path of the facts file to write, with the columns of knowledge.KnownFact.
    options: how to find it out.
    config: as for `answer_facts`, and so are errors.
  """
  opened = loading.open_model(checkpoint, config, options.tokenizer, options.dtype)
  known = knowledge_of(*opened, facts, options)
  schema.write_facts(output, known)
  return known


def knowledge_of(
  model: LoadedModel,
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
  rows, relations = sources.read_with_relations(
    facts,
    options.relations,
    origin.relations_path,
    prompts.token_counter(model.tokenizer),
  )
  form = options.prompting.form_for(origin)
  model = in_form(model, form)
  writer = PromptWriter.of(model, form, options.prompting)

  def prompts_of(set_index: int) -> list[str]:
    return writer.write(rows, relations, set_index)

  if form in prompts.CHOICE_PROMPTS:
    progress = Progress("asking", options.sets)
    scores = []
    size = {"letters": form == "letters", "batch_size": origin.batch_size}
    for index in range(options.sets):
      scores.append(choices.of_facts(model, rows, prompts_of(index), **size))
      progress.update(index + 1)
    return knowledge.choice_columns(rows, scores)
  return _assess_generated(model, origin, prompts_of, rows, options)


def _assess_generated(
  model: LoadedModel,
  origin: Origin,
  prompts_of: Callable[[int], Sequence[str]],
  facts: Sequence[Fact],
  options: KnowledgeOptions,
) -> list[knowledge.KnownFact]:
  """Returns facts with what a model knows of each, from answers that it generates.

  Args:
    model: the model.
    origin: what its folder says of it.
    prompts_of: gives each fact's prompt with the set of shots of an index.
    facts: the facts.
    options: how many sets and samples, and how long answers may be.
  """
  stops = options.prompting.stops_for(model, origin)
  show_unsayable(facts, stops)

  def generate(texts: Sequence[str], **sampling: Any) -> list[str]:
    method = "sample" if sampling else "greedy"
    decoding_options = DecodingOptions(options.max_tokens, method=method, stops=stops, **sampling)
    return decoding.generate(model, texts, decoding_options, batch_size=origin.batch_size)[0]

  return knowledge.assess(
    generate,
    prompts_of,
    facts,
    sets=options.sets,
    samples=options.samples,
    progress=Progress("asking", options.sets * (1 + options.samples)),
  )

"""Asking of models from Python: an opened model in, rows or files of answers out."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from factshock.answering import asking, candidates, queries
from factshock.answering.asking import AnswerOptions, KnowledgeOptions
from factshock.answering.candidates import QueryOptions, Sample
from factshock.answering.decoding import DecodingOptions
from factshock.answering.methods import Model as AnyModel
from factshock.answering.queries import Questions
from factshock.checkpoints.loading import Origin
from factshock.facts import schema
from factshock.interface import extracting, parameters
from factshock.interface.models import Model
from factshock.knowledge_graph import pipeline
from factshock.predictions import writing

MODES = ("rank", "greedy", "beam", "sample", "votes", "letters", "choices", "known")
# The name of a mode -> how an answer is generated.
DECODING = {"generate": "greedy", "greedy": "greedy", "beam": "beam", "sample": "sample"}

DEFAULT_SHOTS = {"known": 4}


def decoding(
  mode: str,
  max_tokens: int,
  *,
  beams: int,
  temperature: float,
  seed: int,
) -> DecodingOptions:
  """Returns how a mode generates an answer.

  Raises:
    UserError: there is no such mode, or a number out of its range.
  """
  method = DECODING.get(mode, "greedy")
  parameters.check_among("mode", "greedy" if mode in DECODING else mode, MODES)
  parameters.check_numbers(max_tokens=max_tokens, beams=beams, temperature=temperature, seed=seed)
  return DecodingOptions(max_tokens, method=method, beams=beams, temperature=temperature, seed=seed)


def answer(
  model: Model,
  facts: str,
  options: AnswerOptions | KnowledgeOptions,
  output: str | None,
) -> list[dict[str, Any]]:
  """Returns a model's answers to a facts file, or what it knows of the facts.

  Args:
    model: the model.
    facts: path of the facts, or a data set.
    options: how to answer, or how to find out what is known.
    output: path of the file to write as well; None is none.
  """
  if isinstance(options, KnowledgeOptions):
    if output is not None:
      schema.check_writable(output)
    known = asking.knowledge_of(model.loaded, model.origin, facts, options)
    if output is not None:
      schema.write_facts(output, known)
    return [dict(fact) for fact in known]
  if output is not None:
    writing.check_name(output)  # before a million questions are asked
  rows = asking.answers_of(model.loaded, model.origin, facts, options)
  if output is not None:
    writing.write_predictions(output, rows)
  return rows


def extract(
  open_model: Callable[[], tuple[AnyModel, Origin]],
  questions: Questions,
  folder: str,
  options: pipeline.Options,
  how: QueryOptions,
  overwrite: bool = False,
) -> tuple[pipeline.Summary, Sample] | None:
  """Asks a model the queries and the calibration facts of an extraction, and extracts.

  The answers are kept in parts in the folder until the extraction is whole: a run that was killed
  goes on, and processes that are started alike share the asking.

  Args:
    open_model: returns the model, and what its folder says of it.
    questions: what is asked.
    folder: that of the extraction.
    options: of the extraction; `asked` is filled in.
    how: how the model is asked; the answers that it compares are those of the extraction.
    overwrite: whether an extraction that lies in the folder is written anew.

  Returns:
    The summary, and some of the queries with their answers; None where another process has
    extracted.
  """
  paths = extracting.paths_of_answers(folder)
  corrects = bool(options.prior_correction)
  how = dataclasses.replace(how, answer_set=options.answer_set, list_all=corrects)

  def then(asked: Mapping[str, Any]) -> pipeline.Summary:
    told = dataclasses.replace(options, asked=asked)
    return extracting.extract(folder, *paths, told, overwrite)

  with _new_folder_kept_if_filled(folder):
    return queries.answer(open_model, questions, paths, how, then)


@contextlib.contextmanager
def _new_folder_kept_if_filled(folder: str) -> Iterator[None]:
  """Removes a folder that was made inside where an error leaves nothing in it, not even parts."""
  is_new = not os.path.isdir(folder)
  try:
    yield
  except BaseException:
    if is_new:
      with contextlib.suppress(OSError):
        os.rmdir(folder)
    raise


def extract_by(
  model: Model,
  source: extracting.Source,
  folder: str,
  options: pipeline.Options,
  how: QueryOptions,
  overwrite: bool,
) -> pipeline.Summary:
  """Extracts by asking a model that is opened; see `extract`.

  Args:
    model: the model.
    source: the files of queries, calibration facts and relations.
    folder: that of the extraction.
    options: of the extraction.
    how: how the model is asked.
    overwrite: whether an extraction that lies in the folder is written anew.

  Raises:
    UserError: there are no queries, or some are calibrated on.
  """
  parameters.check_among("mode", how.method, candidates.METHODS)
  relations, asked = source.read(model.origin.relations_path)
  questions = Questions(*extracting.questions(source.calibration, asked), relations)
  options = dataclasses.replace(options, relations=relations)
  opened = (model.loaded, model.origin)
  done = extract(lambda: opened, questions, folder, options, how, overwrite)
  return done[0] if done else extracting.read_summary(folder)

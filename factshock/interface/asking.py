"""Asking of models from Python: an opened model in, rows or files of answers out."""

import dataclasses
from typing import Any

from factshock.answering import asking, candidates
from factshock.answering.asking import AnswerOptions, KnowledgeOptions
from factshock.answering.candidates import QueryOptions
from factshock.answering.decoding import DecodingOptions
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
    known = asking.knowledge_of(model.loaded, model.origin, facts, options)
    if output is not None:
      schema.write_facts(output, known)
    return [dict(fact) for fact in known]
  rows = asking.answers_of(model.loaded, model.origin, facts, options)
  if output is not None:
    writing.write_predictions(output, rows)
  return rows


def answer_extraction(
  model: Model,
  source: extracting.Source,
  folder: str,
  options: pipeline.Options,
  how: QueryOptions,
) -> tuple[tuple[str, str], pipeline.Options]:
  """Asks a model the queries and the calibration facts of an extraction.

  Args:
    model: the model.
    source: the files of queries, calibration facts and relations.
    folder: that of the extraction.
    options: of the extraction.
    how: how the model is asked; the answers that it compares are those of the extraction.

  Returns:
    The paths of the predictions on queries and on calibration facts, and the options with the
    relations, and with how the model was asked.

  Raises:
    UserError: there are no queries, or some are calibrated on.
  """
  parameters.check_among("mode", how.method, candidates.METHODS)
  relations, queries = source.read(model.origin.relations_path)
  known = extracting.read_calibration(source.calibration, queries)
  paths = extracting.paths_of_answers(folder)
  how = dataclasses.replace(
    how, answer_set=options.answer_set, list_all=bool(options.prior_correction)
  )
  candidates.answer_queries(model.loaded, model.origin, queries or [], known, paths, relations, how)
  asked = how.described(model.origin)
  return paths, dataclasses.replace(options, relations=relations, asked=asked)

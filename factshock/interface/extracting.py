"""Extraction of a knowledge graph: what to ask, the graph itself, and its page."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from factshock.answering import parts
from factshock.facts import queries as query_files
from factshock.facts import sources
from factshock.facts.queries import QueryStream
from factshock.facts.schema import Row
from factshock.knowledge_graph import answers, pipeline
from factshock.report import extraction_page
from factshock.runtime import garbage, json_files
from factshock.runtime.errors import UserError
from factshock.types import FilePath, Relation

PREDICTIONS = "predictions.jsonl.gz"
CALIBRATION = "calibration_predictions.jsonl.gz"


@dataclasses.dataclass(frozen=True)
class Source:
  """Holds the files that say what an extraction is about.

  Attributes:
    queries: path of what is asked, or a data set; None is all that is answered.
    calibration: path of the calibration facts, or of the answers to them.
    relations: path of the relations, or a data set that brings them.
  """

  queries: str | None
  calibration: str
  relations: str | None

  def read(
    self,
    default_path: Callable[[], FilePath] | None = None,
  ) -> tuple[dict[str, Relation], QueryStream | None]:
    """Returns relations and queries.

    Args:
      default_path: as of `find_relations`.
    """
    relations = find_relations(self.relations, (self.queries, self.calibration), default_path)
    return relations, find_queries(self.queries, None, None, relations)

  def limited(self, options: pipeline.Options) -> pipeline.Options:
    """Returns options with the relations, and with the queries that answers are limited to."""
    relations, queries = self.read()
    return dataclasses.replace(options, relations=relations, queries=keys_of(queries))


def extract(
  folder: str,
  predictions: str,
  calibration: str,
  options: pipeline.Options,
  overwrite: bool = False,
) -> pipeline.Summary:
  """Extracts a graph from predictions files into a folder, with its report and summary.

  Args:
    folder: made where it is missing.
    predictions: path of the predictions on the queries.
    calibration: path of the predictions on the calibration facts.
    options: how answers are calibrated and accepted, and what is written.
    overwrite: whether an extraction that lies in the folder is written anew.

  Returns:
    The summary, as extraction.json holds it.
  """
  with pipeline.whole_or_absent(folder, overwrite):
    with garbage.uncollected():  # a fifth of the time
      summary = pipeline.extract(folder, predictions, calibration, options)
    page = extraction_page.write_report(summary, folder)
    pipeline.write_summary(summary, folder, page)
  return summary


def find_relations(
  given: str | None,
  specs: Iterable[str | None],
  default_path: Callable[[], FilePath] | None,
) -> dict[str, Relation]:
  """Returns the relations by name: those given, of a data set asked about, or of the default.

  Args:
    given: path of the relations, or a data set that brings them.
    specs: paths and data sets of what is asked.
    default_path: returns the path of the relations where these bring none; None: there are none.
  """
  if given and (relations := sources.read_relations(given)):
    return relations
  for spec in specs:
    if spec and sources.is_source(spec) and (relations := sources.read_relations(spec)):
      return relations
  return sources.read_relations(default_path()) if default_path else {}


def keys_of(queries: QueryStream | None) -> set[answers.Query] | None:
  """Returns subject and relation of queries; None where there are none."""
  return None if queries is None else query_files.keys(queries)


def find_queries(
  queries: str | None,
  subjects: str | None,
  ask: Sequence[str] | None,
  relations: Mapping[str, Relation],
) -> QueryStream | None:
  """Returns the queries of a file, or those of subjects times relations; None without either.

  Args:
    queries: path of queries, or a data set.
    subjects: path of subjects.
    ask: the relations they are asked; None is all.
    relations: those that there are.

  Raises:
    UserError: both are given, or relations that there are not.
  """
  if queries and subjects:
    raise UserError("expected one of --queries and --subjects, got both; see --help")
  if queries:
    return query_files.open_stream(queries)
  unknown = set(ask or ()) - set(relations)
  if unknown:
    known = ", ".join(sorted(relations)) or "those of --relations"
    raise UserError(f"--ask: expected relations among {known}, got {', '.join(sorted(unknown))}")
  if not subjects:
    return None
  if not relations:
    raise UserError(
      "--subjects needs --relations=FILE: every relation of it, or of --ask, is asked"
    )
  return query_files.cross(subjects, ask or list(relations))


def questions(path: str, queries: QueryStream | None) -> tuple[QueryStream, list[Row]]:
  """Returns the queries, and the calibration facts of a file.

  Raises:
    UserError: there are no queries, or some are calibrated on.
  """
  if queries is None:
    raise UserError("expected one of --queries and --subjects, got neither; see --help")
  known = query_files.read(path)
  answers.check_separate_queries(answers.queries_of(known), answers.queries_of(queries), "queries")
  return queries, known


def check_new(
  folder: str,
  asks: bool,
  overwrite: bool,
) -> None:
  """Raises a UserError where outputs are there already that are not to be written anew.

  Args:
    folder: that of the extraction.
    asks: whether a model is asked, whose answers are written there too. With those that are kept
      there of a run that did not end this one goes on.
    overwrite: whether what is there is written anew.
  """
  goes_on = asks and parts.goes_on(paths_of_answers(folder)[0], overwrite)
  if goes_on and (overwrite or not os.path.exists(os.path.join(folder, pipeline.SUMMARY))):
    return
  pipeline.check_folder(folder, overwrite)
  if not asks or overwrite or pipeline.is_left_unfinished(folder):
    return
  for path in paths_of_answers(folder):
    if os.path.exists(path):
      raise UserError(
        f"{path}: already exists; choose another --output, or give --overwrite to ask anew; to "
        "extract from these answers, give them as --predictions and --calibration"
      )


def read_summary(folder: str) -> pipeline.Summary:
  """Returns what extraction.json holds."""
  return json_files.read(os.path.join(folder, pipeline.SUMMARY))


def paths_of_answers(folder: str) -> tuple[str, str]:
  """Returns where an extraction that asks a model keeps its answers to queries and calibration."""
  return os.path.join(folder, PREDICTIONS), os.path.join(folder, CALIBRATION)

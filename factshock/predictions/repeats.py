"""Queries that stand in a predictions file more than once, and rows without a relation."""

from collections.abc import Sequence

import numpy as np

from factshock.predictions.foreign import NO_RELATION
from factshock.predictions.reading import QUERY_COLUMNS, Predictions, PredictionsByArm
from factshock.runtime import messages
from factshock.runtime.errors import UserError


def check(arms: PredictionsByArm) -> None:
  """Prints how many rows of each arm and seed repeat a query of it.

  Raises:
    UserError: most queries stand there with several predictions, as in a file of several models.
  """
  for label, by_seed in arms.items():
    for predictions in by_seed.values():
      _check(label, predictions)


def _check(label: str, predictions: Predictions) -> None:
  query_N = _codes([getattr(predictions, name) for name in QUERY_COLUMNS])
  queries = int(query_N.max()) + 1
  repeated = len(predictions) - queries
  if not repeated:
    return
  differing = int(_codes([query_N, predictions.prediction]).max()) + 1 - queries
  counts = f"{len(predictions):,} rows of {queries:,} queries, {differing:,} with other predictions"
  if repeated >= queries and differing:
    raise UserError(
      f"{predictions.path}: expected one answer to each query in arm {label!r}, got {counts}; of "
      "several models name the arm of each row in a column `arm` (--columns=arm=NAME), of several "
      "runs a `seed`"
    )
  messages.say(f"  {predictions.path}: arm {label!r} has {counts}; each row counts")


def _codes(columns: Sequence[np.ndarray]) -> np.ndarray:
  """Returns a code [N] for each row of columns of codes: from 0 on, equal where all columns are."""
  code_N = np.zeros(len(columns[0]), np.int64)
  for column_N in columns:
    pair_N = code_N * (int(column_N.max()) + 1) + column_N
    code_N = np.unique(pair_N, return_inverse=True)[1]
  return code_N


def check_relations(arms: PredictionsByArm) -> None:
  """Raises a UserError where rows have no relation, by which finetuning facts are counted."""
  for by_seed in arms.values():
    for predictions in by_seed.values():
      if NO_RELATION not in predictions.strings:
        continue
      count = int((predictions.relation == predictions.strings.index(NO_RELATION)).sum())
      if count:
        raise UserError(
          f"{predictions.path}: expected a relation in every row, as --finetuning_facts counts "
          f"answers by relation, got none in {count:,}"
        )

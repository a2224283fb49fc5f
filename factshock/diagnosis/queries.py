"""Test queries of one seed: their order, gold answers and popularity, which all arms share."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np

from factshock.diagnosis import shock, statistics
from factshock.diagnosis.linking import Linker
from factshock.predictions import reading
from factshock.predictions.reading import Predictions
from factshock.types import Answer

BINS = 4


class PopularityBin(TypedDict):
  """One quartile of the popularity of the queries' subjects."""

  low: float
  high: float
  queries: int


@dataclasses.dataclass(frozen=True, eq=False)
class Queries:
  """Test set of one seed: queries in an order that file order does not change.

  Attributes:
    label: the arm they were read from.
    source: its predictions.
    order: index of each query's row in the source [N].
    base: the source's rows in order.
    draw: the bootstrap resamples.
    bins: popularity bin of each query [N], BINS where unknown; None where no arm has popularities.
    bin_rows: the bins, None for an empty one.
    aliases: (relation, normalised alias) -> normalised object.
    entities: the known answers.
    linker: finds them in texts.
    gold: index of each gold answer in `entities` [N].
    gold_ExR: its resampled histogram, or None (see statistics.histogram).
  """

  label: str
  source: Predictions
  order: np.ndarray
  base: Predictions
  draw: statistics.Draw
  bins: np.ndarray | None
  bin_rows: list[PopularityBin | None]
  aliases: dict[Answer, str]
  entities: shock.Entities
  linker: Linker
  gold: np.ndarray
  gold_ExR: np.ndarray | None


def make_queries(
  arms: Mapping[str, Predictions],
  reference: str,
  finetuning_sets: Iterable[Sequence[Answer]],
  counts: Mapping[Answer, int] | None,
  resamples: int,
  rng: np.random.Generator,
) -> Queries:
  """Returns the queries of one seed.

  Args:
    arms: predictions by label.
    reference: label of the arm to take the queries from, where it has this seed.
    finetuning_sets: (relation, object) pairs of each different set of finetuning facts.
    counts: mentions in pretraining of (relation, entity), or None.
    resamples: number of bootstrap resamples.
    rng: random generator.
  """
  label = reference if reference in arms else next(iter(arms))
  order = reading.canonical_order(arms[label])
  base = reading.take(arms[label], order)
  entities, gold_N = _known_answers(base, finetuning_sets, counts)
  draw = statistics.make_draw(len(base), resamples, rng)
  bins, bin_rows = popularity_bins(base, arms)
  answers = _accepted(base)
  aliases = shock.alias_names(answers)
  return Queries(
    label=label,
    source=arms[label],
    order=order,
    base=base,
    draw=draw,
    bins=bins,
    bin_rows=bin_rows,
    aliases=aliases,
    entities=entities,
    linker=Linker.of(entities, answers, aliases),
    gold=gold_N,
    gold_ExR=statistics.histogram(draw, gold_N, len(entities.names) + 1),
  )


def _known_answers(
  base: Predictions,
  finetuning_sets: Iterable[Sequence[Answer]],
  counts: Mapping[Answer, int] | None,
) -> tuple[shock.Entities, np.ndarray]:
  """Returns the known answers, and the index among them of each query's gold answer [N]."""
  pairs, pair_N = distinct_pairs(base.relation, base.object, len(base.strings))
  texts = [(base.strings[relation], base.strings[name]) for relation, name in pairs]
  queries_of_pair = np.bincount(pair_N).tolist()
  gold = dict(sorted(zip(texts, queries_of_pair)))
  others = itertools.chain(*finetuning_sets)
  entities = shock.make_entities(gold, counts=counts, others=others)
  entity_of_pair = shock.predicted_entities(texts, entities, {})
  return entities, entity_of_pair[pair_N]


def rows_in_order(
  label: str,
  arm: Predictions,
  queries: Queries,
) -> np.ndarray:
  """Returns the index of an arm's row of each query [N]."""
  if arm is queries.source:
    return queries.order
  return reading.match(queries.base, arm, (f"arm {queries.label!r}", f"arm {label!r}"))


def distinct_pairs(
  first_N: np.ndarray,
  second_N: np.ndarray,
  width: int,
) -> tuple[list[tuple[int, int]], np.ndarray]:
  """Returns the distinct pairs of two integer columns, and the index of each row's pair [N].

  Args:
    first_N: codes.
    second_N: codes below `width`.
    width: bound of the second column's codes.
  """
  codes, index_N = np.unique(first_N.astype(np.int64) * width + second_N, return_inverse=True)
  return [divmod(code, width) for code in codes.tolist()], index_N


def popularity_bins(
  base: Predictions, arms: Mapping[str, Predictions]
) -> tuple[np.ndarray | None, list[PopularityBin | None]]:
  """Returns the quartile of each query's subject popularity, from the first arm that has it.

  Args:
    base: predictions in the order wanted.
    arms: predictions of the same queries by label.

  Returns:
    (bin of each query, BINS where unknown; BINS rows, None for an empty bin); (None, []) where no
    arm has popularities.
  """
  popularity_N = _popularity(base, arms)
  if popularity_N is None:
    return None, []
  known_N = ~np.isnan(popularity_N)
  edges = np.quantile(popularity_N[known_N], np.arange(1, BINS) / BINS)
  bin_N = np.where(known_N, np.searchsorted(edges, popularity_N), BINS)
  return bin_N, [_bin_row(popularity_N[bin_N == i]) for i in range(BINS)]


def _popularity(base: Predictions, arms: Mapping[str, Predictions]) -> np.ndarray | None:
  for arm in arms.values():
    if arm.popularity is not None:
      return arm.popularity[reading.match(base, arm)]
  return None


def _bin_row(values: np.ndarray) -> PopularityBin | None:
  if not len(values):
    return None
  return {
    "low": float(values.min()),
    "high": float(values.max()),
    "queries": len(values),
  }


def _accepted(base: Predictions) -> list[tuple[str, Sequence[str]]]:
  """Returns the different (relation, accepted answers with the object first) pairs."""
  pairs, _ = distinct_pairs(base.relation, base.answer, len(base.answers))
  return [(base.strings[relation], base.answers[answer]) for relation, answer in pairs]

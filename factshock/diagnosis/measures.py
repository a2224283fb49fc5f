"""All measures of all arms on the test set of one seed, each with its bootstrap resamples."""

import typing

import numpy as np

from factshock.diagnosis import shock, statistics
from factshock.predictions import accuracy, reading

NEED_BOTH = ("shock", "slope", "spearman", *("ratio/" + group for group in shock.GROUPS))
NEED_FINETUNING = ("range_shift", "mismatch", "finetuning_answer")
NEED_COUNTS = ("rarer_than_gold",)
RANGES = {"total_variation": (0, 1), "mismatch": (0, 1), "spearman": (-1, 1)}
BINS = 4


class Sample(typing.NamedTuple):
  """A measure of one arm and seed, and its bootstrap resamples [R]."""

  value: float
  resamples: np.ndarray


class Plan(typing.NamedTuple):
  """Measures that are functions of the counts of one integer column: counts [R, size] -> dict name -> [R]."""

  code: np.ndarray
  size: int
  measures: typing.Callable


class Queries(typing.NamedTuple):
  """The test set of one seed: queries in an order that file order does not change, and what all arms share.

  `source` is the arm they were read from, `base` its rows in order; `bins` the popularity bin of each query
  (BINS where unknown), or None; `gold` the place of each gold answer in `entities`, `gold_ExR` its resampled
  histogram.
  """

  label: str
  source: reading.Predictions
  order: np.ndarray
  base: reading.Predictions
  draw: statistics.Draw
  bins: np.ndarray | None
  bin_rows: list
  aliases: dict
  entities: shock.Entities
  gold: np.ndarray
  gold_ExR: np.ndarray | None


def make_queries(arms, reference, finetuning_sets, counts, resamples, rng):
  """Queries of one seed.

  Args:
    arms: dict label -> Predictions.
    reference: label of the arm to take the queries from, where it has this seed.
    finetuning_sets: lists of (relation, object), one for each different set of finetuning facts.
    counts: dict (relation, entity) -> mentions in pretraining, or None.
    resamples: number of bootstrap resamples.
    rng: random generator.
  """
  label = reference if reference in arms else next(iter(arms))
  order = reading.canonical_order(arms[label])
  base = reading.take(arms[label], order)
  pairs, pair_N = _distinct(base.relation, base.object, len(base.strings))
  texts = [(base.strings[relation], base.strings[name]) for relation, name in pairs]
  gold = dict(sorted(zip(texts, np.bincount(pair_N).tolist())))
  entities = shock.make_entities(
    gold, counts=counts, others=[key for found in finetuning_sets for key in found]
  )
  answer_pairs, _ = _distinct(base.relation, base.answer, len(base.answers))
  aliases = shock.alias_names(
    (base.strings[relation], base.answers[answer]) for relation, answer in answer_pairs
  )
  gold_N = shock.predicted_entities(texts, entities, {})[pair_N]
  bins, bin_rows = popularity_bins(base, arms)
  draw = statistics.make_draw(len(base), resamples, rng)
  gold_ExR = statistics.histogram(draw, gold_N, len(entities.names) + 1)
  return Queries(
    label, arms[label], order, base, draw, bins, bin_rows, aliases, entities, gold_N, gold_ExR
  )


def measure(
  arms,
  queries,
  finetuning,
  counted,
  *,
  reference=None,
  known=None,
  pairs=(),
  criterion="exact_match",
  types=None,
):
  """All measures of all arms of one seed.

  Args:
    arms: dict label -> Predictions, in any order.
    queries: from `make_queries`.
    finetuning: dict label -> list of (relation, object), or None where unknown.
    counted: whether pretraining counts are known.
    reference, known: labels, or None; pairs: (arm, against) labels; those not among the arms are passed over.
    criterion: "exact_match" or "contains": what makes an answer right.
    types: dict relation -> its type, or None.

  Returns:
    (samples, predicted): dict label or pair -> dict name -> Sample, and dict label -> place of each answer.
  """
  samples = {}
  plans = []
  right = {}
  predicted = {}
  for label, arm in arms.items():
    arm = reading.take(arm, _rows(label, arm, queries))
    scores_Nx3 = accuracy.scores(arm)
    right[label] = scores_Nx3[:, accuracy.CRITERIA.index(criterion)] > 0
    predicted[label] = _predicted(arm, queries, right[label])
    mine, samples[label] = _shock(
      queries, right[label], predicted[label], finetuning[label], counted
    )
    plans += [
      (label, plan)
      for plan in (*_accuracy(arm, scores_Nx3, right[label], queries, types or {}), *mine)
    ]
  for label in arms:
    plans += [(label, _flips(right[label], right[reference]))] if reference in arms else []
    plans += [(label, _kept(right[label], right[known]))] if known in arms else []
  for pair in pairs:
    if set(pair) <= arms.keys():
      plans.append((pair, _flips(right[pair[0]], right[pair[1]])))
      plans += (
        [(pair, _by_known(right[pair[0]], right[pair[1]], right[known]))] if known in arms else []
      )
  for label, found in _carry_out(queries.draw, plans):
    samples.setdefault(label, {}).update(found)
  for label in arms:
    _blank(samples[label], finetuning[label] is not None, counted)
  return samples, predicted


def entity_rows(run, queries, finetuning, predicted):
  """Rows of the entity table: answers that are gold, in finetuning, or predicted by one of the arms.

  Args:
    run: the seed.
    queries: from `make_queries`.
    finetuning: list of (relation, object), or None.
    predicted: dict label -> place of each answer.
  """
  entities = shock.finetuned_on(queries.entities, finetuning or ())
  size = len(entities.names)
  columns = {
    label: np.bincount(places_N, minlength=size + 1)[:size] for label, places_N in predicted.items()
  }
  among = (entities.gold > 0) | (entities.finetuning > 0)
  for column in columns.values():
    among |= column > 0
  return [
    {
      "seed": run,
      "relation": entities.names[i][0],
      "entity": entities.names[i][1],
      "pretraining": int(entities.pretraining[i]),
      "finetuning": int(entities.finetuning[i]),
      "gold": int(entities.gold[i]),
      "pressure": float(entities.pressure[i]),
      "group": shock.GROUPS[entities.group[i]],
      "predicted": {label: int(column[i]) for label, column in columns.items()},
    }
    for i in np.flatnonzero(among).tolist()
  ]


def _distinct(first_N, second_N, width):
  """Distinct pairs of two integer columns, as a list of tuples, and the place of each row's pair."""
  codes, place_N = np.unique(first_N.astype(np.int64) * width + second_N, return_inverse=True)
  return [divmod(code, width) for code in codes.tolist()], place_N


def _rows(label, arm, queries):
  """Places of an arm's rows in the order of the queries."""
  if arm is queries.source:
    return queries.order
  return reading.match(queries.base, arm, (f"arm {queries.label!r}", f"arm {label!r}"))


def _carry_out(draw, plans):
  """Yields (label, dict name -> Sample) of (label, Plan) pairs."""
  tables = statistics.cell_counts(
    draw, [plan.code for _, plan in plans], [plan.size for _, plan in plans]
  )
  for (label, plan), counts_RxC in zip(plans, tables):
    exact = plan.measures(np.bincount(plan.code, minlength=plan.size)[None])
    yield label, _samples(exact, plan.measures(counts_RxC))


def _samples(exact, resampled):
  return {name: Sample(float(exact[name][0]), resampled[name]) for name in exact}


def _accuracy(arm, scores_Nx3, right_N, queries, types):
  """Plans of accuracy, of ranks where there are candidates, and of right answers by popularity and relation."""
  columns = {
    **dict(zip(("exact_match", "contains", "f1"), scores_Nx3.T)),
    "right": right_N.astype(float),
  }
  if arm.rank is not None:
    columns |= {**accuracy.hits(arm.rank, arm.listed), "mrr": accuracy.reciprocal_rank(arm.rank)}
  yield from (_mean(name, values_N) for name, values_N in columns.items())
  if queries.bins is not None:
    yield _by_popularity(queries, right_N)
  yield from _by_relation(queries, right_N, types)


def _mean(name, values_N):
  levels, code_N = np.unique(values_N, return_inverse=True)
  return Plan(
    code_N.astype(np.int32),
    len(levels),
    lambda counts_RxC: {name: counts_RxC @ levels / len(values_N)},
  )


def _flips(right_N, other_N):
  """Queries that only the first (gained), only the second (lost) has right: shares, difference, numbers."""

  def shares(counts_Rx4):
    gained_R = counts_Rx4[:, 2]
    lost_R = counts_Rx4[:, 1]
    return {
      "gained": gained_R / len(right_N),
      "lost": lost_R / len(right_N),
      "difference": (gained_R - lost_R) / len(right_N),
      "wins": gained_R,
      "losses": lost_R,
    }

  return Plan(2 * right_N.astype(np.int32) + other_N, 4, shares)


def _by_known(right_N, other_N, known_N):
  """The difference of two arms' shares right among the queries that are known, and among the others; NaN where there are none."""

  def differences(counts_Rx8):
    found = {}
    for name, counts in (
      ("difference_unknown", counts_Rx8[:, :4]),
      ("difference_known", counts_Rx8[:, 4:]),
    ):
      found[name] = shock.divide(counts[:, 2] - counts[:, 1], counts.sum(axis=1))
    return found

  return Plan(4 * known_N.astype(np.int32) + 2 * right_N + other_N, 8, differences)


def _kept(right_N, known_N):
  """Of the queries that are known, the share answered right; NaN where none is known."""
  return Plan(
    2 * known_N.astype(np.int32) + right_N,
    4,
    lambda counts: {"known_kept": shock.divide(counts[:, 3], counts[:, 2] + counts[:, 3])},
  )


def popularity_bins(base, arms):
  """Quartile of each query's subject popularity, and rows of the table; from the first arm that has it.

  Args:
    base: Predictions in the order wanted. arms: dict label -> Predictions of the same queries.

  Returns:
    (bin of each query, BINS where unknown; BINS rows {"low", "high", "queries"}, None for an empty bin); (None, []) where no arm has
    popularities.
  """
  for arm in arms.values():
    if arm.popularity is not None:
      popularity_N = arm.popularity[reading.match(base, arm)]
      break
  else:
    return None, []
  known_N = ~np.isnan(popularity_N)
  edges = np.quantile(popularity_N[known_N], np.arange(1, BINS) / BINS)
  bin_N = np.where(known_N, np.searchsorted(edges, popularity_N), BINS)
  inside = [popularity_N[bin_N == i] for i in range(BINS)]
  return bin_N, [
    {"low": float(values.min()), "high": float(values.max()), "queries": len(values)}
    if len(values)
    else None
    for values in inside
  ]


def _by_popularity(queries, right_N):
  def shares(counts_RxC):
    bins_RxB = shock.divide(counts_RxC[:, 1::2], counts_RxC[:, 0::2] + counts_RxC[:, 1::2])
    return {f"popularity/{i}": bins_RxB[:, i] for i in range(BINS) if queries.bin_rows[i]}

  return Plan(queries.bins * 2 + right_N, 2 * (BINS + 1), shares)


def _by_relation(queries, right_N, types):
  """A plan of the share right in each relation, and the plain mean of all and of each type; none where there is one relation."""
  relations, code_N = np.unique(queries.base.relation, return_inverse=True)
  if len(relations) < 2:
    return
  names = [queries.base.strings[relation] for relation in relations.tolist()]
  of_type = {}
  for place, name in enumerate(names):
    of_type.setdefault(types.get(name), []).append(place)
  of_type.pop(None, None)
  of_type.pop("", None)

  def shares(counts_RxC):
    shares_RxK = shock.divide(counts_RxC[:, 1::2], counts_RxC[:, 0::2] + counts_RxC[:, 1::2])
    return {
      "macro_right": statistics.nan_mean(shares_RxK),
      **{f"relation/{name}": share for name, share in zip(names, shares_RxK.T)},
      **{
        f"type/{name}": statistics.nan_mean(shares_RxK[:, places])
        for name, places in of_type.items()
      },
    }

  yield Plan(2 * code_N.astype(np.int32) + right_N, 2 * len(relations), shares)


def _predicted(arm, queries, right_N):
  pairs, pair_N = _distinct(arm.relation, arm.prediction, len(arm.strings))
  texts = [(arm.strings[relation], arm.strings[text]) for relation, text in pairs]
  places = shock.predicted_entities(texts, queries.entities, queries.aliases)
  return np.where(right_N, queries.gold, places[pair_N])


def _shock(queries, right_N, predicted_N, finetuning, counted):
  """Plans of the group measures, and samples of those over entities; nothing where nothing is known."""
  if finetuning is None and not counted:
    return [], {}
  entities = shock.finetuned_on(queries.entities, finetuning or ())
  plan = Plan(
    shock.cells(entities, queries.gold, predicted_N, right_N), shock.CELLS, shock.group_measures
  )
  width = len(entities.names) + 1
  columns = (predicted_N, queries.gold)
  exact = shock.entity_measures(
    *(np.bincount(column, minlength=width)[None] for column in columns), entities
  )
  chunks = [
    shock.entity_measures(*pair, entities)
    for pair in statistics.histogram_pairs(queries.draw, *columns, width, queries.gold_ExR)
  ]
  resampled = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in exact}
  return [plan], _samples(
    exact, {name: _centred(name, float(exact[name][0]), resampled[name]) for name in exact}
  )


def _centred(name, value, samples_R):
  """Resamples moved so that their mean is the measure.

  Resampling adds noise to the counts of entities, which these measures do not average out: total variation
  rises and a slope shrinks in every resample, so that plain percentiles may leave out the measure itself.
  """
  low, high = RANGES.get(name, (-np.inf, np.inf))
  return np.clip(samples_R + (value - statistics.nan_mean(samples_R)), low, high)


def _blank(samples, finetuned, counted):
  """Makes NaN, in place, of the measures for which finetuning facts or counts are missing."""
  unknown = set()
  if not finetuned:
    unknown.update(NEED_BOTH, NEED_FINETUNING)
  if not counted:
    unknown.update(NEED_BOTH, NEED_COUNTS)
  samples.update({name: Sample(np.nan, np.full(1, np.nan)) for name in unknown & samples.keys()})

"""All measures of all arms on the test set of one seed, each with its bootstrap resamples."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from factshock.diagnosis import queries as query_sets
from factshock.diagnosis import shock, statistics
from factshock.diagnosis.linking import Links
from factshock.diagnosis.options import Options, Pair
from factshock.diagnosis.queries import BINS, Queries
from factshock.diagnosis.shock import Measures
from factshock.diagnosis.statistics import Sample
from factshock.predictions import accuracy, reading
from factshock.predictions.reading import Predictions
from factshock.runtime import second_process
from factshock.runtime.progress import Progress
from factshock.types import Answer

NEED_BOTH = ("shock", "slope", "spearman", *("ratio/" + group for group in shock.GROUPS))
NEED_FINETUNING = ("range_shift", "mismatch", "finetuning_answer")
NEED_COUNTS = ("rarer_than_gold",)
RANGES = {"total_variation": (0, 1), "mismatch": (0, 1), "spearman": (-1, 1)}

Samples: TypeAlias = dict[str, Sample]  # by name of the measure
Label: TypeAlias = str | Pair  # an arm's, or those of two arms that are compared


class Plan(NamedTuple):
  """Measures that are functions of the counts of one integer column.

  Attributes:
    code: the column [N].
    size: bound of its values.
    measures: function of counts [R, size] that returns arrays [R] by name.
  """

  code: np.ndarray
  size: int
  measures: Callable[[np.ndarray], Measures]


class _Trained(NamedTuple):
  """What arms that were finetuned on the same answers share.

  Attributes:
    entities: the known answers.
    mismatches: their mismatch in each part of the resamples, [r] each; None where every arm draws
      resamples of its own.
  """

  entities: shock.Entities
  mismatches: list[np.ndarray] | None


class _Measured(NamedTuple):
  """What is measured of an arm's predictions in the order of the queries.

  Attributes:
    scores: as from `accuracy.scores` [N, 3].
    right: which answers are right by the criterion [N].
    links: each query's predicted entity.
    samples: of the measures over entities; none where those are not known.
  """

  scores: np.ndarray
  right: np.ndarray
  links: Links
  samples: Samples


def measure(
  arms: Mapping[str, Predictions],
  queries: Queries,
  finetuning: Mapping[str, Sequence[Answer] | None],
  counted: bool,
  options: Options,
  progress: Progress,
) -> tuple[dict[Label, Samples], dict[str, Links]]:
  """Measures all arms of one seed.

  Args:
    arms: predictions by label, in any order.
    queries: as from `make_queries`.
    finetuning: (relation, object) pairs by label, or None where unknown.
    counted: whether pretraining counts are known.
    options: reference, known arm, pairs, criterion and types; labels that are not among the arms
      are passed over.
    progress: gets two units an arm.

  Returns:
    (samples by label or pair, each query's predicted entity by label).
  """
  known = {label: of_arm for label, of_arm in finetuning.items() if counted or of_arm is not None}
  trained = _trained_entities(queries, known)
  rows = {label: query_sets.rows_in_order(label, arm, queries) for label, arm in arms.items()}

  def measure_arm(label: str) -> _Measured:
    arm_in_order = reading.take(arms[label], rows[label])
    return _measure_arm(arm_in_order, queries, trained.get(label), options.criterion)

  samples: dict[Label, Samples] = {}
  links: dict[str, Links] = {}
  right: dict[str, np.ndarray] = {}
  plans: list[tuple[Label, Plan]] = []
  for label, of_arm in zip(arms, _map(measure_arm, list(arms), queries.draw)):
    samples[label] = of_arm.samples
    links[label] = of_arm.links
    right[label] = of_arm.right
    arm_in_order = reading.take(arms[label], rows[label])
    of_entities = trained[label].entities if label in trained else None
    plans += [(label, plan) for plan in _plans(arm_in_order, of_arm, queries, of_entities, options)]
    progress.advance()
  plans += _comparison_plans(right, options)
  if counted:
    predicted = {label: links_of_arm.entity for label, links_of_arm in links.items()}
    grouped = {label: trained[label].entities for label in arms if finetuning[label] is not None}
    plans += _ratio_plans(predicted, queries, grouped, options)
  _carry_out_all(queries.draw, plans, samples, progress, len(arms))
  for label in arms:
    _blank_unknown(samples[label], finetuning[label] is not None, counted)
  return samples, links


def _map(
  function: Callable[[str], _Measured],
  labels: Sequence[str],
  draw: statistics.Draw,
) -> Iterator[_Measured]:
  """Returns what a function returns for each label: of two at a time, where no two would draw."""
  if draw.counts_NxR is None or not second_process.may_be_made():
    return map(function, labels)
  return second_process.map_in_two(function, labels)


def _trained_entities(
  queries: Queries,
  finetuning: Mapping[str, Sequence[Answer] | None],
) -> dict[str, _Trained]:
  """Returns the entities as each arm was finetuned on them, made once for each set of answers."""
  of_sets: dict[int, _Trained] = {}
  by_label: dict[str, _Trained] = {}
  for label, answers in finetuning.items():
    if id(answers) not in of_sets:
      entities = shock.finetuned_on(queries.entities, answers or ())
      of_sets[id(answers)] = _Trained(entities, _mismatches(queries, entities))
    by_label[label] = of_sets[id(answers)]
  return by_label


def _mismatches(queries: Queries, entities: shock.Entities) -> list[np.ndarray] | None:
  """Returns the mismatch in each part of the resamples that all arms share, if they do."""
  if queries.gold_ExR is None:
    return None
  parts = statistics.parts(queries.draw, len(queries.gold_ExR))
  return [shock.mismatch(queries.gold_ExR[:, part].T, entities) for part in parts]


def _measure_arm(
  arm: Predictions,
  queries: Queries,
  trained: _Trained | None,
  criterion: str,
) -> _Measured:
  """Returns what is measured of an arm's predictions in the order of the queries.

  Args:
    arm: its predictions.
    queries: as from `make_queries`.
    trained: the entities; None where neither finetuning answers nor counts are known.
    criterion: by which an answer is right.
  """
  scores_Nx3 = accuracy.scores(arm)
  right_N = scores_Nx3[:, accuracy.CRITERIA.index(criterion)] > 0
  links = _predicted_entities(arm, queries, right_N)
  samples: Samples = {}
  if trained is not None:
    samples = _entity_samples(queries, links.entity, trained)
  return _Measured(scores_Nx3, right_N, links, samples)


def _plans(
  arm: Predictions,
  measured: _Measured,
  queries: Queries,
  entities: shock.Entities | None,
  options: Options,
) -> Iterator[Plan]:
  """Yields plans of all that is left to resample of an arm, its predictions in order."""
  yield from _accuracy_plans(arm, measured.scores, measured.right, queries, options)
  if entities is not None:
    code_N = shock.cells(entities, queries.gold, measured.links.entity, measured.right)
    yield Plan(code_N, shock.CELLS, shock.group_measures)


def _carry_out_all(
  draw: statistics.Draw,
  plans: Sequence[tuple[Label, Plan]],
  samples: dict[Label, Samples],
  progress: Progress,
  units: int,
) -> None:
  """Adds what plans measure to the samples of their labels, in so many units of progress."""
  done = progress.done
  for count, (label, measured) in enumerate(_carry_out(draw, plans), 1):
    samples.setdefault(label, {}).update(measured)
    progress.update(done + units * count // len(plans))


def entity_rows(
  seed: int,
  queries: Queries,
  finetuning: Sequence[Answer] | None,
  predicted: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
  """Returns rows of the entity table: answers that are gold, in finetuning, or predicted by an arm.

  Args:
    seed: the seed.
    queries: as from `make_queries`.
    finetuning: (relation, object) pairs, or None.
    predicted: index of each query's predicted entity by label.
  """
  entities = shock.finetuned_on(queries.entities, finetuning or ())
  size = len(entities.names)
  counts = {
    label: np.bincount(entity_N, minlength=size + 1)[:size] for label, entity_N in predicted.items()
  }
  among_E = (entities.gold > 0) | (entities.finetuning > 0)
  for count_E in counts.values():
    among_E |= count_E > 0
  return [_entity_row(seed, entities, i, counts) for i in np.flatnonzero(among_E).tolist()]


def _entity_row(
  seed: int,
  entities: shock.Entities,
  i: int,
  counts: Mapping[str, np.ndarray],
) -> dict[str, Any]:
  relation, name = entities.names[i]
  return {
    "seed": seed,
    "relation": relation,
    "entity": name,
    "pretraining": int(entities.pretraining[i]),
    "finetuning": int(entities.finetuning[i]),
    "gold": int(entities.gold[i]),
    "pressure": float(entities.pressure[i]),
    "group": shock.GROUPS[entities.group[i]],
    "predicted": {label: int(count_E[i]) for label, count_E in counts.items()},
  }


def _carry_out(
  draw: statistics.Draw, plans: Sequence[tuple[Label, Plan]]
) -> Iterator[tuple[Label, Samples]]:
  tables = statistics.cell_counts(
    draw, [plan.code for _, plan in plans], [plan.size for _, plan in plans]
  )
  for (label, plan), counts_RxC in zip(plans, tables):
    exact = plan.measures(np.bincount(plan.code, minlength=plan.size)[None])
    yield label, _samples(exact, plan.measures(counts_RxC))


def _samples(exact: Measures, resampled: Measures) -> Samples:
  return {name: Sample(float(exact[name][0]), resampled[name]) for name in exact}


def _accuracy_plans(
  arm: Predictions,
  scores_Nx3: np.ndarray,
  right_N: np.ndarray,
  queries: Queries,
  options: Options,
) -> Iterator[Plan]:
  """Yields plans of accuracy, of ranks (of candidates), by popularity and by relation."""
  columns: dict[str, np.ndarray] = dict(zip(accuracy.Scores._fields, scores_Nx3.T))
  columns["right"] = right_N.astype(float)
  if arm.rank is not None:
    columns |= accuracy.hits(arm.rank, arm.listed)
    columns["mrr"] = accuracy.reciprocal_rank(arm.rank)
  for name, values_N in columns.items():
    yield _mean_plan(name, values_N)
  if queries.bins is not None:
    yield _popularity_plan(queries.bins, queries.bin_rows, right_N)
  yield from _relation_plans(queries.base, right_N, options.types or {})


def _mean_plan(name: str, values_N: np.ndarray) -> Plan:
  levels, code_N = np.unique(values_N, return_inverse=True)

  def mean(counts_RxC: np.ndarray) -> Measures:
    return {name: counts_RxC @ levels / len(values_N)}

  return Plan(code_N.astype(np.int32), len(levels), mean)


def _popularity_plan(
  bin_N: np.ndarray,
  bin_rows: Sequence[Any],
  right_N: np.ndarray,
) -> Plan:
  filled = [i for i in range(BINS) if bin_rows[i]]

  def shares(counts_RxC: np.ndarray) -> Measures:
    share_RxB = _odd_share(counts_RxC)
    return {f"popularity/{i}": share_RxB[:, i] for i in filled}

  return Plan(bin_N * 2 + right_N, 2 * (BINS + 1), shares)


def _relation_plans(
  base: Predictions,
  right_N: np.ndarray,
  types: Mapping[str, str],
) -> Iterator[Plan]:
  """Yields a plan of the share right in each relation, and the mean of all and of each type.

  There is none where there is one relation.
  """
  relations, code_N = np.unique(base.relation, return_inverse=True)
  if len(relations) < 2:
    return
  names = [base.strings[int(relation)] for relation in relations]
  of_type: dict[str, list[int]] = {}
  for index, name in enumerate(names):
    if types.get(name):
      of_type.setdefault(types[name], []).append(index)

  def shares(counts_RxC: np.ndarray) -> Measures:
    share_RxK = _odd_share(counts_RxC)
    measures = {"macro_right": statistics.nan_mean(share_RxK)}
    for name, share_R in zip(names, share_RxK.T):
      measures[f"relation/{name}"] = share_R
    for name, indices in of_type.items():
      measures[f"type/{name}"] = statistics.nan_mean(share_RxK[:, indices])
    return measures

  yield Plan(2 * code_N.astype(np.int32) + right_N, 2 * len(relations), shares)


def _odd_share(counts_RxC: np.ndarray) -> np.ndarray:
  """Returns the share of each odd code in itself and the even one before it: [R, C / 2]."""
  odd_RxK = counts_RxC[:, 1::2]
  return shock.divide(odd_RxK, counts_RxC[:, 0::2] + odd_RxK)


def _comparison_plans(
  right: Mapping[str, np.ndarray], options: Options
) -> Iterator[tuple[Label, Plan]]:
  """Yields plans of arms beside the reference and the known arm, and of pairs of arms."""
  reference_N = _right_of(right, options.reference)
  known_N = _right_of(right, options.known)
  for label, right_N in right.items():
    if reference_N is not None:
      yield label, _flip_plan(right_N, reference_N)
    if known_N is not None:
      yield label, _kept_plan(right_N, known_N)
  for label, against in options.pairs:
    if label not in right or against not in right:
      continue
    yield (label, against), _flip_plan(right[label], right[against])
    if known_N is not None:
      yield (label, against), _known_plan(right[label], right[against], known_N)


def _ratio_plans(
  predicted: Mapping[str, np.ndarray],
  queries: Queries,
  trained: Mapping[str, shock.Entities],
  options: Options,
) -> Iterator[tuple[Label, Plan]]:
  """Yields plans of the differences of prediction ratios, of arms beside the reference.

  Both arms' answers are grouped by what the first was finetuned on.
  """
  for label, against in options.pairs:
    entities = trained.get(label)
    if against != options.reference or entities is None or against not in predicted:
      continue
    groups = (queries.gold, predicted[label], predicted[against])
    yield (label, against), _ratio_plan(*(shock.groups_of(entities, code_N) for code_N in groups))


def _ratio_plan(
  gold_N: np.ndarray,
  first_N: np.ndarray,
  second_N: np.ndarray,
) -> Plan:
  """Returns a plan of the difference of two arms' prediction ratios, NaN without gold answers.

  Args:
    gold_N: group of each gold answer.
    first_N: group of each answer of the first arm, shock.OTHER where it is in none.
    second_N: group of each answer of the second arm.
  """
  names = [f"ratio_difference/{group}" for group in shock.GROUPS]
  width = shock.OTHER + 1

  def differences(counts_RxC: np.ndarray) -> Measures:
    table = counts_RxC.reshape(-1, width, width, width)
    more_RxG = table.sum((1, 3)) - table.sum((1, 2))
    ratios_RxG = shock.divide(more_RxG, table.sum((2, 3)))
    return {name: ratios_RxG[:, index] for index, name in enumerate(names)}

  code_N = (gold_N * width + first_N) * width + second_N
  return Plan(code_N.astype(np.int32), width**3, differences)


def _right_of(right: Mapping[str, np.ndarray], label: str | None) -> np.ndarray | None:
  return None if label is None else right.get(label)


def _flip_plan(right_N: np.ndarray, other_N: np.ndarray) -> Plan:
  """Returns a plan of queries that only the first (gained) or the second (lost) has right.

  Their shares, the difference of these, and their counts.
  """

  def shares(counts_Rx4: np.ndarray) -> Measures:
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


def _known_plan(
  right_N: np.ndarray,
  other_N: np.ndarray,
  known_N: np.ndarray,
) -> Plan:
  """Returns a plan of the difference of two arms' shares right among known queries and others.

  NaN where there are none.
  """

  def difference(counts_Rx4: np.ndarray) -> np.ndarray:
    return shock.divide(counts_Rx4[:, 2] - counts_Rx4[:, 1], counts_Rx4.sum(axis=1))

  def differences(counts_Rx8: np.ndarray) -> Measures:
    return {
      "difference_unknown": difference(counts_Rx8[:, :4]),
      "difference_known": difference(counts_Rx8[:, 4:]),
    }

  return Plan(4 * known_N.astype(np.int32) + 2 * right_N + other_N, 8, differences)


def _kept_plan(right_N: np.ndarray, known_N: np.ndarray) -> Plan:
  """Returns a plan of the share right of the queries that are known; NaN where none is."""

  def kept(counts_Rx4: np.ndarray) -> Measures:
    known_R = counts_Rx4[:, 2] + counts_Rx4[:, 3]
    return {"known_kept": shock.divide(counts_Rx4[:, 3], known_R)}

  return Plan(2 * known_N.astype(np.int32) + right_N, 4, kept)


def _predicted_entities(
  arm: Predictions,
  queries: Queries,
  right_N: np.ndarray,
) -> Links:
  """Returns each query's predicted entity: where it is right, the gold one."""
  pairs, pair_N = query_sets.distinct_pairs(arm.relation, arm.prediction, len(arm.strings))
  texts = [(arm.strings[relation], arm.strings[text]) for relation, text in pairs]
  entity_P = shock.predicted_entities(texts, queries.entities, queries.aliases)
  nothing = len(queries.entities.names)
  other_P = np.flatnonzero(entity_P == nothing)
  for place, entity in zip(
    other_P.tolist(), queries.linker.link([texts[place] for place in other_P])
  ):
    entity_P[place] = nothing if entity is None else entity
  entity_N = np.where(right_N, queries.gold, entity_P[pair_N])
  was_other_P = np.zeros(len(texts), bool)
  was_other_P[other_P] = True
  unknown_N = entity_N == nothing
  return Links(entity_N, was_other_P[pair_N] & ~unknown_N, unknown_N)


def _entity_samples(
  queries: Queries,
  predicted_N: np.ndarray,
  trained: _Trained,
) -> Samples:
  """Returns samples of the measures over entities."""
  entities = trained.entities
  width = len(entities.names) + 1
  exact = shock.entity_measures(
    np.bincount(predicted_N, minlength=width)[None],
    np.bincount(queries.gold, minlength=width)[None],
    entities,
  )
  histograms = statistics.histogram_pairs(
    queries.draw, predicted_N, queries.gold, width, queries.gold_ExR
  )
  chunks = [
    shock.entity_measures(predicted_RxE, gold_RxE, entities, mismatch_R)
    for (predicted_RxE, gold_RxE), mismatch_R in zip(
      histograms, trained.mismatches or itertools.repeat(None)
    )
  ]
  resampled: Measures = {}
  for name in exact:
    samples_R = np.concatenate([chunk[name] for chunk in chunks])
    resampled[name] = _centred(name, float(exact[name][0]), samples_R)
  return _samples(exact, resampled)


def _centred(
  name: str,
  value: float,
  samples_R: np.ndarray,
) -> np.ndarray:
  """Returns resamples moved so that their mean is the measure.

  Resampling adds noise to the counts of entities, which these measures do not average out: total
  variation rises and a slope shrinks in every resample, so that plain percentiles may leave out the
  measure itself.
  """
  low, high = RANGES.get(name, (-np.inf, np.inf))
  return np.clip(samples_R + (value - statistics.nan_mean(samples_R)), low, high)


def _blank_unknown(
  samples: Samples,
  finetuned: bool,
  counted: bool,
) -> None:
  """Makes NaN, in place, of the measures for which finetuning facts or counts are missing."""
  unknown: set[str] = set()
  if not finetuned:
    unknown.update(NEED_BOTH, NEED_FINETUNING)
  if not counted:
    unknown.update(NEED_BOTH, NEED_COUNTS)
  for name in unknown & samples.keys():
    samples[name] = Sample(np.nan, np.full(1, np.nan))

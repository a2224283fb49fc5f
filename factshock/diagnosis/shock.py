"""Frequency shock: how the frequencies of predicted entities depart from those of the gold answers.

The definitions follow Kazemi, Mittal, Ramachandran 2023 (arXiv 2301.11293), which reports that
finetuning makes a model over-predict entities that are rare in pretraining but seen in finetuning,
and under-predict entities that are common in pretraining but not seen there. All measures are
functions of counts, so that the same code gives a measure and its bootstrap resamples: arrays
[R, ...] with R = 1 for the measure itself.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from factshock.facts.word_frequencies import WordFrequencies
from factshock.predictions.accuracy import normalise
from factshock.types import Answer

GROUPS = ("rare_seen", "rare_unseen", "common_seen", "common_unseen")
RARE_SEEN, RARE_UNSEEN, COMMON_SEEN, COMMON_UNSEEN = range(4)
OTHER = 4  # predictions that are no known answer of their relation
CELLS = 4 * 5 * 2 * 2  # gold group x predicted group x right x rarer than gold
ENTITY_MEASURES = ("slope", "spearman", "total_variation", "mismatch")
BLOCK_ENTRIES = 1 << 15  # what is sorted at a time stays in the processor's cache
FLOAT32_TERMS = 1 << 11  # quotients of whole numbers up to it that differ do so in float32

Measures: TypeAlias = dict[str, np.ndarray]  # name -> [R]


@dataclasses.dataclass(frozen=True, eq=False)
class Entities:
  """Known answers of all relations: test gold, finetuning answers, counted entities; arrays [E].

  Attributes:
    names: (relation, name as first met).
    index: (relation, normalised name) -> index of the entity.
    relation: int code of the relation.
    pretraining: float64 mentions in pretraining, f_pre.
    finetuning: float64 count among the finetuning answers, f_train.
    gold: float64 count among the gold answers of the test, f_test.
    common: bool, whether in the smallest head set of the relation's answers, by pretraining count,
      that holds at least half of their mentions.
    group: int index into GROUPS; seen = a finetuning answer.
    pressure: float64 s(e), the natural log of the smoothed share in finetuning over that in
      pretraining.
    among: indices [A] of the test gold and finetuning answers, which the measures go over.
    pressure_rank: float64 ranks [A] of their pressures minus the mean rank, ties averaged; by the
      exact quotients, as equal pressures may differ in floating point.
  """

  names: list[Answer]
  index: dict[Answer, int]
  relation: np.ndarray
  pretraining: np.ndarray
  finetuning: np.ndarray
  gold: np.ndarray
  common: np.ndarray
  group: np.ndarray
  pressure: np.ndarray
  among: np.ndarray
  pressure_rank: np.ndarray


def make_entities(
  gold: Mapping[Answer, int],
  finetuning: Sequence[Answer] = (),
  counts: Mapping[Answer, int] | None = None,
  others: Iterable[Answer] = (),
) -> Entities:
  """Returns the entities of one seed.

  Args:
    gold: number of test queries of each (relation, object).
    finetuning: (relation, object), the gold answers of the finetuning facts.
    counts: mentions in pretraining of (relation, entity); relation "" is any relation. Or None.
    others: more (relation, object) that are known answers.
  """
  counts = counts or {}
  of_relations = {key: count for key, count in counts.items() if key[0]}
  names: list[Answer] = []
  index: dict[Answer, int] = {}
  tallies = [_tally(counted, names, index) for counted in (gold.items(), of_relations.items())]
  _tally(((key, 0) for key in (*finetuning, *others)), names, index)
  gold_E, pretraining_E = (
    np.bincount(indices, weights, len(names)).astype(np.float64) for indices, weights in tallies
  )
  pretraining_E += _counts_of_any_relation(index, counts)
  relation_E = np.unique([relation for relation, _ in names], return_inverse=True)[1]
  nothing_E = np.zeros(len(names))
  bare = Entities(
    names=names,
    index=index,
    relation=relation_E,
    pretraining=pretraining_E,
    finetuning=nothing_E,
    gold=gold_E,
    common=common(pretraining_E, relation_E, names),
    group=nothing_E,
    pressure=nothing_E,
    among=np.flatnonzero(gold_E),
    pressure_rank=np.zeros(0),
  )
  return finetuned_on(bare, finetuning)


def finetuned_on(entities: Entities, finetuning: Iterable[Answer]) -> Entities:
  """Returns the same entities with the finetuning answers of another arm, all of them known."""
  indices = [entities.index[relation, normalise(name)] for relation, name in finetuning]
  counts_E = np.bincount(np.array(indices, np.int64), minlength=len(entities.names))
  finetuning_E = counts_E.astype(np.float64)
  group_E = np.where(entities.common, COMMON_SEEN, RARE_SEEN) + (finetuning_E == 0)
  pressure_E = _log_share(finetuning_E, entities.relation)
  pressure_E -= _log_share(entities.pretraining, entities.relation)
  among = np.flatnonzero((entities.gold > 0) | (finetuning_E > 0))
  order_A = _order_of_pressures(finetuning_E, entities.pretraining, entities.relation, among)
  return dataclasses.replace(
    entities,
    finetuning=finetuning_E,
    group=group_E,
    pressure=pressure_E,
    among=among,
    pressure_rank=_centred_ranks(order_A),
  )


def _tally(
  counted: Iterable[tuple[Answer, int]],
  names: list[Answer],
  index: dict[Answer, int],
) -> tuple[np.ndarray, np.ndarray]:
  """Returns indices and weights of counted answers; adds new ones to names and index, in place."""
  indices: list[int] = []
  weights: list[int] = []
  for (relation, name), count in counted:
    entity = index.setdefault((relation, normalise(name)), len(names))
    if entity == len(names):
      names.append((relation, name))
    indices.append(entity)
    weights.append(count)
  return np.array(indices, np.int64), np.array(weights, np.float64)


def _counts_of_any_relation(index: Iterable[Answer], counts: Mapping[Answer, int]) -> np.ndarray:
  """Returns counts [E] of entities that are counted for no relation in particular."""
  if isinstance(counts, WordFrequencies):
    return np.array([counts["", name] for _, name in index], np.float64)
  by_name: dict[str, int] = {}
  for (relation, name), count in counts.items():
    if not relation:
      by_name[normalise(name)] = by_name.get(normalise(name), 0) + count
  return np.array([by_name.get(name, 0) for _, name in index], np.float64)


def common(
  pretraining_E: np.ndarray,
  relation_E: np.ndarray,
  names: Sequence[Answer],
) -> np.ndarray:
  """Returns whether each entity is in its relation's head set: bool [E]; ties go by name.

  Args:
    pretraining_E: mentions of each entity.
    relation_E: code of its relation.
    names: (relation, name) of each.
  """

  def by_name(index: int) -> tuple[str, str]:
    _, name = names[index]
    return normalise(name), name

  alphabet = sorted(range(len(names)), key=by_name)
  name_rank_E = np.empty(len(names), np.int64)
  name_rank_E[alphabet] = np.arange(len(names))
  order_E = np.lexsort([name_rank_E, -pretraining_E, relation_E])
  sorted_E = pretraining_E[order_E]
  before_E = np.cumsum(sorted_E) - sorted_E
  starts = np.flatnonzero(np.diff(relation_E[order_E], prepend=-1))
  sizes = np.diff(np.append(starts, len(names)))
  before_E -= np.repeat(before_E[starts], sizes)
  total_E = np.repeat(np.add.reduceat(sorted_E, starts), sizes)
  common_E = np.empty(len(names), bool)
  common_E[order_E] = (2 * before_E < total_E) & (sorted_E > 0)
  return common_E


def _log_share(count_E: np.ndarray, relation_E: np.ndarray) -> np.ndarray:
  """Returns the natural log of each entity's share within its relation, every count plus one."""
  totals = np.bincount(relation_E, count_E + 1)
  return np.log((count_E + 1) / totals[relation_E])


def _order_of_pressures(
  finetuning_E: np.ndarray,
  pretraining_E: np.ndarray,
  relation_E: np.ndarray,
  among: np.ndarray,
) -> np.ndarray:
  """Returns the place of some entities' pressures among their distinct ones: int [A].

  It is that of (f + 1) T2 / ((p + 1) T1), exactly: f and p are the counts in finetuning and
  pretraining, T1 and T2 the totals of the relation, every count plus one.
  """
  counts_ExK = np.stack([relation_E, finetuning_E + 1, pretraining_E + 1], axis=1)
  distinct_DxK, index_A = np.unique(counts_ExK[among], axis=0, return_inverse=True)
  totals = np.bincount(relation_E, finetuning_E + 1).tolist()
  pretraining_totals = np.bincount(relation_E, pretraining_E + 1).tolist()
  quotients: list[Fraction] = []
  for relation, finetuning, pretraining in distinct_DxK.astype(np.int64).tolist():
    above = finetuning * int(pretraining_totals[relation])
    below = pretraining * int(totals[relation])
    quotients.append(Fraction(above, below))
  # The nearest float decides most comparisons, and much faster.
  ordered = sorted(set(quotients), key=lambda quotient: (float(quotient), quotient))
  place = {quotient: index for index, quotient in enumerate(ordered)}
  places_D = np.array([place[quotient] for quotient in quotients], np.int64)
  return places_D[index_A.reshape(-1)]


def predicted_entities(
  pairs: Iterable[Answer],
  entities: Entities,
  aliases: Mapping[Answer, str],
) -> np.ndarray:
  """Returns the entity of each predicted text: int array of indices.

  The index is `len(entities.names)` where the text is no known answer.

  Args:
    pairs: (relation, predicted text).
    entities: the known answers.
    aliases: (relation, normalised alias) -> normalised object (see `alias_names`).
  """
  index = entities.index
  indices: list[int] = []
  for relation, text in pairs:
    key = relation, normalise(text)
    entity = index.get(key)
    if entity is None and key in aliases:
      entity = index.get((relation, aliases[key]))
    indices.append(len(index) if entity is None else entity)
  return np.array(indices, np.int64)


def alias_names(answers: Iterable[tuple[str, Sequence[str]]]) -> dict[Answer, str]:
  """Returns (relation, normalised alias) -> normalised object.

  Only aliases of one object of the relation are in it.

  Args:
    answers: (relation, accepted answers with the object first) pairs.
  """
  objects: dict[Answer, set[str]] = {}
  for relation, (name, *aliases) in answers:
    for alias in aliases:
      objects.setdefault((relation, normalise(alias)), set()).add(normalise(name))
  return {key: names.pop() for key, names in objects.items() if len(names) == 1}


def cells(
  entities: Entities,
  gold_N: np.ndarray,
  predicted_N: np.ndarray,
  right_N: np.ndarray,
) -> np.ndarray:
  """Returns one code a query for all group measures: int [N], below CELLS.

  It codes gold group, predicted group, right, rarer than gold.

  Args:
    entities: the known answers.
    gold_N: index of each gold answer.
    predicted_N: index of each prediction, `len(entities.names)` for no known answer.
    right_N: whether each is right.
  """
  counts = np.append(entities.pretraining, np.inf)
  rarer_N = counts[predicted_N] < counts[gold_N]
  pair_N = groups_of(entities, gold_N) * 5 + groups_of(entities, predicted_N)
  right_pair_N = pair_N * 2 + right_N
  return right_pair_N * 2 + rarer_N


def groups_of(entities: Entities, entity_N: np.ndarray) -> np.ndarray:
  """Returns the group of each entity [N]; OTHER for `len(entities.names)`, no known answer."""
  return np.append(entities.group, OTHER)[entity_N]


def group_measures(cells_RxC: np.ndarray) -> Measures:
  """Returns the measures that hang on the four groups only.

  Args:
    cells_RxC: counts of the codes of `cells`.

  Returns:
    Arrays [R]: "predicted/<group>", "gold/<group>", "ratio/<group>" (NaN without gold answers),
    "shock", "range_shift", "finetuning_answer" and "rarer_than_gold" (shares of the errors; NaN
    without any).
  """
  table = cells_RxC.reshape(-1, 4, 5, 2, 2)
  wrong = table[:, :, :, 0]
  queries = table.sum((1, 2, 3, 4))
  errors = wrong.sum((1, 2, 3))
  gold_RxG = table.sum((2, 3, 4))
  predicted_RxG = table.sum((1, 3, 4))
  wrong_RxG = wrong.sum((1, 3))
  gap_RxG = (predicted_RxG[:, :4] - gold_RxG) / queries[:, None]
  measures: Measures = {}
  for i, group in enumerate(GROUPS):
    measures["predicted/" + group] = predicted_RxG[:, i]
    measures["gold/" + group] = gold_RxG[:, i]
    measures["ratio/" + group] = divide(predicted_RxG[:, i], gold_RxG[:, i])
  seen = [RARE_SEEN, COMMON_SEEN]
  measures["shock"] = gap_RxG[:, RARE_SEEN] - gap_RxG[:, COMMON_UNSEEN]
  measures["range_shift"] = predicted_RxG[:, seen].sum(1) / queries
  measures["finetuning_answer"] = divide(wrong_RxG[:, seen].sum(1), errors)
  measures["rarer_than_gold"] = divide(wrong[:, :, :, 1].sum((1, 2)), errors)
  return measures


def entity_measures(
  predicted_RxE: np.ndarray,
  gold_RxE: np.ndarray,
  entities: Entities,
  mismatch_R: np.ndarray | None = None,
) -> Measures:
  """Returns the measures over entities.

  Args:
    predicted_RxE: counts of each entity among the predictions, with a last column for predictions
      of no known answer.
    gold_RxE: the same of the gold answers.
    entities: the known answers.
    mismatch_R: as from `mismatch`, where it is known already.

  Returns:
    Arrays [R]: "slope" and "spearman" of the smoothed log r(e) = log (n_pred + 1) / (f_test + 1) on
    s(e), over the entities that are test gold or finetuning answers; "total_variation" between
    predicted and gold answers, "mismatch" between finetuning and gold answers (both over
    (relation, answer) pairs).
  """
  queries_R = gold_RxE.sum(1)
  among = entities.among
  predicted_RxA = predicted_RxE[:, among] + 1
  gold_RxA = gold_RxE[:, among] + 1
  slope_R = np.full(len(queries_R), np.nan)
  if entities.pressure_rank.any():
    slope_R = slopes(np.log(predicted_RxA / gold_RxA), entities.pressure[among])
  return {
    "total_variation": 0.5 * np.abs(predicted_RxE - gold_RxE).sum(1) / queries_R,
    "mismatch": mismatch(gold_RxE, entities) if mismatch_R is None else mismatch_R,
    "slope": slope_R,
    "spearman": spearman(predicted_RxA, gold_RxA, entities.pressure_rank),
  }


def mismatch(gold_RxE: np.ndarray, entities: Entities) -> np.ndarray:
  """Returns the total variation between finetuning and gold answers: [R]; NaN without the former.

  Args:
    gold_RxE: as `entity_measures` takes it.
    entities: the known answers.
  """
  trained = entities.finetuning.sum()
  share_E = np.append(entities.finetuning, 0) / (trained or np.nan)
  queries_R = gold_RxE.sum(1)
  return 0.5 * np.abs(gold_RxE / queries_R[:, None] - share_E[None]).sum(1)


def slopes(y_RxE: np.ndarray, x_E: np.ndarray) -> np.ndarray:
  """Returns the least-squares slope of each row of y on x, which varies: [R]."""
  centred_E = x_E - x_E.mean()
  return y_RxE @ centred_E / float(centred_E @ centred_E)


def spearman(
  above_RxE: np.ndarray,
  below_RxE: np.ndarray,
  x_ranks_E: np.ndarray,
) -> np.ndarray:
  """Returns Spearman's correlation of quotients of whole numbers with x, ties averaged: [R].

  NaN where one is constant.

  Args:
    above_RxE: whole numbers from 1 on.
    below_RxE: what they are divided by, whole numbers from 1 on.
    x_ranks_E: the ranks of x minus their mean.
  """
  rows, size = above_RxE.shape
  step = max(1, BLOCK_ENTRIES // max(1, size))
  blocks: list[np.ndarray] = []
  for start in range(0, rows, step):
    block = slice(start, start + step)
    keys_RxE = _quotient_keys(above_RxE[block], below_RxE[block])
    blocks.append(_spearman_block(keys_RxE, x_ranks_E))
  return np.concatenate(blocks)


def _quotient_keys(above_RxE: np.ndarray, below_RxE: np.ndarray) -> np.ndarray:
  """Returns int64 below 2**31 that are equal and sort as the exact quotients do.

  Two quotients a / b and c / d that differ do so by 1 / (b d) at least, far more than a float64 of
  counts below 2**26 is rounded; small ones stay apart in a float32, whose bits sort like it.
  """
  largest = max(above_RxE.max(initial=1), below_RxE.max(initial=1))
  if largest <= FLOAT32_TERMS:
    return (above_RxE / below_RxE).astype(np.float32).view(np.int32).astype(np.int64)
  quotient_RxE = np.divide(above_RxE, below_RxE, dtype=np.float64)
  _, key = np.unique(quotient_RxE, return_inverse=True)
  return key.reshape(quotient_RxE.shape).astype(np.int64)


def _centred_ranks(x_E: np.ndarray) -> np.ndarray:
  """Returns ranks minus their mean, ties averaged."""
  order_E = np.argsort(x_E, kind="stable")
  _, run_E, sizes = np.unique(x_E[order_E], return_inverse=True, return_counts=True)
  ranks_E = np.empty(len(x_E))
  mean_ranks = np.cumsum(sizes) - sizes + (sizes - 1) / 2
  ranks_E[order_E] = mean_ranks[run_E]
  return ranks_E - (len(x_E) - 1) / 2


def _spearman_block(keys_RxE: np.ndarray, x_ranks_E: np.ndarray) -> np.ndarray:
  """Returns the correlation of a few rows; sorts value and column in one 64-bit key.

  Args:
    keys_RxE: int64 from 0 to 2**31, which sort as the values.
    x_ranks_E: the ranks of x minus their mean.
  """
  rows: int
  size: int
  rows, size = keys_RxE.shape
  if not size:
    return np.full(rows, np.nan)
  key_RxE = (keys_RxE << 32) | np.arange(size)[None]
  key_RxE.sort(axis=1)
  values = (key_RxE >> 32).ravel()
  is_new = np.ones(values.size, bool)
  is_new[1:] = values[1:] != values[:-1]
  is_new[::size] = True
  starts = np.flatnonzero(is_new)
  sizes = np.diff(np.append(starts, values.size))
  ranks = starts % size + (sizes - 1) / 2 - (size - 1) / 2
  sums = np.add.reduceat(x_ranks_E[key_RxE & 0xFFFFFFFF].ravel(), starts)
  row = starts // size
  y_spread_R = np.bincount(row, ranks * ranks * sizes, rows)
  spread_R = y_spread_R * (x_ranks_E @ x_ranks_E)
  product_R = np.bincount(row, ranks * sums, rows)
  return divide(product_R, np.sqrt(spread_R))


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
  """Returns above / below, NaN where below is 0."""
  return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)

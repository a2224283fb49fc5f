"""Frequency shock: how the frequencies of predicted entities depart from those of the gold answers.

The definitions follow Kazemi, Mittal, Ramachandran 2023 (arXiv 2301.11293), which reports that finetuning
makes a model over-predict entities that are rare in pretraining but seen in finetuning, and under-predict
entities that are common in pretraining but not seen there. All measures are functions of counts, so that the
same code gives a measure and its bootstrap resamples: arrays [R, ...] with R = 1 for the measure itself.
"""

import dataclasses

import numpy as np

from factshock.predictions.accuracy import normalise

GROUPS = ("rare_seen", "rare_unseen", "common_seen", "common_unseen")
RARE_SEEN, RARE_UNSEEN, COMMON_SEEN, COMMON_UNSEEN = range(4)
OTHER = 4  # predictions that are no known answer of their relation
CELLS = 4 * 5 * 2 * 2  # gold group x predicted group x right x rarer than gold
ENTITY_MEASURES = ("slope", "spearman", "total_variation", "mismatch")
BLOCK_ENTRIES = 1 << 15  # what is sorted at a time stays in the processor's cache


@dataclasses.dataclass(frozen=True, eq=False)
class Entities:
  """The known answers of all relations: test gold, finetuning answers, counted entities; arrays [E].

  Attributes:
    names: list of (relation, name as first met).
    index: dict (relation, normalised name) -> place.
    relation: int code of the relation.
    pretraining, finetuning, gold: float64 counts, f_pre, f_train and f_test.
    common: bool, whether in the smallest head set of the relation's answers, by pretraining count, that
      holds at least half of their mentions.
    group: int place in GROUPS; seen = a finetuning answer.
    pressure: float64 s(e), the log of the smoothed share in finetuning over that in pretraining.
  """

  names: list
  index: dict
  relation: np.ndarray
  pretraining: np.ndarray
  finetuning: np.ndarray
  gold: np.ndarray
  common: np.ndarray
  group: np.ndarray
  pressure: np.ndarray


def make_entities(gold, finetuning=(), counts=None, others=()):
  """Entities of one seed.

  Args:
    gold: dict (relation, object) -> number of test queries.
    finetuning: list of (relation, object), the gold answers of the finetuning facts.
    counts: dict (relation, entity) -> mentions in pretraining; relation "" or None is any relation. Or None.
    others: more (relation, object) that are known answers.
  """
  names = []
  index = {}
  counts = counts or {}
  gold_E, pretraining_E, _, _ = _columns(
    names,
    index,
    gold.items(),
    ((key, count) for key, count in counts.items() if key[0]),
    ((key, 0) for key in finetuning),
    ((key, 0) for key in others),
  )
  pretraining_E += _anywhere(index, counts)
  relation_E = np.unique([relation for relation, _ in names], return_inverse=True)[1]
  nothing_E = np.zeros(len(names))
  bare = Entities(
    names,
    index,
    relation_E,
    pretraining_E,
    nothing_E,
    gold_E,
    common(pretraining_E, relation_E, names),
    nothing_E,
    nothing_E,
  )
  return finetuned_on(bare, finetuning)


def finetuned_on(entities, finetuning):
  """The same entities with the finetuning answers of another arm, all of which must be known."""
  places = [entities.index[relation, normalise(name)] for relation, name in finetuning]
  finetuning_E = np.bincount(np.array(places, np.int64), minlength=len(entities.names)).astype(
    np.float64
  )
  group_E = np.where(entities.common, COMMON_SEEN, RARE_SEEN) + (finetuning_E == 0)
  pressure_E = _log_share(finetuning_E, entities.relation)
  pressure_E -= _log_share(entities.pretraining, entities.relation)
  return dataclasses.replace(entities, finetuning=finetuning_E, group=group_E, pressure=pressure_E)


def _columns(names, index, *many):
  """Counts [E] of several collections of ((relation, name), count); new names are added."""
  tallies = [_tally(counted, names, index) for counted in many]
  return [
    np.bincount(places, weights, len(names)).astype(np.float64) for places, weights in tallies
  ]


def _tally(counted, names, index):
  """Places and weights of counted (relation, name) pairs; new names are added."""
  places = []
  weights = []
  for (relation, name), count in counted:
    place = index.setdefault((relation, normalise(name)), len(names))
    if place == len(names):
      names.append((relation, name))
    places.append(place)
    weights.append(count)
  return np.array(places, np.int64), np.array(weights, np.float64)


def _anywhere(index, counts):
  """Counts [E] of entities that are counted for no relation in particular."""
  found = {}
  for (relation, name), count in counts.items():
    if not relation:
      found[normalise(name)] = found.get(normalise(name), 0) + count
  return np.array([found.get(name, 0) for _, name in index], np.float64)


def common(pretraining_E, relation_E, names):
  """Whether each entity is in its relation's head set; ties in count go by name. bool [E]."""
  by_name = np.empty(len(names), np.int64)
  alphabet = sorted(range(len(names)), key=lambda i: (normalise(names[i][1]), names[i][1]))
  by_name[alphabet] = np.arange(len(names))
  order_E = np.lexsort([by_name, -pretraining_E, relation_E])
  sorted_E = pretraining_E[order_E]
  before_E = np.cumsum(sorted_E) - sorted_E
  starts = np.flatnonzero(np.diff(relation_E[order_E], prepend=-1))
  sizes = np.diff(np.append(starts, len(names)))
  before_E -= np.repeat(before_E[starts], sizes)
  total_E = np.repeat(np.add.reduceat(sorted_E, starts), sizes)
  found_E = np.empty(len(names), bool)
  found_E[order_E] = (2 * before_E < total_E) & (sorted_E > 0)
  return found_E


def _log_share(count_E, relation_E):
  """Log share of each entity within its relation, every count plus one."""
  totals = np.bincount(relation_E, count_E + 1)
  return np.log((count_E + 1) / totals[relation_E])


def predicted_entities(pairs, entities, aliases):
  """Place of each (relation, predicted text): int array, `len(entities.names)` where it is no known answer.

  Args:
    pairs: list of (relation, predicted text).
    entities: the known answers.
    aliases: dict (relation, normalised alias) -> normalised object (see `alias_names`).
  """
  index = entities.index
  found = []
  for relation, text in pairs:
    key = relation, normalise(text)
    place = index.get(key)
    if place is None and key in aliases:
      place = index.get((relation, aliases[key]))
    found.append(len(index) if place is None else place)
  return np.array(found, np.int64)


def alias_names(answers):
  """Dict (relation, normalised alias) -> normalised object, for aliases of one object of the relation only.

  Args:
    answers: (relation, accepted answers with the object first) pairs.
  """
  found = {}
  for relation, (name, *aliases) in answers:
    for alias in aliases:
      found.setdefault((relation, normalise(alias)), set()).add(normalise(name))
  return {key: names.pop() for key, names in found.items() if len(names) == 1}


def cells(entities, gold_N, predicted_N, right_N):
  """One code a query for all group measures: gold group, predicted group, right, rarer than gold."""
  groups = np.append(entities.group, OTHER)
  counts = np.append(entities.pretraining, np.inf)
  rarer_N = counts[predicted_N] < counts[gold_N]
  return ((groups[gold_N] * 5 + groups[predicted_N]) * 2 + right_N) * 2 + rarer_N


def group_measures(cells_RxC):
  """Measures that hang on the four groups only.

  Args:
    cells_RxC: counts of the codes of `cells`.

  Returns:
    Dict of arrays [R]: "predicted/<group>", "gold/<group>", "ratio/<group>" (NaN without gold answers),
    "shock", "range_shift", "finetuning_answer" and "rarer_than_gold" (shares of the errors; NaN without any).
  """
  table = cells_RxC.reshape(-1, 4, 5, 2, 2)
  queries = table.sum((1, 2, 3, 4))
  errors = table[:, :, :, 0].sum((1, 2, 3))
  gold_RxG = table.sum((2, 3, 4))
  predicted_RxG = table.sum((1, 3, 4))
  wrong_RxG = table[:, :, :, 0].sum((1, 3))
  gap_RxG = (predicted_RxG[:, :4] - gold_RxG) / queries[:, None]
  found = {}
  for place, group in enumerate(GROUPS):
    found["predicted/" + group], found["gold/" + group] = (
      predicted_RxG[:, place],
      gold_RxG[:, place],
    )
    found["ratio/" + group] = divide(predicted_RxG[:, place], gold_RxG[:, place])
  seen = [RARE_SEEN, COMMON_SEEN]
  found["shock"] = gap_RxG[:, RARE_SEEN] - gap_RxG[:, COMMON_UNSEEN]
  found["range_shift"] = predicted_RxG[:, seen].sum(1) / queries
  found["finetuning_answer"] = divide(wrong_RxG[:, seen].sum(1), errors)
  found["rarer_than_gold"] = divide(table[:, :, :, 0, 1].sum((1, 2)), errors)
  return found


def entity_measures(predicted_RxE, gold_RxE, entities):
  """Measures over entities.

  Args:
    predicted_RxE, gold_RxE: counts of each entity, with a last column for predictions of no known answer.
    entities: the known answers.

  Returns:
    Dict of arrays [R]: "slope" and "spearman" of the smoothed log r(e) = log (n_pred + 1) / (f_test + 1) on
    s(e), over the entities that are test gold or finetuning answers; "total_variation" between predicted and
    gold answers, "mismatch" between finetuning and gold answers (both over (relation, answer) pairs).
  """
  queries_R = gold_RxE.sum(1)
  found = {"total_variation": 0.5 * np.abs(predicted_RxE - gold_RxE).sum(1) / queries_R}
  trained = entities.finetuning.sum()
  share_E = np.append(entities.finetuning, 0) / (trained or np.nan)
  found["mismatch"] = 0.5 * np.abs(gold_RxE / queries_R[:, None] - share_E[None]).sum(1)
  among = np.flatnonzero((entities.gold > 0) | (entities.finetuning > 0))
  ratio_RxE = (predicted_RxE[:, among] + 1) / (gold_RxE[:, among] + 1)
  found["slope"] = slopes(np.log(ratio_RxE), entities.pressure[among])
  found["spearman"] = spearman(ratio_RxE, entities.pressure[among])
  return found


def slopes(y_RxE, x_E):
  """Least-squares slope of each row of y on x: array [R]; NaN where x does not vary."""
  centred_E = x_E - x_E.mean()
  spread = float(centred_E @ centred_E)
  return y_RxE @ centred_E / (spread if spread > 1e-12 else np.nan)


def spearman(y_RxE, x_E):
  """Spearman's correlation of each row of y (> 0) with x, ties averaged: [R]; NaN where one is constant."""
  size = len(x_E)
  x_ranks_E = _centred_ranks(np.asarray(x_E, np.float64))
  step = max(1, BLOCK_ENTRIES // max(1, size))
  return np.concatenate(
    [
      _spearman_block(y_RxE[start : start + step], x_ranks_E)
      for start in range(0, len(y_RxE), step)
    ]
  )


def _centred_ranks(x_E):
  """Ranks minus their mean, ties averaged."""
  order_E = np.argsort(x_E, kind="stable")
  _, run_E, sizes = np.unique(x_E[order_E], return_inverse=True, return_counts=True)
  ranks_E = np.empty(len(x_E))
  ranks_E[order_E] = (np.cumsum(sizes) - sizes + (sizes - 1) / 2)[run_E]
  return ranks_E - (len(x_E) - 1) / 2


def _spearman_block(y_RxE, x_ranks_E):
  """Sorts value and place in one 64-bit key (the value as float32, whose bits sort like it when positive)."""
  rows, size = y_RxE.shape
  if not size:
    return np.full(rows, np.nan)
  key_RxE = (y_RxE.astype(np.float32).view(np.int32).astype(np.int64) << 32) | np.arange(size)[None]
  key_RxE.sort(axis=1)
  values = (key_RxE >> 32).ravel()
  new = np.ones(values.size, bool)
  new[1:] = values[1:] != values[:-1]
  new[::size] = True
  starts = np.flatnonzero(new)
  sizes = np.diff(np.append(starts, values.size))
  ranks = starts % size + (sizes - 1) / 2 - (size - 1) / 2
  sums = np.add.reduceat(x_ranks_E[key_RxE & 0xFFFFFFFF].ravel(), starts)
  row = starts // size
  spread_R = np.bincount(row, ranks * ranks * sizes, rows) * (x_ranks_E @ x_ranks_E)
  return divide(np.bincount(row, ranks * sums, rows), np.sqrt(spread_R))


def divide(above, below):
  """above / below, NaN where below is 0."""
  return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)

"""The best candidates of each query, exactly, without the scores of all.

What follows a prefix can only make it less likely, as log-probabilities are at most 0. So the tree
of the candidates' prefixes is read best first, and what is below the last of the best is never
read. Queries are read together, each with the prefixes that are open for it.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches, prefix_trees, ranking, tries
from factshock.answering.prefix_trees import PrefixTree
from factshock.answering.ranking import Listed, Queries, QueryBatch
from factshock.checkpoints.loading import LoadedModel
from factshock.devices import partitioning
from factshock.models import families
from factshock.models.model_config import ModelConfig
from factshock.predictions import writing
from factshock.predictions.rows import Row
from factshock.runtime import interruption
from factshock.types import Array, Candidates, Params

# Contexts of a query that are read at a time, with those before them; each is compiled.
WIDTHS = (2, 8, 32, 128)
GROWTH = 4  # how much wider the next round may be: the first ones show what need not be read
FEWEST = 8  # queries of a round; fewer are padded
_DIVERGED = Listed(np.zeros(1, np.int64), np.full(1, np.nan, np.float32))
EDGES = (64, 512, 4096)  # next tokens asked of a query's contexts at a time


def list_best(model: LoadedModel, queries: Queries) -> list[Listed]:
  """Returns the best candidates of each query from `ranking.prepare` with a `top`.

  They are those of ranking.rank_prepared, within 1e-5, and all that are as good as the last within
  ranking.SLACK. Prints how far it is where that takes long.

  Args:
    model: the model to ask.
    queries: from `ranking.prepare`.

  Raises:
    UserError: as ranking.rank_prepared.
  """
  ranking.check_fits(model.model_config, queries)
  listed = dict(_each(model, queries, ranking.Scored(sum(queries.sizes))))
  return [listed[index] for index in range(len(queries.sizes))]


def rows(
  model: LoadedModel,
  facts: Sequence[Mapping[str, Any]],
  texts: Sequence[str],
  candidates: Candidates,
  *,
  top: int | None,
  batch_size: int,
  stops: Sequence[str],
  **labels: Any,
) -> list[Row]:
  """Returns rows of a predictions file with the best candidates of facts.

  Args:
    model: the model to ask.
    facts: that are asked.
    texts: the prompt of each fact.
    candidates: candidate answers by relation.
    top: how many candidates a row keeps; None is all, which takes the scores of all.
    batch_size: queries at a time.
    stops: as for `ranking.rank`.
    **labels: columns of every row (arm, seed, split).
  """
  relations = [fact["relation"] for fact in facts]
  queries = ranking.prepare(model, texts, relations, candidates, batch_size, stops, top)
  return rows_prepared(model, queries, facts, candidates, **labels)


def rows_prepared(
  model: LoadedModel,
  queries: Queries,
  facts: Sequence[Mapping[str, Any]],
  candidates: Candidates,
  **labels: Any,
) -> list[Row]:
  """Returns rows of a predictions file with what was wanted of queries from `ranking.prepare`.

  It is here that a search is chosen, or the scores of all.

  Args:
    model: the model to ask.
    queries: of the facts.
    facts: that are asked.
    candidates: candidate answers by relation.
    **labels: columns of every row (arm, seed, split).
  """
  if queries.top is None:
    scores = ranking.rank_prepared(model, queries)
    return writing.prediction_rows(facts, candidates, scores, top=None, **labels)
  best = list_best(model, queries)
  return writing.best_rows(facts, candidates, best, top=queries.top, **labels)


def _each(
  model: LoadedModel,
  queries: Queries,
  progress: ranking.Scored,
) -> Iterator[tuple[int, Listed]]:
  """Yields the place of each query and its best candidates."""
  assert queries.top is not None
  params, spread = batches.place(model)
  for batch, scores_RxC in ranking.scored_batches(model, params, spread, queries, progress):
    for index, scores_C in zip(batch.indices, scores_RxC):
      yield index, _best_of_all(scores_C, queries.top)
  for batch in queries.batches:
    if batch.relation in queries.trees:
      interruption.raise_if_requested()
      for index, answers in _Search(model, params, spread, queries, batch).run():
        progress.add(queries.sizes[index])
        yield index, answers


def _best_of_all(scores_C: np.ndarray, top: int) -> Listed:
  """Returns the best of candidates that all have a score; all of them where one is NaN."""
  if top >= len(scores_C) or np.isnan(scores_C).any():
    return Listed(np.arange(len(scores_C)), scores_C)
  kth = np.partition(scores_C, -top)[-top]
  (places,) = np.nonzero(scores_C >= _floor(kth))
  return Listed(places, scores_C[places])


def _floor(kth: np.ndarray | float) -> np.ndarray:
  """Returns what a score must reach where the last that is listed has this one."""
  with np.errstate(invalid="ignore"):
    lower = kth - ranking.SLACK * (1 + np.abs(kth))
  return np.where(np.isfinite(kth), lower, -np.inf)


@dataclasses.dataclass
class _Scored:
  """Holds prefixes of a batch's queries: the row, the prefix and its log-probability of each."""

  row_N: np.ndarray
  prefix_N: np.ndarray
  score_N: np.ndarray

  def where(self, kept: np.ndarray) -> "_Scored":
    """Returns those that a mask or places keep, in that order."""
    return _Scored(self.row_N[kept], self.prefix_N[kept], self.score_N[kept])

  def with_more(self, other: "_Scored") -> "_Scored":
    """Returns these and others."""
    return _Scored(
      np.concatenate([self.row_N, other.row_N]),
      np.concatenate([self.prefix_N, other.prefix_N]),
      np.concatenate([self.score_N, other.score_N]),
    )

  def best_first(self) -> "_Scored":
    """Returns them by rows, the best of each row first."""
    return self.where(np.lexsort((-self.score_N, self.row_N)))


class _Frontier:
  """Knows of some rows what may be read next, and what is complete.

  Attributes:
    open: prefixes that go on and are not read.
    complete: prefixes that complete candidates.
    floor_B: what is below need not be read.
  """

  def __init__(self, tree: PrefixTree, rows: int, top: int) -> None:
    nothing = np.zeros(0, np.int64)
    self._tree = tree
    self._top = top
    self._goes_on_P = np.diff(tree.first_kid_P) > 0
    self._members_P = np.diff(tree.first_member_P)
    self.open = _Scored(np.arange(rows), np.zeros(rows, np.int64), np.zeros(rows))
    self.complete = _Scored(nothing, nothing, np.zeros(0))
    self.floor_B = np.full(rows, -np.inf)

  def replace(self, read: _Scored, kids: _Scored) -> None:
    """Closes prefixes that were read and takes their kids instead."""
    prefixes = len(self._tree.parent_P)
    keys = self.open.row_N * prefixes + self.open.prefix_N
    is_read = np.isin(keys, read.row_N * prefixes + read.prefix_N)
    kids = kids.where(kids.score_N >= self.floor_B[kids.row_N])
    complete = kids.where(self._members_P[kids.prefix_N] > 0)
    if len(complete.row_N):
      self.complete = self.complete.with_more(complete).best_first()
      self._raise_floor()
    opened = self.open.where(~is_read).with_more(kids.where(self._goes_on_P[kids.prefix_N]))
    self.open = opened.where(opened.score_N >= self.floor_B[opened.row_N])

  def _raise_floor(self) -> None:
    """Lifts the floors to the last of the best that are complete, and drops what is below."""
    row_N = self.complete.row_N
    count_N = self._members_P[self.complete.prefix_N]
    before_N = np.cumsum(count_N) - count_N
    first_N = np.arange(len(row_N)) - prefix_trees.place_in_group(row_N)
    reached_N = before_N + count_N - before_N[first_N] >= self._top
    rows, at = np.unique(row_N[reached_N], return_index=True)
    self.floor_B[rows] = _floor(self.complete.score_N[reached_N][at])
    self.complete = self.complete.where(self.complete.score_N >= self.floor_B[row_N])

  def keep_rows(self, rows_R: np.ndarray, rows: int) -> None:
    """Keeps some rows alone, as the first ones of `rows`."""
    new_B = np.full(len(self.floor_B), -1)
    new_B[rows_R] = np.arange(len(rows_R))

    def moved(scored: _Scored) -> _Scored:
      kept = scored.where(new_B[scored.row_N] >= 0)
      return dataclasses.replace(kept, row_N=new_B[kept.row_N])

    self.open = moved(self.open)
    self.complete = moved(self.complete)
    self.floor_B = np.pad(self.floor_B[rows_R], (0, rows - len(rows_R)))

  def close(self, row: int) -> None:
    """Ends the search of a row."""
    self.open = self.open.where(self.open.row_N != row)

  def listed(self, row: int) -> Listed:
    """Returns the best candidates of a row."""
    complete = self.complete.where(self.complete.row_N == row)
    places, of = prefix_trees.spread_ranges(self._tree.first_member_P, complete.prefix_N)
    return Listed(self._tree.members[places], complete.score_N[of].astype(np.float32))


@dataclasses.dataclass(frozen=True)
class _Round:
  """Holds what a round reads.

  Attributes:
    read: the open prefixes that are read.
    tokens_BxM: int32, the last token of each context.
    distance_BxMxM: int32, as of a family's tree.
    nodes_BxE: int32, with next_BxE: the tokens asked, and after which context each stands.
    next_BxE: int32, see nodes_BxE.
    kids: the prefixes that these tokens make, with the score of what is before.
    column_N: where each of them stands in its row of nodes_BxE.
  """

  read: _Scored
  tokens_BxM: np.ndarray
  distance_BxMxM: np.ndarray
  nodes_BxE: np.ndarray
  next_BxE: np.ndarray
  kids: _Scored
  column_N: np.ndarray


def _round(
  tree: PrefixTree,
  frontier: _Frontier,
  rows: int,
  width: int,
) -> _Round:
  """Returns the best open prefixes of each row that fit into a tree of `width` contexts.

  Args:
    tree: of the candidates.
    frontier: of what is open.
    rows: of the batch.
    width: contexts a row; no fewer than one prefix takes.
  """
  best = frontier.open.best_first()
  best = best.where(prefix_trees.place_in_group(best.row_N) < width)
  rank, prefix = map(np.concatenate, zip(*prefix_trees.paths(tree, best.prefix_N)))
  key = best.row_N[rank] * len(tree.parent_P) + prefix
  by_key = np.lexsort((rank, key))
  by_key = by_key[prefix_trees.place_in_group(key[by_key]) == 0]  # each context once
  by_slot = by_key[np.lexsort((tree.depth_P[prefix[by_key]], rank[by_key]))]
  row_of, prefix = best.row_N[rank[by_slot]], prefix[by_slot]
  slot = prefix_trees.place_in_group(row_of)  # the root comes first, and a prefix after its own
  kept = slot < width
  row_of, prefix, slot = row_of[kept], prefix[kept], slot[kept]
  places = _Places(row_of * len(tree.parent_P) + prefix, slot)
  tokens_BxM = np.zeros((rows, width), np.int32)
  tokens_BxM[row_of, slot] = tree.token_P[prefix]
  distance_BxMxM = np.full((rows, width, width), -1, np.int32)
  distance_BxMxM[:, np.arange(width), np.arange(width)] = 0
  for step, (at, ancestor) in enumerate(prefix_trees.paths(tree, prefix)):
    slot_of = places.find(row_of[at] * len(tree.parent_P) + ancestor)
    distance_BxMxM[row_of[at], slot[at], slot_of] = step
  slot_N = places.find(best.row_N * len(tree.parent_P) + best.prefix_N)
  read = best.where(slot_N >= 0)
  return _asked(tree, read, slot_N[slot_N >= 0], tokens_BxM, distance_BxMxM)


class _Places:
  """Finds the slots of contexts by a key of their row and prefix."""

  def __init__(self, keys: np.ndarray, slots: np.ndarray) -> None:
    order = np.argsort(keys)
    self._keys = keys[order]
    self._slots = slots[order]

  def find(self, keys_N: np.ndarray) -> np.ndarray:
    """Returns the slot of each key, -1 where there is none."""
    at_N = np.minimum(np.searchsorted(self._keys, keys_N), len(self._keys) - 1)
    return np.where(self._keys[at_N] == keys_N, self._slots[at_N], -1)


def _asked(
  tree: PrefixTree,
  read: _Scored,
  slot_N: np.ndarray,
  tokens_BxM: np.ndarray,
  distance_BxMxM: np.ndarray,
) -> _Round:
  """Returns a round that asks all kids of the prefixes that are read."""
  places, of = prefix_trees.spread_ranges(tree.first_kid_P, read.prefix_N)
  kids = _Scored(read.row_N[of], tree.kids[places], read.score_N[of])
  column_N = prefix_trees.place_in_group(kids.row_N)
  shape = len(tokens_BxM), tries.bucket(int(column_N.max()) + 1, EDGES)
  nodes_BxE = np.zeros(shape, np.int32)
  next_BxE = np.zeros(shape, np.int32)
  nodes_BxE[kids.row_N, column_N] = slot_N[of]
  next_BxE[kids.row_N, column_N] = tree.token_P[kids.prefix_N]
  return _Round(read, tokens_BxM, distance_BxMxM, nodes_BxE, next_BxE, kids, column_N)


class _Search:
  """Searches the best candidates of a batch of queries."""

  def __init__(
    self,
    model: LoadedModel,
    params: Params,
    spread: batches.Spread,
    queries: Queries,
    batch: QueryBatch,
  ) -> None:
    assert queries.top is not None
    self._config = model.model_config
    self._devices = model.mesh.size if model.mesh else 1
    self._params = params
    self._spread = spread
    self._ends = queries.ends
    self._tree = queries.trees[batch.relation]
    inputs_BxS = spread(batch.inputs_BxS)
    self._cache, self._first_B = ranking.start(params, self._config, inputs_BxS)
    self._rows = len(self._first_B)
    # The query of each row; -1 of padding and of those that are done.
    self._query_B = np.full(self._rows, -1)
    self._query_B[: len(batch.indices)] = batch.indices
    self._frontier = _Frontier(self._tree, self._rows, queries.top)
    for row in range(len(batch.indices), self._rows):
      self._frontier.close(row)

  def run(self) -> Iterator[tuple[int, Listed]]:
    """Yields the place of each query and its best candidates, as soon as they are known."""
    widest = WIDTHS[0]
    while True:
      yield from self._finished()
      if not (self._query_B >= 0).any():
        return
      self._narrow()
      now = _round(self._tree, self._frontier, self._rows, self._width(widest))
      log_p_BxE = self._read(now)
      log_p_N = log_p_BxE[now.kids.row_N, now.column_N]
      scores_N = now.kids.score_N + log_p_N.astype(np.float64)
      self._frontier.replace(now.read, dataclasses.replace(now.kids, score_N=scores_N))
      for row in np.unique(now.kids.row_N[np.isnan(scores_N)]).tolist():
        yield int(self._query_B[row]), _DIVERGED
        self._query_B[row] = -1
        self._frontier.close(row)
      widest = max(widest * GROWTH, WIDTHS[1])

  def _finished(self) -> Iterator[tuple[int, Listed]]:
    """Yields queries of which nothing is open any more."""
    is_open_B = np.zeros(self._rows, bool)
    is_open_B[self._frontier.open.row_N] = True
    for row in np.flatnonzero(~is_open_B & (self._query_B >= 0)).tolist():
      yield int(self._query_B[row]), self._frontier.listed(row)
      self._query_B[row] = -1

  def _narrow(self) -> None:
    """Leaves out rows that are done where that halves the batch; never on a mesh."""
    left = np.flatnonzero(self._query_B >= 0)
    rows = self._rows
    while rows % 2 == 0 and rows // 2 >= max(FEWEST, len(left)):
      rows //= 2
    if rows == self._rows or self._devices > 1:
      return
    taken = np.pad(left, (0, rows - len(left)))
    self._cache, self._first_B = _take(self._config, self._cache, self._first_B, taken)
    self._query_B = np.where(np.arange(rows) < len(left), self._query_B[taken], -1)
    self._frontier.keep_rows(left, rows)
    self._rows = rows

  def _width(self, widest: int) -> int:
    """Returns how many contexts a row the next round reads.

    They are about what the rows have open, so that few are padding.
    """
    frontier = self._frontier.open
    deepest = int(self._tree.depth_P[frontier.prefix_N].max()) + 1
    rows = max(1, len(np.unique(frontier.row_N)))
    share = ranking.CONTEXTS[batches.device()] // self._rows
    wanted = max(deepest, min(widest, share, len(frontier.row_N) // rows + deepest - 1))
    if wanted > WIDTHS[0]:
      wanted = max(wanted, WIDTHS[1])
    fitting = [width for width in WIDTHS if deepest <= width <= wanted]
    return fitting[-1] if fitting else tries.bucket(deepest, WIDTHS)

  def _read(self, now: _Round) -> np.ndarray:
    """Returns the log-probabilities of the tokens that a round asks, [B, E]."""
    width = now.tokens_BxM.shape[1]
    parts = ranking.count_parts(self._rows, 4 * width * self._config.vocab_size, self._devices)
    arrays = (now.tokens_BxM, now.distance_BxMxM, now.nodes_BxE, now.next_BxE)
    log_p_BxE = _read(
      self._params,
      self._config,
      parts,
      self._cache,
      self._first_B,
      tuple(map(self._spread, arrays)),
      self._ends,
    )
    fetched_BxE: np.ndarray = partitioning.fetch(log_p_BxE)
    return fetched_BxE


@functools.partial(jax.jit, static_argnums=(0,))
def _take(
  config: ModelConfig,
  cache: Any,
  first_B: Array,
  rows_R: Array,
) -> tuple[Any, jax.Array]:
  """Returns some rows of a cache, and their first tokens."""
  return families.of(config).take_rows(cache, jnp.asarray(rows_R)), jnp.asarray(first_B)[rows_R]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _read(
  params: Params,
  config: ModelConfig,
  parts: int,
  cache: Any,
  first_B: Array,
  asked: tuple[Array, Array, Array, Array],
  ends: Array,
) -> jax.Array:
  """Returns the log-probabilities [B, E] of the tokens that a round asks; see _Round.

  The logits of B / parts queries exist at a time.
  """
  tokens_BxM, distance_BxMxM, nodes_BxE, next_BxE = asked
  family = families.of(config)
  hidden_BxMxD = family.hidden_of_tree(params, config, cache, first_B, tokens_BxM, distance_BxMxM)

  def read(part: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    hidden_GxMxD, nodes_GxE, next_GxE = part
    logits_GxMxV = family.logits_of_tree(params, config, hidden_GxMxD)
    total_GxM = jax.nn.logsumexp(logits_GxMxV, axis=-1)
    ended_GxM = jax.nn.logsumexp(logits_GxMxV[..., ends], axis=-1)
    row_Gx1 = jnp.arange(len(nodes_GxE))[:, None]
    picked_GxE = jnp.where(
      next_GxE == ends[0],
      ended_GxM[row_Gx1, nodes_GxE],
      logits_GxMxV[row_Gx1, nodes_GxE, next_GxE],
    )
    return picked_GxE - total_GxM[row_Gx1, nodes_GxE]

  # Every part takes queries of all devices: a batch is cut over them along its first axis.
  def cut(array: Array) -> jax.Array:
    return jnp.asarray(array).reshape(-1, parts, *array.shape[1:]).swapaxes(0, 1)

  log_p_PxGxE = jax.lax.map(read, (cut(hidden_BxMxD), cut(nodes_BxE), cut(next_BxE)))
  return log_p_PxGxE.swapaxes(0, 1).reshape(nodes_BxE.shape)

"""Exact log-probabilities of all candidate answers: encoder once a query, shared prefixes once."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches, prefix_trees, tries
from factshock.answering.prefix_trees import PrefixTree
from factshock.answering.tries import Trie
from factshock.checkpoints.loading import LoadedModel
from factshock.data import decoder_text
from factshock.data.prompts import target_text
from factshock.models import families
from factshock.models.model_config import ModelConfig
from factshock.runtime import interruption
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress
from factshock.types import Array, Candidates, Params

# Contexts that go through the layers together: enough to fill the device.
CONTEXTS = {"cpu": 2048, "other": 1 << 16}
# What their logits may take at a time: on CPU near the size of the caches.
LOGIT_BYTES = {"cpu": 24 << 20, "other": 1 << 30}
# Of a score, by which others may lie below it and still be written as equal: 6 digits are kept.
SLACK = 2e-5
# Candidates with fewer contexts are all read: a search takes rounds, each of programs of its own.
# Of 192 contexts (130 names) it reads 25 for the best and 55 for the ten best, padding included.
SEARCHED_FROM = 128
SEARCHED_FROM_TIMES_TOP = 8  # and of so many times the number of the best
# About how many contexts of a query are then read at a time.
SEARCHED_AT_A_TIME = 8


@dataclasses.dataclass(frozen=True)
class QueryBatch:
  """Holds queries of one relation.

  Attributes:
    relation: its name.
    indices: the queries' places among all.
    inputs_BxS: int32, their token ids; rows beyond the indices are padding.
  """

  relation: str
  indices: tuple[int, ...]
  inputs_BxS: np.ndarray


class Listed(NamedTuple):
  """Holds the best candidates of a query, in no order.

  Attributes:
    places: int64 [K], which of the relation's candidates they are.
    scores: float32 [K], their log-probabilities, as `rank` gives them.
  """

  places: np.ndarray
  scores: np.ndarray

  @property
  def best(self) -> int:
    """Returns the place of the best, the first among equals."""
    by_place = np.argsort(self.places)
    return int(self.places[by_place][self.scores[by_place].argmax()])


@dataclasses.dataclass(frozen=True)
class Queries:
  """Holds everything that asking needs beside the weights.

  Attributes:
    batches: the queries.
    tries: the candidates of each relation whose candidates are all scored.
    trees: the candidates of each relation that is searched for the best.
    top: how many of the best are wanted; None is the scores of all.
    sizes: number of candidates of each query.
    ends: int32 [E], the tokens that end an answer.
    vocabulary: number of tokens of the tokenizer.
  """

  batches: tuple[QueryBatch, ...]
  tries: dict[str, list[Trie]]
  trees: dict[str, PrefixTree]
  top: int | None
  sizes: tuple[int, ...]
  ends: np.ndarray
  vocabulary: int


def rank(
  model: LoadedModel,
  prompts: Sequence[str],
  relations: Sequence[str],
  candidates: Candidates,
  *,
  batch_size: int = 256,
  stops: Sequence[str] = (decoder_text.STOP,),
) -> list[np.ndarray]:
  """Returns the log-probability that the answer begins with each candidate of a query's relation.

  It is log P("<extra_id_0> CANDIDATE" | prompt), natural logarithm, summed over tokens. Where
  another candidate of the relation goes on after this one, the end of the answer (EOS or
  <extra_id_1>, as after a generated answer) counts too, so that the probabilities of a relation's
  candidates add up to at most 1. Candidates that the tokenizer cannot tell apart get equal scores.

  Args:
    model: the model to ask.
    prompts: texts holding "<extra_id_0>" where the answer goes; for a decoder-only model ending
      there, and the candidate's probability is that of " CANDIDATE" after the prompt, closed by EOS
      or a stop string.
    relations: the relation of each prompt.
    candidates: candidate answers by relation.
    batch_size: queries at a time; fewer where they have more than CONTEXTS.
    stops: strings that end the answer of a decoder-only model, as of decoding.DecodingOptions.

  Returns:
    Float32 [candidates of the relation] for each prompt.

  Raises:
    ValueError: as `prepare`.
    UserError: as `prepare` and `rank_prepared`.
  """
  queries = prepare(model, prompts, relations, candidates, batch_size, stops)
  return rank_prepared(model, queries)


def prepare(
  model: LoadedModel,
  prompts: Sequence[str],
  relations: Sequence[str],
  candidates: Candidates,
  batch_size: int = 256,
  stops: Sequence[str] = (decoder_text.STOP,),
  top: int | None = None,
) -> Queries:
  """Tokenizes and batches queries once, to be ranked with any number of weights.

  Args:
    model: a model of the family and tokenizer; its weights are not read.
    prompts: texts, as for `rank`.
    relations: the relation of each prompt.
    candidates: candidate answers by relation.
    batch_size: queries at a time.
    stops: as for `rank`.
    top: how many of the best candidates are wanted, for best_first.list_best; None is the scores of
      all, for `rank_prepared`.

  Raises:
    ValueError: not one relation a prompt, or batch_size below 1.
    UserError: a relation without candidates, a candidate without tokens, a prompt that is too long.
  """
  if len(prompts) != len(relations):
    raise ValueError(f"expected one relation a prompt ({len(prompts)}), got {len(relations)}")
  if batch_size < 1:
    raise ValueError(f"expected a batch_size of at least 1, got {batch_size}")
  tokens = [batches.encode_prompt(model, prompt) for prompt in prompts]
  by_relation = _by_relation(relations)
  grown, trees = _grow(model, prompts, by_relation, candidates, top)
  query_batches = []
  for relation, indices in by_relation.items():
    size = min(batch_size, _most_queries(grown.get(relation)))
    by_length = sorted(indices, key=lambda index: len(tokens[index]))
    query_batches += _batches(relation, by_length, tokens, size, model.decoder_only)
  sizes = tuple(len(candidates[relation]) for relation in relations)
  ends = np.array(batches.closing_tokens(model, stops), np.int32)
  return Queries(tuple(query_batches), grown, trees, top, sizes, ends, model.tokenizer.size)


def _grow(
  model: LoadedModel,
  prompts: Sequence[str],
  by_relation: Mapping[str, Sequence[int]],
  candidates: Candidates,
  top: int | None,
) -> tuple[dict[str, list[Trie]], dict[str, PrefixTree]]:
  """Returns the tries of relations whose candidates are all scored, and the trees of others.

  Args:
    model: of the tokenizer.
    prompts: texts of all queries.
    by_relation: the queries of each relation.
    candidates: candidate answers by relation.
    top: as for `prepare`.
  """
  closing = model.tokenizer.eos
  grown = {}
  trees = {}
  for relation, indices in by_relation.items():
    token_sequences = sequences(model, relation, candidates, prompts[indices[0]])
    tree = _searched(token_sequences, closing, top)
    if tree is None:
      grown[relation] = tries.build(token_sequences, closing)
    else:
      trees[relation] = tree
  return grown, trees


def _searched(
  token_sequences: Sequence[tuple[int, ...]],
  closing: int,
  top: int | None,
) -> PrefixTree | None:
  """Returns the tree to search for the `top` best; None where reading all is faster."""
  if top is None or 2 * top >= len(token_sequences):
    return None
  tree = prefix_trees.build(token_sequences, closing)
  least = max(SEARCHED_FROM, SEARCHED_FROM_TIMES_TOP * top)
  return tree if tree.contexts >= least else None


def _most_queries(grown: Sequence[Trie] | None) -> int:
  """Returns how many queries with these candidates go through the layers together, at least 1.

  None is candidates that are searched: a few contexts of each query at a time.
  """
  widest = max(trie.tokens_M.size for trie in grown) if grown else SEARCHED_AT_A_TIME
  return max(1, CONTEXTS[batches.device()] // widest)


def _by_relation(relations: Sequence[str]) -> dict[str, list[int]]:
  """Returns the indices of the queries of each relation."""
  groups: dict[str, list[int]] = {}
  for index, relation in enumerate(relations):
    groups.setdefault(relation, []).append(index)
  return groups


def _batches(
  relation: str,
  indices: list[int],
  tokens: Sequence[Sequence[int]],
  size: int,
  left: bool,
) -> Iterator[QueryBatch]:
  """Yields the queries of a relation in batches of at most `size`, padded on one side."""
  for part, rows in batches.split(indices, size):
    inputs_BxS = batches.pad(tokens, part, rows, left)
    yield QueryBatch(relation, part, inputs_BxS)


def rank_prepared(model: LoadedModel, queries: Queries) -> list[np.ndarray]:
  """Returns the scores of the queries from `prepare`, as `rank` does.

  Prints how far it is where that takes long. Compiled once for each config and sizes of batch,
  length and trie; other weights compile nothing.

  Args:
    model: the model to ask.
    queries: from `prepare`.

  Raises:
    ValueError: queries of which the best candidates alone are wanted.
    UserError: the model has fewer tokens than the tokenizer, or reads fewer than a query has.
  """
  if queries.top is not None:
    raise ValueError(f"expected queries of which all is wanted, got the {queries.top} best")
  check_fits(model.model_config, queries)
  params, spread = batches.place(model)
  scores = [np.empty(0, np.float32)] * len(queries.sizes)
  progress = Scored(sum(queries.sizes))
  for batch, scores_RxC in scored_batches(model, params, spread, queries, progress):
    for index, scores_C in zip(batch.indices, scores_RxC):
      scores[index] = scores_C
  return scores


class Scored:
  """Prints how many answers have a score, where that takes long."""

  def __init__(self, total: int) -> None:
    self._progress = Progress("ranking, answers scored", total, compiles=True)
    self._done = 0

  def add(self, answers: int) -> None:
    """Counts answers more."""
    self._done += answers
    self._progress.update(self._done)


def scored_batches(
  model: LoadedModel,
  params: Params,
  spread: batches.Spread,
  queries: Queries,
  progress: Scored,
) -> Iterator[tuple[QueryBatch, np.ndarray]]:
  """Yields each batch whose candidates are all scored, with their scores, float32 [R, C].

  Args:
    model: the model to ask.
    params: its weights, from `batches.place`.
    spread: from `batches.place`.
    queries: from `prepare`.
    progress: is told of every answer.
  """
  started = _started(model, params, spread, queries)
  for (batch, trie), scores_BxC in batches.fetched_in_turn(started):
    rows = len(batch.indices)
    if trie is queries.tries[batch.relation][0]:
      scores_RxC = np.empty((rows, queries.sizes[batch.indices[0]]), np.float32)
    scores_RxC[:, list(trie.members)] = scores_BxC[:rows, : len(trie.members)]
    progress.add(rows * len(trie.members))
    if trie is queries.tries[batch.relation][-1]:
      yield batch, scores_RxC


def _started(
  model: LoadedModel,
  params: Params,
  spread: batches.Spread,
  queries: Queries,
) -> Iterator[tuple[tuple[QueryBatch, Trie], jax.Array]]:
  """Yields batches and tries with the scores [B, C] that devices are computing."""
  config = model.model_config
  devices = model.mesh.size if model.mesh else 1
  for batch in queries.batches:
    if batch.relation not in queries.tries:
      continue
    interruption.raise_if_requested()
    inputs_BxS = spread(batch.inputs_BxS)
    cache, first_B = start(params, config, inputs_BxS)
    for trie in queries.tries[batch.relation]:
      logit_bytes = 4 * trie.tokens_M.size * config.vocab_size
      parts = count_parts(len(first_B), logit_bytes, devices)
      shared = trie._replace(members=())  # which candidates they are is no matter of the program
      scores_BxC = _score(params, config, parts, cache, first_B, queries.ends, shared)
      yield (batch, trie), scores_BxC


def check_fits(config: ModelConfig, queries: Queries) -> None:
  """Checks that a model has the tokens and positions that the queries take.

  Raises:
    UserError: it has not.
  """
  batches.check_vocabulary(queries.vocabulary, config)
  longest = max(batch.inputs_BxS.shape[1] for batch in queries.batches)
  tries_of_all = itertools.chain.from_iterable(queries.tries.values())
  depths = [trie.distance_MxM.max() + 1 for trie in tries_of_all]
  depths += [tree.depth_P.max() for tree in queries.trees.values()]
  deepest = int(max(depths))
  batches.check_length(longest, config, deepest)


def sequences(
  model: LoadedModel,
  relation: str,
  candidates: Candidates,
  prompt: str,
) -> list[tuple[int, ...]]:
  """Returns the token sequences of a relation's candidates.

  They are from <extra_id_0> on, or for a decoder-only model as they continue a (first) prompt.

  Raises:
    UserError: a relation without candidates, or a candidate without tokens.
  """
  if not candidates.get(relation):
    raise UserError(
      f"relation {relation!r}: expected candidate answers, got none; give facts of this relation"
    )
  answers = candidates[relation]
  tokenizer = model.tokenizer
  if model.decoder_only:
    return [tuple(tokenizer.encode_continuation(prompt, answer)) for answer in answers]
  encoded = [tuple(tokenizer.encode(target_text(tokenizer, answer))) for answer in answers]
  for answer, sequence in zip(answers, encoded):
    if len(sequence) < 2:
      raise UserError(
        f"relation {relation!r}: expected a candidate with at least one token, got {answer!r}; "
        "correct the object of the fact"
      )
  return encoded


@functools.partial(jax.jit, static_argnums=1)
def start(
  params: Params,
  config: ModelConfig,
  inputs_BxS: Array,
) -> tuple[Any, jax.Array]:
  """Returns the cache of a batch's inputs and the first token of each row."""
  return families.of(config).start(params, config, inputs_BxS, 1)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _score(
  params: Params,
  config: ModelConfig,
  parts: int,
  cache: Any,
  first_B: Array,
  ends: Array,
  trie: Trie,
) -> jax.Array:
  """Returns the summed log-probabilities [B, C] of a trie's candidates.

  The logits of B / parts queries exist at a time.
  """
  family = families.of(config)
  hidden_BxMxD = family.hidden_of_tree(
    params, config, cache, first_B, trie.tokens_M, trie.distance_MxM
  )

  closes_CxL = trie.next_CxL == ends[0]

  def score(hidden_GxMxD: jax.Array) -> jax.Array:
    logits_GxMxV = family.logits_of_tree(params, config, hidden_GxMxD)
    total_GxM = jax.nn.logsumexp(logits_GxMxV, axis=-1)
    ended_GxM = jax.nn.logsumexp(logits_GxMxV[..., ends], axis=-1)
    picked_GxCxL = jnp.where(
      closes_CxL[None],
      ended_GxM[:, trie.nodes_CxL],
      logits_GxMxV[:, trie.nodes_CxL, trie.next_CxL],
    )
    log_p_GxCxL = picked_GxCxL - total_GxM[:, trie.nodes_CxL]
    counted_GxCxL = jnp.where(trie.used_CxL[None], log_p_GxCxL, 0.0)
    return counted_GxCxL.sum(axis=-1)

  # Every part takes queries of all devices: a batch is cut over them along its first axis.
  hidden_GxPxMxD = hidden_BxMxD.reshape(-1, parts, *hidden_BxMxD.shape[1:])
  scores_PxGxC = jax.lax.map(score, hidden_GxPxMxD.swapaxes(0, 1))
  return scores_PxGxC.swapaxes(0, 1).reshape(len(first_B), -1)


def count_parts(
  queries: int,
  logit_bytes: int,
  devices: int,
) -> int:
  """Returns into how many equal parts queries are cut.

  A part's logits take no more than LOGIT_BYTES a device, where it has more than one query.
  """
  limit = LOGIT_BYTES[batches.device()] * devices
  for parts in range(1, queries):
    bytes_of_part = queries // parts * logit_bytes
    if queries % parts == 0 and bytes_of_part <= limit:
      return parts
  return queries

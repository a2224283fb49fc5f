"""Exact log-probabilities of all candidate answers: encoder once a query, shared prefixes once."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches, tries
from factshock.answering.tries import Trie
from factshock.checkpoints.loading import LoadedModel
from factshock.data import decoder_text
from factshock.data.prompts import target_text
from factshock.models import families
from factshock.models.model_config import ModelConfig
from factshock.runtime import interruption
from factshock.runtime.console import Progress
from factshock.runtime.errors import UserError
from factshock.types import Array, Candidates, Params

# Contexts that go through the layers together: enough to fill the device.
CONTEXTS = {"cpu": 2048, "other": 1 << 16}
# What their logits may take at a time: on CPU near the size of the caches.
LOGIT_BYTES = {"cpu": 24 << 20, "other": 1 << 30}


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


@dataclasses.dataclass(frozen=True)
class Queries:
  """Holds everything that `rank_prepared` needs beside the weights.

  Attributes:
    batches: the queries.
    tries: the candidates of each relation.
    sizes: number of candidates of each query.
    ends: int32 [E], the tokens that end an answer.
    vocabulary: number of tokens of the tokenizer.
  """

  batches: tuple[QueryBatch, ...]
  tries: dict[str, list[Trie]]
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
) -> Queries:
  """Tokenizes and batches queries once, to be ranked with any number of weights.

  Args:
    model: a model of the family and tokenizer; its weights are not read.
    prompts: texts, as for `rank`.
    relations: the relation of each prompt.
    candidates: candidate answers by relation.
    batch_size: queries at a time.
    stops: as for `rank`.

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
  grown = {}
  query_batches = []
  for relation, indices in by_relation.items():
    token_sequences = sequences(model, relation, candidates, prompts[indices[0]])
    grown[relation] = tries.build(token_sequences, model.tokenizer.eos)
  for relation, indices in by_relation.items():
    size = min(batch_size, _most_queries(grown[relation]))
    by_length = sorted(indices, key=lambda index: len(tokens[index]))
    query_batches += _batches(relation, by_length, tokens, size, model.decoder_only)
  sizes = tuple(len(candidates[relation]) for relation in relations)
  ends = np.array(batches.closing_tokens(model, stops), np.int32)
  return Queries(tuple(query_batches), grown, sizes, ends, model.tokenizer.size)


def _most_queries(grown: Sequence[Trie]) -> int:
  """Returns how many queries with these candidates go through the layers together, at least 1."""
  widest = max(trie.tokens_M.size for trie in grown)
  return max(1, CONTEXTS[_device()] // widest)


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
    UserError: the model has fewer tokens than the tokenizer, or reads fewer than a query has.
  """
  config = model.model_config
  _check_fits(config, queries)
  devices = model.mesh.size if model.mesh else 1
  params, spread = batches.place(model)

  def started() -> Iterator[tuple[tuple[QueryBatch, Trie], jax.Array]]:
    for batch in queries.batches:
      interruption.raise_if_requested()
      inputs_BxS = spread(batch.inputs_BxS)
      cache, first_B = _start(params, config, inputs_BxS)
      for trie in queries.tries[batch.relation]:
        logit_bytes = 4 * trie.tokens_M.size * config.vocab_size
        parts = _parts(len(first_B), logit_bytes, devices)
        shared = trie._replace(members=())  # which candidates they are is no matter of the program
        scores_BxC = _score(params, config, parts, cache, first_B, queries.ends, shared)
        yield (batch, trie), scores_BxC

  scores = [np.empty(size, np.float32) for size in queries.sizes]
  progress = Progress("ranking, answers scored", sum(queries.sizes))
  done = 0
  for (batch, trie), scores_BxC in batches.fetched_in_turn(started()):
    members = list(trie.members)
    for row, index in enumerate(batch.indices):
      scores[index][members] = scores_BxC[row, : len(members)]
    done += len(batch.indices) * len(members)
    progress.update(done)
  return scores


def _check_fits(config: ModelConfig, queries: Queries) -> None:
  """Checks that a model has the tokens and positions that the queries take.

  Raises:
    UserError: it has not.
  """
  batches.check_vocabulary(queries.vocabulary, config)
  longest = max(batch.inputs_BxS.shape[1] for batch in queries.batches)
  tries_of_all = itertools.chain.from_iterable(queries.tries.values())
  deepest = max(trie.distance_MxM.max() + 1 for trie in tries_of_all)
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
def _start(
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

  def score(hidden_GxMxD: jax.Array) -> jax.Array:
    logits_GxMxV = family.logits_of_tree(params, config, hidden_GxMxD)
    total_GxM = jax.nn.logsumexp(logits_GxMxV, axis=-1)
    ended_GxM = jax.nn.logsumexp(logits_GxMxV[..., ends], axis=-1)
    closes_CxL = trie.next_CxL == ends[0]
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


def _parts(
  queries: int,
  logit_bytes: int,
  devices: int,
) -> int:
  """Returns into how many equal parts queries are cut.

  A part's logits take no more than LOGIT_BYTES a device, where it has more than one query.
  """
  limit = LOGIT_BYTES[_device()] * devices
  for parts in range(1, queries):
    bytes_of_part = queries // parts * logit_bytes
    if queries % parts == 0 and bytes_of_part <= limit:
      return parts
  return queries


def _device() -> str:
  return "cpu" if jax.default_backend() == "cpu" else "other"

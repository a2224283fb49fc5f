"""Exact log-probabilities of all candidate answers: encoder once a query, shared prefixes once."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches, tries
from factshock.console import UserError
from factshock.data.prompts import target_text
from factshock.models import family

# What one batch of logits may take: on CPU near the size of the caches, elsewhere enough to fill the device.
LOGIT_BYTES = {"cpu": 24 << 20, "other": 512 << 20}


class Batch(typing.NamedTuple):
  """Queries of one relation: their places, and int32 [B, S] inputs; rows beyond the places are padding."""
  key: str
  places: tuple
  inputs_BxS: np.ndarray


class Queries(typing.NamedTuple):
  """Everything `rank_prepared` needs beside the weights.

  batches: tuple of Batch. tries: dict relation -> list of Trie. sizes: candidates of each query.
  ends: int32 [2], the tokens that end an answer. vocabulary: tokens of the tokenizer.
  """
  batches: tuple
  tries: dict
  sizes: tuple
  ends: np.ndarray
  vocabulary: int


def rank(params, model_config, tokenizer, prompts, keys, candidates, *, batch_size=256, mesh=None):
  """Log-probability that the answer begins with each candidate of the query's relation.

  log P("<extra_id_0> CANDIDATE" | prompt), natural logarithm, summed over tokens. Where another candidate
  of the relation goes on after this one, the end of the answer (EOS or <extra_id_1>, as after a generated
  answer) counts too, so that the probabilities of a relation's candidates add up to at most 1.
  Candidates that the tokenizer cannot tell apart get equal scores.

  Args:
    params, model_config: weights and config of a model.
    tokenizer: as from data/tokenizers.
    prompts: list of texts holding "<extra_id_0>" where the answer goes; for a decoder-only model ending there, and
      the candidate's probability is that of " CANDIDATE" after the prompt, closed by EOS or the end of the line.
    keys: the relation of each prompt.
    candidates: dict relation -> list of candidate answers.
    batch_size: queries at a time; fewer where their logits would take more than LOGIT_BYTES.
    mesh: devices to share each batch over (axis "data").
  Returns: list of float32 arrays, one a prompt, aligned with candidates[key].
  Raises: as `prepare` and `rank_prepared`.
  """
  queries = prepare(tokenizer, prompts, keys, candidates, batch_size)
  return rank_prepared(params, model_config, queries, mesh)


def prepare(tokenizer, prompts, keys, candidates, batch_size=256):
  """Tokenizes and batches queries once, to be ranked with any number of weights.

  Raises:
    ValueError: not one key a prompt, or batch_size below 1.
    UserError: a relation without candidates, a candidate without tokens, a prompt without a place for
      the answer or too long.
  """
  if len(prompts) != len(keys):
    raise ValueError(f"expected one key a prompt ({len(prompts)}), got {len(keys)}")
  if batch_size < 1:
    raise ValueError(f"expected a batch_size of at least 1, got {batch_size}")
  tokens = [batches.encode_prompt(tokenizer, prompt) for prompt in prompts]
  places = {}
  for place, key in enumerate(keys):
    places.setdefault(key, []).append(place)
  grown = {key: tries.build(_sequences(tokenizer, key, candidates, prompts[first[0]]), tokenizer.eos)
           for key, first in places.items()}
  room = LOGIT_BYTES["cpu" if jax.default_backend() == "cpu" else "other"]
  made = []
  for key in places:
    widest = max(trie.tokens_M.size for trie in grown[key])
    size = min(batch_size, max(1, room // (4 * widest * tokenizer.size)))
    by_length = sorted(places[key], key=lambda place: len(tokens[place]))
    made += [Batch(key, part, batches.pad(tokens, part, rows, batches.is_decoder_only(tokenizer)))
             for part, rows in batches.split(by_length, size)]
  ends = np.array(batches.closing_tokens(tokenizer), np.int32)
  return Queries(tuple(made), grown, tuple(len(candidates[key]) for key in keys), ends, tokenizer.size)


def rank_prepared(params, model_config, queries, mesh=None):
  """Scores of the queries from `prepare`: list of float32 arrays as from `rank`.

  Compiled once for each config and sizes of batch, length and trie; other weights compile nothing.

  Raises:
    UserError: the model has fewer tokens than the tokenizer.
  """
  batches.check_vocabulary(queries.vocabulary, model_config)
  longest = max(len(row) for batch in queries.batches for row in batch.inputs_BxS)
  deepest = max(trie.distance_MxM.max() + 1 for grown in queries.tries.values() for trie in grown)
  batches.check_room([range(longest)], model_config, deepest)
  params, spread = batches.placed(params, mesh)
  pending = []
  for batch in queries.batches:
    cache, first_B = _start(params, model_config, spread(batch.inputs_BxS))
    for trie in queries.tries[batch.key]:
      members, trie = list(trie.members), trie._replace(members=())
      scores_BxC = _score(params, model_config, cache, first_B, queries.ends, trie)
      pending.append((batch.places, members, scores_BxC))
  scores = [np.empty(size, np.float32) for size in queries.sizes]
  for places, members, scores_BxC in pending:  # only now wait for the devices
    scores_BxC = np.asarray(scores_BxC)
    for row, place in enumerate(places):
      scores[place][members] = scores_BxC[row, :len(members)]
  return scores


def _sequences(tokenizer, key, candidates, prompt):
  """Token sequences of a relation's candidates: after <extra_id_0>, or as they continue a (first) prompt."""
  if not candidates.get(key):
    raise UserError(f"relation {key!r}: expected candidate answers, got none; give facts of this relation")
  if batches.is_decoder_only(tokenizer):
    return [tuple(tokenizer.encode_continuation(prompt, candidate)) for candidate in candidates[key]]
  sequences = [tuple(tokenizer.encode(target_text(candidate))) for candidate in candidates[key]]
  for candidate, sequence in zip(candidates[key], sequences):
    if len(sequence) < 2:
      raise UserError(f"relation {key!r}: expected a candidate with at least one token, got {candidate!r}; "
                      "correct the object of the fact")
  return sequences


@functools.partial(jax.jit, static_argnums=1)
def _start(params, config, inputs_BxS):
  return family.of(config).start(params, config, inputs_BxS, 1)


@functools.partial(jax.jit, static_argnums=1)
def _score(params, config, cache, first_B, ends, trie):
  """Summed log-probabilities [B, C] of a trie's candidates; logits stay on the device."""
  logits_BxMxV = family.of(config).tree(params, config, cache, first_B, trie.tokens_M, trie.distance_MxM)
  total_BxM = jax.nn.logsumexp(logits_BxMxV, axis=-1)
  ended_BxM = jax.nn.logsumexp(logits_BxMxV[..., ends], axis=-1)
  picked_BxCxL = jnp.where((trie.next_CxL == ends[0])[None], ended_BxM[:, trie.nodes_CxL],
                           logits_BxMxV[:, trie.nodes_CxL, trie.next_CxL])
  log_p_BxCxL = picked_BxCxL - total_BxM[:, trie.nodes_CxL]
  return jnp.where(trie.used_CxL[None], log_p_BxCxL, 0.0).sum(axis=-1)

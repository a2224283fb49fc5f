"""Exact log-probabilities of all candidate answers: encoder once a query, shared prefixes once."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches, tries
from factshock.data.prompts import target_text
from factshock.devices import partitioning
from factshock.models import families
from factshock.runtime import interruption
from factshock.runtime.errors import UserError

# Contexts that go through the layers together: enough to fill the device.
CONTEXTS = {"cpu": 2048, "other": 1 << 16}
# What their logits may take at a time: on CPU near the size of the caches.
LOGIT_BYTES = {"cpu": 24 << 20, "other": 1 << 30}


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
    batch_size: queries at a time; fewer where they have more than CONTEXTS.
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
  grown = {
    key: tries.build(sequences(tokenizer, key, candidates, prompts[first[0]]), tokenizer.eos)
    for key, first in places.items()
  }
  room = CONTEXTS[_device()]
  made = []
  for key in places:
    widest = max(trie.tokens_M.size for trie in grown[key])
    size = min(batch_size, max(1, room // widest))
    by_length = sorted(places[key], key=lambda place: len(tokens[place]))
    made += [
      Batch(key, part, batches.pad(tokens, part, rows, batches.is_decoder_only(tokenizer)))
      for part, rows in batches.split(by_length, size)
    ]
  ends = np.array(batches.closing_tokens(tokenizer), np.int32)
  return Queries(
    tuple(made), grown, tuple(len(candidates[key]) for key in keys), ends, tokenizer.size
  )


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
    interruption.raise_if_requested()
    cache, first_B = _start(params, model_config, spread(batch.inputs_BxS))
    for trie in queries.tries[batch.key]:
      members, trie = list(trie.members), trie._replace(members=())
      parts = _parts(
        len(first_B), 4 * trie.tokens_M.size * model_config.vocab_size, mesh.size if mesh else 1
      )
      scores_BxC = _score(params, model_config, parts, cache, first_B, queries.ends, trie)
      pending.append((batch.places, members, scores_BxC))
  scores = [np.empty(size, np.float32) for size in queries.sizes]
  for places, members, scores_BxC in pending:  # only now wait for the devices
    interruption.raise_if_requested()
    scores_BxC = partitioning.fetch(scores_BxC)
    for row, place in enumerate(places):
      scores[place][members] = scores_BxC[row, : len(members)]
  return scores


def sequences(tokenizer, key, candidates, prompt):
  """Token sequences of a relation's candidates: from <extra_id_0> on, or as they continue a (first) prompt.

  Raises:
    UserError: a relation without candidates, or a candidate without tokens.
  """
  if not candidates.get(key):
    raise UserError(
      f"relation {key!r}: expected candidate answers, got none; give facts of this relation"
    )
  if batches.is_decoder_only(tokenizer):
    return [
      tuple(tokenizer.encode_continuation(prompt, candidate)) for candidate in candidates[key]
    ]
  sequences = [tuple(tokenizer.encode(target_text(candidate))) for candidate in candidates[key]]
  for candidate, sequence in zip(candidates[key], sequences):
    if len(sequence) < 2:
      raise UserError(
        f"relation {key!r}: expected a candidate with at least one token, got {candidate!r}; "
        "correct the object of the fact"
      )
  return sequences


@functools.partial(jax.jit, static_argnums=1)
def _start(params, config, inputs_BxS):
  return families.of(config).start(params, config, inputs_BxS, 1)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _score(params, config, parts, cache, first_B, ends, trie):
  """Summed log-probabilities [B, C] of a trie's candidates; the logits of B / parts queries exist at a time."""
  module = families.of(config)
  hidden_BxMxD = module.hidden_of_tree(params, config, cache, first_B, trie.tokens_M, trie.distance_MxM)

  def score(hidden_GxMxD):
    logits_GxMxV = module.logits_of_tree(params, config, hidden_GxMxD)
    total_GxM = jax.nn.logsumexp(logits_GxMxV, axis=-1)
    ended_GxM = jax.nn.logsumexp(logits_GxMxV[..., ends], axis=-1)
    picked_GxCxL = jnp.where(
      (trie.next_CxL == ends[0])[None],
      ended_GxM[:, trie.nodes_CxL],
      logits_GxMxV[:, trie.nodes_CxL, trie.next_CxL],
    )
    return jnp.where(trie.used_CxL[None], picked_GxCxL - total_GxM[:, trie.nodes_CxL], 0.0).sum(
      axis=-1
    )

  # every part takes queries of all devices: a batch is cut over them along its first axis
  apart = hidden_BxMxD.reshape(-1, parts, *hidden_BxMxD.shape[1:]).swapaxes(0, 1)
  return jax.lax.map(score, apart).swapaxes(0, 1).reshape(len(first_B), -1)


def _parts(queries, logit_bytes, devices):
  """Into how many equal parts the queries are cut so that a part's logits take no more than LOGIT_BYTES a device."""
  room = LOGIT_BYTES[_device()] * devices
  return next(
    parts
    for parts in range(1, queries + 1)
    if queries % parts == 0 and (parts == queries or queries // parts * logit_bytes <= room)
  )


def _device():
  return "cpu" if jax.default_backend() == "cpu" else "other"

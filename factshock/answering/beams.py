"""Beam search with a key-value cache under jit.

The rules are those of transformers' `generate` (early_stopping=False).
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches
from factshock.answering.sampling import Ends, State
from factshock.checkpoints.loading import LoadedModel
from factshock.models import families
from factshock.models.model_config import ModelConfig
from factshock.types import Array, Params

LOWEST = -1e9  # the score of what is not there


def search(
  model: LoadedModel,
  prompts: Sequence[Sequence[int]],
  ends: Ends,
  *,
  beams: int,
  length_penalty: float,
  max_length: int,
  batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the best hypothesis for each prompt's token ids; see `search_all`.

  Returns:
    Tokens, int32 [prompts, max_length], batches.ENDED after a row's end, and log-probabilities,
    float32 [prompts].
  """
  tokens, scores = search_all(
    model,
    prompts,
    ends,
    beams=beams,
    length_penalty=length_penalty,
    max_length=max_length,
    batch_size=batch_size,
  )
  return tokens[:, 0], scores[:, 0]


def search_all(
  model: LoadedModel,
  prompts: Sequence[Sequence[int]],
  ends: Ends,
  *,
  beams: int,
  length_penalty: float,
  max_length: int,
  batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the `beams` best hypotheses for each prompt's token ids, best first.

  A hypothesis that ends counts as log-probability / tokens ** length_penalty, its closing token
  included; a prompt's search is over when the best open hypothesis, counted at its present length,
  falls behind `beams` ended ones.

  Args:
    model: the model to ask.
    prompts: lists of ids.
    ends: ids that end a text, as from `decoding.end_tokens`.
    beams: hypotheses that are followed.
    length_penalty: the exponent above.
    max_length: tokens at most.
    batch_size: prompts at a time.

  Returns:
    Tokens, int32 [prompts, beams, max_length], batches.ENDED after a row's end, and
    log-probabilities, float32 [prompts, beams], LOWEST where there are fewer hypotheses.
  """
  generate = _generator(model.model_config, ends, max_length, beams, length_penalty)
  tokens, scores = batches.run(generate, model, prompts, max_length, batch_size)
  return tokens.reshape(len(prompts), beams, max_length), scores.reshape(len(prompts), beams)


def _generator(
  config: ModelConfig,
  ends: Ends,
  max_length: int,
  beams: int,
  length_penalty: float,
) -> batches.Generate:
  """Returns the search of one batch, as `batches.run` calls it."""
  closing_E, opening = ends
  first = np.int32(opening)
  penalty = np.float32(length_penalty)

  def generate(
    params: Params,
    inputs_BxS: Array,
    _: Array,
    used: np.int32,
  ) -> tuple[Array, Array]:
    sizes = max_length, beams
    return _search(params, config, *sizes, inputs_BxS, closing_E, first, used, penalty)

  return generate


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _search(  # noqa: PLR0913 (arguments of a compiled function: a dataclass would be a pytree)
  params: Params,
  config: ModelConfig,
  max_length: int,
  beams: int,
  inputs_BxS: Array,
  closing_E: Array,
  opening: Array,
  used: Array,
  length_penalty: Array,
) -> tuple[jax.Array, jax.Array]:
  """Searches for one batch, of which the first `used` rows count.

  K beams a prompt; R = B * K rows of the cache. The loop ends when no search is open.

  Returns:
    The tokens [B, K, max_length] and scores [B, K].
  """
  ids_V = jnp.arange(config.vocab_size)
  ends_V = jnp.zeros(config.vocab_size, bool).at[closing_E].set(True)

  def goes_on(state: State) -> jax.Array:
    return (state["step"] < max_length) & state["open_B"].any()

  def advance(state: State) -> State:
    step = state["step"]
    opens_V = (step == 0) & (ids_V == opening)
    closes_V = (ends_V & ~opens_V) | (step + 1 == max_length)
    return _add_token(params, config, state, closes_V, length_penalty)

  begin = _begin(params, config, max_length, beams, inputs_BxS, used)
  end = jax.lax.while_loop(goes_on, advance, begin)
  scores_BxK = jnp.where(end["ended_BxK"] > LOWEST / 2, end["ended_log_p_BxK"], LOWEST)
  return end["ended_tokens_BxKxT"], scores_BxK


def _begin(
  params: Params,
  config: ModelConfig,
  max_length: int,
  beams: int,
  inputs_BxS: Array,
  used: Array,
) -> State:
  """Returns the state of a batch before its first token, one open hypothesis a prompt."""
  family = families.of(config)
  batch = inputs_BxS.shape[0]
  cache, first_B = family.start(params, config, inputs_BxS, max_length)
  cache = dict(family.unstack(cache), weights=family.layer_weights(params))
  prompts_R = jnp.arange(batch * beams) // beams
  lowest_BxK = jnp.full((batch, beams), LOWEST)
  nothing_BxKxT = jnp.full((batch, beams, max_length), batches.ENDED, jnp.int32)
  return {
    "step": jnp.int32(0),
    "cache": family.take_rows(cache, prompts_R),
    "token_R": first_B[prompts_R],
    "log_p_BxK": lowest_BxK.at[:, 0].set(0.0),
    "tokens_BxKxT": nothing_BxKxT,
    "ended_BxK": lowest_BxK,
    "ended_log_p_BxK": lowest_BxK,
    "ended_tokens_BxKxT": nothing_BxKxT,
    "open_B": jnp.arange(batch) < used,
  }


def _add_token(
  params: Params,
  config: ModelConfig,
  state: State,
  closes_V: jax.Array,
  length_penalty: Array,
) -> State:
  """Returns the state with one more token.

  Args:
    params: the model's weights.
    config: the model's config.
    state: the state before.
    closes_V: whether a token ends a hypothesis at this step.
    length_penalty: exponent of the number of tokens.
  """
  family = families.of(config)
  step = state["step"]
  vocabulary = config.vocab_size
  batch, beams = state["log_p_BxK"].shape
  logits_RxV, cache = family.step(params, config, state["cache"], state["token_R"])
  log_p_RxV = jax.nn.log_softmax(logits_RxV)
  log_p_BxKxV = log_p_RxV.reshape(batch, beams, vocabulary) + state["log_p_BxK"][..., None]
  ended = _collect_ended(state, log_p_BxKxV, closes_V, length_penalty)

  # Hypotheses that go on are the best K that do not end.
  log_p_BxK, place_BxK = _top(jnp.where(closes_V[None, None], LOWEST, log_p_BxKxV), beams)
  better_B = log_p_BxK[:, 0] / (step + 1.0) ** length_penalty > ended["ended_BxK"][:, -1]
  first_row_Bx1 = jnp.arange(batch * beams).reshape(batch, beams)[:, :1]
  rows_R = (first_row_Bx1 + place_BxK // vocabulary).ravel()
  return {
    **ended,
    "step": step + 1,
    "cache": family.reorder(cache, rows_R),
    "token_R": (place_BxK % vocabulary).ravel(),
    "log_p_BxK": log_p_BxK,
    "tokens_BxKxT": _extend(state["tokens_BxKxT"], place_BxK, step, vocabulary),
    "open_B": state["open_B"] & better_B,
  }


def _collect_ended(
  state: State,
  log_p_BxKxV: jax.Array,
  closes_V: jax.Array,
  length_penalty: Array,
) -> State:
  """Returns the best K ended hypotheses: those there were, and those among the best K that end now.

  Args:
    state: the state before this token.
    log_p_BxKxV: log-probability of each hypothesis with each next token.
    closes_V: whether a token ends a hypothesis at this step.
    length_penalty: exponent of the number of tokens.
  """
  step = state["step"]
  beams, vocabulary = log_p_BxKxV.shape[1:]
  best_BxK, place_BxK = _top(log_p_BxKxV, beams)
  counted_BxK = best_BxK / (step + 1.0) ** length_penalty
  ends_BxK = closes_V[place_BxK % vocabulary] & state["open_B"][:, None]
  counted_BxK = jnp.where(ends_BxK, counted_BxK, LOWEST)
  counted_Bx2K = jnp.concatenate([state["ended_BxK"], counted_BxK], axis=1)
  ended_BxK, which_BxK = jax.lax.top_k(counted_Bx2K, beams)
  log_p_Bx2K = jnp.concatenate([state["ended_log_p_BxK"], best_BxK], axis=1)
  extended_BxKxT = _extend(state["tokens_BxKxT"], place_BxK, step, vocabulary)
  tokens_Bx2KxT = jnp.concatenate([state["ended_tokens_BxKxT"], extended_BxKxT], axis=1)
  return {
    "ended_BxK": ended_BxK,
    "ended_log_p_BxK": jnp.take_along_axis(log_p_Bx2K, which_BxK, axis=1),
    "ended_tokens_BxKxT": jnp.take_along_axis(tokens_Bx2KxT, which_BxK[..., None], axis=1),
  }


def _extend(
  tokens_BxKxT: jax.Array,
  place_BxK: jax.Array,
  step: jax.Array,
  vocabulary: int,
) -> jax.Array:
  """Returns each hypothesis with the token at its place in [K * V] added."""
  taken_BxKxT = jnp.take_along_axis(tokens_BxKxT, (place_BxK // vocabulary)[..., None], axis=1)
  return taken_BxKxT.at[:, :, step].set(place_BxK % vocabulary)


def _top(log_p_BxKxV: jax.Array, beams: int) -> tuple[jax.Array, jax.Array]:
  """Returns the best `beams` of all K * V, best first, and their places: [B, K] each.

  First within a beam: the rows are shorter.
  """
  batch, _, vocabulary = log_p_BxKxV.shape
  best_BxKxK, token_BxKxK = jax.lax.top_k(log_p_BxKxV, min(beams, vocabulary))
  place_BxKxK = token_BxKxK + jnp.arange(beams)[None, :, None] * vocabulary
  best_BxK, which_BxK = jax.lax.top_k(best_BxKxK.reshape(batch, -1), beams)
  return best_BxK, jnp.take_along_axis(place_BxKxK.reshape(batch, -1), which_BxK, axis=1)

"""Beam search with a key-value cache under jit, with the rules of transformers' `generate` (early_stopping=False)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches
from factshock.models import families

LOWEST = -1e9  # the score of what is not there


def search(
  params,
  config,
  prompts,
  ends,
  *,
  beams,
  length_penalty,
  max_length,
  batch_size=256,
  mesh=None,
  left=False,
):
  """The best of `beams` hypotheses for each prompt's token ids, and its log-probability; see `search_all`.

  Returns: (int32 [prompts, max_length], batches.ENDED after a row's end; float32 [prompts]).
  """
  tokens, scores = search_all(
    params,
    config,
    prompts,
    ends,
    beams=beams,
    length_penalty=length_penalty,
    max_length=max_length,
    batch_size=batch_size,
    mesh=mesh,
    left=left,
  )
  return tokens[:, 0], scores[:, 0]


def search_all(
  params,
  config,
  prompts,
  ends,
  *,
  beams,
  length_penalty,
  max_length,
  batch_size=256,
  mesh=None,
  left=False,
):
  """The `beams` best hypotheses for each prompt's token ids, best first, and their log-probabilities.

  A hypothesis that ends counts as log-probability / tokens ** length_penalty, its closing token included; a
  prompt's search is over when the best open hypothesis, counted at its present length, falls behind `beams` ended ones.

  Args:
    prompts, ends, left: as in decoding.sample.
  Returns: (int32 [prompts, beams, max_length], batches.ENDED after a row's end; float32 [prompts, beams], LOWEST where there are
    fewer hypotheses).
  """
  closing, opening = ends

  def run(params, inputs_BxS, _, used):
    return _search(
      params,
      config,
      max_length,
      beams,
      inputs_BxS,
      closing,
      np.int32(opening),
      used,
      np.float32(length_penalty),
    )

  tokens, scores = batches.run(run, params, prompts, max_length, batch_size, mesh, left)
  return tokens.reshape(len(prompts), beams, max_length), scores.reshape(
    len(prompts), beams
  )  # of no prompts too


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _search(
  params, config, max_length, beams, inputs_BxS, closing_E, opening, used, length_penalty
):
  """The tokens [B, K, max_length] and scores [B, K] of one batch, of which the first `used` rows count.

  K beams a prompt; R = B * K rows of the cache. The loop ends when no search is open.
  """
  module = families.of(config)
  batch = inputs_BxS.shape[0]
  vocabulary = config.vocab_size
  cache, first_B = module.start(params, config, inputs_BxS, max_length)
  cache = dict(module.unstack(cache), weights=module.layer_weights(params))
  rows_BxK = jnp.arange(batch * beams).reshape(batch, beams)
  each_R = rows_BxK.ravel() // beams
  ids_V = jnp.arange(vocabulary)
  ends_V = (ids_V[:, None] == closing_E[None]).any(axis=1)

  def going(state):
    return (state["step"] < max_length) & state["open_B"].any()

  def extended(tokens_BxKxT, place_BxK, step):
    """Each hypothesis with the token at its place in [K * V] added."""
    taken = jnp.take_along_axis(tokens_BxKxT, (place_BxK // vocabulary)[..., None], axis=1)
    return taken.at[:, :, step].set(place_BxK % vocabulary)

  def advance(state):
    step = state["step"]
    logits_RxV, cache = module.step(params, config, state["cache"], state["token_R"])
    log_p_BxKxV = (
      jax.nn.log_softmax(logits_RxV).reshape(batch, beams, vocabulary)
      + state["log_p_BxK"][..., None]
    )
    closes_V = (ends_V & ~((step == 0) & (ids_V == opening))) | (step + 1 == max_length)

    # hypotheses that end are taken from the best K of all; those that go on are the best K that do not end
    best_BxK, place_BxK = _top(log_p_BxKxV, beams)
    counted_BxK = best_BxK / (step + 1.0) ** length_penalty
    counted_BxK = jnp.where(
      closes_V[place_BxK % vocabulary] & state["open_B"][:, None], counted_BxK, LOWEST
    )
    counted_Bx2K = jnp.concatenate([state["ended_BxK"], counted_BxK], axis=1)
    ended_BxK, which_BxK = jax.lax.top_k(counted_Bx2K, beams)
    ended_log_p_BxK = jnp.take_along_axis(
      jnp.concatenate([state["ended_log_p_BxK"], best_BxK], axis=1), which_BxK, axis=1
    )
    tokens_Bx2KxT = jnp.concatenate(
      [state["ended_tokens_BxKxT"], extended(state["tokens_BxKxT"], place_BxK, step)], axis=1
    )
    ended_tokens_BxKxT = jnp.take_along_axis(tokens_Bx2KxT, which_BxK[..., None], axis=1)

    log_p_BxK, place_BxK = _top(jnp.where(closes_V[None, None], LOWEST, log_p_BxKxV), beams)
    better_B = log_p_BxK[:, 0] / (step + 1.0) ** length_penalty > ended_BxK[:, -1]
    rows_R = (rows_BxK[:, :1] + place_BxK // vocabulary).ravel()
    return {
      "step": step + 1,
      "cache": module.reorder(cache, rows_R),
      "token_R": (place_BxK % vocabulary).ravel(),
      "log_p_BxK": log_p_BxK,
      "tokens_BxKxT": extended(state["tokens_BxKxT"], place_BxK, step),
      "ended_BxK": ended_BxK,
      "ended_log_p_BxK": ended_log_p_BxK,
      "ended_tokens_BxKxT": ended_tokens_BxKxT,
      "open_B": state["open_B"] & better_B,
    }

  lowest_BxK = jnp.full((batch, beams), LOWEST)
  nothing_BxKxT = jnp.full((batch, beams, max_length), batches.ENDED, jnp.int32)
  begin = {
    "step": jnp.int32(0),
    "cache": module.take_rows(cache, each_R),
    "token_R": first_B[each_R],
    "log_p_BxK": lowest_BxK.at[:, 0].set(0.0),
    "tokens_BxKxT": nothing_BxKxT,
    "ended_BxK": lowest_BxK,
    "ended_log_p_BxK": lowest_BxK,
    "ended_tokens_BxKxT": nothing_BxKxT,
    "open_B": jnp.arange(batch) < used,
  }
  end = jax.lax.while_loop(going, advance, begin)
  return end["ended_tokens_BxKxT"], jnp.where(
    end["ended_BxK"] > LOWEST / 2, end["ended_log_p_BxK"], LOWEST
  )


def _top(log_p_BxKxV, beams):
  """The best `beams` of all K * V, best first, and their places: [B, K] each. First within a beam: the rows are shorter."""
  best_BxKxK, token_BxKxK = jax.lax.top_k(log_p_BxKxV, min(beams, log_p_BxKxV.shape[-1]))
  place_BxKxK = token_BxKxK + jnp.arange(beams)[None, :, None] * log_p_BxKxV.shape[-1]
  batch = log_p_BxKxV.shape[0]
  best_BxK, which_BxK = jax.lax.top_k(best_BxKxK.reshape(batch, -1), beams)
  return best_BxK, jnp.take_along_axis(place_BxKxK.reshape(batch, -1), which_BxK, axis=1)

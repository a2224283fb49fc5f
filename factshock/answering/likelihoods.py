"""Log-probabilities of given continuations of prompts, and whether greedy decoding would say them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches, decoding
from factshock.data import decoder_text
from factshock.devices import partitioning
from factshock.models import families
from factshock.runtime import interruption
from factshock.runtime.errors import UserError

SIZES = tuple(
  2**power for power in range(11)
)  # continuations of one prompt; few, as each is compiled
LENGTHS = tuple(2**power for power in range(2, 13))  # tokens of a continuation
WHOLE = 32  # a text read as a whole is padded to a multiple of this many tokens


class _Entry(NamedTuple):
  """A prompt and some of its continuations: their places among the pairs, and how many there is room for."""

  inputs: tuple
  places: tuple
  room: int


def score(params, model_config, tokenizer, pairs, *, batch_size=64, mesh=None, progress=None):
  """Log-probability of each continuation after its prompt, natural logarithm, summed over tokens.

  Equal prompts are read once. Nothing that ends an answer is added, and a T5's opening <extra_id_0> does not count.

  Args:
    params, model_config, tokenizer: as in decoding.generate.
    pairs: list of (prompt, continuation), lists of token ids: a T5's prompt with EOS, its continuation with
      <extra_id_0> before it; a decoder-only model's prompt with BOS.
    batch_size: continuations at a time. mesh: devices to share each batch over (axis "data").
    progress: a function that is told how many pairs are done.
  Returns: (float64 [pairs], bool [pairs]: whether each token is the likeliest given those before it).
  Raises:
    UserError: a continuation without tokens, one longer than LENGTHS[-1], or a prompt and continuation longer than the
      model reads.
  """
  opening = 0 if batches.is_decoder_only(tokenizer) else 1  # <extra_id_0>
  sizes = [len(after) for _, after in pairs]
  if min(sizes, default=opening + 1) <= opening or max(sizes, default=0) > LENGTHS[-1]:
    raise UserError(
      f"expected continuations of 1 to {LENGTHS[-1]} tokens, got one of {min(sizes) - opening} and one "
      f"of {max(sizes) - opening}"
    )
  batches.check_vocabulary(tokenizer.size, model_config)
  for before, after in pairs:
    batches.check_room([before], model_config, len(after))
  params, spread = batches.placed(params, mesh)
  weights = decoding.apart(params, model_config)
  left = batches.is_decoder_only(tokenizer)
  pending = []
  for part, rows in _batches(pairs, batch_size):
    interruption.raise_if_requested()
    inputs_BxS = batches.pad([entry.inputs for entry in part], range(len(part)), rows, left)
    targets_BxCxT = _targets(part, rows, pairs)
    pending.append(
      (
        part,
        _forced(params, model_config, opening, weights, spread(inputs_BxS), spread(targets_BxCxT)),
      )
    )
  return _gathered(pending, len(pairs), progress)


def whole(params, model_config, rows, counted, *, batch_size=8, mesh=None, progress=None):
  """Log-probability of the last `counted` tokens of each row after those before them: float64 [rows].

  For decoder-only models.

  Args:
    rows: list of token lists. counted: how many of each row's tokens count, fewer than it has.
    batch_size, mesh, progress: as in `score`, of rows.
  """
  batches.check_room(rows, model_config, -1)  # nothing reads a row's last token
  params, spread = batches.placed(params, mesh)
  found = np.zeros(len(rows))
  order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
  done = 0
  for part, size in batches.split(order, batch_size):
    interruption.raise_if_requested()
    length = -(-(len(rows[part[-1]]) - 1) // WHOLE) * WHOLE + 1
    tokens_BxS = np.full((size, length), decoder_text.PAD, np.int32)
    counts_BxS = np.zeros((size, length), bool)
    for row, place in enumerate(part):
      tokens_BxS[row, : len(rows[place])] = rows[place]
      counts_BxS[row, len(rows[place]) - counted[place] : len(rows[place])] = True
    sums_B = _whole(params, model_config, spread(tokens_BxS), spread(counts_BxS))
    found[list(part)] = partitioning.fetch(sums_B)[: len(part)]
    done += len(part)
    if progress:
      progress(done)
  return found


def _batches(pairs, batch_size):
  """The pairs as lists of _Entry of one room and like lengths, each with the number of rows to pad it to."""
  groups = {}
  for place, (before, _) in enumerate(pairs):
    groups.setdefault(tuple(before), []).append(place)
  widest = max(size for size in SIZES if size <= max(1, batch_size))
  by_room = {}
  for before, places in groups.items():
    places.sort(key=lambda place: len(pairs[place][1]))
    for start in range(0, len(places), widest):
      part = tuple(places[start : start + widest])
      room = next(size for size in SIZES if size >= len(part))
      by_room.setdefault(room, []).append(_Entry(before, part, room))
  for room, entries in sorted(by_room.items()):
    entries.sort(key=lambda entry: (len(entry.inputs), len(pairs[entry.places[-1]][1])))
    yield from batches.split(entries, max(1, batch_size // room))


def _targets(entries, rows, pairs):
  """int32 [rows, room, T] of the entries' continuations, -1 after their ends."""
  longest = max(len(pairs[place][1]) for entry in entries for place in entry.places)
  length = next(size for size in LENGTHS if size >= longest)
  found = np.full((rows, entries[0].room, length), -1, np.int32)
  for row, entry in enumerate(entries):
    for column, place in enumerate(entry.places):
      after = pairs[place][1]
      found[row, column, : len(after)] = after
  return found


def _gathered(pending, number, progress):
  scores = np.zeros(number)
  greedy = np.zeros(number, bool)
  done = 0
  for part, found in pending:  # only now wait for the devices
    interruption.raise_if_requested()
    scores_BxC, greedy_BxC = partitioning.fetch(found)
    for row, entry in enumerate(part):
      places = list(entry.places)
      scores[places], greedy[places] = (
        scores_BxC[row, : len(places)],
        greedy_BxC[row, : len(places)],
      )
      done += len(places)
    if progress:
      progress(done)
  return scores, greedy


@functools.partial(jax.jit, static_argnums=(1, 2))
def _forced(params, config, opening, weights, inputs_BxS, targets_BxCxT):
  """(summed log-probabilities [B, C] of target tokens after the inputs, whether each is the likeliest [B, C]).

  The first `opening` target tokens do not count.
  """
  module, (batch, number, length) = families.of(config), targets_BxCxT.shape
  cache, first_B = module.start(params, config, inputs_BxS, length)
  each_R = jnp.arange(batch * number) // number
  cache = module.take_rows(dict(module.unstack(cache), weights=weights), each_R)
  targets_TxR = targets_BxCxT.reshape(-1, length).T

  def going(carry):
    return (carry[0] < length) & (targets_TxR[jnp.minimum(carry[0], length - 1)] >= 0).any()

  def one(carry):
    step, cache, token_R, total_R, greedy_R = carry
    logits_RxV, cache = module.step(params, config, cache, token_R)
    target_R = targets_TxR[step]
    log_p_R = jnp.take_along_axis(logits_RxV, jnp.maximum(target_R, 0)[:, None], axis=1)[
      :, 0
    ] - jax.nn.logsumexp(logits_RxV, axis=-1)
    counts_R = (target_R >= 0) & (step >= opening)
    greedy_R = greedy_R & (~counts_R | (logits_RxV.argmax(axis=-1) == target_R))
    return (
      step + 1,
      cache,
      jnp.maximum(target_R, 0),
      total_R + jnp.where(counts_R, log_p_R, 0.0),
      greedy_R,
    )

  rows = batch * number
  begin = (jnp.int32(0), cache, first_B[each_R], jnp.zeros(rows, jnp.float32), jnp.ones(rows, bool))
  *_, total_R, greedy_R = jax.lax.while_loop(going, one, begin)
  return total_R.reshape(batch, number), greedy_R.reshape(batch, number)


@functools.partial(jax.jit, static_argnums=1)
def _whole(params, config, tokens_BxS, counts_BxS):
  """Summed log-probabilities [B] of the tokens that count, each after those before it.

  The logits of one row exist at a time.
  """
  module = families.of(config)
  hidden_BxSxD = module.hidden(params, config, {"tokens": tokens_BxS[:, :-1]})

  def one(row):
    hidden_SxD, target_S, counts_S = row
    logits_SxV = module.head(params, config, hidden_SxD[None])[0]
    log_p_S = jnp.take_along_axis(logits_SxV, jnp.maximum(target_S, 0)[:, None], axis=1)[
      :, 0
    ] - jax.nn.logsumexp(logits_SxV, axis=-1)
    return jnp.where(counts_S, log_p_S, 0.0).sum()

  return jax.lax.map(one, (hidden_BxSxD, tokens_BxS[:, 1:], counts_BxS[:, 1:]))

"""Log-probabilities of given continuations of prompts, and whether greedy decoding gives them."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches, sampling
from factshock.checkpoints.loading import LoadedModel
from factshock.data import decoder_text
from factshock.devices import partitioning
from factshock.models import families
from factshock.models.model_config import ModelConfig
from factshock.runtime import interruption
from factshock.runtime.errors import UserError
from factshock.types import Array, Batch, Params

SIZES = tuple(2**power for power in range(11))  # continuations of one prompt; each is compiled
LENGTHS = tuple(2**power for power in range(2, 13))  # tokens of a continuation
WHOLE = 32  # a text read as a whole is padded to a multiple of this many tokens

# Token ids of a prompt and of its continuation.
Pair: TypeAlias = tuple[Sequence[int], Sequence[int]]

# The step, the cache, the last tokens, their summed log-probabilities, and whether all were greedy.
_Carry: TypeAlias = tuple[jax.Array, Batch, jax.Array, jax.Array, jax.Array]

# Is called with how many pairs or rows are done.
Progress: TypeAlias = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class _Entry:
  """Holds a prompt and some of its continuations.

  Attributes:
    inputs: the prompt's token ids.
    indices: places of the continuations among the pairs.
    size: how many continuations there is space for.
  """

  inputs: tuple[int, ...]
  indices: tuple[int, ...]
  size: int


def score(
  model: LoadedModel,
  pairs: Sequence[Pair],
  *,
  batch_size: int = 64,
  progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the log-probability of each continuation after its prompt.

  Natural logarithm, summed over tokens. Equal prompts are read once. Nothing that ends an answer is
  added, and a T5's opening <extra_id_0> does not count.

  Args:
    model: the model to ask.
    pairs: (prompt, continuation), lists of token ids: a T5's prompt with EOS, its continuation with
      <extra_id_0> before it; a decoder-only model's prompt with BOS.
    batch_size: continuations at a time.
    progress: is called with how many pairs are done.

  Returns:
    float64 [pairs], and bool [pairs]: whether each token is the likeliest given those before it.

  Raises:
    UserError: a continuation without tokens, one longer than LENGTHS[-1], or a prompt and
      continuation longer than the model reads.
  """
  config = model.model_config
  left = model.decoder_only
  opening = 0 if left else 1  # <extra_id_0>
  _check(model, pairs, opening)
  params, spread = batches.place(model)
  weights = sampling.unstack_layers(params, config)
  pending = []
  for entries, rows in _batches(pairs, batch_size):
    interruption.raise_if_requested()
    inputs_BxS = spread(_inputs(entries, rows, left))
    targets_BxCxT = spread(_targets(entries, rows, pairs))
    results = _score_forced(params, config, opening, weights, inputs_BxS, targets_BxCxT)
    pending.append((entries, results))
  return _gather(pending, len(pairs), progress)


def _check(
  model: LoadedModel,
  pairs: Sequence[Pair],
  opening: int,
) -> None:
  """Checks that continuations have 1 to LENGTHS[-1] tokens after `opening` ones, and pairs fit.

  Raises:
    UserError: some do not.
  """
  sizes = [len(continuation) for _, continuation in pairs]
  shortest = min(sizes, default=opening + 1)
  longest = max(sizes, default=0)
  if shortest <= opening or longest > LENGTHS[-1]:
    raise UserError(
      f"expected continuations of 1 to {LENGTHS[-1]} tokens, got one of {shortest - opening} "
      f"and one of {longest - opening}"
    )
  batches.check_vocabulary(model.tokenizer.size, model.model_config)
  for prompt, continuation in pairs:
    batches.check_length(len(prompt), model.model_config, len(continuation))


def score_whole(
  model: LoadedModel,
  rows: Sequence[Sequence[int]],
  counted: Sequence[int],
  *,
  batch_size: int = 8,
  progress: Progress | None = None,
) -> np.ndarray:
  """Returns the log-probability of the last `counted` tokens of each row after those before them.

  Args:
    model: the model to ask, a decoder-only one.
    rows: token lists.
    counted: how many of each row's tokens count, fewer than it has.
    batch_size: rows at a time.
    progress: is called with how many rows are done.

  Returns:
    float64 [rows], natural logarithms.
  """
  longest = max(map(len, rows), default=0)
  batches.check_length(longest, model.model_config, -1)  # nothing reads a row's last token
  params, spread = batches.place(model)
  scores = np.zeros(len(rows))
  order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
  done = 0
  for indices, size in batches.split(order, batch_size):
    interruption.raise_if_requested()
    tokens_BxS, counts_BxS = _pad_whole(rows, counted, indices, size)
    sums_B = _sum_counted(params, model.model_config, spread(tokens_BxS), spread(counts_BxS))
    fetched_B = partitioning.fetch(sums_B)
    scores[list(indices)] = fetched_B[: len(indices)]
    done += len(indices)
    if progress:
      progress(done)
  return scores


def _pad_whole(
  rows: Sequence[Sequence[int]],
  counted: Sequence[int],
  indices: Sequence[int],
  size: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns tokens of the rows at some indices, longest last, and which count: [size, S] each."""
  longest = len(rows[indices[-1]])
  blocks = -(-(longest - 1) // WHOLE)
  length = blocks * WHOLE + 1
  tokens_BxS = np.full((size, length), decoder_text.PAD, np.int32)
  counts_BxS = np.zeros((size, length), bool)
  for row, index in enumerate(indices):
    end = len(rows[index])
    tokens_BxS[row, :end] = rows[index]
    counts_BxS[row, end - counted[index] : end] = True
  return tokens_BxS, counts_BxS


def _batches(pairs: Sequence[Pair], batch_size: int) -> Iterator[tuple[tuple[_Entry, ...], int]]:
  """Yields entries of one size and like lengths, with the number of rows to pad them to."""
  widest = max(size for size in SIZES if size <= max(1, batch_size))
  by_size: dict[int, list[_Entry]] = {}
  for entry in _entries(pairs, widest):
    by_size.setdefault(entry.size, []).append(entry)

  def lengths(entry: _Entry) -> tuple[int, int]:
    _, longest = pairs[entry.indices[-1]]
    return len(entry.inputs), len(longest)

  for size, entries in sorted(by_size.items()):
    entries.sort(key=lengths)
    rows = max(1, batch_size // size)
    yield from batches.split(entries, rows)


def _entries(pairs: Sequence[Pair], widest: int) -> Iterator[_Entry]:
  """Yields each prompt with at most `widest` of its continuations, shorter ones first."""
  groups: dict[tuple[int, ...], list[int]] = {}
  for index, (prompt, _) in enumerate(pairs):
    groups.setdefault(tuple(prompt), []).append(index)
  for prompt, indices in groups.items():
    indices.sort(key=lambda index: len(pairs[index][1]))
    for start in range(0, len(indices), widest):
      part = tuple(indices[start : start + widest])
      size = next(size for size in SIZES if size >= len(part))
      yield _Entry(prompt, part, size)


def _inputs(
  entries: Sequence[_Entry],
  rows: int,
  left: bool,
) -> np.ndarray:
  """Returns the entries' prompts, int32 [rows, S], padded on one side."""
  prompts = [entry.inputs for entry in entries]
  return batches.pad(prompts, range(len(prompts)), rows, left)


def _targets(
  entries: Sequence[_Entry],
  rows: int,
  pairs: Sequence[Pair],
) -> np.ndarray:
  """Returns the entries' continuations, int32 [rows, entry size, T], -1 after their ends."""
  longest = max(len(pairs[index][1]) for entry in entries for index in entry.indices)
  length = next(size for size in LENGTHS if size >= longest)
  targets_BxCxT = np.full((rows, entries[0].size, length), -1, np.int32)
  for row, entry in enumerate(entries):
    for column, index in enumerate(entry.indices):
      continuation = pairs[index][1]
      targets_BxCxT[row, column, : len(continuation)] = continuation
  return targets_BxCxT


def _gather(
  pending: Sequence[tuple[Sequence[_Entry], tuple[jax.Array, jax.Array]]],
  count: int,
  progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the scores and whether they are greedy, in the order of the `count` pairs."""
  scores = np.zeros(count)
  greedy = np.zeros(count, bool)
  done = 0
  for entries, results in pending:  # only now wait for the devices
    interruption.raise_if_requested()
    scores_BxC, greedy_BxC = partitioning.fetch(results)
    for row, entry in enumerate(entries):
      indices = list(entry.indices)
      scores[indices] = scores_BxC[row, : len(indices)]
      greedy[indices] = greedy_BxC[row, : len(indices)]
      done += len(indices)
    if progress:
      progress(done)
  return scores, greedy


@functools.partial(jax.jit, static_argnums=(1, 2))
def _score_forced(
  params: Params,
  config: ModelConfig,
  opening: int,
  weights: list[Params] | None,
  inputs_BxS: Array,
  targets_BxCxT: Array,
) -> tuple[jax.Array, jax.Array]:
  """Scores target tokens after the inputs; the first `opening` of them do not count.

  Returns:
    Summed log-probabilities [B, C], and whether each token is the likeliest [B, C].
  """
  family = families.of(config)
  batch, count, length = targets_BxCxT.shape
  begin = _begin(params, config, weights, inputs_BxS, targets_BxCxT.shape)
  targets_TxR = targets_BxCxT.reshape(-1, length).T

  def goes_on(carry: _Carry) -> jax.Array:
    step = carry[0]
    target_R = targets_TxR[jnp.minimum(step, length - 1)]
    return (step < length) & (target_R >= 0).any()

  def add_token(carry: _Carry) -> _Carry:
    step, cache, token_R, total_R, greedy_R = carry
    logits_RxV, cache = family.step(params, config, cache, token_R)
    target_R = targets_TxR[step]
    next_R = jnp.maximum(target_R, 0)
    log_p_R = sampling.log_p(logits_RxV, next_R)
    counts_R = (target_R >= 0) & (step >= opening)
    is_likeliest_R = logits_RxV.argmax(axis=-1) == target_R
    greedy_R = greedy_R & (~counts_R | is_likeliest_R)
    total_R = total_R + jnp.where(counts_R, log_p_R, 0.0)
    return step + 1, cache, next_R, total_R, greedy_R

  *_, total_R, greedy_R = jax.lax.while_loop(goes_on, add_token, begin)
  return total_R.reshape(batch, count), greedy_R.reshape(batch, count)


def _begin(
  params: Params,
  config: ModelConfig,
  weights: list[Params] | None,
  inputs_BxS: Array,
  shape: tuple[int, ...],
) -> _Carry:
  """Returns what is carried before the first target token of a batch of shape [B, C, T]."""
  batch, count, length = shape
  rows = batch * count
  family = families.of(config)
  cache, first_B = family.start(params, config, inputs_BxS, length)
  prompts_R = jnp.arange(rows) // count
  cache = dict(family.unstack(cache), weights=weights)
  return (
    jnp.int32(0),
    family.take_rows(cache, prompts_R),
    first_B[prompts_R],
    jnp.zeros(rows, jnp.float32),
    jnp.ones(rows, bool),
  )


@functools.partial(jax.jit, static_argnums=1)
def _sum_counted(
  params: Params,
  config: ModelConfig,
  tokens_BxS: Array,
  counts_BxS: Array,
) -> jax.Array:
  """Returns summed log-probabilities [B] of the tokens that count, each after those before it.

  The logits of one row exist at a time.
  """
  family = families.of(config)
  hidden_BxSxD = family.hidden(params, config, {"tokens": tokens_BxS[:, :-1]})

  def sum_row(row: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    hidden_SxD, target_S, counts_S = row
    logits_SxV = family.head(params, config, hidden_SxD[None])[0]
    log_p_S = sampling.log_p(logits_SxV, jnp.maximum(target_S, 0))
    return jnp.where(counts_S, log_p_S, 0.0).sum()

  return jax.lax.map(sum_row, (hidden_BxSxD, tokens_BxS[:, 1:], counts_BxS[:, 1:]))

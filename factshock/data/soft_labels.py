"""Finetuning examples whose answer is a distribution over candidates.

Their loss may be adjusted by how often answers come.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from factshock.data import batching, span_corruption
from factshock.data.example_sources import Make, Source, check_not_empty
from factshock.types import Batch, Example

# From a row and the index of one of its answers to the example of that answer.
Encode: TypeAlias = Callable[[int, int], Example]
# Probabilities of a row's answers.
Probabilities: TypeAlias = Sequence[float] | np.ndarray
# The probability of each token that may follow, and the log of its prior over that of a uniform
# one.
_Following: TypeAlias = Mapping[int, tuple[float, float]]
_Followers: TypeAlias = Mapping[tuple[int, ...], _Following]


def soft_source(
  encode: Encode,
  belief: Sequence[Probabilities],
  prior: Sequence[Probabilities] | None = None,
  strength: float = 1.0,
  loss_weight: float = 1.0,
  pad: int = 0,
  name: str = "qa",
) -> Source:
  """Returns a source of examples that teach each token of an answer with all that may stand there.

  An example's answer is drawn from its belief, anew each time; beside its tokens stand, for each,
  the tokens that may follow those before it and the probability of each. The expected loss is the
  cross-entropy to the belief; of answers of one token each draw's is.

  Batches get `answer_tokens` [B, T, K], padded with -1, and `answer_shares` [B, T, K]; with a prior
  `answer_shifts` [B, T, K].

  Args:
    encode: returns the example of a row and the index of one of its answers: 1-D arrays as of
      `example_sources.qa_source` or of decoder_text's.
    belief: for each row probabilities of its answers.
    prior: None, or for each row how often each answer comes in training, all above 0: the loss is
      then that of logits + strength * log(prior / uniform), token by token (Menon et al. 2021,
      "Long-tail learning via logit adjustment", equation 10).
    strength: of the prior.
    loss_weight: multiplies the weights.
    pad: what follows a decoder-only example's tokens; an encoder-decoder's are padded with 0.
    name: of the source.
  """
  check_not_empty(belief, name)
  encode = functools.cache(encode)
  prepare = functools.partial(_prepare, encode, belief, prior, strength, pad)
  return Source(name, len(belief), prepare, loss_weight)


def _prepare(
  encode: Encode,
  belief: Sequence[Probabilities],
  prior: Sequence[Probabilities] | None,
  strength: float,
  pad: int,
  input_length: int,
  target_length: int,
) -> Make:
  """Returns the function that draws answers and lays out what may stand at each of their tokens."""
  cumulative = [np.cumsum(probabilities) for probabilities in belief]
  example = encode(0, int(np.argmax(belief[0])))
  predicted = list(batching.token_fields(example))[-1]
  lengths = {
    "inputs": input_length,
    "targets": target_length,
    "tokens": input_length + target_length,
    "weights": input_length + target_length,
  }

  @functools.cache
  def followers_of(row: int) -> _Followers:
    row_prior = None if prior is None else prior[row]
    return _followers(functools.partial(encode, row), predicted, belief[row], row_prior)

  def draw_answer(row: int, random: float) -> int:
    sums = cumulative[row]
    return min(int(np.searchsorted(sums, random * sums[-1], "right")), len(sums) - 1)

  most = max(max(map(len, followers_of(row).values())) for row in range(len(belief)))

  def make(rows_B: np.ndarray, keys_B: np.ndarray) -> Batch:
    rows = rows_B.tolist()
    random_B = span_corruption.draw(keys_B, 1, stream=5)[:, 0] / 2.0**64
    examples = [encode(row, draw_answer(row, share)) for row, share in zip(rows, random_B.tolist())]
    batch: Batch = {}
    for field, array in examples[0].items():
      fill = pad if field == "tokens" else 0
      batch[field] = np.full((len(examples), lengths[field]), fill, array.dtype)
    shape = (len(examples), lengths[predicted], most)
    batch["answer_tokens"] = np.full(shape, -1, np.int32)
    batch["answer_shares"] = np.zeros(shape, np.float32)
    if prior is not None:
      batch["answer_shifts"] = np.zeros(shape, np.float32)
    for index, (row, example) in enumerate(zip(rows, examples)):
      for field, array in example.items():
        batch[field][index, : len(array)] = array
      tokens = tuple(example[predicted].tolist())
      for position in _taught(example, predicted):
        following = followers_of(row)[tokens[:position]]
        _lay_out(batch, index, position, following, strength)
    return batch

  return make


def _lay_out(
  batch: Batch, index: int, position: int, following: _Following, strength: float
) -> None:
  """Writes what may stand at a position of an example into its batch."""
  columns = slice(len(following))
  shares = [share for share, _ in following.values()]
  batch["answer_tokens"][index, position, columns] = list(following)
  batch["answer_shares"][index, position, columns] = shares
  if "answer_shifts" in batch:
    shifts = [strength * shift for _, shift in following.values()]
    batch["answer_shifts"][index, position, columns] = shifts


def _followers(
  encode_answer: Callable[[int], Example],
  field: str,
  belief: Probabilities,
  prior: Probabilities | None,
) -> _Followers:
  """Returns by the tokens before what may follow them in one row's answers."""
  answers = np.flatnonzero(belief) if prior is None else range(len(belief))
  uniform = 1 / len(belief)
  masses: dict[tuple[int, ...], dict[int, tuple[float, float, float]]] = {}
  for answer in map(int, answers):
    example = encode_answer(answer)
    tokens = tuple(example[field].tolist())
    for position in _taught(example, field):
      following = masses.setdefault(tokens[:position], {})
      of_belief, of_prior, of_uniform = following.get(tokens[position], (0, 0, 0))
      following[tokens[position]] = (
        of_belief + belief[answer],
        of_prior + (0 if prior is None else prior[answer]),
        of_uniform + uniform,
      )
  return {before: _shares(following) for before, following in masses.items()}


def _taught(example: Example, field: str) -> Iterable[int]:
  """Returns the positions of an example's tokens that the loss counts."""
  if "weights" in example:
    return np.flatnonzero(example["weights"]).tolist()
  return range(len(example[field]))


def _shares(following: Mapping[int, tuple[float, float, float]]) -> _Following:
  """Returns shares of the masses by belief, and the log of the prior's over the uniform one's."""
  belief, prior, uniform = (sum(masses) or 1 for masses in zip(*following.values()))
  shares: dict[int, tuple[float, float]] = {}
  for token, (of_belief, of_prior, of_uniform) in following.items():
    shift = math.log(of_prior / prior / (of_uniform / uniform)) if of_prior else 0.0
    shares[token] = (of_belief / belief, shift)
  return shares

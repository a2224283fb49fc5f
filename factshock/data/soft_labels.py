"""Finetuning examples whose answer is a distribution over candidates.

Their loss may be adjusted by how often answers come.
"""

import dataclasses
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
# Sums of belief, of prior and of a uniform distribution over answers.
_Masses: TypeAlias = tuple[float, float, float]


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
  prepare = functools.partial(
    _prepare,
    functools.cache(encode),
    belief,
    prior,
    strength,
    pad,
  )
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
  likeliest = int(np.argmax(belief[0]))
  *_, predicted = batching.token_fields(encode(0, likeliest))
  followers: list[_Followers] = []
  for row, row_belief in enumerate(belief):
    row_prior = None if prior is None else prior[row]
    encode_answer = functools.partial(encode, row)
    followers.append(_followers(encode_answer, predicted, row_belief, row_prior))
  whole_length = input_length + target_length
  lengths = {
    "inputs": input_length,
    "targets": target_length,
    "tokens": whole_length,
    "weights": whole_length,
  }
  most = 0
  for row_followers in followers:
    most = max(most, *map(len, row_followers.values()))
  labels = _SoftLabels(
    encode=encode,
    cumulative=[np.cumsum(probabilities) for probabilities in belief],
    followers=followers,
    most=most,
    predicted=predicted,
    lengths=lengths,
    pad=pad,
    strength=None if prior is None else strength,
  )
  return labels.make


@dataclasses.dataclass(frozen=True)
class _SoftLabels:
  """Examples with what may follow at each of their tokens, by row.

  At most `most` tokens may follow. `predicted` is the field of tokens that are predicted, `lengths`
  those of each field. `strength` is that of the prior, None without one.
  """

  encode: Encode
  cumulative: Sequence[np.ndarray]
  followers: Sequence[_Followers]
  most: int
  predicted: str
  lengths: Mapping[str, int]
  pad: int
  strength: float | None

  def make(self, rows_B: np.ndarray, keys_B: np.ndarray) -> Batch:
    """Returns a batch of the rows, with answers drawn anew."""
    rows: list[int] = rows_B.tolist()
    random_Bx1 = span_corruption.draw(keys_B, 1, stream=5)
    share_B = random_Bx1[:, 0] / 2.0**64
    examples: list[Example] = []
    for row, share in zip(rows, share_B.tolist()):
      answer = self._draw_answer(row, share)
      examples.append(self.encode(row, answer))
    batch = self._empty(examples)
    for index, (row, example) in enumerate(zip(rows, examples)):
      for field, array in example.items():
        size = len(array)
        batch[field][index, :size] = array
      followers = self.followers[row]
      tokens = tuple(example[self.predicted].tolist())
      for position in _taught(example, self.predicted):
        following = followers[tokens[:position]]
        self._lay_out(batch, (index, position), following)
    return batch

  def _draw_answer(self, row: int, random: float) -> int:
    sums = self.cumulative[row]
    wanted = random * sums[-1]
    answer = np.searchsorted(sums, wanted, "right")
    return min(int(answer), len(sums) - 1)

  def _empty(self, examples: Sequence[Example]) -> Batch:
    """Returns the arrays of a batch, filled with padding."""
    batch: Batch = {}
    for field, array in examples[0].items():
      fill = self.pad if field == "tokens" else 0
      shape = (len(examples), self.lengths[field])
      batch[field] = np.full(shape, fill, array.dtype)
    predicted_length = self.lengths[self.predicted]
    shape = (len(examples), predicted_length, self.most)
    batch["answer_tokens"] = np.full(shape, -1, np.int32)
    batch["answer_shares"] = np.zeros(shape, np.float32)
    if self.strength is not None:
      batch["answer_shifts"] = np.zeros(shape, np.float32)
    return batch

  def _lay_out(
    self,
    batch: Batch,
    place: tuple[int, int],
    following: _Following,
  ) -> None:
    """Writes what may stand at a position of an example into its batch."""
    cells = (*place, slice(len(following)))
    shares = [share for share, _ in following.values()]
    batch["answer_tokens"][cells] = list(following)
    batch["answer_shares"][cells] = shares
    if self.strength is not None:
      shifts = [self.strength * shift for _, shift in following.values()]
      batch["answer_shifts"][cells] = shifts


def _followers(
  encode_answer: Callable[[int], Example],
  field: str,
  belief: Probabilities,
  prior: Probabilities | None,
) -> _Followers:
  """Returns by the tokens before what may follow them in one row's answers."""
  answers = np.flatnonzero(belief) if prior is None else range(len(belief))
  uniform = 1 / len(belief)
  masses: dict[tuple[int, ...], dict[int, _Masses]] = {}
  for answer in map(int, answers):
    example = encode_answer(answer)
    answer_prior = 0 if prior is None else prior[answer]
    tokens = tuple(example[field].tolist())
    for position in _taught(example, field):
      following = masses.setdefault(tokens[:position], {})
      token = tokens[position]
      of_belief, of_prior, of_uniform = following.get(token, (0, 0, 0))
      following[token] = (
        of_belief + belief[answer],
        of_prior + answer_prior,
        of_uniform + uniform,
      )
  return {before: _shares(following) for before, following in masses.items()}


def _taught(example: Example, field: str) -> Iterable[int]:
  """Returns the positions of an example's tokens that the loss counts."""
  if "weights" in example:
    counted = np.flatnonzero(example["weights"])
    return counted.tolist()
  return range(len(example[field]))


def _shares(following: Mapping[int, _Masses]) -> _Following:
  """Returns shares of the masses by belief, and the log of the prior's over the uniform one's."""
  belief, prior, uniform = (sum(masses) or 1 for masses in zip(*following.values()))
  shares: dict[int, tuple[float, float]] = {}
  for token, (of_belief, of_prior, of_uniform) in following.items():
    shift = 0.0
    if of_prior:
      uniform_share = of_uniform / uniform
      shift = math.log(of_prior / prior / uniform_share)
    shares[token] = (of_belief / belief, shift)
  return shares

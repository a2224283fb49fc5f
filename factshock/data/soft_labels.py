"""Finetuning examples whose answer is a distribution over candidates, or whose loss is adjusted by how often answers come."""

import functools
import math

import numpy as np

from factshock.data import batching, mixture, span_corruption
from factshock.runtime.errors import UserError


def soft_source(encode, belief, prior=None, strength=1.0, loss_weight=1.0, pad=0, name="qa"):
  """A source of examples that teach each token of an answer with all that may stand there.

  An example's answer is drawn from its belief, anew each time; beside its tokens stand, for each, the tokens that may follow those
  before it and the probability of each. The expected loss is the cross-entropy to the belief; of answers of one token each draw's is.

  Args:
    encode: (row, number of the answer) -> example, a dict of 1-D arrays as of `mixture.qa_source` or of decoder_text's. belief: for
      each row probabilities of its answers. prior: None, or for each row how often each answer comes in training, all above 0: the
      loss is then that of logits + strength * log(prior / uniform), token by token (Menon et al. 2021, "Long-tail learning via logit
      adjustment", equation 10). pad: what follows a decoder-only example's tokens; an encoder-decoder's are padded with 0.
  Batches get `answer_tokens` [B, T, K], padded with -1, and `answer_shares` [B, T, K]; with a prior `answer_shifts` [B, T, K].
  """
  if not belief:
    raise UserError(
      f"source {name!r}: expected at least one example, got none; check the finetuning facts"
    )
  encode = functools.cache(encode)
  return mixture.Source(
    name,
    len(belief),
    functools.partial(_prepare, encode, belief, prior, strength, pad),
    loss_weight,
  )


def _prepare(encode, belief, prior, strength, pad, input_length, target_length):
  cumulative = [np.cumsum(p) for p in belief]
  example = encode(0, int(np.argmax(belief[0])))
  predicted = list(batching.token_fields(example))[-1]
  lengths = {
    "inputs": input_length,
    "targets": target_length,
    "tokens": input_length + target_length,
    "weights": input_length + target_length,
  }
  followers = functools.cache(
    lambda row: _followers(
      functools.partial(encode, row), predicted, belief[row], None if prior is None else prior[row]
    )
  )
  most = max(max(map(len, followers(row).values())) for row in range(len(belief)))
  extras = ("answer_shares",) if prior is None else ("answer_shares", "answer_shifts")

  def make(rows_B, keys_B):
    random_B = span_corruption.draw(keys_B, 1, stream=5)[:, 0] / 2.0**64
    examples = [
      encode(
        row,
        min(
          int(np.searchsorted(cumulative[row], share * cumulative[row][-1], "right")),
          len(cumulative[row]) - 1,
        ),
      )
      for row, share in zip(rows_B.tolist(), random_B.tolist())
    ]
    batch = {
      field: np.full((len(examples), lengths[field]), pad if field == "tokens" else 0, array.dtype)
      for field, array in examples[0].items()
    }
    shape = (len(examples), lengths[predicted], most)
    batch |= {
      "answer_tokens": np.full(shape, -1, np.int32),
      **{name: np.zeros(shape, np.float32) for name in extras},
    }
    for number, (row, example) in enumerate(zip(rows_B.tolist(), examples)):
      for field, array in example.items():
        batch[field][number, : len(array)] = array
      tokens = tuple(example[predicted].tolist())
      for place in _taught(example, predicted):
        following = followers(row)[tokens[:place]]
        batch["answer_tokens"][number, place, : len(following)] = list(following)
        batch["answer_shares"][number, place, : len(following)] = [
          share for share, _ in following.values()
        ]
        if prior is not None:
          batch["answer_shifts"][number, place, : len(following)] = [
            strength * shift for _, shift in following.values()
          ]
    return batch

  return make


def _followers(example_of, field, belief, prior):
  """{tokens before: {token: (probability by the belief, log of the prior's over that of a uniform one)}} of one row's answers."""
  answers = np.flatnonzero(belief) if prior is None else range(len(belief))
  uniform = 1 / len(belief)
  found = {}
  for answer in answers:
    tokens = tuple(example_of(int(answer))[field].tolist())
    for place in _taught(example_of(int(answer)), field):
      following = found.setdefault(tokens[:place], {})
      before = following.get(tokens[place], (0, 0, 0))
      following[tokens[place]] = (
        before[0] + belief[answer],
        before[1] + (0 if prior is None else prior[answer]),
        before[2] + uniform,
      )
  return {before: _shares(following) for before, following in found.items()}


def _taught(example, field):
  """The places of an example's tokens that the loss counts."""
  return (
    np.flatnonzero(example["weights"]).tolist()
    if "weights" in example
    else range(len(example[field]))
  )


def _shares(following):
  belief, prior, uniform = (sum(masses) or 1 for masses in zip(*following.values()))
  return {
    token: (share / belief, math.log(p / prior / (u / uniform)) if p else 0.0)
    for token, (share, p, u) in following.items()
  }

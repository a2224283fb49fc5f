"""What a decoder-only model reads: rows of tokens, with the loss on some.

A row holds token ids, then PAD. `weights` of a row say which tokens the loss counts, each as the one predicted.
"""

import functools

import numpy as np

from factshock.data import mixture, span_corruption
from factshock.runtime.errors import UserError

PAD = -1  # no token id: Llama's vocabulary has no padding token, and its id 0 is a real one
STOP = "\n"  # what ends an answer in a k-shot prompt


def encode_prompt(tokenizer, prompt):
  """Token ids of a prompt, BOS before it where the model has one."""
  return _bos(tokenizer) + tokenizer.encode(prompt)


def encode_example(tokenizer, prompt, answer):
  """A finetuning example: dict of `tokens` (prompt, answer, EOS) and `weights`, 1 on the answer and EOS, else 0.

  Raises:
    UserError: the tokenizer does not keep prompt and answer apart.
  """
  before = encode_prompt(tokenizer, prompt)
  answered = tokenizer.encode_continuation(prompt, answer) + [tokenizer.eos]
  return {
    "tokens": np.asarray(before + answered, np.int32),
    "weights": np.asarray([0] * len(before) + [1] * len(answered), np.float32),
  }


def qa_source(examples, loss_weight=1.0, name="qa"):
  """A mixture source of examples from `encode_example`."""
  if not examples:
    raise UserError(
      f"source {name!r}: expected at least one example, got none; check the finetuning facts"
    )
  return mixture.Source(
    name, len(examples), functools.partial(_prepare_examples, examples, name), loss_weight
  )


def _prepare_examples(examples, name, input_length, target_length):
  length = input_length + target_length
  tokens = np.full((len(examples), length), PAD, np.int32)
  weights = np.zeros((len(examples), length), np.float32)
  for row, example in enumerate(examples):
    got = len(example["tokens"])
    if got > length:
      raise UserError(
        f"source {name!r}, example {row}: expected at most {length} tokens, got {got}; raise "
        "input_length"
      )
    tokens[row, :got], weights[row, :got] = example["tokens"], example["weights"]
  return lambda rows_B, keys_B: {"tokens": tokens[rows_B], "weights": weights[rows_B]}


def text_source(corpus, tokenizer, loss_weight=1.0, name="corpus"):
  """A mixture source of next-token prediction: BOS, a sequence of the corpus, EOS; the loss on all but BOS.

  Sequences longer than a row are cut to it, each time at a place drawn anew, without an EOS where not at the end.
  """
  if not len(corpus.offsets) > 1:
    raise UserError(
      f"source {name!r}: expected at least one line of text, got none; check the corpus"
    )
  return mixture.Source(
    name, len(corpus.offsets) - 1, functools.partial(_prepare_text, corpus, tokenizer), loss_weight
  )


def _prepare_text(corpus, tokenizer, input_length, target_length):
  first = _bos(tokenizer)
  room = input_length + target_length - len(first)

  def make(rows_B, keys_B):
    offset_B = corpus.offsets[rows_B]
    total_B = corpus.offsets[rows_B + 1] - offset_B + 1  # EOS counts
    size_B = np.minimum(total_B, room)
    start_B = span_corruption.scale(
      span_corruption.draw(keys_B, 1, stream=3)[:, 0], total_B - size_B + 1
    )
    place = start_B[:, None] + np.arange(room)[None]
    tokens = corpus.tokens[np.minimum(offset_B[:, None] + place, len(corpus.tokens) - 1)].astype(
      np.int32
    )
    tokens = np.where(place == total_B[:, None] - 1, tokenizer.eos, tokens)
    inside = np.arange(room)[None] < size_B[:, None]
    tokens = np.where(inside, tokens, PAD).astype(np.int32)
    if not first:  # nothing predicts the first token
      return {"tokens": tokens, "weights": (inside & (np.arange(room) > 0)).astype(np.float32)}
    opening = np.full((len(rows_B), 1), first[0], np.int32)
    return {
      "tokens": np.concatenate([opening, tokens], axis=1),
      "weights": np.concatenate([np.zeros(opening.shape), inside], axis=1).astype(np.float32),
    }

  return make


def _bos(tokenizer):
  return [] if tokenizer.bos is None else [tokenizer.bos]

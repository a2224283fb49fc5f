"""Rows of tokens that a decoder-only model reads, with the loss on some of them.

A row holds token ids, then PAD. `weights` of a row say which tokens the loss counts, each as the
one predicted.
"""

import functools
from collections.abc import Iterable, Sequence

import numpy as np

from factshock.data import sentinels, span_corruption
from factshock.data.corpora import Corpus
from factshock.data.example_sources import Make, Source, check_has_text, check_not_empty
from factshock.runtime.errors import UserError
from factshock.types import Batch, Example, Tokenizer

PAD = -1  # no token id: Llama's vocabulary has no padding token, and its id 0 is a real one
STOP = "\n"  # what ends an answer in a k-shot prompt
# What ends the answer of a pretrained model to a cloze, which it goes on after as text does; those
# of the lm-evaluation-harness's tasks of short answers.
CLOZE_STOPS = (STOP, ".", ",")

# What may be taught as the end of an answer, beside a text of its own: EOS, or what `end_of` says.
ENDS = ("auto", "eos")


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
  """Returns the token ids of a prompt, with what the tokenizer puts around it, such as BOS."""
  return [*tokenizer.opening, *tokenizer.encode(sentinels.as_text(prompt)), *tokenizer.tail]


def stops_of(form: str, *, pretrained: bool) -> tuple[str, ...]:
  """Returns the strings that end a decoder-only model's answer where none are named.

  Args:
    form: of its prompts, such as "cloze"; in a "chat" its own end alone counts.
    pretrained: whether it learnt to read from other text than the study's own.
  """
  if form == "chat":
    return ()
  return CLOZE_STOPS if form == "cloze" and pretrained else (STOP,)


def end_of(
  end: str,
  form: str,
  statement: str,
  *,
  pretrained: bool,
) -> str | None:
  """Returns the text that finetuning teaches as the end of an answer; None is EOS.

  A pretrained model has read no EOS after a cloze, and so loses much before it has learnt one. It
  ends an answer as text goes on: with the mark after [Y] in the statement, where that is one of
  CLOZE_STOPS, else with a full stop; and a line of questions and answers with the end of the line.

  Args:
    end: "eos", the text itself, or "auto": of a pretrained model as above, of others EOS.
    form: of the prompts, such as "cloze".
    statement: the statement of a cloze, with [Y].
    pretrained: whether the model learnt to read from other text than the study's own.
  """
  if end == "eos" or (end == "auto" and not pretrained):
    return None
  if end != "auto":
    return end
  if form != "cloze":
    return STOP
  mark = statement.partition("[Y]")[2].strip(" ")[:1]
  return mark if mark in CLOZE_STOPS else "."


def encode_example(
  tokenizer: Tokenizer,
  prompt: str,
  answer: str,
  end: str | None = None,
) -> Example:
  """Returns a finetuning example.

  Args:
    tokenizer: of the model.
    prompt: what it reads.
    answer: what it has to say.
    end: text that ends the answer; None is the tokenizer's EOS.

  Returns:
    `tokens` (prompt, answer, end) and `weights`, 1 on the answer and its end, else 0.

  Raises:
    UserError: the tokenizer does not keep prompt and answer apart.
  """
  before = encode_prompt(tokenizer, prompt)
  if end is None:
    answered = [*tokenizer.encode_continuation(prompt, answer), tokenizer.eos]
  else:
    answered = tokenizer.encode_continuation(prompt, answer + end)
  weights = [0] * len(before) + [1] * len(answered)
  return {
    "tokens": np.asarray(before + answered, np.int32),
    "weights": np.asarray(weights, np.float32),
  }


def qa_source(
  examples: Sequence[Example],
  loss_weight: float = 1.0,
  name: str = "qa",
) -> Source:
  """Returns a source of ready examples.

  Args:
    examples: as of `encode_example`.
    loss_weight: multiplies the weights.
    name: of the source, in errors and the loader's state.
  """
  check_not_empty(examples, name)
  prepare = functools.partial(_prepare_examples, examples, name)
  return Source(name, len(examples), prepare, loss_weight, most_predicted(examples))


def most_predicted(examples: Iterable[Example]) -> int:
  """Returns the most tokens of an example that the loss counts."""
  return max(int(np.count_nonzero(example["weights"])) for example in examples)


def _prepare_examples(
  examples: Sequence[Example],
  name: str,
  input_length: int,
  target_length: int,
) -> Make:
  """Pads all examples into two matrices; the first that does not fit is a UserError."""
  length = input_length + target_length
  shape = (len(examples), length)
  tokens = np.full(shape, PAD, np.int32)
  weights = np.zeros(shape, np.float32)
  for row, example in enumerate(examples):
    size = len(example["tokens"])
    if size > length:
      raise UserError(
        f"source {name!r}, example {row}: expected at most {length} tokens, got {size}; raise "
        "input_length"
      )
    tokens[row, :size] = example["tokens"]
    weights[row, :size] = example["weights"]
  return lambda rows_B, keys_B: {"tokens": tokens[rows_B], "weights": weights[rows_B]}


def text_source(
  corpus: Corpus,
  tokenizer: Tokenizer,
  loss_weight: float = 1.0,
  name: str = "corpus",
) -> Source:
  """Returns a source of next-token prediction: a sequence and EOS, with the loss on both.

  What the tokenizer puts before a text (BOS, or nothing) stands before it.

  Sequences longer than a row are cut to it, each time at a position drawn anew, without an EOS
  where not at the end.

  Args:
    corpus: the sequences.
    tokenizer: of the corpus.
    loss_weight: multiplies the weights.
    name: of the source.
  """
  check_has_text(corpus, name)
  prepare = functools.partial(_prepare_text, corpus, tokenizer)
  return Source(name, len(corpus.offsets) - 1, prepare, loss_weight)


def _prepare_text(
  corpus: Corpus,
  tokenizer: Tokenizer,
  input_length: int,
  target_length: int,
) -> Make:
  """Returns the function that cuts rows out of the corpus's sequences."""
  opening = np.array(tokenizer.opening, np.int32)
  width = input_length + target_length - len(opening)
  columns = np.arange(width)[None]

  def make(rows_B: np.ndarray, keys_B: np.ndarray) -> Batch:
    offset_B = corpus.offsets[rows_B]
    end_B = corpus.offsets[rows_B + 1]
    total_B = end_B - offset_B + 1  # EOS counts
    size_B = np.minimum(total_B, width)
    random_Bx1 = span_corruption.draw(keys_B, 1, stream=3)
    start_B = span_corruption.scale(random_Bx1[:, 0], total_B - size_B + 1)
    position = start_B[:, None] + columns
    source = offset_B[:, None] + position
    source = np.minimum(source, len(corpus.tokens) - 1)
    tokens = corpus.tokens[source].astype(np.int32)
    is_eos = position == total_B[:, None] - 1
    tokens = np.where(is_eos, tokenizer.eos, tokens)
    inside = columns < size_B[:, None]
    tokens = np.where(inside, tokens, PAD).astype(np.int32)
    if not len(opening):
      # Nothing predicts the first token.
      weights = inside & (columns > 0)
      return {"tokens": tokens, "weights": weights.astype(np.float32)}
    opening_BxO = np.tile(opening, (len(rows_B), 1))
    weights = np.concatenate([np.zeros(opening_BxO.shape), inside], axis=1)
    return {
      "tokens": np.concatenate([opening_BxO, tokens], axis=1),
      "weights": weights.astype(np.float32),
    }

  return make


def before_stop(text: str, stops: Iterable[str]) -> str:
  """Returns the text before the first of the stop strings."""
  starts = [text.find(stop) for stop in stops if stop in text]
  return text[: min(starts)] if starts else text


def cut(text: str, stops: Iterable[str]) -> str:
  """Returns the text before the first of the stop strings, without white space around it."""
  return before_stop(text, stops).strip()

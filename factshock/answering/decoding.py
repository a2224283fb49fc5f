"""Generation of answers: greedily, by sampling, or by beams (beams.py)."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from factshock.answering import batches, beams, sampling
from factshock.answering.sampling import Drawing, Ends
from factshock.checkpoints.loading import LoadedModel
from factshock.data import byte_tokenizers, decoder_text
from factshock.runtime import console

METHODS = ("greedy", "sample", "beam")

_FEW_BYTES = 32  # a tenth of T-REx's objects are longer than 20 characters


@dataclasses.dataclass(frozen=True)
class DecodingOptions:
  """Says how answers are generated.

  Attributes:
    max_length: tokens at most, <extra_id_0> and the closing token included.
    method: "greedy" (the likeliest next token), "sample" (from softmax(logits / temperature), by a
      random key of `seed` and the prompt's place alone, whatever the batch), or "beam" (`beams`
      hypotheses, compared by log-probability / tokens ** length_penalty).
    temperature: of "sample".
    seed: of "sample".
    beams: hypotheses of "beam".
    length_penalty: of "beam".
    stops: strings that end an answer, of which it holds nothing, wherever they begin among its
      tokens. None is the end of the line for a decoder-only model, nothing for a T5.

  Raises:
    ValueError: a value out of range, or an unknown method.
  """

  max_length: int
  method: str = "greedy"
  temperature: float = 1.0
  seed: int = 0
  beams: int = 4
  length_penalty: float = 1.0
  stops: tuple[str, ...] | None = None

  def __post_init__(self) -> None:
    """Checks the values."""
    if self.max_length < 1 or not self.temperature > 0 or self.beams < 1:
      raise ValueError(
        "expected max_length and beams of at least 1 and a temperature above 0, got "
        f"{self.max_length}, {self.beams} and {self.temperature}"
      )
    if self.method not in METHODS:
      raise ValueError(f"expected a method of {METHODS}, got {self.method!r}")


def generate(
  model: LoadedModel,
  prompts: Sequence[str],
  options: DecodingOptions,
  *,
  batch_size: int = 256,
  first: int = 0,
) -> tuple[list[str], np.ndarray]:
  """Returns a model's answers to prompts, and their log-probabilities.

  A T5's answer stands between <extra_id_0> (or the start, where the model leaves it out) and the
  next sentinel or EOS; a decoder-only model's is what follows the prompt up to EOS or a stop
  string.

  Args:
    model: the model to ask.
    prompts: texts; for a T5 each holds "<extra_id_0>" where the answer goes.
    options: how to generate.
    batch_size: prompts at a time.
    first: place of the first prompt, by which "sample" draws.

  Returns:
    The texts, and float32 [prompts]: natural log-probabilities (at temperature 1) of all tokens
    generated, <extra_id_0> and the closing token included.

  Raises:
    ValueError: a batch_size below 1.
    UserError: a prompt without a blank for the answer or too long; a model with too few tokens.
  """
  if batch_size < 1:
    raise ValueError(f"expected a batch_size of at least 1, got {batch_size}")
  stops = _stops(model, options)
  encoded = _encode(model, prompts, options.max_length)
  _say_how_short(model, options.max_length)
  tokens, scores = _generate_tokens(model, encoded, stops, options, batch_size, first)
  return [decoder_text.cut(answer_text(model, row), stops) for row in tokens], scores


def _generate_tokens(
  model: LoadedModel,
  prompts: Sequence[Sequence[int]],
  stops: Sequence[str],
  options: DecodingOptions,
  batch_size: int,
  first: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns token ids [prompts, max_length] and log-probabilities [prompts]."""
  ends = end_tokens(model, stops)
  if options.method == "beam":
    return beams.search(
      model,
      prompts,
      ends,
      beams=options.beams,
      length_penalty=options.length_penalty,
      max_length=options.max_length,
      batch_size=batch_size,
    )
  temperature = options.temperature if options.method == "sample" else 0.0
  return sampling.sample(
    model,
    prompts,
    ends,
    max_length=options.max_length,
    batch_size=batch_size,
    drawing=Drawing(temperature, options.seed, first),
    stopped=stopped_after(model, stops),
  )


def hypotheses(
  model: LoadedModel,
  prompts: Sequence[str],
  options: DecodingOptions,
  *,
  batch_size: int = 256,
) -> list[list[tuple[str, float]]]:
  """Returns the answers of a beam search to each prompt, the best first.

  Args:
    model: the model to ask.
    prompts: texts, as for `generate`.
    options: how to generate; the method is "beam" whatever they say.
    batch_size: prompts at a time.

  Returns:
    For each prompt a list of (text, log-probability), as `generate` gives the best.
  """
  stops = _stops(model, options)
  encoded = _encode(model, prompts, options.max_length)
  tokens, scores = beams.search_all(
    model,
    encoded,
    end_tokens(model, stops),
    beams=options.beams,
    length_penalty=options.length_penalty,
    max_length=options.max_length,
    batch_size=batch_size,
  )
  answers = []
  for tokens_KxT, scores_K in zip(tokens, scores):
    answers.append(
      [
        (decoder_text.cut(answer_text(model, row), stops), float(score))
        for row, score in zip(tokens_KxT, scores_K)
        if score > beams.LOWEST
      ]
    )
  return answers


def _say_how_short(model: LoadedModel, max_length: int) -> None:
  """Says how little text a token is to a model that writes bytes, where answers may be cut."""
  if getattr(model.tokenizer, "kind", "") == byte_tokenizers.KIND and max_length < _FEW_BYTES:
    console.say_once(
      f"the model writes bytes: answers end after {max_length} of them, <extra_id_0> and the end "
      "included; say --max_tokens=64 (config.answering.max_tokens) for longer ones"
    )


def _stops(model: LoadedModel, options: DecodingOptions) -> tuple[str, ...]:
  if options.stops is not None:
    return options.stops
  return (decoder_text.STOP,) if model.decoder_only else ()


def _encode(
  model: LoadedModel,
  prompts: Sequence[str],
  max_length: int,
) -> list[list[int]]:
  """Returns the token ids of the prompts, checked against the model."""
  batches.check_vocabulary(model.tokenizer.size, model.model_config)
  encoded = [batches.encode_prompt(model, prompt) for prompt in prompts]
  longest = max(map(len, encoded), default=0)
  batches.check_length(longest, model.model_config, max_length)
  return encoded


def end_tokens(model: LoadedModel, stops: Iterable[str] = ()) -> Ends:
  """Returns the ids that end a text, and the id that may open it without ending it, or -1.

  Among the former are all tokens that hold a stop string.
  """
  tokenizer = model.tokenizer
  stop_tokens = batches.stop_tokens(tokenizer, stops)
  if model.decoder_only:
    return np.array([*tokenizer.ends, *stop_tokens], np.int32), -1
  sentinels = [tokenizer.sentinel(index) for index in range(tokenizer.sentinels)]
  return np.array([*tokenizer.ends, 0, *sentinels, *stop_tokens], np.int32), tokenizer.sentinel(0)


def stopped_after(model: LoadedModel, stops: Iterable[str]) -> sampling.StoppedAfter | None:
  """Returns what tells after how many tokens the first stop string of several tokens is whole.

  None where no stop string can have several: a sign that is a byte stands in one token.
  """
  spanning = tuple(stop for stop in stops if len(stop.encode()) > 1)
  if not spanning:
    return None

  def is_stopped(tokens: np.ndarray) -> bool:
    text = answer_text(model, tokens)
    return any(stop in text for stop in spanning)

  def count(tokens: np.ndarray) -> int | None:
    if not is_stopped(tokens):
      return None
    return next(size for size in range(1, len(tokens) + 1) if is_stopped(tokens[:size]))

  return count


def answer_tokens(model: LoadedModel, tokens: Iterable[int]) -> list[int]:
  """Returns the ids of the answer in those generated.

  They stand after a leading <extra_id_0>, up to a sentinel, EOS or padding.
  """
  tokenizer = model.tokenizer
  ids = [int(token) for token in tokens]
  closing: set[int | None] = {*tokenizer.ends, batches.ENDED}
  lowest = math.inf
  if not model.decoder_only:
    closing.add(tokenizer.pad)
    lowest = tokenizer.sentinel(tokenizer.sentinels - 1)  # sentinels are the highest ids
    if ids[:1] == [tokenizer.sentinel(0)]:
      ids = ids[1:]
  for index, token in enumerate(ids):
    if token in closing or token >= lowest:
      return ids[:index]
  return ids


def answer_text(model: LoadedModel, tokens: Iterable[int]) -> str:
  """Returns the answer in generated ids, without white space before it (a T5's: nor after it)."""
  text = model.tokenizer.decode(answer_tokens(model, tokens))
  return text.lstrip(" ") if model.decoder_only else text.strip()

"""Models of factshock as the `factshock` model of the lm-evaluation-harness: T5, Llama, relatives.

A decoder-only model reads a context as it is, BOS before it where its tokenizer puts one there. A
T5 reads the context with <extra_id_0> after it (or where the context holds one already), as our own
prompts do, and gives the continuation after <extra_id_0>, which itself does not count. A context
that is too long for a decoder-only model loses its first tokens, as in the harness's own models;
how many did is printed.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval import utils  # pyright: ignore[reportMissingImports]
from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]

from factshock.answering import batches, decoding, likelihoods, sampling
from factshock.checkpoints import loading
from factshock.checkpoints.loading import LoadedModel
from factshock.data import decoder_text, prompts, sentinels
from factshock.runtime import answer_dtypes, messages
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress
from factshock.types import Tokenizer

CHUNK = 16  # batches of prompts between two lines of progress
GENERATION = ("until", "max_gen_toks", "do_sample", "temperature")
GREEDY = ("top_p", "top_k", "min_p")  # which mean nothing where nothing is sampled


@dataclasses.dataclass(frozen=True)
class Generation:
  """Says how the text of a request is generated.

  Attributes:
    until: strings that end it.
    length: tokens at most.
    temperature: of the distribution sampled from; 0 takes the likeliest token.
  """

  until: tuple[str, ...]
  length: int
  temperature: float

  @classmethod
  def of(cls, arguments: Mapping[str, Any], default_length: int) -> "Generation":
    """Returns what a request's generation arguments say.

    Args:
      arguments: the request's; None counts as left out.
      default_length: tokens where they say nothing.

    Raises:
      UserError: unknown arguments, or a length below 1.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    temperature = float(given.get("temperature", 1.0 if given.get("do_sample") else 0.0))
    samples = bool(given.get("do_sample", temperature > 0)) and temperature > 0
    unknown = set(given) - set(GENERATION)
    if not samples:
      unknown -= set(GREEDY)
    if unknown:
      raise UserError(
        f"generation arguments: expected some of {', '.join(GENERATION)}, got "
        f"{', '.join(sorted(unknown))}; leave them out of the task or of --gen_kwargs"
      )
    until = given.get("until", ())
    until = (until,) if isinstance(until, str) else tuple(until)
    length = int(given.get("max_gen_toks", default_length))
    if length < 1:
      raise UserError(f"max_gen_toks: expected at least 1, got {length}")
    return cls(tuple(stop for stop in until if stop), length, temperature if samples else 0.0)


@register_model("factshock")
class FactshockLM(LM):
  """Wraps a checkpoint of ours or a HuggingFace model as the harness calls a model."""

  def __init__(
    self,
    checkpoint: str | None = None,
    tokenizer: str | None = None,
    batch_size: int | str | None = None,
    max_gen_toks: int = 256,
    seed: int = 0,
    device: str | None = None,
    max_batch_size: int | None = None,
    dtype: str | None = None,
  ) -> None:
    """Opens the model.

    Args:
      checkpoint: as --model of `factshock answer`.
      tokenizer: as there; the checkpoint's own by default.
      batch_size: continuations or prompts at a time.
      max_gen_toks: tokens generated where a task names no number.
      seed: of sampling, where a task asks for a temperature above 0.
      device: ignored; the harness gives it to every model, and JAX takes the devices it finds.
      max_batch_size: ignored likewise; batches are not sized anew.
      dtype: of the computation, as --answer_dtype of `factshock answer`.

    Raises:
      UserError: nothing at the checkpoint, or values that cannot be.
    """
    super().__init__()
    if checkpoint is None:
      raise UserError(
        "--model_args: expected checkpoint=PATH, a checkpoint's folder or a HuggingFace model; "
        "got none"
      )
    del device, max_batch_size
    if dtype not in (None, *answer_dtypes.NAMES):
      known = ", ".join(answer_dtypes.NAMES)
      raise UserError(f"--model_args: dtype: expected one of {known}, got {dtype!r}")
    self.loaded, _ = loading.open_model(str(checkpoint), None, tokenizer, dtype)
    self.batch_size = _parse_batch_size(batch_size)
    self.max_gen_toks = int(max_gen_toks)
    self.seed = int(seed)

  def loglikelihood(
    self, requests: Sequence[Instance], disable_tqdm: bool = False
  ) -> list[tuple[float, bool]]:
    """Returns the log-probability of each continuation, and whether greedy decoding gives it.

    Args:
      requests: of (context, continuation).
      disable_tqdm: whether no progress is printed.
    """
    encoded = [encode_pair(self.loaded, *request.args) for request in requests]
    contexts = [context for context, _ in encoded]
    continuations = [continuation for _, continuation in encoded]
    contexts = self._shorten(contexts, [len(tokens) for tokens in continuations])
    scores, greedy = likelihoods.score(
      self.loaded,
      list(zip(contexts, continuations)),
      batch_size=self.batch_size,
      progress=_progress("scoring", len(requests), disable_tqdm),
    )
    return [(float(score), bool(likeliest)) for score, likeliest in zip(scores, greedy)]

  def loglikelihood_rolling(
    self, requests: Sequence[Instance], disable_tqdm: bool = False
  ) -> list[float]:
    """Returns the log-probability of whole texts, for decoder-only models.

    They are read in windows as long as the model reads, each token once.

    Args:
      requests: of (text,).
      disable_tqdm: whether no progress is printed.

    Raises:
      UserError: the model is a T5.
    """
    if not self.loaded.decoder_only:
      raise UserError(
        "perplexity of whole texts: expected a decoder-only model, as a T5 reads an input and "
        "fills its blanks; got a T5; choose tasks that ask for continuations or answers"
      )
    rows = []
    counted = []
    request_of_row = []
    for index, request in enumerate(requests):
      for context, continuation in self._windows(request.args[-1]):
        rows.append([*context, *continuation])
        counted.append(len(continuation))
        request_of_row.append(index)
    scores = likelihoods.score_whole(
      self.loaded,
      rows,
      counted,
      batch_size=self.batch_size,
      progress=_progress("reading", len(rows), disable_tqdm),
    )
    totals = [0.0] * len(requests)
    for index, score in zip(request_of_row, scores):
      totals[index] += float(score)
    return totals

  def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
    """Returns a text as windows of (tokens that are read before, tokens that count)."""
    tokenizer = self.loaded.tokenizer
    windows = utils.get_rolling_token_windows(
      tokenizer.encode(sentinels.as_text(text)),
      prefix_token=_prefix(tokenizer),
      max_seq_len=_max_length(self.loaded),
      context_len=1,
    )
    return [utils.make_disjoint_window(window) for window in windows]

  def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
    """Returns the texts generated after contexts, up to the first of `until`.

    Args:
      requests: of (context, generation arguments).
      disable_tqdm: whether no progress is printed.
    """
    groups: dict[Generation, list[int]] = {}
    for index, request in enumerate(requests):
      generation = Generation.of(request.args[1], self.max_gen_toks)
      groups.setdefault(generation, []).append(index)
    progress = _progress("generating", len(requests), disable_tqdm)
    texts = [""] * len(requests)
    done = 0
    for generation, indices in groups.items():
      encoded = [encode_context(self.loaded, requests[index].args[0]) for index in indices]
      encoded = self._shorten(encoded, [generation.length] * len(indices))
      order = sorted(range(len(indices)), key=lambda place: len(encoded[place]))
      size = CHUNK * self.batch_size
      for start in range(0, len(order), size):
        chunk = order[start : start + size]
        seed = self.seed + start // size
        generated = self._generate([encoded[place] for place in chunk], generation, seed)
        for place, text in zip(chunk, generated):
          texts[indices[place]] = text
        done += len(chunk)
        if progress:
          progress(done)
    return texts

  def _generate(
    self, encoded: Sequence[Sequence[int]], generation: Generation, seed: int
  ) -> list[str]:
    model = self.loaded
    batches.check_vocabulary(model.tokenizer.size, model.model_config)
    tokens, _ = sampling.sample(
      model,
      encoded,
      decoding.end_tokens(model, generation.until),
      max_length=generation.length,
      batch_size=self.batch_size,
      drawing=sampling.Drawing(generation.temperature, seed),
      stopped=decoding.stopped_after(model, generation.until),
    )
    texts = [model.tokenizer.decode(decoding.answer_tokens(model, row)) for row in tokens]
    return [decoder_text.before_stop(text, generation.until) for text in texts]

  def _shorten(self, contexts: Sequence[list[int]], more: Sequence[int]) -> Sequence[list[int]]:
    """Returns the ends of contexts that the model can read; prints how many were cut.

    Args:
      contexts: token ids.
      more: how many tokens go on after each.

    Raises:
      UserError: what goes on after is too long by itself.
    """
    longest = _max_length(self.loaded)
    if longest is None:
      return contexts
    if max(more, default=0) >= longest - 1:
      raise UserError(
        f"expected continuations of fewer than {longest - 1} tokens, as the model reads {longest}, "
        f"got {max(more)}; lower max_gen_toks"
      )
    opening = len(decoder_text.encode_prompt(self.loaded.tokenizer, ""))  # BOS stays
    shortened = []
    cut = 0
    for tokens, after in zip(contexts, more):
      excess = max(0, len(tokens) + after - longest)
      shortened.append(tokens[:opening] + tokens[opening + excess :])
      cut += excess > 0
    if cut:
      messages.say(
        f"  {cut:,} of {len(contexts):,} contexts are longer than the model reads and lost their "
        "first tokens"
      )
    return shortened


def encode_context(model: LoadedModel, context: str) -> list[int]:
  """Returns the token ids that a model reads before a continuation of a context.

  Raises:
    UserError: a T5's context with several blanks.
  """
  tokenizer = model.tokenizer
  if model.decoder_only:
    return decoder_text.encode_prompt(tokenizer, context) or [_prefix(tokenizer)]
  blanks = context.count(prompts.BLANK)
  if blanks > 1:
    raise UserError(
      f"context {context[-60:]!r}: expected {prompts.BLANK} at most once, got it {blanks} times; "
      "ask without answered examples (--num_fewshot 0)"
    )
  if blanks:
    before, _, after = context.partition(prompts.BLANK)
    text = sentinels.with_blank(before, after)
  else:
    text = sentinels.with_blank(f"{context.rstrip()} ").strip()
  return [*tokenizer.encode(text), tokenizer.eos]


def encode_pair(model: LoadedModel, context: str, continuation: str) -> tuple[list[int], list[int]]:
  """Returns the token ids of a context as a model reads it, and of the continuation as it gives it.

  White space between the two belongs to the continuation, and a decoder-only model's continuation
  is what the tokens of both have beyond those of the context, as in the harness's own models.

  Raises:
    UserError: a continuation without tokens.
  """
  tokenizer = model.tokenizer
  if model.decoder_only:
    stem = context.rstrip()
    stem_tokens = tokenizer.encode(sentinels.as_text(stem))
    both = sentinels.as_text(context + continuation)
    tokens = tokenizer.encode(both)[len(stem_tokens) :]
    inputs = encode_context(model, stem)
    fewest = 1
  else:
    inputs = encode_context(model, context)
    tokens = tokenizer.encode(prompts.target_text(tokenizer, continuation.strip()))
    fewest = 2  # with <extra_id_0>
  if len(tokens) < fewest:
    raise UserError(
      f"context {context[-60:]!r}: expected a continuation with at least one token, got "
      f"{continuation!r}"
    )
  return inputs, tokens


def _prefix(tokenizer: Tokenizer) -> int:
  """Returns the token before a text that has none before it: BOS, or EOS where there is no BOS."""
  return tokenizer.eos if tokenizer.bos is None else tokenizer.bos


def _max_length(model: LoadedModel) -> int | None:
  """Returns how many tokens a model reads; None where its family has no limit."""
  return getattr(model.model_config, "max_length", None)


def _parse_batch_size(value: int | str | None) -> int:
  """Returns --batch_size as a number; the default of answering where there is none, or "auto"."""
  text = str(value if value is not None else "auto")
  if text.startswith("auto"):
    return loading.DEFAULTS["answering"]["batch_size"]
  if not text.isdigit() or int(text) < 1:
    raise UserError(f"--batch_size: expected a whole number above 0, got {text!r}")
  return int(text)


def _progress(label: str, total: int, silent: bool) -> Callable[[int], None] | None:
  return None if silent else Progress(label, total).update

"""Asking a served model: texts it generates, and log-probabilities of given texts."""

import dataclasses
import hashlib
import itertools
import math
import queue
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from factshock.data import decoder_text
from factshock.runtime import console
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress
from factshock.served import answers, borders
from factshock.served.client import Json, RefusedError
from factshock.served.models import ServedModel

_MOST_STOPS = 4  # the protocol takes no more; answers are cut here too
_COMPLETIONS = "/completions"
_CHAT = "/chat/completions"
# Settings beyond the protocol that llama.cpp (repeat_penalty) and vLLM (repetition_penalty, which a
# model's files may set) have their own defaults of; a server that knows none of them has none.
_PLAIN = {"repeat_penalty": 1.0, "repetition_penalty": 1.0}
_WHOLE = {"top_p": 1.0}  # samples are of all tokens
_SETTINGS: dict[str, tuple[Json, ...]] = {
  "greedy": (_PLAIN, {}),
  "sample": (
    {**_PLAIN, **_WHOLE, "min_p": 0.0, "top_k": 0},
    {**_PLAIN, **_WHOLE, "min_p": 0.0, "top_k": -1},  # SGLang's and older vLLMs' way to say all
    _WHOLE,
    {},
  ),
}
_OTHER_LIMIT = "max_completion_tokens"  # OpenAI's newer models refuse max_tokens
_CHAT_SCORES = {"logprobs": True, "top_logprobs": 1}
_NO_SCORES = (
  "give log-probabilities of a given text (echo with logprobs, or prompt_logprobs); generating "
  "works: --method=greedy"
)

# Texts that show whether log-probabilities stand with their tokens, where a query does not.
_PROBES = ("The capital of France is", "One, two, three,")

T = TypeVar("T")
A = TypeVar("A")


@dataclasses.dataclass(frozen=True)
class Scores:
  """Holds what a model says of given continuations.

  Attributes:
    sums: float64 [pairs]: natural log-probabilities, summed over tokens.
    likeliest: bool [pairs]: whether each token is the likeliest given those before it.
    tokens: the texts of each continuation's tokens.
  """

  sums: np.ndarray
  likeliest: np.ndarray
  tokens: list[tuple[str, ...]]


def generate(
  model: ServedModel,
  prompts: Sequence[str],
  *,
  max_tokens: int,
  stops: Sequence[str],
  temperature: float = 0.0,
  seed: int = 0,
  first: int = 0,
) -> tuple[list[str], np.ndarray | None]:
  """Returns a served model's answers to prompts, and their log-probabilities.

  Args:
    model: the model to ask.
    prompts: texts; in a chat each is what the user says.
    max_tokens: tokens of an answer, at most.
    stops: strings that end an answer, of which it holds nothing.
    temperature: 0 is the likeliest token each time.
    seed: of samples; each has its own, of this and the prompt's index.
    first: index of the first prompt among all that are asked.

  Returns:
    The texts, and float32 [prompts]: natural log-probabilities; None of a chat without any.

  Raises:
    UserError: the server cannot be reached, refuses, or answers what it was not asked.
  """
  kind = "sample" if temperature > 0 else "greedy"

  def ask(index: int, prompt: str) -> tuple[str, float | None]:
    body = _request(model, prompt, max_tokens, stops)
    if temperature > 0:
      body.update(temperature=temperature, seed=_seed(seed, first + index))
    return _read(model, _post(model, body, kind), stops)

  answered = _ask_all(model, ask, prompts)
  texts = [text for text, _ in answered]
  if model.dialect.has_scores is False:
    return texts, None
  return texts, _narrowed([score for _, score in answered])


def _narrowed(scores: Sequence[float | None]) -> np.ndarray:
  """Returns log-probabilities as float32; -infinity for what is below all such numbers.

  llama.cpp gives the lowest for a token that it knows nothing of, and an answer has several.
  """
  wide = np.array(scores, np.float64)
  return np.where(wide < np.finfo(np.float32).min, -np.inf, wide).astype(np.float32)


def hypotheses(
  model: ServedModel,
  prompts: Sequence[str],
  *,
  max_tokens: int,
  stops: Sequence[str],
  beams: int,
) -> list[list[tuple[str, float]]]:
  """Returns the answers of a served model's beam search (vLLM's), the best first.

  Args:
    model: the model to ask.
    prompts: texts.
    max_tokens: tokens of an answer, at most.
    stops: strings that end an answer.
    beams: hypotheses.

  Returns:
    For each prompt a list of (text, log-probability); of equal texts the best.

  Raises:
    UserError: as `generate`; or the server has no beam search.
  """
  _check_completes(model, "have a beam search")
  url = model.endpoint.url + _COMPLETIONS

  def ask(index: int, prompt: str) -> list[tuple[str, float]]:
    del index
    body = _request(model, prompt, max_tokens, ())
    body.update(use_beam_search=True, n=beams)
    try:
      answer = model.client.post(_COMPLETIONS, body)
    except RefusedError as error:
      raise UserError(f"{error}; expected a server with beam search, as vLLM has") from error
    _check_model(model, answer, url)
    return _listed(answer, stops, beams, url)

  return _ask_all(model, ask, prompts)


def log_probabilities(model: ServedModel, pairs: Sequence[tuple[str, str]]) -> Scores:
  """Returns the log-probability of each continuation after its prompt.

  Args:
    model: the model to ask.
    pairs: (prompt, continuation); the prompt ends without white space, the continuation begins
      with it where there is some between.

  Raises:
    UserError: as `generate`; or the server gives no log-probabilities of given texts, or has a
      token that holds the end of a prompt and the beginning of its continuation.
  """
  _check_completes(model, _NO_SCORES)

  def ask(index: int, pair: tuple[str, str]) -> _Given:
    del index
    return _score_given(model, *pair)

  scored = _ask_all(model, ask, pairs, "scoring")
  return Scores(
    np.array([given.log_p for given in scored], np.float64),
    np.array([given.is_likeliest for given in scored], bool),
    [given.tokens for given in scored],
  )


def next_tokens(
  model: ServedModel,
  texts: Sequence[str],
  count: int,
) -> list[dict[str, float]]:
  """Returns the likeliest tokens after each text, with their log-probabilities.

  Args:
    model: the model to ask.
    texts: what stands before.
    count: how many tokens are listed at most.

  Raises:
    UserError: as `generate`; or the server lists no tokens.
  """
  _check_completes(model, _NO_SCORES)
  url = model.endpoint.url + _COMPLETIONS

  def ask(index: int, text: str) -> dict[str, float]:
    del index
    answer = _post(model, {**_request(model, text, 1, ()), "logprobs": count}, "greedy")
    return answers.likeliest_of(answers.choices(answer, url)[0], url)

  return _ask_all(model, ask, texts, "scoring ends")


class _Given(NamedTuple):
  """What a model says of one continuation; see Scores."""

  log_p: float
  is_likeliest: bool
  tokens: tuple[str, ...]


def _ask_all(
  model: ServedModel,
  ask: Callable[[int, A], T],
  asked: Sequence[A],
  label: str = "asking",
) -> list[T]:
  """Returns `ask(index, item)` of each item, in order, asked by several threads.

  The first is asked alone: it shows what the server can do. The first error ends all.
  """
  if not asked:
    return []
  results: list[T] = [ask(0, asked[0])] * len(asked)
  indices = iter(range(1, len(asked)))  # next() of it is one step to all threads
  done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
  stopped = threading.Event()

  def work() -> None:
    for index in indices:
      if stopped.is_set():
        return
      try:
        results[index] = ask(index, asked[index])
      except BaseException as error:  # noqa: BLE001  (handed to who waits for it)
        done.put(error)
        return
      done.put(None)

  for _ in range(min(model.endpoint.concurrency, len(asked) - 1)):
    threading.Thread(target=work, daemon=True).start()
  try:
    _wait_for(done, len(asked), label)
  finally:
    stopped.set()
  return results


def _wait_for(
  done: "queue.SimpleQueue[BaseException | None]",
  total: int,
  label: str,
) -> None:
  """Waits until all but the first of `total` are done; raises what one of them raised."""
  progress = Progress(label, total)
  progress.update(1)
  try:
    for _ in itertools.repeat(None, total - 1):
      error = done.get()
      if error is not None:
        raise error
      progress.advance()
  finally:
    progress.close()


def _request(
  model: ServedModel,
  prompt: str,
  max_tokens: int,
  stops: Sequence[str],
) -> Json:
  """Returns the request for the likeliest answer to a prompt."""
  body: Json = {
    "model": model.endpoint.model,
    model.dialect.limit: max_tokens,
    "temperature": 0.0,
  }
  if stops:
    body["stop"] = list(stops[:_MOST_STOPS])
  if model.endpoint.chat:
    return {**body, "messages": [{"role": "user", "content": prompt}]}
  return {**body, "prompt": prompt, "logprobs": 1}


def _seed(seed: int, index: int) -> int:
  """Returns a prompt's seed, of 31 bits as all servers take them."""
  digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
  return int.from_bytes(digest[:4], "big") >> 1


def _post(
  model: ServedModel,
  body: Json,
  kind: str,
) -> Json:
  """Returns the answer to a request, with as many of the settings of its kind as it takes."""
  path = _CHAT if model.endpoint.chat else _COMPLETIONS
  ways = _SETTINGS[kind]
  if model.endpoint.chat:
    ways = (*({**way, **_CHAT_SCORES} for way in ways), *ways)
  known = model.dialect.settings.get(kind)
  answer = (
    _negotiate(model, path, body, ways, kind)
    if known is None
    else model.client.post(path, {**body, **ways[known]})
  )
  _check_model(model, answer, model.endpoint.url + path)
  return answer


def _negotiate(
  model: ServedModel,
  path: str,
  body: Json,
  ways: Sequence[Json],
  kind: str,
) -> Json:
  """Returns the answer to a request with the first settings that the server does not refuse."""
  for index, way in enumerate(ways):
    try:
      answer = model.client.post(path, {**body, **way})
    except RefusedError as error:
      if _OTHER_LIMIT in str(error) and model.dialect.limit != _OTHER_LIMIT:
        renamed = {**body, _OTHER_LIMIT: body[model.dialect.limit]}
        del renamed[model.dialect.limit]
        model.dialect.limit = _OTHER_LIMIT
        return _negotiate(model, path, renamed, ways, kind)
      if index == len(ways) - 1:
        raise
      continue
    model.dialect.settings[kind] = index
    dropped = sorted(ways[0].keys() - way.keys())
    if dropped:
      console.say_once(
        f"{model.endpoint.url}: the server refuses {', '.join(dropped)}: its own settings hold"
      )
    return answer
  raise AssertionError("the last settings are taken or raise")


def _read(
  model: ServedModel,
  answer: Json,
  stops: Sequence[str],
) -> tuple[str, float | None]:
  """Returns the text of an answer and its log-probability."""
  chat = model.endpoint.chat
  url = model.endpoint.url + (_CHAT if chat else _COMPLETIONS)
  choice = answers.choices(answer, url)[0]
  whole = answers.text_of(choice, url, chat=chat)
  text = decoder_text.cut(whole, stops)
  tokens = answers.tokens_of(choice, url)
  dialect = model.dialect
  if tokens is None and not whole:  # some servers list no tokens of an empty answer
    return text, None if dialect.has_scores is False else -math.inf
  if tokens is None and chat and dialect.has_scores is None:
    console.say_once(f"{url}: the server gives no log-probabilities: its answers have no score")
    dialect.has_scores = False
  if dialect.has_scores is False:
    return text, None
  if tokens is None:
    raise UserError(
      f"{url}: expected log-probabilities of the tokens (logprobs), got none"
      + ("" if chat else "; &api=chat takes answers without")
    )
  dialect.has_scores = True
  if chat:
    tokens = answers.without_thoughts(tokens, whole)
  return text, answers.score(tokens, stops, url)


def _listed(
  answer: Json,
  stops: Sequence[str],
  beams: int,
  url: str,
) -> list[tuple[str, float]]:
  """Returns the distinct texts of a beam search with their log-probabilities, the best first.

  The search knows no stop strings. Its hypotheses are cut there, and compared as such by
  log-probability / tokens.
  """
  choices = answers.choices(answer, url, beams)
  listed: list[tuple[float, str, float]] = []
  spelled = set()
  for choice in choices:
    tokens = answers.tokens_of(choice, url)
    if tokens is None:
      raise UserError(f"{url}: expected log-probabilities of the tokens (logprobs), got none")
    spelled.add(tuple(tokens.texts))
    text = decoder_text.cut(answers.text_of(choice, url, chat=False), stops)
    length = answers.length(tokens, stops)
    score = answers.score(tokens, stops, url)
    listed.append((score / max(length, 1), text, score))
    if length < len(tokens.texts):
      console.say_once(
        f"{url}: the server's beam search does not end at stop strings: what it found goes on "
        "behind them, and is cut there, so that better answers may be missing; --method=greedy "
        "ends there"
      )
  if beams > 1 and len(spelled) == 1:
    raise UserError(
      f"{url}: expected {beams} hypotheses of a beam search, got one {beams} times; "
      "--method=greedy works"
    )
  listed.sort(key=lambda found: -found[0])
  scores: dict[str, float] = {}
  for _, text, score in listed:
    scores.setdefault(text, score)
  return list(scores.items())


def _score_given(
  model: ServedModel,
  prompt: str,
  continuation: str,
) -> _Given:
  """Returns what a model says of a continuation."""
  url = model.endpoint.url + _COMPLETIONS
  tokens = _read_tokens(model, prompt + continuation)
  try:
    first = borders.first_of_continuation(tokens.texts, prompt, continuation)
  except borders.UnreadableError as error:
    raise UserError(f"{url}: {error}") from error
  log_ps = [answers.log_probability(value, url) for value in tokens.log_ps[first:]]
  is_likeliest = True
  for log_p, best in zip(log_ps, tokens.best[first:]):
    if best is None:
      raise UserError(f"{url}: expected the likeliest tokens (top_logprobs), got none")
    is_likeliest = is_likeliest and log_p >= min(best, 0.0)
  return _Given(sum(log_ps), is_likeliest, tuple(tokens.texts[first:]))


def _read_tokens(model: ServedModel, text: str) -> answers.Tokens:
  """Returns the tokens of a text as the model reads it, by the way that the server has."""
  way = model.dialect.way
  if way is not None:
    tokens = _WAYS[way](model, text)
    if tokens is None:
      url = model.endpoint.url + _COMPLETIONS
      raise UserError(f"{url}: expected log-probabilities as with the texts before, got none")
    return tokens
  refused: list[str] = []
  for name, read in _WAYS.items():
    try:
      tokens = read(model, text)
    except RefusedError as error:
      refused.append(str(error))
      continue
    if tokens is not None:
      model.dialect.way = name
      return tokens
  said = f" ({refused[-1]})" if refused else ""
  raise UserError(f"{model.endpoint.url}: expected a server that can {_NO_SCORES}{said}")


def _read_echo(model: ServedModel, text: str) -> answers.Tokens | None:
  """Returns the tokens of a text that the server echoes, None where it does not.

  Raises:
    UserError: it echoes another text, or gives each token the log-probability of another place.
  """
  if model.dialect.way is None:
    for probe in (text, *_PROBES):
      is_right = _places_tokens(model, probe)
      if is_right is None:
        continue
      if is_right:
        break
      raise UserError(
        f"{model.endpoint.url}: the server gives each token of a text the log-probability of the "
        "place behind it, as llama-cpp-python does of models without BOS; generating works: "
        "--method=greedy"
      )
  echo = _echo(model, text)
  return None if echo is None else echo[0]


def _places_tokens(model: ServedModel, text: str) -> bool | None:
  """Returns whether the server lists the token that it adds to a text; None where that is unclear.

  llama-cpp-python drops the first log-probability of a text too many where there is no BOS: all
  stand with the token before their own, and the last token has none.
  """
  echo = _echo(model, text)
  if echo is None:
    return None
  _, added, after = echo
  if not added or not after.strip() or text.rstrip().endswith(after.strip()):
    return None
  listed = "".join(added)
  is_readable = listed.isprintable() and "\N{REPLACEMENT CHARACTER}" not in listed and listed
  return listed.strip() == after.strip() if is_readable else None


def _echo(model: ServedModel, text: str) -> tuple[answers.Tokens, list[str], str] | None:
  """Returns the tokens of a text that is echoed, those added to it, and the text that these are.

  One token is generated, and dropped: some servers refuse to generate none, and others take 0 for
  as many as there is space for. None where there is no echo, or no log-probabilities.
  """
  url = model.endpoint.url + _COMPLETIONS
  body = {**_request(model, text, 1, ()), "echo": True}
  answer = model.client.post(_COMPLETIONS, body)
  _check_model(model, answer, url)
  choice = answers.choices(answer, url)[0]
  tokens = answers.tokens_of(choice, url)
  echoed = answers.text_of(choice, url, chat=False)
  if tokens is None or (len(tokens.texts) <= 1 and not echoed.startswith(text)):
    return None
  if not echoed.startswith(text):
    raise UserError(
      f"{url}: expected the text that was sent to be echoed, {answers.shown(text)}, got "
      f"{answers.shown(echoed)}"
    )
  after = echoed[len(text) :]
  end = len(tokens.texts) - _generated(answer, is_longer=bool(after))
  given = answers.Tokens(tokens.texts[:end], tokens.log_ps[:end], tokens.best[:end])
  return given, tokens.texts[end:], after


def _generated(answer: Json, *, is_longer: bool) -> int:
  """Returns how many tokens follow the text that was echoed."""
  usage = answer.get("usage")
  count = usage.get("completion_tokens") if isinstance(usage, dict) else None
  return count if isinstance(count, int) else int(is_longer)


def _read_prompt(model: ServedModel, text: str) -> answers.Tokens | None:
  """Returns the tokens of a text by vLLM's prompt_logprobs, None where the server gives none."""
  url = model.endpoint.url + _COMPLETIONS
  body = {**_request(model, text, 1, ()), "prompt_logprobs": 0}
  answer = model.client.post(_COMPLETIONS, body)
  _check_model(model, answer, url)
  return answers.prompt_tokens_of(answer, answers.choices(answer, url)[0], url)


# How servers give log-probabilities of a given text.
_WAYS: dict[str, Callable[[ServedModel, str], answers.Tokens | None]] = {
  "echo": _read_echo,
  "prompt_logprobs": _read_prompt,
}


def _check_model(
  model: ServedModel,
  answer: Json,
  url: str,
) -> None:
  """Checks that an answer is of the model that the first one was of."""
  name = answer.get("model")
  if name is None:
    return
  if model.dialect.model is None:
    model.dialect.model = str(name)
  if str(name) != model.dialect.model:
    raise UserError(
      f"{url}: expected answers of model {model.dialect.model!r}, as before, got one of {name!r}; "
      "the server has changed its model"
    )


def _check_completes(model: ServedModel, needed: str) -> None:
  """Raises a UserError where a model is asked as a chat, which cannot do what is needed."""
  if model.endpoint.chat:
    raise UserError(f"{model.endpoint.url}: api=chat does not {needed}; or leave &api=chat out")

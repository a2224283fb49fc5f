"""What servers of OpenAI's protocol answer, read and checked."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from factshock.runtime import console
from factshock.runtime.errors import UserError
from factshock.served.client import Json

ROUNDING = 1e-6  # how far above 0 a log-probability may be

_THOUGHT = ("<think>", "</think>")  # around the thoughts of chats that no parser takes apart
_SHOWN = 120  # characters of a server's text that are shown


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Holds tokens of an answer.

  Attributes:
    texts: the text of each, as the server writes it.
    log_ps: natural log-probabilities; None where the server gives none, as for a text's first.
    best: log-probability of the likeliest token at each place; None where it is not given.
  """

  texts: list[str]
  log_ps: list[Any]
  best: list[float | None]


def choices(
  answer: Json,
  url: str,
  count: int = 1,
) -> list[Json]:
  """Returns the choices of an answer.

  Raises:
    UserError: they are not `count` objects.
  """
  listed = answer.get("choices")
  if not isinstance(listed, list) or not all(isinstance(choice, dict) for choice in listed):
    raise UserError(f"{url}: expected choices in the answer, got {shown(answer)}")
  if len(listed) != count:
    raise UserError(
      f"{url}: expected {count} choices, got {len(listed)}; the server does not answer as asked"
    )
  return sorted(listed, key=_index)


def _index(choice: Json) -> int:
  index = choice.get("index")
  return index if isinstance(index, int) else 0


def text_of(
  choice: Json,
  url: str,
  *,
  chat: bool,
) -> str:
  """Returns the text of a choice; of a chat what follows the thoughts, "" where it is withheld.

  Raises:
    UserError: it has none, as where a chat model's thoughts take all tokens.
  """
  message = choice.get("message") if chat else choice
  text = message.get("content" if chat else "text") if isinstance(message, dict) else None
  if chat and isinstance(text, list):
    text = _joined_parts(text)
  reason = choice.get("finish_reason")
  if chat and text is None and reason == "content_filter":
    console.say_once(f"{url}: the server's filter withholds some answers; these are empty")
    return ""
  if chat and isinstance(text, str) and text.lstrip().startswith(_THOUGHT[0]):
    _, end, text = text.partition(_THOUGHT[1])
    text = text.lstrip() if end else None
  if isinstance(text, str):
    # Half of a character, as programs of UTF-16 cut texts, cannot be written.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
  hint = "; where it thinks first, raise --max_tokens or turn its thinking off" if chat else ""
  raise UserError(f"{url}: expected a text, got {shown(choice)} (finish_reason {reason!r}){hint}")


def _joined_parts(parts: Sequence[object]) -> str | None:
  """Returns the text of a content that comes in parts, None where some are no texts."""
  texts = [part.get("text") for part in parts if isinstance(part, dict)]
  if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
    return None
  return "".join(map(str, texts))


def tokens_of(choice: Json, url: str) -> Tokens | None:
  """Returns the tokens of a choice with their log-probabilities, None where it has none.

  They come as lists (`tokens`, `token_logprobs`, `top_logprobs`), or as a list of objects
  (`content`), which chats have, and llama.cpp's own server everywhere.

  Raises:
    UserError: the lists do not fit together.
  """
  given = choice.get("logprobs")
  if not isinstance(given, dict):
    return None
  if isinstance(given.get("content"), list):
    return _of_objects(given["content"], url)
  if given.get("tokens") is None and given.get("token_logprobs") is None:
    return None
  texts = _list(given.get("tokens"))
  log_ps = _list(given.get("token_logprobs"))
  if len(texts) != len(log_ps) or not all(isinstance(text, str) for text in texts):
    raise UserError(f"{url}: expected as many tokens as token_logprobs, got {shown(given)}")
  tops = _list(given.get("top_logprobs"))
  if len(tops) != len(texts):  # not given
    tops = [None] * len(texts)
  return Tokens(texts, log_ps, [_best(entry) for entry in tops])


def prompt_tokens_of(
  answer: Json,
  choice: Json,
  url: str,
) -> Tokens | None:
  """Returns the tokens of a prompt as vLLM gives them (`prompt_logprobs`), or None.

  Each entry holds the token that is there, and may hold likelier ones.
  """
  given = choice.get("prompt_logprobs", answer.get("prompt_logprobs"))
  if not isinstance(given, list):
    return None
  tokens = Tokens([], [], [])
  for entry in given:
    listed = list(entry.values()) if isinstance(entry, dict) else []
    if not all(isinstance(token, dict) for token in listed):
      raise UserError(f"{url}: expected log-probabilities of tokens, got {shown(entry)}")
    token = max(listed, key=_rank, default={})
    log_p = token.get("logprob")
    tokens.texts.append(str(token.get("decoded_token") or ""))
    tokens.log_ps.append(log_p)
    is_likeliest = _rank(token) == 1
    tokens.best.append(log_p if is_likeliest else math.inf)
  return tokens


def likeliest_of(choice: Json, url: str) -> dict[str, float]:
  """Returns the likeliest tokens in the place of a choice's first one, by their texts.

  Raises:
    UserError: the server lists none.
  """
  given = choice.get("logprobs")
  top = _first_top(given) if isinstance(given, dict) else None
  if not top:
    raise UserError(f"{url}: expected the likeliest tokens (top_logprobs), got {shown(given)}")
  return {text: log_probability(log_p, url) for text, log_p in top.items()}


def _first_top(given: Json) -> Json | None:
  """Returns the tokens and log-probabilities that are listed of the first place, None of none."""
  listed = given.get("content", given.get("top_logprobs"))
  if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
    return None
  if "content" not in given:
    return listed[0]
  others = _list(listed[0].get("top_logprobs"))
  return {str(of.get("token")): of.get("logprob") for of in others if isinstance(of, dict)}


def without_thoughts(tokens: Tokens, text: str) -> Tokens:
  """Returns the tokens from which on the text of an answer is spelled; all where it nowhere is.

  Servers list the tokens of thoughts before those of the answer.

  Args:
    tokens: those of the answer, and of the thoughts before it.
    text: the answer's.
  """
  before = "".join(tokens.texts).rpartition(text)[0] if text else ""
  if not before.strip():  # no thoughts, or tokens that are no texts, as of half a character
    return tokens
  start, first = 0, 0
  while start + len(tokens.texts[first]) <= len(before):
    start += len(tokens.texts[first])
    first += 1
  return Tokens(tokens.texts[first:], tokens.log_ps[first:], tokens.best[first:])


def score(
  tokens: Tokens,
  stops: Sequence[str],
  url: str,
) -> float:
  """Returns the log-probability of an answer, its closing token included where that is given.

  Tokens behind the one with which the first stop string is whole do not count. It is -infinity of
  an answer without tokens, as that of its end alone is not known and it must not seem certain.
  """
  if not tokens.texts:
    return -math.inf
  counted = tokens.log_ps[: length(tokens, stops)]
  return sum(log_probability(log_p, url) for log_p in counted)


def length(tokens: Tokens, stops: Sequence[str]) -> int:
  """Returns how many tokens there are up to the one with which the first stop string is whole."""
  text = ""
  for count, token in enumerate(tokens.texts, 1):
    text += token
    if any(stop in text for stop in stops):
      return count
  return len(tokens.texts)


def log_probability(value: object, url: str) -> float:
  """Returns a log-probability, checked.

  Raises:
    UserError: it is no number, NaN or above 0.
  """
  number = math.nan
  if isinstance(value, int | float) and not isinstance(value, bool):
    number = float(value)
  if not number <= ROUNDING:  # nor is NaN
    got = "null" if value is None else repr(value)
    raise UserError(f"{url}: expected a log-probability of at most 0, got {got}")
  return min(number, 0.0)


def shown(value: object) -> str:
  """Returns the beginning of what a server sent."""
  text = value if isinstance(value, str) else repr(value)
  return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r} ..."


def _of_objects(content: Sequence[object], url: str) -> Tokens:
  """Returns the tokens of a list of objects."""
  tokens = Tokens([], [], [])
  for entry in content:
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
      raise UserError(f"{url}: expected tokens with their log-probabilities, got {shown(entry)}")
    tokens.texts.append(entry["token"])
    tokens.log_ps.append(entry.get("logprob"))
    others = _list(entry.get("top_logprobs"))
    tokens.best.append(
      _largest(other.get("logprob") for other in others if isinstance(other, dict))
    )
  return tokens


def _list(value: object) -> list[Any]:
  return value if isinstance(value, list) else []


def _best(entry: object) -> float | None:
  """Returns the largest of a place's log-probabilities."""
  return _largest(entry.values()) if isinstance(entry, dict) else None


def _largest(values: Iterable[object]) -> float | None:
  numbers = [value for value in values if isinstance(value, int | float)]
  return max(numbers, default=None)


def _rank(token: Json) -> int:
  rank = token.get("rank")
  return rank if isinstance(rank, int) else 0

"""Names of served models: endpoint:URL?model=NAME."""

import dataclasses
import os
import urllib.parse

from factshock.runtime.errors import UserError

PREFIX = "endpoint:"
KEYS = ("FACTSHOCK_API_KEY", "OPENAI_API_KEY")  # environment variables, the first that is set

_EXAMPLE = "endpoint:http://localhost:8000/v1?model=NAME"
_APIS = {"completions": False, "chat": True}
_CONCURRENCY = 8
_MOST = 1024  # requests at a time
_IN_NAMES = "/:@,~"  # what a model's name may hold beside letters, digits and _.-


@dataclasses.dataclass(frozen=True)
class Endpoint:
  """Says where a served model is and how it is asked.

  Attributes:
    url: base address, such as http://localhost:8000/v1.
    model: name that the server knows the model by.
    chat: whether it is asked by /chat/completions, not /completions.
    concurrency: requests at a time.
  """

  url: str
  model: str
  chat: bool = False
  concurrency: int = _CONCURRENCY

  @property
  def source(self) -> str:
    """Returns the text that `parse` reads as this."""
    texts = [f"model={urllib.parse.quote(self.model, safe=_IN_NAMES)}"]
    if self.chat:
      texts.append("api=chat")
    if self.concurrency != _CONCURRENCY:
      texts.append(f"concurrency={self.concurrency}")
    return f"{PREFIX}{self.url}?{'&'.join(texts)}"


def is_endpoint(source: str) -> bool:
  """Returns whether a model's name is that of a served one."""
  return str(source).startswith(PREFIX)


def parse(source: str) -> Endpoint:
  """Returns the endpoint that a text names.

  Args:
    source: endpoint:http://host:8000/v1?model=NAME[&api=chat][&concurrency=N]; without a path /v1
      is meant.

  Raises:
    UserError: the text is none of that form, or holds a password or a key.
  """
  if not is_endpoint(source):
    raise UserError(f"expected {_EXAMPLE}, got {source!r}")
  if "@" in source.partition("model=")[0]:
    raise UserError(
      f"{PREFIX}: expected an address without user and password; a key is taken from the "
      f"environment, {KEYS[0]} or {KEYS[1]}"
    )
  address, _, query = source.removeprefix(PREFIX).partition("?")
  url = _base(address)
  values = _values(query)
  model = values.get("model", "")
  if not model:
    raise UserError(f"{PREFIX}{url}: expected the name of a model: {PREFIX}{url}?model=NAME")
  return Endpoint(url, model, _is_chat(values), _concurrency(values))


def api_key() -> str | None:
  """Returns the key of the environment, None where there is none.

  An empty FACTSHOCK_API_KEY is none, whatever OPENAI_API_KEY holds.

  Raises:
    UserError: it holds what no header can; the key is not shown.
  """
  name = next((name for name in KEYS if name in os.environ), None)
  if name is None:
    return None
  key = os.environ[name].strip()
  if not (key.isascii() and key.isprintable()) or " " in key:
    raise UserError(f"{name}: expected a key of letters, digits and signs, got other characters")
  return key or None


def _base(address: str) -> str:
  """Returns a base address without a slash at its end, with /v1 where it has no path."""
  try:
    parts = urllib.parse.urlsplit(address)
    is_complete = parts.scheme in ("http", "https") and bool(parts.hostname)
    has_port = parts.port is None or parts.port > 0
  except ValueError:  # a port that is no number, half a bracket
    is_complete = has_port = False
    parts = urllib.parse.urlsplit("")
  if not is_complete or not has_port or any(sign.isspace() for sign in address):
    raise UserError(f"expected {_EXAMPLE}, got the address {address!r}")
  if parts.fragment or "#" in address:
    raise UserError(f"expected {_EXAMPLE}, got an address with #")
  path = parts.path.rstrip("/")
  if path.endswith(("/completions", "/models")):
    raise UserError(
      f"{PREFIX}{address}: expected the base address, which commonly ends in /v1, got that of one "
      "of its functions"
    )
  return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _values(query: str) -> dict[str, str]:
  """Returns the values of model, api and concurrency; never shows one that might be a key."""
  values: dict[str, str] = {}
  for text in filter(None, query.split("&")):
    name, _, value = text.partition("=")
    if "key" in name.lower() or "token" in name.lower():
      raise UserError(
        f"{PREFIX}: got {name}=, but a key must not stand in an address: set {KEYS[0]} (or "
        f"{KEYS[1]}) in the environment"
      )
    if name not in ("model", "api", "concurrency"):
      raise UserError(f"{PREFIX}: expected model=, api= or concurrency= after ?, got {name!r}")
    if name in values:
      raise UserError(f"{PREFIX}: expected {name}= once, got it twice")
    values[name] = urllib.parse.unquote(value)
  return values


def _is_chat(values: dict[str, str]) -> bool:
  api = values.get("api", "completions")
  if api not in _APIS:
    raise UserError(f"{PREFIX}: expected api=completions or api=chat, got api={api}")
  return _APIS[api]


def _concurrency(values: dict[str, str]) -> int:
  text = values.get("concurrency", str(_CONCURRENCY))
  if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MOST):
    raise UserError(f"{PREFIX}: expected concurrency= of 1 to {_MOST}, got {text!r}")
  return int(text)

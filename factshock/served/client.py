"""The client that asks a served model: one connection pool, tried again where that may help."""

import dataclasses
import email.utils
import json
import random
import threading
import time
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from factshock.runtime import console
from factshock.runtime.errors import UserError
from factshock.served import endpoints
from factshock.served.endpoints import Endpoint

if TYPE_CHECKING:
  import httpx
else:
  try:
    import httpx
  except ModuleNotFoundError:  # said when a server is to be asked
    httpx = None

TRIES = 6  # of a request, the first included
BACKOFF = 1.0  # seconds before the second try; each wait is twice the one before
LONGEST_WAIT = 60.0  # seconds that a server's Retry-After may ask for

_CONNECT = 10.0  # seconds to connect
_READ = 300.0  # seconds until an answer begins, or goes on
_SHOWN = 200  # characters of what a server says that are shown
_BUSY = frozenset((408, 425, 429))
_LOCAL = ("localhost", "127.0.0.1", "::1")
# What servers say with status 500 of settings of their own, and with 429 of what is not paid for:
# no second try changes it.
_LASTING = ("logits_all", "insufficient_quota")
_LOADING = 600.0  # seconds that a server may take to load its model, as it says meanwhile
_LOADING_WAIT = 2.0  # seconds between two looks
_BROKEN_OFF = ("abort", "error")  # why an answer ended, where its text is no answer

Json: TypeAlias = dict[str, Any]


@dataclasses.dataclass
class Usage:
  """Counts what a server was asked.

  Attributes:
    requests: answered.
    retries: that were sent again.
    prompt_tokens: read, as the server counts them.
    completion_tokens: generated, as the server counts them.
  """

  requests: int = 0
  retries: int = 0
  prompt_tokens: int = 0
  completion_tokens: int = 0

  def since(self, before: "Usage") -> "Usage":
    """Returns what was asked after what had been asked before."""
    return Usage(
      self.requests - before.requests,
      self.retries - before.retries,
      self.prompt_tokens - before.prompt_tokens,
      self.completion_tokens - before.completion_tokens,
    )

  def describe(self, seconds: float) -> str:
    """Returns a line on what was asked in some seconds."""
    return (
      f"{self.requests:,} requests ({self.retries:,} sent again), {self.prompt_tokens:,} tokens "
      f"asked and {self.completion_tokens:,} answered, {self.requests / max(seconds, 1e-9):,.1f} "
      "requests a second"
    )


class _FailedOnceError(Exception):
  """A failure that another try may mend.

  Attributes:
    wait: seconds that the server asks to wait, None where it does not say.
    is_loading: whether the server says that it loads its model.
  """

  def __init__(self, reason: str, wait: float | None = None, *, is_loading: bool = False) -> None:
    """Keeps the reason and what is known of the wait."""
    super().__init__(reason)
    self.wait = wait
    self.is_loading = is_loading


class RefusedError(UserError):
  """A request that the server refuses as wrong: 400 or 422."""


class ForbiddenError(UserError):
  """A path that a key is not good for: 403."""


class NotThereError(UserError):
  """A path that the server does not have: 404 or 405."""


class Client:
  """Asks one endpoint; may be used by several threads.

  Attributes:
    endpoint: what is asked.
    usage: what was asked so far.
  """

  def __init__(self, endpoint: Endpoint) -> None:
    """Reads the key from the environment; connects when it is first used."""
    if httpx is None:
      raise UserError(
        f"{endpoint.url}: a served model needs the package httpx: pip install 'factshock[served]'"
      )
    self.endpoint = endpoint
    self.usage = Usage()
    self._key = endpoints.api_key()
    self._lock = threading.Lock()
    self._closed = threading.Event()
    self._has_answered = False
    self._has_said = False
    self._http = _connections(endpoint, self._key)
    # Whoever drops a model leaves no connection open.
    weakref.finalize(self, _shut, self._closed, self._http)
    self._say_where_key_goes()

  def __repr__(self) -> str:
    """Returns the endpoint; never the key."""
    return f"Client({self.endpoint.source!r})"

  def __enter__(self) -> "Client":
    """Returns itself."""
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    """Closes the connections."""
    self.close()

  def close(self) -> None:
    """Closes the connections; requests that wait for another try end."""
    _shut(self._closed, self._http)

  def get(self, path: str) -> Json:
    """Returns the JSON object at a path below the base address; a list there as its `data`."""
    return self._request("GET", path, None)

  def post(self, path: str, body: Json) -> Json:
    """Returns the JSON object that answers a request.

    Args:
      path: below the base address, such as "/completions".
      body: the request, an object of JSON.

    Raises:
      UserError: the server cannot be reached, refuses, redirects, or answers no JSON object; names
        the address and what was got.
    """
    return self._request("POST", path, body)

  def _say_where_key_goes(self) -> None:
    """Says so where a key leaves this machine unencrypted."""
    url = httpx.URL(self.endpoint.url)
    if self._key and url.scheme == "http" and url.host not in _LOCAL:
      console.say_once(
        f"{self.endpoint.url}: the key goes there unencrypted; an empty {endpoints.KEYS[0]} sends "
        "none"
      )

  def _request(self, method: str, path: str, body: Json | None) -> Json:
    """Sends a request until it is answered, TRIES times at most."""
    url = self.endpoint.url + path
    content = None if body is None else json.dumps(body, allow_nan=False).encode()
    began = time.monotonic()
    index = 1
    while True:
      try:
        answer = self._try(method, url, content)
        break
      except _FailedOnceError as failure:
        if failure.is_loading and time.monotonic() - began < _LOADING:
          self._wait_for_loading(url, failure)
          continue
        if index == TRIES:
          hint = "" if str(failure).startswith("HTTP") else "; is the server up?"
          raise UserError(f"{url}: {failure}, {TRIES} times{hint}") from None
        self._wait(url, failure, index)
        index += 1
    self._count(answer)
    return answer

  def _try(self, method: str, url: str, content: bytes | None) -> Json:
    """Sends a request once.

    Raises:
      _FailedOnceError: another try may help.
      UserError: none does.
    """
    headers = {} if content is None else {"Content-Type": "application/json"}
    try:
      response = self._http.request(method, url, content=content, headers=headers)
    except httpx.ConnectError as error:
      raise self._unreachable(url, error) from None
    except httpx.TimeoutException as error:
      raise _FailedOnceError(f"no answer in time ({type(error).__name__})") from None
    except (httpx.TransportError, httpx.DecodingError) as error:
      if self._closed.is_set():
        raise UserError(f"{url}: stopped asking") from None
      raise _FailedOnceError(f"the connection broke ({self._clean(str(error))})") from None
    except httpx.InvalidURL as error:
      raise UserError(f"{url}: {self._clean(str(error))}") from None
    except RuntimeError as error:  # what httpx says once it is closed
      raise UserError(f"{url}: {self._clean(str(error))}") from None
    self._check_status(url, response)
    return self._parse(url, response)

  def _unreachable(self, url: str, error: Exception) -> Exception:
    """Returns what is raised where there is no connection."""
    reason = self._clean(str(error))
    if "CERTIFICATE_VERIFY_FAILED" in reason:
      return UserError(
        f"{url}: the server's certificate does not fit ({reason}); where you trust it, name its "
        "authority's file in SSL_CERT_FILE"
      )
    if "SSL" in reason and not self._has_answered:
      return UserError(f"{url}: no encrypted connection ({reason}); is it http://?")
    if not self._has_answered:
      return UserError(f"{url}: no server answers there ({reason}); start it, or mend the address")
    return _FailedOnceError(f"no connection ({reason})")

  def _check_status(self, url: str, response: "httpx.Response") -> None:
    """Raises what a status other than 2xx means."""
    status = response.status_code
    if response.is_success:
      return
    if response.is_redirect or 300 <= status < 400:
      where = self._clean(response.headers.get("Location", "nowhere"))
      raise UserError(
        f"{url}: redirects to {where}, which is not followed; name that address if you trust it"
      )
    reason = f"HTTP {status}: {self._message(response)}"
    is_lasting = any(sign in response.text for sign in _LASTING) or status == 501
    if (status in _BUSY or status >= 500) and not is_lasting:
      is_loading = status == 503 and "loading" in reason.lower()
      raise _FailedOnceError(reason, _retry_after(response), is_loading=is_loading)
    if status in (401, 403):
      got = "refuses the key" if self._key else "needs a key"
      kind = ForbiddenError if status == 403 else UserError
      raise kind(f"{url}: {got} ({reason}); set {endpoints.KEYS[0]} in the environment")
    if status in (404, 405):
      raise NotThereError(
        f"{url}: {reason}; expected a server of OpenAI's protocol there and model "
        f"{self.endpoint.model!r}: mend the address, which commonly ends in /v1, or the name"
      )
    kind = RefusedError if status in (400, 422) else UserError
    raise kind(f"{url}: {reason}")

  def _parse(self, url: str, response: "httpx.Response") -> Json:
    """Returns the JSON object of an answer."""
    text = response.text.removeprefix("\ufeff")
    if self._key:
      text = text.replace(self._key, "[key]")  # what echoes it is shown in errors
    try:
      answer = json.loads(text)
    except ValueError:
      if text.lstrip()[:1] == "{":  # JSON that begins and does not end
        raise _FailedOnceError(f"half an answer, {self._clean(text)!r}") from None
      if self._has_answered:  # a proxy's page, say
        raise _FailedOnceError(f"no JSON, {self._clean(text)!r}") from None
      answer = None
    if isinstance(answer, list) and answer and all(isinstance(entry, dict) for entry in answer):
      # As some list their models.
      answer = {"data": answer}
    if not isinstance(answer, dict):
      raise UserError(
        f"{url}: expected a JSON object, as servers of OpenAI's protocol answer, got "
        f"{self._clean(text)!r}; mend the address, which commonly ends in /v1"
      )
    if answer.get("error") and not answer.get("choices"):
      raise self._failure(url, answer["error"], self._message(response))
    if reason := _broken_off(answer):
      raise _FailedOnceError(f"an answer that was broken off (finish_reason {reason!r})")
    self._has_answered = True
    return answer

  def _failure(self, url: str, error: object, message: str) -> Exception:
    """Returns what is raised where an answer with status 200 is an error."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and (code in _BUSY or code >= 500):
      return _FailedOnceError(message)
    return UserError(f"{url}: {message}")

  def _message(self, response: "httpx.Response") -> str:
    """Returns what a server says of an error, in a line."""
    try:
      value = json.loads(response.text)
    except ValueError:
      value = response.text
    for name in ("error", "message", "detail"):
      if isinstance(value, dict) and value.get(name):
        value = value[name]
    text = value if isinstance(value, str) else json.dumps(value)
    return self._clean(text) or "no message"

  def _clean(self, text: str) -> str:
    """Returns a text in one line of _SHOWN characters, without the key."""
    if self._key:
      text = text.replace(self._key, "[key]")
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."

  def _wait(
    self,
    url: str,
    failure: _FailedOnceError,
    index: int,
  ) -> None:
    """Waits before another try; says once that there are such."""
    if self._closed.is_set():
      raise UserError(f"{url}: {failure}; stopped asking")
    with self._lock:
      self.usage.retries += 1
      is_first, self._has_said = not self._has_said, True
    if is_first:
      console.say_once(f"{url}: {failure}; asking again, as often as {TRIES} times a request")
    longest = BACKOFF * 2 ** (index - 1)
    seconds = longest * random.uniform(0.5, 1.0)  # so that threads do not come back all at once
    if failure.wait is not None:
      seconds = max(seconds, min(failure.wait, LONGEST_WAIT))
    if self._closed.wait(seconds):
      raise UserError(f"{url}: {failure}; stopped asking")

  def _wait_for_loading(self, url: str, failure: _FailedOnceError) -> None:
    """Waits before another look at a server that loads its model; says once that it does."""
    console.say_once(f"{url}: {failure}; waiting, {_LOADING / 60:.0f} minutes at most")
    if self._closed.wait(_LOADING_WAIT):
      raise UserError(f"{url}: {failure}; stopped asking")

  def _count(self, answer: Json) -> None:
    """Adds an answer to what was asked."""
    usage = answer.get("usage")
    values = usage if isinstance(usage, dict) else {}
    with self._lock:
      self.usage.requests += 1
      self.usage.prompt_tokens += _count_of(values.get("prompt_tokens"))
      self.usage.completion_tokens += _count_of(values.get("completion_tokens"))


def _connections(endpoint: Endpoint, key: str | None) -> "httpx.Client":
  """Returns the connections to an endpoint, none of which is open yet.

  Raises:
    UserError: the environment names a proxy or certificates that cannot be used.
  """
  try:
    return httpx.Client(
      headers={"Authorization": f"Bearer {key}"} if key else {},
      timeout=httpx.Timeout(_READ, connect=_CONNECT),
      limits=httpx.Limits(
        max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency
      ),
      follow_redirects=False,
    )
  except (ImportError, OSError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise UserError(
      f"{endpoint.url}: no client can be made ({reason}); see the proxies and certificates that "
      "the environment names: ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE"
    ) from None


def _shut(closed: threading.Event, http: "httpx.Client") -> None:
  closed.set()
  http.close()


def _broken_off(answer: Json) -> str | None:
  """Returns why a choice of an answer was broken off, None where none was."""
  choices = answer.get("choices")
  for choice in choices if isinstance(choices, list) else ():
    reason = choice.get("finish_reason") if isinstance(choice, dict) else None
    kind = reason.get("type") if isinstance(reason, dict) else reason  # SGLang's is an object
    if kind in _BROKEN_OFF:
      return str(kind)
  return None


def _count_of(value: object) -> int:
  """Returns a count, 0 where a server gives something else."""
  return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _retry_after(response: "httpx.Response") -> float | None:
  """Returns the seconds that a server asks to wait: a number, or a date."""
  text = response.headers.get("Retry-After", "")
  try:
    return max(0.0, float(text))
  except ValueError:
    pass
  try:
    return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
  except (TypeError, ValueError):
    return None

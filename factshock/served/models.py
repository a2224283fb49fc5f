"""Opening a served model."""

import dataclasses

from factshock.runtime import console
from factshock.runtime.errors import UserError
from factshock.served import endpoints
from factshock.served.client import Client, ForbiddenError, Json, NotThereError, RefusedError
from factshock.served.endpoints import Endpoint

_SHOWN = 10  # names of served models that an error lists


@dataclasses.dataclass
class Dialect:
  """Keeps what is found out of a server by its first answers.

  Attributes:
    model: what it calls the model in its answers; None before the first.
    settings: which of the settings of sampling it takes, a place in a list; by what is asked.
    way: how it gives log-probabilities of a given text.
    has_scores: whether a chat's answers come with log-probabilities.
    limit: what it calls the most tokens of an answer.
  """

  model: str | None = None
  settings: dict[str, int] = dataclasses.field(default_factory=dict)
  way: str | None = None
  has_scores: bool | None = None
  limit: str = "max_tokens"


@dataclasses.dataclass(frozen=True)
class ServedModel:
  """A model that a server answers for.

  Attributes:
    endpoint: where it is.
    client: what asks it.
    dialect: what was found out of the server.
  """

  endpoint: Endpoint
  client: Client
  dialect: Dialect = dataclasses.field(default_factory=Dialect, compare=False, repr=False)

  @property
  def decoder_only(self) -> bool:
    """Returns True: a server goes on after a prompt."""
    return True

  @property
  def tokenizer(self) -> None:
    """Returns None: the server keeps its tokenizer."""
    return None


def open_endpoint(source: str) -> ServedModel:
  """Returns the served model that a text names (endpoints.parse).

  Raises:
    UserError: no server answers there, or it serves other models; says which.
  """
  endpoint = endpoints.parse(source)
  client = Client(endpoint)
  try:
    _check_served(endpoint, client)
  except BaseException:
    client.close()
    raise
  return ServedModel(endpoint, client)


def _check_served(endpoint: Endpoint, client: Client) -> None:
  """Checks that the server lists the model, where it lists any."""
  try:
    served = _names(client.get("/models"))
  except (NotThereError, RefusedError, ForbiddenError):  # a key may be good for answers alone
    served = []
  if not served:
    console.say_once(
      f"{endpoint.url}: the server lists no models; whether it serves {endpoint.model!r} shows "
      "when it is asked"
    )
    return
  # Ollama takes a name without its tag for that of the newest; TGI calls its one model "tgi".
  names = (endpoint.model, f"{endpoint.model}:latest")
  if endpoint.model != "tgi" and not set(names) & set(served):
    more = f" and {len(served) - _SHOWN:,} more" if len(served) > _SHOWN else ""
    raise UserError(
      f"{endpoint.url}: expected a model that is served there, got {endpoint.model!r}; served: "
      f"{', '.join(served[:_SHOWN])}{more}"
    )


def _names(answer: Json) -> list[str]:
  """Returns the names of the models that a server lists."""
  listed = answer.get("data")
  entries = listed if isinstance(listed, list) else []
  return [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]

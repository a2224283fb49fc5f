"""Served models as the `factshock_served` model of the lm-evaluation-harness.

`factshock evaluate` takes it where --model_args names an endpoint as the checkpoint.
"""

from collections.abc import Sequence

from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]

from factshock.harness.language_model import Generation
from factshock.runtime.errors import UserError
from factshock.served import asking, models


@register_model("factshock_served")
class ServedLM(LM):
  """Wraps a served model as the harness calls a model."""

  def __init__(
    self,
    checkpoint: str,
    batch_size: int | str | None = None,
    max_gen_toks: int = 256,
    seed: int = 0,
    device: str | None = None,
    max_batch_size: int | None = None,
  ) -> None:
    """Opens the endpoint.

    Args:
      checkpoint: "endpoint:URL?model=NAME", as --model of `factshock answer`.
      batch_size: ignored; concurrency=N of the endpoint says how many are asked at a time.
      max_gen_toks: tokens generated where a task names no number.
      seed: of sampling, where a task asks for a temperature above 0.
      device: ignored: the server has its own.
      max_batch_size: ignored.

    Raises:
      UserError: no server there, or it does not serve the model.
    """
    super().__init__()
    del batch_size, device, max_batch_size
    self.model = models.open_endpoint(checkpoint)
    self.max_gen_toks = int(max_gen_toks)
    self.seed = int(seed)

  def loglikelihood(
    self, requests: Sequence[Instance], disable_tqdm: bool = False
  ) -> list[tuple[float, bool]]:
    """Returns the log-probability of each continuation, and whether greedy decoding gives it.

    Args:
      requests: of (context, continuation).
      disable_tqdm: ignored; progress is printed where it takes long.
    """
    del disable_tqdm
    scores = asking.log_probabilities(self.model, [_pair(*request.args) for request in requests])
    return list(zip(scores.sums.tolist(), scores.likeliest.tolist()))

  def loglikelihood_rolling(
    self, requests: Sequence[Instance], disable_tqdm: bool = False
  ) -> list[float]:
    """Raises a UserError: a server tells nothing of a text's first token.

    Args:
      requests: of (text,).
      disable_tqdm: ignored.
    """
    del requests, disable_tqdm
    raise UserError(
      "perplexity of whole texts: a server gives no probability of a text's first token; choose "
      "tasks that ask for continuations or answers"
    )

  def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
    """Returns the texts generated after contexts, up to the first of `until`.

    Args:
      requests: of (context, generation arguments).
      disable_tqdm: ignored; progress is printed where it takes long.
    """
    del disable_tqdm
    groups: dict[Generation, list[int]] = {}
    for index, request in enumerate(requests):
      generation = Generation.of(request.args[1], self.max_gen_toks)
      groups.setdefault(generation, []).append(index)
    texts = [""] * len(requests)
    for generation, indices in groups.items():
      contexts = [requests[index].args[0] for index in indices]
      generated, _ = asking.generate(
        self.model,
        contexts,
        max_tokens=generation.length,
        stops=generation.until,
        temperature=generation.temperature,
        seed=self.seed,
      )
      for index, text in zip(indices, generated):
        texts[index] = text
    return texts


def _pair(context: str, continuation: str) -> tuple[str, str]:
  """Returns a context without white space at its end, and all that follows it.

  As of the harness's own models, white space between the two belongs to the continuation.
  """
  stem = context.rstrip()
  return stem, (context + continuation)[len(stem) :]

"""What can be asked of a model, whether it is in memory or served elsewhere."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import ml_collections
import numpy as np

from factshock.answering import best_first, choices, decoding, parts
from factshock.answering.decoding import DecodingOptions
from factshock.checkpoints import belongings, loading
from factshock.checkpoints.loading import LoadedModel, Origin
from factshock.data import decoder_text, prompts, sentinels
from factshock.facts import sources
from factshock.predictions import writing
from factshock.predictions.rows import Row
from factshock.runtime.errors import UserError
from factshock.served import asking as served
from factshock.served import endpoints, ranking
from factshock.served import models as served_models
from factshock.served.client import Usage
from factshock.served.models import ServedModel
from factshock.types import Candidates, Fact

Model: TypeAlias = LoadedModel | ServedModel


def open_model(
  source: str,
  config: ml_collections.ConfigDict | None = None,
  tokenizer: str | None = None,
  dtype: str | None = None,
) -> tuple[Model, Origin]:
  """Opens what loading.open_model does, or a served model, "endpoint:URL?model=NAME".

  Raises:
    UserError: as loading.open_model; a config, tokenizer or dtype for a served model.
  """
  if not endpoints.is_endpoint(source):
    return loading.open_model(source, config, tokenizer, dtype)
  given = {"--config": config, "--tokenizer": tokenizer, "--answer_dtype": dtype}
  refused = [name for name, value in given.items() if value is not None]
  if refused:
    raise UserError(
      f"{', '.join(refused)}: not with a served model, which its server computes; leave it out"
    )
  model = served_models.open_endpoint(source)
  name = model.endpoint.model.rstrip("/").rpartition("/")[-1]
  form = prompts.CHAT if model.endpoint.chat else loading.DEFAULTS["finetune"]["prompt"]
  experiment = {**loading.DEFAULTS, "finetune": {"prompt": form}}
  return model, Origin(source, experiment, {"arm": name})


def identity_of(source: str) -> loading.Identity:
  """Returns what tells a model from others; its server says nothing of a served one's weights."""
  if endpoints.is_endpoint(source):
    return {"checkpoint": None, "mixing_weights": None}
  return loading.identity_of(source)


def digests_of(source: str, model: Model) -> list[Any]:
  """Returns what tells a model from any other, however many requests a server gets at a time."""
  if isinstance(model, ServedModel):
    endpoint = model.endpoint
    return [endpoint.url, endpoint.model, endpoint.chat]
  return [belongings.model_digest(source) or source, loading.identity_of(source)]


def dtype_of(model: Model) -> str | None:
  """Returns what a model is computed in; None of a served one, whose server knows."""
  return None if isinstance(model, ServedModel) else str(model.model_config.dtype)


def token_counter(model: Model) -> sources.CountTokens | None:
  """Returns what counts a model's tokens; None of a served one, whose tokenizer is not here."""
  return None if isinstance(model, ServedModel) else prompts.token_counter(model.tokenizer)


def spending(model: Model) -> parts.Spending | None:
  """Returns what says how much was asked of a served model from now on; None of an own one."""
  if not isinstance(model, ServedModel):
    return None
  usage = model.client.usage
  before = dataclasses.replace(usage)
  return parts.Spending(
    lambda: _numbers(usage.since(before)), lambda seconds: usage.since(before).describe(seconds)
  )


def _numbers(usage: Usage) -> dict[str, int]:
  """Returns what was asked by the names that extraction.json has for it (candidates.SPENT)."""
  return {
    "requests": usage.requests,
    "tokens_asked": usage.prompt_tokens,
    "tokens_answered": usage.completion_tokens,
  }


def generate(
  model: Model,
  texts: Sequence[str],
  options: DecodingOptions,
  *,
  batch_size: int,
  first: int = 0,
) -> tuple[list[str], np.ndarray | None]:
  """Returns a model's answers to prompts and their log-probabilities, as decoding.generate.

  None in place of these of a chat whose server gives none.
  """
  if not isinstance(model, ServedModel):
    return decoding.generate(model, texts, options, batch_size=batch_size, first=first)
  if options.method == "beam":
    best = [answers[0] for answers in hypotheses(model, texts, options, batch_size=batch_size)]
    return [text for text, _ in best], np.array([score for _, score in best], np.float32)
  return served.generate(
    model,
    _as_read(texts),
    max_tokens=options.max_length,
    stops=_stops(options),
    temperature=options.temperature if options.method == "sample" else 0.0,
    seed=options.seed,
    first=first,
  )


def hypotheses(
  model: Model,
  texts: Sequence[str],
  options: DecodingOptions,
  *,
  batch_size: int,
) -> list[list[tuple[str, float]]]:
  """Returns the answers of a beam search to each prompt, the best first."""
  if not isinstance(model, ServedModel):
    return decoding.hypotheses(model, texts, options, batch_size=batch_size)
  size = {"max_tokens": options.max_length, "beams": options.beams}
  return served.hypotheses(model, _as_read(texts), stops=_stops(options), **size)


def _stops(options: DecodingOptions) -> tuple[str, ...]:
  return (decoder_text.STOP,) if options.stops is None else options.stops


def ranked_rows(
  model: Model,
  facts: Sequence[Mapping[str, Any]],
  texts: Sequence[str],
  candidates: Candidates,
  *,
  top: int | None,
  batch_size: int,
  stops: Sequence[str],
  **labels: Any,
) -> list[Row]:
  """Returns rows of a predictions file with the best candidates of facts, as best_first.rows."""
  if not isinstance(model, ServedModel):
    size = {"batch_size": batch_size, "stops": stops}
    return best_first.rows(model, facts, texts, candidates, top=top, **size, **labels)
  names = [candidates[fact["relation"]] for fact in facts]
  scores = ranking.scores(model, _as_read(texts), names, stops)
  return writing.prediction_rows(facts, candidates, scores, top=top, **labels)


def choice_scores(
  model: Model,
  facts: Sequence[Fact],
  texts: Sequence[str],
  *,
  letters: bool,
  batch_size: int,
) -> np.ndarray:
  """Returns scores of each fact's own choices [facts, choices], as choices.of_facts."""
  if not isinstance(model, ServedModel):
    return choices.of_facts(model, facts, texts, letters=letters, batch_size=batch_size)
  names = [choice_names(fact, letters=letters) for fact in facts]
  sums = ranking.sums(model, _as_read(texts), names)
  scores = np.array(sums)
  return scores if letters else choices.normalised(scores, names)


def choice_names(fact: Fact, *, letters: bool) -> Sequence[str]:
  """Returns what of a fact's choices is scored: their letters, or their texts."""
  texts = prompts.choices_of(fact)
  return list(prompts.LETTERS[: len(texts)]) if letters else texts


def _as_read(texts: Sequence[str]) -> list[str]:
  """Returns prompts as a model reads them: what marks text as no sentinel is gone."""
  return [sentinels.as_read(text) for text in texts]

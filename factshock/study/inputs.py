"""Model, facts, relations, text and counts of a config, as flags of their own name them."""

from factshock.facts import sources
from factshock.study.config import Config


def put(
  config: Config,
  *,
  model: str | None = None,
  facts: str | None = None,
  relations: str | None = None,
  corpus: str | None = None,
  entity_counts: str | None = None,
) -> None:
  """Puts a model, facts, relations, text and counts into a config; None leaves what it says.

  Facts of a data set bring their relations with them: those of the config do not count then.
  """
  if facts is not None and relations is None and sources.is_source(facts):
    relations = ""
  values = dict(
    start_from=model,
    facts=facts,
    relations=relations,
    corpus=corpus,
    entity_counts=entity_counts,
  )
  with config.unlocked():
    for key, value in values.items():
      if value is not None:
        config[key] = value

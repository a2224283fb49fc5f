"""Model, facts, relations and text of a config, as flags of their own name them."""

from factshock.facts import sources
from factshock.study.config import Config


def put(
  config: Config,
  *,
  model: str | None = None,
  facts: str | None = None,
  relations: str | None = None,
  corpus: str | None = None,
) -> None:
  """Puts a model, facts, relations and text into a config; None leaves what it says.

  Facts of a data set bring their relations with them: those of the config do not count then.
  """
  if facts is not None and relations is None and sources.is_source(facts):
    relations = ""
  values = dict(start_from=model, facts=facts, relations=relations, corpus=corpus)
  with config.unlocked():
    for key, value in values.items():
      if value is not None:
        config[key] = value

"""Checks of the files that a config names, before any work: are they there, can facts be asked?"""

import functools
from collections.abc import Mapping, Sequence

from factshock.data import prompts
from factshock.facts import counts as counting
from factshock.facts import documents, schema, sources, splits
from factshock.models import families
from factshock.runtime.errors import UserError
from factshock.runtime.settings import attempt
from factshock.study import start_checks, study_data
from factshock.study.config import Config
from factshock.types import Fact, Relation


def problems(
  config: Config,
  asked_by: Mapping[str, Sequence[str]],
  cloze_askers: Sequence[str] = (),
) -> list[str]:
  """Returns what is wrong with the files of a checked config, a line each.

  Args:
    config: of the experiment.
    asked_by: what asks facts, by the form of the prompt.
    cloze_askers: what chooses among the statements of a relation.
  """
  lines = start_checks.problems(config)
  if config.facts == "world":
    return lines
  for corpus in documents.corpora(config.corpus):
    if not documents.is_data_set(corpus):
      attempt(functools.partial(documents.paths, corpus), lines)
  if config.entity_counts:
    attempt(lambda: counting.read_counts(config.entity_counts), lines)
  source = attempt(lambda: sources.read(config.facts, study_data.token_counter(config)), lines)
  relations = source.relations if source else None
  if config.relations:
    relations = attempt(lambda: sources.read_relations(config.relations), lines)
  if source is None or relations is None:
    return lines
  facts = source.facts
  unknown: list[str] = []
  attempt(functools.partial(schema.check_facts, facts, relations, config.facts), unknown)
  if unknown:
    return lines + unknown
  if config.drop_named_answers:
    facts = [fact for fact in facts if not splits.names_answer(fact)]
  decoder_only = families.named(config.model.family).decoder_only
  for form, askers in asked_by.items():
    lines += _prompt_problems(facts, relations, form, decoder_only, askers)
  if cloze_askers:
    lines += _statement_problems(facts, relations, decoder_only, cloze_askers)
  return lines


def _prompt_problems(
  facts: Sequence[Fact],
  relations: Mapping[str, Relation],
  form: str,
  decoder_only: bool,
  askers: Sequence[str],
) -> list[str]:
  """Returns the relations of which a fact cannot be asked in a form, a line each."""
  first: dict[str, str] = {}
  counts: dict[str, int] = {}
  for fact in facts:
    try:
      prompts.prompt_texts([fact], relations, form, decoder_only)
      prompts.answer_text(fact, form)
    except UserError as error:
      relation = fact["relation"]
      first.setdefault(relation, str(error))
      counts[relation] = counts.get(relation, 0) + 1
  return [
    f"{problem} (facts of it that {form!r} cannot ask: {counts[relation]:,}; asked so by "
    f"{', '.join(askers)})"
    for relation, problem in first.items()
  ]


def _statement_problems(
  facts: Sequence[Fact],
  relations: Mapping[str, Relation],
  decoder_only: bool,
  askers: Sequence[str],
) -> list[str]:
  """Returns the relations that have no statement which a model can be asked by, in a line."""
  without = [
    name
    for name in dict.fromkeys(fact["relation"] for fact in facts)
    if not any(prompts.can_ask(text, decoder_only) for text in relations[name]["statements"])
  ]
  if not without:
    return []
  return [
    f"relations {', '.join(without)}: no statement ends with [Y], as {', '.join(askers)} needs "
    "with a decoder-only model; add one"
  ]

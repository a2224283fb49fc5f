"""What there is of a study before a model: facts, relations, text and counts, and the sets that facts are cut into."""

import os
from typing import NamedTuple

from factshock.console import UserError
from factshock.facts import counts as counting
from factshock.facts import documents, schema, sources, splits, world
from factshock.facts import relations as relations_room

# The finetuning sets an arm may name, as functions of (pool, test, counts, config, seed).
FINETUNING_SETS = {
    "whole": lambda pool, test, counts, config, seed: pool,
    "balanced": lambda pool, test, counts, config, seed: splits.balanced(pool, counts, config.balanced.per_answer, seed),
    "balanced_swap": lambda pool, test, counts, config, seed: splits.balanced(
        pool, counts, config.balanced.per_answer, seed, swap=True),
    "low_mismatch": lambda pool, test, counts, config, seed: splits.at_mismatch(
        pool, counts, test, config.mismatch.low, config.mismatch.size, seed),
    "high_mismatch": lambda pool, test, counts, config, seed: splits.at_mismatch(
        pool, counts, test, config.mismatch.high, config.mismatch.size, seed),
    "natural": lambda pool, test, counts, config, seed: splits.natural(
        pool, splits.relation_sizes(splits.balanced(pool, counts, config.balanced.per_answer, seed)), seed),
    "popular_half": lambda pool, test, counts, config, seed: splits.popular_half(pool, config.popularity),
    "unpopular_half": lambda pool, test, counts, config, seed: splits.unpopular_half(pool, config.popularity),
    "top_30": lambda pool, test, counts, config, seed: splits.top_share(pool, 0.3, config.popularity),
    "random_half": lambda pool, test, counts, config, seed: splits.random_half(pool, seed),
}


class Material(NamedTuple):
  """What there is before a model: facts, their relations, text and answer counts."""
  facts: list
  background: list
  relations: dict
  sentences: list
  counts: dict


def make_world(config, seed):
  """The synthetic world of a seed as Material."""
  made = world.make_world(seed, **config.world.to_dict())
  return Material(made.facts, made.background, made.relations, made.sentences, made.counts)


def read_material(config):
  """One's own facts, relations and text (if any) as Material; popularity not given is counted in the text.

  Raises:
    UserError: a file that does not fit its format or the others.
  """
  relations = sources.relations_of(config.facts, config.relations)
  facts = sources.read_facts(config.facts)
  schema.check_facts(facts, relations, config.facts)
  if config.drop_named_answers:
    kept = [fact for fact in facts if not splits.names_answer(fact)]
    print(f"  {len(facts) - len(kept):,} of {len(facts):,} facts left out, as the subject's name holds the answer")
    facts = kept
  sentences = read_corpus(config.corpus) if config.corpus else []
  used = {fact["relation"] for fact in facts}
  relations = {name: row for name, row in relations.items() if name in used}
  if config.entity_counts:
    named, where = _read_entity_counts(config.entity_counts), config.entity_counts
    counts = {(fact["relation"], fact["object"]): named.get(fact["object"], 0) for fact in facts}
  elif sentences:
    counts, named, where = counting.count_answers(sentences, facts), None, config.corpus
  else:
    return Material(facts, [], relations, [], {})
  if not any(counts.values()):
    raise UserError(f"{where}: names no answer of {config.facts}; is it the right text?")
  if any("popularity" not in fact for fact in facts):
    print(f"  facts without popularity: taken as how often {where} names the subject")
    named = _named_subjects(facts, sentences) if named is None else named
    facts = [{"popularity": float(named.get(fact["subject"], 0)), **fact} for fact in facts]
  return Material(facts, [], relations, sentences, counts)


def _read_entity_counts(path):
  """Mentions of each entity from a file of `python -m factshock.count`, of whatever relation."""
  named = {}
  for (_, entity), count in counting.read_counts(path).items():
    named[entity] = max(count, named.get(entity, 0))
  return named


def read_corpus(pattern):
  """The documents of the files that a glob pattern names (facts/documents.py), in the order of their names."""
  lines = [line for path in documents.paths(pattern) for line in documents.read(path)]
  if not lines:
    raise UserError(f"{pattern}: expected lines of text, got none")
  return lines


def _named_subjects(facts, sentences):
  """How often the sentences name each subject: dict, without those that are never named."""
  index = counting.mention_index({fact["subject"] for fact in facts})
  named = {}
  for sentence in sentences:
    for _, _, name in counting.find_mentions(sentence, index):
      named[name] = named.get(name, 0) + 1
  return named


def make_sets(material, config, seed):
  """Subject-disjoint pool, development and test facts, and the finetuning sets that the arms name."""
  sets = splits.split_subjects(material.facts, config.split.to_dict(), seed)
  for name in dict.fromkeys(arm.get("facts") for arm in config.arms.values() if arm.get("facts")):
    if name not in sets:
      sets[name] = FINETUNING_SETS[name](sets["pool"], sets["test"], material.counts, config, seed)
  for name, facts in sets.items():
    if not facts:
      raise UserError(f"the set {name!r} of seed {seed} is empty: give more facts or change config.split")
  return sets


def write_facts(folder, sets, material):
  """Writes every set, the relations and the answer counts, so that each verb can be run on them alone."""
  for name, facts in sets.items():
    schema.write_facts(os.path.join(folder, f"{name}.jsonl"), facts)
  relations_room.write_relations(os.path.join(folder, "relations.jsonl"), material.relations)
  counting.write_counts(os.path.join(folder, "counts.tsv"), material.counts)

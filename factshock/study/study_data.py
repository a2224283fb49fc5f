"""What there is of a study before a model: facts, relations, text and counts, and the sets that facts are cut into."""

import os
from typing import NamedTuple

from factshock.facts import corpus_counts, documents, entities, schema, sources, splits, world
from factshock.facts import counts as counting
from factshock.facts import relations as relation_files
from factshock.runtime.errors import UserError

# The finetuning sets an arm may name, as functions of (pool, test, counts, config, seed).
FINETUNING_SETS = {
  "whole": lambda pool, test, counts, config, seed: pool,
  "balanced": lambda pool, test, counts, config, seed: splits.balanced(
    pool, counts, config.balanced.per_answer, seed
  ),
  "balanced_swap": lambda pool, test, counts, config, seed: splits.balanced(
    pool, counts, config.balanced.per_answer, seed, swap=True
  ),
  "low_mismatch": lambda pool, test, counts, config, seed: splits.at_mismatch(
    pool, counts, test, config.mismatch.low, config.mismatch.size, seed
  ),
  "high_mismatch": lambda pool, test, counts, config, seed: splits.at_mismatch(
    pool, counts, test, config.mismatch.high, config.mismatch.size, seed
  ),
  "natural": lambda pool, test, counts, config, seed: splits.natural(
    pool,
    splits.relation_sizes(splits.balanced(pool, counts, config.balanced.per_answer, seed)),
    seed,
  ),
  "natural_100": lambda pool, test, counts, config, seed: splits.natural(pool, 100, seed),
  "popular_half": lambda pool, test, counts, config, seed: splits.popular_half(
    pool, config.popularity
  ),
  "unpopular_half": lambda pool, test, counts, config, seed: splits.unpopular_half(
    pool, config.popularity
  ),
  "top_30": lambda pool, test, counts, config, seed: splits.top_share(pool, 0.3, config.popularity),
  "random_half": lambda pool, test, counts, config, seed: splits.random_half(pool, seed),
}


class Material(NamedTuple):
  """What there is before a model: facts, their relations, texts and answer counts.

  A text is a list of sentences, or a corpus by name (facts/documents.py).
  """

  facts: list
  background: list
  relations: dict
  texts: list
  counts: dict


def of(config, workdir, seed):
  """The Material of a config: the synthetic world of a seed, or one's own."""
  return (
    make_world(config, seed)
    if config.facts == "world"
    else read_material(config, os.path.join(workdir, "facts"))
  )


def make_world(config, seed):
  """The synthetic world of a seed as Material."""
  made = world.make_world(seed, **config.world.to_dict())
  return Material(made.facts, made.background, made.relations, [made.sentences], made.counts)


def read_material(config, folder):
  """One's own facts, relations and text (if any) as Material; popularity not given is counted in the text.

  Args:
    folder: where the entities named by the text are counted (entity_counts.tsv), once for all seeds.
  Raises:
    UserError: a file that does not fit its format or the others.
  """
  facts, relations = sources.read_with_relations(config.facts, config.relations)
  if config.drop_named_answers:
    kept = [fact for fact in facts if not splits.names_answer(fact)]
    print(
      f"  {len(facts) - len(kept):,} of {len(facts):,} facts left out, as the subject's name holds the answer"
    )
    facts = kept
  used = {fact["relation"] for fact in facts}
  relations = {name: row for name, row in relations.items() if name in used}
  texts = documents.corpora(config.corpus)
  where = config.entity_counts or config.corpus
  if not where:
    return Material(facts, [], relations, texts, {})
  named = (
    counting.read_counts(config.entity_counts)
    if config.entity_counts
    else _counted(config.corpus, facts, folder)
  )
  counts = {
    (fact["relation"], fact["object"]): counting.count_of(named, fact["relation"], fact["object"])
    for fact in facts
  }
  if not any(counts.values()):
    raise UserError(f"{where}: names no answer of {config.facts}; is it the right text?")
  if any("popularity" not in fact for fact in facts):
    print(f"  facts without popularity: taken as how often {where} names the subject")
    facts = [
      {"popularity": float(counting.count_of(named, fact["relation"], fact["subject"])), **fact}
      for fact in facts
    ]
  return Material(facts, [], relations, texts, counts)


def _counted(corpus, facts, folder):
  """How often a corpus names each entity of facts, the longest name counting where one stands within another: as read_counts."""
  path = os.path.join(folder, "entity_counts.tsv")
  if not os.path.exists(path):
    corpus_counts.count(corpus, entities.entities_of(facts), path)
  return counting.read_counts(path, "longest")


def make_sets(material, config, seed):
  """Subject-disjoint pool, development and test facts, and the finetuning sets that the arms name."""
  sets = splits.split_subjects(material.facts, config.split.to_dict(), seed)
  for name in dict.fromkeys(arm.get("facts") for arm in config.arms.values() if arm.get("facts")):
    if name not in sets and name in FINETUNING_SETS:  # the others are those that need a model
      sets[name] = FINETUNING_SETS[name](sets["pool"], sets["test"], material.counts, config, seed)
  for name, facts in sets.items():
    if not facts:
      raise UserError(
        f"the set {name!r} of seed {seed} is empty: give more facts or change config.split"
      )
  return sets


def write_facts(folder, sets, material):
  """Writes every set, the relations and the answer counts, so that each verb can be run on them alone."""
  for name, facts in sets.items():
    schema.write_facts(os.path.join(folder, f"{name}.jsonl"), facts)
  relation_files.write_relations(os.path.join(folder, "relations.jsonl"), material.relations)
  counting.write_counts(os.path.join(folder, "counts.tsv"), material.counts)

"""Data of a study before a model: facts, relations, text and counts, and the sets of facts."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from factshock.data import pretrained_tokenizers, prompts
from factshock.facts import corpus_counts, documents, entities, schema, sources, splits, world
from factshock.facts import counts as counting
from factshock.facts import relations as relation_files
from factshock.runtime import messages
from factshock.runtime.errors import UserError
from factshock.runtime.workdir import Workdir
from factshock.study import config as configs
from factshock.study.config import Config
from factshock.types import Answer, Fact, Relation, Tokenizer

# A text: its sentences, or the name of a corpus (facts/documents.py).
Text: TypeAlias = Sequence[str] | str

# Facts by set: pool, development, test, and the finetuning sets.
FactSets: TypeAlias = dict[str, list[Fact]]


@dataclasses.dataclass(frozen=True)
class StudyData:
  """Data of a study before a model.

  Attributes:
    facts: those that are cut into sets.
    background: facts of the world that are in the text alone.
    relations: their templates, by name.
    texts: what the model is pretrained on.
    counts: mentions in the text of each answer of a relation.
  """

  facts: list[Fact]
  background: list[Fact]
  relations: Mapping[str, Relation]
  texts: Sequence[Text]
  counts: dict[Answer, int]


def load(
  config: Config,
  workdir: Workdir,
  seed: int,
) -> StudyData:
  """Returns the data of a config: the synthetic world of a seed, or one's own files."""
  if config.facts == "world":
    return make_world(config, seed)
  return read_files(config, workdir.entity_counts)


def make_world(config: Config, seed: int) -> StudyData:
  """Returns the synthetic world of a seed."""
  made = world.make_world(seed, **config.world.to_dict())
  return StudyData(
    facts=made.facts,
    background=made.background,
    relations=made.relations,
    texts=[made.sentences],
    counts=made.counts,
  )


def read_files(config: Config, counts_path: str) -> StudyData:
  """Reads one's own facts, relations and text (if any).

  Popularity that is not given is how often the text names the subject.

  Args:
    config: names the files.
    counts_path: where the mentions of entities are counted, once for all seeds.

  Raises:
    UserError: a file that does not fit its format or the others.
  """
  facts, relations = sources.read_with_relations(
    config.facts, config.relations, count_tokens=token_counter(config)
  )
  if config.drop_named_answers:
    facts = _without_named_answers(facts)
  used = {fact["relation"] for fact in facts}
  relations = {name: row for name, row in relations.items() if name in used}
  texts = documents.corpora(config.corpus)
  counted_in = config.entity_counts or config.corpus
  if not counted_in:
    return StudyData(facts, [], relations, texts, {})
  mentions = _read_mentions(config, facts, counts_path)
  counts = _answer_counts(facts, mentions)
  if not any(counts.values()):
    raise UserError(f"{counted_in}: names no answer of {config.facts}; is it the right text?")
  if any("popularity" not in fact for fact in facts):
    messages.say(f"  facts without popularity: taken as how often {counted_in} names the subject")
    facts = [_with_popularity(fact, mentions) for fact in facts]
  return StudyData(facts, [], relations, texts, counts)


def examples_asked(config: Config) -> int:
  """Returns how many facts a point of an arm asks: those of development and test, about.

  Raises:
    UserError: a file that does not fit its format.
  """
  if config.facts == "world":
    first_seed, *_ = configs.seeds(config)
    facts = make_world(config, first_seed).facts
  else:
    facts, _ = sources.read_with_relations(
      config.facts, config.relations, count_tokens=token_counter(config)
    )
  return round((config.split.development + config.split.test) * len(facts))


def token_counter(config: Config) -> sources.CountTokens | None:
  """Returns what counts the tokens of answers, where the config names a tokenizer that is there."""
  if config.tokenizer.kind != "huggingface":
    return None

  @functools.cache
  def tokenizer() -> Tokenizer:
    return pretrained_tokenizers.load(config.tokenizer.path or config.start_from)

  return lambda answer: prompts.answer_tokens(tokenizer(), answer)


def _answer_counts(
  facts: Sequence[Fact],
  mentions: Mapping[Answer, int],
) -> dict[Answer, int]:
  """Returns how often the text names each answer of the facts."""
  counts = {}
  for fact in facts:
    answer = (fact["relation"], fact["object"])
    counts[answer] = counting.count_of(mentions, *answer)
  return counts


def _without_named_answers(facts: Sequence[Fact]) -> list[Fact]:
  kept = [fact for fact in facts if not splits.names_answer(fact)]
  left_out = len(facts) - len(kept)
  messages.say(
    f"  {left_out:,} of {len(facts):,} facts left out, as the subject's name holds the answer"
  )
  return kept


def _read_mentions(
  config: Config,
  facts: Sequence[Fact],
  path: str,
) -> Mapping[Answer, int]:
  """Returns how often the text names each entity; of a corpus they are counted if need be.

  In a corpus the longest name counts where one stands within another.
  """
  if config.entity_counts:
    return counting.read_counts(config.entity_counts)
  if not os.path.exists(path):
    corpus_counts.count(config.corpus, entities.entities_of(facts), path)
  return counting.read_counts(path, "longest")


def _with_popularity(fact: Fact, mentions: Mapping[Answer, int]) -> Fact:
  """Returns a fact that has a popularity, as the first of its columns where it had none."""
  count = counting.count_of(mentions, fact["relation"], fact["subject"])
  return {"popularity": float(count), **fact}


@dataclasses.dataclass(frozen=True)
class _SetInputs:
  """Inputs that a finetuning set is made of."""

  pool: list[Fact]
  test: list[Fact]
  counts: Mapping[Answer, int]
  config: Config
  seed: int


def _balanced(inputs: _SetInputs, swap: bool = False) -> list[Fact]:
  return splits.balanced(
    inputs.pool,
    inputs.counts,
    inputs.config.balanced.per_answer,
    inputs.seed,
    swap=swap,
  )


def _at_mismatch(inputs: _SetInputs, target: float) -> list[Fact]:
  return splits.at_mismatch(
    inputs.pool,
    inputs.counts,
    inputs.test,
    target,
    inputs.config.mismatch.size,
    inputs.seed,
  )


def _natural(inputs: _SetInputs) -> list[Fact]:
  """Returns facts as they come, of each relation as many as the balanced set has."""
  sizes = splits.relation_sizes(_balanced(inputs))
  return splits.natural(inputs.pool, sizes, inputs.seed)


# The finetuning sets an arm may name, beside the pool.
FINETUNING_SETS: Mapping[str, Callable[[_SetInputs], list[Fact]]] = {
  "whole": lambda inputs: inputs.pool,
  "balanced": _balanced,
  "balanced_swap": lambda inputs: _balanced(inputs, swap=True),
  "low_mismatch": lambda inputs: _at_mismatch(inputs, inputs.config.mismatch.low),
  "high_mismatch": lambda inputs: _at_mismatch(inputs, inputs.config.mismatch.high),
  "natural": _natural,
  "natural_100": lambda inputs: splits.natural(inputs.pool, 100, inputs.seed),
  "popular_half": lambda inputs: splits.popular_half(inputs.pool, inputs.config.popularity),
  "unpopular_half": lambda inputs: splits.unpopular_half(inputs.pool, inputs.config.popularity),
  "top_30": lambda inputs: splits.top_share(inputs.pool, 0.3, inputs.config.popularity),
  "random_half": lambda inputs: splits.random_half(inputs.pool, inputs.seed),
}


def make_sets(
  data: StudyData,
  config: Config,
  seed: int,
) -> FactSets:
  """Returns subject-disjoint pool, development and test facts, and the sets that the arms name.

  Raises:
    UserError: a set is empty.
  """
  sets = splits.split_subjects(data.facts, config.split.to_dict(), seed)
  inputs = _SetInputs(sets["pool"], sets["test"], data.counts, config, seed)
  for arm in config.arms.values():
    name = arm.get("facts")
    # The sets that are not here are those that need a model.
    if name not in sets and name in FINETUNING_SETS:
      sets[name] = FINETUNING_SETS[name](inputs)
  for name, facts in sets.items():
    if not facts:
      raise UserError(
        f"the set {name!r} of seed {seed} is empty: give more facts or change config.split"
      )
  return sets


def check_seeds(data: StudyData, config: Config) -> None:
  """Checks that one's own facts give the sets of every seed, before there is work of the first.

  Raises:
    UserError: names the seed whose sets cannot be made.
  """
  for seed in configs.seeds(config):
    try:
      make_sets(data, config, seed)
    except UserError as error:
      raise UserError(f"seed {seed}: {error}") from error


def write_facts(
  folder: str,
  sets: FactSets,
  data: StudyData,
) -> None:
  """Writes every set, the relations and the answer counts, for verbs that run on them alone."""
  for name, facts in sets.items():
    path = os.path.join(folder, f"{name}.jsonl")
    schema.write_facts(path, facts)
  relations_path = os.path.join(folder, "relations.jsonl")
  counts_path = os.path.join(folder, "counts.tsv")
  relation_files.write_relations(relations_path, data.relations)
  counting.write_counts(counts_path, data.counts)

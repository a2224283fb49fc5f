"""One seed of a study: its facts and text as a tokenizer and a model read them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax

from factshock.checkpoints import loading
from factshock.checkpoints.loading import LoadedModel
from factshock.data import prompts, tokenizers
from factshock.models import families, model_config
from factshock.models.model_config import ModelConfig
from factshock.predictions import writing
from factshock.runtime import messages, processes
from factshock.runtime.workdir import Workdir
from factshock.study import config as configs
from factshock.study import pretraining_text, study_data
from factshock.study.config import Config
from factshock.study.pretraining_text import WeightedSources
from factshock.study.study_data import FactSets, StudyData
from factshock.types import Answer, Candidates, Fact, Params, Relation, Tokenizer


@dataclasses.dataclass(frozen=True)
class Question:
  """How a model is asked facts.

  Attributes:
    prompt: the form of the prompt, one of prompts.PROMPTS.
    shots: how many answered prompts of other subjects stand before it.
    shot_facts: the set that these are taken from.
  """

  prompt: str
  shots: int = 0
  shot_facts: str = "pool"


# Prepared queries by what they are for, how they are asked, and the split.
QueryKey: TypeAlias = tuple[str, Question, str, int | None]


@dataclasses.dataclass(frozen=True)
class SeedRun:
  """One seed of an experiment, ready to train and answer.

  Attributes:
    config: the experiment's.
    workdir: where its files stand.
    seed: a number.
    mesh: the devices that compute.
    relations: templates by relation.
    sets: facts by set: pool, development, test, and the finetuning sets that need no model.
    counts: mentions in the text of each answer of a relation.
    candidates: the answers to rank, by relation.
    tokenizer: the model's.
    model_config: its sizes.
    texts: reads the pretraining task on a kind of text (pretraining_text.KINDS), once.
    queries: a cache of prepared queries, filled by `prepared`.
    model_sets: a cache of the finetuning sets that go by what the model knows (arms/facts.py).
  """

  config: Config
  workdir: Workdir
  seed: int
  mesh: jax.sharding.Mesh
  relations: Mapping[str, Relation]
  sets: Mapping[str, list[Fact]]
  counts: Mapping[Answer, int]
  candidates: Candidates
  tokenizer: Tokenizer
  model_config: ModelConfig
  texts: Callable[[str], WeightedSources]
  queries: dict[QueryKey, Any] = dataclasses.field(default_factory=dict)
  model_sets: dict[str, list[Fact]] = dataclasses.field(default_factory=dict)

  @property
  def is_decoder(self) -> bool:
    """True for a decoder-only model."""
    return families.of(self.model_config).decoder_only

  def loaded(self, params: Params) -> LoadedModel:
    """Returns the model with these weights, ready to be asked."""
    return LoadedModel(params, self.model_config, self.tokenizer, self.mesh)

  def stops(self, form: str) -> tuple[str, ...] | None:
    """Returns the strings that end the answers to prompts of a form; None: those of the model."""
    if not self.is_decoder:
      return self.config.answering.get("stop") or None
    return loading.stops_of(configs.to_dict(self.config), form)

  def with_relations(self, relations: Mapping[str, Relation]) -> "SeedRun":
    """Returns the run with other templates, none of its queries prepared."""
    return dataclasses.replace(self, relations=relations, queries={})

  def with_sets(self, sets: Mapping[str, list[Fact]]) -> "SeedRun":
    """Returns the run with other facts, none of its queries prepared."""
    return dataclasses.replace(self, sets=sets, queries={})

  def prepared(self, key: QueryKey, prepare: Callable[[], Any]) -> Any:
    """Returns the queries of a key, prepared when they are first asked for."""
    if key not in self.queries:
      self.queries[key] = prepare()
    return self.queries[key]

  def prompt_texts(self, facts: Sequence[Fact], question: Question) -> list[str]:
    """Returns the prompts of facts, in their order."""
    return prompts.prompt_texts(
      facts,
      self.relations,
      question.prompt,
      self.is_decoder,
      question.shots,
      self.sets[question.shot_facts] if question.shots else (),
      self.seed,
    )


def asked_by(relation: Relation, statement: str) -> Relation:
  """Returns a relation that is asked by one statement."""
  return {**relation, "statements": [statement]}


def prepare(
  config: Config,
  workdir: Workdir,
  seed: int,
  mesh: jax.sharding.Mesh,
) -> SeedRun:
  """Builds one seed of an experiment from config and seed alone, but for what is stored.

  Writes facts/<seed>/ (every set, relations, answer counts) and tokenizer/<seed>/ in the workdir.

  Raises:
    UserError: facts, relations or text that do not fit each other or the config.
  """
  data = study_data.load(config, workdir, seed)
  if config.facts != "world" and seed == configs.seeds(config)[0]:
    study_data.check_seeds(data, config)
  return assemble(config, workdir, seed, mesh, data, study_data.make_sets(data, config, seed))


def assemble(
  config: Config,
  workdir: Workdir,
  seed: int,
  mesh: jax.sharding.Mesh,
  data: StudyData,
  sets: FactSets,
) -> SeedRun:
  """Builds one seed from data and sets of facts: tokenizer, model and text as the config says."""
  folder = workdir.tokenizer(seed)
  tokenizer = pretraining_text.tokenizer(config, data, folder)
  tokenizers.save(tokenizer, folder)
  study_data.write_facts(workdir.facts(seed), sets, data)

  def read_texts(kind: str) -> WeightedSources:
    with processes.first_process_first("text"):  # text is tokenised once, and then there for all
      return pretraining_text.sources(config, workdir, seed, data, sets, tokenizer, kind)

  platform = mesh.devices.flat[0].platform
  if config.model.dtype == model_config.AUTO:
    messages.say(
      f"  computing in {families.dtype_on(platform)} on {platform} (config.model.dtype='auto')"
    )
  return SeedRun(
    config=config,
    workdir=workdir,
    seed=seed,
    mesh=mesh,
    relations=data.relations,
    sets=sets,
    counts=data.counts,
    candidates=writing.candidates_of(data.facts + data.background),
    tokenizer=tokenizer,
    model_config=families.from_section(config.model.to_dict(), tokenizer.size, platform),
    texts=functools.cache(read_texts),
  )

"""One seed of a study: its facts and text as a tokenizer and a model read them."""

import functools
import os
from typing import NamedTuple

from factshock.checkpoints import loading
from factshock.data import prompts, tokenizers
from factshock.models import families
from factshock.predictions import writing
from factshock.runtime import processes
from factshock.study import pretraining_text, study_data


class Study(NamedTuple):
  """One seed of an experiment, ready to train and answer."""

  config: object
  workdir: str
  seed: int
  mesh: object
  relations: dict
  sets: dict  # name -> facts: pool, development, test, and the finetuning sets
  counts: dict  # (relation, answer) -> mentions in the corpus
  candidates: dict  # relation -> answers to rank
  tokenizer: object
  model: object  # T5Config or LlamaConfig
  texts: object  # (kind of texts.KINDS) -> [(data.mixture source of the pretraining task, its share of it)], read when first asked for
  queries: dict  # prepared queries by (prompt, shots, shot_facts, split), filled as they are needed


def prepare(config, workdir, seed, mesh):
  """Builds the Study of one seed of an experiment; a pure function of config and seed, but for what it stores.

  Writes facts/<seed>/ (every set, relations, answer counts) and tokenizer/<seed>/ under `workdir`.

  Raises:
    UserError: facts, relations or text that do not fit each other or the config.
  """
  data = study_data.load(config, workdir, seed)
  return assemble(config, workdir, seed, mesh, data, study_data.make_sets(data, config, seed))


def assemble(config, workdir, seed, mesh, data, sets):
  """The Study of data and sets of facts: tokenizer, model and pretraining task as the config says."""

  folder = os.path.join(workdir, "tokenizer", str(seed))
  tokenizer = pretraining_text.tokenizer(config, data, folder)
  tokenizers.save(tokenizer, folder)
  study_data.write_facts(os.path.join(workdir, "facts", str(seed)), sets, data)
  model = families.from_section(config.model.to_dict(), tokenizer.size)

  def texts(kind):
    with processes.first_process_first("text"):  # text is tokenised once, and then there for all
      return pretraining_text.sources(config, workdir, seed, data, sets, tokenizer, kind)

  candidates = writing.candidates_of(data.facts + data.background)
  return Study(
    config,
    workdir,
    seed,
    mesh,
    data.relations,
    sets,
    data.counts,
    candidates,
    tokenizer,
    model,
    functools.cache(texts),
    {},
  )


def loaded_model(study, params):
  """Returns the study's model with these weights, ready to be asked."""
  return loading.LoadedModel(params, study.model, study.tokenizer, study.mesh)


def is_decoder(study):
  """Whether the study's model is decoder-only."""
  return families.of(study.model).decoder_only


def prompt_texts(study, facts, prompt, shots=0, shot_facts="pool"):
  """The prompts of facts in one of prompts.PROMPTS, after `shots` answered ones of other subjects."""

  return prompts.prompt_texts(
    facts,
    study.relations,
    prompt,
    is_decoder(study),
    shots,
    study.sets[shot_facts] if shots else (),
    study.seed,
  )


def facts_path(workdir, seed, name):
  """A file of the facts of one seed in a workdir."""
  return os.path.join(workdir, "facts", str(seed), name)

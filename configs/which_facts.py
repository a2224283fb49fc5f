r"""Study of the second paper (arXiv 2406.14785): which facts to finetune on, on real facts.

  factshock experiment --config=popqa_llama2_7b --workdir=runs/popqa \
      --facts=popqa:data/popqa.jsonl \
      --entity_counts=counts.tsv

Arms: zero-shot and k-shot, the whole pool, its more and less popular half within each relation, a
random half of equal size, the top 30%, each asked zero-shot and after k answered questions;
majority answer and naive Bayes as controls. Answers are generated; right is what contains an
accepted answer (column `contains`). counts.tsv says how often a text names each entity (factshock
count); the study's shock measures need it. Expect: popular above unpopular; the paper's
numbers stand in each config. Time: in each config. The other configs name the model and the facts.
"""

from types import ModuleType

import ml_collections

from factshock.configs.demo import Arm, Arms
from factshock.types import Config

# Prompts with choices, of which the likeliest is the answer; nothing is generated.
CHOICES = ("letters", "choices")


def of(
  base: ModuleType,
  name: str,
  facts: str,
  prompt: str = "question",
  shots: int = 5,
  popularity: str = "popularity",
) -> Config:
  """Returns the config of the study of one model on one data set.

  Args:
    base: module of the model's own config.
    name: title of the study.
    facts: file or data set.
    prompt: one of prompts.PROMPTS (data/prompts.py).
    shots: answered questions put before each one by the few-shot arms.
    popularity: column of the facts that the halves go by.
  """
  config = base.get_config()
  config.name = name
  config.facts = facts
  config.relations = ""
  config.entity_counts = "counts.tsv"
  config.popularity = popularity
  config.finetune.prompt = prompt
  config.answering.mode = "generate"
  has_choices = prompt in CHOICES
  # PopQA is scored by "contains".
  config.diagnosis.criterion = "exact_match" if has_choices else "contains"
  config.arms = ml_collections.ConfigDict(arms(prompt, shots), sort_keys=False)
  config.roles.update(dict(zero_shot="zero_shot", finetuned="whole", ceiling="", remedies=()))
  return config


def arms(prompt: str, shots: int) -> Arms:
  """Returns the arms by name, asked by one prompt, zero-shot and with shots."""

  def finetune(facts: str, title: str) -> Arm:
    return dict(kind="finetune", facts=facts, title=title, group="which facts")

  def asked(arm: str) -> Arm:
    return dict(
      kind="prompted",
      of=arm,
      prompt=prompt,
      shots=shots,
      title=f"{by_name[arm]['title']}, {shots}-shot",
      group="which facts",
    )

  by_name = dict(
    zero_shot=dict(kind="prompted", prompt=prompt, title="Zero-shot"),
    k_shot=dict(kind="prompted", prompt=prompt, shots=shots, title=f"{shots}-shot"),
    whole=finetune("whole", "Whole pool"),
    popular_half=finetune("popular_half", "Popular half"),
    unpopular_half=finetune("unpopular_half", "Unpopular half"),
    random_half=finetune("random_half", "Random half"),
    top_30=finetune("top_30", "Top 30%"),
  )
  for arm in ("whole", "popular_half", "unpopular_half", "random_half", "top_30"):
    by_name[f"{arm}_k_shot"] = asked(arm)
  if prompt not in CHOICES:
    by_name["majority"] = dict(kind="majority", title="Majority answer")
    by_name["naive_bayes"] = dict(kind="naive_bayes", title="Naive Bayes on the subject's words")
  return by_name

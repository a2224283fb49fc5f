"""Finetuning examples of a study: what is taught of facts, and the lengths that its rows need."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from factshock.checkpoints import loading
from factshock.data import batching, decoder_text, example_sources, prompts, soft_labels
from factshock.facts import splits
from factshock.study import answers
from factshock.study import config as configs
from factshock.study.seed_run import Question, SeedRun
from factshock.training.settings import FinetuningConfig, TrainingConfig
from factshock.types import Example, Fact

# The most input and target tokens of an example; a decoder-only model's has no targets.
Lengths: TypeAlias = tuple[int, int]

# A prompt, and the text that ends its answer; None is EOS.
Asked: TypeAlias = tuple[str, str | None]


@dataclasses.dataclass(frozen=True)
class FinetuningData:
  """Facts to finetune on, what is taught of them, and the pretraining task mixed in.

  Attributes:
    facts: those that are taught.
    ratio: examples of the pretraining task to each question.
    text: which text that task is on, one of pretraining_text.KINDS.
    question_weight: multiplies the questions' loss.
    belief: None for the facts' own objects; else for each fact the probabilities [candidates] that
      are taught in their place.
    fact_weights: None, or for each fact what its loss is multiplied by.
    adjustment: strength of the logit adjustment by how often the facts have each answer
      (data/soft_labels.py); 0 for none.
    order: another number gives another order of the examples.
  """

  facts: Sequence[Fact]
  ratio: float = 0
  text: str = "whole"
  question_weight: float = 1.0
  belief: Sequence[np.ndarray] | None = None
  fact_weights: Sequence[float] | np.ndarray | None = None
  adjustment: float = 0.0
  order: int = 0


def question_source(
  run: SeedRun,
  data: FinetuningData,
  prompt: str,
  end: str = "auto",
) -> tuple[example_sources.Source, Lengths]:
  """Returns a source of examples, each fact's prompt and its answer, and their longest lengths.

  Args:
    run: the seed's.
    data: the facts and what is taught of them.
    prompt: one of prompts.PROMPTS.
    end: what is taught as the end of an answer, as decoder_text.end_of takes it.
  """
  texts = run.prompt_texts(data.facts, Question(prompt))
  asked = list(zip(texts, _ends(run, data.facts, prompt, end)))
  if data.belief is not None or data.adjustment:
    source, examples = _soft_examples(run, data, asked)
  else:
    source, examples = _gold_examples(run, data, asked, prompt)
  return source, _longest(examples)


def _ends(
  run: SeedRun,
  facts: Sequence[Fact],
  prompt: str,
  end: str,
) -> list[str | None]:
  """Returns what ends the answer to each fact, None for EOS."""
  pretrained = loading.is_pretrained(configs.to_dict(run.config))

  @functools.cache
  def end_of(relation: str) -> str | None:
    statements = run.relations[relation]["statements"] if prompt == "cloze" else [""]
    return decoder_text.end_of(end, prompt, statements[0], pretrained=pretrained)

  if not run.is_decoder:
    return [None] * len(facts)
  return [end_of(fact["relation"]) for fact in facts]


def _encode(
  run: SeedRun,
  asked: Asked,
  answer: str,
) -> Example:
  """Returns the example of a prompt and its answer for the run's model."""
  text, end = asked
  if run.is_decoder:
    return decoder_text.encode_example(run.tokenizer, text, answer, end)
  return prompts.encode_example(run.tokenizer, text, answer)


def _gold_examples(
  run: SeedRun,
  data: FinetuningData,
  asked: Sequence[Asked],
  prompt: str,
) -> tuple[example_sources.Source, list[Example]]:
  """Returns the source of the facts' own answers, and its examples."""
  examples = [
    _encode(run, prompt_and_end, prompts.answer_text(fact, prompt))
    for prompt_and_end, fact in zip(asked, data.facts)
  ]
  weights = () if data.fact_weights is None else data.fact_weights
  predicted = "tokens" if run.is_decoder else "targets"
  for example, weight in zip(examples, weights):
    ones = np.ones(len(example[predicted]), np.float32)
    example["weights"] = np.float32(weight) * example.get("weights", ones)
  make_source = decoder_text.qa_source if run.is_decoder else example_sources.qa_source
  return make_source(examples, data.question_weight), examples


def _soft_examples(
  run: SeedRun,
  data: FinetuningData,
  asked: Sequence[Asked],
) -> tuple[example_sources.Source, list[Example]]:
  """Returns the source that teaches distributions over candidates, and an example of each answer.

  The examples are those of the answers that a fact's distribution has.
  """
  belief = data.belief or [answers.on_object(run, fact) for fact in data.facts]

  def encode(row: int, index: int) -> Example:
    candidates = run.candidates[data.facts[row]["relation"]]
    return _encode(run, asked[row], candidates[index])

  source = soft_labels.soft_source(
    encode,
    belief,
    _answer_priors(run, data) if data.adjustment else None,
    data.adjustment,
    data.question_weight,
    pad=decoder_text.PAD if run.is_decoder else 0,
  )
  examples = [
    encode(row, int(index))
    for row, probabilities in enumerate(belief)
    for index in np.flatnonzero(probabilities)
  ]
  if run.is_decoder:
    source = dataclasses.replace(source, predicted=decoder_text.most_predicted(examples))
  return source, examples


def _answer_priors(run: SeedRun, data: FinetuningData) -> list[list[float]]:
  """Returns for each fact how often the facts have each candidate of its relation."""

  @functools.cache
  def prior(relation: str) -> list[float]:
    return splits.answer_prior(data.facts, relation, run.candidates[relation])

  return [prior(fact["relation"]) for fact in data.facts]


def _longest(examples: Sequence[Example]) -> Lengths:
  def longest(field: str) -> int:
    return max(len(example[field]) for example in examples)

  input_length, *target_length = map(longest, batching.token_fields(examples[0]))
  return input_length, sum(target_length)


def fit_lengths(
  section: FinetuningConfig,
  needs: Lengths,
  text: TrainingConfig | None = None,
) -> FinetuningConfig:
  """Returns a section whose lengths are no longer than its examples ask for.

  Lengths come in few sizes (`batching.bucket`), so that arms share compiled steps; the section's
  own are the most.

  Args:
    section: of the finetuning.
    needs: the longest lengths of the questions.
    text: settings of the pretraining task that is mixed in, if any.
  """

  def fitted(most: int, need: int) -> int:
    return min(most, batching.bucket(need)) if need else 0

  input_need, target_need = needs
  if text:
    input_need = max(input_need, text.input_length)
    target_need = max(target_need, text.target_length)
  return dataclasses.replace(
    section,
    input_length=fitted(section.input_length, input_need),
    target_length=fitted(section.target_length, target_need),
  )

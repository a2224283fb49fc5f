"""Likelihoods of each of a question's own choices, as multiple-choice tests are scored."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from factshock.answering import batches, likelihoods
from factshock.checkpoints.loading import LoadedModel
from factshock.data import prompts as prompt_texts
from factshock.data import sentinels
from factshock.predictions import writing
from factshock.predictions.rows import Row
from factshock.runtime.errors import UserError
from factshock.types import Fact

LONGEST = 256  # tokens of a choice


def score(
  model: LoadedModel,
  prompts: Sequence[str],
  choices: Sequence[Sequence[str]],
  *,
  batch_size: int = 16,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the log-probability of each prompt's choices as its answer.

  Natural logarithm, summed over tokens. A prompt is read once for all its choices. What ends the
  answer does not count, nor does a T5's <extra_id_0>.

  Args:
    model: the model to ask.
    prompts: texts; for a T5 each holds "<extra_id_0>" where the answer goes.
    choices: for each prompt its texts, as many for every prompt.
    batch_size: prompts at a time.

  Returns:
    float64 [prompts, choices], and the tokens of each choice, int64 [prompts, choices].

  Raises:
    UserError: a choice without tokens or too long, a prompt too long, or another number of choices.
  """
  count = len(choices[0])
  answers = _encode_all(model, prompts, choices)
  pairs = []
  for prompt, encoded in zip(prompts, answers):
    prompt_tokens = batches.encode_prompt(model, prompt)
    pairs += [(prompt_tokens, tokens) for tokens in encoded]
  scores, _ = likelihoods.score(model, pairs, batch_size=batch_size * count)
  opening = 0 if model.decoder_only else 1  # <extra_id_0>
  sizes = np.array([[len(tokens) - opening for tokens in encoded] for encoded in answers])
  return scores.reshape(sizes.shape), sizes


def _encode_all(
  model: LoadedModel,
  prompts: Sequence[str],
  choices: Sequence[Sequence[str]],
) -> list[list[list[int]]]:
  """Returns the token ids of each prompt's choices.

  Raises:
    UserError: a choice without tokens or too long, or another number of choices.
  """
  count = len(choices[0])
  if any(len(texts) != count for texts in choices):
    raise UserError(f"expected {count} choices for each question, as the first has, got others")
  answers = []
  for prompt, texts in zip(prompts, choices):
    answers.append([_encode(model, prompt, text) for text in texts])
  longest = max(len(tokens) for encoded in answers for tokens in encoded)
  if longest > LONGEST:
    raise UserError(f"expected choices of at most {LONGEST} tokens, got one of {longest}")
  return answers


def rows(
  facts: Sequence[Fact],
  scores_NxC: np.ndarray,
  **labels: Any,
) -> list[Row]:
  """Returns rows of a predictions file for facts with choices.

  A row's candidates are the choices' texts with their scores, best first.

  Args:
    facts: the facts.
    scores_NxC: of their choices, as from `of_facts`.
    **labels: columns of every row (arm, seed, split ...).
  """
  choices = [prompt_texts.choices_of(fact) for fact in facts]
  best = [names[index] for names, index in zip(choices, scores_NxC.argmax(axis=1))]
  prediction_rows = writing.text_rows(facts, best, scores_NxC.max(axis=1), **labels)
  for row, names, scores_C in zip(prediction_rows, choices, scores_NxC):
    order = np.argsort(-scores_C, kind="stable")
    row["candidates"] = [[names[index], float(scores_C[index])] for index in order]
  return prediction_rows


def of_facts(
  model: LoadedModel,
  facts: Sequence[Fact],
  texts: Sequence[str],
  *,
  letters: bool,
  batch_size: int,
) -> np.ndarray:
  """Returns scores of each fact's choices: of their letters, or of their texts per byte.

  Letters compare by log-probability, whole texts by log-probability per byte.

  Args:
    model: the model to ask.
    facts: the facts.
    texts: the prompt of each fact.
    letters: whether the choices' letters are scored, not their texts.
    batch_size: prompts at a time.

  Returns:
    float64 [facts, choices].
  """
  choices = [prompt_texts.choices_of(fact) for fact in facts]
  if letters:
    names = [list(prompt_texts.LETTERS[: len(of_fact)]) for of_fact in choices]
    scores, _ = score(model, texts, names, batch_size=batch_size)
    return scores
  scores, _ = score(model, texts, choices, batch_size=batch_size)
  return normalised(scores, choices)


def normalised(scores: np.ndarray, choices: Sequence[Sequence[str]]) -> np.ndarray:
  """Returns scores per byte of each choice's text, so that long and short ones compare.

  That is `acc_norm` of the LM evaluation harness.
  """
  sizes = [[len(text.encode("utf-8")) for text in texts] for texts in choices]
  return scores / np.array(sizes)


def _encode(
  model: LoadedModel,
  prompt: str,
  choice: str,
) -> list[int]:
  if model.decoder_only:
    return model.tokenizer.encode_continuation(prompt, choice)
  tokens = model.tokenizer.encode(prompt_texts.target_text(model.tokenizer, choice))
  if len(tokens) < 2:
    shown = sentinels.as_read(prompt)[-60:]
    raise UserError(f"prompt {shown!r}: expected choices with at least one token, got {choice!r}")
  return tokens

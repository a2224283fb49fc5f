"""The likelihood of each of a question's own choices, as multiple-choice tests are scored."""

import numpy as np

from factshock.answering import batches, likelihoods
from factshock.data import prompts as prompt_room
from factshock.predictions import writing
from factshock.runtime.errors import UserError

LONGEST = 256  # tokens of a choice


def score(params, model_config, tokenizer, prompts, choices, *, batch_size=16, mesh=None):
  """Log-probability of each prompt's choices as its answer, natural logarithm, summed over tokens.

  A prompt is read once for all its choices. What ends the answer does not count, nor does a T5's <extra_id_0>.

  Args:
    params, model_config, tokenizer: as in decoding.generate.
    prompts: list of texts; for a T5 each holds "<extra_id_0>" where the answer goes.
    choices: for each prompt its list of texts, as many for every prompt.
    batch_size: prompts at a time. mesh: devices to share each batch over (axis "data").
  Returns: (float64 [prompts, choices], tokens of each choice int64 [prompts, choices]).
  Raises:
    UserError: a choice without tokens or too long, a prompt too long, or another number of choices.
  """
  number = len(choices[0])
  if any(len(each) != number for each in choices):
    raise UserError(f"expected {number} choices for each question, as the first has, got others")
  answers = [
    [_tokens(tokenizer, prompt, choice) for choice in each]
    for prompt, each in zip(prompts, choices)
  ]
  longest = max(len(tokens) for each in answers for tokens in each)
  if longest > LONGEST:
    raise UserError(f"expected choices of at most {LONGEST} tokens, got one of {longest}")
  encoded = [batches.encode_prompt(tokenizer, prompt) for prompt in prompts]
  pairs = [(before, tokens) for before, each in zip(encoded, answers) for tokens in each]
  scores, _ = likelihoods.score(
    params, model_config, tokenizer, pairs, batch_size=batch_size * number, mesh=mesh
  )
  opening = 0 if batches.is_decoder_only(tokenizer) else 1  # <extra_id_0>
  sizes = np.array([[len(tokens) - opening for tokens in each] for each in answers])
  return scores.reshape(sizes.shape), sizes


def rows(
  params, model_config, tokenizer, facts, texts, *, letters, batch_size, mesh=None, **labels
):
  """Rows of a predictions file for facts with choices, asked by `texts` (prompts.choice_prompt).

  Letters compare by log-probability, whole texts by log-probability per byte; a row's candidates are the choices' texts with
  these scores, best first. labels: columns of every row (arm, seed, split ...).
  """

  listed = [prompt_room.choices_of(fact) for fact in facts]
  scores = of_facts(
    params, model_config, tokenizer, facts, texts, letters=letters, batch_size=batch_size, mesh=mesh
  )
  found = writing.text_rows(
    facts,
    [each[best] for each, best in zip(listed, scores.argmax(axis=1))],
    scores.max(axis=1),
    **labels,
  )
  for row, each, values in zip(found, listed, scores):
    row["candidates"] = [[each[i], float(values[i])] for i in np.argsort(-values, kind="stable")]
  return found


def of_facts(params, model_config, tokenizer, facts, texts, *, letters, batch_size, mesh=None):
  """Scores of each fact's choices, float64 [facts, choices]: of their letters, or of their texts per byte."""
  listed = [prompt_room.choices_of(fact) for fact in facts]
  said = [list(prompt_room.LETTERS[: len(each)]) for each in listed] if letters else listed
  scores, _ = score(params, model_config, tokenizer, texts, said, batch_size=batch_size, mesh=mesh)
  return scores if letters else normalised(scores, listed)


def normalised(scores, choices):
  """Scores per byte of each choice's text: long and short ones compare (`acc_norm` of the LM evaluation harness)."""
  return scores / np.array([[len(choice.encode("utf-8")) for choice in each] for each in choices])


def _tokens(tokenizer, prompt, choice):
  if batches.is_decoder_only(tokenizer):
    return tokenizer.encode_continuation(prompt, choice)
  tokens = tokenizer.encode(prompt_room.target_text(choice))
  if len(tokens) < 2:
    raise UserError(
      f"prompt {prompt[-60:]!r}: expected choices with at least one token, got {choice!r}"
    )
  return tokens

"""The likelihood of each of a question's own choices, as multiple-choice tests are scored."""

import bisect
import functools

import jax
import jax.numpy as jnp
import numpy as np

from factshock import interruption
from factshock.answering import batches, decoding
from factshock.console import UserError
from factshock.data import prompts as prompt_room
from factshock.models import family
from factshock.training import partitioning

LENGTHS = (4, 8, 16, 32, 64, 128, 256)  # tokens of a choice: few sizes, as each is compiled


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
  batches.check_vocabulary(tokenizer.size, model_config)
  encoded = [batches.encode_prompt(tokenizer, prompt) for prompt in prompts]
  answers = [[_tokens(tokenizer, prompt, choice) for choice in each] for prompt, each in zip(prompts, choices)]
  longest = max(len(tokens) for each in answers for tokens in each)
  if longest > LENGTHS[-1]:
    raise UserError(f"expected choices of at most {LENGTHS[-1]} tokens, got one of {longest}")
  batches.check_room(encoded, model_config, longest)
  opening = 0 if batches.is_decoder_only(tokenizer) else 1  # <extra_id_0>
  params, spread = batches.placed(params, mesh)
  weights = decoding.apart(params, model_config)
  order = sorted(range(len(prompts)), key=lambda place: len(encoded[place]))
  pending = []
  for part, rows in batches.split(order, batch_size):
    interruption.check()
    targets_BxCxT = _padded([answers[place] for place in part], rows, number)
    inputs_BxS = batches.pad(encoded, part, rows, batches.is_decoder_only(tokenizer))
    pending.append((list(part), _forced(params, model_config, opening, weights, spread(inputs_BxS), spread(targets_BxCxT))))
  scores, sizes = np.zeros((len(prompts), number)), np.array([[len(tokens) - opening for tokens in each] for each in answers])
  for part, found in pending:  # only now wait for the devices
    scores[part] = partitioning.fetch(found)[:len(part)]
  return scores, sizes


def rows(params, model_config, tokenizer, facts, texts, *, letters, batch_size, mesh=None, **labels):
  """Rows of a predictions file for facts with choices, asked by `texts` (prompts.choice_prompt).

  Letters compare by log-probability, whole texts by log-probability per byte; a row's candidates are the choices' texts with
  these scores, best first. labels: columns of every row (arm, seed, split ...).
  """
  from factshock.answering import predictions

  listed = [prompt_room.choices_of(fact) for fact in facts]
  scores = of_facts(params, model_config, tokenizer, facts, texts, letters=letters, batch_size=batch_size, mesh=mesh)
  found = predictions.text_rows(facts, [each[best] for each, best in zip(listed, scores.argmax(axis=1))], scores.max(axis=1), **labels)
  for row, each, values in zip(found, listed, scores):
    row["candidates"] = [[each[i], float(values[i])] for i in np.argsort(-values, kind="stable")]
  return found


def of_facts(params, model_config, tokenizer, facts, texts, *, letters, batch_size, mesh=None):
  """Scores of each fact's choices, float64 [facts, choices]: of their letters, or of their texts per byte."""
  listed = [prompt_room.choices_of(fact) for fact in facts]
  said = [list(prompt_room.LETTERS[:len(each)]) for each in listed] if letters else listed
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
    raise UserError(f"prompt {prompt[-60:]!r}: expected choices with at least one token, got {choice!r}")
  return tokens


def _padded(answers, rows, number):
  """int32 [rows, number, T] of lists of token lists, -1 after their ends."""
  longest = max(len(tokens) for each in answers for tokens in each)
  found = np.full((rows, number, LENGTHS[bisect.bisect_left(LENGTHS, longest)]), -1, np.int32)
  for row, each in enumerate(answers):
    for column, tokens in enumerate(each):
      found[row, column, :len(tokens)] = tokens
  return found


@functools.partial(jax.jit, static_argnums=(1, 2))
def _forced(params, config, opening, weights, inputs_BxS, targets_BxCxT):
  """Summed log-probabilities [B, C] of target tokens after the inputs, the first `opening` of them not counted."""
  module, (batch, number, length) = family.of(config), targets_BxCxT.shape
  cache, first_B = module.start(params, config, inputs_BxS, length)
  each_R = jnp.arange(batch * number) // number
  cache = module.take_rows(dict(module.unstack(cache), weights=weights), each_R)
  targets_TxR = targets_BxCxT.reshape(-1, length).T

  def going(carry):
    return (carry[0] < length) & (targets_TxR[jnp.minimum(carry[0], length - 1)] >= 0).any()

  def one(carry):
    step, cache, token_R, total_R = carry
    logits_RxV, cache = module.step(params, config, cache, token_R)
    target_R = targets_TxR[step]
    log_p_R = (jnp.take_along_axis(logits_RxV, jnp.maximum(target_R, 0)[:, None], axis=1)[:, 0]
               - jax.nn.logsumexp(logits_RxV, axis=-1))
    counts_R = (target_R >= 0) & (step >= opening)
    return step + 1, cache, jnp.maximum(target_R, 0), total_R + jnp.where(counts_R, log_p_R, 0.0)

  begin = (jnp.int32(0), cache, first_B[each_R], jnp.zeros(batch * number, jnp.float32))
  return jax.lax.while_loop(going, one, begin)[3].reshape(batch, number)

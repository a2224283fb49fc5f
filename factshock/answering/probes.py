"""How much real transformers attend to a fact's subject, and its factual salience, read off T5, Llama and Mistral.

The theory of Ghosal, Hashimoto and Raghunathan 2024 (arXiv 2406.14785) is of one layer and one head whose last query
sees a subject and a relation token. Here it is asked of every layer n and head h, at a site:

  "encoder": T5; the query of the blank <extra_id_0> among the inputs.
  "cross":   T5; the query of the decoder that predicts the answer's first token (inputs: 0, <extra_id_0>), over the
             encoder's output.
  "self":    Llama, Mistral; the query of the prompt's last token, which predicts the answer's first, as far back as its
             window goes.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches, ranking
from factshock.data import subjects
from factshock.devices import partitioning
from factshock.models import families
from factshock.runtime import files, interruption
from factshock.runtime.console import Progress
from factshock.runtime.errors import UserError

SITES = ("encoder", "cross", "self")


class Asked(NamedTuple):
  """What `observe` needs of the facts beside the weights.

  prompts: token ids. marked: places of the subject's tokens that the query sees; empty where there are none.
  seen: how many tokens it sees. gold: the answer's first token. relations: names.
  among: of each relation its answers' distinct first tokens.
  """

  prompts: list
  marked: list
  seen: list
  gold: list
  relations: list
  among: dict
  left: bool  # padding stands before the tokens: of decoder-only models
  blank: int | None  # token of <extra_id_0>


def prepare(model_config, tokenizer, facts, texts, candidates):
  """Tokenizes facts' prompts and answers once, to be asked of any number of weights; says how many cannot be.

  Args:
    texts: the prompt of each fact, as models are asked by.
    candidates: dict relation -> its answers, those of the facts among them.
  Raises:
    UserError: no prompt holds its subject, or one is too long or has no place for the answer.
  """
  batches.check_vocabulary(tokenizer.size, model_config)
  prompts = [batches.encode_prompt(tokenizer, text) for text in texts]
  left = batches.is_decoder_only(tokenizer)
  batches.check_room(prompts, model_config, 0)
  window = getattr(model_config, "sliding_window", None)
  seen = [min(len(tokens), window or len(tokens)) for tokens in prompts]
  opening = 1 if left and tokenizer.bos is not None else 0
  places = [
    [opening + place for place in subjects.tokens_of(tokenizer, text, fact["subject"])]
    for fact, text in zip(facts, texts)
  ]
  marked = [
    [place for place in one if place >= len(tokens) - number]
    for one, tokens, number in zip(places, prompts, seen)
  ]
  _say_missing(facts, texts, marked)
  first_text = {}
  for fact, text in zip(facts, texts):
    first_text.setdefault(fact["relation"], text)
  first = {
    relation: {
      answer: tokens[0 if left else 1]
      for answer, tokens in zip(
        candidates[relation], ranking.sequences(tokenizer, relation, candidates, text)
      )
    }
    for relation, text in first_text.items()
  }
  return Asked(
    prompts,
    marked,
    seen,
    [first[fact["relation"]][fact["object"]] for fact in facts],
    [fact["relation"] for fact in facts],
    {relation: sorted(set(of_answer.values())) for relation, of_answer in first.items()},
    left,
    None if left else tokenizer.sentinel(0),
  )


def observe(params, model_config, asked, *, batch_size=64, mesh=None):
  """What a model attends to of facts' subjects, and what it reads there: dict of arrays, a row a fact.

  Args:
    asked: from `prepare`. batch_size: facts at a time. mesh: devices to share each batch over.
  Returns:
    `subject_tokens` and `tokens`, int32 [facts]: the subject's, and all that the query sees; the quotient is the mass of
    uniform attention. `sites`: names. For each site float32 [facts, N, H], NaN for facts without their subject:
    `SITE/mass`: attention to the subject's tokens, of 1;
    and but for "encoder", as logits of the answer's first token less the mean of those of the relation's answers' distinct
    first tokens:
    `SITE/contribution`, `SITE/contribution_rest`: what the head adds directly, through its output projection, the last norm
    with its statistic held, and the model's head, by what it reads from the subject's tokens, and from all others;
    `SITE/salience`: the former with weight 1 in the place of attention, averaged over the subject's tokens. The paper's
    S(s, r, a) = phi(a)^T W_V phi(s), how strongly the fact is stored in what the head would read of the subject.
  """
  params, spread = batches.placed(params, mesh)
  places = [place for place, marked in enumerate(asked.marked) if marked]
  places.sort(key=lambda place: len(asked.prompts[place]))
  pending = []
  found = {}
  done = 0
  for part, rows in batches.split(places, batch_size):
    interruption.raise_if_requested()
    batch = map(spread, _batch(asked, part, rows, model_config.vocab_size))
    pending.append((list(part), _observe(params, model_config, *batch)))
  progress = Progress("attention", len(places))
  for part, arrays in pending:  # only now wait for the devices
    interruption.raise_if_requested()
    for name, array in partitioning.fetch(arrays).items():
      whole = found.setdefault(
        name, np.full((len(asked.prompts), *array.shape[1:]), np.nan, np.float32)
      )
      whole[part] = array[: len(part)]
    done += len(part)
    progress.update(done)
  return {
    "subject_tokens": np.array([len(marked) for marked in asked.marked], np.int32),
    "tokens": np.array(asked.seen, np.int32),
    "sites": [site for site in SITES if f"{site}/mass" in found],
    **found,
  }


def write(path, facts, found):
  """Writes what `observe` found of facts: a .npz file without pickles, whole or not at all.

  Beside its arrays there are `subject`, `relation`, `object` (texts) and `popularity` (float64, NaN where there is none).
  """
  texts = {
    name: np.array([fact[name] for fact in facts], np.str_)
    for name in ("subject", "relation", "object")
  }
  popularity = np.array([fact.get("popularity") for fact in facts], np.float64)  # None becomes NaN
  with files.atomic_write(path, binary=True) as file:
    np.savez(
      file, **texts, popularity=popularity, **{**found, "sites": np.array(found["sites"], np.str_)}
    )


def _say_missing(facts, texts, marked):
  """Says how many facts have no subject in their prompt. UserError where none has one."""
  missing = sum(not places for places in marked)
  if missing == len(facts):
    example = f", as of {facts[0]['subject'][:60]!r}: {texts[0][:120]!r}" if facts else ""
    raise UserError(
      f"attention: expected prompts that hold their subject word for word, got none in {len(facts)} "
      f"facts{example}; leave out attention=True"
    )
  if missing:
    print(
      f"  attention: {missing} of {len(facts)} facts are left out, as their prompts do not hold the subject word for "
      "word",
      flush=True,
    )


def _batch(asked, part, rows, vocabulary):
  """What `families.observe` takes of some facts, then of padding: inputs, places, marked, gold and among, a row each."""
  inputs_BxS = batches.pad(asked.prompts, part, rows, asked.left)
  length = inputs_BxS.shape[1]
  place_B = np.full(rows, length - 1 if asked.left else 0, np.int32)
  gold_B = np.zeros(rows, np.int32)
  marked_BxS = np.zeros((rows, length), bool)
  among_BxV = np.zeros((rows, vocabulary), bool)
  for row, place in enumerate(part):
    tokens = asked.prompts[place]
    marked_BxS[row, np.array(asked.marked[place]) + (length - len(tokens) if asked.left else 0)] = (
      True
    )
    if not asked.left:
      place_B[row] = len(tokens) - 1 - tokens[::-1].index(asked.blank)
    gold_B[row] = asked.gold[place]
    among_BxV[row, asked.among[asked.relations[place]]] = True
  return inputs_BxS, place_B, marked_BxS, gold_B, among_BxV


@functools.partial(jax.jit, static_argnums=1)
def _observe(params, config, inputs_BxS, place_B, marked_BxS, gold_B, among_BxV):
  """The arrays of `observe` for a batch, {"SITE/QUANTITY": [B, N, H]}."""
  found = {}
  sites = families.of(config).observe(
    params, config, inputs_BxS, place_B, marked_BxS, gold_B, among_BxV
  )
  for site, seen in sites.items():
    found[f"{site}/mass"] = jnp.where(marked_BxS[None, :, None], seen.weights, 0).sum(axis=-1)
    if site != "encoder":
      found |= {
        f"{site}/contribution": seen.marked,
        f"{site}/contribution_rest": seen.rest,
        f"{site}/salience": seen.mean,
      }
  return {name: jnp.moveaxis(array, 0, 1) for name, array in found.items()}

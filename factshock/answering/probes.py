"""Attention of real transformers to a fact's subject, and the fact's salience.

The theory of Ghosal, Hashimoto and Raghunathan 2024 (arXiv 2406.14785) is of one layer and one head
whose last query sees a subject and a relation token. Here every layer n and head h is probed, at a
site:

  "encoder": T5; the query of the blank <extra_id_0> among the inputs.
  "cross":   T5; the query of the decoder that predicts the answer's first token (inputs: 0,
             <extra_id_0>), over the encoder's output.
  "self":    decoders; the query of the prompt's last token, which predicts the answer's
             first, as far back as its window goes.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from factshock.answering import batches, ranking
from factshock.checkpoints.loading import LoadedModel
from factshock.data import sentinels, subjects
from factshock.devices import partitioning
from factshock.models import families
from factshock.models.model_config import ModelConfig
from factshock.runtime import files, interruption, messages
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress
from factshock.types import Array, Candidates, Fact, Params

SITES = ("encoder", "cross", "self")

# What `observe` returns: arrays by name, and the names of the sites.
Observations: TypeAlias = dict[str, Any]

# The indices of a batch's facts, and the arrays of `observe` for it, on the devices.
_Pending: TypeAlias = tuple[list[int], Mapping[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class ProbeQueries:
  """Holds what `observe` needs of the facts beside the weights.

  Attributes:
    prompts: token ids.
    marked: positions of the subject's tokens that the query sees; empty where there are none.
    seen: how many tokens the query sees.
    gold: the answer's first token.
    relations: names.
    among: of each relation its answers' distinct first tokens.
    left: whether padding stands before the tokens, as of decoder-only models.
    blank: the token of <extra_id_0>, if the family has one.
  """

  prompts: list[list[int]]
  marked: list[list[int]]
  seen: list[int]
  gold: list[int]
  relations: list[str]
  among: dict[str, list[int]]
  left: bool
  blank: int | None


class _ProbeBatch(NamedTuple):
  """Holds some facts, then padding, a row each, as a family's `observe` takes them.

  Attributes:
    inputs_BxS: token ids.
    position_B: where the blank stands among them, or the last token.
    marked_BxS: whether a token is the subject's.
    gold_B: the answer's first token.
    among_BxV: whether a token is the first of one of the relation's answers.
  """

  inputs_BxS: np.ndarray
  position_B: np.ndarray
  marked_BxS: np.ndarray
  gold_B: np.ndarray
  among_BxV: np.ndarray


def prepare(
  model: LoadedModel,
  facts: Sequence[Fact],
  texts: Sequence[str],
  candidates: Candidates,
) -> ProbeQueries:
  """Tokenizes facts' prompts and answers once, for any number of weights; prints how many it can't.

  Args:
    model: a model of the config and tokenizer; its weights are not read.
    facts: the facts.
    texts: the prompt of each fact.
    candidates: answers by relation, those of the facts among them.

  Raises:
    UserError: no prompt holds its subject, or one is too long or has no blank for the answer.
  """
  tokenizer = model.tokenizer
  batches.check_vocabulary(tokenizer.size, model.model_config)
  prompts = [batches.encode_prompt(model, text) for text in texts]
  longest = max(map(len, prompts), default=0)
  batches.check_length(longest, model.model_config, 0)
  seen = [_seen_count(model.model_config, tokens) for tokens in prompts]
  marked = []
  for fact, text, tokens, count in zip(facts, texts, prompts, seen):
    positions = _subject_positions(model, text, fact["subject"])
    marked.append([position for position in positions if position >= len(tokens) - count])
  _report_missing(facts, texts, marked)
  first_tokens = _first_tokens(model, facts, texts, candidates)
  among = {name: sorted(set(tokens.values())) for name, tokens in first_tokens.items()}
  return ProbeQueries(
    prompts=prompts,
    marked=marked,
    seen=seen,
    gold=[first_tokens[fact["relation"]][fact["object"]] for fact in facts],
    relations=[fact["relation"] for fact in facts],
    among=among,
    left=model.decoder_only,
    blank=None if model.decoder_only else tokenizer.sentinel(0),
  )


def _seen_count(config: ModelConfig, tokens: Sequence[int]) -> int:
  """Returns how many of a prompt's tokens its last one sees: as far back as its window goes."""
  window = getattr(config, "reach", None)
  if not window:
    return len(tokens)
  return min(len(tokens), window)


def _subject_positions(
  model: LoadedModel,
  text: str,
  subject: str,
) -> list[int]:
  """Returns the positions of the subject's tokens in a prompt, with BOS counted where it is."""
  tokenizer = model.tokenizer
  text = sentinels.as_text(text) if model.decoder_only else text
  opening = len(tokenizer.opening) if model.decoder_only else 0
  return [opening + index for index in subjects.tokens_of(tokenizer, text, subject)]


def _first_tokens(
  model: LoadedModel,
  facts: Sequence[Fact],
  texts: Sequence[str],
  candidates: Candidates,
) -> dict[str, dict[str, int]]:
  """Returns the first token of each relation's answers, as they go on after its first prompt."""
  first_text: dict[str, str] = {}
  for fact, text in zip(facts, texts):
    first_text.setdefault(fact["relation"], text)
  index = 0 if model.decoder_only else 1  # after <extra_id_0>
  first_tokens = {}
  for relation, text in first_text.items():
    sequences = ranking.sequences(model, relation, candidates, text)
    answers = candidates[relation]
    firsts = [tokens[index] for tokens in sequences]
    first_tokens[relation] = dict(zip(answers, firsts))
  return first_tokens


def observe(
  model: LoadedModel,
  queries: ProbeQueries,
  *,
  batch_size: int = 64,
) -> Observations:
  """Returns what a model attends to of facts' subjects, and what it reads there.

  Args:
    model: the model to probe.
    queries: from `prepare`.
    batch_size: facts at a time.

  Returns:
    A dict of arrays, a row a fact.
    `subject_tokens` and `tokens`, int32 [facts]: the subject's, and all that the query sees; the
    quotient is the mass of uniform attention. `sites`: names. For each site float32 [facts, N, H],
    NaN for facts without their subject:
    `SITE/mass`: attention to the subject's tokens, of 1;
    and but for "encoder", as logits of the answer's first token less the mean of those of the
    relation's answers' distinct first tokens:
    `SITE/contribution`, `SITE/contribution_rest`: what the head adds directly, through its output
    projection, the last norm with its statistic held, and the model's head, by what it reads from
    the subject's tokens, and from all others;
    `SITE/salience`: the former with weight 1 in the place of attention, averaged over the subject's
    tokens. The paper's S(s, r, a) = phi(a)^T W_V phi(s), how strongly the fact is stored in what
    the head would read of the subject.
  """
  observed = _gather(_observe_all(model, queries, batch_size), len(queries.prompts))
  return {
    "subject_tokens": np.array([len(marked) for marked in queries.marked], np.int32),
    "tokens": np.array(queries.seen, np.int32),
    "sites": [site for site in SITES if f"{site}/mass" in observed],
    **observed,
  }


def _observe_all(
  model: LoadedModel,
  queries: ProbeQueries,
  batch_size: int,
) -> list[_Pending]:
  """Returns the arrays of all batches of facts that have their subject, maybe not yet computed."""
  config = model.model_config
  params, spread = batches.place(model)
  indices = [index for index, marked in enumerate(queries.marked) if marked]
  indices.sort(key=lambda index: len(queries.prompts[index]))
  pending = []
  for part, rows in batches.split(indices, batch_size):
    interruption.raise_if_requested()
    batch = _batch(queries, part, rows, config.vocab_size)
    arrays = _observe(params, config, *map(spread, batch))
    pending.append((list(part), arrays))
  return pending


def _gather(pending: Sequence[_Pending], count: int) -> dict[str, np.ndarray]:
  """Returns the arrays of batches in the order of `count` facts, NaN where a fact is in none."""
  progress = Progress("attention", sum(len(indices) for indices, _ in pending), compiles=True)
  observed: dict[str, np.ndarray] = {}
  done = 0
  for indices, arrays in pending:  # only now wait for the devices
    interruption.raise_if_requested()
    for name, array in partitioning.fetch(arrays).items():
      shape = (count, *array.shape[1:])
      values = observed.setdefault(name, np.full(shape, np.nan, np.float32))
      values[indices] = array[: len(indices)]
    done += len(indices)
    progress.update(done)
  return observed


def write(
  path: str,
  facts: Sequence[Fact],
  observations: Observations,
) -> None:
  """Writes what `observe` returned for facts: a .npz file without pickles, whole or not at all.

  Beside its arrays there are `subject`, `relation`, `object` (texts) and `popularity` (float64, NaN
  where there is none).
  """
  arrays: dict[str, Any] = {
    name: np.array([fact[name] for fact in facts], np.str_)
    for name in ("subject", "relation", "object")
  }
  # None becomes NaN.
  arrays["popularity"] = np.array([fact.get("popularity") for fact in facts], np.float64)
  arrays |= observations
  arrays["sites"] = np.array(observations["sites"], np.str_)
  with files.atomic_write(path, binary=True) as file:
    np.savez(file, **arrays)


def _report_missing(
  facts: Sequence[Fact],
  texts: Sequence[str],
  marked: Sequence[Sequence[int]],
) -> None:
  """Prints how many facts have no subject in their prompt.

  Raises:
    UserError: none has one.
  """
  missing = sum(not positions for positions in marked)
  if missing == len(facts):
    example = f", as of {facts[0]['subject'][:60]!r}: {texts[0][:120]!r}" if facts else ""
    raise UserError(
      "attention: expected prompts that hold their subject word for word, got none in "
      f"{len(facts)} facts{example}; leave out attention=True"
    )
  if missing:
    messages.say(
      f"  attention: {missing} of {len(facts)} facts are left out, as their prompts do not hold "
      "the subject word for word"
    )


def _batch(
  queries: ProbeQueries,
  indices: Sequence[int],
  rows: int,
  vocabulary: int,
) -> _ProbeBatch:
  """Returns the batch of some facts, padded to a number of rows."""
  inputs_BxS = batches.pad(queries.prompts, indices, rows, queries.left)
  length = inputs_BxS.shape[1]
  last = length - 1 if queries.left else 0
  position_B = np.full(rows, last, np.int32)
  gold_B = np.zeros(rows, np.int32)
  marked_BxS = np.zeros((rows, length), bool)
  among_BxV = np.zeros((rows, vocabulary), bool)
  for row, index in enumerate(indices):
    tokens = queries.prompts[index]
    start = length - len(tokens) if queries.left else 0
    columns = start + np.array(queries.marked[index])
    marked_BxS[row, columns] = True
    if queries.blank is not None:
      after_blank = tokens[::-1].index(queries.blank)
      position_B[row] = len(tokens) - 1 - after_blank
    gold_B[row] = queries.gold[index]
    relation = queries.relations[index]
    among_BxV[row, queries.among[relation]] = True
  return _ProbeBatch(inputs_BxS, position_B, marked_BxS, gold_B, among_BxV)


@functools.partial(jax.jit, static_argnums=1)
def _observe(
  params: Params,
  config: ModelConfig,
  inputs_BxS: Array,
  position_B: Array,
  marked_BxS: Array,
  gold_B: Array,
  among_BxV: Array,
) -> Mapping[str, jax.Array]:
  """Returns the arrays of `observe` for a batch, {"SITE/QUANTITY": [B, N, H]}."""
  observed = {}
  sites = families.of(config).observe(
    params, config, inputs_BxS, position_B, marked_BxS, gold_B, among_BxV
  )
  for site, read in sites.items():
    marked_weights = jnp.where(marked_BxS[None, :, None], read.weights, 0)
    observed[f"{site}/mass"] = marked_weights.sum(axis=-1)
    if site != "encoder":
      observed[f"{site}/contribution"] = read.marked
      observed[f"{site}/contribution_rest"] = read.rest
      observed[f"{site}/salience"] = read.mean
  return {name: jnp.moveaxis(array, 0, 1) for name, array in observed.items()}

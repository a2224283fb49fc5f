"""Categories of what a model knows of each fact before finetuning: SLiCK.

Gekhman et al. 2024 (arXiv 2405.05904). A fact is put to the model with several sets of shots, each
greedily and by sampling at temperature 0.5:
HighlyKnown: every greedy answer is right; MaybeKnown: some are; WeaklyKnown: none, but a sampled
one is; Unknown: no answer is right. Right is exact match (predictions/accuracy) with the object or
an alias.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import numpy as np

from factshock.data import prompts
from factshock.predictions import accuracy
from factshock.runtime.progress import Progress
from factshock.types import Fact

CATEGORIES = ("HighlyKnown", "MaybeKnown", "WeaklyKnown", "Unknown")


class KnownFact(Fact):
  """Holds a fact with what a model knows of it.

  `known` is the category, `greedy_right` the share of the greedy answers that are right, and
  `confidence` the share of the sampled ones, or of facts with choices the probability of the right
  choice.
  """

  known: str
  greedy_right: float
  confidence: float


class GenerateTexts(Protocol):
  """Answers prompts: greedily, or where temperature and seed are given by sampling."""

  def __call__(self, prompts: Sequence[str], /, **sampling: Any) -> list[str]:
    """Returns the answers' texts; `sampling` is empty, or holds temperature and seed."""
    ...


def category(
  greedy_right_E: Sequence[bool] | np.ndarray, sampled_right: Sequence[bool] | np.ndarray
) -> str:
  """Returns the category of a fact from which of its answers were right.

  Args:
    greedy_right_E: of the greedy answers.
    sampled_right: of the sampled ones, any number.
  """
  greedy_E = np.asarray(greedy_right_E, bool)
  if greedy_E.all():
    return "HighlyKnown"
  if greedy_E.any():
    return "MaybeKnown"
  return "WeaklyKnown" if np.any(sampled_right) else "Unknown"


def columns(
  facts: Sequence[Fact],
  greedy_ExN: Sequence[Sequence[str]],
  sampled_ExMxN: Sequence[Sequence[Sequence[str]]],
) -> list[KnownFact]:
  """Returns the facts with what the answers say of each.

  Args:
    facts: N facts.
    greedy_ExN: answers to each of N facts, for each of E sets of shots.
    sampled_ExMxN: M samples of each.
  """
  known = []
  for index, fact in enumerate(facts):
    greedy = [answers_N[index] for answers_N in greedy_ExN]
    sampled = [answers_N[index] for samples in sampled_ExMxN for answers_N in samples]
    greedy_right_E = _are_right(greedy, fact)
    sampled_right = _are_right(sampled, fact)
    confidence = float(sampled_right.mean())
    known.append(_known_fact(fact, greedy_right_E, sampled_right, confidence))
  return known


def _are_right(answers: Sequence[str], fact: Fact) -> np.ndarray:
  accepted = [fact["object"], *(fact.get("aliases") or [])]
  return np.array([accuracy.score(answer, accepted)[0] == 1 for answer in answers])


def choice_columns(facts: Sequence[Fact], log_p_ExNxC: Sequence[np.ndarray]) -> list[KnownFact]:
  """Returns the facts with what the likelihoods of their own choices say of each.

  `confidence` is the probability of the right choice among the choices, over the sets of shots; the
  categories are by the likeliest choice, without samples (never WeaklyKnown).

  Args:
    facts: N facts with choices.
    log_p_ExNxC: for each of E sets of shots and N facts the scores of the fact's choices, natural
      logarithms.
  """
  known = []
  for index, fact in enumerate(facts):
    right = prompts.choices_of(fact).index(fact["object"])
    scores_ExC = np.stack([scores_NxC[index] for scores_NxC in log_p_ExNxC])
    greedy_right_E = scores_ExC.argmax(axis=1) == right
    log_p_right_E = scores_ExC[:, right] - np.logaddexp.reduce(scores_ExC, axis=1)
    confidence = float(np.exp(log_p_right_E).mean())
    known.append(_known_fact(fact, greedy_right_E, np.zeros(0, bool), confidence))
  return known


def _known_fact(
  fact: Fact,
  greedy_right_E: np.ndarray,
  sampled_right: np.ndarray,
  confidence: float,
) -> KnownFact:
  columns_of_fact = {
    **fact,
    "known": category(greedy_right_E, sampled_right),
    "greedy_right": round(float(greedy_right_E.mean()), 4),
    "confidence": round(confidence, 4),
  }
  return cast(KnownFact, columns_of_fact)


def assess(
  generate: GenerateTexts,
  prompts_of: Callable[[int], Sequence[str]],
  facts: Sequence[Fact],
  *,
  sets: int = 10,
  samples: int = 16,
  temperature: float = 0.5,
  progress: Progress | None = None,
) -> list[KnownFact]:
  """Returns the facts with what a model knows of each, from its answers.

  Args:
    generate: answers prompts.
    prompts_of: gives each fact's prompt with the set of shots of an index.
    facts: the facts.
    sets: sets of shots; the paper's 10.
    samples: samples of each set; the paper's 16.
    temperature: of the samples; the paper's 0.5.
    progress: over sets * (1 + samples) rounds.
  """
  greedy = []
  sampled = []
  done = 0
  for set_index in range(sets):
    texts = prompts_of(set_index)
    greedy.append(generate(texts))
    samples_of_set = []
    for sample in range(samples):
      seed = set_index * samples + sample
      samples_of_set.append(generate(texts, temperature=temperature, seed=seed))
      done += 1
      if progress:
        progress.update(done + set_index + 1, "")
    sampled.append(samples_of_set)
  return columns(facts, greedy, sampled)

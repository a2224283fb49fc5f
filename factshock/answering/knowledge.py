"""What a model knows of each fact before finetuning: the SLiCK categories (Gekhman et al. 2024, 2405.05904).

A fact is asked with several sets of shots, each greedily and by sampling at temperature 0.5:
HighlyKnown: every greedy answer is right; MaybeKnown: some are; WeaklyKnown: none, but a sampled one is;
Unknown: no answer is right. Right is exact match (predictions/accuracy) with the object or an alias.
"""

import numpy as np

from factshock.data import prompts
from factshock.predictions import accuracy

CATEGORIES = ("HighlyKnown", "MaybeKnown", "WeaklyKnown", "Unknown")


def category(greedy_right_E, sampled_right):
  """The category of a fact from which of its answers were right: bool arrays of any size, greedy and sampled."""
  greedy = np.asarray(greedy_right_E, bool)
  if greedy.all():
    return "HighlyKnown"
  if greedy.any():
    return "MaybeKnown"
  return "WeaklyKnown" if np.any(sampled_right) else "Unknown"


def columns(facts, greedy_ExN, sampled_ExMxN):
  """The facts with what the answers say of each.

  Args:
    greedy_ExN: answers to each of N facts, for each of E sets of shots; sampled_ExMxN: M samples of each.

  Returns:
    The facts as new dicts with `known` (a category), `greedy_right` (share of the greedy answers that are right)
    and `confidence` (share of the sampled answers that are right).
  """
  found = []
  for place, fact in enumerate(facts):
    accepted = [fact["object"], *(fact.get("aliases") or [])]

    def right(answers):
      return np.array([accuracy.score(answer, accepted)[0] == 1 for answer in answers])

    greedy = right([answers[place] for answers in greedy_ExN])
    sampled = right([answers[place] for samples in sampled_ExMxN for answers in samples])
    found.append(
      {
        **fact,
        "known": category(greedy, sampled),
        "greedy_right": round(float(greedy.mean()), 4),
        "confidence": round(float(sampled.mean()), 4),
      }
    )
  return found


def choice_columns(facts, log_p_ExNxC):
  """The facts with what the likelihoods of their own choices say of each, the columns of `columns`.

  `confidence` is the probability of the right choice among the choices, over the sets of shots; the categories are by the likeliest
  choice, without samples (never WeaklyKnown).

  Args:
    log_p_ExNxC: for each of E sets of shots and N facts the scores of the fact's choices, natural logarithms.
  """
  found = []
  for place, fact in enumerate(facts):
    right = prompts.choices_of(fact).index(fact["object"])
    scores_ExC = np.stack([scores[place] for scores in log_p_ExNxC])
    greedy_E = scores_ExC.argmax(axis=1) == right
    confidence_E = np.exp(scores_ExC[:, right] - np.logaddexp.reduce(scores_ExC, axis=1))
    found.append(
      {
        **fact,
        "known": category(greedy_E, ()),
        "greedy_right": round(float(greedy_E.mean()), 4),
        "confidence": round(float(confidence_E.mean()), 4),
      }
    )
  return found


def assess(generate, prompts_of, facts, *, sets=10, samples=16, temperature=0.5, progress=None):
  """The facts with the columns of `columns`, from a model's answers.

  Args:
    generate: function of (prompts, and for samples temperature= and seed=) that gives the answers' texts.
    prompts_of: function of a set's number that gives each fact's prompt with that set of shots.
    sets, samples, temperature: the paper's 10, 16 and 0.5.
    progress: console.Progress over sets * (1 + samples) rounds, or None.
  """
  greedy = []
  sampled = []
  done = 0
  for number in range(sets):
    texts = prompts_of(number)
    greedy.append(generate(texts))
    sampled.append([])
    for sample in range(samples):
      sampled[-1].append(generate(texts, temperature=temperature, seed=number * samples + sample))
      done += 1
      if progress:
        progress.update(done + number + 1, "")
  return columns(facts, greedy, sampled)

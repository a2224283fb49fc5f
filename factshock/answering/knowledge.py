"""What a model knows of each fact before finetuning: the SLiCK categories (Gekhman et al. 2024, 2405.05904).

A fact is asked with several sets of shots, each greedily and by sampling at temperature 0.5:
HighlyKnown: every greedy answer is right; MaybeKnown: some are; WeaklyKnown: none, but a sampled one is;
Unknown: no answer is right. Right is exact match (diagnosis/accuracy) with the object or an alias.
"""

import numpy as np

from factshock.diagnosis import accuracy

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
    found.append({**fact, "known": category(greedy, sampled), "greedy_right": round(float(greedy.mean()), 4),
                  "confidence": round(float(sampled.mean()), 4)})
  return found


def assess(generate, prompts_of, facts, *, sets=10, samples=16, temperature=0.5, progress=None):
  """The facts with the columns of `columns`, from a model's answers.

  Args:
    generate: function of (prompts, and for samples temperature= and seed=) that gives the answers' texts.
    prompts_of: function of a set's number that gives each fact's prompt with that set of shots.
    sets, samples, temperature: the paper's 10, 16 and 0.5.
    progress: console.Progress over sets * (1 + samples) rounds, or None.
  """
  greedy, sampled, done = [], [], 0
  for number in range(sets):
    prompts = prompts_of(number)
    greedy.append(generate(prompts))
    sampled.append([])
    for sample in range(samples):
      sampled[-1].append(generate(prompts, temperature=temperature, seed=number * samples + sample))
      done += 1
      if progress:
        progress.update(done + number + 1, "")
  return columns(facts, greedy, sampled)

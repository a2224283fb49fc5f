"""Does a promised precision hold, and what does it yield? Trials on labelled predictions, split at random by subject.

In each trial half of the subjects calibrate (curves, guard, threshold) and the other half are asked, as `extract` would; then the
answers accepted there are compared with the right ones.
"""

from typing import NamedTuple

import numpy as np

from factshock.console import UserError
from factshock.diagnosis import calibration
from factshock.knowledge_graph import answers as answer_room
from factshock.knowledge_graph import extraction


class Trial(NamedTuple):
  """Of the half that was asked: counts of queries, accepted answers, and right ones among these."""
  queries: int
  accepted: int
  right: int
  first_right: int  # right first answers where all are accepted
  reachable: int    # right answers at the lowest threshold that has the precision on this half itself: what no rule could promise


def run(labelled, target, *, splits=10, seed=0, counts=None, method=None):
  """A list of `splits` Trials of the precision `target` on Answers with golds; the splits depend on subjects and seed alone."""
  subjects = sorted(set(labelled.subjects))
  place = {subject: i for i, subject in enumerate(subjects)}
  subject_Q = np.array([place[subject] for subject in labelled.subjects])
  return [_trial(labelled, subject_Q, np.random.default_rng([seed, split]).permutation(len(subjects)) < len(subjects) // 2, target,
                 counts, method) for split in range(splits)]


def held(trial, target):
  """Whether the accepted answers were as precise as promised; True where nothing was accepted."""
  return trial.right >= target * trial.accepted - 1e-9


def summary(trials_of_seeds, target, *, resamples=2000, confidence=.95, seed=0):
  """What {seed: list of Trials} of one arm say; `yield` is the share of queries with an accepted right answer.

  Intervals: percentiles of a bootstrap that draws seeds, and of each drawn seed its splits, with replacement. The splits of one seed
  share their queries, so that with one seed the interval is of splits alone.

  Returns:
    Dict of `splits`, `held`, `empty` (nothing accepted: the promise holds without saying anything), `held_by_seed`; and `precision` of
    all accepted answers, `yield`, `reachable`, `accepted_share` and `first_right` as {mean, low, high}.
  """
  trials = [one for of_seed in trials_of_seeds.values() for one in of_seed]
  if not trials:
    raise UserError("trials: expected at least one, got none")
  rng, seeds = np.random.default_rng(seed), list(trials_of_seeds.values())
  measures = {"yield": lambda some: np.mean([one.right / one.queries for one in some]),
              "accepted_share": lambda some: np.mean([one.accepted / one.queries for one in some]),
              "precision": lambda some: _ratio(sum(one.right for one in some), sum(one.accepted for one in some)),
              "reachable": lambda some: np.mean([one.reachable / one.queries for one in some]),
              "first_right": lambda some: np.mean([one.first_right / one.queries for one in some])}
  draws = [[seeds[i][j] for i in rng.integers(0, len(seeds), len(seeds)) for j in rng.integers(0, len(seeds[i]), len(seeds[i]))]
           for _ in range(resamples)]
  found = {name: _estimate(measure, trials, draws, confidence) for name, measure in measures.items()}
  return {"splits": len(trials), "held": sum(held(one, target) for one in trials), "empty": sum(one.accepted == 0 for one in trials),
          "held_by_seed": [sum(held(one, target) for one in of_seed) for of_seed in seeds], **found}


def _trial(labelled, subject_Q, calibrates_S, target, counts, method):
  known = answer_room.take(labelled, calibrates_S[subject_Q])
  asked = answer_room.take(labelled, ~calibrates_S[subject_Q])
  fitted = extraction.fit(known, asked, counts=counts, method=method)
  judged, right_N = extraction.judge(fitted, asked), answer_room.right(asked)
  accepted_N = extraction.by_precision(judged, extraction.threshold(fitted, known, asked, target))
  units = judged.chosen_N
  reachable = calibration.yield_at(target, judged.confidence_N[units], right_N[units], asked.score_N[units]).right if units.any() else 0
  return Trial(len(asked.subjects), int(accepted_N.sum()), int(right_N[accepted_N].sum()), int(right_N[asked.rank_N == 1].sum()), reachable)


def _estimate(measure, trials, draws, confidence):
  samples = np.array([measure(some) for some in draws])
  known = samples[~np.isnan(samples)]
  low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist() if len(known) else (None, None)
  mean = float(measure(trials))
  return {"mean": None if np.isnan(mean) else mean, "low": low, "high": high}


def _ratio(a, b):
  return a / b if b else np.nan

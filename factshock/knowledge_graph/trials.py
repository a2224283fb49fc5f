"""Does a promised precision hold, and what does it yield? Trials on labelled predictions, split at random by subject.

In each trial half of the subjects calibrate (curves, guard, threshold) and the other half are asked, as `extract` would; then the
answers accepted there are compared with the right ones.
"""

from typing import NamedTuple

import numpy as np

from factshock.diagnosis import calibration, statistics, table
from factshock.knowledge_graph import answers as answer_room
from factshock.knowledge_graph import extraction
from factshock.runtime.errors import UserError


class Trial(NamedTuple):
  """Of the half that was asked: counts of queries, accepted answers, and right ones among these."""

  queries: int
  accepted: int
  right: int
  first_right: int  # right first answers where all are accepted
  reachable: int  # right answers at the lowest threshold that has the precision on this half itself: what no rule could promise


def run(labelled, target, *, splits=10, seed=0, counts=None, method=None):
  """A list of `splits` Trials of the precision `target` on Answers with golds; the splits depend on subjects and seed alone."""
  subjects = sorted(
    set(labelled.subjects)
  )  # by name, so that splits do not depend on the order of rows
  place = {subject: i for i, subject in enumerate(subjects)}
  subject_Q = np.array([place[subject] for subject in labelled.subjects])
  return [
    _trial(
      labelled,
      subject_Q,
      np.random.default_rng([seed, split]).permutation(len(subjects)) < len(subjects) // 2,
      target,
      counts,
      method,
    )
    for split in range(splits)
  ]


def held(trial, target):
  """Whether the accepted answers were as precise as promised; True where nothing was accepted."""
  return trial.right >= target * trial.accepted - 1e-9


MEASURES = ("yield", "reachable", "accepted_share", "precision", "first_right")


def compare(arms, target, *, resamples=2000, confidence=0.95, seed=0):
  """What {label: {seed: list of Trials}} say, the first arm the one that others are compared with.

  Intervals: percentiles of a bootstrap that draws seeds, and of each drawn seed its splits, with replacement, the same ones for every
  arm. The splits of one seed share their queries, so that with one seed the interval is of splits alone.

  Returns:
    {label: dict} of `splits`, `held`, `empty` (nothing accepted: the promise holds and says nothing), `held_by_seed`; of MEASURES as
    {mean, low, high}: the shares of queries with an accepted right answer (`yield`), with one at the best threshold by the asked half's own
    labels (`reachable`, what no rule can promise), with an accepted answer, and with a right first answer; `precision` is of all accepted
    answers. And `difference`, of yield and reachable, from the first arm.

  Raises:
    UserError: arms of other seeds than the first.
  """
  first = next(iter(arms.values()))
  rng = np.random.default_rng(seed)
  for label, of_seed in arms.items():
    if of_seed.keys() != first.keys():
      raise UserError(
        f"arm {label!r}: expected the seeds of the first arm, {sorted(first)}, got {sorted(of_seed)}"
      )
  sizes = [len(trials) for trials in first.values()]
  draws = [
    (seed_S, [rng.integers(0, sizes[one], sizes[one]) for one in seed_S])
    for seed_S in (rng.integers(0, len(sizes), len(sizes)) for _ in range(resamples))
  ]
  tables = {label: _measured(list(of_seed.values())) for label, of_seed in arms.items()}
  drawn = {label: _drawn(table, draws) for label, table in tables.items()}
  base = next(iter(arms))
  return {
    label: _counted(list(of_seed.values()), target)
    | {
      name: _estimate(_means(tables[label])[name], drawn[label][name], confidence)
      for name in MEASURES
    }
    | {
      "difference": {
        name: _estimate(
          _means(tables[label])[name] - _means(tables[base])[name],
          drawn[label][name] - drawn[base][name],
          confidence,
        )
        for name in ("yield", "reachable")
      }
      if label != base
      else None
    }
    for label, of_seed in arms.items()
  }


def lines(found, target):
  """The comparison as lines of a table for the terminal."""
  rows = [
    [
      "arm",
      "held",
      "nothing accepted",
      "precision",
      "yield",
      "reachable",
      "right",
      "yield - first",
      "reachable - first",
    ]
  ]
  for label, one in found.items():
    apart = one["difference"] or {"yield": None, "reachable": None}
    rows.append(
      [
        label,
        f"{one['held']}/{one['splits']}",
        f"{one['empty']}/{one['splits']}",
        *(table.estimate(one[name]) for name in ("precision", "yield", "reachable", "first_right")),
        *(table.estimate(apart[name]) for name in ("yield", "reachable")),
      ]
    )
  return [
    f"A precision of {target:.0%} promised on half of the subjects, and what it gave on the other half",
    *table.aligned(rows),
  ]


def _counted(seeds, target):
  trials = [one for of_seed in seeds for one in of_seed]
  return {
    "splits": len(trials),
    "held": sum(held(one, target) for one in trials),
    "empty": sum(one.accepted == 0 for one in trials),
    "held_by_seed": [sum(held(one, target) for one in of_seed) for of_seed in seeds],
  }


def _measured(seeds):
  """Counts [seed, split, 5] of the trials: right, reachable, accepted, first right, queries."""
  return [
    np.array(
      [[one.right, one.reachable, one.accepted, one.first_right, one.queries] for one in trials],
      float,
    )
    for trials in seeds
  ]


def _means(tables):
  return _of_counts(np.concatenate(tables))


def _of_counts(counts_Tx5):
  """The measures of trials: shares of queries are means over trials, precision is of all accepted answers."""
  right, reachable, accepted, first, queries = counts_Tx5.T
  return {
    "yield": np.mean(right / queries),
    "reachable": np.mean(reachable / queries),
    "accepted_share": np.mean(accepted / queries),
    "precision": right.sum() / accepted.sum() if accepted.any() else np.nan,
    "first_right": np.mean(first / queries),
  }


def _drawn(tables, draws):
  found = [
    _of_counts(np.concatenate([tables[one][splits] for one, splits in zip(*draw)]))
    for draw in draws
  ]
  return {name: np.array([one[name] for one in found]) for name in MEASURES}


def _trial(labelled, subject_Q, calibrates_S, target, counts, method):
  known = answer_room.take(labelled, calibrates_S[subject_Q])
  asked = answer_room.take(labelled, ~calibrates_S[subject_Q])
  fitted = extraction.fit(known, asked, counts=counts, method=method)
  judged = extraction.judge(fitted, asked)
  right_N = answer_room.right(asked)
  accepted_N = extraction.by_precision(judged, extraction.threshold(fitted, known, asked, target))
  units = judged.chosen_N
  reachable = (
    calibration.yield_at(
      target, judged.confidence_N[units], right_N[units], asked.score_N[units]
    ).right
    if units.any()
    else 0
  )
  return Trial(
    len(asked.subjects),
    int(accepted_N.sum()),
    int(right_N[accepted_N].sum()),
    int(right_N[asked.rank_N == 1].sum()),
    reachable,
  )


def _estimate(mean, samples_R, confidence):
  low, high = statistics.interval(samples_R, confidence)
  return {
    name: None if np.isnan(value) else float(value)
    for name, value in (("mean", mean), ("low", low), ("high", high))
  }

"""Puts the measures of all arms and seeds together: what diagnosis.json holds."""

import collections
import functools

import numpy as np

from factshock.diagnosis import measures, shock, statistics
from factshock.diagnosis import verdict as verdicts
from factshock.diagnosis.notes import NOTES
from factshock.predictions import accuracy
from factshock.runtime.errors import UserError

ACCURACY = ("right", "exact_match", "contains", "f1")
RANKS = (*(f"hits@{k}" for k in accuracy.HITS), "mrr")


def diagnose(
  arms,
  *,
  finetuning=None,
  finetuning_by_arm=None,
  counts=None,
  reference=None,
  known=None,
  pairs=(),
  entity_arms=(),
  criterion="exact_match",
  types=None,
  finetuned=None,
  corrected=None,
  resamples=1000,
  confidence=0.95,
  seed=0,
):
  """All measures of all arms, in the form of diagnosis.json (its `notes` define them).

  Args:
    arms: dict label -> dict seed -> Predictions; all arms of a seed hold the same queries, in any order.
    finetuning: dict seed -> list of (relation, object), the gold answers of the finetuning facts.
    finetuning_by_arm: dict label -> the same, for arms finetuned on other facts.
    counts: dict seed -> dict (relation, entity) -> mentions in pretraining.
    reference: label of the arm that others are compared with (default: the first).
    known: label of the arm whose right answers are the known facts.
    pairs: (arm, against) labels to compare (default: every arm against the reference).
    entity_arms: labels whose predictions of every entity are listed.
    criterion: what makes an answer right, "exact_match" or "contains".
    types: dict relation -> its type (MMLU's "history", LAMA's "N-1"), where averages over each type are wanted.
    finetuned, corrected: labels of an arm and of the same one with its answer prior restored, for a verdict (verdict.py); with
      `known` the verdict tells prior and access apart.
    resamples, confidence, seed: of the bootstrap.

  Returns:
    A dict of plain values, no NaN.

  Raises:
    UserError: no arms, an unknown label, arms of one seed with different queries, arms to compare without a
      common seed, a seed without finetuning answers or counts where others have them.
  """
  reference = _check_labels(
    arms, reference, known, pairs, entity_arms, {"finetuned": finetuned, "corrected": corrected}
  )
  pairs = list(dict.fromkeys(map(tuple, pairs)))
  pairs = pairs or [(label, reference) for label in arms if label != reference]
  if corrected is not None:
    pairs = list(dict.fromkeys([*pairs, *verdicts.pairs(reference, finetuned, corrected)]))
  seeds = sorted({run for by_seed in arms.values() for run in by_seed})
  _check_common_seeds(arms, pairs)
  samples = collections.defaultdict(lambda: collections.defaultdict(dict))
  bins = {}
  entities = []
  for place, run in enumerate(seeds):
    here = {label: by_seed[run] for label, by_seed in arms.items() if run in by_seed}
    trained = {
      label: _of_seed((finetuning_by_arm or {}).get(label, finetuning), run, "finetuning facts")
      for label in here
    }
    count = _of_seed(counts, run, "entity counts")
    default = _of_seed(finetuning, run, "finetuning facts")
    queries = measures.make_queries(
      here,
      reference,
      _distinct_sets([default, *trained.values()]),
      count,
      resamples,
      np.random.default_rng([seed, place]),
    )
    bins[run] = queries.bin_rows
    found, predicted = measures.measure(
      here,
      queries,
      trained,
      count is not None,
      reference=reference,
      known=known,
      pairs=pairs,
      criterion=criterion,
      types=types,
    )
    for label, by_name in found.items():
      for name, sample in by_name.items():
        samples[label][name][run] = sample
    listed = {label: predicted[label] for label in entity_arms if label in predicted}
    entities += measures.entity_rows(run, queries, default, listed) if listed else []
  finish = functools.partial(
    statistics.estimate, resamples=resamples, confidence=confidence, seed=seed
  )
  found = {
    "format": 1,
    "reference": reference,
    "known": known,
    "criterion": criterion,
    "confidence": confidence,
    "resamples": resamples,
    "seeds": seeds,
    "notes": NOTES,
    "arms": {label: _arm(arms[label], samples[label], bins, finish) for label in arms},
    "comparisons": [_comparison(pair, samples[pair], finish) for pair in pairs],
    "entities": entities,
  }
  return (
    found
    if corrected is None
    else {**found, "verdict": verdicts.verdict(found, reference, finetuned, corrected)}
  )


def _check_labels(arms, reference, known, pairs, entity_arms, roles):
  """The reference label; a UserError names the first label that is no arm."""
  if not arms or not all(arms.values()):
    raise UserError("diagnosis: expected predictions of at least one arm and seed, got none")
  reference = next(iter(arms)) if reference is None else reference
  named = [
    ("reference", reference),
    *([("known", known)] if known is not None else []),
    *(("pairs", label) for pair in pairs for label in pair),
    *(("entity_arms", label) for label in entity_arms),
    *((role, label) for role, label in roles.items() if label is not None),
  ]
  if roles["corrected"] is not None and roles["finetuned"] is None:
    raise UserError(
      "a verdict needs both: the label of the finetuned arm and that of the same arm with its prior corrected"
    )
  for role, label in named:
    if label not in arms:
      raise UserError(
        f"{role}: expected the label of an arm, one of {', '.join(arms)}; got {label!r}"
      )
  return reference


def _check_common_seeds(arms, pairs):
  for label, against in pairs:
    if not arms[label].keys() & arms[against].keys():
      raise UserError(
        f"comparison of {label!r} with {against!r}: expected a seed that both arms have, got "
        f"seeds {sorted(arms[label])} and {sorted(arms[against])}"
      )


def _of_seed(by_seed, run, what):
  if by_seed is None:
    return None
  if run not in by_seed:
    raise UserError(f"{what}: expected them for seed {run}, got them for {sorted(by_seed)}")
  return by_seed[run]


def _distinct_sets(many):
  """The sets that are given, each object once."""
  return list({id(found): found for found in many if found is not None}.values())


def _arm(by_seed, samples, bins, finish):
  """One arm of diagnosis.json."""
  found = {"queries": sum(map(len, by_seed.values()))}
  found |= {name: finish(samples[name]) for name in (*ACCURACY, *RANKS) if name in samples}
  popular = [
    _bin(i, samples[f"popularity/{i}"], bins, finish)
    for i in range(measures.BINS)
    if f"popularity/{i}" in samples
  ]
  if popular:
    found["by_popularity"] = popular
  if "macro_right" in samples:
    found["macro_right"] = finish(samples["macro_right"])
    for key in ("relation", "type"):
      found[f"by_{key}"] = {
        name.removeprefix(f"{key}/"): finish(by_seed)
        for name, by_seed in samples.items()
        if name.startswith(f"{key}/")
      }
  if "shock" in samples:
    names = ("shock", "slope", "spearman", "total_variation", "range_shift", "mismatch")
    found["shock"] = {
      "ratio": {group: _ratio(group, samples, finish) for group in shock.GROUPS},
      **{name: finish(samples[name]) for name in names},
    }
    found["errors"] = {
      name: finish(samples[name]) for name in ("finetuning_answer", "rarer_than_gold")
    }
  if "gained" in samples:
    found["flips"] = {name: finish(samples[name]) for name in ("gained", "lost")}
  if "known_kept" in samples:
    found["known_kept"] = finish(samples["known_kept"])
  return found


def _bin(i, by_seed, bins, finish):
  rows = [bins[run][i] for run in by_seed]
  return {
    "low": min(row["low"] for row in rows),
    "high": max(row["high"] for row in rows),
    "queries": sum(row["queries"] for row in rows),
    "right": finish(by_seed),
  }


def _ratio(group, samples, finish):
  return {
    **finish(samples["ratio/" + group]),
    "predicted": _total(samples["predicted/" + group]),
    "gold": _total(samples["gold/" + group]),
  }


def _total(by_seed):
  return int(sum(sample.value for sample in by_seed.values()))


def _comparison(pair, samples, finish):
  wins = _total(samples["wins"])
  losses = _total(samples["losses"])
  exact, middle = statistics.mcnemar(wins, losses)
  difference = finish(samples["difference"])
  apart = {
    name: finish(samples[name])
    for name in ("difference_known", "difference_unknown")
    if name in samples
  }
  same = sum(sample.value * difference["mean"] > 0 for sample in samples["difference"].values())
  return {
    "arm": pair[0],
    "against": pair[1],
    "difference": difference,
    **apart,
    "mcnemar_p": exact,
    "mcnemar_mid_p": middle,
    "wins": wins,
    "losses": losses,
    "seeds_same_sign": f"{same}/{len(samples['difference'])}",
  }

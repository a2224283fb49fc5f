"""Contents of diagnosis.json: the measures of all arms and seeds together."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np

from factshock.diagnosis import measures, shock, statistics
from factshock.diagnosis import queries as query_sets
from factshock.diagnosis import verdict as verdicts
from factshock.diagnosis.notes import NOTES
from factshock.diagnosis.options import DEFAULT_OPTIONS, Options, Pair
from factshock.diagnosis.queries import PopularityBin
from factshock.diagnosis.statistics import DEFAULT_BOOTSTRAP, Bootstrap, Sample, SeedEstimate
from factshock.predictions import accuracy
from factshock.predictions.reading import Predictions, PredictionsByArm
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress
from factshock.types import Answer

ACCURACY = ("right", "exact_match", "contains", "f1")
RANKS = (*(f"hits@{k}" for k in accuracy.HITS), "mrr")
SHOCK = ("shock", "slope", "spearman", "total_variation", "range_shift", "mismatch")
ERRORS = ("finetuning_answer", "rarer_than_gold")

Json: TypeAlias = dict[str, Any]
SamplesBySeed: TypeAlias = dict[str, dict[int, Sample]]  # name of the measure -> seed -> sample
BinsBySeed: TypeAlias = Mapping[int, Sequence[PopularityBin | None]]
Finish: TypeAlias = Callable[[Mapping[int, Sample]], SeedEstimate]
Value = TypeVar("Value")


def diagnose(
  arms: PredictionsByArm,
  options: Options = DEFAULT_OPTIONS,
  bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Json:
  """Returns all measures of all arms, in the form of diagnosis.json (its `notes` define them).

  Args:
    arms: predictions by label and seed; all arms of a seed hold the same queries, in any order.
    options: what is known of the facts, and which arms are compared.
    bootstrap: over queries and seeds.

  Returns:
    Plain values, no NaN.

  Raises:
    UserError: no arms, an unknown label, arms of one seed with different queries, arms to compare
      without a common seed, a seed without finetuning answers or counts where others have them.
  """
  _check_labels(arms, options)
  reference = next(iter(arms)) if options.reference is None else options.reference
  options = dataclasses.replace(
    options, reference=reference, pairs=_compared_pairs(arms, options, reference)
  )
  _check_common_seeds(arms, options.pairs)
  seeds = sorted({seed for by_seed in arms.values() for seed in by_seed})
  measured_twice = 2 * sum(map(len, arms.values()))  # as they are, then resampled
  gathered = _Gathered(Progress("diagnosing", measured_twice))
  for index, seed in enumerate(seeds):
    rng = np.random.default_rng([bootstrap.seed, index])
    of_seed = {label: by_seed[seed] for label, by_seed in arms.items() if seed in by_seed}
    gathered.add_seed(seed, of_seed, options, bootstrap.resamples, rng)
  diagnosis = _contents(arms, seeds, gathered, options, bootstrap)
  if options.finetuned is not None:
    diagnosis["finetuned"] = options.finetuned
  if options.finetuned is not None and options.corrected is not None:
    diagnosis["verdict"] = verdicts.verdict(
      diagnosis, reference, options.finetuned, options.corrected
    )
  return diagnosis


def _contents(
  arms: PredictionsByArm,
  seeds: Sequence[int],
  gathered: "_Gathered",
  options: Options,
  bootstrap: Bootstrap,
) -> Json:
  """Returns diagnosis.json without a verdict."""

  def finish(by_seed: Mapping[int, Sample]) -> SeedEstimate:
    return statistics.estimate(by_seed, bootstrap)

  samples = gathered.samples
  return {
    "format": 1,
    "reference": options.reference,
    "known": options.known,
    "criterion": options.criterion,
    "confidence": bootstrap.confidence,
    "resamples": bootstrap.resamples,
    "seeds": seeds,
    "notes": NOTES,
    "arms": {
      label: {
        **_arm(arms[label], samples[label], gathered.bins, finish),
        **gathered.links_of(label),
      }
      for label in arms
    },
    "comparisons": [_comparison(pair, samples[pair], finish) for pair in options.pairs],
    "entities": gathered.entities,
  }


class _Gathered:
  """Measures of the seeds so far.

  Attributes:
    samples: label or pair -> name of the measure -> seed -> sample.
    bins: seed -> popularity bins.
    entities: rows of the entity table.
    links: label -> how many answers are known ones, were linked to one, and name none.
  """

  def __init__(self, progress: Progress) -> None:
    self._progress = progress
    self.samples: dict[measures.Label, SamplesBySeed] = collections.defaultdict(
      lambda: collections.defaultdict(dict)
    )
    self.bins: dict[int, list[PopularityBin | None]] = {}
    self.entities: list[Json] = []
    self.links: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)

  def links_of(self, label: str) -> Json:
    """Returns {"answers": counts} of an arm; nothing where all its answers are known ones."""
    counts = dict(self.links[label])
    return {"answers": counts} if counts.get("linked") or counts.get("none") else {}

  def add_seed(
    self,
    seed: int,
    arms: Mapping[str, Predictions],
    options: Options,
    resamples: int,
    rng: np.random.Generator,
  ) -> None:
    """Measures all arms of one seed."""
    finetuning_by_arm = options.finetuning_by_arm or {}
    trained = {
      label: _of_seed(finetuning_by_arm.get(label, options.finetuning), seed, "finetuning facts")
      for label in arms
    }
    counts = _of_seed(options.counts, seed, "entity counts")
    default = _of_seed(options.finetuning, seed, "finetuning facts")
    queries = query_sets.make_queries(
      arms,
      cast(str, options.reference),
      _distinct_sets([default, *trained.values()]),
      counts,
      resamples,
      rng,
    )
    self.bins[seed] = queries.bin_rows
    measured, links = measures.measure(
      arms, queries, trained, counts is not None, options, self._progress
    )
    predicted = {label: links_of_arm.entity for label, links_of_arm in links.items()}
    for label, links_of_arm in links.items():
      self.links[label].update(links_of_arm.counts())
    for label, by_name in measured.items():
      for name, sample in by_name.items():
        self.samples[label][name][seed] = sample
    listed = {label: predicted[label] for label in options.entity_arms if label in predicted}
    if listed:
      self.entities += measures.entity_rows(seed, queries, default, listed)


def _check_labels(arms: PredictionsByArm, options: Options) -> None:
  """Checks that every label is an arm's; the UserError names the first that is not."""
  if not arms or not all(arms.values()):
    raise UserError("diagnosis: expected predictions of at least one arm and seed, got none")
  if options.corrected is not None and options.finetuned is None:
    raise UserError(
      "a verdict needs both: the label of the finetuned arm and that of the same arm with its "
      "prior corrected"
    )
  named = [
    ("reference", options.reference),
    ("known", options.known),
    *(("pairs", label) for pair in options.pairs for label in pair),
    *(("entity_arms", label) for label in options.entity_arms),
    ("finetuned", options.finetuned),
    ("corrected", options.corrected),
  ]
  for role, label in named:
    if label is not None and label not in arms:
      raise UserError(
        f"{role}: expected the label of an arm, one of {', '.join(arms)}; got {label!r}"
      )


def _compared_pairs(
  arms: Iterable[str],
  options: Options,
  reference: str,
) -> list[Pair]:
  """Returns the pairs to compare, each once; those of a verdict come last."""
  pairs = [(label, against) for label, against in options.pairs]
  if not pairs:
    pairs = [(label, reference) for label in arms if label != reference]
  if options.finetuned is not None and options.corrected is not None:
    pairs += verdicts.pairs(reference, options.finetuned, options.corrected)
  return list(dict.fromkeys(pairs))


def _check_common_seeds(arms: PredictionsByArm, pairs: Iterable[Pair]) -> None:
  for label, against in pairs:
    if not arms[label].keys() & arms[against].keys():
      raise UserError(
        f"comparison of {label!r} with {against!r}: expected a seed that both arms have, got "
        f"seeds {sorted(arms[label])} and {sorted(arms[against])}"
      )


def _of_seed(
  by_seed: Mapping[int, Value] | None,
  seed: int,
  what: str,
) -> Value | None:
  if by_seed is None:
    return None
  if seed not in by_seed:
    raise UserError(f"{what}: expected them for seed {seed}, got them for {sorted(by_seed)}")
  return by_seed[seed]


def _distinct_sets(sets: Iterable[Sequence[Answer] | None]) -> list[Sequence[Answer]]:
  """Returns the sets that are given, each object once."""
  return list({id(answers): answers for answers in sets if answers is not None}.values())


def _arm(
  by_seed: Mapping[int, Predictions],
  samples: SamplesBySeed,
  bins: BinsBySeed,
  finish: Finish,
) -> Json:
  """Returns one arm of diagnosis.json."""
  arm: Json = {"queries": sum(map(len, by_seed.values()))}
  arm |= _estimates((*ACCURACY, *RANKS), samples, finish)
  quartiles = [i for i in range(query_sets.BINS) if f"popularity/{i}" in samples]
  if quartiles:
    arm["by_popularity"] = [
      _popularity_row(i, samples[f"popularity/{i}"], bins, finish) for i in quartiles
    ]
  if "macro_right" in samples:
    arm["macro_right"] = finish(samples["macro_right"])
    arm["by_relation"] = _by_prefix("relation/", samples, finish)
    arm["by_type"] = _by_prefix("type/", samples, finish)
  if "shock" in samples:
    ratios = {group: _ratio(group, samples, finish) for group in shock.GROUPS}
    arm["shock"] = {"ratio": ratios, **_estimates(SHOCK, samples, finish)}
    arm["errors"] = _estimates(ERRORS, samples, finish)
  if "gained" in samples:
    arm["flips"] = _estimates(("gained", "lost"), samples, finish)
  if "known_kept" in samples:
    arm["known_kept"] = finish(samples["known_kept"])
  return arm


def _estimates(
  names: Iterable[str],
  samples: SamplesBySeed,
  finish: Finish,
) -> Json:
  return {name: finish(samples[name]) for name in names if name in samples}


def _by_prefix(
  prefix: str,
  samples: SamplesBySeed,
  finish: Finish,
) -> Json:
  return {
    name.removeprefix(prefix): finish(by_seed)
    for name, by_seed in samples.items()
    if name.startswith(prefix)
  }


def _popularity_row(
  i: int,
  by_seed: Mapping[int, Sample],
  bins: BinsBySeed,
  finish: Finish,
) -> Json:
  rows = [cast(PopularityBin, bins[seed][i]) for seed in by_seed]
  return {
    "low": min(row["low"] for row in rows),
    "high": max(row["high"] for row in rows),
    "queries": sum(row["queries"] for row in rows),
    "right": finish(by_seed),
  }


def _ratio(
  group: str,
  samples: SamplesBySeed,
  finish: Finish,
) -> Json:
  return {
    **finish(samples["ratio/" + group]),
    "predicted": _total(samples["predicted/" + group]),
    "gold": _total(samples["gold/" + group]),
  }


def _total(by_seed: Mapping[int, Sample]) -> int:
  return int(sum(sample.value for sample in by_seed.values()))


def _comparison(
  pair: Pair,
  samples: SamplesBySeed,
  finish: Finish,
) -> Json:
  """Returns one comparison of diagnosis.json."""
  wins = _total(samples["wins"])
  losses = _total(samples["losses"])
  test = statistics.mcnemar(wins, losses)
  difference = finish(samples["difference"])
  mean = cast(float, difference["mean"])
  same_sign = sum(sample.value * mean > 0 for sample in samples["difference"].values())
  return {
    "arm": pair[0],
    "against": pair[1],
    "difference": difference,
    **_estimates(("difference_known", "difference_unknown"), samples, finish),
    **_ratio_differences(samples, finish),
    "mcnemar_p": test.exact,
    "mcnemar_mid_p": test.middle,
    "wins": wins,
    "losses": losses,
    "seeds_same_sign": f"{same_sign}/{len(samples['difference'])}",
  }


def _ratio_differences(samples: SamplesBySeed, finish: Finish) -> Json:
  """Returns {"ratio_difference": ...} by group of answers; nothing where ratios are unknown."""
  by_group = _by_prefix("ratio_difference/", samples, finish)
  return {"ratio_difference": by_group} if by_group else {}

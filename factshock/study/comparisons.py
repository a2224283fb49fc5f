"""Pairs of arms that a study compares: by their roles and kinds, whatever their names are."""

from collections.abc import Iterable, Iterator

from factshock.predictions.points import Point
from factshock.study import claims, roles
from factshock.study.arms import registry
from factshock.study.arms.kind import Pair
from factshock.study.config import Config

# Sets of facts that are compared where two arms are alike in all else: those of more and less
# popular subjects and all facts (arXiv 2406.14785), those that the model knows or not or is more or
# less sure of, and those whose answers are distributed unlike the test facts' or like them (arXiv
# 2301.11293).
CONTRASTS = {
  "popular_half": ("unpopular_half", "random_half", "whole"),
  "known": ("unknown",),
  "confident_half": ("unconfident_half",),
  "high_mismatch": ("low_mismatch",),
}
# The set that finetuning on any other is compared with: its answers are the world's.
_NATURAL = "natural"

_REMEDY_GROUP = "remedy"


def remedies(config: Config) -> dict[str, str]:
  """Returns the arm that each remedy is to mend, by the remedy's label.

  Remedies are the arms in a group that begins with "remedy", and the mended arms stopped early.
  What is mended is finetuning on the same facts without further options.
  """
  plain: dict[str, str] = {}
  for name in config.arms:
    if roles.is_plain(config, name):
      plain.setdefault(config.arms[name].facts, name)
  mended_by_remedy = {}
  for name in config.arms:
    if registry.group(config, name).startswith(_REMEDY_GROUP):
      mended = plain.get(roles.finetuning_set(config, name) or "")
      if mended:
        mended_by_remedy[name] = mended
  early = {Point(mended).early.label: mended for mended in mended_by_remedy.values()}
  return {**early, **mended_by_remedy}


def pairs(config: Config, labels: list[str]) -> list[Pair]:
  """Returns the paired comparisons of a study, labels of an arm and of what it is compared with.

  Args:
    config: of the experiment.
    labels: those of the table of arms; pairs with others are left out.
  """
  listed = set(labels)
  wanted = [
    *_of_remedies(config),
    *_of_kinds(config),
    *_of_roles(config),
    *_of_contrasts(config),
    *claims.pairs(config),
  ]
  there = [pair for pair in wanted if listed.issuperset(pair) and pair[0] != pair[1]]
  return [*dict.fromkeys(there), *_of_main_curve(config, listed)]


def _of_remedies(config: Config) -> Iterator[Pair]:
  """Yields pairs of each remedy and what it mends, also stopped early, and with zero-shot."""
  zero_shot = config.roles.zero_shot
  drawn = [(remedy, config.roles.finetuned) for remedy in config.roles.remedies]
  for remedy, mended in dict.fromkeys([*drawn, *remedies(config).items()]):
    early = Point(remedy).early.label
    yield remedy, mended
    yield early, mended
    yield early, zero_shot
    yield early, Point(mended).early.label
    yield remedy, Point(mended).early.label
    yield remedy, zero_shot
    yield mended, zero_shot


def of_best_remedy(best: str | None, others: Iterable[str]) -> list[Pair]:
  """Returns pairs of the remedy that has most right with every other, so that it may be called so.

  Args:
    best: its label, None where there is no remedy.
    others: labels of the remedies.
  """
  return [(best, other) for other in others if other != best] if best else []


def _of_kinds(config: Config) -> Iterator[Pair]:
  for name in config.arms:
    yield from registry.kind_of(config, name).comparisons(config, name)


def _of_roles(config: Config) -> Iterator[Pair]:
  """Yields pairs of the finetuned arm, whole and stopped early, and zero-shot."""
  finetuned = config.roles.finetuned
  early = Point(finetuned).early.label
  yield finetuned, config.roles.zero_shot
  yield early, finetuned
  yield early, config.roles.zero_shot


def _of_contrasts(config: Config) -> Iterator[Pair]:
  """Yields pairs of arms that differ by the set of facts behind them alone."""
  by_rest: dict[object, dict[str, str]] = {}  # all but the facts -> set -> arm
  for name in config.arms:
    facts = roles.finetuning_set(config, name)
    if facts:
      by_rest.setdefault(roles.all_but_facts(config, name), {}).setdefault(facts, name)
  for alike in by_rest.values():
    main = config.roles.finetuned
    if main in alike.values() and _NATURAL in alike:
      yield main, alike[_NATURAL]
    for facts, others in CONTRASTS.items():
      for other in others:
        if facts in alike and other in alike:
          yield alike[facts], alike[other]
          yield Point(alike[facts]).early.label, Point(alike[other]).early.label


def _of_main_curve(config: Config, labels: set[str]) -> list[Pair]:
  """Returns pairs of the main curve's points, so that a report can say if it rises and falls.

  Each is compared with the first, and those between with the last. A curve that does not begin at
  step 0 begins at zero-shot.
  """
  if not config.roles.finetuned:
    return []
  points = registry.points(config, config.roles.finetuned)
  curve = [point.label for point in points]
  zero_shot = config.roles.zero_shot
  if zero_shot in labels and points[0].value != 0:
    curve = [zero_shot, *curve]
  first, *others = curve
  rise = [(label, first) for label in others]
  fall = [(others[-1], label) for label in others[:-1]]
  return rise + fall

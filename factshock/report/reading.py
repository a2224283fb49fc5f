"""Reads a diagnosis: its arms, their roles, titles, curves and differences, whatever is missing."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, cast

from factshock.predictions import points
from factshock.report import numbers
from factshock.report.numbers import KnownEstimate, known_estimate
from factshock.report.schema import Description, Diagnosis

GROUPS = {
  "rare_seen": "Rare, seen",
  "rare_unseen": "Rare, unseen",
  "common_seen": "Common, seen",
  "common_unseen": "Common, unseen",
}


class Change(NamedTuple):
  """Share right of one arm minus another's; `clear` is False where chance may explain it."""

  difference: float
  low: float | None
  high: float | None
  clear: bool
  how: str


class CurveRow(NamedTuple):
  """Point of a curve: its step or alpha, its label and the share right there, if known."""

  x: float
  label: str
  right: KnownEstimate | None


class Roles(TypedDict):
  """Labels of the arms that play a part in the report; None where there is no such arm."""

  zero_shot: str | None
  ceiling: str | None
  finetuned: str | None
  remedies: list[str]


class Halves(NamedTuple):
  """Labels of the arms finetuned on facts of popular and of unpopular subjects, and on all."""

  popular: str | None
  unpopular: str | None
  whole: str | None


def criterion(diagnosis: Diagnosis) -> str:
  """Returns what makes an answer right, as a text."""
  if diagnosis.get("criterion") == "contains":
    return "contains match"
  return "exact match"


def tidy(diagnosis: Mapping[str, Any]) -> Diagnosis:
  """Returns a copy in which nothing is None and every arm is a dict.

  So what is missing is missing in one way only. What the run recorded of itself stays as it is.
  """
  tidied = {}
  for key, value in diagnosis.items():
    if value is not None:
      tidied[key] = value if key == "run" else numbers.without_none(value)
  arms = tidied["arms"]
  tidied["arms"] = {label: arm for label, arm in arms.items() if isinstance(arm, dict)}
  return cast(Diagnosis, tidied)


def relation(diagnosis: Diagnosis, name: str) -> str:
  """Returns a relation with its label where the diagnosis knows one: "original network (P449)"."""
  return titled(diagnosis.get("relation_labels") or {}, name)


def titled(
  labels: Mapping[str, str],
  name: str,
) -> str:
  """Returns a relation's name, after its label where `labels` has another one: "label (name)"."""
  label = labels.get(name)
  if not label or label == name:
    return str(name)
  return f"{label} ({name})"


def estimate(
  diagnosis: Diagnosis,
  label: str | None,
  *path: str,
) -> KnownEstimate | None:
  """Returns the estimate of an arm under the keys of `path`, or None where it has no mean."""
  arms = diagnosis.get("arms") or {}
  arm = arms.get(label or "")
  return known_estimate(numbers.value_at(arm, *path))


def mean(
  diagnosis: Diagnosis,
  label: str | None,
  *path: str,
) -> float | None:
  """Returns the mean of an arm's estimate under the keys of `path`, or None."""
  known = estimate(diagnosis, label, *path)
  return known["mean"] if known else None


def prediction_ratio(
  diagnosis: Diagnosis,
  label: str | None,
  group_of_answers: str,
) -> KnownEstimate | None:
  """Returns how often an arm predicts a group of answers for each time one of them is right."""
  return estimate(diagnosis, label, "shock", "ratio", group_of_answers)


def title(diagnosis: Diagnosis, label: str | None) -> str:
  """Returns what a reader calls an arm; a point of a curve is named after its arm."""
  titles = diagnosis.get("titles") or {}
  if label in titles:
    return str(titles[label])
  arm, value = points.split(str(label))
  if value:
    arm_title = title(diagnosis, arm)
    return f"{arm_title} at {value}"
  spaced = str(label).replace("_", " ")
  return spaced[:1].upper() + spaced[1:]


def curve_labels(diagnosis: Diagnosis) -> set[str | None]:
  """Returns the labels that are points of a curve rather than arms of their own."""
  arms = diagnosis.get("arms") or {}
  labels: set[str | None] = set(filter(points.is_on_curve, arms))
  curves_by_kind = diagnosis.get("curves") or {}
  for curves_of_kind in curves_by_kind.values():
    for curve_points in curves_of_kind.values():
      for point in curve_points:
        labels.add(point.get("label"))
  return labels


def table_labels(diagnosis: Diagnosis) -> list[str]:
  """Returns the labels of the table of arms: as given, or every arm that is no point of a curve."""
  given = diagnosis.get("table")
  if given:
    return list(given)
  arms = diagnosis.get("arms") or {}
  excluded = curve_labels(diagnosis)
  return [label for label in arms if label not in excluded]


def group(diagnosis: Diagnosis, label: str) -> str:
  """Returns the group of an arm ("remedy", "baseline", ...), or ""."""
  groups = diagnosis.get("groups") or {}
  return str(groups.get(label) or "")


def description(diagnosis: Diagnosis, label: str) -> Description:
  """Returns the description of an arm; empty where the diagnosis gives none."""
  descriptions = diagnosis.get("descriptions") or {}
  return descriptions.get(label) or {}


def roles_of(diagnosis: Diagnosis, label: str) -> list[str]:
  """Returns what an arm is in the study: the roles of its description."""
  described = description(diagnosis, label)
  return list(described.get("roles") or [])


def with_role(diagnosis: Diagnosis, role: str) -> str | None:
  """Returns the first arm of the table that has a role, or None."""
  for label in table_labels(diagnosis):
    if role in roles_of(diagnosis, label):
      return label
  return None


def roles(diagnosis: Diagnosis) -> Roles:
  """Returns the arms that play a part: as the diagnosis says, else as it was asked for.

  Without `roles`, zero-shot is the reference arm, the ceiling the arm whose right answers are the
  known facts, the remedies are the arms of that group, and the finetuned arm is that of the
  verdict, or the only arm beside the reference.
  """
  arms = diagnosis.get("arms") or {}
  given = diagnosis.get("roles") or {}
  reference = diagnosis.get("reference")
  others = [label for label in table_labels(diagnosis) if label in arms and label != reference]
  guesses = {
    "zero_shot": reference,
    "ceiling": diagnosis.get("known"),
    "finetuned": _finetuned(diagnosis, others),
  }
  labels = {}
  for role, guess in guesses.items():
    label = given.get(role, guess)
    labels[role] = label if label in arms else None
  remedies = given.get("remedies")
  if remedies is None:
    remedies = [label for label in others if group(diagnosis, label) == "remedy"]
  return {
    "zero_shot": labels["zero_shot"],
    "ceiling": labels["ceiling"],
    "finetuned": labels["finetuned"],
    "remedies": [label for label in remedies if label in arms],
  }


def _finetuned(
  diagnosis: Diagnosis,
  others: Sequence[str],
) -> str | None:
  """Returns the finetuned arm of the verdict, or the only one of the arms beside the reference."""
  verdict = diagnosis.get("verdict") or {}
  finetuned = verdict.get("finetuned")
  if finetuned:
    return finetuned
  if len(others) == 1:
    return others[0]
  return None


def halves(diagnosis: Diagnosis) -> Halves:
  """Returns the arms of the second paper's comparison, None for those that are not there."""
  return Halves(
    with_role(diagnosis, "popular_half"),
    with_role(diagnosis, "unpopular_half"),
    with_role(diagnosis, "whole"),
  )


def best_remedy(
  diagnosis: Diagnosis,
  among: Collection[str] | None = None,
) -> str | None:
  """Returns the remedy with the most right answers (of those in `among`), or None."""
  best = None
  best_mean = None
  for label in roles(diagnosis)["remedies"]:
    right = mean(diagnosis, label, "right")
    if right is None or (among is not None and label not in among):
      continue
    if best_mean is None or right > best_mean:
      best = label
      best_mean = right
  return best


def curve(
  diagnosis: Diagnosis,
  kind: str,
  label: str,
) -> list[CurveRow]:
  """Returns the points of an arm's curve against "steps" or "alpha", ascending."""
  curves_by_kind = diagnosis.get("curves") or {}
  curves_of_kind = curves_by_kind.get(kind) or {}
  given = curves_of_kind.get(label) or []
  key = {"steps": "step", "alpha": "alpha"}[kind]
  rows = []
  for point in given:
    x = point.get(key)
    if numbers.finite(x) is None or "label" not in point:
      continue
    row = CurveRow(
      x=cast(float, x),
      label=point["label"],
      right=estimate(diagnosis, point["label"], "right"),
    )
    rows.append(row)
  return sorted(rows, key=lambda row: row.x)


def curves(diagnosis: Diagnosis, kind: str) -> list[str]:
  """Returns the labels of the arms with at least two known points against "steps" or "alpha"."""
  curves_by_kind = diagnosis.get("curves") or {}
  named = curves_by_kind.get(kind) or {}
  labels = []
  for label in named:
    known = [row for row in curve(diagnosis, kind, label) if row.right is not None]
    if len(known) > 1:
      labels.append(label)
  return labels


def change(
  diagnosis: Diagnosis,
  label: str | None,
  against: str | None,
) -> Change | None:
  """Returns the share right of `label` minus that of `against`, or None where either is missing.

  Clear is: the paired interval excludes 0, where the diagnosis compares the two; else the same
  sign in each of three or more seeds; else intervals that do not overlap.
  """
  first = estimate(diagnosis, label, "right")
  second = estimate(diagnosis, against, "right")
  if first is None or second is None:
    return None
  comparisons = diagnosis.get("comparisons") or []
  for row in comparisons:
    difference = known_estimate(row.get("difference"))
    compared = (row.get("arm"), row.get("against"))
    if difference and label != against:
      if compared == (label, against):
        return _paired_change(difference)
      if compared == (against, label):
        return _paired_change(_negative(difference))
  return _unpaired_change(first, second)


def _negative(estimate: KnownEstimate) -> KnownEstimate:
  low = estimate["low"]
  high = estimate["high"]
  by_seed = {seed: -value for seed, value in estimate["by_seed"].items()}
  return {
    "mean": -estimate["mean"],
    "low": None if high is None else -high,
    "high": None if low is None else -low,
    "by_seed": by_seed,
  }


def _paired_change(difference: KnownEstimate) -> Change:
  clear = numbers.clear_sign(difference) != 0
  return Change(
    difference["mean"],
    difference["low"],
    difference["high"],
    clear,
    "in a paired test",
  )


def _unpaired_change(
  first: KnownEstimate,
  second: KnownEstimate,
) -> Change:
  difference = first["mean"] - second["mean"]
  by_seed = []
  for seed, value in first["by_seed"].items():
    if seed in second["by_seed"]:
      by_seed.append(value - second["by_seed"][seed])
  if len(by_seed) >= 3:
    all_above = all(x > 0 for x in by_seed)
    all_below = all(x < 0 for x in by_seed)
    same_sign = all_above or all_below
    return Change(difference, None, None, same_sign, "by the sign in each seed")
  clear = _are_apart(first, second)
  return Change(difference, None, None, clear, "by intervals that do not overlap")


def _are_apart(first: KnownEstimate, second: KnownEstimate) -> bool:
  first_ends = _ends(first)
  second_ends = _ends(second)
  if first_ends is None or second_ends is None:
    return False
  first_low, first_high = first_ends
  second_low, second_high = second_ends
  return first_low > second_high or second_low > first_high


def _ends(estimate: KnownEstimate) -> tuple[float, float] | None:
  low = estimate["low"]
  high = estimate["high"]
  if low is None or high is None:
    return None
  return low, high

"""Reads a diagnosis: its arms, their roles, titles, curves and differences, whatever is missing."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, cast

from factshock.predictions import points
from factshock.predictions.points import Point
from factshock.report import numbers
from factshock.report.numbers import KnownEstimate, known_estimate
from factshock.report.schema import Comparison, Description, Diagnosis

GROUPS = {
  "rare_seen": "Rare, seen",
  "rare_unseen": "Rare, unseen",
  "common_seen": "Common, seen",
  "common_unseen": "Common, unseen",
}


class Change(NamedTuple):
  """Share right of one arm minus another's on the same queries.

  `clear` is True where the interval of the paired comparison excludes 0.
  """

  difference: float
  low: float | None
  high: float | None
  clear: bool


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


def name(diagnosis: Diagnosis, most: int = 3) -> str:
  """Returns what a report is of: the run's name, else the arms of the table, "before and after"."""
  run = diagnosis.get("run") or {}
  given = run.get("name")
  if given:
    return str(given)
  titles = [title(diagnosis, label) for label in table_labels(diagnosis)]
  if len(titles) > most + 1:
    titles = [*titles[:most], f"{len(titles) - most} more"]
  return " and ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles)


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
  """Returns the labels that are points of a curve rather than arms of their own.

  They are those of the curves, and what has "@" in its label where the whole arm is there too.
  """
  arms = diagnosis.get("arms") or {}
  labels: set[str | None] = set()
  for label in arms:
    if points.is_on_curve(label) and points.split(label)[0] in arms:
      labels.add(label)
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
  verdict, or the only arm beside these of a diagnosis that knows the finetuning facts.
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
  """Returns the arm named as finetuned, or the only other one where shock is measured."""
  verdict = diagnosis.get("verdict") or {}
  finetuned = verdict.get("finetuned") or diagnosis.get("finetuned")
  if finetuned:
    return finetuned
  others = [label for label in others if label != diagnosis.get("known")]
  if len(others) == 1 and diagnosis["arms"][others[0]].get("shock"):
    return others[0]
  return None


def main_labels(diagnosis: Diagnosis, few: int = 12) -> list[str]:
  """Returns the labels of the table that matter first, in its order.

  They are those that play a part and the finetuned arm stopped early; all where these are few, or
  where no arm plays a part.
  """
  labels = table_labels(diagnosis)
  parts = roles(diagnosis)
  finetuned = parts["finetuned"]
  if len(labels) <= few or finetuned is None:
    return labels
  verdict = diagnosis.get("verdict") or {}
  main = {parts["zero_shot"], parts["ceiling"], finetuned, Point(finetuned).early.label}
  main |= {*parts["remedies"], best_remedy(diagnosis), verdict.get("corrected")}
  return [label for label in labels if label in main]


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
  """Returns the remedy with the most right answers (of those in `among`), or None.

  What was chosen to be the model before finetuning, at step 0 say, is no remedy.
  """
  best = None
  best_mean = None
  for label in remedies(diagnosis):
    right = mean(diagnosis, label, "right")
    if right is None or (among is not None and label not in among):
      continue
    if nothing_chosen(diagnosis, label) is not None:
      continue
    if best_mean is None or right > best_mean:
      best = label
      best_mean = right
  return best


def rivals(diagnosis: Diagnosis, best: str | None) -> list[str]:
  """Returns the remedies that the best one is not known to be clearly better than."""
  close = []
  for label in remedies(diagnosis):
    is_none = nothing_chosen(diagnosis, label) is not None
    if label == best or is_none or mean(diagnosis, label, "right") is None:
      continue
    lead = change(diagnosis, best, label)
    if lead is None or not lead.clear or lead.difference < 0:
      close.append(label)
  return close


def remedies(diagnosis: Diagnosis) -> list[str]:
  """Returns all remedies for the finetuned arm that the diagnosis knows of.

  First is the finetuned arm stopped early, then the remedies of the roles and the others that mend
  it; of each that trains also the arm stopped early.
  """
  arms = diagnosis.get("arms") or {}
  parts = roles(diagnosis)
  finetuned = parts["finetuned"]
  if finetuned is None:
    return parts["remedies"]
  mended_by_remedy = diagnosis.get("remedies") or {}
  mending = [label for label, mended in mended_by_remedy.items() if mended == finetuned]
  found = [Point(finetuned).early.label]
  for label in (*parts["remedies"], *mending):
    point = Point.parse(label)
    found += [label] if point.is_early else [label, point.early.label]
  return [label for label in dict.fromkeys(found) if label in arms and label != finetuned]


# What a value that was chosen on development facts amounts to. Alpha 1 may be a mixing, where alpha
# falls in depth.
_NOTHING: dict[tuple[str, float], str] = {
  ("step", 0): "no finetuning",
  ("alpha", 0): "no finetuning",
  ("tau", 0): "no correction",
}


def nothing_chosen(diagnosis: Diagnosis, label: str) -> str | None:
  """Returns what was chosen for an arm in every seed where that does nothing, else None.

  It is "no finetuning" for step 0 and for alpha 0, which are the model before finetuning.
  """
  by_seed = (diagnosis.get("selected") or {}).get(label) or {}
  nothings = {_nothing(row) for row in by_seed.values()}
  return nothings.pop() if len(nothings) == 1 else None


def chosen_note(diagnosis: Diagnosis, label: str) -> str | None:
  """Returns in which seeds a choice that does nothing was made, as a text; None for no seed."""
  by_seed = (diagnosis.get("selected") or {}).get(label) or {}
  notes = []
  for nothing in dict.fromkeys(_NOTHING.values()):
    rows = [row for row in by_seed.values() if _nothing(row) == nothing]
    if not rows:
      continue
    (key, value), *_ = [pair for pair in _values(rows[0]) if pair in _NOTHING]
    seeds = "" if len(rows) == len(by_seed) else f" in {len(rows)} of {len(by_seed)} seeds"
    notes.append(f"{key} {value:g} chosen{seeds}: {nothing}")
  return "; ".join(notes) or None


def _nothing(row: Mapping[str, Any]) -> str | None:
  return next((_NOTHING[pair] for pair in _values(row) if pair in _NOTHING), None)


def _values(row: Mapping[str, Any]) -> list[tuple[str, float]]:
  values = {key: numbers.finite(value) for key, value in row.items() if key != "development"}
  return [(key, value) for key, value in values.items() if value is not None]


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
  """Returns the share right of `label` minus that of `against`, or None where it is not known.

  Only the paired comparison that the diagnosis holds counts, either way round: intervals of two
  arms asked the same queries may overlap where the paired one excludes 0, and the reverse.
  """
  row = comparison(diagnosis, label, against)
  if row is not None:
    return _paired_change(row.get("difference"), 1)
  row = comparison(diagnosis, against, label)
  if row is not None:
    return _paired_change(row.get("difference"), -1)
  return None


def comparison(
  diagnosis: Diagnosis,
  label: str | None,
  against: str | None,
) -> Comparison | None:
  """Returns the paired comparison of an arm with another one, or None where there is none."""
  for row in diagnosis.get("comparisons") or []:
    if (row.get("arm"), row.get("against")) == (label, against) and label != against:
      return row
  return None


def _paired_change(raw: Any, sign: int) -> Change | None:
  """Returns a stored difference, turned round where `sign` is -1."""
  difference = known_estimate(raw)
  if difference is None:
    return None
  low, high = difference["low"], difference["high"]
  if sign < 0:
    low, high = (None if high is None else -high), (None if low is None else -low)
  return Change(sign * difference["mean"], low, high, numbers.clear_sign(difference) != 0)

"""Reading a diagnosis: what may be missing in it, and how its numbers are written."""

import math
from typing import NamedTuple

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


def criterion(diagnosis):
  """What makes an answer right, in words."""
  return {"contains": "contains match"}.get(diagnosis.get("criterion"), "exact match")


def tidy(diagnosis):
  """A copy in which nothing is None and every arm is a dict: what is missing is missing in one way only.

  What the run recorded about itself stays as it is.
  """
  found = {
    key: value if key == "run" else without_none(value)
    for key, value in diagnosis.items()
    if value is not None
  }
  return found | {
    "arms": {label: arm for label, arm in found["arms"].items() if isinstance(arm, dict)}
  }


def without_none(tree):
  """A copy of dicts and lists in which what is None is left out."""
  if isinstance(tree, dict):
    return {key: without_none(value) for key, value in tree.items() if value is not None}
  return (
    [without_none(value) for value in tree if value is not None] if isinstance(tree, list) else tree
  )


def relation(diagnosis, name):
  """A relation by its label where the diagnosis knows one: "original network (P449)"."""
  label = (diagnosis.get("relation_labels") or {}).get(name)
  return f"{label} ({name})" if label and label != name else str(name)


def number(value):
  """The value as a float, or None where it is missing, not a number or not finite."""
  if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
    return None
  return float(value)


def estimate(diagnosis, label, *path):
  """The estimate at arms[label][path...] (low, high None where undefined), or None if it has no mean."""
  place = (diagnosis.get("arms") or {}).get(label)
  for key in path:
    place = place.get(key) if isinstance(place, dict) else None
  return clean(place)


def clean(found):
  """An estimate whose mean is a number, with every key there; None for anything else."""
  if not isinstance(found, dict) or number(found.get("mean")) is None:
    return None
  by_seed = {str(seed): number(value) for seed, value in (found.get("by_seed") or {}).items()}
  return {
    "mean": number(found["mean"]),
    "low": number(found.get("low")),
    "high": number(found.get("high")),
    "by_seed": {seed: value for seed, value in by_seed.items() if value is not None},
  }


def mean(diagnosis, label, *path):
  """The mean of an estimate, or None."""
  found = estimate(diagnosis, label, *path)
  return found["mean"] if found else None


def title(diagnosis, label):
  """What a reader calls an arm; a point of an arm ("finetune@25") is named after its arm."""
  titles = diagnosis.get("titles") or {}
  if label in titles:
    return str(titles[label])
  stem, at, point = str(label).partition("@")
  if at:
    return f"{title(diagnosis, stem)} at {point}"
  words = str(label).replace("_", " ")
  return words[:1].upper() + words[1:]


def points(diagnosis):
  """Labels that are points of a curve rather than arms of their own."""
  curves = diagnosis.get("curves") or {}
  named = {
    point.get("label") for kind in curves.values() for rows in kind.values() for point in rows
  }
  return named | {label for label in diagnosis.get("arms") or {} if "@" in label}


def table_labels(diagnosis):
  """Labels of the table of arms in order: as given, or every arm that is no point of a curve."""
  given = diagnosis.get("table")
  if given:
    return list(given)
  skip = points(diagnosis)
  return [label for label in diagnosis.get("arms") or {} if label not in skip]


def group(diagnosis, label):
  """The kind of an arm ("remedy", "baseline", ...), or ""."""
  return str((diagnosis.get("groups") or {}).get(label) or "")


def roles(diagnosis):
  """dict finetuned, zero_shot, ceiling (label or None), remedies (labels): as given, else from the labels.

  Without `roles`, zero-shot is the reference arm, the ceiling is "zero_shot_cloze", the remedies are the arms
  of that group, and the finetuned arm is "finetune" or the only arm beside the reference.
  """
  arms = diagnosis.get("arms") or {}
  given = diagnosis.get("roles") or {}
  reference = diagnosis.get("reference")
  others = [label for label in table_labels(diagnosis) if label in arms and label != reference]
  guesses = {
    "zero_shot": reference,
    "ceiling": "zero_shot_cloze" if reference != "zero_shot_cloze" else None,
    "finetuned": "finetune" if "finetune" in arms else others[0] if len(others) == 1 else None,
  }
  found = {role: given.get(role, guess) for role, guess in guesses.items()}
  found = {role: label if label in arms else None for role, label in found.items()}
  remedies = given.get("remedies")
  if remedies is None:
    remedies = [label for label in others if group(diagnosis, label) == "remedy"]
  return found | {"remedies": [label for label in remedies if label in arms]}


def best_remedy(diagnosis, among=None):
  """The remedy with the most right answers (among the given labels), or None."""
  labels = [
    label
    for label in roles(diagnosis)["remedies"]
    if mean(diagnosis, label, "right") is not None and (among is None or label in among)
  ]
  return max(labels, key=lambda label: mean(diagnosis, label, "right"), default=None)


def curve(diagnosis, kind, label):
  """[(step or alpha, label of the point, estimate of the share right or None)] of an arm, ascending."""
  found = ((diagnosis.get("curves") or {}).get(kind) or {}).get(label) or []
  key = {"steps": "step", "alpha": "alpha"}[kind]
  rows = [
    (point[key], point["label"], estimate(diagnosis, point["label"], "right"))
    for point in found
    if number(point.get(key)) is not None and "label" in point
  ]
  return sorted(rows, key=lambda row: row[0])


def curves(diagnosis, kind):
  """Labels of the arms with at least two drawable points against "steps" or "alpha"."""
  named = (diagnosis.get("curves") or {}).get(kind) or {}
  return [
    label for label in named if sum(row[2] is not None for row in curve(diagnosis, kind, label)) > 1
  ]


def change(diagnosis, label, against):
  """Share right of `label` minus that of `against` as a Change, or None where either is missing.

  Clear is: the paired interval excludes 0, where the diagnosis compares the two; else the same sign in each
  of three or more seeds; else intervals that do not overlap.
  """
  first, second = (estimate(diagnosis, name, "right") for name in (label, against))
  if first is None or second is None:
    return None
  for row in diagnosis.get("comparisons") or []:
    found = clean(row.get("difference"))
    if found and {row.get("arm"), row.get("against")} == {label, against} and label != against:
      return _compared(found, 1 if row["arm"] == label else -1)
  shared = [
    first["by_seed"][seed] - second["by_seed"][seed]
    for seed in first["by_seed"]
    if seed in second["by_seed"]
  ]
  difference = first["mean"] - second["mean"]
  if len(shared) >= 3:
    same = all(x > 0 for x in shared) or all(x < 0 for x in shared)
    return Change(difference, None, None, same, "by the sign in each seed")
  return Change(difference, None, None, _apart(first, second), "by intervals that do not overlap")


def _compared(found, sign):
  low = found["low"]
  high = found["high"]
  if sign < 0:
    low, high = (None if high is None else -high), (None if low is None else -low)
  known = low is not None and high is not None
  return Change(
    sign * found["mean"], low, high, known and (low > 0 or high < 0), "in a paired test"
  )


def _apart(first, second):
  ends = (first["low"], first["high"], second["low"], second["high"])
  return None not in ends and (first["low"] > second["high"] or second["low"] > first["high"])


def share(value, sign=False):
  """A share of queries in three digits: ".339", "−.060"; with `sign`, "+.141"; "–" for None."""
  return _short(value, 3, sign)


def ratio(value):
  """A ratio in three figures at most: "2.46", ".53", "12.4"; "–" for None."""
  return _short(value, 1 if value is not None and abs(value) >= 10 else 2, False)


def _short(value, digits, sign):
  value = number(value)
  if value is None:
    return "–"
  text = f"{abs(value):.{digits}f}"
  if text.startswith("0."):
    text = text[1:]
  before = "−" if value < 0 and float("0" + text) != 0 else "+" if sign and value > 0 else ""
  return before + text


def interval(found, write=share):
  """The interval of an estimate in words, "[.32, .36]", or "" where it has none."""
  if found is None or found["low"] is None or found["high"] is None:
    return ""
  return f"[{write(found['low'])}, {write(found['high'])}]"

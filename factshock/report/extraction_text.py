"""Summary of an extraction in sentences, computed from its numbers.

An effect that is absent is said to be absent.
"""

from typing import Any

from factshock.report import reading
from factshock.report.numbers import (
  KnownEstimate,
  clear_sign,
  count,
  finite,
  interval,
  known_estimate,
  percent,
  share,
  signed_share,
)
from factshock.report.schema import Extraction, QualityGroup


def sentences(extraction: Extraction) -> list[tuple[str, str]]:
  """Returns the summary of an extraction without None: what a sentence is about, and it."""
  parts = [
    ("Triples", _triples(extraction)),
    ("Promise", _promise(extraction)),
    ("Confidence", _confidence(extraction)),
    ("Ranking", _ranking(extraction)),
    ("Relations", _relations(extraction)),
    ("Frequency shock", _shock(extraction)),
    ("Contradictions", _conflicts(extraction)),
  ]
  return [(about, sentence) for about, sentence in parts if sentence]


def confidence(extraction: Extraction) -> float:
  """Returns the confidence of the intervals, .95 where the extraction says none."""
  quality = extraction.get("quality") or {}
  return finite(quality.get("confidence")) or 0.95


def pooled(extraction: Extraction) -> QualityGroup:
  """Returns the measures of all relations together; empty where there are none."""
  quality = extraction.get("quality") or {}
  return quality.get("pooled") or {}


def shown_precision(extraction: Extraction) -> float | None:
  """Returns the precision whose yields are shown for each relation.

  It is the promised one if it was measured, else .9, else the first that was.
  """
  rows = pooled(extraction).get("yields") or []
  measured = [row["precision"] for row in rows if finite(row.get("precision")) is not None]
  promise = extraction.get("promise") or {}
  target = finite(promise.get("target"))
  for wanted in (target, 0.9):
    if wanted in measured:
      return wanted
  return measured[0] if measured else None


def yield_row(
  group: QualityGroup,
  precision: float | None,
) -> dict[str, Any]:
  """Returns the row of a group's yields at a precision; empty where there is none."""
  for row in group.get("yields") or []:
    if row.get("precision") == precision:
      return row
  return {}


def title(extraction: Extraction, name: str) -> str:
  """Returns a relation with its label where the extraction knows one."""
  labels = {}
  rows = extraction.get("relations") or []
  for row in rows:
    label = row.get("label")
    if label:
      labels[row.get("relation")] = label
  return reading.titled(labels, name)


def _triples(extraction: Extraction) -> str | None:
  counts = extraction.get("counts") or {}
  queries = finite(counts.get("queries"))
  accepted = finite(counts.get("accepted"))
  abstained = finite(counts.get("abstained"))
  triples = finite(counts.get("triples"))
  if queries is None:
    return None
  sentence = f"{count(queries)} queries"
  if accepted is not None:
    sentence += f" gave {count(accepted)} accepted answers"
  if abstained is not None:
    part = f" ({percent(abstained / queries)})" if queries else ""
    sentence += f"; {count(abstained)} queries{part} were left without an answer"
  if triples is not None:
    sentence += f"; {count(triples)} triples were written"
  return sentence + "."


def _promise(extraction: Extraction) -> str | None:
  promise = extraction.get("promise") or {}
  target = finite(promise.get("target"))
  if target is None:
    return _no_promise(promise)
  threshold = finite(promise.get("threshold"))
  if threshold is None:
    return (
      f"No threshold keeps a precision of {percent(target)} on the calibration answers; none is "
      "promised."
    )
  sentence = (
    f"Answers with a confidence of at least {share(threshold)} were accepted, for a precision of "
    f"{percent(target)}{_bound(promise, target)}"
  )
  expected = finite(promise.get("expected_precision"))
  if expected is not None:
    sentence += f"; by their confidences, {share(expected)} of those accepted should be right"
  return sentence + "."


def _no_promise(promise: dict[str, Any]) -> str | None:
  if not promise:
    return None
  if promise.get("rule") == "f1":
    return "No precision was promised: answers were accepted where that raises the expected F1."
  return "No precision was promised."


def _bound(promise: dict[str, Any], target: float) -> str:
  """Returns what the calibration answers say of the promised precision, as a part of a sentence."""
  bound = finite(promise.get("lower_bound"))
  if bound is None:
    return ""
  answers = count(promise.get("calibration_accepted"))
  level = percent(promise.get("confidence_of_bound"))
  sentence = (
    f": of {answers} calibration answers above it, at least {share(bound)} are right (lower bound, "
    f"{level} confidence)"
  )
  if bound < target:
    sentence += ", which falls short of the promise"
  return sentence


def _with_interval(estimate: KnownEstimate) -> str:
  level = share(estimate["mean"])
  return f"{level} {interval(estimate)}"


def _confidence(extraction: Extraction) -> str | None:
  group = pooled(extraction)
  gap = known_estimate(group.get("overconfidence"))
  ece = known_estimate(group.get("ece"))
  debiased = known_estimate(group.get("ece_debiased"))
  if gap is None:
    return None
  verdict = {
    0: "neither clearly too high nor clearly too low on the whole",
    1: "too high on the whole",
    -1: "too low on the whole",
  }[clear_sign(gap)]
  mean = signed_share(gap["mean"])
  size = f"{mean} {interval(gap)}".rstrip()
  sentence = f"Held-out confidences are {verdict}: mean confidence less share right is {size}"
  if ece:
    sentence += f"; expected calibration error (ECE) {share(ece['mean'])}"
  if ece and debiased:
    sentence += f", {share(debiased['mean'])} once its bias is taken off"
  return sentence + "."


def _ranking(extraction: Extraction) -> str | None:
  group = pooled(extraction)
  auroc = known_estimate(group.get("auroc"))
  if auroc is None:
    return None
  low = auroc["low"]
  is_clear = low is not None and low > 0.5
  verdict = "tells" if is_clear else "does not clearly tell"
  size = _with_interval(auroc).rstrip()
  sentence = f"Confidence {verdict} right from wrong answers: AUROC {size}"
  row = yield_row(group, shown_precision(extraction))
  answered = known_estimate(row.get("share"))
  if answered is None:
    return sentence + "."
  precision = percent(row["precision"])
  if answered["mean"] == 0:
    return f"{sentence}; no cut reaches {precision} precision on held-out answers."
  part = _with_interval(answered)
  return f"{sentence}; at {precision} precision {part} of held-out queries can be answered."


def _relations(extraction: Extraction) -> str | None:
  gaps = {}
  quality = extraction.get("quality") or {}
  groups = quality.get("relations") or {}
  for name, group in groups.items():
    gap = known_estimate(group.get("overconfidence"))
    if gap:
      gaps[name] = gap
  if len(gaps) < 2:
    return None
  high = [name for name, gap in gaps.items() if clear_sign(gap) == 1]
  low = [name for name, gap in gaps.items() if clear_sign(gap) == -1]
  if not high and not low:
    return f"In none of {len(gaps)} relations are confidences clearly too high or too low."
  # Intervals miss the truth in 5 of 100 relations even where every confidence holds.
  missed = 1 - confidence(extraction)
  by_chance = missed * len(gaps)
  furthest = sorted(high + low, key=lambda name: -abs(gaps[name]["mean"]))
  worst = []
  for name in furthest[:3]:
    size = signed_share(gaps[name]["mean"])
    worst.append(f"{title(extraction, name)} ({size})")
  listed = ", ".join(worst)
  return (
    f"Of {len(gaps)} relations confidences are clearly too high in {len(high)} and too low in "
    f"{len(low)} (by chance alone, about {by_chance:.0f} in all); furthest off: {listed}."
  )


def _shock(extraction: Extraction) -> str | None:
  rows = extraction.get("over_predicted")
  if rows is None:
    return None
  if not rows:
    return "No answer is given far more often than the calibration answers and the counts support."

  def frequency(row: dict[str, Any]) -> float:
    return finite(row.get("predicted")) or 0

  worst = max(rows, key=frequency)
  answers = "1 answer is" if len(rows) == 1 else f"{len(rows)} answers are"
  relation = title(extraction, worst.get("relation", "?"))
  times = count(worst.get("predicted"))
  given = share(worst.get("share"))
  supported = share(worst.get("supported_share"))
  sentence = (
    f"{answers} given far more often than the calibration answers and the counts support; the most "
    f"frequent is “{worst.get('entity', '?')}” for {relation}: "
    f"{times} times, {given} of its queries, where {supported} is supported"
  )
  before = finite(worst.get("confidence_before"))
  after = finite(worst.get("confidence_after"))
  if before is not None and after is not None:
    sentence += f"; its confidence went from {share(before)} to {share(after)}"
  return sentence + "."


def _conflicts(extraction: Extraction) -> str | None:
  conflicts = extraction.get("conflicts")
  if conflicts is None:
    return None
  total = 0
  listed = []
  given = conflicts.get("counts") or {}
  for kind, value in given.items():
    known = finite(value)
    if known:
      total += known
      listed.append(f"{count(known)} {kind}")
  if not listed:
    return "No two triples contradict each other."
  kinds = ", ".join(listed)
  return f"{count(total)} contradictions were resolved by confidence: {kinds}."

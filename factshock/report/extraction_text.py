"""The words of an extraction's page: titles, how to read each part, why one is gone, and a summary of the numbers.

The summary is computed; an effect that is absent is said to be absent.
"""

from factshock.report import numbers, reading
from factshock.report.numbers import finite as number
from factshock.report.numbers import interval, share

TITLES = {
  "quality": "Do the confidences hold?",
  "reliability": "Reliability",
  "risk": "Risk against coverage",
  "yields": "Yield at a precision",
  "relations": "Relations",
  "over_predicted": "Answers given far too often",
  "conflicts": "Contradictions between triples",
  "outputs": "Files written",
  "run": "What was run",
  "notes": "Definitions",
}

READING = {
  "quality": "Measured on held-out answers, on which neither the calibration nor a threshold was fitted; in "
  "small type {level} intervals of a bootstrap over queries (or subjects) with all their answers. "
  "<b>ECE</b>: mean distance between confidence and share right, over {bins} bins of equal mass; biased "
  "upwards where answers are few. "
  "<b>Brier</b>: mean squared distance of confidence from right (1) or wrong (0). <b>AUROC</b>: chance "
  "that a right answer ranks above a wrong one; .5 is chance. <b>AURC</b>: area under the curve of risk "
  "against coverage; lower is better.",
  "reliability": "How to read: answers are cut into bins by their confidence; a point above the dashed line is right "
  "more often than its confidence says, one below less often. Bars are {level} intervals; the strip "
  "below counts the answers of each bin. Beside it, each relation is one mark, larger with more "
  "answers: off the line, its confidences are too high or too low on the whole; orange where its mean "
  "confidence is outside the interval of its share right.",
  "risk": "How to read: going right, less confident answers are given too, and the share of wrong ones rises to "
  "that of all answers. A curve that stays low for long makes for many trustworthy triples; a flat one "
  "says that confidence does not tell right from wrong. The band is the {level} interval. Dotted: the "
  "usual precisions.",
  "yields": "The most queries that can be answered while the given share of answers is right, most confident "
  "first, all relations by one cut. The cut is the best one for these held-out answers: it says what "
  "the confidences are worth and promises nothing.",
  "relations": "<b>Accepted</b>: triples written. <b>Expected precision</b>: what calibration expects of them. The "
  "columns from <b>held out</b> on are measured: answers, share right, mean confidence less share right "
  "(bold where its {level} interval excludes 0), ECE, AUROC, and the share of queries answered at "
  "{precision} precision by the relation's own best cut. <b>Calibrated on</b>: answers of the relation; "
  "pooled: with too few of its own it leans on all relations.",
  "over_predicted": "Answers that the model gives in a far larger share of a relation's queries than the calibration "
  "answers and the counts support. <b>Right in calibration</b>: of the times it was given there. "
  "Confidence is the mean over its triples, before and after it was lowered. <b>Displaced</b>: what "
  "would have been right in calibration where it was given wrongly, with how often.",
  "conflicts": "Triples that cannot both hold; the less confident one was dropped. Functional: a relation of one "
  "object got two; inverse and symmetric: the two directions disagree; type: an object of another type "
  "than the relation's.",
}

WHY_NOT = {
  "summary": "No summary: the extraction carries no counts and no quality.",
  "quality": "Not measured: no calibration answers were held out.",
  "reliability": "Not drawn: no held-out answers with confidences.",
  "risk": "Not drawn: no held-out answers with confidences.",
  "yields": "Not measured: no calibration answers were held out.",
  "relations": "Not listed: the extraction names no relations.",
  "over_predicted": "Not looked for: the extraction carries no list of over-predicted answers (the shock guard was off).",
  "no_over_predicted": "None: no answer is given far more often than the calibration answers and the counts support.",
  "conflicts": "Not looked for: the extraction carries no conflicts (the consistency rules were off).",
  "no_conflicts": "None: no two triples contradict each other.",
  "outputs": "Not recorded: the extraction names no files.",
  "run": "Not recorded.",
  "notes": "The extraction carries no definitions.",
}


def sentences(found):
  """The summary as a list of (what it is about, plain text).

  Args:
    found: an extraction without None.
  """
  parts = [
    ("Triples", _triples(found)),
    ("Promise", _promise(found)),
    ("Confidence", _confidence(found)),
    ("Ranking", _ranking(found)),
    ("Relations", _relations(found)),
    ("Frequency shock", _shock(found)),
    ("Contradictions", _conflicts(found)),
  ]
  return [(about, words) for about, words in parts if words]


def percent(value):
  """A share as "90%", "97.5%"; a dash for None."""
  return "–" if number(value) is None else f"{100 * value:.3g}%"


def count(value):
  """A number of things with commas; a dash for None."""
  return "–" if number(value) is None else f"{value:,.0f}"


def level(found):
  """The confidence of the intervals in words."""
  return percent(number((found.get("quality") or {}).get("confidence")) or 0.95)


def pooled(found):
  """The measures of all relations together, or an empty dict."""
  return (found.get("quality") or {}).get("pooled") or {}


def precision(found):
  """The precision whose yields are shown for each relation: the promised one if measured, else .9 or the first."""
  known = [
    row["precision"]
    for row in pooled(found).get("yields") or []
    if number(row.get("precision")) is not None
  ]
  wanted = [
    value for value in (number((found.get("promise") or {}).get("target")), 0.9) if value in known
  ]
  return (wanted or known or [None])[0]


def yield_row(group, wanted):
  """The row of a group's yields at a precision, or an empty dict."""
  return next((row for row in group.get("yields") or [] if row.get("precision") == wanted), {})


def _triples(found):
  counts = found.get("counts") or {}
  queries, accepted, triples = (
    number(counts.get(key)) for key in ("queries", "accepted", "triples")
  )
  if queries is None:
    return None
  words = f"{count(queries)} queries"
  if accepted is not None:
    words += f" gave {count(accepted)} accepted answers"
  if number(counts.get("abstained")) is not None:
    part = f" ({percent(counts['abstained'] / queries)})" if queries else ""
    words += f"; {count(counts['abstained'])} queries{part} were left without an answer"
  return words + (f"; {count(triples)} triples were written." if triples is not None else ".")


def _promise(found):
  promise = found.get("promise") or {}
  target = number(promise.get("target"))
  if target is None:
    rule = {"f1": "answers were accepted where that raises the expected F1"}.get(
      promise.get("rule")
    )
    return promise and f"No precision was promised{f': {rule}' if rule else ''}."
  threshold, bound, expected = (
    number(promise.get(key)) for key in ("threshold", "lower_bound", "expected_precision")
  )
  if threshold is None:
    return f"No threshold keeps a precision of {percent(target)} on the calibration answers; none is promised."
  words = (
    f"Answers with a confidence of at least {share(threshold)} were accepted, for a precision of "
    f"{percent(target)}"
  )
  if bound is not None:
    words += (
      f": of {count(promise.get('calibration_accepted'))} calibration answers above it, at least "
      f"{share(bound)} are right (lower bound, {percent(promise.get('confidence_of_bound'))} confidence)"
    )
    words += "" if bound >= target else ", which falls short of the promise"
  return words + (
    "." if expected is None else f"; the confidences of those accepted expect {share(expected)}."
  )


def _confidence(found):
  group = pooled(found)
  gap, ece = (numbers.known_estimate(group.get(key)) for key in ("overconfidence", "ece"))
  if gap is None:
    return None
  verdict = _off(gap)
  words = {
    0: "Held-out confidences are neither clearly too high nor clearly too low on the whole",
    1: "Held-out confidences are too high on the whole",
    -1: "Held-out confidences are too low on the whole",
  }[verdict]
  words += (
    f": mean confidence less share right is {share(gap['mean'], True)} {interval(gap)}".rstrip()
  )
  debiased = numbers.known_estimate(group.get("ece_debiased"))
  if ece:
    words += f"; ECE {share(ece['mean'])}" + (
      f", {share(debiased['mean'])} less its bias" if debiased else ""
    )
  return words + "."


def _off(found):
  """1 where an estimate is clearly above 0, -1 where clearly below, else 0."""
  if None in (found["low"], found["high"]):
    return 0
  return (found["low"] > 0) - (found["high"] < 0)


def _ranking(found):
  group = pooled(found)
  auroc = numbers.known_estimate(group.get("auroc"))
  row = yield_row(group, precision(found))
  if auroc is None:
    return None
  verdict = (
    "tells right from wrong answers"
    if auroc["low"] is not None and auroc["low"] > 0.5
    else "does not clearly tell right from wrong answers"
  )
  words = f"Confidence {verdict}: AUROC {share(auroc['mean'])} {interval(auroc)}".rstrip()
  got = numbers.known_estimate(row.get("share"))
  if got is None:
    return words + "."
  if got["mean"] == 0:
    return f"{words}; no cut reaches {percent(row['precision'])} precision on held-out answers."
  return (
    f"{words}; at {percent(row['precision'])} precision {share(got['mean'])} {interval(got)} of held-out "
    "queries can be answered."
  )


def _relations(found):
  groups = (found.get("quality") or {}).get("relations") or {}
  gaps = {
    name: numbers.known_estimate(group.get("overconfidence")) for name, group in groups.items()
  }
  gaps = {name: gap for name, gap in gaps.items() if gap}
  if len(gaps) < 2:
    return None
  high, low = ([name for name in gaps if _off(gaps[name]) == sign] for sign in (1, -1))
  # Intervals miss the truth in 5 of 100 relations even where every confidence holds.
  chance = (1 - (number(found["quality"].get("confidence")) or 0.95)) * len(gaps)
  if not high and not low:
    return f"In none of {len(gaps)} relations are confidences clearly too high or too low."
  far = sorted(high + low, key=lambda name: -abs(gaps[name]["mean"]))[:3]
  listed = ", ".join(f"{title(found, name)} ({share(gaps[name]['mean'], True)})" for name in far)
  return (
    f"Of {len(gaps)} relations confidences are clearly too high in {len(high)} and too low in {len(low)} "
    f"(by chance alone, about {chance:.0f} in all); furthest off: {listed}."
  )


def title(found, name):
  """A relation by its label where the extraction knows one."""
  labels = {
    row.get("relation"): row["label"] for row in found.get("relations") or [] if row.get("label")
  }
  return reading.relation({"relation_labels": labels}, name)


def _shock(found):
  rows = found.get("over_predicted")
  if rows is None:
    return None
  if not rows:
    return "No answer is given far more often than the calibration answers and the counts support."
  worst = max(rows, key=lambda row: number(row.get("predicted")) or 0)
  words = (
    f"{len(rows)} {'answer is' if len(rows) == 1 else 'answers are'} given far more often than the "
    f"calibration answers and the counts support; the most frequent is “{worst.get('entity', '?')}” for "
    f"{title(found, worst.get('relation', '?'))}: {count(worst.get('predicted'))} times, "
    f"{share(worst.get('share'))} of its queries, where {share(worst.get('supported_share'))} is supported"
  )
  before, after = (number(worst.get(key)) for key in ("confidence_before", "confidence_after"))
  return words + (
    "."
    if None in (before, after)
    else f"; its confidence went from {share(before)} to {share(after)}."
  )


def _conflicts(found):
  if found.get("conflicts") is None:
    return None
  counts = {kind: number(value) for kind, value in (found["conflicts"].get("counts") or {}).items()}
  counts = {kind: value for kind, value in counts.items() if value}
  if not counts:
    return "No two triples contradict each other."
  listed = ", ".join(f"{count(value)} {kind}" for kind, value in counts.items())
  return f"{count(sum(counts.values()))} contradictions were resolved by confidence: {listed}."

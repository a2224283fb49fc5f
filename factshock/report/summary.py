"""Summary of a diagnosis in sentences, computed from its numbers.

An effect that is absent is said to be absent.
"""

from factshock.report import numbers, reading
from factshock.report.numbers import KnownEstimate, interval, ratio, share, signed_share
from factshock.report.reading import Change, CurveRow, Roles, change, estimate, mean, title
from factshock.report.schema import Diagnosis


def sentences(diagnosis: Diagnosis) -> list[tuple[str, str]]:
  """Returns the summary, most important first: what a sentence is about, and it as plain text."""
  parts = [
    ("Finetuning", _finetuning(diagnosis)),
    ("Frequency shock", _shock(diagnosis)),
    ("Remedies", _remedies(diagnosis)),
    ("Which facts", _which_facts(diagnosis)),
    ("Stored knowledge", _ceiling(diagnosis)),
  ]
  return [(about, sentence) for about, sentence in parts if sentence]


def opening(diagnosis: Diagnosis) -> str:
  """Returns a sentence on how many arms and seeds there are and what the intervals mean."""
  known = diagnosis.get("arms") or {}
  labels = [label for label in reading.table_labels(diagnosis) if label in known]
  count = len(labels)
  arms = "1 arm" if count == 1 else f"{count} arms"
  seeds = diagnosis.get("seeds") or []
  level = confidence(diagnosis)
  if len(seeds) > 1:
    return (
      f"{arms} were compared over {len(seeds)} seeds; numbers are means over the seeds, "
      f"with {level} intervals in brackets."
    )
  return (
    f"{arms} were compared on one seed; intervals ({level}, in brackets) say how far "
    "other test questions could change a number, not how far another seed could."
  )


def confidence(diagnosis: Diagnosis) -> str:
  """Returns the confidence of the intervals as a text, "95%"."""
  level = numbers.finite(diagnosis.get("confidence"))
  if level is None:
    level = 0.95
  return f"{100 * level:g}%"


def _verdict(
  difference: Change,
  better: str,
  worse: str,
  neither: str,
) -> str:
  """Returns the text that fits a difference: `neither` where it is not clear."""
  if not difference.clear:
    return neither
  return better if difference.difference > 0 else worse


def _finetuning(diagnosis: Diagnosis) -> str | None:
  roles = reading.roles(diagnosis)
  finetuned = roles["finetuned"]
  if finetuned is None:
    return None
  curve = [row for row in reading.curve(diagnosis, "steps", finetuned) if row.right]
  zero_shot = estimate(diagnosis, roles["zero_shot"], "right")
  if curve and curve[0].x > 0 and zero_shot:
    start = CurveRow(0, roles["zero_shot"] or "", zero_shot)
    curve = [start, *curve]
  if len(curve) > 2:
    return _rise_and_fall(diagnosis, curve)
  return _before_and_after(diagnosis, roles)


def _height(row: CurveRow) -> float:
  return row.right["mean"] if row.right else float("-inf")


def _clear_between(
  diagnosis: Diagnosis,
  row: CurveRow,
  other: CurveRow,
) -> bool:
  """Returns whether two different points of a curve differ clearly."""
  if row.x == other.x:
    return False
  difference = change(diagnosis, row.label, other.label)
  return difference is not None and difference.clear


def _rise_and_fall(
  diagnosis: Diagnosis,
  curve: list[CurveRow],
) -> str:
  """Returns what a curve of known points does: it rises, falls, does both or neither."""
  start = curve[0]
  end = curve[-1]
  peak = max(curve, key=_height)
  criterion = reading.criterion(diagnosis)
  first = share(_height(start))
  top = share(_height(peak))
  last = share(_height(end))
  rose = _clear_between(diagnosis, peak, start)
  fell = _clear_between(diagnosis, end, peak)

  at_start = f"{first} at step {start.x:g}"
  at_end = f"{last} at step {end.x:g}"
  gain = f"Finetuning took {criterion} from {at_start} to {top} at step {peak.x:g}"
  no_gain = f"{criterion} was {at_start}, at most {top} (step {peak.x:g})"
  if rose and fell:
    against_start = _against_start(diagnosis, start, end)
    return f"{gain}, then down to {at_end}, {against_start}."
  if rose:
    tail = "" if peak.x == end.x else f" and {at_end}"
    return f"{gain}{tail}: no clear fall beyond a point is seen."
  if fell:
    against_start = _against_start(diagnosis, start, end)
    return f"Finetuning brought no clear gain: {no_gain}, and fell to {at_end}, {against_start}."
  return f"Finetuning made no clear difference: {no_gain} and {at_end}."


def _against_start(
  diagnosis: Diagnosis,
  start: CurveRow,
  end: CurveRow,
) -> str:
  difference = change(diagnosis, end.label, start.label)
  if difference is None or not difference.clear:
    size = signed_share(difference.difference if difference else None)
    return f"not clearly different from where it began ({size})"
  side = "below" if difference.difference < 0 else "above"
  distance = share(abs(difference.difference))
  return f"{distance} {side} where it began"


def _before_and_after(
  diagnosis: Diagnosis,
  roles: Roles,
) -> str | None:
  finetuned = roles["finetuned"]
  zero_shot = roles["zero_shot"]
  difference = change(diagnosis, finetuned, zero_shot)
  if difference is None:
    return None
  before = mean(diagnosis, zero_shot, "right")
  after = mean(diagnosis, finetuned, "right")
  verdict = _verdict(difference, "a clear gain", "a clear loss", "no clear difference")
  criterion = reading.criterion(diagnosis)
  return f"Finetuning moved {criterion} from {share(before)} to {share(after)}: {verdict}."


def _shock(diagnosis: Diagnosis) -> str | None:
  roles = reading.roles(diagnosis)
  zero_shot = roles["zero_shot"]
  rare = reading.prediction_ratio(diagnosis, roles["finetuned"], "rare_seen")
  common = reading.prediction_ratio(diagnosis, roles["finetuned"], "common_unseen")
  rare_before = reading.prediction_ratio(diagnosis, zero_shot, "rare_seen")
  common_before = reading.prediction_ratio(diagnosis, zero_shot, "common_unseen")
  parts = []
  if rare:
    times = _times_as_often(rare, rare_before)
    parts.append(f"rare answers seen in finetuning were predicted {times}")
  if common:
    times = _times_as_often(common, common_before)
    parts.append(f"common answers not seen in it {times}")
  if not parts:
    return None
  over = _is_beyond(rare, rare_before, side=1)
  under = _is_beyond(common, common_before, side=-1)
  observed = ", and ".join(parts)
  verdict = _shock_verdict(over, under)
  return f"After finetuning, {observed}. {verdict}"


def _shock_verdict(over: bool, under: bool) -> str:
  if over and under:
    return "Both sides of the frequency shock are there."
  if over:
    return "Of the frequency shock, only the over-prediction of rare seen answers is clear."
  if under:
    return "Of the frequency shock, only the under-prediction of common unseen answers is clear."
  return "No clear frequency shock is seen."


def _times_as_often(
  estimate: KnownEstimate,
  before: KnownEstimate | None,
) -> str:
  """Returns a prediction ratio with its interval, and with zero-shot's, as a text."""
  notes = [interval(estimate, ratio)]
  if before is not None:
    ratio_before = ratio(before["mean"])
    notes.append(f"zero-shot {ratio_before}")
  noted = "; ".join(note for note in notes if note)
  mean_ratio = ratio(estimate["mean"])
  times = f"{mean_ratio} times as often as they are right"
  if not noted:
    return times
  return f"{times} ({noted})"


def _is_beyond(
  estimate: KnownEstimate | None,
  before: KnownEstimate | None,
  side: int,
) -> bool:
  """Returns whether a ratio is clearly beyond 1, and further that way than before finetuning.

  Args:
    estimate: the ratio after finetuning.
    before: the ratio before it.
    side: 1 for above, -1 for below.
  """
  if estimate is None:
    return False
  edge = estimate["low"] if side > 0 else estimate["high"]
  if edge is None or side * (edge - 1) <= 0:
    return False
  if before is None:
    return True
  rise = estimate["mean"] - before["mean"]
  return side * rise > 0


def _remedies(diagnosis: Diagnosis) -> str | None:
  roles = reading.roles(diagnosis)
  finetuned = roles["finetuned"]
  effects = {}
  for label in roles["remedies"]:
    effect = change(diagnosis, label, finetuned)
    if effect and label != finetuned:
      effects[label] = effect
  if not effects:
    return None
  order = sorted(effects, key=lambda label: -effects[label].difference)
  verdicts = ("clearly better", "clearly worse", "not clearly different")
  by_verdict: dict[str, list[str]] = {verdict: [] for verdict in verdicts}
  for label in order:
    effect = effects[label]
    size = signed_share(effect.difference)
    verdict = _verdict(effect, *verdicts)
    by_verdict[verdict].append(f"{title(diagnosis, label)} ({size})")
  listed = []
  for verdict, names in by_verdict.items():
    if names:
      joined = ", ".join(names)
      listed.append(f"{verdict}: {joined}")
  compared = "; ".join(listed)
  best = _best_remedy(diagnosis, roles, order[0])
  against = title(diagnosis, finetuned)
  return f"Against “{against}”, {compared}. {best}"


def _best_remedy(
  diagnosis: Diagnosis,
  roles: Roles,
  label: str,
) -> str:
  """Returns what the best remedy reaches: its accuracy, against zero-shot, and its ratios."""
  reached = mean(diagnosis, label, "right")
  sentence = f"The best, {title(diagnosis, label)}, reaches {share(reached)}"
  difference = change(diagnosis, label, roles["zero_shot"])
  if difference:
    side = _verdict(difference, "above", "below", "not clearly different from")
    zero_shot = mean(diagnosis, roles["zero_shot"], "right")
    sentence += f", {side} zero-shot ({share(zero_shot)})"
  ratios = []
  rare = reading.prediction_ratio(diagnosis, label, "rare_seen")
  common = reading.prediction_ratio(diagnosis, label, "common_unseen")
  if rare:
    rare_ratio = ratio(rare["mean"])
    ratios.append(f"{rare_ratio} (rare seen)")
  if common:
    common_ratio = ratio(common["mean"])
    ratios.append(f"{common_ratio} (common unseen)")
  if ratios:
    listed = " and ".join(ratios)
    sentence += f"; its prediction ratios are {listed}"
  return sentence + "."


def _which_facts(diagnosis: Diagnosis) -> str | None:
  halves = reading.halves(diagnosis)
  difference = change(diagnosis, halves.popular, halves.unpopular)
  if difference is None:
    return None
  popular = share(mean(diagnosis, halves.popular, "right"))
  unpopular = share(mean(diagnosis, halves.unpopular, "right"))
  verdict = _verdict(
    difference,
    "the popular half is better",
    "the unpopular half is better",
    "no clear difference",
  )
  size = signed_share(difference.difference)
  sentence = (
    f"Finetuned on the facts of popular subjects {popular}, of unpopular ones {unpopular}: "
    f"{verdict} ({size})"
  )
  against_whole = change(diagnosis, halves.popular, halves.whole)
  if against_whole:
    verdict = _verdict(against_whole, "better than", "worse than", "not clearly different from")
    whole = share(mean(diagnosis, halves.whole, "right"))
    sentence += f"; the popular half is {verdict} the whole ({whole})"
  return sentence + "."


def _ceiling(diagnosis: Diagnosis) -> str | None:
  roles = reading.roles(diagnosis)
  level = mean(diagnosis, roles["ceiling"], "right")
  if level is None:
    return None
  sentence = (
    f"“{title(diagnosis, roles['ceiling'])}” answers {share(level)}: a ceiling of what is stored, "
    "not a competitor."
  )
  kept = []
  for label in (roles["finetuned"], reading.best_remedy(diagnosis)):
    value = mean(diagnosis, label, "known_kept")
    if value is not None:
      kept.append(f"{share(value)} ({title(diagnosis, label)})")
  if not kept:
    return sentence
  listed = " and ".join(kept)
  return f"{sentence} Of the facts known there, the share still answered is {listed}."

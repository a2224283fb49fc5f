"""Summary of a diagnosis in sentences, computed from its numbers.

An effect that is absent is said to be absent. Of two arms one is called better only by their paired
comparison on the same queries.
"""

from collections.abc import Sequence

from factshock.predictions.points import Point
from factshock.report import numbers, reading
from factshock.report.numbers import KnownEstimate, interval, ratio, share, signed_share
from factshock.report.reading import Change, CurveRow, Roles, change, estimate, mean, title
from factshock.report.schema import Diagnosis


def sentences(diagnosis: Diagnosis) -> list[tuple[str, str]]:
  """Returns the summary, most important first: what a sentence is about, and it as plain text."""
  parts = [
    ("Arms", _arms(diagnosis)),
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
  arms = "1 arm was" if count == 1 else f"{count} arms were"
  seeds = diagnosis.get("seeds") or []
  level = confidence(diagnosis)
  if len(seeds) > 1:
    return (
      f"{arms} compared over {len(seeds)} seeds; numbers are means over the seeds, "
      f"with {level} intervals in brackets."
    )
  return (
    f"{arms} compared on one seed; intervals ({level}, in brackets) say how far "
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


def _arms(diagnosis: Diagnosis) -> str | None:
  """Returns how the arms compare with the reference, where none of them is the finetuned one."""
  roles = reading.roles(diagnosis)
  reference = diagnosis.get("reference")
  known = diagnosis.get("arms") or {}
  labels = [label for label in reading.table_labels(diagnosis) if label in known]
  if roles["finetuned"] is not None or not labels:
    return None
  compared = _against(diagnosis, [label for label in labels if label != reference], reference)
  named = reference if reference in known else labels[0]
  right = estimate(diagnosis, named, "right")
  if right is None:
    return compared and f"{compared}."
  level = f"{share(right['mean'])} {interval(right)}".strip()
  sentence = f"“{title(diagnosis, named)}” has {level} of its answers right"
  return f"{sentence}. {compared}." if compared else f"{sentence}."


def _against(
  diagnosis: Diagnosis,
  labels: Sequence[str],
  against: str | None,
) -> str | None:
  """Returns which arms are clearly better or worse than another, and by how much."""
  effects = {label: change(diagnosis, label, against) for label in labels}
  known = {label: effect for label, effect in effects.items() if effect}
  if not known:
    return None
  verdicts = ("clearly better", "clearly worse", "not clearly different")
  by_verdict: dict[str, list[str]] = {verdict: [] for verdict in verdicts}
  for label in sorted(known, key=lambda label: -known[label].difference):
    notes = [signed_share(known[label].difference), reading.chosen_note(diagnosis, label)]
    noted = "; ".join(note for note in notes if note)
    verdict = _verdict(known[label], *verdicts)
    by_verdict[verdict].append(f"{title(diagnosis, label)} ({noted})")
  joined = {verdict: ", ".join(names) for verdict, names in by_verdict.items() if names}
  compared = "; ".join(f"{verdict}: {names}" for verdict, names in joined.items())
  return f"Against “{title(diagnosis, against)}”, {compared}"


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


def _between(
  diagnosis: Diagnosis,
  row: CurveRow,
  other: CurveRow,
) -> Change | None:
  """Returns the paired change between two points of a curve; between a point and itself, none."""
  if row.label == other.label:
    return Change(0.0, 0.0, 0.0, False)
  return change(diagnosis, row.label, other.label)


def _place(diagnosis: Diagnosis, row: CurveRow) -> str:
  """Returns what was measured at a point of the main curve, and where: ".380 at step 25"."""
  height = share(_height(row))
  if row.label == reading.roles(diagnosis)["zero_shot"]:
    return f"{height} zero-shot"
  return f"{height} at step {row.x:g}"


def _rise_and_fall(
  diagnosis: Diagnosis,
  curve: list[CurveRow],
) -> str:
  """Returns what a curve of known points does: it rises, falls, does both or neither."""
  start = curve[0]
  end = curve[-1]
  peak = max(curve, key=_height)
  criterion = reading.criterion(diagnosis)
  at_start = _place(diagnosis, start)
  at_peak = _place(diagnosis, peak)
  at_end = _place(diagnosis, end)
  rise = _between(diagnosis, peak, start)
  fall = _between(diagnosis, end, peak)
  whole = _between(diagnosis, end, start)
  if rise is None or fall is None or whole is None:
    return (
      f"{criterion.capitalize()} was {at_start}, at most {at_peak}, and {at_end}; the diagnosis "
      "does not compare them on the same queries, so neither a gain nor a loss is claimed."
    )
  against_start = _against_start(whole)
  if rise.clear and fall.clear:
    return (
      f"Finetuning took {criterion} from {at_start} to {at_peak}, then down to {at_end}, "
      f"{against_start}."
    )
  if rise.clear:
    tail = "" if peak.x == end.x else f" and {at_end}"
    return (
      f"Finetuning took {criterion} from {at_start} to {at_peak}{tail}: no clear fall beyond a "
      "point is seen."
    )
  if whole.clear and whole.difference > 0:
    return f"Finetuning took {criterion} from {at_start} to {at_end}, {against_start}."
  if not fall.clear and not whole.clear:
    return (
      f"Finetuning made no clear difference: {criterion} was {at_start}, at most {at_peak}, and "
      f"{at_end}, {against_start}."
    )
  if peak.x == start.x:
    return f"Finetuning took {criterion} from {at_start} down to {at_end}, {against_start}."
  return (
    f"Finetuning brought no clear gain: {criterion} was {at_start}, at most {at_peak}, and fell to "
    f"{at_end}, {against_start}."
  )


def _against_start(whole: Change) -> str:
  """Returns how the end of a curve compares with its start."""
  if not whole.clear:
    return f"not clearly different from where it began ({signed_share(whole.difference)})"
  side = "below" if whole.difference < 0 else "above"
  return f"{share(abs(whole.difference))} {side} where it began"


def _before_and_after(
  diagnosis: Diagnosis,
  roles: Roles,
) -> str | None:
  finetuned = roles["finetuned"]
  zero_shot = roles["zero_shot"]
  before = mean(diagnosis, zero_shot, "right")
  after = mean(diagnosis, finetuned, "right")
  if before is None or after is None or finetuned == zero_shot:
    return None
  difference = change(diagnosis, finetuned, zero_shot)
  verdict = "not compared on the same queries"
  if difference is not None:
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
  over = _is_beyond(diagnosis, "rare_seen", side=1)
  under = _is_beyond(diagnosis, "common_unseen", side=-1)
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
  diagnosis: Diagnosis,
  group: str,
  side: int,
) -> bool:
  """Returns whether a group's ratio is clearly beyond 1, and clearly further than zero-shot's.

  Args:
    diagnosis: compares the ratios of the two arms on the same queries.
    group: of answers.
    side: 1 for above 1, -1 for below.
  """
  roles = reading.roles(diagnosis)
  after = reading.prediction_ratio(diagnosis, roles["finetuned"], group)
  if after is None:
    return False
  edge = after["low"] if side > 0 else after["high"]
  if edge is None or side * (edge - 1) <= 0:
    return False
  if reading.prediction_ratio(diagnosis, roles["zero_shot"], group) is None:
    return True
  row = reading.comparison(diagnosis, roles["finetuned"], roles["zero_shot"]) or {}
  rise = numbers.known_estimate((row.get("ratio_difference") or {}).get(group))
  return side * numbers.clear_sign(rise) > 0


def _remedies(diagnosis: Diagnosis) -> str | None:
  finetuned = reading.roles(diagnosis)["finetuned"]
  compared = _against(diagnosis, _listed_remedies(diagnosis), finetuned)
  return compared and f"{compared}. {_best_remedy(diagnosis)}"


def _listed_remedies(diagnosis: Diagnosis) -> list[str]:
  """Returns the remedies to name: those of the roles, the best, and what of these stops early.

  Finetuning stopped early is one of them.
  """
  parts = reading.roles(diagnosis)
  finetuned = parts["finetuned"]
  listed = [finetuned, *parts["remedies"], reading.best_remedy(diagnosis)]
  arms = {Point.parse(label).arm for label in listed if label}
  labels = reading.remedies(diagnosis)
  return [label for label in labels if Point.parse(label).arm in arms and label != finetuned]


def _best_remedy(diagnosis: Diagnosis) -> str:
  """Returns what the best remedy reaches: its accuracy, against others and zero-shot, its ratios.

  It is called the best where it is clearly better than every other.
  """
  label = reading.best_remedy(diagnosis)
  if label is None:
    return "Development facts chose to do nothing in every seed."
  rivals = reading.rivals(diagnosis, label)
  rank = "highest" if rivals else "best"
  reached = mean(diagnosis, label, "right")
  sentence = f"The {rank}, {title(diagnosis, label)}, reaches {share(reached)}"
  compared = [rival for rival in rivals if change(diagnosis, label, rival)]
  if compared:
    sentence += f", not clearly above {_listed_rivals(diagnosis, compared)}"
  zero_shot = reading.roles(diagnosis)["zero_shot"]
  difference = change(diagnosis, label, zero_shot)
  if difference:
    side = _verdict(difference, "above", "below", "not clearly different from")
    link = "; it is" if compared else ","
    sentence += f"{link} {side} zero-shot ({share(mean(diagnosis, zero_shot, 'right'))})"
  ratios = []
  for group, name in (("rare_seen", "rare seen"), ("common_unseen", "common unseen")):
    known = reading.prediction_ratio(diagnosis, label, group)
    if known:
      ratios.append(f"{ratio(known['mean'])} ({name})")
  if ratios:
    listed = " and ".join(ratios)
    sentence += f"; its prediction ratios are {listed}"
  return sentence + "."


def _listed_rivals(
  diagnosis: Diagnosis,
  labels: Sequence[str],
  most: int = 3,
) -> str:
  """Returns the arms with what they reach, the highest first; beyond a few only how many."""
  reached = {label: mean(diagnosis, label, "right") or 0.0 for label in labels}
  order = sorted(labels, key=lambda label: -reached[label])
  names = [f"{title(diagnosis, label)} ({share(reached[label])})" for label in order[:most]]
  more = len(order) - most
  if more > 0:
    names.append(f"{more} more")
  return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


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

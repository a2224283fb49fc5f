"""The summary in words, computed from the numbers: an effect that is absent is said to be absent."""

from factshock.report import numbers, reading
from factshock.report.numbers import interval, ratio, share
from factshock.report.reading import change, estimate, mean, title


def sentences(diagnosis):
  """The summary as a list of (what it is about, plain text), the most important first."""
  parts = [
    ("Finetuning", _finetuning(diagnosis)),
    ("Frequency shock", _shock(diagnosis)),
    ("Remedies", _remedies(diagnosis)),
    ("Which facts", _which_facts(diagnosis)),
    ("Stored knowledge", _ceiling(diagnosis)),
  ]
  return [(about, words) for about, words in parts if words]


def opening(diagnosis):
  """One sentence on how many arms and seeds there are and what the intervals mean."""
  arms = [
    label for label in reading.table_labels(diagnosis) if label in (diagnosis.get("arms") or {})
  ]
  seeds = diagnosis.get("seeds") or []
  what = f"{len(arms)} {'arm' if len(arms) == 1 else 'arms'}"
  if len(seeds) > 1:
    return (
      f"{what} were compared over {len(seeds)} seeds; numbers are means over the seeds, "
      f"with {confidence(diagnosis)} intervals in brackets."
    )
  return (
    f"{what} were compared on one seed; intervals ({confidence(diagnosis)}, in brackets) say how far "
    "other test questions could change a number, not how far another seed could."
  )


def confidence(diagnosis):
  """The confidence of the intervals in words, "95%"."""
  level = numbers.finite(diagnosis.get("confidence"))
  return f"{100 * (0.95 if level is None else level):g}%"


def _finetuning(diagnosis):
  role = reading.roles(diagnosis)
  if role["finetuned"] is None:
    return None
  rows = [row for row in reading.curve(diagnosis, "steps", role["finetuned"]) if row[2]]
  zero_shot = estimate(diagnosis, role["zero_shot"], "right")
  if rows and rows[0][0] > 0 and zero_shot:
    rows = [(0, role["zero_shot"], zero_shot), *rows]
  if len(rows) > 2:
    return _rise_and_fall(diagnosis, rows)
  return _before_and_after(diagnosis, role)


def _rise_and_fall(diagnosis, rows):
  """What a curve of (step, label, estimate) does: rises, falls, both or neither."""
  start = rows[0]
  end = rows[-1]
  peak = max(rows, key=lambda row: row[2]["mean"])
  first, top, last = (share(row[2]["mean"]) for row in (start, peak, end))
  rose = peak[0] != start[0] and change(diagnosis, peak[1], start[1]).clear
  fell = peak[0] != end[0] and change(diagnosis, end[1], peak[1]).clear
  if rose and fell:
    return (
      f"Finetuning took {reading.criterion(diagnosis)} from {first} at step {start[0]:g} to {top} at step {peak[0]:g}, "
      f"then down to {last} at step {end[0]:g}, {_against_start(diagnosis, start, end)}."
    )
  if rose:
    tail = "" if peak[0] == end[0] else f" and {last} at step {end[0]:g}"
    return (
      f"Finetuning took {reading.criterion(diagnosis)} from {first} at step {start[0]:g} to {top} at step {peak[0]:g}"
      f"{tail}: no clear fall beyond a point is seen."
    )
  if fell:
    return (
      f"Finetuning brought no clear gain: {reading.criterion(diagnosis)} was {first} at step {start[0]:g}, at most {top} "
      f"(step {peak[0]:g}), and fell to {last} at step {end[0]:g}, "
      f"{_against_start(diagnosis, start, end)}."
    )
  return (
    f"Finetuning made no clear difference: {reading.criterion(diagnosis)} was {first} at step {start[0]:g}, at most {top} "
    f"(step {peak[0]:g}) and {last} at step {end[0]:g}."
  )


def _against_start(diagnosis, start, end):
  found = change(diagnosis, end[1], start[1])
  size = share(abs(found.difference))
  if not found.clear:
    return f"not clearly different from where it began ({share(found.difference, True)})"
  return f"{size} {'below' if found.difference < 0 else 'above'} where it began"


def _before_and_after(diagnosis, role):
  found = change(diagnosis, role["finetuned"], role["zero_shot"])
  if found is None:
    return None
  before, after = (
    share(mean(diagnosis, role[name], "right")) for name in ("zero_shot", "finetuned")
  )
  verdict = (
    "no clear difference"
    if not found.clear
    else "a clear gain"
    if found.difference > 0
    else "a clear loss"
  )
  return f"Finetuning moved {reading.criterion(diagnosis)} from {before} to {after}: {verdict}."


def _shock(diagnosis):
  role = reading.roles(diagnosis)
  rare, common = (
    estimate(diagnosis, role["finetuned"], "shock", "ratio", name)
    for name in ("rare_seen", "common_unseen")
  )
  if rare is None and common is None:
    return None
  parts = [
    _group_words(diagnosis, role["zero_shot"], found, name, words)
    for found, name, words in (
      (rare, "rare_seen", "rare answers seen in finetuning were predicted"),
      (common, "common_unseen", "common answers not seen in it"),
    )
    if found
  ]
  over = _beyond(diagnosis, role["zero_shot"], rare, "rare_seen", 1)
  under = _beyond(diagnosis, role["zero_shot"], common, "common_unseen", -1)
  verdict = {
    (True, True): "Both sides of the frequency shock are there.",
    (
      True,
      False,
    ): "Of the frequency shock, only the over-prediction of rare seen answers is clear.",
    (False, True): "Of the frequency shock, only the under-prediction of common unseen answers is "
    "clear.",
    (False, False): "No clear frequency shock is seen.",
  }[over, under]
  return f"After finetuning, {', and '.join(parts)}. {verdict}"


def _group_words(diagnosis, zero_shot, found, name, words):
  before = mean(diagnosis, zero_shot, "shock", "ratio", name)
  notes = [interval(found, ratio)] + ([f"zero-shot {ratio(before)}"] if before is not None else [])
  notes = "; ".join(note for note in notes if note)
  return f"{words} {ratio(found['mean'])} times as often as they are right{f' ({notes})' if notes else ''}"


def _beyond(diagnosis, zero_shot, found, name, side):
  """Whether a ratio is clearly above (side 1) or below (-1) 1, and further that way than zero-shot's."""
  edge = found and found["low" if side > 0 else "high"]
  if edge is None:
    return False
  before = mean(diagnosis, zero_shot, "shock", "ratio", name)
  return side * (edge - 1) > 0 and (before is None or side * (found["mean"] - before) > 0)


def _remedies(diagnosis):
  role = reading.roles(diagnosis)
  found = {label: change(diagnosis, label, role["finetuned"]) for label in role["remedies"]}
  found = {label: row for label, row in found.items() if row and label != role["finetuned"]}
  if not found:
    return None
  order = sorted(found, key=lambda label: -found[label].difference)
  better = [label for label in order if found[label].clear and found[label].difference > 0]
  worse = [label for label in order if found[label].clear and found[label].difference < 0]
  same = [label for label in order if not found[label].clear]
  kinds = ((better, "clearly better"), (worse, "clearly worse"), (same, "not clearly different"))
  text = "; ".join(
    f"{kind}: {_listed(diagnosis, labels, found)}" for labels, kind in kinds if labels
  )
  return (
    f"Against “{title(diagnosis, role['finetuned'])}”, {text}. {_best(diagnosis, role, order[0])}"
  )


def _listed(diagnosis, labels, found):
  return ", ".join(
    f"{title(diagnosis, label)} ({share(found[label].difference, True)})" for label in labels
  )


def _best(diagnosis, role, label):
  text = f"The best, {title(diagnosis, label)}, reaches {share(mean(diagnosis, label, 'right'))}"
  found = change(diagnosis, label, role["zero_shot"])
  if found:
    place = (
      "not clearly different from"
      if not found.clear
      else "above"
      if found.difference > 0
      else "below"
    )
    text += f", {place} zero-shot ({share(mean(diagnosis, role['zero_shot'], 'right'))})"
  groups = (("rare_seen", "rare seen"), ("common_unseen", "common unseen"))
  ratios = [(mean(diagnosis, label, "shock", "ratio", name), words) for name, words in groups]
  ratios = [f"{ratio(value)} ({words})" for value, words in ratios if value is not None]
  return text + (f"; its prediction ratios are {' and '.join(ratios)}." if ratios else ".")


def _which_facts(diagnosis):
  found = change(diagnosis, "popular_half", "unpopular_half")
  if found is None:
    return None
  high, low = (
    share(mean(diagnosis, label, "right")) for label in ("popular_half", "unpopular_half")
  )
  verdict = (
    "no clear difference"
    if not found.clear
    else "the popular half is better"
    if found.difference > 0
    else "the unpopular half is better"
  )
  text = (
    f"Finetuned on the facts of popular subjects {high}, of unpopular ones {low}: {verdict} "
    f"({share(found.difference, True)})"
  )
  whole = change(diagnosis, "popular_half", "whole")
  if whole is None:
    return text + "."
  verdict = (
    "not clearly different from"
    if not whole.clear
    else "better than"
    if whole.difference > 0
    else "worse than"
  )
  level = share(mean(diagnosis, "whole", "right"))
  return f"{text}; the popular half is {verdict} the whole ({level})."


def _ceiling(diagnosis):
  role = reading.roles(diagnosis)
  level = mean(diagnosis, role["ceiling"], "right")
  if level is None:
    return None
  text = (
    f"“{title(diagnosis, role['ceiling'])}” answers {share(level)}: a ceiling of what is stored, not a "
    "competitor"
  )
  labels = [role["finetuned"], reading.best_remedy(diagnosis)]
  kept = [
    f"{share(mean(diagnosis, label, 'known_kept'))} ({title(diagnosis, label)})"
    for label in labels
    if mean(diagnosis, label, "known_kept") is not None
  ]
  if not kept:
    return f"{text}."
  return f"{text}. Of the facts known there, the share still answered is {' and '.join(kept)}."

"""Table of remedies: what each needs, costs and gives, and when to use it."""

from dataclasses import dataclass

from factshock.predictions.points import Point
from factshock.report import markup, reading
from factshock.report.markup import bar, cell, difference, text
from factshock.report.numbers import (
  DASH,
  ZERO,
  KnownEstimate,
  known_estimate,
  ratio,
  share,
  span_of,
)
from factshock.report.reading import estimate
from factshock.report.schema import Comparison, Diagnosis


@dataclass(frozen=True)
class _Remedy:
  """Row of the table: a remedy, what it gives over the arm it mends, and its texts."""

  label: str
  mended: str
  effect: KnownEstimate
  early: KnownEstimate | None
  same_sign: str
  texts: tuple[str, str, str]


def table(diagnosis: Diagnosis) -> str | None:
  """Returns a part for each arm that is mended, the highest effect first; None without any."""
  remedies = _remedies(diagnosis)
  if not remedies:
    return None
  bars = span_of([remedy.effect for remedy in remedies] + [ZERO])
  rows: list[markup.Row] = []
  for mended in dict.fromkeys(remedy.mended for remedy in remedies):
    level = share(reading.mean(diagnosis, mended, "right"))
    rows.append(f"{text(reading.title(diagnosis, mended))}: {level}")
    of_arm = [remedy for remedy in remedies if remedy.mended == mended]
    for remedy in sorted(of_arm, key=lambda remedy: -remedy.effect["mean"]):
      rows.append(_row(diagnosis, remedy, bars))
  head = [
    "Remedy",
    "Effect",
    "",
    "Over<br>finetuning<br>stopped early",
    reading.criterion(diagnosis).capitalize(),
    "Shock",
    "Known<br>kept",
    "Needs",
    "Cost",
    "Use it when",
  ]
  return markup.table(head, rows, "remedies")


def _row(
  diagnosis: Diagnosis,
  remedy: _Remedy,
  bars: tuple[float, float],
) -> list[str]:
  label = remedy.label
  return [
    text(reading.title(diagnosis, label)),
    difference(remedy.effect) + _seeds(remedy.same_sign),
    bar(remedy.effect, bars, 0.0),
    difference(remedy.early),
    cell(estimate(diagnosis, label, "right")),
    cell(estimate(diagnosis, label, "shock", "shock"), ratio),
    cell(estimate(diagnosis, label, "known_kept"), ratio),
    *map(text, remedy.texts),
  ]


def _seeds(same_sign: str) -> str:
  """Returns in how many seeds the effect has its sign, in small type; "" where it is one."""
  if same_sign == DASH or same_sign.endswith("/1"):
    return ""
  return f"<small>{text(same_sign)} seeds</small>"


def _remedies(diagnosis: Diagnosis) -> list[_Remedy]:
  """Returns the remedies that are compared with the arm they mend, also stopped early."""
  compared: dict[tuple[str | None, str | None], Comparison] = {}
  for row in diagnosis.get("comparisons") or []:
    compared[row.get("arm"), row.get("against")] = row
  remedies = []
  for label, mended in _labels(diagnosis).items():
    row: Comparison = compared.get((label, mended)) or {}
    effect = known_estimate(row.get("difference"))
    if not effect:
      continue
    early = compared.get((label, Point(mended).early.label)) or {}
    remedies.append(
      _Remedy(
        label=label,
        mended=mended,
        effect=effect,
        early=known_estimate(early.get("difference")),
        same_sign=row.get("seeds_same_sign") or DASH,
        texts=_texts(diagnosis, label),
      )
    )
  return remedies


def _labels(diagnosis: Diagnosis) -> dict[str, str]:
  """Returns the arm that each remedy is to mend; of remedies that train, also stopped early."""
  mended_by_label = {}
  for label, mended in (diagnosis.get("remedies") or {}).items():
    mended_by_label[label] = mended
    point = Point.parse(label)
    if point.early.label in diagnosis["arms"]:
      mended_by_label[point.early.label] = mended
  return mended_by_label


def _texts(diagnosis: Diagnosis, label: str) -> tuple[str, str, str]:
  """Returns what a remedy needs, what it costs and when to use it, as its description says."""
  description = reading.description(diagnosis, label)
  use_when = description.get("use_when") or DASH
  if reading.nothing_chosen(diagnosis, label):
    use_when = f"not here: {reading.chosen_note(diagnosis, label)}"
  return (
    description.get("needs") or DASH,
    description.get("cost") or DASH,
    use_when,
  )

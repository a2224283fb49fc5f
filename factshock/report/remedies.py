"""Table of remedies: what each needs, costs and gives, and when to use it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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

_BEFORE = "the model before finetuning"

# What an arm's config must hold -> (needs, cost, when to use it); the first that fits.
_FINETUNED = (
  (
    "ratio",
    "text like that of pretraining",
    "{:g} examples of text to a question",
    "training is to be done anyway, and text is at hand",
  ),
  ("gold_share", _BEFORE, "a forward pass a question", "answers must stay near those of before"),
  (
    "labels",
    "a prompt that the model answers well; no labels",
    "a forward pass a question",
    "the model knows more than it answers to questions",
  ),
  ("l2_sp", _BEFORE, "a copy of the weights in memory", "one run is to do without mixing"),
  ("lora_rank", "nothing", "less memory", "memory is short"),
  ("trained", "nothing", "nothing", "to see in which part the shock sits"),
  ("frozen", "nothing", "nothing", "to see in which part the shock sits"),
  ("ema", "nothing", "a copy of the weights in memory", "training is noisy"),
  (
    "reweighted",
    "counts of answers in text",
    "nothing",
    "labels are to be kept and counts are at hand",
  ),
  ("logit_adjustment", "nothing", "nothing", "answers in training are unlike those asked for"),
)
_PRIORS = {
  "arm": ("unlabelled questions, and answers to them from before finetuning", "forward passes"),
  "counts": ("unlabelled questions, and counts of answers in text", "nothing"),
  "uniform": ("unlabelled questions", "nothing"),
  "estimated": ("unlabelled questions, and the finetuning answers", "nothing"),
}


def describe(
  arm: Mapping[str, Any],
  arms: Mapping[str, Any],
) -> tuple[str, str, str]:
  """Returns what a remedy needs, what it costs and when to use it, as texts.

  Args:
    arm: its part of an experiment's config.
    arms: the parts of all arms by name.
  """
  kind = arm["kind"]
  if kind == "prior_correction":
    of = arms[arm["of"]]
    needs, cost = _PRIORS[arm["prior"]]
    if of["kind"] == "finetune":
      return needs, cost, "the verdict is the prior, or predictions are all there is"
    before = describe(of, arms)
    return (
      f"{before[0]}; {needs}",
      before[1] if cost == "nothing" else f"{before[1]}; {cost}",
      "the verdict is both",
    )
  if kind == "weight_mixing":
    mixed = [describe(arms[arm["of"]], arms)] if arms[arm["of"]].get("ratio") else []
    return (
      "; ".join([one[0] for one in mixed] + [f"{_BEFORE}, development facts"]),
      "; ".join([one[1] for one in mixed] + ["forward passes to choose alpha"]),
      "weights are at hand",
    )
  if kind == "output_mixing":
    return (
      f"{_BEFORE}, whenever asked; development facts",
      "twice the answering",
      "weights cannot be mixed",
    )
  if kind == "exchange":
    return _BEFORE, "nothing", "to see in which part the shock sits"
  if kind == "soup":
    if "steps" in arm:
      return (
        f"{_BEFORE}; checkpoints kept on the way",
        "their room on disk",
        "checkpoints were kept, and no development facts are there",
      )
    return "nothing", f"{len(arm['of_arms'])} times the training", "training is cheap"
  key, needs, cost, when = next(
    (row for row in _FINETUNED if arm.get(row[0])), (None, "development facts", "nothing", "always")
  )
  return needs, cost.format(arm[key]) if key == "ratio" else cost, when


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
  """Returns a part for each arm that is mended, the best remedy first; None without remedies."""
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
    "Seeds of<br>same sign",
    "Over finetuning<br>stopped early",
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
    difference(remedy.effect),
    bar(remedy.effect, bars, 0.0),
    text(remedy.same_sign),
    difference(remedy.early),
    cell(estimate(diagnosis, label, "right")),
    cell(estimate(diagnosis, label, "shock", "shock"), ratio),
    cell(estimate(diagnosis, label, "known_kept"), ratio),
    *map(text, remedy.texts),
  ]


def _remedies(diagnosis: Diagnosis) -> list[_Remedy]:
  """Returns the remedies that are compared with the arm they mend, and described."""
  arms = ((diagnosis.get("run") or {}).get("config") or {}).get("arms") or {}
  compared = {}
  for row in diagnosis.get("comparisons") or []:
    pair = (row.get("arm"), row.get("against"))
    compared[pair] = row
  remedies = []
  for label, mended in (diagnosis.get("remedies") or {}).items():
    row: Comparison = compared.get((label, mended)) or {}
    effect = known_estimate(row.get("difference"))
    arm = arms.get(label) or arms.get(mended)
    if not effect or not arm:
      continue
    # A remedy that trains is stopped early too; another is the same beside any finetuning.
    both_early = compared.get((f"{label}_early", f"{mended}_early"))
    one_early = compared.get((label, f"{mended}_early"))
    early: Comparison = both_early or one_early or {}
    remedies.append(
      _Remedy(
        label=label,
        mended=mended,
        effect=effect,
        early=known_estimate(early.get("difference")),
        same_sign=row.get("seeds_same_sign") or DASH,
        texts=describe(arm, arms),
      )
    )
  return remedies

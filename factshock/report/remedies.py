"""The table of remedies: what each needs and costs beside plain finetuning, what it gives, and when to use it."""

from factshock.report import reading
from factshock.report.markup import bar, cell, difference, text
from factshock.report.markup import table as html_table
from factshock.report.numbers import ZERO, known_estimate, ratio, share, span_of
from factshock.report.reading import estimate

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


def describe(arm, arms):
  """(needs, cost, when to use it) of a remedy, texts.

  Args:
    arm: its part of an experiment's config. arms: {name: arm} of them all.
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


def table(diagnosis):
  """The table as HTML, a part for each arm that is mended, the best remedy first; None where there is none."""
  rows = _rows(diagnosis)
  if not rows:
    return None
  span = span_of([row["effect"] for row in rows] + [ZERO])
  body = []
  for mended in dict.fromkeys(row["mended"] for row in rows):
    level = reading.mean(diagnosis, mended, "right")
    body.append(f"{text(reading.title(diagnosis, mended))}: {share(level)}")
    for row in sorted(
      (row for row in rows if row["mended"] == mended), key=lambda row: -row["effect"]["mean"]
    ):
      label = row["remedy"]
      body.append(
        [
          text(reading.title(diagnosis, label)),
          difference(row["effect"]),
          bar(row["effect"], span, 0.0),
          text(row["same_sign"]),
          difference(row["early"]),
          cell(estimate(diagnosis, label, "right")),
          cell(estimate(diagnosis, label, "shock", "shock"), ratio),
          cell(estimate(diagnosis, label, "known_kept"), ratio),
          *map(text, row["words"]),
        ]
      )
  return html_table(
    [
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
    ],
    body,
    "remedies",
  )


def _rows(diagnosis):
  arms = ((diagnosis.get("run") or {}).get("config") or {}).get("arms") or {}
  compared = {
    (row.get("arm"), row.get("against")): row for row in diagnosis.get("comparisons") or []
  }
  found = []
  for remedy, mended in (diagnosis.get("remedies") or {}).items():
    row = compared.get((remedy, mended)) or {}
    early = (
      compared.get((f"{remedy}_early", f"{mended}_early"))
      or compared.get((remedy, f"{mended}_early"))
      or {}
    )
    effect = known_estimate(row.get("difference"))
    of = arms.get(remedy) or arms.get(mended)
    if effect and of:
      found.append(
        {
          "remedy": remedy,
          "mended": mended,
          "effect": effect,
          "early": known_estimate(early.get("difference")),
          "same_sign": row.get("seeds_same_sign") or "–",
          "words": describe(of, arms),
        }
      )
  return found

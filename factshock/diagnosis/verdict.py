"""Verdict on a finetuning: shifted answer prior or lost access to what was known; what to try.

Evidence: `loss` (finetuned - reference), `prior` (corrected - finetuned), `access` (corrected -
reference among known facts; what the prior does not explain), `knowledge` (finetuned - reference
among facts not known), each an estimate with its interval or None, and `share_of_loss`: how much
of the loss the prior explains, where there is a clear one. Without a clear loss there is nothing to
blame finetuning for, whatever the others are. Known is what a fourth arm has right,
such as the best cloze: facts picked because the reference itself has them right include its lucky
guesses, which any change undoes; without such an arm `access` is over all facts and there is no
`knowledge`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from factshock.diagnosis.options import Pair

Json: TypeAlias = Mapping[str, Any]


class Advice(NamedTuple):
  """Meaning of a verdict, and what to try first."""

  text: str
  try_first: str


VERDICTS = {
  "none": Advice(
    "Finetuning did no clear harm: the model is not clearly worse than before.",
    "Nothing needs mending.",
  ),
  "gain": Advice(
    "Finetuning did no harm: the model is clearly better than before.",
    "Nothing needs mending.",
  ),
  "prior": Advice(
    "The answer prior has shifted: with the frequencies of answers restored the model answers "
    "better, and what it knew is still within reach.",
    "Answer-prior correction (factshock correct): no training, and no labels. Weight "
    "mixing on top of it.",
  ),
  "access": Advice(
    "Access to what the model knew is lost: facts it had right are wrong even with the frequencies "
    "of answers restored.",
    "Weight mixing, alpha falling in depth (factshock mix --select "
    "--profile=decreasing), or mixture finetuning; finetune on facts that the model knows. Prior "
    "correction will do little.",
  ),
  "both": Advice(
    "The answer prior has shifted and access to what the model knew is lost.",
    "Weight mixing, alpha falling in depth (factshock mix --select "
    "--profile=decreasing), then answer-prior correction on top of it, if development facts say "
    "so.",
  ),
  "unclear": Advice(
    "Finetuning lost accuracy, but neither a shifted answer prior nor lost access is clear: too "
    "few queries, or too few known facts.",
    "More test facts, or more seeds; stopping earlier is safe to try.",
  ),
}

# Advice where nothing was lost and restoring the frequencies of answers would still gain.
_STILL_GAINS = (
  "Nothing needs mending; answer-prior correction (factshock correct) would still gain."
)

# Of two causes, one smaller than this share of the other is not named in the verdict; the evidence
# shows it.
_MINOR = 0.25


def pairs(
  reference: str,
  finetuned: str,
  corrected: str,
) -> list[Pair]:
  """Returns the comparisons a verdict is made of."""
  return [(finetuned, reference), (corrected, finetuned), (corrected, reference)]


def verdict(
  diagnosis: Json,
  reference: str,
  finetuned: str,
  corrected: str,
) -> dict[str, Any]:
  """Returns the verdict of a diagnosis.

  Args:
    diagnosis: its comparisons hold `pairs`.
    reference: label of the arm before finetuning.
    finetuned: label of the finetuned arm.
    corrected: label of the same arm with its answer prior restored.

  Returns:
    `verdict` (a key of VERDICTS), its advice, the labels and the evidence.
  """
  compared = pairs(reference, finetuned, corrected)
  known = diagnosis["known"]
  if known in (reference, finetuned, corrected):
    known = None
  evidence = _evidence(diagnosis["comparisons"], compared, known is not None)
  is_lost = sign(evidence["loss"]) < 0
  if is_lost:
    name = _name_of_loss(evidence, diagnosis, known)
  else:
    name = "gain" if sign(evidence["loss"]) > 0 else "none"
  advice = VERDICTS[name]
  if not is_lost and sign(evidence["prior"]) > 0:
    advice = advice._replace(try_first=_STILL_GAINS)
  return {
    "verdict": name,
    **advice._asdict(),
    "reference": reference,
    "finetuned": finetuned,
    "corrected": corrected,
    "known": known,
    "evidence": evidence,
    "share_of_loss": _share_of_loss(evidence) if is_lost else None,
  }


def _evidence(
  comparisons: Iterable[Json],
  compared: Sequence[Pair],
  has_known: bool,
) -> dict[str, Any]:
  """Returns the estimates that a verdict goes by.

  Args:
    comparisons: of the diagnosis.
    compared: as from `pairs`.
    has_known: whether a fourth arm tells the known facts.
  """
  rows = {(row["arm"], row["against"]): row for row in comparisons}
  loss, prior, restored = (rows[pair] for pair in compared)
  return {
    "loss": loss["difference"],
    "prior": prior["difference"],
    "access": restored["difference_known" if has_known else "difference"],
    "knowledge": loss["difference_unknown"] if has_known else None,
  }


def _share_of_loss(evidence: Json) -> float:
  """Returns how much of the loss the prior explains."""
  return evidence["prior"]["mean"] / -evidence["loss"]["mean"]


def _main_causes(evidence: Json, known_share: float) -> tuple[bool, bool]:
  """Returns which of two clear causes matter: not one much smaller than the other.

  Args:
    evidence: estimates by name.
    known_share: share of all queries among which `access` is measured.
  """
  shift = evidence["prior"]["mean"]  # shares of all queries
  away = -evidence["access"]["mean"] * known_share
  least = _MINOR * max(shift, away)
  return shift >= least, away >= least


def _name_of_loss(
  evidence: Json,
  diagnosis: Json,
  known: str | None,
) -> str:
  """Returns the key of VERDICTS of a clear loss.

  Args:
    evidence: estimates by name.
    diagnosis: holds the known arm.
    known: label of the arm that tells the known facts, or None.
  """
  is_shifted = sign(evidence["prior"]) > 0
  is_away = sign(evidence["access"]) < 0
  if is_shifted and is_away:  # both are clear: does either of them hardly matter?
    known_share = 1 if known is None else diagnosis["arms"][known]["right"]["mean"]
    is_shifted, is_away = _main_causes(evidence, known_share)
  if is_shifted:
    return "both" if is_away else "prior"
  return "access" if is_away else "unclear"


def lines(verdict: Json) -> list[str]:
  """Returns the verdict as lines of text."""
  reference = verdict["reference"]
  finetuned = verdict["finetuned"]
  corrected = verdict["corrected"]
  access = "(access)"
  if verdict["known"]:
    access = f"on facts that {verdict['known']} has right (access)"
  titles = {
    "loss": f"{finetuned} - {reference}",
    "prior": f"{corrected} - {finetuned} (the prior)",
    "access": f"{corrected} - {reference} {access}",
    "knowledge": f"{finetuned} - {reference} on the other facts (new knowledge)",
  }
  text = [f"Verdict: {verdict['text']}"]
  text += [
    f"  {estimate['mean']:+.3f} [{estimate['low']:+.3f}, {estimate['high']:+.3f}]  {titles[name]}"
    for name, estimate in verdict["evidence"].items()
    if estimate and estimate["mean"] is not None and estimate["low"] is not None
  ]
  if verdict["share_of_loss"] is not None and sign(verdict["evidence"]["prior"]) > 0:
    text.append(_explained(verdict["share_of_loss"]))
  return [*text, f"Try first: {verdict['try_first']}"]


def _explained(share: float) -> str:
  if share <= 1:
    return f"  The prior explains {share:.0%} of the loss."
  return f"  Restoring the prior gives back {share:.1f} times the loss."


def sign(estimate: Json | None) -> int:
  """Returns 1 or -1 where the interval is above or below 0, else 0."""
  if not estimate or estimate["low"] is None:
    return 0
  return int(estimate["low"] > 0) - int(estimate["high"] < 0)

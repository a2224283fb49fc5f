"""What finetuning did: did it shift the answer prior, or lose access to what the model knew? And what to try first."""

# The verdict -> (what it means, what to try first).
VERDICTS = {
  "none": (
    "Finetuning did no clear harm: neither a shifted answer prior nor lost access is seen.",
    "Nothing needs mending.",
  ),
  "prior": (
    "The answer prior has shifted: with the frequencies of answers restored the model answers better, and what it knew is "
    "still within reach.",
    "Answer-prior correction (python -m factshock.correct): no training, and no labels. Weight mixing on top of it.",
  ),
  "access": (
    "Access to what the model knew is lost: facts it had right are wrong even with the frequencies of answers restored.",
    "Weight mixing, alpha falling in depth (python -m factshock.mix --select --profile=decreasing), or mixture finetuning; finetune on facts "
    "that the model knows. Prior correction will do little.",
  ),
  "both": (
    "The answer prior has shifted and access to what the model knew is lost.",
    "Weight mixing, alpha falling in depth (python -m factshock.mix --select --profile=decreasing), then answer-prior correction on top of it, if "
    "development facts say so.",
  ),
  "unclear": (
    "Finetuning lost accuracy, but neither a shifted answer prior nor lost access is clear: too few queries, or too "
    "few known facts.",
    "More test facts, or more seeds; stopping earlier is safe to try.",
  ),
}

_MINOR = 0.25  # of two causes, one smaller than this share of the other is not named in the verdict; the evidence shows it


def pairs(reference, finetuned, corrected):
  """The comparisons a verdict is made of."""
  return [(finetuned, reference), (corrected, finetuned), (corrected, reference)]


def verdict(found, reference, finetuned, corrected):
  """The verdict of a diagnosis: dict of `verdict` (a key of VERDICTS), `text`, `try_first` and `evidence`.

  Evidence: `loss` (finetuned - reference), `prior` (corrected - finetuned), `access` (corrected - reference among known facts; what the
  prior does not explain), `knowledge` (finetuned - reference among facts not known), each an estimate with its interval or None, and
  `share_of_loss`: how much of the loss the prior explains, where there is a clear one. Known is what a fourth arm has right, such as the
  best cloze: facts picked because the reference itself has them right include its lucky guesses, which any change undoes; without
  such an arm `access` is over all facts and there is no `knowledge`.

  Args:
    found: a diagnosis whose comparisons hold `pairs`. reference, finetuned, corrected: labels.
  """
  rows = {(row["arm"], row["against"]): row for row in found["comparisons"]}
  against_reference, against_finetuned, restored = (
    rows[pair] for pair in pairs(reference, finetuned, corrected)
  )
  apart = found["known"] not in (None, reference, finetuned, corrected)
  evidence = {
    "loss": against_reference["difference"],
    "prior": against_finetuned["difference"],
    "access": restored["difference_known" if apart else "difference"],
    "knowledge": against_reference["difference_unknown"] if apart else None,
  }
  lost = sign(evidence["loss"]) < 0
  shifted = sign(evidence["prior"]) > 0
  away = sign(evidence["access"]) < 0
  if shifted and away:  # both are clear: does either of them hardly matter?
    sizes = (
      evidence["prior"]["mean"],
      -evidence["access"]["mean"]
      * (found["arms"][found["known"]]["right"]["mean"] if apart else 1),
    )  # shares of all queries
    shifted, away = (size >= _MINOR * max(sizes) for size in sizes)
  name = (
    ("both" if away else "prior")
    if shifted
    else "access"
    if away
    else "unclear"
    if lost
    else "none"
  )
  share = evidence["prior"]["mean"] / -evidence["loss"]["mean"] if lost else None
  return {
    "verdict": name,
    "text": VERDICTS[name][0],
    "try_first": VERDICTS[name][1],
    "reference": reference,
    "finetuned": finetuned,
    "corrected": corrected,
    "known": found["known"] if apart else None,
    "evidence": evidence,
    "share_of_loss": share,
  }


def lines(found):
  """The verdict as lines of text."""
  names = {
    "loss": f"{found['finetuned']} - {found['reference']}",
    "prior": f"{found['corrected']} - {found['finetuned']} (the prior)",
    "access": f"{found['corrected']} - {found['reference']} "
    + (f"on facts that {found['known']} has right (access)" if found["known"] else "(access)"),
    "knowledge": f"{found['finetuned']} - {found['reference']} on the other facts (new knowledge)",
  }
  rows = [
    f"  {estimate['mean']:+.3f} [{estimate['low']:+.3f}, {estimate['high']:+.3f}]  {names[key]}"
    for key, estimate in found["evidence"].items()
    if estimate and estimate["mean"] is not None and estimate["low"] is not None
  ]
  share = found["share_of_loss"]
  return [
    f"Verdict: {found['text']}",
    *rows,
    *([_explained(share)] if share is not None else []),
    f"Try first: {found['try_first']}",
  ]


def _explained(share):
  return (
    f"  The prior explains {share:.0%} of the loss."
    if share <= 1
    else f"  Restoring the prior gives back {share:.1f} times the loss."
  )


def sign(estimate):
  """1 or -1 where the interval is above or below 0, else 0."""
  if not estimate or estimate["low"] is None:
    return 0
  return int(estimate["low"] > 0) - int(estimate["high"] < 0)

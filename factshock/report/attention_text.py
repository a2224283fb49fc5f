"""Sentences on what a diagnosis's numbers on attention say.

No effect is claimed whose interval includes 0.
"""

from factshock.report import attention, reading
from factshock.report.attention import SITES
from factshock.report.numbers import (
  KnownEstimate,
  clear_sign,
  interval,
  known_estimate,
  share,
  signed_share,
)
from factshock.report.schema import Diagnosis


def sentences(diagnosis: Diagnosis) -> list[str]:
  """Returns what the numbers say, as plain texts."""
  if not attention.labels(diagnosis):
    return []
  said = [
    _against_reference(diagnosis),
    _remedies(diagnosis),
    _halves(diagnosis),
    _where_lost(diagnosis),
  ]
  return [sentence for sentence in said if sentence]


def _size(difference: KnownEstimate) -> str:
  mean = signed_share(difference["mean"])
  return f"{mean} {interval(difference)}".strip()


def _quoted(diagnosis: Diagnosis, label: str | None) -> str:
  title = reading.title(diagnosis, label)
  return f"“{title}”"


def _against_reference(diagnosis: Diagnosis) -> str | None:
  finetuned = reading.roles(diagnosis)["finetuned"]
  reference = attention.reference(diagnosis)
  if reference is None:
    return None
  kinds = {-1: "clearly less", 0: "not clearly more or less", 1: "clearly more"}
  parts = []
  for site in reversed(attention.sites(diagnosis)):
    change = attention.estimate(diagnosis, finetuned, site, "change", "mass")
    if change:
      kind = kinds[clear_sign(change)]
      levels = _levels(diagnosis, [reference, finetuned], site)
      parts.append(f"{kind} in {SITES[site]} ({levels}: {_size(change)})")
  if not parts:
    return None
  names = f"{_quoted(diagnosis, finetuned)} against {_quoted(diagnosis, reference)}"
  listed = ", ".join(parts)
  return f"Attention to the subject, {names}: {listed}."


def _levels(
  diagnosis: Diagnosis,
  labels: list[str | None],
  site: str,
) -> str:
  """Returns the attention of several arms at a site, ".31 to .25"."""
  levels = []
  for label in labels:
    mass = attention.estimate(diagnosis, label, site, "mass")
    if mass:
      levels.append(share(mass["mean"]))
  return " to ".join(levels)


def _differences(
  diagnosis: Diagnosis,
  site: str,
) -> dict[tuple[str, str], KnownEstimate]:
  """Returns the difference of attention at a site of each compared pair (arm, against)."""
  differences = {}
  comparisons = attention.part(diagnosis).get("comparisons") or []
  for row in comparisons:
    if row.get("site") == site:
      pair = (row.get("arm"), row.get("against"))
      differences[pair] = known_estimate(row.get("mass"))
  return {pair: difference for pair, difference in differences.items() if difference}


def _remedies(diagnosis: Diagnosis) -> str | None:
  roles = reading.roles(diagnosis)
  finetuned = roles["finetuned"]
  site = attention.answering_site(diagnosis)
  differences = _differences(diagnosis, site)
  by_sign: dict[int, list[str]] = {1: [], -1: [], 0: []}
  for label in roles["remedies"]:
    difference = differences.get((label, finetuned or ""))
    if difference:
      title = reading.title(diagnosis, label)
      sign = clear_sign(difference)
      by_sign[sign].append(f"{title} ({_size(difference)})")
  kinds = {
    1: "clearly more with",
    -1: "clearly less with",
    0: "not clearly more or less with",
  }
  parts = []
  for sign, listed in by_sign.items():
    if listed:
      remedies = ", ".join(listed)
      parts.append(f"{kinds[sign]} {remedies}")
  if not parts:
    return None
  compared = _quoted(diagnosis, finetuned)
  listed = "; ".join(parts)
  return f"Against {compared}, in {SITES[site]}: {listed}."


def _halves(diagnosis: Diagnosis) -> str | None:
  popular, unpopular, _ = reading.halves(diagnosis)
  site = attention.answering_site(diagnosis)
  pair = (popular or "", unpopular or "")
  difference = _differences(diagnosis, site).get(pair)
  if difference is None:
    return None
  kind = {
    -1: "attends clearly less to the subject than",
    0: "attends to the subject not clearly more or less than",
    1: "attends clearly more to the subject than",
  }[clear_sign(difference)]
  return (
    f"{_quoted(diagnosis, popular)} {kind} {_quoted(diagnosis, unpopular)} in {SITES[site]} "
    f"({_size(difference)})."
  )


def _where_lost(diagnosis: Diagnosis) -> str | None:
  label = reading.roles(diagnosis)["finetuned"]
  site = attention.answering_site(diagnosis)
  lost = attention.estimate(diagnosis, label, site, "change", "lost")
  kept = attention.estimate(diagnosis, label, site, "change", "kept")
  lost_minus_kept = attention.estimate(diagnosis, label, site, "change", "lost_minus_kept")
  if lost is None or kept is None or lost_minus_kept is None:
    return None
  kind = {
    -1: "it is clearly lower where answers were lost",
    0: "no clear difference",
    1: "it is clearly higher where answers were lost",
  }[clear_sign(lost_minus_kept)]
  return (
    f"The change in {SITES[site]} is {_size(lost)} where {_quoted(diagnosis, label)} lost a right "
    f"answer and {_size(kept)} where it kept it: {kind} ({_size(lost_minus_kept)})."
  )

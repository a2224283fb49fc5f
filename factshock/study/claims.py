"""Claims of both papers as rows: what was measured of each, and whether it holds here.

The papers are "Frequency Shock" (Kazemi et al. 2023, arXiv 2301.11293) and "Which facts" (Ghosal et
al. 2024, arXiv 2406.14785). A claim compares two arms, which are found by their roles.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

from factshock.study import roles
from factshock.study.arms.kind import Pair
from factshock.study.config import Config

SHOCK = "Frequency Shock"
WHICH = "Which facts"

# By how much an arm may be worse, in share right, and still be called as good.
MARGIN = 0.02
# Standard errors of the difference that a test at 5% sees with a probability of 80%.
_SEEN = 2.8
_STANDARD_ERRORS = 1.96  # of half a 95% interval

_Json: TypeAlias = Mapping[str, Any]
_Expected: TypeAlias = Literal["above", "below", "at least", "at most"]
_Measure: TypeAlias = Literal["right", "rare_seen", "common_unseen", "attention"]
# Sites of attention, the one that counts first (diagnosis/attention.py).
_SITES = ("self", "cross", "encoder")


@dataclasses.dataclass(frozen=True)
class Claim:
  """A claim about the difference of two arms.

  Attributes:
    paper: SHOCK or WHICH.
    text: what it says.
    arm: its role.
    against: roles of what it is compared with, of which the first that there is counts.
    expected: of the difference. "at least" and "at most" allow for MARGIN.
    of: measure that differs: share right, the prediction ratio of a group of answers, or attention
      to the subject.
  """

  paper: str
  text: str
  arm: str
  against: tuple[str, ...]
  expected: _Expected
  of: _Measure = "right"


class Row(TypedDict):
  """Row of a claim in diagnosis.json.

  `difference` is the paired estimate of `arm` less `against`; `visible` the least difference that
  would have been seen with a probability of 80%, None where there is no interval; `finding` is
  "holds", "fails" or "unclear".
  """

  paper: str
  claim: str
  arm: str
  against: str
  measure: str
  difference: _Json
  visible: float | None
  finding: str


_ZERO_SHOT = (roles.ZERO_SHOT,)
_FINETUNED = (roles.FINETUNED,)

CLAIMS = (
  Claim(
    SHOCK,
    "finetuned, the model gives rare answers that it has seen more often than before",
    roles.FINETUNED,
    _ZERO_SHOT,
    "above",
    "rare_seen",
  ),
  Claim(
    SHOCK,
    "finetuned, it gives common answers that it has not seen less often than before",
    roles.FINETUNED,
    _ZERO_SHOT,
    "below",
    "common_unseen",
  ),
  *(
    Claim(
      SHOCK, "finetuning on answers distributed as the asked ones helps", role, _ZERO_SHOT, "above"
    )
    for role in ("low_mismatch", "natural")
  ),
  Claim(
    SHOCK,
    "finetuning on answers distributed otherwise is no better than no finetuning",
    roles.FINETUNED,
    _ZERO_SHOT,
    "at most",
  ),
  Claim(
    SHOCK,
    "finetuning on answers distributed otherwise is no better than examples in the prompt",
    roles.FINETUNED,
    (roles.K_SHOT,),
    "at most",
  ),
  Claim(
    SHOCK, "mixing weights with the model before mends it", roles.WEIGHT_MIXING, _FINETUNED, "above"
  ),
  Claim(
    SHOCK, "mixing outputs with the model before mends it", roles.OUTPUT_MIXING, _FINETUNED, "above"
  ),
  Claim(SHOCK, "mixing in the pretraining task mends it", roles.MIXTURE, _FINETUNED, "above"),
  Claim(
    SHOCK,
    "mixing in the pretraining task and mixing weights together mend it",
    roles.COMBINED,
    _FINETUNED,
    "above",
  ),
  Claim(
    WHICH,
    "popular facts are better than unpopular ones",
    "popular_half",
    ("unpopular_half",),
    "above",
  ),
  Claim(WHICH, "popular facts are as good as all facts", "popular_half", ("whole",), "at least"),
  Claim(
    WHICH,
    "facts that the model is surer of are better than the others",
    "confident_half",
    ("unconfident_half",),
    "above",
  ),
  Claim(WHICH, "facts that it knows are better than the others", "known", ("unknown",), "above"),
  Claim(
    WHICH,
    "unpopular facts lower the attention to subjects",
    "unpopular_half",
    _ZERO_SHOT,
    "below",
    "attention",
  ),
  Claim(
    WHICH,
    "popular facts raise the attention to subjects",
    "popular_half",
    _ZERO_SHOT,
    "above",
    "attention",
  ),
  Claim(
    WHICH,
    "attention to subjects is higher after popular than after unpopular facts",
    "popular_half",
    ("unpopular_half",),
    "above",
    "attention",
  ),
)


def pairs(config: Config) -> Iterator[Pair]:
  """Yields the pairs of arms that the claims compare."""
  for _, pair in _compared(config):
    yield pair


def rows(config: Config, diagnosis: _Json) -> list[Row]:
  """Returns a row for each claim, of those that the study's arms can tell of.

  Args:
    config: of the experiment.
    diagnosis: with `comparisons` of the claims' pairs, and `attention` where it was measured.
  """
  found: list[Row] = []
  for claim, (arm, against) in _compared(config):
    difference = _difference(diagnosis, claim.of, arm, against)
    if difference is None or difference.get("mean") is None:
      continue
    found.append(
      {
        "paper": claim.paper,
        "claim": claim.text,
        "arm": arm,
        "against": against,
        "measure": claim.of,
        "difference": difference,
        "visible": _visible(difference),
        "finding": _finding(difference, claim.expected),
      }
    )
  return found


def lines(found: Sequence[Row], titles: Mapping[str, str]) -> list[str]:
  """Returns the rows as text: what was found of a claim, and below it the difference."""
  written: list[str] = []
  for row in found:
    arm, against = (titles.get(label, label) for label in (row["arm"], row["against"]))
    interval = _interval(row["difference"])
    written += [f"  {row['finding']:7}  {row['claim']}", f"{'':11}{interval}  {arm} - {against}"]
  return written


def _interval(difference: _Json) -> str:
  low = difference.get("low")
  high = difference.get("high")
  if low is None or high is None:
    return f"{difference['mean']:+.3f}"
  return f"{difference['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _compared(config: Config) -> Iterator[tuple[Claim, Pair]]:
  """Yields each claim with the labels of the arms that it compares."""
  for claim in CLAIMS:
    others = [name for role in claim.against for name in roles.with_role(config, role)]
    for arm in roles.with_role(config, claim.arm):
      if others and arm != others[0]:
        yield claim, (arm, others[0])


def _difference(
  diagnosis: _Json,
  measure: _Measure,
  arm: str,
  against: str,
) -> _Json | None:
  """Returns the paired difference of two arms in a measure, None where there is none."""
  if measure == "attention":
    return _attention_difference(diagnosis.get("attention") or {}, arm, against)
  for row in diagnosis["comparisons"]:
    if (row["arm"], row["against"]) == (arm, against):
      if measure == "right":
        return row["difference"]
      return row.get("ratio_difference", {}).get(measure)
  return None


def _attention_difference(
  attention: _Json,
  arm: str,
  against: str,
) -> _Json | None:
  if against == attention.get("reference"):
    sites = attention["arms"].get(arm, {}).get("sites", {})
    changes = {site: measures.get("change", {}) for site, measures in sites.items()}
  else:
    changes = {
      row["site"]: row
      for row in attention.get("comparisons", ())
      if (row["arm"], row["against"]) == (arm, against)
    }
  for site in _SITES:
    if site in changes:
      return changes[site].get("mass")
  return None


def _visible(difference: _Json) -> float | None:
  low = difference.get("low")
  high = difference.get("high")
  if low is None or high is None:
    return None
  return _SEEN * (high - low) / 2 / _STANDARD_ERRORS


def _finding(difference: _Json, expected: _Expected) -> str:
  """Returns whether an interval lies where a claim expects the difference."""
  low = difference.get("low")
  high = difference.get("high")
  if low is None or high is None:
    return "unclear"
  if expected in ("below", "at most"):
    low, high = -high, -low
  allowed = -MARGIN if expected in ("at least", "at most") else 0.0
  if low > allowed:
    return "holds"
  return "fails" if high < 0 else "unclear"

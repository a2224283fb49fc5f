"""Shapes of the JSON that is drawn: diagnosis.json, extraction.json and theory.json.

A diagnosis and an extraction may lack any key but those that are required here: the page leaves
out what is missing, and says why. Estimates in them are dicts of mean, low and high, or None.
"""

from typing import Any, Required, TypeAlias, TypedDict

from factshock.report.numbers import KnownEstimate

# An estimate as it was read: with gaps, or None. `numbers.known_estimate` makes it whole.
RawEstimate: TypeAlias = dict[str, Any] | None


class Shock(TypedDict, total=False):
  """Measures of how far an arm's answer frequencies are from the right ones."""

  ratio: dict[str, RawEstimate]
  shock: RawEstimate
  slope: RawEstimate
  spearman: RawEstimate
  total_variation: RawEstimate
  range_shift: RawEstimate
  mismatch: RawEstimate


class PopularityBin(TypedDict, total=False):
  """Queries whose subjects have a popularity from low to high, and a measure on them."""

  low: float
  high: float
  queries: int
  right: RawEstimate
  mass: RawEstimate


class Arm(TypedDict, total=False):
  """All measures of one arm, or of one point of a curve."""

  queries: int
  right: RawEstimate
  exact_match: RawEstimate
  answers: dict[str, int]
  contains: RawEstimate
  f1: RawEstimate
  mrr: RawEstimate
  macro_right: RawEstimate
  by_relation: dict[str, RawEstimate]
  by_type: dict[str, RawEstimate]
  by_popularity: list[PopularityBin]
  shock: Shock
  errors: dict[str, RawEstimate]
  flips: dict[str, RawEstimate]
  known_kept: RawEstimate


class Comparison(TypedDict, total=False):
  """Two arms on the same queries."""

  arm: str
  against: str
  difference: RawEstimate
  ratio_difference: dict[str, RawEstimate]
  mcnemar_p: float
  wins: int
  losses: int
  seeds_same_sign: str


class PaperClaim(TypedDict, total=False):
  """Claim of a paper about the difference of two arms, and whether it holds (study/claims.py)."""

  paper: str
  claim: str
  arm: str
  against: str
  measure: str
  difference: RawEstimate
  visible: float | None
  finding: str


class EntityRow(TypedDict, total=False):
  """One answer of a relation and seed: how often it is right, seen and predicted by each arm."""

  seed: int
  relation: str
  entity: str
  pretraining: float
  finetuning: float
  gold: float
  pressure: float
  group: str
  predicted: dict[str, float]


class CurvePoint(TypedDict, total=False):
  """One point of an arm's curve: the label of its measures, and the step or alpha it stands at."""

  label: str
  step: float
  alpha: float


class Verdict(TypedDict, total=False):
  """Verdict on what finetuning did, by the differences in `evidence`."""

  verdict: str
  text: str
  try_first: str
  reference: str
  finetuned: str
  corrected: str
  known: str | None
  evidence: dict[str, RawEstimate]
  share_of_loss: float | None


class Description(TypedDict, total=False):
  """Description of an arm, which the study gives: what it is, and what a report says of it.

  `roles` are names of sets of facts that the arm was finetuned on alone, and "finetuned",
  "mixture" and the like; pictures and sentences go by them. `needs`, `cost` and `use_when` are of
  the arm as a remedy.
  """

  kind: str
  roles: list[str]
  needs: str
  cost: str
  use_when: str
  caption: str


class AttentionPart(TypedDict, total=False):
  """Attention to the subject: of each arm at each site, and of pairs of arms."""

  reference: str
  arms: dict[str, dict[str, Any]]
  comparisons: list[dict[str, Any]]
  notes: dict[str, str]


class Diagnosis(TypedDict, total=False):
  """Contents of diagnosis.json; `arms` goes by label, those of curves' points included."""

  format: int
  arms: Required[dict[str, Arm]]
  reference: str
  known: str
  criterion: str
  confidence: float
  seeds: list[int]
  notes: dict[str, Any]
  comparisons: list[Comparison]
  claims: list[PaperClaim]
  entities: list[EntityRow]
  finetuned: str
  verdict: Verdict
  curves: dict[str, dict[str, list[CurvePoint]]]
  table: list[str]
  titles: dict[str, str]
  groups: dict[str, str]
  descriptions: dict[str, Description]
  roles: dict[str, Any]
  remedies: dict[str, str]
  selected: dict[str, dict[str, dict[str, Any]]]
  relation_labels: dict[str, str]
  attention: AttentionPart
  run: dict[str, Any]


class QualityGroup(TypedDict, total=False):
  """Quality of the confidences of one relation, or of all together, on held-out answers."""

  units: int
  queries: int
  right: int
  share_right: RawEstimate
  mean_confidence: RawEstimate
  overconfidence: RawEstimate
  ece: RawEstimate
  ece_debiased: RawEstimate
  brier: RawEstimate
  auroc: RawEstimate
  aurc: RawEstimate
  bins: int
  reliability: list[dict[str, Any]]
  risk_coverage: list[dict[str, Any]]
  yields: list[dict[str, Any]]


class Quality(TypedDict, total=False):
  """Quality of the confidences of an extraction, over all relations and of each."""

  confidence: float
  pooled: QualityGroup
  relations: dict[str, QualityGroup]
  notes: dict[str, str]


class Extraction(TypedDict, total=False):
  """Contents of extraction.json: an extraction of a knowledge graph and how good it is."""

  run: dict[str, Any]
  asked: dict[str, Any] | None
  counts: dict[str, int]
  promise: dict[str, Any]
  quality: Quality
  relations: list[dict[str, Any]]
  over_predicted: list[dict[str, Any]]
  conflicts: dict[str, Any]
  outputs: list[dict[str, Any]]
  notes: dict[str, str]


class Claim(TypedDict):
  """Prediction of the theory, the estimates that it is about, and whether it holds."""

  statement: str
  verdict: str
  estimates: list[dict[str, Any]]


class ConditionRow(TypedDict):
  """One condition of the theory: what finetuning on the halves does in it."""

  title: str
  before: KnownEstimate
  gap: KnownEstimate
  attention: dict[str, KnownEstimate]


class PhaseCell(TypedDict):
  """One Zipf exponent and finetuning set size: estimates by step, and where harm begins."""

  zipf: float
  size: int
  before: KnownEstimate
  gap: list[KnownEstimate]
  harm: list[KnownEstimate]
  gap_begins: int | None
  harm_begins: int | None


class Theory(TypedDict, total=False):
  """Contents of theory.json; phases, stored and variants may be left out."""

  name: str
  confidence: Required[float]
  seeds: Required[list[int]]
  claims: Required[list[Claim]]
  stored_by_popularity: Required[dict[str, list[KnownEstimate]]]
  updates: Required[dict[str, list[KnownEstimate]]]
  # By set of facts: estimates by measure and step; `steps` are the steps themselves.
  sets: Required[dict[str, Any]]
  question_sets: Required[dict[str, Any]]
  conditions: list[ConditionRow]
  variants: list[ConditionRow]
  stored: list[ConditionRow]
  phases: list[PhaseCell]
  phase_steps: list[int]
  run: dict[str, Any]

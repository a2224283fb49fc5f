"""Reads a diagnosis's part on attention to the subject: its arms, its sites and their numbers."""

from typing import Any

from factshock.report import numbers, reading
from factshock.report.numbers import KnownEstimate, known_estimate
from factshock.report.schema import AttentionPart, Diagnosis

# Where attention is measured, in the order of the forward pass.
SITES = {"encoder": "the encoder", "cross": "cross-attention", "self": "self-attention"}
# Measures in logits, and the heads of their columns.
HEADS = {
  "contribution": "Subject<br>(logits)",
  "contribution_rest": "Rest<br>(logits)",
  "salience": "Salience<br>(logits)",
}
PICTURES = ("attention_heads", "attention_popularity", "attention_curves")


def part(diagnosis: Diagnosis) -> AttentionPart:
  """Returns the part on attention; empty where nothing was measured."""
  return diagnosis.get("attention") or {}


def labels(diagnosis: Diagnosis) -> list[str]:
  """Returns the labels of the table of arms whose attention was measured, in its order."""
  return [
    label
    for label in reading.table_labels(diagnosis)
    if any(estimate(diagnosis, label, site, "mass") for site in SITES)
  ]


def reference(diagnosis: Diagnosis) -> str | None:
  """Returns the label of the arm that the others' attention is compared with, or None."""
  return part(diagnosis).get("reference")


def value_at(
  diagnosis: Diagnosis,
  label: str | None,
  site: str,
  *path: str,
) -> Any:
  """Returns what stands under the keys of `path` of an arm at a site, or None."""
  return numbers.value_at(part(diagnosis), "arms", label or "", "sites", site, *path)


def estimate(
  diagnosis: Diagnosis,
  label: str | None,
  site: str,
  *path: str,
) -> KnownEstimate | None:
  """Returns an estimate of one arm at one site, or None."""
  return known_estimate(value_at(diagnosis, label, site, *path))


def sites(diagnosis: Diagnosis) -> list[str]:
  """Returns the sites where attention was measured."""
  measured = labels(diagnosis)
  return [
    site for site in SITES if any(estimate(diagnosis, label, site, "mass") for label in measured)
  ]


def answering_site(diagnosis: Diagnosis) -> str:
  """Returns the site that answers are read from: the last one."""
  measured = sites(diagnosis)
  return measured[-1]


def heading(site: str) -> str:
  """Returns the name of a site as a heading."""
  return SITES[site].removeprefix("the ").capitalize()

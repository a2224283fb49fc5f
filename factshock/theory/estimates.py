"""Means over seeds with Student's t intervals, as plain values."""

from collections.abc import Sequence

import numpy as np
from scipy import special

from factshock.types import Estimate

CONFIDENCE = 0.95


class SeedValues(Estimate):
  """Estimate with the value of each seed; None where it is not defined."""

  values: list[float | None]


def estimate(values_K: np.ndarray | Sequence[float]) -> SeedValues:
  """Returns the mean of one number a seed, with Student's interval at CONFIDENCE.

  The ends are None where there is one seed.

  Args:
    values_K: numbers; NaN, of a seed where the measure is not defined, are left out.

  Raises:
    FloatingPointError: an infinite number.
  """
  values_K = np.asarray(values_K, float)
  if np.isinf(values_K).any():
    raise FloatingPointError("expected finite numbers, got an infinite one")
  known = values_K[~np.isnan(values_K)]
  mean = float(known.mean()) if len(known) else None
  low = None
  high = None
  if mean is not None and len(known) > 1:
    quantile = special.stdtrit(len(known) - 1, (1 + CONFIDENCE) / 2)
    half = float(quantile * known.std(ddof=1) / np.sqrt(len(known)))
    low = mean - half
    high = mean + half
  values = [None if np.isnan(value) else value for value in values_K.tolist()]
  return {"mean": mean, "low": low, "high": high, "values": values}


def along(values_KxE: np.ndarray) -> list[SeedValues]:
  """Returns the estimate of each column."""
  return [estimate(column) for column in np.asarray(values_KxE, float).T]

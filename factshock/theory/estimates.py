"""Means over seeds with t intervals, as plain values."""

import numpy as np
from scipy import special

CONFIDENCE = 0.95


def estimate(values_K):
  """{mean, low, high, values} of one number a seed: Student's interval at CONFIDENCE; null ends where there is one seed.

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
  if len(known) > 1:
    half = float(
      special.stdtrit(len(known) - 1, (1 + CONFIDENCE) / 2)
      * known.std(ddof=1)
      / np.sqrt(len(known))
    )
    low = mean - half
    high = mean + half
  return {
    "mean": mean,
    "low": low,
    "high": high,
    "values": [None if np.isnan(value) else value for value in values_K.tolist()],
  }


def along(values_KxE):
  """Estimates of each column."""
  return [estimate(column) for column in np.asarray(values_KxE, float).T]

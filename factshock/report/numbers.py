"""Numbers of a report: which ones can be shown, and how they are written."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypedDict

# Turns a number, or None, into text.
Writer: TypeAlias = Callable[[float | None], str]

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"  # as wide as a plus


class KnownEstimate(TypedDict):
  """Estimate whose mean is a number; `low` and `high` are None where it has no interval."""

  mean: float
  low: float | None
  high: float | None
  by_seed: dict[str, float]


ZERO: KnownEstimate = {"mean": 0.0, "low": 0.0, "high": 0.0, "by_seed": {}}


def finite(value: Any) -> float | None:
  """Returns the value as a float, or None where it is missing, not a number or not finite."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return None
  if not math.isfinite(value):
    return None
  return float(value)


def known_estimate(value: Any) -> KnownEstimate | None:
  """Returns an estimate whose mean is a number, with every key there; None for anything else."""
  if not isinstance(value, dict):
    return None
  mean = finite(value.get("mean"))
  if mean is None:
    return None
  by_seed = {}
  given = value.get("by_seed") or {}
  for seed, seed_value in given.items():
    known = finite(seed_value)
    if known is not None:
      by_seed[str(seed)] = known
  return {
    "mean": mean,
    "low": finite(value.get("low")),
    "high": finite(value.get("high")),
    "by_seed": by_seed,
  }


def value_at(tree: Any, *path: str) -> Any:
  """Returns what stands in nested dicts under the keys of `path`, or None where one is missing."""
  for key in path:
    if not isinstance(tree, dict):
      return None
    tree = tree.get(key)
  return tree


def without_none(tree: Any) -> Any:
  """Returns a copy of nested dicts and lists in which what is None is left out."""
  if isinstance(tree, dict):
    known = {key: value for key, value in tree.items() if value is not None}
    return {key: without_none(value) for key, value in known.items()}
  if isinstance(tree, list):
    return [without_none(value) for value in tree if value is not None]
  return tree


def clear_sign(estimate: KnownEstimate | None) -> int:
  """Returns 1 or -1 where the whole interval lies above or below 0, else 0."""
  if estimate is None:
    return 0
  low = estimate["low"]
  high = estimate["high"]
  if low is None or high is None:
    return 0
  if low > 0:
    return 1
  if high < 0:
    return -1
  return 0


def span_of(
  estimates: Iterable[KnownEstimate | None],
  margin: float = 0.04,
) -> tuple[float, float]:
  """Returns the range of all means and intervals, widened on either side by a share of itself."""
  values = []
  for estimate in estimates:
    if not estimate:
      continue
    for value in (estimate["low"], estimate["high"], estimate["mean"]):
      if value is not None:
        values.append(value)
  if not values:
    return 0.0, 1.0
  low = min(values)
  high = max(values)
  extra = margin * (high - low) or 0.01
  return low - extra, high + extra


def share(value: float | None, signed: bool = False) -> str:
  """Returns a share in three digits: ".339", "-.060"; "+.141" where signed; a dash for None."""
  return _short(value, 3, signed)


def signed_share(value: float | None) -> str:
  """Returns a difference of shares with its sign: "+.141"; a dash for None."""
  return share(value, signed=True)


def ratio(value: float | None) -> str:
  """Returns a ratio in three figures at most: "2.46", ".53", "12.4"; a dash for None."""
  is_large = value is not None and abs(value) >= 10
  digits = 1 if is_large else 2
  return _short(value, digits, signed=False)


def percent(value: float | None) -> str:
  """Returns a share as "90%", "97.5%"; a dash for None."""
  known = finite(value)
  if known is None:
    return DASH
  return f"{100 * known:.3g}%"


def count(value: float | None) -> str:
  """Returns a number of things with commas between thousands; a dash for None."""
  known = finite(value)
  if known is None:
    return DASH
  return f"{known:,.0f}"


def _short(
  value: float | None,
  digits: int,
  signed: bool,
) -> str:
  known = finite(value)
  if known is None:
    return DASH
  text = f"{abs(known):.{digits}f}"
  if text.startswith("0."):
    text = text[1:]
  # What rounds to zero has no minus sign.
  if known < 0 and float("0" + text) != 0:
    return MINUS + text
  if signed and known > 0:
    return "+" + text
  return text


def interval(
  estimate: KnownEstimate | None,
  write: Writer = share,
) -> str:
  """Returns the interval of an estimate as "[.32, .36]", or "" where it has none."""
  if estimate is None:
    return ""
  low = estimate["low"]
  high = estimate["high"]
  if low is None or high is None:
    return ""
  return f"[{write(low)}, {write(high)}]"


def confidence_level(part: Mapping[str, Any]) -> float:
  """Returns the confidence of the intervals of a diagnosis or quality: .95 where it says none."""
  level = finite(part.get("confidence"))
  return 0.95 if level is None else level

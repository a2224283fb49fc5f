"""Calibration: from an answer's score to the probability that it is right. Numpy on columns.

An answer's score is the logarithm of the model's probability p of it; a relation's curve is a
function of logit p, either isotonic (never falling, else free: Zadrozny and Elkan 2002) or Platt's
(logistic: Platt 1999). It is fitted to the relation's own answers and to `strength` answers more
that are as the pooled curve of all relations says: few data of its own leave it where the pooled
one is. Method and strength are those with the best log-likelihood on answers of queries that the
fit has not seen.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize  # pyright: ignore[reportMissingTypeStubs] - scipy has none

METHODS = ("isotonic", "platt")
STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1e6)  # the last is the pooled curve everywhere
FOLDS = 5
_EDGE = 30.0  # logits beyond are taken as that

_Choice: TypeAlias = tuple[str, float]  # method and strength


@dataclasses.dataclass(frozen=True)
class Curve:
  """Confidence as a function of logit p.

  Attributes:
    method: "isotonic": straight between points, constant beyond them; "platt": sigmoid(a x + b).
    x: logits of the points; of "platt" [a].
    y: confidences of the points; of "platt" [b].
  """

  method: str
  x: np.ndarray
  y: np.ndarray


@dataclasses.dataclass(frozen=True)
class Calibration:
  """Curves of the relations with data of their own, and the pooled one for all others.

  Attributes:
    method: one of METHODS.
    strength: weight of the pooled curve in each relation's, in answers.
    pooled: the curve of all relations together.
    relations: curve by the code of a relation.
    units: how many answers each was fitted to, by the code of a relation.
  """

  method: str
  strength: float
  pooled: Curve
  relations: Mapping[int, Curve]
  units: Mapping[int, int]


class _Data(NamedTuple):
  """Columns of the answers that curves are fitted to.

  Attributes:
    x_N: logits.
    right_N: 1 where an answer is right, else 0.
    relation_N: codes of relations.
  """

  x_N: np.ndarray
  right_N: np.ndarray
  relation_N: np.ndarray

  def take(self, wanted_N: np.ndarray) -> "_Data":
    """Returns the rows that are wanted."""
    return _Data(
      self.x_N[wanted_N],
      self.right_N[wanted_N],
      self.relation_N[wanted_N],
    )


def logits(score_N: ArrayLike) -> np.ndarray:
  """Returns logit p of log-probabilities: log p - log(1 - p), within +-30."""
  log_p_N = np.asarray(score_N, np.float64)
  log_p_N = np.minimum(log_p_N, -1e-13)
  rest_N = -np.expm1(log_p_N)
  logit_N = log_p_N - np.log(rest_N)
  return np.clip(logit_N, -_EDGE, _EDGE)


def assign_folds(key_N: ArrayLike, count: int = FOLDS) -> np.ndarray:
  """Returns a fold from 0 to count - 1 for each row, int64 [N].

  Rows of equal keys (subjects) share one, whatever the order of rows.
  """
  keys, index_N = np.unique(np.asarray(key_N, str), return_inverse=True)
  texts = map(str, keys.tolist())
  hashes = np.array([_hash(text) for text in texts], np.int64)
  order = np.argsort(hashes, kind="stable")
  fold = np.empty(len(keys), np.int64)
  position = np.arange(len(keys))
  fold[order] = position % count
  return fold[index_N]


def _hash(key: str) -> int:
  """Returns a number of 48 bits that depends on the text alone."""
  digest = hashlib.sha256(key.encode()).digest()
  return int.from_bytes(digest[:6], "big")


def fit(
  score_N: ArrayLike,
  right_N: ArrayLike,
  relation_N: ArrayLike,
  fold_N: np.ndarray,
  method: str | None = None,
  fitted_N: np.ndarray | None = None,
) -> tuple[Calibration, np.ndarray]:
  """Fits curves, and estimates the confidence of each answer by curves that have not seen its fold.

  Args:
    score_N: log-probabilities.
    right_N: whether each answer is right.
    relation_N: codes of relations.
    fold_N: folds, as of `assign_folds`.
    method: one of METHODS; None: the better of both.
    fitted_N: whether curves are fitted to an answer; None, or where no answer is: to all.

  Returns:
    The calibration, and the confidences [N].

  Raises:
    ValueError: no answers.
  """
  data = _data(score_N, right_N, relation_N)
  if fitted_N is None or not fitted_N.any():
    fitted_N = np.ones(len(data.x_N), bool)
  choices = _choices(method)
  held_out = _held_out_confidences(data, fold_N, fitted_N, choices)
  fitted = data.take(fitted_N)

  def loss(choice: _Choice) -> float:
    return log_loss(held_out[choice][fitted_N], fitted.right_N)

  best = min(choices, key=loss)
  return _fit_curves(fitted, *best), held_out[best]


def _data(
  score_N: ArrayLike,
  right_N: ArrayLike,
  relation_N: ArrayLike,
) -> _Data:
  """Returns the columns that curves are fitted to; a ValueError where there are no answers."""
  data = _Data(
    logits(score_N),
    np.asarray(right_N, np.float64),
    np.asarray(relation_N),
  )
  if not len(data.x_N):
    raise ValueError("expected answers to calibrate on, got none")
  return data


def _choices(method: str | None) -> list[_Choice]:
  """Returns the choices of a method, or of all, in the order in which ties are decided."""
  methods = (method,) if method else METHODS
  return [(name, strength) for name in methods for strength in STRENGTHS]


def _held_out_confidences(
  data: _Data,
  fold_N: np.ndarray,
  fitted_N: np.ndarray,
  choices: Sequence[_Choice],
) -> dict[_Choice, np.ndarray]:
  """Returns confidences [N] by curves of the other folds, for each method and strength."""
  held_out = {choice: np.empty(len(fold_N)) for choice in choices}
  for fold in np.unique(fold_N):
    inside_N = fold_N == fold
    outside_N = (fold_N != fold) & fitted_N
    if not outside_N.any():  # one subject in all: nothing can be kept apart
      outside_N = fitted_N
    inside = data.take(inside_N)
    outside = data.take(outside_N)
    for choice in choices:
      curves = _fit_curves(outside, *choice)
      values_N = _evaluate(curves, inside.x_N, inside.relation_N)
      held_out[choice][inside_N] = values_N
  return held_out


def confidence(
  calibration: Calibration,
  score_N: ArrayLike,
  relation_N: ArrayLike,
) -> np.ndarray:
  """Returns the probability that each answer is right [N].

  Args:
    calibration: of `fit`; a relation without a curve of its own has the pooled one.
    score_N: log-probabilities.
    relation_N: codes of relations.
  """
  x_N = logits(score_N)
  return _evaluate(calibration, x_N, np.asarray(relation_N))


def log_loss(confidence_N: np.ndarray, right_N: np.ndarray) -> float:
  """Returns the mean negative log-likelihood, natural logarithm."""
  if_right_N = np.log(confidence_N)
  if_wrong_N = np.log1p(-confidence_N)
  log_likelihood_N = np.where(right_N > 0, if_right_N, if_wrong_N)
  mean = np.mean(log_likelihood_N)
  return float(-mean)


def to_json(calibration: Calibration, names: Sequence[str]) -> dict[str, Any]:
  """Returns a calibration as JSON values, with a digest of all of it as `identity`.

  Args:
    calibration: of `fit`.
    names: the relations' names by their codes.
  """
  curves: dict[str, Any] = {}
  for code, curve in calibration.relations.items():
    curves[names[code]] = _curve_json(curve)
  units: dict[str, int] = {}
  for code, count in calibration.units.items():
    units[names[code]] = count
  values = {
    "method": calibration.method,
    "strength": calibration.strength,
    "pooled": _curve_json(calibration.pooled),
    "relations": curves,
    "units": units,
  }
  text = json.dumps(values, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()
  return {**values, "identity": digest[:16]}


def _curve_json(curve: Curve) -> dict[str, Any]:
  """Returns a curve as JSON values."""
  return {
    "method": curve.method,
    "x": curve.x.tolist(),
    "y": curve.y.tolist(),
  }


def _fit_curves(
  data: _Data,
  method: str,
  strength: float,
) -> Calibration:
  """Fits the pooled curve and one for each relation."""
  ones_N = np.ones(len(data.x_N))
  pooled = _fit_curve(method, data.x_N, data.right_N, ones_N)
  curves: dict[int, Curve] = {}
  units: dict[int, int] = {}
  for relation in np.unique(data.relation_N).tolist():
    own = data.take(data.relation_N == relation)
    count = len(own.x_N)
    # Beside each of the relation's answers one of this weight is as the pooled curve says.
    prior = strength / count
    pooled_N = _curve_values(pooled, own.x_N)
    weight = 1 + prior
    target_N = (own.right_N + prior * pooled_N) / weight
    weight_N = np.full(count, weight)
    curves[relation] = _fit_curve(method, own.x_N, target_N, weight_N)
    units[relation] = count
  return Calibration(method, strength, pooled, curves, units)


def _evaluate(
  calibration: Calibration,
  x_N: np.ndarray,
  relation_N: np.ndarray,
) -> np.ndarray:
  """Returns the confidences at logits of answers of several relations [N]."""
  confidence_N = np.empty(len(x_N))
  for relation in np.unique(relation_N).tolist():
    own_N = relation_N == relation
    curve = calibration.relations.get(relation, calibration.pooled)
    own_confidence_N = _curve_values(curve, x_N[own_N])
    confidence_N[own_N] = own_confidence_N
  return confidence_N


def _curve_values(curve: Curve, x_N: np.ndarray) -> np.ndarray:
  """Returns the confidences at logits [N]."""
  if curve.method == "isotonic":
    return np.interp(x_N, curve.x, curve.y)
  slope = curve.x[0]
  shift = curve.y[0]
  p_N = sigmoid(slope * x_N + shift)
  least = np.exp(-_EDGE)
  return np.clip(p_N, least, 1 - least)


def _fit_curve(
  method: str,
  x_N: np.ndarray,
  target_N: np.ndarray,
  weight_N: np.ndarray,
) -> Curve:
  """Fits a curve of one method."""
  if method == "isotonic":
    return _fit_isotonic(x_N, target_N, weight_N)
  return _fit_platt(x_N, target_N, weight_N)


def _fit_isotonic(
  x_N: np.ndarray,
  target_N: np.ndarray,
  weight_N: np.ndarray,
) -> Curve:
  """Returns the never falling curve of least squares, kept off 0 and 1 by half an answer."""
  x, index_N = np.unique(x_N, return_inverse=True)
  weight = np.bincount(index_N, weight_N)
  total = np.bincount(index_N, weight_N * target_N)
  mean = total / weight
  y = _increasing(mean, weight)
  edge = 0.5 / (weight.sum() + 1)
  y = np.clip(y, edge, 1 - edge)
  is_corner = np.ones(len(x), bool)  # the ends of each level say all
  inner = y[1:-1]
  rises_before = inner != y[:-2]
  rises_after = inner != y[2:]
  is_corner[1:-1] = rises_before | rises_after
  x_corners = x[is_corner]
  y_corners = y[is_corner]
  return Curve("isotonic", x_corners, y_corners)


def _increasing(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Returns the never falling values that are nearest by weighted squares."""
  result: Any = optimize.isotonic_regression(values, weights=weights)
  return result.x


def _fit_platt(
  x_N: np.ndarray,
  target_N: np.ndarray,
  weight_N: np.ndarray,
  rounds: int = 50,
) -> Curve:
  """Returns the logistic curve of the greatest likelihood, its slope not below 0.

  By Newton's method. One answer more, half right, stands at each end: without them answers that a
  threshold tells apart would have no best slope.
  """
  ends = [x_N.min(), x_N.max()]
  x = np.concatenate([x_N, ends])
  target = np.concatenate([target_N, [0.5, 0.5]])
  weight = np.concatenate([weight_N, [1.0, 1.0]])
  share = np.average(target, weights=weight)
  slope = 0.0
  odds = share / (1 - share)
  shift = float(np.log(odds))
  level = shift  # the best where the slope is 0
  for _ in range(rounds):
    move = _newton_move(x, target, weight, slope, shift)
    slope = slope + move[0]
    shift = shift + move[1]
    if np.abs(move).max() < 1e-9:
      break
  if not slope > 0:
    slope = 0.0
    shift = level
  x_1 = np.array([slope])
  y_1 = np.array([shift])
  return Curve("platt", x_1, y_1)


def _newton_move(
  x: np.ndarray,
  target: np.ndarray,
  weight: np.ndarray,
  slope: float,
  shift: float,
) -> np.ndarray:
  """Returns Newton's step of slope and shift, at most 2 in each."""
  p = sigmoid(slope * x + shift)
  error = weight * (target - p)
  curvature = weight * p * (1 - p) + 1e-12
  slope_gradient = error @ x
  shift_gradient = error.sum()
  gradient = np.array([slope_gradient, shift_gradient])
  mixed = curvature @ x
  of_slope = curvature @ (x * x)
  of_shift = curvature.sum()
  hessian = np.array([[of_slope, mixed], [mixed, of_shift]])
  hessian = hessian + 1e-9 * np.eye(2)
  move = np.linalg.solve(hessian, gradient)
  if not move.any():
    return move * 0.0
  largest = np.abs(move).max()
  return move * min(1.0, 2.0 / largest)


def sigmoid(x: np.ndarray) -> np.ndarray:
  """Returns 1 / (1 + exp(-x)), without overflow."""
  half = 0.5 * x
  return 0.5 * (1 + np.tanh(half))

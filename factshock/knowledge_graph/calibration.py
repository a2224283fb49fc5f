"""Calibration: from an answer's score to the probability that it is right, for each relation. Numpy on columns.

An answer's score is the logarithm of the model's probability p of it; the curve is a function of logit p, either isotonic (never
falling, else free: Zadrozny and Elkan 2002) or Platt's (logistic: Platt 1999). A relation's curve is fitted to its own answers and
to `strength` answers more that are as the pooled curve of all relations says: few data of its own leave it where the pooled one is.
Method and strength are those with the best log-likelihood on answers of queries that the fit has not seen.
"""

import hashlib
import json
from typing import NamedTuple

import numpy as np
from scipy import optimize

METHODS = ("isotonic", "platt")
STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1e6)  # the last is the pooled curve everywhere
FOLDS = 5
_EDGE = 30.0  # logits beyond are taken as that


class Curve(NamedTuple):
  """Confidence as a function of logit p: straight between points, constant beyond them ("isotonic"); or sigmoid(a x + b) ("platt")."""

  method: str
  x: np.ndarray  # points, or [a]
  y: np.ndarray  # their values, or [b]


class Calibration(NamedTuple):
  """What `fit` found: a curve for each relation with data of its own, and the pooled one for all others."""

  method: str
  strength: float
  pooled: Curve
  relations: dict  # number of a relation -> Curve
  units: dict  # the same -> how many answers it was fitted to


def logits(score_N):
  """logit p of log-probabilities: log p - log(1 - p), within +-30."""
  score_N = np.minimum(np.asarray(score_N, np.float64), -1e-13)
  return np.clip(score_N - np.log(-np.expm1(score_N)), -_EDGE, _EDGE)


def folds(key_N, count=FOLDS):
  """A fold 0 to count - 1 for each row: rows of equal keys (subjects) share one, whatever the order of rows."""
  keys, place_N = np.unique(np.asarray(key_N, str), return_inverse=True)
  digest = [hashlib.sha256(key.encode()).digest() for key in keys.tolist()]
  order = np.argsort(
    np.array([int.from_bytes(one[:6], "big") for one in digest], np.int64), kind="stable"
  )
  fold = np.empty(len(keys), np.int64)
  fold[order] = np.arange(len(keys)) % count
  return fold[place_N]


def fit(score_N, right_N, relation_N, fold_N, method=None, plain_N=None):
  """(Calibration, confidence [N] of each answer by curves that were fitted without its fold).

  Args:
    score_N: log-probabilities. right_N: whether each is right. relation_N: numbers of relations. fold_N: as of `folds`.
    method: one of METHODS; None: the better of both. plain_N: the answers that curves are fitted to; None, or where there are none: all.

  Raises:
    ValueError: no answers.
  """
  if not len(score_N):
    raise ValueError("expected answers to calibrate on, got none")
  x_N = logits(score_N)
  right_N = np.asarray(right_N, np.float64)
  relation_N = np.asarray(relation_N)
  plain_N = plain_N if plain_N is not None and plain_N.any() else np.ones(len(x_N), bool)
  options = [(one, strength) for one in ([method] if method else METHODS) for strength in STRENGTHS]
  apart = {option: np.empty(len(x_N)) for option in options}
  for fold in np.unique(fold_N):
    inside = fold_N == fold
    outside = (fold_N != fold) & plain_N
    if not outside.any():  # one subject in all: nothing can be kept apart
      outside = plain_N
    for option in options:
      found = _fit(x_N[outside], right_N[outside], relation_N[outside], *option)
      apart[option][inside] = _apply(found, x_N[inside], relation_N[inside])
  best = min(options, key=lambda option: log_loss(apart[option][plain_N], right_N[plain_N]))
  return _fit(x_N[plain_N], right_N[plain_N], relation_N[plain_N], *best), apart[best]


def confidence(calibration, score_N, relation_N):
  """The probability that each answer is right: [N]; of a relation without a curve of its own by the pooled one."""
  return _apply(calibration, logits(score_N), np.asarray(relation_N))


def log_loss(confidence_N, right_N):
  """Mean negative log-likelihood, natural logarithm."""
  return float(-np.mean(np.where(right_N > 0, np.log(confidence_N), np.log1p(-confidence_N))))


def to_json(calibration, names):
  """The calibration as a JSON dict, by the relations' names; `identity` is a digest of all of it."""
  curve = lambda one: {"method": one.method, "x": one.x.tolist(), "y": one.y.tolist()}
  found = {
    "method": calibration.method,
    "strength": calibration.strength,
    "pooled": curve(calibration.pooled),
    "relations": {names[code]: curve(one) for code, one in calibration.relations.items()},
    "units": {names[code]: count for code, count in calibration.units.items()},
  }
  return found | {
    "identity": hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
  }


def _fit(x_N, right_N, relation_N, method, strength):
  pooled = _curve(method, x_N, right_N, np.ones(len(x_N)))
  curves = {}
  units = {}
  for relation in np.unique(relation_N).tolist():
    own = relation_N == relation
    x = x_N[own]
    right = right_N[own]
    count = int(own.sum())
    prior = (
      strength / count
    )  # of these weights, at the relation's own places, are the answers as the pooled curve has them
    target = (right + prior * _value(pooled, x)) / (1 + prior)
    curves[relation], units[relation] = _curve(method, x, target, np.full(count, 1 + prior)), count
  return Calibration(method, strength, pooled, curves, units)


def _apply(calibration, x_N, relation_N):
  found_N = np.empty(len(x_N))
  for relation in np.unique(relation_N).tolist():
    own = relation_N == relation
    found_N[own] = _value(calibration.relations.get(relation, calibration.pooled), x_N[own])
  return found_N


def _value(curve, x_N):
  if curve.method == "isotonic":
    return np.interp(x_N, curve.x, curve.y)
  return _inside(sigmoid(curve.x[0] * x_N + curve.y[0]), _EDGE)


def _curve(method, x_N, target_N, weight_N):
  return (_isotonic if method == "isotonic" else _platt)(x_N, target_N, weight_N)


def _isotonic(x_N, target_N, weight_N):
  """The never falling curve of least squares, kept off 0 and 1 by half an answer."""

  x, place_N = np.unique(x_N, return_inverse=True)
  weight = np.bincount(place_N, weight_N)
  y = optimize.isotonic_regression(
    np.bincount(place_N, weight_N * target_N) / weight, weights=weight
  ).x
  edge = 0.5 / (weight.sum() + 1)
  y = np.clip(y, edge, 1 - edge)
  corner = np.ones(len(x), bool)  # the ends of each level say all
  corner[1:-1] = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
  return Curve("isotonic", x[corner], y[corner])


def _platt(x_N, target_N, weight_N, rounds=50):
  """The logistic curve of the greatest likelihood (Newton's method), its slope not below 0.

  One answer more, half right, stands at each end: without them answers that a threshold tells apart would have no best slope.
  """
  x = np.concatenate([x_N, [x_N.min(), x_N.max()]])
  target = np.concatenate([target_N, [0.5, 0.5]])
  weight = np.concatenate([weight_N, [1.0, 1.0]])
  share = np.average(target, weights=weight)
  slope = 0.0
  shift = float(np.log(share / (1 - share)))
  level = shift  # the best where the slope is 0
  for _ in range(rounds):
    p = sigmoid(slope * x + shift)
    error = weight * (target - p)
    curvature = weight * p * (1 - p) + 1e-12
    gradient = np.array([error @ x, error.sum()])
    hessian = np.array(
      [[curvature @ (x * x), curvature @ x], [curvature @ x, curvature.sum()]]
    ) + 1e-9 * np.eye(2)
    move = np.linalg.solve(hessian, gradient)
    move *= min(1.0, 2.0 / np.abs(move).max()) if move.any() else 0.0
    slope = slope + move[0]
    shift = shift + move[1]
    if np.abs(move).max() < 1e-9:
      break
  slope, shift = (slope, shift) if slope > 0 else (0.0, level)
  return Curve("platt", np.array([slope]), np.array([shift]))


def sigmoid(x):
  """1 / (1 + exp(-x)), without overflow."""
  return 0.5 * (1 + np.tanh(0.5 * x))


def _inside(p, edge):
  return np.clip(p, np.exp(-edge), 1 - np.exp(-edge))

"""What the models said, as rows of a predictions file."""

import json

import numpy as np

from factshock.runtime import files
from factshock.runtime.errors import UserError

CARRIED = ("subject", "relation", "object", "aliases", "subject_id", "object_id", "popularity")
LOWEST = -1e9  # written in place of log 0, which JSON cannot hold
DIGITS = 6


def candidates_of(facts, relations=None):
  """Candidate answers of each relation: dict relation -> sorted list of the distinct objects in `facts`.

  `relations` names the relations wanted (default: all that occur).

  Raises:
    UserError: a wanted relation has no fact, so it would have no candidate.
  """
  found = {}
  for fact in facts:
    found.setdefault(fact["relation"], set()).add(fact["object"])
  wanted = sorted(found) if relations is None else list(relations)
  missing = [relation for relation in wanted if relation not in found]
  if missing:
    raise UserError(
      f"facts: expected at least one fact of every relation asked for, got none of "
      f"{', '.join(map(repr, missing))}; add facts or leave the relation out"
    )
  return {relation: sorted(found[relation]) for relation in wanted}


def prediction_rows(facts, candidates, scores, *, arm, seed, split, top=10, **extra):
  """Rows of a predictions file from ranked candidates, one a fact, in the facts' order.

  Scores are rounded to 6 significant digits *before* they are ordered, and ties go to the candidate whose
  name sorts first: equal files from runs that differ only in the last bits, and an order that can be had
  again from the file.

  Args:
    facts: facts asked for.
    candidates: dict relation -> list of candidate answers.
    scores: for each fact the log-probabilities (natural log) of its relation's candidates, in their order.
    arm, seed, split: labels written to each row.
    top: how many candidates a row keeps, best first; None for all.
    **extra: more columns, equal in all rows (step=..., alpha=...).

  Raises:
    ValueError: scores do not align with facts and candidates, or top is below 1.
    UserError: a score is NaN or positive infinity: the model has diverged.
  """
  if len(scores) != len(facts):
    raise ValueError(f"expected one array of scores a fact ({len(facts)}), got {len(scores)}")
  if top is not None and top < 1:
    raise ValueError(f"expected top of at least 1 or None, got {top}")
  labels = {"arm": arm, "seed": seed, "split": split, **extra}
  rows = [None] * len(facts)
  for relation, indices in _by_relation(facts).items():
    names = sorted(candidates[relation])
    best_QxK, order_QxK = _best(_matrix(relation, candidates[relation], scores, indices), top)
    for index, best, order in zip(indices, best_QxK.tolist(), order_QxK.tolist()):
      ranked = [[names[which], score] for which, score in zip(order, best)]
      rows[index] = _row(facts[index], *ranked[0], labels, ranked)
  return rows


def text_rows(facts, texts, scores, *, arm, seed, split, **extra):
  """Rows of a predictions file from generated texts [Q] and their log-probabilities [Q]; no candidates.

  Raises:
    ValueError: texts or scores are not one a fact.
    UserError: a score is not a number: the model has diverged.
  """
  if not len(facts) == len(texts) == len(scores):
    raise ValueError(
      f"expected a text and a score a fact ({len(facts)}), got {len(texts)} and {len(scores)}"
    )
  labels = {"arm": arm, "seed": seed, "split": split, **extra}
  rounded = _rounded(np.asarray(scores, np.float64)).tolist()
  return [_row(fact, text, score, labels) for fact, text, score in zip(facts, texts, rounded)]


def listed_rows(facts, listed, *, arm, seed, split, **extra):
  """Rows of a predictions file from each query's answers, [(text, log-probability)] in any order: the best is the prediction.

  Scores are rounded before they are ordered, as in `prediction_rows`.
  """
  labels = {"arm": arm, "seed": seed, "split": split, **extra}
  rows = []
  for fact, pairs in zip(facts, listed, strict=True):
    scores = _rounded(np.array([score for _, score in pairs], np.float64)).tolist()
    ranked = sorted(
      ([text, score] for (text, _), score in zip(pairs, scores)),
      key=lambda pair: (-pair[1], pair[0]),
    )
    rows.append(_row(fact, *ranked[0], labels, ranked))
  return rows


def write_predictions(path, rows):
  """Writes rows to a .jsonl or .jsonl.gz file, which is whole or absent.

  Raises:
    UserError: another suffix, or the file cannot be written.
  """
  if not str(path).endswith((".jsonl", ".jsonl.gz")):
    raise UserError(
      f"{path}: expected a name ending in .jsonl or .jsonl.gz for predictions; rename it"
    )
  with files.atomic_write(path) as file:
    for row in rows:
      file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _by_relation(facts):
  groups = {}
  for index, fact in enumerate(facts):
    groups.setdefault(fact["relation"], []).append(index)
  return groups


def _matrix(relation, names, scores, indices):
  """Scores [Q, C] of one relation's facts, columns in the order of the candidates' names."""
  for index in indices:
    if len(scores[index]) != len(names):
      raise ValueError(
        f"relation {relation!r}: expected {len(names)} scores (one a candidate) for fact "
        f"{index}, got {len(scores[index])}"
      )
  by_name = sorted(range(len(names)), key=names.__getitem__)
  return _rounded(np.stack([np.asarray(scores[index], np.float64) for index in indices]))[
    :, by_name
  ]


def _best(scores_QxC, top):
  order_QxK = np.argsort(-scores_QxC, axis=1, kind="stable")[:, :top]
  return np.take_along_axis(scores_QxC, order_QxK, axis=1), order_QxK


def _rounded(scores):
  """Rounds to 6 significant digits and 17 decimals; log 0 becomes LOWEST."""
  if np.isnan(scores).any() or np.isposinf(scores).any():
    raise UserError(
      "scores: expected log-probabilities, got NaN or infinity; the model has diverged: "
      "lower the learning rate"
    )
  scores = np.maximum(scores, LOWEST)
  # Powers of ten are exact up to 1e22 only.
  size = np.floor(np.log10(np.maximum(np.abs(scores), 1e-12)))
  unit = 10.0 ** (DIGITS - 1 - size)
  return np.round(scores * unit) / unit + 0.0  # no -0.0


def _row(fact, prediction, score, labels, ranked=None):
  row = {key: fact[key] for key in CARRIED if key in fact}
  row |= {"prediction": prediction, "score": score}
  if ranked is not None:
    row["candidates"] = ranked
  return row | labels

"""Rows of a predictions file from what models answered, and their writing."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from factshock.runtime import files
from factshock.runtime.errors import UserError
from factshock.types import Candidates

Row: TypeAlias = dict[str, Any]

CARRIED = (
  "subject",
  "relation",
  "object",
  "aliases",
  "subject_id",
  "object_id",
  "popularity",
)
LOWEST = -1e9  # written in place of log 0, which JSON cannot hold
DIGITS = 6


def candidates_of(
  facts: Iterable[Mapping[str, Any]], relations: Iterable[str] | None = None
) -> dict[str, list[str]]:
  """Returns the candidate answers of each relation: the distinct objects in `facts`, sorted.

  Args:
    facts: the facts whose objects are the candidates.
    relations: the relations wanted; None: all that occur.

  Raises:
    UserError: a wanted relation has no fact, so it would have no candidate.
  """
  objects: dict[str, set[str]] = {}
  for fact in facts:
    of_relation = objects.setdefault(fact["relation"], set())
    of_relation.add(fact["object"])
  wanted = sorted(objects) if relations is None else list(relations)
  missing = [relation for relation in wanted if relation not in objects]
  if missing:
    raise UserError(
      f"facts: expected at least one fact of every relation asked for, got none of "
      f"{', '.join(map(repr, missing))}; add facts or leave the relation out"
    )
  return {relation: sorted(objects[relation]) for relation in wanted}


def prediction_rows(
  facts: Sequence[Mapping[str, Any]],
  candidates: Candidates,
  scores: Sequence[Any],
  *,
  arm: str,
  seed: int,
  split: str,
  top: int | None = 10,
  **extra: Any,
) -> list[Row]:
  """Returns rows of a predictions file from ranked candidates, one a fact, in the facts' order.

  Scores are rounded to 6 significant digits *before* they are ordered, and ties go to the candidate
  whose name sorts first: equal files from runs that differ only in the last bits, and an order that
  can be had again from the file. The column `among` holds the number of candidates.

  Args:
    facts: the facts that were asked.
    candidates: candidate answers of each relation.
    scores: of each fact's candidates in their order, log-probabilities (natural log).
    arm: label written to each row.
    seed: label written to each row.
    split: label written to each row.
    top: how many candidates a row keeps, best first; None for all.
    **extra: more columns, equal in all rows (step=..., alpha=...).

  Raises:
    ValueError: scores do not align with facts and candidates, or top is below 1.
    UserError: a score is NaN or positive infinity: the model has diverged.
  """
  _check_ranked(len(facts), len(scores), top)
  labels = _labels(arm, seed, split, extra)
  rows: list[Row] = [{} for _ in facts]
  for relation, indices in _by_relation(facts).items():
    names = candidates[relation]
    scores_QxC = _score_matrix(relation, names, scores, indices)
    for index, ranked in zip(indices, _ranked_candidates(sorted(names), scores_QxC, top)):
      rows[index] = {**_ranked_row(facts[index], ranked, labels), "among": len(names)}
  return rows


def best_rows(
  facts: Sequence[Mapping[str, Any]],
  candidates: Candidates,
  best: Sequence[tuple[np.ndarray, np.ndarray]],
  *,
  arm: str,
  seed: int,
  split: str,
  top: int,
  **extra: Any,
) -> list[Row]:
  """Returns the rows of `prediction_rows` from the best candidates of each fact alone.

  Args:
    facts: the facts that were asked.
    candidates: candidate answers of each relation.
    best: of each fact, places among its candidates and their scores: at least the `top` best, and
      all that are equal to the last of them when rounded.
    arm: label written to each row.
    seed: label written to each row.
    split: label written to each row.
    top: how many candidates a row keeps, best first.
    **extra: more columns, equal in all rows.

  Raises:
    ValueError: `best` does not align with the facts, or top is below 1.
    UserError: as `prediction_rows`.
  """
  _check_ranked(len(facts), len(best), top)
  labels = _labels(arm, seed, split, extra)
  rows: list[Row] = []
  for fact, (places, raw_scores) in zip(facts, best):
    names = candidates[fact["relation"]]
    indices: list[int] = places.tolist()
    texts = [names[index] for index in indices]
    ranked = _in_order(texts, raw_scores)
    rows.append({**_ranked_row(fact, ranked[:top], labels), "among": len(names)})
  return rows


def shortened(rows: Iterable[Row], top: int | None) -> list[Row]:
  """Returns rows of `prediction_rows` that keep `top` candidates; None is all."""
  return [{**row, "candidates": row["candidates"][:top]} for row in rows]


def _in_order(texts: Sequence[str], raw_scores: Sequence[float] | np.ndarray) -> list[list[Any]]:
  """Returns [text, rounded score] of each text, best first, ties by their names."""
  scores: list[float] = rounded(np.array(raw_scores, np.float64)).tolist()
  ranked: list[list[Any]] = [[text, score] for text, score in zip(texts, scores)]
  ranked.sort(key=lambda answer: (-answer[1], answer[0]))
  return ranked


def _check_ranked(
  facts: int,
  arrays: int,
  top: int | None,
) -> None:
  if arrays != facts:
    raise ValueError(f"expected one array of scores a fact ({facts}), got {arrays}")
  if top is not None and top < 1:
    raise ValueError(f"expected top of at least 1 or None, got {top}")


def _ranked_candidates(
  names: Sequence[str],
  scores_QxC: np.ndarray,
  top: int | None,
) -> Iterator[list[list[Any]]]:
  """Yields the best [name, score] of each query, best first."""
  order_QxC = np.argsort(-scores_QxC, axis=1, kind="stable")
  order_QxK = order_QxC[:, :top]
  best_QxK = np.take_along_axis(scores_QxC, order_QxK, axis=1)
  for order, best in zip(order_QxK.tolist(), best_QxK.tolist()):
    yield [[names[column], score] for column, score in zip(order, best)]


def text_rows(
  facts: Sequence[Mapping[str, Any]],
  texts: Sequence[str],
  scores: Sequence[float] | np.ndarray | None,
  *,
  arm: str,
  seed: int,
  split: str,
  **extra: Any,
) -> list[Row]:
  """Returns rows of a predictions file from generated texts; they have no candidates.

  Args:
    facts: the facts that were asked [Q].
    texts: generated texts [Q].
    scores: their log-probabilities (natural log) [Q]; None: the rows have none.
    arm: label written to each row.
    seed: label written to each row.
    split: label written to each row.
    **extra: more columns, equal in all rows.

  Raises:
    ValueError: texts or scores are not one a fact.
    UserError: a score is not a number: the model has diverged.
  """
  counts = {len(facts), len(texts), len(texts if scores is None else scores)}
  if len(counts) > 1:
    raise ValueError(f"expected a text and a score for each of {len(facts)} facts, got others")
  labels = _labels(arm, seed, split, extra)
  all_scores: list[float | None] = [None] * len(texts)
  if scores is not None:
    all_scores = rounded(np.asarray(scores, np.float64)).tolist()
  answers = zip(facts, texts, all_scores)
  return [_row(fact, text, score, labels) for fact, text, score in answers]


def listed_rows(
  facts: Iterable[Mapping[str, Any]],
  listed: Iterable[Sequence[tuple[str, float]]],
  *,
  arm: str,
  seed: int,
  split: str,
  **extra: Any,
) -> list[Row]:
  """Returns rows of a predictions file from each query's list of answers; the best is predicted.

  Scores are rounded before they are ordered, as in `prediction_rows`.

  Args:
    facts: the facts that were asked.
    listed: for each fact its answers with log-probabilities (natural log), in any order.
    arm: label written to each row.
    seed: label written to each row.
    split: label written to each row.
    **extra: more columns, equal in all rows.
  """
  labels = _labels(arm, seed, split, extra)
  rows: list[Row] = []
  for fact, pairs in zip(facts, listed, strict=True):
    ranked = _in_order([text for text, _ in pairs], [score for _, score in pairs])
    rows.append(_ranked_row(fact, ranked, labels))
  return rows


def write_predictions(path: str, rows: Iterable[Mapping[str, Any]]) -> None:
  """Writes rows to a .jsonl or .jsonl.gz file, which is whole or absent.

  Raises:
    UserError: another suffix, or the file cannot be written.
  """
  check_name(path)
  with files.atomic_write(path) as file:
    for row in rows:
      line = json.dumps(row, ensure_ascii=False, allow_nan=False)
      file.write(line + "\n")


def check_name(path: str) -> None:
  """Raises a UserError where a name is not that of a predictions file."""
  if not str(path).endswith(files.with_compressions(".jsonl")):
    raise UserError(
      f"{path}: expected a name ending in .jsonl (or that and "
      f"{files.LISTED_COMPRESSIONS}) for predictions; rename it"
    )


def _by_relation(facts: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
  groups: dict[str, list[int]] = {}
  for index, fact in enumerate(facts):
    group = groups.setdefault(fact["relation"], [])
    group.append(index)
  return groups


def _score_matrix(
  relation: str,
  names: Sequence[str],
  scores: Sequence[Any],
  indices: Sequence[int],
) -> np.ndarray:
  """Returns the scores [Q, C] of one relation's facts, columns in the order of sorted names."""
  for index in indices:
    if len(scores[index]) != len(names):
      raise ValueError(
        f"relation {relation!r}: expected {len(names)} scores (one a candidate) for fact "
        f"{index}, got {len(scores[index])}"
      )
  by_name = sorted(range(len(names)), key=names.__getitem__)
  rows = [np.asarray(scores[index], np.float64) for index in indices]
  scores_QxC = np.stack(rows)
  return rounded(scores_QxC)[:, by_name]


def rounded(scores: np.ndarray) -> np.ndarray:
  """Rounds to 6 significant digits and 17 decimals; log 0 becomes LOWEST."""
  is_wrong = np.isnan(scores) | np.isposinf(scores)
  if is_wrong.any():
    raise UserError(
      "scores: expected log-probabilities, got NaN or infinity; the model has diverged: "
      "lower the learning rate"
    )
  scores = np.maximum(scores, LOWEST)
  # Powers of ten are exact up to 1e22 only.
  sizes = np.maximum(np.abs(scores), 1e-12)
  exponent = np.floor(np.log10(sizes))
  unit = 10.0 ** (DIGITS - 1 - exponent)
  rounded = np.round(scores * unit) / unit
  return rounded + 0.0  # no -0.0


def _labels(
  arm: str,
  seed: int,
  split: str,
  extra: Mapping[str, Any],
) -> Row:
  return {
    "arm": arm,
    "seed": seed,
    "split": split,
    **extra,
  }


def _row(
  fact: Mapping[str, Any],
  prediction: str,
  score: float | None,
  labels: Mapping[str, Any],
) -> Row:
  row = {name: fact[name] for name in CARRIED if name in fact}
  scored = {} if score is None else {"score": score}
  return {
    **row,
    "prediction": prediction,
    **scored,
    **labels,
  }


def _ranked_row(
  fact: Mapping[str, Any],
  ranked: Sequence[Sequence[Any]],
  labels: Mapping[str, Any],
) -> Row:
  """Returns a row with candidates, [text, score] best first, of which the first is predicted."""
  prediction, score = ranked[0]
  row = _row(fact, prediction, score, {})
  return {**row, "candidates": ranked, **labels}

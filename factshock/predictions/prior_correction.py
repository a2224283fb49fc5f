"""The answer-prior correction: predictions with candidates, moved back to the answer frequencies of a reference. Numpy on rows.

p'(o|q) is proportional to p(o|q) (prior_reference(o) / prior(o))^tau within the candidates of q's relation, where prior(o) is
the mean of p(o|q) over the queries of the relation: no labels are needed. (Label shift: Saerens et al. 2002; for prompted
models: Zhao et al. 2021, "Calibrate before use".)
"""

import collections
from typing import NamedTuple

import numpy as np

from factshock.facts import schema
from factshock.facts.counts import count_of
from factshock.predictions import accuracy, writing
from factshock.runtime.errors import UserError

TAUS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
FLOOR = 1e-9  # the least a prior can be; what is below is counted


class Table(NamedTuple):
  """The queries of one relation: candidates by name, the places of its rows, and log p(candidate | query), normalised."""

  names: list
  places: list
  log_p_QxC: np.ndarray


def read_rows(path):
  """The rows (dicts) of a predictions file, whole.

  Raises:
    UserError: a line that is no JSON object with subject, relation and object, or no rows.
  """
  rows = []
  for place, row in schema.read_rows(path, ()):
    missing = [name for name in schema.REQUIRED if name not in row]
    if missing:
      raise UserError(
        f"{place}: expected a JSON object with subject, relation and object, got no {', '.join(missing)}"
      )
    rows.append(row)
  if not rows:
    raise UserError(f"{path}: expected predictions, got no rows")
  return rows


def tables(rows, where):
  """{relation: Table} of rows with candidates; every row of a relation must list the same ones.

  Raises:
    UserError: rows without candidates, or candidates that differ within a relation; says how many and how to get them.
  """
  places = collections.defaultdict(list)
  for place, row in enumerate(rows):
    places[row["relation"]].append(place)
  without = sum(not row.get("candidates") for row in rows)
  if without:
    raise UserError(
      f"{where}: expected candidates in every row, got none in {without:,} of {len(rows):,}; rank the answers "
      "(answer --mode=rank) instead of generating them"
    )
  found = {}
  for relation, its in places.items():
    names = sorted(name for name, _ in rows[its[0]]["candidates"])
    column = {name: i for i, name in enumerate(names)}
    other = [
      place
      for place in its
      if len(rows[place]["candidates"]) != len(names)
      or any(name not in column for name, _ in rows[place]["candidates"])
    ]
    if other or len(column) < len(names):
      raise UserError(
        f"{where}: relation {relation!r}: expected the same candidates in each of {len(its):,} rows, got others in "
        f"{len(other):,}; write all of them, not the best few (config.answering.top=0)"
      )
    log_p_QxC = np.empty((len(its), len(names)))
    for row, place in enumerate(its):
      for name, score in rows[place]["candidates"]:
        log_p_QxC[row, column[name]] = score
    found[relation] = Table(names, its, _normalised(log_p_QxC))
  return found


def priors(of):
  """{relation: p [candidates]}: the mean of p(candidate | query) over the queries of {relation: Table}."""
  return {relation: np.exp(table.log_p_QxC).mean(axis=0) for relation, table in of.items()}


def counted_priors(of, counts):
  """{relation: p [candidates]} from mentions in text, dict (relation or "", entity) -> count; each count plus 1."""
  found = {}
  for relation, table in of.items():
    mentions = np.array([count_of(counts, relation, name) for name in table.names], float) + 1
    found[relation] = mentions / mentions.sum()
  return found


def uniform_priors(of):
  """{relation: p [candidates]}, all alike."""
  return {
    relation: np.full(len(table.names), 1 / len(table.names)) for relation, table in of.items()
  }


def estimated_priors(of, finetuning, rounds=100):
  """{relation: p [candidates]} of the queries' own answers by expectation maximisation (Saerens et al. 2002, section 2.2).

  Args:
    finetuning: answers (relation, object) of the finetuning facts, whose frequencies (each plus 1) are the model's prior.
  """
  seen = collections.Counter(finetuning)
  found = {}
  for relation, table in of.items():
    trained = np.array([seen[relation, name] for name in table.names], float) + 1
    trained = trained / trained.sum()
    p_QxC = np.exp(table.log_p_QxC)
    prior = p_QxC.mean(axis=0)
    for _ in range(rounds):
      shifted_QxC = p_QxC * (prior / trained)
      prior = (shifted_QxC / shifted_QxC.sum(axis=1, keepdims=True)).mean(axis=0)
    found[relation] = prior
  return found


def log_ratios(of, reference):
  """({relation: log(prior_reference / prior) [candidates]}, how many priors were below FLOOR and raised to it)."""
  own = priors(of)
  found = {}
  raised = 0
  for relation in of:
    both = np.stack([reference[relation], own[relation]])
    raised += int((both < FLOOR).sum())
    wanted, had = np.log(np.maximum(both, FLOOR))
    found[relation] = wanted - had
  return found, raised


def correct(of, ratios, tau):
  """{relation: Table} with log p(o|q) + tau log ratio(o), normalised."""
  return {
    relation: table._replace(log_p_QxC=_normalised(table.log_p_QxC + tau * ratios[relation]))
    for relation, table in of.items()
  }


def share_right(of, rows):
  """The share of rows whose likeliest candidate is the object or an alias (exact match, as diagnose has it)."""
  right = 0.0
  for table in of.values():
    for place, best in zip(table.places, table.log_p_QxC.argmax(axis=1).tolist()):
      right += accuracy.score(
        table.names[best], [rows[place]["object"], *(rows[place].get("aliases") or [])]
      )[0]
  return right / len(rows)


def choose_tau(of, rows, ratios, taus=TAUS):
  """(tau, [(tau, share right)]): the one with the most development rows right; of equals the nearest to 1, then the smaller."""
  curve = [(tau, share_right(correct(of, ratios, tau), rows)) for tau in taus]
  best = max(share for _, share in curve)
  return min(
    (tau for tau, share in curve if share == best), key=lambda tau: (abs(tau - 1), tau)
  ), curve


def corrected_rows(of, rows, top=None, **labels):
  """The rows with prediction, score and `top` candidates (None: all) of the corrected {relation: Table}; labels are columns of every row."""
  found = [None] * len(rows)
  for relation, table in of.items():
    facts = [
      {name: rows[place][name] for name in writing.CARRIED if name in rows[place]}
      for place in table.places
    ]
    mine = writing.prediction_rows(
      facts, {relation: table.names}, list(table.log_p_QxC), top=top, arm="", seed=0, split=""
    )
    for place, row in zip(table.places, mine):
      found[place] = {
        **rows[place],
        **{name: row[name] for name in ("prediction", "score", "candidates")},
        **labels,
      }
  return found


def moved(of, reference):
  """How far the answer prior moved: total variation between prior and reference, mean over relations by their queries."""
  own = priors(of)
  weights = [len(table.places) for table in of.values()]
  return float(
    np.average(
      [np.abs(own[relation] - reference[relation]).sum() / 2 for relation in of], weights=weights
    )
  )


def gains(before, after, most=5):
  """([(answer, relation, from, to)] most gained, the same most lost), by how often each answer is the prediction."""
  counts = [
    collections.Counter((row["relation"], row["prediction"]) for row in rows)
    for rows in (before, after)
  ]
  changes = sorted(
    ((counts[1][key] - counts[0][key], key) for key in counts[0] | counts[1]),
    key=lambda pair: (-pair[0], pair[1]),
  )
  written = lambda pairs: [(key[1], key[0], counts[0][key], counts[1][key]) for _, key in pairs]
  gained = [pair for pair in changes if pair[0] > 0]
  lost = [pair for pair in changes if pair[0] < 0]
  return written(gained[:most]), written(lost[::-1][:most])


def check_same(rows, where, others, other):
  """Raises a UserError unless two files hold the same queries."""
  sets = [
    collections.Counter((row["subject"], row["relation"], row["object"]) for row in found)
    for found in (rows, others)
  ]
  if sets[0] != sets[1]:
    raise UserError(
      f"{other}: expected the queries of {where}, got {(sets[0] - sets[1]).total():,} of its {len(rows):,} missing and "
      f"{(sets[1] - sets[0]).total():,} others; ask both models the same facts"
    )


def check_candidates(of, where, others, other):
  """Raises a UserError unless two files have the same candidates in each relation."""
  for relation, table in of.items():
    if table.names != others[relation].names:
      first = set(table.names)
      second = set(others[relation].names)
      raise UserError(
        f"{other}: relation {relation!r}: expected the candidates of {where}, got {len(second - first):,} others and "
        f"{len(first - second):,} missing; rank the same candidates (answer --candidates)"
      )


def check_apart(rows, where, others, other):
  """Raises a UserError where two sets share a subject in a relation: one of them must not tell about the other."""
  shared = {(row["subject"], row["relation"]) for row in rows} & {
    (row["subject"], row["relation"]) for row in others
  }
  if shared:
    raise UserError(
      f"{other}: expected subjects that are not asked about in {where}, got {len(shared):,} shared, such as "
      f"{sorted(shared)[0][0]!r}; what is chosen on them would be chosen on the test"
    )


def _normalised(scores_QxC):
  return scores_QxC - np.logaddexp.reduce(scores_QxC, axis=1, keepdims=True)

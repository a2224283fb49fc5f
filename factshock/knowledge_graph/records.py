"""What an extraction leaves: the canonical rows of its candidates, and the summary that the report draws."""

import collections

import numpy as np

from factshock.knowledge_graph import extraction, shock_guard
from factshock.predictions import accuracy

_SHOWN = 50  # over-predicted answers and conflicts that the summary lists


def rows(asked, judged, accepted_N, implied, names, labels, run):
  """Yields the canonical rows (canonical.py), query by query: its candidates, best first, and then what other statements imply.

  A query without a candidate has one row with an empty object.

  Args:
    names: answers.Names, for the objects' ids. labels: {relation: label}. run: columns of every row (threshold, model, ...).
  """
  follows = collections.defaultdict(list)
  for triple in implied:
    follows[accuracy.normalise(triple.subject), triple.relation].append(triple)
  ids = (
    {
      accuracy.normalise(subject): number
      for subject, number in zip(asked.subjects, asked.subject_ids)
      if number
    }
    if implied
    else {}
  )
  ends = np.searchsorted(asked.query_N, np.arange(len(asked.subjects)), side="right").tolist()
  begin = 0
  for query, end in enumerate(ends):
    relation = asked.relations[query]
    head = {
      "subject": asked.subjects[query],
      "subject_id": asked.subject_ids[query],
      "relation": relation,
      "relation_label": labels.get(relation),
    }
    for place in range(begin, end):
      flags = ["over_predicted"] if judged.flagged_N[place] else []
      yield _row(
        head,
        asked.texts[place],
        names.ids.get((relation, asked.texts[place])),
        judged.confidence_N[place],
        round(float(asked.score_N[place]), 6),
        int(asked.rank_N[place]),
        accepted_N[place],
        run,
        flags,
      )
    also = follows.get((accuracy.normalise(asked.subjects[query]), relation), ())
    for triple in also:
      object_id = names.ids.get((relation, triple.object)) or ids.get(
        accuracy.normalise(triple.object)
      )
      yield _row(
        head, triple.object, object_id, triple.confidence, None, None, True, run, ["implied"]
      )
    if begin == end and not also:
      yield _row(head, "", None, 0.0, None, None, False, run, [])
    begin = end


def _row(head, text, object_id, confidence, score, rank, accepted, run, flags):
  row = (
    head
    | {
      "object": text,
      "object_id": object_id,
      "confidence": round(float(confidence), 6),
      "score": score,
      "rank": rank,
      "accepted": bool(accepted),
    }
    | run
  )
  return row | {"flags": flags} if flags else row


def relations_of(fitted, known, asked, judged, accepted_N, labels):
  """For each relation asked: queries, accepted answers, how it was calibrated and what precision is expected."""
  relation_N = np.asarray(asked.relations, object)[asked.query_N]
  queries = collections.Counter(asked.relations)
  calibrated = collections.Counter(known.relations)
  found = []
  for number, name in enumerate(fitted.names):
    if name not in queries:
      continue
    own = accepted_N & (relation_N == name)
    found.append(
      {
        "relation": name,
        "label": labels.get(name, name),
        "queries": queries[name],
        "accepted": int(own.sum()),
        "answers": "several" if name in fitted.several else "one",
        "calibration_units": fitted.first.units.get(number, 0),
        "pooled": name not in calibrated,
        "method": fitted.first.method,
        "expected_precision": float(judged.confidence_N[own].mean()) if own.any() else None,
      }
    )
  return found


def over_predicted(fitted, known, asked, judged):
  """The over-predicted answers, the most given first, with what calibration says of them and what they displaced."""
  given = collections.Counter()
  right = collections.Counter()
  gold = collections.defaultdict(collections.Counter)
  before = collections.defaultdict(list)
  after = collections.defaultdict(list)
  plain = extraction.judge(fitted._replace(lowering=shock_guard.NOT_LOWERED), asked).confidence_N
  labels = {}
  for answers, is_known in ((known, True), (asked, False)):
    for place in np.flatnonzero(answers.rank_N == 1).tolist():
      query = answers.query_N[place]
      key = answers.relations[query], accuracy.normalise(answers.texts[place])
      if key not in fitted.flags:
        continue
      labels.setdefault(key, answers.texts[place])
      if not is_known:
        before[key].append(plain[place])
        after[key].append(judged.confidence_N[place])
        continue
      given[key] += 1
      right[key] += bool(fitted.right_N[place])
      if not fitted.right_N[place]:
        gold[key].update(one[0] for one in answers.golds[query])
  mean = lambda values: float(np.mean(values)) if values else None
  found = [
    {
      "relation": key[0],
      "entity": labels.get(key, key[1]),
      "predicted": flag.predicted,
      "share": flag.predicted / flag.queries,
      "supported_share": flag.supported / flag.queries,
      "calibration_predicted": given[key],
      "calibration_right": right[key],
      "confidence_before": mean(before[key]),
      "confidence_after": mean(after[key]),
      "displaced": [list(pair) for pair in gold[key].most_common(3)],
    }
    for key, flag in fitted.flags.items()
  ]
  return sorted(found, key=lambda row: (-row["predicted"], row["relation"], row["entity"]))[:_SHOWN]


def conflicts_of(conflicts):
  """Counts by kind, and the first examples."""
  spelled = lambda triple: (
    triple and [triple.subject, triple.relation, triple.object, round(triple.confidence, 4)]
  )
  return {
    "counts": dict(collections.Counter(one.kind for one in conflicts)),
    "examples": [
      {"kind": one.kind, "kept": spelled(one.kept), "dropped": spelled(one.dropped), "why": one.why}
      for one in conflicts[:_SHOWN]
    ],
  }

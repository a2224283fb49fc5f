"""What an extraction leaves: the canonical rows of its candidates, and the summary that the report draws."""

import collections

import numpy as np

from factshock.diagnosis import accuracy
from factshock.knowledge_graph import extraction

_SHOWN = 50  # over-predicted answers and conflicts that the summary lists


def rows(asked, judged, accepted_N, implied, names, labels, run):
  """Yields the canonical rows (formats.py) of all candidates, best first within a query, then those of implied statements.

  Args:
    names: answers.Names, for the objects' ids. labels: {relation: label}. run: columns of every row (threshold, model, ...).
  """
  for place, text in enumerate(asked.texts):
    query = asked.query_N[place]
    yield _row(asked.subjects[query], asked.subject_ids[query], asked.relations[query], text, names, labels, run,
               judged.confidence_N[place], accepted_N[place], score=float(asked.score_N[place]), rank=int(asked.rank_N[place]),
               flags=["over_predicted"] if judged.flagged_N[place] else [])
  ids = {subject: number for subject, number in zip(asked.subjects, asked.subject_ids) if number}
  for triple in implied:
    yield _row(triple.subject, ids.get(triple.subject), triple.relation, triple.object, names, labels, run, triple.confidence, True,
               score=None, rank=None, flags=["implied"], object_id=ids.get(triple.object))


def _row(subject, subject_id, relation, text, names, labels, run, confidence, accepted, *, score, rank, flags, object_id=None):
  object_id = names.ids.get((relation, text), object_id)
  row = {"subject": subject, "subject_id": subject_id, "relation": relation, "relation_label": labels.get(relation), "object": text,
         "object_id": object_id, "confidence": round(float(confidence), 6), "score": score, "rank": rank, "accepted": bool(accepted)}
  return {name: value for name, value in row.items() if value is not None} | run | ({"flags": flags} if flags else {})


def relations_of(fitted, known, asked, judged, accepted_N, labels):
  """For each relation asked: queries, accepted answers, how it was calibrated and what precision is expected."""
  relation_N = np.asarray(asked.relations, object)[asked.query_N]
  queries, calibrated = collections.Counter(asked.relations), collections.Counter(known.relations)
  found = []
  for number, name in enumerate(fitted.names):
    if name not in queries:
      continue
    own = accepted_N & (relation_N == name)
    found.append({"relation": name, "label": labels.get(name, name), "queries": queries[name], "accepted": int(own.sum()),
                  "answers": "several" if name in fitted.several else "one", "calibration_units": fitted.first.units.get(number, 0),
                  "pooled": name not in calibrated, "method": fitted.first.method,
                  "expected_precision": float(judged.confidence_N[own].mean()) if own.any() else None})
  return found


def over_predicted(fitted, known, asked):
  """The over-predicted answers, the most given first, with what calibration says of them and what they displaced."""
  given, right, gold = collections.Counter(), collections.Counter(), collections.defaultdict(collections.Counter)
  before, after = collections.defaultdict(list), collections.defaultdict(list)
  plain = extraction.judge(fitted._replace(move=0.0), asked).confidence_N
  lowered = extraction.judge(fitted, asked).confidence_N
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
        after[key].append(lowered[place])
        continue
      given[key] += 1
      right[key] += bool(fitted.right_N[place])
      if not fitted.right_N[place]:
        gold[key].update(one[0] for one in answers.golds[query])
  mean = lambda values: float(np.mean(values)) if values else None
  found = [{"relation": key[0], "entity": labels.get(key, key[1]), "predicted": flag.predicted, "share": flag.predicted / flag.queries,
            "supported_share": flag.supported / flag.queries, "calibration_predicted": given[key], "calibration_right": right[key],
            "confidence_before": mean(before[key]), "confidence_after": mean(after[key]),
            "displaced": [list(pair) for pair in gold[key].most_common(3)]} for key, flag in fitted.flags.items()]
  return sorted(found, key=lambda row: (-row["predicted"], row["relation"], row["entity"]))[:_SHOWN]


def conflicts_of(conflicts):
  """Counts by kind, and the first examples."""
  spelled = lambda triple: triple and [triple.subject, triple.relation, triple.object, round(triple.confidence, 4)]
  return {"counts": dict(collections.Counter(one.kind for one in conflicts)),
          "examples": [{"kind": one.kind, "kept": spelled(one.kept), "dropped": spelled(one.dropped), "why": one.why}
                       for one in conflicts[:_SHOWN]]}

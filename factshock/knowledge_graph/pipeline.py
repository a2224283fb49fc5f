"""An extraction from files to files: predictions and calibration in; triples, graph formats, summary and page out."""

import collections
import dataclasses
import datetime
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypedDict

import numpy as np

import factshock
from factshock.diagnosis import calibration_quality, table
from factshock.diagnosis.ranking import Units
from factshock.facts import counts as counts_room
from factshock.facts import schema, sources
from factshock.knowledge_graph import answers as answer_room
from factshock.knowledge_graph import (
  calibration,
  canonical,
  consistency,
  extraction,
  formats,
  records,
  thresholds,
)
from factshock.predictions import prior_correction
from factshock.predictions import rows as prediction_rows
from factshock.predictions import writing as prediction_room
from factshock.runtime import files, provenance
from factshock.runtime.console import Progress
from factshock.runtime.errors import UserError

SUMMARY = "extraction.json"


def check_folder(folder):
  """Raises a UserError if an extraction lies in the folder already."""
  if os.path.exists(os.path.join(folder, SUMMARY)):
    raise UserError(f"{folder}: holds an extraction already; remove it or choose another --output")


class ModelIdentity(TypedDict):
  """What is known of the model: its name, the digest of its weights, and how it was mixed."""

  model: str
  checkpoint: str | None
  mixing_weights: list[float] | None


# What extraction.json holds, by section; JSON values alone.
Summary: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
  """How answers are calibrated and accepted, and what is written.

  Attributes:
    model: what is known of the model.
    rule: "precision" or "f1".
    precision: what the rule "precision" promises.
    graph_formats: names of formats to write beside triples.jsonl.
    calibrator: one of calibration.METHODS, or None: the better.
    relations: rows of the relations file by name.
    counts: path of the entity counts, or None.
    types: path of the entities' types, or None.
    finetuning: path of the facts finetuned on, which calibration must be apart from, or None.
    candidates: path of facts that tell ids and aliases of answers, or None.
    queries: rows to which the predictions are limited, or None: all that are predicted.
    prior_correction: "counts", or the path of predictions before finetuning on queries and
      calibration together, or None.
  """

  model: ModelIdentity
  rule: str = "precision"
  precision: float = 0.9
  graph_formats: Sequence[str] = ("tsv",)
  calibrator: str | None = None
  relations: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  counts: str | None = None
  types: str | None = None
  finetuning: str | None = None
  candidates: str | None = None
  queries: Sequence[Mapping[str, Any]] | None = None
  prior_correction: str | None = None


def extract(folder: str, predictions: str, known: str, options: Options) -> Summary:
  """Writes the triples, graph formats and curves of an extraction into a folder.

  See factshock/extract.py for what the files are.

  Args:
    folder: made where it is missing; must not hold an extraction.
    predictions: path of the predictions on the queries.
    known: path of the predictions on the calibration facts.
    options: how answers are calibrated and accepted, and what is written.

  Returns:
    The summary, which `write_summary` writes when the report is there.

  Raises:
    UserError: files that are missing, malformed, or do not fit each other.
  """
  check_folder(folder)
  started = _now()
  rules = consistency.rules_of(options.relations)
  of_types = consistency.read_types(options.types) if options.types else {}
  mentions = counts_room.read_counts(options.counts) if options.counts else None
  names = _names(known, options.candidates)
  inputs = [predictions, known]
  if options.prior_correction:
    predictions, known = _corrected(folder, predictions, known, options.prior_correction, mentions)
  known_answers = answer_room.read(known, names, labelled=True)
  asked = answer_room.read(predictions, names, only=_keys(options.queries))
  _say_unasked(asked, predictions, options.queries)
  answer_room.check_apart(answer_room.rows_of(known_answers), answer_room.rows_of(asked), "queries")
  if options.finetuning:
    answer_room.check_apart(
      answer_room.rows_of(known_answers), sources.read_facts(options.finetuning), "finetuning facts"
    )
  fitted = extraction.fit(
    known_answers, asked, counts=mentions, relations=rules, method=options.calibrator
  )
  decided = _decide(
    fitted,
    known_answers,
    asked,
    options.precision if options.rule == "precision" else None,
    rules,
    of_types,
  )
  labels = {name: row["label"] for name, row in rules.items() if row.get("label")}
  curves = _curves(fitted)
  run_id = _digest(
    "\n".join(
      [
        curves["identity"],
        *map(_file_digest, inputs),
        options.rule,
        str(options.precision),
        json.dumps(options.model),
      ]
    )
  )
  run = {
    "id": run_id,
    "started": started,
    **options.model,
    "calibration": curves["identity"],
    "precision": decided.threshold and options.precision,
    "software": f"factshock {factshock.__version__}",
    "revision": provenance.revision(),
  }
  columns = {
    "threshold": decided.threshold and decided.threshold.value,
    **options.model,
    "calibration": curves["identity"],
    "run": run_id,
  }
  rows = records.rows(
    asked, decided.judged, decided.accepted_N, decided.implied, names, labels, columns
  )
  outputs = [_write_rows(folder, rows, run, len(asked.texts))] + [
    _write_format(name, folder, run | {"ended": _now()}) for name in options.graph_formats
  ]
  summary = {
    "run": run | {"ended": _now()},
    "counts": _counts(known_answers, asked, decided),
    "promise": _promise(decided),
    "quality": quality(known_answers, asked, mentions, rules, options.calibrator),
    "relations": records.relations_of(
      fitted, known_answers, asked, decided.judged, decided.accepted_N, labels
    ),
    "over_predicted": records.over_predicted(fitted, known_answers, asked, decided.judged),
    "conflicts": records.conflicts_of(decided.conflicts),
    "outputs": outputs,
    "notes": NOTES,
  }
  _write_json(os.path.join(folder, "calibration.json"), curves)
  return summary


def write_summary(summary: Summary, folder: str, page: str) -> None:
  """Adds the report's path to the outputs of a summary, and writes extraction.json, the last file.

  Args:
    summary: of `extract`.
    folder: that of the extraction.
    page: path of the report.
  """
  summary["outputs"].append({"format": "report", "path": page, "rows": None})
  _write_json(os.path.join(folder, SUMMARY), summary)


class Decided(NamedTuple):
  """What was decided on the answers: the Threshold (None with expected F1), and what stands after consistency."""

  judged: extraction.Judged
  threshold: thresholds.Threshold | None
  accepted_N: np.ndarray
  implied: list
  conflicts: list


def _decide(fitted, known, asked, precision, rules, types):
  judged = extraction.judge(fitted, asked)
  found = extraction.threshold(fitted, known, asked, precision) if precision else None
  accepted_N = (
    extraction.by_precision(judged, found) if found else extraction.by_f1(fitted, asked, judged)
  )
  return Decided(judged, found, *extraction.consistent(asked, judged, accepted_N, rules, types))


def _curves(fitted):
  """All that turns scores into confidences, as JSON; `identity` is its digest."""
  curves = {
    "first": calibration.to_json(fitted.first, fitted.names),
    "later": fitted.later and calibration.to_json(fitted.later, fitted.names),
    "over_predicted": dict(zip(("slope", "shift"), fitted.lowering)),
  }
  return curves | {"identity": _digest(json.dumps(curves, sort_keys=True))}


def _counts(known, asked, decided):
  answered = len(set(asked.query_N[decided.accepted_N].tolist()))
  accepted = int(decided.accepted_N.sum())
  implied = len(decided.implied)
  return {
    "queries": len(asked.subjects),
    "candidates": len(asked.texts),
    "accepted": accepted,
    "abstained": len(asked.subjects) - answered,
    "implied": implied,
    "triples": accepted + implied,
    "calibration_queries": len(known.subjects),
  }


NOTES = {
  "confidence": "The probability that an answer is right, by calibration queries that the curves have not seen.",
  "threshold": "Answers with at least this confidence are accepted. It is the lowest at which the lower confidence bound of precision, "
  "at 90% in all, is the target, on calibration queries weighted to the relations asked.",
  "over_predicted": "Answers given first at least twice as often as their share of the calibration queries' right answers, and of the "
  "text's mentions where these are known, explains (by chance in less than 1 of 100 cases each).",
}


def quality(known, asked, counts, relations, calibrator):
  """How well confidences hold: calibration queries in two halves by subject, each judged by curves of the other half."""
  halves_Q = calibration.folds(known.subjects, 2)
  fitted = extraction.fit(
    known, asked, counts=counts, relations=relations, method=calibrator, fold_Q=halves_Q
  )
  chosen_N = fitted.judged.chosen_N
  names = list(dict.fromkeys(known.relations))
  number = {name: i for i, name in enumerate(names)}
  asked_of = collections.Counter(known.relations)
  units = Units(
    fitted.judged.confidence_N[chosen_N],
    fitted.right_N[chosen_N],
    known.score_N[chosen_N],
    np.array([number[name] for name in known.relations])[known.query_N[chosen_N]],
    answer_room.subject_numbers(known)[known.query_N[chosen_N]],
  )
  return calibration_quality.quality(units, names, [asked_of[name] for name in names])


def lines(summary, folder):
  """What an extraction found, in a few lines for the terminal."""
  counts = summary["counts"]
  promise = summary["promise"]
  run = summary["run"]
  found = [
    f"{counts['queries']:,} queries, {counts['candidates']:,} candidate answers; calibrated on {counts['calibration_queries']:,} queries"
  ]
  pooled = [row["relation"] for row in summary["relations"] if row["pooled"]]
  if pooled:
    found.append(
      f"no calibration data for {len(pooled)} relations ({', '.join(pooled[:5])}{', ...' if len(pooled) > 5 else ''}): "
      "judged by the pooled curve, the promise is not about them"
    )
  found += table.calibration_lines(summary["quality"])
  if promise["target"] is None:
    found.append("accepted: what has the greatest expected F1 of each query")
  elif promise["threshold"] is None:
    found.append(
      f"no threshold keeps the promise of {promise['target']:.0%} precision: nothing is accepted. It takes at least "
      f"{thresholds.queries_needed(promise['target'])} right calibration answers above one; calibrate on more facts, or promise less "
      "(--precision)"
    )
  else:
    found.append(
      f"precision of at least {promise['target']:.0%} is promised (bound {promise['lower_bound']:.1%}, at 90%): confidence from "
      f"{promise['threshold']:.3f} on; of the calibration answers there {promise['calibration_precision']:.1%} are right"
    )
  shocked = summary["over_predicted"]
  if shocked:
    found.append(
      f"over-predicted answers, their confidence lowered: {len(shocked):,}, such as "
      + "; ".join(
        f"{row['entity']} ({row['relation']}) {row['predicted']:,} times, {row['supported_share'] / max(row['share'], 1e-9):.0%} of that "
        "supported"
        for row in shocked[:3]
      )
    )
  conflicts = sum(summary["conflicts"]["counts"].values())
  if conflicts or counts["implied"]:
    found.append(
      f"{conflicts:,} accepted answers contradicted others and were dropped; {counts['implied']:,} follow from others"
    )
  found.append(
    f"{counts['triples']:,} triples; no answer to {counts['abstained']:,} queries; run {run['id']}"
  )
  return (
    found
    + [
      f"  {one['format']}: {one['path']}"
      + (f" ({one['rows']:,} rows)" if one["rows"] is not None else "")
      for one in summary["outputs"]
    ]
    + [f"  summary: {os.path.join(folder, SUMMARY)}"]
  )


def _names(known, candidates):
  facts = sources.read_facts(candidates) if candidates else []
  return answer_room.names_of(
    [
      *facts,
      *(row for _, row in schema.read_rows(known, ()) if isinstance(row.get("relation"), str)),
    ]
  )


def _keys(queries):
  return None if queries is None else {(row["subject"], row["relation"]) for row in queries}


def _say_unasked(asked, path, queries):
  """Counts the queries that have no prediction, and predictions of what was not asked."""
  if queries is None:
    return
  wanted = _keys(queries)
  there = set(zip(asked.subjects, asked.relations))
  if wanted - there:
    print(
      f"  {len(wanted - there):,} of {len(wanted):,} queries have no row in {path}, such as {min(wanted - there)}: no answer is given"
    )
  others = {
    (row.get("subject"), row.get("relation")) for _, row in schema.read_rows(path, ())
  } - wanted
  if others:
    print(
      f"  {len(others):,} queries in {path} were not asked, such as {min(map(str, others))}: left out"
    )


def _corrected(folder, predictions, known, reference, mentions):
  """Paths of both predictions files with the answer prior of the reference (predictions/prior_correction.py), written into the folder."""

  both = [prediction_rows.read_all_rows(path) for path in (predictions, known)]
  rows = both[0] + both[1]
  where = f"{predictions} and {known}"
  tables = prior_correction.tables_of(rows, where)
  if reference == "counts":
    if mentions is None:
      raise UserError("--prior_correction=counts needs --entity_counts=FILE")
    priors = prior_correction.counted_priors(tables, mentions)
  else:
    others = prediction_rows.read_all_rows(reference)
    prior_correction.check_same_queries(rows, where, others, reference)
    found = prior_correction.tables_of(others, reference)
    prior_correction.check_same_candidates(tables, where, found, reference)
    priors = prior_correction.priors_of(found)
  ratios, _ = prior_correction.log_ratios(tables, priors)
  corrected = prior_correction.corrected_rows(prior_correction.correct(tables, ratios, 1.0), rows)
  paths = [
    os.path.join(folder, f"corrected_{name}.jsonl.gz") for name in ("predictions", "calibration")
  ]
  for path, some in zip(paths, (corrected[: len(both[0])], corrected[len(both[0]) :])):
    prediction_room.write_predictions(path, some)
  return paths


def _promise(decided):
  found = decided.threshold
  confidence_N = decided.judged.confidence_N[decided.accepted_N]
  expected = float(confidence_N.mean()) if len(confidence_N) else None
  if found is None:
    return {"target": None, "rule": "f1", "threshold": None, "expected_precision": expected}
  return {
    "target": found.target,
    "confidence_of_bound": 1 - thresholds.ERROR,
    "threshold": found.value,
    "lower_bound": found.bound,
    "calibration_precision": found.precision,
    "calibration_accepted": found.accepted,
    "expected_precision": expected,
  }


def _write_rows(folder, rows, run, total):
  progress = Progress("writing triples", total)

  def told():
    for number, row in enumerate(rows, 1):
      yield row
      if number % 10000 == 0:
        progress.update(min(number, total))

  paths, counts = formats.write("jsonl", folder, told, run)
  return {"format": "jsonl", "path": paths[0], "rows": counts["rows"]}


def _write_format(name, folder, run):
  read = lambda: canonical.read(os.path.join(folder, canonical.FILE))
  paths, counts = formats.write(name, folder, read, run)
  if counts["unusable_ids"]:
    print(
      f"  {name}: {counts['unusable_ids']:,} ids of subjects and objects are neither Wikidata ids nor IRIs, such as "
      f"{counts['first_unusable_id']!r}: not used, the label names the node"
    )
  return {"format": name, "path": ", ".join(paths), "rows": counts["rows"]}


def _write_json(path, value):
  with files.atomic_write(path) as file:
    json.dump(value, file, ensure_ascii=False, indent=1, allow_nan=False)
    file.write("\n")


def _now():
  return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _digest(text):
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _file_digest(path):
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()

"""Extraction from files to files: predictions in; triples, graph formats, curves, summary out."""

import collections
import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple, TypeAlias, TypedDict

import numpy as np

import factshock
from factshock.diagnosis import calibration_quality, table
from factshock.diagnosis.ranking import Units
from factshock.facts import counts, sources
from factshock.knowledge_graph import (
  answers,
  batches,
  calibration,
  canonical,
  consistency,
  extraction,
  formats,
  records,
  thresholds,
)
from factshock.knowledge_graph.answers import Answers, Names, Query
from factshock.knowledge_graph.batches import Batch, Provenance
from factshock.knowledge_graph.extraction import Extractor
from factshock.knowledge_graph.records import Outcome
from factshock.predictions import correcting, prior_correction, writing
from factshock.predictions.rows import read_rows, whole_rows
from factshock.runtime import files, locks, messages
from factshock.runtime import provenance as software
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress
from factshock.types import Answer

SUMMARY = "extraction.json"
CURVES = "calibration.json"
# A lock file: in a folder without a summary, the mark that an extraction is at work or was killed.
UNFINISHED = "extraction.unfinished"
# Where the extraction that is to be written anew stands until the new one is there.
_PREVIOUS = "extraction.previous"
REPORT = "report.html"
_CORRECTED = ("corrected_predictions.jsonl.gz", "corrected_calibration.jsonl.gz")
NOTES = {
  "asked": "How the model was asked: method, form of the prompts, answered questions before each, "
  "hypotheses of a beam, samples of a vote, longest answer in tokens, what the model was computed "
  "in, and of a served model requests, tokens asked and tokens answered, and the "
  "seconds that they took. Nothing where its predictions were given.",
  "confidence": "The probability that an answer is right, by calibration queries that the curves "
  "have not seen.",
  "threshold": "Answers with at least this confidence are accepted. It is the lowest at which the "
  "lower confidence bound of precision, at 90% in all, is the target, on calibration queries "
  "weighted to the relations asked.",
  "over_predicted": "Answers given first at least twice as often as their share of the calibration "
  "queries' right answers, and of the text's mentions where these are known, explains (by chance "
  "in less than 1 of 100 cases each).",
}

# What extraction.json holds, by section; JSON values alone.
Summary: TypeAlias = dict[str, Any]


class ModelIdentity(TypedDict):
  """Name of the model, digest of its weights, and how it was mixed (weights, or None)."""

  model: str
  checkpoint: str | None
  mixing_weights: list[float] | None


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of an extraction: calibration, acceptance, and what is written.

  Attributes:
    model: what is known of the model.
    rule: "precision" or "f1".
    precision: what the rule "precision" promises.
    graph_formats: names of formats to write beside triples.jsonl.
    calibrator: one of calibration.METHODS, or None: the better.
    relations: rows of the relations file by relation.
    counts: path of the entity counts, or None.
    types: path of the entities' types, or None.
    finetuning: path of the facts finetuned on, which calibration must be apart from, or None.
    answer_set: path of facts that tell ids and aliases of answers, or None.
    queries: those to which the predictions are limited, or None: all that are predicted.
    prior_correction: "counts", or the path of predictions before finetuning on queries and
      calibration together, or None.
    columns: our names of columns -> those of the predictions files, where they differ.
    asked: how the model was asked (notes: `asked`), or None where predictions were given.
  """

  model: ModelIdentity
  rule: str = "precision"
  precision: float = 0.9
  graph_formats: Sequence[str] = ("tsv",)
  calibrator: str | None = None
  relations: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict[str, Any])
  counts: str | None = None
  types: str | None = None
  finetuning: str | None = None
  answer_set: str | None = None
  queries: Set[Query] | None = None
  prior_correction: str | None = None
  columns: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
  asked: Mapping[str, Any] | None = None


class _Inputs(NamedTuple):
  """Inputs of an extraction, read and checked."""

  labelled: Answers  # on the calibration queries
  answers: Answers  # on the queries
  names: Names
  mentions: Mapping[Answer, int] | None
  rules: consistency.Rules
  types: consistency.Types

  @property
  def labels(self) -> dict[str, str]:
    """Returns the labels of relations."""
    return {name: row["label"] for name, row in self.rules.items() if row.get("label")}


class _Decision(NamedTuple):
  """Threshold (None with expected F1), and what was decided by it."""

  threshold: thresholds.Threshold | None
  outcome: Outcome


def check_folder(folder: str, overwrite: bool = False) -> None:
  """Checks that no extraction is at work in a folder, and none lies there that is to be kept.

  Args:
    folder: that of the extraction.
    overwrite: whether one that lies there is to be written anew.

  Raises:
    UserError: there is one.
  """
  if not overwrite and os.path.exists(os.path.join(folder, SUMMARY)):
    raise UserError(
      f"{folder}: holds an extraction already; choose another --output, or give --overwrite to "
      "write it anew"
    )
  mark = os.path.join(folder, UNFINISHED)
  if locks.is_locked(mark):
    raise UserError(
      f"{folder}: {locks.holder_of(mark)} extracts there; wait for it, or choose another --output"
    )
  if not overwrite and not is_left_unfinished(folder) and (there := _outputs_in(folder)):
    raise UserError(
      f"{folder}: holds {', '.join(there)} but no {SUMMARY}: an extraction that did not end, or "
      "something else; choose another --output, or give --overwrite to write them anew"
    )


def is_left_unfinished(folder: str) -> bool:
  """Returns whether an extraction was begun in a folder and did not end."""
  return os.path.exists(os.path.join(folder, UNFINISHED))


@contextlib.contextmanager
def whole_or_absent(folder: str, overwrite: bool = False) -> Generator[None]:
  """Marks a folder as unfinished inside; after an error the outputs written there are removed.

  What a killed process has left of an extraction is removed first, which is printed. One that is
  written anew goes when the new one is whole, and is brought back after an error.

  Args:
    folder: made where it is missing.
    overwrite: whether an extraction that lies there is written anew.

  Raises:
    UserError: it holds one that is not, another process is at work there, or it cannot be written.
  """
  check_folder(folder, overwrite)
  is_new = not os.path.isdir(folder)
  is_left = is_left_unfinished(folder)
  previous = os.path.join(folder, _PREVIOUS)
  try:
    with locks.try_lock(os.path.join(folder, UNFINISHED)) as is_ours:
      if not is_ours:
        check_folder(folder, overwrite)
        raise UserError(f"{folder}: another process extracts there; choose another --output")
      if overwrite and (not is_left or os.path.exists(os.path.join(folder, SUMMARY))):
        _move_outputs(folder, previous)
      elif is_left:
        messages.say(f"  {folder}: the extraction there did not end; it is made again")
        _remove_outputs(folder)
      try:
        yield
      except BaseException:
        _remove_outputs(folder)
        _move_outputs(previous, folder)
        raise
      finally:
        shutil.rmtree(previous, ignore_errors=True)
  except BaseException:
    if is_new:
      with contextlib.suppress(OSError):
        os.rmdir(folder)
    raise


def _outputs_in(folder: str) -> list[str]:
  """Returns the names of the files in a folder that an extraction writes, the last one last."""
  names = {name for known in formats.FORMATS.values() for name in known.files}
  names |= {CURVES, REPORT, *_CORRECTED}
  return [name for name in (*sorted(names), SUMMARY) if os.path.exists(os.path.join(folder, name))]


def _move_outputs(source: str, target: str) -> None:
  names = _outputs_in(source)
  if names:
    os.makedirs(target, exist_ok=True)
  for name in names:
    os.replace(os.path.join(source, name), os.path.join(target, name))


def _remove_outputs(folder: str) -> None:
  for name in _outputs_in(folder):
    os.unlink(os.path.join(folder, name))


def extract(folder: str, predictions: str, calibration_path: str, options: Options) -> Summary:
  """Writes the triples, graph formats and curves of an extraction into a folder.

  Args:
    folder: made where it is missing; to be marked by `whole_or_absent`.
    predictions: path of the predictions on the queries.
    calibration_path: path of the predictions on the calibration facts.
    options: how answers are calibrated and accepted, and what is written.

  Returns:
    The summary, which `write_summary` writes when the report is there.

  Raises:
    UserError: files that are missing, malformed, or do not fit each other.
  """
  started = _now()
  steps = Progress("extracting", 4)
  inputs = _read(folder, predictions, calibration_path, options)
  steps.advance("calibrating")
  extractor = _fit(inputs, options)
  steps.advance("accepting")
  decision = _decide(extractor, inputs, options)
  steps.advance("writing")
  curves = _curves(extractor)
  digests = [_file_digest(path) for path in (predictions, calibration_path)]
  run = _run_record(started, curves["identity"], digests, decision.threshold, options)
  outputs = _write_outputs(folder, inputs, decision, run, options)
  summary: Summary = {
    "run": {**run, "ended": _now()},
    "asked": options.asked and dict(options.asked),
    "counts": _counts(inputs.labelled, decision.outcome),
    "promise": _promise(decision),
    "quality": _quality(inputs, options),
    **_findings(inputs.labelled, extractor, decision.outcome, inputs.labels),
    "outputs": outputs,
    "notes": NOTES,
  }
  _write_json(os.path.join(folder, CURVES), curves)
  steps.advance()
  return summary


def _findings(
  labelled: Answers,
  extractor: Extractor,
  outcome: Outcome,
  labels: Mapping[str, str],
) -> Summary:
  """Returns the sections on relations, over-predicted answers and conflicts."""
  return {
    "relations": records.relation_summaries(extractor, labelled, outcome, labels),
    "over_predicted": records.over_prediction_summaries(extractor, labelled, outcome),
    "conflicts": records.conflict_summary(outcome.conflicts),
  }


def _fit(
  inputs: _Inputs,
  options: Options,
  fold_Q: np.ndarray | None = None,
) -> Extractor:
  """Fits an extractor; `fold_Q` are folds of the calibration queries, None: by subject."""
  return extraction.fit(
    inputs.labelled,
    inputs.answers,
    counts=inputs.mentions,
    rules=inputs.rules,
    method=options.calibrator,
    fold_Q=fold_Q,
  )


def write_summary(
  summary: Summary,
  folder: str,
  page: str,
) -> None:
  """Adds the report's path to the outputs of a summary, and writes extraction.json, the last file.

  Args:
    summary: of `extract`.
    folder: that of the extraction.
    page: path of the report.
  """
  summary["outputs"].append({"format": "report", "path": page, "rows": None})
  _write_json(os.path.join(folder, SUMMARY), summary)


def _read(
  folder: str,
  predictions: str,
  calibration_path: str,
  options: Options,
) -> _Inputs:
  """Reads and checks the inputs; moves the answer prior first where asked."""
  rules = consistency.complete_rules(options.relations)
  types = consistency.read_types(options.types) if options.types else {}
  mentions = counts.read_counts(options.counts) if options.counts else None
  columns = options.columns
  names = _names(calibration_path, options.answer_set, columns)
  if options.prior_correction:
    predictions, calibration_path = _correct_priors(
      folder, predictions, calibration_path, options, mentions
    )
    columns = dict[str, str]()  # the corrected files have our names
  labelled = answers.read(calibration_path, names, labelled=True, columns=columns)
  wanted = options.queries
  left_out = set[Query]()
  predicted = answers.read(predictions, names, only=wanted, columns=columns, left_out=left_out)
  _say_if_scored_otherwise(labelled, predicted)
  if wanted is not None:
    _print_differences(predicted, predictions, wanted, left_out)
  answers.check_separate_queries(labelled.queries(), predicted.queries(), "queries")
  if options.finetuning:
    facts = answers.queries_of(sources.read_facts(options.finetuning))
    answers.check_separate_queries(labelled.queries(), facts, "finetuning facts")
  return _Inputs(labelled, predicted, names, mentions, rules, types)


def _say_if_scored_otherwise(labelled: Answers, predicted: Answers) -> None:
  """Prints where one of two files lists several candidates of queries, and the other one alone.

  The scores of several are made probabilities among them, a single one's is what it is.
  """
  named = {"calibration file": labelled, "predictions": predicted}
  several = [name for name, answers_of in named.items() if (answers_of.rank_N > 1).any()]
  if len(several) == 1:
    messages.say(
      f"  only in the {several[0]} queries have several candidates: their scores are of another "
      "kind than single ones; give candidates in both files, or in neither"
    )


def _names(
  calibration_path: str,
  answer_set: str | None,
  columns: Mapping[str, str],
) -> Names:
  """Returns the names of answers, of the answer set and of the calibration facts."""
  facts = sources.read_facts(answer_set) if answer_set else []
  rows = read_rows(calibration_path, columns=columns)
  calibration_facts = (row for _, row in rows if isinstance(row.get("relation"), str))
  return answers.collect_names(itertools.chain(facts, calibration_facts))


def _print_differences(
  predicted: Answers,
  path: str,
  wanted: Set[Query],
  left_out: set[Query],
) -> None:
  """Prints how many queries have no prediction, and how many predictions were not asked for."""
  missing = wanted - set(predicted.queries())
  if missing:
    messages.say(
      f"  {len(missing):,} of {len(wanted):,} queries have no row in {path}, such as "
      f"{min(missing)}: no answer is given"
    )
  if left_out:
    messages.say(
      f"  {len(left_out):,} queries in {path} were not asked, such as "
      f"{min(map(str, left_out))}: left out"
    )


def _correct_priors(
  folder: str,
  predictions: str,
  calibration_path: str,
  options: Options,
  mentions: Mapping[Answer, int] | None,
) -> tuple[str, str]:
  """Writes both predictions files with the answer prior of a reference (prior_correction.py).

  Args:
    folder: gets the corrected files.
    predictions: path of the predictions on the queries.
    calibration_path: path of those on the calibration facts.
    options: name the reference, and the columns of all these files.
    mentions: for the reference "counts".

  Returns:
    The paths of the corrected files.
  """
  context = f"{predictions} and {calibration_path}"
  gatherer = prior_correction.Gatherer(context)
  count = len(gatherer.add(whole_rows(predictions, options.columns)))
  rankings = gatherer.add(whole_rows(calibration_path, options.columns)).rankings()
  priors = _reference_priors(rankings, context, options, mentions)
  ratios, _ = prior_correction.log_ratios(rankings.tables, priors)
  rows = itertools.chain.from_iterable(
    whole_rows(path, options.columns) for path in (predictions, calibration_path)
  )
  corrected = prior_correction.Corrected(rankings.tables, ratios, 1.0)
  corrected_rows = corrected.rows((row for _, row in rows), context)
  corrected_predictions, corrected_calibration = (os.path.join(folder, name) for name in _CORRECTED)
  writing.write_predictions(corrected_predictions, itertools.islice(corrected_rows, count))
  writing.write_predictions(corrected_calibration, corrected_rows)
  return corrected_predictions, corrected_calibration


def _reference_priors(
  rankings: prior_correction.Rankings,
  context: str,
  options: Options,
  mentions: Mapping[Answer, int] | None,
) -> dict[str, np.ndarray]:
  """Returns the prior of each relation's candidates by a reference (see `_correct_priors`)."""
  reference = options.prior_correction or "counts"
  if reference == "counts":
    if mentions is None:
      raise UserError("--prior_correction=counts needs --entity_counts=FILE")
    return prior_correction.counted_priors(rankings.tables, mentions)
  return correcting.priors_before(context, rankings, reference, options.columns)


def _decide(
  extractor: Extractor,
  inputs: _Inputs,
  options: Options,
) -> _Decision:
  """Accepts answers by the rule of the options, and makes them consistent."""
  assessment = extraction.assess(extractor, inputs.answers)
  threshold = None
  if options.rule == "precision":
    threshold = extraction.choose_threshold(
      extractor, inputs.labelled, inputs.answers, options.precision
    )
    accepted_N = extraction.accept_by_precision(assessment, threshold)
  else:
    accepted_N = extraction.accept_by_f1(extractor, inputs.answers, assessment)
  accepted_N, implied, conflicts = extraction.make_consistent(
    inputs.answers, assessment, accepted_N, inputs.rules, inputs.types
  )
  outcome = Outcome(inputs.answers, assessment, accepted_N, implied, conflicts)
  return _Decision(threshold, outcome)


def _curves(extractor: Extractor) -> dict[str, Any]:
  """Returns all that turns scores into confidences, as JSON; `identity` is its digest."""
  later = extractor.later
  curves = {
    "first": calibration.to_json(extractor.first, extractor.relations),
    "later": later and calibration.to_json(later, extractor.relations),
    "over_predicted": extractor.lowering._asdict(),
  }
  return {**curves, "identity": _digest(json.dumps(curves, sort_keys=True))}


def _run_record(
  started: str,
  calibration_id: str,
  file_digests: Sequence[str],
  threshold: thresholds.Threshold | None,
  options: Options,
) -> canonical.Run:
  """Returns where the triples come from; the id is a digest of inputs, curves and options."""
  determining = [
    calibration_id,
    *file_digests,
    options.rule,
    str(options.precision),
    json.dumps(options.model),
  ]
  if options.columns:
    determining.append(json.dumps(options.columns, sort_keys=True))
  return {
    "id": _digest("\n".join(determining)),
    "started": started,
    **options.model,
    "calibration": calibration_id,
    "precision": options.precision if threshold else None,
    "software": f"factshock {factshock.__version__}",
    "revision": software.revision(),
  }


def _write_outputs(
  folder: str,
  inputs: _Inputs,
  decision: _Decision,
  run: canonical.Run,
  options: Options,
) -> list[dict[str, Any]]:
  """Writes triples.jsonl and the graph formats; returns format, path and rows of each."""
  provenance = Provenance(
    decision.threshold.value if decision.threshold else None,
    **options.model,
    calibration=run["calibration"],
    run=run["id"],
  )
  rows = records.row_batches(decision.outcome, inputs.names, inputs.labels, provenance)
  names = ("jsonl", *options.graph_formats)
  total = len(inputs.answers.texts)
  written = formats.write(names, folder, _checked(rows, folder, total), {**run, "ended": _now()})
  return list(map(_output, names, written))


def _checked(
  rows: Iterable[Batch],
  folder: str,
  total: int,
) -> Iterator[Batch]:
  """Yields rows, each checked to be canonical, with progress; there are about `total`."""
  path = os.path.join(folder, canonical.FILE)
  done = 0
  with contextlib.closing(Progress("writing triples", total)) as steps:
    for batch in rows:
      batches.check(batch, path, done + 1)
      yield batch
      done += len(batch)
      steps.update(min(done, total))


def _output(name: str, written: formats.Written) -> dict[str, Any]:
  """Returns format, path and rows of what was written; says what is to be known of it."""
  counts = written.counts
  if counts["unusable_ids"]:
    messages.say(
      f"  {name}: {counts['unusable_ids']:,} ids of subjects and objects are neither Wikidata ids "
      f"nor IRIs, such as {counts['first_unusable_id']!r}: not used, the label names the node"
    )
  formulas = counts.get("formulas", 0)
  if formulas:
    messages.say(
      f"  {name}: {formulas:,} lines hold a cell that begins with = + - or @, which a "
      "spreadsheet runs as a formula: import the files there as text"
    )
  return {"format": name, "path": ", ".join(written.paths), "rows": counts["rows"]}


def _counts(labelled: Answers, outcome: Outcome) -> dict[str, int]:
  """Returns how many queries, candidates and triples there are."""
  queries = len(outcome.answers.subjects)
  answered = np.unique(outcome.answers.query_N[outcome.accepted_N])
  accepted = int(outcome.accepted_N.sum())
  implied = len(outcome.implied)
  return {
    "queries": queries,
    "candidates": len(outcome.answers.texts),
    "accepted": accepted,
    "abstained": queries - len(answered),
    "implied": implied,
    "triples": accepted + implied,
    "calibration_queries": len(labelled.subjects),
  }


def _promise(decision: _Decision) -> dict[str, Any]:
  """Returns what is promised of the accepted answers."""
  threshold = decision.threshold
  outcome = decision.outcome
  confidence_N = outcome.assessment.confidence_N[outcome.accepted_N]
  expected = float(confidence_N.mean()) if len(confidence_N) else None
  if threshold is None:
    return {"target": None, "rule": "f1", "threshold": None, "expected_precision": expected}
  return {
    "target": threshold.target,
    "confidence_of_bound": 1 - thresholds.ERROR,
    "threshold": threshold.value,
    "lower_bound": threshold.bound,
    "calibration_precision": threshold.precision,
    "calibration_accepted": threshold.accepted,
    "expected_precision": expected,
  }


def _quality(inputs: _Inputs, options: Options) -> dict[str, Any]:
  """Returns how well confidences hold (diagnosis/calibration_quality.py).

  Calibration queries in two halves by subject, each judged by curves of the other half.
  """
  labelled = inputs.labelled
  halves_Q = calibration.assign_folds(labelled.subjects, 2)
  extractor = _fit(inputs, options, halves_Q)
  eligible_N = extractor.assessment.eligible_N
  names = list(dict.fromkeys(labelled.relations))
  codes = {name: code for code, name in enumerate(names)}
  queries = collections.Counter(labelled.relations)
  relation_N = labelled.of_queries([codes[name] for name in labelled.relations])
  subject_N = labelled.of_queries(labelled.subject_codes())
  units = Units(
    extractor.assessment.confidence_N[eligible_N],
    extractor.right_N[eligible_N],
    labelled.score_N[eligible_N],
    relation_N[eligible_N],
    subject_N[eligible_N],
  )
  return calibration_quality.quality(units, names, [queries[name] for name in names])


def summary_lines(summary: Summary, folder: str) -> list[str]:
  """Returns an extraction in a few lines for the terminal."""
  totals = summary["counts"]
  lines = [
    f"{totals['queries']:,} queries, {totals['candidates']:,} candidate answers; calibrated on "
    f"{totals['calibration_queries']:,} queries"
  ]
  lines += _pooled_lines(summary)
  lines += table.calibration_lines(summary["quality"])
  lines.append(_promise_line(summary["promise"]))
  lines += _over_predicted_lines(summary)
  conflicts = sum(summary["conflicts"]["counts"].values())
  if conflicts or totals["implied"]:
    lines.append(
      f"{conflicts:,} accepted answers contradicted others and were dropped; "
      f"{totals['implied']:,} follow from others"
    )
  lines.append(
    f"{totals['triples']:,} triples; no answer to {totals['abstained']:,} queries; "
    f"run {summary['run']['id']}"
  )
  for output in summary["outputs"]:
    rows = "" if output["rows"] is None else f" ({output['rows']:,} rows)"
    lines.append(f"  {output['format']}: {output['path']}{rows}")
  return [*lines, f"  summary: {os.path.join(folder, SUMMARY)}"]


def terminal_lines(summary: Summary, folder: str) -> list[str]:
  """Returns an extraction in lines of a terminal's width; paths stay whole."""
  lines: list[str] = []
  for line in summary_lines(summary, folder):
    lines += [line] if line.startswith(" ") else table.wrapped([line])
  return lines


def _pooled_lines(summary: Summary) -> list[str]:
  """Returns which relations have no calibration data."""
  pooled = [row["relation"] for row in summary["relations"] if row["pooled"]]
  if not pooled:
    return []
  names = ", ".join(pooled[:5]) + (", ..." if len(pooled) > 5 else "")
  return [
    f"no calibration data for {len(pooled)} relations ({names}): judged by the pooled curve, the "
    "promise is not about them"
  ]


def _promise_line(promise: Mapping[str, Any]) -> str:
  """Returns what is promised of the accepted answers."""
  target = promise["target"]
  if target is None:
    return "accepted: what has the greatest expected F1 of each query"
  if promise["threshold"] is None:
    return (
      f"no threshold keeps the promise of {target:.0%} precision: nothing is accepted. It takes at "
      f"least {thresholds.queries_needed(target)} right calibration answers above one; calibrate "
      "on more facts, or promise less (--precision)"
    )
  return (
    f"precision of at least {target:.0%} is promised (bound {promise['lower_bound']:.1%}, at 90%): "
    f"confidence from {promise['threshold']:.3f} on; of the calibration answers there "
    f"{promise['calibration_precision']:.1%} are right"
  )


def _over_predicted_lines(summary: Summary) -> list[str]:
  """Returns how many answers are over-predicted, and the first few."""
  rows = summary["over_predicted"]
  if not rows:
    return []
  examples = [
    f"{row['entity']} ({row['relation']}) {row['predicted']:,} times, "
    f"{row['supported_share'] / max(row['share'], 1e-9):.0%} of that supported"
    for row in rows[:3]
  ]
  return [
    f"over-predicted answers, their confidence lowered: {len(rows):,}, such as "
    + "; ".join(examples)
  ]


def _write_json(path: str, value: Any) -> None:
  """Writes JSON, indented; the file is whole or absent."""
  with files.atomic_write(path) as file:
    json.dump(value, file, ensure_ascii=False, indent=1, allow_nan=False)
    file.write("\n")


def _now() -> str:
  """Returns the time in UTC (ISO 8601)."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _digest(text: str) -> str:
  """Returns a short digest of a text."""
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _file_digest(path: str) -> str:
  """Returns the SHA-256 digest of a file."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()

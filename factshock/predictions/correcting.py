"""Correction of a predictions file: what the verb correct and `factshock.api.correct` do."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from factshock.facts import counts, sources
from factshock.predictions import prior_correction
from factshock.predictions.prior_correction import AnswerChange, Corrected, Gatherer, Rankings
from factshock.predictions.rows import Row, rows_to_go_through_again, stem, whole_rows
from factshock.runtime.errors import UserError

Curve = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class CorrectionOptions:
  """Says what the answers are corrected towards, and by how much.

  Attributes:
    reference: path of predictions of the model before finetuning on the same queries; or None.
    counts: path of how often a text names each answer, or None; one of these two is given.
    development: path of the finetuned model's predictions on development facts, to choose tau on.
    finetuning: path of the facts finetuned on, which development facts must be apart from.
    tau: how much of the correction is applied where there are no development facts.
    columns: our names of columns -> the files', where they differ.
  """

  reference: str | None = None
  counts: str | None = None
  development: str | None = None
  finetuning: str | None = None
  tau: float = 1.0
  columns: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])


@dataclasses.dataclass(frozen=True)
class Correction:
  """Holds corrected predictions, and what the correction changed.

  Attributes:
    rows: of a predictions file, made as they are gone through, once; the arm's name ends in
      _corrected.
    queries: how many rows there are.
    tau: how much of the correction was applied.
    curve: (tau, share of right development answers) of each that was tried; None of none.
    raised: how many priors were below prior_correction.FLOOR and taken as that.
    relations: how many relations there are.
    distances: of the prior from the reference's, before and after: total variation, a mean over
      the relations.
    shares_right: before and after.
    gained: the answers that gained most.
    lost: the answers that lost most.
  """

  rows: Iterator[Row]
  queries: int
  tau: float
  curve: Curve | None
  raised: int
  relations: int
  distances: tuple[float, float]
  shares_right: tuple[float, float]
  gained: list[AnswerChange]
  lost: list[AnswerChange]


def correct(path: str, options: CorrectionOptions) -> Correction:
  """Corrects the predictions of a file.

  Args:
    path: the predictions, with all candidates in each row.
    options: towards what, and by how much.

  Raises:
    UserError: not one of reference and counts, or files that do not fit each other.
  """
  if bool(options.reference) == bool(options.counts):
    given = "both" if options.reference else "neither"
    raise UserError(f"expected one of --reference and --entity_counts, got {given}; see --help")
  read_rows = rows_to_go_through_again(path, options.columns)
  rankings = Gatherer(path).add(read_rows()).rankings()
  reference = _reference_priors(path, rankings, options)
  ratios, raised = prior_correction.log_ratios(rankings.tables, reference)
  tau, curve = options.tau, None
  if options.development:
    tau, curve = _choose_tau(path, rankings, ratios, options)
  corrected = Corrected(rankings.tables, ratios, tau)
  gained, lost = prior_correction.most_changed_answers(rankings.predicted, corrected.predicted())
  before_and_after = (rankings.tables, corrected)
  distances = [prior_correction.prior_distance(of, reference) for of in before_and_after]
  shares = [prior_correction.share_right(of, rankings.accepted) for of in before_and_after]
  return Correction(
    _named(corrected.rows((row for _, row in read_rows()), path), stem(path), tau),
    len(rankings),
    tau,
    curve,
    raised,
    len(rankings.tables),
    distances=(distances[0], distances[1]),
    shares_right=(shares[0], shares[1]),
    gained=gained,
    lost=lost,
  )


def _named(rows: Iterable[Row], name: str, tau: float) -> Iterator[Row]:
  """Yields corrected rows under the name of another arm; `name` is that of rows without one."""
  for row in rows:
    yield row | {"arm": f"{row.get('arm') or name}_corrected", "tau": tau}


def lines(correction: Correction) -> list[str]:
  """Returns what a correction changed as lines of text."""
  text: list[str] = []
  if correction.raised:
    text.append(f"{correction.raised:,} priors below {prior_correction.FLOOR:g} taken as that")
  if correction.curve is not None:
    points = ", ".join(f"{value:g} {share:.3f}" for value, share in correction.curve)
    text.append(f"development, right by tau: {points}; tau {correction.tau:g} is taken")
  before, after = correction.distances
  text.append(
    f"the answer prior was {before:.3f} from the reference's (total variation, mean of "
    f"{correction.relations} relations), {after:.3f} after the correction with tau "
    f"{correction.tau:g}"
  )
  for name, changes in (("gained", correction.gained), ("lost", correction.lost)):
    changed = [f"{row.answer} ({row.relation}) {row.before:,} -> {row.after:,}" for row in changes]
    text.append(f"  {name}: {'; '.join(changed) or 'none'}")
  right_before, right_after = correction.shares_right
  text.append(
    f"{correction.queries:,} queries, right {right_before:.3f} before and {right_after:.3f} after"
  )
  return text


def _reference_priors(
  path: str,
  rankings: Rankings,
  options: CorrectionOptions,
) -> dict[str, np.ndarray]:
  """Returns the reference's prior of each relation's candidates."""
  if options.counts:
    return prior_correction.counted_priors(rankings.tables, counts.read_counts(options.counts))
  return priors_before(path, rankings, options.reference or "", options.columns)


def priors_before(
  path: str,
  rankings: Rankings,
  reference: str,
  columns: Mapping[str, str] | None,
) -> dict[str, np.ndarray]:
  """Returns the prior of each relation's candidates in predictions of the model before.

  Args:
    path: of the predictions to correct, or what they are, for errors.
    rankings: of those predictions.
    reference: path of the predictions before.
    columns: names of its columns, as `whole_rows` takes them.

  Raises:
    UserError: the two are not of the same queries and candidates.
  """
  gatherer = Gatherer(reference, rankings.codes).add(whole_rows(reference, columns))
  others = gatherer.rankings()
  prior_correction.check_same_queries(rankings, path, others, reference)
  prior_correction.check_same_candidates(rankings.tables, path, others.tables, reference)
  return prior_correction.priors_of(others.tables)


def _choose_tau(
  path: str,
  rankings: Rankings,
  ratios: Mapping[str, np.ndarray],
  options: CorrectionOptions,
) -> tuple[float, Curve]:
  """Returns the tau that is best on the development predictions, and the curve."""
  development = options.development or ""
  gatherer = Gatherer(development).add(whole_rows(development, options.columns))
  others = gatherer.rankings()
  prior_correction.check_separate_subjects(
    rankings.subjects(), path, others.subjects(), development
  )
  if options.finetuning:
    facts = sources.read_facts(options.finetuning)
    prior_correction.check_separate_subjects(
      ((fact["subject"], fact["relation"]) for fact in facts),
      options.finetuning,
      others.subjects(),
      development,
    )
  unknown = [relation for relation in others.tables if relation not in rankings.tables]
  if unknown:
    raise UserError(f"{development}: expected relations of {path}, got {', '.join(unknown)}")
  shared_tables = {relation: rankings.tables[relation] for relation in others.tables}
  prior_correction.check_same_candidates(shared_tables, path, others.tables, development)
  return prior_correction.choose_tau(others.tables, others.accepted, ratios)

"""Diagnosis of predictions files: what the verb diagnose and `factshock.api.diagnose` do."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from factshock.diagnosis import summary
from factshock.facts import counts, sources
from factshock.predictions import reading, repeats
from factshock.predictions.reading import PredictionsByArm
from factshock.runtime import messages
from factshock.types import Answer

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class FileOptions:
  """Options of a diagnosis by the files that hold what is known of the facts.

  Attributes:
    finetuning: path of the facts that the models were finetuned on, or a data set.
    counts: path of how often pretraining names each entity, or "wordfreq:LANGUAGE".
    relations: path of the relations, where averages over their types are wanted.
    reference: label of the arm that others are compared with; None is the first.
    known: label of the arm whose right answers are the known facts.
    finetuned: label of the finetuned arm, for sentences and a verdict.
    corrected: label of the same arm with its answer prior restored, for a verdict.
    criterion: what makes an answer right, "exact_match" or "contains".
    split: the split whose rows are read; None where files have one alone.
    columns: our names of columns -> the files', where they differ.
  """

  finetuning: str | None = None
  counts: str | None = None
  relations: str | None = None
  reference: str | None = None
  known: str | None = None
  finetuned: str | None = None
  corrected: str | None = None
  criterion: str = "exact_match"
  split: str | None = None
  columns: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])


def diagnose(
  predictions: Iterable[tuple[str | None, str]],
  options: FileOptions,
  bootstrap: summary.Bootstrap = summary.DEFAULT_BOOTSTRAP,
) -> dict[str, Any]:
  """Returns the diagnosis of predictions files, in the form of diagnosis.json.

  Args:
    predictions: (name of the arm, path) of each file; the name None is that in the rows, or the
      file's.
    options: what is known of the facts, and which arms are compared.
    bootstrap: over queries and seeds.

  Raises:
    UserError: files that are missing, malformed, or do not fit each other.
  """
  arms = reading.group_by_arm(
    reading.select_split(of_file, options.split)
    for of_file in reading.read_all(list(predictions), options.columns)
  )
  note = reading.candidates_note(arms)
  if note:
    messages.say(f"  {note}")
  repeats.check(arms)
  if options.finetuning:
    repeats.check_relations(arms)
  return summary.diagnose(arms, _options(arms, options), bootstrap)


def _options(arms: PredictionsByArm, options: FileOptions) -> summary.Options:
  """Returns options with what their files hold, the same for every seed."""
  seeds = sorted({seed for by_seed in arms.values() for seed in by_seed})
  mentions = counts.read_counts(options.counts) if options.counts else None
  return summary.Options(
    finetuning=_for_each_seed(seeds, _finetuning_answers(options.finetuning)),
    counts=_for_each_seed(seeds, mentions),
    reference=options.reference,
    known=options.known,
    entity_arms=list(arms),
    criterion=options.criterion,
    types=_relation_types(options.relations),
    finetuned=options.finetuned,
    corrected=options.corrected,
  )


def _finetuning_answers(path: str | None) -> list[Answer] | None:
  """Returns (relation, object) of each finetuning fact."""
  if path is None:
    return None
  return [(fact["relation"], fact["object"]) for fact in sources.read_facts(path)]


def _relation_types(path: str | None) -> dict[str, str] | None:
  """Returns the type of each relation of a relations file."""
  if path is None:
    return None
  return {name: row["type"] for name, row in sources.read_relations(path).items()}


def _for_each_seed(seeds: Sequence[int], value: T | None) -> dict[int, T] | None:
  """Returns one value for every seed."""
  return None if value is None else dict.fromkeys(seeds, value)

"""Options of a diagnosis: what is known of the facts, and which arms are compared."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from factshock.types import Answer

Pair: TypeAlias = tuple[str, str]  # labels of an arm and of the one it is compared with
AnswersBySeed: TypeAlias = Mapping[int, Sequence[Answer] | None]
CountsBySeed: TypeAlias = Mapping[int, Mapping[Answer, int] | None]


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of a diagnosis: facts it knows, arms it compares.

  Attributes:
    finetuning: seed -> (relation, object), the gold answers of the finetuning facts.
    finetuning_by_arm: label -> the same, for arms finetuned on other facts.
    counts: seed -> mentions in pretraining of (relation, entity).
    reference: label of the arm that others are compared with (default: the first).
    known: label of the arm whose right answers are the known facts.
    pairs: (arm, against) labels to compare (default: every arm against the reference).
    entity_arms: labels whose predictions of every entity are listed.
    criterion: what makes an answer right, "exact_match" or "contains".
    types: relation -> its type (MMLU's "history", LAMA's "N-1"), where averages over each type are
      wanted.
    finetuned: label of the finetuned arm, for sentences and a verdict (verdict.py).
    corrected: label of the same arm with its answer prior restored, for a verdict; with `known` the
      verdict tells prior and access apart.
  """

  finetuning: AnswersBySeed | None = None
  finetuning_by_arm: Mapping[str, AnswersBySeed | None] | None = None
  counts: CountsBySeed | None = None
  reference: str | None = None
  known: str | None = None
  pairs: Sequence[Pair] = ()
  entity_arms: Sequence[str] = ()
  criterion: str = "exact_match"
  types: Mapping[str, str] | None = None
  finetuned: str | None = None
  corrected: str | None = None


DEFAULT_OPTIONS = Options()

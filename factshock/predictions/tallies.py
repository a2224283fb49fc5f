"""How many answers are right, counted as their rows go by."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from factshock.predictions import accuracy

RowT = TypeVar("RowT", bound=Mapping[str, Any])


@dataclasses.dataclass
class Tally:
  """Counts answers.

  Attributes:
    answers: all.
    right: those that are an accepted answer word for word.
    holding: those that hold an accepted answer, after normalisation.
  """

  answers: int = 0
  right: int = 0
  holding: int = 0

  def over(self, rows: Iterable[RowT]) -> Iterator[RowT]:
    """Yields rows of predictions, each of which it counts."""
    for row in rows:
      accepted = [row["object"], *(row.get("aliases") or ())]
      self.answers += 1
      self.right += row["prediction"] in accepted
      self.holding += round(accuracy.score_once(row["prediction"], accepted).contains)
      yield row

  def describe(self) -> str:
    """Returns the counts in words."""
    return (
      f"{self.answers:,} answers, {self.right:,} of them word for word right "
      f"({self.right / self.answers:.1%}), {self.holding:,} hold an accepted answer "
      f"({self.holding / self.answers:.1%})"
    )

"""Rules by which the editions of the LM-KBC challenge score a row: an edition is data and a count.

A row is a (subject, relation) with a list P of predicted and a list G of gold objects. In every
edition precision is the share of P that is right, 1 where P is empty; recall is the share of G that
is found, 1 where G is empty, whatever is predicted; F1 is their harmonic mean, 0 where both are 0.
What is equal, empty or counted twice differs:

  2022  texts against lists of aliases, ASCII punctuation deleted, lower case; distinct predictions;
        a lone "none", "null" or "" is no prediction; golds hit are counted: one prediction finds
        two golds that share an alias.
  2023  Wikidata ids as they stand, repeated ones too: recall, and F1 with it, can exceed 1. An
        empty gold list is [""].
  2024  Wikidata ids as sets.
  2025  distinct texts, the prediction stripped, case kept; hasArea and hasCapacity within 5% of a
        gold number. Two predictions may hit one gold ("Rome" and "Rome ", 100 and 101): recall can
        exceed 1.
  2026  texts without marks and case (`normalise_2026`), distinct in that form, matched one to one
        with lists of aliases, as many as can be; numbers within 5% of the first alias, each in turn
        taking the first gold still free.

Sources: evaluate.py of github.com/lm-kbc/dataset2023, dataset2024 and dataset2026 (that of July
2026). Of 2022 and 2025 participants' copies were at hand: for 2022 an empty prediction has
precision 1, as in the scores that the README of the data gives for its baseline (the copy has 0
there); for 2025 the texts are compared, as on the leaderboard and in the README's results "without
entity disambiguation" (the copy reads the column of ids). A gold number that is not above 0 matches
nothing; the scripts of 2025 and 2026 divide by it.
"""

import collections
import dataclasses
import functools
import string
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

# Of one row: texts, or in the gold of some editions lists of aliases.
Objects: TypeAlias = Sequence[Any]

# Relations of 2025 and 2026 whose objects are numbers.
NUMERIC = frozenset(("hasArea", "hasCapacity"))
TOLERANCE = 0.05  # of the gold number
NOTHING = frozenset(("", "none", "null"))
APOSTROPHES = frozenset("'\u2019\u2018\u02bb\u02bc\u02b9`\u00b4")
SEPARATORS = frozenset("+$<=>|~^")  # signs that Unicode does not call punctuation

_DROP_APOSTROPHES = {ord(mark): None for mark in APOSTROPHES}
_DROP_PUNCTUATION = {ord(mark): None for mark in string.punctuation}


class Counts(NamedTuple):
  """Counts of one row.

  Attributes:
    right: predictions that are right.
    predicted: predictions.
    found: golds that are found.
    gold: golds.
    says_empty: whether the prediction says "none".
  """

  right: int
  predicted: int
  found: int
  gold: int
  says_empty: bool


@dataclasses.dataclass(frozen=True)
class Edition:
  """One edition's rules.

  Attributes:
    column: of the objects that are compared, in gold and predictions.
    aliases: whether each gold object is a list of aliases.
    headline: the average that ranked systems: "relations" (the mean over relations of their rows'
      means) or "rows".
    complete: whether a gold row without a row of predictions is an error; else it counts as an
      empty answer.
    count: function of (predicted, gold, relation).
  """

  column: str
  aliases: bool
  headline: str
  complete: bool
  count: Callable[[Objects, Objects, str], Counts]


class Score(NamedTuple):
  """Scores of one row, and its counts, which micro averages and those of empty answers add up."""

  precision: float
  recall: float
  f1: float
  right: int
  predicted: int
  found: int
  gold: int
  says_empty: bool
  is_empty: bool
  both_empty: bool


def score(
  edition: Edition,
  predicted: Objects,
  gold: Objects,
  relation: str,
  strict: bool = False,
) -> Score:
  """Returns the score of one row.

  Args:
    edition: whose rules count.
    predicted: texts.
    gold: texts or lists of aliases, as the edition has them.
    relation: of the row.
    strict: counts no gold as found more than once, so that recall never exceeds 1.
  """
  counts = edition.count(predicted, gold, relation)
  found_golds = min(counts.found, counts.gold) if strict else counts.found
  precision = counts.right / counts.predicted if counts.predicted else 1.0
  recall = found_golds / counts.gold if counts.gold else 1.0
  is_empty = not counts.gold
  return Score(
    precision=precision,
    recall=recall,
    f1=f1(precision, recall),
    right=counts.right,
    predicted=counts.predicted,
    found=found_golds,
    gold=counts.gold,
    says_empty=counts.says_empty,
    is_empty=is_empty,
    both_empty=counts.says_empty and is_empty,
  )


def f1(precision: float, recall: float) -> float:
  """Returns the harmonic mean of two numbers; 0 where both are 0."""
  return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain_2022(text: str) -> str:
  """Returns a text without ASCII punctuation, in lower case, stripped: so 2022 compares."""
  return text.translate(_DROP_PUNCTUATION).lower().strip()


@functools.lru_cache(maxsize=1 << 17)
def normalise_2026(text: str) -> str:
  """Returns the form in which 2026 compares texts.

  Apostrophe-like marks dropped, NFKD, casefold, combining marks dropped, punctuation and `+$<=>|~^`
  to a space, white space squeezed.
  """
  # Before NFKD, which makes a lone acute accent a space; after it too, for those that it brings out
  # (as in U+0149).
  text = unicodedata.normalize("NFKD", text.translate(_DROP_APOSTROPHES)).casefold()
  return " ".join("".join(map(_without_marks, text)).split())


def number(text: str) -> float | None:
  """Returns the number that a text holds, commas dropped; None where it holds none."""
  try:
    return float(text.replace(",", ""))
  except ValueError:
    return None


def near(value: float | None, gold: float | None) -> bool:
  """Returns whether a number is within 5% of the gold number.

  False where either is None, or gold is not above 0.
  """
  if value is None or gold is None or not gold > 0:
    return False
  return abs(value - gold) / gold <= TOLERANCE


def matching_size(choices: Sequence[Iterable[Hashable]]) -> int:
  """Returns the size of a maximum bipartite matching.

  By augmenting paths (Kuhn 1955), breadth first.

  Args:
    choices: for each node of one side the nodes of the other that it may have.
  """
  owner: dict[Hashable, int] = {}
  partner: dict[int, Hashable] = {}
  for start in range(len(choices)):
    reached_from: dict[Hashable, int] = {}
    free = _free_node(start, choices, owner, reached_from)
    while free is not None:  # every node on the path takes what it reached, hands on what it had
      left = reached_from[free]
      owner[free] = left
      before = partner.get(left)
      partner[left] = free
      free = before
  return len(owner)


def _free_node(
  start: int,
  choices: Sequence[Iterable[Hashable]],
  owner: dict[Hashable, int],
  reached_from: dict[Hashable, int],
) -> Hashable | None:
  """Returns the first node without an owner on a path, and notes where each is reached from."""
  queue = collections.deque([start])
  while queue:
    left = queue.popleft()
    for right in choices[left]:
      if right in reached_from:
        continue
      reached_from[right] = left
      if right not in owner:
        return right
      queue.append(owner[right])
  return None


def _without_marks(character: str) -> str:
  if character in APOSTROPHES or unicodedata.combining(character):
    return ""
  if character in SEPARATORS or unicodedata.category(character).startswith("P"):
    return " "
  return character


def _count_2022(
  predicted: Objects,
  gold: Objects,
  relation: str,
) -> Counts:
  del relation
  texts = set(map(plain_2022, predicted))
  if len(texts) == 1 and texts <= NOTHING:
    texts = set[str]()
  hit = sum(not texts.isdisjoint(map(plain_2022, aliases)) for aliases in gold)
  return Counts(min(hit, len(texts)), len(texts), hit, len(gold), not texts)


def _count_2023(
  predicted: Objects,
  gold: Objects,
  relation: str,
) -> Counts:
  del relation
  right = sum(text in gold for text in predicted)
  known = 0 if gold == [""] else len(gold)
  return Counts(right, len(predicted), right if known else 0, known, predicted in ([], [""]))


def _count_2024(
  predicted: Objects,
  gold: Objects,
  relation: str,
) -> Counts:
  del relation
  right = len(set(predicted) & set(gold))
  return Counts(right, len(set(predicted)), right, len(set(gold)), not predicted)


def _count_2025(
  predicted: Objects,
  gold: Objects,
  relation: str,
) -> Counts:
  texts: set[str] = set(predicted)
  known: set[str] = set(gold)
  if relation in NUMERIC:
    numbers = list(map(number, known))
    right = sum(any(near(number(text), value) for value in numbers) for text in texts)
  else:
    right = sum(text.strip() in known for text in texts)
  return Counts(right, len(texts), right, len(known), not texts)


def _count_2026(
  predicted: Objects,
  gold: Objects,
  relation: str,
) -> Counts:
  texts: dict[str, str] = {}
  for text in predicted:
    texts.setdefault(normalise_2026(text), text)
  if relation in NUMERIC:
    golds = [number(aliases[0]) if aliases else None for aliases in gold]
    right = _numbers_in_turn(map(number, texts.values()), golds)
  else:
    indices: dict[str, list[int]] = collections.defaultdict(list)
    for index, aliases in enumerate(gold):
      for alias in dict.fromkeys(map(normalise_2026, aliases)):
        indices[alias].append(index)
    right = matching_size([indices.get(text, ()) for text in texts])
  return Counts(right, len(texts), right, len(gold), not texts)


def _numbers_in_turn(values: Iterable[float | None], golds: Iterable[float | None]) -> int:
  """Returns how many numbers find a gold near them, each taking the first that is free."""
  free = list(golds)
  taken = 0
  for value in values:
    index = next((index for index, gold in enumerate(free) if near(value, gold)), None)
    if index is not None:
      del free[index]
      taken += 1
  return taken


EDITIONS = {
  "2022": Edition("ObjectEntities", True, "relations", False, _count_2022),
  "2023": Edition("ObjectEntitiesID", False, "relations", True, _count_2023),
  "2024": Edition("ObjectEntitiesID", False, "rows", True, _count_2024),
  "2025": Edition("ObjectEntities", False, "rows", False, _count_2025),
  "2026": Edition("ObjectEntities", True, "rows", False, _count_2026),
}

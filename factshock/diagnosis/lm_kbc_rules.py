"""The rules by which the editions of the LM-KBC challenge score one row: an edition is data and a function that counts.

A row is a (subject, relation) with a list P of predicted and a list G of gold objects. In every edition precision is
the share of P that is right, 1 where P is empty; recall is the share of G that is found, 1 where G is empty, whatever
is predicted; F1 is their harmonic mean, 0 where both are 0. What is equal, empty or counted twice differs:

  2022  texts against lists of aliases, ASCII punctuation deleted, lower case; distinct predictions; a lone "none",
        "null" or "" is no prediction; golds hit are counted: one prediction finds two golds that share an alias.
  2023  Wikidata ids as they stand, repeated ones too: recall, and F1 with it, can exceed 1. An empty gold list is [""].
  2024  Wikidata ids as sets.
  2025  distinct texts, the prediction stripped, case kept; hasArea and hasCapacity within 5% of a gold number. Two
        predictions may hit one gold ("Rome" and "Rome ", 100 and 101): recall can exceed 1.
  2026  texts without marks and case (`normalise_2026`), distinct in that form, matched one to one with lists of
        aliases, as many as can be; numbers within 5% of the first alias, each in turn taking the first gold still free.

Sources: evaluate.py of github.com/lm-kbc/dataset2023, dataset2024 and dataset2026 (that of July 2026). Of 2022 and 2025
participants' copies were at hand: for 2022 an empty prediction has precision 1, as in the scores that the README of the
data gives for its baseline (the copy has 0 there); for 2025 the texts are compared, as on the leaderboard and in the
README's results "without entity disambiguation" (the copy reads the column of ids). A gold number that is not above 0
matches nothing; the scripts of 2025 and 2026 divide by it.
"""

import collections
import functools
import string
import typing
import unicodedata

NUMERIC = frozenset(
  ("hasArea", "hasCapacity")
)  # relations of 2025 and 2026 whose objects are numbers
TOLERANCE = 0.05  # of the gold number
NOTHING = frozenset(("", "none", "null"))
APOSTROPHES = frozenset("'\u2019\u2018\u02bb\u02bc\u02b9`\u00b4")
SEPARATORS = frozenset("+$<=>|~^")  # signs that Unicode does not call punctuation

_DROP_APOSTROPHES = {ord(mark): None for mark in APOSTROPHES}
_DROP_PUNCTUATION = {ord(mark): None for mark in string.punctuation}


class Counts(typing.NamedTuple):
  """Of one row: predictions that are right, of how many; golds found, of how many; whether P says "none"."""

  right: int
  predicted: int
  found: int
  gold: int
  says_empty: bool


class Edition(typing.NamedTuple):
  """One edition's rules.

  Attributes:
    column: of the objects that are compared, in gold and predictions.
    aliases: whether each gold object is a list of aliases.
    headline: the average that ranked systems: "relations" (the mean over relations of their rows' means) or "rows".
    complete: whether a gold row without a row of predictions is an error; else it counts as an empty answer.
    count: function of (predicted, gold, relation) that gives Counts.
  """

  column: str
  aliases: bool
  headline: str
  complete: bool
  count: typing.Callable


class Score(typing.NamedTuple):
  """The scores of one row, and the counts that micro averages and the statistics of empty answers add up."""

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


def score(edition, predicted, gold, relation, strict=False):
  """The Score of one row; `strict` counts no gold as found more than once, so that recall never exceeds 1."""
  counts = edition.count(predicted, gold, relation)
  found = min(counts.found, counts.gold) if strict else counts.found
  precision = counts.right / counts.predicted if counts.predicted else 1.0
  recall = found / counts.gold if counts.gold else 1.0
  is_empty = not counts.gold
  return Score(
    precision,
    recall,
    f1(precision, recall),
    counts.right,
    counts.predicted,
    found,
    counts.gold,
    counts.says_empty,
    is_empty,
    counts.says_empty and is_empty,
  )


def f1(precision, recall):
  """Harmonic mean of two numbers; 0 where both are 0."""
  return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain_2022(text):
  """A text without ASCII punctuation, in lower case, stripped: the form in which 2022 compares."""
  return text.translate(_DROP_PUNCTUATION).lower().strip()


@functools.lru_cache(maxsize=1 << 17)
def normalise_2026(text):
  """The form in which 2026 compares texts.

  Apostrophe-like marks dropped, NFKD, casefold, combining marks dropped, punctuation and `+$<=>|~^` to a space, white
  space squeezed.
  """
  # Before NFKD, which makes a lone acute accent a space; after it too, for those that it brings out (as in U+0149).
  text = unicodedata.normalize("NFKD", text.translate(_DROP_APOSTROPHES)).casefold()
  return " ".join("".join(map(_without_marks, text)).split())


def number(text):
  """The number that a text holds, commas dropped; None where it holds none."""
  try:
    return float(text.replace(",", ""))
  except ValueError:
    return None


def near(value, gold):
  """Whether a number is within 5% of the gold number; False where either is None, or gold is not above 0."""
  return (
    value is not None and gold is not None and gold > 0 and abs(value - gold) / gold <= TOLERANCE
  )


def matching_size(choices):
  """Size of a maximum bipartite matching, by augmenting paths (Kuhn 1955), breadth first.

  Args:
    choices: for each node of one side the nodes (hashable) of the other that it may have.
  """
  owner = {}
  has = {}
  for start in range(len(choices)):
    reached_from = {}
    queue = collections.deque([start])
    free = None
    while queue and free is None:
      left = queue.popleft()
      for right in choices[left]:
        if right not in reached_from:
          reached_from[right] = left
          if right not in owner:
            free = right
            break
          queue.append(owner[right])
    while free is not None:  # every node on the path takes what it reached and hands on what it had
      left = reached_from[free]
      owner[free] = left
      has[left], free = free, has.get(left)
  return len(owner)


def _without_marks(character):
  if character in APOSTROPHES or unicodedata.combining(character):
    return ""
  return (
    " " if character in SEPARATORS or unicodedata.category(character).startswith("P") else character
  )


def _count_2022(predicted, gold, relation):
  del relation
  texts = set(map(plain_2022, predicted))
  if len(texts) == 1 and texts <= NOTHING:
    texts = set()
  found = sum(not texts.isdisjoint(map(plain_2022, aliases)) for aliases in gold)
  return Counts(min(found, len(texts)), len(texts), found, len(gold), not texts)


def _count_2023(predicted, gold, relation):
  del relation
  right = sum(text in gold for text in predicted)
  known = 0 if gold == [""] else len(gold)
  return Counts(right, len(predicted), right if known else 0, known, predicted in ([], [""]))


def _count_2024(predicted, gold, relation):
  del relation
  right = len(set(predicted) & set(gold))
  return Counts(right, len(set(predicted)), right, len(set(gold)), not predicted)


def _count_2025(predicted, gold, relation):
  texts = set(predicted)
  known = set(gold)
  if relation in NUMERIC:
    numbers = list(map(number, known))
    right = sum(any(near(number(text), value) for value in numbers) for text in texts)
  else:
    right = sum(text.strip() in known for text in texts)
  return Counts(right, len(texts), right, len(known), not texts)


def _count_2026(predicted, gold, relation):
  texts = {}
  for text in predicted:
    texts.setdefault(normalise_2026(text), text)
  if relation in NUMERIC:
    right = _numbers_in_turn(
      map(number, texts.values()), [number(aliases[0]) if aliases else None for aliases in gold]
    )
  else:
    places = collections.defaultdict(list)
    for place, aliases in enumerate(gold):
      for alias in dict.fromkeys(map(normalise_2026, aliases)):
        places[alias].append(place)
    right = matching_size([places.get(text, ()) for text in texts])
  return Counts(right, len(texts), right, len(gold), not texts)


def _numbers_in_turn(values, golds):
  """How many numbers find a gold near them, each taking the first that is free."""
  free = list(golds)
  taken = 0
  for value in values:
    place = next((place for place, gold in enumerate(free) if near(value, gold)), None)
    if place is not None:
      del free[place]
      taken += 1
  return taken


EDITIONS = {
  "2022": Edition("ObjectEntities", True, "relations", False, _count_2022),
  "2023": Edition("ObjectEntitiesID", False, "relations", True, _count_2023),
  "2024": Edition("ObjectEntitiesID", False, "rows", True, _count_2024),
  "2025": Edition("ObjectEntities", False, "rows", False, _count_2025),
  "2026": Edition("ObjectEntities", True, "rows", False, _count_2026),
}

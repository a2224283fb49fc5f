"""Splits of a set of facts, and the finetuning sets whose answers are controlled.

All are pure functions of the facts and a seed: the same facts in another order give the same set.
Every set comes back in the order of the facts it was drawn from.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from factshock.facts import draws
from factshock.facts.counts import count_of
from factshock.runtime.errors import UserError
from factshock.types import Answer, Fact

KNOWN = ("HighlyKnown", "MaybeKnown", "WeaklyKnown", "Unknown")  # best first (Gekhman et al. 2024)

_Counts: TypeAlias = Mapping[Answer, int]


def split_subjects(
  facts: Sequence[Fact],
  shares: Mapping[str, float],
  seed: int,
) -> dict[str, list[Fact]]:
  """Splits facts so that no subject (by its name) is in two sets; stratified by relation.

  Args:
    facts: what is split.
    shares: share of the subjects of each set; they sum to 1.
    seed: integer.

  Returns:
    Facts by name of the set. A set's share of each relation's subjects is exact up to rounding;
    what rounding leaves over in one relation is made good in the next.

  Raises:
    UserError: shares that are negative or do not sum to 1.
  """
  least = min(shares.values(), default=0)
  excess = sum(shares.values()) - 1
  if least < 0 or abs(excess) > 1e-6:
    raise UserError(f"split shares: expected numbers from 0 on that sum to 1, got {dict(shares)}")
  relations_of: dict[str, set[str]] = collections.defaultdict(set)
  for fact in facts:
    relations_of[fact["subject"]].add(fact["relation"])
  strata: dict[tuple[str, ...], list[str]] = collections.defaultdict(list)
  for subject in sorted(relations_of):
    stratum = tuple(sorted(relations_of[subject]))
    strata[stratum].append(subject)
  set_of = _assign(strata, shares, seed)
  sets: dict[str, list[Fact]] = {name: [] for name in shares}
  for fact in facts:
    name = set_of[fact["subject"]]
    sets[name].append(fact)
  return sets


def answer_controlled(
  facts: Sequence[Fact],
  quota: Mapping[Answer, int],
  seed: int,
) -> list[Fact]:
  """Draws exactly `quota[relation, object]` facts for each answer named, and none of any other.

  A larger quota under the same seed contains the facts of a smaller one.

  Args:
    facts: the pool.
    quota: how many facts of each answer.
    seed: integer.

  Raises:
    UserError: an answer has fewer facts than its quota (every such answer is counted, the first
      named).
  """
  least = min(quota.values(), default=0)
  if least < 0:
    raise UserError(f"answer-controlled set: expected numbers from 0 on, got {least}")
  by_answer = draws.by_answer(facts)
  available = {answer: by_answer.get(answer, []) for answer in quota}
  short = [answer for answer, count in quota.items() if count > len(available[answer])]
  if short:
    first = short[0]
    relation, name = first
    raise UserError(
      f"answer-controlled set: expected {quota[first]} facts of relation {relation!r} with the "
      f"answer {name!r}, got {len(available[first])} in the pool ({len(short)} of "
      f"{len(quota)} answers are short); lower the quota or widen the pool"
    )
  chosen: set[int] = set()
  for answer, count in quota.items():
    drawn = draws.draw(facts, available[answer], count, seed, *answer)
    chosen.update(drawn)
  return draws.take(facts, chosen)


def balanced(
  facts: Sequence[Fact],
  counts: _Counts,
  per_answer: int,
  seed: int,
  swap: bool = False,
) -> list[Fact]:
  """Returns up to `per_answer` facts of every answer that is IN, none of the others.

  Args:
    facts: the pool.
    counts: pretraining mentions of answers (see `answers_in`).
    per_answer: the most facts of an answer.
    seed: integer.
    swap: whether the other half of the answers is IN.

  Raises:
    UserError: `per_answer` below 1.
  """
  if per_answer < 1:
    raise UserError(f"balanced set: expected at least 1 fact an answer, got {per_answer}")
  inside = answers_in(facts, counts, swap)
  quota: dict[Answer, int] = {}
  for answer, rows in draws.by_answer(facts).items():
    if answer in inside:
      quota[answer] = min(per_answer, len(rows))
  return answer_controlled(facts, quota, seed)


def answers_in(
  facts: Sequence[Fact],
  counts: _Counts,
  swap: bool = False,
) -> set[Answer]:
  """Returns half of the answers of each relation.

  The answers of the facts and of the counts are ranked by pretraining count, ties by name; every
  second one is IN, the commonest is OUT.

  Args:
    facts: whose answers are ranked.
    counts: pretraining mentions of answers.
    swap: whether to return the other half.
  """
  relations = {fact["relation"] for fact in facts}
  answers = set(map(draws.answer_of, facts))
  for answer in counts:
    relation, _ = answer
    if relation in relations:
      answers.add(answer)

  def rank(answer: Answer) -> tuple[int, Answer]:
    return -count_of(counts, *answer), answer

  start = 0 if swap else 1
  inside: set[Answer] = set()
  for _, group in itertools.groupby(sorted(answers), key=lambda answer: answer[0]):
    ranked = sorted(group, key=rank)
    inside.update(ranked[start::2])
  return inside


def natural(
  facts: Sequence[Fact],
  size: int | Mapping[str, int],
  seed: int,
) -> list[Fact]:
  """Draws facts at random, so that answers come as often as they do.

  Args:
    facts: the pool.
    size: how many, the relations in proportion to their facts; or how many of each relation.
    seed: integer.

  Raises:
    UserError: more facts asked for than there are.
  """
  rows = draws.by_relation(facts)
  if not isinstance(size, Mapping):
    if not 0 <= size <= len(facts):
      raise UserError(
        f"natural set: expected a size from 0 to the {len(facts)} facts of the pool, got {size}"
      )
    counts = {relation: len(rows[relation]) for relation in sorted(rows)}
    size = draws.apportion(size, counts)
  chosen: set[int] = set()
  for relation, count in size.items():
    available = rows.get(relation, [])
    if not 0 <= count <= len(available):
      raise UserError(
        f"natural set: expected at most the {len(available)} facts of relation "
        f"{relation!r} in the pool, got a size of {count}"
      )
    drawn = draws.draw(facts, available, count, seed, relation)
    chosen.update(drawn)
  return draws.take(facts, chosen)


def at_mismatch(
  pool: Sequence[Fact],
  counts: _Counts,
  test: Sequence[Fact],
  target: float,
  size: int,
  seed: int,
) -> list[Fact]:
  """Returns facts whose answers differ from those of a test set by a given total variation.

  The answer histogram lies between that of the test facts and an even one over the answers that are
  IN (`answers_in`); where between is searched for. Low and high mismatch are of one size and one
  pool.

  Args:
    pool: facts to draw from.
    counts: pretraining mentions of answers.
    test: the test set.
    target: total variation (`mismatch`).
    size: how many facts.
    seed: integer.

  Raises:
    UserError: a size above the pool's, or a target that this pool and size do not reach (to 0.02).
  """
  if not 0 < size <= len(pool):
    raise UserError(
      f"config.mismatch.size: expected 1 to the {len(pool)} facts of the pool, got {size}"
    )
  blend = _Blend.of(pool, counts, test, size, seed)
  ends = [mismatch(blend.draw(blend.quota(share)), test) for share in (0.0, 1.0)]
  low = min(ends)
  high = max(ends)
  if not low - 0.02 <= target <= high + 0.02:
    raise UserError(
      f"config.mismatch: {size} facts of this pool can have a mismatch of {low:.2f} to "
      f"{high:.2f} with the test facts, got a target of {target}; change the target or the "
      "size"
    )
  return blend.nearest(test, target)


@dataclasses.dataclass(frozen=True)
class _Blend:
  """Sets of a size drawn from a pool, with histograms between the test facts' and an even one.

  The arrays are by answer of `answers`: its share in the test facts, 1 if it is IN, and its facts
  in the pool.
  """

  pool: Sequence[Fact]
  size: int
  seed: int
  answers: Sequence[Answer]
  test_shares: np.ndarray
  even: np.ndarray
  capacity: np.ndarray

  @classmethod
  def of(
    cls,
    pool: Sequence[Fact],
    counts: _Counts,
    test: Sequence[Fact],
    size: int,
    seed: int,
  ) -> "_Blend":
    available = draws.by_answer(pool)
    answers = sorted(available)
    inside = answers_in(pool, counts)
    tested = _histogram(test)
    test_shares = [tested.get(answer, 0.0) for answer in answers]
    even = [1.0 if answer in inside else 0.0 for answer in answers]
    capacity = [len(available[answer]) for answer in answers]
    return cls(
      pool,
      size,
      seed,
      answers,
      test_shares=np.array(test_shares),
      even=np.array(even),
      capacity=np.array(capacity),
    )

  def quota(self, share: float) -> np.ndarray:
    """Returns how many facts of each answer lie `share` of the way to the even histogram."""
    even_weights = share * self.even / max(1, self.even.sum())
    weights = (1 - share) * self.test_shares + even_weights
    return draws.fill(weights, self.capacity, self.size)

  def draw(self, quota: np.ndarray) -> list[Fact]:
    """Returns a set with so many facts of each answer."""
    quota_of = dict(zip(self.answers, quota.tolist()))
    return answer_controlled(self.pool, quota_of, self.seed)

  def nearest(self, test: Sequence[Fact], target: float) -> list[Fact]:
    """Returns the set whose mismatch with the test facts is nearest to a target."""
    low, high = self._around(test, target)
    # Between the two the histogram may jump, as where answers run out of facts: exchange one fact
    # after the other.
    exchanged = int(np.abs(high - low).sum()) // 2
    shares = np.linspace(0, 1, exchanged + 1)
    quotas = [draws.round_to((1 - share) * low + share * high, self.size) for share in shares]

    def distance(facts: Sequence[Fact]) -> float:
      return abs(mismatch(facts, test) - target)

    return min(map(self.draw, quotas), key=distance)

  def _around(self, test: Sequence[Fact], target: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the quotas of two shares side by side, on both sides of a target, by bisection."""
    low = 0.0
    high = 1.0
    for _ in range(20):
      middle = (low + high) / 2
      drawn = self.draw(self.quota(middle))
      if mismatch(drawn, test) < target:
        low = middle
      else:
        high = middle
    return self.quota(low), self.quota(high)


def relation_sizes(facts: Iterable[Fact]) -> dict[str, int]:
  """Returns the number of facts by relation: the `size` of a matched `natural` set."""
  return dict(collections.Counter(fact["relation"] for fact in facts))


def popular_half(
  facts: Sequence[Fact],
  by: str = "popularity",
) -> list[Fact]:
  """Returns the more popular half of each relation's facts.

  The middle one of an odd number is in neither half (see `top_share`).
  """
  return top_share(facts, 0.5, by)


def unpopular_half(
  facts: Sequence[Fact],
  by: str = "popularity",
) -> list[Fact]:
  """Returns the less popular half of each relation's facts, as many as in `popular_half`."""
  return top_share(facts, 0.5, by, lowest=True)


def top_share(
  facts: Sequence[Fact],
  share: float,
  by: str = "popularity",
  lowest: bool = False,
) -> list[Fact]:
  """Returns the share of each relation's facts that has the most of a column, rounded down.

  Within a relation, so that sets differ in how well known their facts are and not in what they ask
  (the "controlled" sets of arXiv 2406.14785). Ties are broken by a checksum of the fact, the same
  at every call and unrelated to file order and spelling.

  Args:
    facts: the pool.
    share: from 0 to 1.
    by: "popularity" (of the subject), or any column of numbers, such as the `confidence` of
      `answer --method=known`, or its `known`: HighlyKnown before MaybeKnown, WeaklyKnown and
      Unknown.
    lowest: whether to take those that have the least.

  Raises:
    UserError: a fact without the column, or with something else than a number in it.
  """
  values = [_value(fact, by) for fact in facts]

  def rank(index: int) -> tuple[float, int, tuple[str, str, str]]:
    key = draws.key_of(facts[index])
    return values[index], draws.checksum(*key), key

  chosen: set[int] = set()
  for rows in draws.by_relation(facts).values():
    ranked = sorted(rows, key=rank)
    if not lowest:
      ranked.reverse()
    count = int(len(ranked) * share + 1e-9)
    chosen.update(ranked[:count])
  return draws.take(facts, chosen)


def _value(fact: Fact, column: str) -> float:
  """Returns the number that a fact has in a column, or the rank of its `known`."""
  value: Any = fact.get(column)
  if column == "known" and value in KNOWN:
    return -KNOWN.index(value)
  try:
    return float(value)
  except (TypeError, ValueError) as error:
    raise UserError(
      f"set by {column}: expected a number in the column {column!r} of every fact, got {value!r} "
      f"for {fact['subject']!r} ({fact['relation']})"
    ) from error


def names_answer(fact: Fact) -> bool:
  """Returns whether the object stands within the subject's name: it can be guessed.

  Case does not count. The first rule of LAMA-UHN (Poerner et al. 2020, E-BERT, section 4.1).
  """
  return fact["object"].lower() in fact["subject"].lower()


def matched(
  facts: Sequence[Fact],
  others: Sequence[Fact],
  by: str = "popularity",
) -> tuple[list[Fact], list[Fact]]:
  """Returns pairs of some of the facts and as many of the others, as two lists.

  The two of a pair are of one relation and nearly the same `by`, so that the lists differ in
  neither. Within a relation the smaller side takes, from its highest `by` on, the nearest that is
  left of the other.

  Args:
    facts: the one side.
    others: the other side.
    by: a column of numbers.
  """
  chosen: tuple[list[Fact], list[Fact]] = ([], [])
  shared = relation_sizes(facts).keys() & relation_sizes(others).keys()
  for relation in sorted(shared):
    of_facts = _highest_first(facts, relation, by)
    of_others = _highest_first(others, relation, by)
    sides = (of_facts, of_others)
    small = int(len(of_others) < len(of_facts))
    large = 1 - small
    left = list(sides[large])
    for fact in sides[small]:
      value = _number(fact, by)
      distances = [abs(_number(other, by) - value) for other in left]
      nearest = distances.index(min(distances))
      chosen[small].append(fact)
      chosen[large].append(left.pop(nearest))
  return chosen


def _highest_first(
  facts: Sequence[Fact],
  relation: str,
  by: str,
) -> list[Fact]:
  """Returns the facts of a relation, those with the most of a column first."""

  def rank(fact: Fact) -> tuple[float, str, str]:
    return -_number(fact, by), fact["subject"], fact["object"]

  of_relation = [fact for fact in facts if fact["relation"] == relation]
  return sorted(of_relation, key=rank)


def _number(fact: Mapping[str, Any], column: str) -> float:
  return fact[column]


def answer_weights(
  facts: Sequence[Fact],
  counts: _Counts,
  most: float = 10.0,
) -> np.ndarray:
  """Returns weights of facts with which their answers weigh as the counts (plus 1) name them.

  That holds within each relation; the mean of all weights is 1.

  Args:
    facts: what is weighed.
    counts: mentions of answers.
    most: no weight is above it, before the mean is taken.
  """
  answers = draws.by_answer(facts)
  mentions: collections.Counter[str] = collections.Counter()
  for relation, answer in answers:
    mentions[relation] += count_of(counts, relation, answer) + 1
  sizes = relation_sizes(facts)

  def weight(fact: Fact) -> float:
    relation = fact["relation"]
    answer_mentions = count_of(counts, relation, fact["object"]) + 1
    mention_share = answer_mentions / mentions[relation]
    fact_share = len(answers[draws.answer_of(fact)]) / sizes[relation]
    return mention_share / fact_share

  weights = np.minimum([weight(fact) for fact in facts], most)
  return weights / weights.mean()


def answer_prior(
  facts: Iterable[Fact],
  relation: str,
  candidates: Sequence[str],
) -> list[float]:
  """Returns probabilities of a relation's candidates by how often facts have them, and once more.

  None of them is 0.

  Args:
    facts: what is counted.
    relation: whose candidates they are.
    candidates: answers.
  """
  of_relation = (fact for fact in facts if fact["relation"] == relation)
  seen = collections.Counter(fact["object"] for fact in of_relation)
  total = seen.total() + len(candidates)
  return [(seen[answer] + 1) / total for answer in candidates]


def permuted_answers(facts: Sequence[Fact], seed: int) -> list[Fact]:
  """Returns the facts with the objects of each relation (and their aliases) dealt out anew.

  Every answer comes as often as before, no subject's own but by chance.
  """
  permuted = list(facts)
  for relation, rows in sorted(draws.by_relation(facts).items()):
    random = draws.generator(seed, relation, "permuted")
    order = random.permutation(len(rows))
    for row, other in zip(rows, order):
      giver_row = rows[int(other)]
      giver = facts[giver_row]
      fact = facts[row].copy()
      fact.pop("aliases", None)
      fact["object"] = giver["object"]
      if "aliases" in giver:
        fact["aliases"] = giver["aliases"]
      permuted[row] = fact
  return permuted


def random_half(facts: Sequence[Fact], seed: int) -> list[Fact]:
  """Returns a random half of each relation's facts, as many as in `popular_half`."""
  halves = {relation: count // 2 for relation, count in relation_sizes(facts).items()}
  return natural(facts, halves, seed)


def mismatch(train: Sequence[Fact], test: Sequence[Fact]) -> float:
  """Returns the total variation between the answer histograms of two sets.

  It is 0 where they are equal, 1 where disjoint. An answer is a (relation, object) pair; each
  histogram is divided by its number of facts.
  """
  if not train or not test:
    raise UserError("mismatch: expected facts in both sets, got an empty one")
  left = _histogram(train)
  right = _histogram(test)
  # Sorted, as the order of a set of texts, and with it the rounding, differs between processes.
  answers = sorted(left.keys() | right.keys())
  distances = [abs(left.get(answer, 0.0) - right.get(answer, 0.0)) for answer in answers]
  return 0.5 * sum(distances)


def _histogram(facts: Sequence[Fact]) -> dict[Answer, float]:
  """Returns the share of the facts that each answer has."""
  return {answer: len(rows) / len(facts) for answer, rows in draws.by_answer(facts).items()}


def describe(name: str, facts: Sequence[Fact]) -> str:
  """Returns lines on a set: facts, relations, answers, share of the top answer, popularity."""
  if not facts:
    return f"{name}: 0 facts"
  answers = collections.Counter(map(draws.answer_of, facts))
  top = min(answers, key=lambda answer: (-answers[answer], answer))
  _, top_name = top
  percent = 100 * answers[top] / len(facts)
  relations = relation_sizes(facts)
  text = (
    f"{name}: {len(facts)} facts, "
    f"relations: {len(relations)}, "
    f"answers: {len(answers)} (top: {top_name} {percent:.1f}%)"
  )
  values = [fact.get("popularity") for fact in facts]
  popularity = [value for value in values if value is not None]
  if not popularity:
    return text
  quantiles = np.quantile(popularity, [0.05, 0.25, 0.5, 0.75, 0.95])
  text += "\n  popularity 5/25/50/75/95%: "
  text += " ".join(f"{value:.3g}" for value in quantiles)
  if len(popularity) < len(facts):
    text += f" ({len(popularity)} of them have one)"
  return text


def describe_against(facts: Sequence[Fact], test: Sequence[Fact]) -> str:
  """Returns a line on how far the answers are from those of the test facts.

  It says as well how many of these have an answer here.
  """
  answers = set(map(draws.answer_of, facts))
  seen = sum(draws.answer_of(fact) in answers for fact in test)
  seen_share = seen / len(test)
  distance = mismatch(facts, test)
  return (
    f"  against the test facts: mismatch {distance:.2f}, "
    f"{seen_share:.0%} of them have an answer seen here"
  )


def _assign(
  strata: Mapping[tuple[str, ...], list[str]],
  shares: Mapping[str, float],
  seed: int,
) -> dict[str, str]:
  """Returns the set of each subject; what rounding leaves over in a stratum goes to the next."""
  names = list(shares)
  set_of: dict[str, str] = {}
  share_S = np.array([shares[name] for name in names])
  owed = np.zeros(len(names))
  for stratum in sorted(strata):
    subjects = strata[stratum]
    owed += share_S * len(subjects)
    sizes = draws.round_to(owed, len(subjects))
    owed -= sizes
    random = draws.generator(seed, "split", *stratum)
    order = random.permutation(len(subjects))
    ends = np.cumsum(sizes)
    for position, i in enumerate(order):
      index = int(np.searchsorted(ends, position, side="right"))
      set_of[subjects[i]] = names[index]
  return set_of

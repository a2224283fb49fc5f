"""Splits of a set of facts, and the finetuning sets whose answers are controlled.

All are pure functions of the facts and a seed: the same facts in another order give the same set.
Every set comes back in the order of the facts it was drawn from.
"""

import collections
import itertools
import zlib

import numpy as np

from factshock.facts.counts import count_of
from factshock.runtime.errors import UserError

KNOWN = ("HighlyKnown", "MaybeKnown", "WeaklyKnown", "Unknown")  # best first (Gekhman et al. 2024)


def split_subjects(facts, shares, seed):
  """Splits facts so that no subject (by its name) is in two parts; stratified by relation.

  Args:
    facts: list of facts.
    shares: dict part name -> share of the subjects; they sum to 1.
    seed: integer.

  Returns:
    Dict part name -> list of facts. A part's share of each relation's subjects is exact up to
    rounding; what rounding leaves over in one relation is made good in the next.

  Raises:
    UserError: shares that are negative or do not sum to 1.
  """
  if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
    raise UserError(f"split shares: expected numbers from 0 on that sum to 1, got {dict(shares)}")
  relations_of = collections.defaultdict(set)
  for fact in facts:
    relations_of[fact["subject"]].add(fact["relation"])
  strata = collections.defaultdict(list)
  for subject in sorted(relations_of):
    strata[tuple(sorted(relations_of[subject]))].append(subject)
  part_of = _assign(strata, shares, seed)
  parts = {name: [] for name in shares}
  for fact in facts:
    parts[part_of[fact["subject"]]].append(fact)
  return parts


def answer_controlled(facts, quota, seed):
  """Draws exactly `quota[relation, object]` facts for each answer named, and none of any other answer.

  A larger quota under the same seed contains the facts of a smaller one.

  Raises:
    UserError: an answer has fewer facts than its quota (every such answer is counted, the first
      named).
  """
  if any(count < 0 for count in quota.values()):
    raise UserError(f"answer-controlled set: expected numbers from 0 on, got {min(quota.values())}")
  available = _by_answer(facts)
  short = [key for key, count in quota.items() if count > len(available.get(key, ()))]
  if short:
    (relation, answer), count = short[0], quota[short[0]]
    raise UserError(
      f"answer-controlled set: expected {count} facts of relation {relation!r} with the answer "
      f"{answer!r}, got {len(available.get(short[0], ()))} in the pool ({len(short)} of "
      f"{len(quota)} answers are short); lower the quota or widen the pool"
    )
  chosen = set()
  for key, count in quota.items():
    chosen.update(_draw(facts, available.get(key, []), count, seed, *key))
  return _take(facts, chosen)


def balanced(facts, counts, per_answer, seed, swap=False):
  """Up to `per_answer` facts of every answer that is IN, none of the others (see `answers_in`).

  Raises:
    UserError: `per_answer` below 1.
  """
  if per_answer < 1:
    raise UserError(f"balanced set: expected at least 1 fact an answer, got {per_answer}")
  inside = answers_in(facts, counts, swap)
  quota = {
    key: min(per_answer, len(rows)) for key, rows in _by_answer(facts).items() if key in inside
  }
  return answer_controlled(facts, quota, seed)


def answers_in(facts, counts, swap=False):
  """Half of the answers of each relation, as a set of (relation, object).

  The answers of the facts and of the counts are ranked by pretraining count, ties by name; every
  second one is IN, the commonest is OUT. With `swap` it is the other half.
  """
  relations = {fact["relation"] for fact in facts}
  answers = {key for key in counts if key[0] in relations} | _by_answer(facts).keys()
  inside = set()
  for _, keys in itertools.groupby(sorted(answers), key=lambda key: key[0]):
    ranked = sorted(keys, key=lambda key: (-count_of(counts, *key), key))
    inside.update(ranked[0 if swap else 1 :: 2])
  return inside


def natural(facts, size, seed):
  """Draws facts at random, so that answers come as often as they do.

  Args:
    facts: list of facts.
    size: how many, the relations in proportion to their facts; or dict relation -> how many.
    seed: integer.

  Raises:
    UserError: more facts asked for than there are.
  """
  rows = _by_relation(facts)
  if not isinstance(size, dict):
    if not 0 <= size <= len(facts):
      raise UserError(
        f"natural set: expected a size from 0 to the {len(facts)} facts of the pool, got {size}"
      )
    size = _apportion(size, {relation: len(rows[relation]) for relation in sorted(rows)})
  chosen = set()
  for relation, count in size.items():
    if not 0 <= count <= len(rows.get(relation, ())):
      raise UserError(
        f"natural set: expected at most the {len(rows.get(relation, ()))} facts of relation "
        f"{relation!r} in the pool, got a size of {count}"
      )
    chosen.update(_draw(facts, rows.get(relation, []), count, seed, relation))
  return _take(facts, chosen)


def at_mismatch(pool, counts, test, target, size, seed):
  """A set of `size` facts whose answers differ from those of `test` by a total variation of `target`.

  The answer histogram lies between that of the test facts and an even one over the answers that are
  IN (`answers_in`); where between is found by bisection. Low and high mismatch are of one size and
  one pool.

  Raises:
    UserError: a size above the pool's, or a target that this pool and size do not reach (to 0.02).
  """
  if not 0 < size <= len(pool):
    raise UserError(
      f"config.mismatch.size: expected 1 to the {len(pool)} facts of the pool, got {size}"
    )
  available = {key: len(rows) for key, rows in sorted(_by_answer(pool).items())}
  inside = answers_in(pool, counts)
  wanted = _by_answer(test)
  matched = np.array([len(wanted.get(key, ())) / len(test) for key in available])
  even = np.array([1.0 if key in inside else 0.0 for key in available])
  room = np.array(list(available.values()))

  def drawn(share):
    quota = _fill((1 - share) * matched + share * even / max(1, even.sum()), room, size)
    return answer_controlled(pool, {key: int(count) for key, count in zip(available, quota)}, seed)

  low = 0.0
  high = 1.0
  ends = [mismatch(drawn(share), test) for share in (low, high)]
  if not min(ends) - 0.02 <= target <= max(ends) + 0.02:
    raise UserError(
      f"config.mismatch: {size} facts of this pool can have a mismatch of {min(ends):.2f} to {max(ends):.2f} with "
      f"the test facts, got a target of {target}; change the target or the size"
    )
  for _ in range(20):
    middle = (low + high) / 2
    low, high = (middle, high) if mismatch(drawn(middle), test) < target else (low, middle)
  return min(
    (drawn(share) for share in (low, high)), key=lambda facts: abs(mismatch(facts, test) - target)
  )


def _fill(weights, room, size):
  """Whole numbers in proportion to weights (then to room) that sum to `size`, none above its room."""
  quota = np.zeros(len(room), int)
  for shares in (weights, weights > 0, room > 0):
    while (left := size - quota.sum()) > 0 and (
      (free := (shares * (quota < room)).astype(float)).sum() > 0
    ):
      more = np.minimum(_round(free / free.sum() * left, int(left)), room - quota)
      quota += more
      if not more.any():
        break
  return quota


def relation_sizes(facts):
  """Dict relation -> number of facts: the `size` of a matched `natural` set."""
  return dict(collections.Counter(fact["relation"] for fact in facts))


def popular_half(facts, by="popularity"):
  """The more popular half of each relation's facts; the middle one of an odd number is in neither half (see `top_share`)."""
  return top_share(facts, 0.5, by)


def unpopular_half(facts, by="popularity"):
  """The less popular half of each relation's facts, as many as in `popular_half`."""
  return top_share(facts, 0.5, by, lowest=True)


def top_share(facts, share, by="popularity", lowest=False):
  """The share of each relation's facts that has the most (or least) of the column `by`, rounded down.

  Within a relation, so that sets differ in how well known their facts are and not in what they ask
  (the "controlled" sets of arXiv 2406.14785). Ties are broken by a checksum of the fact, the same
  at every call and unrelated to file order and spelling.

  Args:
    by: "popularity" (of the subject), or any column of numbers, such as the `confidence` of `answer
      --mode=known`, or its `known`: HighlyKnown before MaybeKnown, WeaklyKnown and Unknown.
  Raises:
    UserError: a fact without the column, or with something else than a number in it.
  """
  values = [_value(fact, by) for fact in facts]
  chosen = set()
  for rows in _by_relation(facts).values():
    ranked = sorted(rows, key=lambda i: (values[i], _checksum(*_key(facts[i])), _key(facts[i])))
    chosen.update((ranked if lowest else ranked[::-1])[: int(len(ranked) * share + 1e-9)])
  return _take(facts, chosen)


def _value(fact, column):
  value = fact.get(column)
  if column == "known" and value in KNOWN:
    return -KNOWN.index(value)
  try:
    return float(value)
  except (TypeError, ValueError) as error:
    raise UserError(
      f"set by {column}: expected a number in the column {column!r} of every fact, got {value!r} for {fact['subject']!r} "
      f"({fact['relation']})"
    ) from error


def names_answer(fact):
  """Whether the object stands within the subject's name, without regard to case: it can be guessed.

  The first rule of LAMA-UHN (Poerner et al. 2020, E-BERT, section 4.1).
  """
  return fact["object"].lower() in fact["subject"].lower()


def matched(facts, others, by="popularity"):
  """(some of the facts, as many of the others): pairs of one relation and nearly the same `by`, so that the sets differ in neither.

  Within a relation the smaller side takes, from its highest `by` on, the nearest that is left of
  the other.
  """
  chosen = ([], [])
  for relation in sorted(
    {fact["relation"] for fact in facts} & {fact["relation"] for fact in others}
  ):
    sides = [
      sorted(
        (fact for fact in side if fact["relation"] == relation),
        key=lambda fact: (-fact[by], fact["subject"], fact["object"]),
      )
      for side in (facts, others)
    ]
    small = int(len(sides[1]) < len(sides[0]))
    left = list(sides[1 - small])
    for fact in sides[small]:
      nearest = min(range(len(left)), key=lambda place: abs(left[place][by] - fact[by]))
      chosen[small].append(fact)
      chosen[1 - small].append(left.pop(nearest))
  return chosen


def answer_weights(facts, counts, most=10.0):
  """For each fact a weight, so that within its relation the answers weigh as `counts` (plus 1) name them; the mean of all is 1.

  Args:
    counts: dict (relation, answer) -> mentions. most: no weight is above it, before the mean is
      taken.
  """
  answers = _by_answer(facts)
  mentions = collections.Counter()
  for relation, answer in answers:
    mentions[relation] += count_of(counts, relation, answer) + 1
  sizes = relation_sizes(facts)
  weights = [
    (count_of(counts, fact["relation"], fact["object"]) + 1)
    / mentions[fact["relation"]]
    / (len(answers[fact["relation"], fact["object"]]) / sizes[fact["relation"]])
    for fact in facts
  ]
  weights = np.minimum(weights, most)
  return weights / weights.mean()


def answer_prior(facts, relation, candidates):
  """How often facts of a relation have each of its candidates, and once more: probabilities [candidates], none of them 0."""
  seen = collections.Counter(fact["object"] for fact in facts if fact["relation"] == relation)
  return [(seen[answer] + 1) / (seen.total() + len(candidates)) for answer in candidates]


def permuted_answers(facts, seed):
  """The facts with the objects of each relation (and their aliases) dealt out anew: every answer as often, no subject's own but by chance."""
  found = list(facts)
  for relation in sorted({fact["relation"] for fact in facts}):
    places = [place for place, fact in enumerate(facts) if fact["relation"] == relation]
    names = "\t".join((relation, "permuted"))
    order = np.random.default_rng([seed, zlib.crc32(names.encode())]).permutation(len(places))
    for place, other in zip(places, order.tolist()):
      giver = facts[places[other]]
      found[place] = {
        **{key: value for key, value in facts[place].items() if key != "aliases"},
        "object": giver["object"],
        **({"aliases": giver["aliases"]} if "aliases" in giver else {}),
      }
  return found


def random_half(facts, seed):
  """A random half of each relation's facts, as many as in `popular_half`."""
  return natural(
    facts, {relation: count // 2 for relation, count in relation_sizes(facts).items()}, seed
  )


def mismatch(train, test):
  """Total variation between the answer histograms of two sets: 0 where equal, 1 where disjoint.

  An answer is a (relation, object) pair; each histogram is divided by its number of facts.
  """
  if not train or not test:
    raise UserError("mismatch: expected facts in both sets, got an empty one")
  left = _by_answer(train)
  right = _by_answer(test)
  return 0.5 * sum(
    abs(len(left.get(key, ())) / len(train) - len(right.get(key, ())) / len(test))
    for key in left.keys() | right.keys()
  )


def describe(name, facts):
  """One or two lines: facts, relations, answers, share of the top answer, popularity quantiles."""
  if not facts:
    return f"{name}: 0 facts"
  answers = collections.Counter((fact["relation"], fact["object"]) for fact in facts)
  (_, top), count = min(answers.items(), key=lambda item: (-item[1], item[0]))
  text = (
    f"{name}: {len(facts)} facts, relations: {len(relation_sizes(facts))}, answers: {len(answers)} "
    f"(top: {top} {100 * count / len(facts):.1f}%)"
  )
  popularity = [fact["popularity"] for fact in facts if fact.get("popularity") is not None]
  if not popularity:
    return text
  quantiles = " ".join(
    f"{value:.3g}" for value in np.quantile(popularity, [0.05, 0.25, 0.5, 0.75, 0.95])
  )
  known = "" if len(popularity) == len(facts) else f" ({len(popularity)} of them have one)"
  return f"{text}\n  popularity 5/25/50/75/95%: {quantiles}{known}"


def describe_against(facts, test):
  """One line: how far the answers are from those of the test facts, and how many of these are answers here."""
  answers = {(fact["relation"], fact["object"]) for fact in facts}
  seen = sum((fact["relation"], fact["object"]) in answers for fact in test) / len(test)
  return f"  against the test facts: mismatch {mismatch(facts, test):.2f}, {seen:.0%} of them have an answer seen here"


def _assign(strata, shares, seed):
  """Dict subject -> part; what rounding leaves over in one stratum is carried to the next."""
  names = list(shares)
  part_of = {}
  owed = np.zeros(len(names))
  for stratum in sorted(strata):
    subjects = strata[stratum]
    owed += np.array([shares[name] for name in names]) * len(subjects)
    sizes = _round(owed, len(subjects))
    owed -= sizes
    order = _rng(seed, "split", *stratum).permutation(len(subjects))
    ends = np.cumsum(sizes)
    for place, i in enumerate(order):
      part_of[subjects[i]] = names[int(np.searchsorted(ends, place, side="right"))]
  return part_of


def _round(targets, total):
  """Whole numbers from 0 on with the given sum, close to the targets (largest remainders)."""
  sizes = np.floor(np.maximum(targets, 0) + 1e-9).astype(int)
  while sizes.sum() < total:
    sizes[np.argmax(targets - sizes)] += 1
  while sizes.sum() > total:
    sizes[np.argmin(np.where(sizes > 0, targets - sizes, np.inf))] -= 1
  return sizes


def _apportion(total, counts):
  """Dict like `counts`, in proportion to it, with the given sum; none above its count."""
  shares = np.array(list(counts.values())) * (total / max(1, sum(counts.values())))
  return dict(zip(counts, _round(shares, total).tolist()))


def _draw(facts, rows, count, seed, *stream):
  """`count` of the row numbers, at random, whatever order they come in."""
  ordered = sorted(rows, key=lambda i: _key(facts[i]))
  return [ordered[i] for i in _rng(seed, "draw", *stream).permutation(len(ordered))[:count]]


def _by_relation(facts):
  rows = collections.defaultdict(list)
  for i, fact in enumerate(facts):
    rows[fact["relation"]].append(i)
  return rows


def _by_answer(facts):
  rows = collections.defaultdict(list)
  for i, fact in enumerate(facts):
    rows[fact["relation"], fact["object"]].append(i)
  return rows


def _take(facts, chosen):
  return [fact for i, fact in enumerate(facts) if i in chosen]


def _key(fact):
  return fact["subject"], fact["relation"], fact["object"]


def _checksum(*texts):
  return zlib.crc32("\t".join(texts).encode())


def _rng(seed, *stream):
  """A generator of its own for each named group, so that one group's size does not move another's draw."""
  return np.random.default_rng([int(seed), _checksum(*stream)])

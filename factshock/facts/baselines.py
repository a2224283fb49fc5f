"""Controls that answer without a language model: they see only the finetuning facts."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from factshock.types import Answer, Candidates, Fact

_Counter: TypeAlias = collections.Counter[str]


def majority(
  facts: Iterable[Fact],
  candidates: Candidates,
) -> dict[str, np.ndarray]:
  """Returns each relation's log-probabilities of its candidates by how often the facts have them.

  Returns:
    Natural logarithms [candidates] by relation.
  """
  frequency = collections.Counter(map(_answer, facts))
  log_probabilities: dict[str, np.ndarray] = {}
  for relation, answers in candidates.items():
    counts = [frequency[relation, answer] for answer in answers]
    smoothed = np.array(counts, float) + 1e-3
    log_probabilities[relation] = np.log(smoothed / smoothed.sum())
  return log_probabilities


def naive_bayes(
  facts: Iterable[Fact],
  queries: Iterable[Fact],
  candidates: Candidates,
  smoothing: float = 0.1,
) -> list[np.ndarray]:
  """Returns each query's log-probabilities of the candidates from the words of its subject.

  Multinomial naive Bayes within a relation. What it gets right can be read off names (Zhong et al.
  2021, "Factual probing is [MASK]", table 3).

  Args:
    facts: what it learns from.
    queries: what is asked.
    candidates: answers by relation.
    smoothing: what is added to the counts of words and answers.

  Returns:
    Natural logarithms, an array [candidates] for each query.
  """
  counts = _word_counts(facts)
  log_probabilities: list[np.ndarray] = []
  for query in queries:
    relation = query["relation"]
    vocabulary = counts.vocabulary[relation]
    known = [word for word in _words(query) if word in vocabulary]
    log_scores: list[float] = []
    for candidate in candidates[relation]:
      answer = (relation, candidate)
      log_scores.append(_log_score(counts, answer, known, smoothing))
    scores = np.array(log_scores)
    log_probabilities.append(scores - np.logaddexp.reduce(scores))
  return log_probabilities


class _WordCounts(NamedTuple):
  """Counts of facts by answer, of their subjects' words by answer, and the words by relation."""

  facts: collections.Counter[Answer]
  words: Mapping[Answer, _Counter]
  totals: Mapping[Answer, int]
  vocabulary: Mapping[str, set[str]]


def _word_counts(facts: Iterable[Fact]) -> _WordCounts:
  fact_counts: collections.Counter[Answer] = collections.Counter()
  word_counts: dict[Answer, _Counter] = collections.defaultdict(collections.Counter)
  vocabulary: dict[str, set[str]] = collections.defaultdict(set)
  for fact in facts:
    words = _words(fact)
    answer = _answer(fact)
    fact_counts[answer] += 1
    word_counts[answer].update(words)
    vocabulary[fact["relation"]].update(words)
  totals = {answer: counter.total() for answer, counter in word_counts.items()}
  return _WordCounts(fact_counts, word_counts, totals, vocabulary)


def _answer(fact: Fact) -> Answer:
  return fact["relation"], fact["object"]


def _words(fact: Fact) -> list[str]:
  return fact["subject"].lower().split()


def _log_score(
  counts: _WordCounts,
  answer: Answer,
  words: Sequence[str],
  smoothing: float,
) -> float:
  """Returns the log of an answer's frequency and of the words' likelihood under it."""
  relation, _ = answer
  of_answer: Mapping[str, int] = counts.words.get(answer, _Counter())
  added = smoothing * (len(counts.vocabulary[relation]) + 1)
  total = counts.totals.get(answer, 0) + added
  log_likelihood = 0.0
  for word in words:
    mass = of_answer.get(word, 0) + smoothing
    log_likelihood += np.log(mass / total)
  log_frequency = np.log(counts.facts[answer] + smoothing)
  return log_frequency + log_likelihood

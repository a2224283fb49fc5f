"""Controls that answer without a language model: they see only the finetuning facts."""

import collections
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from factshock.types import Answer, Candidates, Fact


def majority(facts: Iterable[Fact], candidates: Candidates) -> dict[str, np.ndarray]:
  """Returns each relation's log-probabilities of its candidates by how often the facts have them.

  Returns:
    Natural logarithms [candidates] by relation.
  """
  frequency = collections.Counter((fact["relation"], fact["object"]) for fact in facts)
  log_probabilities: dict[str, np.ndarray] = {}
  for relation, answers in candidates.items():
    counts = np.array([frequency[relation, answer] for answer in answers], float) + 1e-3
    log_probabilities[relation] = np.log(counts / counts.sum())
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
  prior: collections.Counter[Answer] = collections.Counter()
  word_counts: dict[Answer, collections.Counter[str]] = collections.defaultdict(collections.Counter)
  vocabulary: dict[str, set[str]] = collections.defaultdict(set)
  for fact in facts:
    words = fact["subject"].lower().split()
    answer = (fact["relation"], fact["object"])
    prior[answer] += 1
    word_counts[answer].update(words)
    vocabulary[fact["relation"]].update(words)
  totals = {answer: sum(counter.values()) for answer, counter in word_counts.items()}
  log_probabilities: list[np.ndarray] = []
  for query in queries:
    relation = query["relation"]
    known = [word for word in query["subject"].lower().split() if word in vocabulary[relation]]
    answers = [(relation, answer) for answer in candidates[relation]]
    scores = [
      np.log(prior[answer] + smoothing)
      + _log_likelihood(
        known,
        word_counts.get(answer, {}),
        totals.get(answer, 0) + smoothing * (len(vocabulary[relation]) + 1),
        smoothing,
      )
      for answer in answers
    ]
    scores = np.array(scores)
    log_probabilities.append(scores - np.logaddexp.reduce(scores))
  return log_probabilities


def _log_likelihood(
  words: Sequence[str], counts: Mapping[str, int], total: float, smoothing: float
) -> float:
  """Returns the log-probability of words under an answer's counts of words."""
  return sum((np.log((counts.get(word, 0) + smoothing) / total) for word in words), 0.0)

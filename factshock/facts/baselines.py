"""What can be answered without a language model: controls that see only the finetuning facts."""

import collections

import numpy as np


def majority(facts, candidates):
  """Log-probability of each candidate of a relation by how often the facts have it: {relation: [candidates]}."""
  frequency = collections.Counter((fact["relation"], fact["object"]) for fact in facts)
  counts = {
    relation: np.array([frequency[relation, answer] for answer in answers], float)
    for relation, answers in candidates.items()
  }
  return {relation: np.log((n + 1e-3) / (n + 1e-3).sum()) for relation, n in counts.items()}


def naive_bayes(facts, queries, candidates, smoothing=0.1):
  """Log-probabilities of the candidates for each query from the words of its subject: list of arrays [candidates].

  Multinomial naive Bayes within a relation, add-`smoothing` for words and answers. What it gets right can be read off
  names (Zhong et al. 2021, "Factual probing is [MASK]", table 3).
  """
  prior = collections.Counter()
  word_counts = collections.defaultdict(collections.Counter)
  vocabulary = collections.defaultdict(set)
  for fact in facts:
    words = fact["subject"].lower().split()
    prior[fact["relation"], fact["object"]] += 1
    word_counts[fact["relation"], fact["object"]].update(words)
    vocabulary[fact["relation"]].update(words)
  totals = {key: sum(counter.values()) for key, counter in word_counts.items()}
  found = []
  for query in queries:
    relation = query["relation"]
    known = [word for word in query["subject"].lower().split() if word in vocabulary[relation]]
    scores = np.array(
      [
        _score(
          prior[relation, answer],
          word_counts.get((relation, answer), {}),
          totals.get((relation, answer), 0),
          known,
          len(vocabulary[relation]),
          smoothing,
        )
        for answer in candidates[relation]
      ]
    )
    found.append(scores - np.logaddexp.reduce(scores))
  return found


def _score(facts, counts, total, words, vocabulary, smoothing):
  likelihood = sum(
    np.log((counts.get(word, 0) + smoothing) / (total + smoothing * (vocabulary + 1)))
    for word in words
  )
  return np.log(facts + smoothing) + likelihood

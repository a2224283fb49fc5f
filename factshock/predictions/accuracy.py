"""How right an answer is: exact match, contains and token F1 over all accepted answers; gold ranks.

Normalisation, before any comparison (`normalise`): Unicode NFKC; lower case; punctuation deleted (as in SQuAD
it leaves no space behind: "St. John's" -> "st johns"; all Unicode punctuation, and the ASCII signs
$+<=>^`|~); the articles a, an, the dropped; white space squeezed. A text of which nothing would be left
("The The", "!!!") keeps its articles, or else its punctuation.
"""

import collections
import functools
import string
import unicodedata

import numpy as np

ARTICLES = frozenset(("a", "an", "the"))
HITS = (1, 5, 10)
CRITERIA = ("exact_match", "contains")  # what makes an answer right


class _Deletions(dict):
  """A translation table that deletes punctuation, filled as characters are met."""

  def __missing__(self, code):
    character = chr(code)
    drop = character in string.punctuation or unicodedata.category(character).startswith("P")
    self[code] = None if drop else character
    return self[code]


_DELETIONS = _Deletions()


@functools.lru_cache(maxsize=None)
def normalise(text):
  """The form of a text in which answers are compared (see the head of this file)."""
  text = (text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()
  words = text.translate(_DELETIONS).split()
  return " ".join([word for word in words if word not in ARTICLES] or words or text.split())


def token_f1(prediction, answer):
  """Token F1 of two normalised texts (Rajpurkar et al. 2016): harmonic mean of token precision and recall."""
  if prediction == answer:
    return 1.0
  predicted = prediction.split()
  gold = answer.split()
  distinct = set(predicted)
  if len(distinct) == len(predicted):
    shared = len(distinct.intersection(gold))
  else:
    shared = sum((collections.Counter(predicted) & collections.Counter(gold)).values())
  return 2.0 * shared / (len(predicted) + len(gold))


def score(prediction, answers):
  """(exact match, contains, token F1) of a predicted text, each the best over the accepted answers.

  `contains` is that of PopQA (Mallen et al. 2023), an accepted answer stands somewhere in the predicted text,
  here after normalisation.
  """
  return _score(normalise(prediction), [normalise(answer) for answer in answers])


def _score(text, accepted):
  if text in accepted:
    return 1.0, 1.0, 1.0
  contains = any(answer in text for answer in accepted if answer)
  return 0.0, float(contains), max(token_f1(text, answer) for answer in accepted)


def scores(predictions):
  """Exact match, contains and token F1 of every row: float64 array [N, 3].

  Equal pairs of prediction and accepted answers are scored once.
  """
  width = max(1, len(predictions.answers))
  pairs, row_N = np.unique(
    predictions.prediction.astype(np.int64) * width + predictions.answer, return_inverse=True
  )
  texts = predictions.strings
  accepted = [list(map(normalise, answers)) for answers in predictions.answers]
  found = np.array(
    [_score(normalise(texts[pair // width]), accepted[pair % width]) for pair in pairs.tolist()]
  )
  return found.reshape(-1, 3)[row_N]


def exact_match(predictions):
  """Whether each row's prediction is right: float64 array [N] of 0 and 1, in the order of the file."""
  return scores(predictions)[:, 0]


def gold_rank(texts, accepted):
  """Place (from 1) of the first listed text that is an accepted answer; 0 where none is.

  Args:
    texts: candidate answers, best first.
    accepted: set of normalised accepted answers.
  """
  found = list(map(normalise, texts))
  if accepted.isdisjoint(found):
    return 0
  return min(found.index(answer) for answer in accepted if answer in found) + 1


def hits(rank_N, listed):
  """Dict "hits@k" -> array [N] of 0 or 1; NaN where the longest list of candidates is shorter than k."""
  found = {}
  for k in HITS:
    known = (rank_N > 0) & (rank_N <= k)
    found[f"hits@{k}"] = known.astype(np.float64) if k <= listed else np.full(len(rank_N), np.nan)
  return found


def reciprocal_rank(rank_N):
  """1 / rank of the gold answer, 0 where it is not listed: array [N]."""
  return np.where(rank_N > 0, 1.0 / np.maximum(rank_N, 1), 0.0)

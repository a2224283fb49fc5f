"""Accuracy of answers: exact match, contains and token F1 over all accepted answers; gold ranks.

Normalisation, before any comparison (`normalise`): Unicode NFKC; lower case; punctuation deleted
(as in SQuAD it leaves no space behind: "St. John's" -> "st johns"; all Unicode punctuation, and the
ASCII signs $+<=>^`|~); the articles a, an, the dropped; white space squeezed. A text of which
nothing would be left ("The The", "!!!") keeps its articles, or else its punctuation.

It departs from SQuAD where deletion would make one of two answers: a decimal point inside or before
a number ("1.5", ".5") and a minus before one ("-5", also as U+2212) are kept, and so are # and +
after a letter where a word ends or digits follow ("C#", "C++11", "A+").
"""

import functools
import re
import string
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from factshock.predictions import overlap

if TYPE_CHECKING:
  from factshock.predictions.reading import Predictions

ARTICLES = frozenset(("a", "an", "the"))
HITS = (1, 5, 10)
CRITERIA = ("exact_match", "contains")  # what makes an answer right


class Scores(NamedTuple):
  """Scores of one predicted text, each the best over the accepted answers; from 0 to 1."""

  exact_match: float
  contains: float
  f1: float


class _Deletions(dict[int, str | None]):
  """Translation table that deletes punctuation, filled as characters are met."""

  def __missing__(self, code: int) -> str | None:
    character = chr(code)
    category = unicodedata.category(character)
    drop = character in string.punctuation or category.startswith("P")
    self[code] = None if drop else character
    return self[code]


_DELETIONS = _Deletions()
_MINUS = "\u2212"
_SPECIAL = re.compile("[-.#+]")
_KEPT = re.compile(
  r"(?<!\S)(?P<lead>[^\w\s]++)(?=\d)"  # what stands before a number
  r"|(?<=\d)\.(?=\d)"
  r"|(?<=[^\W\d_])[#+]++(?=\d|[^\w\s]*+(?:\s|\Z))"
)


@functools.cache
def normalise(text: str) -> str:
  """Returns the form of a text in which answers are compared (see the head of this file)."""
  return _normalised(text)


def _normalised(text: str) -> str:
  if not text.isascii():
    text = unicodedata.normalize("NFKC", text).replace(_MINUS, "-")
  text = text.lower()
  words = _without_punctuation(text).split()
  kept = [word for word in words if word not in ARTICLES]
  return " ".join(kept or words or text.split())


def _without_punctuation(text: str) -> str:
  """Returns the text without punctuation but for what is part of a number or of a name."""
  if not _SPECIAL.search(text):  # as in most texts: the quick way
    return text.translate(_DELETIONS)
  pieces: list[str] = []
  end = 0
  for match in _KEPT.finditer(text):
    lead = match["lead"]
    pieces.append(text[end : match.start()].translate(_DELETIONS))
    pieces.append(_before_number(lead) if lead else match[0])
    end = match.end()
  pieces.append(text[end:].translate(_DELETIONS))
  return "".join(pieces)


def _before_number(lead: str) -> str:
  """Returns what is kept of the marks before a number: a minus, signs of money, a decimal point."""
  point = ""
  if lead.endswith(".") and not lead.endswith(".."):
    point = "."
  _, minus, rest = lead.removesuffix(point).rpartition("-")
  signs = rest.replace("$", "")
  if signs.translate(_DELETIONS) != signs:
    minus = ""  # a hyphen before other marks is a dash
  return minus + lead.translate(_DELETIONS) + point


def score(prediction: str, answers: Iterable[str]) -> Scores:
  """Returns the scores of a predicted text.

  `contains` is that of PopQA (Mallen et al. 2023), an accepted answer stands somewhere in the
  predicted text, here after normalisation.

  Args:
    prediction: the text as it was answered.
    answers: the accepted answers, at least one.
  """
  accepted = [normalise(answer) for answer in answers]
  return _score(normalise(prediction), accepted)


def score_once(prediction: str, answers: Iterable[str]) -> Scores:
  """Returns what `score` does, and keeps nothing in memory: for texts that do not come again."""
  return _score(_normalised(prediction), [_normalised(answer) for answer in answers])


def _score(text: str, accepted: Collection[str]) -> Scores:
  if text in accepted:
    return Scores(1.0, 1.0, 1.0)
  contains = any(answer in text for answer in accepted if answer)
  f1 = max(overlap.token_f1(text, answer) for answer in accepted)
  return Scores(0.0, float(contains), f1)


def scores(predictions: "Predictions") -> np.ndarray:
  """Returns exact match, contains and token F1 of every row: float64 array [N, 3].

  Equal pairs of prediction and accepted answers are scored once.
  """
  width = max(1, len(predictions.answers))
  code_N = predictions.prediction.astype(np.int64) * width + predictions.answer
  pairs, pair_N = np.unique(code_N, return_inverse=True)
  prediction_P, answer_P = np.divmod(pairs, width)
  texts = overlap.Texts()
  text_of_code = np.zeros(len(predictions.strings), np.int64)
  predicted: list[int] = np.unique(prediction_P).tolist()
  for code in predicted:
    text_of_code[code] = texts.index(normalise(predictions.strings[code]))
  accepted: list[list[int]] = []
  for answers in predictions.answers:
    accepted.append(list({texts.index(normalise(answer)): None for answer in answers}))
  scores_Px3 = overlap.scores(text_of_code[prediction_P], answer_P, accepted, texts)
  return scores_Px3[pair_N]


def exact_match(predictions: "Predictions") -> np.ndarray:
  """Returns 1 for each row whose prediction is right, else 0: float64 array [N], in file order."""
  return scores(predictions)[:, 0]


def gold_rank(texts: Iterable[str], accepted: frozenset[str]) -> int:
  """Returns the rank (from 1) of the first listed text that is an accepted answer; 0 for none.

  Args:
    texts: candidate answers, best first.
    accepted: normalised accepted answers.
  """
  return rank_of_name(list(map(normalise, texts)), accepted)


def rank_of_name(names: Sequence[str], accepted: frozenset[str]) -> int:
  """Returns the rank (from 1) of the first of normalised texts that is accepted; 0 for none."""
  if accepted.isdisjoint(names):
    return 0
  listed = accepted.intersection(names)
  return min(names.index(answer) for answer in listed) + 1


def hits(rank_N: np.ndarray, listed: int) -> dict[str, np.ndarray]:
  """Returns "hits@k" -> array [N] of 0 or 1; NaN where the longest list is shorter than k.

  Args:
    rank_N: rank of each gold answer from 1, 0 where it is not listed.
    listed: length of the longest list of candidates.
  """
  by_name: dict[str, np.ndarray] = {}
  for k in HITS:
    hit_N = np.full(len(rank_N), np.nan)
    if k <= listed:
      among_N = (rank_N > 0) & (rank_N <= k)
      hit_N = among_N.astype(np.float64)
    by_name[f"hits@{k}"] = hit_N
  return by_name


def reciprocal_rank(rank_N: np.ndarray) -> np.ndarray:
  """Returns 1 / rank of each gold answer, 0 where it is not listed: array [N]."""
  reciprocal_N = 1.0 / np.maximum(rank_N, 1)
  return np.where(rank_N > 0, reciprocal_N, 0.0)


def is_right(predictions: "Predictions", criterion: str) -> np.ndarray:
  """Returns whether each row is right by a criterion, one of CRITERIA: bool array [N]."""
  return scores(predictions)[:, CRITERIA.index(criterion)] > 0

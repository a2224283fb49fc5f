"""Words that normalised texts share: token F1, of two texts and of many pairs at once."""

import collections
from collections.abc import Sequence

import numpy as np

_WORDS = 8  # texts of more are compared one by one
_PAIRS = 1 << 16  # pairs of a text and its accepted answers that are compared at a time


def token_f1(prediction: str, answer: str) -> float:
  """Returns the token F1 of two normalised texts (Rajpurkar et al. 2016).

  It is the harmonic mean of token precision and recall.
  """
  if prediction == answer:
    return 1.0
  predicted = prediction.split()
  gold = answer.split()
  distinct = set(predicted)
  if len(distinct) == len(predicted):
    shared = len(distinct.intersection(gold))
  else:
    common = collections.Counter(predicted) & collections.Counter(gold)
    shared = common.total()
  total = len(predicted) + len(gold)
  return 2.0 * shared / total


class Codes(dict[str, int]):
  """Codes of texts, each made when its text is first asked for."""

  def __missing__(self, text: str) -> int:
    code = self[text] = len(self)
    return code


class Texts:
  """Normalised texts, each held once, and the words of the short ones as codes.

  A word that a text holds again has another code, so that texts are sets of codes.
  """

  def __init__(self) -> None:
    self.texts: list[str] = []
    self._index: dict[str, int] = {}
    self._codes = Codes()
    self._words: list[list[int]] = []

  def index(self, text: str) -> int:
    """Returns the place of a text in `texts`, where it is added if it is new."""
    place = self._index.setdefault(text, len(self.texts))
    if place == len(self.texts):
      self.texts.append(text)
      self._words.append(self._codes_of(text.split()))
    return place

  def _codes_of(self, words: Sequence[str]) -> list[int]:
    """Returns the codes of a short text's words, none of a long one's."""
    if len(words) > _WORDS:
      return []
    if len(set(words)) < len(words):
      words = [f"{word} {words[:place].count(word)}" for place, word in enumerate(words)]
      words = [word.removesuffix(" 0") for word in words]
    return list(map(self._codes.__getitem__, words))

  def words(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns codes of each text's words [T, W], filled up with -1, and how many they are [T]."""
    count_T = np.array([len(codes) for codes in self._words], np.int64)
    width = int(count_T.max(initial=1))
    words_TxW = np.full((len(self.texts), width), -1, np.int32)
    words_TxW[np.arange(width) < count_T[:, None]] = [
      code for codes in self._words for code in codes
    ]
    return words_TxW, count_T


def scores(
  text_P: np.ndarray,
  answer_P: np.ndarray,
  accepted: Sequence[Sequence[int]],
  texts: Texts,
) -> np.ndarray:
  """Returns exact match, contains and token F1 of pairs of text and accepted answers: [P, 3].

  Each is the best over the accepted answers.

  Args:
    text_P: places of texts.
    answer_P: index of each pair's accepted answers.
    accepted: places of each set of accepted answers, at least one, each once.
    texts: that the places are in.
  """
  length_A = np.array([len(places) for places in accepted], np.int64)
  place_F = np.array([place for places in accepted for place in places], np.int64)
  start_A = np.cumsum(length_A) - length_A
  words = texts.words()
  blocks = [np.zeros((0, 3))]
  ends = np.cumsum(length_A[answer_P])
  start = 0
  while start < len(text_P):
    done = ends[start - 1] if start else 0
    stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS, "right")))
    answer_B = answer_P[start:stop]
    length_B = length_A[answer_B]
    first_B = np.cumsum(length_B) - length_B
    offset_M = np.arange(int(length_B.sum())) - np.repeat(first_B, length_B)
    accepted_M = place_F[np.repeat(start_A[answer_B], length_B) + offset_M]
    text_M = np.repeat(text_P[start:stop], length_B)
    scores_Mx3 = _scores_of_two(text_M, accepted_M, texts, words)
    blocks.append(np.maximum.reduceat(scores_Mx3, first_B, axis=0))
    start = stop
  return np.concatenate(blocks)


def _scores_of_two(
  text_M: np.ndarray,
  accepted_M: np.ndarray,
  texts: Texts,
  words: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
  """Returns exact match, contains and token F1 of pairs of texts [M, 3]."""
  words_TxW, count_T = words
  of_text_MxW = words_TxW[text_M]
  of_accepted_MxW = words_TxW[accepted_M]
  shared_M = np.zeros(len(text_M), np.int64)
  for of_text_M in of_text_MxW.T:
    is_word_M = of_text_M >= 0
    for of_accepted_M in of_accepted_MxW.T:
      shared_M += (of_text_M == of_accepted_M) & is_word_M
  total_M = count_T[text_M] + count_T[accepted_M]
  f1_M = 2.0 * shared_M / np.maximum(total_M, 1)
  names = texts.texts
  texts_M: list[int] = text_M.tolist()
  answers_M: list[int] = accepted_M.tolist()
  pairs = [(names[text], names[answer]) for text, answer in zip(texts_M, answers_M)]
  # Long texts have no codes.
  is_long_M = (count_T[text_M] == 0) | (count_T[accepted_M] == 0)
  long: list[int] = np.flatnonzero(is_long_M).tolist()
  for place in long:
    f1_M[place] = token_f1(*pairs[place])
  contains_M = [answer in text and bool(answer) for text, answer in pairs]
  is_same_M = text_M == accepted_M
  scores_Mx3 = np.stack([is_same_M, contains_M, f1_M], axis=1)
  scores_Mx3[is_same_M] = 1.0
  return scores_Mx3

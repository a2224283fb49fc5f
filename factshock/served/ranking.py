"""Log-probabilities of candidate answers by a served model, as answering/ranking.py defines them.

All are scored: a server gives the probability of a text that is sent to it, not of a tree of texts.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from factshock.served import asking
from factshock.served.asking import Scores
from factshock.served.models import ServedModel

# Next tokens that a server tells the probabilities of; what an answer's end has beyond is lost.
LIKELIEST = 20
_PAIRS = 4096  # texts in memory at a time
_OPEN, _CLOSE = "<", ">"  # around a special token's text; of some servers it is empty


def scores(
  model: ServedModel,
  prompts: Sequence[str],
  candidates: Sequence[Sequence[str]],
  stops: Sequence[str],
) -> list[np.ndarray]:
  """Returns the log-probability that the answer to a prompt begins with each of its candidates.

  Where the tokens of another candidate go on after this one's, the end of the answer counts too: a
  special token or one that holds a stop string, among the LIKELIEST next ones.

  Args:
    model: that is served.
    prompts: texts, each ending where the answer goes.
    candidates: the answers of each prompt.
    stops: strings that end an answer.

  Returns:
    float64 [candidates] of each prompt, natural logarithm.
  """
  scored: list[np.ndarray] = []
  for some in _portions(candidates):
    names = candidates[some.start : some.stop]
    pairs = _pairs(prompts[some.start : some.stop], names)
    of_pairs = asking.log_probabilities(model, pairs)
    ended = _prefixes(of_pairs, names)
    of_pairs.sums[ended] += _ends(model, [pairs[index] for index in ended], stops)
    scored += _by_prompt(of_pairs.sums, names)
  return scored


def sums(
  model: ServedModel,
  prompts: Sequence[str],
  candidates: Sequence[Sequence[str]],
) -> list[np.ndarray]:
  """Returns the log-probability of each prompt's candidates, of their own tokens alone."""
  scored: list[np.ndarray] = []
  for some in _portions(candidates):
    names = candidates[some.start : some.stop]
    pairs = _pairs(prompts[some.start : some.stop], names)
    scored += _by_prompt(asking.log_probabilities(model, pairs).sums, names)
  return scored


def _portions(candidates: Sequence[Sequence[str]]) -> Iterator[range]:
  """Yields places of prompts that follow one another and have about _PAIRS candidates together."""
  first = 0
  size = 0
  for index, names in enumerate(candidates):
    size += len(names)
    if size >= _PAIRS or index == len(candidates) - 1:
      yield range(first, index + 1)
      first = index + 1
      size = 0


def _pairs(
  prompts: Sequence[str],
  candidates: Sequence[Sequence[str]],
) -> list[tuple[str, str]]:
  """Returns each prompt with each of its candidates, a space before it."""
  return [(prompt, f" {name}") for prompt, names in zip(prompts, candidates) for name in names]


def _by_prompt(sums_N: np.ndarray, candidates: Sequence[Sequence[str]]) -> list[np.ndarray]:
  """Returns the scores of all pairs as one array a prompt."""
  ends = list(itertools.accumulate(map(len, candidates)))
  return np.split(sums_N, ends[:-1])


def _prefixes(of_pairs: Scores, candidates: Sequence[Sequence[str]]) -> list[int]:
  """Returns the places of pairs after whose tokens another candidate of the prompt goes on."""
  found: list[int] = []
  start = 0
  for names in candidates:
    tokens = of_pairs.tokens[start : start + len(names)]
    beginnings = {of[:size] for of in set(tokens) for size in range(1, len(of))}
    found += [start + place for place, of in enumerate(tokens) if of in beginnings]
    start += len(names)
  return found


def _ends(
  model: ServedModel,
  pairs: Sequence[tuple[str, str]],
  stops: Sequence[str],
) -> np.ndarray:
  """Returns the log-probability that the answer ends after each pair, float64 [pairs]."""
  if not pairs:
    return np.zeros(0)
  listed = asking.next_tokens(model, [prompt + text for prompt, text in pairs], LIKELIEST)
  return np.array([_log_sum(_ending(tokens, stops)) for tokens in listed])


def _ending(tokens: dict[str, float], stops: Sequence[str]) -> list[float]:
  """Returns the log-probabilities of the next tokens that end an answer."""
  return [
    score
    for text, score in tokens.items()
    if not text
    or (text.startswith(_OPEN) and text.endswith(_CLOSE) and len(text) > 2)
    or any(stop in text for stop in stops)
  ]


def _log_sum(logs: Sequence[float]) -> float:
  """Returns the logarithm of the sum of probabilities, -infinity of none."""
  return math.log(math.fsum(map(math.exp, logs))) if logs else -math.inf

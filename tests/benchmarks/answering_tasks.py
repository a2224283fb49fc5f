"""Random prompts and candidates that benchmarks of answers share, and a tokenizer for them."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

EOS = 1
BOS = 2


class Words:
  """Tokenizer of words "w17" -> id 17, a types.Tokenizer; a T5's has its sentinels at the top.

  Attributes:
    kind: names the format.
    digest: differs where tokenizers do.
    size: number of tokens.
    sentinels: how many of them are sentinels; 0 is a decoder-only model's.
    eos: ends a text.
    pad: fills rows up.
    bos: begins a decoder-only model's text.
    opening: what stands before a text.
    tail: what stands between a prompt and its answer, nothing.
    ends: what ends an answer.
  """

  def __init__(self, size: int, sentinels: int) -> None:
    self.kind = "numbered words"
    self.digest = f"{size} {sentinels}"
    self.size = size
    self.sentinels = sentinels
    self.eos = EOS
    self.pad = 0
    self.bos = None if sentinels else BOS
    self.opening = () if sentinels else (BOS,)
    self.tail = ()
    self.ends = (EOS,)

  def sentinel(self, n: int) -> int:
    """Returns the id of <extra_id_n>."""
    return self.size - 1 - n

  def token_ids(self) -> dict[str, int]:
    """Returns the ids of words, those of sentinels left out."""
    return {f"w{index}": index for index in range(self.size - self.sentinels)}

  def encode(self, text: str) -> list[int]:
    """Returns the ids of words and sentinels."""
    ids = []
    for word in text.split():
      is_sentinel = word.startswith("<extra_id_")
      ids.append(self.sentinel(int(word[10:-1])) if is_sentinel else int(word[1:]))
    return ids

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text."""
    return [self.encode(text) for text in texts]

  def spans(self, text: str) -> list[tuple[int, int]]:
    """Returns where in a text each of its words stands."""
    return [word.span() for word in re.finditer(r"\S+", text)]

  def encode_continuation(self, prompt: str, text: str) -> list[int]:
    """Returns the ids of a text after a prompt."""
    del prompt
    return self.encode(text)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the words of ids."""
    return " ".join(f"w{token}" for token in ids)

  def token_texts(self) -> list[str]:
    """Returns the text of each token."""
    return [self.decode([token]) for token in range(self.size)]


def random_prompts(
  random: np.random.Generator, count: int, longest: int, vocabulary: int
) -> list[list[int]]:
  """Returns prompts of 8 to `longest` random ids."""
  prompts = []
  for _ in range(count):
    length = random.integers(8, longest + 1)
    prompts.append(random.integers(5, vocabulary, length).tolist())
  return prompts


def queries(random: np.random.Generator, count: int, tokens: int, tokenizer: Words) -> list[str]:
  """Returns prompts of so many tokens, those that begin and end them included."""
  is_t5 = tokenizer.sentinels > 0
  words = tokens - (2 if is_t5 else 1)
  prompts = []
  for _ in range(count):
    text = tokenizer.decode(random.integers(5, tokenizer.size * 15 // 16, words).tolist())
    prompts.append(f"{text} <extra_id_0>" if is_t5 else text)
  return prompts


def candidates(random: np.random.Generator, count: int, vocabulary: int) -> list[str]:
  """Returns names of 1 to 6 tokens, none the beginning of another; some share their first words.

  The first word tells the length: one of 40 each of 32,000 tokens.
  """
  spread = max(2, vocabulary // 800)
  names: set[str] = set()
  while len(names) < count:
    length = int(random.integers(1, 7))
    first = 3 + spread * length + int(random.integers(spread))
    others = random.integers(vocabulary // 32, vocabulary * 15 // 16, length - 1)
    names.add(" ".join(f"w{number}" for number in (first, *others)))
  return sorted(names)


def pairs(
  prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], is_t5: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Returns a row of each pair of a prompt and an answer, filled up with id 0.

  Args:
    prompts: token lists of one length.
    answers: token lists.
    is_t5: whether the two are apart.

  Returns:
    For a T5 inputs and targets, else tokens and which of them are the answer's; int32.
  """
  longest = max(map(len, answers))
  first = []
  second = []
  for prompt in prompts:
    for answer in answers:
      filler = [0] * (longest - len(answer))
      if is_t5:
        first.append([*prompt])
        second.append([*answer, *filler])
      else:
        first.append([*prompt, *answer, *filler])
        second.append([0] * len(prompt) + [1] * len(answer) + filler)
  return np.array(first, np.int32), np.array(second, np.int32)
